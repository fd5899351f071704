//! What one session leaves in the record and in the metrics.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bailiff_model::{
    Chain, Decision, Effect, EffectSet, OriginalDst, Protocol, RecordingLevel, SessionId, SqlEffect, WhenFull,
};
use bailiff_policy::{Denial, Target};

use super::operation::Running;
use crate::metrics::Metrics;
use crate::proxy::end::End;
use crate::proxy::worker::WorkerShared;
use crate::record::{Event, OperationEnd, Outcome, SessionEnd, SessionStart};

/// How often a full queue is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A session's evidence.
pub(crate) struct SessionEvidence {
    shared: Rc<WorkerShared>,
    metrics: Arc<Metrics>,
    session: Arc<SessionStart>,
    when_full: WhenFull,
    operations: u64,
    finished: u64,
    denied: u64,
    unrecorded: u64,
    look_again: Option<std::pin::Pin<Box<tokio::time::Sleep>>>,
}

impl SessionEvidence {
    /// Begins a session: user, database and application as the client gave them.
    pub(crate) fn open(
        shared: &Rc<WorkerShared>,
        chain: &Arc<Chain>,
        target: &Target,
        destination: OriginalDst,
        startup: Option<(&str, &str, &str)>,
    ) -> Self {
        let (user, database, application) = startup.unwrap_or_default();
        let session = Arc::new(SessionStart {
            session: SessionId::new(crate::random_hex()),
            at: SystemTime::now(),
            chain: Arc::clone(chain),
            target: target.name.clone(),
            destination,
            user: user.to_owned(),
            database: database.to_owned(),
            application: application.to_owned(),
        });
        shared
            .recorder
            .borrow_mut()
            .push(Event::Start(Arc::clone(&session)));
        Self {
            shared: Rc::clone(shared),
            metrics: Arc::clone(&shared.options.metrics),
            session,
            when_full: target.when_full,
            operations: 0,
            finished: 0,
            denied: 0,
            unrecorded: 0,
            look_again: None,
        }
    }

    /// Whether the next operation can be recorded, or may go on without.
    pub(crate) fn has_room(&self) -> bool {
        self.when_full == WhenFull::Drop || self.shared.recorder.borrow().has_room()
    }

    /// Waits for room.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.has_room() {
                self.look_again = None;
                return Poll::Ready(());
            }
            let sleep = self
                .look_again
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(LOOK_AGAIN)));
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.look_again = None;
        }
    }

    /// Counts an operation that was just decided.
    pub(crate) fn decided(&mut self, run: &Running) {
        self.operations += 1;
        self.metrics.bytes_from_clients.inc_by(run.bytes_in);
        let verdict = run.ruling.effect();
        if verdict != Effect::Allow {
            self.denied += 1;
        }
        if let Some(counter) =
            self.metrics
                .operation(Protocol::Postgres, gravest(run.ruling.effects()), verdict)
        {
            counter.inc();
        }
    }

    /// Records an operation that is over.
    pub(crate) fn finished(&mut self, run: &Running) {
        if run.masked > 0 {
            self.metrics.masked_values.inc_by(run.masked);
        }
        // Operations end in the order in which they were decided; in a pipeline several are under way.
        self.finished += 1;
        let mut recorder = self.shared.recorder.borrow_mut();
        if !recorder.has_room() && self.when_full == WhenFull::Drop {
            self.unrecorded += 1;
            self.metrics.limit("record_queue");
            recorder.dropped();
            return;
        }
        let took = run.began.elapsed();
        recorder.push(Event::Operation(OperationEnd {
            session: Arc::clone(&self.session),
            number: self.finished,
            at: self.shared.clock.get().at(run.began),
            text: Some(Arc::clone(&run.text)),
            decision: Arc::clone(run.ruling.decision()),
            rows: run.rows + run.uncounted,
            masked: run.masked,
            bytes_in: run.bytes_in,
            bytes_out: run.bytes_out,
            decided: Duration::from_nanos(run.decided_ns),
            took,
            sqlstate: run.sqlstate,
            outcome: run.outcome,
        }));
    }

    /// Notes that the connection itself was refused.
    pub(crate) fn refused(&mut self, denial: &Denial) {
        self.operations += 1;
        self.denied += 1;
        self.shared
            .recorder
            .borrow_mut()
            .push(Event::Operation(OperationEnd {
                session: Arc::clone(&self.session),
                number: self.operations,
                at: SystemTime::now(),
                text: None,
                decision: Arc::new(Decision {
                    verdict: Effect::Deny,
                    reason: denial.reason.clone(),
                    observed: None,
                    effects: EffectSet::EMPTY,
                    recording: RecordingLevel::Metadata,
                }),
                rows: 0,
                masked: 0,
                bytes_in: 0,
                bytes_out: 0,
                decided: Duration::ZERO,
                took: Duration::ZERO,
                sqlstate: Some(*b"42501"),
                outcome: Outcome::Answered,
            }));
    }

    /// Counts how long a message took to pass.
    pub(crate) fn added(&self, took: Duration) {
        self.metrics.added_latency.observe(took.as_secs_f64());
    }

    /// Counts bytes of the client that belong to no operation.
    pub(crate) fn client_bytes(&self, bytes: usize) {
        self.metrics.bytes_from_clients.inc_by(bytes as u64);
    }

    /// Counts bytes of the target.
    pub(crate) fn target_bytes(&self, bytes: usize) {
        self.metrics.bytes_to_clients.inc_by(bytes as u64);
    }

    /// Ends the session.
    pub(crate) fn close(&mut self, end: &End) {
        self.shared.recorder.borrow_mut().push(Event::End(SessionEnd {
            session: Arc::clone(&self.session),
            at: SystemTime::now(),
            why: end.reason(),
            operations: self.operations,
            denied: self.denied,
            unrecorded: self.unrecorded,
        }));
    }
}

/// The effect by which an operation of several counts.
fn gravest(effects: EffectSet) -> SqlEffect {
    use SqlEffect::{
        Alter, Copy, Create, Delete, Drop, Execute, Grant, Insert, Read, Set, Transaction, Truncate, Unknown,
        Update,
    };
    [
        Unknown,
        Grant,
        Drop,
        Truncate,
        Alter,
        Create,
        Delete,
        Update,
        Insert,
        Execute,
        Copy,
        Set,
        Read,
        Transaction,
    ]
    .into_iter()
    .find(|effect| effects.contains(*effect))
    .unwrap_or(Transaction)
}
