//! The target's messages: each matched with its request, masked where that has to be, counted.

use std::rc::Rc;
use std::sync::Arc;

use bailiff_model::SqlEffect;
use bailiff_policy::{Detection, Ruling};
use bailiff_wire::postgres::value::copy::CopyError;
use bailiff_wire::postgres::{Frame, FrameHeader, backend, build, next_frame};

use super::Core;
use crate::mask::{self, Columns, CopyMask};
use crate::proxy::end::{End, Side};
use crate::proxy::leg::{Leg, READ_SIZE};
use crate::proxy::postgres::evidence;
use crate::proxy::postgres::tracker::Step;
use crate::record::Outcome;

/// How far the target's bytes were taken: those before `done` are dealt with, of which those from `kept` on go out as they came.
#[derive(Debug, Default)]
struct Taken {
    kept: usize,
    done: usize,
}

/// What goes to a client in place of what came. A worker's sessions share it.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// All of it.
    whole: Vec<u8>,
    /// What stands for one message.
    changed: Vec<u8>,
}

impl Answers {
    fn clear(&mut self) {
        for buffer in [&mut self.whole, &mut self.changed] {
            buffer.clear();
            // One large row mustn't hold memory for ever.
            buffer.shrink_to(2 * READ_SIZE);
        }
    }
}

impl Core {
    /// Takes what can be taken of the target's bytes, and says how many those are.
    pub(super) fn take_from_target(&mut self, bytes: &[u8], client: &mut Leg) -> Result<usize, End> {
        if self.replicates && self.replication_ends(client) {
            return Err(End::Denied);
        }
        let mut out = std::mem::take(&mut *self.shared.answers.borrow_mut());
        let mut taken = Taken::default();
        let outcome = self.take_answers(bytes, &mut out, &mut taken);
        // In one piece: each write wakes the client.
        let rest = bytes.get(taken.kept..taken.done).unwrap_or_default();
        let sent = if out.whole.is_empty() {
            client.send(rest)
        } else {
            out.whole.extend_from_slice(rest);
            client.send(&out.whole)
        };
        out.clear();
        *self.shared.answers.borrow_mut() = out;
        outcome?;
        sent.map_err(|error| End::Socket {
            side: Side::Client,
            error,
        })?;
        Ok(taken.done)
    }

    fn take_answers(&mut self, bytes: &[u8], out: &mut Answers, taken: &mut Taken) -> Result<(), End> {
        if self.server_passes > 0 {
            taken.done = self.server_passes.min(bytes.len());
            self.server_passes -= taken.done;
            self.evidence
                .saw_more(bytes.get(..taken.done).unwrap_or_default());
        }
        loop {
            let rest = bytes.get(taken.done..).unwrap_or_default();
            let frame = match next_frame(rest, &self.shared.backend_limits) {
                Ok(Some(frame)) => frame,
                Ok(None) => {
                    if let Some(whole) = self.long_answer(rest)? {
                        self.server_passes = whole - rest.len();
                        taken.done = bytes.len();
                    }
                    return Ok(());
                }
                Err(error) => {
                    return Err(End::Malformed {
                        side: Side::Target,
                        error,
                    });
                }
            };
            let step = self
                .tracker
                .answered(frame.tag)
                .map_err(|wrong| End::OutOfOrder {
                    side: Side::Target,
                    tag: wrong.0,
                })?;
            out.changed.clear();
            let pass = self.answer(&frame, step, &mut out.changed)?;
            if self.evidence.watches() {
                self.evidence.saw(if pass { frame.raw } else { &out.changed });
            }
            let after = taken.done + frame.raw.len();
            if !pass {
                let before = bytes.get(taken.kept..taken.done).unwrap_or_default();
                out.whole.extend_from_slice(before);
                out.whole.extend_from_slice(&out.changed);
                taken.kept = after;
            }
            taken.done = after;
        }
    }

    /// Whether policy no longer allows the replication that is under way, felt with whatever the server sends next. Then the
    /// client is told why.
    fn replication_ends(&mut self, client: &mut Leg) -> bool {
        let ruling = self.decider.replication();
        let Some(denial) = ruling.denial() else {
            return false;
        };
        // Inside a long message nothing can be said.
        if self.server_passes == 0 {
            let mut last = Vec::new();
            build::error_response(&mut last, &build::ErrorText::fatal("42501", &denial.message));
            let _ = client.send(&last);
        }
        true
    }

    /// The length of an unfinished message that may pass in pieces.
    fn long_answer(&mut self, rest: &[u8]) -> Result<Option<usize>, End> {
        let Some(header) = FrameHeader::parse(rest) else {
            return Ok(None);
        };
        let whole = header.total_len();
        if whole < READ_SIZE || !matches!(header.tag, b'D' | b'd') {
            return Ok(None);
        }
        let masked = self.copy_mask.is_some() || header.tag == b'D' && self.masks_rows();
        if masked {
            return if whole > self.limits.masked_row {
                Err(End::Limit("masked_row"))
            } else {
                Ok(None)
            };
        }
        self.tracker
            .answered(header.tag)
            .map_err(|wrong| End::OutOfOrder {
                side: Side::Target,
                tag: wrong.0,
            })?;
        self.count_row(whole);
        self.evidence.saw_begin(rest, whole);
        Ok(Some(whole))
    }

    fn masks_rows(&mut self) -> bool {
        self.tracker.current().is_some_and(|run| run.ruling.masks_rows())
    }

    /// Counts a row, or a line of COPY.
    fn count_row(&mut self, bytes: usize) {
        if let Some(run) = self.tracker.current() {
            run.bytes_out += bytes as u64;
            run.uncounted += 1;
            if run.watched {
                self.evidence.watch(run.ruling.recording());
            }
        }
        self.evidence.target_bytes(bytes);
    }

    /// Deals with one message of the server. True where it goes to the client as it came; otherwise `changed` goes.
    fn answer(&mut self, frame: &Frame<'_>, step: Step, changed: &mut Vec<u8>) -> Result<bool, End> {
        let malformed = |error| End::Malformed {
            side: Side::Target,
            error,
        };
        match step {
            Step::Row => {
                self.count_row(frame.raw.len());
                // Most rows pass, and ask for nothing but this.
                if !self.masks_rows() {
                    return Ok(true);
                }
                let own = self.tracker.current().and_then(|run| run.columns.clone());
                let columns = match own {
                    Some(columns) => columns,
                    None => {
                        let described = self.tracker.described();
                        let told = described.and_then(|prepared| prepared.columns.borrow().clone());
                        // Uncertainty denies: rows whose columns weren't told can't be masked.
                        told.ok_or(End::Unmaskable)?
                    }
                };
                let Some(run) = self.tracker.current() else {
                    return Ok(true);
                };
                if columns.masks_nothing() {
                    return Ok(true);
                }
                let masked = columns
                    .mask_row(&run.formats, frame.body, changed)
                    .map_err(malformed)?;
                run.masked += masked;
                Ok(masked == 0)
            }
            Step::Pass => {
                if frame.tag == b'd' {
                    self.count_row(frame.raw.len());
                } else {
                    self.evidence.target_bytes(frame.raw.len());
                }
                if frame.tag == b't'
                    && let Some(prepared) = self.tracker.described()
                {
                    evidence::parameters(prepared, frame.body);
                }
                self.passing(frame, changed)
            }
            Step::Columns => self.columns(frame),
            Step::Error { about, refused } => self.error(frame, about, refused, changed),
            Step::Finished(mut run) => {
                self.evidence.target_bytes(frame.raw.len());
                if frame.tag == b'C' {
                    self.completed(&run.ruling);
                    run.counted(
                        backend::CommandComplete::decode(frame.body)
                            .map_err(malformed)?
                            .rows()
                            .unwrap_or(0),
                    );
                } else if frame.tag == b'Z' {
                    self.ready(frame)?;
                }
                self.evidence.finished(&run);
                Ok(true)
            }
        }
    }

    fn passing(&mut self, frame: &Frame<'_>, changed: &mut Vec<u8>) -> Result<bool, End> {
        let malformed = |error| End::Malformed {
            side: Side::Target,
            error,
        };
        match frame.tag {
            b'C' => {
                let rows = backend::CommandComplete::decode(frame.body)
                    .map_err(malformed)?
                    .rows()
                    .unwrap_or(0);
                let ruling = self.tracker.current().map(|run| {
                    run.counted(rows);
                    Arc::clone(&run.ruling)
                });
                if let Some(ruling) = ruling {
                    self.completed(&ruling);
                }
            }
            b'Z' => self.ready(frame)?,
            b'S' => {
                let status = backend::ParameterStatus::decode(frame.body).map_err(malformed)?;
                self.decider.parameter(status.name, status.value)?;
                // A session may set some of them to any text, and be told that.
                if let Some(detection) = self.decider.detection()
                    && let Some(value) = mask::mask_said(&detection, status.value)
                {
                    build::parameter_status(changed, status.name, &value);
                    return Ok(false);
                }
            }
            b'N' => {
                let about = self.tracker.current().map(|run| Arc::clone(&run.ruling));
                if self.hides_text(about.as_deref()) {
                    let notice = backend::ErrorFields::decode(frame.body).map_err(malformed)?;
                    build::notice_response(changed, &build::ErrorText::withheld(&notice));
                    return Ok(false);
                }
                let detection = self.detection_about(about.as_deref());
                if let Some(masked) =
                    detection.and_then(|detection| mask::mask_error(&detection, b'N', frame.body))
                {
                    *changed = masked;
                    return Ok(false);
                }
            }
            b'A' => {
                if let Some(detection) = self.decider.detection() {
                    let said = backend::NotificationResponse::decode(frame.body).map_err(malformed)?;
                    if let Some(payload) = mask::mask_said(&detection, said.payload) {
                        build::notification_response(changed, said.process, said.channel, &payload);
                        return Ok(false);
                    }
                }
            }
            b'H' => {
                let most = self.limits.masked_row;
                let ruling = self.tracker.current().map(|run| Arc::clone(&run.ruling));
                self.copy_mask = match ruling.filter(|ruling| ruling.masks_rows()) {
                    Some(ruling) => {
                        let response = backend::CopyOutResponse::decode(frame.body).map_err(malformed)?;
                        // Uncertainty denies: rows of which can't be told how they are written can't be masked.
                        let mask = CopyMask::of(&ruling, response, most).map_err(|_| End::Unmaskable)?;
                        mask.map(Box::new)
                    }
                    None => None,
                };
            }
            b'd' => {
                if let Some(mask) = &mut self.copy_mask {
                    build::copy_data(changed, |out| {
                        let masked = mask.data(frame.body, out).map_err(|error| match error {
                            CopyError::Malformed(_) => End::Unmaskable,
                            CopyError::TooLong => End::Limit("masked_row"),
                        })?;
                        if let Some(run) = self.tracker.current() {
                            run.masked += masked;
                        }
                        Ok::<(), End>(())
                    })?;
                    return Ok(false);
                }
            }
            // The end of a COPY of which a part was kept back.
            b'c' if self.copy_mask.take().is_some_and(|mask| !mask.is_whole()) => {
                return Err(End::Unmaskable);
            }
            b'W' if self.tracker.current().is_some_and(|run| run.ruling.masks_rows()) => {
                return Err(End::Unmaskable);
            }
            b'V' if self.tracker.current().is_some_and(|run| run.ruling.masks_rows()) => {
                // Uncertainty denies: the answer tells no type.
                return Err(End::Unmaskable);
            }
            _ => {}
        }
        Ok(true)
    }

    /// Whether an error's or notice's text may quote what is masked. What was put off until a transaction's end, or until SET
    /// CONSTRAINTS, is about what came before.
    fn hides_text(&self, about: Option<&Ruling>) -> bool {
        about.is_some_and(Ruling::hides_error_text) || self.touched_masked && is_late(about)
    }

    /// What detectors do with an error's or notice's text.
    fn detection_about(&mut self, about: Option<&Ruling>) -> Option<Arc<Detection>> {
        match about {
            Some(ruling) if !is_late(about) => ruling.detection().cloned(),
            _ => self.decider.detection(),
        }
    }

    /// A statement is done, and with it perhaps its transaction: what it changed is then there for all sessions.
    fn completed(&self, ruling: &Ruling) {
        let commits = |effect: &SqlEffect| match effect {
            SqlEffect::Create | SqlEffect::Alter | SqlEffect::Drop => self.transaction_idle,
            SqlEffect::Transaction => true,
            _ => false,
        };
        if ruling.effects().iter().any(|effect| commits(&effect)) {
            self.decider.may_have_committed();
        }
    }

    fn ready(&mut self, frame: &Frame<'_>) -> Result<(), End> {
        let status = backend::ReadyForQuery::decode(frame.body).map_err(|error| End::Malformed {
            side: Side::Target,
            error,
        })?;
        self.transaction_idle = status.is_idle();
        if status.is_idle() {
            self.decider.may_have_committed();
        }
        if status.is_idle() && self.tracker.outstanding() == 0 {
            self.names.transaction_ended();
            self.decider.transaction_ended();
            self.touched_masked = false;
        }
        for run in self.tracker.take_ended() {
            self.evidence.finished(&run);
        }
        Ok(())
    }

    fn columns(&mut self, frame: &Frame<'_>) -> Result<bool, End> {
        self.evidence.target_bytes(frame.raw.len());
        let ruling = match self.tracker.described() {
            // A statement's ruling stays, so the same description means the same.
            Some(prepared) if prepared.has_columns_of(frame.body) => None,
            Some(prepared) => Some(Arc::clone(&prepared.ruling)),
            None => self.tracker.current().map(|run| Arc::clone(&run.ruling)),
        };
        if frame.tag == b'T' {
            match self.tracker.described() {
                Some(prepared) => evidence::columns(prepared, frame.body),
                None => {
                    if let Some(run) = self.tracker.current().filter(|run| run.watched) {
                        self.evidence.watch(run.ruling.recording());
                    }
                }
            }
        }
        if let (Some(ruling), b'T') = (ruling.filter(|ruling| ruling.masks_rows()), frame.tag) {
            let description =
                backend::RowDescription::decode(frame.body).map_err(|error| End::Malformed {
                    side: Side::Target,
                    error,
                })?;
            let columns = Columns::resolve(&ruling, &description).map_err(|_| End::Unmaskable)?;
            let columns = Rc::new(columns.told_by(frame.body));
            match self.tracker.described() {
                Some(prepared) => *prepared.columns.borrow_mut() = Some(columns),
                None => {
                    if let Some(run) = self.tracker.current() {
                        run.columns = Some(columns);
                    }
                }
            }
        }
        Ok(self.tracker.described_done())
    }

    fn error(
        &mut self,
        frame: &Frame<'_>,
        about: Option<Arc<Ruling>>,
        refused: bool,
        changed: &mut Vec<u8>,
    ) -> Result<bool, End> {
        let fields = backend::ErrorFields::decode(frame.body).map_err(|error| End::Malformed {
            side: Side::Target,
            error,
        })?;
        self.evidence.target_bytes(frame.raw.len());
        let code = fields.sqlstate();
        self.farewell |= fields.is_fatal();
        let denial = about
            .as_ref()
            .and_then(|ruling| ruling.denial())
            .filter(|_| refused && !fields.is_fatal() && code != *b"25P02");
        if let Some(denial) = denial {
            build::error_response(
                changed,
                &build::ErrorText::denial(&denial.message, &denial.reason.to_string()),
            );
        } else if self.hides_text(about.as_deref()) && !(about.is_none() && fields.is_fatal()) {
            build::error_response(changed, &build::ErrorText::withheld(&fields));
        } else if let Some(masked) = self
            .detection_about(about.as_deref())
            .and_then(|detection| mask::mask_error(&detection, b'E', frame.body))
        {
            *changed = masked;
        }
        self.copy_mask = None;
        let seen = if denial.is_some() { *b"42501" } else { code };
        if let Some(run) = self.tracker.current() {
            run.sqlstate = Some(seen);
        }
        for change in self.tracker.take_undone().into_iter().rev() {
            self.names.undo(change);
        }
        for (place, mut run) in self.tracker.take_ended().into_iter().enumerate() {
            // The first of them failed; the server skipped the others.
            if place == 0 {
                run.sqlstate = Some(seen);
            } else {
                run.outcome = Outcome::Skipped;
            }
            self.evidence.finished(&run);
        }
        Ok(changed.is_empty())
    }
}

/// Whether what the server says then may be about statements before this one.
fn is_late(about: Option<&Ruling>) -> bool {
    about.is_none_or(|ruling| ruling.effects().contains(SqlEffect::Transaction))
}
