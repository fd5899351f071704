//! A connected TCP socket: a worker's own, or a runtime's where other threads of the agent use it.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::reactor::{Reactor, Registration};

/// A connected socket that doesn't block.
#[derive(Debug)]
pub(crate) enum Socket {
    /// In the reactor of the worker that has it; it must be used there alone.
    Worker(Registration, std::net::TcpStream),
    /// In the runtime that made it.
    Runtime(TcpStream),
}

impl Socket {
    /// Puts a socket that doesn't block into the calling worker's reactor, or, where there is none, into the runtime.
    pub(crate) fn new(stream: std::net::TcpStream) -> io::Result<Self> {
        match Reactor::current() {
            Some(reactor) => Ok(Self::Worker(Registration::new(reactor, &stream)?, stream)),
            None => TcpStream::from_std(stream).map(Self::Runtime),
        }
    }

    /// The same of one that the runtime connected to a target.
    pub(crate) fn adopt(stream: TcpStream) -> io::Result<Self> {
        match Reactor::current() {
            Some(_) => {
                let this = Self::new(stream.into_std()?)?;
                if let Self::Worker(registration, _) = &this {
                    registration.answers();
                }
                Ok(this)
            }
            None => Ok(Self::Runtime(stream)),
        }
    }

    /// Ready when reading may bring something.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Worker(registration, _) => registration.poll_read_ready().map(Ok),
            Self::Runtime(stream) => stream.poll_read_ready(cx),
        }
    }

    /// Ready when writing may take something.
    pub(crate) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Worker(registration, _) => registration.poll_write_ready().map(Ok),
            Self::Runtime(stream) => stream.poll_write_ready(cx),
        }
    }

    /// Reads what is there; `WouldBlock` where that is nothing.
    ///
    /// By the system call itself: libc's is a cancellation point, which took a tenth of a worker's own time.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Worker(registration, stream) => {
                match rustix::net::recv(stream, &mut *buffer, RecvFlags::empty()) {
                    Ok((got, _)) => {
                        // A short read says that the socket is empty: it needn't be asked again before there is more.
                        if got < buffer.len() {
                            registration.is_empty();
                        }
                        Ok(got)
                    }
                    Err(error) => {
                        if error == Errno::AGAIN {
                            registration.is_empty();
                        }
                        Err(error.into())
                    }
                }
            }
            Self::Runtime(stream) => stream.try_read(buffer),
        }
    }

    /// Writes what the socket takes; `WouldBlock` where that is nothing.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Worker(registration, stream) => rustix::net::send(stream, bytes, SendFlags::NOSIGNAL)
                .map_err(|error| {
                    if error == Errno::AGAIN {
                        registration.is_full();
                    }
                    error.into()
                }),
            Self::Runtime(stream) => stream.try_io(Interest::WRITABLE, || {
                Ok(rustix::net::send(stream, bytes, SendFlags::NOSIGNAL)?)
            }),
        }
    }

    /// The same of several pieces.
    pub(crate) fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Worker(registration, stream) => {
                use std::io::Write as _;
                // Rust's standard library ignores SIGPIPE, as tokio relies on, too.
                (&mut &*stream).write_vectored(pieces).inspect_err(|error| {
                    if error.kind() == io::ErrorKind::WouldBlock {
                        registration.is_full();
                    }
                })
            }
            Self::Runtime(stream) => stream.try_write_vectored(pieces),
        }
    }

    /// Reads once what is there. Ready with nothing at the end.
    pub(crate) fn poll_read_into(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_read_ready(cx))?;
            match self.try_read(buffer.initialize_unfilled()) {
                Ok(got) => {
                    buffer.advance(got);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn shut_down(&self) -> io::Result<()> {
        match rustix::net::shutdown(self, Shutdown::Write) {
            // The peer was faster.
            Err(Errno::NOTCONN) => Ok(()),
            outcome => Ok(outcome?),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Self::Worker(registration, stream) = self {
            registration.remove(stream);
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Worker(_, stream) => stream.as_fd(),
            Self::Runtime(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_read_into(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_write_ready(cx))?;
            match self.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shut_down())
    }
}
