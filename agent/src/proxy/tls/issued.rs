//! A certificate that the cluster signs: what is shown to clients, and how it is doing.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use bailiff_model::{Protocol, TargetName};
use bailiff_policy::SigningRequest;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, RootCertStore, ServerConfig};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::materials::{provider, server_config};

/// Clients' and signers' clocks may be apart by so much, in seconds.
const APART: i64 = 5 * 60;

/// Why a certificate that was issued isn't shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IssueError {
    /// Pods would refuse it. The operator, or whoever chose the signer, is at fault.
    #[error("no CA in {} signed what the signer gave, so that pods would refuse it: name a signer whose CA pods trust, or give that CA's file", .0.display())]
    OtherAuthority(PathBuf),
    /// There is no CA to hold it against. The operator is at fault.
    #[error("{} can't be read, or holds no CA's certificate: give the one that pods verify by", .0.display())]
    NoAuthority(PathBuf),
    /// It has ended, or hasn't begun. The signer's clock or this node's is at fault.
    #[error(
        "it is valid from {from} to {to}, in seconds since 1970, and here it is {now}: look at the clocks"
    )]
    Time {
        /// From when on.
        from: i64,
        /// Until when.
        to: i64,
        /// What this node's clock says.
        now: i64,
    },
    /// The signer gave something else than what was asked for.
    #[error("the signer gave something else than what was asked for: {0}")]
    Other(String),
}

/// What of a certificate is shown.
#[derive(Debug)]
struct Shown {
    config: Arc<ServerConfig>,
    /// In seconds since 1970.
    ends: i64,
}

/// How a certificate is doing: what came of asking for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    /// A word of the program.
    pub(crate) state: &'static str,
    /// What is to be known of it, with what to do. Empty where all is well.
    pub(crate) told: String,
}

/// One target's certificate.
pub(crate) struct Issued {
    pub(crate) target: TargetName,
    pub(crate) request: SigningRequest,
    shown: ArcSwapOption<Shown>,
    condition: Mutex<Condition>,
    /// Whether pods trust the CA that it is held against.
    trust: Mutex<Condition>,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued")
            .field("target", &self.target)
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

impl Issued {
    /// Of which nothing was asked yet. Where an earlier definition of the target had a certificate for the same pods, that is shown on.
    pub(crate) fn new(target: TargetName, request: SigningRequest, before: Option<&Self>) -> Self {
        let kept = before.filter(|before| before.request.ca == request.ca);
        Self {
            target,
            request,
            shown: ArcSwapOption::new(kept.and_then(|before| before.shown.load_full())),
            condition: Mutex::new(Condition {
                state: "asking",
                told: "the cluster is being asked for it".to_owned(),
            }),
            trust: Mutex::new(Condition {
                state: "asking",
                told: String::new(),
            }),
        }
    }

    /// What is shown to a client now.
    pub(crate) fn config(&self) -> Result<Arc<ServerConfig>, &'static str> {
        // Uncertainty denies: without a certificate that clients can verify nothing is shown.
        match &*self.shown.load() {
            None => Err("the cluster hasn't signed a certificate for this API server yet"),
            Some(shown) if shown.ends <= now() => Err("the certificate for this API server has ended"),
            Some(shown) => Ok(Arc::clone(&shown.config)),
        }
    }

    /// When what is shown ends, in seconds since 1970.
    pub(crate) fn ends(&self) -> Option<i64> {
        self.shown.load().as_ref().map(|shown| shown.ends)
    }

    /// Holds an answer of the signer against what was asked for, and shows it from now on; returns when it ends.
    ///
    /// Blocks on the disk.
    pub(crate) fn take_up(
        &self,
        pem: &[u8],
        public_key: &[u8],
        key: PrivateKeyDer<'static>,
    ) -> Result<i64, IssueError> {
        let other = |what: &str| IssueError::Other(what.to_owned());
        let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let chain = chain.map_err(|_| other("what isn't PEM"))?;
        let ends = check(&chain, &self.request, public_key, now())?;
        let config = server_config(chain, key, Protocol::Kubernetes)
            .map_err(|error| IssueError::Other(error.to_string()))?;
        self.shown.store(Some(Arc::new(Shown {
            config: Arc::new(config),
            ends,
        })));
        Ok(ends)
    }

    /// How it is doing.
    pub(crate) fn condition(&self) -> Condition {
        held(&self.condition).clone()
    }

    /// Notes how it is doing; true where that is news.
    pub(crate) fn becomes(&self, condition: Condition) -> bool {
        let mut held = held(&self.condition);
        let news = *held != condition;
        *held = condition;
        news
    }

    /// Whether pods trust the CA that it is held against.
    pub(crate) fn trust(&self) -> Condition {
        held(&self.trust).clone()
    }

    /// Notes whether they do; true where that is news.
    pub(crate) fn trust_becomes(&self, condition: Condition) -> bool {
        let mut held = held(&self.trust);
        let news = *held != condition;
        *held = condition;
        news
    }
}

fn held(condition: &Mutex<Condition>) -> std::sync::MutexGuard<'_, Condition> {
    condition
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// Whether pods will take a chain for all that was asked for; returns when it ends.
fn check(
    chain: &[CertificateDer<'static>],
    request: &SigningRequest,
    public_key: &[u8],
    now: i64,
) -> Result<i64, IssueError> {
    let other = |what: String| IssueError::Other(what);
    let (leaf, between) = chain
        .split_first()
        .ok_or_else(|| other("no certificate".to_owned()))?;
    let (_, read) =
        X509Certificate::from_der(leaf).map_err(|_| other("no certificate that can be read".to_owned()))?;
    if read.public_key().raw != public_key {
        return Err(other("a certificate for another key".to_owned()));
    }
    if read.is_ca() {
        return Err(other("a CA's certificate".to_owned()));
    }
    let (asked, given) = (asked(&request.names), named(&read));
    if given.as_ref() != Some(&asked) {
        let given = given.unwrap_or_default().into_iter().collect::<Vec<_>>();
        return Err(other(format!(
            "a certificate for {given:?} in place of {:?}",
            request.names
        )));
    }
    let (from, to) = (
        read.validity().not_before.timestamp(),
        read.validity().not_after.timestamp(),
    );
    if !(from - APART..to).contains(&now) {
        return Err(IssueError::Time { from, to, now });
    }
    let no_authority = || IssueError::NoAuthority(request.ca.clone());
    let mut roots = RootCertStore::empty();
    let given: Vec<_> = CertificateDer::pem_file_iter(&request.ca)
        .map_err(|_| no_authority())?
        .flatten()
        .collect();
    roots.add_parsable_certificates(given);
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|_| no_authority())?;
    // As clients verify it: the chain, the time, the usage, and each name that they may dial.
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(
        u64::try_from(now.max(from)).unwrap_or_default(),
    ));
    for name in &request.names {
        let dialed =
            ServerName::try_from(name.as_str()).map_err(|_| other(format!("{name:?} is no name")))?;
        verifier
            .verify_server_cert(leaf, between, &dialed, &[], at)
            .map_err(|error| match error {
                rustls::Error::InvalidCertificate(
                    CertificateError::UnknownIssuer | CertificateError::BadSignature,
                ) => IssueError::OtherAuthority(request.ca.clone()),
                error => other(error.to_string()),
            })?;
    }
    Ok(to)
}

/// Names in one form: addresses are written in many ways, and names of hosts in any case.
fn asked(names: &[String]) -> BTreeSet<String> {
    names
        .iter()
        .map(|name| match name.parse::<IpAddr>() {
            Ok(address) => address.to_string(),
            Err(_) => name.to_ascii_lowercase(),
        })
        .collect()
}

/// The names that a certificate is for. `None` where it has others than of hosts and addresses.
fn named(certificate: &X509Certificate<'_>) -> Option<BTreeSet<String>> {
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().map(name).collect()
}

/// A host's name or an address. `None` for what is neither.
fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => {
            if let Ok(four) = <[u8; 4]>::try_from(*bytes) {
                return Some(IpAddr::from(four).to_string());
            }
            let sixteen = <[u8; 16]>::try_from(*bytes).ok()?;
            Some(IpAddr::from(sixteen).to_string())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
