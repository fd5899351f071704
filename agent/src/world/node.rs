//! The pods of this node: what runs, by the cgroups that kubelet made, and who it is, by the API server or an inventory.

mod cgroups;
mod listed;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bailiff_kernel::netns::NetnsFd;
use bailiff_kernel::{cgroup, veth};
use bailiff_model::{CgroupId, NetnsCookie};

use crate::app::{Agent, PodSpec};
use cgroups::Found;
pub(crate) use listed::{ListedPod, PodFacts, PodsOfFile};

/// The node's pods, as the agent was told of them so far.
#[derive(Debug)]
pub(crate) struct NodePods {
    root: PathBuf,
    facts: Box<dyn PodFacts>,
    /// The node's own namespace: a process that is only about to enter its pod's is still in it.
    own: NetnsCookie,
    known: HashMap<CgroupId, Known>,
    looks: u32,
}

/// How many looks pass between two at the namespaces of pods that are known: kubelet may make a pod's anew.
const LOOKS: u32 = 10;

#[derive(Debug)]
struct Known {
    pod: ListedPod,
    netns: Option<NetnsCookie>,
}

impl NodePods {
    /// Below this cgroup, by these facts.
    pub(crate) fn new(root: &Path, facts: Box<dyn PodFacts>) -> Result<Self> {
        Ok(Self {
            root: root.to_owned(),
            facts,
            own: own_netns()?.cookie(),
            known: HashMap::new(),
            looks: 0,
        })
    }

    /// Tells the agent which pods have come, gone, or changed since the last time. What can't be done now is tried again the next time; until
    /// then a pod's connections to targets are refused.
    pub(crate) fn follow(&mut self, agent: &Agent) {
        self.facts.refresh();
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

    /// Whether a cgroup's pod is still the one that the agent was told of. What else is said of it may have changed.
    fn is_meant(&self, found: &Found, known: &Known) -> bool {
        self.facts.pod(&found.uid).is_some_and(|pod| {
            pod.info.uid == known.pod.info.uid
                && pod.exempt == known.pod.exempt
                && pod.host_network == known.pod.host_network
        })
    }

    fn meet(&mut self, agent: &Agent, found: &Found) -> Result<()> {
        let Some(pod) = self.facts.pod(&found.uid) else {
            return Ok(());
        };
        let before = self.known.get(&found.id).map(|known| known.netns);
        if let Some(known) = self.known.get_mut(&found.id)
            && known.pod != pod
        {
            agent.update_pod(found.id, &pod.info);
            known.pod = pod.clone();
        }
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
        let netns = if pod.host_network {
            Some(own_netns()?)
        } else {
            found.netns(self.own)
        };
        let Some(netns) = netns else {
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
        let host_links = if pod.host_network {
            Vec::new()
        } else {
            veth::host_links(&netns).context("its links can't be told")?
        };
        if host_links.is_empty() {
            tracing::warn!(
                namespace = pod.info.namespace,
                pod = pod.info.name,
                "no link of this pod is on this node's side: packet sockets aren't held"
            );
        }
        agent.add_pod(PodSpec {
            info: pod.info.clone(),
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

/// The node's own network namespace.
fn own_netns() -> Result<NetnsFd> {
    NetnsFd::open(Path::new("/proc/thread-self/ns/net")).context("cannot tell the node's network namespace")
}

/// The calling process's own cgroup, which has to be one that tells the agent from all others.
pub(crate) fn own_cgroup() -> Result<PathBuf> {
    let own = cgroup::current()?;
    anyhow::ensure!(
        own != cgroup::mount()?,
        "the agent is in the root of all cgroups, so that the kernel side can't tell it from other processes; start it in one of its own"
    );
    Ok(own)
}
