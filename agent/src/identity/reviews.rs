//! What the API server says of tokens that no configured key verifies.
//!
//! A thread of its own asks; a worker that needs an answer waits for it while it serves others. Answers are kept for seconds, by the
//! token's hash, good and bad ones: who shows tokens without end has the API server asked once for each, and no more than so many at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bailiff_model::{BoundPod, Identity};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::Client;
use kube::api::{Api, PostParams};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::{KEPT, MAX_TOKEN, now};
use crate::metrics::Metrics;
use crate::world::cluster::{ClusterAccess, ClusterError, Following};

/// For how long an answer counts, in seconds: a token that is revoked is told in so many.
const COUNTS: u64 = 10;

/// Questions that wait, at most.
const WAITING: usize = 256;

/// Questions that are asked at once.
const AT_ONCE: usize = 16;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Source: `k8s.io/apiserver/pkg/authentication/serviceaccount`, `PodNameKey` and `PodUIDKey`.
const POD: [&str; 2] = [
    "authentication.kubernetes.io/pod-name",
    "authentication.kubernetes.io/pod-uid",
];

/// Until when the answer counts, and whom the token names.
type Answer = (u64, Option<Arc<Identity>>);

/// What the API server said, and how it is asked.
#[derive(Debug)]
pub(crate) struct Reviews {
    asked: mpsc::Sender<Question>,
    /// By the hash of the token: what is in memory can't be used as one.
    kept: Mutex<HashMap<[u8; 32], Answer>>,
    metrics: Arc<Metrics>,
}

/// The thread that asks.
#[derive(Debug)]
pub(crate) struct ReviewThread(Option<Following>);

/// A token to be asked about. Prints as a placeholder.
struct Question {
    token: String,
    /// None for a token that the API server doesn't know. Dropped where it can't be asked.
    answer: oneshot::Sender<Option<Identity>>,
}

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Question(…)")
    }
}

impl ReviewThread {
    /// Ends it.
    pub(crate) fn stop(&mut self) {
        drop(self.0.take());
    }
}

impl Reviews {
    /// Starts the thread.
    pub(crate) fn start(
        access: ClusterAccess,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<(Arc<Self>, ReviewThread)> {
        let (asked, questions) = mpsc::channel(WAITING);
        let thread = Following::start("reviews", move || serve(access, questions))?;
        let this = Arc::new(Self {
            asked,
            kept: Mutex::default(),
            metrics,
        });
        Ok((this, ReviewThread(Some(thread))))
    }

    /// Whom a token names, and until when that counts, in seconds since 1970. `None` where the API server doesn't know it, or
    /// can't be asked.
    ///
    /// Cancel-safe: an answer that nobody waits for is dropped.
    pub(crate) async fn ask(&self, token: &str) -> Option<(Arc<Identity>, u64)> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some((ends, identity)) = self.kept(&hash) {
            return identity.map(|identity| (identity, ends));
        }
        let (answer, answered) = oneshot::channel();
        let token = token.to_owned();
        if self.asked.try_send(Question { token, answer }).is_err() {
            // Uncertainty denies: it may be anybody's.
            self.metrics.limit("token_reviews");
            return None;
        }
        // An answer that never came isn't kept: the next request asks again.
        let identity = answered.await.ok()?.map(Arc::new);
        let ends = now() + COUNTS;
        if let Ok(mut kept) = self.kept.lock() {
            if kept.len() >= KEPT {
                kept.clear();
            }
            kept.insert(hash, (ends, identity.clone()));
        }
        identity.map(|identity| (identity, ends))
    }

    fn kept(&self, hash: &[u8; 32]) -> Option<Answer> {
        let kept = self.kept.lock().ok()?;
        kept.get(hash).filter(|(ends, _)| now() <= *ends).cloned()
    }
}

async fn serve(access: ClusterAccess, mut questions: mpsc::Receiver<Question>) {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let failing = Arc::new(AtomicBool::new(false));
    let mut client: Option<Client> = None;
    while let Some(Question { token, answer }) = questions.recv().await {
        let known = match &client {
            Some(known) => known.clone(),
            None => match access.client().await {
                Ok(made) => client.insert(made).clone(),
                Err(error) => {
                    fails(&failing, &error);
                    continue;
                }
            },
        };
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let failing = Arc::clone(&failing);
        tokio::spawn(async move {
            match timeout(PATIENCE, review(known, token)).await {
                Ok(Ok(identity)) => {
                    failing.store(false, Ordering::Relaxed);
                    let _ = answer.send(identity);
                }
                Ok(Err(error)) => fails(&failing, &error),
                Err(late) => fails(&failing, &late),
            }
            drop(slot);
        });
    }
}

/// Said once, until it works again: how often is up to pods.
fn fails(failing: &AtomicBool, error: &dyn std::fmt::Display) {
    if !failing.swap(true, Ordering::Relaxed) {
        tracing::warn!(%error, "the API server can't be asked about tokens; those of issuers that aren't configured count as unverified");
    }
}

async fn review(client: Client, token: String) -> Result<Option<Identity>, ClusterError> {
    let question = TokenReview {
        spec: TokenReviewSpec {
            token: Some(token),
            ..TokenReviewSpec::default()
        },
        ..TokenReview::default()
    };
    let said = Api::<TokenReview>::all(client)
        .create(&PostParams::default(), &question)
        .await?;
    let status = said.status.unwrap_or_default();
    // Uncertainty denies: what isn't said to be authenticated isn't.
    Ok(match (status.authenticated, status.user) {
        (Some(true), Some(user)) => identity(user),
        _ => None,
    })
}

fn identity(user: UserInfo) -> Option<Identity> {
    let name = user.username.filter(|name| !name.is_empty())?;
    let extra = user.extra.unwrap_or_default();
    let one = |key: &str| match extra.get(key).map(Vec::as_slice) {
        Some([one]) => Some(one.as_str()),
        _ => None,
    };
    let namespace = name
        .strip_prefix("system:serviceaccount:")
        .and_then(|account| account.split_once(':'))
        .map(|(namespace, _)| namespace);
    let [pod, uid] = POD.map(one);
    let bound_to = uid.map(|uid| BoundPod {
        namespace: namespace.unwrap_or_default().into(),
        name: pod.unwrap_or_default().into(),
        uid: uid.into(),
    });
    Some(Identity {
        groups: user
            .groups
            .unwrap_or_default()
            .into_iter()
            .map(Into::into)
            .collect(),
        bound_to,
        user: name.into(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn user(name: &str, extra: &[(&str, &[&str])]) -> UserInfo {
        let several = |values: &[&str]| values.iter().map(ToString::to_string).collect();
        UserInfo {
            username: Some(name.to_owned()),
            groups: Some(vec!["system:authenticated".to_owned()]),
            extra: Some(
                extra
                    .iter()
                    .map(|(key, values)| ((*key).to_owned(), several(values)))
                    .collect::<BTreeMap<_, _>>(),
            ),
            uid: None,
        }
    }

    #[test]
    fn a_review_names_the_pod_that_a_token_is_bound_to() {
        let account = "system:serviceaccount:build:ci";
        let bound = identity(user(account, &[(POD[0], &["ci-1"]), (POD[1], &["u-1"])])).unwrap();
        let pod = bound.bound_to.unwrap();
        assert_eq!((&*pod.namespace, &*pod.name, &*pod.uid), ("build", "ci-1", "u-1"));
        assert_eq!(&*bound.user, account);
        assert_eq!(identity(user("jane", &[])).unwrap().bound_to, None);
        assert_eq!(identity(user("", &[])), None);
    }

    #[test]
    fn without_a_cluster_nobody_is_named_and_nothing_is_kept() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let (reviews, mut thread) = Reviews::start(ClusterAccess::default(), metrics).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert!(runtime.block_on(reviews.ask("a-token")).is_none());
        assert!(
            runtime
                .block_on(reviews.ask(&"x".repeat(MAX_TOKEN + 1)))
                .is_none()
        );
        assert!(reviews.kept.lock().unwrap().is_empty());
        assert_eq!(
            format!(
                "{:?}",
                Question {
                    token: "secret".to_owned(),
                    answer: oneshot::channel().0
                }
            ),
            "Question(…)"
        );
        thread.stop();
    }
}
