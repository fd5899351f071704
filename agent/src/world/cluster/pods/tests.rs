use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::kept::{Kept, read, write};
use super::*;

const HASH: &str = "0123456789abcdef0123456789abcdef";
const UID: &str = "1f0c2b7e-0a5d-4b9e-8b1f-2f6d7c3e9a10";

fn pod(uid: &str, node: &str, annotations: &Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": "web", "uid": uid, "labels": {"app": "web"}, "annotations": annotations},
        "spec": {"nodeName": node, "serviceAccountName": "web", "containers": []},
    }))
    .unwrap()
}

fn namespaces() -> Namespaces {
    Namespaces {
        exempt: vec!["kube-system".to_owned()],
        mode: Mode::Observe,
        except: vec!["shop".to_owned()],
    }
}

#[test]
fn a_pod_of_another_node_is_none_of_this_one() {
    assert!(Kept::of(&pod(UID, "one", &json!({})), "one").is_some());
    assert!(Kept::of(&pod(UID, "two", &json!({})), "one").is_none());
    assert!(Kept::of(&Pod::default(), "one").is_none());
}

#[test]
fn a_static_pod_is_known_by_kubelets_hash() {
    let mirror = json!({"kubernetes.io/config.hash": HASH, "kubernetes.io/config.mirror": HASH});
    let kept = Kept::of(&pod(UID, "one", &mirror), "one").unwrap();
    assert_eq!((kept.key.as_str(), kept.uid.as_str()), (HASH, UID));
}

#[test]
fn no_annotation_makes_a_pod_another_one() {
    // Whoever may create a pod may write these.
    for claimed in [UID, "1F0C2B7E0A5D4B9E8B1F2F6D7C3E9A1", "", "x"] {
        let own = "aaaaaaaa-0a5d-4b9e-8b1f-2f6d7c3e9a10";
        let annotations =
            json!({"kubernetes.io/config.hash": claimed, "kubernetes.io/config.mirror": claimed});
        let kept = Kept::of(&pod(own, "one", &annotations), "one").unwrap();
        assert_eq!(kept.key, own, "{claimed:?}");
    }
    let alone = json!({"kubernetes.io/config.hash": HASH});
    assert_eq!(Kept::of(&pod(UID, "one", &alone), "one").unwrap().key, UID);
}

#[test]
fn where_two_pods_claim_a_cgroup_it_is_nobodys() {
    let mirror = json!({"kubernetes.io/config.hash": HASH, "kubernetes.io/config.mirror": HASH});
    let mut pods = BTreeMap::new();
    for uid in [UID, "aaaaaaaa-0a5d-4b9e-8b1f-2f6d7c3e9a10"] {
        keep(&mut pods, &pod(uid, "one", &mirror), "one");
    }
    assert!(!by_key(&pods, &namespaces()).contains_key(HASH));
}

#[test]
fn namespaces_say_what_policies_do() {
    let namespaces = namespaces();
    assert_eq!(namespaces.mode("shop"), Mode::Enforce);
    assert_eq!(namespaces.mode("other"), Mode::Observe);
    let kept = Kept::of(&pod(UID, "one", &json!({})), "one").unwrap();
    let listed = kept.listed(&namespaces);
    assert!(!listed.exempt && !listed.host_network);
    assert_eq!(listed.info.mode, Mode::Enforce);
    let exempt = Kept {
        namespace: "kube-system".to_owned(),
        ..kept
    };
    assert!(exempt.listed(&namespaces).exempt);
}

#[test]
fn what_is_kept_is_read_again_and_what_is_another_nodes_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pods.json");
    assert!(read(&file, "one").unwrap().is_empty());
    let kept = vec![Kept::of(&pod(UID, "one", &json!({})), "one").unwrap()];
    write(&file, "one", kept.clone()).unwrap();
    assert_eq!(read(&file, "one").unwrap(), kept);
    assert!(read(&file, "two").unwrap().is_empty());
    let whole = std::fs::read(&file).unwrap();
    for length in 0..whole.len() {
        std::fs::write(&file, whole.get(..length).unwrap()).unwrap();
        assert!(read(&file, "one").is_err(), "{length}");
    }
}
