//! A connection from its first byte to the server's first ReadyForQuery.
//!
//! Each step takes what the one before it left: the first packets, then dialing, then authentication, then
//! [`Serving`](super::serving::Serving). A failure at any step ends the connection; where the client understands it, it is told why.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bailiff_model::{Chain, OriginalDst};
use bailiff_policy::{ChainPolicy, Denial, Settings, Target};
use bailiff_wire::postgres::backend::Authentication;
use bailiff_wire::postgres::startup::{First, MAX_STARTUP, Replication, next_first};
use bailiff_wire::postgres::{build, next_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::evidence::{self, SessionEvidence};
use super::serving::{Core, Serving};
use crate::attribution::PodEntry;
use crate::decide::Decider;
use crate::proxy::dial::dial;
use crate::proxy::end::{End, Side};
use crate::proxy::leg::Leg;
use crate::proxy::upstream::Upstream;
use crate::proxy::worker::{Accepted, Drain, WorkerShared};

/// How long the last words to a client may take. One that doesn't read them isn't waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Carries one connection from accept to its end.
pub(crate) async fn serve(shared: Rc<WorkerShared>, accepted: Accepted) {
    let metrics = Arc::clone(&shared.options.metrics);
    let (pod, chain) = match shared.options.attribution.chain(&accepted.origin) {
        Ok(found) => found,
        Err(unattributed) => {
            // Uncertainty denies: who can't be told is not served.
            tracing::warn!(%unattributed, destination = %accepted.origin.original, "closed a connection");
            metrics.refused(unattributed.reason());
            return;
        }
    };
    let set = shared.options.in_force.load();
    let Some(target) = set.target_for(accepted.origin.original).map(Arc::clone) else {
        // The kernel side diverts what the policy names; between two policies the two may differ for a moment.
        metrics.refused("no_target");
        return;
    };
    let chain = Arc::new(chain);
    let policy = set.for_chain(&target, &chain);
    metrics.connections.inc();
    metrics.sessions_open.inc();
    let opening = Opening {
        shared,
        pod,
        chain,
        target,
        policy,
        original: accepted.origin.original,
    };
    let end = opening.run(accepted.client).await;
    metrics.sessions_open.dec();
    metrics.ended(end.offender().map(Side::as_str).unwrap_or("none"), end.reason());
    if let Some(limit) = end.limit() {
        metrics.limit(limit);
    }
    match end.is_trouble() {
        true => tracing::warn!(end = %end, reason = end.reason(), "closed a session"),
        false => tracing::debug!(end = %end, reason = end.reason(), "a session ended"),
    }
    drop(accepted.slot);
}

/// A connection of which the client's first packet is awaited.
struct Opening {
    shared: Rc<WorkerShared>,
    pod: Arc<PodEntry>,
    chain: Arc<Chain>,
    target: Arc<Target>,
    policy: ChainPolicy,
    original: OriginalDst,
}

/// A connection whose StartupMessage went to the server.
struct Opened {
    server: TcpStream,
    core: Core,
    from_client: Vec<u8>,
}

/// What the client wants.
enum Wish {
    /// A session.
    Session(SessionWish),
    /// To cancel another session's operation.
    Cancel(Vec<u8>),
}

/// The client's StartupMessage.
struct SessionWish {
    raw: Vec<u8>,
    user: String,
    database: String,
    application: String,
    settings: Settings,
    refusal: Option<&'static str>,
    replication: bool,
    /// What came after it.
    carry: Vec<u8>,
}

impl Opening {
    async fn run(self, client: std::net::TcpStream) -> End {
        let limits = Arc::clone(&self.shared.options.limits);
        let until = Instant::now() + limits.handshake;
        let mut client = match client
            .set_nonblocking(true)
            .and_then(|()| TcpStream::from_std(client))
        {
            Ok(client) => client,
            Err(error) => {
                return End::Socket {
                    side: Side::Client,
                    error,
                };
            }
        };
        let _ = client.set_nodelay(true);
        let drain = self.shared.drain.clone();
        let opened = within(until, drain.clone(), self.open(&mut client)).await;
        let Opened {
            server,
            core,
            from_client,
        } = match opened {
            Ok(opened) => opened,
            Err(end) => {
                tell(&mut client, &end).await;
                return end;
            }
        };
        let mut authenticating = Authenticating {
            client,
            server,
            core,
            from_client,
            from_server: Vec::with_capacity(1024),
            accepted: false,
            amid: false,
        };
        let outcome = within(until, drain, authenticating.run()).await;
        let (end, mut core) = match outcome {
            Ok(()) => authenticating.serving().run().await,
            Err(end) => {
                if !authenticating.amid {
                    tell(&mut authenticating.client, &end).await;
                }
                (end, authenticating.core)
            }
        };
        core.abandon();
        core.evidence.close(&end);
        end
    }

    /// Up to the point at which the server has got the client's StartupMessage.
    async fn open(self, client: &mut TcpStream) -> Result<Opened, End> {
        let wish = first_packets(client).await?;
        let limits = Arc::clone(&self.shared.options.limits);
        evidence::room_for_another(&self.shared, self.target.when_full).await;
        let permit = match self.policy.connect() {
            Ok(permit) => permit,
            Err(denial) => {
                let mut evidence = self.evidence(None);
                evidence.refused(&denial);
                evidence.close(&End::Denied);
                deny(client, &denial).await;
                return Err(End::Denied);
            }
        };
        let dialed = dial(
            permit,
            &self.pod,
            self.target.source_address,
            self.original,
            limits.dial,
        );
        let mut server = dialed.await.map_err(End::Unreachable)?;
        let session = match wish {
            Wish::Session(session) => session,
            Wish::Cancel(raw) => {
                // The key says which session is meant; the server checks it and never answers.
                let passed = server.write_all(&raw).await.and(server.shutdown().await);
                return Err(passed.map_or_else(
                    |error| End::Socket {
                        side: Side::Target,
                        error,
                    },
                    |()| End::ClientClosed,
                ));
            }
        };
        if let Some(refusal) = session.refusal {
            return Err(End::Refused(refusal));
        }
        if session.replication {
            let ruling = self.policy.decide_replication(&session.settings);
            if let Some(denial) = ruling.denial() {
                let mut evidence = self.evidence(Some(&session));
                evidence.refused(denial);
                evidence.close(&End::Denied);
                deny(client, denial).await;
                return Err(End::Denied);
            }
        }
        server
            .write_all(&session.raw)
            .await
            .map_err(|error| End::Socket {
                side: Side::Target,
                error,
            })?;
        let evidence = self.evidence(Some(&session));
        let decider = Decider::new(
            Arc::clone(&self.shared.options.in_force),
            Arc::clone(&self.target),
            Arc::clone(&self.chain),
            self.policy,
            Arc::clone(&self.shared.options.parsers),
            Rc::clone(&self.shared),
            session.settings,
        );
        let mut core = Core::new(Rc::clone(&self.shared), limits, decider, evidence);
        core.replicates = session.replication;
        Ok(Opened {
            server,
            core,
            from_client: session.carry,
        })
    }

    fn evidence(&self, session: Option<&SessionWish>) -> SessionEvidence {
        SessionEvidence::open(
            &self.shared,
            &self.chain,
            &self.target,
            self.original,
            session.map(|session| {
                (
                    session.user.as_str(),
                    session.database.as_str(),
                    session.application.as_str(),
                )
            }),
        )
    }
}

/// A step of the handshake, up to its time or the agent's end.
async fn within<T>(
    until: Instant,
    drain: Drain,
    step: impl Future<Output = Result<T, End>>,
) -> Result<T, End> {
    tokio::select! {
        outcome = timeout_at(until, step) => outcome.unwrap_or(Err(End::Limit("handshake_time"))),
        () = drain.all_end() => Err(End::Drained),
    }
}

/// Reads up to a StartupMessage or CancelRequest, answering requests for encryption with no.
async fn first_packets(client: &mut TcpStream) -> Result<Wish, End> {
    let mut bytes = Vec::with_capacity(512);
    let mut asked = (false, false);
    loop {
        let found = next_first(&bytes).map_err(|error| End::Malformed {
            side: Side::Client,
            error,
        })?;
        let Some((first, length)) = found else {
            if bytes.len() > MAX_STARTUP {
                return Err(End::Limit("startup_packet"));
            }
            let read = client.read_buf(&mut bytes).await.map_err(|error| End::Socket {
                side: Side::Client,
                error,
            })?;
            if read == 0 {
                return Err(End::ClientClosed);
            }
            continue;
        };
        let repeated = match first {
            First::Ssl => std::mem::replace(&mut asked.0, true),
            First::GssEnc => std::mem::replace(&mut asked.1, true),
            First::Cancel => return Ok(Wish::Cancel(bytes.get(..length).unwrap_or_default().to_vec())),
            First::DirectTls => {
                return Err(End::Refused(
                    "this agent doesn't terminate TLS yet; connect with sslmode=disable or prefer",
                ));
            }
            First::Startup(startup) => {
                let text = |name| {
                    startup
                        .parameter(name)
                        .map(|value| String::from_utf8_lossy(value).into_owned())
                };
                let user = text("user").unwrap_or_default();
                let moves_search_path = startup.may_set("search_path");
                let unread_options = startup.options_may_set("client_encoding")
                    || startup.options_may_set("standard_conforming_strings");
                let session = SessionWish {
                    database: text("database").unwrap_or_else(|| user.clone()),
                    user,
                    application: text("application_name").unwrap_or_default(),
                    settings: Settings {
                        search_path_trusted: !moves_search_path && !unread_options,
                        ..Settings::default()
                    },
                    refusal: (startup.replication() == Replication::Unclear)
                        .then_some("replication= is database, true or false, and given once"),
                    replication: startup.replication() == Replication::Yes,
                    raw: bytes.get(..length).unwrap_or_default().to_vec(),
                    carry: bytes.get(length..).unwrap_or_default().to_vec(),
                };
                return Ok(Wish::Session(session));
            }
        };
        if repeated || bytes.len() > length {
            // Bytes after the request would be read as if they had come encrypted (CVE-2021-23222).
            return Err(End::OutOfOrder {
                side: Side::Client,
                tag: '\0',
            });
        }
        bytes.clear();
        client.write_all(b"N").await.map_err(|error| End::Socket {
            side: Side::Client,
            error,
        })?;
    }
}

/// Tells the client why the connection ends, where there is something to tell.
async fn tell(client: &mut TcpStream, end: &End) {
    if let Some((code, text)) = end.for_client() {
        farewell(client, &build::ErrorText::fatal(code, text)).await;
    }
}

async fn deny(client: &mut TcpStream, denial: &Denial) {
    let text = format!("{} ({})", denial.message, denial.reason);
    farewell(client, &build::ErrorText::fatal("42501", &text)).await;
}

async fn farewell(client: &mut TcpStream, text: &build::ErrorText<'_>) {
    let mut out = Vec::new();
    build::error_response(&mut out, text);
    let told = async {
        let _ = client.write_all(&out).await;
        let _ = client.shutdown().await;
    };
    let _ = tokio::time::timeout(LAST_WORDS, told).await;
}

/// A connection whose authentication is under way. Every method passes through; none of it is kept.
struct Authenticating {
    client: TcpStream,
    server: TcpStream,
    core: Core,
    from_client: Vec<u8>,
    from_server: Vec<u8>,
    accepted: bool,
    /// A message to the client may be written in part, so that nothing can be said between.
    amid: bool,
}

impl Authenticating {
    /// Runs to the server's first ReadyForQuery.
    ///
    /// Cancelling it ends the connection: what was being written may have left in part.
    async fn run(&mut self) -> Result<(), End> {
        let limit = self.core.limits.handshake_bytes;
        let (mut in_total, mut out_total) = (self.from_client.len(), 0);
        self.pass_client().await?;
        loop {
            tokio::select! {
                read = self.server.read_buf(&mut self.from_server) => {
                    let read = read.map_err(|error| End::Socket { side: Side::Target, error })?;
                    out_total += read;
                    if read == 0 {
                        return Err(End::TargetClosed);
                    }
                    if self.pass_server().await? {
                        return Ok(());
                    }
                }
                read = self.client.read_buf(&mut self.from_client) => {
                    let read = read.map_err(|error| End::Socket { side: Side::Client, error })?;
                    in_total += read;
                    if read == 0 {
                        return Err(End::ClientClosed);
                    }
                    self.pass_client().await?;
                }
            }
            if in_total > limit || out_total > limit {
                return Err(End::Limit("handshake_bytes"));
            }
        }
    }

    /// The session that begins.
    fn serving(self) -> Serving {
        // Unguessable, so that no client can prepare a statement of this name.
        let nowhere = format!("bailiff refused {}", crate::random_hex());
        let client = Leg::with_carry(self.client, self.from_client);
        let upstream = Upstream::new(Leg::with_carry(self.server, self.from_server), nowhere);
        Serving::new(client, upstream, self.core)
    }

    /// Passes on the client's answers. Once authentication is accepted, what comes belongs to the session and waits.
    async fn pass_client(&mut self) -> Result<(), End> {
        let mut taken = 0;
        while let Some(frame) = next_frame(
            self.from_client.get(taken..).unwrap_or_default(),
            &self.core.shared.frontend_limits,
        )
        .map_err(|error| End::Malformed {
            side: Side::Client,
            error,
        })? {
            match frame.tag {
                b'p' => {
                    self.server
                        .write_all(frame.raw)
                        .await
                        .map_err(|error| End::Socket {
                            side: Side::Target,
                            error,
                        })?;
                    taken += frame.raw.len();
                }
                b'X' => return Err(End::ClientClosed),
                // Some clients send their first query without waiting for ReadyForQuery.
                _ if self.accepted => break,
                tag => {
                    return Err(End::OutOfOrder {
                        side: Side::Client,
                        tag: char::from(tag),
                    });
                }
            }
        }
        self.from_client.drain(..taken);
        Ok(())
    }

    /// Passes on the server's questions. True at ReadyForQuery.
    async fn pass_server(&mut self) -> Result<bool, End> {
        let malformed = |error| End::Malformed {
            side: Side::Target,
            error,
        };
        let mut taken = 0;
        let mut ready = false;
        while let Some(frame) = next_frame(
            self.from_server.get(taken..).unwrap_or_default(),
            &self.core.shared.backend_limits,
        )
        .map_err(malformed)?
        {
            taken += frame.raw.len();
            match frame.tag {
                b'R' => {
                    self.accepted |=
                        Authentication::decode(frame.body).map_err(malformed)? == Authentication::Ok
                }
                b'S' if self.accepted => {
                    let status = bailiff_wire::postgres::backend::ParameterStatus::decode(frame.body)
                        .map_err(malformed)?;
                    self.core.decider.parameter(status.name, status.value)?;
                }
                b'K' | b'N' | b'v' | b'E' => {}
                b'Z' if self.accepted => {
                    ready = true;
                    break;
                }
                tag => {
                    return Err(End::OutOfOrder {
                        side: Side::Target,
                        tag: char::from(tag),
                    });
                }
            }
        }
        let passing = self.from_server.get(..taken).unwrap_or_default();
        self.amid = !passing.is_empty();
        self.client
            .write_all(passing)
            .await
            .map_err(|error| End::Socket {
                side: Side::Client,
                error,
            })?;
        self.amid = false;
        self.from_server.drain(..taken);
        Ok(ready)
    }
}
