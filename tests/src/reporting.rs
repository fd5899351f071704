//! Agents of nodes that no machine stands behind: each has cgroups of its own here, in which no pod runs that a test doesn't put there.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::enforced::events_in;
use crate::{Cluster, bailiff};

/// A node without a machine, and `bailiff node` for it. Dropping it ends what runs.
#[derive(Debug)]
pub struct Reporting {
    node: String,
    cgroup: PathBuf,
    log: PathBuf,
    agent: Child,
    pods: Vec<(PathBuf, Child)>,
}

impl Reporting {
    /// Makes the Node object, and starts its agent with a token that is bound to it. `hidden` is a folder that isn't there for it.
    pub fn start(cluster: &Cluster, node: &str, hidden: Option<&Path>) -> Result<Self> {
        Self::start_with(cluster, node, hidden, &[])
    }

    /// The same with further options of `bailiff node`.
    pub fn start_with(
        cluster: &Cluster,
        node: &str,
        hidden: Option<&Path>,
        options: &[&str],
    ) -> Result<Self> {
        let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}});
        cluster.apply(&object.to_string())?;
        let folder = cluster.folder().join(format!("node-{node}"));
        std::fs::create_dir_all(&folder)?;
        let kubeconfig = kubeconfig(cluster, &folder.join("kubeconfig"), &token(cluster, node)?)?;
        let name = name(node);
        let cgroup = cgroups()?.join(&name);
        for inner in ["agent", "pods"] {
            std::fs::create_dir_all(cgroup.join(inner))?;
        }
        let log = folder.join("log");
        let said = std::fs::File::create(&log)?;
        // A shell enters the cgroup: nothing can be done between fork and exec without unsafe code.
        let script = "echo 0 >\"$1\" && hidden=$2 && shift 2 && { [ -z \"$hidden\" ] || mount -t tmpfs none \"$hidden\"; } && exec \"$@\"";
        let agent = Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(cgroup.join("agent/cgroup.procs"))
            .arg(hidden.unwrap_or(Path::new("")))
            .arg(bailiff()?)
            .args(["node", "--node", node, "--kubeconfig"])
            .arg(&kubeconfig)
            .arg("--pins")
            .arg(pins(&name))
            .arg("--pods-cgroup")
            .arg(cgroup.join("pods"))
            .arg("--state-dir")
            .arg(folder.join("state"))
            .arg("--record-dir")
            .arg(folder.join("record"))
            .args(options)
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said)
            .spawn()?;
        Ok(Self {
            node: node.to_owned(),
            cgroup,
            log,
            agent,
            pods: Vec::new(),
        })
    }

    /// A process in a cgroup as kubelet would make it for a pod of this uid.
    pub fn run_pod(&mut self, uid: &str) -> Result<()> {
        let cgroup = self.cgroup.join("pods").join(format!("pod{uid}"));
        std::fs::create_dir_all(&cgroup)?;
        let child = Command::new("sh")
            .args(["-c", "echo 0 >\"$1\" && exec sleep 1000", "sh"])
            .arg(cgroup.join("cgroup.procs"))
            .spawn()?;
        self.pods.push((cgroup, child));
        Ok(())
    }

    /// Ends the pod that was started last.
    pub fn end_pod(&mut self) -> Result<()> {
        let (cgroup, mut child) = self.pods.pop().context("no pod")?;
        child.kill()?;
        child.wait()?;
        Ok(std::fs::remove_dir(cgroup)?)
    }

    /// The cgroup in which kubelet would make its pods'.
    #[must_use]
    pub fn pods_cgroup(&self) -> PathBuf {
        self.cgroup.join("pods")
    }

    /// Where its programs and maps are pinned.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        pins(&name(&self.node))
    }

    /// The agent's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.agent.id()
    }

    /// What the agent recorded so far, in the order in which it was written.
    pub fn recorded(&self) -> Result<Vec<Value>> {
        events_in(&self.log.with_file_name("record"))
    }

    /// What the agent logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks the agent to end, and waits until it has.
    pub fn stop(mut self) -> Result<ExitStatus> {
        kill(Pid::from_raw(i32::try_from(self.agent.id())?), Signal::SIGTERM)?;
        Ok(self.agent.wait()?)
    }

    /// The node's name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }
}

/// What this process's agent of a node is called among cgroups and pins.
fn name(node: &str) -> String {
    format!("bailiff-{}-{node}", std::process::id())
}

fn pins(name: &str) -> PathBuf {
    Path::new("/sys/fs/bpf").join(name)
}

impl Drop for Reporting {
    fn drop(&mut self) {
        while !self.pods.is_empty() {
            let _ = self.end_pod();
        }
        if matches!(self.agent.try_wait(), Ok(None)) {
            let _ = kill(
                Pid::from_raw(i32::try_from(self.agent.id()).unwrap_or_default()),
                Signal::SIGTERM,
            );
            let _ = self.agent.wait();
        }
        for inner in ["agent", "pods", ""] {
            let _ = std::fs::remove_dir(self.cgroup.join(inner));
        }
    }
}

/// A token of the agents' account that is bound to a node.
pub fn token(cluster: &Cluster, node: &str) -> Result<String> {
    cluster.kubectl(&[
        "create",
        "token",
        "-n",
        "bailiff",
        "bailiff-agent",
        "--bound-object-kind=Node",
        "--bound-object-name",
        node,
    ])
}

/// Writes a kubeconfig with a token.
pub fn kubeconfig(cluster: &Cluster, path: &Path, token: &str) -> Result<PathBuf> {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "own",
        "clusters": [{"name": "own", "cluster": {
            "server": format!("https://{}", cluster.api_server()?), "certificate-authority": cluster.ca()?,
        }}],
        "users": [{"name": "own", "user": {"token": token}}],
        "contexts": [{"name": "own", "context": {"cluster": "own", "user": "own"}}],
    });
    std::fs::write(path, config.to_string())?;
    Ok(path.to_owned())
}

/// Where cgroups of the second version are mounted.
fn cgroups() -> Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mount = mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ")
            .then(|| place.split(' ').nth(4))
            .flatten()
    });
    Ok(PathBuf::from(
        mount.context("cgroups of the second version aren't mounted")?,
    ))
}
