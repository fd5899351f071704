//! Tokens: whom they name, and for which pod they were made.
//!
//! A token is verified by its issuer's keys. That the pod that shows it is another than the one it was made for can be told because the
//! kernel says who the pod is. The API server verifies tokens by itself, too: what is read here decides nothing there.

mod certificate;
mod reviews;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use bailiff_model::{AUTHENTICATED, BoundPod, Identity, PodUid, TokenState};
use bailiff_policy::{TokenIssuer, TokenUsers};
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

pub(crate) use certificate::{NameError, Named, named};
pub(crate) use reviews::{ReviewThread, Reviews};

/// A token that is longer is none: the API server's are a kilobyte or two.
const MAX_TOKEN: usize = 16 * 1024;

/// How many verified tokens are kept.
const KEPT: usize = 4096;

/// How far clocks may be apart, in seconds.
const LEEWAY: u64 = 10;

/// What issuers sign by. Not the symmetric ones: who can verify those can make them.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// Why a token names nobody. Never what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// It is no token of this kind.
    #[error("it is no JSON Web Token")]
    Malformed,
    /// No key of the issuer's is the one that it names.
    #[error("it is signed with a key that the issuer's set doesn't have")]
    UnknownKey,
    /// Signature, issuer, audience or time don't fit.
    #[error("its signature, issuer, audience or time isn't right")]
    Invalid,
}

/// Why a set of keys can't be used. The operator is at fault.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeySetError {
    /// It isn't one.
    #[error("holds no JSON Web Key Set")]
    Malformed,
    /// None of its keys can verify anything.
    #[error("holds no key that can verify a token; symmetric ones can't")]
    Empty,
}

/// How the tokens of a target's clients are verified.
#[derive(Debug)]
pub(crate) struct Tokens {
    issuers: Vec<Issuer>,
    review: bool,
}

impl Tokens {
    pub(crate) fn new(issuers: Vec<Issuer>, review: bool) -> Self {
        Self { issuers, review }
    }

    /// Whom a token of a known issuer names, and until when it does, in seconds since 1970.
    pub(crate) fn verify(&self, token: &str) -> Result<(Arc<Identity>, u64), TokenError> {
        let mut outcome = Err(TokenError::UnknownKey);
        for issuer in &self.issuers {
            outcome = issuer.verify(token);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// Whether the API server is asked about others.
    pub(crate) fn are_reviewed(&self) -> bool {
        self.review
    }
}

/// One issuer's tokens.
pub(crate) struct Issuer {
    keys: Vec<(Option<String>, DecodingKey, Vec<Algorithm>)>,
    validation: Validation,
    users: TokenUsers,
    /// By the hash of the token: what is in memory can't be used as one.
    verified: Mutex<Verified>,
}

/// Until when each is good, and whom it names.
type Verified = HashMap<[u8; 32], (u64, Arc<Identity>)>;

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer")
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

/// What a token says, where it is a service account's.
/// Source: `k8s.io/kubernetes/pkg/serviceaccount`, `privateClaims`.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Private>,
}

#[derive(Deserialize)]
struct Private {
    namespace: Option<String>,
    pod: Option<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    name: String,
    uid: String,
}

impl Issuer {
    /// Reads an issuer's JSON Web Key Set.
    pub(crate) fn new(issuer: &TokenIssuer, key_set: &[u8]) -> Result<Self, KeySetError> {
        let set: JwkSet = serde_json::from_slice(key_set).map_err(|_| KeySetError::Malformed)?;
        let keys: Vec<_> = set.keys.iter().filter_map(usable).collect();
        if keys.is_empty() {
            return Err(KeySetError::Empty);
        }
        let mut validation = Validation::new(Algorithm::RS256);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_issuer(&[&issuer.issuer]);
        validation.set_audience(&issuer.audiences);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        Ok(Self {
            keys,
            validation,
            users: issuer.users.clone(),
            verified: Mutex::default(),
        })
    }

    /// Whom a token names, and until when it does, in seconds since 1970.
    pub(crate) fn verify(&self, token: &str) -> Result<(Arc<Identity>, u64), TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Malformed);
        }
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let now = now();
        if let Ok(verified) = self.verified.lock()
            && let Some((ends, identity)) = verified.get(&hash)
            && now <= ends + LEEWAY
        {
            return Ok((Arc::clone(identity), *ends));
        }
        let (ends, identity) = self.read(token)?;
        let identity = Arc::new(identity);
        if let Ok(mut verified) = self.verified.lock() {
            if verified.len() >= KEPT {
                verified.clear();
            }
            verified.insert(hash, (ends, Arc::clone(&identity)));
        }
        Ok((identity, ends))
    }

    fn read(&self, token: &str) -> Result<(u64, Identity), TokenError> {
        let header = decode_header(token).map_err(|_| TokenError::Malformed)?;
        let mut fitting = self.keys.iter().filter(|(id, _, algorithms)| {
            // A set of one key may leave its name out.
            (id.is_none() || *id == header.kid) && algorithms.contains(&header.alg)
        });
        let (_, key, _) = fitting.next().ok_or(TokenError::UnknownKey)?;
        let mut validation = self.validation.clone();
        validation.algorithms = vec![header.alg];
        let invalid = |_| TokenError::Invalid;
        match &self.users {
            TokenUsers::ServiceAccounts => {
                let claims = decode::<Claims>(token, key, &validation).map_err(invalid)?.claims;
                Ok((claims.exp, service_account(claims)))
            }
            TokenUsers::Claims {
                username,
                username_prefix,
                groups,
                groups_prefix,
            } => {
                let claims = decode::<Map<String, Value>>(token, key, &validation)
                    .map_err(invalid)?
                    .claims;
                let ends = claims.get("exp").and_then(Value::as_u64);
                let user = claims.get(username).and_then(Value::as_str);
                let (Some(ends), Some(user)) = (ends, user.filter(|user| !user.is_empty())) else {
                    return Err(TokenError::Invalid);
                };
                // As the API server: an address that its issuer doesn't vouch for names nobody.
                if username == "email"
                    && claims
                        .get("email_verified")
                        .is_some_and(|told| *told != Value::Bool(true))
                {
                    return Err(TokenError::Invalid);
                }
                let mut named: Vec<Arc<str>> = match groups.as_ref().and_then(|claim| claims.get(claim)) {
                    Some(Value::String(one)) => vec![format!("{groups_prefix}{one}").into()],
                    Some(Value::Array(several)) => several
                        .iter()
                        .filter_map(Value::as_str)
                        .take(MAX_GROUPS)
                        .map(|group| format!("{groups_prefix}{group}").into())
                        .collect(),
                    _ => Vec::new(),
                };
                named.push(AUTHENTICATED.into());
                let identity = Identity {
                    user: format!("{username_prefix}{user}").into(),
                    groups: named,
                    bound_to: None,
                };
                Ok((ends, identity))
            }
        }
    }
}

/// A token with more groups is told with these.
const MAX_GROUPS: usize = 256;

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// A key that can verify, with the algorithms that it is for.
fn usable(jwk: &Jwk) -> Option<(Option<String>, DecodingKey, Vec<Algorithm>)> {
    let key = DecodingKey::from_jwk(jwk).ok()?;
    let named: Option<Algorithm> = jwk
        .common
        .key_algorithm
        .and_then(|named| named.to_string().parse().ok());
    let algorithms: Vec<Algorithm> = ALGORITHMS
        .into_iter()
        .filter(|algorithm| algorithm.family() == key.family())
        .filter(|algorithm| named.is_none_or(|named| named == *algorithm))
        .collect();
    (!algorithms.is_empty()).then(|| (jwk.common.key_id.clone(), key, algorithms))
}

/// Source: `k8s.io/apiserver/pkg/authentication/serviceaccount`, `UserInfo`.
fn service_account(claims: Claims) -> Identity {
    let mut groups: Vec<Arc<str>> = Vec::new();
    let account = claims.sub.strip_prefix("system:serviceaccount:");
    if let Some((namespace, _)) = account.and_then(|account| account.split_once(':')) {
        groups.push("system:serviceaccounts".into());
        groups.push(format!("system:serviceaccounts:{namespace}").into());
    }
    groups.push(AUTHENTICATED.into());
    let bound_to = claims.kubernetes.and_then(|private| {
        let pod = private.pod?;
        Some(BoundPod {
            namespace: private.namespace.unwrap_or_default().into(),
            name: pod.name.into(),
            uid: pod.uid.into(),
        })
    });
    Identity {
        user: claims.sub.into(),
        groups,
        bound_to,
    }
}

/// What a verified identity is to the pod that shows it.
pub(crate) fn held_by(identity: &Identity, pod: Option<&PodUid>) -> TokenState {
    match (&identity.bound_to, pod) {
        (None, _) => TokenState::Unbound,
        (Some(bound), Some(pod)) if *bound.uid == *pod.as_str() => TokenState::Bound,
        // Uncertainty denies: a pod that isn't known isn't the one that it was made for.
        (Some(_), _) => TokenState::Stolen,
    }
}

#[cfg(test)]
mod tests;
