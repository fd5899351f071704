//! The resources as they are written.

pub(super) mod connection;
mod recording;
mod request;

use std::collections::BTreeMap;

use bailiff_model::{Condition, Effect, FailureMode, Mode, Protocol, SourceAddress, SqlEffect, WhenFull};
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::detect::Detector;
use crate::mask::MaskedUse;
use connection::{ConnectAsSpec, CredentialSpec, TlsSpec};

pub(super) use recording::{LevelName, RecordingSpec};
pub(super) use request::{IdentitiesSpec, ImpersonatesSpec, RequestSpec};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Head {
    pub(super) api_version: String,
    pub(super) kind: String,
}

#[derive(Debug)]
pub(super) enum Document {
    Target(Box<Resource<TargetSpec>>),
    Policy(Box<Resource<PolicySpec>>),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Resource<S> {
    #[serde(rename = "apiVersion")]
    pub(super) _api_version: String,
    #[serde(rename = "kind")]
    pub(super) _kind: String,
    pub(super) metadata: Metadata,
    pub(super) spec: S,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    pub(super) name: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TargetSpec {
    pub(super) protocol: Protocol,
    pub(super) endpoints: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) failure_mode: FailureMode,
    #[serde(default)]
    pub(super) source_address: SourceAddress,
    #[serde(default = "deny")]
    pub(super) default: Effect,
    #[serde(default = "deny")]
    pub(super) unknown: Effect,
    #[serde(default)]
    pub(super) recording: TargetRecording,
    pub(super) search_path: Option<Spanned<Vec<String>>>,
    #[serde(default)]
    pub(super) plain_relations: Vec<Spanned<String>>,
    pub(super) tls: Option<TlsSpec>,
    pub(super) credential: Option<Spanned<CredentialSpec>>,
    pub(super) catalog: Option<Spanned<CredentialSpec>>,
    pub(super) identity: Option<Spanned<IdentitySpec>>,
}

/// `{issuer: https://kubernetes.default.svc, audiences: [https://kubernetes.default.svc], keySetFile: /etc/bailiff/jwks.json}`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct IdentitySpec {
    pub(super) issuer: String,
    pub(super) audiences: Vec<String>,
    pub(super) key_set_file: String,
    #[serde(default)]
    pub(super) further_issuers: Vec<Spanned<FurtherIssuerSpec>>,
    #[serde(default)]
    pub(super) token_review: bool,
    pub(super) client_certificates: Option<Spanned<ClientCertificatesSpec>>,
}

/// `{caFile: /etc/bailiff/client-ca.crt, impersonate: {tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token}}`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ClientCertificatesSpec {
    pub(super) ca_file: String,
    pub(super) impersonate: Option<ImpersonateSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ImpersonateSpec {
    pub(super) token_file: String,
}

/// Another one, as the API server's --oidc-… flags name its parts.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct FurtherIssuerSpec {
    pub(super) issuer: String,
    pub(super) audiences: Vec<String>,
    pub(super) key_set_file: String,
    #[serde(default)]
    pub(super) service_accounts: bool,
    pub(super) username_claim: Option<String>,
    pub(super) username_prefix: Option<String>,
    pub(super) groups_claim: Option<String>,
    pub(super) groups_prefix: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TargetRecording {
    #[serde(default)]
    pub(super) when_full: WhenFull,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PolicySpec {
    #[serde(default)]
    pub(super) mode: Mode,
    pub(super) targets: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) subjects: Vec<Spanned<SubjectSpec>>,
    #[serde(default)]
    pub(super) rules: Vec<RuleSpec>,
    #[serde(default)]
    pub(super) masks: Vec<MaskSpec>,
    #[serde(default)]
    pub(super) detect: Vec<DetectSpec>,
    #[serde(default)]
    pub(super) recording: RecordingSpec,
    pub(super) connect_as: Option<Spanned<ConnectAsSpec>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SubjectSpec {
    pub(super) namespaces: Option<Spanned<Vec<String>>>,
    pub(super) service_accounts: Option<Spanned<Vec<String>>>,
    pub(super) pods: Option<Spanned<Vec<String>>>,
    pub(super) pod_labels: Option<Spanned<BTreeMap<String, String>>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RuleSpec {
    pub(super) name: Spanned<String>,
    pub(super) effects: Option<Spanned<Vec<SqlEffect>>>,
    pub(super) requests: Option<Spanned<Vec<Spanned<RequestSpec>>>>,
    pub(super) relations: Option<Spanned<Vec<String>>>,
    pub(super) functions: Option<Spanned<Vec<String>>>,
    #[serde(rename = "where")]
    pub(super) conditions: Option<Spanned<Vec<Condition>>>,
    pub(super) rows: Option<Spanned<Above>>,
    pub(super) limit: Option<Spanned<Limit>>,
    pub(super) statements: Option<Spanned<Above>>,
    pub(super) masked: Option<Spanned<Vec<MaskedUse>>>,
    pub(super) action: Effect,
    pub(super) message: Option<String>,
    pub(super) recording: Option<RecordingSpec>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Above {
    pub(super) above: u64,
}

/// Of a LIMIT, the only thing that a rule can be about.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) enum Limit {
    Missing,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct MaskSpec {
    #[serde(default)]
    pub(super) columns: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) types: Vec<Spanned<String>>,
    pub(super) fields: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) groups: Option<Spanned<Vec<String>>>,
    pub(super) resources: Option<Spanned<Vec<String>>>,
    pub(super) namespaces: Option<Spanned<Vec<String>>>,
    pub(super) names: Option<Spanned<Vec<String>>>,
    #[serde(rename = "with")]
    pub(super) action: Spanned<ActionSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DetectSpec {
    pub(super) find: Spanned<Vec<Detector>>,
    pub(super) relations: Option<Spanned<Vec<String>>>,
    pub(super) groups: Option<Spanned<Vec<String>>>,
    pub(super) resources: Option<Spanned<Vec<String>>>,
    pub(super) namespaces: Option<Spanned<Vec<String>>>,
    pub(super) names: Option<Spanned<Vec<String>>>,
    #[serde(rename = "with")]
    pub(super) action: Spanned<ActionSpec>,
    #[serde(default)]
    pub(super) whole: bool,
}

/// How a [`MaskAction`](crate::MaskAction) is written: `Redact`, `"Null"`, `{KeepLast: 4}` or `{Hash: {keyFile: /path}}`.
#[derive(Debug, Deserialize)]
pub(super) enum ActionSpec {
    KeepLast(u8),
    Hash(HashSpec),
    Redact,
    Null,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct HashSpec {
    pub(super) key_file: String,
}

fn deny() -> Effect {
    Effect::Deny
}
