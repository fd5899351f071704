//! How a target is connected to: TLS on both sides, and as whom.

use std::path::PathBuf;
use std::sync::Arc;

/// TLS towards clients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// Whether it is offered.
    pub mode: ClientTlsMode,
    /// What is presented; always there unless the mode is [`ClientTlsMode::Disabled`].
    pub identity: Option<ServerIdentity>,
}

/// Whether clients get TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
pub enum ClientTlsMode {
    /// Requests for it are answered with no.
    #[default]
    Disabled,
    /// Clients that ask for it get it.
    Prefer,
    /// Clients that don't ask for it are refused.
    Require,
}

/// What is presented to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerIdentity {
    /// A certificate for the database's names, with the chain to its CA.
    Files {
        /// PEM.
        certificate: PathBuf,
        /// PEM.
        key: PathBuf,
    },
    /// Certificates are minted from a CA that clients trust.
    Authority {
        /// PEM.
        certificate: PathBuf,
        /// PEM.
        key: PathBuf,
        /// Names that clients use. Where there are none, the name that the client says (SNI) and the address that it dialed.
        names: Vec<String>,
    },
    /// The cluster is asked for one by a CertificateSigningRequest.
    Requested(SigningRequest),
}

/// What the cluster is asked to sign.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SigningRequest {
    /// The signer's name, such as `kubernetes.io/kubelet-serving`.
    pub signer: String,
    /// DNS names and addresses that clients dial; at least one.
    pub names: Vec<String>,
    /// For how long it shall be valid, in seconds.
    pub expiration_seconds: u32,
    /// PEM of the CA that clients verify by.
    pub ca: PathBuf,
}

/// TLS towards the target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// Whether it is used.
    pub mode: UpstreamTlsMode,
    /// PEM of the CAs that may have signed the target's certificate.
    pub ca: Option<PathBuf>,
    /// The name that its certificate must be for; its address where there is none.
    pub server_name: Option<String>,
    /// Whether the handshake begins without asking, which servers understand from PostgreSQL 17 on.
    pub direct: bool,
}

/// Whether TLS is used towards a target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
pub enum UpstreamTlsMode {
    /// Plain text.
    #[default]
    Disabled,
    /// Where the target offers it, and then verified. Whoever sits between can make it plain text.
    Prefer,
    /// Always, verified.
    Verify,
}

/// As whom a target is connected to, with files that prove it. The agent authenticates, and clients aren't asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The user; where there is none, the one that the client asks for.
    pub user: Option<String>,
    /// What proves it.
    pub proof: Proof,
}

/// What proves a user. Only where it is kept; this crate reads no secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Proof {
    /// A file whose first line is the password.
    Password(PathBuf),
    /// A certificate with its key, both PEM.
    Certificate {
        /// The certificate, with its chain.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
}

/// How the tokens that clients of the Kubernetes API show are verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTokens {
    /// Who makes them; none where the API server is asked about all.
    pub issuers: Vec<TokenIssuer>,
    /// Whether the API server is asked about those of others.
    pub review: bool,
    /// How certificates are taken in place of tokens; `None` where they aren't.
    pub certificates: Option<ClientCertificates>,
}

/// How certificates of the Kubernetes API's clients are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// PEM of the CAs that sign them.
    pub ca: PathBuf,
    /// A file with the token by which the agent acts as those whom they name; `None` where it doesn't.
    pub token: Option<PathBuf>,
}

/// Whom a token of an issuer names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenUsers {
    /// Service accounts, as the cluster's own issuer does.
    ServiceAccounts,
    /// People and programs, as the API server's --oidc-… flags say it.
    Claims {
        /// The claim with the user's name.
        username: String,
        /// What goes before it.
        username_prefix: String,
        /// The claim with the groups.
        groups: Option<String>,
        /// What goes before each.
        groups_prefix: String,
    },
}

/// Who makes tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIssuer {
    /// The issuer, as tokens name it.
    pub issuer: String,
    /// Of these, a token must be for at least one.
    pub audiences: Vec<String>,
    /// A file with its JSON Web Key Set.
    pub key_set: PathBuf,
    /// Whom they name.
    pub users: TokenUsers,
}

/// As whom a chain connects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectAs {
    /// The user in place of the one that the client asks for.
    pub user: Option<Arc<str>>,
    /// The database in place of the one that the client asks for.
    pub database: Option<Arc<str>>,
    /// What proves the user, in place of the target's credential.
    pub proof: Option<Proof>,
}

impl ConnectAs {
    /// Takes up what another policy says. False where the two disagree.
    pub(crate) fn join(&mut self, other: &Self) -> bool {
        let user = match (&self.user, &other.user) {
            (Some(mine), Some(others)) => mine == others && self.proof == other.proof,
            _ => true,
        };
        let database = match (&self.database, &other.database) {
            (Some(mine), Some(others)) => mine == others,
            _ => true,
        };
        if other.user.is_some() {
            self.user.clone_from(&other.user);
            self.proof.clone_from(&other.proof);
        }
        if other.database.is_some() {
            self.database.clone_from(&other.database);
        }
        user && database
    }
}
