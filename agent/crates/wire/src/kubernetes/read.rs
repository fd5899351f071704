//! A body as a value, for whoever decides by what it says.
//!
//! It is the same in every format: as the object is in JSON. What the server could read in another way is no value at all: a key that
//! stands twice, a text that is a number to other readers of YAML, a kind in another case.

use serde_json::{Map, Value};

use super::cbor::Cbor;
use super::json::Json;
use super::schema::{Type, lookup};
use super::walk::{Begin, Leaf, Syntax};
use super::yaml::Yaml;
use super::{Format, MAX_DEPTH, Malformed};

/// Values that a body may have, those that hold others counted, too: the largest objects of clusters have some ten thousands.
pub const MAX_VALUES: usize = 200_000;

/// Reads a body of any of the formats. It is of type `of` where that is known: a body that says to be of another kind isn't read.
///
/// # Errors
/// When it isn't well-formed, is of another kind, has more than [`MAX_VALUES`], is too deep, or could be read in another way.
pub fn read(format: Format, of: Option<Type>, bytes: &[u8]) -> Result<Value, Malformed> {
    let of = of.filter(|of| !of.is_unknown());
    let value = match format {
        Format::Json => {
            let mut json = Json::new(bytes)?;
            let value = all(&mut json)?;
            json.end()?;
            value
        }
        Format::Yaml => {
            let mut yaml = Yaml::new(bytes)?;
            if !yaml.is_plain(bytes) {
                return Err(Malformed::Form);
            }
            let value = all(&mut yaml)?;
            yaml.end()?;
            value
        }
        Format::Cbor => {
            let mut cbor = Cbor::new(bytes)?;
            let value = all(&mut cbor)?;
            cbor.end()?;
            value
        }
        Format::Protobuf => return super::protobuf::value(bytes, of),
    };
    if let Value::Object(members) = &value {
        is_of(members, of)?;
    }
    Ok(value)
}

fn all<'s, S: Syntax<'s>>(syntax: &mut S) -> Result<Value, Malformed> {
    let mut left = MAX_VALUES;
    value(syntax, &mut left, 0)
}

fn value<'s, S: Syntax<'s>>(syntax: &mut S, left: &mut usize, depth: usize) -> Result<Value, Malformed> {
    *left = left.checked_sub(1).ok_or(Malformed::Long)?;
    let begun = syntax.begin()?;
    if depth >= MAX_DEPTH && !matches!(begun, Begin::Leaf(_)) {
        return Err(Malformed::Deep);
    }
    Ok(match begun {
        Begin::Leaf(Leaf::Null) => Value::Null,
        Begin::Leaf(Leaf::Text(text)) => Value::String(text.into_owned()),
        Begin::Leaf(Leaf::Scalar(text)) => scalar(&text)?,
        // In CBOR, where the field's type says which text becomes of it.
        Begin::Leaf(Leaf::Bytes(_)) => return Err(Malformed::Kind),
        Begin::Object(mut open) => {
            let mut members = Map::new();
            while let Some(key) = syntax.key(&mut open)? {
                let held = value(syntax, left, depth + 1)?;
                // Decoders differ in which of two they take.
                if members.insert(key.into_owned(), held).is_some() {
                    return Err(Malformed::Form);
                }
            }
            Value::Object(members)
        }
        Begin::List(mut open) => {
            let mut elements = Vec::new();
            while syntax.more(&mut open)? {
                elements.push(value(syntax, left, depth + 1)?);
            }
            Value::Array(elements)
        }
    })
}

/// A number or a boolean.
pub(super) fn scalar(text: &str) -> Result<Value, Malformed> {
    match text {
        "true" => return Ok(Value::Bool(true)),
        "false" => return Ok(Value::Bool(false)),
        _ => {}
    }
    if let Ok(number) = text.parse::<i64>() {
        return Ok(number.into());
    }
    if let Ok(number) = text.parse::<u64>() {
        return Ok(number.into());
    }
    let number = text.parse::<f64>().map_err(|_| Malformed::Form)?;
    let number = serde_json::Number::from_f64(number).ok_or(Malformed::Form)?;
    Ok(Value::Number(number))
}

/// Whether an object may be of this type, and says itself what it is in one way alone: the server looks for `kind` and `apiVersion` in
/// any case, and for all else in the right one.
fn is_of(members: &Map<String, Value>, of: Option<Type>) -> Result<(), Malformed> {
    let folded = |key: &String| key.to_lowercase().to_uppercase();
    let unclear = |key: &String| {
        !matches!(key.as_str(), "kind" | "apiVersion")
            && matches!(folded(key).as_str(), "KIND" | "APIVERSION")
    };
    if members.keys().any(unclear) {
        return Err(Malformed::Kind);
    }
    let told = |key| match members.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(_) => Err(Malformed::Kind),
    };
    let (version, kind) = (told("apiVersion")?, told("kind")?);
    let Some(of) = of else { return Ok(()) };
    let fits = match (version, kind) {
        (None, None) => true,
        (Some(version), Some(kind)) => lookup(version, kind) == Some(of),
        // The server takes what is missing from the path.
        (None, Some(_)) | (Some(_), None) => false,
    };
    if fits { Ok(()) } else { Err(Malformed::Kind) }
}

#[cfg(test)]
mod tests;
