//! Requests to the Kubernetes API as rules write them.

use std::collections::BTreeMap;
use std::fmt;

use bailiff_model::TokenState;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Unexpected, Visitor};
use serde_saphyr::Spanned;

/// `{verbs: [get, list], groups: [""], resources: [pods, pods/log]}`, or `{verbs: [get], paths: ["/healthz*"]}`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in super::super) struct RequestSpec {
    pub(in super::super) verbs: Option<Spanned<Vec<String>>>,
    pub(in super::super) groups: Option<Spanned<Vec<String>>>,
    pub(in super::super) resources: Option<Spanned<Vec<String>>>,
    pub(in super::super) namespaces: Option<Spanned<Vec<String>>>,
    pub(in super::super) names: Option<Spanned<Vec<String>>>,
    pub(in super::super) paths: Option<Spanned<Vec<String>>>,
    pub(in super::super) dry_run: Option<Spanned<bool>>,
    pub(in super::super) containers: Option<Spanned<Vec<String>>>,
    pub(in super::super) commands: Option<Spanned<Vec<String>>>,
    pub(in super::super) tty: Option<Spanned<bool>>,
    pub(in super::super) tokens: Option<Spanned<Vec<TokenState>>>,
    pub(in super::super) identity: Option<Spanned<IdentitiesSpec>>,
    pub(in super::super) impersonates: Option<Spanned<ImpersonatesSpec>>,
    pub(in super::super) mounts_secrets: Option<Spanned<bool>>,
    pub(in super::super) secrets: Option<Spanned<Vec<String>>>,
    pub(in super::super) service_accounts: Option<Spanned<Vec<String>>>,
    pub(in super::super) images: Option<Spanned<Vec<String>>>,
    pub(in super::super) when: Option<Spanned<String>>,
}

/// `{users: ["system:serviceaccount:shop:*"], groups: ["sso:ops"]}`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in super::super) struct IdentitiesSpec {
    pub(in super::super) users: Option<Spanned<Vec<String>>>,
    pub(in super::super) groups: Option<Spanned<Vec<String>>>,
}

/// `Any`, `None` or `{users: ["dev-*"], groups: [developers]}`.
#[derive(Debug)]
pub(in super::super) enum ImpersonatesSpec {
    Any,
    None,
    These(Box<ImpersonatedSpec>),
}

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in super::super) struct ImpersonatedSpec {
    pub(in super::super) users: Option<Spanned<Vec<String>>>,
    pub(in super::super) groups: Option<Spanned<Vec<String>>>,
    pub(in super::super) uids: Option<Spanned<Vec<String>>>,
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
