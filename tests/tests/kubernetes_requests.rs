//! Requests of pods to a real API server: what is allowed passes as it is, what isn't is refused as the server itself would.

use std::io::{BufRead as _, BufReader};
use std::process::{Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::ApiLab;
use bailiff_tests::masked::text;
use serde_json::Value;

/// Reads of most things and writes of config maps; no secrets, no deletes of pods.
const RULES: &str = r#"    - name: discover
      requests: [{verbs: [get], paths: ["*"]}]
      action: Allow
    - name: look
      requests: [{verbs: [get, list, watch], groups: ["*"], resources: [pods, configmaps, serviceaccounts, deployments, events]}]
      action: Allow
    - name: notes
      requests: [{verbs: [create, update, patch, delete], groups: [""], resources: [configmaps]}]
      action: Allow
    - name: asks-what-it-may
      requests: [{verbs: [create], groups: [authorization.k8s.io], resources: [selfsubjectaccessreviews, selfsubjectrulesreviews]}]
      action: Allow
    - name: no-deletes
      requests: [{verbs: [delete, deletecollection], resources: [pods]}]
      action: Deny
      message: agents don't delete pods; ask the platform team
    - name: stolen
      requests: [{tokens: [Stolen]}]
      action: Deny
      message: this token was made for another pod
"#;

fn same(enforced: &Output, direct: &Output, what: &str) -> Result<()> {
    ensure!(
        direct.status.success(),
        "{what}, direct: {}",
        text(&direct.stderr)
    );
    ensure!(
        enforced.status.success(),
        "{what}, through the agent: {}",
        text(&enforced.stderr)
    );
    ensure!(
        enforced.stdout == direct.stdout,
        "{what} differs:\n{}\n--- direct\n{}",
        text(&enforced.stdout),
        text(&direct.stdout)
    );
    Ok(())
}

/// Ages pass by the second, and resource versions with whatever happens in the cluster: what differs is asked again.
fn in_the_end_same(what: &str, ask: impl Fn() -> Result<(Output, Output)>) -> Result<()> {
    let mut outcome = Ok(());
    for _ in 0..15 {
        let (enforced, direct) = ask()?;
        outcome = same(&enforced, &direct, what);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

#[test]
fn kubectl_gets_through_the_agent_what_it_gets_directly() -> Result<()> {
    let Some(lab) = ApiLab::new("same-answers", "edit", RULES)? else {
        return Ok(());
    };
    lab.cluster.kubectl(&[
        "create",
        "configmap",
        "-n",
        &lab.namespace,
        "notes",
        "--from-literal=a=1",
    ])?;
    for args in [
        "get pods",
        "get pods -o wide",
        "get pods -o json",
        "get pods -o yaml",
        "get pod agent -o json",
        "get configmaps,serviceaccounts -o yaml",
        "get deployments",
        "get --raw /version",
        "get --raw /openapi/v3",
        "api-resources --cached=false --sort-by=name",
        "auth can-i list pods",
        "auth can-i --list",
        "describe configmap notes",
        "explain pod.spec.containers",
    ] {
        let args: Vec<&str> = args.split(' ').collect();
        let what = args.join(" ");
        in_the_end_same(&what, || Ok((lab.kubectl(&args)?, lab.kubectl_direct(&args)?)))?;
    }
    Ok(())
}

#[test]
fn bodies_are_the_same_by_both_versions_of_http_and_in_every_form() -> Result<()> {
    let Some(lab) = ApiLab::new("same-bytes", "edit", RULES)? else {
        return Ok(());
    };
    let pods = format!("/api/v1/namespaces/{}/pods", lab.namespace);
    let table = "Accept: application/json;as=Table;v=v1;g=meta.k8s.io";
    for version in ["--http1.1", "--http2"] {
        for (header, path) in [
            ("Accept: application/json", pods.as_str()),
            ("Accept: application/vnd.kubernetes.protobuf", &pods),
            ("Accept: application/yaml", &pods),
            (table, &pods),
            ("Accept-Encoding: gzip", "/openapi/v2"),
            ("Accept: application/json", "/openapi/v2"),
        ] {
            let options = [
                version,
                "-H",
                header,
                "-w",
                "%{http_version} %{http_code} %{content_type}",
            ];
            in_the_end_same(&format!("{version} {header} {path}"), || {
                let direct = lab.curl_direct(&options, path)?;
                ensure!(direct.stdout.len() > 100, "{}", text(&direct.stderr));
                Ok((lab.curl_in("agent", &options, path)?, direct))
            })?;
        }
    }
    Ok(())
}

#[test]
fn what_kubectl_writes_arrives() -> Result<()> {
    let Some(lab) = ApiLab::new("writes", "edit", RULES)? else {
        return Ok(());
    };
    let done = |args: &[&str]| -> Result<String> {
        let output = lab.kubectl(args)?;
        ensure!(
            output.status.success(),
            "{args:?}: {}{}",
            text(&output.stderr),
            text(&output.stdout)
        );
        Ok(text(&output.stdout))
    };
    done(&["create", "configmap", "notes", "--from-literal=a=1"])?;
    done(&["patch", "configmap", "notes", "-p", r#"{"data":{"b":"2"}}"#])?;
    let manifest = lab.path("notes.yaml");
    std::fs::write(
        &manifest,
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\ndata: {c: '3'}\n",
    )?;
    let manifest = manifest.display().to_string();
    done(&["apply", "--server-side", "--force-conflicts", "-f", &manifest])?;
    let data = lab.cluster.kubectl(&[
        "get",
        "configmap",
        "-n",
        &lab.namespace,
        "notes",
        "-o",
        "jsonpath={.data}",
    ])?;
    ensure!(data == r#"{"a":"1","b":"2","c":"3"}"#, "{data}");
    done(&["delete", "configmap", "notes"])?;
    Ok(())
}

#[test]
fn a_refusal_is_a_status_that_kubectl_prints_and_nothing_arrives() -> Result<()> {
    let Some(lab) = ApiLab::new("refusals", "admin", RULES)? else {
        return Ok(());
    };
    let refused = lab.kubectl(&["delete", "pod", "agent"])?;
    let said = text(&refused.stderr);
    ensure!(!refused.status.success(), "{said}");
    ensure!(
        said.contains(
            "Error from server (Forbidden): pods \"agent\" is forbidden: agents don't delete pods; ask the platform team (policy agents, rule no-deletes)"
        ),
        "{said}"
    );
    let secrets = lab.kubectl(&["get", "secrets"])?;
    let said = text(&secrets.stderr);
    ensure!(
        said.contains("Error from server (Forbidden)") && said.contains("no rule allows list secrets"),
        "{said}"
    );
    // The same is allowed by the cluster itself.
    ensure!(lab.kubectl_direct(&["get", "secrets"])?.status.success());
    lab.cluster
        .kubectl(&["get", "pod", "-n", &lab.namespace, "agent"])?;

    // In protobuf where the client asks for it: client-go's own decoder is kubectl's, so the bytes are looked at here.
    let path = format!("/api/v1/namespaces/{}/secrets", lab.namespace);
    let accept = [
        "-H",
        "Accept: application/vnd.kubernetes.protobuf, application/json",
    ];
    let status = lab.curl_in("agent", &accept, &path)?;
    ensure!(status.stdout.starts_with(b"k8s\0"), "{}", text(&status.stdout));
    ensure!(text(&status.stdout).contains("Forbidden"));

    // The server's own audit log has nothing of what was refused.
    let reached = lab.cluster.audit()?.into_iter().any(|event| {
        event.pointer("/objectRef/namespace") == Some(&Value::from(lab.namespace.as_str()))
            && event.pointer("/verb") == Some(&Value::from("delete"))
            && event.pointer("/objectRef/resource") == Some(&Value::from("pods"))
    });
    ensure!(!reached, "a refused request reached the API server");
    Ok(())
}

#[test]
fn a_watch_streams() -> Result<()> {
    let Some(lab) = ApiLab::new("watches", "edit", RULES)? else {
        return Ok(());
    };
    let mut watch = lab
        .kubectl_in(
            "agent",
            "agent",
            &[
                "get",
                "configmaps",
                "-w",
                "-o",
                "name",
                "--field-selector",
                "metadata.name!=kube-root-ca.crt",
            ],
        )?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(watch.stdout.take().context("no output")?).lines();
    for name in ["first", "second", "third"] {
        lab.cluster
            .kubectl(&["create", "configmap", "-n", &lab.namespace, name])?;
        // Each comes before the next is made: nothing waits for the answer's end, which never comes.
        let line = lines.next().context("the watch has ended")??;
        ensure!(line == format!("configmap/{name}"), "{line}");
    }
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(watch.id().try_into()?),
        nix::sys::signal::Signal::SIGTERM,
    )?;
    watch.wait()?;
    Ok(())
}

#[test]
fn a_policy_that_observes_decides_nothing_and_says_what_it_would_have_done() -> Result<()> {
    let Some(lab) = ApiLab::new("observed", "edit", RULES)? else {
        return Ok(());
    };
    let observing = "apiVersion: bailiff.dev/v1alpha1\nkind: Policy\nmetadata: {name: trial}\nspec:\n  targets: [api]\n  mode: Observe\n  \
         rules:\n    - {name: no-pods, requests: [{resources: [pods]}], action: Deny, message: tried out}\n";
    std::fs::write(lab.enforced.config().join("trial.yaml"), observing)?;
    let listed = lab.kubectl(&["get", "pods"])?;
    ensure!(listed.status.success(), "{}", text(&listed.stderr));
    let events = lab.audited()?;
    let event = events
        .iter()
        .find(|event| event.pointer("/objectRef/resource").and_then(Value::as_str) == Some("pods"))
        .context("no event")?;
    let of = |name: &str| {
        event
            .pointer(&format!("/annotations/bailiff.dev~1{name}"))
            .and_then(Value::as_str)
    };
    ensure!(of("verdict") == Some("allow"), "{event:#}");
    ensure!(
        of("would-be") == Some("deny (policy trial, rule no-pods)"),
        "{event:#}"
    );
    Ok(())
}

#[test]
fn a_token_of_another_pod_is_told_and_refused() -> Result<()> {
    let Some(lab) = ApiLab::new("stolen", "edit", RULES)? else {
        return Ok(());
    };
    // By its own token it may.
    lab.write_kubeconfig("other", "other")?;
    let own = lab.kubectl_in("other", "other", &["get", "pods"])?.output()?;
    ensure!(own.status.success(), "{}", text(&own.stderr));
    // The pod `other` has got hold of the token that was made for `agent`.
    let path = format!("/api/v1/namespaces/{}/pods", lab.namespace);
    let stolen = lab.curl_in("other", &[], &path)?;
    let said = text(&stolen.stdout);
    ensure!(
        said.contains("\"reason\":\"Forbidden\"") && said.contains("this token was made for another pod"),
        "{said}{}",
        text(&stolen.stderr)
    );
    // Nobody else is bothered.
    let held = lab.curl_in("agent", &[], &path)?;
    ensure!(text(&held.stdout).contains("PodList"), "{}", text(&held.stdout));

    let events = lab.audited()?;
    let of = |state: &str| {
        events
            .iter()
            .filter(|event| {
                event
                    .pointer("/annotations/bailiff.dev~1token")
                    .and_then(Value::as_str)
                    == Some(state)
            })
            .collect::<Vec<_>>()
    };
    let (told, bound) = (of("stolen"), of("bound"));
    ensure!(!told.is_empty() && !bound.is_empty(), "{events:#?}");
    for event in told {
        let at = |place: &str| event.pointer(place).and_then(Value::as_str);
        let pod = format!("{}/other", lab.namespace);
        ensure!(at("/annotations/bailiff.dev~1pod") == Some(&pod), "{event:#}");
        ensure!(
            at("/annotations/bailiff.dev~1verdict") == Some("deny"),
            "{event:#}"
        );
        let made_for = at("/user/extra/authentication.kubernetes.io~1pod-name/0");
        ensure!(made_for == Some("agent"), "{event:#}");
        let user = format!("system:serviceaccount:{}:agent", lab.namespace);
        ensure!(at("/user/username") == Some(&user), "{event:#}");
    }
    let record = serde_json::to_string(&events)?;
    for name in ["agent", "other"] {
        ensure!(!record.contains(&lab.token(name)?), "the record holds a token");
    }
    Ok(())
}

#[test]
fn the_record_tells_what_the_servers_own_audit_log_tells() -> Result<()> {
    let Some(lab) = ApiLab::new("audits", "edit", RULES)? else {
        return Ok(());
    };
    for args in [
        "get pods",
        "get pod agent",
        "create configmap notes",
        "get configmaps -l a=b",
        "delete configmap notes",
        "get --raw /version",
    ] {
        let args: Vec<&str> = args.split(' ').collect();
        let output = lab.kubectl(&args)?;
        ensure!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    }
    let events = lab.audited()?;
    ensure!(events.len() > 5, "{events:#?}");
    for event in events {
        let server = lab.cluster.audited_too(&event)?;
        for place in [
            "/verb",
            "/requestURI",
            "/objectRef/resource",
            "/objectRef/namespace",
            "/objectRef/name",
            "/objectRef/apiGroup",
            "/objectRef/apiVersion",
            "/objectRef/subresource",
            "/responseStatus/code",
            "/user/username",
            "/user/extra/authentication.kubernetes.io~1pod-uid",
            "/userAgent",
        ] {
            // Of what is created, the server tells the name that stands in the body.
            let in_body = place == "/objectRef/name" && event.get("verb") == Some(&Value::from("create"));
            ensure!(
                in_body || event.pointer(place) == server.pointer(place),
                "{place}: {:?}, and the server says {:?}\n{event:#}\n{server:#}",
                event.pointer(place),
                server.pointer(place)
            );
        }
    }
    Ok(())
}
