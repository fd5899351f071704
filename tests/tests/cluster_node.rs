//! A node on which pods run: kubelet, containerd, runc and kube-proxy.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{Cluster, ClusterOptions, can_be_root, image};
use serde_json::Value;

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: bailiff.test/busybox:1
        imagePullPolicy: Never
        command: [sh, -c, 'mkdir /www; hostname >/www/index.html; echo serving; exec httpd -f -p 8080 -h /www']
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
";

#[test]
fn a_deployment_runs_is_reached_by_its_service_and_can_be_entered() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    // An image that no container engine made. Its program is one that is static, and goes by any name.
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cluster");
    let folder = tempfile::Builder::new().prefix("images-").tempdir_in(&target)?;
    let made = folder.path().join("made.tar");
    image(&target.join("bin/helm"), "bailiff.test/made:1", &made, &[])?;
    let cluster = Cluster::start(&ClusterOptions {
        nodes: 1,
        images: vec![made],
        ..ClusterOptions::default()
    })?;
    let node = cluster.node().context("no node")?;
    cluster.apply(WEB)?;
    cluster.kubectl(&[
        "rollout",
        "status",
        "deployment/web",
        &format!("--timeout={}s", cluster.patience(120).as_secs()),
    ])?;
    let listed = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "json"])?;
    let listed: Value = serde_json::from_str(&listed)?;
    let pods = listed.get("items").and_then(Value::as_array).context("no list")?;
    ensure!(pods.len() == 2, "{pods:?}");
    let mut names = Vec::new();
    for pod in pods {
        ensure!(pod.pointer("/spec/nodeName") == Some(&Value::from(node)), "{pod}");
        names.push(
            pod.pointer("/metadata/name")
                .and_then(Value::as_str)
                .context("a pod without a name")?,
        );
    }

    cluster.kubectl(&[
        "run",
        "made",
        "--image=bailiff.test/made:1",
        "--image-pull-policy=Never",
        "--restart=Never",
        "--",
        "version",
    ])?;
    cluster.kubectl(&[
        "wait",
        "--for=jsonpath={.status.phase}=Succeeded",
        &format!("--timeout={}s", cluster.patience(60).as_secs()),
        "pod/made",
    ])?;
    let said = cluster.kubectl(&["logs", "made"])?;
    ensure!(said.contains("Version:\"v3."), "{said}");

    // Inside: the service leads to one of the two, and the API server takes the pod's own token by its own address.
    let name = *names.first().context("no pod")?;
    let inside = |script: &str| cluster.kubectl(&["exec", name, "--", "sh", "-c", script]);
    ensure!(inside("hostname")? == name);
    let answered = inside("wget -qO- http://$WEB_SERVICE_HOST")?;
    ensure!(names.contains(&answered.as_str()), "{answered}");
    ensure!(inside("echo $KUBERNETES_SERVICE_HOST")? == cluster.service()?.ip().to_string());
    inside("nc -w 5 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT </dev/null")?;
    let root = inside("cat /var/run/secrets/kubernetes.io/serviceaccount/ca.crt")?;
    ensure!(
        root.trim() == std::fs::read_to_string(cluster.ca()?)?.trim(),
        "{root}"
    );
    let token = inside("cat /var/run/secrets/kubernetes.io/serviceaccount/token")?;
    let said = cluster.kubectl(&[
        "auth",
        "whoami",
        "-o",
        "json",
        "--kubeconfig=/dev/null",
        &format!("--server=https://{}", cluster.api_server()?),
        &format!("--certificate-authority={}", cluster.ca()?.display()),
        &format!("--token={token}"),
    ])?;
    let said: Value = serde_json::from_str(&said)?;
    let bound = said.pointer("/status/userInfo/extra/authentication.kubernetes.io~1pod-name/0");
    ensure!(bound == Some(&Value::from(name)), "{said}");

    ensure!(cluster.kubectl(&["logs", name])? == "serving");
    cluster.audited("the exec", |event| {
        event.pointer("/objectRef/subresource") == Some(&Value::from("exec"))
            && event.pointer("/objectRef/name") == Some(&Value::from(name))
    })?;
    cluster.stop()
}
