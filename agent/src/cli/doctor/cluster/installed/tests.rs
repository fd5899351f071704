use serde_json::json;

use super::super::super::Outcome;
use super::*;

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

#[test]
fn definitions_are_compared_by_their_fields() {
    let own = own_definitions().unwrap();
    assert_eq!(own.len(), PLURALS.len());
    let target = own.first().unwrap();
    let fields = fields_of(target);
    for field in [".spec.endpoints", ".spec.tls.client.mode", ".spec.services.name"] {
        assert!(fields.contains(field), "{field}");
    }
    let mut older = target.clone();
    let spec = older.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties");
    spec.unwrap().as_object_mut().unwrap().remove("services").unwrap();
    let older = fields_of(&older);
    assert!(
        fields
            .difference(&older)
            .all(|field| field.starts_with(".spec.services"))
    );
    assert!(fields.len() > older.len());
    assert!(!is_established(target), "that comes of the API server");
}

#[test]
fn a_namespace_has_to_let_privileged_pods_be() {
    let space = |labels: Value| -> Namespace { object(json!({"metadata": {"name": "b", "labels": labels}})) };
    for (level, outcome) in [
        ("privileged", Outcome::Ok),
        ("baseline", Outcome::Fails),
        ("restricted", Outcome::Fails),
    ] {
        let labelled = space(json!({"pod-security.kubernetes.io/enforce": level}));
        assert_eq!(privileged("b", Some(&labelled)).outcome, outcome, "{level}");
    }
    assert_eq!(privileged("b", Some(&space(json!({})))).outcome, Outcome::Note);
    assert_eq!(privileged("b", None).outcome, Outcome::Note);
}

#[test]
fn a_rollout_is_done_where_each_node_has_a_ready_agent() {
    let agent = |wanted: i32, ready: i32, updated: i32, observed: i64| -> DaemonSet {
        object(json!({
            "metadata": {"name": "bailiff-agent", "generation": 2},
            "spec": {"selector": {}, "template": {}},
            "status": {
                "currentNumberScheduled": wanted, "desiredNumberScheduled": wanted, "numberMisscheduled": 0, "numberReady": ready,
                "updatedNumberScheduled": updated, "observedGeneration": observed,
            },
        }))
    };
    for (wanted, ready, updated, observed, outcome) in [
        (3, 3, 3, 2, Outcome::Ok),
        (3, 2, 3, 2, Outcome::Fails),
        (3, 3, 1, 2, Outcome::Note),
        (3, 3, 3, 1, Outcome::Fails),
        (0, 0, 0, 2, Outcome::Fails),
    ] {
        assert_eq!(rollout(&agent(wanted, ready, updated, observed)).outcome, outcome);
    }
}

#[test]
fn what_becomes_of_requests_is_told() {
    let request = |user: &str, status: Value| -> CertificateSigningRequest {
        object(json!({
            "metadata": {"name": "r"}, "spec": {"request": "", "signerName": SIGNER, "username": user}, "status": status,
        }))
    };
    let condition = |kind: &str| {
        let now = "2030-01-01T00:00:00Z";
        json!({"type": kind, "status": "True", "reason": "Rule", "message": "no", "lastUpdateTime": now, "lastTransitionTime": now})
    };
    let approved = || json!({"conditions": [condition("Approved")]});
    let issued = || json!({"conditions": [condition("Approved")], "certificate": "LQ=="});
    let told = |status: Value| signed(SIGNER, "a", &[request("a", status)]).outcome;
    assert_eq!(told(issued()), Outcome::Ok);
    assert_eq!(told(approved()), Outcome::Fails);
    assert_eq!(told(json!({})), Outcome::Fails);
    assert_eq!(told(json!({"conditions": [condition("Denied")]})), Outcome::Fails);
    // One that comes just now says nothing against those that were signed, and others' requests nothing at all.
    let mixed = [
        request("a", issued()),
        request("a", approved()),
        request("kubelet", json!({"conditions": [condition("Denied")]})),
    ];
    assert_eq!(signed(SIGNER, "a", &mixed).outcome, Outcome::Ok);
    assert_eq!(signed(SIGNER, "a", &[]).outcome, Outcome::Ok);
}

#[test]
fn a_class_has_to_be_there_and_high() {
    let class = |value: i32| -> PriorityClass { object(json!({"metadata": {"name": "c"}, "value": value})) };
    assert_eq!(priority("c", None).outcome, Outcome::Fails);
    assert_eq!(priority("c", Some(&class(10))).outcome, Outcome::Note);
    assert_eq!(priority("c", Some(&class(1_000_000_000))).outcome, Outcome::Ok);
}

#[test]
fn the_approvers_signer_is_read_of_its_arguments() {
    let spec: PodSpec =
        object(json!({"containers": [{"name": "a", "args": ["approver", "--signer=example.com/s"]}]}));
    assert_eq!(signer(&spec), Some("example.com/s"));
}
