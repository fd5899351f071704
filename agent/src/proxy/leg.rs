//! One side of a session: a socket, what was read but not yet understood, and what could not yet be written.
//!
//! Both buffers are empty while nothing is under way: reading goes into a buffer that the worker's sessions share, and only
//! what is left over is kept. So an idle connection costs its socket and little more.

use std::io;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;

use super::tls::Wire;

/// What a write left behind must not grow past, in bytes, before the other side is no longer read.
pub(crate) const HIGH_WATER: usize = 256 * 1024;

/// How many bytes are read at once.
pub(crate) const READ_SIZE: usize = 64 * 1024;

/// A socket with what is left over of both directions.
#[derive(Debug)]
pub(crate) struct Leg {
    wire: Wire,
    /// Read, but the end of its message is missing.
    carry: Vec<u8>,
    /// To be written, from `written` on.
    pending: Vec<u8>,
    written: usize,
}

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    /// Bytes.
    Data,
    /// The peer said that it sends no more.
    End,
}

impl Leg {
    /// Wraps a connection.
    pub(crate) fn new(wire: Wire) -> Self {
        Self {
            wire,
            carry: Vec::new(),
            pending: Vec::new(),
            written: 0,
        }
    }

    /// Starts with bytes that were read before.
    pub(crate) fn with_carry(wire: Wire, carry: Vec<u8>) -> Self {
        Self {
            carry,
            ..Self::new(wire)
        }
    }

    /// Bytes that wait to be written.
    pub(crate) fn backlog(&self) -> usize {
        self.pending.len() - self.written
    }

    /// Memory that it takes, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.carry.capacity() + self.pending.capacity()
    }

    /// Whether there are bytes of an unfinished message.
    pub(crate) fn has_carry(&self) -> bool {
        !self.carry.is_empty()
    }

    /// Reads once and hands everything that is there to `understand`, which returns how many bytes it took.
    ///
    /// Cancel-safe: what was read is either taken or kept.
    pub(crate) fn poll_read<E>(
        &mut self,
        cx: &mut Context<'_>,
        shared: &mut [u8],
        understand: impl FnOnce(&[u8]) -> Result<usize, E>,
    ) -> Poll<io::Result<Result<Read, E>>> {
        let mut buffer = ReadBuf::new(shared);
        ready!(self.wire.poll_read_into(cx, &mut buffer))?;
        let read = buffer.filled();
        if read.is_empty() {
            return Poll::Ready(Ok(Ok(Read::End)));
        }
        let direct = self.carry.is_empty();
        if !direct {
            self.carry.extend_from_slice(read);
        }
        match understand(if direct { read } else { &self.carry }) {
            Ok(taken) => {
                if direct {
                    self.carry
                        .extend_from_slice(read.get(taken..).unwrap_or_default());
                } else {
                    self.drop_carry(taken);
                }
                Poll::Ready(Ok(Ok(Read::Data)))
            }
            Err(error) => Poll::Ready(Ok(Err(error))),
        }
    }

    /// Hands what is carried to `understand` once more, after something changed that it waited for.
    pub(crate) fn reconsider<E>(
        &mut self,
        understand: impl FnOnce(&[u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let taken = understand(&self.carry)?;
        self.drop_carry(taken);
        Ok(taken)
    }

    fn drop_carry(&mut self, taken: usize) {
        if taken >= self.carry.len() {
            self.carry = Vec::new();
        } else {
            self.carry.drain(..taken);
        }
    }

    /// Writes what can be written now; the rest is kept, in order.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        if self.backlog() == 0 {
            while !rest.is_empty() {
                match self.wire.try_write(rest) {
                    Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
        self.pending.extend_from_slice(rest);
        Ok(())
    }

    /// Writes what was kept. Ready when nothing is left.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.backlog() > 0 {
            ready!(self.wire.poll_write_ready(cx))?;
            let rest = self.pending.get(self.written..).unwrap_or_default();
            match self.wire.try_write(rest) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        ready!(self.wire.poll_flush_taken(cx))?;
        self.pending = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}
