//! Who a request says that it is, once that was verified.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An identity that an issuer vouches for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// The user's name, as the API server's authorization sees it.
    pub user: Arc<str>,
    /// The user's groups.
    pub groups: Vec<Arc<str>>,
    /// The pod that the token was made for, where it was made for one.
    pub bound_to: Option<BoundPod>,
}

/// The pod that a token was made for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BoundPod {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its uid, which no other pod ever has.
    pub uid: Arc<str>,
}

/// Every verified user's group.
pub const AUTHENTICATED: &str = "system:authenticated";

/// The group of who shows nothing.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";

/// The user that shows nothing.
pub const ANONYMOUS: &str = "system:anonymous";

/// As whom a request asks to act, which the API server lets whoever has the right to.
///
/// Source: `k8s.io/apiserver/pkg/endpoints/filters`, `impersonation.go`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Impersonation {
    /// The user; never empty.
    pub user: String,
    /// The groups that it names.
    pub groups: Vec<String>,
    /// The user's uid, where it names one.
    pub uid: Option<String>,
    /// Further attributes: keys, decoded, with a value each. A key may come several times.
    pub extra: Vec<(String, String)>,
}

impl Impersonation {
    /// Bytes of all its texts.
    #[must_use]
    pub fn size(&self) -> usize {
        let extra = self.extra.iter().map(|(key, value)| key.len() + value.len());
        let groups = self.groups.iter().map(String::len);
        self.user.len() + self.uid.as_ref().map_or(0, String::len) + groups.chain(extra).sum::<usize>()
    }

    /// Whether it is a member of a group that fits, also of those that the API server adds by itself.
    pub fn has_group(&self, fits: impl Fn(&str) -> bool) -> bool {
        self.groups.iter().any(|group| fits(group)) || self.added_groups().iter().any(|group| fits(group))
    }

    /// The groups that the API server adds by itself.
    #[must_use]
    pub fn added_groups(&self) -> Vec<String> {
        let mut added = Vec::new();
        if self.groups.is_empty()
            && let Some((namespace, _)) = self.service_account()
        {
            added.push("system:serviceaccounts".to_owned());
            added.push(format!("system:serviceaccounts:{namespace}"));
        }
        let names = |known: &str| self.groups.iter().any(|group| group == known);
        if self.user == ANONYMOUS {
            if !names(UNAUTHENTICATED) {
                added.push(UNAUTHENTICATED.to_owned());
            }
        } else if !names(AUTHENTICATED) && !names(UNAUTHENTICATED) {
            added.push(AUTHENTICATED.to_owned());
        }
        added
    }

    /// Namespace and name, where the user is a service account.
    #[must_use]
    pub fn service_account(&self) -> Option<(&str, &str)> {
        let (namespace, name) = self
            .user
            .strip_prefix("system:serviceaccount:")?
            .split_once(':')?;
        (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
    }
}

/// What a request shows of who it is, held against the pod that the kernel saw.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum TokenState {
    /// It shows no token.
    #[default]
    Missing,
    /// A token that can't be verified: of another issuer, ended, forged, or there are no keys to verify it by.
    Unverified,
    /// A verified token that was made for no pod: whoever holds it may use it anywhere.
    Unbound,
    /// A verified token that was made for the pod that shows it.
    Bound,
    /// A verified token that was made for another pod.
    Stolen,
    /// A verified client certificate, which counts in place of a token.
    Certificate,
}

impl TokenState {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Missing,
        Self::Unverified,
        Self::Unbound,
        Self::Bound,
        Self::Stolen,
        Self::Certificate,
    ];

    /// The name in metrics and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unverified => "unverified",
            Self::Unbound => "unbound",
            Self::Bound => "bound",
            Self::Stolen => "stolen",
            Self::Certificate => "certificate",
        }
    }
}

impl fmt::Display for TokenState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
