//! What the language of rules about requests rests on, as a real API server does it. (docs/kubernetes.md: "Verbs that do the same",
//! "Sessions and side doors".)

use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::Cluster;
use serde_json::{Value, json};

/// What a raw request is answered, and whether it succeeded.
fn raw(cluster: &Cluster, verb: &str, path: &str, body: Option<&Value>) -> Result<(bool, String)> {
    let mut args = vec![verb, "--raw", path];
    if body.is_some() {
        args.extend(["-f", "-"]);
    }
    let mut child = cluster
        .kubectl_command(&args)?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("no input")?;
    if let Some(body) = body {
        input.write_all(body.to_string().as_bytes())?;
    }
    drop(input);
    let output = child.wait_with_output()?;
    let said = if output.status.success() {
        output.stdout
    } else {
        output.stderr
    };
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&said).trim_end().to_owned(),
    ))
}

/// The same, where it succeeds.
fn done(cluster: &Cluster, verb: &str, path: &str, body: Option<&Value>) -> Result<Value> {
    let (succeeded, said) = raw(cluster, verb, path, body)?;
    ensure!(succeeded, "{verb} {path}: {said}");
    Ok(serde_json::from_str(&said).unwrap_or(Value::String(said)))
}

fn exists(cluster: &Cluster, path: &str) -> Result<bool> {
    let (succeeded, said) = raw(cluster, "get", path, None)?;
    ensure!(succeeded || said.contains("NotFound"), "{path}: {said}");
    Ok(succeeded)
}

fn config_map(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": namespace, "name": name}})
}

#[test]
fn a_patch_and_an_update_make_what_isnt_there() -> Result<()> {
    let Some(cluster) = Cluster::shared()? else {
        return Ok(());
    };
    cluster.namespace("rules-make")?;
    let file = cluster.folder().join("made.json");
    std::fs::write(&file, config_map("rules-make", "applied").to_string())?;
    let file = file.to_str().context("no text")?;
    cluster.kubectl(&["apply", "--server-side", "-f", file])?;
    let of = |name: &'static str, verb: &'static str| {
        cluster.audited(name, move |event| {
            event.pointer("/objectRef/name").and_then(Value::as_str) == Some(name)
                && event.get("verb").and_then(Value::as_str) == Some(verb)
                && event.pointer("/responseStatus/code").and_then(Value::as_u64) == Some(201)
        })
    };
    of("applied", "patch")?;

    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"namespace": "rules-make", "name": "put"}, "spec": {},
    });
    let path = "/apis/coordination.k8s.io/v1/namespaces/rules-make/leases/put";
    ensure!(!exists(cluster, path)?);
    done(cluster, "replace", path, Some(&lease))?;
    ensure!(exists(cluster, path)?);
    of("put", "update")?;
    Ok(())
}

#[test]
fn an_object_is_read_and_removed_under_other_names() -> Result<()> {
    let Some(cluster) = Cluster::shared()? else {
        return Ok(());
    };
    cluster.namespace("rules-names")?;
    let pods = "/api/v1/namespaces/rules-names/pods";
    for name in ["read", "evicted"] {
        cluster.pod("rules-names", name, "default")?;
    }
    let image = |object: &Value, at: &str| {
        object
            .pointer(&format!("{at}/spec/containers/0/image"))
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let known = Some("none.invalid/none".to_owned());
    for under in ["", "/status", "/ephemeralcontainers", "/resize"] {
        let pod = done(cluster, "get", &format!("{pods}/read{under}"), None)?;
        ensure!(image(&pod, "") == known, "{under}: {pod}");
    }
    let list = done(
        cluster,
        "get",
        "/api/v1/pods?fieldSelector=metadata.name%3Dread",
        None,
    )?;
    ensure!(image(&list, "/items/0") == known, "{list}");
    let watch = done(
        cluster,
        "get",
        &format!("{pods}?watch=true&timeoutSeconds=1"),
        None,
    )?;
    ensure!(watch.to_string().contains("none.invalid/none"), "{watch}");

    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"namespace": "rules-names", "name": "evicted"},
    });
    done(
        cluster,
        "create",
        &format!("{pods}/evicted/eviction"),
        Some(&eviction),
    )?;
    ensure!(!exists(cluster, &format!("{pods}/evicted"))?);
    Ok(())
}

#[test]
fn events_are_the_same_in_both_groups() -> Result<()> {
    let Some(cluster) = Cluster::shared()? else {
        return Ok(());
    };
    cluster.namespace("rules-events")?;
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"namespace": "rules-events", "name": "told"},
        "involvedObject": {"namespace": "rules-events", "kind": "Pod", "name": "x"}, "message": "the same",
    });
    done(
        cluster,
        "create",
        "/api/v1/namespaces/rules-events/events",
        Some(&event),
    )?;
    let path = "/apis/events.k8s.io/v1/namespaces/rules-events/events/told";
    let other = done(cluster, "get", path, None)?;
    ensure!(
        other.get("note").and_then(Value::as_str) == Some("the same"),
        "{other}"
    );
    Ok(())
}

#[test]
fn an_object_of_a_namespace_is_reached_by_it_alone() -> Result<()> {
    let Some(cluster) = Cluster::shared()? else {
        return Ok(());
    };
    cluster.namespace("rules-alone")?;
    let own = "/api/v1/namespaces/rules-alone/configmaps";
    done(cluster, "create", own, Some(&config_map("rules-alone", "kept")))?;
    let body = config_map("rules-alone", "kept");
    for (verb, path, body) in [
        ("get", "/api/v1/configmaps/kept", None),
        ("delete", "/api/v1/configmaps/kept", None),
        ("replace", "/api/v1/configmaps/kept", Some(&body)),
        ("create", "/api/v1/configmaps", Some(&body)),
        ("delete", "/api/v1/configmaps", None),
    ] {
        let (succeeded, said) = raw(cluster, verb, path, body)?;
        ensure!(!succeeded, "{verb} {path}: {said}");
    }
    ensure!(exists(cluster, &format!("{own}/kept"))?);
    Ok(())
}

#[test]
fn a_dry_run_keeps_nothing_only_where_the_query_decides() -> Result<()> {
    let Some(cluster) = Cluster::shared()? else {
        return Ok(());
    };
    cluster.namespace("rules-dry")?;
    let own = "/api/v1/namespaces/rules-dry/configmaps";
    let made = config_map("rules-dry", "made");
    done(cluster, "create", &format!("{own}?dryRun=All"), Some(&made))?;
    ensure!(!exists(cluster, &format!("{own}/made"))?);

    done(cluster, "create", own, Some(&made))?;
    let dry = format!("{own}/made?dryRun=All");
    done(cluster, "delete", &dry, None)?;
    ensure!(exists(cluster, &format!("{own}/made"))?);
    // With a body the query isn't looked at.
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
    done(cluster, "delete", &dry, Some(&options))?;
    ensure!(!exists(cluster, &format!("{own}/made"))?);

    // A token is given out whatever the query says.
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let path = "/api/v1/namespaces/rules-dry/serviceaccounts/default/token?dryRun=All";
    let given = done(cluster, "create", path, Some(&request))?;
    let token = given.pointer("/status/token").and_then(Value::as_str);
    ensure!(token.is_some_and(|token| token.matches('.').count() == 2));
    Ok(())
}
