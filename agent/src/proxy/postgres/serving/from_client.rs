//! The client's messages: each decided, and only then passed on.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bailiff_model::SqlEffect;
use bailiff_policy::Ruling;
use bailiff_wire::postgres::{Frame, FrameHeader, frontend, next_frame};

use super::{Core, Waiting};
use crate::decide::{Lookup, Meaning};
use crate::proxy::end::{End, Side};
use crate::proxy::leg::READ_SIZE;
use crate::proxy::postgres::operation::{Prepared, PreparedState, Running, Text};
use crate::proxy::postgres::tracker::Expect;
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
    fn decide(&mut self, text: &[u8], upstream: &mut Upstream) -> Result<(Meaning, Arc<Ruling>), Waiting> {
        if !self.evidence.has_room() {
            self.reached("record_queue");
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
            self.reached("record_queue");
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
        let run = Running::new(Arc::clone(&prepared.text), Arc::clone(&ruling), began, raw.len());
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
}
