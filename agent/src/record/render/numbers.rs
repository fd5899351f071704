//! Numbers as texts.

use std::fmt::Write as _;

use super::Cursor;

/// `float4out`: the fewest digits that give the same number.
pub(super) fn float4(value: f32, out: &mut String) {
    shortest(f64::from(value), &format!("{value:e}"), 6, out);
}

/// `float8out`.
pub(super) fn float8(value: f64, out: &mut String) {
    shortest(value, &format!("{value:e}"), 15, out);
}

/// `scientific` has the digits and their exponent. From `most` digits before the point on the exponent is written, and from four
/// zeros after it.
fn shortest(value: f64, scientific: &str, most: i32, out: &mut String) {
    if value.is_nan() {
        return out.push_str("NaN");
    }
    if value.is_infinite() {
        return out.push_str(if value > 0.0 { "Infinity" } else { "-Infinity" });
    }
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let unsigned = mantissa.trim_start_matches('-');
    if mantissa.len() > unsigned.len() {
        out.push('-');
    }
    let digits: String = unsigned.chars().filter(char::is_ascii_digit).collect();
    if exponent < -4 || exponent >= most {
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "{unsigned}e{sign}{:02}", exponent.abs());
        return;
    }
    let Ok(before) = usize::try_from(exponent + 1) else {
        out.push_str("0.");
        out.extend((exponent + 1..0).map(|_| '0'));
        return out.push_str(&digits);
    };
    if before == 0 {
        out.push_str("0.");
        return out.push_str(&digits);
    }
    let whole: String = digits
        .chars()
        .chain(std::iter::repeat('0'))
        .take(before)
        .collect();
    out.push_str(&whole);
    if let Some(fraction) = digits.get(before..).filter(|fraction| !fraction.is_empty()) {
        out.push('.');
        out.push_str(fraction);
    }
}

/// `numeric_out`: groups of four digits, the first of them `weight` groups before the point.
pub(super) fn numeric(cursor: &mut Cursor<'_>, out: &mut String) -> Option<()> {
    let groups = u16::from_be_bytes(cursor.array()?);
    let (weight, sign, scale) = (cursor.i16()?, u16::from_be_bytes(cursor.array()?), cursor.i16()?);
    match sign {
        0 => {}
        0x4000 => out.push('-'),
        0xc000 => {
            out.push_str("NaN");
            return Some(());
        }
        0xd000 => {
            out.push_str("Infinity");
            return Some(());
        }
        0xf000 => {
            out.push_str("-Infinity");
            return Some(());
        }
        _ => return None,
    }
    let mut digits = Vec::with_capacity(usize::from(groups).min(cursor.0.len()));
    for _ in 0..groups {
        digits.push(u16::from_be_bytes(cursor.array()?).min(9999));
    }
    let group = |place: i32| {
        usize::try_from(place)
            .ok()
            .and_then(|place| digits.get(place))
            .copied()
            .unwrap_or(0)
    };
    let weight = i32::from(weight);
    if weight < 0 {
        out.push('0');
    }
    for place in 0..=weight {
        let value = group(place);
        let _ = if place == 0 {
            write!(out, "{value}")
        } else {
            write!(out, "{value:04}")
        };
    }
    let scale = usize::try_from(scale).ok()?;
    if scale > 0 {
        let groups = i32::try_from(scale.div_ceil(4)).ok()?;
        let fraction: String = (1..=groups)
            .map(|after| format!("{:04}", group(weight + after)))
            .collect();
        out.push('.');
        out.push_str(fraction.get(..scale)?);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_the_server_does() {
        let of = |value: f64| {
            let mut out = String::new();
            float8(value, &mut out);
            out
        };
        for (value, expected) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.5, "1.5"),
            (0.1, "0.1"),
            (0.0001, "0.0001"),
            (0.000_012, "1.2e-05"),
            (1e14, "100000000000000"),
            (1e15, "1e+15"),
            (-1.25e300, "-1.25e+300"),
            (123_456.789, "123456.789"),
        ] {
            assert_eq!(of(value), expected);
        }
        let mut out = String::new();
        float4(1e6, &mut out);
        assert_eq!(out, "1e+06");
    }
}
