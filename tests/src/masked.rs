//! Objects of a real API server with masked fields, and what may never be seen of them.

use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::ApiLab;

/// Everything in the namespace, with the values of secrets, the environment of containers and one annotation masked.
pub const RULES: &str = r#"    - name: discover
      requests: [{verbs: [get], paths: ["*"]}]
      action: Allow
    - name: work
      requests: [{groups: ["*"], resources: [secrets, configmaps, pods, deployments, podtemplates, events, leases]}]
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
pub const CANARIES: [&str; 6] = [
    "canary-written-77",
    "Y2FuYXJ5LXdyaXR0ZW4tNzc=",
    "canary-hunter2-x7",
    "Y2FuYXJ5LWh1bnRlcjIteDc=",
    "canary-env-51b2",
    "canary-annotation-99",
];

/// As text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a command said, which went well.
pub fn said(output: &Output, what: &str) -> Result<String> {
    let all = text(&output.stdout);
    ensure!(output.status.success(), "{what}: {all}{}", text(&output.stderr));
    Ok(all)
}

/// That a command was refused for this reason.
pub fn refused(output: &Output, why: &str) -> Result<()> {
    let error = text(&output.stderr) + &text(&output.stdout);
    ensure!(error.contains(why), "not refused as {why:?}: {error}");
    Ok(())
}

/// That nothing masked is in a text.
pub fn no_canary(text: &str, what: &str) -> Result<()> {
    for canary in CANARIES {
        ensure!(!text.contains(canary), "{what} has {canary}:\n{text}");
    }
    Ok(())
}

/// A lab with a secret, config map and pod template that were applied as people apply them.
pub fn lab(namespace: &str) -> Result<Option<ApiLab>> {
    let Some(lab) = ApiLab::new(namespace, "cluster-admin", RULES)? else {
        return Ok(None);
    };
    let env = json!([{"name": "MODE", "value": "canary-env-51b2"}, {"name": "PLAIN", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
    let containers = json!([{"name": "main", "image": "example/main", "env": env}]);
    for object in [
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db", "namespace": namespace},
               "data": {"password": "Y2FuYXJ5LWh1bnRlcjIteDc=", "user": "YWRtaW4="}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "written", "namespace": namespace},
               "stringData": {"password": "canary-written-77"}}),
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
pub fn kept(lab: &ApiLab, kind: &str, name: &str) -> Result<Value> {
    let all = lab
        .cluster
        .kubectl(&["get", kind, name, "-n", &lab.namespace, "-o", "json"])?;
    Ok(serde_json::from_str(&all)?)
}

/// That the secret is as it was made.
pub fn is_whole(lab: &ApiLab) -> Result<()> {
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

/// A file that the pod can read.
pub fn file(lab: &ApiLab, name: &str, content: &str) -> Result<String> {
    let path = lab.path(name);
    std::fs::write(&path, content)?;
    Ok(path.to_str().context("a path that isn't UTF-8")?.to_owned())
}

/// curl that writes a body.
pub fn write(lab: &ApiLab, method: &str, kind: &str, path: &str, body: &Value) -> Result<Output> {
    let header = format!("Content-Type: {kind}");
    let body = body.to_string();
    lab.curl_in(
        "agent",
        &["-X", method, "-H", &header, "--data-binary", &body],
        path,
    )
}
