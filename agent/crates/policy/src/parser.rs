//! Threads that parse, with a stack that what they accept can't overflow.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};

use crate::classify::{Classified, MAX_NESTING, STACK_PER_LEVEL, Settings, Unclassified, classify};

type Done = Box<dyn FnOnce(Result<Classified, Unclassified>) + Send>;

struct Job {
    text: String,
    settings: Settings,
    done: Done,
}

/// Parsing threads. They end when the pool is dropped.
#[derive(Debug)]
pub struct ParserPool {
    jobs: SyncSender<Job>,
}

/// What became of a text that was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Submitted {
    /// The queue is full.
    #[error("the parsers' queue is full")]
    Full,
    /// The threads are gone.
    #[error("the parsers have ended")]
    Gone,
}

impl ParserPool {
    /// Starts so many threads. At most `queue` texts may wait for one; each is as long as the protocol lets a statement be.
    pub fn new(threads: usize, queue: usize) -> std::io::Result<Self> {
        let (jobs, inbox) = sync_channel::<Job>(queue);
        let inbox = Arc::new(Mutex::new(inbox));
        for number in 0..threads.max(1) {
            let inbox = Arc::clone(&inbox);
            std::thread::Builder::new()
                .name(format!("parser-{number}"))
                // Only what is used of it takes memory.
                .stack_size(MAX_NESTING * STACK_PER_LEVEL)
                .spawn(move || parse_all(&inbox))?;
        }
        Ok(Self { jobs })
    }

    /// Hands a text over. `done` is called on a parsing thread and must not block.
    pub fn submit(&self, text: String, settings: Settings, done: Done) -> Result<(), Submitted> {
        self.jobs
            .try_send(Job { text, settings, done })
            .map_err(|error| match error {
                TrySendError::Full(_) => Submitted::Full,
                TrySendError::Disconnected(_) => Submitted::Gone,
            })
    }
}

fn parse_all(inbox: &Mutex<Receiver<Job>>) {
    loop {
        let job = {
            let Ok(inbox) = inbox.lock() else { return };
            inbox.recv()
        };
        let Ok(Job { text, settings, done }) = job else {
            return;
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| classify(&text, &settings)));
        // A callback that panics must not take the thread along.
        drop(catch_unwind(AssertUnwindSafe(|| {
            done(outcome.unwrap_or(Err(Unclassified::Failed)));
        })));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn ask(pool: &ParserPool, text: &str) -> Result<Classified, Unclassified> {
        let (done, answer) = channel();
        pool.submit(
            text.to_owned(),
            Settings::default(),
            Box::new(move |found| done.send(found).unwrap()),
        )
        .unwrap();
        answer.recv().unwrap()
    }

    #[test]
    fn the_deepest_texts_that_are_accepted_dont_overflow() {
        let pool = ParserPool::new(1, 16).unwrap();
        let deep = [
            format!("SELECT 1{}", "+1".repeat(MAX_NESTING - 8)),
            format!("SELECT {}1", "- ".repeat(9_000)),
            format!("SELECT {}true", "NOT ".repeat(MAX_NESTING - 8)),
            format!("SELECT 1{}", " UNION SELECT 1".repeat(MAX_NESTING / 2 - 8)),
            format!("SELECT {}1{}", "(SELECT ".repeat(4_000), ")".repeat(4_000)),
            format!("SELECT 1{}", "::text".repeat(MAX_NESTING / 3 - 8)),
            format!("SELECT {}1{}", "ARRAY[".repeat(4_000), "]".repeat(4_000)),
            format!("SELECT {}1{}", "f(".repeat(4_000), ")".repeat(4_000)),
            format!("SELECT x{}", " IS NULL".repeat(MAX_NESTING / 2 - 8)),
            format!(
                "SELECT * FROM a{}",
                " JOIN a USING (x)".repeat(MAX_NESTING / 5 - 8)
            ),
        ];
        for text in deep {
            // Told or not: it comes back, and the next one does too.
            let outcome = ask(&pool, &text);
            assert!(
                matches!(outcome, Ok(_) | Err(Unclassified::Syntax)),
                "{:.40}: {outcome:?}",
                text
            );
        }
        assert!(ask(&pool, "SELECT 1").is_ok());
    }

    #[test]
    fn deeper_ones_are_refused_before_they_are_parsed() {
        let pool = ParserPool::new(1, 16).unwrap();
        let text = format!("SELECT 1{}", "+1".repeat(MAX_NESTING));
        assert_eq!(ask(&pool, &text).unwrap_err(), Unclassified::TooDeep);
    }

    #[test]
    fn long_lists_of_values_are_not_deep() {
        let pool = ParserPool::new(1, 16).unwrap();
        let rows = vec!["(1,'it''s a value with words',2)"; 8_000].join(",");
        let found = ask(&pool, &format!("INSERT INTO t VALUES {rows}")).unwrap();
        assert_eq!(found.statements().len(), 1);
    }
}
