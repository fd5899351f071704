//! What people do with kubectl from inside a pod of a real node, behind the node's agent: watch, copy, enter, attach, forward, follow, discover.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::masked::{said, text};
use bailiff_tests::{NodeAgent, NodeLab, Step, on_terminal};
use serde_json::{Value, json};

const RULES: &str = r#"    - name: discover
      requests: [{verbs: [get], paths: ["*"]}]
      action: Allow
    - name: look
      requests: [{verbs: [get, list, watch], groups: [""], resources: [secrets, configmaps, pods, pods/log]}]
      action: Allow
    - name: ask
      requests: [{verbs: [create], groups: [authorization.k8s.io], resources: ["*"]}]
      action: Allow
    - name: enter
      requests: [{verbs: [create], groups: [""], resources: [pods/exec], names: [web], commands: ["echo *", "cat", "tar *", "sh", "test *"]}]
      action: Allow
    - name: attach
      requests: [{verbs: [create], groups: [""], resources: [pods/attach, pods/portforward], names: [web]}]
      action: Allow
  masks:
  - {groups: [""], resources: [secrets], fields: ["data.*"], with: Redact}
"#;

const CANARY: &str = "Y2FuYXJ5LW5vZGUtNDI=";
const LATER: &str = "Y2FuYXJ5LWxhdGVyLTQz";
const MASKED: &str = "W21hc2tlZF0=";
const SERVES: &str = "mkdir /www; echo served >/www/index.html; httpd -p 8080 -h /www; i=0; while :; do echo line $i; i=$((i+1)); sleep 0.2; done";

/// A pod `agent` with the clients, and a pod `web` that they speak with.
fn lab(namespace: &str) -> Result<Option<(NodeLab, NodeAgent)>> {
    let Some(lab) = NodeLab::new(namespace, "edit", RULES)? else {
        return Ok(None);
    };
    lab.cluster.apply(&secret(namespace, "db", CANARY))?;
    lab.pod("agent", Some(&json!({})))?;
    lab.pod_that("web", None, &["sh", "-c", SERVES])?;
    let agent = lab.start(&[])?;
    lab.until_enrolled(&agent, "agent")?;
    Ok(Some((lab, agent)))
}

fn secret(namespace: &str, name: &str, value: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "data": {"password": value}})
        .to_string()
}

#[test]
fn events_of_a_watch_come_masked_as_they_happen() -> Result<()> {
    let Some((lab, agent)) = lab("node-watch")? else {
        return Ok(());
    };
    let mut watch = lab
        .inside(
            "agent",
            &[
                "/programs/kubectl",
                "get",
                "secrets",
                "-w",
                "--output-watch-events",
                "-o",
                "json",
            ],
        )?
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(watch.stdout.take().context("no output")?).lines();
    let mut until = |what: &str| -> Result<String> {
        let mut all = String::new();
        while !all.contains(what) {
            all += &lines.next().context("the watch has ended")??;
        }
        Ok(all)
    };
    until("\"db\"")?;
    // Nothing else happens: what comes, comes because of this.
    lab.cluster.apply(&secret(&lab.namespace, "later", LATER))?;
    let added = until("\"later\"")?;
    lab.cluster
        .kubectl(&["delete", "secret", "-n", &lab.namespace, "later"])?;
    let all = added + &until("DELETED")?;
    ensure!(all.contains(MASKED), "{all}");
    for hidden in [CANARY, LATER] {
        ensure!(!all.contains(hidden), "{all}");
    }
    watch.kill()?;
    watch.wait()?;
    ensure!(!agent.log().contains("canary"), "{}", agent.log());
    Ok(())
}

#[test]
fn files_are_copied_both_ways_whole() -> Result<()> {
    let Some((lab, _agent)) = lab("node-copy")? else {
        return Ok(());
    };
    for websockets in ["true", "false"] {
        let script = format!(
            "set -e; export KUBECTL_REMOTE_COMMAND_WEBSOCKETS={websockets}; k=/programs/kubectl
             head -c 3000000 /programs/kubectl >/tmp/sent; rm -f /tmp/back
             $k cp /tmp/sent web:/tmp/there; $k cp web:/tmp/there /tmp/back 2>/dev/null
             md5sum </tmp/sent; md5sum </tmp/back; wc -c </tmp/back"
        );
        let all = said(&lab.run("agent", &["sh", "-c", &script])?, "cp")?;
        let lines: Vec<&str> = all.lines().collect();
        ensure!(
            matches!(lines.as_slice(), [.., sent, back, "3000000"] if sent == back),
            "{websockets}: {all}"
        );
    }
    Ok(())
}

#[test]
fn a_terminal_works_in_a_terminal() -> Result<()> {
    let Some((lab, agent)) = lab("node-terminal")? else {
        return Ok(());
    };
    for websockets in ["true", "false"] {
        let way = format!("KUBECTL_REMOTE_COMMAND_WEBSOCKETS={websockets}");
        // The administrator's terminal in the pod `agent`, and in it the agent's in the pod `web`.
        let command = lab.cluster.kubectl_command(&[
            "exec",
            "-it",
            "-n",
            &lab.namespace,
            "agent",
            "--",
            "env",
            &way,
            "/programs/kubectl",
            "exec",
            "-it",
            "web",
            "--",
            "sh",
        ])?;
        let told = on_terminal(
            &command,
            Path::new("/"),
            &[
                Step::Expect("# "),
                Step::Send("echo $((40+2)) in $(hostname); tty\n"),
                Step::Expect("42 in web"),
                Step::Expect("/dev/pts/"),
                Step::Resize(33, 99),
                Step::Send("until [ \"$(stty size)\" = '33 99' ]; do :; done; echo resized\n"),
                Step::Expect("\nresized"),
                Step::Send("echo canary-typed-71 | md5sum\n"),
                Step::Expect("  -"),
                Step::Send("exit 5\n"),
            ],
        )?;
        // The outer kubectl tells the inner one's status, which tells the shell's.
        ensure!(told.status == 5, "{websockets}: {told:?}");
    }
    let refused = lab.kubectl("agent", &["exec", "web", "--", "rm", "/www/index.html"])?;
    ensure!(
        !refused.status.success() && text(&refused.stderr).contains("no rule allows"),
        "{}",
        text(&refused.stderr)
    );
    leaves_nothing(&lab, agent, &["canary-typed-71"])
}

/// That neither these nor the pod's token are in anything that the agent leaves. It is ended.
fn leaves_nothing(lab: &NodeLab, agent: NodeAgent, hidden: &[&str]) -> Result<()> {
    let file = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let token = said(&lab.run("agent", &["cat", file])?, "the token")?;
    let (log, metrics) = (agent.log(), agent.metrics()?);
    ensure!(agent.stop()?.success());
    let events = lab.audited()?;
    ensure!(!events.is_empty());
    for (what, all) in [
        ("log", log),
        ("metrics", metrics),
        ("record", format!("{events:?}")),
    ] {
        for hidden in hidden.iter().copied().chain([token.trim(), CANARY]) {
            ensure!(!all.contains(hidden), "{what} has {hidden}");
        }
    }
    Ok(())
}

#[test]
fn attach_follow_and_forward() -> Result<()> {
    let Some((lab, agent)) = lab("node-attach")? else {
        return Ok(());
    };
    for websockets in ["true", "false"] {
        // Neither ends by itself.
        for what in ["attach web", "logs -f web"] {
            let script = format!(
                "export KUBECTL_REMOTE_COMMAND_WEBSOCKETS={websockets}; rm -f /tmp/lines; touch /tmp/lines
                 /programs/kubectl {what} 2>/tmp/error >/tmp/lines & k=$!
                 for i in $(seq 300); do [ $(grep -c '^line' /tmp/lines) -ge 5 ] && break; sleep 0.1; done
                 kill $k; cat /tmp/error >&2; grep -c '^line' /tmp/lines"
            );
            let output = lab.run("agent", &["sh", "-c", &script])?;
            let lines: u32 = text(&output.stdout).trim().parse().unwrap_or(0);
            ensure!(lines >= 5, "{what} {websockets}: {}", text(&output.stderr));
        }
        let script = format!(
            "export KUBECTL_PORT_FORWARD_WEBSOCKETS={websockets}
             /programs/kubectl port-forward pod/web 18080:8080 >/tmp/said 2>&1 & k=$!
             for i in $(seq 100); do got=$(wget -qO- http://127.0.0.1:18080/ 2>/dev/null) && break; sleep 0.1; done
             kill $k; cat /tmp/said >&2; echo \"got $got\""
        );
        let output = lab.run("agent", &["sh", "-c", &script])?;
        ensure!(
            text(&output.stdout).contains("got served"),
            "{websockets}: {}",
            text(&output.stderr)
        );
    }
    leaves_nothing(&lab, agent, &[])?;
    let sessions = lab.audited()?;
    for subresource in ["attach", "portforward", "log"] {
        let found = sessions.iter().filter(|event| {
            event.pointer("/objectRef/subresource") == Some(&Value::from(subresource))
                && event.pointer("/annotations/bailiff.dev~1pod") == Some(&Value::from("node-attach/agent"))
        });
        ensure!(found.count() >= 2, "{subresource}: {sessions:#?}");
    }
    Ok(())
}

#[test]
fn discovery_and_questions_are_answered_as_directly() -> Result<()> {
    let Some((lab, agent)) = lab("node-discovery")? else {
        return Ok(());
    };
    let asked: [&[&str]; 6] = [
        &["api-resources", "--sort-by=name"],
        &["api-versions"],
        &["auth", "can-i", "--list"],
        &["auth", "can-i", "delete", "pods"],
        &["explain", "pod.spec"],
        &["version"],
    ];
    let mut told = Vec::new();
    for args in asked {
        told.push(said(&lab.kubectl("agent", args)?, &args.join(" "))?);
    }
    ensure!(agent.stop()?.success());
    for (args, told) in asked.into_iter().zip(told) {
        let direct = said(&lab.kubectl("agent", args)?, &args.join(" "))?;
        ensure!(
            told.len() > 2 && told == direct,
            "{args:?}:\n{told}\n--- directly\n{direct}"
        );
    }
    Ok(())
}
