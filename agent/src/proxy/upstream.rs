//! The target's side of a session. What an operation says leaves only with its [`Permit`].

use std::io;
use std::task::{Context, Poll};

use bailiff_policy::Permit;
use bailiff_wire::postgres::build;

use super::leg::Leg;

/// A message that is no operation by itself: it belongs to one that was decided, or steers the protocol.
///
/// There is no value of this type for Query, Parse, Execute or FunctionCall, so they can't be passed on without a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    /// Bind: parameters for a statement that was decided when it was parsed, and is again when it runs.
    Bind,
    /// Describe.
    Describe,
    /// Close.
    Close,
    /// Sync.
    Sync,
    /// Flush.
    Flush,
    /// Terminate.
    Terminate,
    /// Bulk data of an operation that was allowed.
    CopyData,
}

/// A connection to the target that was allowed.
#[derive(Debug)]
pub(crate) struct Upstream {
    leg: Leg,
    /// What goes out with the next write, gathered so that a pipeline costs one system call.
    batch: Vec<u8>,
    /// A name that no client can guess: statements and tables of this name don't exist, so that using it makes the server fail.
    nowhere: String,
}

impl Upstream {
    /// Wraps the connection. `nowhere` must be unguessable.
    pub(crate) fn new(leg: Leg, nowhere: String) -> Self {
        Self {
            leg,
            batch: Vec::new(),
            nowhere,
        }
    }

    /// Passes on an operation that was allowed, as the bytes that arrived.
    pub(crate) fn forward(&mut self, permit: Permit, raw: &[u8]) {
        drop(permit);
        self.batch.extend_from_slice(raw);
    }

    /// Passes on a message that is no operation, as the bytes that arrived.
    pub(crate) fn relay(&mut self, _: Control, raw: &[u8]) {
        self.batch.extend_from_slice(raw);
    }

    /// Asks for a portal's columns.
    pub(crate) fn describe_portal(&mut self, portal: &[u8]) {
        build::describe_portal(&mut self.batch, portal);
    }

    /// Makes the server send what it holds back.
    pub(crate) fn flush_server(&mut self) {
        build::flush(&mut self.batch);
    }

    /// Sends a simple query that must fail in place of one that was refused: transactions and pipelines then go on just as
    /// after any other error, which leaving the message out wouldn't give.
    pub(crate) fn refuse_simple(&mut self) {
        let text = format!("EXECUTE \"{}\"", self.nowhere);
        build::query(&mut self.batch, text.as_bytes());
    }

    /// The same in the extended protocol: a Parse of a text about a table that doesn't exist. Unlike a Bind of a missing
    /// statement it fails with the server's own 25P02 where the transaction has failed before, and having a name, it doesn't
    /// touch the statement without one.
    pub(crate) fn refuse_extended(&mut self) {
        let text = format!("TABLE \"{}\"", self.nowhere);
        build::parse(&mut self.batch, self.nowhere.as_bytes(), text.as_bytes());
    }

    /// Writes what was gathered.
    pub(crate) fn send(&mut self) -> io::Result<()> {
        if !self.batch.is_empty() {
            self.leg.send(&self.batch)?;
            if self.batch.capacity() > super::leg::READ_SIZE {
                self.batch = Vec::new();
            } else {
                self.batch.clear();
            }
        }
        Ok(())
    }

    /// Writes what was kept. Ready when nothing is left.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.leg.poll_flush(cx)
    }

    /// The connection.
    pub(crate) fn leg(&mut self) -> &mut Leg {
        &mut self.leg
    }

    /// Memory that it takes, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.leg.held() + self.batch.capacity()
    }

    /// Bytes that wait to be written.
    pub(crate) fn backlog(&self) -> usize {
        self.leg.backlog()
    }
}
