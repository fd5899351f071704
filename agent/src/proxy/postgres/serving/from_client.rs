//! The client's messages: each decided, and only then passed on.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bailiff_model::SqlEffect;
use bailiff_policy::Ruling;
use bailiff_wire::postgres::{Frame, FrameHeader, frontend, next_frame};

use super::{Core, Waiting};
use crate::decide::{CatalogWait, Decider, Lookup, Meaning};
use crate::mask::Formats;
use crate::proxy::end::{End, Side};
use crate::proxy::leg::READ_SIZE;
use crate::proxy::postgres::evidence;
use crate::proxy::postgres::names::{Found, Kind};
use crate::proxy::postgres::operation::{Prepared, Running, Text};
use crate::proxy::postgres::tracker::Expect;
use crate::proxy::postgres::{fastpath, replication};
use crate::proxy::upstream::{Control, Upstream};

/// What became of one message of the client.
enum Taken {
    /// It was dealt with.
    Yes,
    /// It has to wait.
    Wait,
}

impl Core {
    /// Takes what can be taken of the client's bytes, and says how many those are.
    pub(super) fn take_from_client(
        &mut self,
        bytes: &[u8],
        upstream: &mut Upstream,
        began: Instant,
    ) -> Result<usize, End> {
        let mut rest = bytes;
        loop {
            if self.client_passes > 0 {
                let (passing, after) = rest.split_at(self.client_passes.min(rest.len()));
                if !self.client_discards {
                    upstream.relay(Control::CopyData, passing);
                }
                self.client_passes -= passing.len();
                rest = after;
            }
            let frame = match next_frame(rest, &self.shared.frontend_limits) {
                Ok(Some(frame)) => frame,
                Ok(None) => {
                    rest = self.long_message(rest, upstream)?;
                    break;
                }
                Err(error) => {
                    return Err(End::Malformed {
                        side: Side::Client,
                        error,
                    });
                }
            };
            if self.tracker.outstanding() >= self.limits.outstanding {
                self.waiting = Waiting::Outstanding; // Read on when answers have come.
                self.reached("outstanding");
                break;
            }
            match self.client_message(&frame, upstream, began)? {
                Taken::Yes => rest = rest.get(frame.raw.len()..).unwrap_or_default(),
                Taken::Wait => break,
            }
        }
        Ok(bytes.len() - rest.len())
    }

    /// Lets a message that is too long to wait for pass in pieces, where what has come of it is enough to know it.
    fn long_message<'a>(&mut self, rest: &'a [u8], upstream: &mut Upstream) -> Result<&'a [u8], End> {
        let Some(header) = FrameHeader::parse(rest) else {
            return Ok(rest);
        };
        let whole = header.total_len();
        if whole < READ_SIZE || rest.len() < READ_SIZE / 4 {
            return Ok(rest);
        }
        match header.tag {
            b'd' => {
                self.client_discards = self.tracker.skipping() || !self.tracker.accepts_copy_data();
                if !self.client_discards {
                    upstream.relay(Control::CopyData, rest);
                }
            }
            b'B' => {
                let Some((portal, statement)) = frontend::bind_names(rest) else {
                    return Ok(rest);
                };
                self.client_discards = self.tracker.skipping();
                if !self.client_discards {
                    // Of values that are recorded, as many come first as may be kept.
                    let wanted = self.recorded_bytes(statement).min(whole);
                    if rest.len() < wanted {
                        return Ok(rest);
                    }
                    if matches!(self.bind(portal, statement, rest, None)?, Taken::Wait) {
                        return Ok(rest);
                    }
                    upstream.relay(Control::Bind, rest);
                }
            }
            _ => return Ok(rest),
        }
        self.evidence.client_bytes(whole);
        self.client_passes = whole - rest.len();
        Ok(&[])
    }

    fn client_message(
        &mut self,
        frame: &Frame<'_>,
        upstream: &mut Upstream,
        began: Instant,
    ) -> Result<Taken, End> {
        let malformed = |error| End::Malformed {
            side: Side::Client,
            error,
        };
        // Inside a skipped part only Sync and Terminate mean anything to the server.
        if self.tracker.skipping() && !matches!(frame.tag, b'S' | b'X') {
            return match frame.tag {
                b'Q' | b'P' | b'B' | b'D' | b'E' | b'C' | b'H' | b'F' | b'd' | b'c' | b'f' => Ok(Taken::Yes),
                _ => Err(End::OutOfOrder {
                    side: Side::Client,
                    tag: char::from(frame.tag),
                }),
            };
        }
        let raw = frame.raw;
        match frame.tag {
            b'Q' => {
                let query = frontend::Query::decode(frame.body).map_err(malformed)?;
                return self.simple(query.text, raw, upstream, began);
            }
            b'P' => {
                let parse = frontend::Parse::decode(frame.body).map_err(malformed)?;
                return self.parse(&parse, raw, upstream, began);
            }
            b'B' => {
                let bind = frontend::Bind::decode(frame.body).map_err(malformed)?;
                if matches!(
                    self.bind(bind.portal, bind.statement, raw, Some(bind.result_formats))?,
                    Taken::Wait
                ) {
                    return Ok(Taken::Wait);
                }
                upstream.relay(Control::Bind, raw);
            }
            b'D' => {
                let describe = frontend::Describe::decode(frame.body).map_err(malformed)?;
                let kind = kind(describe.is_statement());
                let prepared = match self.names.find(kind, describe.name, self.tracker.progress()) {
                    Found::Unsettled(part) => return Ok(self.wait_for(part)),
                    // What else the name may stand for has other columns.
                    Found::Nothing | Found::Known(_, false) => None,
                    Found::Known(entry, true) => Some(Rc::clone(&entry.prepared)),
                };
                upstream.relay(Control::Describe, raw);
                self.tracker.sent(Expect::Describe(prepared));
            }
            b'E' => {
                let execute = frontend::Execute::decode(frame.body).map_err(malformed)?;
                return self.execute(execute.portal, raw, upstream, began);
            }
            b'C' => {
                let close = frontend::Close::decode(frame.body).map_err(malformed)?;
                let (kind, progress) = (kind(close.is_statement()), self.tracker.progress());
                if let Some(part) = self.names.unsettled(kind, close.name, progress) {
                    return Ok(self.wait_for(part));
                }
                let change = self.names.remove(kind, close.name, progress);
                upstream.relay(Control::Close, raw);
                self.tracker.sent(Expect::Close(change));
            }
            b'S' => {
                upstream.relay(Control::Sync, raw);
                self.tracker.sent(Expect::Sync);
            }
            b'H' => upstream.relay(Control::Flush, raw),
            b'd' | b'c' | b'f' => {
                // The server ignores bulk data outside COPY; so it isn't passed on.
                if self.tracker.accepts_copy_data() {
                    upstream.relay(Control::CopyData, raw);
                    if frame.tag != b'd' {
                        self.tracker.copy_data_ends();
                    }
                }
            }
            b'F' => {
                let call = frontend::FunctionCall::decode(frame.body).map_err(malformed)?;
                return self.function_call(call.function, raw, upstream, began);
            }
            b'X' => {
                upstream.relay(Control::Terminate, raw);
                let _ = upstream.send();
                return Err(End::ClientClosed);
            }
            tag => {
                return Err(End::OutOfOrder {
                    side: Side::Client,
                    tag: char::from(tag),
                });
            }
        }
        self.evidence.client_bytes(raw.len());
        Ok(Taken::Yes)
    }

    /// Finds what a text does, or says that it has to wait for it.
    fn decide(&mut self, text: &[u8], upstream: &mut Upstream) -> Result<(Meaning, Arc<Ruling>), Waiting> {
        if !self.evidence.has_room() {
            self.reached("record_queue");
            return Err(Waiting::Recorder);
        }
        // `standard_conforming_strings` decides what a backslash means, and code that relations run by themselves may change it, too.
        if self.decider.settings_may_change() || text.contains(&b'\\') {
            if self.tracker.outstanding() > 0 {
                upstream.flush_server();
                return Err(Waiting::Answers);
            }
            self.decider.settings_settled();
        }
        if let Some(waiting) = self.waits_for_catalog(upstream) {
            return Err(waiting);
        }
        match self.decider.lookup(text) {
            Lookup::Known(classified, ruling) => Ok((classified, self.decider.answer(ruling))),
            Lookup::Started => Err(Waiting::Classification),
        }
    }

    /// Decides a command of the replication grammar.
    fn replicate(&mut self) -> Result<(Meaning, Arc<Ruling>), Waiting> {
        if !self.evidence.has_room() {
            self.reached("record_queue");
            return Err(Waiting::Recorder);
        }
        Ok((None, self.decider.replication()))
    }

    /// Says why a statement that a mask may concern has to wait until it is known what names stand for.
    fn waits_for_catalog(&mut self, upstream: &mut Upstream) -> Option<Waiting> {
        let wait = self.decider.waits_for_catalog()?;
        self.waits(wait, upstream)
    }

    fn waits(&mut self, wait: CatalogWait, upstream: &mut Upstream) -> Option<Waiting> {
        match wait {
            // In a transaction that is open the change is the session's alone: masks go by names until it is over.
            CatalogWait::Answers => (self.tracker.outstanding() > 0).then(|| {
                upstream.flush_server();
                Waiting::Answers
            }),
            CatalogWait::Reading => Some(Waiting::Catalog),
        }
    }

    fn waits_for_reading(&mut self) -> bool {
        let waits = self.decider.waits_for_catalog() == Some(CatalogWait::Reading);
        if waits {
            self.waiting = Waiting::Catalog;
        }
        waits
    }

    fn simple(
        &mut self,
        text: &[u8],
        raw: &[u8],
        upstream: &mut Upstream,
        began: Instant,
    ) -> Result<Taken, End> {
        let decided = if self.replicates && replication::is_command(text) {
            self.replicate()
        } else {
            self.decide(text, upstream)
        };
        let (meaning, ruling) = match decided {
            Ok(decided) => decided,
            Err(waiting) => {
                self.waiting = waiting;
                return Ok(Taken::Wait);
            }
        };
        // A simple query drops the unnamed statement and portal, and DISCARD and DEALLOCATE drop more; keeping them here
        // means only that the server's own error comes when they are used.
        let run = Running::new(Text::from(text), Arc::clone(&ruling), began, raw.len()).simple();
        self.evidence.decided(&run);
        if let Some(permit) = ruling.permit() {
            self.note(&meaning, &ruling, text);
            upstream.forward(permit, raw);
            self.tracker.sent(Expect::Query(run));
        } else {
            upstream.refuse_simple();
            self.tracker.sent(Expect::Refused(run));
        }
        Ok(Taken::Yes)
    }

    fn parse(
        &mut self,
        parse: &frontend::Parse<'_>,
        raw: &[u8],
        upstream: &mut Upstream,
        began: Instant,
    ) -> Result<Taken, End> {
        let progress = self.tracker.progress();
        if let Some(part) = self.names.unsettled(Kind::Statement, parse.statement, progress) {
            return Ok(self.wait_for(part));
        }
        let (classified, ruling) = match self.decide(parse.query, upstream) {
            Ok(decided) => decided,
            Err(waiting) => {
                self.waiting = waiting;
                return Ok(Taken::Wait);
            }
        };
        let text = Text::from(parse.query);
        let Some(permit) = ruling.permit() else {
            let run = Running::new(text, ruling, began, raw.len());
            self.evidence.decided(&run);
            self.refuse_extended(run, upstream);
            return Ok(Taken::Yes);
        };
        if self
            .names
            .is_full(Kind::Statement, parse.statement, self.limits.prepared)
        {
            return Err(End::Limit("prepared_statements"));
        }
        let prepared = Prepared::new(text, classified, ruling, self.decider.epoch());
        evidence::parsed(&prepared, raw);
        let change = self.names.set(
            Kind::Statement,
            parse.statement,
            Rc::clone(&prepared),
            true,
            progress,
        );
        upstream.forward(permit, raw);
        self.tracker.sent(Expect::Parse(prepared, change));
        self.evidence.client_bytes(raw.len());
        Ok(Taken::Yes)
    }

    /// Takes a Bind, or the beginning of a long one, whose formats of results stand at its end.
    fn bind(
        &mut self,
        portal: &[u8],
        statement: &[u8],
        raw: &[u8],
        formats: Option<&[u8]>,
    ) -> Result<Taken, End> {
        if self.waits_for_reading() {
            return Ok(Taken::Wait);
        }
        let progress = self.tracker.progress();
        if let Some(part) = self.names.unsettled(Kind::Portal, portal, progress) {
            return Ok(self.wait_for(part));
        }
        let (prepared, sure) = match self.names.find(Kind::Statement, statement, progress) {
            Found::Unsettled(part) => return Ok(self.wait_for(part)),
            Found::Known(entry, sure) => (renewed(&mut entry.prepared, &mut self.decider), sure),
            // Made by PREPARE in SQL, or not there at all. Execute then finds a portal of which nothing is known.
            Found::Nothing => {
                let change = self.names.remove(Kind::Portal, portal, progress);
                self.tracker.sent(Expect::Bind(change));
                return Ok(Taken::Yes);
            }
        };
        if self.names.is_full(Kind::Portal, portal, self.limits.prepared) {
            return Err(End::Limit("portals"));
        }
        let bound = evidence::bound(&prepared, raw);
        let formats = match formats {
            Some(formats) if prepared.ruling.masks_rows() => Formats::of(formats),
            _ => Formats::AsTold,
        };
        let change = self.names.set(Kind::Portal, portal, prepared, sure, progress);
        self.names.formats(portal, formats);
        if let Some(bound) = bound {
            self.names.bind(portal, bound);
        }
        self.tracker.sent(Expect::Bind(change));
        Ok(Taken::Yes)
    }

    /// How much of a Bind is wanted before it may pass: the values that are recorded, and their lengths.
    fn recorded_bytes(&mut self, statement: &[u8]) -> usize {
        match self
            .names
            .find(Kind::Statement, statement, self.tracker.progress())
        {
            Found::Known(entry, _) => evidence::wanted_of_bind(&entry.prepared),
            Found::Nothing | Found::Unsettled(_) => 0,
        }
    }

    /// The message has to wait until a part of the pipeline is over.
    fn wait_for(&mut self, part: u64) -> Taken {
        self.waiting = Waiting::Settled(part);
        Taken::Wait
    }

    fn execute(
        &mut self,
        portal: &[u8],
        raw: &[u8],
        upstream: &mut Upstream,
        began: Instant,
    ) -> Result<Taken, End> {
        if !self.evidence.has_room() {
            self.waiting = Waiting::Recorder;
            self.reached("record_queue");
            return Ok(Taken::Wait);
        }
        let mut bound = None;
        if self.waits_for_reading() {
            return Ok(Taken::Wait);
        }
        let mut formats = Formats::AsTold;
        let found = match self.names.find(Kind::Portal, portal, self.tracker.progress()) {
            Found::Unsettled(part) => return Ok(self.wait_for(part)),
            Found::Known(entry, sure) => {
                bound = entry.bound.clone();
                formats = entry.formats.clone();
                Some((renewed(&mut entry.prepared, &mut self.decider), sure))
            }
            Found::Nothing => None,
        };
        // Uncertainty denies: a portal whose statement was never seen, such as a cursor declared in SQL, or may be another.
        let prepared = match found {
            Some((prepared, sure)) if sure || !self.decider.needs_sure_names() => prepared,
            _ => {
                let ruling = self.decider.unknown();
                Prepared::new(Text::from(&b""[..]), None, ruling, self.decider.epoch())
            }
        };
        let ruling = self.decider.answer(Arc::clone(&prepared.ruling));
        let mut run = Running::new(Arc::clone(&prepared.text), Arc::clone(&ruling), began, raw.len())
            .of_portal(&prepared, bound);
        self.evidence.decided(&run);
        let Some(permit) = ruling.permit() else {
            self.refuse_extended(run, upstream);
            return Ok(Taken::Yes);
        };
        if ruling.masks_rows() && (formats == Formats::AsTold || prepared.columns.borrow().is_none()) {
            // The client doesn't ask for the columns, but without them nothing can be masked.
            upstream.describe_portal(portal);
            self.tracker.sent(Expect::OwnDescribe(Rc::clone(&prepared)));
        }
        run.formats = formats;
        self.note(&prepared.classified, &ruling, &prepared.text);
        upstream.forward(permit, raw);
        self.tracker.sent(Expect::Execute(run, prepared));
        Ok(Taken::Yes)
    }

    fn function_call(
        &mut self,
        function: u32,
        raw: &[u8],
        upstream: &mut Upstream,
        began: Instant,
    ) -> Result<Taken, End> {
        let called = match fastpath::called(function) {
            Some(text) => Some(Cow::Borrowed(text)),
            None => {
                if let Some(wait) = self.decider.waits_to_be_told()
                    && let Some(waiting) = self.waits(wait, upstream)
                {
                    self.waiting = waiting;
                    return Ok(Taken::Wait);
                }
                (self.decider.call_of(function)).map(|text| Cow::Owned(text.into_bytes()))
            }
        };
        let (text, meaning, ruling) = match called {
            Some(text) => match self.decide(&text, upstream) {
                Ok((meaning, ruling)) => (text, meaning, ruling),
                Err(waiting) => {
                    self.waiting = waiting;
                    return Ok(Taken::Wait);
                }
            },
            // The message names its function by number only: without the catalog nothing is known of it.
            None => (
                Cow::Borrowed(&b"(function call message)"[..]),
                None,
                self.decider.unknown(),
            ),
        };
        // Uncertainty denies: its result has no columns that could be masked.
        let ruling = match ruling.mask_plan() {
            Some(_) => self.decider.unknown(),
            None => ruling,
        };
        let run = Running::new(Text::from(&*text), Arc::clone(&ruling), began, raw.len()).simple();
        self.evidence.decided(&run);
        if let Some(permit) = ruling.permit() {
            self.note(&meaning, &ruling, &text);
            upstream.forward(permit, raw);
            self.tracker.sent(Expect::FunctionCall(run));
        } else {
            upstream.refuse_simple();
            self.tracker.sent(Expect::Refused(run));
        }
        Ok(Taken::Yes)
    }

    fn refuse_extended(&mut self, run: Running, upstream: &mut Upstream) {
        upstream.refuse_extended();
        self.tracker.sent(Expect::Refused(run));
        self.tracker.skip_until_sync();
    }

    /// Notes what an operation that is passed on may change for those after it.
    fn note(&mut self, meaning: &Meaning, ruling: &Ruling, text: &[u8]) {
        self.decider.passes(meaning, ruling, text);
        self.touched_masked |= ruling.hides_error_text();
        let lasting = ruling.lasting();
        if lasting.leaves() {
            self.decider.keep(meaning, ruling);
            for (kind, named) in [
                (Kind::Statement, lasting.prepared),
                (Kind::Portal, lasting.cursor),
            ] {
                if named {
                    self.names.may_be_renamed(kind);
                }
            }
        }
        if ruling.moves_search_path() {
            self.decider.distrust_search_path();
        }
        // Settings decide how a text is read: after a statement that may change them, the next text waits for its answer.
        let effects = ruling.effects();
        if [
            SqlEffect::Set,
            SqlEffect::Execute,
            SqlEffect::Transaction,
            SqlEffect::Unknown,
        ]
        .iter()
        .any(|e| effects.contains(*e))
        {
            self.decider.may_change_settings();
        }
    }
}

fn kind(statement: bool) -> Kind {
    if statement { Kind::Statement } else { Kind::Portal }
}

/// A statement as it is decided now.
fn renewed(prepared: &mut Rc<Prepared>, decider: &mut Decider) -> Rc<Prepared> {
    let epoch = decider.epoch();
    if prepared.epoch != epoch {
        *prepared = prepared.decided_anew(decider.rule_again(&prepared.classified), epoch);
    }
    Rc::clone(prepared)
}
