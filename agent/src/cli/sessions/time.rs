//! Times as people write and read them.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, civil};

/// How times are told.
#[derive(Debug, Clone)]
pub(super) struct Clock {
    zone: TimeZone,
    utc: bool,
}

impl Clock {
    /// In UTC, or as this machine does.
    pub(super) fn new(local: bool) -> Self {
        Self {
            zone: if local { TimeZone::system() } else { TimeZone::UTC },
            utc: !local,
        }
    }

    /// What its times are called.
    pub(super) fn name(&self) -> &'static str {
        if self.utc { "UTC" } else { "local" }
    }

    /// Milliseconds since 1970, to the second.
    pub(super) fn told(&self, millis: u64) -> String {
        self.formatted(millis, "%Y-%m-%d %H:%M:%S")
    }

    /// The same to the millisecond, with the zone.
    pub(super) fn in_full(&self, millis: u64) -> String {
        let zone = if self.utc { "UTC" } else { "%:z" };
        self.formatted(millis, &format!("%Y-%m-%d %H:%M:%S%.3f {zone}"))
    }

    fn formatted(&self, millis: u64, format: &str) -> String {
        let Some(at) = i64::try_from(millis)
            .ok()
            .and_then(|millis| Timestamp::from_millisecond(millis).ok())
        else {
            return "-".to_owned();
        };
        at.to_zoned(self.zone.clone()).strftime(format).to_string()
    }

    /// Reads a time, in milliseconds since 1970: `15m` ago, a date, a date with a time, or either with a zone.
    pub(super) fn read(&self, text: &str, now: Timestamp) -> Result<u64, String> {
        let at = ago(text, now)
            .or_else(|| text.parse::<Timestamp>().ok())
            .or_else(|| {
                let read: civil::DateTime = text.parse().ok()?;
                read.to_zoned(self.zone.clone()).ok().map(|at| at.timestamp())
            });
        at.and_then(|at| u64::try_from(at.as_millisecond()).ok())
            .ok_or_else(|| {
                format!("{text:?} is no time; write 15m, 2h or 3d for so long ago, 2026-01-31, or 2026-01-31T12:30")
            })
    }
}

fn ago(text: &str, now: Timestamp) -> Option<Timestamp> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let one = match text.get(digits.len()..)? {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    let seconds = digits.parse::<i64>().ok()?.checked_mul(one)?;
    now.checked_sub(SignedDuration::from_secs(seconds)).ok()
}

/// Milliseconds as a length of time.
pub(super) fn lasted(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..60_000 => format!("{}.{} s", millis / 1000, millis % 1000 / 100),
        60_000..3_600_000 => format!("{} min {} s", millis / 60_000, millis / 1000 % 60),
        _ => format!("{} h {} min", millis / 3_600_000, millis / 60_000 % 60),
    }
}

/// Microseconds as a length of time.
pub(super) fn took(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{}.{} ms", micros / 1000, micros % 1000 / 100),
        _ => lasted(micros / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_utc() {
        let clock = Clock::new(false);
        for (millis, told) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400_000, "2000-02-29 00:00:00"),
            (1_709_251_199_999, "2024-02-29 23:59:59"),
            (4_102_444_800_000, "2100-01-01 00:00:00"),
        ] {
            assert_eq!(clock.told(millis), told);
        }
        assert_eq!(clock.in_full(1_709_251_199_999), "2024-02-29 23:59:59.999 UTC");
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        let clock = Clock::new(false);
        let now: Timestamp = "2024-03-01T12:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("30s", "2024-03-01T11:59:30Z"),
            ("15m", "2024-03-01T11:45:00Z"),
            ("2h", "2024-03-01T10:00:00Z"),
            ("1d", "2024-02-29T12:00:00Z"),
            ("2024-02-29", "2024-02-29T00:00:00Z"),
            ("2024-02-29T01:02", "2024-02-29T01:02:00Z"),
            ("2024-02-29 01:02:03", "2024-02-29T01:02:03Z"),
            ("2024-02-29T01:02:03+01:00", "2024-02-29T00:02:03Z"),
        ] {
            let expected: Timestamp = expected.parse().unwrap();
            assert_eq!(
                clock.read(text, now),
                Ok(u64::try_from(expected.as_millisecond()).unwrap()),
                "{text}"
            );
        }
        for text in ["", "yesterday", "15", "m", "2024-02-30", "99999999999999999999d"] {
            assert!(
                clock.read(text, now).unwrap_err().contains("is no time"),
                "{text}"
            );
        }
    }

    #[test]
    fn lengths_of_time_are_short() {
        assert_eq!(took(7), "7 µs");
        assert_eq!(took(1_550), "1.5 ms");
        assert_eq!(took(2_500_000), "2.5 s");
        assert_eq!(lasted(61_000), "1 min 1 s");
        assert_eq!(lasted(7_260_000), "2 h 1 min");
    }
}
