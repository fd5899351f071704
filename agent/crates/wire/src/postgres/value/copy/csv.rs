//! Rows of comma-separated values.

use crate::postgres::value::{Malformed, Part};

/// How they are written.
pub(super) struct Csv<'a> {
    pub(super) delimiter: u8,
    pub(super) null: &'a [u8],
    pub(super) quote: u8,
    pub(super) escape: u8,
}

impl Csv<'_> {
    /// Writes one row.
    pub(super) fn row(
        &self,
        row: &[u8],
        columns: usize,
        out: &mut Vec<u8>,
        plain: &mut Vec<u8>,
        changed: &mut Vec<u8>,
        value: &mut impl FnMut(usize, &[u8], &mut Vec<u8>) -> Option<Part>,
    ) -> Result<u64, Malformed> {
        let line = row.strip_suffix(b"\n").ok_or(Malformed)?;
        let mut masked = 0;
        let mut rest = line;
        for column in 1.. {
            let (field, after) = self.field(rest, plain)?;
            if column > columns || after.is_none() && column < columns {
                return Err(Malformed);
            }
            let column = column - 1;
            let quoted = field.first() == Some(&self.quote);
            if !quoted && field == self.null {
                out.extend_from_slice(field);
            } else {
                changed.clear();
                match value(column, plain, changed) {
                    None => out.extend_from_slice(field),
                    Some(Part::Null) => {
                        masked += 1;
                        out.extend_from_slice(self.null);
                    }
                    Some(Part::Value) => {
                        masked += 1;
                        self.put(out, changed);
                    }
                }
            }
            match after {
                Some(after) => {
                    out.push(self.delimiter);
                    rest = after;
                }
                None => break,
            }
        }
        out.push(b'\n');
        Ok(masked)
    }

    /// The first field as it stands, and what follows the delimiter behind it; `plain` is the field without quotes.
    fn field<'a>(
        &self,
        line: &'a [u8],
        plain: &mut Vec<u8>,
    ) -> Result<(&'a [u8], Option<&'a [u8]>), Malformed> {
        plain.clear();
        let split = |end: usize| (line.get(..end).unwrap_or_default(), line.get(end + 1..));
        let Some(inner) = line.strip_prefix(&[self.quote]) else {
            let end = memchr::memchr(self.delimiter, line).unwrap_or(line.len());
            let (field, after) = split(end);
            if memchr::memchr(self.quote, field).is_some() {
                return Err(Malformed);
            }
            plain.extend_from_slice(field);
            return Ok((field, if end == line.len() { None } else { after }));
        };
        let mut place = 0;
        loop {
            let rest = inner.get(place..).ok_or(Malformed)?;
            let stop = memchr::memchr2(self.quote, self.escape, rest).ok_or(Malformed)?;
            plain.extend_from_slice(rest.get(..stop).ok_or(Malformed)?);
            let (byte, next) = (rest.get(stop).copied(), rest.get(stop + 1).copied());
            let escapes = byte == Some(self.escape)
                && next.is_some_and(|next| next == self.quote || next == self.escape);
            if escapes {
                plain.extend(next);
                place += stop + 2;
                continue;
            }
            if byte == Some(self.quote) {
                let end = 1 + place + stop + 1;
                return match next {
                    None => Ok((line, None)),
                    Some(next) if next == self.delimiter => Ok(split(end)),
                    Some(_) => Err(Malformed),
                };
            }
            // An escape before anything else stands for itself.
            plain.extend(byte);
            place += stop + 1;
        }
    }

    fn put(&self, out: &mut Vec<u8>, value: &[u8]) {
        out.push(self.quote);
        for byte in value {
            if *byte == self.quote || *byte == self.escape {
                out.push(self.escape);
            }
            out.push(*byte);
        }
        out.push(self.quote);
    }
}
