//! On a real node: from whom the process of a pod descends that asked the API server, up to the container's first, or to that of the exec session that
//! began it, also once the session is over.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::masked::text;
use bailiff_tests::{NodeLab, bailiff, check};
use serde_json::Value;

const RULES: &str = r#"    - name: all
      requests: [{verbs: ["*"], groups: ["*"], resources: ["*"]}, {verbs: ["*"], paths: ["*"]}]
      action: Allow
"#;

/// What asks once, as the client `NAME`.
fn asks(name: &str) -> String {
    format!("/programs/kubectl get --raw /api/v1/namespaces/default?by={name} >/dev/null; :")
}

/// The process that asked with this name in its request, with the container that it was in.
fn asked(lab: &NodeLab, name: &str) -> Result<Value> {
    let wanted = format!("?by={name}");
    let event = lab
        .audited()?
        .into_iter()
        .find(|event| {
            let uri = event.get("requestURI").and_then(Value::as_str);
            uri.is_some_and(|uri| uri.ends_with(&wanted))
        })
        .with_context(|| format!("{name} didn't ask"))?;
    let chain = event
        .pointer("/annotations/bailiff.dev~1chain")
        .and_then(Value::as_str);
    let chain: Value = serde_json::from_str(chain.context("no chain")?)?;
    chain
        .pointer("/0/kind/pod/process")
        .cloned()
        .context("no process")
}

/// Its ancestors' numbers, whether each has ended, and whether they lead up to the first.
fn ancestors(process: &Value) -> Result<(Vec<u64>, Vec<bool>, bool)> {
    let all = process.pointer("/ancestry/processes").and_then(Value::as_array);
    let all = all.context("no ancestry")?;
    let numbers = all
        .iter()
        .filter_map(|one| one.pointer("/id/tgid")?.as_u64())
        .collect();
    let ended = all
        .iter()
        .map(|one| one.get("ended") == Some(&Value::Bool(true)))
        .collect();
    let complete = process.pointer("/ancestry/complete") == Some(&Value::Bool(true));
    Ok((numbers, ended, complete))
}

#[test]
fn what_a_pods_processes_do_leads_up_to_whoever_began_it() -> Result<()> {
    let Some(lab) = NodeLab::new("processes", "admin", RULES)? else {
        return Ok(());
    };
    let config = lab.enforced.config();
    let config = config.to_str().context("a path that isn't UTF-8")?;
    let mut options = lab.by_cluster(None)?;
    options.extend(["--config", config, "--mode", "enforce"].map(str::to_owned));
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let agent = lab.start_without_config(&options)?;
    // It waits for a file, so that the agent knows it when it asks.
    let script = format!(
        "until [ -e /tmp/go ]; do sleep 0.1; done; sh -c '{}'; exec sleep 100000",
        asks("container")
    );
    lab.pod_that("works", None, &["sh", "-c", &script])?;
    lab.until_enrolled(&agent, "works")?;

    check(&mut lab.inside("works", &["touch", "/tmp/go"])?)?;
    let by_session = format!("sh -c '{}'; :", asks("session"));
    check(&mut lab.inside("works", &["sh", "-c", &by_session])?)?;
    // The session is over before it asks.
    let left = format!(
        "sh -c 'until [ -e /tmp/left ]; do sleep 0.1; done; {}' >/dev/null 2>&1 &",
        asks("left")
    );
    check(&mut lab.inside("works", &["sh", "-c", &left])?)?;
    check(&mut lab.inside("works", &["touch", "/tmp/left"])?)?;
    for name in ["container", "session", "left"] {
        agent.until(&format!("asked by {name}"), || Ok(asked(&lab, name).is_ok()))?;
    }

    let pod = format!("{}/works", lab.namespace);
    let mut command = Command::new(bailiff()?);
    command.args(["chain", &pod, "--dir"]).arg(lab.enforced.record());
    let tree = text(&check(&mut command)?.stdout);
    ensure!(agent.stop()?.success());

    let of_container = asked(&lab, "container")?;
    let (numbers, ended, complete) = ancestors(&of_container)?;
    // Before a container's first process come those by which the runtime made it.
    let [_, first, ..] = numbers.as_slice() else {
        anyhow::bail!("{of_container}")
    };
    ensure!(complete && ended.starts_with(&[false, false]), "{of_container}");
    ensure!(ended.iter().skip(2).all(|ended| *ended), "{of_container}");
    ensure!(
        of_container.get("container") == Some(&Value::from("main")),
        "{of_container}"
    );
    // Which is the container's own first process: it still runs.
    let stood = tree.lines().find(|line| line.contains(&format!(" {first} ")));
    ensure!(
        stood.is_some_and(|line| line.contains("sleep 100000") && line.contains("container main")),
        "{first} in\n{tree}"
    );

    let of_session = asked(&lab, "session")?;
    let (numbers, _, complete) = ancestors(&of_session)?;
    ensure!(
        numbers.len() >= 2 && complete && !numbers.contains(first),
        "{of_session}"
    );

    let of_left = asked(&lab, "left")?;
    let (numbers, ended, complete) = ancestors(&of_left)?;
    ensure!(
        numbers.len() >= 2 && complete && !numbers.contains(first),
        "{of_left}"
    );
    ensure!(ended.iter().skip(1).all(|ended| *ended), "{of_left}");
    Ok(())
}
