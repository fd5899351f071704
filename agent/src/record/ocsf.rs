//! Events as OCSF 1.3 Datastore Activity: class 6005 of category 6, Application Activity.

mod content;

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use bailiff_model::{Decision, Effect, EffectSet, HopKind, Reason, SqlEffect};
use serde::Serialize;

use super::audit::Events;
use super::detect::conceal;
use super::kept::Kept;
use super::{Event, OperationEnd, Outcome, SessionEnd, SessionStart, recordable};

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

/// Makes the lines. What all operations of a session, and all of one decision, say alike is rendered once and kept: at tens of
/// thousands of operations a second, rendering it anew each time costs as much as carrying the statements.
#[derive(Debug, Default)]
pub(super) struct Lines {
    sessions: Kept<SessionStart>,
    decisions: Kept<Decision>,
    requests: Events,
}

impl Lines {
    /// Writes one event as a line.
    pub(super) fn write(&mut self, event: &Event, out: &mut Vec<u8>) {
        match event {
            Event::Start(start) => line(started(start), out),
            Event::Operation(operation) => self.operated(operation, out),
            Event::Request(request) => self.requests.write(request, out),
            Event::End(end) => {
                self.sessions.forget(&end.session);
                self.requests.forget(&end.session);
                line(ended(end), out);
            }
        }
    }

    fn operated(&mut self, operation: &OperationEnd, out: &mut Vec<u8>) {
        let decision = &operation.decision;
        let activity = activity(decision.effects);
        let failed = decision.verdict != Effect::Allow || operation.sqlstate.is_some();
        // OCSF: 0 unknown, 1 success, 2 failure.
        let (status, detail) = match operation.outcome {
            Outcome::Answered => (if failed { 2 } else { 1 }, None),
            Outcome::Skipped => (2, Some("skipped by the server after an error")),
            Outcome::Unanswered => (
                if failed { 2 } else { 0 },
                Some("the session ended before the answer"),
            ),
        };
        out.extend_from_slice(b"{\"class_uid\":6005,\"category_uid\":6");
        number(out, "activity_id", activity);
        if activity == OTHER {
            out.extend_from_slice(b",\"activity_name\":");
            text(out, other(decision.effects));
        }
        number(out, "type_uid", CLASS * 100 + activity);
        number(out, "time", millis(operation.at));
        number(out, "severity_id", if status == 2 { 3 } else { 1 });
        number(out, "status_id", status);
        if let Some(detail) = detail {
            out.extend_from_slice(b",\"status_detail\":");
            text(out, detail);
        }
        if let Some(code) = &operation.sqlstate {
            out.extend_from_slice(b",\"status_code\":");
            text(out, &String::from_utf8_lossy(code));
        }
        // Profile "security_control": Allowed or Denied, Allowed or Blocked.
        let outcome = if decision.verdict == Effect::Allow { 1 } else { 2 };
        number(out, "action_id", outcome);
        number(out, "disposition_id", outcome);
        out.push(b',');
        out.extend_from_slice(self.sessions.text(&operation.session, common));
        number(out, "sequence", operation.number);
        out.push(b'}');
        let statement = operation
            .text
            .as_ref()
            .and_then(|text| recordable(text, decision.recording.level()));
        if let Some(mut statement) = statement {
            if decision.recording.keeps_values()
                && let Cow::Owned(concealed) = conceal(&statement)
            {
                statement = Cow::Owned(concealed);
            }
            out.extend_from_slice(b",\"query_info\":{\"query_string\":");
            text(out, &statement);
            number(out, "bytes", operation.bytes_out);
            out.push(b'}');
        }
        out.extend_from_slice(b",\"unmapped\":{\"event\":\"operation\",");
        out.extend_from_slice(self.decisions.text(decision, decided));
        number(out, "number", operation.number);
        number(out, "rows", operation.rows);
        number(out, "masked_values", operation.masked);
        number(out, "bytes_in", operation.bytes_in);
        number(out, "bytes_out", operation.bytes_out);
        number(out, "decided_us", micros(operation.decided));
        number(out, "took_us", micros(operation.took));
        if let Some(kept) = &operation.content {
            content::write(kept, out);
        }
        out.extend_from_slice(b"}}\n");
    }
}

fn number(out: &mut Vec<u8>, key: &str, value: u64) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn text(out: &mut Vec<u8>, value: &str) {
    // Writing a text into memory can't fail.
    let _ = serde_json::to_writer(&mut *out, value);
}

/// The inside of an object.
fn inside(value: &impl Serialize) -> Box<[u8]> {
    let all = serde_json::to_vec(value).unwrap_or_default();
    Box::from(
        all.strip_prefix(b"{")
            .and_then(|all| all.strip_suffix(b"}"))
            .unwrap_or_default(),
    )
}

/// What stands in each operation of a session: who and where from and where to, so that each line can be read alone. It ends
/// inside `metadata`, where the operation's own number follows.
fn common(start: &SessionStart) -> Box<[u8]> {
    #[derive(Serialize)]
    struct Common<'a> {
        actor: Actor<'a>,
        src_endpoint: Source<'a>,
        database: Database<'a>,
        dst_endpoint: Named<'a>,
        metadata: Short<'a>,
    }
    #[derive(Serialize)]
    struct Named<'a> {
        name: &'a str,
    }
    #[derive(Serialize)]
    struct Short<'a> {
        version: &'static str,
        product: ShortProduct,
        profiles: [&'static str; 1],
        log_version: &'static str,
        correlation_uid: &'a str,
    }
    #[derive(Serialize)]
    struct ShortProduct {
        name: &'static str,
        vendor_name: &'static str,
    }
    let whole = inside(&Common {
        actor: actor(start),
        src_endpoint: source(start),
        database: database(start),
        dst_endpoint: Named {
            name: start.target.as_str(),
        },
        metadata: Short {
            version: VERSION,
            product: ShortProduct {
                name: PRODUCT,
                vendor_name: PRODUCT,
            },
            profiles: ["security_control"],
            log_version: RECORD_VERSION,
            correlation_uid: start.session.as_str(),
        },
    });
    Box::from(whole.strip_suffix(b"}").unwrap_or_default())
}

fn decided(decision: &Decision) -> Box<[u8]> {
    let (policy, rule) = names(&decision.reason);
    inside(&Decided {
        effects: Effects(decision.effects),
        verdict: decision.verdict.as_str(),
        policy,
        rule,
        hop: decision.reason.hop,
        message: Some(&*decision.reason.message).filter(|message| !message.is_empty()),
        would_be: decision.observed.as_ref().map(|(effect, reason)| {
            let (policy, rule) = names(reason);
            WouldBe {
                verdict: effect.as_str(),
                policy,
                rule,
            }
        }),
    })
}

fn activity(effects: EffectSet) -> u64 {
    [
        (SqlEffect::Drop, DELETE),
        (SqlEffect::Truncate, DELETE),
        (SqlEffect::Delete, DELETE),
        (SqlEffect::Create, CREATE),
        (SqlEffect::Insert, WRITE),
        (SqlEffect::Update, UPDATE),
        (SqlEffect::Alter, UPDATE),
        (SqlEffect::Read, READ),
        (SqlEffect::Replication, READ),
        (SqlEffect::Execute, QUERY),
    ]
    .iter()
    .find(|(effect, _)| effects.contains(*effect))
    .map_or(OTHER, |(_, activity)| *activity)
}

/// What an activity that the class has no number for is called: its first effect.
fn other(effects: EffectSet) -> &'static str {
    effects.iter().next().map_or("none", SqlEffect::as_str)
}

const VERSION: &str = "1.3.0";
/// Of what stands under `unmapped`: see docs/record.md. Lines without one are of version 1.
const RECORD_VERSION: &str = "2";
const PRODUCT: &str = "Bailiff";

/// An event. The schema's own attributes first, and what it has no place for under `unmapped`.
#[derive(Serialize)]
struct Line<'a, U> {
    class_uid: u64,
    category_uid: u64,
    activity_id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    activity_name: Option<&'static str>,
    type_uid: u64,
    time: u64,
    severity_id: u64,
    status_id: u64,
    metadata: Metadata<'a>,
    type_id: u64,
    r#type: &'static str,
    actor: Actor<'a>,
    src_endpoint: Source<'a>,
    dst_endpoint: Destination<'a>,
    database: Database<'a>,
    unmapped: U,
}

#[derive(Serialize)]
struct Metadata<'a> {
    version: &'static str,
    product: Product,
    log_version: &'static str,
    correlation_uid: &'a str,
    sequence: u64,
}

#[derive(Serialize)]
struct Product {
    name: &'static str,
    vendor_name: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
struct Actor<'a> {
    user: User<'a>,
    app_name: &'a str,
}

#[derive(Serialize)]
struct User<'a> {
    name: &'a str,
}

/// The pod that connected. Its addresses say nothing of who it is, and aren't recorded.
#[derive(Serialize)]
struct Source<'a> {
    name: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a str>,
}

#[derive(Serialize)]
struct Destination<'a> {
    name: &'a str,
    ip: std::net::IpAddr,
    port: u16,
}

#[derive(Serialize)]
struct Database<'a> {
    name: &'a str,
    r#type: &'static str,
    type_id: u64,
}

#[derive(Serialize)]
struct StartMore<'a> {
    event: &'static str,
    chain: &'a bailiff_model::Chain,
    /// What the target was told in place of what the client asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    connected_as: Option<ConnectedAs<'a>>,
}

#[derive(Serialize)]
struct ConnectedAs<'a> {
    user: &'a str,
    database: &'a str,
}

#[derive(Serialize)]
struct Decided<'a> {
    effects: Effects,
    verdict: &'static str,
    policy: Option<&'a str>,
    rule: Option<&'a str>,
    hop: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    would_be: Option<WouldBe<'a>>,
}

#[derive(Serialize)]
struct WouldBe<'a> {
    verdict: &'static str,
    policy: Option<&'a str>,
    rule: Option<&'a str>,
}

#[derive(Serialize)]
struct EndMore<'a> {
    event: &'static str,
    why: &'static str,
    operations: u64,
    denied: u64,
    unrecorded: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    killed_by: Option<KilledBy<'a>>,
}

#[derive(Serialize)]
struct KilledBy<'a> {
    uid: u32,
    pid: i32,
    program: &'a str,
    reason: Option<&'a str>,
    time: u64,
}

/// Effects as a list of their names.
struct Effects(EffectSet);

impl Serialize for Effects {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(SqlEffect::as_str))
    }
}

fn line<U: Serialize>(line: Line<'_, U>, out: &mut Vec<u8>) {
    // Writing into memory can't fail, and none of the types has keys that aren't texts.
    let _ = serde_json::to_writer(&mut *out, &line);
    out.push(b'\n');
}

fn millis(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn micros(took: std::time::Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

/// What all events of a session say alike.
fn head<U>(
    start: &SessionStart,
    activity: u64,
    at: SystemTime,
    sequence: u64,
    succeeded: bool,
    unmapped: U,
) -> Line<'_, U> {
    Line {
        class_uid: CLASS,
        category_uid: 6,
        activity_id: activity,
        activity_name: (activity == OTHER).then_some("Disconnect"),
        type_uid: CLASS * 100 + activity,
        time: millis(at),
        severity_id: if succeeded { 1 } else { 3 },
        status_id: if succeeded { 1 } else { 2 },
        metadata: Metadata {
            version: VERSION,
            product: Product {
                name: PRODUCT,
                vendor_name: PRODUCT,
                version: env!("CARGO_PKG_VERSION"),
            },
            log_version: RECORD_VERSION,
            correlation_uid: start.session.as_str(),
            sequence,
        },
        type_id: 1,
        r#type: "Database",
        actor: actor(start),
        src_endpoint: source(start),
        dst_endpoint: Destination {
            name: start.target.as_str(),
            ip: start.destination.get().ip(),
            port: start.destination.get().port(),
        },
        database: database(start),
        unmapped,
    }
}

fn database(start: &SessionStart) -> Database<'_> {
    Database {
        name: &start.database,
        r#type: "Relational",
        type_id: 1,
    }
}

fn actor(start: &SessionStart) -> Actor<'_> {
    Actor {
        user: User { name: &start.user },
        app_name: &start.application,
    }
}

fn source(start: &SessionStart) -> Source<'_> {
    match start.chain.hops().last().map(|caller| &caller.kind) {
        Some(HopKind::Pod { pod, .. }) => Source {
            name: format!("{}/{}", pod.namespace, pod.name).into(),
            uid: Some(pod.uid.as_str()),
        },
        _ => Source {
            name: "unknown".into(),
            uid: None,
        },
    }
}

fn started(start: &SessionStart) -> Line<'_, StartMore<'_>> {
    let more = StartMore {
        event: "session_start",
        chain: &start.chain,
        connected_as: start
            .connected_as
            .as_ref()
            .map(|(user, database)| ConnectedAs { user, database }),
    };
    head(start, CONNECT, start.at, 0, true, more)
}

fn names(reason: &Reason) -> (Option<&str>, Option<&str>) {
    (reason.policy.as_deref(), reason.rule.as_deref())
}

fn ended(end: &SessionEnd) -> Line<'_, EndMore<'_>> {
    let more = EndMore {
        event: "session_end",
        why: end.why,
        operations: end.operations,
        denied: end.denied,
        unrecorded: end.unrecorded,
        killed_by: end.killed.as_deref().map(|killed| KilledBy {
            uid: killed.uid,
            pid: killed.pid,
            program: &killed.program,
            reason: killed.reason.as_deref(),
            time: millis(killed.at),
        }),
    };
    head(&end.session, OTHER, end.at, end.operations + 1, true, more)
}
