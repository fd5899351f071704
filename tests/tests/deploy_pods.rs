//! Kinds of pods under the deployed chart: init containers, native sidecars, the node's network, exempt namespaces.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::deploy::released::{IMAGE, helm, objects, release, until};
use bailiff_tests::masked::{said, text};
use bailiff_tests::{NodeLab, bailiff, events_in, metric_at};
use serde_json::{Value, json};

const CANARY: &str = "Y2FuYXJ5LXdvcmxkLTQy";
const MASKED: &str = "W21hc2tlZF0=";
const EXEMPT: &str = "deployed-exempt";

fn at<'a>(event: &'a Value, place: &str) -> &'a str {
    event.pointer(place).and_then(Value::as_str).unwrap_or_default()
}

fn container(name: &str, script: &str, more: &Value) -> Value {
    let mut container = json!({
        "name": name, "image": "bailiff.test/busybox:1", "imagePullPolicy": "Never", "command": ["sh", "-c", script],
        "volumeMounts": [{"name": "programs", "mountPath": "/programs", "readOnly": true}],
    });
    if let (Some(container), Some(more)) = (container.as_object_mut(), more.as_object()) {
        container.extend(more.clone());
    }
    container
}

/// A pod whose containers each read a ConfigMap of their own name: one that prepares, a sidecar beside it, and the main one.
fn kinds() -> Value {
    let look = |name: &str| format!("/programs/kubectl get configmap {name} >/dev/null 2>&1");
    // Kubelet takes a second to say which container is which: an init container that is gone by then is told by its id.
    let prepares = format!(
        "n=0; while [ $n -lt 8 ]; do {} && n=$((n + 1)); sleep 0.5; done",
        look("prepare")
    );
    let beside = |name: &str| format!("while :; do {}; sleep 0.5; done", look(name));
    json!({
        "initContainers": [
            container("sidecar", &beside("sidecar"), &json!({"restartPolicy": "Always"})),
            container("prepare", &prepares, &json!({})),
        ],
        "containers": [container("main", &beside("main"), &json!({}))],
    })
}

/// What `bailiff status` says, as an administrator sees it.
fn status(lab: &NodeLab) -> Result<Value> {
    let output = Command::new(bailiff()?)
        .args(["status", "-o", "json", "--kubeconfig"])
        .arg(lab.cluster.kubeconfig()?)
        .output()?;
    serde_json::from_slice(&output.stdout).with_context(|| text(&output.stderr))
}

#[test]
fn each_kind_of_pod_is_decided_on_and_told_by_its_container_and_exempt_ones_are_left_alone() -> Result<()> {
    let Some(lab) = NodeLab::new("deployed-kinds", "admin", "    []\n")? else {
        return Ok(());
    };
    let cluster = lab.cluster;
    cluster.namespace(EXEMPT)?;
    cluster.service_account(EXEMPT, "agent", Some("admin"))?;
    let secret = |namespace: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db", "namespace": namespace}, "data": {"password": CANARY}});
    let mut all = vec![secret(&lab.namespace), secret(EXEMPT)];
    all.extend(["prepare", "sidecar", "main"].map(
        |name| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": lab.namespace}}),
    ));
    lab.apply(&all)?;
    cluster.image_of_agent(IMAGE)?;
    let data = format!(
        "--set=agent.dataDir={}",
        lab.path("data").to_str().context("not UTF-8")?
    );
    let exempt = format!("--set=exemptNamespaces={{kube-system,{EXEMPT}}}");
    release(cluster, "install", &["--set=mode=enforce", &data, &exempt])?;
    cluster.apply(&objects(cluster)?)?;
    let agent = format!("{}:9464", cluster.node_address()?);
    lab.pod("plain", None)?;
    let get = ["get", "secret", "db", "-o", "json"];
    until("masked", cluster, || {
        Ok(text(&lab.kubectl("plain", &get)?.stdout).contains(MASKED))
    })?;

    // All of a pod's containers are held, and one that uses the node's network is told from the node by its cgroup.
    lab.begin_pod_with("kinds", &[], &kinds())?;
    lab.begin_pod_with("host", &["sleep", "100000"], &json!({"hostNetwork": true}))?;
    lab.ready("kinds")?;
    lab.ready("host")?;
    for (pod, container) in [("kinds", "main"), ("kinds", "sidecar"), ("host", "main")] {
        let inside = |args: &[&str]| -> Result<std::process::Output> {
            let args = [
                &[
                    "exec",
                    "-n",
                    &lab.namespace,
                    pod,
                    "-c",
                    container,
                    "--",
                    "/programs/kubectl",
                ],
                args,
            ]
            .concat();
            Ok(cluster.kubectl_command(&args)?.output()?)
        };
        let seen = said(&inside(&get)?, pod)?;
        ensure!(seen.contains(MASKED) && !seen.contains(CANARY), "{pod}: {seen}");
        let denied = inside(&["delete", "secret", "db"])?;
        ensure!(
            !denied.status.success() && text(&denied.stderr).contains("no rule allows"),
            "{pod}: {denied:?}"
        );
    }

    // An exempt namespace's pod goes past, and is counted as one.
    let counted = || metric_at(&agent, "bailiff_pods{state=\"exempt\"}");
    let before = counted()?;
    let spec = json!({
        "serviceAccountName": "agent", "terminationGracePeriodSeconds": 0,
        "containers": [container("main", "sleep 100000", &json!({}))],
        "volumes": [{"name": "programs", "hostPath": {"path": cluster.programs()?}}],
    });
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": EXEMPT, "name": "free"}, "spec": spec});
    cluster.apply(&pod.to_string())?;
    cluster.kubectl(&[
        "wait",
        "-n",
        EXEMPT,
        "--for=condition=Ready",
        "--timeout=90s",
        "pod/free",
    ])?;
    until("counted", cluster, || Ok(counted()? == before + 1))?;
    let free = |args: &[&str]| -> Result<std::process::Output> {
        let args = [&["exec", "-n", EXEMPT, "free", "--", "/programs/kubectl"], args].concat();
        Ok(cluster.kubectl_command(&args)?.output()?)
    };
    let seen = said(&free(&get)?, "exempt")?;
    ensure!(seen.contains(CANARY), "{seen}");
    said(&free(&["create", "configmap", "made"])?, "exempt")?;

    // The cluster is told the same: each pod is covered or exempt, those of the node's network too.
    until("reported", cluster, || {
        let pods = status(&lab)?
            .pointer("/nodes/0/said/pods")
            .cloned()
            .unwrap_or_default();
        let count = |what: &str| pods.get(what).and_then(Value::as_u64).unwrap_or_default();
        Ok(count("enforced") == 3 && count("exempt") == before + 1 && count("notCovered") == 0)
    })?;

    helm(cluster, &["uninstall", "bailiff", "--wait", "--timeout=120s"])?;
    cluster.kubectl(&["delete", "namespace", EXEMPT, "--wait=false"])?;
    let events = events_in(&lab.path("data").join("record"))?;
    ensure!(
        !events.iter().any(|event| event.to_string().contains(EXEMPT)),
        "an exempt pod is in the record"
    );
    // Who asked: by the container's name once kubelet has told it, by its id before.
    for container in ["prepare", "sidecar", "main"] {
        let mut names = Vec::new();
        for event in &events {
            if at(event, "/annotations/bailiff.dev~1pod") == "deployed-kinds/kinds"
                && at(event, "/objectRef/name") == container
                && at(event, "/annotations/bailiff.dev~1token") == "bound"
            {
                let chain: Value = serde_json::from_str(at(event, "/annotations/bailiff.dev~1chain"))?;
                names.push(at(&chain, "/0/kind/pod/process/container").to_owned());
            }
        }
        ensure!(
            names.iter().any(|name| name == container)
                && names.iter().all(|name| name == container || name.len() == 64),
            "{container}: {names:?}"
        );
    }
    let host = events
        .iter()
        .filter(|event| at(event, "/annotations/bailiff.dev~1pod") == "deployed-kinds/host");
    ensure!(
        host.count() >= 2,
        "the pod of the node's network isn't in the record"
    );
    Ok(())
}
