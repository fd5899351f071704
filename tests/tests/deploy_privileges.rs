//! Least privilege: with what the chart gives them agents and approver do all that they are for, and without any one thing of it they don't.

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::deploy::find;
use bailiff_tests::masked::{said, text};
use bailiff_tests::{Cluster, NodeAgent, NodeLab};
use serde_json::{Value, json};

const RULES: &str = r#"    - name: discover
      requests: [{verbs: [get], paths: ["*"]}]
      action: Allow
    - name: look
      requests: [{verbs: [get], groups: [""], resources: [secrets]}]
      action: Allow
  masks:
  - {groups: [""], resources: [secrets], fields: ["data.*"], with: Redact}
"#;

const CANARY: &str = "Y2FuYXJ5LXByaXYtNDI=";
const MASKED: &str = "W21hc2tlZF0=";
const GET: [&str; 5] = ["get", "secret", "db", "-o", "json"];

/// The capabilities that the chart's agents have.
fn capabilities(cluster: &Cluster) -> Result<Vec<String>> {
    let objects = cluster.render(&[])?;
    let agent = find(&objects, "DaemonSet", "bailiff-agent")?;
    let context = agent
        .pointer("/spec/template/spec/containers/0/securityContext")
        .context("no security context")?;
    // What the test below stands on.
    ensure!(
        context.get("privileged") == Some(&json!(false))
            && context.get("allowPrivilegeEscalation") == Some(&json!(false))
            && context.get("readOnlyRootFilesystem") == Some(&json!(true))
            && context.pointer("/capabilities/drop") == Some(&json!(["ALL"])),
        "{context}"
    );
    context
        .pointer("/capabilities/add")
        .and_then(Value::as_array)
        .context("no capabilities")?
        .iter()
        .map(|name| Ok(name.as_str().context("no name")?.to_lowercase()))
        .collect()
}

/// A command that runs another as a container does with these capabilities and no others: as root who can't become more than that.
fn only<'a>(own: &'a [String], more: &[&'a str]) -> Vec<String> {
    let bound: String = own.iter().map(|name| format!(",+{name}")).collect();
    more.iter()
        .map(|word| (*word).to_owned())
        .chain([
            "setpriv".to_owned(),
            "--no-new-privs".to_owned(),
            "--inh-caps=-all".to_owned(),
            format!("--bounding-set=-all{bound}"),
        ])
        .collect()
}

fn start(lab: &NodeLab, by: &[String], options: &[&str]) -> Result<NodeAgent> {
    let kubeconfig = lab.credential(None)?;
    let kubeconfig = kubeconfig.to_str().context("a path that isn't UTF-8")?;
    let state = lab.path("state");
    let state = state.to_str().context("a path that isn't UTF-8")?;
    let config = lab.enforced.config();
    let config = config.to_str().context("a path that isn't UTF-8")?;
    let node = lab.cluster.node().context("no node")?;
    let by: Vec<&str> = by.iter().map(String::as_str).collect();
    let all = [
        "--config",
        config,
        "--mode",
        "enforce",
        "--kubeconfig",
        kubeconfig,
        "--node",
        node,
        "--state-dir",
        state,
    ];
    lab.start_by(&by, &[&all, options].concat())
}

#[test]
fn agents_enforce_with_the_charts_capabilities_and_need_each() -> Result<()> {
    let Some(lab) = NodeLab::new("privileges", "admin", RULES)? else {
        return Ok(());
    };
    lab.cluster.apply(
        &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db", "namespace": "privileges"}, "data": {"password": CANARY}})
            .to_string(),
    )?;
    lab.pod("agent", None)?;
    // A connection that is older than the agent.
    let script = "/programs/kubectl get secret db --watch -o json >/tmp/seen; echo ended >/tmp/ended; exec sleep 100000";
    lab.pod_that("older", None, &["sh", "-c", script])?;
    let wait = "timeout 60 sh -c 'until grep -q password /tmp/seen; do sleep 0.1; done'";
    ensure!(lab.run("older", &["sh", "-c", wait])?.status.success());
    let capabilities = capabilities(lab.cluster)?;
    ensure!(!capabilities.is_empty());

    // Beside, in a cgroup namespace of its own, as containers are where there is the second version of cgroups alone.
    let agent = start(&lab, &only(&capabilities, &["unshare", "--cgroup"]), &[])?;
    lab.until_enrolled(&agent, "agent")?;
    let shown = said(&lab.kubectl("agent", &GET)?, "masked")?;
    ensure!(shown.contains(MASKED) && !shown.contains(CANARY), "{shown}");
    let denied = lab.kubectl("agent", &["delete", "secret", "db"])?;
    ensure!(
        text(&denied.stderr).contains("no rule allows"),
        "{}",
        text(&denied.stderr)
    );
    let wait = "timeout 60 sh -c 'until [ -s /tmp/ended ]; do sleep 0.1; done'";
    ensure!(
        lab.run("older", &["sh", "-c", wait])?.status.success(),
        "{}",
        agent.log()
    );
    ensure!(agent.metric("bailiff_connections_destroyed_total")? >= 1);
    let ready = agent.get("/readyz")?;
    ensure!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    let log = agent.log();
    ensure!(
        !log.contains("not permitted") && !log.contains("denied (os"),
        "{log}"
    );
    ensure!(agent.stop()?.success(), "{log}");
    // What it put into the kernel went with it.
    let shown = said(&lab.kubectl("agent", &GET)?, "unmasked")?;
    ensure!(shown.contains(CANARY), "{shown}");

    for missing in &capabilities {
        let others: Vec<String> = capabilities
            .iter()
            .filter(|name| *name != missing)
            .cloned()
            .collect();
        let failed = start(&lab, &only(&others, &[]), &[]).err();
        let told = failed
            .context(format!("nothing fails without {missing}"))?
            .to_string();
        let word = format!("It takes CAP_{}", missing.to_uppercase());
        ensure!(
            told.contains("the agent didn't start") && told.contains(&word),
            "{told}"
        );
    }
    Ok(())
}
