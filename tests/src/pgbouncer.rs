//! PgBouncer, which pools connections before a server.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::{Postgres, check};

/// A PgBouncer before a server, at an address of its own. Dropping it ends it.
#[derive(Debug)]
pub struct PgBouncer {
    address: String,
    child: Child,
    _directory: tempfile::TempDir,
}

impl PgBouncer {
    /// Starts one in this mode: `session`, `transaction` or `statement`.
    pub fn start(server: &Postgres, mode: &str) -> Result<Self> {
        Self::start_asking(server, mode, None)
    }

    /// The same, which asks this user for this password by SCRAM and lets nobody else in.
    pub fn start_with_password(server: &Postgres, mode: &str, user: &str, password: &str) -> Result<Self> {
        Self::start_asking(server, mode, Some((user, password)))
    }

    fn start_asking(server: &Postgres, mode: &str, asks: Option<(&str, &str)>) -> Result<Self> {
        let address = Postgres::free_address();
        check(Command::new("ip").args(["addr", "add", &format!("{address}/32"), "dev", "lo"]))?;
        let directory = tempfile::Builder::new().prefix("bailiff-pool-").tempdir()?;
        let file = directory.path().join("pgbouncer.ini");
        let mut configuration = Self::configuration(server, &address, Postgres::PORT, mode);
        if let Some((user, password)) = asks {
            let users = directory.path().join("users");
            std::fs::write(&users, format!("\"{user}\" \"{password}\"\n"))?;
            let file = format!("auth_type = scram-sha-256\nauth_file = {}", users.display());
            configuration = configuration.replace("auth_type = any", &file);
        }
        std::fs::write(&file, configuration)?;
        check(
            Command::new("chown")
                .args(["-R", "postgres"])
                .arg(directory.path()),
        )?;
        let child = Command::new("runuser")
            .args(["-u", "postgres", "--", "pgbouncer", "-q"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("PgBouncer is missing: apt-get install pgbouncer")?;
        let this = Self {
            address,
            child,
            _directory: directory,
        };
        let until = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect((this.address.as_str(), Postgres::PORT)).is_err() {
            ensure!(Instant::now() < until, "PgBouncer doesn't listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(this)
    }

    /// What its configuration says.
    #[must_use]
    pub fn configuration(server: &Postgres, address: &str, port: u16, mode: &str) -> String {
        format!(
            "[databases]\n* = user=postgres host={} port={}\n[pgbouncer]\nlisten_addr = {address}\nlisten_port = {port}\nauth_type = any\n\
             unix_socket_dir =\npool_mode = {mode}\nignore_startup_parameters = extra_float_digits\nmax_client_conn = 200\n",
            server.address(),
            Postgres::PORT
        )
    }

    /// Where it listens, on the port of all servers.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // `runuser` passes the signal on to its child.
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
        let _ = self.child.wait();
        let _ = Command::new("ip")
            .args(["addr", "del", &format!("{}/32", self.address), "dev", "lo"])
            .status();
    }
}
