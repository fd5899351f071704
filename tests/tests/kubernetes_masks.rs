//! Masked fields of a real API server's objects: hidden in every form in which they are read, and neither lost nor moved when what was
//! read is written back.

use std::io::{BufRead as _, BufReader};
use std::process::{Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::ApiLab;
use serde_json::{Value, json};

/// Everything in the namespace, with the values of secrets, the environment of containers and one annotation masked.
const RULES: &str = r#"    - name: discover
      requests: [{verbs: [get], paths: ["*"]}]
      action: Allow
    - name: work
      requests: [{groups: ["*"], resources: [secrets, configmaps, pods, deployments, podtemplates, events]}]
      action: Allow
    - name: nodes
      requests: [{verbs: [get], groups: [""], resources: [nodes/proxy]}]
      action: Allow
  masks:
  - {groups: [""], resources: [secrets], fields: ["data.*"], with: Redact}
  - {groups: [""], resources: [configmaps], names: [settings], fields: ["data.*token", "binaryData"], with: {KeepLast: 4}}
  - {resources: [pods, podtemplates, deployments], fields: ["**.env[*].value", "metadata.annotations[\"example.com/*\"]"], with: Redact}
"#;

/// Values that are masked. Nothing that reaches a pod, the record, the log or the metrics has any of them.
const CANARIES: [&str; 4] = [
    "canary-hunter2-x7",
    "Y2FuYXJ5LWh1bnRlcjIteDc=",
    "canary-env-51b2",
    "canary-annotation-99",
];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn said(output: &Output, what: &str) -> Result<String> {
    let all = text(&output.stdout);
    ensure!(output.status.success(), "{what}: {all}{}", text(&output.stderr));
    Ok(all)
}

fn refused(output: &Output, why: &str) -> Result<()> {
    let error = text(&output.stderr) + &text(&output.stdout);
    ensure!(error.contains(why), "not refused as {why:?}: {error}");
    Ok(())
}

fn no_canary(text: &str, what: &str) -> Result<()> {
    for canary in CANARIES {
        ensure!(!text.contains(canary), "{what} has {canary}:\n{text}");
    }
    Ok(())
}

/// A lab with a secret, config map and pod template that were applied as people apply them.
fn lab(namespace: &str) -> Result<Option<ApiLab>> {
    let Some(lab) = ApiLab::new(namespace, "cluster-admin", RULES)? else {
        return Ok(None);
    };
    let env = json!([{"name": "MODE", "value": "canary-env-51b2"}, {"name": "PLAIN", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
    let containers = json!([{"name": "main", "image": "example/main", "env": env}]);
    for object in [
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db", "namespace": namespace},
               "data": {"password": "Y2FuYXJ5LWh1bnRlcjIteDc=", "user": "YWRtaW4="}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings", "namespace": namespace},
               "data": {"api-token": "canary-hunter2-x7", "mode": "fast"}, "binaryData": {"blob": "Y2FuYXJ5LWh1bnRlcjIteDc="}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "notes", "namespace": namespace}, "data": {"api-token": "seen"}}),
        json!({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "job", "namespace": namespace,
                   "annotations": {"example.com/key": "canary-annotation-99", "other": "plain"}},
               "template": {"metadata": {"labels": {"app": "job"}}, "spec": {"containers": containers}}}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": namespace},
               "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "web"}},
                        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": containers}}}}),
    ] {
        lab.cluster.apply(&object.to_string())?;
    }
    Ok(Some(lab))
}

/// A secret's values as the server has them.
fn kept(lab: &ApiLab, kind: &str, name: &str) -> Result<Value> {
    let all = lab
        .cluster
        .kubectl(&["get", kind, name, "-n", &lab.namespace, "-o", "json"])?;
    Ok(serde_json::from_str(&all)?)
}

fn is_whole(lab: &ApiLab) -> Result<()> {
    let secret = kept(lab, "secret", "db")?;
    ensure!(
        secret.pointer("/data/password") == Some(&json!("Y2FuYXJ5LWh1bnRlcjIteDc=")),
        "{secret:#}"
    );
    ensure!(
        secret.pointer("/data/user") == Some(&json!("YWRtaW4=")),
        "{secret:#}"
    );
    Ok(())
}

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
            let mut tries = 0..5;
            loop {
                let direct = lab.curl_direct(&options, &path)?;
                let masked = lab.curl_in("agent", &options, &path)?;
                let (direct, masked) = (said(&direct, &path)?, said(&masked, &path)?);
                no_canary(&masked, &path)?;
                let mut expected = direct;
                for canary in ["Y2FuYXJ5LWh1bnRlcjIteDc=", "YWRtaW4="] {
                    // Of the config map the last four characters are kept.
                    let kept = path.contains("configmaps");
                    expected = expected.replace(canary, if kept { "KioqKjIteDc=" } else { "W21hc2tlZF0=" });
                }
                for (canary, shown) in [
                    ("canary-hunter2-x7", "****2-x7"),
                    ("canary-env-51b2", "[masked]"),
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

/// A file that the pod can read.
fn file(lab: &ApiLab, name: &str, content: &str) -> Result<String> {
    let path = lab.path(name);
    std::fs::write(&path, content)?;
    Ok(path.to_str().context("a path that isn't UTF-8")?.to_owned())
}

#[test]
fn what_was_read_can_be_written_back() -> Result<()> {
    let Some(lab) = lab("write-back")? else {
        return Ok(());
    };
    // kubectl get -o yaml | kubectl replace -f -, with a change.
    let read = said(&lab.kubectl(&["get", "secret", "db", "-o", "yaml"])?, "get")?;
    let changed = read.replace("user: W21hc2tlZF0=", "user: cm9vdA==\n  extra: bmV3");
    let changed = file(&lab, "replace.yaml", &changed)?;
    said(&lab.kubectl(&["replace", "-f", &changed])?, "replace")?;
    let secret = kept(&lab, "secret", "db")?;
    ensure!(
        secret.pointer("/data")
            == Some(&json!({"password": "Y2FuYXJ5LWh1bnRlcjIteDc=", "user": "cm9vdA==", "extra": "bmV3"})),
        "{secret:#}"
    );
    let applied = secret
        .pointer("/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration")
        .and_then(Value::as_str)
        .context("no annotation")?;
    ensure!(
        applied.contains("Y2FuYXJ5LWh1bnRlcjIteDc=") && !applied.contains("W21hc2tlZF0"),
        "{applied}"
    );

    // kubectl get -o yaml | kubectl apply -f -.
    for (kind, name) in [
        ("secret", "db"),
        ("podtemplate", "job"),
        ("deployment", "web"),
        ("configmap", "settings"),
    ] {
        let before = kept(&lab, kind, name)?;
        let read = said(&lab.kubectl(&["get", kind, name, "-o", "yaml"])?, "get")?;
        no_canary(&read, name)?;
        let same = file(&lab, "apply.yaml", &read)?;
        said(
            &lab.kubectl(&["apply", "-f", &same])?,
            &format!("apply of {name}"),
        )?;
        let after = kept(&lab, kind, name)?;
        for part in ["/data", "/binaryData", "/template", "/spec"] {
            ensure!(before.pointer(part) == after.pointer(part), "{name}: {after:#}");
        }
        let applied = after
            .pointer("/metadata/annotations")
            .context("no annotations")?
            .to_string();
        ensure!(
            !applied.contains("masked") && !applied.contains("W21hc2tlZF0") && !applied.contains("****"),
            "{applied}"
        );
    }

    // kubectl edit.
    let editor = file(
        &lab,
        "editor.sh",
        "#!/bin/sh\nsed -i 's/^type: Opaque/type: Opaque\\nstringData: {added: plain}/' \"$1\"\n",
    )?;
    let kubectl = lab.cluster.programs()?.join("kubectl");
    let config = format!("--kubeconfig={}", lab.path("agent.kubeconfig").display());
    let editor = format!("KUBE_EDITOR=sh {editor}");
    let command = [
        "env",
        &editor,
        kubectl.to_str().context("path")?,
        &config,
        "edit",
        "secret",
        "db",
    ];
    let edited = lab.enforced.run_with(&["--pod", "agent"], &command)?.output()?;
    said(&edited, "edit")?;
    let secret = kept(&lab, "secret", "db")?;
    ensure!(
        secret.pointer("/data/password") == Some(&json!("Y2FuYXJ5LWh1bnRlcjIteDc=")),
        "{secret:#}"
    );
    ensure!(
        secret.pointer("/data/added") == Some(&json!("cGxhaW4=")),
        "{secret:#}"
    );

    // Environment by name: another order, one more variable, and the masked one stays.
    let read: Value = serde_json::from_str(&said(
        &lab.kubectl(&["get", "podtemplate", "job", "-o", "json"])?,
        "get",
    )?)?;
    let mut changed = read;
    *changed
        .pointer_mut("/template/spec/containers/0/env")
        .context("env")? = json!([{"name": "NEW", "value": "x"}, {"name": "MODE", "value": "[masked]"}]);
    let changed = file(&lab, "env.json", &changed.to_string())?;
    said(&lab.kubectl(&["replace", "-f", &changed])?, "replace")?;
    let template = kept(&lab, "podtemplate", "job")?;
    ensure!(
        template.pointer("/template/spec/containers/0/env")
            == Some(&json!([{"name": "NEW", "value": "x"}, {"name": "MODE", "value": "canary-env-51b2"}])),
        "{template:#}"
    );
    Ok(())
}

/// curl that writes a body.
fn write(lab: &ApiLab, method: &str, kind: &str, path: &str, body: &Value) -> Result<Output> {
    let header = format!("Content-Type: {kind}");
    let body = body.to_string();
    lab.curl_in(
        "agent",
        &["-X", method, "-H", &header, "--data-binary", &body],
        path,
    )
}

#[test]
fn a_placeholder_is_never_written_and_never_reads() -> Result<()> {
    let Some(lab) = lab("placeholders")? else {
        return Ok(());
    };
    let base = format!("/api/v1/namespaces/{}", lab.namespace);
    let secret = format!("{base}/secrets/db");
    let merge = "application/merge-patch+json";
    let strategic = "application/strategic-merge-patch+json";
    let operations = "application/json-patch+json";
    let json_type = "application/json";
    let mut read: Value = serde_json::from_str(&said(&lab.curl_in("agent", &[], &secret)?, "get")?)?;
    let object = |name: &str, data: Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data});

    // A new object, and other fields of this one.
    for body in [
        object("copy", json!({"password": "W21hc2tlZF0="})),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "copy"}, "stringData": {"password": "[masked]"}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "copy", "annotations": {"a": "[masked]"}}}),
    ] {
        refused(
            &write(&lab, "POST", json_type, &format!("{base}/secrets"), &body)?,
            "placeholder",
        )?;
    }
    let mut moved = read.clone();
    *moved.pointer_mut("/data").context("data")? =
        json!({"password": "W21hc2tlZF0=", "another": "W21hc2tlZF0="});
    refused(
        &write(&lab, "PUT", json_type, &secret, &moved)?,
        "data.another holds a placeholder",
    )?;
    refused(
        &write(
            &lab,
            "PATCH",
            merge,
            &secret,
            &json!({"metadata": {"labels": {"a": "[masked]"}}}),
        )?,
        "placeholder",
    )?;
    refused(
        &write(
            &lab,
            "PATCH",
            merge,
            &secret,
            &json!({"metadata": {"annotations": {"a": "W21hc2tlZF0="}}}),
        )?,
        "placeholder",
    )?;
    refused(
        &write(
            &lab,
            "PATCH",
            strategic,
            &secret,
            &json!({"stringData": {"password": "[masked]"}}),
        )?,
        "placeholder",
    )?;

    // Operations that copy, move, compare and put.
    for operation in [
        json!({"op": "copy", "from": "/data/password", "path": "/metadata/annotations/x"}),
        json!({"op": "copy", "from": "/data", "path": "/metadata/annotations"}),
        json!({"op": "copy", "from": "", "path": "/metadata/annotations/x"}),
        json!({"op": "copy", "from": "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration", "path": "/metadata/annotations/x"}),
        json!({"op": "copy", "from": "/metadata/annotations", "path": "/metadata/labels"}),
        json!({"op": "move", "from": "/data/password", "path": "/data/x"}),
        json!({"op": "test", "path": "/data/password", "value": "Y2FuYXJ5LWh1bnRlcjIteDc="}),
        json!({"op": "test", "path": "/data/p~0assword", "value": "x"}),
        json!({"op": "test", "path": "/data", "value": {}}),
        json!({"op": "replace", "path": "/data/password", "value": "W21hc2tlZF0="}),
        json!({"op": "add", "path": "/data", "value": {"password": "eA=="}}),
        json!({"op": "add", "path": "", "value": {"data": {"password": "eA=="}}}),
        json!({"op": "remove", "path": "/data/password"}),
    ] {
        let output = write(&lab, "PATCH", operations, &secret, &json!([operation]))?;
        refused(&output, "where fields are masked").with_context(|| operation.to_string())?;
    }
    let other = json!([{"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}]);
    let output = said(
        &write(&lab, "PATCH", operations, &secret, &other)?,
        "a patch elsewhere",
    )?;
    ensure!(output.contains("\"a\": \"b\""), "{output}");
    no_canary(&output, "the patched object")?;

    // Read before that patch: another state of the object.
    refused(
        &write(&lab, "PUT", json_type, &secret, &read)?,
        "has been changed since",
    )?;
    // Of another object under the same name.
    read = serde_json::from_str(&said(&lab.curl_in("agent", &[], &secret)?, "get")?)?;
    let mut stranger = read.clone();
    *stranger.pointer_mut("/metadata/uid").context("uid")? = json!("00000000-0000-0000-0000-000000000000");
    refused(
        &write(&lab, "PUT", json_type, &secret, &stranger)?,
        "has been changed since",
    )?;
    // Without saying which state.
    let mut loose = read.clone();
    loose
        .pointer_mut("/metadata")
        .and_then(Value::as_object_mut)
        .context("metadata")?
        .remove("resourceVersion");
    refused(
        &write(&lab, "PUT", json_type, &secret, &loose)?,
        "resourceVersion",
    )?;
    // In another object.
    let mut elsewhere = read.clone();
    *elsewhere.pointer_mut("/metadata/name").context("name")? = json!("other");
    lab.cluster
        .kubectl(&["create", "secret", "generic", "other", "-n", &lab.namespace])?;
    let output = write(
        &lab,
        "PUT",
        json_type,
        &format!("{base}/secrets/other"),
        &elsewhere,
    )?;
    refused(&output, "placeholder")?;
    ensure!(kept(&lab, "secret", "other")?.pointer("/data").is_none());
    // As the object is: what is masked stays, and what was changed is changed.
    let mut now = read.clone();
    *now.pointer_mut("/metadata/labels").context("labels")? = json!({"a": "c"});
    let output = said(&write(&lab, "PUT", json_type, &secret, &now)?, "update")?;
    no_canary(&output, "the updated object")?;
    ensure!(kept(&lab, "secret", "db")?.pointer("/metadata/labels/a") == Some(&json!("c")));
    // Patches that carry what was read.
    let patch = json!({"metadata": {"labels": {"a": "d"}}, "data": {"password": "W21hc2tlZF0="}});
    for kind in [merge, strategic] {
        said(&write(&lab, "PATCH", kind, &secret, &patch)?, kind)?;
        is_whole(&lab)?;
    }
    let apply = object("db", json!({"password": "W21hc2tlZF0="}));
    let path = format!("{secret}?fieldManager=t&force=true");
    said(
        &write(&lab, "PATCH", "application/apply-patch+yaml", &path, &apply)?,
        "server-side apply",
    )?;
    is_whole(&lab)?;
    // Texts of errors quote what is there.
    let bad = json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "env": [{"name": "MODE", "value": "[masked]"}], "image": ""}]}}}});
    let path = format!("/apis/apps/v1/namespaces/{}/deployments/web", lab.namespace);
    let output = lab.curl_in(
        "agent",
        &[
            "-X",
            "PATCH",
            "-H",
            &format!("Content-Type: {strategic}"),
            "--data-binary",
            &bad.to_string(),
        ],
        &path,
    )?;
    no_canary(&text(&output.stdout), "an error's text")?;
    is_whole(&lab)
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
