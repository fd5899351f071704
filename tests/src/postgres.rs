//! PostgreSQL servers.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};

use crate::{Authority, check};

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

    /// Starts one on an address that no other test has at the same time.
    pub fn start_anywhere() -> Result<Self> {
        Self::start(&Self::free_address())
    }

    pub(crate) fn free_address() -> String {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        // 10.128.0.0/10 is as wide as process ids are; a process starts few servers.
        let place = (std::process::id() + STARTED.fetch_add(1, Ordering::Relaxed) * 65_599) % (1 << 22);
        let address = std::net::Ipv4Addr::from_bits((10 << 24 | 128 << 16) + place);
        address.to_string()
    }

    /// Starts one on an address that is put on the loopback interface.
    pub fn start(address: &str) -> Result<Self> {
        Self::start_at(address, None)
    }

    /// The same with these programs instead of the distribution's.
    pub(crate) fn start_at(address: &str, binaries: Option<&Path>) -> Result<Self> {
        let binaries = match binaries {
            Some(binaries) => binaries.to_path_buf(),
            None => distributions()?,
        };
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
        let mut initdb = this.as_postgres("initdb");
        initdb.arg("-D").arg(&data);
        initdb.args(["-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8"]);
        // The same everywhere, whatever locales a machine has.
        check(initdb.arg("--no-locale"))?;
        std::fs::write(
            data.join("pg_hba.conf"),
            "local all all trust\nhost all all 0.0.0.0/0 trust\n",
        )?;
        let options = format!(
            "-c listen_addresses={address} -c port={} -c unix_socket_directories={} -c fsync=off",
            Self::PORT,
            this.directory.path().display()
        );
        this.control("start", &options)?;
        Ok(this)
    }

    fn control(&self, what: &str, options: &str) -> Result<()> {
        let data = self.directory.path().join("data");
        let log = self.directory.path().join("log");
        let mut command = self.as_postgres("pg_ctl");
        command.arg("-D").arg(data).args(["-w", "-o", options, "-l"]);
        check(command.arg(log).arg(what)).map(|_| ())
    }

    /// Starts it anew, so that it listens also on these addresses, and on Unix sockets in these directories, or abstract ones
    /// where they begin with `@`.
    pub fn listen_also(&self, addresses: &[&str], sockets: &[&str]) -> Result<()> {
        let own = self.directory.path().display().to_string();
        let addresses = [&[self.address.as_str()], addresses].concat().join(",");
        let sockets = [&[own.as_str()], sockets].concat().join(",");
        self.control(
            "restart",
            &format!(
                "-c listen_addresses={addresses} -c port={} -c unix_socket_directories={sockets} -c fsync=off",
                Self::PORT
            ),
        )
    }

    /// Starts it anew with a setting of `postgresql.conf`.
    pub fn restart_with(&self, setting: &str, value: &str) -> Result<()> {
        self.sql(&format!("alter system set {setting} = '{value}'"))?;
        self.listen_also(&[], &[])
    }

    /// Lets everybody take its log, in connections of both kinds of replication.
    pub fn let_replicate(&self) -> Result<()> {
        let path = self.directory.path().join("data/pg_hba.conf");
        let rules = std::fs::read_to_string(&path)?;
        std::fs::write(&path, format!("host replication all all trust\n{rules}"))?;
        self.restart_with("wal_level", "logical")
    }

    /// Ends it: `smart`, `fast` or `immediate`.
    pub fn stop(&self, mode: &str) -> Result<()> {
        let data = self.directory.path().join("data");
        let mut command = self.as_postgres("pg_ctl");
        check(command.arg("-D").arg(data).args(["-w", "-m", mode, "stop"])).map(|_| ())
    }

    /// Starts it again after it was ended.
    pub fn start_again(&self) -> Result<()> {
        let own = self.directory.path().display();
        let options = format!(
            "-c listen_addresses={} -c port={} -c unix_socket_directories={own} -c fsync=off",
            self.address,
            Self::PORT
        );
        self.control("start", &options)
    }

    /// Has a role asked for its password from now on.
    pub fn ask_for_passwords(&self, role: &str) -> Result<()> {
        self.authenticate(role, "scram-sha-256")
    }

    /// Speaks TLS from now on, with a certificate for these names, and verifies clients' certificates by the same CA.
    pub fn offer_tls(&self, authority: &Authority, names: &[&str]) -> Result<()> {
        let directory = self.directory.path();
        let (certificate, key) = authority.leaf(names, None)?;
        let [own_certificate, own_key, own_ca] =
            ["server.pem", "server.key", "ca.pem"].map(|name| directory.join(name));
        std::fs::copy(authority.certificate(), &own_ca)?;
        std::fs::copy(certificate, &own_certificate)?;
        std::fs::copy(key, &own_key)?;
        check(
            Command::new("chown")
                .arg("postgres")
                .args([&own_certificate, &own_key, &own_ca]),
        )?;
        check(Command::new("chmod").arg("600").arg(&own_key))?;
        for (setting, value) in [
            ("ssl_cert_file", own_certificate),
            ("ssl_key_file", own_key),
            ("ssl_ca_file", own_ca),
        ] {
            self.sql(&format!("alter system set {setting} = '{}'", value.display()))?;
        }
        self.sql("alter system set ssl = on")?;
        self.reload()
    }

    /// Has it read its configuration anew.
    pub fn reload(&self) -> Result<()> {
        let loaded = || self.sql("select pg_conf_load_time()");
        let before = loaded()?;
        self.sql("select pg_reload_conf()")?;
        while loaded()? == before {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Ok(())
    }

    /// Puts these lines of pg_hba.conf before all others.
    pub fn let_in(&self, lines: &str) -> Result<()> {
        let path = self.directory.path().join("data/pg_hba.conf");
        let rules = std::fs::read_to_string(&path)?;
        std::fs::write(&path, format!("{lines}\n{rules}"))?;
        self.reload()
    }

    /// Has a role authenticated by a method of pg_hba.conf from now on.
    pub fn authenticate(&self, role: &str, method: &str) -> Result<()> {
        self.let_in(&format!("host all {role} all {method}"))
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
        self.sql_in("postgres", text)
    }

    /// The same in another database.
    pub fn sql_in(&self, database: &str, text: &str) -> Result<String> {
        let output = check(Command::new("psql").arg("-h").arg(self.directory.path()).args([
            "-U",
            "postgres",
            "-d",
            database,
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            text,
        ]))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// The programs of the distribution's server.
fn distributions() -> Result<PathBuf> {
    // The newest, by number; a folder may hold a client's programs alone.
    let (_, binaries) = std::fs::read_dir("/usr/lib/postgresql")
        .context("PostgreSQL is missing: apt-get install postgresql")?
        .flatten()
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, bin)| bin.join("postgres").is_file())
        .max()
        .context("PostgreSQL is missing: apt-get install postgresql")?;
    Ok(binaries)
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
