//! Requests to the Kubernetes API as rules write them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use bailiff_model::TokenState;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Unexpected, Visitor};

use super::Spanned;

/// `{verbs: [get, list], groups: [""], resources: [pods, pods/log]}`, or `{verbs: [get], paths: ["/healthz*"]}`.
/// What is given must all match, and what is left out may be anything; `*` stands for any characters.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in super::super) struct RequestSpec {
    /// Verbs as the server's authorization has them, methods in lower case for `paths`, or `*`. Denying `get` denies `list` and
    /// `watch`, too.
    pub(in super::super) verbs: Option<Spanned<Vec<String>>>,
    /// API groups, `""` for the core's.
    pub(in super::super) groups: Option<Spanned<Vec<String>>>,
    /// Resources and subresources: `pods`, `pods/log`, `pods/*`, `*/scale`, `*`. What opens a way past other rules (`pods/exec`) is
    /// allowed only by its name.
    pub(in super::super) resources: Option<Spanned<Vec<String>>>,
    /// Namespaces.
    pub(in super::super) namespaces: Option<Spanned<Vec<String>>>,
    /// Names of objects.
    pub(in super::super) names: Option<Spanned<Vec<String>>>,
    /// Paths that are no resources: `/version`, `/openapi/*`. Either these or what only resources have.
    pub(in super::super) paths: Option<Spanned<Vec<String>>>,
    /// Whether the server keeps nothing.
    pub(in super::super) dry_run: Option<Spanned<bool>>,
    /// Containers of exec and attach.
    pub(in super::super) containers: Option<Spanned<Vec<String>>>,
    /// Commands of exec, a pattern for each argument, and a last `*` for any further ones: `ls *`.
    pub(in super::super) commands: Option<Spanned<Vec<String>>>,
    /// Whether exec or attach asks for a terminal.
    pub(in super::super) tty: Option<Spanned<bool>>,
    /// What the request shows of who it is. It takes the target's `identity`.
    pub(in super::super) tokens: Option<Spanned<Vec<TokenState>>>,
    /// Who that is. It takes the target's `identity`.
    pub(in super::super) identity: Option<Spanned<IdentitiesSpec>>,
    /// As whom it acts: `Any`, `None`, or `{users, groups, uids, extra}`.
    pub(in super::super) impersonates: Option<Spanned<ImpersonatesSpec>>,
    /// Whether pods that it makes or changes mount secrets, or have them in their environment.
    pub(in super::super) mounts_secrets: Option<Spanned<bool>>,
    /// Which secrets those are.
    pub(in super::super) secrets: Option<Spanned<Vec<String>>>,
    /// Service accounts under which those pods run.
    pub(in super::super) service_accounts: Option<Spanned<Vec<String>>>,
    /// Images of those pods, as they are written: `registry.example/*`.
    pub(in super::super) images: Option<Spanned<Vec<String>>>,
    /// An expression in CEL over `request` and `object`: `object.spec.replicas <= 10`.
    pub(in super::super) when: Option<Spanned<String>>,
}

/// `{users: ["system:serviceaccount:shop:*"], groups: ["sso:ops"]}`.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in super::super) struct IdentitiesSpec {
    /// Users' names, as `system:serviceaccount:shop:*`.
    pub(in super::super) users: Option<Spanned<Vec<String>>>,
    /// Groups that they are in.
    pub(in super::super) groups: Option<Spanned<Vec<String>>>,
}

/// `Any`, `None` or `{users: ["dev-*"], groups: [developers]}`.
#[derive(Debug)]
pub(in super::super) enum ImpersonatesSpec {
    /// As anybody else.
    Any,
    /// As nobody else.
    None,
    /// As these.
    These(Box<ImpersonatedSpec>),
}

/// What is given must all match.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in super::super) struct ImpersonatedSpec {
    /// Users' names. Rules that allow need them.
    pub(in super::super) users: Option<Spanned<Vec<String>>>,
    /// Groups that it acts as a member of.
    pub(in super::super) groups: Option<Spanned<Vec<String>>>,
    /// Uids of users.
    pub(in super::super) uids: Option<Spanned<Vec<String>>>,
    /// Further attributes by their keys, each with its values: `{example.com/scopes: [view]}`.
    pub(in super::super) extra: Option<BTreeMap<String, Spanned<Vec<String>>>>,
}

impl<'de> Deserialize<'de> for ImpersonatesSpec {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = ImpersonatesSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`Any`, `None` or {users, groups, uids, extra}")
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Self::Value, E> {
                match word {
                    "Any" => Ok(ImpersonatesSpec::Any),
                    "None" => Ok(ImpersonatesSpec::None),
                    other => Err(E::invalid_value(Unexpected::Str(other), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                ImpersonatedSpec::deserialize(MapAccessDeserializer::new(map))
                    .map(|these| ImpersonatesSpec::These(Box::new(these)))
            }
        }

        from.deserialize_any(Either)
    }
}

impl JsonSchema for ImpersonatesSpec {
    fn schema_name() -> Cow<'static, str> {
        "ImpersonatesSpec".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "oneOf": [
                { "const": "Any", "description": "As anybody else." },
                { "const": "None", "description": "As nobody else." },
                generator.subschema_for::<ImpersonatedSpec>(),
            ]
        })
    }
}
