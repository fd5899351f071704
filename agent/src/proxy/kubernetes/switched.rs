//! Connections that stop to speak HTTP: exec, attach and port-forward over SPDY and WebSocket.
//!
//! The request was decided by its command, container and terminal; what its streams carry passes as it is.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf, copy_bidirectional};
use tokio::sync::oneshot;

use super::connection::{Carried, Connection, Watch};
use super::evidence::Account;
use crate::proxy::end::{End, Side};
use crate::proxy::tls::Wire;
use crate::proxy::worker::Drain;

/// The API server's end, once the answer that says so is over.
pub(super) struct Far {
    parted: oneshot::Receiver<Carried>,
    account: Account,
}

impl Far {
    pub(super) fn new(parted: oneshot::Receiver<Carried>, account: Account) -> Self {
        Self { parted, account }
    }
}

/// Carries bytes both ways until both sides have ended.
pub(super) async fn carry(
    connection: &Rc<Connection>,
    (mut near, from_client): Carried,
    Far { parted, account }: Far,
    drain: Drain,
) -> End {
    let Ok((mut far, from_server)) = parted.await else {
        account.broke();
        return End::TargetClosed;
    };
    let (asked, answered) = (
        Cell::new(from_client.len() as u64),
        Cell::new(from_server.len() as u64),
    );
    let carried = async {
        far.write_all(&from_client)
            .await
            .map_err(|error| (Side::Target, error))?;
        far.flush().await.map_err(|error| (Side::Target, error))?;
        near.write_all(&from_server)
            .await
            .map_err(|error| (Side::Client, error))?;
        near.flush().await.map_err(|error| (Side::Client, error))?;
        let mut near = Counted(&mut near, &asked);
        let mut far = Counted(&mut far, &answered);
        copy_bidirectional(&mut near, &mut far)
            .await
            .map_err(|error| (Side::Client, error))?;
        Ok(())
    };
    let mut carried = pin!(carried);
    let mut watch = Watch::new(connection, drain);
    let outcome = poll_fn(|cx| match watch.poll(cx, || {}) {
        Some(end) => Poll::Ready(Err(end)),
        None => carried.as_mut().poll(cx).map(Ok),
    })
    .await;
    account.carried(asked.get(), answered.get());
    match outcome {
        Err(end) => {
            account.broke();
            end
        }
        Ok(Ok(())) => {
            account.whole();
            End::ClientClosed
        }
        // Either side has all it wanted and goes while the other still has something to say: that is how sessions end.
        Ok(Err((_, error))) if is_farewell(&error) => {
            account.whole();
            End::ClientClosed
        }
        Ok(Err((side, error))) => {
            account.broke();
            End::Socket { side, error }
        }
    }
}

fn is_farewell(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof
    )
}

/// One side, with the bytes that came from it counted: they have to be told however it ends.
struct Counted<'a>(&'a mut Wire, &'a Cell<u64>);

impl AsyncRead for Counted<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut *self.0).poll_read(cx, buffer))?;
        let read = buffer.filled().len().saturating_sub(before);
        self.1.set(self.1.get() + read as u64);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }
}
