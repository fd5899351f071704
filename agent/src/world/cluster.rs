//! The cluster: how the agent itself speaks with its API server, and as whom.

pub(crate) mod daemon_set;
pub(crate) mod pods;
pub(crate) mod policies;
pub(crate) mod services;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

/// What a bound token's user has: the node that its pod runs on.
/// Source: `k8s.io/apiserver/pkg/authentication/serviceaccount`, `NodeNameKey`.
pub(crate) const NODE: &str = "authentication.kubernetes.io/node-name";

/// The same node's uid. Source: the same, `NodeUIDKey`.
const NODE_UID: &str = "authentication.kubernetes.io/node-uid";

/// Where the credential for the cluster is.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ClusterAccess {
    /// How to reach the cluster's API server; by default as the pod that this runs in, by its service account
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

/// Why the API server can't be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// The kubeconfig can't be used. The operator is at fault.
    #[error("{}: {error}", file.display())]
    Kubeconfig {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        error: kube::config::KubeconfigError,
    },
    /// There is no service account here. The operator is at fault.
    #[error("there is no service account here ({0}); outside of a pod, give --kubeconfig")]
    NoServiceAccount(#[from] kube::config::InClusterError),
    /// The API server can't be asked, or says no.
    #[error("{}", told(.0))]
    Api(#[from] kube::Error),
    /// The credential belongs to no node.
    #[error(
        "the agent's credential ({user}) names no node: it has to be a token that is bound to a pod, as kubelet mounts it, or to a node"
    )]
    NoNode {
        /// Whose it is.
        user: String,
    },
    /// The credential belongs to another node than the operator says.
    #[error(
        "the agent's credential is bound to node {bound}, and --node says {told}: give the node's own name"
    )]
    OtherNode {
        /// The node that it is bound to.
        bound: String,
        /// What the operator says.
        told: String,
    },
}

impl ClusterAccess {
    /// A client. Makes no connection yet; tokens in files are read again as they are renewed.
    ///
    /// Blocks on the disk.
    pub(crate) async fn client(&self) -> Result<Client, ClusterError> {
        let config = match &self.kubeconfig {
            None => Config::incluster()?,
            Some(file) => {
                let wrong = |error| ClusterError::Kubeconfig {
                    file: file.clone(),
                    error,
                };
                let read = Kubeconfig::read_from(file).map_err(wrong)?;
                Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                    .await
                    .map_err(wrong)?
            }
        };
        Ok(Client::try_from(config)?)
    }
}

impl ClusterAccess {
    /// A client, as soon as there is a credential for one: what is asked for meanwhile is named in the log.
    pub(crate) async fn patient_client(&self, what: &str) -> Client {
        let mut wait = Duration::from_secs(1);
        loop {
            match self.client().await {
                Ok(client) => return client,
                Err(error) => tracing::error!(%error, "{what} can't be followed; it is tried again"),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(30));
        }
    }
}

/// A thread that follows or asks something of the cluster. Dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct Following {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Following {
    /// Starts it under a name of at most 15 bytes.
    pub(crate) fn start<F: Future>(
        name: &str,
        follow: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            runtime.block_on(stopped.run_until_cancelled(follow()));
        })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Puts a file in place of what is there: a reader, and a crash, finds the one or the other whole.
pub(crate) fn write_whole(file: &Path, bytes: &[u8]) -> io::Result<()> {
    // Of a name that nobody reads: policies are files that end in `.yaml`.
    let new = file.with_extension("new");
    let mut out = File::create(&new)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    fs::rename(new, file)
}

/// What such a file has, where it is JSON; nothing where there is no file. One of more bytes than `most` is none of ours.
pub(crate) fn read_kept<T: DeserializeOwned>(file: &Path, most: u64) -> io::Result<Option<T>> {
    let size = match fs::metadata(file) {
        Ok(about) => about.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if size > most {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{size} bytes, more than {most}"),
        ));
    }
    serde_json::from_slice(&fs::read(file)?)
        .map(Some)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// What a credential is bound to, as the API server attests it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Own {
    /// The node.
    pub(crate) node: String,
    /// Which of that name it is, where the API server says so.
    pub(crate) node_uid: Option<String>,
}

/// The node that a client's credential is bound to.
pub(crate) async fn own(client: &Client) -> Result<Own, ClusterError> {
    let review = Api::<SelfSubjectReview>::all(client.clone())
        .create(&PostParams::default(), &SelfSubjectReview::default())
        .await?;
    let user = review
        .status
        .and_then(|status| status.user_info)
        .unwrap_or_default();
    match only(user.extra.as_ref(), NODE) {
        Some(node) => Ok(Own {
            node: node.to_owned(),
            node_uid: only(user.extra.as_ref(), NODE_UID).map(str::to_owned),
        }),
        None => Err(ClusterError::NoNode {
            user: user.username.unwrap_or_default(),
        }),
    }
}

/// The name of that node.
pub(crate) async fn own_node(client: &Client) -> Result<String, ClusterError> {
    Ok(own(client).await?.node)
}

/// The one node that a user's attributes name.
pub(crate) fn node_of(extra: Option<&BTreeMap<String, Vec<String>>>) -> Option<&str> {
    only(extra, NODE)
}

fn only<'a>(extra: Option<&'a BTreeMap<String, Vec<String>>>, key: &str) -> Option<&'a str> {
    match extra?.get(key)?.as_slice() {
        [one] if !one.is_empty() => Some(one),
        // Uncertainty denies: two are none.
        _ => None,
    }
}

/// The same of a watch's error.
pub(crate) fn watch_told(error: &kube::runtime::watcher::Error) -> String {
    use kube::runtime::watcher::Error;
    match error {
        Error::InitialListFailed(error) | Error::WatchStartFailed(error) | Error::WatchFailed(error) => {
            told(error)
        }
        Error::WatchError(status) => format!("the API server says {}: {}", status.code, status.message),
        other => other.to_string(),
    }
}

/// An error with what lies below it: kube's own words leave out why a connection failed.
pub(crate) fn told(error: &kube::Error) -> String {
    let mut text = match error {
        kube::Error::Api(status) => format!("the API server says {}: {}", status.code, status.message),
        other => other.to_string(),
    };
    let mut below = std::error::Error::source(error);
    while let Some(cause) = below {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        below = cause.source();
    }
    text
}
