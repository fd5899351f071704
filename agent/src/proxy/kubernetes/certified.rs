//! Clients that authenticate by certificate. What they prove in the handshake ends here, so their requests go on as the agent's own,
//! acting as whom the certificate names, where the operator allowed that.
//!
//! The certificate and the agent's files are looked at for each request, since connections outlive both.

use std::cell::RefCell;
use std::sync::Arc;

use bailiff_model::{AUTHENTICATED, TargetName, TokenState};
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use rustls::pki_types::{CertificateDer, UnixTime};

use super::caller::Caller;
use super::impersonation::PREFIX;
use super::status::Status;
use crate::identity::{NameError, Named, named};
use crate::proxy::tls::{ClientsOf, Materials};

/// A certificate that a client showed.
pub(super) struct Certified {
    chain: Vec<CertificateDer<'static>>,
    named: Result<Named, NameError>,
    target: TargetName,
    materials: Arc<Materials>,
    /// What came of it last.
    verified: RefCell<Option<Verified>>,
}

/// In which second, by which CAs, and what is wrong with it.
type Verified = (u64, Arc<ClientsOf>, Result<(), &'static str>);

/// Why a request by certificate isn't passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// No certificates are taken here.
    NotTaken,
    /// It can't be verified.
    Unverified(&'static str),
    /// It names nobody who may come.
    Named(NameError),
    /// The agent may not act as anybody.
    NotAllowed,
    /// It asks to act as yet another.
    Acting,
}

impl Refused {
    /// A word for the record.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::NotTaken => "certificate_not_taken",
            Self::Unverified(_) => "certificate_unverified",
            Self::Named(_) => "certificate_name",
            Self::NotAllowed => "certificate_not_allowed",
            Self::Acting => "certificate_acting",
        }
    }

    /// What the client is told.
    pub(super) fn status(self) -> Status {
        const INSTEAD: &str = "use a service account's token, and no certificate";
        match self {
            Self::NotTaken => Status::refused(&format!(
                "the agent on this node takes no client certificates for this API server: {INSTEAD}, or have its operator allow them (identity.clientCertificates)"
            )),
            Self::Unverified(why) => Status::unauthorized(&format!(
                "the client certificate is refused: {why}. Show another, or {INSTEAD}"
            )),
            Self::Named(NameError::Never) => Status::refused(&format!(
                "the client certificate is refused: {}. Use another user's",
                NameError::Never
            )),
            Self::Named(why) => Status::unauthorized(&format!(
                "the client certificate is refused: {why}. Show another, or {INSTEAD}"
            )),
            Self::NotAllowed => Status::refused(&format!(
                "the client certificate is good, but the agent on this node may not act as its user: {INSTEAD}, or have its operator allow it (identity.clientCertificates.impersonate)"
            )),
            Self::Acting => Status::bad_request(
                "a request by client certificate can't ask to act as another: the API server couldn't tell whether its user may. Use a token for that",
            ),
        }
    }
}

impl Certified {
    /// `None` where the client showed none.
    pub(super) fn new(
        chain: &[CertificateDer<'static>],
        target: TargetName,
        materials: Arc<Materials>,
    ) -> Option<Self> {
        let leaf = chain.first()?;
        Some(Self {
            named: named(leaf),
            chain: chain.to_vec(),
            target,
            materials,
            verified: RefCell::default(),
        })
    }

    /// Whose a request of this connection is, and why it goes no further, if so.
    pub(super) fn caller(&self) -> Caller {
        // Uncertainty denies: what isn't verified may be anybody's.
        let mut caller = Caller::UNVERIFIED;
        let clients = match self.look() {
            Err(refused) => {
                caller.refused = Some(refused);
                return caller;
            }
            Ok((clients, named)) => {
                caller.state = TokenState::Certificate;
                caller.identity = Some(Arc::clone(&named.identity));
                clients
            }
        };
        if clients.own.is_none() {
            caller.refused = Some(Refused::NotAllowed);
        }
        caller
    }

    /// Makes a request the agent's own, acting as whom the certificate names. Nothing that the client said of who it is stays.
    pub(super) fn act(&self, headers: &mut HeaderMap) -> Result<(), Refused> {
        let (clients, named) = self.look()?;
        let own = clients.own.as_ref().ok_or(Refused::NotAllowed)?;
        let said: Vec<HeaderName> = headers
            .keys()
            .filter(|name| name.as_str().starts_with(PREFIX))
            .cloned()
            .collect();
        for name in said {
            headers.remove(name);
        }
        let value = |text: &str| {
            HeaderValue::from_bytes(text.as_bytes()).map_err(|_| Refused::Named(NameError::Unsayable))
        };
        let user = &named.identity.user;
        headers.insert(USER, value(user)?);
        for group in &named.groups {
            headers.append(GROUP, value(group)?);
        }
        if named.groups.is_empty() && user.starts_with("system:serviceaccount:") {
            // Without any the server would add those of the account, which a certificate doesn't give.
            headers.append(GROUP, HeaderValue::from_static(AUTHENTICATED));
        }
        if let Some(uid) = &named.uid {
            headers.insert(UID, value(uid)?);
        }
        headers.insert(AUTHORIZATION, own.clone());
        Ok(())
    }

    fn look(&self) -> Result<(Arc<ClientsOf>, &Named), Refused> {
        let files = self.materials.load();
        let clients = files.clients(&self.target).ok_or(Refused::NotTaken)?;
        let now = crate::identity::now();
        let mut verified = self.verified.borrow_mut();
        let outcome = match &*verified {
            Some((at, by, outcome)) if *at == now && Arc::ptr_eq(by, clients) => *outcome,
            _ => {
                let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
                let outcome = clients.authority.verify(&self.chain, time);
                *verified = Some((now, Arc::clone(clients), outcome));
                outcome
            }
        };
        outcome.map_err(Refused::Unverified)?;
        let named = self.named.as_ref().map_err(|error| Refused::Named(*error))?;
        Ok((Arc::clone(clients), named))
    }
}

const USER: HeaderName = HeaderName::from_static("impersonate-user");
const GROUP: HeaderName = HeaderName::from_static("impersonate-group");
const UID: HeaderName = HeaderName::from_static("impersonate-uid");
