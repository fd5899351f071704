//! Numbers and identifiers in binary format, as texts and back.

use super::{Malformed, take};

/// An integer of two, four or eight bytes as text.
pub fn integer_text(binary: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let number = match *binary {
        [a, b] => i64::from(i16::from_be_bytes([a, b])),
        [a, b, c, d] => i64::from(i32::from_be_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => i64::from_be_bytes([a, b, c, d, e, f, g, h]),
        _ => return Err(Malformed),
    };
    out.extend_from_slice(number.to_string().as_bytes());
    Ok(())
}

/// Digits of base 10,000 that a number may have before and behind the point, together.
const MOST_GROUPS: i32 = 40_000;

/// A `numeric` as text, with all its places behind the point: `numeric_send` of PostgreSQL's source. NaN and infinities aren't numbers.
pub fn numeric_text(binary: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let mut rest = binary;
    let count = u16::from_be_bytes(take(&mut rest)?);
    let weight = i32::from(i16::from_be_bytes(take(&mut rest)?));
    let sign = u16::from_be_bytes(take(&mut rest)?);
    let places = usize::from(u16::from_be_bytes(take(&mut rest)?));
    if rest.len() != usize::from(count) * 2 || weight > MOST_GROUPS || places > 0x3fff {
        return Err(Malformed);
    }
    match sign {
        0 => {}
        0x4000 => out.push(b'-'),
        _ => return Err(Malformed),
    }
    let (groups, _) = rest.as_chunks::<2>();
    let group = |place: i32| -> Result<u16, Malformed> {
        let found = usize::try_from(place).ok().and_then(|place| groups.get(place));
        let group = found.map_or(0, |group| u16::from_be_bytes(*group));
        if group < 10_000 { Ok(group) } else { Err(Malformed) }
    };
    if weight < 0 {
        out.push(b'0');
    }
    for place in 0..=weight {
        let group = group(place)?;
        let text = if place == 0 {
            group.to_string()
        } else {
            format!("{group:04}")
        };
        out.extend_from_slice(text.as_bytes());
    }
    if places > 0 {
        out.push(b'.');
        let begin = out.len();
        let mut place = weight + 1;
        // Places before the first digit are zeros.
        while out.len() - begin < places {
            let group = if place < 0 { 0 } else { group(place)? };
            out.extend_from_slice(format!("{group:04}").as_bytes());
            place += 1;
        }
        out.truncate(begin + places);
    }
    Ok(())
}

/// A whole number as a `numeric` in binary format.
pub fn put_numeric(out: &mut Vec<u8>, number: u64) {
    let mut groups = Vec::with_capacity(5);
    let mut rest = number;
    while rest > 0 {
        groups.push((rest % 10_000) as u16);
        rest /= 10_000;
    }
    let weight = i16::try_from(groups.len()).unwrap_or(1) - 1;
    let kept = groups
        .iter()
        .position(|group| *group != 0)
        .unwrap_or(groups.len());
    let groups = groups.get(kept..).unwrap_or_default();
    out.extend_from_slice(&u16::try_from(groups.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(&weight.max(0).to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    for group in groups.iter().rev() {
        out.extend_from_slice(&group.to_be_bytes());
    }
}

/// Sixteen bytes as a UUID is written.
pub fn uuid_text(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let bytes: &[u8; 16] = bytes.try_into().map_err(|_| Malformed)?;
    for (place, byte) in bytes.iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        put_hex(out, &[*byte]);
    }
    Ok(())
}

/// Bytes in hexadecimal digits.
pub fn put_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
    for byte in bytes {
        out.extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
}

/// A `bytea` in text format as bytes: hexadecimal behind `\x`, or the older escape format.
pub fn bytea_bytes(text: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let hex = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
            .ok_or(Malformed)
    };
    if let Some(digits) = text.strip_prefix(b"\\x") {
        let (pairs, odd) = digits.as_chunks::<2>();
        if !odd.is_empty() {
            return Err(Malformed);
        }
        for [high, low] in pairs {
            out.push(hex(*high)? << 4 | hex(*low)?);
        }
        return Ok(());
    }
    let mut rest = text;
    loop {
        match rest {
            [] => return Ok(()),
            [b'\\', b'\\', after @ ..] => {
                out.push(b'\\');
                rest = after;
            }
            [
                b'\\',
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                after @ ..,
            ] => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            [b'\\', ..] => return Err(Malformed),
            [plain, after @ ..] => {
                out.push(*plain);
                rest = after;
            }
        }
    }
}
