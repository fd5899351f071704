//! What one request leaves in the record and in the metrics.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bailiff_model::{ApiRequest, ApiSubject, ApiVerb, Effect, Identity, TokenState, WhenFull};
use bailiff_policy::{Doubt, Ruling, Typed};
use hyper::Request;
use hyper::body::Body as _;
use hyper::header::{HeaderMap, USER_AGENT};

use super::caller::Caller;
use super::connection::{Connection, UnderWay};
use super::masking::type_of;
use super::noted::Noted;
use super::upstream::{Leaving, Sent};
use crate::record::{Bodies, Event, RequestEnd, RequestOutcome};

/// A user agent is kept up to so many bytes: the API server's own cap.
const MAX_USER_AGENT: usize = 1024;

/// One request's account. It goes into the record when the last that has it is done with it, however it ended.
#[derive(Clone)]
pub(super) struct Account(Rc<Open>);

struct Open {
    connection: Rc<Connection>,
    request: Arc<ApiRequest>,
    doubt: Option<Doubt>,
    identity: Option<Arc<Identity>>,
    ruling: Arc<Ruling>,
    uri: Box<str>,
    user_agent: Box<str>,
    received: SystemTime,
    began: Instant,
    decided: std::time::Duration,
    number: u64,
    asked: Cell<u64>,
    /// The bodies, where policy has them recorded.
    request_body: RefCell<Option<Noted>>,
    response_body: RefCell<Option<Noted>>,
    server_id: RefCell<Option<Box<str>>>,
    status: Cell<u16>,
    answered: Cell<u64>,
    carried: Cell<u64>,
    masked: Cell<u64>,
    outcome: Cell<RequestOutcome>,
    refused: Cell<Option<&'static str>>,
    unrecorded: Cell<bool>,
}

impl Account {
    /// Begins with a request that was just decided.
    pub(super) fn open(
        connection: &Rc<Connection>,
        request: &Request<Sent>,
        uri: &str,
        typed: Typed,
        caller: Caller,
        ruling: &Arc<Ruling>,
        began: Instant,
    ) -> Self {
        let metrics = &connection.shared.options.metrics;
        let verdict = ruling.effect();
        if let Some(counter) = metrics.request(typed.request.verb, verdict) {
            counter.inc();
        }
        metrics.token(caller.state);
        // Once a connection: whoever holds one could fill the log with it. The record has each.
        if caller.state == TokenState::Stolen && !connection.told_stolen.replace(true) {
            let bound = caller
                .identity
                .as_ref()
                .and_then(|identity| identity.bound_to.as_ref());
            tracing::warn!(
                session = connection.session.session.as_str(),
                made_for = bound
                    .map(|pod| format!("{}/{}", pod.namespace, pod.name))
                    .unwrap_or_default(),
                verdict = verdict.as_str(),
                "a pod showed a token that was made for another pod"
            );
        }
        let number = connection.operations.get() + 1;
        connection.operations.set(number);
        if verdict != Effect::Allow {
            connection.denied.set(connection.denied.get() + 1);
        }
        let user_agent = request
            .headers()
            .get(USER_AGENT)
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .unwrap_or_default();
        let user_agent: String = user_agent.chars().take(MAX_USER_AGENT).collect();
        let asked_for = Arc::new(typed.request);
        connection.under_way.borrow_mut().push(UnderWay {
            number,
            request: Arc::clone(&asked_for),
            began,
        });
        Self(Rc::new(Open {
            request: asked_for,
            doubt: typed.doubt,
            identity: caller.identity,
            ruling: Arc::clone(ruling),
            uri: uri.into(),
            user_agent: user_agent.into(),
            received: connection.shared.clock.get().at(began),
            began,
            decided: began.elapsed(),
            number,
            asked: Cell::new(request.body().size_hint().exact().unwrap_or(0)),
            request_body: RefCell::default(),
            response_body: RefCell::default(),
            connection: Rc::clone(connection),
            server_id: RefCell::default(),
            status: Cell::new(0),
            answered: Cell::new(0),
            carried: Cell::new(0),
            masked: Cell::new(0),
            outcome: Cell::new(RequestOutcome::Unanswered),
            refused: Cell::new(None),
            unrecorded: Cell::new(false),
        }))
    }

    /// What is asked.
    pub(super) fn request(&self) -> &ApiRequest {
        &self.0.request
    }

    /// Why that can't be told, where it can't.
    pub(super) fn doubt(&self) -> Option<Doubt> {
        self.0.doubt
    }

    /// Says that the agent refuses the request whatever policy says, by a word for why.
    pub(super) fn refused(&self, why: &'static str) {
        self.0.refused.set(Some(why));
    }

    /// Says that there's no room for it in the record. It is counted alone.
    pub(super) fn goes_unrecorded(&self) {
        self.0.unrecorded.set(true);
    }

    /// Says that the request is passed on, and has its body counted, and kept where policy says so.
    pub(super) fn passes(&self, request: Request<Sent>) -> Request<Leaving> {
        let shared = &self.0.connection.shared;
        shared
            .options
            .metrics
            .added_latency
            .observe(self.0.began.elapsed().as_secs_f64());
        if request.body().is_end_stream() {
            return request.map(Leaving::from);
        }
        self.0.asked.set(0);
        let recording = self.0.ruling.recording();
        if recording.keeps_values() && self.is_about_objects() {
            *self.0.request_body.borrow_mut() = Noted::new(shared, request.headers(), recording.max_bytes());
        }
        request.map(|body| Leaving::of(body, self.clone()))
    }

    /// Has the answer's body kept, where policy says so. To be told of it as the client gets it.
    pub(super) fn answers(&self, headers: &HeaderMap) {
        let recording = self.0.ruling.recording();
        if recording.keeps_rows() && self.is_about_objects() && self.0.request.verb != ApiVerb::Watch {
            *self.0.response_body.borrow_mut() =
                Noted::new(&self.0.connection.shared, headers, recording.max_bytes());
        }
    }

    /// Whether the bodies are objects: not logs, and not what lies behind a proxy.
    fn is_about_objects(&self) -> bool {
        match &self.0.request.subject {
            ApiSubject::Resource(resource) => !matches!(
                resource.subresource.as_deref(),
                Some("proxy" | "log" | "exec" | "attach" | "portforward")
            ),
            ApiSubject::Path(_) | ApiSubject::Unknown => false,
        }
    }

    /// Counts bytes of the request's body.
    pub(super) fn asked(&self, data: &[u8]) {
        self.0.asked.set(self.0.asked.get() + data.len() as u64);
        if let Some(noted) = &mut *self.0.request_body.borrow_mut() {
            noted.add(data);
        }
    }

    /// Says that an answer began.
    pub(super) fn began(&self, status: u16) {
        self.0.status.set(status);
        self.0.outcome.set(RequestOutcome::Cut);
    }

    /// Notes by which id the API server's own audit log has the request.
    pub(super) fn told(&self, headers: &HeaderMap) {
        let id = headers.get("audit-id").and_then(|id| id.to_str().ok());
        // Both peers are hostile: what isn't an id isn't kept.
        *self.0.server_id.borrow_mut() = id
            .filter(|id| {
                id.len() <= 64
                    && id
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            })
            .map(Into::into);
    }

    /// Counts bytes of the answer's body.
    pub(super) fn answered(&self, data: &[u8]) {
        let metrics = &self.0.connection.shared.options.metrics;
        metrics.bytes_to_clients.inc_by(data.len() as u64);
        self.0.answered.set(self.0.answered.get() + data.len() as u64);
        if let Some(noted) = &mut *self.0.response_body.borrow_mut() {
            noted.add(data);
        }
    }

    /// Counts values that were masked.
    pub(super) fn masked(&self, values: u64) {
        let metrics = &self.0.connection.shared.options.metrics;
        metrics.masked_values.inc_by(values);
        self.0.masked.set(self.0.masked.get() + values);
    }

    /// Says that the answer is whole.
    pub(super) fn whole(&self) {
        self.0.outcome.set(RequestOutcome::Whole);
    }

    /// Says that the answer broke off.
    pub(super) fn broke(&self) {
        self.0.outcome.set(RequestOutcome::Cut);
    }

    /// Counts what passed after that.
    pub(super) fn carried(&self, asked: u64, answered: u64) {
        self.0.carried.set(asked);
        self.0.answered.set(self.0.answered.get() + answered);
    }
}

impl Open {
    fn bodies(&self) -> Option<Box<Bodies>> {
        let (request, response) = (self.request_body.take(), self.response_body.take());
        let any = request.is_some() || response.is_some();
        any.then(|| {
            Box::new(Bodies {
                request: request.map(Noted::into_body),
                response: response.map(Noted::into_body),
                of: type_of(&self.request),
                masks: self.ruling.fields().cloned(),
            })
        })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let (shared, session) = (&self.connection.shared, &self.connection.session);
        let number = self.number;
        self.connection
            .under_way
            .borrow_mut()
            .retain(|request| request.number != number);
        let asked = self.asked.get() + self.carried.get();
        shared.options.metrics.bytes_from_clients.inc_by(asked);
        let is_full = || self.connection.when_full == WhenFull::Drop && !shared.recorder.borrow().has_room();
        if self.unrecorded.get() || is_full() {
            shared.options.metrics.limit("record_queue");
            shared.recorder.borrow().dropped();
            return;
        }
        let end = RequestEnd {
            session: Arc::clone(session),
            number: self.number,
            received: self.received,
            request: Arc::clone(&self.request),
            doubt: self.doubt,
            identity: self.identity.take(),
            uri: std::mem::take(&mut self.uri),
            user_agent: std::mem::take(&mut self.user_agent),
            server_id: self.server_id.take(),
            decision: Arc::clone(self.ruling.decision()),
            decided: self.decided,
            took: self.began.elapsed(),
            status: self.status.get(),
            outcome: self.outcome.get(),
            refused: self.refused.get(),
            bytes_in: asked,
            bytes_out: self.answered.get(),
            masked: self.masked.get(),
            bodies: self.bodies(),
        };
        shared.recorder.borrow_mut().push(Event::Request(Box::new(end)));
    }
}
