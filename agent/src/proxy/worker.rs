//! The threads that carry connections. Each has a runtime of its own; a connection stays with the thread that got it.

use std::cell::{Cell, RefCell};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, oneshot, watch};

use bailiff_kernel::Origin;
use bailiff_model::{SessionId, WhenFull};
use bailiff_policy::ParserPool;
use bailiff_wire::postgres::Limits as WireLimits;

use super::busy_poll::BusyPoll;
use super::leg::READ_SIZE;
use super::limits::Limits;
use super::live::{Killing, LiveSessions, Order, Seen};
use super::postgres::Answers;
use super::postgres::cancel::Cancels;
use super::reactor::{Reactor, Turn};
use super::tls::Materials;
use crate::attribution::Attribution;
use crate::catalog::Catalogs;
use crate::decide::{ClassificationCache, InForce};
use crate::identity::Reviews;
use crate::metrics::Metrics;
use crate::record::{Recorder, WorkerRecorder};

/// How often a worker hands over what it gathered and shows that it lives.
const TICK: Duration = Duration::from_millis(20);

/// How often a full queue of the record is looked at.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How long a session that was told to end may take for its last words.
const FAREWELL: Duration = Duration::from_secs(6);

/// What all workers share.
#[derive(Clone)]
pub struct WorkersOptions {
    /// How many threads.
    pub threads: usize,
    /// For how long a worker that was busy looks for more before it sleeps, at most; zero: not at all.
    pub busy_poll: Duration,
    /// The data path's limits.
    pub limits: Arc<Limits>,
    /// The policy in force.
    pub in_force: Arc<InForce>,
    /// Who is behind a connection.
    pub attribution: Arc<Attribution>,
    /// The grammar's threads.
    pub parsers: Arc<ParserPool>,
    /// Certificates, keys and credentials in force.
    pub materials: Arc<Materials>,
    /// Which key cancels which session's operation.
    pub cancels: Arc<Cancels>,
    /// What is known of databases.
    pub catalogs: Arc<Catalogs>,
    /// What the API server says of tokens.
    pub(crate) reviews: Arc<Reviews>,
    /// The counters.
    pub metrics: Arc<Metrics>,
}

/// A connection that was accepted, with what the kernel noted about it.
pub(crate) struct Accepted {
    pub(crate) client: TcpStream,
    pub(crate) origin: Origin,
    pub(crate) slot: Slot,
}

/// A place among the connections that there may be; given back when dropped.
pub(crate) struct Slot {
    open: Arc<AtomicUsize>,
    pod: Arc<AtomicUsize>,
}

impl Slot {
    /// Takes a place, if there is one both over all and for the pod; otherwise tells which limit was reached.
    pub(crate) fn take(
        open: &Arc<AtomicUsize>,
        pod: &Arc<AtomicUsize>,
        limits: &Limits,
    ) -> Result<Self, &'static str> {
        if open.fetch_add(1, Ordering::Relaxed) >= limits.connections {
            open.fetch_sub(1, Ordering::Relaxed);
            return Err("connections");
        }
        if pod.fetch_add(1, Ordering::Relaxed) >= limits.connections_per_pod {
            pod.fetch_sub(1, Ordering::Relaxed);
            open.fetch_sub(1, Ordering::Relaxed);
            return Err("connections_per_pod");
        }
        Ok(Self {
            open: Arc::clone(open),
            pod: Arc::clone(pod),
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.pod.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How far draining has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DrainPhase {
    /// It hasn't begun.
    Serving,
    /// Sessions end when they are idle.
    WhenIdle,
    /// All sessions end.
    Now,
}

/// A session's view of draining.
#[derive(Debug, Clone)]
pub(crate) struct Drain(watch::Receiver<DrainPhase>);

impl Drain {
    /// Whether draining began since this view was taken. One atomic load.
    pub(crate) fn has_begun(&self) -> bool {
        self.0.has_changed().unwrap_or(true)
    }

    /// Waits until all sessions end. Wakes its task when draining begins, too.
    pub(crate) async fn all_end(mut self) {
        for begun in [DrainPhase::WhenIdle, DrainPhase::Now] {
            // An error says that the agent is gone: there's nothing left to serve for.
            let _ = self
                .0
                .wait_for(|phase| *phase == begun || *phase == DrainPhase::Now)
                .await;
        }
    }
}

/// What the wall clock said at an instant, so that times of day cost no system call of their own. Renewed at every tick.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    instant: Instant,
    wall: SystemTime,
}

impl Clock {
    fn now() -> Self {
        Self {
            instant: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// The time of day at an instant near now.
    pub(crate) fn at(self, instant: Instant) -> SystemTime {
        match instant.checked_duration_since(self.instant) {
            Some(after) => self.wall + after,
            None => self
                .wall
                .checked_sub(self.instant.duration_since(instant))
                .unwrap_or(self.wall),
        }
    }
}

/// What the sessions of one worker share. They take turns on one thread, so there are no locks.
pub(crate) struct WorkerShared {
    pub(crate) options: WorkersOptions,
    pub(crate) read_buffer: RefCell<Box<[u8]>>,
    pub(crate) answers: RefCell<Answers>,
    pub(crate) classifications: RefCell<ClassificationCache>,
    pub(crate) recorder: RefCell<WorkerRecorder>,
    pub(crate) clock: Cell<Clock>,
    pub(crate) frontend_limits: WireLimits,
    pub(crate) backend_limits: WireLimits,
    pub(crate) drain: Drain,
    /// The sessions that are open.
    pub(crate) live: Rc<LiveSessions>,
    /// Memory that the sessions hold, in bytes, and how much they may.
    pub(crate) held: Cell<usize>,
    pub(crate) may_hold: usize,
}

/// The workers.
pub struct Workers {
    threads: Vec<Thread>,
    drain: watch::Sender<DrainPhase>,
    started: Instant,
    /// The runtime ends when this is dropped.
    _runtime: oneshot::Sender<()>,
}

struct Thread {
    inbox: mpsc::UnboundedSender<Accepted>,
    orders: mpsc::UnboundedSender<Order>,
    /// Milliseconds after `started` at which the worker last showed that it lives.
    alive: Arc<AtomicU64>,
    sessions: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    join: Mutex<Option<JoinHandle<()>>>,
}

impl Workers {
    /// Starts the threads.
    pub fn start(options: &WorkersOptions, recorder: &Recorder) -> anyhow::Result<Self> {
        let (drain, phase) = watch::channel(DrainPhase::Serving);
        let started = Instant::now();
        let (runtime, ended) = runtime()?;
        let mut threads = Vec::new();
        for number in 0..options.threads.max(1) {
            // Unbounded in type only: the slots bound how many connections there are.
            let (inbox, connections) = mpsc::unbounded_channel();
            let (orders, ordered) = mpsc::unbounded_channel();
            let (alive, sessions, stop) = (Arc::default(), Arc::default(), Arc::<AtomicBool>::default());
            let seat = Seat {
                options: options.clone(),
                recorder: recorder.worker(),
                connections,
                ordered,
                alive: Arc::clone(&alive),
                sessions: Arc::clone(&sessions),
                stop: Arc::clone(&stop),
                drain: Drain(phase.clone()),
                started,
                runtime: runtime.clone(),
            };
            let join = std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || seat.run())
                .context("cannot start a worker thread")?;
            threads.push(Thread {
                inbox,
                orders,
                alive,
                sessions,
                stop,
                join: Mutex::new(Some(join)),
            });
        }
        Ok(Self {
            threads,
            drain,
            started,
            _runtime: ended,
        })
    }

    /// Hands a connection to the worker that has the fewest.
    pub(crate) fn give(&self, accepted: Accepted) {
        if let Some(thread) = self
            .threads
            .iter()
            .min_by_key(|thread| thread.sessions.load(Ordering::Relaxed))
        {
            thread.sessions.fetch_add(1, Ordering::Relaxed);
            // A worker that is gone drops the connection, which closes it.
            let _ = thread.inbox.send(accepted);
        }
    }

    /// How long ago the most silent worker showed that it lives.
    #[must_use]
    pub fn silence(&self) -> Duration {
        let now = self.started.elapsed();
        let oldest = self
            .threads
            .iter()
            .map(|thread| thread.alive.load(Ordering::Relaxed))
            .min()
            .unwrap_or(0);
        now.saturating_sub(Duration::from_millis(oldest))
    }

    /// Has every session that is open tell of itself. The list is complete when the channel has no more senders.
    pub(crate) fn list(&self, to: &mpsc::UnboundedSender<Seen>) {
        for thread in &self.threads {
            let _ = thread.orders.send(Order::List(to.clone())); // A worker that is gone has no sessions.
        }
    }

    /// Ends a session. `None` where there is none of this id; otherwise something that is ready when it has ended.
    ///
    /// Cancel-safe: the session ends all the same.
    pub(crate) async fn kill(
        &self,
        session: &SessionId,
        killing: &Arc<Killing>,
    ) -> Option<oneshot::Receiver<()>> {
        for thread in &self.threads {
            let (answer, found) = oneshot::channel();
            let order = Order::Kill(session.clone(), Arc::clone(killing), answer);
            let _ = thread.orders.send(order);
            if let Ok(end) = found.await {
                return Some(end);
            }
        }
        None
    }

    /// How many sessions are open.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.threads
            .iter()
            .map(|thread| thread.sessions.load(Ordering::Relaxed))
            .sum()
    }

    /// Lets idle sessions end, waits up to `grace` for the others, then ends them all and the threads.
    ///
    /// [`hurry`](Self::hurry) cuts the grace short.
    pub fn drain(&self, grace: Duration) {
        self.drain.send_if_modified(|phase| {
            let first = *phase == DrainPhase::Serving;
            if first {
                *phase = DrainPhase::WhenIdle;
            }
            first
        });
        self.wait_for_sessions(grace, || *self.drain.borrow() == DrainPhase::Now);
        self.hurry();
        self.wait_for_sessions(FAREWELL, || false);
        for thread in &self.threads {
            thread.stop.store(true, Ordering::Release);
        }
        for thread in &self.threads {
            if let Some(join) = thread.join.lock().ok().and_then(|mut join| join.take()) {
                let _ = join.join();
            }
        }
    }
}

impl Workers {
    /// Ends all sessions now, as at the end of a drain's grace.
    pub fn hurry(&self) {
        let _ = self.drain.send(DrainPhase::Now);
    }

    fn wait_for_sessions(&self, grace: Duration, cut_short: impl Fn() -> bool) {
        let until = Instant::now() + grace;
        while self.sessions() > 0 && Instant::now() < until && !cut_short() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The runtime of all workers, on a thread of its own. It ends when what is returned is dropped.
fn runtime() -> anyhow::Result<(Handle, oneshot::Sender<()>)> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the workers' runtime")?;
    let handle = runtime.handle().clone();
    let (ends, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name("timers".to_owned())
        .spawn(move || {
            let _ = runtime.block_on(ended);
        })
        .context("cannot start the workers' runtime")?;
    Ok((handle, ends))
}

/// One worker's thread.
struct Seat {
    options: WorkersOptions,
    recorder: WorkerRecorder,
    connections: mpsc::UnboundedReceiver<Accepted>,
    ordered: mpsc::UnboundedReceiver<Order>,
    alive: Arc<AtomicU64>,
    sessions: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    drain: Drain,
    started: Instant,
    runtime: Handle,
}

impl WorkerShared {
    /// Waits until another session or request can be recorded, or may go on without. Otherwise clients that come and go would fill the
    /// memory while the disk is full.
    pub(crate) async fn room_for_another(&self, when_full: WhenFull) {
        if when_full == WhenFull::Block && !self.recorder.borrow().has_room() {
            self.options.metrics.limit("record_queue");
            while !self.recorder.borrow().has_room() {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }
}

/// One of a worker's sessions, however it ends.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Seat {
    fn run(self) {
        // Timers, and sockets while they are being connected, are the runtime's.
        let runtime = self.runtime.clone();
        let _entered = runtime.enter();
        let outcome = Reactor::enter().and_then(|reactor| self.serve(&reactor));
        if let Err(error) = outcome {
            tracing::error!(%error, "a worker has ended; its heartbeat stays silent and readiness says so");
        }
    }

    fn serve(mut self, reactor: &Rc<Reactor>) -> std::io::Result<()> {
        let may_hold = self.options.limits.memory / self.options.threads.max(1);
        let mut busy_poll = BusyPoll::new(self.options.busy_poll);
        let shared = Rc::new(WorkerShared {
            frontend_limits: WireLimits::frontend(self.options.limits.decided_message),
            backend_limits: WireLimits::backend(),
            options: self.options,
            answers: RefCell::default(),
            read_buffer: RefCell::new(vec![0; READ_SIZE].into_boxed_slice()),
            classifications: RefCell::default(),
            recorder: RefCell::new(self.recorder),
            clock: Cell::new(Clock::now()),
            drain: self.drain,
            live: Rc::default(),
            held: Cell::new(0),
            may_hold,
        });
        let inbox = (Rc::clone(&shared), self.sessions);
        let spawner = Rc::clone(reactor);
        reactor.spawn(async move {
            while let Some(accepted) = self.connections.recv().await {
                let (shared, counted) = (Rc::clone(&inbox.0), Counted(Arc::clone(&inbox.1)));
                spawner.spawn(async move {
                    super::session::serve(shared, accepted).await;
                    drop(counted);
                });
            }
        });
        let (live, spawner) = (Rc::clone(&shared.live), Rc::clone(reactor));
        reactor.spawn(async move {
            while let Some(order) = self.ordered.recv().await {
                live.carry_out(order, &spawner);
            }
        });
        let outcome = reactor.run(&mut busy_poll, TICK, || {
            let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.alive.store(millis, Ordering::Relaxed);
            shared.clock.set(Clock::now());
            shared.recorder.borrow_mut().flush();
            match self.stop.load(Ordering::Acquire) {
                true => Turn::Stop,
                false => Turn::On,
            }
        });
        shared.recorder.borrow_mut().flush();
        outcome
    }
}
