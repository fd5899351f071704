//! Pods of a real node that the API server tells of: who is enforced on, observed or exempt, and what holds while the API server is away.

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::masked::{said, text};
use bailiff_tests::secret::{GET, MASKED, masked, refused, unmasked};
use bailiff_tests::{NodeAgent, NodeLab};
use serde_json::{Value, json};

const RULES: &str = r#"    - name: discover
      requests: [{verbs: [get], paths: ["*"]}]
      action: Allow
    - name: look
      requests: [{verbs: [get, list, watch], groups: [""], resources: [secrets, configmaps], tokens: [Bound]}]
      action: Allow
  masks:
  - {groups: [""], resources: [secrets], fields: ["data.*"], with: Redact}
"#;

/// What pods may do beside that, once they bear a label.
const PROMOTED: &str = r#"apiVersion: bailiff.dev/v1alpha1
kind: Policy
metadata: { name: promoted }
spec:
  targets: [api]
  subjects: [{podLabels: {team: ops}}]
  rules:
    - name: write
      requests: [{verbs: [create, delete], groups: [""], resources: [configmaps]}]
      action: Allow
"#;

fn lab(namespace: &str) -> Result<Option<NodeLab>> {
    let Some(lab) = NodeLab::new(namespace, "admin", RULES)? else {
        return Ok(None);
    };
    std::fs::write(lab.enforced.config().join("promoted.yaml"), PROMOTED)?;
    lab.secret()?;
    Ok(Some(lab))
}

/// The node's agent, which asks the API server at `server` for its pods.
fn start(lab: &NodeLab, server: Option<&str>, options: &[&str]) -> Result<NodeAgent> {
    let config = lab
        .enforced
        .config()
        .to_str()
        .context("a path that isn't UTF-8")?;
    start_by_cluster(lab, server, &[&["--config", config], options].concat())
}

/// The same with the cluster's Targets and Policies.
fn start_by_cluster(lab: &NodeLab, server: Option<&str>, options: &[&str]) -> Result<NodeAgent> {
    with_cluster(lab, server, options, NodeLab::start_without_config)
}

fn with_cluster(
    lab: &NodeLab,
    server: Option<&str>,
    options: &[&str],
    start: impl FnOnce(&NodeLab, &[&str]) -> Result<NodeAgent>,
) -> Result<NodeAgent> {
    let all = lab.by_cluster(server)?;
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    start(lab, &[&all, options].concat())
}

fn at<'a>(event: &'a Value, place: &str) -> &'a str {
    event.pointer(place).and_then(Value::as_str).unwrap_or_default()
}

#[test]
fn pods_are_enforced_on_from_their_first_instruction_by_what_the_api_server_says_of_them() -> Result<()> {
    let Some(lab) = lab("world-enforced")? else {
        return Ok(());
    };
    let agent = start(&lab, None, &["--mode", "enforce"])?;
    // It asks from its first instruction on, until it is answered.
    let script =
        "until /programs/kubectl get secret db -o json >/tmp/seen 2>/dev/null; do :; done; exec sleep 100000";
    let uid = lab.begin_pod("early", &["sh", "-c", script])?;
    lab.ready("early")?;
    let script = "until [ -s /tmp/seen ]; do sleep 0.1; done; cat /tmp/seen";
    masked(&lab.run("early", &["timeout", "60", "sh", "-c", script])?)?;

    // A label is felt by the next connection.
    let create = ["create", "configmap", "made"];
    let denied = lab.kubectl("early", &create)?;
    ensure!(
        !denied.status.success() && text(&denied.stderr).contains("no rule allows"),
        "{}",
        text(&denied.stderr)
    );
    lab.cluster
        .kubectl(&["label", "pod", "-n", &lab.namespace, "early", "team=ops"])?;
    agent.until("allowed by its label", || {
        Ok(lab.kubectl("early", &create)?.status.success())
    })?;

    // One that uses the node's network is told by its cgroup, and its init container from the other.
    let asks = "until /programs/kubectl get configmaps; do :; done";
    let programs = json!([{"name": "programs", "mountPath": "/programs", "readOnly": true}]);
    let more = json!({"hostNetwork": true, "initContainers": [{
        "name": "prepare", "image": "bailiff.test/busybox:1", "imagePullPolicy": "Never",
        "command": ["sh", "-c", asks], "volumeMounts": programs,
    }]});
    let host = lab.begin_pod_with("host", &["sleep", "100000"], &more)?;
    lab.ready("host")?;
    lab.until_enrolled(&agent, "host")?;
    masked(&lab.kubectl("host", &GET)?)?;
    let denied = lab.kubectl("host", &["delete", "secret", "db"])?;
    ensure!(
        !denied.status.success() && text(&denied.stderr).contains("no rule allows"),
        "{}",
        text(&denied.stderr)
    );
    let log = agent.log();
    ensure!(agent.stop()?.success(), "{log}");
    let events = lab.audited()?;
    // By its name once kubelet has told that, by its id before.
    let containers = |pod: &str| -> Result<Vec<String>> {
        let name = format!("world-enforced/{pod}");
        let of_pod = events
            .iter()
            .filter(|event| at(event, "/annotations/bailiff.dev~1pod") == name);
        let mut all = Vec::new();
        for event in of_pod {
            let chain: Value = serde_json::from_str(at(event, "/annotations/bailiff.dev~1chain"))?;
            all.push(at(&chain, "/0/kind/pod/process/container").to_owned());
        }
        Ok(all)
    };
    let early = containers("early")?;
    let is_id = |name: &String| name.len() == 64;
    ensure!(
        early.last().is_some_and(|name| name == "main")
            && early.iter().all(|name| name == "main" || is_id(name)),
        "{early:?}"
    );
    let all = containers("host")?;
    let before = all.iter().position(|name| name == "main").context("no main")?;
    ensure!(
        before > 0
            && all
                .iter()
                .take(before)
                .all(|name| name == "prepare" || is_id(name))
            && all.iter().skip(before).all(|name| name == "main" || is_id(name)),
        "{all:?}"
    );
    for (pod, uid) in [("early", &uid), ("host", &host)] {
        let name = format!("world-enforced/{pod}");
        let of_pod: Vec<_> = events
            .iter()
            .filter(|event| at(event, "/annotations/bailiff.dev~1pod") == name)
            .collect();
        ensure!(
            !of_pod.is_empty()
                && of_pod
                    .iter()
                    .all(
                        |event| at(event, "/annotations/bailiff.dev~1chain").contains(uid.as_str())
                            && at(event, "/annotations/bailiff.dev~1token") == "bound"
                    ),
            "{of_pod:#?}"
        );
    }
    Ok(())
}

#[test]
fn a_container_that_is_added_to_a_running_pod_is_told_from_the_others() -> Result<()> {
    let Some(lab) = lab("world-added")? else {
        return Ok(());
    };
    let agent = start(&lab, None, &["--mode", "enforce"])?;
    lab.pod("debugged", None)?;
    lab.until_enrolled(&agent, "debugged")?;
    masked(&lab.kubectl("debugged", &GET)?)?;
    // As `kubectl debug` adds one, with the pod's token.
    let pod = ["get", "pod", "-n", &lab.namespace, "debugged", "-o", "json"];
    let pod: Value = serde_json::from_str(&lab.cluster.kubectl(&pod)?)?;
    let mounts = pod
        .pointer("/spec/containers/0/volumeMounts")
        .context("no mounts")?;
    let script =
        "until /programs/kubectl get secret db -o json >/tmp/seen 2>/dev/null; do :; done; exec sleep 100000";
    let added = json!({"spec": {"ephemeralContainers": [{
        "name": "probe", "image": "bailiff.test/busybox:1", "imagePullPolicy": "Never",
        "command": ["sh", "-c", script], "volumeMounts": mounts,
    }]}});
    lab.cluster.kubectl(&[
        "patch",
        "pod",
        "-n",
        &lab.namespace,
        "debugged",
        "--subresource=ephemeralcontainers",
        "-p",
        &added.to_string(),
    ])?;
    let seen = [
        "exec",
        "-n",
        &lab.namespace,
        "debugged",
        "-c",
        "probe",
        "--",
        "cat",
        "/tmp/seen",
    ];
    agent.until("seen by the added container", || {
        Ok(lab.cluster.kubectl(&seen).is_ok_and(|seen| seen.contains(MASKED)))
    })?;
    masked(&lab.kubectl("debugged", &GET)?)?;
    ensure!(agent.stop()?.success());
    let mut containers: Vec<String> = Vec::new();
    for event in lab.audited()? {
        if at(&event, "/objectRef/resource") == "secrets" {
            let chain: Value = serde_json::from_str(at(&event, "/annotations/bailiff.dev~1chain"))?;
            containers.push(at(&chain, "/0/kind/pod/process/container").to_owned());
        }
    }
    // By its id until kubelet has told its name.
    let (first, last) = (containers.first(), containers.last());
    let between = containers
        .get(1..containers.len().saturating_sub(1))
        .unwrap_or_default();
    ensure!(
        first.is_some_and(|name| name == "main")
            && last.is_some_and(|name| name == "main")
            && !between.is_empty()
            && between.iter().all(|name| name == "probe" || name.len() == 64),
        "{containers:?}"
    );
    Ok(())
}

#[test]
fn a_pod_of_kubelets_own_is_known_by_its_mirror() -> Result<()> {
    let Some(lab) = lab("world-static")? else {
        return Ok(());
    };
    let agent = start(&lab, None, &["--mode", "enforce"])?;
    let manifest = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "static", "namespace": lab.namespace},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": "bailiff.test/busybox:1", "imagePullPolicy": "Never", "command": ["sleep", "100000"],
                "volumeMounts": [{"name": "programs", "mountPath": "/programs", "readOnly": true}],
            }],
            "volumes": [{"name": "programs", "hostPath": {"path": lab.cluster.programs()?}}],
        },
    });
    let node = lab.cluster.node().context("no node")?;
    let file = lab.cluster.folder().join(node).join("static/pod.json");
    std::fs::write(&file, manifest.to_string())?;
    let name = format!("static-{node}");
    agent.until("ready", || Ok(lab.ready(&name).is_ok()))?;
    lab.until_enrolled(&agent, &name)?;
    // Kubelet gives it no token.
    let token = lab.cluster.token(&lab.namespace, "agent", None)?;
    let token = format!("--token={token}");
    let server = format!("--server=https://{}", lab.cluster.service()?.ip());
    let asks = |more: &[&str]| {
        let first = [
            "--kubeconfig=/dev/null",
            &server,
            &token,
            "--insecure-skip-tls-verify",
        ];
        lab.kubectl(&name, &[&first, more].concat())
    };
    said(&asks(&["get", "--raw", "/version"])?, "its version")?;
    let denied = asks(&["delete", "--raw", "/api/v1/namespaces/world-static/secrets/db"])?;
    ensure!(
        text(&denied.stderr).contains("no rule allows"),
        "{}",
        text(&denied.stderr)
    );
    std::fs::remove_file(&file)?;
    ensure!(agent.stop()?.success());
    let pod = format!("world-static/{name}");
    let events = lab.audited()?;
    ensure!(
        events.len() >= 2
            && events
                .iter()
                .all(|event| at(event, "/annotations/bailiff.dev~1pod") == pod
                    && at(event, "/annotations/bailiff.dev~1chain").contains("\"main\"")),
        "{events:#?}"
    );
    Ok(())
}

#[test]
fn the_first_installation_observes_and_namespaces_are_exempt_or_enforced_on_by_a_value() -> Result<()> {
    let Some(lab) = lab("world-observed")? else {
        return Ok(());
    };
    lab.pod("agent", None)?;
    let agent = start(&lab, None, &[])?;
    lab.until_enrolled(&agent, "agent")?;
    unmasked(&lab.kubectl("agent", &GET)?)?;
    said(
        &lab.kubectl("agent", &["create", "configmap", "made"])?,
        "what no rule allows",
    )?;
    agent.stop()?;
    let events = lab.audited()?;
    let made: Vec<_> = events
        .iter()
        .filter(|event| at(event, "/verb") == "create" && at(event, "/objectRef/resource") == "configmaps")
        .collect();
    ensure!(
        made.len() == 1
            && made
                .iter()
                .all(|event| at(event, "/annotations/bailiff.dev~1verdict") == "allow"
                    && at(event, "/annotations/bailiff.dev~1would-be").contains("deny")),
        "{events:#?}"
    );

    let agent = start(&lab, None, &["--except-namespace", "world-observed"])?;
    lab.until_enrolled(&agent, "agent")?;
    masked(&lab.kubectl("agent", &GET)?)?;
    let denied = lab.kubectl("agent", &["delete", "configmap", "made"])?;
    ensure!(!denied.status.success(), "{}", text(&denied.stdout));
    agent.stop()?;

    let before = lab.audited()?.len();
    let agent = start(
        &lab,
        None,
        &["--mode", "enforce", "--exempt-namespace", "world-observed"],
    )?;
    lab.until_enrolled(&agent, "agent")?;
    unmasked(&lab.kubectl("agent", &GET)?)?;
    agent.stop()?;
    ensure!(lab.audited()?.len() == before, "an exempt pod is in the record");
    Ok(())
}

#[test]
fn an_agent_that_starts_while_the_api_server_is_away_enforces_by_what_it_knew() -> Result<()> {
    let Some(lab) = lab("world-away")? else {
        return Ok(());
    };
    // Nothing answers there.
    let away = "127.0.0.1:1";
    lab.pod("agent", None)?;
    let agent = start(&lab, Some(away), &["--mode", "enforce"])?;
    // Nobody knows who that is.
    refused(&lab.kubectl("agent", &GET)?)?;
    agent.until("told by /readyz", || {
        let ready = agent.get("/readyz")?;
        Ok(ready.contains("[!]cluster: ") && ready.contains("[!]pods: "))
    })?;
    ensure!(
        agent.metric("bailiff_pods{state=\"unknown\"}")? >= 1,
        "{}",
        agent.metrics()?
    );
    ensure!(agent.log().contains("can't be followed"), "{}", agent.log());
    agent.kill()?;

    let agent = start(&lab, None, &["--mode", "enforce"])?;
    lab.until_enrolled(&agent, "agent")?;
    masked(&lab.kubectl("agent", &GET)?)?;
    let kept = lab.path("state").join("pods.json");
    agent.until("kept", || {
        Ok(std::fs::read_to_string(&kept).is_ok_and(|text| text.contains("world-away")))
    })?;
    agent.kill()?;

    let agent = start(&lab, Some(away), &["--mode", "enforce"])?;
    lab.until_enrolled(&agent, "agent")?;
    masked(&lab.kubectl("agent", &GET)?)?;
    // One that came meanwhile is nobody yet.
    lab.pod("late", None)?;
    refused(&lab.kubectl("late", &GET)?)?;
    agent.kill()?;

    // What isn't whole is refused, and says what to do.
    std::fs::write(&kept, "{\"node\":")?;
    let broken = start(&lab, Some(away), &["--mode", "enforce"]);
    let told = broken.err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(told.contains("pods.json") && told.contains("remove it"), "{told}");
    std::fs::remove_file(&kept)?;

    let agent = start(&lab, None, &["--mode", "enforce"])?;
    lab.until_enrolled(&agent, "late")?;
    masked(&lab.kubectl("late", &GET)?)?;
    agent.until("counted", || {
        Ok(agent.metric("bailiff_pods{state=\"enforced\"}")? >= 2)
    })?;
    let ready = agent.get("/readyz")?;
    ensure!(
        !ready.contains("[!]cluster") && !ready.contains("[!]pods"),
        "{ready}"
    );
    ensure!(agent.stop()?.success());
    Ok(())
}

#[test]
fn targets_and_policies_are_objects_of_the_cluster() -> Result<()> {
    let Some(lab) = lab("world-policies")? else {
        return Ok(());
    };
    lab.cluster.install_crds()?;
    lab.pod("agent", None)?;
    // Nothing is protected yet.
    let agent = start_by_cluster(&lab, None, &["--mode", "enforce"])?;
    unmasked(&lab.kubectl("agent", &GET)?)?;

    let written = |name: &str| std::fs::read_to_string(lab.enforced.config().join(name));
    lab.cluster.apply(&written("target.yaml")?)?;
    // Without a policy all is denied.
    agent.until("denied", || Ok(!lab.kubectl("agent", &GET)?.status.success()))?;
    lab.cluster.apply(&written("policy.yaml")?)?;
    agent.until("allowed", || Ok(lab.kubectl("agent", &GET)?.status.success()))?;
    masked(&lab.kubectl("agent", &GET)?)?;

    // What the API server can't tell to be wrong is refused by the agent, which says where; what was in force stays.
    let wrong = r#"{"apiVersion": "bailiff.dev/v1alpha1", "kind": "Policy", "metadata": {"name": "wrong"},
        "spec": {"targets": ["nowhere"], "rules": [{"name": "r", "effects": ["read"], "action": "Allow"}]}}"#;
    lab.cluster.apply(wrong)?;
    agent.until("refused", || {
        Ok(agent.log().contains("policy-wrong.yaml") && agent.metric("bailiff_policies_refused")? == 1)
    })?;
    masked(&lab.kubectl("agent", &GET)?)?;
    lab.cluster
        .kubectl(&["delete", "policies.bailiff.dev", "wrong"])?;
    agent.until("mended", || Ok(agent.metric("bailiff_policies_refused")? == 0))?;
    agent.kill()?;

    // It goes on from what it knew.
    let agent = start_by_cluster(&lab, Some("127.0.0.1:1"), &["--mode", "enforce"])?;
    lab.until_enrolled(&agent, "agent")?;
    masked(&lab.kubectl("agent", &GET)?)?;
    agent.kill()?;

    // What went meanwhile is gone when it starts.
    lab.cluster
        .kubectl(&["delete", "policies.bailiff.dev", "agents"])?;
    let agent = start_by_cluster(&lab, None, &["--mode", "enforce"])?;
    lab.until_enrolled(&agent, "agent")?;
    let denied = lab.kubectl("agent", &GET)?;
    ensure!(
        !denied.status.success() && text(&denied.stderr).contains("no rule allows"),
        "{}",
        text(&denied.stderr)
    );
    ensure!(agent.stop()?.success());
    Ok(())
}

#[test]
fn an_agent_that_finds_objects_refused_starts_by_what_it_knew_or_denies_where_they_might_forbid() -> Result<()>
{
    let Some(lab) = lab("world-refused")? else {
        return Ok(());
    };
    lab.cluster.install_crds()?;
    for file in ["target.yaml", "policy.yaml"] {
        let text = std::fs::read_to_string(lab.enforced.config().join(file))?;
        lab.cluster.apply(&text)?;
    }
    lab.pod("agent", None)?;
    let agent = start_by_cluster(&lab, None, &["--mode", "enforce"])?;
    lab.until_enrolled(&agent, "agent")?;
    masked(&lab.kubectl("agent", &GET)?)?;

    // It ends, and objects come that no agent takes.
    ensure!(agent.stop()?.success());
    let wrong = r#"{"apiVersion": "bailiff.dev/v1alpha1", "kind": "Policy", "metadata": {"name": "wrong"},
        "spec": {"targets": ["api", "nowhere"], "rules": [{"name": "r", "requests": [{"verbs": ["get"]}], "action": "Deny"}]}}"#;
    lab.cluster.apply(wrong)?;
    let agent = start_by_cluster(&lab, None, &["--mode", "enforce"])?;
    lab.until_enrolled(&agent, "agent")?;
    masked(&lab.kubectl("agent", &GET)?)?;
    let ready = agent.get("/readyz")?;
    ensure!(
        ready.contains("older ones are in force") && agent.metric("bailiff_policies_refused")? == 1,
        "{ready}"
    );
    ensure!(agent.log().contains("policy-wrong.yaml"), "{}", agent.log());
    agent.kill()?;

    // A node that knows no earlier ones.
    let kept = lab.path("state").join("in-force.json");
    ensure!(kept.exists());
    std::fs::remove_file(&kept)?;
    let agent = start_by_cluster(&lab, None, &["--mode", "enforce"])?;
    lab.until_enrolled(&agent, "agent")?;
    let denied = lab.kubectl("agent", &GET)?;
    ensure!(
        !denied.status.success() && text(&denied.stderr).contains("no rule allows"),
        "{}{}",
        text(&denied.stderr),
        text(&denied.stdout)
    );
    let ready = agent.get("/readyz")?;
    ensure!(ready.contains("everything is denied"), "{ready}");
    // A next one doesn't take the pods from it for that.
    std::fs::write(&kept, "[[")?;
    let told = start_by_cluster(&lab, None, &["--mode", "enforce"]).err();
    let told = told.map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(
        told.contains("policy-wrong.yaml") && told.contains("goes on"),
        "{told}"
    );
    ensure!(!lab.kubectl("agent", &GET)?.status.success());

    // It is mended, and in force without another start.
    lab.cluster
        .kubectl(&["delete", "policies.bailiff.dev", "wrong"])?;
    agent.until("allowed again", || {
        Ok(lab.kubectl("agent", &GET)?.status.success())
    })?;
    masked(&lab.kubectl("agent", &GET)?)?;
    ensure!(!agent.get("/readyz")?.contains("[!]policies"));
    ensure!(agent.stop()?.success());
    for kind in ["policies.bailiff.dev", "targets.bailiff.dev"] {
        lab.cluster.kubectl(&["delete", kind, "--all"])?;
    }
    Ok(())
}

#[test]
fn a_node_says_what_becomes_of_its_pods_and_of_objects() -> Result<()> {
    let Some(lab) = lab("world-report")? else {
        return Ok(());
    };
    lab.cluster.install_crds()?;
    for kind in ["policies.bailiff.dev", "targets.bailiff.dev"] {
        lab.cluster.kubectl(&["delete", kind, "--all"])?;
    }
    lab.cluster.apply_base(&["nodereports.yaml"])?;
    for file in ["target.yaml", "policy.yaml"] {
        let text = std::fs::read_to_string(lab.enforced.config().join(file))?;
        lab.cluster.apply(&text)?;
    }
    lab.pod("agent", None)?;
    let agent = start_by_cluster(&lab, None, &["--mode", "enforce"])?;
    lab.until_enrolled(&agent, "agent")?;
    let name = format!("nodereport/{}", lab.cluster.node().context("no node")?);
    let report = || -> Result<Value> {
        Ok(serde_json::from_str(
            &lab.cluster.kubectl(&["get", &name, "-o", "json"])?,
        )?)
    };
    let number = |report: &Value, place: &str| report.pointer(place).and_then(Value::as_u64);
    agent.until("reported", || {
        Ok(report().is_ok_and(|report| {
            number(&report, "/status/pods/enforced").is_some_and(|enforced| enforced >= 1)
                && number(&report, "/status/objects/targets") == Some(1)
                && number(&report, "/status/objects/policies") == Some(1)
        }))
    })?;
    let told = report()?;
    let node = lab
        .cluster
        .kubectl(&["get", "node", "-o", "jsonpath={.items[0].metadata.uid}"])?;
    ensure!(
        told.pointer("/status/dataPath/ready") == Some(&json!(true))
            && at(&told, "/status/mode") == "Enforce"
            && at(&told, "/status/targets/0/state") == "InForce"
            && at(&told, "/metadata/ownerReferences/0/uid") == node
            && told
                .pointer("/status/certificates")
                .and_then(Value::as_array)
                .is_some_and(|all| all.iter().all(|one| at(one, "/state") == "Good")),
        "{told:#}"
    );
    // It ends in order, and says so.
    ensure!(agent.stop()?.success());
    let told = report()?;
    ensure!(
        told.pointer("/status/dataPath/ready") == Some(&json!(false)),
        "{told:#}"
    );
    for kind in ["policies.bailiff.dev", "targets.bailiff.dev"] {
        lab.cluster.kubectl(&["delete", kind, "--all"])?;
    }
    Ok(())
}

#[test]
fn an_agent_among_the_pods_isnt_held_by_itself() -> Result<()> {
    let Some(lab) = lab("world-among")? else {
        return Ok(());
    };
    lab.pod("agent", None)?;
    let config = lab
        .enforced
        .config()
        .to_str()
        .context("a path that isn't UTF-8")?;
    let options = ["--config", config, "--mode", "enforce"];
    let agent = with_cluster(&lab, None, &options, NodeLab::start_among_pods)?;
    // What the API server says of pods, it had to ask the very target that it protects.
    lab.until_enrolled(&agent, "agent")?;
    masked(&lab.kubectl("agent", &GET)?)?;
    let ready = agent.get("/readyz")?;
    ensure!(!ready.contains("[!]cluster"), "{ready}");
    // The next one takes over from it.
    agent.kill()?;
    refused(&lab.kubectl("agent", &GET)?)?;
    let agent = with_cluster(&lab, None, &options, NodeLab::start_among_pods)?;
    lab.until_enrolled(&agent, "agent")?;
    masked(&lab.kubectl("agent", &GET)?)?;
    ensure!(agent.stop()?.success());
    Ok(())
}
