//! A node on which pods run: kubelet, containerd, runc and kube-proxy.

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{Cluster, ClusterOptions, can_be_root};
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
    let cluster = Cluster::start(&ClusterOptions {
        nodes: 1,
        ..ClusterOptions::default()
    })?;
    let node = cluster.node().context("no node")?;
    cluster.apply(WEB)?;
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"])?;
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

    // An image that no container engine made. The program is another one that is static, and goes by any name.
    cluster.image_of(&cluster.programs()?.join("helm"), "bailiff.test/made:1")?;
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
        "--timeout=60s",
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
    let event = cluster.audited("the exec", |event| {
        event.pointer("/objectRef/subresource") == Some(&Value::from("exec"))
    })?;
    ensure!(
        event.pointer("/objectRef/name") == Some(&Value::from(name)),
        "{event}"
    );
    cluster.stop()
}
