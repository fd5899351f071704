//! TLS and credentials as they are written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Spanned;
use crate::connection::{ClientTlsMode, UpstreamTlsMode};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::load) struct TlsSpec {
    /// What clients are shown. Left out, they get no TLS.
    #[serde(default)]
    pub(in crate::load) client: Option<Spanned<ClientTlsSpec>>,
    /// How the target is verified. Left out, it is spoken to without TLS.
    #[serde(default)]
    pub(in crate::load) upstream: Option<Spanned<UpstreamTlsSpec>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::load) struct ClientTlsSpec {
    /// Whether clients get TLS. The Kubernetes API takes `Require`.
    pub(in crate::load) mode: ClientTlsMode,
    /// PEM of a certificate for the target's names, with the chain to its CA. Its key is `keyFile`.
    pub(in crate::load) certificate_file: Option<Spanned<String>>,
    /// PEM of the certificate's key.
    pub(in crate::load) key_file: Option<Spanned<String>>,
    /// PEM of a CA that clients trust: certificates are minted from it. Its key is `caKeyFile`.
    pub(in crate::load) ca_certificate_file: Option<Spanned<String>>,
    /// PEM of the CA's key.
    pub(in crate::load) ca_key_file: Option<Spanned<String>>,
    /// For whom certificates are minted or asked for: DNS names, `*.name` or IP addresses. Left out, the name that a client says
    /// and the address that it dialed.
    pub(in crate::load) names: Option<Spanned<Vec<Spanned<String>>>>,
    /// Have the cluster sign the certificate: `{}` does. The Kubernetes API alone.
    pub(in crate::load) csr: Option<Spanned<CsrSpec>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::load) struct CsrSpec {
    /// Who signs: `kubernetes.io/kubelet-serving`, if left out, whose CA pods trust in clusters as they come.
    pub(in crate::load) signer: Option<Spanned<String>>,
    /// PEM of the CA by which clients verify it: `tls.upstream.caFile`, if left out.
    pub(in crate::load) ca_file: Option<Spanned<String>>,
    /// For how many seconds the certificate is asked for, from 600 to 2592000: 86400, if left out.
    pub(in crate::load) expiration_seconds: Option<Spanned<u32>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::load) struct UpstreamTlsSpec {
    /// Whether TLS is used. The Kubernetes API takes `Verify`.
    pub(in crate::load) mode: UpstreamTlsMode,
    /// PEM of the CAs that may have signed the target's certificate.
    pub(in crate::load) ca_file: Option<Spanned<String>>,
    /// The name that the certificate must be for: the address, if left out.
    pub(in crate::load) server_name: Option<Spanned<String>>,
    /// Whether the handshake begins without asking, which PostgreSQL 17 and later understand. `false`, if left out.
    #[serde(default)]
    pub(in crate::load) direct: bool,
}

/// `passwordFile`, or `certificateFile` and `keyFile`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::load) struct CredentialSpec {
    /// The user: the one that the client asks for, if left out. `catalog` takes one.
    pub(in crate::load) user: Option<Spanned<String>>,
    /// A file whose first line is the password, on the node.
    pub(in crate::load) password_file: Option<Spanned<String>>,
    /// PEM of a client certificate, with the chain to its CA.
    pub(in crate::load) certificate_file: Option<Spanned<String>>,
    /// PEM of the certificate's key.
    pub(in crate::load) key_file: Option<Spanned<String>>,
}

/// `user`, `database` or both; with the user `passwordFile`, or `certificateFile` and `keyFile`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::load) struct ConnectAsSpec {
    /// The user, in place of the one that the client asks for.
    pub(in crate::load) user: Option<Spanned<String>>,
    /// The database, in place of the one that the client asks for.
    pub(in crate::load) database: Option<Spanned<String>>,
    /// A file whose first line is the password, on the node.
    pub(in crate::load) password_file: Option<Spanned<String>>,
    /// PEM of a client certificate, with the chain to its CA.
    pub(in crate::load) certificate_file: Option<Spanned<String>>,
    /// PEM of the certificate's key.
    pub(in crate::load) key_file: Option<Spanned<String>>,
}
