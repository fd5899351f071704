//! Who a request says that it is, held against the pod that the kernel saw.

use std::cell::RefCell;
use std::sync::Arc;

use bailiff_model::{Identity, PodUid, TokenState};
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue};

use super::certified::{Certified, Refused};
use crate::identity::{Reviews, Tokens, held_by};

/// What is known of whose request it is.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) state: TokenState,
    /// Whom a verified token or certificate names.
    pub(super) identity: Option<Arc<Identity>>,
    /// Why its certificate goes no further.
    pub(super) refused: Option<Refused>,
}

impl Caller {
    const NOBODY: Self = Self {
        state: TokenState::Missing,
        identity: None,
        refused: None,
    };

    pub(super) const UNVERIFIED: Self = Self {
        state: TokenState::Unverified,
        identity: None,
        refused: None,
    };
}

/// Tells whose the requests of one connection are. Most show one token again and again.
pub(super) struct Callers {
    tokens: Option<Arc<Tokens>>,
    reviews: Arc<Reviews>,
    pod: PodUid,
    certified: Option<Certified>,
    last: RefCell<Option<(HeaderValue, Arc<Identity>, u64)>>,
}

impl Callers {
    pub(super) fn new(
        tokens: Option<Arc<Tokens>>,
        reviews: Arc<Reviews>,
        pod: PodUid,
        certified: Option<Certified>,
    ) -> Self {
        Self {
            tokens,
            reviews,
            pod,
            certified,
            last: RefCell::default(),
        }
    }

    /// Whose request has these headers. Waits only where the API server has to be asked about a token.
    pub(super) async fn of(&self, headers: &HeaderMap) -> Caller {
        // As the API server: a certificate counts before a token.
        if let Some(certified) = &self.certified {
            return certified.caller();
        }
        let Some(shown) = headers.get(AUTHORIZATION) else {
            // A token in a WebSocket's protocol, for clients in browsers.
            let in_protocol = headers.get_all("sec-websocket-protocol").iter().any(|value| {
                value
                    .as_bytes()
                    .windows(TOKEN_PROTOCOL.len())
                    .any(|part| part == TOKEN_PROTOCOL)
            });
            // Uncertainty denies: it isn't read there, so that it may be anybody's.
            return if in_protocol {
                Caller::UNVERIFIED
            } else {
                Caller::NOBODY
            };
        };
        let Some(tokens) = &self.tokens else {
            return Caller::UNVERIFIED;
        };
        let now = crate::identity::now();
        if let Some((last, identity, ends)) = &*self.last.borrow()
            && last == shown
            && now <= *ends
        {
            return self.held(Arc::clone(identity));
        }
        let verified = match bearer(shown) {
            None => None,
            Some(token) => match tokens.verify(token) {
                Ok(verified) => Some(verified),
                Err(_) if tokens.are_reviewed() => self.reviews.ask(token).await,
                Err(_) => None,
            },
        };
        let Some((identity, ends)) = verified else {
            return Caller::UNVERIFIED;
        };
        *self.last.borrow_mut() = Some((shown.clone(), Arc::clone(&identity), ends));
        self.held(identity)
    }

    /// Writes into a request that goes on who it is, where the agent speaks for it.
    pub(super) fn sign(&self, headers: &mut HeaderMap) -> Result<(), Refused> {
        match &self.certified {
            Some(certified) => certified.act(headers),
            None => Ok(()),
        }
    }

    /// Whether the agent speaks for the client.
    pub(super) fn is_certified(&self) -> bool {
        self.certified.is_some()
    }

    fn held(&self, identity: Arc<Identity>) -> Caller {
        Caller {
            state: held_by(&identity, Some(&self.pod)),
            identity: Some(identity),
            refused: None,
        }
    }
}

/// Source: `k8s.io/apiserver/pkg/authentication/request/websocket`.
const TOKEN_PROTOCOL: &[u8] = b"base64url.bearer.authorization.k8s.io.";

/// The token of `Bearer TOKEN`, read as the API server reads it.
/// Source: `k8s.io/apiserver/pkg/authentication/request/bearertoken`.
fn bearer(shown: &HeaderValue) -> Option<&str> {
    let (scheme, token) = shown.to_str().ok()?.trim().split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
