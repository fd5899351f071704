//! What was read masked and is written back is neither lost nor moved, and reads nothing.

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::masked::{file, is_whole, kept, lab, no_canary, refused, said, text, write};
use serde_json::{Value, json};

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
