//! A server's messages on a connection of the agent's own, none longer than is bearable.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of one message: a row of a catalog has a few texts, each of at most 2²⁰ characters.
const LONGEST: usize = 16 << 20;

/// Reads no message that says to be longer than [`LONGEST`]: whoever reads it would hold it whole in memory, and the server may be anybody.
///
/// Cancel-safe: what was read is counted at once.
#[derive(Debug)]
pub(crate) struct Capped<S> {
    stream: S,
    frames: Frames,
}

/// Where in the server's messages one is.
#[derive(Debug, Default)]
struct Frames {
    /// Of a header its first bytes.
    header: [u8; 5],
    have: usize,
    /// Bytes of the body that are still to come.
    left: usize,
}

impl<S> Capped<S> {
    /// Of a connection on which nothing was read yet.
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            frames: Frames::default(),
        }
    }
}

impl Frames {
    /// Passes over bytes that came. An error for a message that is too long, or has no length that one can have.
    fn pass(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            let body = self.left.min(bytes.len());
            self.left -= body;
            bytes = bytes.get(body..).unwrap_or_default();
            let Some((byte, rest)) = bytes.split_first() else {
                return Ok(());
            };
            if let Some(place) = self.header.get_mut(self.have) {
                *place = *byte;
            }
            self.have += 1;
            bytes = rest;
            if self.have == self.header.len() {
                self.have = 0;
                let [_, a, b, c, d] = self.header;
                let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                self.left = length
                    .checked_sub(4)
                    .filter(|left| *left <= LONGEST)
                    .ok_or_else(|| {
                        io::Error::new(
                            io::ErrorKind::InvalidData,
                            format!("a message of {length} bytes, which is more than {LONGEST}"),
                        )
                    })?;
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Capped<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        let came = buffer.filled().get(before..).unwrap_or_default();
        Poll::Ready(this.frames.pass(came))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Capped<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![b'D'];
        bytes.extend((u32::try_from(length).unwrap() + 4).to_be_bytes());
        bytes.resize(bytes.len() + length, b'x');
        bytes
    }

    #[test]
    fn bearable_messages_pass_however_they_are_cut() {
        let stream = [message(0), message(7), message(300), message(0)].concat();
        for size in 1..stream.len() {
            let mut frames = Frames::default();
            for piece in stream.chunks(size) {
                frames.pass(piece).unwrap();
            }
            assert_eq!((frames.have, frames.left), (0, 0), "by {size}");
        }
    }

    #[test]
    fn others_end_with_their_header() {
        let longest = u32::try_from(LONGEST).unwrap();
        for (length, passes) in [
            (4, true),
            (longest + 4, true),
            (longest + 5, false),
            (u32::MAX, false),
            (0, false),
            (3, false),
        ] {
            let mut frames = Frames::default();
            frames.pass(&message(2)).unwrap();
            frames.pass(b"D").unwrap();
            assert_eq!(frames.pass(&length.to_be_bytes()).is_ok(), passes, "{length}");
        }
    }
}
