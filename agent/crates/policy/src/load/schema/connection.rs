//! TLS and credentials as they are written.

use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::connection::{ClientTlsMode, UpstreamTlsMode};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::load) struct TlsSpec {
    #[serde(default)]
    pub(in crate::load) client: Option<Spanned<ClientTlsSpec>>,
    #[serde(default)]
    pub(in crate::load) upstream: Option<Spanned<UpstreamTlsSpec>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::load) struct ClientTlsSpec {
    pub(in crate::load) mode: ClientTlsMode,
    pub(in crate::load) certificate_file: Option<Spanned<String>>,
    pub(in crate::load) key_file: Option<Spanned<String>>,
    pub(in crate::load) ca_certificate_file: Option<Spanned<String>>,
    pub(in crate::load) ca_key_file: Option<Spanned<String>>,
    pub(in crate::load) names: Option<Spanned<Vec<Spanned<String>>>>,
    pub(in crate::load) csr: Option<Spanned<CsrSpec>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::load) struct CsrSpec {
    pub(in crate::load) signer: Option<Spanned<String>>,
    pub(in crate::load) ca_file: Option<Spanned<String>>,
    pub(in crate::load) expiration_seconds: Option<Spanned<u32>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::load) struct UpstreamTlsSpec {
    pub(in crate::load) mode: UpstreamTlsMode,
    pub(in crate::load) ca_file: Option<Spanned<String>>,
    pub(in crate::load) server_name: Option<Spanned<String>>,
    #[serde(default)]
    pub(in crate::load) direct: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::load) struct CredentialSpec {
    pub(in crate::load) user: Option<Spanned<String>>,
    pub(in crate::load) password_file: Option<Spanned<String>>,
    pub(in crate::load) certificate_file: Option<Spanned<String>>,
    pub(in crate::load) key_file: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::load) struct ConnectAsSpec {
    pub(in crate::load) user: Option<Spanned<String>>,
    pub(in crate::load) database: Option<Spanned<String>>,
    pub(in crate::load) password_file: Option<Spanned<String>>,
    pub(in crate::load) certificate_file: Option<Spanned<String>>,
    pub(in crate::load) key_file: Option<Spanned<String>>,
}
