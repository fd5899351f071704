//! Dialing the target, from the namespace that the target's definition says, and as safely.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bailiff_kernel::net;
use bailiff_model::{OriginalDst, SourceAddress};
use bailiff_policy::{CatalogAccess, ChainPolicy, DialPermit, Target, UpstreamTlsMode};
use bailiff_wire::postgres::build::SSL_REQUEST;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt as _;

use super::capped::Capped;
use super::end::{End, Side};
use super::limits::Limits;
use super::socket::Socket;
use super::tls::{Secret, Snapshot, Wire};
use crate::attribution::PodEntry;

/// How a target is reached: what a session and its cancel requests have in common.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    to: OriginalDst,
    from: SourceAddress,
    tls: Option<Handshake>,
}

/// TLS towards the target.
#[derive(Debug, Clone)]
struct Handshake {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    mode: UpstreamTlsMode,
    direct: bool,
}

impl Way {
    /// The way to a target for a chain. `secret` is what the agent will prove itself by.
    pub(crate) fn new(
        target: &Target,
        policy: &ChainPolicy,
        files: &Snapshot,
        secret: Option<&Secret>,
        to: OriginalDst,
    ) -> Result<Self, End> {
        // Uncertainty denies: without what verifies it there is no TLS.
        let way = Self::of_agent(target, files, secret, to).ok_or(End::Refused(
            "this agent's files for TLS towards the database aren't in force yet; connect again",
        ))?;
        let mode = target.tls_upstream.mode;
        // A pod with NET_RAW reads its own wire: what it mustn't see doesn't pass there in plain text.
        let hides = policy.masks_in_force() || secret.is_some();
        let from = if hides && mode != UpstreamTlsMode::Verify {
            SourceAddress::Node
        } else {
            target.source_address
        };
        Ok(Self { from, ..way })
    }

    /// The agent's own way to a target.
    fn of_agent(target: &Target, files: &Snapshot, secret: Option<&Secret>, to: OriginalDst) -> Option<Self> {
        let mode = target.tls_upstream.mode;
        let tls = match mode {
            UpstreamTlsMode::Disabled => None,
            UpstreamTlsMode::Prefer | UpstreamTlsMode::Verify => {
                let towards = files.towards(&target.name)?;
                Some(Handshake {
                    config: towards.config(secret),
                    name: towards.name(to.get().ip()),
                    mode,
                    direct: target.tls_upstream.direct,
                })
            }
        };
        Some(Self {
            to,
            from: SourceAddress::Node,
            tls,
        })
    }

    /// The same by a protocol that is spoken inside TLS from the first byte on.
    pub(crate) fn speaking(mut self, protocol: &[u8]) -> Self {
        if let Some(tls) = &mut self.tls {
            let mut config = ClientConfig::clone(&tls.config);
            config.alpn_protocols = vec![protocol.to_vec()];
            tls.config = Arc::new(config);
            tls.direct = true;
        }
        self
    }

    /// In plain text from the node.
    #[cfg(test)]
    pub(crate) fn plain(to: std::net::SocketAddr) -> Self {
        Self {
            to: OriginalDst::new(to),
            from: SourceAddress::Node,
            tls: None,
        }
    }

    /// Whether what passes can be read on the pod's own wire.
    pub(crate) fn is_exposed(&self) -> bool {
        let hidden = self
            .tls
            .as_ref()
            .is_some_and(|tls| tls.mode == UpstreamTlsMode::Verify);
        self.from == SourceAddress::Pod && !hidden
    }
}

/// Dials. The permit is used up: a connection that policy didn't allow can't be dialed.
///
/// Cancel-safe: dropping it closes the socket.
pub(crate) async fn dial(
    permit: DialPermit,
    pod: &PodEntry,
    way: &Way,
    limits: &Limits,
) -> Result<Wire, End> {
    drop(permit);
    connect(way, Some(pod), limits.dial, limits.dead_peer).await
}

async fn connect(
    way: &Way,
    pod: Option<&PodEntry>,
    within: Duration,
    dead_after: Duration,
) -> Result<Wire, End> {
    let until = tokio::time::Instant::now() + within;
    let timed_out = || End::Unreachable(io::ErrorKind::TimedOut.into());
    let to = way.to.get();
    let socket = match (way.from, pod) {
        // The socket belongs to the namespace in which it was made, wherever it is used later.
        (SourceAddress::Pod, Some(pod)) => net::tcp_socket_in(&pod.netns, to),
        _ => net::tcp_socket(to),
    };
    let connecting = async {
        let stream = tokio::net::TcpSocket::from_std_stream(socket?)
            .connect(to)
            .await?;
        stream.set_nodelay(true)?;
        // The client's end needs none: it is in this kernel, which always knows whether it is there.
        net::keep_alive(&stream, dead_after)?;
        Socket::adopt(stream)
    };
    let stream = tokio::time::timeout_at(until, connecting)
        .await
        .map_err(|_| timed_out())?
        .map_err(End::Unreachable)?;
    match &way.tls {
        None => Ok(Wire::Plain(stream)),
        Some(tls) => tokio::time::timeout_at(until, tls.begin(stream))
            .await
            .map_err(|_| timed_out())?,
    }
}

/// A connection of the agent's own to a target's database.
pub(crate) struct OwnConnection {
    /// Asks.
    pub(crate) client: tokio_postgres::Client,
    /// Carries; it must be polled, and ends with the connection.
    pub(crate) connection: tokio_postgres::Connection<Capped<Wire>, tokio_postgres::tls::NoTlsStream>,
}

/// Why the agent has no connection of its own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnError {
    /// Its files aren't in force.
    #[error("the files of its TLS and credential aren't in force yet")]
    NoFiles,
    /// It can't be reached, or can't be verified.
    #[error(transparent)]
    Way(End),
    /// It doesn't let the agent in, or failed.
    #[error(transparent)]
    Server(#[from] tokio_postgres::Error),
}

/// Connects the agent itself to a database of a target, from the node, as its definition says for catalogs, and by TLS where it says so.
///
/// For what the agent has to know by itself, such as the catalog; never for anything that a pod asks. Cancel-safe.
pub(crate) async fn connect_agent(
    target: &Target,
    access: &CatalogAccess,
    files: &Snapshot,
    to: OriginalDst,
    database: &str,
    within: Duration,
) -> Result<OwnConnection, OwnError> {
    let secret = match &access.proof {
        Some(proof) => Some(&**files.secret(proof).ok_or(OwnError::NoFiles)?),
        None => None,
    };
    let way = Way::of_agent(target, files, secret, to).ok_or(OwnError::NoFiles)?;
    let wire = connect(&way, None, within, Limits::default().dead_peer)
        .await
        .map_err(OwnError::Way)?;
    let mut config = tokio_postgres::Config::new();
    config
        .user(&access.user)
        .dbname(database)
        .application_name("bailiff catalog")
        // The connection is encrypted already, where it is to be.
        .ssl_mode(tokio_postgres::config::SslMode::Disable);
    if let Some(Secret::Password(password)) = secret {
        config.password(password);
    }
    let (client, connection) = tokio::time::timeout(
        within,
        config.connect_raw(Capped::new(wire), tokio_postgres::NoTls),
    )
    .await
    .map_err(|_| OwnError::Way(End::Unreachable(io::ErrorKind::TimedOut.into())))??;
    Ok(OwnConnection { client, connection })
}

impl Handshake {
    async fn begin(&self, mut stream: Socket) -> Result<Wire, End> {
        let failed = |error| End::Socket {
            side: Side::Target,
            error,
        };
        if !self.direct {
            tokio::io::AsyncWriteExt::write_all(&mut stream, &SSL_REQUEST)
                .await
                .map_err(failed)?;
            // One byte and no more: what came behind it in plain text would be taken for encrypted (CVE-2021-23222). So it is
            // taken for a TLS record, and fails.
            match stream.read_u8().await.map_err(failed)? {
                b'S' => {}
                b'N' if self.mode == UpstreamTlsMode::Prefer => return Ok(Wire::Plain(stream)),
                b'N' => {
                    return Err(End::Refused(
                        "the database offers no TLS, and the agent on this node must not speak with it without",
                    ));
                }
                // Servers that don't know the request answer with an error; so do those that have no more connections.
                tag => {
                    return Err(End::OutOfOrder {
                        side: Side::Target,
                        tag: char::from(tag),
                    });
                }
            }
        }
        Wire::connect(stream, Arc::clone(&self.config), self.name.clone())
            .await
            .map_err(|error| End::Handshake {
                side: Side::Target,
                error,
            })
    }
}
