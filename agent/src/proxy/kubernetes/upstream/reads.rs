//! A connection beside that of a client's HTTP/2, for reads that end by themselves. It speaks HTTP/1.1 and carries one at a time.
//!
//! Most of what pods ask is a small read while nothing else is under way, and for that HTTP/1.1 takes less of the agent and less of
//! the API server: no token to compress and expand again each time, no windows, no frames. What stays open, what writes, and what
//! comes while another read has the connection goes by HTTP/2, so that a client has two connections at most.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use bailiff_model::{ApiRequest, ApiSubject, ApiVerb};
use hyper::body::Body as _;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{HOST, HeaderValue};
use hyper::{Method, Request, Uri, Version};

use super::{Leaving, Sent};

/// Unused for so long, it is closed: well before the API server would, after 90 s, in the middle of the next request.
const IDLE: Duration = Duration::from_secs(30);

/// The connection, and whose turn it is.
#[derive(Default)]
pub(super) struct Reads(RefCell<State>);

#[derive(Default)]
enum State {
    #[default]
    Closed,
    /// It is one request's now.
    Taken,
    /// It waits since then, or still brings an answer that began then.
    Open(SendRequest<Leaving>, Instant),
    /// The server doesn't speak it.
    Never,
}

/// One request's turn. Dropped without a connection, the next dials another.
pub(super) struct Turn<'a> {
    reads: &'a Reads,
    /// What the turn leaves behind.
    pub(super) sender: Option<SendRequest<Leaving>>,
}

impl Reads {
    /// The turn, unless another request has it.
    pub(super) fn turn(&self) -> Option<Turn<'_>> {
        let state = &mut *self.0.borrow_mut();
        let sender = match std::mem::replace(state, State::Taken) {
            State::Closed => None,
            State::Open(sender, _) if sender.is_closed() => None,
            State::Open(sender, since) if sender.is_ready() => (since.elapsed() < IDLE).then_some(sender),
            other => {
                *state = other;
                return None;
            }
        };
        Some(Turn { reads: self, sender })
    }

    /// Has all go by HTTP/2 from now on.
    pub(super) fn never(&self) {
        *self.0.borrow_mut() = State::Never;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let state = &mut *self.reads.0.borrow_mut();
        if matches!(state, State::Taken) {
            *state = match self.sender.take() {
                Some(sender) => State::Open(sender, Instant::now()),
                None => State::Closed,
            };
        }
    }
}

/// Whether a request reads, and its answer ends by itself.
pub(super) fn is_read(asked: &ApiRequest, request: &Request<Leaving>) -> bool {
    let ends = match &asked.subject {
        ApiSubject::Path(_) => true,
        ApiSubject::Resource(resource) => !matches!(
            resource.subresource.as_deref(),
            Some("log" | "proxy" | "exec" | "attach" | "portforward")
        ),
        ApiSubject::Unknown => false,
    };
    ends && matches!(asked.verb, ApiVerb::Get | ApiVerb::List)
        && request.method() == Method::GET
        && request.body().is_end_stream()
}

/// The same read once more.
pub(super) fn again(request: &Request<Leaving>) -> Request<Leaving> {
    let mut again = Request::new(Leaving::from(Sent::nothing()));
    again.method_mut().clone_from(request.method());
    again.uri_mut().clone_from(request.uri());
    again.headers_mut().clone_from(request.headers());
    *again.version_mut() = request.version();
    again
}

/// Says a request of HTTP/2 as HTTP/1.1 does: the server is named by a header. Untouched where that can't be.
pub(super) fn as_http1(request: &mut Request<Leaving>) -> Option<()> {
    let authority = request.uri().authority()?.as_str();
    // Nobody's name belongs there, and readers differ in what they make of one.
    let host = HeaderValue::from_str(authority)
        .ok()
        .filter(|_| !authority.contains('@'))?;
    let target = Uri::from(request.uri().path_and_query()?.clone());
    request.headers_mut().insert(HOST, host);
    *request.uri_mut() = target;
    *request.version_mut() = Version::HTTP_11;
    Some(())
}
