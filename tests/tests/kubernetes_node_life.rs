//! What a node's life brings: an agent that runs out of memory, a disk that is full, a machine that starts again.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::masked::text;
use bailiff_tests::secret::{GET, RULES, masked, refused};
use bailiff_tests::{Disk, NodeAgent, NodeLab};

fn lab(namespace: &str) -> Result<Option<NodeLab>> {
    let Some(lab) = NodeLab::new(namespace, "admin", RULES)? else {
        return Ok(None);
    };
    lab.secret()?;
    Ok(Some(lab))
}

/// The options of an agent that asks an API server at `server` or the real one.
fn options(lab: &NodeLab, server: Option<&str>) -> Result<Vec<String>> {
    let mut options = lab.by_cluster(server)?;
    options.extend(["--mode", "enforce"].map(str::to_owned));
    Ok(options)
}

/// An agent that takes everything from the cluster.
fn start(lab: &NodeLab, server: Option<&str>) -> Result<NodeAgent> {
    let options = options(lab, server)?;
    lab.start_without_config(&options.iter().map(String::as_str).collect::<Vec<_>>())
}

fn install(lab: &NodeLab) -> Result<()> {
    lab.cluster.install_crds()?;
    for kind in ["policies.bailiff.dev", "targets.bailiff.dev"] {
        lab.cluster.kubectl(&["delete", kind, "--all"])?;
    }
    for file in ["target.yaml", "policy.yaml"] {
        let text = std::fs::read_to_string(lab.enforced.config().join(file))?;
        lab.cluster.apply(&text)?;
    }
    Ok(())
}

/// A cgroup whose memory has a limit, removed when dropped.
struct Memory {
    cgroup: PathBuf,
    /// Whether it is of the second version.
    unified: bool,
}

impl Memory {
    fn of(bytes: u64) -> Result<Self> {
        let first = Path::new("/sys/fs/cgroup/memory");
        let unified = !first.exists();
        let root = if unified {
            Path::new("/sys/fs/cgroup")
        } else {
            first
        };
        let cgroup = root.join(format!("bailiff-test-{}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o755).create(&cgroup)?;
        let this = Self { cgroup, unified };
        let limit = if unified {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        std::fs::write(this.cgroup.join(limit), bytes.to_string())?;
        Ok(this)
    }

    /// How many processes the kernel ended for it.
    fn kills(&self) -> Result<u64> {
        let file = if self.unified {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let said = std::fs::read_to_string(self.cgroup.join(file))?;
        let count = said.lines().find_map(|line| line.strip_prefix("oom_kill "));
        Ok(count.context("no count")?.trim().parse()?)
    }

    /// What makes a command run in it, and be the first to go.
    fn entering(&self) -> [String; 4] {
        let script = "echo 1000 >/proc/self/oom_score_adj; echo 0 >\"$1\" && shift && exec \"$@\"";
        let procs = self.cgroup.join("cgroup.procs").display().to_string();
        ["sh".to_owned(), "-c".to_owned(), script.to_owned(), procs]
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let end = Instant::now() + Duration::from_secs(5);
        while std::fs::remove_dir(&self.cgroup).is_err() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn an_agent_that_runs_out_of_memory_leaves_nobody_unheld_and_the_next_one_goes_on() -> Result<()> {
    let Some(lab) = lab("life-memory")? else {
        return Ok(());
    };
    let memory = Memory::of(256 << 20)?;
    let [shell, c, script, procs] = memory.entering();
    let options = options(&lab, None)?;
    let config = lab.enforced.config().display().to_string();
    let options: Vec<&str> = ["--config", &config]
        .into_iter()
        .chain(options.iter().map(String::as_str))
        .collect();
    let mut agent = lab.start_by(&[&shell, &c, &script, "sh", &procs], &options)?;
    lab.pod("agent", None)?;
    lab.until_enrolled(&agent, "agent")?;
    masked(&lab.kubectl("agent", &GET)?)?;
    let watch =
        "/programs/kubectl get configmaps -w -o name >/tmp/watched 2>/tmp/ended; echo ended >>/tmp/ended";
    let mut watching = lab
        .inside("agent", &["sh", "-c", watch])?
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;

    // Something takes all that there is. The kernel ends the agent first.
    let mut hog = Command::new("sh")
        .args(["-c", "echo 0 >\"$1\" && exec tail /dev/zero", "sh", &procs])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    agent.until("ended", || Ok(memory.kills()? > 0))?;
    let end = Instant::now() + Duration::from_secs(20);
    let status = loop {
        match agent.ended()? {
            Some(status) => break status,
            None => ensure!(Instant::now() < end, "it goes on: {}", agent.log()),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    ensure!(
        std::os::unix::process::ExitStatusExt::signal(&status) == Some(9),
        "{status}"
    );
    // At once, not when somebody has noticed.
    refused(&lab.kubectl("agent", &GET)?)?;
    let _ended = hog.kill();
    hog.wait()?;
    watching.wait()?;
    let ended = lab.run("agent", &["cat", "/tmp/ended"])?;
    ensure!(
        text(&ended.stdout).contains("ended"),
        "an open session outlived its agent"
    );

    let next = lab.start(&options[2..])?;
    lab.until_enrolled(&next, "agent")?;
    masked(&lab.kubectl("agent", &GET)?)?;
    drop(agent);
    ensure!(next.stop()?.success());
    Ok(())
}

#[test]
fn on_a_full_disk_what_is_known_stays_in_force_and_what_changed_comes_when_there_is_room() -> Result<()> {
    let Some(lab) = lab("life-disk")? else {
        return Ok(());
    };
    install(&lab)?;
    let place = lab.path("state");
    let disk = Disk::mount(place.clone())?;
    let agent = start(&lab, None)?;
    lab.pod("agent", None)?;
    lab.until_enrolled(&agent, "agent")?;
    masked(&lab.kubectl("agent", &GET)?)?;

    let fill = || {
        Command::new("sh")
            .args(["-c", "cat /dev/zero >\"$1\" 2>/dev/null; true", "sh"])
            .arg(place.join("filler"))
            .status()
    };
    fill()?;
    // Somebody may now delete, which can't be written down here; and a pod comes.
    let more = r#"{"apiVersion": "bailiff.dev/v1alpha1", "kind": "Policy", "metadata": {"name": "more"}, "spec": {"targets": ["api"],
        "rules": [{"name": "remove", "requests": [{"verbs": ["delete"], "groups": [""], "resources": ["configmaps"]}], "action": "Allow"}]}}"#;
    lab.cluster.apply(more)?;
    agent.until("told", || Ok(agent.log().contains("isn't in force")))?;
    lab.cluster
        .kubectl(&["create", "configmap", "-n", &lab.namespace, "made"])?;
    let remove = ["delete", "configmap", "made"];
    let denied = lab.kubectl("agent", &remove)?;
    ensure!(
        text(&denied.stderr).contains("no rule allows"),
        "{}",
        text(&denied.stderr)
    );
    masked(&lab.kubectl("agent", &GET)?)?;
    lab.pod("late", None)?;
    lab.until_enrolled(&agent, "late")?;
    masked(&lab.kubectl("late", &GET)?)?;

    // Another one that starts now goes by what could be written before, and by what the API server says of pods.
    agent.kill()?;
    let agent = start(&lab, None)?;
    lab.until_enrolled(&agent, "late")?;
    masked(&lab.kubectl("late", &GET)?)?;

    // Room comes without anything else that changes.
    disk.grow()?;
    agent.until("in force", || Ok(lab.kubectl("agent", &remove)?.status.success()))?;
    masked(&lab.kubectl("agent", &GET)?)?;
    ensure!(agent.stop()?.success());
    lab.cluster
        .kubectl(&["delete", "policies.bailiff.dev", "--all"])?;
    lab.cluster.kubectl(&["delete", "targets.bailiff.dev", "--all"])?;
    Ok(())
}

#[test]
fn after_a_reboot_pods_are_held_by_what_was_known_though_the_api_server_is_away() -> Result<()> {
    let Some(lab) = lab("life-reboot")? else {
        return Ok(());
    };
    install(&lab)?;
    let state = lab.path("state");
    let agent = start(&lab, None)?;
    lab.pod("stays", None)?;
    lab.pod("goes", None)?;
    for pod in ["stays", "goes"] {
        lab.until_enrolled(&agent, pod)?;
        masked(&lab.kubectl(pod, &GET)?)?;
    }
    agent.until("kept", || {
        let kept = std::fs::read_to_string(state.join("pods.json")).unwrap_or_default();
        Ok(kept.contains("stays") && kept.contains("goes") && state.join("in-force.json").exists())
    })?;

    // The power goes. Memory is lost with all that was in the kernel, and a record stops in the middle of a write. What lies on the disk of
    // it stays: the state, the record, the socket of the agent that was.
    agent.kill()?;
    let pins = PathBuf::from(format!("/sys/fs/bpf/bailiff-test-node-{}", std::process::id()));
    std::fs::remove_dir_all(&pins)?;
    let newest = newest(&lab.enforced.record())?;
    let whole = std::fs::read(&newest)?;
    std::fs::write(
        &newest,
        whole.get(..whole.len().saturating_sub(5)).unwrap_or_default(),
    )?;
    // Kubelet starts the pods that it still has: the same uid in another sandbox, with another address.
    let address = [
        "get",
        "pod",
        "-n",
        &lab.namespace,
        "stays",
        "-o",
        "jsonpath={.status.podIP}",
    ];
    let before = lab.cluster.kubectl(&address)?;
    lab.restart_sandbox("stays")?;
    lab.cluster
        .kubectl(&["delete", "pod", "-n", &lab.namespace, "goes", "--now", "--wait"])?;

    let away = "127.0.0.1:1";
    let agent = start(&lab, Some(away))?;
    agent.until("another sandbox", || {
        Ok(lab
            .cluster
            .kubectl(&address)
            .is_ok_and(|now| now != before && !now.is_empty()))
    })?;
    lab.ready("stays")?;
    lab.until_enrolled(&agent, "stays")?;
    masked(&lab.kubectl("stays", &GET)?)?;
    // One that came since is nobody, also where it has a name that is known.
    lab.pod("goes", None)?;
    refused(&lab.kubectl("goes", &GET)?)?;
    agent.kill()?;
    let agent = start(&lab, None)?;
    lab.until_enrolled(&agent, "goes")?;
    masked(&lab.kubectl("goes", &GET)?)?;
    masked(&lab.kubectl("stays", &GET)?)?;
    ensure!(agent.stop()?.success());
    lab.cluster
        .kubectl(&["delete", "policies.bailiff.dev", "--all"])?;
    lab.cluster.kubectl(&["delete", "targets.bailiff.dev", "--all"])?;
    Ok(())
}

/// The file that was written last.
fn newest(record: &Path) -> Result<PathBuf> {
    let files = std::fs::read_dir(record)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "zst"));
    files.max().context("no record")
}
