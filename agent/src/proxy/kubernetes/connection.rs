//! One client's connection: TLS, then requests until either side has enough.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::TcpStream;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bailiff_model::{ApiRequest, RecordingLevel, SessionId, WhenFull};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::timeout;

use super::answer::Answer;
use super::caller::Callers;
use super::certified::Certified;
use super::exchange;
use super::switched::{self, Far};
use super::upstream::Upstream;
use crate::attribution::PodEntry;
use crate::decide::RequestDecider;
use crate::proxy::end::{End, Side};
use crate::proxy::live::{Live, Now, RunningNow};
use crate::proxy::reactor::Reactor;
use crate::proxy::session::Admitted;
use crate::proxy::socket::Socket;
use crate::proxy::tls::{HTTP2, Hello, Wire, asking};
use crate::proxy::worker::{Drain, WorkerShared};
use crate::record::SessionStart;

/// How many bytes the headers of one request may have: as much as the API server takes.
const MAX_HEADERS: u32 = 1 << 20;

/// How long a client may take for a request's headers.
const HEADERS_WITHIN: Duration = Duration::from_secs(32);

/// How long a request waits where the record's queue is full.
const RECORDS_WITHIN: Duration = Duration::from_secs(5);

/// How many requests may be under way on one HTTP/2 connection: as many as the API server lets there be.
const MAX_STREAMS: u32 = 250;

/// How long a connection that is over may take to its end.
const LINGERS: Duration = Duration::from_secs(1);

/// The version of HTTP that both legs speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// One request after another.
    Http1,
    /// Many at once.
    Http2,
}

/// What the requests of one connection share.
pub(super) struct Connection {
    pub(super) shared: Rc<WorkerShared>,
    pub(super) pod: Arc<PodEntry>,
    pub(super) version: Version,
    pub(super) session: Arc<SessionStart>,
    pub(super) caller: Callers,
    pub(super) decider: RefCell<RequestDecider>,
    pub(super) upstream: Upstream,
    /// The API server's end of a connection that stops to speak HTTP.
    pub(super) far: RefCell<Option<Far>>,
    /// Requests that aren't over, by their number.
    pub(super) under_way: RefCell<Vec<UnderWay>>,
    pub(super) operations: Cell<u64>,
    pub(super) denied: Cell<u64>,
    /// Whether the log has it that a stolen token was shown.
    pub(super) told_stolen: Cell<bool>,
    /// Bytes that its answers hold.
    pub(super) answers: Rc<Cell<usize>>,
    pub(super) live: Rc<Live>,
    pub(super) when_full: WhenFull,
}

/// A request that isn't over.
pub(super) struct UnderWay {
    pub(super) number: u64,
    pub(super) request: Arc<ApiRequest>,
    pub(super) began: Instant,
}

/// Carries one connection to its end.
pub(crate) async fn serve(admitted: Admitted, client: TcpStream) -> End {
    let limits = Arc::clone(&admitted.shared.options.limits);
    let drain = admitted.shared.drain.clone();
    let wire = tokio::select! {
        opened = timeout(limits.handshake, open(&admitted, client)) => match opened {
            Ok(Ok(wire)) => wire,
            Ok(Err(end)) => return end,
            Err(_) => return End::Limit("handshake_time"),
        },
        () = drain.clone().all_end() => return End::Drained,
    };
    let Some(reactor) = Reactor::current() else {
        return End::Refused("the agent has no worker here");
    };
    let version = match wire.spoken() {
        Some(spoken) if spoken == HTTP2 => Version::Http2,
        _ => Version::Http1,
    };
    let certified = Certified::new(
        wire.peer_chain(),
        admitted.target.name.clone(),
        Arc::clone(&admitted.shared.options.materials),
    );
    let connection = Rc::new(Connection::new(admitted, version, certified));
    match version {
        Version::Http1 => connection.one_by_one(wire, drain).await,
        Version::Http2 => connection.many_at_once(wire, drain, OnWorker(reactor)).await,
    }
}

/// TLS towards the client, by a certificate that it trusts.
async fn open(admitted: &Admitted, client: TcpStream) -> Result<Wire, End> {
    let failed = |error| End::Handshake {
        side: Side::Client,
        error,
    };
    let socket = client
        .set_nodelay(true)
        .and_then(|()| client.set_nonblocking(true))
        .and_then(|()| Socket::new(client))
        .map_err(|error| End::Socket {
            side: Side::Client,
            error,
        })?;
    let hello = Hello::read(socket, &[]).await.map_err(failed)?;
    // Uncertainty denies: without a certificate in force nothing is shown.
    let presented = admitted
        .files
        .presented(&admitted.target.name)
        .ok_or(End::Refused("no certificate for this API server is in force yet"))?;
    let config = presented
        .config(admitted.original.get().ip(), hello.name().as_deref())
        .map_err(End::Refused)?;
    let clients = admitted.files.clients(&admitted.target.name);
    let config = asking(&config, clients.map(|clients| &clients.authority)).map_err(End::Refused)?;
    hello.finish(config).await.map_err(failed)
}

impl Connection {
    fn new(admitted: Admitted, version: Version, certified: Option<Certified>) -> Self {
        let Admitted {
            shared,
            files,
            pod,
            chain,
            target,
            policy,
            original,
        } = admitted;
        let session = Arc::new(SessionStart {
            session: SessionId::new(crate::random_hex()),
            at: SystemTime::now(),
            chain: Arc::clone(&chain),
            target: target.name.clone(),
            destination: original,
            user: String::new(),
            database: String::new(),
            application: String::new(),
            connected_as: None,
        });
        let live = Live::new(&shared.live, &session);
        Self {
            when_full: target.when_full,
            caller: Callers::new(
                files.tokens(&target.name).map(Arc::clone),
                Arc::clone(&shared.options.reviews),
                pod.info.uid.clone(),
                certified,
            ),
            upstream: Upstream::new(version, files, original),
            decider: RefCell::new(RequestDecider::new(
                Arc::clone(&shared.options.in_force),
                target,
                chain,
                policy,
            )),
            far: RefCell::default(),
            under_way: RefCell::default(),
            operations: Cell::new(0),
            denied: Cell::new(0),
            told_stolen: Cell::new(false),
            answers: Rc::default(),
            shared,
            pod,
            version,
            session,
            live,
        }
    }

    async fn one_by_one(self: Rc<Self>, wire: Wire, drain: Drain) -> End {
        let mut http = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_WITHIN)
            .max_buf_size(MAX_HEADERS as usize)
            .preserve_header_case(true)
            .auto_date_header(false)
            // A client that sends no more may still wait for its answer.
            .half_close(true)
            .serve_connection(TokioIo::new(wire), Requests(Rc::clone(&self)));
        let mut watch = Watch::new(&self, drain);
        let outcome = poll_fn(|cx| {
            if let Some(end) = watch.poll(cx, || Pin::new(&mut http).graceful_shutdown()) {
                return std::task::Poll::Ready(Err(end));
            }
            http.poll_without_shutdown(cx).map(Ok)
        })
        .await;
        match outcome {
            Err(end) => end,
            Ok(Err(error)) => ended(&error),
            Ok(Ok(())) => {
                let parts = http.into_parts();
                let far = self.far.borrow_mut().take();
                match far {
                    Some(far) => {
                        let near = (parts.io.into_inner(), parts.read_buf);
                        switched::carry(&self, near, far, watch.into_drain()).await
                    }
                    None => close(parts.io.into_inner()).await,
                }
            }
        }
    }

    async fn many_at_once(self: Rc<Self>, wire: Wire, drain: Drain, executor: OnWorker) -> End {
        let http = http2::Builder::new(executor)
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADERS)
            .auto_date_header(false)
            .serve_connection(TokioIo::new(wire), Requests(Rc::clone(&self)));
        let mut http = pin!(http);
        let mut watch = Watch::new(&self, drain);
        let outcome = poll_fn(|cx| {
            if let Some(end) = watch.poll(cx, || http.as_mut().graceful_shutdown()) {
                return std::task::Poll::Ready(Err(end));
            }
            http.as_mut().poll(cx).map(Ok)
        })
        .await;
        match outcome {
            Err(end) => end,
            Ok(Err(error)) => ended(&error),
            Ok(Ok(())) => End::ClientClosed,
        }
    }

    /// The request that is under way for longest, and how many others are.
    fn running(&self) -> Option<RunningNow> {
        let under_way = self.under_way.borrow();
        let first = under_way.iter().min_by_key(|request| request.number)?;
        let mut text = first.request.to_string();
        if let Some(identity) = &first.request.identity {
            text = format!("{text} by {}", identity.user);
        }
        if under_way.len() > 1 {
            text = format!("{text}, and {} more", under_way.len() - 1);
        }
        Some(RunningNow {
            text: text.into_bytes().into(),
            level: RecordingLevel::Statement,
            age: first.began.elapsed(),
        })
    }

    /// Waits for room in the record, for a while. False where there is none: then what can't be recorded isn't done.
    pub(super) async fn room_for_another(&self) -> bool {
        if self.shared.recorder.borrow().has_room() {
            return true;
        }
        let room = self.shared.room_for_another(self.when_full);
        Box::pin(timeout(RECORDS_WITHIN, room)).await.is_ok()
    }

    /// Keeps the API server's end of a connection that stops to speak HTTP.
    pub(super) fn switches(&self, far: Far) {
        *self.far.borrow_mut() = Some(far);
    }
}

/// What else a connection has to look at than its requests: the agent's own end, and whoever asks for it by its id.
pub(super) struct Watch<'a> {
    connection: &'a Connection,
    drain: Drain,
    all_end: Pin<Box<dyn Future<Output = ()>>>,
    told: bool,
}

impl<'a> Watch<'a> {
    pub(super) fn new(connection: &'a Connection, drain: Drain) -> Self {
        Self {
            connection,
            all_end: Box::pin(drain.clone().all_end()),
            drain,
            told: false,
        }
    }

    /// Why the connection ends at once, if it does. `finish` has it end when what is under way is over.
    pub(super) fn poll(&mut self, cx: &mut std::task::Context<'_>, finish: impl FnOnce()) -> Option<End> {
        let connection = self.connection;
        connection.live.serves(cx);
        if connection.live.is_called() {
            let now = || Now {
                operations: connection.operations.get(),
                denied: connection.denied.get(),
                in_transaction: false,
                running: connection.running(),
            };
            if let Some(killing) = connection.live.answer(now) {
                return Some(End::killed(killing));
            }
        }
        if self.all_end.as_mut().poll(cx).is_ready() {
            return Some(End::Drained);
        }
        if !self.told && self.drain.has_begun() {
            self.told = true;
            finish();
        }
        None
    }

    fn into_drain(self) -> Drain {
        self.drain
    }
}

/// Says goodbye in TLS, and hears out a client that still sends what nobody wants: closed before, the kernel would reset the connection, and the
/// client lose the answer that it hasn't read.
async fn close(mut wire: Wire) -> End {
    let farewell = async {
        tokio::io::AsyncWriteExt::shutdown(&mut wire).await?;
        tokio::io::copy(&mut wire, &mut tokio::io::sink()).await
    };
    let _ = timeout(LINGERS, farewell).await;
    End::ClientClosed
}

/// Why the client's side of HTTP ended.
fn ended(error: &hyper::Error) -> End {
    if error.is_parse_too_large() {
        End::Limit("http_headers")
    } else if error.is_parse() {
        End::Http("malformed_request")
    } else if error.is_timeout() {
        End::Limit("http_headers_time")
    } else {
        End::ClientClosed
    }
}

/// The requests of one connection.
struct Requests(Rc<Connection>);

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Answer>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let connection = Rc::clone(&self.0);
        Box::pin(async move { Ok(exchange::answer(&connection, request).await) })
    }
}

/// Runs what HTTP/2 does beside its connection on the worker that has it.
#[derive(Clone)]
pub(super) struct OnWorker(pub(super) Rc<Reactor>);

impl<F: Future<Output = ()> + 'static> Executor<F> for OnWorker {
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

/// A connection that was read too far: what came behind its last message.
pub(super) type Carried = (Wire, Bytes);
