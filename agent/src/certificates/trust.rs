//! Whether the CA that certificates are held against is the one that pods verify by: `kube-root-ca.crt`, which every namespace has.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::time::sleep;

use super::note;
use crate::metrics::Metrics;
use crate::proxy::tls::{Condition, Issued};
use crate::world::cluster::{ClusterAccess, ClusterError};

/// What each namespace has the cluster's CA in. Source: `k8s.io/kubernetes/pkg/controller/certificates/rootcacertpublisher`.
const ROOT: (&str, &str) = ("kube-root-ca.crt", "ca.crt");

/// How often the cluster is asked for it: one object.
const ASKED: Duration = Duration::from_secs(60);

/// How often the operator's file is looked at.
const LOOKED: Duration = Duration::from_secs(1);

/// Why it can't be told.
#[derive(Debug, thiserror::Error)]
enum TrustError {
    /// The API server can't be asked, or doesn't let the agent ask.
    #[error("the cluster can't be asked for kube-root-ca.crt: {0}")]
    Cluster(#[from] ClusterError),
    /// It holds no CA.
    #[error("kube-root-ca.crt holds no certificate")]
    Empty,
}

/// Certificates, as they are.
type Set = BTreeSet<Vec<u8>>;

/// Holds a target's CA against the pods' for ever.
pub(super) async fn watch(access: ClusterAccess, issued: Arc<Issued>, metrics: Arc<Metrics>) {
    loop {
        let trusted = of_pods(&access).await;
        for _ in 0..ASKED.as_secs() / LOOKED.as_secs() {
            let condition = match &trusted {
                Ok(trusted) => hold(&issued.request.ca, trusted),
                Err(error) => Condition {
                    state: "unknown",
                    told: format!(
                        "{error}: whether pods trust the CA of {} isn't known",
                        issued.request.ca.display()
                    ),
                },
            };
            becomes(&issued, condition, &metrics);
            sleep(LOOKED).await;
        }
    }
}

/// What pods of the agent's own namespace trust, as those of all others do.
async fn of_pods(access: &ClusterAccess) -> Result<Set, TrustError> {
    let client = access.client().await?;
    let map = Api::<ConfigMap>::default_namespaced(client)
        .get(ROOT.0)
        .await
        .map_err(ClusterError::from)?;
    let text = map.data.unwrap_or_default().remove(ROOT.1).unwrap_or_default();
    let set: Set = CertificateDer::pem_slice_iter(text.as_bytes())
        .flatten()
        .map(|certificate| certificate.to_vec())
        .collect();
    if set.is_empty() {
        return Err(TrustError::Empty);
    }
    Ok(set)
}

fn hold(file: &Path, trusted: &Set) -> Condition {
    let given: Set = CertificateDer::pem_file_iter(file)
        .into_iter()
        .flatten()
        .flatten()
        .map(|certificate| certificate.to_vec())
        .collect();
    let others = given.difference(trusted).count();
    if given.is_empty() || others > 0 {
        return Condition {
            state: "other",
            told: format!(
                "{others} of {} CA certificates in {} aren't in kube-root-ca.crt, by which pods verify: they refuse what such a CA signs. Give that file's CA, and a signer whose CA it is",
                given.len(),
                file.display()
            ),
        };
    }
    Condition {
        state: "same",
        told: String::new(),
    }
}

fn becomes(issued: &Issued, condition: Condition, metrics: &Metrics) {
    let told = condition.clone();
    if !issued.trust_becomes(condition) {
        return;
    }
    match told.state {
        "same" => tracing::info!(
            target = issued.target.as_str(),
            "pods trust the CA that certificates are held against"
        ),
        "other" => tracing::error!(
            target = issued.target.as_str(),
            "pods trust another CA: {}",
            told.told
        ),
        _ => tracing::warn!(target = issued.target.as_str(), "{}", told.told),
    }
    note(issued, metrics);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_certificate_of_the_file_has_to_be_one_that_pods_trust() {
        let made = || {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(Vec::new()).unwrap();
            params.self_signed(&key).unwrap()
        };
        let (ours, other) = (made(), made());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.crt");
        let trusted = Set::from([ours.der().to_vec()]);
        for (text, state) in [
            (ours.pem(), "same"),
            (ours.pem() + &other.pem(), "other"),
            (other.pem(), "other"),
            ("nothing".to_owned(), "other"),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(hold(&file, &trusted).state, state);
        }
        // While it changes pods trust both.
        std::fs::write(&file, ours.pem()).unwrap();
        let both = Set::from([ours.der().to_vec(), other.der().to_vec()]);
        assert_eq!(hold(&file, &both).state, "same");
        assert_eq!(hold(Path::new("/nowhere"), &both).state, "other");
    }
}
