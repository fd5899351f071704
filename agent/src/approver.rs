//! The approver: which of the agents' requests for certificates are approved.
//!
//! Whoever may approve for a signer can have certificates made for kubelets and the API server, so agents only ask, and this, under an
//! account of its own, approves. [`judge`] says of each request what becomes of it, from that request alone.
//!
//! Beside that it is the one process of the cluster that hears all nodes, and so the one that writes the [`status`] of Targets and Policies.

mod judge;
mod metrics;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Service;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::admin::{Admin, Pages};
use crate::world::cluster::ClusterAccess;
use judge::{Judgement, Rules, judge};
use metrics::ApproverMetrics;

/// How long until what couldn't be decided or written is looked at again.
const AGAIN: Duration = Duration::from_secs(5);

/// So many of those are kept; others are looked at when the API server lists all requests anew.
const KEPT: usize = 1000;

/// How an approver is set up.
#[derive(Debug, Clone)]
pub struct ApproverOptions {
    /// How it reaches the cluster.
    pub cluster: ClusterAccess,
    /// The agents' user, `system:serviceaccount:NAMESPACE:NAME`.
    pub requester: String,
    /// The signer.
    pub signer: String,
    /// Names and addresses of the API server, beside the addresses of its Service.
    pub names: BTreeSet<String>,
    /// For how long certificates may be asked for, in seconds.
    pub max_seconds: i32,
    /// Where metrics and health are served.
    pub admin: Option<SocketAddr>,
}

/// The approver.
pub struct Approver {
    options: ApproverOptions,
    client: Client,
    requests: Api<CertificateSigningRequest>,
    state: Arc<State>,
}

/// What the admin server tells of.
struct State {
    metrics: ApproverMetrics,
    /// Whether all requests were seen once.
    listed: AtomicBool,
    /// Whether all that statuses follow from was seen once.
    statuses_known: AtomicBool,
}

impl Pages for State {
    fn metrics(&self) -> Result<Vec<u8>, prometheus::Error> {
        self.metrics.text()
    }

    fn readiness(&self) -> (bool, String) {
        let is_ready = self.listed.load(Ordering::Acquire);
        let mut text = if is_ready {
            "[+]requests ok\n".to_owned()
        } else {
            let why = "the API server hasn't listed them yet; the log says why";
            format!("[-]requests failed: {why}\n")
        };
        // Agents have their certificates without it.
        text.push_str(if self.statuses_known.load(Ordering::Acquire) {
            "[+]statuses ok\n"
        } else {
            "[!]statuses: NodeReports, Targets and Policies can't be listed, so that their status isn't written; the log says why\n"
        });
        (is_ready, text)
    }
}

impl Approver {
    /// Approves until the process is asked to end (SIGTERM, SIGINT). What is being written then is written or not, and the next one
    /// goes on from there.
    ///
    /// # Errors
    /// When it can't begin: the credential or the admin address can't be used.
    pub fn run(options: ApproverOptions) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let state = Arc::new(State {
            metrics: ApproverMetrics::new()?,
            listed: AtomicBool::new(false),
            statuses_known: AtomicBool::new(false),
        });
        let _admin = options
            .admin
            .map(|address| Admin::serving(&address.into(), Arc::<State>::clone(&state)))
            .transpose()?;
        runtime.block_on(async {
            let client = options.cluster.client().await?;
            let this = Self {
                requests: Api::all(client.clone()),
                client,
                options,
                state,
            };
            // The first process of a container gets no signal that it doesn't ask for.
            let mut ends = signal(SignalKind::terminate())?;
            let statuses = status::keep(this.client.clone(), Arc::clone(&this.state));
            tokio::select! {
                outcome = this.follow() => outcome,
                () = statuses => Err(anyhow::anyhow!("the API server's lists of reports have ended")),
                _ = ends.recv() => Ok(()),
                asked = tokio::signal::ctrl_c() => Ok(asked?),
            }
        })
    }

    async fn follow(&self) -> Result<()> {
        // All signers': that an agent asked another one is told, too.
        let watched = watcher(self.requests.clone(), watcher::Config::default()).default_backoff();
        let mut watched = std::pin::pin!(watched);
        let mut undone: BTreeMap<String, CertificateSigningRequest> = BTreeMap::new();
        let mut again = tokio::time::interval(AGAIN);
        loop {
            let seen = tokio::select! {
                event = watched.next() => match event.context("the API server's list of requests has ended")? {
                    Ok(Event::Apply(request) | Event::InitApply(request)) => vec![request],
                    Ok(Event::InitDone) => {
                        self.state.listed.store(true, Ordering::Release);
                        Vec::new()
                    }
                    Ok(Event::Delete(gone)) => {
                        undone.remove(&gone.metadata.name.unwrap_or_default());
                        Vec::new()
                    }
                    Ok(Event::Init) => Vec::new(),
                    Err(error) => {
                        self.state.metrics.error();
                        tracing::warn!(%error, "requests can't be followed; they are asked for again");
                        Vec::new()
                    }
                },
                _ = again.tick() => std::mem::take(&mut undone).into_values().collect(),
            };
            for request in seen {
                let name = request.metadata.name.clone().unwrap_or_default();
                match self.decide(&name, &request).await {
                    Ok(()) => {}
                    // Somebody else decided it, or it is gone: then there is news of it by itself.
                    Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                    Err(error) => {
                        self.state.metrics.error();
                        tracing::warn!(request = name, %error, "a request can't be decided; it is looked at again");
                        if undone.len() < KEPT {
                            undone.insert(name, request);
                        }
                    }
                }
            }
        }
    }

    async fn decide(&self, name: &str, request: &CertificateSigningRequest) -> Result<(), kube::Error> {
        let mut rules = Rules {
            requester: &self.options.requester,
            signer: &self.options.signer,
            names: self.options.names.clone(),
            max_seconds: self.options.max_seconds,
        };
        // Most are somebody else's: for those nothing is asked.
        if judge::may_be_ours(request, &rules) {
            rules.names.extend(self.service_addresses().await?);
        }
        let user = request.spec.username.as_deref().unwrap_or_default();
        let signer = request.spec.signer_name.as_str();
        let (kind, reason, message) = match judge(request, &rules) {
            Judgement::Leave { reason, why } => {
                self.state.metrics.decided("left", reason);
                match reason {
                    "Decided" => {}
                    // Those of kubelets are nobody's concern here.
                    "Requester" => {
                        tracing::debug!(request = name, user, signer, reason, "left alone: {why}");
                    }
                    _ => tracing::warn!(request = name, user, signer, reason, "left alone: {why}"),
                }
                return Ok(());
            }
            Judgement::Approve { node } => (
                "Approved",
                "BailiffAgent",
                format!("bailiff approver: the agent of node {node} asks for names of the API server"),
            ),
            Judgement::Deny { reason, why } => ("Denied", reason, format!("bailiff approver: {why}")),
        };
        let patch = json!({
            // Of this very object, as it was read: another may have its name by now.
            "metadata": {"uid": request.metadata.uid, "resourceVersion": request.metadata.resource_version},
            "status": {"conditions": [{"type": kind, "status": "True", "reason": reason, "message": message}]},
        });
        self.requests
            .patch_approval(name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        if kind == "Approved" {
            self.state.metrics.decided("approved", reason);
            tracing::info!(request = name, user, "approved: {message}");
        } else {
            self.state.metrics.decided("denied", reason);
            tracing::warn!(request = name, user, reason, "denied: {message}");
        }
        Ok(())
    }

    /// The addresses of the API server's Service. Asked each time: there is one request an agent a day.
    async fn service_addresses(&self) -> Result<Vec<String>, kube::Error> {
        let service = Api::<Service>::namespaced(self.client.clone(), "default")
            .get("kubernetes")
            .await?;
        let addresses = service.spec.and_then(|spec| spec.cluster_ips).unwrap_or_default();
        Ok(addresses
            .iter()
            .filter_map(|address| Some(address.parse::<IpAddr>().ok()?.to_string()))
            .collect())
    }
}
