//! A cluster's nodes, as the tests look into them from outside.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{Cluster, check};

/// A node of a cluster: containerd, kubelet and kube-proxy in namespaces and cgroups of its own, or in a machine of its own.
#[derive(Debug, Clone)]
pub struct ClusterNode {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// The range of its pods' addresses.
    pub pods: String,
    /// The process that holds its namespaces, where these are of this machine.
    pub process: Option<u64>,
    /// Its cgroup of the second version, in which kubelet makes `kubepods`, where it is of this machine.
    pub cgroup: Option<PathBuf>,
    /// What leads into it: a command that runs the one that follows.
    door: Vec<String>,
}

/// The pod by which commands are run on a node in a machine of its own, and its namespace, whose pods go past the agents.
const DOOR: (&str, &str) = ("kube-system", "door");

impl ClusterNode {
    fn of(told: &Value, cluster: &Cluster) -> Result<Self> {
        let text = |name: &str| told.get(name).and_then(Value::as_str).map(str::to_owned);
        let known =
            |name: &str| text(name).with_context(|| format!("cluster.json says no {name} of a node: {told}"));
        let process = told.get("process").and_then(Value::as_u64);
        let door = match process {
            Some(process) => vec![
                "nsenter".to_owned(),
                format!("--mount=/proc/{process}/ns/mnt"),
                format!("--net=/proc/{process}/ns/net"),
                "--wd=/".to_owned(),
            ],
            None => {
                let (namespace, pod) = DOOR;
                let words = [
                    cluster.programs()?.join("kubectl").display().to_string(),
                    format!("--kubeconfig={}", cluster.kubeconfig()?.display()),
                    format!("--cache-dir={}", cluster.folder().join("kubectl-cache").display()),
                ];
                let inside = ["exec", "-i", "-n", namespace, pod, "--", "chroot", "/host"];
                words.into_iter().chain(inside.map(str::to_owned)).collect()
            }
        };
        Ok(Self {
            name: known("name")?,
            address: known("address")?,
            pods: known("pods")?,
            process,
            cgroup: text("cgroup").map(PathBuf::from),
            door,
        })
    }

    /// A program of this machine among the node's files and on its network. What isn't a path is looked up there.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut words = self.door.iter();
        let mut command = Command::new(words.next().map_or("false", String::as_str));
        command.args(words).arg(program.as_ref());
        command
    }

    /// containerd's own client, in the namespace of what kubelet has started.
    #[must_use]
    pub fn ctr(&self, args: &[&str]) -> Command {
        let mut command = self.command("ctr");
        command.args(["-n", "k8s.io"]).args(args);
        command
    }

    /// What is pinned in its bpf file system, beside what the kernel puts there.
    pub fn pinned(&self) -> Result<Vec<String>> {
        let listed = check(self.command("ls").arg("/sys/fs/bpf"))?;
        Ok(String::from_utf8(listed.stdout)?
            .lines()
            .filter(|name| !name.ends_with(".debug"))
            .map(str::to_owned)
            .collect())
    }
}

const APART: &str = "the node is in a machine of its own: this test can't run with it";

impl Cluster {
    /// The nodes, in order.
    pub fn nodes(&self) -> Result<Vec<ClusterNode>> {
        let told = self.about("nodes")?.as_array().context("no nodes")?;
        told.iter().map(|node| ClusterNode::of(node, self)).collect()
    }

    /// Whether its node is in an emulated machine.
    #[must_use]
    pub fn is_emulated(&self) -> bool {
        self.about("nodes")
            .is_ok_and(|nodes| nodes.pointer("/0/kernel").is_some_and(Value::is_string))
    }

    /// For how long to wait for what takes `seconds` at most: on an emulated node several times as long.
    #[must_use]
    pub fn patience(&self, seconds: u64) -> Duration {
        Duration::from_secs(if self.is_emulated() { 6 * seconds } else { seconds })
    }

    /// Makes a pod by which commands can be run on a node in a machine of its own: the node's files lie in it as /host.
    pub(crate) fn open_door(&self) -> Result<()> {
        let (namespace, name) = DOOR;
        let manifest = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": name},
            "spec": {
                "hostNetwork": true, "hostPID": true, "terminationGracePeriodSeconds": 0,
                "tolerations": [{"operator": "Exists"}],
                "containers": [{
                    "name": "main", "image": "bailiff.test/busybox:1", "imagePullPolicy": "Never",
                    "command": ["sleep", "100000"], "securityContext": {"privileged": true},
                    "volumeMounts": [{"name": "host", "mountPath": "/host"}],
                }],
                "volumes": [{"name": "host", "hostPath": {"path": "/"}}],
            },
        });
        let account = [
            "wait",
            "--for=create",
            "--timeout=60s",
            "-n",
            namespace,
            "serviceaccount/default",
        ];
        self.kubectl(&account)?;
        self.apply(&manifest.to_string())?;
        self.pod_is_ready(namespace, name)
    }

    /// A pod of the service account `agent` in which clients can be run: busybox, and the cluster's programs in /programs. `more` is of
    /// its spec. Returns its uid, without waiting for it.
    pub fn begin_pod(&self, namespace: &str, name: &str, command: &[&str], more: &Value) -> Result<String> {
        let service = self.service()?.ip().to_string();
        let mut manifest = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
            "spec": {
                "serviceAccountName": "agent",
                "terminationGracePeriodSeconds": 0,
                // What a cluster's DNS would say.
                "hostAliases": [{"ip": service, "hostnames": ["kubernetes.default.svc"]}],
                "containers": [{
                    "name": "main", "image": "bailiff.test/busybox:1", "imagePullPolicy": "Never", "command": command,
                    "volumeMounts": [{"name": "programs", "mountPath": "/programs", "readOnly": true}],
                }],
                "volumes": [{"name": "programs", "hostPath": {"path": self.programs()?}}],
            },
        });
        let spec = manifest.get_mut("spec").and_then(Value::as_object_mut);
        if let (Some(spec), Some(more)) = (spec, more.as_object()) {
            spec.extend(more.clone());
        }
        self.apply(&manifest.to_string())?;
        self.kubectl(&[
            "get",
            "pod",
            "-n",
            namespace,
            name,
            "-o",
            "jsonpath={.metadata.uid}",
        ])
    }

    /// Waits until a pod is ready.
    pub fn pod_is_ready(&self, namespace: &str, name: &str) -> Result<()> {
        let pod = format!("pod/{name}");
        let timeout = format!("--timeout={}s", self.patience(90).as_secs());
        let args = ["wait", "-n", namespace, "--for=condition=Ready", &timeout, &pod];
        self.kubectl(&args).map(drop)
    }

    /// A command inside a pod, by the administrator's exec, which no agent sees.
    pub fn in_pod(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<Command> {
        let args = ["exec", "-i", "-n", namespace, pod, "--"];
        self.kubectl_command(&[&args, command].concat())
    }

    fn first_node(&self) -> Result<ClusterNode> {
        self.nodes()?.into_iter().next().context("no node")
    }

    /// What is pinned in the first node's bpf file system, beside what the kernel puts there.
    pub fn pinned_on_node(&self) -> Result<Vec<String>> {
        self.first_node()?.pinned()
    }

    /// The process that holds the first node's namespaces.
    pub fn node_process(&self) -> Result<u64> {
        self.first_node()?.process.context(APART)
    }

    /// The first node's cgroup of the second version, in which kubelet makes `kubepods`.
    pub fn node_cgroup(&self) -> Result<PathBuf> {
        self.first_node()?.cgroup.context(APART)
    }

    /// The first node's address.
    pub fn node_address(&self) -> Result<String> {
        Ok(self.first_node()?.address)
    }
}
