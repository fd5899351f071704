//! The resources as they are written.
//!
//! The CRDs are made from these types (`crd.rs`): what stands above a field is what `kubectl explain` shows of it.

pub(super) mod connection;
mod recording;
mod request;
mod spanned;

use std::borrow::Cow;
use std::collections::BTreeMap;

use bailiff_model::{Condition, Effect, FailureMode, Mode, Protocol, SourceAddress, SqlEffect, WhenFull};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use crate::detect::Detector;
use crate::mask::MaskedUse;
use connection::{ConnectAsSpec, CredentialSpec, TlsSpec};

pub(super) use recording::{LevelName, RecordingSpec};
pub(super) use request::{IdentitiesSpec, ImpersonatesSpec, RequestSpec};
pub(super) use spanned::Spanned;

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

/// Where the target is, and how it is treated.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TargetSpec {
    /// What is spoken there.
    pub(super) protocol: Protocol,
    /// Addresses that are diverted: `10.0.0.5:5432`, `10.0.0.0/24:5432`, `[fd00::5]:5432`, `[fd00::/64]:*`. The longest prefix
    /// wins, then an exact port. Names are not resolved. A target has endpoints or services, or both.
    #[serde(default)]
    pub(super) endpoints: Vec<Spanned<String>>,
    /// Services of the cluster behind which the target is, at most 16: their cluster, external and load balancers' addresses, and
    /// those of all that is behind them, as they change. Node ports aren't among them. Databases alone.
    #[serde(default)]
    pub(super) services: Vec<Spanned<ServiceSpec>>,
    /// What becomes of new connections while the agent doesn't answer.
    #[serde(default)]
    pub(super) failure_mode: FailureMode,
    /// From where the target is dialed.
    #[serde(default)]
    pub(super) source_address: SourceAddress,
    /// What becomes of that which no rule names.
    #[serde(default = "deny")]
    pub(super) default: Effect,
    /// What becomes of that which can't be parsed or told. Where a mask is in force, it is always refused.
    #[serde(default = "deny")]
    pub(super) unknown: Effect,
    /// What the record is worth to operations at this target.
    #[serde(default)]
    pub(super) recording: TargetRecording,
    /// Schemas in which a bare name is looked for: `[public]`, if left out. A list that isn't the database's makes rules that allow
    /// wrong. Databases alone.
    pub(super) search_path: Option<Spanned<Vec<String>>>,
    /// Relations, as `schema.name` with `*` for any characters, that are neither views over masked tables nor partitions or parents
    /// of them. Databases alone.
    #[serde(default)]
    pub(super) plain_relations: Vec<Spanned<String>>,
    /// TLS on both sides. Left out, there is none.
    pub(super) tls: Option<TlsSpec>,
    /// By what the agent authenticates, so that clients aren't asked: a password, or a certificate with its key. Databases alone.
    pub(super) credential: Option<Spanned<CredentialSpec>>,
    /// As whom the agent reads which tables, views and functions there are, so that masks follow the data; the credential, if left
    /// out. Databases alone.
    pub(super) catalog: Option<Spanned<CredentialSpec>>,
    /// Who makes the clients' tokens. Left out, they aren't read. The Kubernetes API alone.
    pub(super) identity: Option<Spanned<IdentitySpec>>,
}

/// `{namespace: shop, name: postgres, port: 5432}`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ServiceSpec {
    /// The Service's namespace. Whoever may write Services or EndpointSlices there has a say in which addresses are diverted.
    pub(super) namespace: String,
    /// Its name.
    pub(super) name: String,
    /// The Service's own port, by number or name. Left out, it is the only one that the Service has.
    pub(super) port: Option<PortSpec>,
}

/// `5432`, or `postgres`.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum PortSpec {
    Number(i64),
    Name(String),
}

impl JsonSchema for PortSpec {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "PortSpec".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-int-or-string": true })
    }
}

/// `{tokenReview: true}`, or `{issuer: https://kubernetes.default.svc, audiences: [https://kubernetes.default.svc], keySetFile: /etc/bailiff/jwks.json}`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct IdentitySpec {
    /// The issuer of service accounts' tokens, as the API server's --service-account-issuer: `https://kubernetes.default.svc`. Left out, with
    /// `audiences` and `keySetFile`, the API server says whose tokens are (`tokenReview`).
    pub(super) issuer: Option<String>,
    /// The audiences that the API server takes, as its --api-audiences; a token is for one of them.
    #[serde(default)]
    pub(super) audiences: Vec<String>,
    /// The issuer's public keys: a JSON Web Key Set on the node, such as `/etc/bailiff/jwks.json`.
    pub(super) key_set_file: Option<String>,
    /// Other issuers that the API server takes tokens of, such as those of its OIDC settings; at most 16.
    #[serde(default)]
    pub(super) further_issuers: Vec<Spanned<FurtherIssuerSpec>>,
    /// Whether the agent's own API server is asked about tokens that no key verifies: about all, where there is no `issuer`. `false`, if left out.
    #[serde(default)]
    pub(super) token_review: bool,
    /// By which clients' certificates are verified, where they show one in place of a token. Left out, none is asked for.
    pub(super) client_certificates: Option<Spanned<ClientCertificatesSpec>>,
}

/// `{caFile: /etc/bailiff/client-ca.crt, impersonate: {tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token}}`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ClientCertificatesSpec {
    /// PEM of the CAs that sign clients' certificates, as the API server's --client-ca-file: `/etc/bailiff/client-ca.crt`.
    pub(super) ca_file: String,
    /// How the API server is told who that is: the agent asks as itself, and acts as them. Left out, such requests are refused.
    pub(super) impersonate: Option<ImpersonateSpec>,
}

/// The agent's own credential, with the right to impersonate those users.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ImpersonateSpec {
    /// The agent's token, read anew when it changes: `/var/run/secrets/kubernetes.io/serviceaccount/token`.
    pub(super) token_file: String,
}

/// Another one, as the API server's --oidc-… flags name its parts.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct FurtherIssuerSpec {
    /// The issuer, as --oidc-issuer-url.
    pub(super) issuer: String,
    /// Audiences of which a token is for one, as --oidc-client-id.
    pub(super) audiences: Vec<String>,
    /// The issuer's public keys: a JSON Web Key Set on the node.
    pub(super) key_set_file: String,
    /// Whether its tokens are service accounts', as the cluster's own; claims and prefixes say nothing then. `false`, if left out.
    #[serde(default)]
    pub(super) service_accounts: bool,
    /// The claim with the user's name, as --oidc-username-claim: `sub`, if left out.
    pub(super) username_claim: Option<String>,
    /// What goes before it, as --oidc-username-prefix: the issuer and `#`, or nothing before an `email`, if left out; `-` is
    /// nothing, too.
    pub(super) username_prefix: Option<String>,
    /// The claim with the user's groups, as --oidc-groups-claim. Left out, there are none.
    pub(super) groups_claim: Option<String>,
    /// What goes before each group, as --oidc-groups-prefix: nothing, if left out.
    pub(super) groups_prefix: Option<String>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TargetRecording {
    /// What becomes of an operation while it can't be recorded.
    #[serde(default)]
    pub(super) when_full: WhenFull,
}

/// Whom it is about, and what holds for them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PolicySpec {
    /// Whether the policy decides.
    #[serde(default)]
    pub(super) mode: Mode,
    /// Names of the Targets that it is about, or `*` for all that speak what it is about.
    pub(super) targets: Vec<Spanned<String>>,
    /// Which hops of a chain it is about: those that one of these describes. Left out, everybody.
    #[serde(default)]
    pub(super) subjects: Vec<Spanned<SubjectSpec>>,
    /// What is allowed and what isn't. Of all rules of all policies the strictest counts, and what none names is for the target's
    /// `default`.
    #[serde(default)]
    pub(super) rules: Vec<RuleSpec>,
    /// What is hidden by its place: columns or types of databases, or fields of the Kubernetes API's objects.
    #[serde(default)]
    pub(super) masks: Vec<MaskSpec>,
    /// What is hidden by its form, wherever it stands.
    #[serde(default)]
    pub(super) detect: Vec<DetectSpec>,
    /// How much is recorded of what the policy is about: `Statement`, if left out.
    #[serde(default)]
    pub(super) recording: RecordingSpec,
    /// As whom the subjects connect. Databases alone.
    pub(super) connect_as: Option<Spanned<ConnectAsSpec>>,
}

/// What is given must all match; `*` stands for any characters.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SubjectSpec {
    /// Namespaces of pods.
    pub(super) namespaces: Option<Spanned<Vec<String>>>,
    /// Service accounts' names.
    pub(super) service_accounts: Option<Spanned<Vec<String>>>,
    /// Names of pods.
    pub(super) pods: Option<Spanned<Vec<String>>>,
    /// Labels of pods, each with its value: `{app: helper}`.
    pub(super) pod_labels: Option<Spanned<BTreeMap<String, String>>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RuleSpec {
    /// What records and messages call it; no other rule of the policy has this name.
    pub(super) name: Spanned<String>,
    /// What statements do. A rule that forbids matches what does any of them; rules that allow must together cover all. Either this
    /// or `requests`.
    pub(super) effects: Option<Spanned<Vec<SqlEffect>>>,
    /// Requests to the Kubernetes API: one of these must match. Either this or `effects`.
    pub(super) requests: Option<Spanned<Vec<Spanned<RequestSpec>>>>,
    /// Relations that a statement touches, as `schema.name` with `*` for any characters. Left out, any. Databases alone.
    pub(super) relations: Option<Spanned<Vec<String>>>,
    /// Functions that a statement calls, as `schema.name`, or a bare name for any schema. Left out, any. Databases alone.
    pub(super) functions: Option<Spanned<Vec<String>>>,
    /// Only statements that go through a relation without a condition, or with one that always holds. For rules that forbid.
    /// Databases alone.
    #[serde(rename = "where")]
    pub(super) conditions: Option<Spanned<Vec<Condition>>>,
    /// Only statements that go through more rows of a relation, as the server estimates. For rules that forbid. Databases alone.
    pub(super) rows: Option<Spanned<Above>>,
    /// Only statements that return rows without a LIMIT. For rules that forbid. Databases alone.
    pub(super) limit: Option<Spanned<Limit>>,
    /// Only texts with more statements: `{above: 1}`. For rules that forbid. Databases alone.
    pub(super) statements: Option<Spanned<Above>>,
    /// Uses of masked columns that the rule allows, which would tell of what is hidden. For rules that allow. Databases alone.
    pub(super) masked: Option<Spanned<Vec<MaskedUse>>>,
    /// What becomes of what matches.
    pub(super) action: Effect,
    /// What the caller reads when it is refused.
    pub(super) message: Option<String>,
    /// How much more is recorded of what matches.
    pub(super) recording: Option<RecordingSpec>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Above {
    /// It must be more than this.
    pub(super) above: u64,
}

/// Of a LIMIT, the only thing that a rule can be about.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
pub(super) enum Limit {
    /// There is none.
    Missing,
}

/// Either `columns` and `types`, or `fields` of `resources`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct MaskSpec {
    /// Columns, as `schema.table.column` with `*` for any characters.
    #[serde(default)]
    pub(super) columns: Vec<Spanned<String>>,
    /// Types of which all columns are masked, as `pg_type` has them: `inet`, or `schema.type`. It takes the target's catalog.
    #[serde(default)]
    pub(super) types: Vec<Spanned<String>>,
    /// Paths of fields: `data.*`, `spec.containers.env.value`, `**.env.value`, `metadata.annotations["example.com/*"]`.
    pub(super) fields: Option<Spanned<Vec<Spanned<String>>>>,
    /// API groups of the resources, `""` for the core's. Left out, any.
    pub(super) groups: Option<Spanned<Vec<String>>>,
    /// Whose fields these are, in the plural: `secrets`.
    pub(super) resources: Option<Spanned<Vec<String>>>,
    /// Namespaces of the objects. Left out, any.
    pub(super) namespaces: Option<Spanned<Vec<String>>>,
    /// Names of the objects. Left out, any.
    pub(super) names: Option<Spanned<Vec<String>>>,
    /// What is put in place of a value: `Redact`, `"Null"`, `{KeepLast: 4}` or `{Hash: {keyFile: /etc/bailiff/mask.key}}`.
    #[serde(rename = "with")]
    pub(super) action: Spanned<ActionSpec>,
}

/// Databases have `relations`; the Kubernetes API has `resources`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DetectSpec {
    /// What is looked for.
    pub(super) find: Spanned<Vec<Detector>>,
    /// Only in results that may read these relations, as `schema.name`. Left out, in all results. Databases alone.
    pub(super) relations: Option<Spanned<Vec<String>>>,
    /// API groups of the resources, `""` for the core's. Left out, any.
    pub(super) groups: Option<Spanned<Vec<String>>>,
    /// In whose objects it is looked for, in the plural: `configmaps`.
    pub(super) resources: Option<Spanned<Vec<String>>>,
    /// Namespaces of the objects. Left out, any.
    pub(super) namespaces: Option<Spanned<Vec<String>>>,
    /// Names of the objects. Left out, any.
    pub(super) names: Option<Spanned<Vec<String>>>,
    /// What is put in place of what is found: `Redact`, `"Null"`, `{KeepLast: 4}` or `{Hash: {keyFile: /etc/bailiff/mask.key}}`.
    #[serde(rename = "with")]
    pub(super) action: Spanned<ActionSpec>,
    /// Whether the whole value is masked, and not only the part that is found. `false`, if left out.
    #[serde(default)]
    pub(super) whole: bool,
}

/// How a `MaskAction` is written: `Redact`, `"Null"`, `{KeepLast: 4}` or `{Hash: {keyFile: /path}}`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) enum ActionSpec {
    /// `****` and the last characters, from 1 to 16 of them, of texts that have at least twice as many.
    KeepLast(#[schemars(range(min = 1, max = 16))] u8),
    /// A keyed hash of the value: the same value has the same hash everywhere.
    Hash(HashSpec),
    /// `[masked]`; null where the type isn't a text.
    Redact,
    /// Null.
    Null,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct HashSpec {
    /// A file of 32 to 4096 random bytes on the node, which is read again when it changes: `/etc/bailiff/mask.key`.
    pub(super) key_file: String,
}

fn deny() -> Effect {
    Effect::Deny
}
