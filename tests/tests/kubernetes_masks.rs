//! Masked fields of a real API server's objects are hidden in every form in which they are read.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::ApiLab;
use bailiff_tests::masked::{file, kept, lab, no_canary, refused, said, text, write};
use serde_json::{Value, json};

#[test]
fn what_is_masked_is_seen_in_no_form() -> Result<()> {
    let Some(lab) = lab("masked-forms")? else {
        return Ok(());
    };
    for args in [
        "get secrets",
        "get secrets -o wide",
        "get secrets -o json",
        "get secret db -o yaml",
        "get secret db -o jsonpath={.data}",
        "get configmaps -o yaml",
        "get configmap settings -o json",
        "get podtemplates -o json",
        "get podtemplate job -o yaml",
        "get deployments -o json",
        "get deployment web -o wide",
        "get secrets,configmaps,deployments,podtemplates -o yaml",
        "describe secret db",
        "describe deployment web",
        "describe configmap settings",
    ] {
        let output = lab.kubectl(&args.split(' ').collect::<Vec<_>>())?;
        no_canary(&said(&output, args)?, args)?;
    }
    for accept in [
        "application/vnd.kubernetes.protobuf",
        "application/yaml",
        "application/json",
    ] {
        for path in [
            "/api/v1/namespaces/masked-forms/secrets",
            "/api/v1/namespaces/masked-forms/secrets/db",
            "/apis/apps/v1/namespaces/masked-forms/deployments",
        ] {
            let output = lab.curl_in("agent", &["-H", &format!("Accept: {accept}")], path)?;
            ensure!(
                output.status.success() && output.stdout.len() > 500,
                "{path}: {}",
                text(&output.stderr)
            );
            no_canary(&text(&output.stdout), path)?;
            ensure!(
                !text(&output.stdout).contains("withheld"),
                "{}",
                text(&output.stdout)
            );
        }
    }
    let secret: Value = serde_json::from_str(&said(
        &lab.kubectl(&["get", "secret", "db", "-o", "json"])?,
        "get",
    )?)?;
    ensure!(
        secret.pointer("/data/password") == Some(&json!("W21hc2tlZF0=")),
        "{secret:#}"
    );
    let applied = secret
        .pointer("/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration")
        .and_then(Value::as_str)
        .context("no annotation")?;
    let applied: Value = serde_json::from_str(applied)?;
    ensure!(
        applied.pointer("/data/password") == Some(&json!("W21hc2tlZF0=")),
        "{applied:#}"
    );
    let settings: Value = serde_json::from_str(&said(
        &lab.kubectl(&["get", "configmap", "settings", "-o", "json"])?,
        "get",
    )?)?;
    ensure!(
        settings.pointer("/data/api-token") == Some(&json!("****2-x7")),
        "{settings:#}"
    );
    ensure!(
        settings.pointer("/data/mode") == Some(&json!("fast")),
        "{settings:#}"
    );
    let notes: Value = serde_json::from_str(&said(
        &lab.kubectl(&["get", "configmap", "notes", "-o", "json"])?,
        "get",
    )?)?;
    ensure!(
        notes.pointer("/data/api-token") == Some(&json!("seen")),
        "{notes:#}"
    );
    Ok(())
}

#[test]
fn all_but_the_masked_values_is_as_it_came() -> Result<()> {
    let Some(lab) = lab("masked-bytes")? else {
        return Ok(());
    };
    let table = "Accept: application/json;as=Table;v=v1;g=meta.k8s.io";
    let base = format!("/api/v1/namespaces/{}", lab.namespace);
    for version in ["--http1.1", "--http2"] {
        for (options, path) in [
            (vec!["-H", "Accept: application/json"], format!("{base}/secrets")),
            (
                vec!["-H", "Accept: application/json"],
                format!("{base}/secrets/db"),
            ),
            (
                vec!["-H", "Accept: application/json"],
                format!("{base}/podtemplates/job"),
            ),
            (
                vec!["-H", "Accept: application/json"],
                format!("{base}/configmaps?limit=1"),
            ),
            (vec!["-H", table], format!("{base}/secrets")),
            (
                vec![
                    "-H",
                    "Accept: application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
                ],
                format!("{base}/secrets"),
            ),
            (vec!["--compressed"], format!("{base}/secrets")),
            (
                vec!["--compressed"],
                format!("/apis/apps/v1/namespaces/{}/deployments", lab.namespace),
            ),
        ] {
            let options = [vec![version], options].concat();
            // Resource versions of lists pass with whatever happens in the cluster: what differs is asked again.
            let mut tries = 0..30;
            loop {
                let direct = lab.curl_direct(&options, &path)?;
                let masked = lab.curl_in("agent", &options, &path)?;
                let (direct, masked) = (said(&direct, &path)?, said(&masked, &path)?);
                no_canary(&masked, &path)?;
                let mut expected = direct;
                for canary in ["Y2FuYXJ5LWh1bnRlcjIteDc=", "YWRtaW4=", "Y2FuYXJ5LXdyaXR0ZW4tNzc="] {
                    // Of the config map the last four characters are kept.
                    let kept = path.contains("configmaps");
                    expected = expected.replace(canary, if kept { "KioqKjIteDc=" } else { "W21hc2tlZF0=" });
                }
                for (canary, shown) in [
                    ("canary-hunter2-x7", "****2-x7"),
                    ("canary-env-51b2", "[masked]"),
                    ("canary-written-77", "[masked]"),
                    ("canary-annotation-99", "[masked]"),
                ] {
                    expected = expected.replace(canary, shown);
                }
                if masked == expected {
                    break;
                }
                ensure!(
                    tries.next().is_some(),
                    "{options:?} {path}:\n{masked}\n--- expected\n{expected}"
                );
            }
        }
    }
    // Where nothing is masked, nothing changes.
    for path in [format!("{base}/configmaps/notes"), format!("{base}/pods/agent")] {
        for accept in [
            "application/json",
            "application/vnd.kubernetes.protobuf",
            "application/yaml",
        ] {
            let header = format!("Accept: {accept}");
            let options = ["-H", header.as_str()];
            let (direct, masked) = (
                lab.curl_direct(&options, &path)?,
                lab.curl_in("agent", &options, &path)?,
            );
            ensure!(
                direct.stdout == masked.stdout,
                "{path} as {accept}: {}",
                text(&masked.stdout)
            );
        }
    }
    Ok(())
}

#[test]
fn watches_are_masked_event_by_event() -> Result<()> {
    let Some(lab) = lab("masked-watch")? else {
        return Ok(());
    };
    let path = format!(
        "/api/v1/namespaces/{}/secrets?watch=1&allowWatchBookmarks=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=30",
        lab.namespace
    );
    let command = lab.curl(&["-N"], &path)?;
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let mut watch = lab
        .enforced
        .run_with(&["--pod", "agent"], &command)?
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(watch.stdout.take().context("no output")?).lines();
    let mut next = || -> Result<Value> {
        let line = lines.next().context("the watch ended")??;
        no_canary(&line, "the watch")?;
        Ok(serde_json::from_str(&line)?)
    };
    let outcome = (|| {
        let mut seen = Vec::new();
        loop {
            let event = next()?;
            let kind = event
                .pointer("/type")
                .and_then(Value::as_str)
                .context("no type")?
                .to_owned();
            if kind == "BOOKMARK" {
                let ends = event.pointer("/object/metadata/annotations/k8s.io~1initial-events-end");
                ensure!(ends == Some(&json!("true")), "{event:#}");
                break;
            }
            seen.push(event);
        }
        let db = seen
            .iter()
            .find(|event| event.pointer("/object/metadata/name") == Some(&json!("db")))
            .context("no event")?;
        ensure!(
            db.pointer("/object/data/password") == Some(&json!("W21hc2tlZF0=")),
            "{db:#}"
        );
        // What happens while it is open comes at once.
        lab.cluster.kubectl(&[
            "create",
            "secret",
            "generic",
            "later",
            "-n",
            &lab.namespace,
            "--from-literal=a=canary-hunter2-x7",
        ])?;
        let event = next()?;
        ensure!(
            event.pointer("/object/metadata/name") == Some(&json!("later")),
            "{event:#}"
        );
        ensure!(
            event.pointer("/object/data/a") == Some(&json!("W21hc2tlZF0=")),
            "{event:#}"
        );
        Ok(())
    })();
    watch.kill()?;
    watch.wait()?;
    outcome
}

#[test]
fn nothing_that_the_agent_leaves_has_what_is_masked() -> Result<()> {
    let Some(lab) = lab("masked-traces")? else {
        return Ok(());
    };
    let output = lab.kubectl(&["get", "secrets,configmaps,deployments", "-o", "yaml"])?;
    // The agent's log comes with what the command says.
    no_canary(&text(&output.stderr), "the log")?;
    said(&output, "get")?;
    let read = said(&lab.kubectl(&["get", "secret", "db", "-o", "yaml"])?, "get")?;
    said(
        &lab.kubectl(&["replace", "-f", &file(&lab, "same.yaml", &read)?])?,
        "replace",
    )?;
    let node = lab.kubectl(&["get", "--raw", "/api/v1/nodes/none/proxy/pods"])?;
    refused(&node, "a node's proxy shows pods as they are")?;
    let masked = lab
        .audited()?
        .iter()
        .filter_map(|event| {
            let count = event.pointer("/annotations/bailiff.dev~1masked")?.as_str()?;
            count.parse::<u64>().ok()
        })
        .sum::<u64>();
    ensure!(masked >= 6, "{masked} values masked");
    for event in lab.audited()? {
        no_canary(&event.to_string(), "the record")?;
        ensure!(
            !event.to_string().contains(&lab.token("agent")?),
            "the record has the token"
        );
    }
    Ok(())
}

#[test]
fn detectors_look_at_what_no_path_names() -> Result<()> {
    let rules = r#"    - name: work
      requests: [{groups: ["*"], resources: [configmaps]}]
      action: Allow
  detect:
  - {resources: [configmaps], find: [Jwt, PrivateKey, CloudKey, Email], with: Redact}
"#;
    let Some(lab) = ApiLab::new("detected", "admin", rules)? else {
        return Ok(());
    };
    let jwt = lab.token("agent")?;
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mixed", "namespace": lab.namespace, "labels": {"app": "x"}},
        "data": {"config": format!("token={jwt}\nuser=alice@example.com\nmode=fast"), "plain": "nothing"}});
    lab.cluster.apply(&object.to_string())?;
    let path = format!("/api/v1/namespaces/{}/configmaps/mixed", lab.namespace);
    let read: Value = serde_json::from_str(&said(&lab.curl_in("agent", &[], &path)?, "get")?)?;
    ensure!(
        read.pointer("/data/config") == Some(&json!("token=[masked]\nuser=[masked]\nmode=fast")),
        "{read:#}"
    );
    ensure!(!read.to_string().contains("alice@example.com"), "{read:#}");
    // Written back with a change beside, it is what it was.
    let mut changed = read;
    *changed.pointer_mut("/data/plain").context("plain")? = json!("something");
    said(
        &write(&lab, "PUT", "application/json", &path, &changed)?,
        "update",
    )?;
    let after = kept(&lab, "configmap", "mixed")?;
    ensure!(
        after.pointer("/data/config") == object.pointer("/data/config"),
        "{after:#}"
    );
    ensure!(
        after.pointer("/data/plain") == Some(&json!("something")),
        "{after:#}"
    );
    Ok(())
}
