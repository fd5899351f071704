//! Connections that stop to speak HTTP: exec, attach and port-forward over SPDY and WebSocket.
//!
//! The request was decided by its command, container and terminal; what its streams carry passes as it is.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio::sync::oneshot;

use super::connection::{Carried, Connection, Watch};
use super::evidence::Account;
use crate::proxy::end::{End, Side};
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
    let passed = Cell::new((0_u64, 0_u64));
    let carried = async {
        far.write_all(&from_client)
            .await
            .map_err(|error| (Side::Target, error))?;
        far.flush().await.map_err(|error| (Side::Target, error))?;
        near.write_all(&from_server)
            .await
            .map_err(|error| (Side::Client, error))?;
        near.flush().await.map_err(|error| (Side::Client, error))?;
        let both = copy_bidirectional(&mut near, &mut far)
            .await
            .map_err(|error| (Side::Client, error))?;
        passed.set((
            both.0 + from_client.len() as u64,
            both.1 + from_server.len() as u64,
        ));
        Ok(())
    };
    let mut carried = pin!(carried);
    let mut watch = Watch::new(connection, drain);
    let outcome = poll_fn(|cx| match watch.poll(cx, || {}) {
        Some(end) => Poll::Ready(Err(end)),
        None => carried.as_mut().poll(cx).map(Ok),
    })
    .await;
    let (asked, answered) = passed.get();
    account.carried(asked, answered);
    match outcome {
        Err(end) => {
            account.broke();
            end
        }
        Ok(Ok(())) => {
            account.whole();
            End::ClientClosed
        }
        Ok(Err((side, error))) => {
            account.broke();
            End::Socket { side, error }
        }
    }
}
