//! What is known of reports and objects, and which statuses follow from that.

use std::collections::BTreeMap;

use bailiff_policy::report::{Judged, MAX_REASON, cut};
use jiff::{Timestamp, Unit};
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use crate::reports::resource;
use crate::reports::said::{Said, judge_object, report_of};

/// Letters of a condition's message.
const MAX_MESSAGE: usize = 4_096;

/// What is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// What nodes say.
    Reports,
    /// Targets.
    Targets,
    /// Policies.
    Policies,
}

impl Of {
    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::Reports => "nodereports",
            Self::Targets => "targets",
            Self::Policies => "policies",
        }
    }

    pub(super) fn resource(self) -> ApiResource {
        match self {
            Self::Reports => crate::reports::reports(),
            Self::Targets => resource("Target", "targets"),
            Self::Policies => resource("Policy", "policies"),
        }
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Known {
    reports: Listed<Said>,
    targets: Listed<Object>,
    policies: Listed<Object>,
}

/// Of an object what its status follows from.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Object {
    uid: String,
    generation: i64,
    version: String,
    status: Value,
}

/// What is written of one.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) of: Of,
    pub(super) name: String,
    pub(super) patch: Value,
}

impl Known {
    /// Takes up what a watch tells. True where it may change a status.
    pub(super) fn take(&mut self, of: Of, event: Event<DynamicObject>) -> bool {
        match of {
            Of::Reports => self.reports.take(event, &|object| Said::of(report_of(object)?)),
            Of::Targets => self.targets.take(event, &object),
            Of::Policies => self.policies.take(event, &object),
        }
    }

    /// Whether all three were told once: what is missing may not be there yet.
    pub(super) fn is_whole(&self) -> bool {
        self.reports.is_whole && self.targets.is_whole && self.policies.is_whole
    }

    /// The statuses that aren't what they should be.
    pub(super) fn due(&self, now: Timestamp) -> Vec<Due> {
        let of_kind = |of, objects: &Listed<Object>| -> Vec<Due> {
            let due = objects.now.iter().filter_map(|(name, object)| {
                let judged = judge_object(&object.uid, object.generation, &self.reports.now, now.as_second());
                let status = status(object, &judged, now);
                (status != object.status).then(|| Due {
                    of,
                    name: name.clone(),
                    patch: json!({
                        // Of this very object, as it was read: another may have its name by now.
                        "metadata": {"uid": object.uid, "resourceVersion": object.version},
                        "status": status,
                    }),
                })
            });
            due.collect()
        };
        let mut due = of_kind(Of::Targets, &self.targets);
        due.extend(of_kind(Of::Policies, &self.policies));
        due
    }
}

fn object(object: &DynamicObject) -> Option<Object> {
    Some(Object {
        uid: object.metadata.uid.clone()?,
        generation: object.metadata.generation?,
        version: object.metadata.resource_version.clone()?,
        status: object.data.get("status").cloned().unwrap_or_default(),
    })
}

/// The status as it should be. Other conditions than `Accepted` are somebody else's, and stay.
fn status(object: &Object, judged: &Judged, now: Timestamp) -> Value {
    let mut conditions: Vec<Value> = Vec::new();
    let mut since = now.round(Unit::Second).unwrap_or(now).to_string();
    for condition in object
        .status
        .get("conditions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let text = |field: &str| condition.get(field).and_then(Value::as_str);
        if text("type") != Some("Accepted") {
            conditions.push(condition.clone());
        } else if let (Some(status), Some(time)) = (text("status"), text("lastTransitionTime"))
            && status == judged.status
        {
            since = time.to_owned();
        }
    }
    conditions.push(json!({
        "type": "Accepted",
        "status": judged.status,
        "observedGeneration": object.generation,
        "lastTransitionTime": since,
        "reason": judged.reason,
        "message": cut(&judged.message, MAX_MESSAGE),
    }));
    let refusals: Vec<Value> = judged
        .refusals
        .iter()
        .map(|refusal| {
            json!({
                "nodes": refusal.nodes,
                "count": refusal.count,
                "reason": cut(&refusal.reason, MAX_REASON),
                "mend": cut(&refusal.mend, MAX_REASON),
            })
        })
        .collect();
    json!({
        "observedGeneration": object.generation,
        "conditions": conditions,
        "nodes": {
            "accepted": judged.accepted,
            "refused": judged.refused,
            "total": judged.total,
            "ratio": format!("{}/{}", judged.accepted, judged.total),
        },
        "refusals": refusals,
    })
}

/// Objects by name. A list is gathered first and then put in place of what was known.
#[derive(Debug)]
struct Listed<T> {
    now: BTreeMap<String, T>,
    next: BTreeMap<String, T>,
    is_whole: bool,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self {
            now: BTreeMap::new(),
            next: BTreeMap::new(),
            is_whole: false,
        }
    }
}

impl<T: PartialEq> Listed<T> {
    fn take(&mut self, event: Event<DynamicObject>, read: &dyn Fn(&DynamicObject) -> Option<T>) -> bool {
        let put = |into: &mut BTreeMap<String, T>, object: &DynamicObject| {
            let name = object.metadata.name.clone().unwrap_or_default();
            match read(object) {
                Some(new) if into.get(&name) == Some(&new) => false,
                Some(new) => {
                    into.insert(name, new);
                    true
                }
                None => into.remove(&name).is_some(),
            }
        };
        match event {
            Event::Init => {
                self.next.clear();
                false
            }
            Event::InitApply(object) => {
                put(&mut self.next, &object);
                false
            }
            Event::InitDone => {
                self.now = std::mem::take(&mut self.next);
                self.is_whole = true;
                true
            }
            Event::Apply(object) => put(&mut self.now, &object),
            Event::Delete(object) => {
                let name = object.metadata.name.unwrap_or_default();
                self.now.remove(&name).is_some()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "6a0e1c52-93a1-4ed1-9d8e-0f5d7b1c2a3b";

    fn of(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    fn policy(generation: i64, status: &Value) -> DynamicObject {
        of(json!({
            "apiVersion": "bailiff.dev/v1alpha1", "kind": "Policy",
            "metadata": {"name": "p", "uid": UID, "generation": generation, "resourceVersion": "7"},
            "spec": {}, "status": status,
        }))
    }

    fn report(node: &str, state: &str, reason: &str) -> DynamicObject {
        let written = "2030-01-01T00:00:00Z";
        of(json!({
            "apiVersion": "bailiff.dev/v1alpha1", "kind": "NodeReport", "metadata": {"name": node},
            "status": {
                "version": "1", "mode": "Observe", "started": written, "written": written,
                "dataPath": {"ready": true}, "policiesFrom": "Cluster",
                "pods": {"enforced": 0, "observed": 0, "exempt": 0, "notCovered": 0},
                "objects": {"targets": 0, "policies": 0, "refused": 0, "heldBack": 0},
                "policies": [{"name": "p", "uid": UID, "generation": 1, "state": state, "reason": reason}],
            },
        }))
    }

    fn whole() -> Known {
        let mut known = Known::default();
        for of in [Of::Reports, Of::Targets, Of::Policies] {
            assert!(!known.is_whole());
            known.take(of, Event::Init);
            known.take(of, Event::InitDone);
        }
        assert!(known.is_whole());
        known
    }

    fn at(seconds: i64) -> Timestamp {
        "2030-01-01T00:00:00Z"
            .parse::<Timestamp>()
            .unwrap()
            .checked_add(jiff::SignedDuration::from_secs(seconds))
            .unwrap()
    }

    /// Writes what is due as the API server would, and returns the status.
    fn written(known: &mut Known, generation: i64, now: Timestamp) -> Value {
        let due = known.due(now);
        assert_eq!(due.len(), 1, "{due:?}");
        let patch = due.first().unwrap().patch.clone();
        assert_eq!(patch.pointer("/metadata/resourceVersion"), Some(&json!("7")));
        assert_eq!(patch.pointer("/metadata/uid"), Some(&json!(UID)));
        let status = patch.get("status").unwrap().clone();
        known.take(Of::Policies, Event::Apply(policy(generation, &status)));
        assert!(known.due(now).is_empty(), "it would be written over and over");
        status
    }

    #[test]
    fn a_status_is_written_where_it_is_another_and_not_again() {
        let mut known = whole();
        known.take(Of::Policies, Event::Apply(policy(1, &Value::Null)));
        let status = written(&mut known, 1, at(0));
        assert_eq!(status.pointer("/conditions/0/reason"), Some(&json!("NoNodes")));

        assert!(known.take(Of::Reports, Event::Apply(report("a", "InForce", ""))));
        assert!(!known.take(Of::Reports, Event::Apply(report("a", "InForce", ""))));
        known.take(Of::Reports, Event::Apply(report("b", "InForce", "")));
        let status = written(&mut known, 1, at(5));
        assert_eq!(status.pointer("/nodes/ratio"), Some(&json!("2/2")));
        assert_eq!(status.pointer("/conditions/0/status"), Some(&json!("True")));

        known.take(Of::Reports, Event::Apply(report("b", "Refused", "no such file")));
        let status = written(&mut known, 1, at(10));
        assert_eq!(status.pointer("/nodes/ratio"), Some(&json!("1/2")));
        assert_eq!(
            status.pointer("/refusals/0/nodes"),
            Some(&json!(["b"])),
            "{status}"
        );
        // What is false stays false since then, though the words change.
        known.take(Of::Reports, Event::Apply(report("a", "Refused", "no such file")));
        let status = written(&mut known, 1, at(20));
        assert_eq!(
            status.pointer("/conditions/0/lastTransitionTime"),
            Some(&json!("2030-01-01T00:00:10Z"))
        );

        // A node that has gone counts no more.
        known.take(Of::Reports, Event::Delete(report("a", "InForce", "")));
        let status = written(&mut known, 1, at(30));
        assert_eq!(status.pointer("/nodes/total"), Some(&json!(1)));
        // Of another generation nothing is known yet.
        known.take(Of::Policies, Event::Apply(policy(2, &status)));
        let status = written(&mut known, 2, at(40));
        assert_eq!(status.pointer("/conditions/0/reason"), Some(&json!("Waiting")));
        assert_eq!(status.get("observedGeneration"), Some(&json!(2)));
    }

    #[test]
    fn others_conditions_stay() {
        let mut known = whole();
        let other = json!({"type": "Reviewed", "status": "True", "reason": "r", "message": "m", "lastTransitionTime": "2029-01-01T00:00:00Z"});
        known.take(
            Of::Policies,
            Event::Apply(policy(1, &json!({"conditions": [other]}))),
        );
        let status = written(&mut known, 1, at(0));
        assert_eq!(status.pointer("/conditions/0"), Some(&other));
        assert_eq!(status.pointer("/conditions/1/type"), Some(&json!("Accepted")));
    }

    #[test]
    fn what_a_new_list_leaves_out_is_gone() {
        let mut known = whole();
        known.take(Of::Policies, Event::Apply(policy(1, &Value::Null)));
        known.take(Of::Policies, Event::Init);
        assert_eq!(known.due(at(0)).len(), 1, "while the list is told");
        known.take(Of::Policies, Event::InitDone);
        assert!(known.due(at(0)).is_empty());
    }
}
