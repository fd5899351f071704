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
use bailiff_wire::postgres::content;

use super::operation::{Prepared, Running};
use crate::metrics::Metrics;
use crate::proxy::end::End;
use crate::proxy::live::{Live, Now, RunningNow};
use crate::proxy::worker::{LOOK_AGAIN, WorkerShared};
use crate::record::{
    Bound, Content, Event, OperationEnd, Outcome, SessionEnd, SessionStart, Values, Watched,
};

/// A session's evidence.
pub(crate) struct SessionEvidence {
    shared: Rc<WorkerShared>,
    metrics: Arc<Metrics>,
    session: Arc<SessionStart>,
    live: Rc<Live>,
    when_full: WhenFull,
    operations: u64,
    finished: u64,
    denied: u64,
    unrecorded: u64,
    /// Whether its beginning is in the record. Then its end will be, too.
    begun: bool,
    look_again: Option<std::pin::Pin<Box<tokio::time::Sleep>>>,
    /// The answer that comes now, where it is looked at.
    watched: Option<Box<Watched>>,
}

impl SessionEvidence {
    /// Begins a session: user, database and application as the client gave them.
    pub(crate) fn open(
        shared: &Rc<WorkerShared>,
        chain: &Arc<Chain>,
        target: &Target,
        destination: OriginalDst,
        startup: Option<(&str, &str, &str)>,
        connected_as: Option<(String, String)>,
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
            connected_as,
        });
        let mut this = Self {
            shared: Rc::clone(shared),
            metrics: Arc::clone(&shared.options.metrics),
            session: Arc::clone(&session),
            live: Live::new(&shared.live, &session),
            when_full: target.when_full,
            operations: 0,
            finished: 0,
            denied: 0,
            unrecorded: 0,
            begun: false,
            look_again: None,
            watched: None,
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
        let content = self.content(run);
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
            content,
        }));
        self.unrecorded += u64::from(!recorded);
    }

    /// What is recorded of an operation's values and answer.
    fn content(&mut self, run: &Running) -> Option<Box<Content>> {
        let watched = self.watched.take();
        let recording = run.ruling.recording();
        if !recording.keeps_values() && !recording.digest() {
            return None;
        }
        let values = run.portal.as_ref().map(|portal| match &portal.bound {
            _ if run.ruling.hides_error_text() => Values::Withheld("the statement may touch masked columns"),
            Some(bound) => Values::Kept {
                bound: Arc::clone(bound),
                types: portal.prepared.told.borrow().types.clone(),
            },
            None => Values::Withheld("they were bound before they were asked for"),
        });
        let answered = run.outcome != Outcome::Skipped && run.ruling.effect() == Effect::Allow;
        let answer = (answered && recording.watches_answer()).then(|| {
            let mut answer = watched
                .map_or_else(|| Watched::new(recording), |watched| *watched)
                .answer();
            if let Some(portal) = &run.portal {
                answer.columns = portal.prepared.told.borrow().columns.clone();
                answer.bound = portal.bound.clone();
            }
            answer
        });
        Some(Box::new(Content { values, answer }))
    }

    /// By what the session is found while it is open.
    pub(crate) fn live(&self) -> &Rc<Live> {
        &self.live
    }

    /// What it does, for whoever asks.
    pub(crate) fn now(&self, in_transaction: bool, running: Option<RunningNow>) -> Now {
        Now {
            operations: self.operations,
            denied: self.denied,
            in_transaction,
            running,
        }
    }

    /// Looks at the answer that comes from here on.
    pub(crate) fn watch(&mut self, recording: Recording) {
        self.watched
            .get_or_insert_with(|| Box::new(Watched::new(recording)));
    }

    /// Whether an answer is looked at.
    pub(crate) fn watches(&self) -> bool {
        self.watched.is_some()
    }

    /// Sees messages as they go to the client.
    pub(crate) fn saw(&mut self, messages: &[u8]) {
        if let Some(watched) = &mut self.watched {
            watched.saw(messages);
        }
    }

    /// Sees the beginning of a message that goes to the client in pieces.
    pub(crate) fn saw_begin(&mut self, begun: &[u8], whole: usize) {
        if let Some(watched) = &mut self.watched {
            watched.begins(begun, whole);
        }
    }

    /// Sees the next piece of it.
    pub(crate) fn saw_more(&mut self, bytes: &[u8]) {
        if let Some(watched) = &mut self.watched {
            watched.goes_on(bytes);
        }
    }

    /// Memory that it takes, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.watched.as_ref().map_or(0, |watched| watched.held())
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
                verb: None,
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
            content: None,
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
            killed: self.live.killing().filter(|_| matches!(end, End::Killed(..))),
        });
        if self.begun {
            // There are never more of these than sessions.
            self.shared.recorder.borrow_mut().push(end);
        } else {
            self.push(end);
        }
    }
}

/// Notes the types that a Parse gives its parameters.
pub(crate) fn parsed(prepared: &Prepared, raw: &[u8]) {
    if prepared.ruling.recording().keeps_values()
        && let Ok(types) = content::parse_types(body(raw))
        && types.iter().any(|oid| *oid != 0)
    {
        prepared.told.borrow_mut().types = Some(Arc::from(types));
    }
}

/// Notes the types that the server told.
pub(crate) fn parameters(prepared: &Prepared, body: &[u8]) {
    if prepared.ruling.recording().keeps_values()
        && let Ok(types) = content::parameter_types(body)
    {
        prepared.told.borrow_mut().types = Some(Arc::from(types));
    }
}

/// Notes the columns that the server told.
pub(crate) fn columns(prepared: &Prepared, body: &[u8]) {
    if prepared.ruling.recording().keeps_rows() {
        prepared.told.borrow_mut().columns = Some(Arc::from(body));
    }
}

/// The values of a Bind, or of the beginning of a long one, where they are recorded. Those that are bound to a statement that may
/// touch masked columns aren't even kept.
pub(crate) fn bound(prepared: &Prepared, raw: &[u8]) -> Option<Bound> {
    let recording = prepared.ruling.recording();
    if !recording.keeps_values() || prepared.ruling.hides_error_text() {
        return None;
    }
    let most = usize::try_from(recording.max_bytes()).unwrap_or(usize::MAX);
    Bound::keep(body(raw), most).ok()
}

/// How many bytes of a long Bind have to be there for what is recorded of it.
pub(crate) fn wanted_of_bind(prepared: &Prepared) -> usize {
    let recording = prepared.ruling.recording();
    match recording.keeps_values() && !prepared.ruling.hides_error_text() {
        // Names, formats and lengths come beside the values.
        true => usize::try_from(recording.max_bytes())
            .unwrap_or(usize::MAX)
            .saturating_add(64 * 1024),
        false => 0,
    }
}

fn body(raw: &[u8]) -> &[u8] {
    raw.get(5..).unwrap_or_default()
}

/// The effect by which an operation of several counts.
fn gravest(effects: EffectSet) -> SqlEffect {
    use SqlEffect::{
        Alter, Copy, Create, Delete, Drop, Execute, Grant, Insert, Read, Replication, Set, Transaction,
        Truncate, Unknown, Update,
    };
    [
        Unknown,
        Replication,
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
