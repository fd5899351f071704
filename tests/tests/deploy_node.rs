//! The chart on a real node: from nothing to enforced, through upgrades, and back to nothing.

use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::deploy::deploy;
use bailiff_tests::masked::{said, text};
use bailiff_tests::{Cluster, NodeLab, check, scraped};
use serde_json::json;

const IMAGE: &str = "bailiff.test/bailiff:test";
const CANARY: &str = "Y2FuYXJ5LXdvcmxkLTQy";
const MASKED: &str = "W21hc2tlZF0=";
const GET: [&str; 5] = ["get", "secret", "db", "-o", "json"];
const DELETE: [&str; 3] = ["delete", "secret", "db"];

/// What somebody who has installed it writes first.
fn objects(cluster: &Cluster) -> Result<String> {
    let (service, server) = (cluster.service()?, cluster.api_server()?);
    Ok(format!(
        "apiVersion: bailiff.dev/v1alpha1
kind: Target
metadata: {{ name: cluster }}
spec:
  protocol: kubernetes
  endpoints: [\"{service}\", \"{server}\"]
  tls:
    client: {{ mode: Require, names: [kubernetes.default.svc, \"{}\"], csr: {{}} }}
    upstream: {{ mode: Verify, caFile: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt, serverName: kubernetes.default.svc }}
---
apiVersion: bailiff.dev/v1alpha1
kind: Policy
metadata: {{ name: readers }}
spec:
  targets: [cluster]
  rules:
    - name: discover
      requests: [{{verbs: [get], paths: [\"*\"]}}]
      action: Allow
    - name: look
      requests: [{{verbs: [get, list, watch], groups: [\"\"], resources: [secrets, configmaps]}}]
      action: Allow
  masks:
  - {{groups: [\"\"], resources: [secrets], fields: [\"data.*\"], with: Redact}}
",
        service.ip()
    ))
}

fn helm(cluster: &Cluster, args: &[&str]) -> Result<()> {
    let outcome = check(&mut cluster.helm_command(&[args, &["--namespace=bailiff"]].concat())?);
    if outcome.is_err() {
        // What a person would look at next.
        for args in [
            &["get", "pods", "-n", "bailiff", "-o", "wide"][..],
            &["describe", "pods", "-n", "bailiff"],
            &[
                "logs",
                "-n",
                "bailiff",
                "-l",
                "app.kubernetes.io/component=agent",
                "--tail=40",
            ],
        ] {
            eprintln!("{}", cluster.kubectl(args).unwrap_or_default());
        }
    }
    outcome.map(drop)
}

fn release(cluster: &Cluster, verb: &str, settings: &[&str]) -> Result<()> {
    let chart = deploy("chart");
    let chart = chart.to_str().context("a path that isn't UTF-8")?;
    let (repository, tag) = IMAGE.split_once(':').context("no tag")?;
    let (repository, tag) = (
        format!("--set=image.repository={repository}"),
        format!("--set=image.tag={tag}"),
    );
    let first = [
        verb,
        "bailiff",
        chart,
        "--create-namespace",
        "--wait",
        "--timeout=180s",
        "--set=image.pullPolicy=Never",
        // The test's machine is hybrid, and its kubelet's driver cgroupfs.
        "--set=agent.podsCgroup=/sys/fs/cgroup/unified/kubepods",
        "--set=agent.drainSeconds=3",
        &repository,
        &tag,
    ];
    let first = first
        .iter()
        .filter(|arg| verb == "install" || **arg != "--create-namespace");
    let args: Vec<&str> = first.chain(settings).copied().collect();
    helm(cluster, &args)
}

fn shows(output: &Output, wanted: &str, other: &str) -> Result<()> {
    let shown = said(output, wanted)?;
    ensure!(shown.contains(wanted) && !shown.contains(other), "{shown}");
    Ok(())
}

fn until(what: &str, cluster: &Cluster, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so()? {
        if Instant::now() > end {
            let logs = [
                "logs",
                "-n",
                "bailiff",
                "-l",
                "app.kubernetes.io/component=agent",
                "--tail=60",
            ];
            anyhow::bail!("not {what}: {}", cluster.kubectl(&logs).unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

#[test]
fn helm_brings_it_to_a_node_and_takes_it_away_again() -> Result<()> {
    let Some(lab) = NodeLab::new("deployed", "admin", "    []\n")? else {
        return Ok(());
    };
    let cluster = lab.cluster;
    cluster.apply(
        &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db", "namespace": lab.namespace}, "data": {"password": CANARY}})
            .to_string(),
    )?;
    cluster.image_of_agent(IMAGE)?;
    lab.pod("before", None)?;
    shows(&lab.kubectl("before", &GET)?, CANARY, MASKED)?;

    // The first installation observes, pods that ran before and pods to come.
    release(cluster, "install", &[])?;
    cluster.apply(&objects(cluster)?)?;
    lab.pod("agent", None)?;
    let agent = format!("{}:9464", cluster.node_address()?);
    let metric = |name: &str| bailiff_tests::metric_at(&agent, name);
    until("observed", cluster, || {
        let _seen = lab.kubectl("agent", &GET)?;
        Ok(metric("bailiff_pods{state=\"observed\"}")? >= 2 && metric("bailiff_connections_total")? > 0)
    })?;
    shows(&lab.kubectl("agent", &GET)?, CANARY, MASKED)?;
    shows(&lab.kubectl("before", &GET)?, CANARY, MASKED)?;

    // Enforcing is one value. The agent that observes hands over to the one that enforces.
    release(cluster, "upgrade", &["--set=mode=enforce"])?;
    for pod in ["before", "agent"] {
        shows(&lab.kubectl(pod, &GET)?, MASKED, CANARY)?;
        let denied = lab.kubectl(pod, &DELETE)?;
        let told = text(&denied.stderr);
        ensure!(
            !denied.status.success() && told.contains("Forbidden") && told.contains("no rule allows"),
            "{told}"
        );
    }
    // A real Prometheus scrapes it.
    let up = scraped(&agent, "bailiff_operations_total{verdict=\"deny\"}")?;
    ensure!(up >= 2.0, "{up}");

    // One pod of the DaemonSet is deleted: what holds pods stays until the next one runs.
    cluster.kubectl(&[
        "delete",
        "pod",
        "-n",
        "bailiff",
        "-l",
        "app.kubernetes.io/component=agent",
    ])?;
    until("masked again", cluster, || {
        let seen = lab.kubectl("agent", &GET)?;
        ensure!(
            !text(&seen.stdout).contains(CANARY),
            "a request went past the agents"
        );
        Ok(text(&seen.stdout).contains(MASKED))
    })?;

    // Nothing is left but what the documentation says: the CRDs and their objects.
    helm(cluster, &["uninstall", "bailiff", "--wait", "--timeout=120s"])?;
    until("direct", cluster, || {
        let seen = lab.kubectl("agent", &GET)?;
        Ok(seen.status.success() && text(&seen.stdout).contains(CANARY))
    })?;
    shows(&lab.kubectl("before", &GET)?, CANARY, MASKED)?;
    let pinned = cluster.pinned_on_node()?;
    ensure!(pinned.is_empty(), "{pinned:?}");
    Ok(())
}
