//! From the StartupMessage to the server's first ReadyForQuery.

use bailiff_wire::postgres::authentication::{Authentication, BackendKeyData, SCRAM_PLUS, SaslInitial};
use bailiff_wire::postgres::backend::{ErrorFields, ParameterStatus};
use bailiff_wire::postgres::{build, next_frame};
use tokio::io::AsyncReadExt as _;

use super::proving::{Next, Proving};
use crate::proxy::end::{End, Side};
use crate::proxy::leg::Leg;
use crate::proxy::postgres::cancel::{Cancellable, Key};
use crate::proxy::postgres::serving::{Core, Serving};
use crate::proxy::tls::Wire;
use crate::proxy::upstream::Upstream;

/// A connection whose authentication is under way.
///
/// Where the agent has no credential, every method passes through and none of it is kept.
pub(super) struct Authenticating {
    pub(super) client: Wire,
    pub(super) server: Wire,
    pub(super) core: Core,
    pub(super) from_client: Vec<u8>,
    pub(super) from_server: Vec<u8>,
    /// The agent's own authentication, where it has a credential.
    pub(super) proving: Option<Proving>,
    /// By what this session's operations can be cancelled.
    pub(super) cancellable: Cancellable,
    pub(super) accepted: bool,
    /// A message to the client may be written in part, so that nothing can be said between.
    pub(super) amid: bool,
    /// The server offered SCRAM bound to its TLS connection, and the client can't have it.
    pub(super) binding_taken: bool,
}

impl Authenticating {
    /// Runs to the server's first ReadyForQuery.
    ///
    /// Cancelling it ends the connection: what was being written may have left in part.
    pub(super) async fn run(&mut self) -> Result<(), End> {
        let limit = self.core.limits.handshake_bytes;
        let (mut in_total, mut out_total) = (self.from_client.len(), 0);
        self.pass_client().await?;
        loop {
            tokio::select! {
                read = self.server.read_buf(&mut self.from_server) => {
                    let read = read.map_err(target_failed)?;
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

    /// The session that begins, and what must be kept until it ends.
    pub(super) fn serving(self) -> (Serving, Cancellable) {
        // Unguessable, so that no client can prepare a statement of this name.
        let nowhere = format!("bailiff refused {}", crate::random_hex());
        let client = Leg::with_carry(self.client, self.from_client);
        let upstream = Upstream::new(Leg::with_carry(self.server, self.from_server), nowhere);
        (Serving::new(client, upstream, self.core), self.cancellable)
    }

    /// Passes on the client's answers. Once authentication is accepted, what comes belongs to the session and waits.
    async fn pass_client(&mut self) -> Result<(), End> {
        let malformed = |error| End::Malformed {
            side: Side::Client,
            error,
        };
        let mut taken = 0;
        while let Some(frame) = next_frame(
            self.from_client.get(taken..).unwrap_or_default(),
            &self.core.shared.frontend_limits,
        )
        .map_err(malformed)?
        {
            match frame.tag {
                b'p' if self.proving.is_none() => {
                    if std::mem::take(&mut self.binding_taken)
                        && SaslInitial::decode(frame.body)
                            .map_err(malformed)?
                            .misses_binding()
                    {
                        // The server would refuse it anyway, with words that help nobody.
                        return Err(End::Refused(
                            "SCRAM channel binding can't pass the agent on this node, which ends TLS on both sides: connect with channel_binding=disable, or have the agent hold the credential",
                        ));
                    }
                    self.server.say(frame.raw).await.map_err(target_failed)?;
                    taken += frame.raw.len();
                }
                b'X' => return Err(End::ClientClosed),
                // Some clients send their first query without waiting for ReadyForQuery, or even for being let in where they
                // know that nothing is asked of them.
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

    /// Passes on the server's questions, or answers them. True at ReadyForQuery.
    async fn pass_server(&mut self) -> Result<bool, End> {
        let mut taken = 0;
        let mut ready = false;
        let mut passing = Vec::new();
        let mut answers = Vec::new();
        while let Some(frame) = next_frame(
            self.from_server.get(taken..).unwrap_or_default(),
            &self.core.shared.backend_limits,
        )
        .map_err(malformed)?
        {
            taken += frame.raw.len();
            match frame.tag {
                b'R' if self.accepted => return Err(out_of_order(b'R')),
                b'R' => {
                    let asked = Authentication::decode(frame.body).map_err(malformed)?;
                    match &mut self.proving {
                        Some(proving) => match proving.take(&asked, &self.server)? {
                            Next::Answer(answer) => answers.extend(answer),
                            Next::Wait => {}
                            Next::Accepted => {
                                self.accepted = true;
                                build::authentication_ok(&mut passing);
                            }
                        },
                        None => {
                            self.accepted = asked == Authentication::Ok;
                            match asked {
                                // Two TLS connections can't be bound to as one, so it isn't offered to the client.
                                Authentication::Sasl(offered) if offered.contains(&SCRAM_PLUS) => {
                                    self.binding_taken = true;
                                    let rest = offered.into_iter().filter(|offer| *offer != SCRAM_PLUS);
                                    build::authentication_sasl(&mut passing, rest);
                                }
                                _ => passing.extend_from_slice(frame.raw),
                            }
                        }
                    }
                }
                b'S' if self.accepted => {
                    let status = ParameterStatus::decode(frame.body).map_err(malformed)?;
                    self.core.decider.parameter(status.name, status.value)?;
                    passing.extend_from_slice(frame.raw);
                }
                b'K' if self.accepted => {
                    let real = BackendKeyData::decode(frame.body).map_err(malformed)?;
                    let told = self.cancellable.register(Key::new(real.process, real.key))?;
                    build::backend_key_data(&mut passing, told.process(), told.secret());
                }
                b'E' if self.proving.is_some() && !self.accepted => {
                    let code = ErrorFields::decode(frame.body).map_err(malformed)?;
                    if code.field(b'C').is_some_and(|code| code.starts_with(b"28")) {
                        return Err(End::Credential(
                            "the server refuses the agent's credential; see its log, and the file that the credential names",
                        ));
                    }
                    passing.extend_from_slice(frame.raw);
                }
                b'N' | b'v' | b'E' => passing.extend_from_slice(frame.raw),
                b'Z' if self.accepted => {
                    ready = true;
                    passing.extend_from_slice(frame.raw);
                    break;
                }
                tag => return Err(out_of_order(tag)),
            }
        }
        self.from_server.drain(..taken);
        if !answers.is_empty() {
            self.server.say(&answers).await.map_err(target_failed)?;
        }
        self.amid = !passing.is_empty();
        self.client.say(&passing).await.map_err(|error| End::Socket {
            side: Side::Client,
            error,
        })?;
        self.amid = false;
        Ok(ready)
    }
}

fn malformed(error: bailiff_wire::postgres::DecodeError) -> End {
    End::Malformed {
        side: Side::Target,
        error,
    }
}

fn out_of_order(tag: u8) -> End {
    End::OutOfOrder {
        side: Side::Target,
        tag: char::from(tag),
    }
}

fn target_failed(error: std::io::Error) -> End {
    End::Socket {
        side: Side::Target,
        error,
    }
}
