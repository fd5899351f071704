//! A session after its authentication: every message decided, every answer followed.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use foldhash::HashMap;

use bailiff_model::SqlEffect;
use bailiff_policy::Ruling;
use bailiff_wire::postgres::{Frame, next_frame};
use bailiff_wire::postgres::{backend, build, frontend};

use super::evidence::SessionEvidence;
use super::operation::{Prepared, PreparedState, Running, Text};
use super::tracker::{Expect, Step, Tracker};
use crate::decide::{Decider, Lookup};
use crate::mask::Columns;
use crate::proxy::end::{End, Side};
use crate::proxy::leg::{HIGH_WATER, Leg, READ_SIZE, Read};
use crate::proxy::limits::Limits;
use crate::proxy::upstream::{Control, Upstream};
use crate::proxy::worker::WorkerShared;

/// What a session needs beside its two sockets.
pub(crate) struct Core {
    pub(crate) shared: Rc<WorkerShared>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) decider: Decider,
    pub(crate) evidence: SessionEvidence,
    pub(crate) tracker: Tracker,
    prepared: HashMap<Vec<u8>, Rc<Prepared>>,
    portals: HashMap<Vec<u8>, Rc<Prepared>>,
    /// Bytes of a long message of the client that may pass as they come.
    client_passes: usize,
    /// Whether those bytes go to the server or nowhere.
    client_discards: bool,
    /// Bytes of a long message of the server that may pass as they come.
    server_passes: usize,
    transaction_idle: bool,
    waiting: Waiting,
}

/// What keeps the client's next message from being taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Nothing,
    /// A classification is being made.
    Classification,
    /// Settings may be changing, so that the next text can't be read before the server has answered.
    Answers,
    /// The recorder's queue is full and the target's policy says to wait.
    Recorder,
}

/// A session whose client is authenticated.
pub(crate) struct Serving {
    client: Leg,
    upstream: Upstream,
    core: Core,
}

impl Serving {
    /// Takes over from the handshake.
    pub(crate) fn new(client: Leg, upstream: Upstream, core: Core) -> Self {
        Self {
            client,
            upstream,
            core,
        }
    }

    /// Runs to the session's end and says why it ended.
    ///
    /// Not cancel-safe: dropping it drops what is under way.
    pub(crate) async fn run(mut self) -> (End, Core) {
        let shared = Rc::clone(&self.core.shared);
        let mut drain = Box::pin(shared.drain.clone().wait());
        let end = match self.take_up() {
            Err(end) => end,
            Ok(()) => {
                poll_fn(|cx| match self.poll(cx, drain.as_mut()) {
                    Ok(()) => Poll::Pending,
                    Err(end) => Poll::Ready(end),
                })
                .await
            }
        };
        if let Some((code, text)) = end.for_client() {
            let mut last = Vec::new();
            build::error_response(&mut last, &build::ErrorText::fatal(code, text));
            let _ = self.client.send(&last);
        }
        let flushed = poll_fn(|cx| self.client.poll_flush(cx));
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), flushed).await;
        (end, self.core)
    }

    /// Does all that can be done now. `Ok` means that everything waits.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut drain: std::pin::Pin<&mut impl Future<Output = crate::proxy::worker::DrainPhase>>,
    ) -> Result<(), End> {
        loop {
            let mut progress = false;
            if self.core.waiting != Waiting::Nothing && self.core.poll_waiting(cx) {
                progress = true;
                self.resume()?;
            }
            let flushed = self.client.poll_flush(cx).map_err(|error| End::Socket {
                side: Side::Client,
                error,
            });
            if let Poll::Ready(result) = flushed {
                result?;
            }
            let flushed = self.upstream.poll_flush(cx).map_err(|error| End::Socket {
                side: Side::Target,
                error,
            });
            if let Poll::Ready(result) = flushed {
                result?;
            }
            if self.client.backlog() < HIGH_WATER {
                progress |= self.poll_target(cx)?;
            }
            if self.core.waiting == Waiting::Nothing
                && self.upstream.backlog() < HIGH_WATER
                && self.core.tracker.outstanding() < self.core.limits.outstanding
            {
                progress |= self.poll_client(cx)?;
            }
            if !progress {
                if self.core.is_idle() && !self.client.has_carry() && drain.as_mut().poll(cx).is_ready() {
                    return Err(End::Drained);
                }
                return Ok(());
            }
        }
    }

    fn poll_client(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let shared = Rc::clone(&self.core.shared);
        let mut buffer = shared.read_buffer.borrow_mut();
        let (core, upstream) = (&mut self.core, &mut self.upstream);
        let began = Instant::now();
        match self.client.poll_read(cx, &mut buffer, |bytes| {
            core.take_from_client(bytes, upstream, began)
        }) {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(error)) => Err(End::Socket {
                side: Side::Client,
                error,
            }),
            Poll::Ready(Ok(Ok(Read::End))) => Err(End::ClientClosed),
            Poll::Ready(Ok(Ok(Read::Data))) => {
                upstream.send().map_err(|error| End::Socket {
                    side: Side::Target,
                    error,
                })?;
                core.evidence.added(began.elapsed());
                Ok(true)
            }
            Poll::Ready(Ok(Err(end))) => Err(end),
        }
    }

    /// Takes up what came behind the handshake's last messages.
    fn take_up(&mut self) -> Result<(), End> {
        let (core, client) = (&mut self.core, &mut self.client);
        self.upstream
            .leg()
            .reconsider(|bytes| core.take_from_target(bytes, client))?;
        self.resume()
    }

    /// Takes up the client's messages where they were left.
    fn resume(&mut self) -> Result<(), End> {
        let (core, upstream) = (&mut self.core, &mut self.upstream);
        let began = Instant::now();
        self.client
            .reconsider(|bytes| core.take_from_client(bytes, upstream, began))?;
        upstream.send().map_err(|error| End::Socket {
            side: Side::Target,
            error,
        })
    }

    fn poll_target(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let shared = Rc::clone(&self.core.shared);
        let mut buffer = shared.read_buffer.borrow_mut();
        let (core, client) = (&mut self.core, &mut self.client);
        match self
            .upstream
            .leg()
            .poll_read(cx, &mut buffer, |bytes| core.take_from_target(bytes, client))
        {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(error)) => Err(End::Socket {
                side: Side::Target,
                error,
            }),
            Poll::Ready(Ok(Ok(Read::End))) => Err(End::TargetClosed),
            Poll::Ready(Ok(Ok(Read::Data))) => Ok(true),
            Poll::Ready(Ok(Err(end))) => Err(end),
        }
    }
}

/// What became of one message of the client.
enum Taken {
    /// It was dealt with.
    Yes,
    /// It has to wait.
    Wait,
}

impl Core {
    /// A session that has just become ready.
    pub(crate) fn new(
        shared: Rc<WorkerShared>,
        limits: Arc<Limits>,
        decider: Decider,
        evidence: SessionEvidence,
    ) -> Self {
        Self {
            shared,
            limits,
            decider,
            evidence,
            tracker: Tracker::default(),
            prepared: HashMap::default(),
            portals: HashMap::default(),
            client_passes: 0,
            client_discards: false,
            server_passes: 0,
            transaction_idle: true,
            waiting: Waiting::Nothing,
        }
    }

    fn is_idle(&self) -> bool {
        self.transaction_idle && self.tracker.outstanding() == 0 && self.waiting == Waiting::Nothing
    }

    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> bool {
        let over = match self.waiting {
            Waiting::Nothing => true,
            Waiting::Classification => self.decider.poll_classified(cx).is_ready(),
            Waiting::Answers => self.tracker.outstanding() == 0,
            Waiting::Recorder => self.evidence.poll_ready(cx).is_ready(),
        };
        if over {
            self.waiting = Waiting::Nothing;
        }
        over
    }

    // ---- from the client ----

    fn take_from_client(
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
                break; // Read on when answers have come.
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
        let Some(header) = bailiff_wire::postgres::FrameHeader::parse(rest) else {
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
                    self.bind(portal, statement)?;
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
                self.bind(bind.portal, bind.statement)?;
                upstream.relay(Control::Bind, raw);
            }
            b'D' => {
                let describe = frontend::Describe::decode(frame.body).map_err(malformed)?;
                let known = if describe.is_statement() {
                    &self.prepared
                } else {
                    &self.portals
                };
                let prepared = known.get(describe.name).map(Rc::clone);
                upstream.relay(Control::Describe, raw);
                self.tracker.sent(Expect::Describe(prepared));
            }
            b'E' => {
                let execute = frontend::Execute::decode(frame.body).map_err(malformed)?;
                return self.execute(execute.portal, raw, upstream, began);
            }
            b'C' => {
                let close = frontend::Close::decode(frame.body).map_err(malformed)?;
                let known = if close.is_statement() {
                    &mut self.prepared
                } else {
                    &mut self.portals
                };
                known.remove(close.name);
                upstream.relay(Control::Close, raw);
                self.tracker.sent(Expect::Close);
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
                }
            }
            b'F' => return self.function_call(raw, upstream, began),
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
    fn decide(
        &mut self,
        text: &[u8],
        upstream: &mut Upstream,
    ) -> Result<(Option<Arc<bailiff_policy::Classified>>, Arc<Ruling>), Waiting> {
        if !self.evidence.has_room() {
            return Err(Waiting::Recorder);
        }
        if self.decider.settings_may_change() {
            if self.tracker.outstanding() > 0 {
                upstream.flush_server();
                return Err(Waiting::Answers);
            }
            self.decider.settings_settled();
        }
        match self.decider.lookup(text) {
            Lookup::Known(classified, ruling) => Ok((classified, ruling)),
            Lookup::Started => Err(Waiting::Classification),
        }
    }

    fn simple(
        &mut self,
        text: &[u8],
        raw: &[u8],
        upstream: &mut Upstream,
        began: Instant,
    ) -> Result<Taken, End> {
        let ruling = match self.decide(text, upstream) {
            Ok((_, ruling)) => ruling,
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
            self.note_settings(&ruling);
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
        if self.prepared.len() >= self.limits.prepared && !self.prepared.contains_key(parse.statement) {
            return Err(End::Limit("prepared_statements"));
        }
        let prepared = Rc::new(Prepared {
            text,
            classified,
            state: std::cell::RefCell::new(PreparedState {
                ruling,
                columns: None,
            }),
        });
        self.prepared
            .insert(parse.statement.to_vec(), Rc::clone(&prepared));
        upstream.forward(permit, raw);
        self.tracker.sent(Expect::Parse(prepared));
        self.evidence.client_bytes(raw.len());
        Ok(Taken::Yes)
    }

    fn bind(&mut self, portal: &[u8], statement: &[u8]) -> Result<(), End> {
        match self.prepared.get(statement) {
            Some(prepared) => {
                if self.portals.len() >= self.limits.prepared && !self.portals.contains_key(portal) {
                    return Err(End::Limit("portals"));
                }
                // Unnamed portals are the common case: no allocation for the same name again.
                if let Some(slot) = self.portals.get_mut(portal) {
                    *slot = Rc::clone(prepared);
                } else {
                    self.portals.insert(portal.to_vec(), Rc::clone(prepared));
                }
            }
            // Made by PREPARE in SQL, or not there at all. Execute then finds a portal of which nothing is known.
            None => {
                self.portals.remove(portal);
            }
        }
        self.tracker.sent(Expect::Bind);
        Ok(())
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
            return Ok(Taken::Wait);
        }
        let Some(prepared) = self.portals.get(portal).map(Rc::clone) else {
            // Uncertainty denies: a portal whose statement was never seen, such as a cursor declared in SQL.
            let ruling = self.decider.unknown();
            let run = Running::new(Text::from(&b""[..]), Arc::clone(&ruling), began, raw.len());
            self.evidence.decided(&run);
            match ruling.permit() {
                Some(permit) => {
                    let prepared = Rc::new(Prepared {
                        text: Text::from(&b""[..]),
                        classified: None,
                        state: std::cell::RefCell::new(PreparedState {
                            ruling,
                            columns: None,
                        }),
                    });
                    upstream.forward(permit, raw);
                    self.tracker.sent(Expect::Execute(run, prepared));
                }
                None => self.refuse_extended(run, upstream),
            }
            return Ok(Taken::Yes);
        };
        let ruling = self
            .decider
            .rule_again(&prepared.classified, &prepared.state.borrow().ruling);
        if let Some(ruling) = &ruling {
            let mut state = prepared.state.borrow_mut();
            state.ruling = Arc::clone(ruling);
            state.columns = None;
        }
        let ruling = Arc::clone(&prepared.state.borrow().ruling);
        let run = Running::new(Rc::clone(&prepared.text), Arc::clone(&ruling), began, raw.len());
        self.evidence.decided(&run);
        let Some(permit) = ruling.permit() else {
            self.refuse_extended(run, upstream);
            return Ok(Taken::Yes);
        };
        if ruling.mask_plan().is_some() && prepared.state.borrow().columns.is_none() {
            // The client doesn't ask for the columns, but without them nothing can be masked.
            upstream.describe_portal(portal);
            self.tracker.sent(Expect::OwnDescribe(Rc::clone(&prepared)));
        }
        self.note_settings(&ruling);
        upstream.forward(permit, raw);
        self.tracker.sent(Expect::Execute(run, prepared));
        Ok(Taken::Yes)
    }

    fn function_call(&mut self, raw: &[u8], upstream: &mut Upstream, began: Instant) -> Result<Taken, End> {
        // The message names its function by number only, so that nothing is known of it.
        let ruling = self.decider.unknown();
        let run = Running::new(
            Text::from(&b"(function call message)"[..]),
            Arc::clone(&ruling),
            began,
            raw.len(),
        )
        .simple();
        self.evidence.decided(&run);
        if let Some(permit) = ruling.permit() {
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

    /// Settings decide how a text is read: after a statement that may change them, the next text waits for its answer.
    fn note_settings(&mut self, ruling: &Ruling) {
        if ruling.moves_search_path() {
            self.decider.distrust_search_path();
        }
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

    // ---- from the target ----

    fn take_from_target(&mut self, bytes: &[u8], client: &mut Leg) -> Result<usize, End> {
        let to_client = |client: &mut Leg, bytes: &[u8]| {
            client.send(bytes).map_err(|error| End::Socket {
                side: Side::Client,
                error,
            })
        };
        // Bytes before `done` are dealt with; those from `kept` to `done` go out as they came.
        let (mut kept, mut done) = (0, 0);
        if self.server_passes > 0 {
            done = self.server_passes.min(bytes.len());
            self.server_passes -= done;
        }
        let mut changed = Vec::new();
        loop {
            let rest = bytes.get(done..).unwrap_or_default();
            let frame = match next_frame(rest, &self.shared.backend_limits) {
                Ok(Some(frame)) => frame,
                Ok(None) => {
                    if let Some(whole) = self.long_answer(rest)? {
                        self.server_passes = whole - rest.len();
                        done = bytes.len();
                    }
                    break;
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
            let pass = self.answer(&frame, step, &mut changed)?;
            let after = done + frame.raw.len();
            if !pass {
                to_client(client, bytes.get(kept..done).unwrap_or_default())?;
                if !changed.is_empty() {
                    to_client(client, &changed)?;
                    changed.clear();
                }
                kept = after;
            }
            done = after;
        }
        if kept < done {
            to_client(client, bytes.get(kept..done).unwrap_or_default())?;
        }
        Ok(done)
    }

    /// The length of an unfinished message that may pass in pieces.
    fn long_answer(&mut self, rest: &[u8]) -> Result<Option<usize>, End> {
        let Some(header) = bailiff_wire::postgres::FrameHeader::parse(rest) else {
            return Ok(None);
        };
        let whole = header.total_len();
        if whole < READ_SIZE || !matches!(header.tag, b'D' | b'd') {
            return Ok(None);
        }
        let masked = header.tag == b'D' && self.masks_rows();
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
        self.count_out(whole);
        Ok(Some(whole))
    }

    fn masks_rows(&mut self) -> bool {
        self.tracker
            .current()
            .is_some_and(|run| run.ruling.mask_plan().is_some())
    }

    fn count_out(&mut self, bytes: usize) {
        if let Some(run) = self.tracker.current() {
            run.bytes_out += bytes as u64;
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
                self.count_out(frame.raw.len());
                let described = self
                    .tracker
                    .described()
                    .and_then(|prepared| prepared.state.borrow().columns.clone());
                let Some(run) = self.tracker.current() else {
                    return Ok(true);
                };
                if run.ruling.mask_plan().is_none() {
                    return Ok(true);
                }
                // Uncertainty denies: rows whose columns weren't told can't be masked.
                let columns = run.columns.clone().or(described).ok_or(End::Unmaskable)?;
                if columns.masks_nothing() {
                    return Ok(true);
                }
                run.masked += columns.mask_row(frame.body, changed).map_err(malformed)?;
                Ok(false)
            }
            Step::Pass => {
                self.evidence.target_bytes(frame.raw.len());
                self.passing(frame, changed)
            }
            Step::Columns => self.columns(frame),
            Step::Error { about, refused } => self.error(frame, about, refused, changed),
            Step::Finished(mut run) => {
                self.evidence.target_bytes(frame.raw.len());
                if frame.tag == b'C' {
                    run.rows += backend::CommandComplete::decode(frame.body)
                        .map_err(malformed)?
                        .rows()
                        .unwrap_or(0);
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
                if let Some(run) = self.tracker.current() {
                    run.rows += rows;
                }
            }
            b'Z' => self.ready(frame)?,
            b'S' => {
                let status = backend::ParameterStatus::decode(frame.body).map_err(malformed)?;
                self.decider.parameter(status.name, status.value)?;
            }
            b'N' => {
                let hides = self
                    .tracker
                    .current()
                    .is_some_and(|run| run.ruling.hides_error_text());
                if hides {
                    let notice = backend::ErrorFields::decode(frame.body).map_err(malformed)?;
                    build::notice_response(changed, &build::ErrorText::withheld(&notice));
                    return Ok(false);
                }
            }
            _ => {}
        }
        Ok(true)
    }

    fn ready(&mut self, frame: &Frame<'_>) -> Result<(), End> {
        let status = backend::ReadyForQuery::decode(frame.body).map_err(|error| End::Malformed {
            side: Side::Target,
            error,
        })?;
        self.transaction_idle = status.is_idle();
        for run in self.tracker.take_ended() {
            self.evidence.finished(&run);
        }
        Ok(())
    }

    fn columns(&mut self, frame: &Frame<'_>) -> Result<bool, End> {
        self.evidence.target_bytes(frame.raw.len());
        let plan = match self.tracker.described() {
            Some(prepared) => prepared.state.borrow().ruling.mask_plan().cloned(),
            None => self
                .tracker
                .current()
                .and_then(|run| run.ruling.mask_plan().cloned()),
        };
        if let (Some(plan), b'T') = (plan, frame.tag) {
            let description =
                backend::RowDescription::decode(frame.body).map_err(|error| End::Malformed {
                    side: Side::Target,
                    error,
                })?;
            let columns = Rc::new(Columns::resolve(&plan, &description).map_err(|_| End::Unmaskable)?);
            match self.tracker.described() {
                Some(prepared) => prepared.state.borrow_mut().columns = Some(columns),
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
        let denial = about
            .as_ref()
            .and_then(|ruling| ruling.denial())
            .filter(|_| refused && !fields.is_fatal());
        if let Some(denial) = denial {
            build::error_response(
                changed,
                &build::ErrorText::denial(&denial.message, &denial.reason.to_string()),
            );
        } else if about.as_ref().is_some_and(|ruling| ruling.hides_error_text()) {
            build::error_response(changed, &build::ErrorText::withheld(&fields));
        }
        let seen = if denial.is_some() { *b"42501" } else { code };
        if let Some(run) = self.tracker.current() {
            run.sqlstate = Some(seen);
        }
        for (place, mut run) in self.tracker.take_ended().into_iter().enumerate() {
            // The first of them failed; the server skipped the others.
            run.sqlstate = (place == 0).then_some(seen);
            self.evidence.finished(&run);
        }
        Ok(changed.is_empty())
    }

    /// Writes what is still outstanding into the record, at the session's end.
    pub(crate) fn abandon(&mut self) {
        for run in self.tracker.abandon() {
            self.evidence.finished(&run);
        }
    }
}
