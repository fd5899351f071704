//! Pods that kubelet started on a real node, behind the node's own agent: clients in containers, with the token, the CA and the address that
//! kubelet gives them, through kube-proxy's rules as they are.

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::NodeLab;
use bailiff_tests::masked::{said, text};
use serde_json::{Value, json};

const RULES: &str = r#"    - name: discover
      requests: [{verbs: [get], paths: ["*"]}]
      action: Allow
    - name: look
      requests: [{verbs: [get, list, watch], groups: [""], resources: [secrets, configmaps], tokens: [Bound]}]
      action: Allow
    - name: stolen
      requests: [{groups: ["*"], resources: ["*"], tokens: [Stolen]}]
      action: Deny
      message: this token was made for another pod
  masks:
  - {groups: [""], resources: [secrets], fields: ["data.*"], with: Redact}
"#;

const CANARY: &str = "Y2FuYXJ5LW5vZGUtNDI=";
const MASKED: &str = "W21hc2tlZF0=";

fn lab(namespace: &str) -> Result<Option<NodeLab>> {
    let Some(lab) = NodeLab::new(namespace, "admin", RULES)? else {
        return Ok(None);
    };
    lab.cluster.apply(
        &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db", "namespace": namespace}, "data": {"password": CANARY}})
            .to_string(),
    )?;
    Ok(Some(lab))
}

fn at<'a>(event: &'a Value, place: &str) -> &'a str {
    event.pointer(place).and_then(Value::as_str).unwrap_or_default()
}

#[test]
fn a_pods_requests_are_allowed_denied_and_masked_and_it_is_told_by_its_uid() -> Result<()> {
    let Some(lab) = lab("node-enforced")? else {
        return Ok(());
    };
    let uid = lab.pod("agent", Some(&json!({})))?;
    let agent = lab.start(&[])?;
    lab.until_enrolled(&agent, "agent")?;

    let shown = said(
        &lab.kubectl("agent", &["get", "secret", "db", "-o", "json"])?,
        "get",
    )?;
    ensure!(shown.contains(MASKED) && !shown.contains(CANARY), "{shown}");
    let list = said(
        &lab.kubectl("agent", &["get", "configmaps", "-o", "name"])?,
        "list",
    )?;
    ensure!(list.contains("configmap/kube-root-ca.crt"), "{list}");
    let denied = lab.kubectl("agent", &["delete", "secret", "db"])?;
    let told = text(&denied.stderr);
    ensure!(
        !denied.status.success() && told.contains("Forbidden") && told.contains("no rule allows"),
        "{told}"
    );
    // The name that a cluster's DNS would give, verified by the CA that kubelet mounted.
    let by_name = lab.kubectl_at(
        "agent",
        "https://kubernetes.default.svc",
        &["get", "secrets", "-o", "yaml"],
    )?;
    let by_name = said(&by_name, "by name")?;
    ensure!(by_name.contains(MASKED) && !by_name.contains(CANARY), "{by_name}");
    // Nothing of this reached the server past the agent.
    let kept = lab
        .cluster
        .kubectl(&["get", "secret", "db", "-n", &lab.namespace, "-o", "json"])?;
    ensure!(kept.contains(CANARY), "{kept}");

    let metrics = agent.metrics()?;
    let log = agent.log();
    ensure!(agent.stop()?.success(), "{log}");
    let events = lab.audited()?;
    let of = |verdict: &str| {
        events
            .iter()
            .filter(|event| at(event, "/annotations/bailiff.dev~1verdict") == verdict)
            .count()
    };
    ensure!(of("allow") >= 3 && of("deny") >= 1, "{events:#?}");
    for event in &events {
        ensure!(
            at(event, "/annotations/bailiff.dev~1pod") == "node-enforced/agent"
                && at(event, "/annotations/bailiff.dev~1chain").contains(&uid),
            "{event:#}"
        );
        ensure!(
            at(event, "/annotations/bailiff.dev~1token") == "bound",
            "{event:#}"
        );
        ensure!(
            at(event, "/user/username") == "system:serviceaccount:node-enforced:agent",
            "{event:#}"
        );
    }
    for (what, all) in [
        ("log", &log),
        ("metrics", &metrics),
        ("record", &format!("{events:?}")),
    ] {
        ensure!(
            !all.contains(CANARY) && !all.contains("canary-node-42"),
            "{what}: {all}"
        );
    }
    // It is gone, and the pod goes direct.
    let direct = said(
        &lab.kubectl("agent", &["get", "secret", "db", "-o", "json"])?,
        "direct",
    )?;
    ensure!(direct.contains(CANARY), "{direct}");
    Ok(())
}

#[test]
fn another_pods_token_is_told_as_stolen() -> Result<()> {
    let Some(lab) = lab("node-stolen")? else {
        return Ok(());
    };
    lab.pod("agent", Some(&json!({})))?;
    lab.pod("thief", Some(&json!({})))?;
    let agent = lab.start(&[])?;
    for pod in ["agent", "thief"] {
        lab.until_enrolled(&agent, pod)?;
    }
    let file = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let token = said(&lab.run("agent", &["cat", file])?, "the token")?;
    // A kubeconfig, since kubectl in a pod takes no other token beside the mounted one.
    let script = format!(
        "umask 077; k=/programs/kubectl; export KUBECONFIG=/tmp/stolen
         $k config set-cluster c --server=https://$KUBERNETES_SERVICE_HOST:443 \
            --certificate-authority=/var/run/secrets/kubernetes.io/serviceaccount/ca.crt >/dev/null
         $k config set-credentials u --token=$(cat) >/dev/null
         $k config set-context x --cluster=c --user=u --namespace={} >/dev/null && $k config use-context x >/dev/null
         exec $k get secrets",
        lab.namespace
    );
    let mut stolen = lab
        .inside("thief", &["sh", "-c", &script])?
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    std::io::Write::write_all(&mut stolen.stdin.take().context("no input")?, token.as_bytes())?;
    let stolen = stolen.wait_with_output()?;
    let told = text(&stolen.stderr);
    ensure!(
        !stolen.status.success() && told.contains("this token was made for another pod"),
        "{told}{}",
        text(&stolen.stdout)
    );
    let own = said(&lab.kubectl("thief", &["get", "secrets"])?, "its own")?;
    ensure!(own.contains("db"), "{own}");
    let log = agent.log();
    let metrics = agent.metrics()?;
    agent.stop()?;
    let events = lab.audited()?;
    let seen: Vec<&Value> = events
        .iter()
        .filter(|event| at(event, "/annotations/bailiff.dev~1token") == "stolen")
        .collect();
    ensure!(
        !seen.is_empty()
            && seen
                .iter()
                .all(|event| at(event, "/annotations/bailiff.dev~1pod") == "node-stolen/thief"),
        "{events:#?}"
    );
    for (what, all) in [
        ("log", log),
        ("metrics", metrics),
        ("record", format!("{events:?}")),
    ] {
        ensure!(!all.contains(token.trim()), "{what} has the token");
    }
    Ok(())
}

#[test]
fn exempt_pods_go_direct_and_unknown_ones_nowhere_until_they_are_known() -> Result<()> {
    let Some(lab) = lab("node-others")? else {
        return Ok(());
    };
    lab.pod("agent", Some(&json!({})))?;
    lab.pod("exempt", Some(&json!({"exempt": true})))?;
    let unknown = lab.pod("unknown", None)?;
    let get = ["get", "secret", "db", "-o", "json"];
    let agent = lab.start(&[])?;
    lab.until_enrolled(&agent, "agent")?;
    let direct = said(&lab.kubectl("exempt", &get)?, "exempt")?;
    ensure!(direct.contains(CANARY), "{direct}");
    let refused = lab.kubectl("unknown", &get)?;
    ensure!(
        !refused.status.success() && text(&refused.stderr).contains("refused"),
        "{}{}",
        text(&refused.stdout),
        text(&refused.stderr)
    );
    // By the endpoint behind the Service's address, neither.
    let past = lab.kubectl_at("unknown", &format!("https://{}", lab.cluster.api_server()?), &get)?;
    ensure!(
        !past.status.success() && text(&past.stderr).contains("refused"),
        "{}",
        text(&past.stderr)
    );
    lab.list("unknown", &unknown, &json!({}))?;
    lab.until_enrolled(&agent, "unknown")?;
    let known = said(&lab.kubectl("unknown", &get)?, "known")?;
    ensure!(known.contains(MASKED) && !known.contains(CANARY), "{known}");

    // A pod that asks from its first instruction on, until it is answered: nothing of it goes direct.
    let script =
        "until /programs/kubectl get secret db -o json >/tmp/seen 2>/dev/null; do :; done; exec sleep 100000";
    let early = lab.begin_pod("early", &["sh", "-c", script])?;
    lab.list("early", &early, &json!({}))?;
    lab.ready("early")?;
    let script = "until [ -s /tmp/seen ]; do sleep 0.1; done; cat /tmp/seen";
    let seen = said(
        &lab.run("early", &["timeout", "60", "sh", "-c", script])?,
        "early",
    )?;
    ensure!(seen.contains(MASKED) && !seen.contains(CANARY), "{seen}");

    // The agent is killed: what it put into the kernel stays, and connections are refused until there is another.
    agent.kill()?;
    let gone = lab.kubectl("agent", &get)?;
    ensure!(
        !gone.status.success() && text(&gone.stderr).contains("refused"),
        "{}{}",
        text(&gone.stdout),
        text(&gone.stderr)
    );
    let next = lab.start(&[])?;
    lab.until_enrolled(&next, "agent")?;
    let again = said(&lab.kubectl("agent", &get)?, "again")?;
    ensure!(again.contains(MASKED) && !again.contains(CANARY), "{again}");
    ensure!(next.stop()?.success());
    Ok(())
}
