//! Events as OCSF 1.3 Datastore Activity: class 6005 of category 6, Application Activity.

use std::time::{SystemTime, UNIX_EPOCH};

use bailiff_model::{Effect, HopKind, SqlEffect};
use serde_json::{Value, json};

use super::{Event, OperationEnd, SessionEnd, SessionStart};

const CLASS: u64 = 6005;
/// Activities of the class.
const READ: u64 = 1;
const UPDATE: u64 = 2;
const CONNECT: u64 = 3;
const QUERY: u64 = 4;
const WRITE: u64 = 5;
const CREATE: u64 = 6;
const DELETE: u64 = 7;
const OTHER: u64 = 99;

/// Writes one event as a line.
pub(super) fn write(event: &Event, out: &mut Vec<u8>) {
    let value = match event {
        Event::Start(start) => started(start),
        Event::Operation(operation) => operated(operation),
        Event::End(end) => ended(end),
    };
    // A Value can always be written into memory.
    let _ = serde_json::to_writer(&mut *out, &value);
    out.push(b'\n');
}

fn millis(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn head(activity: u64, at: SystemTime, session: &str, succeeded: bool) -> Value {
    json!({
        "class_uid": CLASS,
        "category_uid": 6,
        "activity_id": activity,
        "type_uid": CLASS * 100 + activity,
        "time": millis(at),
        "severity_id": if succeeded { 1 } else { 3 },
        "status_id": if succeeded { 1 } else { 2 },
        "metadata": {
            "version": "1.3.0",
            "product": { "name": "Bailiff", "vendor_name": "Bailiff", "version": env!("CARGO_PKG_VERSION") },
            "correlation_uid": session,
        },
    })
}

fn with(mut value: Value, more: Value) -> Value {
    if let (Some(value), Value::Object(more)) = (value.as_object_mut(), more) {
        value.extend(more);
    }
    value
}

fn started(start: &SessionStart) -> Value {
    with(
        head(CONNECT, start.at, start.session.as_str(), true),
        json!({
            "type": "Database",
            "type_id": 1,
            "actor": { "user": { "name": start.user }, "app_name": start.application },
            "database": { "name": start.database, "type": "Relational", "type_id": 1 },
            "src_endpoint": source(start),
            "dst_endpoint": {
                "name": start.target.as_str(),
                "ip": start.destination.get().ip().to_string(),
                "port": start.destination.get().port(),
            },
            "unmapped": { "event": "session_start", "chain": start.chain.as_ref() },
        }),
    )
}

/// The pod that connected. Its addresses say nothing of who it is, and aren't recorded.
fn source(start: &SessionStart) -> Value {
    match start.chain.hops().last().map(|caller| &caller.kind) {
        Some(HopKind::Pod { pod, .. }) => json!({
            "name": format!("{}/{}", pod.namespace, pod.name),
            "uid": pod.uid.as_str(),
        }),
        _ => json!({ "name": "unknown" }),
    }
}

/// Operations and ends are lean: who, where from and where to stand in the session's first event, by `correlation_uid`.
fn operated(operation: &OperationEnd) -> Value {
    let activity = [
        (SqlEffect::Drop, DELETE),
        (SqlEffect::Truncate, DELETE),
        (SqlEffect::Delete, DELETE),
        (SqlEffect::Create, CREATE),
        (SqlEffect::Insert, WRITE),
        (SqlEffect::Update, UPDATE),
        (SqlEffect::Alter, UPDATE),
        (SqlEffect::Read, READ),
        (SqlEffect::Execute, QUERY),
    ]
    .iter()
    .find(|(effect, _)| operation.effects.contains(*effect))
    .map_or(OTHER, |(_, activity)| *activity);
    let effects: Vec<&str> = operation.effects.iter().map(SqlEffect::as_str).collect();
    let succeeded = operation.verdict == Effect::Allow && operation.sqlstate.is_none();
    with(
        head(activity, operation.at, operation.session.as_str(), succeeded),
        json!({
            "duration": u64::try_from(operation.took.as_millis()).unwrap_or(u64::MAX),
            "query_info": {
                "uid": operation.number.to_string(),
                "query_string": operation.text,
                "bytes": operation.bytes_out,
            },
            "status_code": operation.sqlstate,
            "unmapped": {
                "event": "operation",
                "effects": effects,
                "verdict": operation.verdict.as_str(),
                "policy": operation.reason.policy,
                "rule": operation.reason.rule,
                "hop": operation.reason.hop,
                "message": operation.reason.message,
                "would_be": operation.observed.as_ref().map(|(effect, reason)| {
                    json!({ "verdict": effect.as_str(), "policy": reason.policy, "rule": reason.rule })
                }),
                "rows": operation.rows,
                "masked_values": operation.masked,
                "bytes_in": operation.bytes_in,
                "decided_us": u64::try_from(operation.decided.as_micros()).unwrap_or(u64::MAX),
                "took_us": u64::try_from(operation.took.as_micros()).unwrap_or(u64::MAX),
            },
        }),
    )
}

fn ended(end: &SessionEnd) -> Value {
    with(
        head(OTHER, end.at, end.session.as_str(), true),
        json!({
            "unmapped": {
                "event": "session_end",
                "why": end.why,
                "operations": end.operations,
                "denied": end.denied,
                "unrecorded": end.unrecorded,
            },
        }),
    )
}
