//! Who a request acts as: impersonation by headers, and rules about verified users and groups.

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{ApiLab, Said, bailiff, check};
use serde_json::{Value, json};

const RULES: &str = r#"    - name: discover
      requests: [{verbs: [get], paths: ["*"]}, {verbs: [get], paths: ["*"], impersonates: {users: [jane]}}]
      action: Allow
    - name: own
      requests: [{verbs: [get, list], groups: [""], resources: [pods, "pods/*"]}]
      action: Allow
    - name: ask
      requests: [{verbs: [create], groups: [authorization.k8s.io], resources: [selfsubjectaccessreviews], impersonates: {users: [jane]}}]
      action: Allow
    - name: as-jane
      requests:
        - verbs: [get, list]
          groups: [""]
          resources: [pods]
          impersonates: {users: [jane, "system:serviceaccount:*"], groups: [developers], extra: {"example.com/*": [view]}}
      action: Allow
    - name: no-root
      requests: [{impersonates: {users: [root]}}]
      action: Deny
      message: nobody acts as root
    - name: no-masters
      requests: [{impersonates: {groups: ["system:masters"]}}]
      action: Deny
      message: nobody acts as a master
    - name: none-of-kube-system
      requests: [{impersonates: {groups: ["system:serviceaccounts:kube-system"]}}]
      action: Deny
      message: nobody acts as one of kube-system
"#;

/// The account of the pods may act as anybody by RBAC; what holds it back is policy.
fn lab(namespace: &str, rules: &str) -> Result<Option<ApiLab>> {
    let Some(lab) = ApiLab::new(namespace, "view", rules)? else {
        return Ok(None);
    };
    let name = format!("impersonator-{namespace}");
    let group = "rbac.authorization.k8s.io";
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name},
        "rules": [
            {"apiGroups": [""], "resources": ["users", "groups", "serviceaccounts"], "verbs": ["impersonate"]},
            {"apiGroups": ["authentication.k8s.io"], "resources": ["*"], "verbs": ["impersonate"]},
        ],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": "agent", "namespace": namespace}],
    });
    let view = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "acted-as", "namespace": namespace},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "view"},
        "subjects": [
            {"kind": "User", "name": "jane", "apiGroup": group}, {"kind": "User", "name": "root", "apiGroup": group},
            {"kind": "Group", "name": "developers", "apiGroup": group},
            {"kind": "Group", "name": "system:serviceaccounts", "apiGroup": group},
        ],
    });
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [role, binding, view]});
    lab.cluster.apply(&list.to_string())?;
    Ok(Some(lab))
}

fn text<'a>(event: &'a Value, path: &str) -> &'a str {
    event.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

#[test]
fn acting_as_another_is_a_part_of_what_is_decided_and_recorded() -> Result<()> {
    let Some(lab) = lab("acting", RULES)? else {
        return Ok(());
    };
    let agent = lab.enforced.start_with(&["--pod", "agent"])?;
    let auth = format!("Authorization: Bearer {}\r\n", lab.token("agent")?);
    let path = "/api/v1/namespaces/acting/pods";
    let mut pod = Said::connect(&lab, &agent, None)?;
    let masters = "nobody acts as a master";
    let cases = [
        ("", 200, "PodList"),
        ("Impersonate-User: jane\r\n", 200, "PodList"),
        ("IMPERSONATE-USER:   jane  \r\n", 200, "PodList"),
        (
            "Impersonate-User: jane\r\nimpersonate-group: developers\r\n",
            200,
            "PodList",
        ),
        (
            "Impersonate-User: jane\r\nConnection: Impersonate-User\r\n",
            400,
            "Connection header names",
        ),
        (
            "Impersonate-User: jane\r\nImpersonate-Extra-Example.com%2fScopes: view\r\n",
            200,
            "PodList",
        ),
        (
            "Impersonate-User: system:serviceaccount:acting:agent\r\n",
            200,
            "PodList",
        ),
        // By policy alone.
        (
            "Impersonate-User: jo\r\n",
            403,
            "no rule allows list pods in acting as jo",
        ),
        (
            "Impersonate-User: jane \u{e9}\r\n",
            403,
            "no rule allows list pods in acting as jane \u{e9}",
        ),
        ("Impersonate-User: root\r\n", 403, "nobody acts as root"),
        (
            "Connection: keep-alive, AUTHORIZATION\r\n",
            400,
            "Connection header names",
        ),
        (
            "Impersonate-User: jane\r\nImpersonate-Group: ops\r\n",
            403,
            "no rule allows",
        ),
        (
            "Impersonate-User: jane\r\nImpersonate-Group: developers,ops\r\n",
            403,
            "no rule allows",
        ),
        (
            "Impersonate-User: jane\r\nImpersonate-Group: developers\r\nImpersonate-Group: system:masters\r\n",
            403,
            masters,
        ),
        (
            "Impersonate-User: system:serviceaccount:kube-system:x\r\n",
            403,
            "one of kube-system",
        ),
        (
            "Impersonate-User: jane\r\nImpersonate-Uid: 1\r\n",
            403,
            "no rule allows",
        ),
        (
            "Impersonate-User: jane\r\nImpersonate-Extra-Example.com%2fScopes: edit\r\n",
            403,
            "no rule allows",
        ),
        (
            "Impersonate-User: jane\r\nImpersonate-Extra-Example%252ecom%2fScopes: view\r\n",
            403,
            "no rule allows",
        ),
        // What the API server would read in part, or not at all.
        (
            "Impersonate-User: jane\r\nImpersonate-User: root\r\n",
            400,
            "Impersonate-User is given several times",
        ),
        ("Impersonate-User:\r\n", 400, "is empty"),
        ("Impersonate-Group: developers\r\n", 400, "no Impersonate-User"),
        (
            "Impersonate-User: jane\r\nImpersonate-Group:\r\n",
            400,
            "is empty",
        ),
        (
            "Impersonate-User: jane\r\nImpersonate-Verb: x\r\n",
            400,
            "doesn't know",
        ),
    ];
    for (headers, code, expected) in cases {
        let answer = pod.get(path, &format!("{auth}{headers}"))?;
        ensure!(
            answer.code == code && answer.text.contains(expected),
            "{headers:?}: {}",
            answer.text
        );
    }
    // What comes behind a body is no header of the request, to the API server neither.
    let trailing = format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\n{auth}Trailer: Impersonate-User\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nImpersonate-User: root\r\n\r\n"
    );
    let answer = pod.say(&trailing)?;
    ensure!(answer.code == 200, "{}", answer.text);
    // A WebSocket is decided by the same headers.
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let answer = pod.get(
        &format!("{path}/agent/log?follow=1"),
        &format!("{auth}{upgrade}Impersonate-User: root\r\n"),
    )?;
    ensure!(
        answer.code == 403 && answer.text.contains("nobody acts as root"),
        "{}",
        answer.text
    );
    drop(pod);
    drop(agent);

    // Both records agree about as whom each was that passed, and no other passed.
    let ours = lab.audited()?;
    ensure!(ours.len() == cases.len() + 2, "{}", ours.len());
    let user = "/user/username";
    let mut passed = 0;
    for event in ours
        .iter()
        .filter(|event| event.pointer("/responseStatus/code") == Some(&json!(200)))
    {
        let id = text(event, "/auditID");
        let theirs = lab
            .cluster
            .audited("the request", |event| text(event, "/auditID") == id)?;
        ensure!(
            event.get("impersonatedUser") == theirs.get("impersonatedUser"),
            "{event:#}, {theirs:#}"
        );
        ensure!(text(event, user) == text(&theirs, user), "{event:#}, {theirs:#}");
        passed += 1;
    }
    ensure!(passed == 7, "{passed}");
    let as_root = lab
        .cluster
        .audit()?
        .into_iter()
        .any(|event| text(&event, "/impersonatedUser/username") == "root");
    ensure!(!as_root);
    let refused = ours
        .iter()
        .find(|event| text(event, "/impersonatedUser/username") == "root");
    ensure!(refused.is_some_and(|event| text(event, "/annotations/bailiff.dev~1rule") == "no-root"));
    Ok(())
}

#[test]
fn kubectl_acts_as_another_where_policy_lets_it() -> Result<()> {
    let Some(lab) = lab("acting-kubectl", RULES)? else {
        return Ok(());
    };
    for (args, expected) in [
        ("auth can-i list pods --as jane", "yes"),
        ("auth can-i list secrets --as jane", "no"),
        ("auth can-i list pods --as root", "nobody acts as root"),
        (
            "auth can-i list pods --as jane --as-group system:masters",
            "nobody acts as a master",
        ),
        ("get pods -o name --as jane", "pod/agent"),
        ("get pods --as jane --as-group ops", "(Forbidden)"),
    ] {
        let args: Vec<&str> = args.split(' ').collect();
        let output = lab.kubectl(&args)?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(said.contains(expected), "{args:?}: {said}");
    }
    // curl speaks HTTP/2.
    let path = "/api/v1/namespaces/acting-kubectl/pods";
    for (options, expected) in [
        (&["-H", "Impersonate-User: jane"][..], "PodList"),
        (&["-H", "Impersonate-User: root"], "nobody acts as root"),
        (
            &["-H", "Impersonate-User: jane", "-H", "Impersonate-User: root"],
            "several times",
        ),
        (&["-H", "Impersonate-User;"], "is empty"),
    ] {
        let output = lab.curl_in(
            "agent",
            &[&["-w", " HTTP/%{http_version}"], options].concat(),
            path,
        )?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            said.contains(expected) && said.ends_with("HTTP/2"),
            "{options:?}: {said}"
        );
    }
    Ok(())
}

/// What `bailiff sessions` says.
fn sessions(lab: &ApiLab, args: &[&str]) -> Result<String> {
    let mut command = std::process::Command::new(bailiff()?);
    command
        .arg("sessions")
        .args(args)
        .arg("--dir")
        .arg(lab.enforced.record());
    Ok(String::from_utf8(check(&mut command)?.stdout)?)
}

#[test]
fn open_sessions_tell_which_request_is_under_way_and_whose_and_can_be_ended() -> Result<()> {
    let Some(lab) = lab("under-way", WATCHED)? else {
        return Ok(());
    };
    let agent = lab.enforced.start_with(&["--pod", "agent"])?;
    let auth = format!("Authorization: Bearer {}\r\n", lab.token("agent")?);
    let mut pod = Said::connect(&lab, &agent, None)?;
    ensure!(pod.get("/api/v1/namespaces/under-way/pods", &auth)?.code == 200);
    let open = || -> Result<Value> {
        let text = sessions(&lab, &["list", "-o", "json"])?;
        Ok(serde_json::from_str(text.lines().next().context("no session")?)?)
    };
    let idle = open()?;
    ensure!(
        text(&idle, "/state") == "idle" && idle.get("operations") == Some(&json!(1)),
        "{idle:#}"
    );
    let id = text(&idle, "/session").to_owned();
    let watch = "/api/v1/namespaces/under-way/pods?watch=1";
    pod.begin(watch, &format!("{auth}Impersonate-User: jane\r\n"))?;
    let expected = "watch pods in under-way as jane by system:serviceaccount:under-way:agent";
    agent.wait_for("a watch under way", || {
        let now = open()?;
        Ok(text(&now, "/state") == "running" && text(&now, "/statement") == expected)
    })?;
    sessions(&lab, &["kill", &id, "--reason", "enough"])?;
    pod.until_closed();
    Ok(())
}

const WATCHED: &str = r#"    - name: watch
      requests: [{verbs: [list, watch], groups: [""], resources: [pods]}, {verbs: [watch], resources: [pods], impersonates: {users: [jane]}}]
      action: Allow
"#;

const WHOSE: &str = r#"    - name: own-account
      requests: [{verbs: [list], groups: [""], resources: [pods], identity: {users: ["system:serviceaccount:whose:*"]}}]
      action: Allow
    - name: other-namespaces
      requests: [{verbs: [list], groups: [""], resources: [configmaps], identity: {groups: ["system:serviceaccounts:other"]}}]
      action: Allow
    - name: services
      requests: [{verbs: [list], groups: [""], resources: [services]}]
      action: Allow
    - name: not-by-nobody
      requests: [{resources: [services], identity: {users: ["system:anonymous"]}}]
      action: Deny
      message: say who you are
"#;

#[test]
fn rules_see_whose_token_it_is() -> Result<()> {
    let Some(lab) = lab("whose", WHOSE)? else {
        return Ok(());
    };
    let agent = lab.enforced.start_with(&["--pod", "agent"])?;
    let auth = format!("Authorization: Bearer {}\r\n", lab.token("agent")?);
    let mut pod = Said::connect(&lab, &agent, None)?;
    let of = |resource: &str| format!("/api/v1/namespaces/whose/{resource}");
    for (resource, auth, code, expected) in [
        ("pods", auth.as_str(), 200, "PodList"),
        ("pods", "", 403, "no rule allows"),
        ("pods", "Authorization: Bearer a.b.c\r\n", 403, "no rule allows"),
        ("configmaps", &auth, 403, "no rule allows"),
        ("services", &auth, 200, "ServiceList"),
        ("services", "", 403, "say who you are"),
        // It may be anybody's.
        (
            "services",
            "Authorization: Bearer a.b.c\r\n",
            403,
            "say who you are",
        ),
    ] {
        let answer = pod.get(&of(resource), auth).context("no answer")?;
        ensure!(
            answer.code == code && answer.text.contains(expected),
            "{resource}: {}",
            answer.text
        );
    }
    Ok(())
}
