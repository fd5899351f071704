//! Rows as values. Text: "Composite Type Input and Output Syntax" of PostgreSQL's documentation. Binary: `record_send` of its source.

use super::array::is_space;
use super::{Malformed, Part, put_value, take, take_value};

/// Writes a row in text format with each field replaced. The closure gets the field's place, and sees it without quotes.
pub fn rewrite_text(
    row: &[u8],
    out: &mut Vec<u8>,
    mut field: impl FnMut(usize, &[u8], &mut Vec<u8>) -> Part,
) -> Result<(), Malformed> {
    let mut rest = row.strip_prefix(b"(").ok_or(Malformed)?;
    out.push(b'(');
    let (mut plain, mut changed) = (Vec::new(), Vec::new());
    // A row without fields is `()`; so is one of a single null, and both are written alike.
    for place in 0.. {
        plain.clear();
        let (after, quoted) = read_field(rest, &mut plain)?;
        rest = after;
        // Nothing at all is null.
        if quoted || !plain.is_empty() {
            changed.clear();
            if field(place, &plain, &mut changed) == Part::Value {
                put_field(out, &changed);
            }
        }
        let (&byte, after) = rest.split_first().ok_or(Malformed)?;
        out.push(byte);
        rest = after;
        if byte == b')' {
            break;
        }
    }
    if rest.is_empty() { Ok(()) } else { Err(Malformed) }
}

/// Reads up to the comma or bracket behind a field.
fn read_field<'a>(rest: &'a [u8], plain: &mut Vec<u8>) -> Result<(&'a [u8], bool), Malformed> {
    let Some(mut rest) = rest.strip_prefix(b"\"") else {
        let end = memchr::memchr2(b',', b')', rest).ok_or(Malformed)?;
        let (bare, after) = rest.split_at_checked(end).ok_or(Malformed)?;
        if bare.iter().any(|byte| b"\"\\(".contains(byte)) {
            return Err(Malformed);
        }
        plain.extend_from_slice(bare);
        return Ok((after, false));
    };
    loop {
        let stop = memchr::memchr2(b'"', b'\\', rest).ok_or(Malformed)?;
        plain.extend_from_slice(rest.get(..stop).ok_or(Malformed)?);
        let escape = rest.get(stop) == Some(&b'\\');
        let after = rest.get(stop + 1..).ok_or(Malformed)?;
        match (escape, after.first()) {
            (true, Some(escaped)) => plain.push(*escaped),
            // A quote is doubled.
            (false, Some(b'"')) => plain.push(b'"'),
            (false, Some(b',' | b')')) => return Ok((after, true)),
            _ => return Err(Malformed),
        }
        rest = after.get(1..).ok_or(Malformed)?;
    }
}

/// Quoted where `record_out` would.
fn put_field(out: &mut Vec<u8>, field: &[u8]) {
    let special = |byte: &u8| b"\"\\(),".contains(byte) || is_space(*byte);
    if !field.is_empty() && !field.iter().any(special) {
        out.extend_from_slice(field);
        return;
    }
    out.push(b'"');
    for byte in field {
        if matches!(byte, b'"' | b'\\') {
            out.push(*byte);
        }
        out.push(*byte);
    }
    out.push(b'"');
}

/// Writes a row in binary format with each field replaced. The closure gets the field's place, and its type as the row tells it.
pub fn rewrite_binary(
    row: &[u8],
    out: &mut Vec<u8>,
    mut field: impl FnMut(usize, u32, &[u8], &mut Vec<u8>) -> Part,
) -> Result<(), Malformed> {
    let mut rest = row;
    let count = u32::from_be_bytes(take(&mut rest)?);
    let count = usize::try_from(count).map_err(|_| Malformed)?;
    // Each field takes eight bytes, so that the count is bounded by what is there.
    if count > rest.len() / 8 {
        return Err(Malformed);
    }
    out.extend_from_slice(row.get(..4).ok_or(Malformed)?);
    for place in 0..count {
        let oid: [u8; 4] = take(&mut rest)?;
        out.extend_from_slice(&oid);
        match take_value(&mut rest)? {
            None => put_value(out, |_| Part::Null),
            Some(value) => put_value(out, |out| field(place, u32::from_be_bytes(oid), value, out)),
        };
    }
    if rest.is_empty() { Ok(()) } else { Err(Malformed) }
}
