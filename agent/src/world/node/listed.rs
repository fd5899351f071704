//! Who the pods of a node are: from whomever knows it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Result;
use bailiff_model::PodInfo;
use nix::sys::eventfd::EventFd;

use crate::world::standalone::Inventory;

/// A pod, as somebody who knows describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListedPod {
    /// The pod as policy sees it.
    pub(crate) info: PodInfo,
    /// Its container, where there is only one.
    pub(crate) container: Option<String>,
    /// The names of its containers by their ids, as far as they are known.
    pub(crate) containers: BTreeMap<String, String>,
    /// Its connections go past the agent.
    pub(crate) exempt: bool,
    /// It has no network namespace but the node's.
    pub(crate) host_network: bool,
}

/// Knows the pods of this node.
pub(crate) trait PodFacts: std::fmt::Debug {
    /// Looks for what has changed, where that isn't told by itself. May block on the disk.
    fn refresh(&mut self);

    /// The pod of this uid, as cgroups are named by it.
    fn pod(&self, uid: &str) -> Option<Arc<ListedPod>>;

    /// What becomes readable when it knows of something new, where it tells.
    fn news(&self) -> Option<&EventFd>;

    /// Whether it knows of changes. Where it doesn't, what it knew before counts.
    fn is_current(&self) -> bool;
}

/// The pods that `inventory.yaml` lists.
#[derive(Debug)]
pub(crate) struct PodsOfFile {
    config: PathBuf,
    inventory: Inventory,
    read_at: Option<SystemTime>,
}

impl PodsOfFile {
    /// Those of the inventory in this directory.
    pub(crate) fn new(config: &Path) -> Result<Self> {
        Ok(Self {
            config: config.to_owned(),
            inventory: Inventory::load(config)?,
            read_at: modified(config),
        })
    }
}

impl PodFacts for PodsOfFile {
    fn refresh(&mut self) {
        let now = modified(&self.config);
        if now == self.read_at {
            return;
        }
        self.read_at = now;
        match Inventory::load(&self.config) {
            Ok(inventory) => self.inventory = inventory,
            Err(error) => tracing::error!("the inventory stays as it was: {error:#}"),
        }
    }

    fn pod(&self, uid: &str) -> Option<Arc<ListedPod>> {
        let pod = self
            .inventory
            .pods
            .iter()
            .find(|pod| pod.uid.as_deref() == Some(uid))?;
        Some(Arc::new(ListedPod {
            info: pod.info(),
            container: pod.container.clone(),
            containers: BTreeMap::new(),
            exempt: pod.exempt,
            host_network: false,
        }))
    }

    fn news(&self) -> Option<&EventFd> {
        None
    }

    fn is_current(&self) -> bool {
        true
    }
}

fn modified(config: &Path) -> Option<SystemTime> {
    std::fs::metadata(config.join("inventory.yaml"))
        .and_then(|about| about.modified())
        .ok()
}
