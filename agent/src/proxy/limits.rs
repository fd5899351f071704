//! The data path's limits. The table in `ARCHITECTURE.md` says which test reaches which.

use std::time::Duration;

/// How much of each thing there may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once, over all pods. More are closed at accept.
    pub connections: usize,
    /// Connections at once of one pod, so that one pod can't take them all.
    pub connections_per_pod: usize,
    /// From accept to the server's first ReadyForQuery.
    pub handshake: Duration,
    /// Bytes that an authentication may take in each direction before it counts as no authentication.
    pub handshake_bytes: usize,
    /// Dialing the target.
    pub dial: Duration,
    /// How long a peer that has nothing to say may be silent on the wire, too, before its connection counts as lost.
    pub dead_peer: Duration,
    /// Length in bytes of a message that must be read whole before it is decided: Query, Parse, FunctionCall.
    pub decided_message: usize,
    /// Length in bytes of one row that is masked, and so must be read whole.
    pub masked_row: usize,
    /// Requests whose answers are outstanding; past it the client isn't read until answers have come.
    pub outstanding: usize,
    /// Prepared statements of one session, and as many portals.
    pub prepared: usize,
    /// Bytes that all sessions together may hold in memory: texts of prepared statements and of operations under way, messages that
    /// aren't whole yet, and what a peer doesn't read. Each worker has its share of it.
    pub memory: usize,
    /// Texts that may wait for the grammar, over all sessions.
    pub grammar_queue: usize,
    /// Bytes that may wait to be written into the record, over all sessions.
    pub record_queue: usize,
    /// Bytes of memory that all databases' catalogs together may take.
    pub catalog: usize,
    /// Relations that one database's catalog may have.
    pub catalog_relations: usize,
    /// How long sessions that aren't idle may go on after the agent was told to end.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_pod: 2_000,
            handshake: Duration::from_secs(60),
            handshake_bytes: 1 << 20,
            dial: Duration::from_secs(10),
            dead_peer: Duration::from_secs(120),
            decided_message: 1 << 20,
            masked_row: 16 << 20,
            outstanding: 16_384,
            prepared: 10_000,
            memory: 1 << 30,
            grammar_queue: 256,
            record_queue: 64 << 20,
            catalog: 256 << 20,
            catalog_relations: 200_000,
            drain: Duration::from_secs(20),
        }
    }
}

/// One limit as the command line sets it, such as `connections=500`, `statement=2MiB` or `handshake=5s`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitSetting {
    name: &'static str,
    value: u64,
}

/// Why a text sets no limit. The operator is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// There's no `=` in it.
    #[error("{0:?} sets nothing; write NAME=VALUE, such as connections=500")]
    NoValue(String),
    /// No limit of this name.
    #[error("there is no limit {name:?}; there are: {known}")]
    Unknown {
        /// What was given.
        name: String,
        /// All names.
        known: String,
    },
    /// The value can't be read.
    #[error("{value:?} is no {unit}")]
    Unreadable {
        /// What was given.
        value: String,
        /// What it should have been, with an example.
        unit: &'static str,
    },
    /// The value is too small or too large to be of use.
    #[error("{name} must be from {least} to {most}")]
    OutOfRange {
        /// Which limit.
        name: &'static str,
        /// The least, as it is written.
        least: String,
        /// The most, as it is written.
        most: String,
    },
}

/// In what a limit is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Count,
    Bytes,
    /// Kept in milliseconds.
    Time,
}

/// A limit that can be set.
struct Knob {
    name: &'static str,
    unit: Unit,
    least: u64,
    most: u64,
    about: &'static str,
    get: fn(&Limits) -> u64,
    set: fn(&mut Limits, u64),
}

macro_rules! knob {
    ($name:literal, Time, $range:expr, $field:ident, $about:literal) => {
        Knob {
            name: $name,
            unit: Unit::Time,
            least: *$range.start(),
            most: *$range.end(),
            about: $about,
            get: |limits| u64::try_from(limits.$field.as_millis()).unwrap_or(u64::MAX),
            set: |limits, value| limits.$field = Duration::from_millis(value),
        }
    };
    ($name:literal, $unit:ident, $range:expr, $field:ident, $about:literal) => {
        Knob {
            name: $name,
            unit: Unit::$unit,
            least: *$range.start(),
            most: *$range.end(),
            about: $about,
            get: |limits| limits.$field as u64,
            set: |limits, value| limits.$field = usize::try_from(value).unwrap_or(usize::MAX),
        }
    };
}

const HOUR: u64 = 3_600_000;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const KNOBS: [Knob; 16] = [
    knob!(
        "connections",
        Count,
        1..=1_000_000,
        connections,
        "open at once, over all pods"
    ),
    knob!(
        "connections-per-pod",
        Count,
        1..=1_000_000,
        connections_per_pod,
        "open at once of one pod"
    ),
    knob!(
        "handshake",
        Time,
        1..=HOUR,
        handshake,
        "from accepting a connection to its first ReadyForQuery"
    ),
    knob!(
        "handshake-bytes",
        Bytes,
        KIB..=GIB,
        handshake_bytes,
        "of an authentication, each way"
    ),
    knob!("dial", Time, 1..=HOUR, dial, "dialing a database"),
    knob!(
        "dead-peer",
        Time,
        2_000..=24 * HOUR,
        dead_peer,
        "until a peer that is gone without a word is noticed"
    ),
    knob!(
        "statement",
        Bytes,
        KIB..=GIB - 1,
        decided_message,
        "of a Query, Parse or FunctionCall message"
    ),
    knob!(
        "masked-row",
        Bytes,
        KIB..=GIB - 1,
        masked_row,
        "of a row with masked columns"
    ),
    knob!(
        "outstanding",
        Count,
        2..=10_000_000,
        outstanding,
        "requests of a session without an answer yet"
    ),
    knob!(
        "prepared",
        Count,
        1..=10_000_000,
        prepared,
        "prepared statements of a session, and portals"
    ),
    knob!(
        "memory",
        Bytes,
        MIB..=1024 * GIB,
        memory,
        "that all sessions together hold in memory"
    ),
    knob!(
        "grammar-queue",
        Count,
        1..=1_000_000,
        grammar_queue,
        "statements that wait to be parsed"
    ),
    knob!(
        "record-queue",
        Bytes,
        KIB..=64 * GIB,
        record_queue,
        "that wait to be written into the record"
    ),
    knob!(
        "catalog",
        Bytes,
        KIB..=64 * GIB,
        catalog,
        "that all databases' catalogs together take in memory"
    ),
    knob!(
        "catalog-relations",
        Count,
        1..=100_000_000,
        catalog_relations,
        "relations of one database whose catalog is read"
    ),
    knob!(
        "drain",
        Time,
        0..=HOUR,
        drain,
        "that busy sessions may go on when the agent ends"
    ),
];

impl Limits {
    /// Puts a setting in force.
    pub fn set(&mut self, setting: &LimitSetting) {
        if let Some(knob) = KNOBS.iter().find(|knob| knob.name == setting.name) {
            (knob.set)(self, setting.value);
        }
    }

    /// All limits that can be set, one a line, with units and defaults.
    #[must_use]
    pub fn help() -> String {
        let defaults = Self::default();
        KNOBS
            .iter()
            .map(|knob| {
                let default = knob.unit.write((knob.get)(&defaults));
                let unit = match knob.unit {
                    Unit::Count => "",
                    Unit::Bytes => "bytes ",
                    Unit::Time => "time ",
                };
                format!("  {:<20} {unit}{} [default: {default}]", knob.name, knob.about)
            })
            .collect::<Vec<_>>()
            .join("\n")
    }
}

impl std::str::FromStr for LimitSetting {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| LimitError::NoValue(text.to_owned()))?;
        let knob = KNOBS
            .iter()
            .find(|knob| knob.name == name)
            .ok_or_else(|| LimitError::Unknown {
                name: name.to_owned(),
                known: KNOBS.map(|knob| knob.name).join(", "),
            })?;
        let value = knob.unit.read(value)?;
        if !(knob.least..=knob.most).contains(&value) {
            return Err(LimitError::OutOfRange {
                name: knob.name,
                least: knob.unit.write(knob.least),
                most: knob.unit.write(knob.most),
            });
        }
        Ok(Self {
            name: knob.name,
            value,
        })
    }
}

impl Unit {
    /// Units in which it is written, the greatest first, and what one is.
    const fn units(self) -> &'static [(&'static str, u64)] {
        match self {
            Self::Count => &[("", 1)],
            Self::Bytes => &[("GiB", GIB), ("MiB", MIB), ("KiB", KIB), ("", 1)],
            Self::Time => &[("h", HOUR), ("min", 60_000), ("ms", 1), ("s", 1_000)],
        }
    }

    fn read(self, text: &str) -> Result<u64, LimitError> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = text.get(digits.len()..).unwrap_or_default().trim();
        self.units()
            .iter()
            .find(|(name, _)| *name == unit)
            .and_then(|(_, one)| digits.parse::<u64>().ok()?.checked_mul(*one))
            .ok_or_else(|| LimitError::Unreadable {
                value: text.to_owned(),
                unit: match self {
                    Self::Count => "number, such as 500",
                    Self::Bytes => "number of bytes, such as 4096, 64KiB or 16MiB",
                    Self::Time => "time, such as 500ms, 10s or 2min",
                },
            })
    }

    fn write(self, value: u64) -> String {
        let fits = self
            .units()
            .iter()
            .filter(|(_, one)| value >= *one && value.is_multiple_of(*one))
            .max_by_key(|(_, one)| *one);
        match fits {
            Some((name, one)) => format!("{}{name}", value / one),
            None => value.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_they_are_written() {
        let mut limits = Limits::default();
        for knob in &KNOBS {
            let now = (knob.get)(&limits);
            assert!((knob.least..=knob.most).contains(&now), "{}", knob.name);
            let text = format!("{}={}", knob.name, knob.unit.write(now));
            limits.set(&text.parse().unwrap());
            assert_eq!(limits, Limits::default(), "{text}");
            assert!(Limits::help().contains(knob.name));
        }
        for text in ["handshake=1500ms", "statement=3KiB", "connections=3", "drain=0ms"] {
            limits.set(&text.parse().unwrap());
        }
        assert_eq!(limits.handshake, Duration::from_millis(1500));
        assert_eq!(limits.decided_message, 3072);
        assert_eq!((limits.connections, limits.drain), (3, Duration::ZERO));
    }

    #[test]
    fn what_sets_nothing_is_told_with_what_would() {
        let said = |text: &str| text.parse::<LimitSetting>().unwrap_err().to_string();
        assert!(said("connections").contains("NAME=VALUE"));
        assert!(said("conections=3").contains("connections-per-pod"));
        assert!(said("handshake=5").contains("such as 500ms"));
        assert!(said("connections=-1").contains("no number"));
        assert!(said("connections=0").contains("from 1 to 1000000"));
        assert!(said("statement=99999999999GiB").contains("no number of bytes"));
        assert!(said("statement=2GiB").contains("from 1KiB to"));
    }
}
