//! Accepting, on a thread of its own, so that no session can keep a client from being accepted.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use bailiff_kernel::{FourTuple, Heartbeat, Origins};
use bailiff_model::NetnsCookie;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::limits::Limits;
use super::worker::{Accepted, Slot, Workers};
use crate::metrics::Metrics;

/// How often the kernel side is told that the agent lives.
const BEAT: Duration = Duration::from_millis(200);

/// A worker that was silent for longer makes the whole agent count as hung.
const HUNG: Duration = Duration::from_millis(1500);

/// After an error of accept that time may mend, such as too many open files.
const PAUSE: Duration = Duration::from_millis(50);

/// The accepting thread.
pub struct Acceptor {
    orders: mpsc::UnboundedSender<Order>,
    thread: Option<JoinHandle<()>>,
}

/// The listeners of one pod.
pub(crate) struct PodListeners {
    pub(crate) netns: NetnsCookie,
    pub(crate) listeners: Vec<TcpListener>,
    /// Ends the accepting for this pod.
    pub(crate) stop: CancellationToken,
}

enum Order {
    Listen(PodListeners),
    Silence,
    Stop,
}

impl Acceptor {
    /// Starts the thread.
    pub fn start(
        origins: Origins,
        heartbeat: Heartbeat,
        workers: Arc<Workers>,
        limits: Arc<Limits>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the accepting thread's runtime")?;
        let (orders, inbox) = mpsc::unbounded_channel();
        let desk = Arc::new(Desk {
            origins,
            workers,
            limits,
            metrics,
            open: Arc::default(),
        });
        let thread = std::thread::Builder::new()
            .name("accept".to_owned())
            .spawn(move || runtime.block_on(desk.run(inbox, heartbeat)))
            .context("cannot start the accepting thread")?;
        Ok(Self {
            orders,
            thread: Some(thread),
        })
    }

    /// Accepts on a pod's listeners too.
    pub(crate) fn listen(&self, pod: PodListeners) {
        let _ = self.orders.send(Order::Listen(pod));
    }

    /// Goes on accepting, but shows the kernel side no more that the agent lives: another does.
    pub(crate) fn silence(&self) {
        let _ = self.orders.send(Order::Silence);
    }

    /// Ends accepting. Connections that were accepted go on.
    pub fn stop(mut self) {
        let _ = self.orders.send(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What accepting needs.
struct Desk {
    origins: Origins,
    workers: Arc<Workers>,
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
    open: Arc<AtomicUsize>,
}

impl Desk {
    async fn run(self: Arc<Self>, mut inbox: mpsc::UnboundedReceiver<Order>, mut heartbeat: Heartbeat) {
        let mut beat = tokio::time::interval(BEAT);
        let mut is_shown = true;
        loop {
            tokio::select! {
                order = inbox.recv() => match order {
                    Some(Order::Listen(pod)) => {
                        let count = Arc::<AtomicUsize>::default();
                        for listener in pod.listeners {
                            let (desk, count, stop) = (Arc::clone(&self), Arc::clone(&count), pod.stop.clone());
                            tokio::spawn(async move {
                                if let Err(error) = desk.accept(listener, pod.netns, count, stop).await {
                                    tracing::error!(%error, "a pod's listener can't be used; its connections are refused");
                                }
                            });
                        }
                    }
                    Some(Order::Silence) => is_shown = false,
                    Some(Order::Stop) | None => return,
                },
                _ = beat.tick(), if is_shown => {
                    // No beat while a worker hangs: the kernel side then answers by each target's failure mode.
                    if self.workers.silence() < HUNG {
                        heartbeat.beat();
                    }
                }
            }
        }
    }

    async fn accept(
        &self,
        listener: TcpListener,
        netns: NetnsCookie,
        pod: Arc<AtomicUsize>,
        stop: CancellationToken,
    ) -> std::io::Result<()> {
        listener.set_nonblocking(true)?;
        let local = listener.local_addr()?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((client, peer)) => self.take(client, peer, local, netns, &pod),
                Err(error) => {
                    self.metrics.accept_errors.inc();
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn take(
        &self,
        client: tokio::net::TcpStream,
        peer: SocketAddr,
        local: SocketAddr,
        netns: NetnsCookie,
        pod: &Arc<AtomicUsize>,
    ) {
        let tuple = FourTuple {
            netns,
            client: peer,
            listener: local,
        };
        let Some(origin) = self.origins.origin(&tuple) else {
            // Uncertainty denies: a connection that the kernel side didn't divert is closed.
            self.metrics.refused("no_origin");
            return;
        };
        let slot = match Slot::take(&self.open, pod, &self.limits) {
            Ok(slot) => slot,
            Err(limit) => {
                self.metrics.refused("too_many_connections");
                self.metrics.limit(limit);
                tracing::warn!(limit, destination = %origin.original, "closed a connection: there are too many");
                return;
            }
        };
        let Ok(client) = client.into_std() else { return };
        self.workers.give(Accepted { client, origin, slot });
    }
}
