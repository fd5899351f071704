//! The thread that asks: one task a target.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use rcgen::{KeyPair, PublicKeyData as _};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::request::{Progress, USAGES, pem, prefix, progress};
use super::{note, trust};
use crate::metrics::Metrics;
use crate::proxy::tls::{Condition, IssueError, Issued};
use crate::world::cluster::{ClusterAccess, ClusterError, own_node};

/// How often is looked whether it was signed, at first and in the end. An object is read each time.
const LOOKED: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));

/// How long until an API server that couldn't be asked is asked again, at first and in the end.
const ASKED_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How long until another request follows one that came to nothing, at first and in the end. Each leaves an object for an hour.
const REQUESTED_AGAIN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(15 * 60));

/// How long a task sleeps at most: clocks are set, and machines sleep, too.
const NAP: Duration = Duration::from_secs(30);

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
enum AskError {
    /// The API server can't be asked, or doesn't let the agent ask.
    #[error("the cluster can't be asked: {0}")]
    Cluster(#[from] ClusterError),
    /// No request can be written. Ourselves are at fault.
    #[error("no request can be written: {0}")]
    Own(#[from] rcgen::Error),
    /// Somebody said no.
    #[error("CertificateSigningRequest {request} was denied{because}; another follows by itself")]
    Denied {
        /// The request's name.
        request: String,
        /// In the words of who did.
        because: String,
    },
    /// The signer can't.
    #[error(
        "the signer {signer} failed at CertificateSigningRequest {request}{because}; another follows by itself"
    )]
    Failed {
        /// Who.
        signer: String,
        /// The request's name.
        request: String,
        /// In its own words.
        because: String,
    },
    /// It was deleted before it was signed.
    #[error(
        "CertificateSigningRequest {request} was deleted before it was signed; another follows by itself"
    )]
    Gone {
        /// The request's name.
        request: String,
    },
    /// What was signed isn't shown.
    #[error("CertificateSigningRequest {request} was signed, but {error}")]
    Unfit {
        /// The request's name.
        request: String,
        /// Why not.
        error: IssueError,
    },
}

impl AskError {
    /// A word of [`Metrics::certificate_state`].
    fn state(&self) -> &'static str {
        match self {
            Self::Cluster(ClusterError::NoNode { .. }) => "no_node",
            Self::Cluster(_) | Self::Own(_) => "unreachable",
            Self::Denied { .. } => "denied",
            Self::Failed { .. } => "failed",
            Self::Gone { .. } => "deleted",
            Self::Unfit { error, .. } => match error {
                IssueError::OtherAuthority(_) | IssueError::NoAuthority(_) => "untrusted",
                IssueError::Time { .. } => "clock",
                IssueError::Other(_) => "other",
            },
        }
    }

    /// Whether an object was left behind.
    fn left_an_object(&self) -> bool {
        !matches!(self, Self::Cluster(_) | Self::Own(_))
    }
}

/// Follows which certificates are wanted.
pub(super) async fn keep(
    access: ClusterAccess,
    mut wanted: watch::Receiver<Vec<Arc<Issued>>>,
    metrics: Arc<Metrics>,
) {
    let mut tasks: Vec<(Arc<Issued>, [Task; 2])> = Vec::new();
    loop {
        let now: Vec<_> = wanted.borrow_and_update().clone();
        tasks.retain(|(issued, _)| now.iter().any(|other| Arc::ptr_eq(issued, other)));
        for issued in now {
            if !tasks.iter().any(|(other, _)| Arc::ptr_eq(&issued, other)) {
                let supplying = supply(access.clone(), Arc::clone(&issued), Arc::clone(&metrics));
                let watching = trust::watch(access.clone(), Arc::clone(&issued), Arc::clone(&metrics));
                let both = [Task(tokio::spawn(supplying)), Task(tokio::spawn(watching))];
                tasks.push((issued, both));
            }
        }
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

/// Ends with its holder.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Keeps one target supplied.
async fn supply(access: ClusterAccess, issued: Arc<Issued>, metrics: Arc<Metrics>) {
    let asking = Asking {
        access: &access,
        issued: &issued,
        metrics: &metrics,
    };
    let (mut asked_again, mut requested_again) = (ASKED_AGAIN.0, REQUESTED_AGAIN.0);
    loop {
        let until = match asking.ask().await {
            Ok(ends) => {
                (asked_again, requested_again) = (ASKED_AGAIN.0, REQUESTED_AGAIN.0);
                asking.becomes("issued", String::new());
                renewal(SystemTime::now(), ends)
            }
            Err(error) => {
                asking.becomes(error.state(), error.to_string());
                let (wait, most) = if error.left_an_object() {
                    (&mut requested_again, REQUESTED_AGAIN.1)
                } else {
                    (&mut asked_again, ASKED_AGAIN.1)
                };
                let again = SystemTime::now() + jittered(*wait);
                *wait = (*wait * 2).min(most);
                again
            }
        };
        // Not in one: a clock that is set, or a machine that slept, would make it too long.
        while let Ok(left) = until.duration_since(SystemTime::now())
            && !left.is_zero()
        {
            sleep(left.min(NAP)).await;
        }
    }
}

/// When the next one is asked for: when seven to eight tenths of what is left now have passed, so that nodes that began together
/// don't ask together, and what fails then can be mended. Never at once: a certificate that has all but ended is no reason to ask
/// without a pause.
fn renewal(now: SystemTime, ends: i64) -> SystemTime {
    let ends = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(ends).unwrap_or_default());
    let left = ends.duration_since(now).unwrap_or_default();
    now + (left * 7 / 10 + left * (random() % 1000) / 10_000).max(ASKED_AGAIN.0)
}

/// From three quarters of it to five.
fn jittered(time: Duration) -> Duration {
    time * 3 / 4 + time * (random() % 1000) / 2000
}

/// Good enough to spread work.
fn random() -> u32 {
    u32::try_from(RandomState::new().build_hasher().finish() & 0xffff_ffff).unwrap_or_default()
}

/// One target's certificate being asked for.
struct Asking<'a> {
    access: &'a ClusterAccess,
    issued: &'a Issued,
    metrics: &'a Metrics,
}

impl Asking<'_> {
    /// Says how it is doing, in the log where that is news.
    fn becomes(&self, state: &'static str, told: String) {
        let target = self.issued.target.as_str();
        let news = self.issued.becomes(Condition {
            state,
            told: told.clone(),
        });
        note(self.issued, self.metrics);
        match (news, state) {
            (false, _) => {}
            (true, "issued") => {
                let ends = self.issued.ends().unwrap_or_default();
                tracing::info!(
                    target,
                    ends,
                    "the cluster signed the certificate that pods are shown"
                );
            }
            (true, _) => tracing::warn!(target, state, "the certificate that pods are shown: {told}"),
        }
    }

    /// Asks for one, and waits until it is there; returns when it ends.
    async fn ask(&self) -> Result<i64, AskError> {
        let request = &self.issued.request;
        let client = self.access.client().await?;
        let node = own_node(&client).await?;
        // Never written down: an agent that starts again asks again.
        let key = KeyPair::generate()?;
        let objects: Api<CertificateSigningRequest> = Api::all(client);
        let object = CertificateSigningRequest {
            metadata: ObjectMeta {
                generate_name: Some(prefix(&node, self.issued.target.as_str())),
                ..ObjectMeta::default()
            },
            spec: CertificateSigningRequestSpec {
                request: ByteString(pem(&node, &request.names, &key)?.into_bytes()),
                signer_name: request.signer.clone(),
                expiration_seconds: i32::try_from(request.expiration_seconds).ok(),
                usages: Some(USAGES.map(str::to_owned).to_vec()),
                ..CertificateSigningRequestSpec::default()
            },
            status: None,
        };
        let made = objects
            .create(&PostParams::default(), &object)
            .await
            .map_err(ClusterError::from)?;
        let name = made.metadata.name.unwrap_or_default();
        let signed = self.wait(&objects, &name).await?;
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        self.issued
            .take_up(&signed, &key.subject_public_key_info(), der)
            .map_err(|error| AskError::Unfit { request: name, error })
    }

    /// Looks at a request until it is signed. As long as it is there no other is made.
    async fn wait(&self, objects: &Api<CertificateSigningRequest>, name: &str) -> Result<Vec<u8>, AskError> {
        let (signer, request) = (&self.issued.request.signer, || name.to_owned());
        let mut pause = LOOKED.0;
        loop {
            match objects.get_opt(name).await {
                Ok(None) => return Err(AskError::Gone { request: request() }),
                Ok(Some(object)) => match progress(object.status.unwrap_or_default()) {
                    Progress::Signed(certificate) => return Ok(certificate),
                    Progress::Denied(because) => {
                        return Err(AskError::Denied {
                            request: request(),
                            because,
                        });
                    }
                    Progress::Failed(because) => {
                        return Err(AskError::Failed {
                            signer: signer.clone(),
                            request: request(),
                            because,
                        });
                    }
                    Progress::Approved => self.becomes(
                        "unsigned",
                        format!(
                            "CertificateSigningRequest {name} is approved, but the signer {signer} hasn't signed it: does the cluster have that signer?"
                        ),
                    ),
                    Progress::Open => self.becomes(
                        "unapproved",
                        format!(
                            "CertificateSigningRequest {name} is neither approved nor denied: does `bailiff approver` run?"
                        ),
                    ),
                },
                Err(error) => {
                    let error = AskError::from(ClusterError::from(error));
                    self.becomes(error.state(), error.to_string());
                }
            }
            sleep(jittered(pause)).await;
            pause = (pause * 3 / 2).min(LOOKED.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_one_is_asked_for_before_the_end_and_never_at_once() {
        let now = SystemTime::now();
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let ends = i64::try_from(since.as_secs()).unwrap_or_default() + 1001;
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let at = renewal(now, ends).duration_since(now).unwrap_or_default();
            assert!(
                (Duration::from_secs(700)..Duration::from_secs(801)).contains(&at),
                "{at:?}"
            );
            seen.insert(at);
        }
        assert!(seen.len() > 10, "nodes that began together would ask together");
        for ended in [0, -5, ends - 1001, ends - 2000] {
            assert!(renewal(now, ended) >= now + ASKED_AGAIN.0);
        }
    }

    #[test]
    fn pauses_are_spread_and_bounded() {
        for _ in 0..100 {
            let pause = jittered(Duration::from_secs(100));
            assert!(
                (Duration::from_secs(75)..Duration::from_secs(125)).contains(&pause),
                "{pause:?}"
            );
        }
    }
}
