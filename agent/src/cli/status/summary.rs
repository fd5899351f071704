//! What follows from what the cluster has.

use std::collections::BTreeMap;

use bailiff_policy::report::{
    CertificateReport, CertificateState, Judged, NodeReport, ObjectCounts, PodCounts, PoliciesFrom,
};
use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde::Serialize;
use serde_json::Value;

use super::read::Cluster;
use crate::reports::said::{Said, is_heard, judge_object, report_of, seconds};

/// A certificate that nobody renews by itself is told so long before its end.
const ENDS_SOON: i64 = 14 * 86_400;

/// How all is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Summary {
    /// Whether all is well.
    pub(super) ok: bool,
    pub(super) nodes: Vec<NodeLine>,
    /// Pods that aren't covered; of one node some fifty.
    pub(super) not_covered: Vec<PodLine>,
    pub(super) targets: Vec<ObjectLine>,
    pub(super) policies: Vec<ObjectLine>,
    pub(super) certificates: Vec<CertificateLine>,
    /// What couldn't be told.
    pub(super) notes: Vec<String>,
}

/// How an agent is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) enum NodeState {
    Ready,
    NotReady,
    Silent,
    NoReport,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeLine {
    pub(super) name: String,
    pub(super) state: NodeState,
    /// Why it isn't ready.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) said: Option<NodeSaid>,
}

/// What a node says of itself.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeSaid {
    pub(super) version: String,
    pub(super) mode: bailiff_model::Mode,
    pub(super) started: String,
    pub(super) written: String,
    pub(super) pods: PodCounts,
    pub(super) policies_from: PoliciesFrom,
    pub(super) objects: ObjectCounts,
}

#[derive(Debug, Serialize)]
pub(super) struct PodLine {
    pub(super) node: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) reason: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ObjectLine {
    pub(super) name: String,
    pub(super) generation: i64,
    /// A target's protocol, or a policy's mode.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) about: String,
    #[serde(flatten)]
    pub(super) judged: Judged,
}

/// A certificate that is the same on some nodes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CertificateLine {
    pub(super) target: String,
    pub(super) role: String,
    pub(super) state: CertificateState,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) reason: String,
    /// The first of their ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) not_after: Option<String>,
    /// Whether somebody has to renew it now.
    pub(super) ends_soon: bool,
    pub(super) nodes: Vec<String>,
}

impl Summary {
    pub(super) fn of(cluster: Cluster, now: Timestamp) -> Self {
        let now = now.as_second();
        let mut notes = Vec::new();
        let (mut nodes, mut not_covered) = (BTreeMap::new(), Vec::new());
        let (mut said, mut certificates) = (BTreeMap::new(), BTreeMap::new());
        for object in &cluster.reports {
            let name = object.name_any();
            let Some(mut report) = report_of(object) else {
                notes.push(format!(
                    "the report of node {name} isn't understood: use a newer bailiff"
                ));
                continue;
            };
            not_covered.extend(report.not_covered.drain(..).map(|pod| PodLine {
                node: name.clone(),
                namespace: pod.namespace,
                name: pod.name,
                reason: pod.reason,
            }));
            for certificate in report.certificates.drain(..) {
                gather(&mut certificates, &name, certificate, now);
            }
            nodes.insert(name.clone(), node(&name, &report, now));
            if let Some(objects) = Said::of(report) {
                said.insert(name, objects);
            }
        }
        match cluster.nodes {
            None => notes.push("you may not list nodes: those without an agent aren't shown".to_owned()),
            Some(all) => {
                for name in all {
                    nodes.entry(name.clone()).or_insert_with(|| NodeLine {
                        name,
                        state: NodeState::NoReport,
                        reason: "no agent has reported from it".to_owned(),
                        said: None,
                    });
                }
            }
        }
        let objects = |objects: Vec<DynamicObject>, about: &str| -> Vec<ObjectLine> {
            objects
                .iter()
                .map(|object| {
                    let generation = object.metadata.generation.unwrap_or_default();
                    let uid = object.metadata.uid.as_deref().unwrap_or_default();
                    let about = object.data.pointer(about).and_then(Value::as_str);
                    ObjectLine {
                        name: object.name_any(),
                        generation,
                        about: about.unwrap_or_default().to_owned(),
                        judged: judge_object(uid, generation, &said, now),
                    }
                })
                .collect()
        };
        let mut summary = Self {
            ok: false,
            targets: objects(cluster.targets, "/spec/protocol"),
            policies: objects(cluster.policies, "/spec/mode"),
            nodes: nodes.into_values().collect(),
            not_covered,
            certificates: certificates.into_values().collect(),
            notes,
        };
        summary.ok = summary.is_well();
        summary
    }

    fn is_well(&self) -> bool {
        let is_uncovered = |node: &NodeLine| node.said.as_ref().is_some_and(|said| said.pods.not_covered > 0);
        !self.nodes.is_empty()
            && self
                .nodes
                .iter()
                .all(|node| node.state == NodeState::Ready && !is_uncovered(node))
            && self
                .targets
                .iter()
                .chain(&self.policies)
                .all(|object| object.judged.status != "False")
            && self.certificates.iter().all(CertificateLine::is_well)
    }
}

impl CertificateLine {
    pub(super) fn is_well(&self) -> bool {
        self.state == CertificateState::Good && !self.ends_soon
    }
}

fn node(name: &str, report: &NodeReport, now: i64) -> NodeLine {
    let (state, reason) = if !is_heard(seconds(&report.written), now) {
        let why = format!("it wrote last at {}", report.written);
        (NodeState::Silent, why)
    } else if report.data_path.ready {
        (NodeState::Ready, String::new())
    } else {
        (NodeState::NotReady, report.data_path.reason.clone())
    };
    NodeLine {
        name: name.to_owned(),
        state,
        reason,
        said: Some(NodeSaid {
            version: report.version.clone(),
            mode: report.mode,
            started: report.started.clone(),
            written: report.written.clone(),
            pods: report.pods,
            policies_from: report.policies_from,
            objects: report.objects,
        }),
    }
}

type Gathered = BTreeMap<(String, String, String, String), CertificateLine>;

fn gather(all: &mut Gathered, node: &str, certificate: CertificateReport, now: i64) {
    let ends_soon = match &certificate.not_after {
        Some(ends) if !certificate.renewed => seconds(ends).saturating_sub(now) < ENDS_SOON,
        _ => false,
    };
    let key = (
        certificate.target.clone(),
        certificate.role.clone(),
        format!("{:?} {ends_soon}", certificate.state),
        certificate.reason.clone(),
    );
    let line = all.entry(key).or_insert_with(|| CertificateLine {
        target: certificate.target,
        role: certificate.role,
        state: certificate.state,
        reason: certificate.reason,
        not_after: certificate.not_after.clone(),
        ends_soon,
        nodes: Vec::new(),
    });
    if let Some(ends) = certificate.not_after
        && line
            .not_after
            .as_ref()
            .is_none_or(|first| seconds(&ends) < seconds(first))
    {
        line.not_after = Some(ends);
    }
    line.nodes.push(node.to_owned());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const WRITTEN: &str = "2030-01-01T00:00:00Z";
    const UID: &str = "6a0e1c52-93a1-4ed1-9d8e-0f5d7b1c2a3b";

    fn report(node: &str, with: &Value) -> DynamicObject {
        let mut status = json!({
            "version": "1", "mode": "Observe", "started": WRITTEN, "written": WRITTEN,
            "dataPath": {"ready": true}, "policiesFrom": "Cluster",
            "pods": {"enforced": 1, "observed": 0, "exempt": 0, "notCovered": 0},
            "objects": {"targets": 0, "policies": 1, "refused": 0, "heldBack": 0},
            "policies": [{"name": "p", "uid": UID, "generation": 1, "state": "InForce"}],
        });
        let (into, more) = (status.as_object_mut().unwrap(), with.as_object().unwrap());
        into.extend(more.clone());
        serde_json::from_value(json!({
            "apiVersion": "bailiff.dev/v1alpha1", "kind": "NodeReport", "metadata": {"name": node}, "status": status,
        }))
        .unwrap()
    }

    fn summary(reports: Vec<DynamicObject>, nodes: &[&str], seconds: i64) -> Summary {
        let policy = json!({
            "apiVersion": "bailiff.dev/v1alpha1", "kind": "Policy",
            "metadata": {"name": "p", "uid": UID, "generation": 1}, "spec": {"mode": "Enforce"},
        });
        let cluster = Cluster {
            reports,
            targets: Vec::new(),
            policies: vec![serde_json::from_value(policy).unwrap()],
            nodes: Some(nodes.iter().map(|name| (*name).to_owned()).collect()),
        };
        let now = WRITTEN.parse::<Timestamp>().unwrap().as_second() + seconds;
        Summary::of(cluster, Timestamp::from_second(now).unwrap())
    }

    #[test]
    fn all_is_well_where_each_node_says_so() {
        let both = || vec![report("a", &json!({})), report("b", &json!({}))];
        let told = summary(both(), &["a", "b"], 10);
        assert!(told.ok, "{told:?}");
        assert_eq!(told.policies.first().unwrap().judged.accepted, 2);
        // A node without an agent, and one that wasn't heard lately.
        let missing = summary(both(), &["a", "b", "c"], 10);
        assert!(!missing.ok);
        assert_eq!(missing.nodes.last().unwrap().state, NodeState::NoReport);
        let silent = summary(both(), &["a", "b"], 15 * 60);
        assert!(!silent.ok);
        assert_eq!(silent.nodes.first().unwrap().state, NodeState::Silent);
        assert!(!summary(Vec::new(), &[], 0).ok, "nothing is there");
    }

    #[test]
    fn what_isnt_well_is_told() {
        for with in [
            json!({"dataPath": {"ready": false, "reason": "kernel"}}),
            json!({"pods": {"enforced": 0, "observed": 0, "exempt": 0, "notCovered": 1}}),
            json!({"policies": [{"name": "p", "uid": UID, "generation": 1, "state": "Refused"}]}),
            json!({"certificates": [{"target": "t", "role": "client", "state": "Missing"}]}),
            json!({"certificates": [{"target": "t", "role": "client", "state": "Good", "notAfter": "2030-01-14T00:00:00Z"}]}),
        ] {
            let told = summary(vec![report("a", &with)], &["a"], 10);
            assert!(!told.ok, "{with}");
        }
        // The agent has the next one signed in time.
        let renewed = json!({"certificates": [
            {"target": "t", "role": "client", "state": "Good", "notAfter": "2030-01-01T10:00:00Z", "renewed": true},
            {"target": "t", "role": "target_ca", "state": "Good", "notAfter": "2031-01-01T10:00:00Z"},
        ]});
        let all = vec![report("a", &renewed), report("b", &renewed)];
        let told = summary(all, &["a", "b"], 10);
        assert!(told.ok, "{told:?}");
        assert_eq!(told.certificates.len(), 2);
        assert_eq!(told.certificates.first().unwrap().nodes, ["a", "b"]);
    }

    #[test]
    fn a_report_that_isnt_understood_is_told() {
        let told = summary(vec![report("a", &json!({"mode": "Dream"}))], &["a"], 10);
        assert!(!told.ok);
        assert!(
            told.notes
                .iter()
                .any(|note| note.contains("node a isn't understood"))
        );
    }
}
