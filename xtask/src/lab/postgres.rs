//! A real PostgreSQL that lives as long as its guard.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::Beside;
use crate::packages;

/// The server, its data in a temporary folder that only root and the user `postgres` enter.
#[derive(Debug)]
pub(crate) struct Postgres {
    // Dropped in this order: first the server ends, then its data goes.
    _server: Beside,
    folder: TempDir,
    bin: PathBuf,
}

/// How it is to be set up.
#[derive(Debug)]
pub(crate) struct Setup<'a> {
    pub(crate) address: &'a str,
    pub(crate) port: u16,
    /// Lines of postgresql.conf beyond what is always said.
    pub(crate) settings: &'a [&'a str],
    /// Lines of pg_hba.conf for TCP. The superuser comes in by the socket in the data folder alone.
    pub(crate) hba: &'a [&'a str],
}

impl Postgres {
    /// Makes a cluster and starts it.
    ///
    /// # Errors
    /// When a program of the distribution's package fails; its words are in the error.
    pub(crate) fn start(setup: &Setup<'_>) -> Result<Self> {
        let bin = packages::postgres_bin().context("PostgreSQL's programs are gone")?;
        let folder = tempfile::Builder::new().prefix("bailiff-postgres-").tempdir()?;
        let user = nix::unistd::User::from_name(OWNER)?
            .with_context(|| format!("there is no user `{OWNER}`; does the package lack its set-up?"))?;
        nix::unistd::chown(folder.path(), Some(user.uid), None)?;
        let data = folder.path().join("data");
        run(as_owner(&bin.join("initdb"), folder.path())
            .args([
                "--auth-local=peer",
                "--auth-host=reject",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
                "-D",
            ])
            .arg(&data))?;

        let mut config = std::fs::read_to_string(data.join("postgresql.conf"))?;
        writeln!(config, "listen_addresses = '{}'", setup.address)?;
        writeln!(config, "port = {}", setup.port)?;
        writeln!(config, "unix_socket_directories = '{}'", folder.path().display())?;
        // Nothing here outlives the guard, so nothing has to reach the disk.
        config.push_str("fsync = off\nsynchronous_commit = off\nfull_page_writes = off\n");
        for line in setup.settings {
            writeln!(config, "{line}")?;
        }
        std::fs::write(data.join("postgresql.conf"), config)?;
        let hba: String = std::iter::once(&"local all all peer")
            .chain(setup.hba)
            .flat_map(|line| [line, "\n"])
            .collect();
        std::fs::write(data.join("pg_hba.conf"), hba)?;

        let log = folder.path().join("server.log");
        // SIGINT is PostgreSQL's fast shutdown: sessions are ended, not waited for.
        let mut server = Beside::start(
            "postgres",
            as_owner(&bin.join("postgres"), folder.path())
                .arg("-D")
                .arg(&data),
            &log,
            Signal::SIGINT,
        )?;
        let started = super::wait_for("PostgreSQL's start", Duration::from_secs(60), || {
            server.still_runs(&log)?;
            let mut ready = as_owner(&bin.join("pg_isready"), folder.path());
            ready
                .args(["--quiet", "--port", &setup.port.to_string(), "--host"])
                .arg(folder.path());
            Ok(ready.status()?.success())
        });
        started?;
        Ok(Self {
            _server: server,
            folder,
            bin,
        })
    }

    /// Runs statements as the superuser.
    ///
    /// # Errors
    /// When one of them fails.
    pub(crate) fn execute(&self, port: u16, database: &str, sql: &str) -> Result<()> {
        let mut psql = self.command("psql");
        psql.args([
            "--no-psqlrc",
            "--quiet",
            "--set=ON_ERROR_STOP=1",
            "--port",
            &port.to_string(),
        ]);
        psql.arg("--host")
            .arg(self.folder.path())
            .args(["--dbname", database, "--command", sql]);
        run(&mut psql)
    }

    /// A program of the server's version, as the user that owns the cluster.
    pub(crate) fn command(&self, program: &str) -> Command {
        as_owner(&self.bin.join(program), self.folder.path())
    }

    /// Where the programs of the server's version lie.
    pub(crate) fn bin(&self) -> &Path {
        &self.bin
    }

    /// The folder of the server's socket and data.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// Runs a command and keeps its output for the error.
///
/// # Errors
/// When it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?} can't be started"))?;
    if !output.status.success() {
        bail!(
            "`{}` failed ({}): {}{}",
            crate::shell::describe(command),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// PostgreSQL refuses to run as root; the package made this user.
const OWNER: &str = "postgres";

fn as_owner(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", OWNER, "--regid", OWNER, "--init-groups", "--"])
        .arg(program);
    command
        .current_dir(folder)
        .env("HOME", folder)
        .env_remove("PGUSER")
        .env_remove("PGHOST");
    command
}
