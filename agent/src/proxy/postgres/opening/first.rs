//! The client's first packets: requests for encryption, then what it wants.

use std::net::IpAddr;

use bailiff_policy::{ClientTlsMode, Settings, Target};
use bailiff_wire::postgres::startup::{First, MAX_STARTUP, Replication, Startup, next_first};
use tokio::io::AsyncReadExt as _;

use crate::catalog::AskedPath;
use crate::proxy::end::{End, Side};
use crate::proxy::tls::{ALPN, Hello, Snapshot, Wire};

/// What the client wants.
pub(super) enum Wish {
    /// A session.
    Session(SessionWish),
    /// To cancel another session's operation: that one's process id and key, as the client was told.
    Cancel(u32, Vec<u8>),
}

/// The client's StartupMessage.
pub(super) struct SessionWish {
    pub(super) raw: Vec<u8>,
    pub(super) user: String,
    pub(super) database: String,
    pub(super) application: String,
    pub(super) settings: Settings,
    /// Whether it asks to be somebody else than the user at once.
    pub(super) changes_role: bool,
    /// The search_path that it asks for.
    pub(super) search_path: AskedPath,
    /// Why it can't be passed on, whatever policy says.
    pub(super) refusal: Option<&'static str>,
    /// Whether it is for replication.
    pub(super) replication: bool,
    /// What came after it.
    pub(super) carry: Vec<u8>,
}

/// Reads up to a StartupMessage or CancelRequest. Encryption is answered as the target's definition says.
///
/// The connection is put back but where TLS failed, after which nobody can be told anything.
pub(super) async fn first_packets(
    client: &mut Option<Wire>,
    target: &Target,
    files: &Snapshot,
    dialed: IpAddr,
) -> Result<Wish, End> {
    let mut bytes = Vec::with_capacity(512);
    let mut asked = (false, false);
    let offers = target.tls_client.mode != ClientTlsMode::Disabled;
    loop {
        let Some(wire) = client.as_mut() else {
            return Err(End::ClientClosed);
        };
        let encrypted = wire.is_tls();
        let found = next_first(&bytes).map_err(|error| End::Malformed {
            side: Side::Client,
            error,
        })?;
        let Some((first, length)) = found else {
            if bytes.len() > MAX_STARTUP {
                return Err(End::Limit("startup_packet"));
            }
            let read = wire.read_buf(&mut bytes).await.map_err(|error| End::Socket {
                side: Side::Client,
                error,
            })?;
            if read == 0 {
                // Clients that verify look at the certificate's name after the handshake, and go.
                return Err(if encrypted && bytes.is_empty() {
                    End::LeftAfterHandshake
                } else {
                    End::ClientClosed
                });
            }
            continue;
        };
        let out_of_order = || End::OutOfOrder {
            side: Side::Client,
            tag: '\0',
        };
        match first {
            First::Cancel(cancel) => return Ok(Wish::Cancel(cancel.process, cancel.key.to_vec())),
            First::Startup(startup) => {
                if !encrypted && target.tls_client.mode == ClientTlsMode::Require {
                    return Err(End::Unencrypted);
                }
                let raw = bytes.get(..length).unwrap_or_default().to_vec();
                let carry = bytes.get(length..).unwrap_or_default().to_vec();
                return Ok(Wish::Session(SessionWish::read(&startup, raw, carry)));
            }
            First::DirectTls if encrypted || asked.0 => return Err(out_of_order()),
            First::DirectTls if !offers => {
                return Err(End::Refused(
                    "the agent on this node terminates no TLS for this database; connect with sslmode=disable or prefer",
                ));
            }
            First::DirectTls => {
                handshake(client, target, files, dialed, &bytes, true).await?;
                bytes.clear();
            }
            First::Ssl | First::GssEnc => {
                let repeated = match first {
                    First::Ssl => std::mem::replace(&mut asked.0, true),
                    _ => std::mem::replace(&mut asked.1, true),
                };
                if repeated || encrypted || bytes.len() > length {
                    // Bytes after the request would be read as if they had come encrypted (CVE-2021-23222).
                    return Err(out_of_order());
                }
                let yes = matches!(first, First::Ssl) && offers;
                bytes.clear();
                wire.say(if yes { b"S" } else { b"N" })
                    .await
                    .map_err(|error| End::Socket {
                        side: Side::Client,
                        error,
                    })?;
                if yes {
                    handshake(client, target, files, dialed, &[], false).await?;
                }
            }
        }
    }
}

async fn handshake(
    client: &mut Option<Wire>,
    target: &Target,
    files: &Snapshot,
    dialed: IpAddr,
    begun: &[u8],
    direct: bool,
) -> Result<(), End> {
    let failed = |error| End::Handshake {
        side: Side::Client,
        error,
    };
    let Some(Wire::Plain(socket)) = client.take() else {
        return Err(End::ClientClosed);
    };
    let hello = Hello::read(socket, begun).await.map_err(failed)?;
    if direct && !hello.speaks(ALPN) {
        // As the server's own rule: otherwise another protocol's client could be led here.
        return Err(End::Refused(
            "a TLS handshake without a request before it must name the protocol postgresql",
        ));
    }
    // Uncertainty denies: without a certificate in force nothing is shown.
    let presented = files
        .presented(&target.name)
        .ok_or(End::Refused("no certificate for this database is in force yet"))?;
    let config = presented
        .config(dialed, hello.name().as_deref())
        .map_err(End::Refused)?;
    *client = Some(hello.finish(config).await.map_err(failed)?);
    Ok(())
}

impl SessionWish {
    fn read(startup: &Startup<'_>, raw: Vec<u8>, carry: Vec<u8>) -> Self {
        let text = |name| {
            startup
                .parameter(name)
                .map(|value| String::from_utf8_lossy(value).into_owned())
        };
        let user = text("user").unwrap_or_default();
        let moves_search_path = startup.may_set("search_path");
        let unread_options = startup.options_may_set("client_encoding")
            || startup.options_may_set("standard_conforming_strings");
        Self {
            database: text("database").unwrap_or_else(|| user.clone()),
            user,
            application: text("application_name").unwrap_or_default(),
            settings: Settings {
                search_path_trusted: !moves_search_path && !unread_options,
                // Until the server has told them.
                server: 0,
                names_are_utf8: false,
                ..Settings::default()
            },
            changes_role: startup.may_set("role") || startup.may_set("session_authorization"),
            search_path: AskedPath::of(startup),
            refusal: (startup.replication() == Replication::Unclear)
                .then_some("replication= is database, true or false, and given once"),
            replication: startup.replication() == Replication::Yes,
            raw,
            carry,
        }
    }
}
