//! Two nodes beside each other: pods on both, which reach each other as on any cluster.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{Cluster, ClusterOptions, can_be_root};
use serde_json::Value;

const WEB: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: bailiff.test/busybox:1
        imagePullPolicy: Never
        command: [sh, -c, 'mkdir /www; hostname >/www/index.html; exec httpd -f -v -p 8080 -h /www']
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
";

struct Pod {
    name: String,
    node: String,
    address: String,
}

fn pods(cluster: &Cluster) -> Result<Vec<Pod>> {
    let listed = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "json"])?;
    let listed: Value = serde_json::from_str(&listed)?;
    let text = |pod: &Value, path: &str| -> Result<String> {
        let text = pod.pointer(path).and_then(Value::as_str);
        Ok(text.with_context(|| format!("no {path}: {pod}"))?.to_owned())
    };
    let items = listed.get("items").and_then(Value::as_array).context("no list")?;
    items
        .iter()
        .map(|pod| {
            Ok(Pod {
                name: text(pod, "/metadata/name")?,
                node: text(pod, "/spec/nodeName")?,
                address: text(pod, "/status/podIP")?,
            })
        })
        .collect()
}

#[test]
fn pods_on_two_nodes_reach_each_other_and_a_service_of_both() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let cluster = Cluster::start(&ClusterOptions {
        nodes: 2,
        ..ClusterOptions::default()
    })?;
    let nodes = cluster.nodes()?;
    let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
    ensure!(names == ["node-1", "node-2"], "{names:?}");
    ensure!(cluster.node() == Some("node-1"));
    for node in &nodes {
        let told = cluster.kubectl(&[
            "get",
            "node",
            &node.name,
            "-o",
            "jsonpath={.spec.podCIDR} {.status.addresses[?(@.type=='InternalIP')].address} {.status.conditions[?(@.type=='Ready')].status}",
        ])?;
        ensure!(told == format!("{} {} True", node.pods, node.address), "{told}");
    }

    cluster.apply(WEB)?;
    cluster.kubectl(&["rollout", "status", "daemonset/web", "--timeout=120s"])?;
    let pods = pods(&cluster)?;
    let [one, other] = pods.as_slice() else {
        anyhow::bail!("{} pods", pods.len());
    };
    ensure!(one.node != other.node, "both are on {}", one.node);
    for (pod, far) in [(one, other), (other, one)] {
        let inside = |script: &str| cluster.kubectl(&["exec", &pod.name, "--", "sh", "-c", script]);
        let answered = inside(&format!("wget -qO- http://{}:8080", far.address))?;
        ensure!(answered == far.name, "{answered}");
        // Its own address is seen at the other end: nothing translates it on the way.
        let seen = cluster.kubectl(&["logs", &far.name])?;
        ensure!(
            seen.contains(&format!("[::ffff:{}]", pod.address)),
            "{} isn't in:\n{seen}",
            pod.address
        );
        // Both stand behind the Service, on each node once its kube-proxy has heard of them.
        let until = Instant::now() + cluster.patience(60);
        let mut answered = String::new();
        while !pods.iter().all(|pod| answered.contains(&pod.name)) {
            ensure!(Instant::now() < until, "only {answered:?} answered {}", pod.name);
            answered += &inside("for i in $(seq 10); do wget -qO- http://$WEB_SERVICE_HOST || exit 1; done")?;
        }
        inside("nc -w 5 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT </dev/null")?;
        // Its node's kubelet made its cgroup below the node's own.
        let node = nodes
            .iter()
            .find(|node| node.name == pod.node)
            .context("no such node")?;
        ensure!(
            node.cgroup
                .as_ref()
                .is_some_and(|cgroup| cgroup.join("kubepods").is_dir()),
            "{} isn't there",
            node.name
        );
    }
    cluster.stop()
}
