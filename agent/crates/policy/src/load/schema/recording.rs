//! `recording:` as it is written: a level's name, or what is to be kept in full.

use std::fmt;

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;

/// A level by its name. SQL has its own, and the Kubernetes API those of its audit policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(in super::super) enum LevelName {
    Metadata,
    Statement,
    Values,
    Results,
    Request,
    RequestResponse,
}

/// `recording: Values`, or `recording: { level: Results, digest: true, maxRows: 20, maxBytes: 16384 }`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in super::super) struct RecordingFields {
    pub(in super::super) level: Option<LevelName>,
    pub(in super::super) digest: Option<Spanned<bool>>,
    pub(in super::super) max_rows: Option<Spanned<u64>>,
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
