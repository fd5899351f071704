//! Busy polling: a worker that was busy a moment ago looks for more a while before it sleeps.
//!
//! Waking a sleeping thread costs whoever wakes it several microseconds, and on a virtual machine the processor's own sleep adds
//! more: with one client that was a third of a statement's time. So a worker goes on asking the kernel for a *window* after
//! the last event, and lets others have the processor between two questions. The window adapts as KVM's halt polling does: where the
//! next event came within the longest window, it doubles; where it came later, it halves. An idle worker sleeps.

use std::time::{Duration, Instant};

/// The first window after none.
const FIRST: Duration = Duration::from_micros(10);

/// One worker's busy polling.
#[derive(Debug)]
pub(crate) struct BusyPoll {
    window: Window,
    /// When the last event was.
    last: Instant,
}

impl BusyPoll {
    /// Windows of up to `longest`; zero means never.
    pub(crate) fn new(longest: Duration) -> Self {
        Self {
            window: Window::new(longest),
            last: Instant::now(),
        }
    }

    /// Whether the kernel is asked once more before the thread sleeps. If so, others had the processor first.
    pub(crate) fn goes_on(&self, now: Instant) -> bool {
        let polls = !self.window.now.is_zero() && now.saturating_duration_since(self.last) < self.window.now;
        if polls {
            std::thread::yield_now();
        }
        polls
    }

    /// Notes what the kernel answered: whether there was an event, and whether the thread slept until then.
    pub(crate) fn turned(&mut self, now: Instant, event: bool, slept: bool) {
        if event {
            if slept {
                self.window.gap(now.saturating_duration_since(self.last));
            }
            self.last = now;
        }
    }
}

/// For how long events are asked for.
#[derive(Debug)]
struct Window {
    now: Duration,
    longest: Duration,
}

impl Window {
    fn new(longest: Duration) -> Self {
        Self {
            now: Duration::ZERO,
            longest,
        }
    }

    /// After a time without events that was longer than the window: would the longest have been worth it?
    fn gap(&mut self, time: Duration) {
        if time < self.longest {
            self.now = (self.now * 2).clamp(FIRST.min(self.longest), self.longest);
        } else if self.now > FIRST {
            self.now /= 2;
        } else {
            self.now = Duration::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn the_window_grows_with_short_gaps_and_goes_with_long_ones() {
        let mut window = Window::new(us(100));
        let mut after = |gaps: &[u64]| -> Vec<Duration> {
            gaps.iter()
                .map(|gap| {
                    window.gap(us(*gap));
                    window.now
                })
                .collect()
        };
        assert_eq!(after(&[5_000]), [us(0)]);
        assert_eq!(
            after(&[30, 30, 30, 30, 30, 99]),
            [us(10), us(20), us(40), us(80), us(100), us(100)]
        );
        assert_eq!(
            after(&[100, 2_000, 2_000, 2_000, 2_000, 2_000]),
            [
                us(50),
                us(25),
                Duration::from_nanos(12_500),
                Duration::from_nanos(6_250),
                us(0),
                us(0)
            ]
        );
    }

    #[test]
    fn polling_ends_with_its_window_and_isnt_begun_without_one() {
        let begin = Instant::now() + us(1_000_000);
        let mut poll = BusyPoll::new(us(100));
        assert!(!poll.goes_on(begin));
        poll.turned(begin, true, true);
        let next = begin + us(50);
        poll.turned(next, true, true);
        assert!(poll.goes_on(next + us(9)) && !poll.goes_on(next + us(10)));
        // What came while it polled leaves the window as it is, and nothing that comes is no event.
        poll.turned(next + us(5), true, false);
        poll.turned(next + us(14), false, false);
        assert!(poll.goes_on(next + us(14)) && !poll.goes_on(next + us(15)));
        let mut never = BusyPoll::new(Duration::ZERO);
        never.turned(begin, true, true);
        never.turned(begin + us(1), true, true);
        assert!(!never.goes_on(begin + us(1)));
    }
}
