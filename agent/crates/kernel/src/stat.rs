//! Processes as `/proc` tells of them.

use std::fs;

/// What `/proc/PID/stat` says of a process that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessStat {
    /// Its parent, which may be whom it was given to when its own ended.
    pub parent: u32,
    /// When it started, in nanoseconds of the boot-time clock, by hundredths of a second. Never 0.
    pub started_ns: u64,
}

/// `USER_HZ`, in which `/proc` counts, is the same everywhere that this runs.
const NS_OF_A_TICK: u64 = 10_000_000;

impl ProcessStat {
    /// Of the process that has this number now. `None`: there is none.
    #[must_use]
    pub fn of(tgid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{tgid}/stat")).ok()?)
    }

    /// The name, in brackets, may hold whatever its process likes.
    fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.rsplit_once(')')?;
        let mut words = rest.split_whitespace();
        let parent = words.nth(1)?.parse().ok()?;
        let ticks: u64 = words.nth(17)?.parse().ok()?;
        // Zero says that it isn't known.
        Some(Self {
            parent,
            started_ns: ticks.saturating_mul(NS_OF_A_TICK).max(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_nothing_of_a_process_but_itself() {
        let line = "77 (a) S 1 (b)) R 42 77 77 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123 9 9";
        assert_eq!(
            ProcessStat::parse(line),
            Some(ProcessStat {
                parent: 42,
                started_ns: 1_230_000_000
            })
        );
        assert_eq!(ProcessStat::parse("77 (a) R"), None);
        assert_eq!(ProcessStat::parse(""), None);
    }

    #[test]
    fn this_process_is_read() {
        let stat = ProcessStat::of(std::process::id()).unwrap();
        assert_eq!(stat.parent, std::os::unix::process::parent_id());
        assert!(stat.started_ns > 1);
    }
}
