//! What one session leaves in the record and in the metrics.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bailiff_model::{
    Chain, Decision, Effect, EffectSet, OriginalDst, Protocol, Recording, RecordingLevel, SessionId,
    SqlEffect, WhenFull,
};
use bailiff_policy::{Denial, Target};

use super::operation::Running;
use crate::metrics::Metrics;
use crate::proxy::end::End;
use crate::proxy::worker::WorkerShared;
use crate::record::{Event, OperationEnd, Outcome, SessionEnd, SessionStart};

/// How often a full queue is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Waits until a session's beginning can be recorded, or may go on without. Otherwise clients that come and go would fill the memory
/// while the disk is full.
pub(crate) async fn room_for_another(shared: &WorkerShared, when_full: WhenFull) {
    if when_full == WhenFull::Block && !shared.recorder.borrow().has_room() {
        shared.options.metrics.limit("record_queue");
        while !shared.recorder.borrow().has_room() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

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
    /// Whether its beginning is in the record. Then its end will be, too.
    begun: bool,
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
        let mut this = Self {
            shared: Rc::clone(shared),
            metrics: Arc::clone(&shared.options.metrics),
            session: Arc::clone(&session),
            when_full: target.when_full,
            operations: 0,
            finished: 0,
            denied: 0,
            unrecorded: 0,
            begun: false,
            look_again: None,
        };
        this.begun = this.push(Event::Start(session));
        this
    }

    /// Records an event, unless there is no room and the target goes on without.
    fn push(&self, event: Event) -> bool {
        let mut recorder = self.shared.recorder.borrow_mut();
        if self.when_full == WhenFull::Drop && !recorder.has_room() {
            self.metrics.limit("record_queue");
            recorder.dropped();
            return false;
        }
        recorder.push(event);
        true
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
        let took = run.began.elapsed();
        let recorded = self.push(Event::Operation(OperationEnd {
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
        self.unrecorded += u64::from(!recorded);
    }

    /// Notes that the connection itself was refused.
    pub(crate) fn refused(&mut self, denial: &Denial) {
        self.operations += 1;
        self.denied += 1;
        let recorded = self.push(Event::Operation(OperationEnd {
            session: Arc::clone(&self.session),
            number: self.operations,
            at: SystemTime::now(),
            text: None,
            decision: Arc::new(Decision {
                verdict: Effect::Deny,
                reason: denial.reason.clone(),
                observed: None,
                effects: EffectSet::EMPTY,
                recording: Recording::of_level(RecordingLevel::Metadata),
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
        self.unrecorded += u64::from(!recorded);
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
        let end = Event::End(SessionEnd {
            session: Arc::clone(&self.session),
            at: SystemTime::now(),
            why: end.reason(),
            operations: self.operations,
            denied: self.denied,
            unrecorded: self.unrecorded,
        });
        if self.begun {
            // There are never more of these than sessions.
            self.shared.recorder.borrow_mut().push(end);
        } else {
            self.push(end);
        }
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
