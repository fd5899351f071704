//! Sessions in containers of a real node, decided by what they run: exec over WebSocket and SPDY, logs, port-forward.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::ApiLab;
use serde_json::Value;

const RULES: &str = r#"    - name: discover
      requests: [{verbs: [get], paths: ["*"]}]
      action: Allow
    - name: look
      requests: [{verbs: [get, list, watch], groups: [""], resources: [pods, pods/log]}]
      action: Allow
    - name: harmless-commands
      requests: [{verbs: [create], groups: [""], resources: [pods/exec], commands: ["echo *", "cat", "sh -c exit*"], tty: false}]
      action: Allow
    - name: its-port
      requests: [{verbs: [create], groups: [""], resources: [pods/portforward], names: [web]}]
      action: Allow
"#;

const WEB: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - name: web
    image: bailiff.test/busybox:1
    imagePullPolicy: Never
    command: [sh, -c, 'mkdir /www; echo served >/www/index.html; httpd -p 8080 -h /www; i=0; while :; do echo line $i; i=$((i+1)); sleep 0.3; done']
";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn lab(namespace: &str) -> Result<Option<ApiLab>> {
    let Some(lab) = ApiLab::with_node(namespace, "edit", RULES)? else {
        return Ok(None);
    };
    let placed = WEB.replace("{name: web}", &format!("{{name: web, namespace: {namespace}}}"));
    lab.cluster.apply(&placed)?;
    lab.cluster.kubectl(&[
        "wait",
        "-n",
        namespace,
        "--for=condition=Ready",
        "--timeout=120s",
        "pod/web",
    ])?;
    Ok(Some(lab))
}

/// kubectl in the pod `agent`, over SPDY or WebSocket.
fn kubectl(lab: &ApiLab, spdy: bool, args: &[&str]) -> Result<Command> {
    let kubectl = lab.cluster.programs()?.join("kubectl").display().to_string();
    let config = format!("--kubeconfig={}", lab.path("agent.kubeconfig").display());
    let websockets = if spdy { "false" } else { "true" };
    let by = [
        format!("KUBECTL_REMOTE_COMMAND_WEBSOCKETS={websockets}"),
        format!("KUBECTL_PORT_FORWARD_WEBSOCKETS={websockets}"),
    ];
    let [command, forward] = &by;
    let command = [&["env", command, forward, &kubectl, &config], args].concat();
    lab.enforced.run_with(&["--pod", "agent"], &command)
}

fn done(lab: &ApiLab, spdy: bool, args: &[&str]) -> Result<Output> {
    Ok(kubectl(lab, spdy, args)?.output()?)
}

#[test]
fn commands_run_by_both_protocols_and_only_those_that_are_allowed() -> Result<()> {
    let Some(lab) = lab("exec")? else {
        return Ok(());
    };
    for spdy in [false, true] {
        let said = done(&lab, spdy, &["exec", "web", "--", "echo", "hello", "there"])?;
        ensure!(said.stdout == b"hello there\n", "{spdy}: {}", text(&said.stderr));

        let mut cat = kubectl(&lab, spdy, &["exec", "-i", "web", "--", "cat"])?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let sent = "a line\n".repeat(20_000);
        let mut input = cat.stdin.take().context("no input")?;
        let bytes = sent.clone();
        let writer = std::thread::spawn(move || input.write_all(bytes.as_bytes()));
        let came = cat.wait_with_output()?;
        writer
            .join()
            .map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        ensure!(
            came.stdout == sent.as_bytes(),
            "{spdy}: {} of {} bytes: {}",
            came.stdout.len(),
            sent.len(),
            text(&came.stderr)
        );

        let ended = done(&lab, spdy, &["exec", "web", "--", "sh", "-c", "exit 7"])?;
        ensure!(
            ended.status.code() == Some(7),
            "{spdy}: {:?} {}",
            ended.status,
            text(&ended.stderr)
        );

        let refused = done(&lab, spdy, &["exec", "web", "--", "rm", "-rf", "/www"])?;
        ensure!(!refused.status.success() && refused.stdout.is_empty());
        ensure!(
            text(&refused.stderr).contains("no rule allows"),
            "{spdy}: {}",
            text(&refused.stderr)
        );
    }
    let served = lab.cluster.kubectl(&[
        "exec",
        "-n",
        &lab.namespace,
        "web",
        "--",
        "cat",
        "/www/index.html",
    ])?;
    ensure!(served == "served", "{served}");

    let events = lab.audited()?;
    let sessions: Vec<&Value> = events
        .iter()
        .filter(|event| event.pointer("/objectRef/subresource") == Some(&Value::from("exec")))
        .collect();
    let at = |event: &Value, place: &str| event.pointer(place).and_then(Value::as_str).map(str::to_owned);
    let of = |verdict: &str| {
        sessions
            .iter()
            .filter(|event| at(event, "/annotations/bailiff.dev~1verdict").as_deref() == Some(verdict))
            .count()
    };
    // Six that ran; refusals are asked again by the other protocol.
    ensure!(of("allow") == 6 && of("deny") >= 2, "{events:#?}");
    let carried = sessions.iter().any(|event| {
        at(event, "/annotations/bailiff.dev~1bytes-out")
            .and_then(|bytes| bytes.parse::<u64>().ok())
            .is_some_and(|bytes| bytes > 100_000)
    });
    ensure!(carried, "{events:#?}");
    Ok(())
}

#[test]
fn logs_are_followed_line_by_line() -> Result<()> {
    let Some(lab) = lab("logs")? else {
        return Ok(());
    };
    let mut follow = kubectl(&lab, false, &["logs", "-f", "web"])?
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(follow.stdout.take().context("no output")?).lines();
    // It never ends by itself: lines come while it is written.
    for number in 0..8 {
        let line = lines.next().context("the log has ended")??;
        ensure!(line == format!("line {number}"), "{line}");
    }
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(follow.id().try_into()?),
        nix::sys::signal::Signal::SIGTERM,
    )?;
    follow.wait()?;
    Ok(())
}

#[test]
fn a_port_is_forwarded_by_both_protocols() -> Result<()> {
    let Some(lab) = lab("forward")? else {
        return Ok(());
    };
    let kubectl = lab.cluster.programs()?.join("kubectl").display().to_string();
    let config = lab.path("agent.kubeconfig").display().to_string();
    for websockets in ["true", "false"] {
        let script = format!(
            "export KUBECTL_PORT_FORWARD_WEBSOCKETS={websockets}
             {kubectl} --kubeconfig={config} port-forward pod/web 18080:8080 & forward=$!
             for i in $(seq 100); do got=$(curl -s --max-time 5 http://127.0.0.1:18080/) && break; sleep 0.2; done
             kill $forward; echo \"got $got\""
        );
        let output = lab
            .enforced
            .run_with(&["--pod", "agent"], &["sh", "-c", &script])?
            .output()?;
        ensure!(
            text(&output.stdout).contains("got served"),
            "{websockets}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
    }
    Ok(())
}
