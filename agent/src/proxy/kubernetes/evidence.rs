//! What one request leaves in the record and in the metrics.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bailiff_model::{ApiRequest, Effect, Identity, TokenState};
use bailiff_policy::{Doubt, Ruling, Typed};
use hyper::Request;
use hyper::body::{Body as _, Incoming};
use hyper::header::{HeaderMap, USER_AGENT};

use super::caller::Caller;
use super::connection::Connection;
use crate::record::{Event, RequestEnd, RequestOutcome};

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
    asked: u64,
    server_id: RefCell<Option<Box<str>>>,
    status: Cell<u16>,
    answered: Cell<u64>,
    carried: Cell<u64>,
    masked: Cell<u64>,
    outcome: Cell<RequestOutcome>,
}

impl Account {
    /// Begins with a request that was just decided.
    pub(super) fn open(
        connection: &Rc<Connection>,
        request: &Request<Incoming>,
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
        Self(Rc::new(Open {
            request: Arc::new(typed.request),
            doubt: typed.doubt,
            identity: caller.identity,
            ruling: Arc::clone(ruling),
            uri: uri.into(),
            user_agent: user_agent.into(),
            received: connection.shared.clock.get().at(began),
            began,
            decided: began.elapsed(),
            number,
            asked: request.body().size_hint().exact().unwrap_or(0),
            connection: Rc::clone(connection),
            server_id: RefCell::default(),
            status: Cell::new(0),
            answered: Cell::new(0),
            carried: Cell::new(0),
            masked: Cell::new(0),
            outcome: Cell::new(RequestOutcome::Unanswered),
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

    /// Says that the request is passed on.
    pub(super) fn passes(&self) {
        let metrics = &self.0.connection.shared.options.metrics;
        metrics
            .added_latency
            .observe(self.0.began.elapsed().as_secs_f64());
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
    pub(super) fn answered(&self, bytes: usize) {
        let metrics = &self.0.connection.shared.options.metrics;
        metrics.bytes_to_clients.inc_by(bytes as u64);
        self.0.answered.set(self.0.answered.get() + bytes as u64);
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

impl Drop for Open {
    fn drop(&mut self) {
        let (shared, session) = (&self.connection.shared, &self.connection.session);
        let asked = self.asked + self.carried.get();
        shared.options.metrics.bytes_from_clients.inc_by(asked);
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
            bytes_in: asked,
            bytes_out: self.answered.get(),
            masked: self.masked.get(),
        };
        shared.recorder.borrow_mut().push(Event::Request(Box::new(end)));
    }
}
