//! Values that are a text or a number in JSON, and something else in protobuf.

use super::reader::{Part, Reader, Wire, put_delimited, put_varint, varint};
use crate::kubernetes::Malformed;
use crate::kubernetes::schema::Single;

/// A value as JSON has it.
pub(super) enum Shown {
    /// A number or a boolean, or what stands for a quantity or a time.
    Scalar(String),
    /// A text in a field that could be a number.
    Text(String),
}

/// What a message of such a type shows in JSON; `None` where it shows nothing or null.
///
/// # Errors
/// When it isn't what its type says.
pub(super) fn show(of: Single, source: &[u8], part: &Part) -> Result<Option<Shown>, Malformed> {
    if part.content.is_empty() {
        return Ok(None);
    }
    let parts = Parts::read(source, part)?;
    let scalar = match of {
        Single::Quantity => {
            let text = parts.text(1)?;
            if text.is_empty() {
                return Ok(None);
            }
            text
        }
        Single::Time => time(parts.number(1)?, None),
        Single::MicroTime => time(parts.number(1)?, Some(parts.number(2)?)),
        Single::Duration => duration(parts.number(1)?),
        Single::IntOrString if parts.number(1)? == 1 => {
            let text = parts.text(3)?;
            return Ok((!text.is_empty()).then_some(Shown::Text(text)));
        }
        Single::IntOrString => parts.number(2)?.to_string(),
        _ => return Err(Malformed::Kind),
    };
    Ok(Some(Shown::Scalar(scalar)))
}

/// The message that shows this in JSON; `None` for the least there is. `text` is whether it was a text, in a field that could be
/// a number.
///
/// # Errors
/// When the type can't be this.
pub(super) fn hide(of: Single, shown: Option<&str>, text: bool) -> Result<Vec<u8>, Malformed> {
    let mut message = Vec::new();
    match (of, shown) {
        (Single::Quantity, shown) => put_delimited(&mut message, 1, shown.unwrap_or("0").as_bytes()),
        // No value of such a type that shows something is shorter.
        (Single::Time | Single::MicroTime | Single::Duration, None) => message.extend([0x08, 0]),
        (Single::Time | Single::MicroTime, Some(shown)) => {
            let (seconds, nanos) = parse_time(shown).ok_or(Malformed::Room)?;
            message.push(0x08);
            put_varint(&mut message, seconds.cast_unsigned());
            message.push(0x10);
            put_varint(&mut message, nanos);
        }
        (Single::IntOrString, shown) if text => {
            message.extend([0x08, 1]);
            put_delimited(&mut message, 3, shown.unwrap_or_default().as_bytes());
        }
        (Single::IntOrString, Some(shown)) => {
            let number: i32 = shown.parse().map_err(|_| Malformed::Room)?;
            message.extend([0x08, 0, 0x10]);
            put_varint(&mut message, i64::from(number).cast_unsigned());
        }
        (Single::IntOrString, None) => message.extend([0x08, 0]),
        _ => return Err(Malformed::Room),
    }
    Ok(message)
}

/// The fields of such a message.
struct Parts<'s> {
    source: &'s [u8],
    parts: Vec<Part>,
}

impl<'s> Parts<'s> {
    fn read(source: &'s [u8], message: &Part) -> Result<Self, Malformed> {
        let mut reader = Reader::new(source, message.content.clone());
        let mut parts: Vec<Part> = Vec::with_capacity(3);
        while let Some(part) = reader.next()? {
            if parts.last().is_some_and(|last| last.number == part.number) {
                return Err(Malformed::Form);
            }
            // There are no fields but these, and no newer server will have others.
            if part.number > 3 {
                return Err(Malformed::Kind);
            }
            parts.push(part);
        }
        Ok(Self { source, parts })
    }

    fn content(&self, number: u32, wire: Wire) -> Result<Option<&'s [u8]>, Malformed> {
        match self.parts.iter().find(|part| part.number == number) {
            None => Ok(None),
            Some(part) if part.wire == wire => Ok(self.source.get(part.content.clone())),
            Some(_) => Err(Malformed::Form),
        }
    }

    fn number(&self, number: u32) -> Result<i64, Malformed> {
        let content = self.content(number, Wire::Varint)?.unwrap_or(&[0]);
        let (value, _) = varint(content)?.ok_or(Malformed::Form)?;
        Ok(value.cast_signed())
    }

    fn text(&self, number: u32) -> Result<String, Malformed> {
        let content = self.content(number, Wire::Delimited)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(content).into_owned())
    }
}

const DAY: i64 = 86_400;

/// As RFC 3339 has it, in UTC; with microseconds where there are nanoseconds.
fn time(seconds: i64, nanos: Option<i64>) -> String {
    let (days, rest) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    // Days since 0000-03-01, so that the leap day is the last one of a year: 400 years have 146,097 days.
    let days = days.saturating_add(719_468);
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (
        day - (153 * month + 2) / 5 + 1,
        if month < 10 { month + 3 } else { month - 9 },
    );
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    let fraction = nanos.map_or(String::new(), |nanos| {
        format!(".{:06}", nanos.clamp(0, 999_999_999) / 1_000)
    });
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// Seconds and nanoseconds of a time by RFC 3339.
fn parse_time(text: &str) -> Option<(i64, u64)> {
    let number = |range: std::ops::Range<usize>| {
        let digits = text.get(range)?;
        let all = digits.bytes().all(|byte| byte.is_ascii_digit());
        all.then(|| digits.parse::<i64>().ok()).flatten()
    };
    let bytes = text.as_bytes();
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if marks.iter().any(|(index, mark)| bytes.get(*index) != Some(mark)) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut nanos = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > 9 {
            return None;
        }
        nanos = format!("{:0<9}", fraction.get(..digits)?).parse().ok()?;
        rest = fraction.get(digits..)?;
    }
    let offset = match rest.as_bytes() {
        [b'Z'] => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let from = text.len() - 5;
            let minutes = number(from..from + 2)? * 60 + number(from + 3..from + 5)?;
            60 * if *sign == b'+' { minutes } else { -minutes }
        }
        _ => return None,
    };
    let year = year - i64::from(month <= 2);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some((days * DAY + hour * 3_600 + minute * 60 + second - offset, nanos))
}

/// As Go writes it: `1h0m30s`, `1.5s`, `20ms`.
fn duration(nanos: i64) -> String {
    let (sign, all) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let fraction = |value: u64, unit: u64| {
        let (whole, rest) = (value / unit, value % unit);
        let digits = unit.ilog10() as usize;
        if rest == 0 {
            return whole.to_string();
        }
        let rest = format!("{rest:0digits$}");
        format!("{whole}.{}", rest.trim_end_matches('0'))
    };
    let shown = match all {
        0 => return "0s".to_owned(),
        1..=999 => format!("{all}ns"),
        1_000..=999_999 => format!("{}µs", fraction(all, 1_000)),
        1_000_000..=999_999_999 => format!("{}ms", fraction(all, 1_000_000)),
        _ => {
            let minutes = all / 60_000_000_000;
            let seconds = fraction(all % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    };
    format!("{sign}{shown}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_and_come_back() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (-62_135_596_800, "0001-01-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(time(seconds, None), text);
            assert_eq!(parse_time(text), Some((seconds, 0)), "{text}");
        }
        for seconds in (-70_000_000_000..260_000_000_000_i64).step_by(999_999_937) {
            if (-62_135_596_800..=253_402_300_799).contains(&seconds) {
                assert_eq!(parse_time(&time(seconds, None)), Some((seconds, 0)));
            }
        }
        assert_eq!(time(1, Some(2_003_999)), "1970-01-01T00:00:01.002003Z");
        assert_eq!(parse_time("1970-01-01T01:00:00.5+01:00"), Some((0, 500_000_000)));
        for wrong in [
            "",
            "1970-01-01",
            "1970-13-01T00:00:00Z",
            "1970-01-01T00:00:00",
            "1970-01-01T00:00:00+x",
        ] {
            assert_eq!(parse_time(wrong), None, "{wrong}");
        }
        // Nothing that a hostile peer writes is too large.
        let _shown = (time(i64::MAX, Some(i64::MIN)), time(i64::MIN, None));
    }

    #[test]
    fn durations_are_shown_as_go_shows_them() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (245_000_000_000, "4m5s"),
            (3_600_000_000_000, "1h0m0s"),
            (-1_500_000_000, "-1.5s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            assert_eq!(duration(nanos), text);
        }
    }
}
