//! A server, and a configuration that names it.

use anyhow::Result;

use crate::{Alone, Client, Enforced, Postgres, Running, can_be_root, policy, target};

/// What most tests of sessions need.
#[derive(Debug)]
pub struct Lab {
    /// The server.
    pub server: Postgres,
    /// The configuration.
    pub enforced: Enforced,
}

impl Lab {
    /// A server and a configuration with these rules; `None` where the test can't be root. `more` are further lines of the
    /// target.
    pub fn new(rules: &str, more: &str) -> Result<Option<Self>> {
        if can_be_root()? {
            Self::made(rules, more).map(Some)
        } else {
            Ok(None)
        }
    }

    /// The same on a machine that no other test uses at this time.
    pub fn alone(rules: &str, more: &str, _: &Alone) -> Result<Self> {
        Self::made(rules, more)
    }

    fn made(rules: &str, more: &str) -> Result<Self> {
        let server = Postgres::start_anywhere()?;
        let enforced = Enforced::with(&[
            ("target.yaml", &target(server.address(), more)),
            ("policy.yaml", &policy(rules)),
        ])?;
        Ok(Self { server, enforced })
    }

    /// The same with further options of `bailiff run`.
    #[must_use]
    pub fn options(self, options: &[&str]) -> Self {
        Self {
            enforced: self.enforced.options(options),
            ..self
        }
    }

    /// Starts the agent.
    pub fn start(&self) -> Result<Running> {
        self.enforced.start()
    }

    /// A session through the agent.
    pub fn session(&self, agent: &Running) -> Result<Client> {
        Client::started(agent.dial(self.server.address(), Postgres::PORT)?)
    }

    /// A session past the agent.
    pub fn direct(&self) -> Result<Client> {
        Client::started(std::net::TcpStream::connect((
            self.server.address(),
            Postgres::PORT,
        ))?)
    }
}
