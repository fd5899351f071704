//! The chart on two nodes: each enforces on its own pods, says so for itself, and leaves alone what pods say to each other.

use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use bailiff_tests::deploy::released::{IMAGE, helm, objects, release, until};
use bailiff_tests::masked::text;
use bailiff_tests::{Cluster, ClusterOptions, bailiff, can_be_root, metric_at, reporting};
use serde_json::{Value, json};

const NAMESPACE: &str = "apart";
const CANARY: &str = "Y2FuYXJ5LXdvcmxkLTQy";
const MASKED: &str = "W21hc2tlZF0=";

/// kubectl in a pod, with what kubelet mounted there.
fn kubectl_in(cluster: &Cluster, pod: &str, args: &[&str]) -> Result<Output> {
    let mut command = cluster.in_pod(NAMESPACE, pod, &[&["/programs/kubectl"], args].concat())?;
    Ok(command.stdin(Stdio::null()).output()?)
}

fn secret(cluster: &Cluster, pod: &str) -> Result<String> {
    let said = kubectl_in(cluster, pod, &["get", "secret", "db", "-o", "json"])?;
    Ok(text(&said.stdout) + &text(&said.stderr))
}

/// What a file in a pod holds.
fn file(cluster: &Cluster, pod: &str, path: &str) -> Result<String> {
    let said = cluster.in_pod(NAMESPACE, pod, &["cat", path])?.output()?;
    Ok(text(&said.stdout))
}

fn pod_on(cluster: &Cluster, node: &str, name: &str, command: &[&str]) -> Result<String> {
    cluster.begin_pod(NAMESPACE, name, command, &json!({"nodeName": node}))?;
    cluster.pod_is_ready(NAMESPACE, name)?;
    cluster.kubectl(&[
        "get",
        "pod",
        "-n",
        NAMESPACE,
        name,
        "-o",
        "jsonpath={.status.podIP}",
    ])
}

/// The reports of both nodes, by their names.
fn reports(cluster: &Cluster) -> Result<Vec<Value>> {
    let listed: Value = serde_json::from_str(&cluster.kubectl(&["get", "nodereports", "-o", "json"])?)?;
    let reports = listed.get("items").and_then(Value::as_array).context("no list")?;
    Ok(reports.clone())
}

#[test]
fn both_nodes_enforce_and_say_so_each_for_itself() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let cluster = Cluster::start(&ClusterOptions {
        nodes: 2,
        ..ClusterOptions::default()
    })?;
    cluster.namespace(NAMESPACE)?;
    cluster.service_account(NAMESPACE, "agent", Some("admin"))?;
    cluster.apply(
        &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db", "namespace": NAMESPACE}, "data": {"password": CANARY}})
            .to_string(),
    )?;
    cluster.image_of_agent(IMAGE)?;

    // A connection from one node's pod to the other's, that is older than all agents. What goes out comes back on it, line by line.
    let echo = ["nc", "-ll", "-p", "9000", "-e", "cat"];
    let address = pod_on(&cluster, "node-2", "two", &echo)?;
    let talk = format!(
        "i=0; while [ ! -e /tmp/enough ]; do i=$((i+1)); echo $i; echo $i >/tmp/last; sleep 0.1; done | nc {address} 9000 >/tmp/echoed; \
         echo $? >/tmp/ended; exec sleep 100000"
    );
    pod_on(&cluster, "node-1", "one", &["sh", "-c", &talk])?;
    for pod in ["one", "two"] {
        let shown = secret(&cluster, pod)?;
        ensure!(shown.contains(CANARY), "{shown}");
    }

    // Observing, then enforcing: on each node one agent hands over to the next.
    release(&cluster, "install", &[])?;
    cluster.apply(&objects(&cluster)?)?;
    for pod in ["one", "two"] {
        until("observed", &cluster, || {
            Ok(secret(&cluster, pod)?.contains(CANARY))
        })?;
    }
    release(&cluster, "upgrade", &["--set=mode=enforce"])?;
    for pod in ["one", "two"] {
        until("masked", &cluster, || Ok(secret(&cluster, pod)?.contains(MASKED)))?;
        let shown = secret(&cluster, pod)?;
        ensure!(!shown.contains(CANARY), "{shown}");
        let denied = kubectl_in(&cluster, pod, &["delete", "secret", "db"])?;
        let told = text(&denied.stderr);
        ensure!(
            !denied.status.success() && told.contains("Forbidden") && told.contains("no rule allows"),
            "{told}"
        );
    }
    // Each was denied by its own node's agent, and none by the other's.
    for node in cluster.nodes()? {
        let agent = format!("{}:9464", node.address);
        let denied = metric_at(
            &agent,
            "bailiff_operations_total{effect=\"delete\",protocol=\"kubernetes\",verdict=\"deny\"}",
        )?;
        ensure!(denied == 1, "{}: {denied}", node.name);
    }

    // A pod of one node still talks to one of the other: on the same connection, and on new ones.
    cluster
        .in_pod(NAMESPACE, "one", &["touch", "/tmp/enough"])?
        .output()?;
    until("echoed", &cluster, || {
        let last = file(&cluster, "one", "/tmp/last")?;
        Ok(file(&cluster, "one", "/tmp/ended")? == "0\n"
            && !last.is_empty()
            && file(&cluster, "one", "/tmp/echoed")?.ends_with(&format!("\n{last}")))
    })?;
    let echoed = file(&cluster, "one", "/tmp/echoed")?;
    ensure!(
        echoed
            .lines()
            .zip(1..)
            .all(|(line, number)| line == format!("{number}")),
        "lines are missing: {echoed}"
    );
    let again = format!("echo again | nc -w 5 {address} 9000");
    let said = cluster
        .in_pod(NAMESPACE, "one", &["sh", "-c", &again])?
        .output()?;
    ensure!(text(&said.stdout) == "again\n", "{}", text(&said.stderr));

    // What the cluster says of it.
    until("2/2", &cluster, || {
        let listed = cluster.kubectl(&["get", "targets.bailiff.dev,policies.bailiff.dev"])?;
        Ok(listed.matches("2/2").count() == 2)
    })?;
    until("reported by both", &cluster, || {
        let reports = reports(&cluster)?;
        let names: Vec<Option<&Value>> = reports
            .iter()
            .map(|report| report.pointer("/metadata/name"))
            .collect();
        Ok(names == [Some(&json!("node-1")), Some(&json!("node-2"))]
            && reports.iter().all(|report| {
                report.pointer("/status/mode") == Some(&json!("Enforce"))
                    && report.pointer("/status/pods/enforced") == Some(&json!(1))
                    && report.pointer("/status/pods/notCovered") == Some(&json!(0))
            }))
    })?;
    let told = Command::new(bailiff()?)
        .args(["status", "--kubeconfig"])
        .arg(cluster.kubeconfig()?)
        .output()?;
    let shown = text(&told.stdout);
    ensure!(told.status.success() && shown.contains("All is well."), "{shown}");
    for node in ["node-1", "node-2"] {
        let is_listed = shown.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.contains(&node) && words.contains(&"ready") && words.contains(&"enforce")
        });
        ensure!(is_listed, "{node}: {shown}");
    }
    each_writes_its_own_report(&cluster)?;

    helm(&cluster, &["uninstall", "bailiff", "--wait", "--timeout=120s"])?;
    for node in cluster.nodes()? {
        until("taken away", &cluster, || Ok(node.pinned()?.is_empty()))?;
    }
    for pod in ["one", "two"] {
        until("direct", &cluster, || Ok(secret(&cluster, pod)?.contains(CANARY)))?;
    }
    cluster.stop()
}

/// The token that each agent's pod has writes its own node's report, and not the other's.
fn each_writes_its_own_report(cluster: &Cluster) -> Result<()> {
    let all = reports(cluster)?;
    let [one, other] = all.as_slice() else {
        bail!("{} reports", all.len());
    };
    for (own, others) in [(one, other), (other, one)] {
        let name = |report: &Value| -> Result<String> {
            let name = report.pointer("/metadata/name").and_then(Value::as_str);
            Ok(name.context("no name")?.to_owned())
        };
        let pod = cluster.kubectl(&[
            "get",
            "pods",
            "-n",
            "bailiff",
            "-l",
            "app.kubernetes.io/component=agent",
            &format!("--field-selector=spec.nodeName={}", name(own)?),
            "-o",
            "jsonpath={.items[0].metadata.name}",
        ])?;
        let token = cluster.token("bailiff", "bailiff-agent", Some(&pod))?;
        let path = reporting::kubeconfig(cluster, &cluster.folder().join("agents"), &token)?;
        for (report, may) in [(own, true), (others, false)] {
            let mut status = report.get("status").context("no status")?.clone();
            if let Some(status) = status.as_object_mut() {
                status.insert("version".to_owned(), json!("said-by-hand"));
            }
            let said = json!({
                "apiVersion": "bailiff.dev/v1alpha1", "kind": "NodeReport", "metadata": {"name": name(report)?}, "status": status,
            });
            let file = cluster.folder().join("report.json");
            std::fs::write(&file, said.to_string())?;
            let said = cluster
                .kubectl_command(&["apply", "--server-side", "--force-conflicts", "-f"])?
                .arg(&file)
                .env("KUBECONFIG", &path)
                .output()?;
            let told = text(&said.stdout) + &text(&said.stderr);
            ensure!(
                said.status.success() == may && (may || told.contains("written by that node's agent alone")),
                "{pod}, of {}: {told}",
                name(report)?
            );
        }
    }
    Ok(())
}
