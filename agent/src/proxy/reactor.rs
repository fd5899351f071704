//! What a worker's thread runs: its tasks, and the kernel's word on their sockets.
//!
//! A general runtime lets tasks move between threads, many wait for one socket, and wakes come from anywhere, and a fifth of a
//! worker's own time went into that. Here a task stays with its thread, a socket has one task, and an event is a bit set and a place in a
//! queue. Wakes of other threads come through a list and an eventfd. Timers and what else isn't done for each statement are the
//! runtime's whose context the thread has entered.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use slab::Slab;

use super::busy_poll::BusyPoll;

/// How many events are asked for at once.
const EVENTS: usize = 256;

/// How often a task may find a socket ready before others have their turn.
const BUDGET: u32 = 32;

/// How many turns of tasks that wake one another there may be before the kernel is asked what happened meanwhile. An HTTP request
/// takes three each way: the connection's task, the request's, and that of the connection to the server.
const TURNS: u32 = 4;

/// How many times as long as usual a tick may wait where nothing happened since the last: a thread without work costs next to nothing.
const IDLE_TICKS: u32 = 5;

/// The token of the eventfd.
const WOKEN: u64 = u64::MAX;

/// A socket can be read.
const READ: u8 = 1;
/// A socket can be written.
const WRITE: u8 = 2;
/// The peer sends no more, or the connection failed: reading says which, for good.
const ENDED: u8 = 4;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Reactor>>> = const { RefCell::new(None) };
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The tasks and sockets of one thread.
pub(crate) struct Reactor {
    epoll: OwnedFd,
    sources: RefCell<Slab<Rc<Source>>>,
    tasks: RefCell<Slab<Seat>>,
    /// Tasks to be polled.
    ready: RefCell<VecDeque<usize>>,
    /// Tasks to be polled after those: they have something for a client.
    answering: RefCell<VecDeque<usize>>,
    /// The task that is polled now.
    current: Cell<usize>,
    /// How often it may still find a socket ready.
    budget: Cell<u32>,
    abroad: Arc<Abroad>,
}

struct Seat {
    /// `None` while it is polled.
    task: Option<(Task, Waker)>,
    queued: bool,
}

/// What other threads see of a reactor.
#[derive(Debug)]
struct Abroad {
    woken: Mutex<Vec<usize>>,
    /// Whether there is something in `woken`.
    any: AtomicBool,
    /// Whether the thread sleeps, so that it has to be told.
    sleeps: AtomicBool,
    bell: OwnedFd,
}

struct TaskWaker {
    task: usize,
    abroad: Arc<Abroad>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let at_home = CURRENT.try_with(|current| {
            let current = current.try_borrow().ok()?;
            let reactor = current.as_ref()?;
            (Arc::ptr_eq(&reactor.abroad, &self.abroad) && reactor.try_queue(self.task)).then_some(())
        });
        if !matches!(at_home, Ok(Some(()))) {
            self.abroad.wake(self.task);
        }
    }
}

impl Abroad {
    fn wake(&self, task: usize) {
        match self.woken.lock() {
            Ok(mut woken) => woken.push(task),
            // Nothing that holds it can panic.
            Err(poisoned) => poisoned.into_inner().push(task),
        }
        self.any.store(true, Ordering::SeqCst);
        if self.sleeps.swap(false, Ordering::SeqCst) {
            // It can't be full: it is written once for each time that the thread slept, and 2^64 of those don't happen.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }
}

/// Whether a loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It does.
    On,
    /// All tasks are dropped.
    Stop,
}

impl Reactor {
    /// Makes one and puts it in force for the calling thread. Fails where there are too many open files.
    pub(crate) fn enter() -> io::Result<Rc<Self>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Edge-triggered, so that it needs no reading.
        epoll::add(
            &epoll,
            &bell,
            EventData::new_u64(WOKEN),
            EventFlags::IN | EventFlags::ET,
        )?;
        let reactor = Rc::new(Self {
            epoll,
            sources: RefCell::default(),
            tasks: RefCell::default(),
            ready: RefCell::default(),
            answering: RefCell::default(),
            current: Cell::new(usize::MAX),
            budget: Cell::new(BUDGET),
            abroad: Arc::new(Abroad {
                woken: Mutex::default(),
                any: AtomicBool::new(false),
                sleeps: AtomicBool::new(false),
                bell,
            }),
        });
        CURRENT.set(Some(Rc::clone(&reactor)));
        Ok(reactor)
    }

    /// The calling thread's, if it is a worker.
    pub(crate) fn current() -> Option<Rc<Self>> {
        CURRENT.with_borrow(Option::clone)
    }

    /// Adds a task. It is first polled in the loop's next turn, and dropped when it is over, panics, or the loop ends.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let mut tasks = self.tasks.borrow_mut();
        let entry = tasks.vacant_entry();
        let number = entry.key();
        let waker = Waker::from(Arc::new(TaskWaker {
            task: number,
            abroad: Arc::clone(&self.abroad),
        }));
        entry.insert(Seat {
            task: Some((Box::pin(task), waker)),
            queued: true,
        });
        self.ready.borrow_mut().push_back(number);
    }

    /// Runs the tasks until `tick` says to stop. It is called about every `every` where there is something to do, and before anything is
    /// done after a longer time; otherwise every [`IDLE_TICKS`] times as long.
    pub(crate) fn run(
        &self,
        busy_poll: &mut BusyPoll,
        every: Duration,
        mut tick: impl FnMut() -> Turn,
    ) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        let mut now = Instant::now();
        let (mut next_tick, mut is_idle) = (now + every, false);
        loop {
            if now >= next_tick {
                if tick() == Turn::Stop {
                    break;
                }
                next_tick = now + every;
            }
            for _ in 0..TURNS {
                if !self.turn() {
                    break;
                }
            }
            let sleeps = self.ready.borrow().is_empty() && !busy_poll.goes_on(now) && self.may_sleep();
            let until = next_tick
                + if is_idle {
                    every * (IDLE_TICKS - 1)
                } else {
                    Duration::ZERO
                };
            let wait = if sleeps {
                until.saturating_duration_since(now).as_millis().max(1)
            } else {
                0
            };
            let wait = Timespec {
                tv_sec: 0,
                tv_nsec: i64::try_from(wait * 1_000_000).unwrap_or(0).min(999_000_000),
            };
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            self.abroad.sleeps.store(false, Ordering::SeqCst);
            now = Instant::now();
            is_idle = sleeps && events.is_empty();
            let mut any = false;
            for event in &events {
                any |= self.happened(event.data.u64(), event.flags);
            }
            busy_poll.turned(now, any, sleeps);
        }
        // Dropping a task may wake, spawn or drop others.
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        drop(tasks);
        Ok(())
    }

    /// Polls what is to be polled now. False where that is nothing.
    fn turn(&self) -> bool {
        self.take_woken();
        self.ready.borrow_mut().append(&mut self.answering.borrow_mut());
        let tasks = self.ready.borrow().len();
        for _ in 0..tasks {
            let Some(next) = self.ready.borrow_mut().pop_front() else {
                break;
            };
            self.poll(next);
        }
        tasks > 0
    }

    /// Announces that the thread sleeps, unless it was woken.
    fn may_sleep(&self) -> bool {
        self.abroad.sleeps.store(true, Ordering::SeqCst);
        if self.abroad.any.load(Ordering::SeqCst) {
            self.abroad.sleeps.store(false, Ordering::SeqCst);
            return false;
        }
        true
    }

    /// Queues what others woke.
    fn take_woken(&self) {
        if !self.abroad.any.load(Ordering::Relaxed) {
            return;
        }
        self.abroad.any.store(false, Ordering::SeqCst);
        let woken = match self.abroad.woken.lock() {
            Ok(mut woken) => std::mem::take(&mut *woken),
            Err(poisoned) => std::mem::take(&mut *poisoned.into_inner()),
        };
        for task in woken {
            self.queue(task);
        }
    }

    fn queue(&self, task: usize) {
        self.queue_in(&self.ready, task);
    }

    fn queue_in(&self, queue: &RefCell<VecDeque<usize>>, task: usize) {
        Self::queue_one(&mut self.tasks.borrow_mut(), &mut queue.borrow_mut(), task);
    }

    /// The same for a waker, which may be called anywhere: false where the queues are in use.
    fn try_queue(&self, task: usize) -> bool {
        let (Ok(mut tasks), Ok(mut ready)) = (self.tasks.try_borrow_mut(), self.ready.try_borrow_mut())
        else {
            return false;
        };
        Self::queue_one(&mut tasks, &mut ready, task);
        true
    }

    /// A task that is gone, or one that came into its place and has nothing to do, is no harm.
    fn queue_one(tasks: &mut Slab<Seat>, queue: &mut VecDeque<usize>, task: usize) {
        if let Some(seat) = tasks.get_mut(task)
            && !std::mem::replace(&mut seat.queued, true)
        {
            queue.push_back(task);
        }
    }

    /// Notes what the kernel says of a socket. False for what is no socket's.
    fn happened(&self, token: u64, flags: EventFlags) -> bool {
        if token == WOKEN {
            return false;
        }
        let source = usize::try_from(token)
            .ok()
            .and_then(|token| self.sources.borrow().get(token).map(Rc::clone));
        let Some(source) = source else { return false };
        let mut ready = 0;
        if flags.contains(EventFlags::IN) {
            ready |= READ;
        }
        if flags.contains(EventFlags::OUT) {
            ready |= WRITE;
        }
        if flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            ready |= ENDED;
        }
        if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
            ready |= WRITE;
        }
        source.ready.set(source.ready.get() | ready);
        if source.wanted.get() & ready != 0 {
            source.wanted.set(0);
            // What is asked goes to targets first, so that they work meanwhile, and the answers go out together: a client of many
            // connections then finds more of them when it wakes. With 32 it is woken a quarter less often.
            let queue = match source.end.get() {
                End::Client => &self.ready,
                End::Target => &self.answering,
            };
            self.queue_in(queue, source.task.get());
        }
        true
    }

    fn poll(&self, number: usize) {
        let Some((mut task, waker)) = self.tasks.borrow_mut().get_mut(number).and_then(|seat| {
            seat.queued = false;
            seat.task.take()
        }) else {
            return;
        };
        self.current.set(number);
        self.budget.set(BUDGET);
        let mut cx = Context::from_waker(&waker);
        let outcome = catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(&mut cx)));
        match outcome {
            Ok(Poll::Pending) => {
                if let Some(seat) = self.tasks.borrow_mut().get_mut(number) {
                    seat.task = Some((task, waker));
                }
                return;
            }
            Ok(Poll::Ready(())) => {}
            // One session, and not the worker's others.
            Err(_) => tracing::error!(
                "a session failed in the agent and was closed; please report what its log says above"
            ),
        }
        // What a task holds is dropped before another takes its place.
        drop(task);
        self.tasks.borrow_mut().try_remove(number);
    }
}

/// What is known of a socket.
#[derive(Debug)]
struct Source {
    /// What can be done without asking.
    ready: Cell<u8>,
    /// What its task waits for.
    wanted: Cell<u8>,
    task: Cell<usize>,
    end: Cell<End>,
}

/// Whom a socket leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Whoever asks.
    Client,
    /// Whoever answers.
    Target,
}

/// A socket's place in a reactor. Given back when dropped, which must be before the socket is closed.
pub(crate) struct Registration {
    reactor: Rc<Reactor>,
    source: Rc<Source>,
    token: usize,
}

impl Registration {
    /// Registers a socket, which must not block.
    pub(crate) fn new(reactor: Rc<Reactor>, socket: &impl AsFd) -> io::Result<Self> {
        let source = Rc::new(Source {
            // Writing is tried; what can be read, the kernel says at once.
            ready: Cell::new(WRITE),
            wanted: Cell::new(0),
            task: Cell::new(usize::MAX),
            end: Cell::new(End::Client),
        });
        let token = reactor.sources.borrow_mut().insert(Rc::clone(&source));
        let registration = Self {
            reactor,
            source,
            token,
        };
        epoll::add(
            &registration.reactor.epoll,
            socket,
            EventData::new_u64(token as u64),
            EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET,
        )?;
        Ok(registration)
    }

    /// Has the socket's task polled after those of clients that ask something.
    pub(crate) fn answers(&self) {
        self.source.end.set(End::Target);
    }

    /// Forgets a socket that is about to be closed.
    pub(crate) fn remove(&self, socket: &impl AsFd) {
        let _ = epoll::delete(&self.reactor.epoll, socket);
    }

    /// Ready when reading may bring something. Otherwise the task that asks is woken then.
    pub(crate) fn poll_read_ready(&self) -> Poll<()> {
        self.poll_ready(READ | ENDED)
    }

    /// Ready when writing may take something.
    pub(crate) fn poll_write_ready(&self) -> Poll<()> {
        self.poll_ready(WRITE)
    }

    /// Notes that there is nothing to read before the kernel says so.
    pub(crate) fn is_empty(&self) {
        self.source.ready.set(self.source.ready.get() & !READ);
    }

    /// Notes that nothing can be written before the kernel says so.
    pub(crate) fn is_full(&self) {
        self.source.ready.set(self.source.ready.get() & !WRITE);
    }

    fn poll_ready(&self, wanted: u8) -> Poll<()> {
        let reactor = &self.reactor;
        if self.source.ready.get() & wanted != 0 {
            match reactor.budget.get().checked_sub(1) {
                Some(left) => {
                    reactor.budget.set(left);
                    return Poll::Ready(());
                }
                None => reactor.queue(reactor.current.get()),
            }
        }
        self.source.task.set(reactor.current.get());
        self.source.wanted.set(self.source.wanted.get() | wanted);
        Poll::Pending
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.reactor.sources.borrow_mut().try_remove(self.token);
    }
}

impl std::fmt::Debug for Registration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Registration").field(&self.token).finish()
    }
}

#[cfg(test)]
mod tests;
