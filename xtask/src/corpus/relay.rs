//! A relay that keeps what passes.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab;

/// What passed on one connection.
#[derive(Debug, Default, Clone)]
pub(super) struct Connection {
    pub(super) client: Vec<u8>,
    pub(super) server: Vec<u8>,
    /// Directions that are still open.
    open: u8,
}

type Shared = Arc<Mutex<Vec<Connection>>>;

/// The relay. Its threads end with the program.
#[derive(Debug)]
pub(super) struct Relay {
    port: u16,
    connections: Shared,
}

#[derive(Clone, Copy)]
enum Side {
    Client,
    Server,
}

impl Relay {
    /// Listens on a port of its own, and dials `server` for each connection.
    ///
    /// # Errors
    /// When it can't listen.
    pub(super) fn start(server: (&'static str, u16)) -> Result<Self> {
        let listener = TcpListener::bind((server.0, 0)).context("the relay can't listen")?;
        let port = listener.local_addr()?.port();
        let connections = Shared::default();
        let shared = Arc::clone(&connections);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A connection that can't be relayed ends, and its client says so.
                let _ended = relay(client, server, &shared);
            }
        });
        Ok(Self { port, connections })
    }

    /// The port to dial.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// What passed since the last call, once all connections have ended.
    ///
    /// # Errors
    /// When one doesn't end.
    pub(super) fn take(&self) -> Result<Vec<Connection>> {
        lab::wait_for("the end of all connections", Duration::from_secs(10), || {
            Ok(locked(&self.connections).iter().all(|one| one.open == 0))
        })?;
        Ok(std::mem::take(&mut *locked(&self.connections)))
    }
}

fn locked(connections: &Shared) -> std::sync::MutexGuard<'_, Vec<Connection>> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
}

fn relay(client: TcpStream, server: (&str, u16), connections: &Shared) -> std::io::Result<()> {
    let upstream = TcpStream::connect(server)?;
    let number = {
        let mut all = locked(connections);
        all.push(Connection {
            open: 2,
            ..Connection::default()
        });
        all.len() - 1
    };
    for (side, from, to) in [
        (Side::Client, client.try_clone()?, upstream.try_clone()?),
        (Side::Server, upstream, client),
    ] {
        let connections = Arc::clone(connections);
        std::thread::spawn(move || {
            // However it ends, the other side is told.
            let _ended = copy(side, number, from, &to, &connections);
            let _gone = to.shutdown(Shutdown::Write);
            if let Some(one) = locked(&connections).get_mut(number) {
                one.open -= 1;
            }
        });
    }
    Ok(())
}

fn copy(
    side: Side,
    number: usize,
    mut from: TcpStream,
    mut to: &TcpStream,
    connections: &Shared,
) -> std::io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        if let Some(one) = locked(connections).get_mut(number) {
            match side {
                Side::Client => one.client.extend_from_slice(bytes),
                Side::Server => one.server.extend_from_slice(bytes),
            }
        }
        to.write_all(bytes)?;
    }
}
