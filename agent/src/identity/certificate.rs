//! Whom a client's certificate names.
//!
//! Source: `k8s.io/apiserver/pkg/authentication/request/x509`, `CommonNameUserConversion`. What can't be said in a header as it is,
//! or could be read in two ways, names nobody here.

use std::sync::Arc;

use bailiff_model::{ANONYMOUS, AUTHENTICATED, Identity, UNAUTHENTICATED};
use x509_parser::asn1_rs::{Oid, Tag};
use x509_parser::oid_registry as oid;
use x509_parser::prelude::{AttributeTypeAndValue, FromDer as _, X509Certificate};

use super::MAX_GROUPS;

/// Whom a certificate names.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) identity: Arc<Identity>,
    pub(crate) uid: Option<String>,
    /// The groups that it says itself.
    pub(crate) groups: Vec<String>,
}

/// Why a certificate names nobody who may come by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    /// It is none.
    #[error("it can't be read")]
    Malformed,
    /// It has no user.
    #[error("it has no common name, which is the user's")]
    Nobody,
    /// Another place might read it in another way.
    #[error("its subject has several common names or uids")]
    Several,
    /// It can't be passed on as it is.
    #[error(
        "a name in its subject is empty, or has control characters, outer blanks or letters of an unusual encoding"
    )]
    Unsayable,
    /// It has more groups than are taken.
    #[error("it has more than 256 groups")]
    Groups,
    /// Nobody comes as one of them.
    #[error("it names a member of system:masters, whom no rule of the cluster holds, or the anonymous user")]
    Never,
}

/// Reads whom it names. Whether that's so is another question.
pub(crate) fn named(der: &[u8]) -> Result<Named, NameError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| NameError::Malformed)?;
    let uid_oid = Oid::from(&[1, 3, 6, 1, 4, 1, 57683, 2]).map_err(|_| NameError::Malformed)?;
    let (mut user, mut uid, mut groups) = (None, None, Vec::new());
    for attribute in certificate.subject().iter_attributes() {
        let kind = attribute.attr_type();
        if *kind == oid::OID_X509_COMMON_NAME {
            if user.replace(text(attribute)?).is_some() {
                return Err(NameError::Several);
            }
        } else if *kind == oid::OID_X509_ORGANIZATION_NAME {
            groups.push(text(attribute)?);
        } else if *kind == uid_oid && uid.replace(text(attribute)?).is_some() {
            return Err(NameError::Several);
        }
    }
    let user = user.ok_or(NameError::Nobody)?;
    if groups.len() > MAX_GROUPS {
        return Err(NameError::Groups);
    }
    if user == ANONYMOUS || groups.iter().any(|group| group == MASTERS) {
        return Err(NameError::Never);
    }
    let mut all: Vec<Arc<str>> = groups.iter().map(|group| Arc::from(group.as_str())).collect();
    if !groups
        .iter()
        .any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED)
    {
        all.push(AUTHENTICATED.into());
    }
    let identity = Identity {
        user: user.into(),
        groups: all,
        bound_to: None,
    };
    Ok(Named {
        identity: Arc::new(identity),
        uid,
        groups,
    })
}

/// The group that the API server lets do everything.
const MASTERS: &str = "system:masters";

fn text(attribute: &AttributeTypeAndValue<'_>) -> Result<String, NameError> {
    let plain = [Tag::Utf8String, Tag::PrintableString, Tag::Ia5String];
    if !plain.contains(&attribute.attr_value().header.tag()) {
        return Err(NameError::Unsayable);
    }
    let text = attribute.as_str().map_err(|_| NameError::Unsayable)?;
    if text.is_empty() || text.trim() != text || text.chars().any(char::is_control) {
        return Err(NameError::Unsayable);
    }
    Ok(text.to_owned())
}
