//! Databases under the deployed chart, asked from an ordinary pod: in a pod, behind a Service, and outside of the cluster.

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::databases::{CANARY, SEEN, SOURCE, policy, service, target};
use bailiff_tests::deploy::released::{IMAGE, helm, release, until};
use bailiff_tests::{NodeLab, Postgres, events_in, metric_at};
use serde_json::{Value, json};

/// Where pods have the CA of their cluster, and so the agent's.
const CA: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

#[test]
fn databases_in_a_pod_behind_a_service_and_outside_are_denied_and_masked_and_see_where_it_comes_from()
-> Result<()> {
    let Some(lab) = NodeLab::new("deployed-databases", "view", "    []\n")? else {
        return Ok(());
    };
    let (cluster, namespace) = (lab.cluster, lab.namespace.as_str());
    let name = format!("pg.{namespace}.svc");
    let (certificate, key) = cluster.certificate(&name)?;
    let tls = lab.path("tls");
    std::fs::create_dir(&tls)?;
    std::fs::write(tls.join("certificate.pem"), certificate.pem())?;
    std::fs::write(tls.join("key.pem"), key.serialize_pem())?;
    lab.postgres_pod("client", &["sleep", "100000"], &json!({}))?;
    let pod = lab.database("pg-0")?;
    cluster.kubectl(&["label", "pod", "-n", namespace, "pg-0", "app=pg", "--overwrite"])?;
    let single = lab.database("single")?;
    let outside = Postgres::start_anywhere()?;
    outside.sql(&format!(
        "create table patients (id int, ssn text); insert into patients values (1, '{CANARY}')"
    ))?;
    let open = Postgres::start_anywhere()?;
    lab.ready("client")?;
    lab.apply(&[service(namespace, "pg", &json!({"selector": {"app": "pg"}}))])?;
    let behind = lab.cluster_ip("pg")?;
    let hosts = [behind.as_str(), &pod, &single, outside.address()];
    for host in hosts {
        until("reached before", cluster, || Ok(lab.psql(host, SEEN)? == CANARY))?;
    }

    cluster.image_of_agent(IMAGE)?;
    let data = lab.path("data");
    let data = format!("--set=agent.dataDir={}", data.to_str().context("not UTF-8")?);
    release(cluster, "install", &["--set=mode=enforce", &data])?;
    let upstream = json!({"upstream": {"mode": "Verify", "caFile": CA, "serverName": name}});
    lab.apply(&[
        target(
            "behind",
            &json!({"services": [{"namespace": namespace, "name": "pg"}], "tls": upstream}),
        ),
        policy("behind"),
        target(
            "single",
            &json!({"endpoints": [format!("{single}:5432")], "tls": upstream}),
        ),
        policy("single"),
        target(
            "outside",
            &json!({"endpoints": [format!("{}:5432", outside.address())]}),
        ),
        policy("outside"),
        // Nothing of it is hidden from whoever reads the pod's own wire.
        target(
            "open",
            &json!({"endpoints": [format!("{}:5432", open.address())], "default": "Allow"}),
        ),
    ])?;
    let agent = format!("{}:9464", cluster.node_address()?);
    until("addresses", cluster, || {
        Ok(metric_at(&agent, "bailiff_target_addresses{target=\"behind\"}")? == 2)
    })?;
    let said = || {
        let logs = ["logs", "-n", "bailiff", "-l", "app.kubernetes.io/component=agent"];
        cluster.kubectl(&logs).unwrap_or_default()
    };
    for host in hosts {
        lab.protected(host, &said)?;
    }

    // The server sees the pod itself where nobody else can read along, and where nothing is masked; otherwise the node.
    let own = lab.address("client")?;
    until("diverted", cluster, || {
        let count = || metric_at(&agent, "bailiff_connections_total");
        let before = count()?;
        Ok(lab.psql(open.address(), SOURCE)? == own && count()? > before)
    })?;
    for host in [&behind, &pod, &single] {
        ensure!(
            lab.psql(host, SOURCE)? == own,
            "{host}: {}",
            lab.psql(host, SOURCE)?
        );
    }
    let node = cluster.node_address()?;
    ensure!(lab.psql(outside.address(), SOURCE)? == node, "{outside:?}");

    helm(cluster, &["uninstall", "bailiff", "--wait", "--timeout=120s"])?;
    until("direct", cluster, || {
        Ok(lab.psql(outside.address(), SEEN)? == CANARY)
    })?;
    // Which pod it was is in the record, which stays on the node.
    let events = events_in(&lab.path("data").join("record"))?;
    let pod = format!("{namespace}/client");
    for target in ["behind", "single", "outside"] {
        let denied = events.iter().any(|event| {
            let is = |place: &str, text: &str| event.pointer(place).and_then(Value::as_str) == Some(text);
            is("/unmapped/verdict", "deny")
                && is("/unmapped/policy", target)
                && is("/unmapped/rule", "keep")
                && is("/src_endpoint/name", &pod)
        });
        let last: Vec<_> = events.iter().rev().take(3).collect();
        ensure!(denied, "{target}: {last:#?}");
    }
    Ok(())
}
