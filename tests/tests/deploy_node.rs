//! The chart on a real node: from nothing to enforced, through upgrades, and back to nothing.

use anyhow::{Result, ensure};
use bailiff_tests::deploy::released::{IMAGE, helm, objects, release, until};
use bailiff_tests::masked::text;
use bailiff_tests::secret::{CANARY, GET, MASKED, masked, unmasked};
use bailiff_tests::{NodeLab, scraped};

const DELETE: [&str; 3] = ["delete", "secret", "db"];

#[test]
fn helm_brings_it_to_a_node_and_takes_it_away_again() -> Result<()> {
    let Some(lab) = NodeLab::new("deployed", "admin", "    []\n")? else {
        return Ok(());
    };
    let cluster = lab.cluster;
    lab.secret()?;
    cluster.image_of_agent(IMAGE)?;
    lab.pod("before", None)?;
    unmasked(&lab.kubectl("before", &GET)?)?;

    // The first installation observes, pods that ran before and pods to come.
    release(cluster, "install", &[])?;
    let agent = [
        "exec",
        "-n",
        "bailiff",
        "daemonset/bailiff-agent",
        "--",
        "/bailiff",
    ];
    let examined = cluster.kubectl(&[&agent[..], &["doctor"]].concat())?;
    ensure!(examined.contains("This node can enforce"), "{examined}");
    cluster.apply(&objects(cluster)?)?;
    lab.pod("agent", None)?;
    let agent = format!("{}:9464", cluster.node_address()?);
    let metric = |name: &str| bailiff_tests::metric_at(&agent, name);
    until("observed", cluster, || {
        let _seen = lab.kubectl("agent", &GET)?;
        Ok(metric("bailiff_pods{state=\"observed\"}")? >= 2 && metric("bailiff_connections_total")? > 0)
    })?;
    unmasked(&lab.kubectl("agent", &GET)?)?;
    unmasked(&lab.kubectl("before", &GET)?)?;

    // Enforcing is one value. The agent that observes hands over to the one that enforces.
    release(cluster, "upgrade", &["--set=mode=enforce"])?;
    for pod in ["before", "agent"] {
        masked(&lab.kubectl(pod, &GET)?)?;
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
    let timeout = format!("--timeout={}s", cluster.patience(120).as_secs());
    helm(cluster, &["uninstall", "bailiff", "--wait", &timeout])?;
    until("direct", cluster, || {
        let seen = lab.kubectl("agent", &GET)?;
        Ok(seen.status.success() && text(&seen.stdout).contains(CANARY))
    })?;
    unmasked(&lab.kubectl("before", &GET)?)?;
    let pinned = cluster.pinned_on_node()?;
    ensure!(pinned.is_empty(), "{pinned:?}");
    Ok(())
}
