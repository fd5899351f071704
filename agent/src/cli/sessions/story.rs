//! What the record tells of a session in short, together with what a running agent says of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::read::{is, number, session, text};
use crate::control::OpenSession;

/// One session in short.
#[derive(Debug, Clone, Default)]
pub(super) struct Summary {
    pub(super) id: String,
    pub(super) began: u64,
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) target: String,
    pub(super) database: String,
    pub(super) user: String,
    pub(super) application: String,
    pub(super) operations: u64,
    pub(super) denied: u64,
    pub(super) rows: u64,
    pub(super) masked: u64,
    pub(super) verdicts: BTreeSet<String>,
    /// When it ended, and why.
    pub(super) ended: Option<(u64, String)>,
    /// What its agent says of it now.
    pub(super) open: Option<OpenSession>,
}

impl Summary {
    /// What is known of its end.
    pub(super) fn state(&self) -> State<'_> {
        match (&self.ended, &self.open) {
            (Some((_, why)), _) => State::Ended(why),
            (None, Some(open)) => State::Open(&open.state),
            (None, None) => State::Unfinished,
        }
    }

    fn of_start(event: &Value) -> Self {
        let hop = event
            .pointer("/unmapped/chain")
            .and_then(Value::as_array)
            .and_then(|hops| hops.last())
            .and_then(|hop| hop.pointer("/kind/pod/pod"));
        let of_pod = |place| hop.map_or("-", |pod| text(pod, place)).to_owned();
        Self {
            id: session(event).unwrap_or_default().to_owned(),
            began: number(event, "/time"),
            namespace: of_pod("/namespace"),
            pod: of_pod("/name"),
            target: text(event, "/dst_endpoint/name").to_owned(),
            database: text(event, "/database/name").to_owned(),
            user: text(event, "/actor/user/name").to_owned(),
            application: text(event, "/actor/app_name").to_owned(),
            ..Self::default()
        }
    }

    fn of_open(open: &OpenSession) -> Self {
        let open = open.clone();
        Self {
            id: open.session.clone(),
            began: open.began,
            namespace: open.namespace.clone(),
            pod: open.pod.clone(),
            target: open.target.clone(),
            database: open.database.clone(),
            user: open.user.clone(),
            application: open.application.clone(),
            operations: open.operations,
            denied: open.denied,
            ..Self::default()
        }
    }
}

/// What is known of a session's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State<'a> {
    /// An agent has it open, and says what it does.
    Open(&'a str),
    /// It ended, and why.
    Ended(&'a str),
    /// No end is recorded and no agent has it: its agent was killed, or the machine stopped.
    Unfinished,
}

impl State<'_> {
    /// In a word or two.
    pub(super) fn told(self) -> String {
        match self {
            Self::Open(what) => format!("open, {what}"),
            Self::Ended(why) => why.to_owned(),
            Self::Unfinished => "unfinished".to_owned(),
        }
    }
}

/// All sessions of a record.
#[derive(Debug, Default)]
pub(super) struct Sessions(BTreeMap<String, Summary>);

impl Sessions {
    /// Takes up an event.
    pub(super) fn take(&mut self, event: &Value) {
        let Some(id) = session(event) else { return };
        if is(event, "session_start") {
            self.0.insert(id.to_owned(), Summary::of_start(event));
            return;
        }
        // One whose beginning went with the oldest file isn't told of.
        let Some(summary) = self.0.get_mut(id) else { return };
        if is(event, "operation") {
            let verdict = text(event, "/unmapped/verdict");
            summary.operations += 1;
            summary.denied += u64::from(verdict != "allow");
            summary.rows += number(event, "/unmapped/rows");
            summary.masked += number(event, "/unmapped/masked_values");
            if !summary.verdicts.contains(verdict) {
                summary.verdicts.insert(verdict.to_owned());
            }
        } else if is(event, "session_end") {
            summary.ended = Some((number(event, "/time"), text(event, "/unmapped/why").to_owned()));
        }
    }

    /// Takes up what the agents say of those that are open.
    pub(super) fn note_open(&mut self, open: &[OpenSession]) {
        for summary in self.0.values_mut() {
            summary.open = None;
        }
        for open in open {
            let summary = self
                .0
                .entry(open.session.clone())
                .or_insert_with(|| Summary::of_open(open));
            summary.open = Some(open.clone());
        }
    }

    /// By when they began.
    pub(super) fn in_order(&self) -> Vec<&Summary> {
        let mut all: Vec<_> = self.0.values().collect();
        all.sort_by(|a, b| (a.began, &a.id).cmp(&(b.began, &b.id)));
        all
    }

    /// Those that an id, its beginning, or `last` names.
    pub(super) fn named(&self, id: &str) -> Vec<&Summary> {
        match id {
            "last" => self.in_order().pop().into_iter().collect(),
            id => self
                .0
                .range(id.to_owned()..)
                .map(|(_, summary)| summary)
                .take_while(|summary| summary.id.starts_with(id))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(id: &str, kind: &str, time: u64, more: &Value) -> Value {
        let mut event =
            json!({"time": time, "metadata": {"correlation_uid": id}, "unmapped": {"event": kind}});
        for (key, value) in more.as_object().into_iter().flatten() {
            event["unmapped"][key] = value.clone();
        }
        event
    }

    #[test]
    fn a_session_is_open_ended_or_unfinished() {
        let mut sessions = Sessions::default();
        for id in ["aa", "ab", "b"] {
            sessions.take(&event(id, "session_start", 1, &json!({})));
            let denied = json!({"verdict": "deny", "rows": 2});
            sessions.take(&event(id, "operation", 2, &denied));
        }
        sessions.take(&event("b", "session_end", 3, &json!({"why": "killed"})));
        sessions.take(&event("unknown", "operation", 3, &json!({})));
        let open: OpenSession = serde_json::from_value(json!({
            "session": "ab", "began": 1, "namespace": "n", "pod": "p", "target": "t", "database": "d", "user": "u",
            "application": "", "state": "idle", "operations": 1, "denied": 1, "agent": 7
        }))
        .unwrap();
        sessions.note_open(&[open]);
        let states: Vec<_> = sessions
            .in_order()
            .iter()
            .map(|summary| summary.state().told())
            .collect();
        assert_eq!(states, ["unfinished", "open, idle", "killed"]);
        assert_eq!(sessions.named("a").len(), 2);
        assert_eq!(sessions.named("aa")[0].rows, 2);
        assert_eq!(sessions.named("last")[0].id, "b");
        assert!(sessions.named("c").is_empty());
    }
}
