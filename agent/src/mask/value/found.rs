//! What detectors find in a value, and what stands in its place.

use bailiff_policy::{Detection, Found, MaskAction, PLACEHOLDER};
use bailiff_wire::postgres::value::{Format, Malformed, number};

use super::hash::put_hash;
use super::{Done, MOST_UNKNOWN, Masker, keep_last};
use crate::mask::key::Key;
use crate::mask::kind::Kind;

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

impl Masker<'_, '_> {
    /// Looks with detectors into what isn't a text by itself.
    pub(super) fn detect_in(
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

/// Digits of the shortest number that a detector finds without separators.
pub(in crate::mask) const LEAST_NUMBER: usize = 12;

/// Replaces what detectors find.
pub(super) fn detect(detection: &Detection, text: &[u8], out: &mut Vec<u8>, found: &mut Vec<Found>) -> Done {
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
