//! The chart as a release on a cluster with nodes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::deploy;
use crate::{Cluster, check};

/// The agent's image, once [`Cluster::image_of_agent`] has put it on the nodes.
pub const IMAGE: &str = "bailiff.test/bailiff:test";

/// What somebody who has installed it writes first: the API server as a Target, and a Policy by which pods may read Secrets, masked.
pub fn objects(cluster: &Cluster) -> Result<String> {
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
  identity: {{ tokenReview: true }}
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
      requests: [{{verbs: [get, list, watch], groups: [\"\"], resources: [secrets, configmaps], tokens: [Bound], identity: {{users: [\"system:serviceaccount:*\"]}}}}]
      action: Allow
    - name: stolen
      requests: [{{tokens: [Stolen]}}]
      action: Deny
      message: this token was made for another pod
  masks:
  - {{groups: [\"\"], resources: [secrets], fields: [\"data.*\"], with: Redact}}
",
        service.ip()
    ))
}

/// Runs helm in the release's namespace, and prints what became of the agents where it fails.
pub fn helm(cluster: &Cluster, args: &[&str]) -> Result<()> {
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

/// Installs or upgrades the release (`verb`) with these settings, and waits until it is ready.
pub fn release(cluster: &Cluster, verb: &str, settings: &[&str]) -> Result<()> {
    let chart = deploy("chart");
    let chart = chart.to_str().context("a path that isn't UTF-8")?;
    let (repository, tag) = IMAGE.split_once(':').context("no tag")?;
    let (repository, tag) = (
        format!("--set=image.repository={repository}"),
        format!("--set=image.tag={tag}"),
    );
    let timeout = format!("--timeout={}s", cluster.patience(180).as_secs());
    let first = [
        verb,
        "bailiff",
        chart,
        "--create-namespace",
        "--wait",
        &timeout,
        "--set=image.pullPolicy=Never",
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

/// Waits until something is so; where it never is, fails with the agents' logs.
pub fn until(what: &str, cluster: &Cluster, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + cluster.patience(60);
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
            bail!("not {what}: {}", cluster.kubectl(&logs).unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}
