//! The pods of this node: what runs, by the cgroups that kubelet made, and who it is, by an inventory.

mod cgroups;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use bailiff_kernel::netns::NetnsFd;
use bailiff_kernel::{cgroup, veth};
use bailiff_model::{CgroupId, NetnsCookie};

use super::standalone::{Inventory, InventoryPod};
use crate::app::{Agent, PodSpec};
use cgroups::Found;

/// The node's pods, as the agent was told of them so far.
#[derive(Debug)]
pub struct NodePods {
    root: PathBuf,
    config: PathBuf,
    inventory: Inventory,
    read_at: Option<SystemTime>,
    /// The node's own namespace: a process that is only about to enter its pod's is still in it.
    own: NetnsCookie,
    known: HashMap<CgroupId, Known>,
    looks: u32,
}

/// How many looks pass between two at the namespaces of pods that are known: kubelet may make a pod's anew.
const LOOKS: u32 = 10;

#[derive(Debug)]
struct Known {
    pod: InventoryPod,
    netns: Option<NetnsCookie>,
}

impl NodePods {
    /// Below this cgroup, by the inventory of this directory.
    pub fn new(root: &Path, config: &Path) -> Result<Self> {
        let own = NetnsFd::open(Path::new("/proc/thread-self/ns/net"))
            .context("cannot tell the node's network namespace")?;
        Ok(Self {
            root: root.to_owned(),
            config: config.to_owned(),
            inventory: Inventory::load(config)?,
            read_at: modified(config),
            own: own.cookie(),
            known: HashMap::new(),
            looks: 0,
        })
    }

    /// Tells the agent which pods have come, gone, or changed since the last time. What can't be done now is tried again the next time; until
    /// then a pod's connections to targets are refused.
    pub fn follow(&mut self, agent: &Agent) {
        self.read_again();
        self.looks = self.looks.wrapping_add(1);
        let found = cgroups::pods(&self.root);
        let gone: Vec<CgroupId> = self
            .known
            .iter()
            .filter(|(id, known)| {
                !found
                    .iter()
                    .any(|pod| pod.id == **id && self.is_meant(pod, known))
            })
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.known.remove(&id);
            if let Err(error) = agent.remove_pod(id) {
                tracing::warn!("a pod that has gone is still enrolled: {error:#}");
            }
        }
        for pod in found {
            if let Err(error) = self.meet(agent, &pod) {
                tracing::warn!(
                    uid = pod.uid,
                    "a pod's connections to targets are refused: {error:#}"
                );
            }
        }
    }

    fn read_again(&mut self) {
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

    fn listed(&self, uid: &str) -> Option<&InventoryPod> {
        self.inventory
            .pods
            .iter()
            .find(|pod| pod.uid.as_deref() == Some(uid))
    }

    fn is_meant(&self, found: &Found, known: &Known) -> bool {
        self.listed(&found.uid) == Some(&known.pod)
    }

    fn meet(&mut self, agent: &Agent, found: &Found) -> Result<()> {
        let Some(pod) = self.listed(&found.uid).cloned() else {
            return Ok(());
        };
        let before = self.known.get(&found.id).map(|known| known.netns);
        if pod.exempt {
            if before.is_none() {
                agent.exempt(found.id)?;
                self.known.insert(found.id, Known { pod, netns: None });
            }
            return Ok(());
        }
        if before.is_some() && !self.looks.is_multiple_of(LOOKS) {
            return Ok(());
        }
        // A host-network pod shares this namespace, in which no listener of a pod's own can be.
        let Some(netns) = found.netns(self.own) else {
            return Ok(());
        };
        let cookie = netns.cookie();
        if before == Some(Some(cookie)) {
            return Ok(());
        }
        if before.is_some() {
            // Its sandbox was made anew.
            agent.remove_pod(found.id)?;
            self.known.remove(&found.id);
        }
        let host_links = veth::host_links(&netns).context("its links can't be told")?;
        if host_links.is_empty() {
            tracing::warn!(
                pod = pod.name,
                "no link of this pod is on this node's side: packet sockets aren't held"
            );
        }
        agent.add_pod(PodSpec {
            info: pod.info(),
            container: pod.container.clone(),
            cgroup: found.path.clone(),
            netns: netns.into_fd(),
            host_links,
        })?;
        let netns = Some(cookie);
        self.known.insert(found.id, Known { pod, netns });
        Ok(())
    }
}

fn modified(config: &Path) -> Option<SystemTime> {
    std::fs::metadata(config.join("inventory.yaml"))
        .and_then(|about| about.modified())
        .ok()
}

/// The calling process's own cgroup, which has to be one that tells the agent from all others.
pub fn own_cgroup(pods: &Path) -> Result<PathBuf> {
    let own = cgroup::current()?;
    anyhow::ensure!(
        own != cgroup::mount()?,
        "the agent is in the root of all cgroups, so that the kernel side can't tell it from other processes; start it in one of its own"
    );
    anyhow::ensure!(
        !own.starts_with(pods),
        "the agent is in {}, below the pods that it is to enforce on; start it outside of {}",
        own.display(),
        pods.display()
    );
    Ok(own)
}
