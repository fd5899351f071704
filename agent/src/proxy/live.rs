//! Sessions that are open now: to be listed, and to be ended by id.
//!
//! Each worker knows its own; nothing is shared and nothing is noted while a session works. Who wants to know asks the worker, the
//! worker calls its sessions, and each answers when it is next polled.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use bailiff_model::{RecordingLevel, SessionId};
use foldhash::HashMap;
use tokio::sync::{mpsc, oneshot};

use super::reactor::Reactor;
use crate::record::SessionStart;

/// How long a worker waits for its sessions' answers.
const PATIENCE: Duration = Duration::from_millis(500);

/// Something asked of a worker.
#[derive(Debug)]
pub(crate) enum Order {
    /// To list its sessions. Each is sent; the end of the channel is the end of the list.
    List(mpsc::UnboundedSender<Seen>),
    /// To end a session.
    Kill(SessionId, Arc<Killing>, oneshot::Sender<oneshot::Receiver<()>>),
}

/// By whom a session is ended, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Killing {
    /// The user id of the process that asked, as the kernel says.
    pub uid: u32,
    /// Its process id.
    pub pid: i32,
    /// Its program, as far as it could be told.
    pub program: String,
    /// What was given as the reason.
    pub reason: Option<String>,
    /// When.
    pub at: SystemTime,
}

/// A session as it was when it was asked.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) start: Arc<SessionStart>,
    pub(crate) now: Option<Now>,
}

/// What a session does.
#[derive(Debug)]
pub(crate) struct Now {
    pub(crate) operations: u64,
    pub(crate) denied: u64,
    pub(crate) in_transaction: bool,
    /// The operation whose answer comes now.
    pub(crate) running: Option<RunningNow>,
}

/// An operation whose answer comes now.
#[derive(Debug)]
pub(crate) struct RunningNow {
    pub(crate) text: Arc<[u8]>,
    pub(crate) level: RecordingLevel,
    pub(crate) age: Duration,
}

/// One session that is open.
#[derive(Debug)]
pub(crate) struct Live {
    start: Arc<SessionStart>,
    sessions: Rc<LiveSessions>,
    /// Whether there is something to look at. All that a session reads while nobody asks.
    called: Cell<bool>,
    /// Whether it can answer: not during its handshake.
    serving: Cell<bool>,
    asked: RefCell<Vec<mpsc::UnboundedSender<Seen>>>,
    killing: RefCell<Option<Arc<Killing>>>,
    waker: RefCell<Option<Waker>>,
    ended: RefCell<Vec<oneshot::Sender<()>>>,
}

impl Live {
    /// Notes a session that begins.
    pub(crate) fn new(sessions: &Rc<LiveSessions>, start: &Arc<SessionStart>) -> Rc<Self> {
        let this = Rc::new(Self {
            start: Arc::clone(start),
            sessions: Rc::clone(sessions),
            called: Cell::new(false),
            serving: Cell::new(false),
            asked: RefCell::default(),
            killing: RefCell::default(),
            waker: RefCell::default(),
            ended: RefCell::default(),
        });
        sessions
            .0
            .borrow_mut()
            .insert(start.session.clone(), Rc::downgrade(&this));
        this
    }

    /// Whether somebody asked something. A session looks at this whenever it is polled.
    pub(crate) fn is_called(&self) -> bool {
        self.called.get()
    }

    /// Says that the session answers from now on, and whom to wake when it is called.
    pub(crate) fn serves(&self, cx: &Context<'_>) {
        self.serving.set(true);
        *self.waker.borrow_mut() = Some(cx.waker().clone());
    }

    /// Answers whoever asked, and says whether the session is to end.
    pub(crate) fn answer(&self, now: impl Fn() -> Now) -> Option<Arc<Killing>> {
        self.called.set(false);
        for asked in self.asked.take() {
            let seen = Seen {
                start: Arc::clone(&self.start),
                now: Some(now()),
            };
            let _ = asked.send(seen); // Whoever asked may have gone.
        }
        self.killing.borrow().clone()
    }

    /// Waits until the session is to end, while it can't look by itself.
    ///
    /// Cancel-safe.
    pub(crate) async fn killed(&self) -> Arc<Killing> {
        std::future::poll_fn(|cx| match &*self.killing.borrow() {
            Some(killing) => Poll::Ready(Arc::clone(killing)),
            None => {
                *self.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    /// By whom it was ended.
    pub(crate) fn killing(&self) -> Option<Arc<Killing>> {
        self.killing.borrow().clone()
    }

    fn call(&self) {
        self.called.set(true);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.sessions.0.borrow_mut().remove(&self.start.session);
        for ended in self.ended.take() {
            let _ = ended.send(());
        }
    }
}

/// The sessions of one worker.
#[derive(Debug, Default)]
pub(crate) struct LiveSessions(RefCell<HashMap<SessionId, std::rc::Weak<Live>>>);

impl LiveSessions {
    /// Carries out what is asked of the worker. A list is complete when the channel has no more senders.
    pub(crate) fn carry_out(&self, order: Order, reactor: &Reactor) {
        match order {
            Order::List(to) => {
                let (asked, mut answers) = mpsc::unbounded_channel();
                let mut waited = 0_usize;
                for live in self.0.borrow().values().filter_map(std::rc::Weak::upgrade) {
                    if live.serving.get() {
                        waited += 1;
                        live.asked.borrow_mut().push(asked.clone());
                        live.call();
                    } else {
                        let start = Arc::clone(&live.start);
                        let _ = to.send(Seen { start, now: None });
                    }
                }
                drop(asked);
                reactor.spawn(async move {
                    // One that is ending meanwhile drops its end, so that nothing is waited for in vain.
                    let all = async {
                        for _ in 0..waited {
                            let Some(seen) = answers.recv().await else { break };
                            let _ = to.send(seen);
                        }
                    };
                    let _ = tokio::time::timeout(PATIENCE, all).await;
                });
            }
            Order::Kill(session, killing, answer) => {
                let live = self.0.borrow().get(&session).and_then(std::rc::Weak::upgrade);
                if let Some(live) = live {
                    let (ended, end) = oneshot::channel();
                    live.ended.borrow_mut().push(ended);
                    live.killing.borrow_mut().get_or_insert(killing);
                    live.call();
                    let _ = answer.send(end);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_called_answers_and_is_gone_with_its_end() {
        let (sessions, reactor) = (Rc::<LiveSessions>::default(), Reactor::enter().unwrap());
        let start = crate::record::tests::start();
        let live = Live::new(&sessions, &start);
        assert!(!live.is_called());
        let killing = Arc::new(Killing {
            uid: 0,
            pid: 1,
            program: "test".to_owned(),
            reason: None,
            at: SystemTime::now(),
        });
        let (answer, mut found) = oneshot::channel();
        sessions.carry_out(
            Order::Kill(start.session.clone(), Arc::clone(&killing), answer),
            &reactor,
        );
        let mut end = found.try_recv().unwrap();
        assert!(live.is_called() && end.try_recv().is_err());
        let now = || Now {
            operations: 0,
            denied: 0,
            in_transaction: false,
            running: None,
        };
        assert_eq!(live.answer(now), Some(Arc::clone(&killing)));
        assert!(!live.is_called());
        drop(live);
        assert!(end.try_recv().is_ok());
        let (answer, mut found) = oneshot::channel();
        sessions.carry_out(Order::Kill(start.session.clone(), killing, answer), &reactor);
        assert!(found.try_recv().is_err(), "a session that is gone was found");
    }
}
