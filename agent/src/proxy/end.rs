//! Why a session ends.

use std::io;
use std::sync::Arc;

use bailiff_wire::postgres::DecodeError;

use super::live::Killing;

/// Which side of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The pod's.
    Client,
    /// The target's.
    Target,
}

impl Side {
    /// The name in metrics and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Target => "target",
        }
    }
}

/// Why a session ended. The variants say who is at fault.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The client said goodbye or closed.
    #[error("the client closed")]
    ClientClosed,
    /// The target closed.
    #[error("the target closed")]
    TargetClosed,
    /// A socket failed.
    #[error("the {}'s socket failed: {error}", side.as_str())]
    Socket {
        /// Whose.
        side: Side,
        /// What the system said.
        error: io::Error,
    },
    /// A message that can't be decoded.
    #[error("malformed message of the {}: {error}", side.as_str())]
    Malformed {
        /// Whose.
        side: Side,
        /// What is wrong with it.
        error: DecodeError,
    },
    /// A message where none of its kind can stand.
    #[error("message {tag:?} of the {} where it can't stand", side.as_str())]
    OutOfOrder {
        /// Whose.
        side: Side,
        /// Its tag.
        tag: char,
    },
    /// HTTP that can't be understood, or isn't what was agreed on.
    #[error("HTTP failed: {0}")]
    Http(&'static str),
    /// A limit was reached.
    #[error("limit reached: {0}")]
    Limit(&'static str),
    /// Something that this version doesn't pass.
    #[error("refused: {0}")]
    Refused(&'static str),
    /// TLS failed.
    #[error("the TLS handshake with the {} failed: {error}; {}", side.as_str(), mend(*side, error))]
    Handshake {
        /// With whom.
        side: Side,
        /// What TLS said.
        error: io::Error,
    },
    /// The client finished the TLS handshake and went without a word, as those do that verify names afterwards.
    #[error(
        "the client left after the TLS handshake, as one does that doesn't find the host's name in the certificate; see tls.client.names"
    )]
    LeftAfterHandshake,
    /// The client came without TLS, and the target's definition asks for it.
    #[error("refused: the connection isn't encrypted")]
    Unencrypted,
    /// The agent couldn't authenticate to the target.
    #[error("the agent's credential doesn't work: {0}")]
    Credential(&'static str),
    /// A request to cancel, of which nothing more is to be said.
    #[error("a cancel request: {0}")]
    Cancel(&'static str),
    /// A changed policy asks for another way to the target than the one that the session came by.
    #[error("the policy changed as whom or by which way this session connects")]
    Outdated,
    /// Policy doesn't allow the connection.
    #[error("policy doesn't allow the connection")]
    Denied,
    /// The target couldn't be reached.
    #[error("the target can't be reached: {0}")]
    Unreachable(io::Error),
    /// The agent is leaving.
    #[error("the agent is draining")]
    Drained,
    /// Somebody ended it by its id.
    #[error("ended by user {} (process {})", .0.uid, .0.pid)]
    Killed(Arc<Killing>, String),
    /// Columns that have to be masked can't be told from the others.
    #[error("the columns to mask can't be told from the others")]
    Unmaskable,
    /// The connection can't be attributed to a pod.
    #[error("the connection can't be attributed: {0}")]
    Unattributed(&'static str),
}

impl End {
    /// The end of a session that somebody ended.
    pub(crate) fn killed(killing: Arc<Killing>) -> Self {
        let why = killing.reason.as_deref().unwrap_or("no reason was given");
        let text = format!("terminating connection: an operator ended this session: {why}");
        Self::Killed(killing, text)
    }

    /// The label in metrics and records. Bounded.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::TargetClosed => "target_closed",
            Self::Socket {
                side: Side::Client, ..
            } => "client_socket",
            Self::Socket {
                side: Side::Target, ..
            } => "target_socket",
            Self::Malformed { error, .. } => error.reason(),
            Self::OutOfOrder { .. } => "out_of_order",
            Self::Http(what)
            | Self::Limit(what)
            | Self::Refused(what)
            | Self::Unattributed(what)
            | Self::Cancel(what) => what,
            Self::Handshake {
                side: Side::Client, ..
            } => "client_tls",
            Self::Handshake {
                side: Side::Target, ..
            } => "target_tls",
            Self::LeftAfterHandshake => "left_after_tls",
            Self::Credential(_) => "credential",
            Self::Unencrypted => "unencrypted",
            Self::Outdated => "outdated",
            Self::Denied => "denied",
            Self::Unreachable(_) => "unreachable",
            Self::Drained => "drained",
            Self::Killed(..) => "killed",
            Self::Unmaskable => "unmaskable",
        }
    }

    /// Whose fault it is, where it's a peer that broke the protocol.
    #[must_use]
    pub fn offender(&self) -> Option<Side> {
        match self {
            Self::Malformed { side, .. } | Self::OutOfOrder { side, .. } => Some(*side),
            _ => None,
        }
    }

    /// The limit that was reached, where one was. Bounded.
    #[must_use]
    pub fn limit(&self) -> Option<&'static str> {
        match self {
            Self::Limit(what) => Some(what),
            Self::Malformed {
                error: DecodeError::Oversized { tag: '\0', .. },
                ..
            } => Some("startup_packet"),
            Self::Malformed {
                error: DecodeError::Oversized { .. },
                ..
            } => Some("message"),
            Self::Unreachable(error) if error.kind() == io::ErrorKind::TimedOut => Some("dial_time"),
            _ => None,
        }
    }

    /// Whether an operator should read of it.
    #[must_use]
    pub fn is_trouble(&self) -> bool {
        matches!(
            self,
            Self::Malformed { .. }
                | Self::OutOfOrder { .. }
                | Self::Http(_)
                | Self::Limit(_)
                | Self::Refused(_)
                | Self::Handshake { .. }
                | Self::LeftAfterHandshake
                | Self::Credential(_)
                | Self::Unreachable(_)
                | Self::Unmaskable
        )
    }

    /// What the client may read where the target went away without a word: SQLSTATE and text.
    #[must_use]
    pub fn of_target(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::TargetClosed => Some((
                "08006",
                "the database closed the connection without saying why; whether the last statement took effect isn't known",
            )),
            Self::Socket {
                side: Side::Target, ..
            } => Some((
                "08006",
                "the connection to the database was lost; whether the last statement took effect isn't known",
            )),
            _ => None,
        }
    }

    /// What the client may read: SQLSTATE and text. `None` where the connection just closes.
    ///
    /// Never the inner error, which may quote what the target said.
    #[must_use]
    pub fn for_client(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Malformed {
                side: Side::Client, ..
            }
            | Self::OutOfOrder {
                side: Side::Client, ..
            } => Some((
                "08P01",
                "protocol violation: the message is malformed or can't stand here",
            )),
            Self::Malformed {
                side: Side::Target, ..
            }
            | Self::OutOfOrder {
                side: Side::Target, ..
            } => Some((
                "08P01",
                "the server sent a message that can't be understood; the connection is closed",
            )),
            Self::Limit("handshake_time") => Some(("08006", "the connection took too long to start")),
            Self::Limit(_) => Some(("53400", "a limit of the agent on this node was reached")),
            Self::Refused(why) => Some(("0A000", why)),
            Self::Unreachable(_) => Some(("08001", "the agent on this node can't reach the database")),
            Self::Handshake {
                side: Side::Target, ..
            } => Some((
                "08006",
                "the agent on this node can't verify the database by TLS; its log says why and what to do",
            )),
            // As a server whose pg_hba.conf asks for it: clients with sslmode=allow then come again by TLS.
            Self::Unencrypted => Some((
                "28000",
                "the agent on this node lets only encrypted connections through to this database; connect with sslmode=require",
            )),
            Self::Credential(_) => Some((
                "28000",
                "the agent on this node can't authenticate to the database; its log says why and what to do",
            )),
            Self::Outdated => Some((
                "57P01",
                "terminating connection: the policy of this database has changed; connect again",
            )),
            Self::Drained => Some((
                "57P01",
                "terminating connection: the agent on this node is being replaced; connect again",
            )),
            Self::Killed(_, text) => Some(("57P01", text)),
            Self::Unmaskable => Some((
                "42501",
                "the result has columns that must be masked and can't be told from the others",
            )),
            Self::ClientClosed
            | Self::TargetClosed
            | Self::Socket { .. }
            | Self::Denied
            | Self::Http(_)
            | Self::Cancel(_)
            | Self::LeftAfterHandshake
            | Self::Handshake {
                side: Side::Client, ..
            }
            | Self::Unattributed(_) => None,
        }
    }
}

/// What to do about a handshake that failed.
fn mend(side: Side, error: &io::Error) -> &'static str {
    use rustls::{AlertDescription, CertificateError, Error};
    let said = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
    match (side, said) {
        (Side::Target, Some(Error::InvalidCertificate(why))) => match why {
            CertificateError::UnknownIssuer => {
                "give the CA that signed the database's certificate as tls.upstream.caFile"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "give a name of its subjectAltName as tls.upstream.serverName"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "renew the database's certificate"
            }
            _ => "see what its certificate says, and tls.upstream.caFile",
        },
        (
            Side::Target,
            Some(Error::AlertReceived(
                AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure,
            )),
        ) => {
            "the database may ask for a certificate: give the target a credential with certificateFile and keyFile"
        }
        (Side::Target, _) => "see the database's log, and whether it speaks TLS 1.2 or 1.3",
        (
            Side::Client,
            Some(Error::AlertReceived(
                AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::DecryptError,
            )),
        ) => {
            "the client verifies the database by a CA that isn't the one of tls.client; only certificates of the client's CA can be shown to it"
        }
        (Side::Client, Some(Error::AlertReceived(AlertDescription::CertificateExpired))) => {
            "renew the certificate of tls.client"
        }
        (Side::Client, _) => {
            "the client must speak TLS 1.2 or 1.3, and the protocol postgresql where it names one"
        }
    }
}
