//! What is done to one value: taken apart by its type, its scalars masked, put together again.

mod found;
mod hash;

use std::sync::Arc;

use bailiff_policy::{Detection, Found, MaskAction, PLACEHOLDER};
use bailiff_wire::postgres::value::json::Scalar;
use bailiff_wire::postgres::value::{Format, Malformed, Part, array, json, row};

pub(super) use found::LEAST_NUMBER;
use found::detect;
pub(crate) use found::mask_text;
use hash::{hash, put_hash};

use super::key::Key;
use super::kind::{Kind, Shape, Shapes};

/// What stands for the rest of a text of which the end is kept.
const CUT: &[u8] = b"****";

/// Arrays, rows and JSON inside of each other. What is deeper becomes null.
const MOST_DEPTH: u8 = 16;

/// The same of those whose type isn't known. Each has two levels: itself and its parts.
const MOST_UNKNOWN: u8 = 8;

/// What became of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// It stays as it came; nothing was written.
    Kept,
    /// What was written stands in its place.
    Value,
    /// Null stands in its place. What was written doesn't count.
    Null,
}

/// How a column is masked: its own action, and what detectors do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Treatment<'a> {
    pub(crate) shapes: &'a Shapes,
    pub(crate) action: Option<Action<'a>>,
    pub(crate) detection: Option<&'a Detection>,
}

/// An action with its key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Action<'a> {
    KeepLast(u8),
    Hash(&'a Key),
    Redact,
    Null,
}

/// Memory that is used again for every value.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    found: Vec<Found>,
    plain: Vec<u8>,
    shown: Vec<u8>,
}

/// Masks a value that isn't null, at the end of `out`.
pub(crate) fn mask(
    treatment: Treatment<'_>,
    kind: Kind,
    format: Format,
    value: &[u8],
    out: &mut Vec<u8>,
    scratch: &mut Scratch,
) -> Done {
    let begin = out.len();
    let mut masker = Masker { treatment, scratch };
    // Uncertainty denies: what isn't of its type is never passed on.
    let done = masker.value(kind, format, value, out, 0).unwrap_or(Done::Null);
    if done != Done::Value {
        out.truncate(begin);
    }
    done
}

struct Masker<'a, 'b> {
    treatment: Treatment<'a>,
    scratch: &'b mut Scratch,
}

impl Masker<'_, '_> {
    fn value(
        &mut self,
        kind: Kind,
        format: Format,
        value: &[u8],
        out: &mut Vec<u8>,
        depth: u8,
    ) -> Result<Done, Malformed> {
        if depth > MOST_DEPTH {
            return Err(Malformed);
        }
        let binary = format == Format::Binary;
        match (self.treatment.action, kind) {
            (Some(Action::Null), _) => Ok(Done::Null),
            (_, Kind::Array(element)) => {
                let delimiter = Kind::delimiter(element);
                self.array(Kind::of(element), delimiter, format, value, out, depth)
            }
            (_, Kind::Record) => self.record(None, format, value, out, depth),
            (_, Kind::Shape(place)) => match self.treatment.shapes.get(place) {
                Some(Shape::Array(element)) => self.array(*element, b',', format, value, out, depth),
                Some(Shape::Row(columns)) => self.record(Some(columns), format, value, out, depth),
                None => Err(Malformed),
            },
            (Some(Action::Redact), Kind::Text | Kind::Padded | Kind::Xml) => {
                out.extend_from_slice(PLACEHOLDER);
                Ok(Done::Value)
            }
            (Some(Action::Redact), Kind::Json | Kind::Jsonb) => {
                if binary && kind == Kind::Jsonb {
                    out.push(1);
                }
                json::put_string(out, PLACEHOLDER);
                Ok(Done::Value)
            }
            // A placeholder is no number or date: where the type isn't a text, null is what stays valid.
            (Some(Action::Redact), _) => Ok(Done::Null),
            (_, Kind::Jsonb) if binary => {
                // The version: `jsonb_send` of the server's source.
                let json = value.strip_prefix(&[1]).ok_or(Malformed)?;
                out.push(1);
                self.json(json, out)
            }
            (_, Kind::Json | Kind::Jsonb) => self.json(value, out),
            (Some(_), Kind::Padded) => {
                let end = value
                    .iter()
                    .rposition(|byte| *byte != b' ')
                    .map_or(0, |last| last + 1);
                self.text(value.get(..end).unwrap_or_default(), out)
            }
            // What is kept of it would be no XML.
            (Some(Action::KeepLast(_)), Kind::Xml) => {
                out.extend_from_slice(CUT);
                Ok(Done::Value)
            }
            (_, Kind::Text | Kind::Padded | Kind::Xml) => self.text(value, out),
            (Some(Action::Hash(key)), kind) => hash(key, kind, format, value, out),
            (Some(Action::KeepLast(_)), _) => Ok(Done::Null),
            (None, kind) => self.detect_in(kind, format, value, out, depth),
        }
    }

    /// Masks a text that stands for itself.
    fn text(&mut self, value: &[u8], out: &mut Vec<u8>) -> Result<Done, Malformed> {
        match self.treatment.action {
            Some(Action::KeepLast(kept)) => {
                let begin = out.len();
                keep_last(kept, value, out);
                if let Some(detection) = self.treatment.detection {
                    // What is kept may be long enough to be something by itself.
                    let mut kept = std::mem::take(&mut self.scratch.shown);
                    kept.clear();
                    kept.extend_from_slice(out.get(begin..).unwrap_or_default());
                    out.truncate(begin);
                    let done = detect(detection, &kept, out, &mut self.scratch.found);
                    if done == Done::Kept {
                        out.extend_from_slice(&kept);
                    }
                    self.scratch.shown = kept;
                    return Ok(if done == Done::Null {
                        Done::Null
                    } else {
                        Done::Value
                    });
                }
                Ok(Done::Value)
            }
            Some(Action::Hash(key)) => {
                let mac = key.mac(value).ok_or(Malformed)?;
                put_hash(out, &mac);
                Ok(Done::Value)
            }
            Some(Action::Redact) => {
                out.extend_from_slice(PLACEHOLDER);
                Ok(Done::Value)
            }
            Some(Action::Null) => Ok(Done::Null),
            None => Ok(self.treatment.detection.map_or(Done::Kept, |detection| {
                detect(detection, value, out, &mut self.scratch.found)
            })),
        }
    }

    fn json(&mut self, value: &[u8], out: &mut Vec<u8>) -> Result<Done, Malformed> {
        let (mut changed, mut nothing) = (false, false);
        let masked = self.treatment.action.is_some();
        json::rewrite(value, out, |scalar, plain, out| {
            let done = match scalar {
                // Names stay, unless they are something by their own form.
                Scalar::Name => match self.treatment.detection {
                    Some(detection) => detect(detection, plain, out, &mut self.scratch.found),
                    None => Done::Kept,
                },
                Scalar::String => self.text(plain, out).unwrap_or(Done::Null),
                Scalar::Number if masked => self.text(plain, out).unwrap_or(Done::Null),
                Scalar::Number => match self.treatment.detection {
                    Some(detection) if plain.len() >= LEAST_NUMBER => {
                        detect(detection, plain, out, &mut self.scratch.found)
                    }
                    _ => Done::Kept,
                },
                Scalar::Boolean if masked => Done::Null,
                Scalar::Boolean => Done::Kept,
            };
            // In a detector's name null is for the whole value.
            nothing |= done == Done::Null && !masked;
            changed |= done != Done::Kept;
            match done {
                Done::Kept => None,
                Done::Value => Some(Part::Value),
                Done::Null => Some(Part::Null),
            }
        })?;
        Ok(match (nothing, changed || masked) {
            (true, _) => Done::Null,
            (_, true) => Done::Value,
            _ => Done::Kept,
        })
    }

    fn array(
        &mut self,
        element: Kind,
        delimiter: u8,
        format: Format,
        value: &[u8],
        out: &mut Vec<u8>,
        depth: u8,
    ) -> Result<Done, Malformed> {
        if self.treatment.action.is_none() && element == Kind::Plain {
            return Ok(Done::Kept);
        }
        let mut changed = self.treatment.action.is_some();
        match format {
            Format::Text => array::rewrite_text(value, delimiter, out, |part, out| {
                self.part(element, format, part, out, depth, &mut changed)
            })?,
            Format::Binary => array::rewrite_binary(value, out, |oid, part, out| {
                self.part(told(oid, element), format, part, out, depth, &mut changed)
            })?,
        }
        Ok(if changed { Done::Value } else { Done::Kept })
    }

    fn record(
        &mut self,
        columns: Option<&[Kind]>,
        format: Format,
        value: &[u8],
        out: &mut Vec<u8>,
        depth: u8,
    ) -> Result<Done, Malformed> {
        let mut changed = self.treatment.action.is_some();
        match (format, columns) {
            // Uncertainty denies: a column that isn't known of is null.
            (Format::Text, Some(columns)) => row::rewrite_text(value, out, |place, part, out| {
                let kind = columns.get(place).copied().unwrap_or(Kind::Unknown);
                self.part(kind, format, part, out, depth, &mut changed)
            })?,
            // Of its columns nothing is known: they may be anything.
            (Format::Text, None) => row::rewrite_text(value, out, |_, part, out| {
                if self.treatment.action.is_some() {
                    return Part::Null;
                }
                self.part(Kind::Text, format, part, out, depth, &mut changed)
            })?,
            (Format::Binary, columns) => row::rewrite_binary(value, out, |place, oid, part, out| {
                let column = columns.and_then(|columns| columns.get(place));
                let kind = told(oid, column.copied().unwrap_or(Kind::Unknown));
                self.part(kind, format, part, out, depth, &mut changed)
            })?,
        }
        Ok(if changed { Done::Value } else { Done::Kept })
    }

    /// A part of an array or row.
    fn part(
        &mut self,
        kind: Kind,
        format: Format,
        value: &[u8],
        out: &mut Vec<u8>,
        depth: u8,
        changed: &mut bool,
    ) -> Part {
        let begin = out.len();
        let done = self
            .value(kind, format, value, out, depth + 1)
            .unwrap_or(Done::Null);
        *changed |= done != Done::Kept;
        match done {
            Done::Value => Part::Value,
            Done::Null => Part::Null,
            Done::Kept => {
                out.truncate(begin);
                out.extend_from_slice(value);
                Part::Value
            }
        }
    }
}

/// Of which kind a part is that tells its type: the server's own types are told by their number, others by the catalog.
fn told(oid: u32, by_catalog: Kind) -> Kind {
    match Kind::of(oid) {
        Kind::Unknown => by_catalog,
        kind => kind,
    }
}

/// Keeps the last characters of a text of at least twice as many.
fn keep_last(kept: u8, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(CUT);
    // Uncertainty denies: in another encoding than UTF-8 a character's beginning can't be told.
    let Ok(text) = std::str::from_utf8(value) else {
        return;
    };
    let kept = usize::from(kept);
    let Some((from, _)) = text.char_indices().rev().nth(kept.saturating_sub(1)) else {
        return;
    };
    let before = text.get(..from).unwrap_or_default();
    if before.chars().nth(kept.saturating_sub(1)).is_some() {
        out.extend_from_slice(text.get(from..).unwrap_or_default().as_bytes());
    }
}

/// An action as it is kept with a column, with its key found.
#[derive(Debug, Clone)]
pub(crate) enum Kept {
    KeepLast(u8),
    Hash(Arc<Key>),
    Redact,
    Null,
}

impl Kept {
    pub(crate) fn of(action: MaskAction) -> Self {
        match action {
            MaskAction::KeepLast(kept) => Self::KeepLast(kept),
            MaskAction::Hash(file) => Self::Hash(Key::of(file)),
            MaskAction::Redact => Self::Redact,
            MaskAction::Null => Self::Null,
        }
    }

    pub(crate) fn action(&self) -> Action<'_> {
        match self {
            Self::KeepLast(kept) => Action::KeepLast(*kept),
            Self::Hash(key) => Action::Hash(key),
            Self::Redact => Action::Redact,
            Self::Null => Action::Null,
        }
    }
}

#[cfg(test)]
mod tests;
