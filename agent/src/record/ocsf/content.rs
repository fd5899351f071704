//! Values and answers as they stand in a line, under `unmapped`. See docs/record.md.

use std::borrow::Cow;

use bailiff_wire::postgres::backend::{DataRow, RowDescription};
use bailiff_wire::postgres::content::is_binary;
use bailiff_wire::postgres::{Limits, next_frame};
use serde::Serialize;

use super::super::content::{Answer, Bound, BoundValue, Content, Values};
use super::super::detect::conceal;
use super::super::render::{hex, is_no_text, text_of, type_name};

/// Something that is there only in part.
#[derive(Serialize)]
struct Truncated {
    field: &'static str,
    kept: u64,
    of: u64,
}

/// One value.
#[derive(Serialize, Default)]
struct Value {
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<String>,
    /// Null is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Option<String>>,
    /// In binary format, of a type that isn't known.
    #[serde(skip_serializing_if = "Option::is_none")]
    hex: Option<String>,
    /// A detector found something in it, which was replaced.
    #[serde(skip_serializing_if = "is_false")]
    masked: bool,
    /// It is too long to be kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out_bytes: Option<usize>,
}

#[derive(Serialize)]
struct Result {
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    messages: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sets: Vec<Set>,
}

/// Rows of one statement, or what COPY sent.
#[derive(Serialize, Default)]
struct Set {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    columns: Vec<Column>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rows: Vec<Vec<Cell>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    copy: Vec<Cell>,
}

#[derive(Serialize, Clone)]
struct Column {
    name: String,
    r#type: String,
    #[serde(skip)]
    oid: u32,
    #[serde(skip)]
    binary: bool,
}

/// A value of a row: a text, null, or bytes of which can't be told what they say.
#[derive(Serialize)]
#[serde(untagged)]
enum Cell {
    Text(Option<String>),
    Hex { hex: String },
}

/// Writes the fields, each with a comma before it.
pub(super) fn write(content: &Content, out: &mut Vec<u8>) {
    let mut truncated = Vec::new();
    match &content.values {
        Some(Values::Kept { bound, types }) => {
            field("values", &values(bound, types.as_deref(), &mut truncated), out);
        }
        Some(Values::Withheld(why)) => field("values_withheld", why, out),
        None => {}
    }
    if let Some(answer) = &content.answer {
        field("result", &result(answer, &mut truncated), out);
    }
    if !truncated.is_empty() {
        field("truncated", &truncated, out);
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

fn field(name: &str, value: &impl Serialize, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    // Writing into memory can't fail, and none of the types has keys that aren't texts.
    let _ = serde_json::to_writer(&mut *out, value);
}

fn named(oid: u32) -> String {
    type_name(oid).map_or_else(|| oid.to_string(), str::to_owned)
}

fn values(bound: &Bound, types: Option<&[u32]>, truncated: &mut Vec<Truncated>) -> Vec<Value> {
    let (mut values, mut kept) = (Vec::new(), 0);
    for (place, value) in bound.values().enumerate() {
        let oid = types
            .and_then(|types| types.get(place))
            .copied()
            .filter(|oid| *oid != 0);
        let r#type = oid.map(named);
        kept += u64::from(!matches!(value, BoundValue::Left { .. }));
        values.push(match value {
            BoundValue::Null => Value {
                r#type,
                value: Some(None),
                ..Value::default()
            },
            BoundValue::Left { length } => Value {
                r#type,
                left_out_bytes: Some(length),
                ..Value::default()
            },
            BoundValue::Whole { binary, bytes } => Value {
                r#type,
                ..told(oid.unwrap_or(0), binary, bytes)
            },
        });
    }
    let of = bound.of() as u64;
    if kept < of {
        truncated.push(Truncated {
            field: "values",
            kept,
            of,
        });
    }
    values
}

/// A bound value, with what detectors find in it replaced.
fn told(oid: u32, binary: bool, bytes: &[u8]) -> Value {
    let text = match binary {
        true => text_of(oid, bytes),
        false => Some(String::from_utf8_lossy(bytes).into_owned()),
    };
    let Some(text) = text else {
        // Bytes of an unknown type may hold a text.
        let masked = matches!(conceal(&String::from_utf8_lossy(bytes)), Cow::Owned(_));
        return Value {
            hex: (!masked).then(|| hex(bytes)),
            masked,
            ..Value::default()
        };
    };
    let concealed = match conceal(&text) {
        Cow::Owned(concealed) if !is_no_text(oid) => Some(concealed),
        _ => None,
    };
    Value {
        masked: concealed.is_some(),
        value: Some(Some(concealed.unwrap_or(text))),
        ..Value::default()
    }
}

fn result(answer: &Answer, truncated: &mut Vec<Truncated>) -> Result {
    if answer.rows && answer.kept < answer.of {
        truncated.push(Truncated {
            field: "rows",
            kept: answer.kept,
            of: answer.of,
        });
    }
    Result {
        digest: answer.digest.map(|digest| format!("sha256:{}", hex(&digest))),
        messages: answer.of,
        sets: sets(answer),
    }
}

fn sets(answer: &Answer) -> Vec<Set> {
    let limits = Limits::backend();
    let mut sets: Vec<Set> = Vec::new();
    let mut rest = answer.messages.as_slice();
    let formats = answer.bound.as_deref().map(Bound::result_formats);
    // What a Describe told before, where the answer itself doesn't tell.
    let mut columns = answer
        .columns
        .as_deref()
        .map_or_else(Vec::new, |body| described(body, formats));
    while let Ok(Some(frame)) = next_frame(rest, &limits) {
        rest = rest.get(frame.raw.len()..).unwrap_or_default();
        match frame.tag {
            b'T' => {
                columns = described(frame.body, None);
                sets.push(Set {
                    columns: columns.clone(),
                    ..Set::default()
                });
            }
            b'D' => {
                if sets.last().is_none_or(|set| !set.copy.is_empty()) {
                    sets.push(Set {
                        columns: columns.clone(),
                        ..Set::default()
                    });
                }
                if let Some(set) = sets.last_mut() {
                    set.rows.push(row(frame.body, &columns, formats));
                }
            }
            b'd' => {
                if sets.last().is_none_or(|set| set.copy.is_empty()) {
                    sets.push(Set::default());
                }
                if let Some(set) = sets.last_mut() {
                    set.copy.push(plain(frame.body));
                }
            }
            _ => {}
        }
    }
    sets
}

fn described(body: &[u8], formats: Option<&[u8]>) -> Vec<Column> {
    let Ok(description) = RowDescription::decode(body) else {
        return Vec::new();
    };
    description
        .fields()
        .enumerate()
        .filter_map(|(place, field)| {
            let field = field.ok()?;
            Some(Column {
                name: String::from_utf8_lossy(field.name).into_owned(),
                r#type: named(field.type_oid),
                oid: field.type_oid,
                // A statement's description can't know what its portals will ask for.
                binary: formats.map_or(field.format == 1, |formats| is_binary(formats, place)),
            })
        })
        .collect()
}

fn row(body: &[u8], columns: &[Column], formats: Option<&[u8]>) -> Vec<Cell> {
    let Ok(row) = DataRow::decode(body) else {
        return Vec::new();
    };
    row.values()
        .enumerate()
        .filter_map(|(place, value)| {
            let column = columns.get(place);
            let binary = column.map_or_else(
                || formats.is_some_and(|formats| is_binary(formats, place)),
                |column| column.binary,
            );
            Some(match value.ok()? {
                None => Cell::Text(None),
                Some(bytes) if !binary => plain(bytes),
                Some(bytes) => match text_of(column.map_or(0, |column| column.oid), bytes) {
                    Some(text) => Cell::Text(Some(text)),
                    None => Cell::Hex { hex: hex(bytes) },
                },
            })
        })
        .collect()
}

/// A text, or, where it is none, its bytes.
fn plain(bytes: &[u8]) -> Cell {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cell::Text(Some(text.to_owned())),
        Err(_) => Cell::Hex { hex: hex(bytes) },
    }
}
