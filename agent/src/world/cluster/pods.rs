//! The pods of one node, as the API server has them: watched by a thread of its own, and kept on the disk, so that an agent that starts
//! while the API server is away enforces by what it knew last.

mod kept;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use bailiff_model::{Mode, PodInfo, PodUid};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::time::{Instant, sleep_until};

use super::{ClusterAccess, Following};
use crate::world::node::{ListedPod, PodFacts};

/// How long changes are gathered before they are written to the disk.
const GATHERED: Duration = Duration::from_secs(1);

/// Pods by the uid in their cgroup's name.
type Pods = HashMap<String, Arc<ListedPod>>;

/// What becomes of the pods of which namespace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Namespaces {
    /// Their pods go past the agent.
    pub(crate) exempt: Vec<String>,
    /// What holds for the pods of all others.
    pub(crate) mode: Mode,
    /// Namespaces for whose pods the other mode holds.
    pub(crate) except: Vec<String>,
}

impl Namespaces {
    fn mode(&self, namespace: &str) -> Mode {
        let is_other = self.except.iter().any(|except| except == namespace);
        match (self.mode, is_other) {
            (Mode::Enforce, false) | (Mode::Observe, true) => Mode::Enforce,
            (Mode::Observe, false) | (Mode::Enforce, true) => Mode::Observe,
        }
    }
}

/// A node's pods, kept up to date. Dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct ClusterPods {
    shared: Arc<Shared>,
    _following: Following,
}

#[derive(Debug)]
struct Shared {
    node: String,
    namespaces: Namespaces,
    file: PathBuf,
    pods: ArcSwap<Pods>,
    /// Written when they have changed.
    news: EventFd,
    /// Whether the API server has told them all, and can be asked.
    is_current: AtomicBool,
}

impl ClusterPods {
    /// Follows the pods of this node, beginning with those that the file has. Blocks on the disk.
    ///
    /// # Errors
    /// When the file can't be used, or the thread can't be started. That the API server is away is none: it is asked again.
    pub(crate) fn start(
        access: ClusterAccess,
        node: String,
        namespaces: Namespaces,
        file: PathBuf,
    ) -> Result<Self> {
        let kept = kept::read(&file, &node)
            .with_context(|| format!("{}: remove it to go on without it", file.display()))?;
        let kept = kept.into_iter().map(|pod| (pod.uid.clone(), pod)).collect();
        let known = by_key(&kept, &namespaces);
        let shared = Arc::new(Shared {
            node,
            namespaces,
            file,
            pods: ArcSwap::new(Arc::new(known)),
            news: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            is_current: AtomicBool::new(false),
        });
        let follows = Arc::clone(&shared);
        let following = Following::start("cluster", move || async move { follow(&access, &follows).await })?;
        Ok(Self {
            shared,
            _following: following,
        })
    }
}

impl PodFacts for ClusterPods {
    fn refresh(&mut self) {}

    fn pod(&self, uid: &str) -> Option<Arc<ListedPod>> {
        self.shared.pods.load().get(uid).map(Arc::clone)
    }

    fn news(&self) -> Option<&EventFd> {
        Some(&self.shared.news)
    }

    fn is_current(&self) -> bool {
        self.shared.is_current.load(Ordering::Acquire)
    }
}

/// Follows them for ever. What can't be had is asked for again, and told once a failure.
async fn follow(access: &ClusterAccess, shared: &Shared) {
    let client = access.patient_client("the node's pods").await;
    let of_node = watcher::Config::default().fields(&format!("spec.nodeName={}", shared.node));
    let mut watched = pin!(watcher(Api::<Pod>::all(client), of_node).default_backoff());
    // By uid. A list is gathered first and then put in place of what was known.
    let mut pods: BTreeMap<String, kept::Kept> = BTreeMap::new();
    let mut list = BTreeMap::new();
    let mut write_at: Option<Instant> = None;
    let mut is_away = false;
    loop {
        let due = async {
            match write_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            event = watched.next() => event,
            () = due => {
                write_at = None;
                let all: Vec<_> = pods.values().cloned().collect();
                if let Err(error) = kept::write(&shared.file, &shared.node, all) {
                    tracing::error!(file = %shared.file.display(), %error, "the node's pods can't be kept for the next start");
                }
                continue;
            }
        };
        match event {
            None => return,
            Some(Ok(Event::Init)) => {
                list.clear();
                continue;
            }
            Some(Ok(Event::InitApply(pod))) => {
                keep(&mut list, &pod, &shared.node);
                continue;
            }
            Some(Ok(Event::InitDone)) => {
                pods = std::mem::take(&mut list);
                tracing::info!(node = shared.node, pods = pods.len(), "the node's pods are known");
            }
            Some(Ok(Event::Apply(pod))) => keep(&mut pods, &pod, &shared.node),
            Some(Ok(Event::Delete(pod))) => {
                pods.remove(pod.metadata.uid.as_deref().unwrap_or_default());
            }
            Some(Err(error)) => {
                shared.is_current.store(false, Ordering::Release);
                if !std::mem::replace(&mut is_away, true) {
                    let error = super::watch_told(&error);
                    tracing::error!(
                        error,
                        "the node's pods can't be followed now; those that are known stay in force"
                    );
                }
                continue;
            }
        }
        if std::mem::take(&mut is_away) {
            tracing::info!("the node's pods are followed again");
        }
        shared.pods.store(Arc::new(by_key(&pods, &shared.namespaces)));
        shared.is_current.store(true, Ordering::Release);
        // Full: it was told, and hasn't looked yet.
        let _ = shared.news.write(1);
        write_at = write_at.or_else(|| Some(Instant::now() + GATHERED));
    }
}

fn keep(pods: &mut BTreeMap<String, kept::Kept>, pod: &Pod, node: &str) {
    if let Some(kept) = kept::Kept::of(pod, node) {
        pods.insert(kept.uid.clone(), kept);
    }
}

/// By what stands in cgroups' names. What two pods claim is nobody's, and such a pod's connections to targets are refused: nobody is guessed.
fn by_key(pods: &BTreeMap<String, kept::Kept>, namespaces: &Namespaces) -> Pods {
    let (mut all, mut claimed) = (Pods::new(), HashSet::new());
    for pod in pods.values() {
        if all
            .insert(pod.key.clone(), Arc::new(pod.listed(namespaces)))
            .is_some()
        {
            claimed.insert(pod.key.as_str());
        }
    }
    all.retain(|key, _| !claimed.contains(key.as_str()));
    all
}

impl kept::Kept {
    fn listed(&self, namespaces: &Namespaces) -> ListedPod {
        ListedPod {
            info: PodInfo {
                namespace: self.namespace.clone(),
                name: self.name.clone(),
                uid: PodUid::new(self.uid.as_str()),
                service_account: self.service_account.clone(),
                labels: self.labels.clone(),
                mode: namespaces.mode(&self.namespace),
            },
            container: None,
            containers: self.containers.clone(),
            exempt: namespaces.exempt.contains(&self.namespace),
            host_network: self.host_network,
        }
    }
}

#[cfg(test)]
mod tests;
