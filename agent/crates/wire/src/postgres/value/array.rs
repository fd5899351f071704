//! Arrays. Text: "Array Input and Output Syntax" of PostgreSQL's documentation. Binary: `array_send` of its source.

use super::{Malformed, Part, put_value, take, take_value};

/// Dimensions that an array may have: `MAXDIM`.
const MOST_DIMENSIONS: usize = 6;

/// Writes an array in text format with each element replaced. The closure sees elements without quotes and escapes.
///
/// `delimiter` is the element type's, a comma for all types of the server but `box`. `scratch` saves allocations.
pub fn rewrite_text(
    array: &[u8],
    delimiter: u8,
    out: &mut Vec<u8>,
    mut element: impl FnMut(&[u8], &mut Vec<u8>) -> Part,
) -> Result<(), Malformed> {
    let mut rest = array;
    // Bounds that don't begin at one: [2:3]={…}
    if rest.first() == Some(&b'[') {
        let end = memchr::memchr(b'=', rest).ok_or(Malformed)?;
        let (bounds, after) = rest.split_at_checked(end + 1).ok_or(Malformed)?;
        if !bounds
            .iter()
            .all(|byte| byte.is_ascii_digit() || b"[]:-+=".contains(byte))
        {
            return Err(Malformed);
        }
        out.extend_from_slice(bounds);
        rest = after;
    }
    let mut depth = 0;
    let (mut plain, mut changed) = (Vec::new(), Vec::new());
    // Whether an element or an inner array must not, may or must come here.
    let mut wants_item = true;
    loop {
        let (&byte, after) = rest.split_first().ok_or(Malformed)?;
        match byte {
            b'{' if wants_item && depth < MOST_DIMENSIONS => {
                depth += 1;
                out.push(byte);
                rest = after;
                if rest.first() == Some(&b'}') {
                    wants_item = false;
                }
            }
            b'}' if !wants_item && depth > 0 => {
                depth -= 1;
                out.push(byte);
                rest = after;
                if depth == 0 {
                    return if rest.is_empty() { Ok(()) } else { Err(Malformed) };
                }
            }
            _ if byte == delimiter && !wants_item && depth > 0 => {
                wants_item = true;
                out.push(byte);
                rest = after;
            }
            _ if wants_item && depth > 0 => {
                let quoted = byte == b'"';
                plain.clear();
                rest = if quoted {
                    quoted_element(after, &mut plain)?
                } else {
                    bare_element(rest, delimiter, &mut plain)?
                };
                wants_item = false;
                if !quoted && plain.eq_ignore_ascii_case(b"NULL") {
                    out.extend_from_slice(b"NULL");
                    continue;
                }
                changed.clear();
                match element(&plain, &mut changed) {
                    Part::Null => out.extend_from_slice(b"NULL"),
                    Part::Value => put_element(out, &changed, delimiter),
                }
            }
            _ => return Err(Malformed),
        }
    }
}

fn quoted_element<'a>(rest: &'a [u8], plain: &mut Vec<u8>) -> Result<&'a [u8], Malformed> {
    let mut rest = rest;
    loop {
        let stop = memchr::memchr2(b'"', b'\\', rest).ok_or(Malformed)?;
        plain.extend_from_slice(rest.get(..stop).ok_or(Malformed)?);
        let escape = rest.get(stop) == Some(&b'\\');
        rest = rest.get(stop + 1..).ok_or(Malformed)?;
        if !escape {
            return Ok(rest);
        }
        let (&escaped, after) = rest.split_first().ok_or(Malformed)?;
        plain.push(escaped);
        rest = after;
    }
}

fn bare_element<'a>(rest: &'a [u8], delimiter: u8, plain: &mut Vec<u8>) -> Result<&'a [u8], Malformed> {
    let end = rest
        .iter()
        .position(|byte| *byte == delimiter || *byte == b'}')
        .ok_or(Malformed)?;
    let (element, after) = rest.split_at_checked(end).ok_or(Malformed)?;
    if element.is_empty() || element.iter().any(|byte| b"{\"\\".contains(byte)) {
        return Err(Malformed);
    }
    plain.extend_from_slice(element);
    Ok(after)
}

/// Quoted where `array_out` would.
fn put_element(out: &mut Vec<u8>, element: &[u8], delimiter: u8) {
    let special = |byte: &u8| *byte == delimiter || b"{}\"\\".contains(byte) || is_space(*byte);
    if !element.is_empty() && !element.iter().any(special) && !element.eq_ignore_ascii_case(b"NULL") {
        out.extend_from_slice(element);
        return;
    }
    out.push(b'"');
    for byte in element {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out.push(b'"');
}

pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// Writes an array in binary format with each element replaced. The closure gets the elements' type as the array tells it.
pub fn rewrite_binary(
    array: &[u8],
    out: &mut Vec<u8>,
    mut element: impl FnMut(u32, &[u8], &mut Vec<u8>) -> Part,
) -> Result<(), Malformed> {
    let mut rest = array;
    let begin = out.len();
    let dimensions = u32::from_be_bytes(take(&mut rest)?);
    let dimensions = usize::try_from(dimensions).map_err(|_| Malformed)?;
    let flags = u32::from_be_bytes(take(&mut rest)?);
    let oid = u32::from_be_bytes(take(&mut rest)?);
    if dimensions > MOST_DIMENSIONS || flags > 1 {
        return Err(Malformed);
    }
    let mut count = usize::from(dimensions > 0);
    for _ in 0..dimensions {
        let length = u32::from_be_bytes(take(&mut rest)?);
        let _lower = i32::from_be_bytes(take(&mut rest)?);
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        count = count.checked_mul(length).ok_or(Malformed)?;
    }
    // Each element takes four bytes, so that the count is bounded by what is there.
    if count > rest.len() / 4 {
        return Err(Malformed);
    }
    out.extend_from_slice(array.get(..array.len() - rest.len()).ok_or(Malformed)?);
    let mut nulls = false;
    for _ in 0..count {
        let part = match take_value(&mut rest)? {
            None => put_value(out, |_| Part::Null),
            Some(value) => put_value(out, |out| element(oid, value, out)),
        };
        nulls |= part == Part::Null;
    }
    if let Some(flag) = out.get_mut(begin + 7) {
        *flag = u8::from(nulls);
    }
    if rest.is_empty() { Ok(()) } else { Err(Malformed) }
}
