//! A connection from its first byte to the server's first ReadyForQuery.
//!
//! Each step takes what the one before it left: the first packets, then dialing, then authentication, then
//! [`Serving`](super::serving::Serving). A failure at any step ends the connection; where the client understands it, it is told why.

mod authenticating;
mod first;
mod identity;
mod proving;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bailiff_policy::{Denial, DialPermit};
use bailiff_wire::postgres::build;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout_at};

use self::authenticating::Authenticating;
use self::first::{SessionWish, Wish, first_packets};
use self::identity::Identity;
use self::proving::Proving;
use super::cancel::{Cancellable, Key, Lookup};
use super::evidence::SessionEvidence;
use super::serving::Core;
use crate::attribution::PodEntry;
use crate::catalog::SessionPlace;
use crate::decide::{Decider, Standing};
use crate::proxy::dial::{Way, dial};
use crate::proxy::end::{End, Side};
use crate::proxy::limits::Limits;
use crate::proxy::session::Admitted;
use crate::proxy::socket::Socket;
use crate::proxy::tls::Wire;
use crate::proxy::worker::Drain;

/// How long the last words to a client may take. One that doesn't read them isn't waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Carries one connection to its end.
pub(crate) async fn serve(admitted: Admitted, client: std::net::TcpStream) -> End {
    admitted.run(client).await
}

/// A connection whose StartupMessage went to the server.
struct Opened {
    server: Wire,
    core: Core,
    from_client: Vec<u8>,
    proving: Option<Proving>,
    cancellable: Cancellable,
}

impl Admitted {
    async fn run(self, client: std::net::TcpStream) -> End {
        let limits = Arc::clone(&self.shared.options.limits);
        let until = Instant::now() + limits.handshake;
        let _ = client.set_nodelay(true);
        let client = match client.set_nonblocking(true).and_then(|()| Socket::new(client)) {
            Ok(client) => client,
            Err(error) => {
                return End::Socket {
                    side: Side::Client,
                    error,
                };
            }
        };
        let drain = self.shared.drain.clone();
        // For the end of a session that somebody ends: what its server runs is cancelled then.
        let (pod, again) = (Arc::clone(&self.pod), self.policy.connect().ok());
        // None while a TLS handshake is under way, and after one that failed: nobody can be told anything then.
        let mut client = Some(Wire::Plain(client));
        // In boxes of their own, so that an open session doesn't keep the handshake's memory.
        let opened = Box::pin(within(until, drain.clone(), self.open(&mut client))).await;
        let (opened, client) = match (opened, client) {
            (Ok(opened), Some(client)) => (opened, client),
            (Ok(_), None) => return End::ClientClosed,
            (Err(end), client) => {
                if let Some(mut client) = client {
                    Box::pin(tell(&mut client, &end)).await;
                }
                return end;
            }
        };
        let mut authenticating = Authenticating {
            client,
            server: opened.server,
            core: opened.core,
            from_client: opened.from_client,
            from_server: Vec::with_capacity(1024),
            proving: opened.proving,
            cancellable: opened.cancellable,
            accepted: false,
            amid: false,
            binding_taken: false,
        };
        let live = Rc::clone(authenticating.core.evidence.live());
        let outcome = tokio::select! {
            outcome = Box::pin(within(until, drain, authenticating.run())) => outcome,
            killing = live.killed() => Err(End::killed(killing)),
        };
        let (end, mut core) = match outcome {
            Ok(()) => {
                let (serving, cancellable) = authenticating.serving();
                let (end, core) = serving.run().await;
                if matches!(end, End::Killed(..))
                    && core.tracker.outstanding() > 0
                    && let (Some((way, real)), Some(permit)) = (cancellable.real(), again)
                {
                    // Whatever comes of it, the session is over.
                    let _ = Box::pin(pass_cancel(permit, &pod, &way, &real, &limits)).await;
                }
                (end, core)
            }
            Err(end) => {
                if !authenticating.amid {
                    Box::pin(tell(&mut authenticating.client, &end)).await;
                }
                (end, authenticating.core)
            }
        };
        core.abandon();
        core.evidence.close(&end);
        end
    }

    /// Up to the point at which the server has got the client's StartupMessage.
    async fn open(self, client: &mut Option<Wire>) -> Result<Opened, End> {
        let dialed = self.original.get().ip();
        let wish = first_packets(client, &self.target, &self.files, dialed).await?;
        let wish = match wish {
            Wish::Session(wish) => wish,
            Wish::Cancel(process, secret) => return Err(self.cancel(Key::new(process, &secret)).await),
        };
        let limits = Arc::clone(&self.shared.options.limits);
        self.shared.room_for_another(self.target.when_full).await;
        let allowed = self
            .policy
            .connect()
            .and_then(|permit| Ok((permit, self.policy.connect_as()?)));
        let (permit, mapping) = match allowed {
            Ok(allowed) => allowed,
            Err(denial) => {
                let mut evidence = self.evidence(&wish, None);
                evidence.refused(&denial);
                evidence.close(&End::Denied);
                if let Some(client) = client {
                    deny(client, &denial).await;
                }
                return Err(End::Denied);
            }
        };
        if let Some(refusal) = wish.refusal {
            return Err(End::Refused(refusal));
        }
        if wish.replication {
            let ruling = self.policy.decide_replication(&wish.settings);
            if let Some(denial) = ruling.denial() {
                let mut evidence = self.evidence(&wish, None);
                evidence.refused(denial);
                evidence.close(&End::Denied);
                if let Some(client) = client {
                    deny(client, denial).await;
                }
                return Err(End::Denied);
            }
        }
        let identity = Identity::new(&self.target, &mapping, &self.files, &wish)?;
        let secret = identity.secret.as_deref();
        let way = Way::new(&self.target, &self.policy, &self.files, secret, self.original)?;
        let mut server = dial(permit, &self.pod, &way, &limits).await?;
        if let Some(shown) = server.peer_certificate() {
            self.shared
                .options
                .metrics
                .target_certificate(&self.target.name, shown);
        }
        server
            .say(&identity.startup(&wish))
            .await
            .map_err(|error| End::Socket {
                side: Side::Target,
                error,
            })?;
        let evidence = self.evidence(&wish, identity.mapped.as_ref());
        let (user, database) = identity.mapped.unwrap_or((wish.user, wish.database));
        let standing = Standing {
            exposed: way.is_exposed(),
            mapping,
        };
        let cancels = &self.shared.options.cancels;
        let cancellable = Cancellable::new(cancels, self.pod.cgroup, &self.target.name, way);
        let decider = Decider::new(
            Arc::clone(&self.target),
            Arc::clone(&self.chain),
            self.policy,
            Rc::clone(&self.shared),
            wish.settings,
            standing,
        )
        .in_database(SessionPlace {
            address: self.original,
            user: user.clone(),
            database,
            asked: wish.search_path,
        });
        let mut core = Core::new(Rc::clone(&self.shared), limits, decider, evidence);
        core.replicates = wish.replication;
        Ok(Opened {
            server,
            core,
            from_client: wish.carry,
            proving: identity.secret.map(|secret| Proving::new(secret, user)),
            cancellable,
        })
    }

    /// Passes a cancel request on, where the key is one of this pod's at this target. The client is told nothing, as by a server.
    async fn cancel(self, told: Key) -> End {
        let found = self
            .shared
            .options
            .cancels
            .find(self.pod.cgroup, &self.target.name, told);
        let (way, real) = match found {
            Lookup::Found(way, real) => (way, real),
            Lookup::Unknown => return End::Cancel("cancel_unknown"),
            Lookup::TooMany => return End::Limit("cancels"),
        };
        let Ok(permit) = self.policy.connect() else {
            return End::Denied;
        };
        let limits = &self.shared.options.limits;
        match pass_cancel(permit, &self.pod, &way, &real, limits).await {
            Ok(()) => End::Cancel("cancel_passed"),
            Err(end) => end,
        }
    }

    fn evidence(&self, wish: &SessionWish, mapped: Option<&(String, String)>) -> SessionEvidence {
        SessionEvidence::open(
            &self.shared,
            &self.chain,
            &self.target,
            self.original,
            Some((&wish.user, &wish.database, &wish.application)),
            mapped.cloned(),
        )
    }
}

/// Cancels what a server runs for the session with this key.
async fn pass_cancel(
    permit: DialPermit,
    pod: &PodEntry,
    way: &Way,
    real: &Key,
    limits: &Limits,
) -> Result<(), End> {
    let mut server = dial(permit, pod, way, limits).await?;
    let mut request = Vec::with_capacity(64);
    build::cancel_request(&mut request, real.process(), real.secret());
    // The server closes once the signal is on its way, and clients wait for that.
    let passed = async {
        server.say(&request).await?;
        server.read_u8().await
    };
    let _ = tokio::time::timeout(limits.dial, passed).await;
    Ok(())
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

/// Tells the client why the connection ends, where there is something to tell.
async fn tell(client: &mut Wire, end: &End) {
    if let Some((code, text)) = end.for_client() {
        farewell(client, &build::ErrorText::fatal(code, text)).await;
    }
}

async fn deny(client: &mut Wire, denial: &Denial) {
    let text = format!("{} ({})", denial.message, denial.reason);
    farewell(client, &build::ErrorText::fatal("42501", &text)).await;
}

async fn farewell(client: &mut Wire, text: &build::ErrorText<'_>) {
    let mut out = Vec::new();
    build::error_response(&mut out, text);
    let told = async {
        let _ = client.say(&out).await;
        let _ = client.shutdown().await;
    };
    let _ = tokio::time::timeout(LAST_WORDS, told).await;
}
