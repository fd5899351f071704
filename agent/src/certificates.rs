//! Serving certificates that the cluster signs: asked for, held against what pods trust, renewed.
//!
//! A thread of its own asks; workers only look at what is there. For each target whose definition has `csr` there is one [`Issued`]
//! in the snapshot in force, and one task here that keeps it supplied.

mod keeper;
pub(crate) mod request;
mod trust;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bailiff_policy::report::{CertificateReport, CertificateState, MAX_REASON, cut};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::proxy::tls::{Issued, now};
use crate::proxy::{Expiry, Snapshot};
use crate::world::cluster::{ClusterAccess, Following};

/// The certificates of all targets in force that the cluster signs.
#[derive(Debug)]
pub struct Certificates {
    wanted: watch::Sender<Vec<Arc<Issued>>>,
    metrics: Arc<Metrics>,
    thread: Mutex<Option<Following>>,
}

/// How a target's certificate is doing, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Supply {
    /// It is shown, and will be renewed.
    Good,
    /// It is shown, but the next one can't be had.
    Ending(String),
    /// There is none that clients could verify.
    Missing(String),
    /// Pods trust another CA than the one that it is held against.
    Untrusted(String),
}

impl Certificates {
    /// Starts the thread.
    pub fn start(access: ClusterAccess, metrics: Arc<Metrics>) -> std::io::Result<Arc<Self>> {
        let (wanted, follow) = watch::channel(Vec::new());
        let told = Arc::clone(&metrics);
        let thread = Following::start("certificates", move || keeper::keep(access, follow, told))?;
        Ok(Arc::new(Self {
            wanted,
            metrics,
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// Supplies the targets of what is in force now, and no others.
    pub fn follow(&self, files: &Snapshot) {
        let wanted: Vec<_> = files.issued().map(Arc::clone).collect();
        self.metrics.certificate_states_forgotten();
        for issued in &wanted {
            note(issued, &self.metrics);
        }
        self.wanted.send_if_modified(|held| {
            let same = held.len() == wanted.len()
                && wanted
                    .iter()
                    .all(|issued| held.iter().any(|other| Arc::ptr_eq(issued, other)));
            *held = wanted;
            !same
        });
    }

    /// How each target's is doing, by the target's name.
    #[must_use]
    pub fn supplies(&self) -> Vec<(String, Supply)> {
        self.supplied()
            .into_iter()
            .map(|(target, supply, _)| (target, supply))
            .collect()
    }

    /// The same with when what is shown ends, in seconds since 1970.
    pub(crate) fn supplied(&self) -> Vec<(String, Supply, Option<i64>)> {
        let mut supplies: Vec<_> = self
            .wanted
            .borrow()
            .iter()
            .map(|issued| (issued.target.as_str().to_owned(), supply(issued), issued.ends()))
            .collect();
        supplies.sort_by(|(name, ..), (other, ..)| name.cmp(other));
        supplies
    }

    /// Waits as long as one is missing that may come by itself any moment, or so long. Blocks.
    pub fn wait(&self, at_most: Duration) {
        let until = Instant::now() + at_most;
        let coming = || {
            self.wanted.borrow().iter().any(|issued| {
                matches!(supply(issued), Supply::Missing(_))
                    && matches!(issued.condition().state, "asking" | "unapproved" | "unsigned")
            })
        };
        while coming() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it.
    pub fn stop(&self) {
        drop(self.thread.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// What the node's report says of certificates: those of files, by their ends, and those that the cluster signs.
pub(crate) fn told(files: &[Expiry], supplied: &[(String, Supply, Option<i64>)]) -> Vec<CertificateReport> {
    let time = |at: i64| Timestamp::from_second(at).ok().map(|at| at.to_string());
    let of_files = files.iter().map(|expiry| {
        let has_ended = expiry.at <= now();
        CertificateReport {
            target: expiry.target.as_str().to_owned(),
            role: expiry.role.to_owned(),
            state: if has_ended {
                CertificateState::Missing
            } else {
                CertificateState::Good
            },
            reason: if has_ended {
                "it has ended: put another into its file".to_owned()
            } else {
                String::new()
            },
            not_after: time(expiry.at),
            renewed: false,
        }
    });
    let signed = supplied.iter().map(|(target, supply, ends)| {
        let (state, why) = match supply {
            Supply::Good => (CertificateState::Good, ""),
            // How long is left stands in the time, and would be another text each second.
            Supply::Ending(why) => (
                CertificateState::Ending,
                why.split_once("of the next one: ")
                    .map_or(why.as_str(), |(_, why)| why),
            ),
            Supply::Missing(why) => (
                CertificateState::Missing,
                match why.split_once(" s ago; ") {
                    Some((ago, why)) if ago.starts_with("it ended ") => why,
                    _ => why.as_str(),
                },
            ),
            Supply::Untrusted(why) => (CertificateState::Untrusted, why.as_str()),
        };
        CertificateReport {
            target: target.clone(),
            role: "client".to_owned(),
            state,
            reason: cut(why, MAX_REASON),
            not_after: ends.and_then(time),
            renewed: true,
        }
    });
    of_files.chain(signed).collect()
}

fn supply(issued: &Issued) -> Supply {
    let told = issued.condition().told;
    let trust = issued.trust();
    match issued.ends() {
        None if trust.state == "other" => Supply::Missing(format!("{told}; besides, {}", trust.told)),
        Some(_) if trust.state == "other" => Supply::Untrusted(trust.told),
        None => Supply::Missing(told),
        Some(ends) if ends <= now() => Supply::Missing(format!("it ended {} s ago; {told}", now() - ends)),
        Some(_) if told.is_empty() => Supply::Good,
        Some(ends) => Supply::Ending(format!(
            "it ends in {} s, and of the next one: {told}",
            ends - now()
        )),
    }
}

/// What metrics say of it.
fn note(issued: &Issued, metrics: &Metrics) {
    metrics.certificate_state(&issued.target, issued.condition().state);
    metrics.pods_ca_state(&issued.target, issued.trust().state);
    if let Some(ends) = issued.ends() {
        metrics.certificate_expires(&issued.target, "client", ends);
    }
}
