//! `recording:` as it is written: a level's name, or what is to be kept in full.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::Spanned;

/// A level by its name. SQL has its own, and the Kubernetes API those of its audit policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub(in super::super) enum LevelName {
    /// Who, when and what kind.
    Metadata,
    /// The statement's text, too.
    Statement,
    /// The values bound to it, too.
    Values,
    /// The rows that the client saw, too.
    Results,
    /// Of the Kubernetes API, the request's body, too.
    Request,
    /// Of the Kubernetes API, the object that came back, too.
    RequestResponse,
}

/// `recording: Values`, or `recording: { level: Results, digest: true, maxRows: 20, maxBytes: 16384 }`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in super::super) struct RecordingFields {
    /// How much is kept: `Statement`, if left out.
    pub(in super::super) level: Option<LevelName>,
    /// Whether a SHA-256 of each answer is kept. Databases alone; `false`, if left out.
    pub(in super::super) digest: Option<Spanned<bool>>,
    /// Rows of an answer that are kept at level `Results`, at most 100000: 100, if left out.
    pub(in super::super) max_rows: Option<Spanned<u64>>,
    /// Bytes of an operation's values that are kept, and as many of its answer, at most 16777216: 65536, if left out.
    pub(in super::super) max_bytes: Option<Spanned<u64>>,
}

/// `recording`, in either form.
#[derive(Debug, Default)]
pub(in super::super) struct RecordingSpec(pub(in super::super) RecordingFields);

impl<'de> Deserialize<'de> for RecordingSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = RecordingSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a level (Metadata, Statement, Values, Results; of the API Metadata, Request, RequestResponse) or fields of `recording`",
                )
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<RecordingSpec, E> {
                let level = LevelName::deserialize(StrDeserializer::new(name)).map(Some)?;
                Ok(RecordingSpec(RecordingFields {
                    level,
                    ..RecordingFields::default()
                }))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RecordingSpec, A::Error> {
                RecordingFields::deserialize(MapAccessDeserializer::new(map)).map(RecordingSpec)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for RecordingSpec {
    fn schema_name() -> Cow<'static, str> {
        "RecordingSpec".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "oneOf": [
                generator.subschema_for::<LevelName>(),
                generator.subschema_for::<RecordingFields>(),
            ]
        })
    }
}
