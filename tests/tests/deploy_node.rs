//! The chart on a real node: from nothing to enforced, through upgrades, and back to nothing.

use std::process::Output;

use anyhow::{Result, ensure};
use bailiff_tests::deploy::released::{IMAGE, helm, objects, release, until};
use bailiff_tests::masked::{said, text};
use bailiff_tests::{NodeLab, scraped};
use serde_json::json;

const CANARY: &str = "Y2FuYXJ5LXdvcmxkLTQy";
const MASKED: &str = "W21hc2tlZF0=";
const GET: [&str; 5] = ["get", "secret", "db", "-o", "json"];
const DELETE: [&str; 3] = ["delete", "secret", "db"];

fn shows(output: &Output, wanted: &str, other: &str) -> Result<()> {
    let shown = said(output, wanted)?;
    ensure!(shown.contains(wanted) && !shown.contains(other), "{shown}");
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
    // Whose a token is says the API server: no key of its is on the node. Another pod's is told.
    let token = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let others = text(&lab.run("before", &["cat", token])?.stdout);
    let stolen = lab.kubectl("agent", &[&["--token", others.trim()], &GET[..]].concat())?;
    ensure!(
        text(&stolen.stderr).contains("this token was made for another pod"),
        "{stolen:?}"
    );
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
