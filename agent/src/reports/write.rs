//! The thread that writes this node's report: when something has changed, seldom, and not all nodes at once.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use bailiff_model::Mode;
use bailiff_policy::report::{MAX_REASON, NodeReport, PoliciesFrom, cut};
use jiff::{Timestamp, Unit};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use tokio::sync::watch;

use super::findings::{Findings, Found, Revisions};
use crate::world::cluster::{ClusterAccess, ClusterError, Following, Own, own};

/// Whose fields they are in `metadata.managedFields`.
const MANAGER: &str = "bailiff-agent";

/// How often it is looked whether something is to be written.
const LOOK: Duration = Duration::from_secs(1);

/// The least time between two writes, where what has changed is what became of objects, certificates or the data path; and as much again by chance,
/// so that a changed policy isn't told by all nodes at once.
const STATE: Duration = Duration::from_secs(5);

/// The same where only pods have come and gone.
const PODS: Duration = Duration::from_secs(15);

/// Where nothing changes, and up to a fifth more by chance.
const STILL_THERE: Duration = Duration::from_secs(300);

/// How long until what couldn't be written is tried again: this, and each time twice as long, up to [`STILL_THERE`].
const AGAIN: Duration = Duration::from_secs(5);

/// What doesn't change while the agent runs.
#[derive(Debug, Clone)]
pub(crate) struct About {
    /// The node, as the operator names it.
    pub(crate) node: String,
    /// What policies do.
    pub(crate) mode: Mode,
    /// Where they come from.
    pub(crate) from: PoliciesFrom,
}

/// Writes the node's report. Dropping it ends the thread without a last word.
#[derive(Debug)]
pub(crate) struct Reporter {
    end: watch::Sender<Option<String>>,
    ended: Receiver<()>,
    _following: Following,
}

impl Reporter {
    /// Begins. That the API server is away, or says no, is told in the log, and tried again.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub(crate) fn start(access: ClusterAccess, about: About, findings: Arc<Findings>) -> io::Result<Self> {
        let (end, told) = watch::channel(None);
        let (has_ended, ended) = sync_channel(1);
        let following = Following::start("report", move || keep(access, about, findings, told, has_ended))?;
        Ok(Self {
            end,
            ended,
            _following: following,
        })
    }

    /// Writes once more, that nothing is diverted any more, and why; or gives up after so long. Blocks.
    pub(crate) fn finish(self, why: &str, at_most: Duration) {
        let _ = self.end.send(Some(why.to_owned()));
        let _ = self.ended.recv_timeout(at_most);
    }
}

async fn keep(
    access: ClusterAccess,
    about: About,
    findings: Arc<Findings>,
    mut end: watch::Receiver<Option<String>>,
    ended: SyncSender<()>,
) {
    let client = access.patient_client("the node's report").await;
    let started = now();
    let mut own_node = None;
    let mut pace = Pace::new(Instant::now());
    let mut is_failing = false;
    loop {
        let why = end.borrow().clone();
        let revisions = findings.revisions();
        if why.is_some() || pace.is_due(Instant::now(), revisions) {
            let mut found = findings.found();
            if let Some(why) = &why {
                found.data_path.ready = false;
                found.data_path.reason = cut(why, MAX_REASON);
            }
            let written = write(&client, &mut own_node, &about, &found, &started).await;
            match &written {
                Ok(()) => {
                    if std::mem::take(&mut is_failing) {
                        tracing::info!("the node's report is written again");
                    }
                }
                Err(error) if !std::mem::replace(&mut is_failing, true) => {
                    tracing::error!(
                        %error,
                        "the node's report can't be written, so that the status of Targets and Policies leaves this node out; enforcement goes on"
                    );
                }
                Err(_) => {}
            }
            pace.tried(Instant::now(), found.revisions, written.is_ok(), chance());
        }
        if why.is_some() {
            let _ = ended.send(());
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            changed = end.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

async fn write(
    client: &Client,
    known: &mut Option<Own>,
    about: &About,
    found: &Found,
    started: &str,
) -> Result<(), ClusterError> {
    let own = match known {
        Some(own) => own,
        None => known.insert(own(client).await?),
    };
    if own.node != about.node {
        return Err(ClusterError::OtherNode {
            bound: own.node.clone(),
            told: about.node.clone(),
        });
    }
    let mut object = DynamicObject::new(&own.node, &super::reports());
    // It goes with its node.
    if let Some(uid) = &own.node_uid {
        object.owner_references_mut().push(
            serde_json::from_value(json!({
                "apiVersion": "v1", "kind": "Node", "name": own.node, "uid": uid,
            }))
            .map_err(kube::Error::SerdeError)?,
        );
    }
    object.data = json!({ "status": report(about, found, started) });
    // All of it is this agent's, whatever another may have put there.
    Api::<DynamicObject>::all_with(client.clone(), &super::reports())
        .patch(
            &own.node,
            &PatchParams::apply(MANAGER).force(),
            &Patch::Apply(&object),
        )
        .await?;
    Ok(())
}

fn report(about: &About, found: &Found, started: &str) -> NodeReport {
    let (objects, targets, policies) = found.objects();
    NodeReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        mode: about.mode,
        started: started.to_owned(),
        written: now(),
        data_path: found.data_path.clone(),
        pods: found.counts,
        not_covered: found.not_covered.clone(),
        policies_from: about.from,
        objects,
        targets,
        policies,
        certificates: found.certificates.clone(),
    }
}

/// Whole seconds, as Kubernetes tells times.
fn now() -> String {
    let now = Timestamp::now();
    now.round(Unit::Second).unwrap_or(now).to_string()
}

/// Of 256, so many.
fn chance() -> u8 {
    let mut byte = [0];
    crate::fill_random(&mut byte);
    let [byte] = byte;
    byte
}

/// When it is written.
#[derive(Debug)]
struct Pace {
    /// What the last write said.
    written: Revisions,
    at: Instant,
    /// What was left to chance after it.
    chance: u8,
    /// How long to wait after failures.
    failed: Option<Duration>,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self {
            written: Revisions::default(),
            at: now,
            chance: 0,
            failed: None,
        }
    }

    fn is_due(&self, now: Instant, revisions: Revisions) -> bool {
        // Before all was looked at once there is nothing to say.
        if revisions.objects == 0 || revisions.state == 0 || revisions.pods == 0 {
            return false;
        }
        let passed = now.saturating_duration_since(self.at);
        if let Some(wait) = self.failed {
            return passed >= self.and_chance(wait, wait);
        }
        if self.written == Revisions::default() {
            return true;
        }
        let is_other = revisions.objects != self.written.objects || revisions.state != self.written.state;
        (is_other && passed >= self.and_chance(STATE, STATE))
            || (revisions.pods != self.written.pods && passed >= self.and_chance(PODS, PODS))
            || passed >= self.and_chance(STILL_THERE, STILL_THERE / 5)
    }

    fn and_chance(&self, least: Duration, more: Duration) -> Duration {
        least + more * u32::from(self.chance) / 256
    }

    fn tried(&mut self, now: Instant, revisions: Revisions, is_written: bool, chance: u8) {
        (self.at, self.chance) = (now, chance);
        self.failed = if is_written {
            self.written = revisions;
            None
        } else {
            Some(self.failed.map_or(AGAIN, |wait| (wait * 2).min(STILL_THERE)))
        };
    }
}

#[cfg(test)]
mod tests;
