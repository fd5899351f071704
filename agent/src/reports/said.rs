//! What nodes say of objects, read from their reports, in little room: a thousand nodes may say it of a thousand objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use bailiff_policy::report::{
    Judged, NodeFacts, NodeReport, ObjectReport, ObjectState, PoliciesFrom, Taken, judge,
};
use jiff::Timestamp;
use kube::api::DynamicObject;

/// What one node says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    /// When it said so, in seconds since 1970.
    written: i64,
    /// In the order of the uids.
    objects: Vec<(u128, Taken)>,
}

/// The report that an object holds; `None` where it isn't one that is understood.
pub(crate) fn report_of(object: &DynamicObject) -> Option<NodeReport> {
    serde_json::from_value(object.data.get("status")?.clone()).ok()
}

impl Said {
    /// `None` of a node that doesn't take the cluster's objects.
    pub(crate) fn of(report: NodeReport) -> Option<Self> {
        if report.policies_from == PoliciesFrom::Files {
            return None;
        }
        let mut objects: Vec<_> = report
            .targets
            .into_iter()
            .chain(report.policies)
            .filter_map(|object| Some((number(&object.uid)?, taken(object))))
            .collect();
        objects.sort_by_key(|(uid, _)| *uid);
        objects.shrink_to_fit();
        Some(Self {
            written: seconds(&report.written),
            objects,
        })
    }

    /// Whether its agent has written lately.
    pub(crate) fn is_heard(&self, now: i64) -> bool {
        is_heard(self.written, now)
    }

    fn taken(&self, uid: u128) -> Option<&Taken> {
        let place = self.objects.binary_search_by_key(&uid, |(uid, _)| *uid).ok()?;
        self.objects.get(place).map(|(_, taken)| taken)
    }
}

/// What all of them make of an object.
pub(crate) fn judge_object(uid: &str, generation: i64, nodes: &BTreeMap<String, Said>, now: i64) -> Judged {
    let uid = number(uid);
    judge(
        generation,
        nodes.iter().map(|(node, said)| NodeFacts {
            node,
            is_heard: said.is_heard(now),
            taken: uid.and_then(|uid| said.taken(uid)),
        }),
    )
}

/// Whether what was written then is new enough to hold.
pub(crate) fn is_heard(written: i64, now: i64) -> bool {
    now.saturating_sub(written) < super::SILENT_SECONDS
}

/// A time as reports have it, in seconds since 1970; long ago where it is none.
pub(crate) fn seconds(time: &str) -> i64 {
    time.parse::<Timestamp>().map_or(0, Timestamp::as_second)
}

/// Uids are numbers of 128 bits, in hexadecimal and with dashes.
fn number(uid: &str) -> Option<u128> {
    u128::from_str_radix(&uid.replace('-', ""), 16).ok()
}

fn taken(object: ObjectReport) -> Taken {
    let is_refused = object.state == ObjectState::Refused;
    Taken {
        generation: object.generation,
        state: object.state,
        why: is_refused.then(|| Arc::new((object.reason, object.mend))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const UID: &str = "6a0e1c52-93a1-4ed1-9d8e-0f5d7b1c2a3b";

    fn said(written: &str, from: &str, objects: &Value) -> Option<Said> {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "bailiff.dev/v1alpha1", "kind": "NodeReport", "metadata": {"name": "n"},
            "status": {
                "version": "1", "mode": "Observe", "started": written, "written": written,
                "dataPath": {"ready": true}, "policiesFrom": from,
                "pods": {"enforced": 0, "observed": 0, "exempt": 0, "notCovered": 0},
                "objects": {"targets": 0, "policies": 0, "refused": 0, "heldBack": 0},
                "policies": objects,
            },
        }))
        .unwrap();
        Said::of(report_of(&object).unwrap())
    }

    #[test]
    fn an_object_is_told_by_its_uid_and_generation() {
        let objects = json!([
            {"name": "b", "uid": "ffffffff-93a1-4ed1-9d8e-0f5d7b1c2a3b", "generation": 1, "state": "InForce"},
            {"name": "a", "uid": UID, "generation": 3, "state": "InForce"},
            {"name": "c", "uid": "no uid", "generation": 1, "state": "InForce"},
        ]);
        let written = "2030-01-01T00:00:00Z";
        let nodes = BTreeMap::from([("n".to_owned(), said(written, "Cluster", &objects).unwrap())]);
        let now = seconds(written);
        assert_eq!(judge_object(UID, 3, &nodes, now).status, "True");
        assert_eq!(judge_object(UID, 4, &nodes, now).reason, "Waiting");
        // Of the same name, and another.
        let other = UID.replace("6a", "7a");
        assert_eq!(judge_object(&other, 3, &nodes, now).reason, "Waiting");
        assert_eq!(judge_object(UID, 3, &nodes, now + 899).status, "True");
        assert_eq!(judge_object(UID, 3, &nodes, now + 900).reason, "Silent");
    }

    #[test]
    fn a_node_with_files_of_its_own_says_nothing_of_the_clusters_objects() {
        assert_eq!(said("2030-01-01T00:00:00Z", "Files", &json!([])), None);
    }

    #[test]
    fn what_is_no_report_is_none() {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "bailiff.dev/v1alpha1", "kind": "NodeReport", "metadata": {"name": "n"},
            "status": {"version": 1},
        }))
        .unwrap();
        assert_eq!(report_of(&object), None);
    }
}
