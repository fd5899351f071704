//! A connection's bytes, as they are or through TLS. What passes in plain text costs one comparison more.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::Acceptor;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use crate::proxy::socket::Socket;

/// What TLS keeps of plain text that it has not sent yet, in bytes: past it the sender waits.
const BUFFERED: usize = 64 * 1024;

/// A ClientHello that is longer is none.
const MAX_HELLO: usize = 64 * 1024;

/// A connected socket, with or without TLS.
#[derive(Debug)]
pub(crate) enum Wire {
    /// As the bytes come.
    Plain(Socket),
    /// Through TLS.
    Tls(Box<Tls>),
}

/// A TLS connection over a socket.
#[derive(Debug)]
pub(crate) struct Tls {
    socket: Socket,
    session: Connection,
}

/// The server's side of a handshake of which the ClientHello has come.
pub(crate) struct Hello {
    socket: Socket,
    accepted: rustls::server::Accepted,
}

impl Wire {
    /// Whether it is encrypted.
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// The peer's own certificate.
    pub(crate) fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => tls.session.peer_certificates()?.first(),
        }
    }

    /// The peer's certificate with its chain; empty where it showed none.
    pub(crate) fn peer_chain(&self) -> &[CertificateDer<'static>] {
        match self {
            Self::Plain(_) => &[],
            Self::Tls(tls) => tls.session.peer_certificates().unwrap_or_default(),
        }
    }

    /// What both sides agreed to speak inside, where they named it.
    pub(crate) fn spoken(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => tls.session.alpn_protocol(),
        }
    }

    /// Writes all of it.
    ///
    /// Not cancel-safe: part of it may have left.
    pub(crate) async fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes).await?;
        self.flush().await
    }

    /// Begins TLS as the client, and finishes the handshake.
    ///
    /// Cancelling it ends the connection.
    pub(crate) async fn connect(
        socket: Socket,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        Tls::new(socket, session.into()).handshaken().await
    }

    /// Reads once and hands what is there out. Ready with nothing at the end.
    pub(crate) fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_read_into(cx, buffer),
            Self::Tls(tls) => tls.poll_read(cx, buffer),
        }
    }

    /// Takes what it can take now; `WouldBlock` where that is nothing.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_write(bytes),
            Self::Tls(tls) => tls.try_write(bytes),
        }
    }

    /// Waits until something can be written.
    pub(crate) fn poll_write_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_write_ready(cx),
            // What is encrypted already goes first.
            Self::Tls(tls) => tls.poll_flush(cx),
        }
    }

    /// Writes what was taken and is still here.
    pub(crate) fn poll_flush_taken(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => tls.poll_flush(cx),
        }
    }
}

impl Hello {
    /// Reads a ClientHello. `begun` is what was read of it already.
    pub(crate) async fn read(mut socket: Socket, begun: &[u8]) -> io::Result<Self> {
        let mut acceptor = Acceptor::default();
        let mut rest = begun;
        let mut total = 0;
        loop {
            if rest.is_empty() {
                let mut buffer = [0; 4096];
                let read = socket.read(&mut buffer).await?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let mut read = buffer.get(..read).unwrap_or_default();
                total += read.len();
                while !read.is_empty() {
                    acceptor.read_tls(&mut read)?;
                }
            } else {
                total += rest.len();
                while !rest.is_empty() {
                    acceptor.read_tls(&mut rest)?;
                }
            }
            match acceptor.accept() {
                Ok(Some(accepted)) => return Ok(Self { socket, accepted }),
                Ok(None) if total > MAX_HELLO => return Err(io::ErrorKind::InvalidData.into()),
                Ok(None) => {}
                Err((error, mut alert)) => {
                    let mut said = Vec::new();
                    alert.write_all(&mut said)?;
                    let _ = socket.try_write(&said);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
        }
    }

    /// The name that the client asks for.
    pub(crate) fn name(&self) -> Option<String> {
        Some(self.accepted.client_hello().server_name()?.to_owned())
    }

    /// Whether the client says that it speaks this protocol inside.
    pub(crate) fn speaks(&self, protocol: &[u8]) -> bool {
        self.accepted
            .client_hello()
            .alpn()
            .is_some_and(|mut named| named.any(|named| named == protocol))
    }

    /// Finishes the handshake.
    pub(crate) async fn finish(self, config: Arc<ServerConfig>) -> io::Result<Wire> {
        match self.accepted.into_connection(config) {
            Ok(session) => Tls::new(self.socket, session.into()).handshaken().await,
            Err((error, mut alert)) => {
                let mut said = Vec::new();
                alert.write_all(&mut said)?;
                let _ = self.socket.try_write(&said);
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }
}

impl Tls {
    fn new(socket: Socket, mut session: Connection) -> Self {
        session.set_buffer_limit(Some(BUFFERED));
        Self { socket, session }
    }

    async fn handshaken(mut self) -> io::Result<Wire> {
        std::future::poll_fn(|cx| self.poll_handshake(cx)).await?;
        Ok(Wire::Tls(Box::new(self)))
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.is_handshaking() {
            ready!(self.poll_flush(cx))?;
            if self.session.is_handshaking() && !ready!(self.poll_records(cx))? {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        self.poll_flush(cx)
    }

    /// Reads records off the socket once. False at its end.
    fn poll_records(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            ready!(self.socket.poll_read_ready(cx))?;
            let socket = &self.socket;
            match self.session.read_tls(&mut Records(socket)) {
                Ok(0) => return Poll::Ready(Ok(false)),
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if let Err(error) = self.session.process_new_packets() {
            // The alert that says what is wrong.
            let _ = self.session.write_tls(&mut Records(&self.socket));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        Poll::Ready(Ok(true))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut ended = false;
        loop {
            let unfilled = buffer.initialize_unfilled();
            match self.session.reader().read(unfilled) {
                Ok(read) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                // The peer's end without a word of TLS: the protocol inside says whether something is missing.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !ended => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(error)),
            }
            ended = !ready!(self.poll_records(cx))?;
            if self.session.wants_write() {
                // Answers to key updates; what can't leave now leaves with the next flush.
                let _ = self.poll_flush(cx)?;
            }
        }
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.session.writer().write(bytes)?;
        self.write_now()?;
        if taken == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(taken)
    }

    /// Encrypts what there is room for, and writes none of it yet; `WouldBlock` where there is no room.
    fn take(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let taken = self.session.writer().write_vectored(pieces)?;
        if taken == 0 && pieces.iter().any(|piece| !piece.is_empty()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(taken)
    }

    /// Writes records until the socket takes no more.
    fn write_now(&mut self) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Records(&self.socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.write_now()? {
            ready!(self.socket.poll_write_ready(cx))?;
        }
        Poll::Ready(Ok(()))
    }
}

/// A socket that doesn't wait, as rustls wants to have it.
struct Records<'a>(&'a Socket);

impl io::Read for Records<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl io::Write for Records<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, bytes: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_read_into(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    /// What goes through TLS is kept until it is flushed, or much: a head and the body behind it are one record and one system call.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let outcome = match &mut *self {
                Self::Plain(socket) => socket.try_write_vectored(pieces),
                Self::Tls(tls) => tls.take(pieces),
            };
            match outcome {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.poll_write_ready(cx))?;
                }
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush_taken(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Self::Tls(tls) = &mut *self {
            tls.session.send_close_notify();
            ready!(tls.poll_flush(cx))?;
        }
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(&mut tls.socket).poll_shutdown(cx),
        }
    }
}
