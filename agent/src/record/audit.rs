//! Requests to the Kubernetes API, as events of `audit.k8s.io/v1`.
//!
//! Source: `k8s.io/apiserver/pkg/apis/audit/v1`, `Event`. What it has no place for stands in annotations, whose values are texts.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Write as _;
use std::sync::Arc;

use bailiff_model::{ApiSubject, HopKind, Identity, Impersonation, RecordingLevel};
use serde::Serialize;
use serde_json::Value;

use super::kept::Kept;
use super::objects::{self, Left};
use super::{Bodies, Body, RequestEnd, RequestOutcome, SessionStart};

/// Makes the lines. The annotations that all requests of a connection have alike are rendered once and kept: its chain alone is longer
/// than the rest of a line.
#[derive(Debug, Default)]
pub(super) struct Events {
    sessions: Kept<SessionStart>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Audit<'a> {
    kind: &'static str,
    api_version: &'static str,
    level: &'static str,
    #[serde(rename = "auditID")]
    audit_id: &'a str,
    stage: &'static str,
    #[serde(rename = "requestURI")]
    request_uri: &'a str,
    verb: &'static str,
    user: User<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<User<'a>>,
    user_agent: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: Option<ObjectRef<'a>>,
    response_status: ResponseStatus<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_object: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_object: Option<Value>,
    request_received_timestamp: String,
    stage_timestamp: String,
}

/// Whom a verified token names; nobody where none was.
#[derive(Default, Serialize)]
struct User<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<Cow<'a, str>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: BTreeMap<&'a str, Vec<&'a str>>,
}

#[derive(Serialize)]
struct Nothing {}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectRef<'a> {
    resource: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_group: &'a str,
    api_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subresource: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResponseStatus<'a> {
    metadata: Nothing,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    code: u16,
}

impl Events {
    /// Writes one request as a line.
    pub(super) fn write(&mut self, end: &RequestEnd, out: &mut Vec<u8>) {
        let own_id = format!("{}-{}", end.session.session.as_str(), end.number);
        let decision = &end.decision;
        let denied = decision.verdict != bailiff_model::Effect::Allow;
        let (mut is_truncated, mut withheld) = (false, String::new());
        let mut kept = |field: &'static str, of: fn(&Bodies) -> Option<&Body>| {
            let bodies = end.bodies.as_deref()?;
            match objects::written(bodies, of(bodies)?) {
                Ok(object) => object,
                Err(Left::Truncated) => {
                    is_truncated = true;
                    None
                }
                Err(Left::Withheld) => {
                    if !withheld.is_empty() {
                        withheld.push_str(", ");
                    }
                    withheld.push_str(field);
                    None
                }
            }
        };
        let request_object = kept("requestObject", |bodies| bodies.request.as_ref());
        let response_object = kept("responseObject", |bodies| bodies.response.as_ref());
        let audit = Audit {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: level(decision.recording.level()),
            audit_id: end.server_id.as_deref().unwrap_or(&own_id),
            stage: "ResponseComplete",
            request_uri: &end.uri,
            verb: end.request.verb.as_str(),
            user: user(end.identity.as_deref()),
            impersonated_user: end.request.impersonates.as_deref().map(impersonated),
            user_agent: &end.user_agent,
            object_ref: object(&end.request.subject),
            response_status: ResponseStatus {
                metadata: Nothing {},
                status: denied.then_some("Failure"),
                message: denied.then_some(&*decision.reason.message),
                reason: denied.then_some("Forbidden"),
                code: end.status,
            },
            request_object,
            response_object,
            request_received_timestamp: time(end.received),
            stage_timestamp: time(end.received + end.took),
        };
        // Writing into memory can't fail, and none of the types has keys that aren't texts.
        let _ = serde_json::to_writer(&mut *out, &audit);
        // The annotations are the object's last field.
        out.pop();
        out.extend_from_slice(b",\"annotations\":{");
        out.extend_from_slice(self.sessions.text(&end.session, of_session));
        let mut notes = Notes(out);
        of_request(end, &mut notes);
        if is_truncated {
            notes.text("audit.k8s.io/truncated", "true");
        }
        if !withheld.is_empty() {
            notes.text("bailiff.dev/withheld", &withheld);
        }
        out.extend_from_slice(b"}}\n");
    }

    /// Says that a connection is over.
    pub(super) fn forget(&mut self, session: &Arc<SessionStart>) {
        self.sessions.forget(session);
    }
}

/// A policy's level by the word of audit policies.
fn level(level: RecordingLevel) -> &'static str {
    match level {
        RecordingLevel::Metadata | RecordingLevel::Statement => "Metadata",
        RecordingLevel::Values => "Request",
        RecordingLevel::Results => "RequestResponse",
    }
}

/// Source: `k8s.io/apiserver/pkg/authentication/serviceaccount`, the keys of a bound token's extra.
fn user(identity: Option<&Identity>) -> User<'_> {
    let Some(identity) = identity else {
        return User::default();
    };
    let extra = identity.bound_to.as_ref().map(|pod| {
        BTreeMap::from([
            ("authentication.kubernetes.io/pod-name", vec![&*pod.name]),
            ("authentication.kubernetes.io/pod-uid", vec![&*pod.uid]),
        ])
    });
    User {
        username: Some(&identity.user),
        uid: None,
        groups: identity
            .groups
            .iter()
            .map(|group| Cow::Borrowed(&**group))
            .collect(),
        extra: extra.unwrap_or_default(),
    }
}

/// With the groups that the server adds by itself, as its own events have it.
fn impersonated(other: &Impersonation) -> User<'_> {
    let groups = other.groups.iter().map(|group| Cow::Borrowed(group.as_str()));
    let added = other.added_groups().into_iter().map(Cow::Owned);
    let mut extra: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (key, value) in &other.extra {
        extra.entry(key).or_default().push(value);
    }
    User {
        username: Some(&other.user),
        uid: other.uid.as_deref(),
        groups: groups.chain(added).collect(),
        extra,
    }
}

fn object(subject: &ApiSubject) -> Option<ObjectRef<'_>> {
    let ApiSubject::Resource(resource) = subject else {
        return None;
    };
    Some(ObjectRef {
        resource: &resource.resource,
        namespace: resource.namespace.as_deref(),
        name: resource.name.as_deref(),
        api_group: &resource.group,
        api_version: &resource.version,
        subresource: resource.subresource.as_deref(),
    })
}

/// Annotations of one event, behind others.
struct Notes<'a>(&'a mut Vec<u8>);

impl Notes<'_> {
    /// `key` needs no escapes.
    fn text(&mut self, key: &'static str, value: &str) {
        // Writing into memory can't fail.
        let _ = write!(self.0, ",\"{key}\":");
        let _ = serde_json::to_writer(&mut *self.0, value);
    }

    /// Values of annotations are texts, also where they are numbers.
    fn number(&mut self, key: &'static str, value: impl Display) {
        let _ = write!(self.0, ",\"{key}\":\"{value}\"");
    }
}

/// What the events of all requests of a connection have in their annotations.
fn of_session(session: &SessionStart) -> Box<[u8]> {
    let mut out = Vec::new();
    let mut notes = Notes(&mut out);
    notes.text("bailiff.dev/session", session.session.as_str());
    notes.text("bailiff.dev/target", session.target.as_str());
    let chain = serde_json::to_string(&*session.chain).unwrap_or_default();
    notes.text("bailiff.dev/chain", &chain);
    if let Some(HopKind::Pod { pod, .. }) = session.chain.hops().last().map(|hop| &hop.kind) {
        notes.text("bailiff.dev/pod", &format!("{}/{}", pod.namespace, pod.name));
    }
    // They come first: no comma before them.
    out.get(1..).unwrap_or_default().into()
}

fn of_request(end: &RequestEnd, notes: &mut Notes<'_>) {
    let decision = &end.decision;
    notes.text("bailiff.dev/verdict", decision.verdict.as_str());
    notes.number("bailiff.dev/decided-us", end.decided.as_micros());
    notes.text("bailiff.dev/token", end.request.token.as_str());
    notes.number("bailiff.dev/bytes-in", end.bytes_in);
    notes.number("bailiff.dev/bytes-out", end.bytes_out);
    notes.number("bailiff.dev/masked", end.masked);
    if let Some(policy) = &decision.reason.policy {
        notes.text("bailiff.dev/policy", policy);
    }
    if let Some(rule) = &decision.reason.rule {
        notes.text("bailiff.dev/rule", rule);
    }
    if let Some((would_be, reason)) = &decision.observed {
        let told = format!("{} ({reason})", would_be.as_str());
        notes.text("bailiff.dev/would-be", &told);
    }
    if let Some(refused) = end.refused {
        notes.text("bailiff.dev/refused", refused);
    }
    if let Some(doubt) = end.doubt {
        notes.text("bailiff.dev/unknown", doubt.as_str());
    }
    match end.outcome {
        RequestOutcome::Whole => {}
        RequestOutcome::Cut => notes.text("bailiff.dev/ended", "before the answer was whole"),
        RequestOutcome::Unanswered => notes.text("bailiff.dev/ended", "before there was an answer"),
    }
}

/// RFC 3339 in microseconds, as the server's own.
fn time(at: std::time::SystemTime) -> String {
    jiff::Timestamp::try_from(at).map_or_else(|_| String::new(), |at| format!("{at:.6}"))
}
