//! Dates and times as texts, in ISO style. Times with a zone are in UTC, whatever zone the session has.

use std::fmt::Write as _;

use super::Cursor;

const DAY: i64 = 86_400_000_000;

/// Days from 0000-03-01, where leap days come last, to 2000-01-01.
const EPOCH: i64 = 730_425;

/// Days after 2000-01-01.
pub(super) fn date(days: i32, out: &mut String) {
    match days {
        i32::MAX => out.push_str("infinity"),
        i32::MIN => out.push_str("-infinity"),
        days => {
            let before_christ = calendar(i64::from(days), out);
            out.push_str(before_christ);
        }
    }
}

/// Writes a day, and returns what follows it at the end.
fn calendar(days: i64, out: &mut String) -> &'static str {
    let days = days + EPOCH;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = era * 400 + year + later;
    // There is no year 0.
    let (year, suffix) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    let _ = write!(out, "{year:04}-{month:02}-{day:02}");
    suffix
}

/// Microseconds after midnight.
pub(super) fn time(micros: i64, out: &mut String) -> Option<()> {
    (0..=DAY).contains(&micros).then(|| clock(micros, out))
}

fn clock(micros: i64, out: &mut String) {
    let seconds = micros / 1_000_000;
    let _ = write!(
        out,
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    );
    fraction(micros % 1_000_000, out);
}

fn fraction(micros: i64, out: &mut String) {
    if micros != 0 {
        let digits = format!("{micros:06}");
        let _ = write!(out, ".{}", digits.trim_end_matches('0'));
    }
}

/// Seconds west of UTC.
pub(super) fn zone(west: i32, out: &mut String) {
    let seconds = west.unsigned_abs();
    let _ = write!(out, "{}{:02}", if west > 0 { '-' } else { '+' }, seconds / 3600);
    if !seconds.is_multiple_of(3600) {
        let _ = write!(out, ":{:02}", seconds / 60 % 60);
    }
    if !seconds.is_multiple_of(60) {
        let _ = write!(out, ":{:02}", seconds % 60);
    }
}

/// Microseconds after 2000-01-01.
pub(super) fn timestamp(micros: i64, zone: &str, out: &mut String) -> Option<()> {
    match micros {
        i64::MAX => out.push_str("infinity"),
        i64::MIN => out.push_str("-infinity"),
        micros => {
            let suffix = calendar(micros.div_euclid(DAY), out);
            out.push(' ');
            clock(micros.rem_euclid(DAY), out);
            out.push_str(zone);
            out.push_str(suffix);
        }
    }
    Some(())
}

/// `interval_out` in style `postgres`.
pub(super) fn interval(cursor: &mut Cursor<'_>, out: &mut String) -> Option<()> {
    let micros = i64::from_be_bytes(cursor.array()?);
    let (days, months) = (cursor.i32()?, cursor.i32()?);
    match (micros, days, months) {
        (i64::MAX, i32::MAX, i32::MAX) => {
            out.push_str("infinity");
            return Some(());
        }
        (i64::MIN, i32::MIN, i32::MIN) => {
            out.push_str("-infinity");
            return Some(());
        }
        _ => {}
    }
    let (mut begun, mut negative) = (false, false);
    for (value, unit) in [(months / 12, "year"), (months % 12, "mon"), (days, "day")] {
        if value != 0 {
            let space = if begun { " " } else { "" };
            // After something negative a sign is always written.
            let plus = if negative && value > 0 { "+" } else { "" };
            let plural = if value == 1 { "" } else { "s" };
            let _ = write!(out, "{space}{plus}{value} {unit}{plural}");
            (begun, negative) = (true, value < 0);
        }
    }
    if micros != 0 || !begun {
        if begun {
            out.push(' ');
        }
        match micros < 0 {
            true => out.push('-'),
            false if negative => out.push('+'),
            false => {}
        }
        let micros = i64::try_from(micros.unsigned_abs()).ok()?;
        clock(micros, out);
    }
    Some(())
}
