use anyhow::{Context, Result, ensure};

use super::*;

const TABLE: &str = include_str!("../../../../../../tests/api/requests.txt");

/// A request as the table writes it.
fn described(typed: &Typed) -> String {
    let request = &typed.request;
    let mut words = vec![request.verb.to_string()];
    match (&request.subject, typed.doubt) {
        (ApiSubject::Unknown, Some(doubt)) => return format!("unknown: {}", doubt.as_str()),
        (ApiSubject::Unknown, None) => return "unknown without a reason".to_owned(),
        (_, Some(doubt)) => return format!("known, but for {}", doubt.as_str()),
        (ApiSubject::Path(path), None) => words.push(format!("path {path}")),
        (ApiSubject::Resource(resource), None) => {
            let slash = if resource.group.is_empty() { "" } else { "/" };
            words.push(format!("{}{slash}{}", resource.group, resource.version));
            words.push(match &resource.subresource {
                Some(subresource) => format!("{}/{subresource}", resource.resource),
                None => resource.resource.clone(),
            });
            for (key, value) in [
                ("ns", &resource.namespace),
                ("name", &resource.name),
                ("rest", &resource.proxied),
                ("labels", &resource.label_selector),
                ("fields", &resource.field_selector),
            ] {
                words.extend(value.as_ref().map(|value| format!("{key}={value}")));
            }
            if let Some(session) = &resource.session {
                words.extend(session.container.as_ref().map(|name| format!("container={name}")));
                if !session.command.is_empty() {
                    words.push(format!("command={:?}", session.command));
                }
                if !session.ports.is_empty() {
                    words.push(format!("ports={:?}", session.ports));
                }
                words.extend(session.tty.then(|| "tty".to_owned()));
                words.extend(session.stdin.then(|| "stdin".to_owned()));
            }
        }
    }
    words.extend(request.dry_run.then(|| "dry-run".to_owned()));
    words.join(" ")
}

#[test]
fn requests_are_typed_as_the_table_says() -> Result<()> {
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in TABLE
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (request, expected) = line.split_once(" => ").context(line)?;
        let expected = expected
            .split_once(" @ ")
            .map_or(expected, |(expected, _)| expected);
        let (method, target) = request.split_once(' ').context(line)?;
        let (method, body) = match method.strip_suffix("+body") {
            Some(method) => (method, true),
            None => (method, false),
        };
        let found = described(&type_request(method, target, body));
        if found != expected {
            wrong.push(format!("{request} => {found}\n    not {expected}"));
        }
        count += 1;
    }
    ensure!(
        wrong.is_empty(),
        "{} of {count}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    ensure!(count > 500, "only {count} requests");
    Ok(())
}

#[test]
fn what_no_line_of_text_can_hold_is_unknown() {
    for (method, target, doubt) in [
        ("GET", "", Doubt::Form),
        ("", "/healthz", Doubt::Method),
        ("GET", "/api/v1/pods x", Doubt::Byte),
        ("GET", "/api/v1/pods\0", Doubt::Byte),
        ("GET", "/api/v1/pods\r\n", Doubt::Byte),
        ("GET", "/api/v1/pods\u{7f}", Doubt::Byte),
        ("GET", "/api/v1/pöds", Doubt::Byte),
        ("GET", "/api/v1/pods?watch=true ", Doubt::Byte),
        ("GET", "/api/v1/pods?x=ö", Doubt::Byte),
        ("GET", "/api/v1/pods?x\t", Doubt::Byte),
    ] {
        let typed = type_request(method, target, false);
        assert_eq!(typed.doubt, Some(doubt), "{method} {target:?}");
        assert_eq!(typed.request.subject, ApiSubject::Unknown, "{method} {target:?}");
    }
}

#[test]
fn targets_are_bounded() {
    let head = "/api/v1/namespaces/shop/pods/";
    let longest = format!("{head}{}", "a".repeat(MAX_TARGET - head.len()));
    assert_eq!(type_request("GET", &longest, false).doubt, None);
    assert_eq!(
        type_request("GET", &format!("{longest}a"), false).doubt,
        Some(Doubt::Long)
    );
    // What takes most of a target's length apart.
    let words = format!("{head}x/exec?{}", "command&".repeat(2000));
    let typed = type_request("POST", &words, false);
    assert!(
        matches!(&typed.request.subject, ApiSubject::Resource(resource)
            if resource.session.as_ref().is_some_and(|session| session.command.len() == 2000)),
        "{:?}",
        typed.doubt
    );
}

#[test]
fn a_proxied_object_is_told_without_its_scheme_and_port() {
    for (target, own) in [
        ("/api/v1/namespaces/shop/services/web/proxy", "web"),
        ("/api/v1/namespaces/shop/services/web:http/proxy/x", "web"),
        ("/api/v1/namespaces/shop/services/https:web:8443/proxy/x", "web"),
        ("/api/v1/namespaces/shop/services/https%3Aweb%3A8443/proxy", "web"),
        ("/api/v1/namespaces/shop/services/:web:/proxy", "web"),
        ("/api/v1/namespaces/shop/pods/web-0:8080/proxy/", "web-0"),
        ("/api/v1/nodes/https:one:10250/proxy/pods", "one"),
        // Elsewhere a colon is a part of the name.
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node",
            "system:node",
        ),
        ("/api/v1/namespaces/shop/services/web:http", "web:http"),
    ] {
        let ApiSubject::Resource(resource) = type_request("GET", target, false).request.subject else {
            panic!("{target} isn't typed");
        };
        assert_eq!(resource.object_name(), Some(own), "{target}");
    }
}

#[test]
fn doubts_have_names_of_their_own() {
    let mut names: Vec<_> = Doubt::ALL.iter().map(|doubt| doubt.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Doubt::ALL.len());
    let mut texts: Vec<_> = Doubt::ALL.iter().map(ToString::to_string).collect();
    texts.sort_unstable();
    texts.dedup();
    assert_eq!(texts.len(), Doubt::ALL.len());
}

#[test]
fn the_guide_has_each_doubt() {
    let guide = include_str!("../../../../../../docs/kubernetes.md");
    let section = guide
        .split("## What can't be told")
        .nth(1)
        .and_then(|rest| rest.split("\n## ").next())
        .unwrap();
    let rows: Vec<_> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    assert_eq!(rows, Doubt::ALL.map(Doubt::as_str));
}
