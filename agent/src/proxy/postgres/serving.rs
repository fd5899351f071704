//! A session after its authentication: every message decided, every answer followed.

mod from_client;
mod from_target;

pub(crate) use from_target::Answers;

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bailiff_wire::postgres::build;

use super::evidence::SessionEvidence;
use super::names::Names;
use super::tracker::Tracker;
use crate::decide::Decider;
use crate::mask::CopyMask;
use crate::proxy::end::{End, Side};
use crate::proxy::leg::{HIGH_WATER, Leg, READ_SIZE, Read};
use crate::proxy::limits::Limits;
use crate::proxy::live::{Now, RunningNow};
use crate::proxy::upstream::Upstream;
use crate::proxy::worker::WorkerShared;
use crate::record::Outcome;

/// What a session needs beside its two sockets.
pub(crate) struct Core {
    pub(crate) shared: Rc<WorkerShared>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) decider: Decider,
    pub(crate) evidence: SessionEvidence,
    pub(crate) tracker: Tracker,
    names: Names,
    /// Whether it is a replication connection, whose server knows commands of its own.
    pub(crate) replicates: bool,
    /// Bytes of a long message of the client that may pass as they come.
    client_passes: usize,
    /// Whether those bytes go to the server or nowhere.
    client_discards: bool,
    /// Bytes of a long message of the server that may pass as they come.
    server_passes: usize,
    /// Masks the rows of the COPY that is under way.
    copy_mask: Option<Box<CopyMask>>,
    transaction_idle: bool,
    /// A statement since the last transaction's end touched what is masked. What is checked at this one's end may quote it.
    touched_masked: bool,
    /// The server has said why it ends the session.
    farewell: bool,
    waiting: Waiting,
    /// When the message that waits was read.
    waiting_since: Option<Instant>,
}

/// What keeps the client's next message from being taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Nothing,
    /// A classification is being made.
    Classification,
    /// The database's catalog is being read.
    Catalog,
    /// Settings may be changing, so that the next text can't be read before the server has answered.
    Answers,
    /// As many answers are outstanding as there may be.
    Outstanding,
    /// A name may have been given in an earlier part of the pipeline, which isn't over.
    Settled(u64),
    /// The recorder's queue is full and the target's policy says to wait.
    Recorder,
}

/// A session whose client is authenticated.
pub(crate) struct Serving {
    client: Leg,
    upstream: Upstream,
    core: Core,
    /// One side has so much unwritten that the other isn't read.
    behind: bool,
    /// Memory that it was last seen to hold, in bytes.
    held: usize,
}

/// A session that holds no more than this isn't ended because all of them hold too much.
const SPARED: usize = READ_SIZE;

impl Serving {
    /// Takes over from the handshake.
    pub(crate) fn new(client: Leg, upstream: Upstream, core: Core) -> Self {
        Self {
            client,
            upstream,
            core,
            behind: false,
            held: 0,
        }
    }

    /// Runs to the session's end and says why it ended.
    ///
    /// Not cancel-safe: dropping it drops what is under way.
    pub(crate) async fn run(mut self) -> (End, Core) {
        let shared = Rc::clone(&self.core.shared);
        let mut all_end = Box::pin(shared.drain.clone().all_end());
        let mut registered = false;
        let live = Rc::clone(self.core.evidence.live());
        let end = match self.take_up() {
            Err(end) => end,
            Ok(()) => {
                poll_fn(|cx| {
                    if let Err(end) = self.poll(cx) {
                        return Poll::Ready(end);
                    }
                    if !registered {
                        live.serves(cx);
                    }
                    if (live.is_called() || !registered)
                        && let Some(killing) = live.answer(|| self.core.now())
                    {
                        return Poll::Ready(End::killed(killing));
                    }
                    // Asked once, draining wakes this task, whose waker stays the same; so it is asked again only then.
                    if !std::mem::replace(&mut registered, true) || shared.drain.has_begun() {
                        let all_end = all_end.as_mut().poll(cx).is_ready();
                        let idle = self.core.is_idle() && !self.client.has_carry();
                        if all_end || (idle && shared.drain.has_begun()) {
                            return Poll::Ready(End::Drained);
                        }
                    }
                    Poll::Pending
                })
                .await
            }
        };
        // Inside a long message nothing can be said.
        let told = end
            .for_client()
            .or_else(|| end.of_target().filter(|_| !self.core.farewell))
            .filter(|_| self.core.server_passes == 0);
        if let Some((code, text)) = told {
            let mut last = Vec::new();
            build::error_response(&mut last, &build::ErrorText::fatal(code, text));
            let _ = self.client.send(&last);
        }
        let flushed = poll_fn(|cx| self.client.poll_flush(cx));
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), flushed).await;
        shared.held.set(shared.held.get() - self.held);
        (end, self.core)
    }

    /// Does all that can be done now. `Ok` means that everything waits.
    fn poll(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
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
            self.note_backlog();
            self.note_memory()?;
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
                return Ok(());
            }
        }
    }

    fn note_backlog(&mut self) {
        let behind = self.client.backlog().max(self.upstream.backlog()) >= HIGH_WATER;
        if behind && !self.behind {
            self.core.reached("unwritten");
        }
        self.behind = behind;
    }

    /// Keeps the worker's sum of what its sessions hold. Where that is too much, whichever grows ends.
    fn note_memory(&mut self) -> Result<(), End> {
        let core = &self.core;
        let held = self.client.held()
            + self.upstream.held()
            + core.names.held()
            + core.tracker.held()
            + core.evidence.held()
            + core.copy_mask.as_ref().map_or(0, |mask| mask.held());
        if held == self.held {
            return Ok(());
        }
        let shared = &core.shared;
        shared.held.set(shared.held.get() + held - self.held);
        let grew = held > self.held;
        self.held = held;
        if grew && held > SPARED && shared.held.get() > shared.may_hold {
            return Err(End::Limit("memory"));
        }
        Ok(())
    }

    fn poll_client(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let shared = Rc::clone(&self.core.shared);
        let mut buffer = shared.read_buffer.borrow_mut();
        let (core, upstream) = (&mut self.core, &mut self.upstream);
        let mut began = None;
        match self.client.poll_read(cx, &mut buffer, |bytes| {
            let now = *began.insert(Instant::now());
            core.take_from_client(bytes, upstream, now)
        }) {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(error)) => Err(End::Socket {
                side: Side::Client,
                error,
            }),
            Poll::Ready(Ok(Ok(Read::End))) => Err(End::ClientClosed),
            Poll::Ready(Ok(Ok(Read::Data))) => {
                core.is_current()?;
                upstream.send().map_err(|error| End::Socket {
                    side: Side::Target,
                    error,
                })?;
                if let (Some(began), Waiting::Nothing) = (began, core.waiting) {
                    core.evidence.added(began.elapsed());
                } else {
                    core.waiting_since = began;
                }
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
        // Counted from when the message was read, so that the grammar's time is seen as what it is.
        let waited = core.waiting_since.take();
        let began = waited.unwrap_or_else(Instant::now);
        self.client
            .reconsider(|bytes| core.take_from_client(bytes, upstream, began))?;
        core.is_current()?;
        upstream.send().map_err(|error| End::Socket {
            side: Side::Target,
            error,
        })?;
        if core.waiting != Waiting::Nothing {
            core.waiting_since = Some(began);
        } else if waited.is_some() {
            core.evidence.added(began.elapsed());
        }
        Ok(())
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
            names: Names::default(),
            replicates: false,
            client_passes: 0,
            client_discards: false,
            server_passes: 0,
            copy_mask: None,
            transaction_idle: true,
            touched_masked: false,
            farewell: false,
            waiting: Waiting::Nothing,
            waiting_since: None,
        }
    }

    /// Counts that a limit was reached at which the session waits.
    fn reached(&self, limit: &'static str) {
        self.shared.options.metrics.limit(limit);
        tracing::debug!(limit, "a session waits");
    }

    /// What the session does, for whoever asks.
    fn now(&self) -> Now {
        let running = self.tracker.front().map(|run| RunningNow {
            text: Arc::clone(&run.text),
            level: run.ruling.recording().level(),
            age: run.began.elapsed(),
        });
        self.evidence.now(!self.transaction_idle, running)
    }

    /// Before anything decided leaves: not on a way on which the policy that decided it doesn't let it travel.
    fn is_current(&self) -> Result<(), End> {
        if self.decider.is_outdated() {
            Err(End::Outdated)
        } else {
            Ok(())
        }
    }

    fn is_idle(&self) -> bool {
        self.transaction_idle && self.tracker.outstanding() == 0 && self.waiting == Waiting::Nothing
    }

    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> bool {
        let over = match self.waiting {
            Waiting::Nothing => true,
            Waiting::Classification => self.decider.poll_classified(cx).is_ready(),
            Waiting::Catalog => self.decider.poll_catalog(cx).is_ready(),
            Waiting::Outstanding => self.tracker.outstanding() < self.limits.outstanding,
            Waiting::Settled(part) => {
                let progress = self.tracker.progress();
                progress.unsettled > part || progress.current <= part
            }
            Waiting::Answers => self.tracker.outstanding() == 0,
            Waiting::Recorder => self.evidence.poll_ready(cx).is_ready(),
        };
        if over {
            self.waiting = Waiting::Nothing;
        }
        over
    }

    /// Writes what is still outstanding into the record, at the session's end.
    pub(crate) fn abandon(&mut self) {
        for mut run in self.tracker.abandon() {
            run.outcome = Outcome::Unanswered;
            self.evidence.finished(&run);
        }
    }
}
