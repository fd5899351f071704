//! Evidence: every session as JSON Lines, OCSF class 6005 (Datastore Activity).
//!
//! Workers gather what happened and hand it over in batches; a thread of its own makes the text and writes it. The data path
//! only ever sees a full queue, and then the target's policy says what happens.

mod audit;
mod chain;
mod content;
mod detect;
mod kept;
mod objects;
mod ocsf;
mod render;
mod store;

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use bailiff_model::{
    ApiRequest, Chain, Decision, Identity, OriginalDst, RecordingLevel, SessionId, TargetName,
};

use bailiff_policy::{Doubt, FieldMasks};
use bailiff_wire::kubernetes::Format;
use bailiff_wire::kubernetes::schema::Type;

use crate::metrics::Metrics;
pub use crate::proxy::live::Killing;

pub(crate) use chain::{State, Verified, verify};
pub(crate) use content::Watched;
pub use content::{Answer, Bound, Content, Values};
pub(crate) use render::hex;
pub use store::{Store, StoreOptions};
pub(crate) use store::{files, frames};

/// A worker's batch is handed over when it holds this much, or at the next tick.
const BATCH_BYTES: usize = 128 * 1024;

/// How long a write that failed waits before it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A session's beginning.
#[derive(Debug, Clone)]
pub struct SessionStart {
    /// Which session.
    pub session: SessionId,
    /// When.
    pub at: SystemTime,
    /// Who is behind it.
    pub chain: Arc<Chain>,
    /// What was dialed.
    pub target: TargetName,
    /// The address asked for.
    pub destination: OriginalDst,
    /// The database user, as the client gave it.
    pub user: String,
    /// The database, as the client gave it.
    pub database: String,
    /// The application's name, as the client gave it.
    pub application: String,
    /// The user and database that the target was told instead, where policy maps them.
    pub connected_as: Option<(String, String)>,
}

/// How an operation came to its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Outcome {
    /// The server answered it, or was made to refuse it.
    #[default]
    Answered,
    /// The server skipped it, as all that follows an error in a pipeline.
    Skipped,
    /// The session ended first, so that it isn't known what became of it.
    Unanswered,
}

/// One operation that is over.
#[derive(Debug, Clone)]
pub struct OperationEnd {
    /// Which session.
    pub session: Arc<SessionStart>,
    /// Its number in the session, from 1.
    pub number: u64,
    /// When it was decided.
    pub at: SystemTime,
    /// The statement as it came; whether and how it is recorded is decided when the line is made. `None`: there is none.
    pub text: Option<Arc<[u8]>>,
    /// What was decided, and why.
    pub decision: Arc<Decision>,
    /// Rows as the server counted them.
    pub rows: u64,
    /// Values masked.
    pub masked: u64,
    /// Bytes of its request.
    pub bytes_in: u64,
    /// Bytes of its answer.
    pub bytes_out: u64,
    /// How long the decision took.
    pub decided: Duration,
    /// How long all of it took.
    pub took: Duration,
    /// The error that ended it.
    pub sqlstate: Option<[u8; 5]>,
    /// How it came to its end.
    pub outcome: Outcome,
    /// Values and answer, where policy asks for them.
    pub content: Option<Box<Content>>,
}

/// How far a request's answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestOutcome {
    /// To its end.
    Whole,
    /// It broke off.
    Cut,
    /// There was none.
    Unanswered,
}

/// One request to the Kubernetes API that is over.
#[derive(Debug, Clone)]
pub struct RequestEnd {
    /// On which connection.
    pub session: Arc<SessionStart>,
    /// Its number on the connection, from 1.
    pub number: u64,
    /// When it was received.
    pub received: SystemTime,
    /// What it is.
    pub request: Arc<ApiRequest>,
    /// Why it can't be told, where it can't.
    pub doubt: Option<Doubt>,
    /// Whom its token names, where that was verified.
    pub identity: Option<Arc<Identity>>,
    /// Its path and query as they came.
    pub uri: Box<str>,
    /// What the client says that it is.
    pub user_agent: Box<str>,
    /// By which id the API server's own audit log has it, where it got there.
    pub server_id: Option<Box<str>>,
    /// What was decided, and why.
    pub decision: Arc<Decision>,
    /// How long the decision took.
    pub decided: Duration,
    /// How long all of it took.
    pub took: Duration,
    /// The answer's status code; 0 where there was none.
    pub status: u16,
    /// How far the answer came.
    pub outcome: RequestOutcome,
    /// Why it wasn't passed on whatever policy says: a word of the program.
    pub refused: Option<&'static str>,
    /// Bytes of its body, where its length was given, and of what followed where the connection stopped to speak HTTP.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// Values masked in the answer.
    pub masked: u64,
    /// The bodies, where policy asks for them.
    pub bodies: Option<Box<Bodies>>,
}

/// A body as it was kept.
#[derive(Clone)]
pub struct Body {
    /// How it is written.
    pub format: Format,
    /// Whether it is a JSON Patch: operations, and no object.
    pub is_patch: bool,
    /// Whether it is compressed by gzip.
    pub packed: bool,
    /// All of it, or nothing.
    pub bytes: Vec<u8>,
    /// Whether it was more than may be kept.
    pub more: bool,
}

/// Contents never print.
impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body")
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// The bodies of a request, where policy asks for them.
#[derive(Debug, Clone)]
pub struct Bodies {
    /// What was sent.
    pub request: Option<Body>,
    /// What came back, as the client got it.
    pub response: Option<Body>,
    /// The type of the objects that it is about.
    pub of: Type,
    /// What is masked for whoever sent it.
    pub masks: Option<Arc<FieldMasks>>,
}

/// A session's end.
#[derive(Debug, Clone)]
pub struct SessionEnd {
    /// Which session.
    pub session: Arc<SessionStart>,
    /// When.
    pub at: SystemTime,
    /// Why: a word of the program.
    pub why: &'static str,
    /// Operations.
    pub operations: u64,
    /// Operations refused.
    pub denied: u64,
    /// Operations that went on unrecorded.
    pub unrecorded: u64,
    /// Who ended it, where somebody did.
    pub killed: Option<Arc<Killing>>,
}

/// Something to be recorded.
#[derive(Debug, Clone)]
pub enum Event {
    /// A session began.
    Start(Arc<SessionStart>),
    /// An operation is over. Not boxed: nearly all events are this one, and a batch of them is one allocation.
    Operation(OperationEnd),
    /// A session ended.
    End(SessionEnd),
    /// A request to the Kubernetes API is over.
    Request(Box<RequestEnd>),
}

impl Event {
    /// Roughly what it takes in memory, in bytes.
    fn size(&self) -> usize {
        match self {
            Self::Start(_) => 1024,
            Self::Operation(operation) => {
                256 + operation.text.as_ref().map_or(0, |text| text.len())
                    + operation.content.as_ref().map_or(0, |content| content.size())
            }
            Self::End(_) => 128,
            Self::Request(request) => {
                let other = request.request.impersonates.as_ref();
                let kept = request
                    .bodies
                    .iter()
                    .flat_map(|bodies| [&bodies.request, &bodies.response]);
                let bytes: usize = kept.flatten().map(|body| body.bytes.len()).sum();
                1024 + request.uri.len() + other.map_or(0, |other| other.size()) + bytes
            }
        }
    }
}

enum Message {
    Batch(Vec<Event>, usize),
    Stop,
}

/// The recorder's thread.
#[derive(Debug)]
pub struct Recorder {
    inbox: Sender<Message>,
    queued: Arc<AtomicUsize>,
    capacity: usize,
    metrics: Arc<Metrics>,
    stopping: Arc<AtomicBool>,
    spare: Arc<Spare>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Starts it. `capacity` bounds what waits, in bytes.
    pub fn start(store: Store, capacity: usize, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let (inbox, batches) = channel();
        let queued = Arc::<AtomicUsize>::default();
        let stopping = Arc::<AtomicBool>::default();
        let spare = Arc::<Spare>::default();
        let mut writer = Writer {
            store,
            queued: Arc::clone(&queued),
            metrics: Arc::clone(&metrics),
            stopping: Arc::clone(&stopping),
            spare: Arc::clone(&spare),
        };
        let thread = std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || writer.run(&batches))?;
        Ok(Self {
            inbox,
            queued,
            capacity,
            metrics,
            stopping,
            spare,
            thread: Some(thread),
        })
    }

    /// A worker's end of it.
    #[must_use]
    pub fn worker(&self) -> WorkerRecorder {
        WorkerRecorder {
            inbox: self.inbox.clone(),
            queued: Arc::clone(&self.queued),
            capacity: self.capacity,
            metrics: Arc::clone(&self.metrics),
            spare: Arc::clone(&self.spare),
            batch: Vec::new(),
            bytes: 0,
        }
    }

    /// Writes what is there and ends the thread. Workers must have flushed before. What can't be written at the first attempt
    /// is counted as dropped, so that a full disk doesn't keep the agent from ending.
    pub fn stop(mut self) {
        self.stopping.store(true, Ordering::Release);
        let _ = self.inbox.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the thread has.
struct Writer {
    store: Store,
    queued: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
    stopping: Arc<AtomicBool>,
    spare: Arc<Spare>,
}

/// Empty batches to be used again: a fresh one costs the page faults of all its memory.
#[derive(Debug, Default)]
struct Spare(Mutex<Vec<Vec<Event>>>);

impl Spare {
    /// More than that aren't kept.
    const MOST: usize = 16;

    fn take(&self) -> Vec<Event> {
        self.0
            .lock()
            .ok()
            .and_then(|mut spare| spare.pop())
            .unwrap_or_default()
    }

    fn give(&self, batch: Vec<Event>) {
        if let Ok(mut spare) = self.0.lock()
            && spare.len() < Self::MOST
        {
            spare.push(batch);
        }
    }
}

impl Writer {
    fn run(&mut self, batches: &Receiver<Message>) {
        let (mut format, mut lines) = (ocsf::Lines::default(), Vec::new());
        while let Ok(Message::Batch(mut events, bytes)) = batches.recv() {
            lines.clear();
            for event in &events {
                format.write(event, &mut lines);
            }
            self.gauge();
            // What can't be written stays in the queue, so that it fills, and the targets' policies say what happens.
            while let Err(error) = self.store.append(&lines) {
                self.metrics.recorder_errors.inc();
                self.metrics.recorder_failing.set(1);
                self.gauge();
                if self.stopping.load(Ordering::Acquire) {
                    self.metrics.recorder_dropped.inc_by(events.len() as u64);
                    tracing::error!(%error, events = events.len(), "cannot write the record; these events are lost, since the agent ends");
                    break;
                }
                tracing::error!(%error, "cannot write the record; trying again in a second");
                std::thread::sleep(RETRY);
            }
            self.metrics.recorder_failing.set(0);
            self.queued.fetch_sub(bytes, Ordering::Relaxed);
            self.gauge();
            events.clear();
            self.spare.give(events);
        }
        self.store.seal();
    }

    fn gauge(&self) {
        let queued = i64::try_from(self.queued.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        self.metrics.recorder_queue_bytes.set(queued);
    }
}

/// A worker's end of the recorder. It gathers, and never waits.
#[derive(Debug)]
pub struct WorkerRecorder {
    inbox: Sender<Message>,
    queued: Arc<AtomicUsize>,
    capacity: usize,
    metrics: Arc<Metrics>,
    spare: Arc<Spare>,
    batch: Vec<Event>,
    bytes: usize,
}

impl WorkerRecorder {
    /// Whether there is room for one more operation.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.queued.load(Ordering::Relaxed) < self.capacity
    }

    /// Counts an operation that goes on unrecorded.
    pub fn dropped(&self) {
        self.metrics.recorder_dropped.inc();
    }

    /// Takes an event.
    pub fn push(&mut self, event: Event) {
        let size = event.size();
        self.queued.fetch_add(size, Ordering::Relaxed);
        self.bytes += size;
        self.batch.push(event);
        if self.bytes >= BATCH_BYTES {
            self.flush();
        }
    }

    /// Hands over what was gathered. Called at every tick.
    pub fn flush(&mut self) {
        if !self.batch.is_empty() {
            let bytes = std::mem::take(&mut self.bytes);
            let _ = self.inbox.send(Message::Batch(
                std::mem::replace(&mut self.batch, self.spare.take()),
                bytes,
            ));
        }
    }
}

/// A statement's text as it may be recorded: without the literals of one that sets a password. `None` where texts aren't recorded.
pub(crate) fn recordable(text: &[u8], level: RecordingLevel) -> Option<Cow<'_, str>> {
    if level < RecordingLevel::Statement {
        return None;
    }
    let text = String::from_utf8_lossy(text);
    if !names_a_password(text.as_bytes()) {
        return Some(text);
    }
    // All literals: which of them is the password takes a grammar, and hiding too much is safe here. Where a quote may not be
    // what it looks like, nothing after the first one is kept.
    let plain = !["\\", "\"", "$", "--", "/*"].iter().any(|odd| text.contains(odd));
    if plain {
        let parts = text.split('\'').enumerate();
        let kept: String = parts
            .map(|(place, part)| if place % 2 == 1 { "'[secret]'" } else { part })
            .collect();
        return Some(kept.into());
    }
    let before = text.split(['\'', '$']).next().unwrap_or_default();
    Some(format!("{before}[the rest is kept out: it is about a password]").into())
}

/// Whether the word stands in a text, in whatever case.
fn names_a_password(text: &[u8]) -> bool {
    const WORD: &[u8] = b"password";
    memchr::memchr2_iter(b'p', b'P', text).any(|at| {
        text.get(at..at + WORD.len())
            .is_some_and(|word| word.eq_ignore_ascii_case(WORD))
    })
}

#[cfg(test)]
pub(crate) mod tests;
