//! Memory that is held for requests, counted into what all sessions of a worker may hold.

use std::cell::Cell;
use std::rc::Rc;

use super::connection::Connection;
use crate::proxy::worker::WorkerShared;

/// Bytes of all of a connection's answers together that pass whatever others hold, so that small objects can be had where large ones fill the
/// rest. Not of each answer: there may be 250 at a time.
const SPARED: usize = 64 * 1024;

/// So many bytes, until it is dropped.
pub(super) struct Held {
    shared: Rc<WorkerShared>,
    /// What the answers of the connection hold, where it is one of them.
    answers: Option<Rc<Cell<usize>>>,
    bytes: usize,
}

impl Held {
    /// Of nothing yet.
    pub(super) fn new(shared: &Rc<WorkerShared>) -> Self {
        Self {
            shared: Rc::clone(shared),
            answers: None,
            bytes: 0,
        }
    }

    /// Of nothing yet of an answer.
    pub(super) fn of_answer(connection: &Connection) -> Self {
        Self {
            shared: Rc::clone(&connection.shared),
            answers: Some(Rc::clone(&connection.answers)),
            bytes: 0,
        }
    }

    /// Holds so many more. Where there is no room for them it stays as it was, and says so.
    pub(super) fn grow(&mut self, more: usize) -> Result<(), NoRoom> {
        let all = self.shared.held.get().saturating_add(more);
        if all > self.shared.may_hold {
            self.shared.options.metrics.limit("memory");
            return Err(NoRoom);
        }
        self.shared.held.set(all);
        self.bytes += more;
        Ok(())
    }

    /// Holds so many instead. They are counted in any case, since they are there already; where they have become more and there is no
    /// room for that, they have to be given up.
    pub(super) fn set(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let grew = bytes > self.bytes;
        let all = self
            .shared
            .held
            .get()
            .saturating_sub(self.bytes)
            .saturating_add(bytes);
        self.shared.held.set(all);
        let before = std::mem::replace(&mut self.bytes, bytes);
        let own = self.answers.as_ref().map_or(usize::MAX, |answers| {
            let own = answers.get().saturating_sub(before).saturating_add(bytes);
            answers.set(own);
            own
        });
        if grew && own > SPARED && all > self.shared.may_hold {
            self.shared.options.metrics.limit("memory");
            return Err(NoRoom);
        }
        Ok(())
    }

    /// Holds nothing any more.
    pub(super) fn release(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let all = self.shared.held.get();
        self.shared.held.set(all.saturating_sub(bytes));
        if let Some(answers) = &self.answers {
            answers.set(answers.get().saturating_sub(bytes));
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}

/// There is no memory left for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the agent on this node has no memory left for it")]
pub(super) struct NoRoom;
