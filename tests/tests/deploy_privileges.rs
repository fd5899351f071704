//! Least privilege: with what the chart gives them agents and approver do all that they are for, and without any one thing of it they don't.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::deploy::find;
use bailiff_tests::masked::{said, text};
use bailiff_tests::{Certified, Cluster, NodeAgent, NodeLab};
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

    // Whoever looks from inside its container is told the same.
    let doctor = |held: &[String]| -> Result<String> {
        let by = only(held, &[]);
        let [program, options @ ..] = by.as_slice() else {
            anyhow::bail!("no command")
        };
        let output = Command::new(program)
            .args(options)
            .arg(bailiff_tests::bailiff()?)
            .arg("doctor")
            .output()?;
        Ok(text(&output.stdout))
    };
    let told = doctor(&capabilities)?;
    ensure!(told.contains("all that it takes"), "{told}");

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
        let told = doctor(&others)?;
        let word = format!("not held: CAP_{} (to", missing.to_uppercase());
        ensure!(told.contains(&word), "{told}");
    }
    Ok(())
}

/// One verb of one resource.
#[derive(Debug, Clone)]
struct Right {
    /// The place of its rule in the role.
    rule: usize,
    resource: String,
    verb: String,
}

/// A database whose addresses the agent has to ask for.
const SHOP: &str = r#"{"apiVersion": "bailiff.dev/v1alpha1", "kind": "Target", "metadata": {"name": "shop"},
    "spec": {"protocol": "postgres", "services": [{"namespace": "rights", "name": "db", "port": 5432}]}}"#;

const READERS: &str = r#"{"apiVersion": "bailiff.dev/v1alpha1", "kind": "Policy", "metadata": {"name": "readers"},
    "spec": {"targets": ["shop"], "rules": [{"name": "read", "effects": ["read"], "action": "Allow"}]}}"#;

/// What agents are called that show a right on reports.
const REPORTS: &str = "rights-reports-";

/// What the approver has rights on for the status of objects.
const STATUS: [&str; 3] = ["nodereports", "targets", "policies"];

/// A role of the chart, as an object that can be applied, and what it allows one by one.
fn rights(cluster: &Cluster, kind: &str, name: &str) -> Result<(Value, Vec<Right>)> {
    let objects = cluster.render(&[])?;
    let role = find(&objects, kind, name)?.clone();
    let words = |rule: &Value, field: &str| -> Vec<String> {
        let listed = rule.get(field).and_then(Value::as_array);
        let words = listed.into_iter().flatten().filter_map(Value::as_str);
        words.map(str::to_owned).collect()
    };
    let mut single = Vec::new();
    let rules = role.get("rules").and_then(Value::as_array).context("no rules")?;
    for (number, rule) in rules.iter().enumerate() {
        for resource in words(rule, "resources") {
            for verb in words(rule, "verbs") {
                single.push(Right {
                    rule: number,
                    resource: resource.clone(),
                    verb,
                });
            }
        }
    }
    Ok((role, single))
}

/// The role without one resource's verb: what else that rule allows is said by rules of its own.
fn without(role: &Value, right: &Right) -> Result<String> {
    let mut role = role.clone();
    let rules = role
        .get_mut("rules")
        .and_then(Value::as_array_mut)
        .context("no rules")?;
    let rule = rules.remove(right.rule);
    for other in rule
        .get("resources")
        .and_then(Value::as_array)
        .context("no resources")?
    {
        let mut part = rule.clone();
        if let Some(fields) = part.as_object_mut() {
            fields.insert("resources".to_owned(), json!([other]));
        }
        if *other == right.resource
            && let Some(verbs) = part.get_mut("verbs").and_then(Value::as_array_mut)
        {
            verbs.retain(|other| *other != right.verb);
        }
        if part
            .get("verbs")
            .and_then(Value::as_array)
            .is_some_and(|verbs| !verbs.is_empty())
        {
            rules.push(part);
        }
    }
    Ok(role.to_string())
}

/// What the API server says to whoever lacks a right.
fn refusal(Right { resource, verb, .. }: &Right) -> String {
    match verb.as_str() {
        "approve" => "user not permitted to approve requests with signerName".to_owned(),
        _ => format!("cannot {verb} resource \"{resource}\""),
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>, log: impl Fn() -> String) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(90);
    while !is_so()? {
        ensure!(Instant::now() < end, "never: {what}\n{}", log());
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Approves what the agent of a node asks for.
fn approve(cluster: &Cluster, node: &str) -> Result<()> {
    let all = cluster.kubectl(&["get", "csr", "-o", "jsonpath={.items[*].metadata.name}"])?;
    let own: Vec<&str> = all
        .split_whitespace()
        .filter(|name| name.contains(&format!("-{node}-")))
        .collect();
    if !own.is_empty() {
        // Once more does no harm.
        cluster.kubectl(&[&["certificate", "approve"], own.as_slice()].concat())?;
    }
    Ok(())
}

#[test]
fn agents_need_each_right_that_the_chart_gives_them() -> Result<()> {
    let Some(lab) = NodeLab::new("rights", "admin", RULES)? else {
        return Ok(());
    };
    lab.cluster.install_crds()?;
    lab.cluster.apply(
        &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db", "namespace": "rights"}, "data": {"password": CANARY}})
            .to_string(),
    )?;
    lab.pod("agent", None)?;
    // The cluster signs its certificate, and says whose tokens are.
    let target: String = std::fs::read_to_string(lab.enforced.config().join("target.yaml"))?
        .lines()
        .map(|line| match line.trim_start() {
            text if text.starts_with("client:") => "    client: { mode: Require, csr: {} }\n".to_owned(),
            text if text.starts_with("issuer:") => {
                "    tokenReview: true\n    issuer: https://elsewhere.example\n".to_owned()
            }
            _ => format!("{line}\n"),
        })
        .collect();
    lab.cluster.apply(&target)?;
    // Another is behind a Service.
    lab.cluster.apply(SHOP)?;
    lab.cluster.apply(&std::fs::read_to_string(
        lab.enforced.config().join("policy.yaml"),
    )?)?;
    let begin = |node: &str, role: &str| -> Result<NodeAgent> {
        // That comes with the whole role.
        let kubeconfig = if node.starts_with(REPORTS) {
            lab.credential(None)?
        } else {
            lab.bound_credential(node)?
        };
        lab.cluster.apply(role)?;
        let kubeconfig = kubeconfig.to_str().context("a path that isn't UTF-8")?;
        let state = lab.path(node);
        let state = state.to_str().context("a path that isn't UTF-8")?;
        let name = lab.cluster.node().context("no node")?;
        lab.start_without_config(&[
            "--kubeconfig",
            kubeconfig,
            "--node",
            name,
            "--state-dir",
            state,
            "--mode",
            "enforce",
            "--daemonset",
            "bailiff/bailiff-agent",
        ])
    };
    let told = |agent: &NodeAgent| -> Result<String> {
        // Some of the log's fields are quoted.
        Ok((agent.log() + &agent.get("/readyz")?).replace('\\', ""))
    };

    // With all of them it does all that it is for, and asks for nothing that it may not.
    let (in_namespace, few) = rights(lab.cluster, "Role", "bailiff-agent")?;
    let (role, single) = rights(lab.cluster, "ClusterRole", "bailiff-agent")?;
    let agent = begin("rights-all", &role.to_string())?;
    let serves = |node: &str| -> Result<bool> {
        approve(lab.cluster, node)?;
        let output = lab.kubectl("agent", &GET)?;
        Ok(output.status.success() && text(&output.stdout).contains(MASKED))
    };
    until("a masked secret", || serves("rights-all"), || agent.log())?;
    let trusted = "bailiff_pods_ca_state{state=\"same\",target=\"api\"}";
    until("the pods' CA", || Ok(agent.metric(trusted)? == 1), || agent.log())?;
    ensure!(agent.metric("bailiff_api_tokens_total{token=\"bound\"}")? >= 1);
    ensure!(agent.metric("bailiff_cluster_away")? == 0);
    let all = told(&agent)?;
    ensure!(!all.contains("cannot "), "{all}");
    ensure!(agent.stop()?.success());

    ensure!(single.len() == 16 && few.len() == 2, "{single:?} {few:?}");
    // First those of the namespace: an agent that can't ask for its DaemonSet leaves its kernel side, and the next one takes that over.
    let each = few.iter().map(|right| (&in_namespace, right));
    let each = each.chain(single.iter().map(|right| (&role, right)));
    for (count, (role, right)) in each.enumerate() {
        // A report is the real node's; for certificates each agent has a name of its own.
        let node = match right.resource.as_str() {
            "nodereports" => format!("{REPORTS}{count}"),
            _ => format!("rights-{count}"),
        };
        // The first report of a node is made, later ones change it.
        lab.cluster.kubectl(&["delete", "nodereports", "--all"])?;
        let refused = refusal(right);
        let agent = match begin(&node, &without(role, right)?) {
            Ok(agent) => agent,
            Err(error) => {
                let told = error.to_string().replace('\\', "");
                ensure!(told.contains(&refused), "{refused}: {told}");
                continue;
            }
        };
        until(
            &refused,
            || {
                // A token is asked about when one is shown.
                serves(&node)?;
                Ok(told(&agent)?.contains(&refused))
            },
            || agent.log(),
        )?;
        ensure!(agent.stop()?.success());
    }
    lab.cluster.apply(&role.to_string())?;
    Ok(())
}

#[test]
fn the_approver_needs_each_right_that_the_chart_gives_it() -> Result<()> {
    let Some(lab) = Certified::new("approvers-rights", RULES)? else {
        return Ok(());
    };
    let mut all = Vec::new();
    for kind in ["ClusterRole", "Role"] {
        let (role, single) = rights(lab.cluster, kind, "bailiff-approver")?;
        all.extend(single.into_iter().map(|right| (role.clone(), right)));
    }
    ensure!(all.len() == 13, "{all:?}");
    lab.cluster.install_crds()?;
    for (count, (role, right)) in all.iter().enumerate() {
        let refused = refusal(right);
        lab.cluster.apply(&without(role, right)?)?;
        // Objects whose status nobody has written yet.
        for kind in ["policies.bailiff.dev", "targets.bailiff.dev"] {
            lab.cluster.kubectl(&["delete", kind, "--all"])?;
        }
        lab.cluster.apply(SHOP)?;
        lab.cluster.apply(READERS)?;
        let node = format!("approvers-{count}");
        match lab.approver(&[]) {
            // It never got ready.
            Err(error) => ensure!(error.to_string().contains(&refused), "{error}"),
            Ok(approver) => {
                let is_of_status = STATUS.iter().any(|of| right.resource.starts_with(of));
                let agent = if is_of_status {
                    None
                } else {
                    Some(lab.start(&node)?)
                };
                // Some of the log's fields are quoted.
                approver.wait_for(&refused, || {
                    Ok(approver.log().replace('\\', "").contains(&refused))
                })?;
                if let Some(agent) = agent {
                    ensure!(right.verb == "watch" || !agent.get("/readyz")?.contains("[+]certificate:api"));
                }
            }
        }
        lab.cluster.apply(&role.to_string())?;
    }
    // With all of them agents get what they ask for.
    let approver = lab.approver(&[])?;
    let agent = lab.start("approvers-all")?;
    lab.until_told(&agent, "[+]certificate:api ok")?;
    ensure!(!approver.log().contains("cannot "), "{}", approver.log());
    Ok(())
}
