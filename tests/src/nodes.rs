//! A cluster's nodes, as the tests look into them from outside.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::Cluster;

/// A node of a cluster: containerd, kubelet and kube-proxy in namespaces and cgroups of its own.
#[derive(Debug, Clone)]
pub struct ClusterNode {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// The range of its pods' addresses.
    pub pods: String,
    /// The process that holds its namespaces.
    pub process: u64,
    /// Its cgroup of the second version, in which kubelet makes `kubepods`.
    pub cgroup: PathBuf,
}

impl ClusterNode {
    fn of(told: &Value) -> Option<Self> {
        let text = |name: &str| told.get(name)?.as_str().map(str::to_owned);
        Some(Self {
            name: text("name")?,
            address: text("address")?,
            pods: text("pods")?,
            process: told.get("process")?.as_u64()?,
            cgroup: PathBuf::from(text("cgroup")?),
        })
    }

    /// A program of this machine among the node's files and on its network.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        for (namespace, file) in [("mount", "mnt"), ("net", "net")] {
            command.arg(format!("--{namespace}=/proc/{}/ns/{file}", self.process));
        }
        command.arg("--wd=/").arg(program.as_ref());
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
        std::fs::read_dir(format!("/proc/{}/root/sys/fs/bpf", self.process))?
            .map(|pin| Ok(pin?.file_name().to_string_lossy().into_owned()))
            .filter(|name: &Result<String>| !name.as_ref().is_ok_and(|name| name.ends_with(".debug")))
            .collect()
    }
}

impl Cluster {
    /// The nodes, in order.
    pub fn nodes(&self) -> Result<Vec<ClusterNode>> {
        let told = self.about("nodes")?.as_array().context("no nodes")?;
        told.iter()
            .map(|node| ClusterNode::of(node).with_context(|| format!("cluster.json says of a node {node}")))
            .collect()
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
        let args = [
            "wait",
            "-n",
            namespace,
            "--for=condition=Ready",
            "--timeout=90s",
            &pod,
        ];
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
        Ok(self.first_node()?.process)
    }

    /// The first node's cgroup of the second version, in which kubelet makes `kubepods`.
    pub fn node_cgroup(&self) -> Result<PathBuf> {
        Ok(self.first_node()?.cgroup)
    }

    /// The first node's address.
    pub fn node_address(&self) -> Result<String> {
        Ok(self.first_node()?.address)
    }
}
