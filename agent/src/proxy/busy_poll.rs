//! Busy polling: a worker that was busy a moment ago looks for more a while before it sleeps.
//!
//! Waking a sleeping thread costs whoever wakes it several microseconds, and on a virtual machine the processor's own sleep adds
//! more: with one client that was a third of a statement's time. So a worker goes on asking the kernel for a *window* after
//! the last event, and lets others have the processor between two questions. The window adapts as KVM's halt polling does: where the
//! next event came within the longest window, it doubles; where it came later, it halves. An idle worker sleeps.

use std::cell::Cell;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::yield_now;

/// The first window after none.
const FIRST: Duration = Duration::from_micros(10);

/// One worker's busy polling.
#[derive(Debug)]
pub(crate) struct BusyPoll {
    longest: Duration,
    /// Grows with every event.
    events: Cell<u64>,
    /// Nobody has to say that there was an event: it isn't slept.
    awake: Cell<bool>,
    stirred: Notify,
}

impl BusyPoll {
    /// Windows of up to `longest`; zero means never.
    pub(crate) fn new(longest: Duration) -> Self {
        Self {
            longest,
            events: Cell::new(0),
            awake: Cell::new(longest.is_zero()),
            stirred: Notify::new(),
        }
    }

    /// Says that there was an event for a session.
    pub(crate) fn event(&self) {
        self.events.set(self.events.get().wrapping_add(1));
        if !self.awake.get() {
            self.stirred.notify_one();
        }
    }

    /// Polls whenever that is worth it. Never ends; cancel-safe.
    pub(crate) async fn run(&self) {
        if self.longest.is_zero() {
            return std::future::pending().await;
        }
        let mut window = Window::new(self.longest);
        let mut last = Instant::now();
        loop {
            self.awake.set(false);
            self.stirred.notified().await;
            self.awake.set(true);
            window.gap(last.elapsed());
            last = self.poll(window.now).await;
        }
    }

    /// Polls until a window brought nothing, and says when the last event was.
    async fn poll(&self, window: Duration) -> Instant {
        let mut seen = self.events.get();
        let mut last = Instant::now();
        while !window.is_zero() {
            // The runtime asks the kernel for events, and serves them, before it comes back here.
            yield_now().await;
            let events = self.events.get();
            if events != seen {
                seen = events;
                last = Instant::now();
            } else if last.elapsed() >= window {
                break;
            }
            std::thread::yield_now();
        }
        last
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

    #[tokio::test(flavor = "current_thread")]
    async fn without_a_window_nothing_is_asked_and_nothing_wakes() {
        let poll = BusyPoll::new(Duration::ZERO);
        poll.event();
        let ran = tokio::time::timeout(Duration::from_millis(20), poll.run()).await;
        assert!(ran.is_err());
        assert!(poll.awake.get());
    }
}
