//! helm behind the agent: releases are installed, changed, rolled back and taken away, and what is masked for it stays what it was.

use std::fs;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::ApiLab;
use bailiff_tests::masked::{kept, no_canary, refused, said};
use serde_json::{Value, json};

/// helm keeps its releases in secrets: the masks are of the chart's own.
const RULES: &str = r#"    - name: discover
      requests: [{verbs: [get], paths: ["*"]}]
      action: Allow
    - name: work
      requests: [{groups: ["*"], resources: [secrets, configmaps, deployments, cronjobs]}]
      action: Allow
    - name: no-cron-jobs
      requests: [{verbs: [create], groups: [batch], resources: [cronjobs]}]
      action: Deny
      message: jobs come from the pipeline
  masks:
  - {groups: [""], resources: [secrets], names: ["app-*"], fields: ["data.*"], with: Redact}
  - {groups: [apps], resources: [deployments], fields: ["**.env[*].value"], with: Redact}
"#;

const CHART: [(&str, &str); 2] = [
    ("Chart.yaml", "apiVersion: v2\nname: app\nversion: 1.0.0\n"),
    (
        "templates/all.yaml",
        r#"{{- $was := lookup "v1" "Secret" .Release.Namespace "app-db" }}
apiVersion: v1
kind: Secret
metadata: {name: app-db}
data:
  # As charts keep a password that they made up when they were installed.
  password: {{ if $was }}{{ $was.data.password }}{{ else }}{{ .Values.password | b64enc }}{{ end }}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: app-settings}
data: {mode: "{{ .Values.mode }}"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  replicas: 1
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app, mode: "{{ .Values.mode }}"}}
    spec:
      containers:
      - name: main
        image: example/main
        env: [{name: MODE, value: canary-env-51b2}, {name: LOUD, value: "{{ .Values.mode }}"}]
{{- if .Values.cron }}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: app}
spec:
  schedule: "0 0 * * *"
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: main, image: example/main}]}}}}
{{- end }}
"#,
    ),
];

/// helm in the pod.
fn helm(lab: &ApiLab, args: &[&str]) -> Result<Output> {
    let program = lab.cluster.programs()?.join("helm");
    let program = program.to_str().context("a path that isn't UTF-8")?;
    let config = format!("--kubeconfig={}", lab.path("agent.kubeconfig").display());
    let command = [&[program, &config], args].concat();
    Ok(lab.enforced.run_with(&["--pod", "agent"], &command)?.output()?)
}

fn chart(lab: &ApiLab) -> Result<String> {
    let chart = lab.path("app");
    fs::create_dir_all(chart.join("templates"))?;
    for (name, text) in CHART {
        fs::write(chart.join(name), text)?;
    }
    Ok(chart.to_str().context("a path that isn't UTF-8")?.to_owned())
}

/// What the server has: the password, the settings and the environment.
fn holds(lab: &ApiLab, mode: &str) -> Result<()> {
    let secret = kept(lab, "secret", "app-db")?;
    ensure!(
        secret.pointer("/data") == Some(&json!({"password": "Y2FuYXJ5LWh1bnRlcjIteDc="})),
        "{secret:#}"
    );
    let settings = kept(lab, "configmap", "app-settings")?;
    ensure!(
        settings.pointer("/data/mode").and_then(Value::as_str) == Some(mode),
        "{settings:#}"
    );
    let deployment = kept(lab, "deployment", "app")?;
    ensure!(
        deployment.pointer("/spec/template/spec/containers/0/env")
            == Some(&json!([{"name": "MODE", "value": "canary-env-51b2"}, {"name": "LOUD", "value": mode}])),
        "{deployment:#}"
    );
    Ok(())
}

#[test]
fn releases_are_installed_changed_rolled_back_and_taken_away() -> Result<()> {
    let Some(lab) = ApiLab::new("helm", "admin", RULES)? else {
        return Ok(());
    };
    let chart = &chart(&lab)?;
    let password = "password=canary-hunter2-x7";
    let installed = helm(
        &lab,
        &["install", "app", chart, "--set", password, "--set", "mode=calm"],
    )?;
    ensure!(
        said(&installed, "install")?.contains("STATUS: deployed"),
        "{installed:?}"
    );
    holds(&lab, "calm")?;
    // What the chart reads of the secret is its mask, and so is what it writes.
    let read = helm(
        &lab,
        &["upgrade", "app", chart, "--set", "mode=loud", "--dry-run=server"],
    )?;
    no_canary(
        &said(&read, "a dry run")?.replace("canary-env-51b2", ""),
        "a dry run",
    )?;
    said(
        &helm(&lab, &["upgrade", "app", chart, "--set", "mode=loud"])?,
        "upgrade",
    )?;
    holds(&lab, "loud")?;

    // What policy forbids is told, and the rest goes on.
    let denied = helm(
        &lab,
        &[
            "upgrade",
            "app",
            chart,
            "--set",
            "mode=calm",
            "--set",
            "cron=true",
        ],
    )?;
    refused(&denied, "jobs come from the pipeline")?;
    let history = said(&helm(&lab, &["history", "app", "-o", "json"])?, "history")?;
    let history: Value = serde_json::from_str(&history)?;
    let states: Vec<&str> = history
        .as_array()
        .context("no list")?
        .iter()
        .filter_map(|revision| revision.pointer("/status").and_then(Value::as_str))
        .collect();
    ensure!(states == ["superseded", "deployed", "failed"], "{history:#}");

    said(&helm(&lab, &["rollback", "app", "1"])?, "rollback")?;
    holds(&lab, "calm")?;
    let listed = said(&helm(&lab, &["list", "-o", "json"])?, "list")?;
    ensure!(listed.contains(r#""revision":"4""#), "{listed}");
    said(&helm(&lab, &["uninstall", "app"])?, "uninstall")?;
    let left = lab.cluster.kubectl(&[
        "get",
        "secrets,deployments,configmaps",
        "-n",
        "helm",
        "-o",
        "name",
    ])?;
    ensure!(!left.contains("app"), "{left}");
    Ok(())
}

#[test]
fn a_mask_of_all_secrets_hides_its_releases_from_helm() -> Result<()> {
    let rules = RULES.replace(r#"names: ["app-*"], "#, "");
    let Some(lab) = ApiLab::new("helm-blind", "admin", &rules)? else {
        return Ok(());
    };
    let direct = Command::new(lab.cluster.programs()?.join("helm"))
        .arg(format!("--kubeconfig={}", lab.path("agent.kubeconfig").display()))
        .args(["install", "app", &chart(&lab)?])
        .args(["--set", "password=canary-hunter2-x7", "--set", "mode=calm"])
        .output()?;
    said(&direct, "install")?;
    let listed = said(&helm(&lab, &["list", "-o", "json"])?, "list")?;
    ensure!(listed.trim() == "[]", "{listed}");
    let status = helm(&lab, &["get", "manifest", "app"])?;
    ensure!(!status.status.success(), "{status:?}");
    no_canary(&format!("{status:?}"), "helm")?;
    let upgraded = helm(&lab, &["upgrade", "app", &chart(&lab)?, "--set", "mode=loud"])?;
    ensure!(!upgraded.status.success(), "{upgraded:?}");
    holds(&lab, "calm")
}
