//! The DaemonSet that an agent is a pod of: whether it ends for good, or only until the next one is started in its place.
//!
//! What an agent put into the kernel has to stay while the agent is replaced, or pods would go direct meanwhile; and it has to go with the last
//! agent, or pods would be refused for ever. Kubelet ends a container in both cases by the same signal.

use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use futures_util::StreamExt as _;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};

use super::{ClusterAccess, Following};

/// What a DaemonSet is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DaemonSetName {
    namespace: String,
    name: String,
}

impl FromStr for DaemonSetName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                })
            }
            _ => Err("give NAMESPACE/NAME".to_owned()),
        }
    }
}

/// Follows whether it is being deleted. Dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct OwnDaemonSet {
    goes: Arc<AtomicBool>,
    _following: Following,
}

impl OwnDaemonSet {
    /// Starts to follow it.
    ///
    /// # Errors
    /// When the thread can't be started. That the API server is away is none: it is asked again.
    pub(crate) fn start(access: ClusterAccess, name: DaemonSetName) -> Result<Self> {
        let goes = Arc::<AtomicBool>::default();
        let told = Arc::clone(&goes);
        let following = Following::start("daemon-set", move || async move {
            follow(&access, &name, &told).await;
        })?;
        Ok(Self {
            goes,
            _following: following,
        })
    }

    /// Whether the API server has said that it is deleted or being deleted. Uncertainty says no: then what holds pods stays in the kernel.
    pub(crate) fn goes(&self) -> bool {
        self.goes.load(Ordering::Acquire)
    }
}

async fn follow(access: &ClusterAccess, name: &DaemonSetName, goes: &AtomicBool) {
    let client = access.patient_client("the agents' DaemonSet").await;
    let own = watcher::Config::default().fields(&format!("metadata.name={}", name.name));
    let api = Api::<DaemonSet>::namespaced(client, &name.namespace);
    let mut watched = pin!(watcher(api, own).default_backoff());
    let (mut listed, mut is_away) = (None, false);
    while let Some(event) = watched.next().await {
        let now = match event {
            Ok(Event::Init) => {
                listed = None;
                continue;
            }
            Ok(Event::InitApply(found)) => {
                listed = Some(found);
                continue;
            }
            Ok(Event::InitDone) => is_going(listed.take().as_ref()),
            Ok(Event::Apply(found)) => is_going(Some(&found)),
            Ok(Event::Delete(_)) => true,
            Err(error) => {
                if !std::mem::replace(&mut is_away, true) {
                    let error = super::watch_told(&error);
                    tracing::error!(
                        error,
                        "the agents' DaemonSet can't be followed now; if it is deleted meanwhile, what this agent put into the kernel stays there"
                    );
                }
                continue;
            }
        };
        is_away = false;
        if now != goes.swap(now, Ordering::AcqRel) && now {
            tracing::info!(
                "the agents' DaemonSet is deleted: what this agent put into the kernel goes with it"
            );
        }
    }
}

fn is_going(found: Option<&DaemonSet>) -> bool {
    found.is_none_or(|found| found.metadata.deletion_timestamp.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_namespace() {
        let name: DaemonSetName = "bailiff/bailiff-agent".parse().unwrap();
        assert_eq!(
            (name.namespace.as_str(), name.name.as_str()),
            ("bailiff", "bailiff-agent")
        );
        for wrong in ["", "bailiff", "/a", "a/", "a/b/c"] {
            wrong.parse::<DaemonSetName>().unwrap_err();
        }
    }
}
