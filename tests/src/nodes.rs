//! A cluster's nodes, as the tests look into them from outside.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

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
