//! The agent's own authentication, where it has a credential.

use bailiff_wire::postgres::authentication::{Authentication, SCRAM, SCRAM_PLUS};
use bailiff_wire::postgres::build;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

use crate::proxy::end::End;
use crate::proxy::tls::{Secret, Wire, end_point};

/// The agent's side of an authentication.
pub(super) struct Proving {
    secret: std::sync::Arc<Secret>,
    user: String,
    step: Step,
}

/// What is awaited of the server.
enum Step {
    /// Its first word. AuthenticationOk is one, where it asks for nothing.
    First,
    /// AuthenticationOk, after a password was sent.
    Verdict,
    /// AuthenticationSASLContinue.
    Challenge(Box<ScramSha256>),
    /// AuthenticationSASLFinal, which proves that the server knows the password, too.
    Final(Box<ScramSha256>),
}

/// What follows from a word of the server.
pub(super) enum Next {
    /// This is sent.
    Answer(Vec<u8>),
    /// Nothing is sent, and more comes.
    Wait,
    /// The agent is let in.
    Accepted,
}

impl Proving {
    /// As this user, by this.
    pub(super) fn new(secret: std::sync::Arc<Secret>, user: String) -> Self {
        Self {
            secret,
            user,
            step: Step::First,
        }
    }

    /// Takes a word of the server. Errors say what to do, and never quote what was exchanged.
    pub(super) fn take(&mut self, asked: &Authentication<'_>, server: &Wire) -> Result<Next, End> {
        let step = std::mem::replace(&mut self.step, Step::Verdict);
        match (asked, step) {
            (Authentication::Ok, Step::First | Step::Verdict) => Ok(Next::Accepted),
            (Authentication::Cleartext, Step::First) => {
                if !server.is_tls() {
                    return Err(End::Credential(
                        "the server asks for the password in plain text; set tls.upstream, or scram-sha-256 in pg_hba.conf",
                    ));
                }
                let mut out = Vec::new();
                build::password(&mut out, self.password()?);
                Ok(Next::Answer(out))
            }
            (Authentication::Md5(salt), Step::First) => {
                let hash = md5_hash(self.user.as_bytes(), self.password()?, *salt);
                let mut out = Vec::new();
                build::password(&mut out, hash.as_bytes());
                Ok(Next::Answer(out))
            }
            (Authentication::Sasl(mechanisms), Step::First) => self.begin(mechanisms, server),
            (Authentication::SaslContinue(challenge), Step::Challenge(mut scram)) => {
                scram
                    .update(challenge)
                    .map_err(|_| End::Credential("the server's challenge isn't one of SCRAM-SHA-256"))?;
                let mut out = Vec::new();
                build::sasl_response(&mut out, scram.message());
                self.step = Step::Final(scram);
                Ok(Next::Answer(out))
            }
            (Authentication::SaslFinal(last), Step::Final(mut scram)) => {
                scram.finish(last).map_err(|_| {
                    End::Credential(
                        "the server couldn't prove that it knows the password, too: it may be another one",
                    )
                })?;
                Ok(Next::Wait)
            }
            (Authentication::Other(_), _) => Err(End::Credential(
                "the server asks for Kerberos or SSPI, which the agent doesn't do; use scram-sha-256 or cert in pg_hba.conf",
            )),
            // Uncertainty denies: an exchange that isn't finished proves nothing about the server.
            _ => Err(End::Credential("the server leaves the order of authentication")),
        }
    }

    fn begin(&mut self, mechanisms: &[&[u8]], server: &Wire) -> Result<Next, End> {
        let offers = |mechanism: &[u8]| mechanisms.contains(&mechanism);
        let bound = server.peer_certificate().and_then(|shown| end_point(shown));
        let (mechanism, binding) = match bound {
            Some(hash) if offers(SCRAM_PLUS) => (SCRAM_PLUS, ChannelBinding::tls_server_end_point(hash)),
            Some(_) if offers(SCRAM) => (SCRAM, ChannelBinding::unrequested()),
            None if offers(SCRAM) => (SCRAM, ChannelBinding::unsupported()),
            _ => {
                return Err(End::Credential(
                    "the server offers no mechanism that the agent knows; it knows SCRAM-SHA-256",
                ));
            }
        };
        let scram = Box::new(ScramSha256::new(self.password()?, binding));
        let mut out = Vec::new();
        build::sasl_initial(&mut out, mechanism, scram.message());
        self.step = Step::Challenge(scram);
        Ok(Next::Answer(out))
    }

    fn password(&self) -> Result<&[u8], End> {
        match &*self.secret {
            Secret::Password(password) => Ok(password),
            Secret::Certificate(_) => Err(End::Credential(
                "the server asks for a password, and the credential is a certificate; set cert in pg_hba.conf, or give passwordFile",
            )),
        }
    }
}
