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

    /// Puts another policy with these rules in force.
    pub fn change_rules(&self, agent: &Running, rules: &str) -> Result<()> {
        self.change(agent, "policy.yaml", &policy(rules))
    }

    /// Changes a file of the configuration, and waits until the agent has taken or refused it.
    pub fn change(&self, agent: &Running, name: &str, text: &str) -> Result<()> {
        let looked = || -> Result<u64> {
            Ok(agent.metric("bailiff_policy_reloads_total")?
                + agent.metric("bailiff_policy_reload_errors_total")?)
        };
        let before = looked()?;
        let new = self.enforced.config().join("new");
        std::fs::write(&new, text)?;
        std::fs::rename(new, self.enforced.config().join(name))?;
        agent.wait_for("a look at the changed file", || Ok(looked()? > before))
    }

    /// Starts the agent.
    pub fn start(&self) -> Result<Running> {
        self.enforced.start()
    }

    /// A session through the agent.
    pub fn session(&self, agent: &Running) -> Result<Client> {
        self.session_as(agent, "postgres")
    }

    /// The same as another user.
    pub fn session_as(&self, agent: &Running, user: &str) -> Result<Client> {
        Client::started_as(agent.dial(self.server.address(), Postgres::PORT)?, user)
    }

    /// A session past the agent.
    pub fn direct(&self) -> Result<Client> {
        self.direct_as("postgres")
    }

    /// The same as another user.
    pub fn direct_as(&self, user: &str) -> Result<Client> {
        let stream = std::net::TcpStream::connect((self.server.address(), Postgres::PORT))?;
        Client::started_as(stream, user)
    }
}
