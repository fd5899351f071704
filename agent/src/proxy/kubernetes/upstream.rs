//! The API server's side. What a request asks leaves only with its [`Permit`].

mod reads;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bailiff_model::{ApiRequest, OriginalDst};
use bailiff_policy::{Denial, Permit};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::{http1, http2};
use hyper::header::{CONNECTION, TRANSFER_ENCODING};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Mutex, oneshot};

use self::reads::{Reads, again, as_http1, is_read};
use super::body::Whole;
use super::certified::Refused;
use super::connection::{Carried, Connection, OnWorker, Version};
use super::evidence::Account;
use crate::proxy::dial::{Way, dial};
use crate::proxy::end::End;
use crate::proxy::reactor::Reactor;
use crate::proxy::tls::{HTTP1, HTTP2, Snapshot};

/// A server that says nothing for so long is asked whether it is there.
const ASKED_AFTER: Duration = Duration::from_secs(30);

/// How long it has to answer that.
const ANSWERS_WITHIN: Duration = Duration::from_secs(15);

/// Bytes of one answer that the API server may send ahead over HTTP/2. It isn't counted as memory, so that it is little.
const AHEAD: u32 = 256 * 1024;

/// The same of all answers of a connection.
const ALL_AHEAD: u32 = 1024 * 1024;

/// Why a request has no answer of the API server.
#[derive(Debug)]
pub(super) enum Failure {
    /// Policy lets nobody dial it.
    Denied(Denial),
    /// The client's certificate isn't one by which the agent speaks for it.
    Certificate(Refused),
    /// It can't be reached; it didn't get the request.
    Unreachable(End),
    /// It went away meanwhile.
    Lost(hyper::Error),
}

/// A request's body.
pub(super) enum Sent {
    /// As it comes from the client.
    Passed(Incoming),
    /// What was looked at before. The memory counts until it is sent.
    Whole(Full<Bytes>, Option<Whole>),
}

impl Sent {
    pub(super) fn nothing() -> Self {
        Self::Whole(Full::default(), None)
    }
}

impl From<Whole> for Sent {
    fn from(whole: Whole) -> Self {
        Self::Whole(Full::new(whole.bytes.clone()), Some(whole))
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Passed(body) => Pin::new(body).poll_frame(cx),
            Self::Whole(body, _) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(|never| match never {}))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Passed(body) => body.is_end_stream(),
            Self::Whole(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Passed(body) => body.size_hint(),
            Self::Whole(body, _) => body.size_hint(),
        }
    }
}

/// A body on its way to the API server, counted as it leaves where it's a client's.
pub(super) struct Leaving {
    body: Sent,
    account: Option<Account>,
}

impl Leaving {
    pub(super) fn of(body: Sent, account: Account) -> Self {
        let account = Some(account);
        Self { body, account }
    }
}

impl From<Sent> for Leaving {
    fn from(body: Sent) -> Self {
        Self { body, account: None }
    }
}

impl Body for Leaving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let (Some(Ok(frame)), Some(account)) = (&frame, &self.account) {
            account.asked(frame.data_ref().map_or(&[], |data| data));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer that has begun, and, over HTTP/1.1, the connection where it stops to speak HTTP.
pub(super) struct Begun {
    pub(super) response: Response<Incoming>,
    pub(super) parted: Option<oneshot::Receiver<Carried>>,
}

/// The connections that a client's connection has to the API server, one or two: dialed when they are needed first, and again when they
/// were closed.
pub(super) struct Upstream {
    version: Version,
    files: Arc<Snapshot>,
    original: OriginalDst,
    link: Mutex<Option<Link>>,
    /// Beside an HTTP/2 link.
    reads: Reads,
}

/// What became of a read that was to go by a connection of its own.
enum Read {
    Begun(Begun),
    /// It goes by HTTP/2.
    Not(Request<Leaving>),
}

enum Link {
    Http1(http1::SendRequest<Leaving>, Option<oneshot::Receiver<Carried>>),
    Http2(http2::SendRequest<Leaving>),
}

impl Link {
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender, _) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }
}

impl Upstream {
    pub(super) fn new(version: Version, files: Arc<Snapshot>, original: OriginalDst) -> Self {
        Self {
            version,
            files,
            original,
            link: Mutex::default(),
            reads: Reads::default(),
        }
    }

    /// Passes on a request that was allowed. One that found its connection closed before a byte of it left goes by another.
    ///
    /// Cancelling it ends the request, and over HTTP/1.1 its connection.
    pub(super) async fn forward(
        &self,
        permit: Permit,
        connection: &Connection,
        asked: &ApiRequest,
        mut request: Request<Leaving>,
    ) -> Result<Begun, Failure> {
        drop(permit);
        connection
            .caller
            .sign(request.headers_mut())
            .map_err(Failure::Certificate)?;
        if self.version == Version::Http2 && is_read(asked, &request) {
            match self.read(connection, request).await? {
                Read::Begun(response) => return Ok(response),
                Read::Not(back) => request = back,
            }
        }
        let mut tried = false;
        loop {
            let mut held = self.link.lock().await;
            if held.as_ref().is_none_or(Link::is_closed) {
                *held = Some(Box::pin(self.dial(connection, self.version)).await?);
            }
            let outcome = match held.as_mut() {
                Some(Link::Http2(sender)) => {
                    let mut sender = sender.clone();
                    drop(held);
                    sender
                        .try_send_request(request)
                        .await
                        .map(|response| (response, None))
                }
                // The client waits for its answer before it sends the next, so that holding the lock keeps nobody waiting.
                Some(Link::Http1(sender, parted)) => {
                    if sender.ready().await.is_err() {
                        *held = None;
                        if tried {
                            return Err(Failure::Unreachable(End::TargetClosed));
                        }
                        tried = true;
                        continue;
                    }
                    sender
                        .try_send_request(request)
                        .await
                        .map(|response| (response, parted.take()))
                }
                None => return Err(Failure::Unreachable(End::TargetClosed)),
            };
            match outcome {
                Ok((response, parted)) => return Ok(Begun { response, parted }),
                Err(mut failed) => match failed.take_message() {
                    Some(message) if !tried => {
                        tried = true;
                        request = message;
                    }
                    Some(_) => return Err(Failure::Unreachable(End::TargetClosed)),
                    None => return Err(Failure::Lost(failed.into_error())),
                },
            }
        }
    }

    /// Asks by the connection for reads, where it is free.
    async fn read(&self, connection: &Connection, mut request: Request<Leaving>) -> Result<Read, Failure> {
        let Some(mut turn) = self.reads.turn() else {
            return Ok(Read::Not(request));
        };
        let open = turn.sender.take();
        // One that was open already may be closed by the server as the request leaves. A read can be said twice.
        let spare = open.is_some().then(|| again(&request));
        let mut sender = match open {
            Some(sender) => sender,
            None => match Box::pin(self.dial(connection, Version::Http1)).await {
                Ok(Link::Http1(sender, _)) => sender,
                Err(Failure::Unreachable(End::Handshake { .. })) | Ok(Link::Http2(_)) => {
                    self.reads.never();
                    return Ok(Read::Not(request));
                }
                Err(failure) => return Err(failure),
            },
        };
        if as_http1(&mut request).is_none() {
            turn.sender = Some(sender);
            return Ok(Read::Not(request));
        }
        match sender.try_send_request(request).await {
            Ok(mut response) => {
                turn.sender = Some(sender);
                for name in [CONNECTION, TRANSFER_ENCODING] {
                    response.headers_mut().remove(name);
                }
                let parted = None;
                Ok(Read::Begun(Begun { response, parted }))
            }
            Err(failed) => match spare {
                Some(request) => Ok(Read::Not(request)),
                None => Err(Failure::Lost(failed.into_error())),
            },
        }
    }

    async fn dial(&self, connection: &Connection, version: Version) -> Result<Link, Failure> {
        let limits = &connection.shared.options.limits;
        let (permit, way) = {
            let mut decider = connection.decider.borrow_mut();
            let permit = decider.connect().map_err(Failure::Denied)?;
            let (target, policy) = decider.in_force();
            let way = Way::new(target, policy, &self.files, None, self.original)
                .map_err(Failure::Unreachable)?
                .speaking(match version {
                    Version::Http1 => HTTP1,
                    Version::Http2 => HTTP2,
                });
            (permit, way)
        };
        let wire = dial(permit, &connection.pod, &way, limits)
            .await
            .map_err(Failure::Unreachable)?;
        if version == Version::Http2 && wire.spoken() != Some(HTTP2) {
            return Err(Failure::Unreachable(End::Http("target_without_http2")));
        }
        let lost = |_| Failure::Unreachable(End::TargetClosed);
        let reactor = Reactor::current().ok_or(Failure::Unreachable(End::TargetClosed))?;
        match version {
            Version::Http1 => {
                let (sender, http) = http1::Builder::new()
                    .preserve_header_case(self.version == Version::Http1)
                    .handshake(TokioIo::new(wire))
                    .await
                    .map_err(lost)?;
                let (part, parted) = oneshot::channel();
                reactor.spawn(async move {
                    if let Ok(parts) = http.without_shutdown().await {
                        // Nobody waits for it unless the connection stops to speak HTTP.
                        let _ = part.send((parts.io.into_inner(), parts.read_buf));
                    }
                });
                Ok(Link::Http1(sender, Some(parted)))
            }
            Version::Http2 => {
                let (sender, http) = http2::Builder::new(OnWorker(reactor.clone()))
                    .timer(TokioTimer::new())
                    .keep_alive_interval(ASKED_AFTER)
                    .keep_alive_timeout(ANSWERS_WITHIN)
                    .initial_stream_window_size(AHEAD)
                    .initial_connection_window_size(ALL_AHEAD)
                    .handshake(TokioIo::new(wire))
                    .await
                    .map_err(lost)?;
                reactor.spawn(async move {
                    // What ends it is told to the requests that it carries.
                    let _ = http.await;
                });
                Ok(Link::Http2(sender))
            }
        }
    }
}
