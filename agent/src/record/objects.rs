//! The objects of requests to the Kubernetes API, as they stand in the record: JSON, whatever they came in, without what is masked for
//! whoever sent them and without what detectors find.

use std::io::Read as _;

use bailiff_wire::kubernetes::{Format, object, read};
use flate2::read::GzDecoder;
use serde_json::Value;

use super::detect::conceal;
use super::{Bodies, Body};
use crate::mask::FieldMasker;

/// Compressed bodies become no larger than this.
const MAX_UNPACKED: u64 = 16 << 20;

/// Why a body doesn't stand in the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// It is more than policy has kept.
    Truncated,
    /// It can't be read, or can't be masked.
    Withheld,
}

/// A body as it may be recorded. Nothing where there was none.
pub(super) fn written(bodies: &Bodies, body: &Body) -> Result<Option<Value>, Left> {
    if body.more {
        return Err(Left::Truncated);
    }
    if body.bytes.is_empty() {
        return Ok(None);
    }
    let unpacked;
    let bytes = if body.packed {
        unpacked = unpack(&body.bytes)?;
        unpacked.as_slice()
    } else {
        &body.bytes
    };
    let mut value = read(body.format, None, bytes).map_err(|_| Left::Withheld)?;
    if let Some(masks) = &bodies.masks {
        // Its paths are values there, by which no field is found.
        if body.is_patch {
            return Err(Left::Withheld);
        }
        let plain = serde_json::to_vec(&value).map_err(|_| Left::Withheld)?;
        let mut masker = FieldMasker::new(std::sync::Arc::clone(masks), false);
        let (mut out, of) = (Vec::new(), Some(bodies.of).filter(|of| !of.is_unknown()));
        if object(Format::Json, of, &plain, &mut masker, &mut out).map_err(|_| Left::Withheld)? {
            value = serde_json::from_slice(&out).map_err(|_| Left::Withheld)?;
        }
    }
    hide(&mut value);
    Ok(Some(value))
}

fn unpack(bytes: &[u8]) -> Result<Vec<u8>, Left> {
    let mut unpacked = Vec::new();
    let mut from = GzDecoder::new(bytes).take(MAX_UNPACKED + 1);
    from.read_to_end(&mut unpacked).map_err(|_| Left::Withheld)?;
    if unpacked.len() as u64 > MAX_UNPACKED {
        return Err(Left::Truncated);
    }
    Ok(unpacked)
}

/// Replaces what detectors find in texts. Reading bounds the depth.
fn hide(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let std::borrow::Cow::Owned(hidden) = conceal(text) {
                *text = hidden;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::Object(members) => members.values_mut().for_each(hide),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
