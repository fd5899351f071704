//! The API server's side. What a request asks leaves only with its [`Permit`].

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bailiff_model::OriginalDst;
use bailiff_policy::{Denial, Permit};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Mutex, oneshot};

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

/// The connection that a client's connection has to the API server: dialed when it is needed first, and again when it was closed.
pub(super) struct Upstream {
    version: Version,
    files: Arc<Snapshot>,
    original: OriginalDst,
    link: Mutex<Option<Link>>,
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
        }
    }

    /// Passes on a request that was allowed. One that found its connection closed before a byte of it left goes by another.
    ///
    /// Cancelling it ends the request, and over HTTP/1.1 its connection.
    pub(super) async fn forward(
        &self,
        permit: Permit,
        connection: &Connection,
        mut request: Request<Leaving>,
    ) -> Result<Begun, Failure> {
        drop(permit);
        connection
            .caller
            .sign(request.headers_mut())
            .map_err(Failure::Certificate)?;
        let mut tried = false;
        loop {
            let mut held = self.link.lock().await;
            if held.as_ref().is_none_or(Link::is_closed) {
                *held = Some(self.dial(connection).await?);
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

    async fn dial(&self, connection: &Connection) -> Result<Link, Failure> {
        let limits = &connection.shared.options.limits;
        let (permit, way) = {
            let mut decider = connection.decider.borrow_mut();
            let permit = decider.connect().map_err(Failure::Denied)?;
            let (target, policy) = decider.in_force();
            let way = Way::new(target, policy, &self.files, None, self.original)
                .map_err(Failure::Unreachable)?
                .speaking(match self.version {
                    Version::Http1 => HTTP1,
                    Version::Http2 => HTTP2,
                });
            (permit, way)
        };
        let wire = dial(permit, &connection.pod, &way, limits)
            .await
            .map_err(Failure::Unreachable)?;
        if self.version == Version::Http2 && wire.spoken() != Some(HTTP2) {
            return Err(Failure::Unreachable(End::Http("target_without_http2")));
        }
        let lost = |_| Failure::Unreachable(End::TargetClosed);
        let reactor = Reactor::current().ok_or(Failure::Unreachable(End::TargetClosed))?;
        match self.version {
            Version::Http1 => {
                let (sender, http) = http1::Builder::new()
                    .preserve_header_case(true)
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
