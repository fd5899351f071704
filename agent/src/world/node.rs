//! The pods of this node: what runs, by the cgroups that kubelet made, and who it is, by the API server or an inventory.

mod cgroups;
mod changes;
mod listed;
mod root;

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bailiff_kernel::netns::{NetnsFd, NetnsNumber};
use bailiff_kernel::{cgroup, veth};
use bailiff_model::{CgroupId, Mode};
use bailiff_policy::report::{MAX_REASON, NotCovered, PodCounts, cut};

use crate::app::{Agent, PodSpec};
use crate::metrics::PodState;
use cgroups::Found;
pub(crate) use cgroups::is_container_id;
use changes::Changes;
pub(crate) use listed::{ListedPod, PodFacts, PodsOfFile};
pub(crate) use root::pods_cgroup;

/// The node's pods, as the agent was told of them so far.
#[derive(Debug)]
pub(crate) struct NodePods {
    root: PathBuf,
    facts: Box<dyn PodFacts>,
    /// The node's own namespace: a process that is only about to enter its pod's is still in it.
    own: NetnsNumber,
    known: HashMap<CgroupId, Known>,
    changes: Changes,
    /// When the namespaces of pods that are known were looked at.
    checked: Instant,
    /// Whether they are looked at now.
    checks: bool,
    /// Pods that are about to be enrolled, and how often that was tried.
    waiting: HashMap<CgroupId, u32>,
    /// Since when pods aren't covered.
    uncovered: HashMap<CgroupId, Instant>,
}

/// A pod that isn't covered is told to the cluster after so long: each one isn't in its first moments.
const UNCOVERED: Duration = Duration::from_secs(10);

/// How long passes between two looks at the namespaces of pods that are known: kubelet may make a pod's anew.
const CHECKED: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Known {
    pod: Arc<ListedPod>,
    /// Its network namespace, which the agent holds open; none of an exempt pod.
    netns: Option<NetnsNumber>,
    /// Its containers, as the agent was told.
    containers: HashMap<CgroupId, String>,
}

impl NodePods {
    /// Below this cgroup, by these facts.
    pub(crate) fn new(root: &Path, facts: Box<dyn PodFacts>) -> Result<Self> {
        Ok(Self {
            root: root.to_owned(),
            facts,
            own: own_netns()?.number(),
            known: HashMap::new(),
            changes: Changes::new(),
            checked: Instant::now(),
            checks: false,
            waiting: HashMap::new(),
            uncovered: HashMap::new(),
        })
    }

    /// Tells the agent which pods have come, gone, or changed since the last time. What can't be done now is tried again the next time; until
    /// then a pod's connections to targets are refused.
    pub(crate) fn follow(&mut self, agent: &Agent) {
        self.facts.refresh();
        self.checks = self.checked.elapsed() >= CHECKED;
        if self.checks {
            self.checked = Instant::now();
        }
        let found = self.look();
        let running: HashMap<CgroupId, &Found> = found.iter().map(|pod| (pod.id, pod)).collect();
        let gone: Vec<CgroupId> = self
            .known
            .iter()
            .filter(|(id, known)| !running.get(id).is_some_and(|pod| self.is_meant(pod, known)))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.known.remove(&id);
            if let Err(error) = agent.remove_pod(id) {
                tracing::warn!("a pod that has gone is still enrolled: {error:#}");
            }
        }
        let mut states = Vec::with_capacity(found.len());
        let mut waiting = HashMap::new();
        let mut uncovered = HashMap::new();
        let (mut counts, mut not_covered) = (PodCounts::default(), Vec::new());
        for pod in found {
            let met = self.meet(agent, &pod);
            if let Err(error) = &met {
                tracing::warn!(
                    uid = pod.uid,
                    "a pod's connections to targets are refused: {error:#}"
                );
            }
            self.tell_containers(agent, &pod);
            let state = self.state(&pod);
            if state == PodState::Waiting {
                let tried = self.waiting.get(&pod.id).copied().unwrap_or_default();
                waiting.insert(pod.id, tried.saturating_add(1));
            }
            states.push(state);
            match state {
                PodState::Enforced => counts.enforced += 1,
                PodState::Observed => counts.observed += 1,
                PodState::Exempt => counts.exempt += 1,
                PodState::Waiting | PodState::Unknown => {
                    let since = self.uncovered.get(&pod.id).copied().unwrap_or_else(Instant::now);
                    uncovered.insert(pod.id, since);
                    if since.elapsed() >= UNCOVERED {
                        counts.not_covered += 1;
                        not_covered.push(self.why(&pod, met.err()));
                    }
                }
            }
        }
        self.waiting = waiting;
        self.uncovered = uncovered;
        agent.tell_pods(&states, self.facts.is_current(), counts, not_covered);
    }

    /// Why a pod isn't covered.
    fn why(&self, found: &Found, error: Option<anyhow::Error>) -> NotCovered {
        match self.facts.pod(&found.uid) {
            Some(pod) => NotCovered {
                namespace: pod.info.namespace.clone(),
                name: pod.info.name.clone(),
                reason: match error {
                    Some(error) => cut(&format!("it can't be enrolled: {error:#}"), MAX_REASON),
                    None => "it has no network yet".to_owned(),
                },
            },
            None => NotCovered {
                namespace: String::new(),
                name: cut(&found.uid, 253),
                reason: if self.facts.is_current() {
                    "its cgroup is here, and nobody says who it is".to_owned()
                } else {
                    "the API server can't be asked who it is".to_owned()
                },
            },
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

    /// Waits until something may have changed. True where `end` became readable instead.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub(crate) fn wait(&self, end: BorrowedFd<'_>) -> Result<bool> {
        Ok(self
            .changes
            .wait(end, self.facts.news(), self.waiting.values().copied().min())?)
    }

    /// The pods that run, of whose changes the kernel was asked to tell before they were looked at.
    fn look(&mut self) -> Vec<Found> {
        let mut below = cgroups::pods(&self.root);
        loop {
            let running = below.pods.iter().map(|pod| pod.path.as_path());
            let all: Vec<&Path> = running.chain(below.empty.iter().map(PathBuf::as_path)).collect();
            if !self.changes.follow(&below.folders, &all) {
                return below.pods;
            }
            below = cgroups::pods(&self.root);
        }
    }

    /// Tells which container each cgroup of a pod is: by its name where that is known, which takes kubelet a second, and by its id before.
    fn tell_containers(&mut self, agent: &Agent, found: &Found) {
        let Some(known) = self.known.get_mut(&found.id) else {
            return;
        };
        if known.pod.exempt {
            return;
        }
        let names = &known.pod.containers;
        let containers: HashMap<CgroupId, String> = cgroups::containers(&found.path)
            .into_iter()
            .map(|(cgroup, id)| (cgroup, names.get(&id).cloned().unwrap_or(id)))
            .collect();
        if containers != known.containers {
            agent.tell_containers(found.id, containers.clone());
            known.containers = containers;
        }
    }

    fn state(&self, found: &Found) -> PodState {
        match self.known.get(&found.id) {
            Some(known) if known.pod.exempt => PodState::Exempt,
            Some(known) if known.pod.info.mode == Mode::Observe => PodState::Observed,
            Some(_) => PodState::Enforced,
            None if self.facts.pod(&found.uid).is_some() => PodState::Waiting,
            None => PodState::Unknown,
        }
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
            known.pod = Arc::clone(&pod);
        }
        if pod.exempt {
            if before.is_none() {
                agent.exempt(found.id)?;
                self.known.insert(
                    found.id,
                    Known {
                        pod,
                        netns: None,
                        containers: HashMap::new(),
                    },
                );
            }
            return Ok(());
        }
        if before.is_some() && !self.checks {
            return Ok(());
        }
        if let Some(Some(number)) = before {
            // A full node's namespaces aren't opened each time.
            let now = if pod.host_network {
                Some(self.own)
            } else {
                found.netns_number(self.own)
            };
            if now.is_none_or(|now| now == number) {
                return Ok(());
            }
        }
        let netns = if pod.host_network {
            Some(own_netns()?)
        } else {
            found.netns(self.own)
        };
        let Some(netns) = netns else {
            return Ok(());
        };
        let now = netns.number();
        if before == Some(Some(now)) {
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
        let netns = Some(now);
        self.known.insert(
            found.id,
            Known {
                pod,
                netns,
                containers: HashMap::new(),
            },
        );
        Ok(())
    }
}

/// The node's own network namespace.
fn own_netns() -> Result<NetnsFd> {
    NetnsFd::open(Path::new("/proc/thread-self/ns/net")).context("cannot tell the node's network namespace")
}

/// The calling process's own cgroup, in the mount where the pods' are. It has to be one that tells the agent from all others.
pub(crate) fn own_cgroup(pods: &Path) -> Result<PathBuf> {
    let mount = cgroup::mount_of(pods)
        .with_context(|| format!("{} is no cgroup of the second version", pods.display()))?;
    let own = cgroup::current_below(&mount)
        .with_context(|| format!("the agent's own cgroup isn't below {}", mount.display()))?;
    anyhow::ensure!(
        own != mount,
        "the agent is in the root of all cgroups, so that the kernel side can't tell it from other processes; start it in one of its own"
    );
    Ok(own)
}
