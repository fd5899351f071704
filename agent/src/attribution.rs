//! From what the kernel noted about a connection to the chain behind it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bailiff_kernel::Origin;
use bailiff_kernel::netns::NetnsFd;
use bailiff_model::{CgroupId, Chain, Evidence, Hop, HopKind, PodInfo, ProcessInfo};

/// A pod on this node.
#[derive(Debug, Clone)]
pub struct PodEntry {
    /// The pod as policy sees it.
    pub info: Arc<PodInfo>,
    /// Its cgroup.
    pub cgroup: CgroupId,
    /// Where that is.
    pub cgroup_path: PathBuf,
    /// Its network namespace.
    pub netns: Arc<NetnsFd>,
    /// The container that its processes belong to, where there is only one.
    pub container: Option<String>,
    /// Otherwise its containers, by their cgroups and those below: names, or ids where no name is known.
    pub containers: Arc<HashMap<CgroupId, String>>,
}

impl PodEntry {
    /// The container to which a cgroup of the pod belongs, where that is known.
    #[must_use]
    pub fn container_of(&self, cgroup: CgroupId) -> Option<String> {
        self.container
            .as_ref()
            .or_else(|| self.containers.get(&cgroup))
            .cloned()
    }
}

/// The pods of this node, by their cgroups. Read by every connection, changed rarely.
#[derive(Debug, Default)]
pub struct Attribution {
    pods: ArcSwap<HashMap<CgroupId, Arc<PodEntry>>>,
}

/// Why a connection can't be attributed. It is then closed: nobody is ever guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unattributed {
    /// The pod's cgroup is no pod's that is known here.
    #[error("the pod of the connecting process is not known")]
    UnknownPod,
    /// The kernel side says another namespace than the pod's.
    #[error("the connection comes from another network namespace than the pod's")]
    OtherNamespace,
}

impl Unattributed {
    /// The label in metrics.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::UnknownPod => "unknown_pod",
            Self::OtherNamespace => "other_namespace",
        }
    }
}

impl Attribution {
    /// Adds a pod, or puts another in its place.
    pub fn add(&self, pod: Arc<PodEntry>) {
        self.pods.rcu(|pods| {
            let mut pods = HashMap::clone(pods);
            pods.insert(pod.cgroup, Arc::clone(&pod));
            pods
        });
    }

    /// Changes what is known of a pod. Connections that it has keep what they know of it.
    pub fn update(&self, cgroup: CgroupId, change: impl Fn(&mut PodEntry)) {
        self.pods.rcu(|pods| {
            let mut pods = HashMap::clone(pods);
            if let Some(pod) = pods.get_mut(&cgroup) {
                change(Arc::make_mut(pod));
            }
            pods
        });
    }

    /// Removes a pod. Connections that it has keep what they know of it.
    pub fn remove(&self, cgroup: CgroupId) {
        self.pods.rcu(|pods| {
            let mut pods = HashMap::clone(pods);
            pods.remove(&cgroup);
            pods
        });
    }

    /// The pod of a cgroup.
    pub fn pod(&self, cgroup: CgroupId) -> Option<Arc<PodEntry>> {
        self.pods.load().get(&cgroup).cloned()
    }

    /// The pods there are.
    pub fn pods(&self) -> Vec<Arc<PodEntry>> {
        self.pods.load().values().cloned().collect()
    }

    /// The pod that connected, and the chain behind it.
    ///
    /// The socket may have been made by a process of another pod, or of none, and passed on: then its maker is a hop too, so
    /// that the answer can only become stricter.
    pub fn chain(&self, origin: &Origin) -> Result<(Arc<PodEntry>, Chain), Unattributed> {
        let pods = self.pods.load();
        let pod = pods.get(&origin.pod_cgroup).ok_or(Unattributed::UnknownPod)?;
        if pod.netns.cookie() != origin.netns {
            return Err(Unattributed::OtherNamespace);
        }
        let process = ProcessInfo {
            id: origin.process,
            uid: origin.uid,
            gid: origin.gid,
            comm: origin.comm.clone(),
            executable: origin.executable.clone(),
            cgroup: origin.cgroup,
            container: pod.container_of(origin.cgroup),
            ancestry: origin.ancestry.clone(),
        };
        let caller = Hop {
            kind: HopKind::Pod {
                pod: Arc::clone(&pod.info),
                process: Some(process),
            },
            evidence: Evidence::Observed,
        };
        let mut chain = Chain::of_caller(caller);
        if let Some(creator) = &origin.creator {
            let hop = match pods.get(&creator.pod_cgroup) {
                Some(other) if other.cgroup == pod.cgroup => None,
                Some(other) => Some(Hop {
                    kind: HopKind::Pod {
                        pod: Arc::clone(&other.info),
                        process: None,
                    },
                    evidence: Evidence::Observed,
                }),
                None => Some(Hop {
                    kind: HopKind::Unknown {
                        why: "the socket was made outside all pods and passed on".to_owned(),
                    },
                    evidence: Evidence::Unobserved,
                }),
            };
            if let Some(hop) = hop {
                chain = chain.with_origin(hop);
            }
        }
        Ok((Arc::clone(pod), chain))
    }
}
