//! The harness: throw-away PostgreSQL servers, and the agent's binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

/// Whether a test that needs root can run. Says so where it can't; under CI it has to.
pub fn can_be_root() -> Result<bool> {
    if nix::unistd::Uid::effective().is_root() {
        return Ok(true);
    }
    ensure!(
        std::env::var_os("CI").is_none(),
        "this test needs root, and CI must not skip it"
    );
    eprintln!("SKIPPED: this test needs root");
    Ok(false)
}

/// The agent's binary, which `cargo xtask build` has built beside the tests.
pub fn bailiff() -> Result<PathBuf> {
    let mut path = std::env::current_exe()?;
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path.push("bailiff");
    ensure!(
        path.exists(),
        "{} is missing; run `cargo xtask build`",
        path.display()
    );
    Ok(path)
}

/// A PostgreSQL server of the distribution's, with its files in a directory of its own. Dropping it ends it.
#[derive(Debug)]
pub struct Postgres {
    directory: tempfile::TempDir,
    binaries: PathBuf,
    address: String,
}

impl Postgres {
    /// Port of all servers.
    pub const PORT: u16 = 5432;

    /// Starts one on an address that is put on the loopback interface.
    pub fn start(address: &str) -> Result<Self> {
        let binaries = std::fs::read_dir("/usr/lib/postgresql")
            .context("PostgreSQL is missing: apt-get install postgresql")?
            .flatten()
            .map(|entry| entry.path().join("bin"))
            .max()
            .context("PostgreSQL is missing: apt-get install postgresql")?;
        let directory = tempfile::Builder::new().prefix("bailiff-pg-").tempdir()?;
        let _ = Command::new("ip")
            .args(["addr", "add", &format!("{address}/32"), "dev", "lo"])
            .stderr(Stdio::null())
            .status()?;
        let this = Self {
            directory,
            binaries,
            address: address.to_owned(),
        };
        let data = this.directory.path().join("data");
        check(Command::new("chown").arg("postgres").arg(this.directory.path()))?;
        check(
            this.as_postgres("initdb")
                .arg("-D")
                .arg(&data)
                .args(["-A", "trust", "-U", "postgres"]),
        )?;
        std::fs::write(
            data.join("pg_hba.conf"),
            "local all all trust\nhost all all 0.0.0.0/0 trust\n",
        )?;
        let options = format!(
            "-c listen_addresses={address} -c port={} -c unix_socket_directories={} -c fsync=off",
            Self::PORT,
            this.directory.path().display()
        );
        let log = this.directory.path().join("log");
        check(
            this.as_postgres("pg_ctl")
                .arg("-D")
                .arg(&data)
                .args(["-w", "-o", &options, "-l"])
                .arg(log)
                .arg("start"),
        )?;
        Ok(this)
    }

    fn as_postgres(&self, program: &str) -> Command {
        let mut command = Command::new("runuser");
        command
            .args(["-u", "postgres", "--"])
            .arg(self.binaries.join(program))
            .current_dir("/");
        command
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Runs SQL over its Unix socket, past the agent, and returns what psql prints unaligned.
    pub fn sql(&self, text: &str) -> Result<String> {
        let output = check(Command::new("psql").arg("-h").arg(self.directory.path()).args([
            "-U",
            "postgres",
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            text,
        ]))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let data = self.directory.path().join("data");
        let _ = self
            .as_postgres("pg_ctl")
            .arg("-D")
            .arg(data)
            .args(["-m", "immediate", "stop"])
            .output();
        let _ = Command::new("ip")
            .args(["addr", "del", &format!("{}/32", self.address), "dev", "lo"])
            .status();
    }
}

/// A configuration in a directory, and commands run under it.
#[derive(Debug)]
pub struct Enforced {
    directory: tempfile::TempDir,
}

impl Enforced {
    /// Writes a configuration: names of files and their texts.
    pub fn with(files: &[(&str, &str)]) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("bailiff-config-").tempdir()?;
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text)?;
        }
        Ok(Self { directory })
    }

    /// Where the record goes.
    #[must_use]
    pub fn record(&self) -> PathBuf {
        self.directory.path().join("record")
    }

    /// Where the configuration is.
    #[must_use]
    pub fn config(&self) -> &Path {
        self.directory.path()
    }

    /// `bailiff run` with a command.
    pub fn run(&self, command: &[&str]) -> Result<Command> {
        let mut run = Command::new(bailiff()?);
        run.arg("run")
            .arg("--config")
            .arg(self.config())
            .arg("--record-dir")
            .arg(self.record())
            .arg("--")
            .args(command);
        Ok(run)
    }

    /// psql under enforcement: unaligned output, standard error after standard output.
    pub fn psql(&self, server: &Postgres, script: &str) -> Result<String> {
        let path = self.directory.path().join("script.sql");
        std::fs::write(&path, script)?;
        let output = self
            .run(&[
                "psql",
                "-h",
                server.address(),
                "-U",
                "postgres",
                "-XAtq",
                "-f",
                "-",
            ])?
            .stdin(std::fs::File::open(path)?)
            .output()?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok(text)
    }

    /// The events recorded so far.
    pub fn events(&self) -> Result<Vec<serde_json::Value>> {
        let mut files: Vec<_> = std::fs::read_dir(self.record())?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        files.sort();
        let mut events = Vec::new();
        for file in files {
            for line in std::fs::read_to_string(file)?.lines() {
                events.push(serde_json::from_str(line)?);
            }
        }
        Ok(events)
    }
}

/// Runs a command and returns what it printed, or fails with it.
pub fn check(command: &mut Command) -> Result<Output> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output)
}
