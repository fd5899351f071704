use std::fs;

use serde_json::json;

use super::*;

fn write(folder: &Path, kind: &str, name: &str, generation: i64, spec: &Value) {
    let object = json!({
        "apiVersion": "bailiff.dev/v1alpha1", "kind": kind,
        "metadata": {"name": name, "uid": format!("uid-{name}"), "generation": generation}, "spec": spec,
    });
    let file = folder.join(format!("{}-{name}.yaml", kind.to_ascii_lowercase()));
    fs::write(file, object.to_string()).unwrap();
}

fn target() -> Value {
    json!({"protocol": "postgres", "endpoints": ["10.0.0.5:5432"]})
}

fn policy(target: &str) -> Value {
    json!({"targets": [target], "rules": [{"name": "r", "effects": ["read"], "action": "Allow"}]})
}

fn states(findings: &Findings) -> Vec<(String, i64, ObjectState)> {
    let (_, targets, policies) = findings.found().objects();
    targets
        .into_iter()
        .chain(policies)
        .map(|report| (report.name, report.generation, report.state))
        .collect()
}

fn load(folder: &Path, findings: &Findings) {
    let sources = Sources::read(folder);
    match sources.load() {
        Ok(_) => findings.loaded(&sources),
        Err(errors) => findings.refused(&sources, &Wrong::Problems(&errors.0)),
    }
}

#[test]
fn who_is_at_fault_is_refused_and_what_waits_for_it_is_held_back() {
    use ObjectState::{HeldBack, InForce, Refused};
    let folder = tempfile::tempdir().unwrap();
    let findings = Findings::default();
    write(folder.path(), "Target", "db", 1, &target());
    write(folder.path(), "Policy", "a", 1, &policy("db"));
    load(folder.path(), &findings);
    let name = |name: &str| name.to_owned();
    assert_eq!(
        states(&findings),
        [(name("db"), 1, InForce), (name("a"), 1, InForce)]
    );
    assert_eq!(findings.revisions().objects, 1);
    load(folder.path(), &findings);
    assert_eq!(findings.revisions().objects, 1, "nothing has changed");

    write(folder.path(), "Policy", "wrong", 1, &policy("nowhere"));
    write(folder.path(), "Policy", "new", 1, &policy("db"));
    load(folder.path(), &findings);
    assert_eq!(
        states(&findings),
        [
            (name("db"), 1, InForce),
            (name("wrong"), 1, Refused),
            (name("new"), 1, HeldBack),
            (name("a"), 1, InForce),
        ]
    );
    let (counts, _, policies) = findings.found().objects();
    assert_eq!(
        (counts.targets, counts.policies, counts.refused, counts.held_back),
        (1, 1, 1, 1)
    );
    let told = policies.first().unwrap();
    assert!(
        told.reason.contains("nowhere") && !told.mend.is_empty(),
        "{told:?}"
    );

    write(folder.path(), "Policy", "wrong", 2, &policy("db"));
    load(folder.path(), &findings);
    assert!(states(&findings).iter().all(|(_, _, state)| *state == InForce));
}

#[test]
fn a_file_that_is_missing_here_is_told_of_the_object_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let findings = Findings::default();
    let mut with_file = target();
    with_file.as_object_mut().unwrap().insert(
        "credential".to_owned(),
        json!({"user": "u", "passwordFile": "/gone"}),
    );
    write(folder.path(), "Target", "db", 1, &target());
    write(folder.path(), "Target", "with", 1, &with_file);
    let error = FileError {
        whose: "the credential of target \"with\"".to_owned(),
        file: "/gone".into(),
        reason: "cannot be read".to_owned(),
        mend: "put it there",
    };
    findings.refused(&Sources::read(folder.path()), &Wrong::Files(&[error]));
    let (_, targets, _) = findings.found().objects();
    let told: Vec<_> = targets
        .iter()
        .map(|report| (report.name.as_str(), report.state, report.reason.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            ("with", ObjectState::Refused, "/gone: cannot be read"),
            ("db", ObjectState::HeldBack, ""),
        ]
    );
}

#[test]
fn files_of_people_are_no_objects() {
    let folder = tempfile::tempdir().unwrap();
    let text = "apiVersion: bailiff.dev/v1alpha1\nkind: Policy\nmetadata: {name: a}\nspec: {}\n";
    fs::write(folder.path().join("a.yaml"), text).unwrap();
    let findings = Findings::default();
    load(folder.path(), &findings);
    assert!(states(&findings).is_empty());
}
