use bailiff_model::{ApiRequest, ApiSubject};

use super::path::PathProblem;
use super::*;
use crate::type_request;

fn mask(path: &str) -> FieldMask {
    FieldMask {
        objects: Objects {
            groups: None,
            resources: vec![Glob::new("secrets"), Glob::new("pods")],
            namespaces: None,
            names: None,
        },
        path: FieldPath::parse(path).unwrap(),
        action: MaskAction::Redact,
    }
}

fn masks(paths: &[&str]) -> FieldMasks {
    let masks: Vec<FieldMask> = paths.iter().map(|path| mask(path)).collect();
    FieldMasks::of(&masks, &[], "", "secrets").unwrap()
}

fn is_masked(masks: &FieldMasks, path: &[&str]) -> bool {
    let root = masks.root(Some("shop"), Some("db"));
    let place = path.iter().fold(root, |place, key| masks.member(place, key));
    masks.treatment(place) != FieldTreatment::Pass
}

#[test]
fn members_without_a_known_name_may_be_meant_unless_all_names_are_known() {
    let known = |name: &str| matches!(name, "data" | "stringData" | "spec" | "containers");
    let unnamed = |paths: &[&str], at: &[&str]| {
        let all = masks(paths);
        let root = all.root(None, None);
        all.unnamed(at.iter().fold(root, |place, key| all.member(place, key)), known)
    };
    assert!(!unnamed(&["data.key", "spec.containers.env"], &[]));
    assert!(!unnamed(&["data.key"], &["spec"]));
    // A name that the table doesn't have may be the new one's.
    assert!(unnamed(&["data.key", "newer.key"], &[]));
    assert!(unnamed(&["spec.containers.newer"], &["spec", "containers"]));
    assert!(unnamed(&["da*.key"], &[]));
    assert!(unnamed(&["data.**.key"], &["data"]));
    assert!(unnamed(&["data"], &["data"]));
}

#[test]
fn paths_are_followed_by_names() {
    let all = masks(&[
        "data.*-password",
        ".spec.containers[*].env[*].value",
        "**.args",
        "metadata.annotations[\"example.com/*\"]",
        "spec.template.**.token",
    ]);
    for path in [
        &["data", "db-password"][..],
        &["spec", "containers", "env", "value"],
        &["spec", "containers", "args"],
        &["args"],
        &["args", "below"],
        &["metadata", "annotations", "example.com/a.b"],
        &["spec", "template", "token"],
        &["spec", "template", "a", "b", "token", "c"],
    ] {
        assert!(is_masked(&all, path), "{path:?}");
    }
    for path in [
        &["data", "user"][..],
        &["data"],
        &["spec", "containers", "env", "name"],
        &["spec", "containers", "env", "valueFrom", "key"],
        &["metadata", "annotations", "other"],
        &["spec", "token"],
        &["token"],
    ] {
        assert!(!is_masked(&all, path), "{path:?}");
    }
}

#[test]
fn what_says_which_object_it_is_is_never_masked() {
    let all = masks(&["**.name", "metadata.*", "*.uid"]);
    for path in [
        &["metadata", "name"][..],
        &["metadata", "uid"],
        &["metadata", "labels", "name"],
        &["metadata", "managedFields", "name"],
        &["kind"],
    ] {
        assert!(!is_masked(&all, path), "{path:?}");
    }
    assert!(is_masked(&all, &["spec", "metadata", "name"]));
    assert!(is_masked(&all, &["metadata", "annotations", "name"]));
}

#[test]
fn places_that_lead_nowhere_pass() {
    let all = masks(&["data.key"]);
    let root = all.root(None, None);
    assert!(!all.passes(root));
    assert!(all.passes(all.member(root, "type")));
    assert!(all.passes(all.member(all.member(root, "data"), "other")));
}

#[test]
fn what_a_secret_is_written_by_is_masked_with_what_it_holds() {
    let all = masks(&["data.password"]);
    assert!(is_masked(&all, &["stringData", "password"]));
    assert!(!is_masked(&all, &["stringData", "user"]));
    let pods = FieldMasks::of(&[mask("data.password")], &[], "", "pods").unwrap();
    assert!(!is_masked(&pods, &["stringData", "password"]));
}

#[test]
fn events_are_the_same_in_both_of_their_groups() {
    let of = |written: &str, group: &str| {
        let objects = Objects {
            groups: Some(vec![Glob::new(written)]),
            resources: vec![Glob::new("events")],
            ..mask("message").objects
        };
        let one = FieldMask {
            objects,
            ..mask("message")
        };
        FieldMasks::of(&[one], &[], group, "events").is_some()
    };
    assert!(of("", "events.k8s.io") && of("events.k8s.io", "") && of("", ""));
    assert!(!of("", "example.com"));
}

#[test]
fn objects_are_told_by_namespace_and_name() {
    let one = FieldMask {
        objects: Objects {
            namespaces: Some(vec![Glob::new("prod-*")]),
            names: Some(vec![Glob::new("db")]),
            ..mask("data").objects
        },
        ..mask("data")
    };
    let masks = FieldMasks::of(&[one], &[], "", "secrets").unwrap();
    assert!(!masks.passes(masks.root(Some("prod-eu"), Some("db"))));
    assert!(!masks.passes(masks.root(None, None)));
    assert!(!masks.passes(masks.root(Some("prod-eu"), None)));
    assert!(masks.passes(masks.root(Some("test"), Some("db"))));
    assert!(masks.passes(masks.root(Some("prod-eu"), Some("web"))));
}

#[test]
fn what_is_no_path_is_told() {
    for (text, problem) in [
        ("", PathProblem::Empty),
        ("data..x", PathProblem::Empty),
        ("data.", PathProblem::Empty),
        ("spec.containers[0].image", PathProblem::Index),
        ("a[\"b", PathProblem::Open),
        ("a[\"b\"", PathProblem::Open),
        ("a[b]", PathProblem::Open),
        ("a]", PathProblem::Open),
        ("a[*]b", PathProblem::Open),
        ("*", PathProblem::Everything),
        ("**", PathProblem::Everything),
        ("*.**", PathProblem::Everything),
        ("kind", PathProblem::Identity),
        ("metadata.name", PathProblem::Identity),
        ("metadata.labels.app", PathProblem::Identity),
    ] {
        assert_eq!(FieldPath::parse(text), Err(problem), "{text:?}");
    }
}

fn request(method: &str, target: &str) -> ApiRequest {
    type_request(method, target, false).request
}

#[test]
fn requests_that_cannot_be_masked_are_refused() {
    let all = AllMasks {
        masks: vec![mask("spec.nodeName"), mask("data")],
        detects: Vec::new(),
    };
    for (target, unmaskable) in [
        ("/api/v1/nodes/n1/proxy/pods", Unmaskable::Kubelet),
        (
            "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1",
            Unmaskable::Selector,
        ),
        (
            "/api/v1/pods?fieldSelector=metadata.name%3Da,spec.nodeName!%3Dn1",
            Unmaskable::Selector,
        ),
        ("/api/v1/%73ecrets", Unmaskable::Unknown),
    ] {
        let request = request("GET", target);
        match all.asked(&request) {
            Asked::Unmaskable(found) => assert_eq!(found, unmaskable, "{target}"),
            other => panic!("{target}: {other:?}"),
        }
    }
    for target in [
        "/api/v1/namespaces/a/pods/b/log",
        "/api/v1/namespaces/a/configmaps/b",
        "/api/v1/namespaces/a/services/b/proxy/secrets",
        "/version",
    ] {
        let request = request("GET", target);
        assert!(!matches!(request.subject, ApiSubject::Unknown), "{target}");
        assert!(matches!(all.asked(&request), Asked::Nothing), "{target}");
    }
    for target in [
        "/api/v1/secrets?fieldSelector=metadata.name%3Da",
        "/api/v1/namespaces/a/pods/b/status",
        "/api/v1/pods?watch=1",
    ] {
        assert!(
            matches!(all.asked(&request("GET", target)), Asked::Fields(_)),
            "{target}"
        );
    }
}
