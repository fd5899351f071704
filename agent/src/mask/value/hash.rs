//! Keyed hashes of values, as values of their types.

use bailiff_wire::postgres::value::{Format, Malformed, number};

use super::Done;
use crate::mask::key::Key;
use crate::mask::kind::Kind;

/// Hashes what isn't a text: over the value as text, so that the same value has the same hash in every type and format.
pub(super) fn hash(
    key: &Key,
    kind: Kind,
    format: Format,
    value: &[u8],
    out: &mut Vec<u8>,
) -> Result<Done, Malformed> {
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

/// A hash as text: its first 16 bytes in hexadecimal digits.
pub(super) fn put_hash(out: &mut Vec<u8>, mac: &[u8; 32]) {
    let (first, _) = mac.split_at(16);
    number::put_hex(out, first);
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
