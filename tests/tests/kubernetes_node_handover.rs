//! One agent of a node after another: what goes on, what stays in the kernel, and when it goes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::masked::{said, text};
use bailiff_tests::secret::{GET, RULES, masked, unmasked};
use bailiff_tests::{NodeAgent, NodeLab, databases};
use serde_json::json;

/// What agents ask whether they end for good. No node runs it here.
const DAEMON_SET: &str = r#"{"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "bailiff-agent", "namespace": "bailiff"},
"spec": {"selector": {"matchLabels": {"app": "bailiff"}}, "template": {"metadata": {"labels": {"app": "bailiff"}},
"spec": {"nodeSelector": {"bailiff.test/none": "here"}, "containers": [{"name": "agent", "image": "bailiff.test/busybox:1"}]}}}}"#;

fn lab(namespace: &str) -> Result<Option<NodeLab>> {
    lab_with(namespace, "")
}

/// With further rules.
fn lab_with(namespace: &str, more: &str) -> Result<Option<NodeLab>> {
    let Some(lab) = NodeLab::new(namespace, "admin", &format!("{more}{RULES}"))? else {
        return Ok(None);
    };
    lab.secret()?;
    lab.credential(None)?;
    lab.cluster.apply(DAEMON_SET)?;
    Ok(Some(lab))
}

fn start(lab: &NodeLab) -> Result<NodeAgent> {
    start_with(lab, "drain=6s")
}

/// With a limit.
fn start_with(lab: &NodeLab, limit: &str) -> Result<NodeAgent> {
    let all = lab.by_cluster(None)?;
    let mut all: Vec<&str> = all.iter().map(String::as_str).collect();
    let more = ["--mode", "enforce", "--daemonset", "bailiff/bailiff-agent"];
    all.extend(more.into_iter().chain(["--limit", limit]));
    lab.start(&all)
}

/// A command in a pod that answers each line which it is sent.
struct Session {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Session {
    fn open(lab: &NodeLab, pod: &str, command: &[&str]) -> Result<Self> {
        let mut child = lab
            .inside(pod, command)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let to = child.stdin.take().context("no input")?;
        let from = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Self { child, to, from })
    }

    fn says(&mut self, line: &str) -> Result<String> {
        writeln!(self.to, "{line}")?;
        self.to.flush()?;
        let mut answer = String::new();
        self.from.read_line(&mut answer)?;
        Ok(answer.trim_end().to_owned())
    }

    fn end(self) -> Result<bool> {
        let Self { mut child, to, .. } = self;
        drop(to);
        Ok(child.wait()?.success())
    }
}

#[test]
fn sessions_go_on_with_the_agent_that_carries_them() -> Result<()> {
    let Some(lab) = lab_with(
        "carried-on",
        r#"    - name: see
      requests: [{verbs: [get], groups: [""], resources: [pods], names: [web]}]
      action: Allow
    - name: echo
      requests: [{verbs: [create], groups: [""], resources: [pods/exec], commands: [cat]}]
      action: Allow
"#,
    )?
    else {
        return Ok(());
    };
    lab.pod("web", None)?;
    lab.pod("agent", None)?;
    lab.postgres_pod("client", &["sleep", "100000"], &json!({}))?;
    lab.ready("client")?;
    let database = lab.database("db")?;
    let transactions = json!({"apiVersion": "bailiff.dev/v1alpha1", "kind": "Policy", "metadata": {"name": "transactions"},
        "spec": {"targets": ["db"], "rules": [{"name": "begin", "effects": ["transaction"], "action": "Allow"}]}});
    for (name, object) in [
        databases::target("db", &json!({"endpoints": [format!("{database}:5432")]})),
        databases::policy("db"),
        transactions,
    ]
    .iter()
    .enumerate()
    {
        let file = lab.enforced.config().join(format!("db-{name}.yaml"));
        std::fs::write(file, object.to_string())?;
    }
    let first = start_with(&lab, "drain=60s")?;
    for pod in ["agent", "client"] {
        lab.until_enrolled(&first, pod)?;
    }
    let psql = format!("{}/psql", databases::binaries()?);
    let psql = [&psql, "-h", &database, "-U", "postgres", "-XAtq"];
    let mut exec = Session::open(
        &lab,
        "agent",
        &["/programs/kubectl", "exec", "-i", "web", "--", "cat"],
    )?;
    let mut sql = Session::open(&lab, "client", &psql)?;
    ensure!(exec.says("before")? == "before");
    ensure!(sql.says("begin; select ssn from patients;")? == databases::MASKED);

    let next = start_with(&lab, "drain=60s")?;
    next.until("ready", || Ok(next.says("/readyz")))?;
    first.ask_to_end()?;
    // What was under way is still decided, by the agent that carries it.
    for word in ["one", "two", "three"] {
        ensure!(exec.says(word)? == word);
        ensure!(sql.says("select ssn from patients;")? == databases::MASKED);
        std::thread::sleep(Duration::from_millis(100));
    }
    let denied = lab.psql(&database, databases::DROPPED)?;
    ensure!(denied.contains("tables stay"), "{denied}");
    ensure!(sql.says("commit; select 'done';")? == "done");
    ensure!(exec.end()? && sql.end()?, "a session ended badly");
    ensure!(first.stop()?.success());
    ensure!(next.metric("bailiff_connections_total")? >= 1);
    lab.cluster
        .kubectl(&["delete", "daemonset", "-n", "bailiff", "bailiff-agent"])?;
    next.until("told", || Ok(next.log().contains("DaemonSet is deleted")))?;
    ensure!(next.stop()?.success());
    Ok(())
}

/// Connects again and again until it is told to end, and says how often that worked and how often not.
const CONNECTS: &str = "good=0; bad=0; while [ ! -e /tmp/end ]; do
    if nc -w 5 $KUBERNETES_SERVICE_HOST 443 </dev/null 2>>/tmp/why; then good=$((good+1)); else bad=$((bad+1)); fi
done; echo $good $bad >/tmp/counted; exec sleep 100000";

#[test]
fn the_next_agent_takes_over_while_sessions_go_on_and_nothing_is_refused() -> Result<()> {
    let Some(lab) = lab("handed-over")? else {
        return Ok(());
    };
    let first = start(&lab)?;
    lab.pod("agent", None)?;
    lab.until_enrolled(&first, "agent")?;
    masked(&lab.kubectl("agent", &GET)?)?;
    lab.begin_pod(
        "connects",
        &[
            "sh",
            "-c",
            &format!("until nc -w 5 $KUBERNETES_SERVICE_HOST 443 </dev/null; do :; done; {CONNECTS}"),
        ],
    )?;
    lab.ready("connects")?;
    let watch = "/programs/kubectl get configmaps -w -o name >/tmp/watched 2>&1 &
        until grep -q kube-root-ca.crt /tmp/watched; do sleep 0.1; done";
    lab.run("agent", &["timeout", "60", "sh", "-c", watch])?;

    let next = start(&lab)?;
    next.until("ready", || Ok(next.says("/readyz")))?;
    // Kubelet asks the one before to end as soon as the next is ready.
    let asked = Instant::now();
    first.ask_to_end()?;
    lab.cluster
        .kubectl(&["create", "configmap", "-n", &lab.namespace, "meanwhile"])?;
    let seen = "until grep -q meanwhile /tmp/watched; do sleep 0.1; done";
    let seen = lab.run("agent", &["timeout", "5", "sh", "-c", seen])?;
    ensure!(
        seen.status.success(),
        "the watch that was open ended: {}",
        first.log()
    );
    masked(&lab.kubectl("agent", &GET)?)?;
    ensure!(first.stop()?.success());
    ensure!(
        asked.elapsed() >= Duration::from_secs(6),
        "the watch had all of its time"
    );

    // What came before, and what comes now, is the next one's.
    masked(&lab.kubectl("agent", &GET)?)?;
    lab.pod("later", None)?;
    lab.until_enrolled(&next, "later")?;
    masked(&lab.kubectl("later", &GET)?)?;
    let counted = lab.run(
        "connects",
        &[
            "timeout",
            "20",
            "sh",
            "-c",
            "touch /tmp/end; until [ -s /tmp/counted ]; do sleep 0.1; done; cat /tmp/counted /tmp/why",
        ],
    )?;
    let counted = said(&counted, "counted")?;
    let (good, bad) = counted.split_once(' ').context("no numbers")?;
    ensure!(good.parse::<u32>()? > 50 && bad.trim() == "0", "{counted}");
    println!("{good} connections while agents changed, none refused");

    // Restarted without another that takes over, it leaves pods held; deleted with its DaemonSet, it leaves nothing.
    ensure!(next.stop()?.success());
    let refused = lab.kubectl("agent", &GET)?;
    ensure!(!refused.status.success() && text(&refused.stderr).contains("refused"));
    let last = start(&lab)?;
    lab.until_enrolled(&last, "agent")?;
    masked(&lab.kubectl("agent", &GET)?)?;
    lab.cluster
        .kubectl(&["delete", "daemonset", "-n", "bailiff", "bailiff-agent"])?;
    last.until("told", || Ok(last.log().contains("DaemonSet is deleted")))?;
    ensure!(last.stop()?.success());
    unmasked(&lab.kubectl("agent", &GET)?)?;
    let left = std::fs::read_dir("/sys/fs/bpf")?.flatten().filter(|pin| {
        pin.file_name()
            .to_string_lossy()
            .contains(&format!("test-node-{}", std::process::id()))
    });
    ensure!(left.count() == 0);
    Ok(())
}

#[test]
fn an_agent_whose_successor_is_gone_ends_so_that_it_is_started_again() -> Result<()> {
    let Some(lab) = lab("taken-back")? else {
        return Ok(());
    };
    let mut first = start(&lab)?;
    lab.pod("agent", None)?;
    lab.until_enrolled(&first, "agent")?;
    let next = start(&lab)?;
    first.until("taken over", || {
        Ok(first.log().contains("another agent has taken over"))
    })?;
    next.kill()?;
    let end = Instant::now() + Duration::from_secs(60);
    let status = loop {
        match first.ended()? {
            Some(status) => break status,
            None => ensure!(Instant::now() < end, "it goes on: {}", first.log()),
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    ensure!(
        !status.success() && first.log().contains("is gone"),
        "{}",
        first.log()
    );
    let again = start(&lab)?;
    lab.until_enrolled(&again, "agent")?;
    masked(&lab.kubectl("agent", &GET)?)?;
    lab.cluster
        .kubectl(&["delete", "daemonset", "-n", "bailiff", "bailiff-agent"])?;
    again.until("told", || Ok(again.log().contains("DaemonSet is deleted")))?;
    ensure!(again.stop()?.success());
    Ok(())
}
