//! Who a request says that it is, once that was verified.

use std::fmt;
use std::sync::Arc;

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

/// What a request shows of who it is, held against the pod that the kernel saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
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
}

impl TokenState {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::Missing,
        Self::Unverified,
        Self::Unbound,
        Self::Bound,
        Self::Stolen,
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
        }
    }
}

impl fmt::Display for TokenState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
