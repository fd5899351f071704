//! A cluster's files, and what is noted of it while it runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::components::{self, program};
use super::keys::Keys;
use super::node::{Emulated, Node};
use super::place::{self, Site, Slot};
use crate::shell;

/// Where a cluster's files are. All lie in one folder.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    folder: PathBuf,
}

/// What tells others of a cluster that is ready: the file `cluster.json`. The tests' harness reads it.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ready {
    /// The number from which all addresses follow.
    pub(crate) slot: u8,
    /// The process that holds it all.
    pub(crate) pid: u32,
    /// The release, such as `v1.34.4`.
    pub(crate) version: String,
    /// Where the API server listens.
    pub(crate) api_server: String,
    /// The address of `kubernetes.default.svc`, which leads there.
    pub(crate) service: String,
    /// Of an administrator.
    pub(crate) kubeconfig: PathBuf,
    /// The CA that signs everything, as PEM.
    pub(crate) ca: PathBuf,
    /// Its key.
    pub(crate) ca_key: PathBuf,
    /// What the API server audits, a JSON object a line.
    pub(crate) audit_log: PathBuf,
    /// Where kubectl and the other programs are.
    pub(crate) programs: PathBuf,
    /// The nodes, in order.
    pub(crate) nodes: Vec<ReadyNode>,
    /// What runs, by the names of their logs.
    pub(crate) components: Vec<String>,
}

/// What is told of a node.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReadyNode {
    /// Its name.
    pub(crate) name: String,
    /// Its address.
    pub(crate) address: String,
    /// The range of its pods' addresses.
    pub(crate) pods: String,
    /// The process that holds its namespaces; none for one in a machine of its own.
    pub(crate) process: Option<u32>,
    /// Its cgroup of the second version, in which kubelet makes `kubepods`; none of this machine's for one in a machine of its own.
    pub(crate) cgroup: Option<PathBuf>,
    /// Its kernel's version, for one in a machine of its own.
    pub(crate) kernel: Option<String>,
}

impl ReadyNode {
    fn at(site: Site) -> Self {
        Self {
            name: site.name(),
            address: site.address().to_string(),
            pods: site.pods(),
            process: None,
            cgroup: None,
            kernel: None,
        }
    }
}

impl From<&Node> for ReadyNode {
    fn from(node: &Node) -> Self {
        Self {
            process: Some(node.process()),
            cgroup: Some(node.cgroup().to_owned()),
            ..Self::at(node.site())
        }
    }
}

impl From<&Emulated> for ReadyNode {
    fn from(node: &Emulated) -> Self {
        Self {
            kernel: Some(node.kernel().to_owned()),
            ..Self::at(node.site())
        }
    }
}

impl Files {
    /// In this folder, or where a developer's cluster is.
    pub(crate) fn new(folder: Option<&Path>) -> Result<Self> {
        let folder = folder.map_or_else(|| shell::root().join("target/cluster/run"), Path::to_path_buf);
        let folder =
            std::path::absolute(&folder).with_context(|| format!("{} is no path", folder.display()))?;
        Ok(Self { folder })
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the certificates and keys are.
    pub(crate) fn keys(&self) -> PathBuf {
        self.folder.join("pki")
    }

    /// An administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    /// What is audited, and how much of it.
    pub(crate) fn audit_policy(&self) -> PathBuf {
        self.folder.join("audit-policy.yaml")
    }

    /// What was audited.
    pub(crate) fn audit_log(&self) -> PathBuf {
        self.folder.join("audit.log")
    }

    /// What a component says.
    pub(crate) fn log(&self, component: &str) -> PathBuf {
        self.folder.join(format!("{component}.log"))
    }

    /// kubectl as an administrator.
    pub(crate) fn kubectl(&self) -> Command {
        let mut command = Command::new(program("kubectl"));
        command.env("KUBECONFIG", self.kubeconfig());
        // Answers of another cluster that was at this address must not be taken for this one's.
        command.env("KUBECACHEDIR", self.folder.join("kubectl-cache"));
        command
    }

    /// Makes an empty folder of it.
    ///
    /// # Errors
    /// When it can't be made or emptied.
    pub(crate) fn fresh(&self) -> Result<()> {
        if self.folder.exists() {
            let mut entries = fs::read_dir(&self.folder)
                .with_context(|| format!("{} can't be read", self.folder.display()))?;
            // A wrong path must not cost somebody's files.
            ensure!(
                self.keys().is_dir() || entries.next().is_none(),
                "{} holds something, and no cluster's files: name another folder",
                self.folder.display()
            );
            fs::remove_dir_all(&self.folder)
                .with_context(|| format!("{} can't be removed", self.folder.display()))?;
        }
        fs::create_dir_all(&self.folder).with_context(|| format!("{} can't be made", self.folder.display()))
    }

    /// Notes which slot is taken, before anything is started in it.
    ///
    /// # Errors
    /// When it can't be written.
    pub(crate) fn note_slot(&self, slot: Slot) -> Result<()> {
        fs::write(self.slot_file(), slot.number().to_string())
            .with_context(|| format!("{} can't be written", self.slot_file().display()))
    }

    /// The slot of the cluster that is, or was, in this folder.
    ///
    /// # Errors
    /// When the note can't be understood.
    pub(crate) fn slot(&self) -> Result<Option<Slot>> {
        match fs::read_to_string(self.slot_file()) {
            Ok(text) => Ok(Some(Slot::new(text.trim().parse().with_context(|| {
                format!("{} holds no number", self.slot_file().display())
            })?)?)),
            Err(_) => Ok(None),
        }
    }

    /// Notes that the cluster is ready. Whole or not at all.
    ///
    /// # Errors
    /// When it can't be written.
    pub(crate) fn note_ready(
        &self,
        slot: Slot,
        keys: &Keys,
        nodes: Vec<ReadyNode>,
        components: Vec<String>,
    ) -> Result<Ready> {
        let ready = Ready {
            slot: slot.number(),
            pid: std::process::id(),
            version: components::version()?,
            api_server: slot.api_server().to_string(),
            service: slot.service().to_string(),
            kubeconfig: self.kubeconfig(),
            ca: keys.file("ca.crt"),
            ca_key: keys.file("ca.key"),
            audit_log: self.audit_log(),
            programs: components::folder(),
            nodes,
            components,
        };
        let new = self.folder.join("cluster.json.new");
        fs::write(&new, serde_json::to_string_pretty(&ready)?)
            .and_then(|()| fs::rename(&new, self.ready_file()))
            .with_context(|| format!("{} can't be written", self.ready_file().display()))?;
        Ok(ready)
    }

    /// What was noted of a cluster that is ready and runs.
    pub(crate) fn ready(&self) -> Option<Ready> {
        let text = fs::read_to_string(self.ready_file()).ok()?;
        let ready: Ready = serde_json::from_str(&text).ok()?;
        place::is_alive(Slot::new(ready.slot).ok()?).then_some(ready)
    }

    /// Removes the notes; logs stay, for whoever wants to know why.
    pub(crate) fn forget(&self) {
        // What isn't there is as good.
        let _gone = fs::remove_file(self.ready_file());
        let _gone = fs::remove_file(self.slot_file());
    }

    fn slot_file(&self) -> PathBuf {
        self.folder.join("slot")
    }

    fn ready_file(&self) -> PathBuf {
        self.folder.join("cluster.json")
    }
}
