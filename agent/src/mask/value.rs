//! What is done to one value: taken apart by its type, its scalars masked, put together again.

use std::sync::Arc;

use bailiff_policy::{Detection, Found, MaskAction, PLACEHOLDER};
use bailiff_wire::postgres::value::json::Scalar;
use bailiff_wire::postgres::value::{Format, Malformed, Part, array, json, number, row};

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

/// Masks what detectors find in a text of the server's own, and says whether they found something.
pub(crate) fn mask_text(detection: &Detection, text: &[u8], out: &mut Vec<u8>) -> bool {
    let begin = out.len();
    let done = detect(detection, text, out, &mut Vec::new());
    if done == Done::Null {
        // A text can't be null.
        out.truncate(begin);
        out.extend_from_slice(PLACEHOLDER);
    }
    done != Done::Kept
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

    /// Looks with detectors into what isn't a text by itself.
    fn detect_in(
        &mut self,
        kind: Kind,
        format: Format,
        value: &[u8],
        out: &mut Vec<u8>,
        depth: u8,
    ) -> Result<Done, Malformed> {
        let Some(detection) = self.treatment.detection else {
            return Ok(Done::Kept);
        };
        match kind {
            Kind::Plain | Kind::Uuid | Kind::Integer { bytes: 2 | 4, .. } => Ok(Done::Kept),
            // A card's number may be kept as a number. No number stands for a part of it.
            Kind::Integer { .. } | Kind::Numeric => {
                Ok(if self.finds_in_number(detection, kind, format, value)? {
                    Done::Null
                } else {
                    Done::Kept
                })
            }
            Kind::Bytea => {
                let plain = &mut self.scratch.plain;
                plain.clear();
                let bytes = match format {
                    Format::Binary => value,
                    Format::Text => {
                        number::bytea_bytes(value, plain)?;
                        plain
                    }
                };
                let shown = &mut self.scratch.shown;
                shown.clear();
                let done = detect(detection, bytes, shown, &mut self.scratch.found);
                if done == Done::Value {
                    match format {
                        Format::Binary => out.extend_from_slice(shown),
                        Format::Text => {
                            out.extend_from_slice(b"\\x");
                            number::put_hex(out, shown);
                        }
                    }
                }
                Ok(done)
            }
            // Uncertainty denies: what may stand in place of a part isn't known, so the whole becomes null.
            _ => {
                detection.detectors().find(value, &mut self.scratch.found);
                let found = !self.scratch.found.is_empty()
                    || format == Format::Binary && self.finds_in_unknown(detection, value, depth);
                Ok(if found { Done::Null } else { Done::Kept })
            }
        }
    }

    fn finds_in_number(
        &mut self,
        detection: &Detection,
        kind: Kind,
        format: Format,
        value: &[u8],
    ) -> Result<bool, Malformed> {
        let plain = &mut self.scratch.plain;
        plain.clear();
        let text = match (kind, format) {
            (_, Format::Text) => value,
            (Kind::Numeric, Format::Binary) => {
                // NaN and infinities are no numbers to look into.
                if number::numeric_text(value, plain).is_err() {
                    plain.clear();
                }
                plain
            }
            _ => {
                number::integer_text(value, plain)?;
                plain
            }
        };
        if text.len() < LEAST_NUMBER {
            return Ok(false);
        }
        detection.detectors().find(text, &mut self.scratch.found);
        Ok(!self.scratch.found.is_empty())
    }

    /// Whether something is found in a binary value of which the type isn't known, as any of those that it may be: a number, or an
    /// array or row, which tell the types of what is in them.
    fn finds_in_unknown(&mut self, detection: &Detection, value: &[u8], depth: u8) -> bool {
        let integer = Kind::Integer {
            bytes: 8,
            signed: true,
        };
        for (kind, may_be) in [(integer, value.len() == 8), (Kind::Numeric, true)] {
            if may_be
                && self
                    .finds_in_number(detection, kind, Format::Binary, value)
                    .unwrap_or(false)
            {
                return true;
            }
        }
        // Uncertainty denies; and each level may be read in two ways.
        if depth > MOST_UNKNOWN {
            return true;
        }
        let mut sink = Vec::new();
        [Kind::Array(0), Kind::Record].into_iter().any(|kind| {
            sink.clear();
            let done = self.value(kind, Format::Binary, value, &mut sink, depth + 1);
            done.is_ok_and(|done| done != Done::Kept)
        })
    }
}

/// Of which kind a part is that tells its type: the server's own types are told by their number, others by the catalog.
fn told(oid: u32, by_catalog: Kind) -> Kind {
    match Kind::of(oid) {
        Kind::Unknown => by_catalog,
        kind => kind,
    }
}

/// Digits of the shortest number that a detector finds without separators.
const LEAST_NUMBER: usize = 12;

/// Replaces what detectors find.
fn detect(detection: &Detection, text: &[u8], out: &mut Vec<u8>, found: &mut Vec<Found>) -> Done {
    detection.detectors().find(text, found);
    if found.is_empty() {
        return Done::Kept;
    }
    let whole = found
        .iter()
        .filter_map(|one| detection.treatment(one.detector))
        .filter(|how| how.whole);
    if let Some(action) = whole.map(|how| how.action).reduce(MaskAction::join) {
        return put(action, text, out);
    }
    let mut kept = 0;
    let mut rest = found.iter().peekable();
    while let Some(one) = rest.next() {
        let (from, mut to) = (one.range.start, one.range.end);
        let mut action = detection.treatment(one.detector).map(|how| how.action);
        // What overlaps is one, under the strictest action of them.
        while let Some(next) = rest.next_if(|next| next.range.start < to) {
            to = to.max(next.range.end);
            action = action.max(detection.treatment(next.detector).map(|how| how.action));
        }
        out.extend_from_slice(text.get(kept..from).unwrap_or_default());
        let part = text.get(from..to).unwrap_or_default();
        if put(action.unwrap_or(MaskAction::Null), part, out) == Done::Null {
            return Done::Null;
        }
        kept = to;
    }
    out.extend_from_slice(text.get(kept..).unwrap_or_default());
    Done::Value
}

fn put(action: MaskAction, text: &[u8], out: &mut Vec<u8>) -> Done {
    match action {
        MaskAction::Null => return Done::Null,
        MaskAction::Redact => out.extend_from_slice(PLACEHOLDER),
        MaskAction::KeepLast(kept) => keep_last(kept, text, out),
        MaskAction::Hash(file) => match Key::of(file).mac(text) {
            Some(mac) => put_hash(out, &mac),
            None => return Done::Null,
        },
    }
    Done::Value
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

/// A hash as text: its first 16 bytes in hexadecimal digits.
fn put_hash(out: &mut Vec<u8>, mac: &[u8; 32]) {
    let (first, _) = mac.split_at(16);
    number::put_hex(out, first);
}

/// Hashes what isn't a text: over the value as text, so that the same value has the same hash in every type and format.
fn hash(key: &Key, kind: Kind, format: Format, value: &[u8], out: &mut Vec<u8>) -> Result<Done, Malformed> {
    let mut plain = Vec::new();
    let binary = format == Format::Binary;
    let plain: &[u8] = match kind {
        // What is shown as it is may have become another type on its way: `UNION` of integers of several widths.
        Kind::Integer { bytes, .. } if binary && value.len() != usize::from(bytes) => return Err(Malformed),
        Kind::Integer { signed: true, .. } if binary => {
            number::integer_text(value, &mut plain)?;
            &plain
        }
        Kind::Integer { signed: false, .. } if binary => {
            let bytes: [u8; 4] = value.try_into().map_err(|_| Malformed)?;
            plain.extend_from_slice(u32::from_be_bytes(bytes).to_string().as_bytes());
            &plain
        }
        Kind::Numeric => {
            if binary {
                number::numeric_text(value, &mut plain)?;
            } else {
                plain.extend_from_slice(value);
            }
            shortest(&plain)?
        }
        Kind::Uuid if binary => {
            number::uuid_text(value, &mut plain)?;
            &plain
        }
        Kind::Bytea if !binary => {
            number::bytea_bytes(value, &mut plain)?;
            &plain
        }
        Kind::Integer { .. } if !is_integer(value) => return Err(Malformed),
        Kind::Integer { .. } | Kind::Uuid | Kind::Bytea => value,
        _ => return Ok(Done::Null),
    };
    let mac = key.mac(plain).ok_or(Malformed)?;
    let (first, _) = mac.split_first_chunk::<8>().ok_or(Malformed)?;
    // 63 bits, so that it is positive as an int8; shorter types have the last of them.
    let number = u64::from_be_bytes(*first) >> 1;
    match kind {
        Kind::Integer { bytes, signed } => {
            let bits = u32::from(bytes) * 8 - u32::from(signed);
            let number = number & (u64::MAX >> (64 - bits));
            if binary {
                let bytes = number.to_be_bytes();
                let from = bytes.len() - usize::from(bits.div_ceil(8) as u8);
                out.extend_from_slice(bytes.get(from..).ok_or(Malformed)?);
            } else {
                out.extend_from_slice(number.to_string().as_bytes());
            }
        }
        Kind::Numeric if binary => number::put_numeric(out, number),
        Kind::Numeric => out.extend_from_slice(number.to_string().as_bytes()),
        Kind::Uuid => {
            let (first, _) = mac.split_first_chunk::<16>().ok_or(Malformed)?;
            // RFC 9562, section 5.8: version 8 is for what one makes oneself.
            let uuid = u128::from_be_bytes(*first) & !(0xf << 76) & !(0x3 << 62) | 0x8 << 76 | 0x2 << 62;
            if binary {
                out.extend_from_slice(&uuid.to_be_bytes());
            } else {
                number::uuid_text(&uuid.to_be_bytes(), out)?;
            }
        }
        _ => {
            let (first, _) = mac.split_at(16);
            if binary {
                out.extend_from_slice(first);
            } else {
                out.extend_from_slice(b"\\x");
                number::put_hex(out, first);
            }
        }
    }
    Ok(Done::Value)
}

fn is_integer(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

/// A number without zeros at its end behind the point: 1.50 and 1.5 are the same value.
fn shortest(number: &[u8]) -> Result<&[u8], Malformed> {
    if !number
        .iter()
        .all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'.'))
        || number.is_empty()
    {
        return Err(Malformed);
    }
    if !number.contains(&b'.') {
        return Ok(number);
    }
    let last = number.iter().rposition(|byte| *byte != b'0').ok_or(Malformed)?;
    let end = if number.get(last) == Some(&b'.') {
        last
    } else {
        last + 1
    };
    match number.get(..end) {
        Some(b"-0") => Ok(b"0"),
        found => found.ok_or(Malformed),
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
