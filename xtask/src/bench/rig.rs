//! What is measured, and what it is measured against: a server, the proxies, a namespace for the clients, the sandbox.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde::Serialize;

use super::node::entering;
use crate::lab::network::{Address, Namespace};
use crate::lab::postgres::{Postgres, Setup, run as run_quietly};
use crate::lab::session::Session;
use crate::lab::{self, Beside};
use crate::shell;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Subject {
    Direct,
    Pgbouncer,
    Haproxy,
    Bailiff,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Pgbouncer => "pgbouncer",
            Self::Haproxy => "haproxy",
            Self::Bailiff => "bailiff",
        })
    }
}

/// The address in examples/bench/target.yaml.
pub(super) const ADDRESS: &str = "198.18.0.54";
pub(super) const SERVER: u16 = 5432;
const PGBOUNCER: u16 = 6432;
const HAPROXY: u16 = 7432;
const SCALE: &str = "10";

/// Everything but Bailiff. Dropped from the top: the clients' namespace first, the address last.
pub(super) struct Lab {
    namespace: Namespace,
    proxies: Vec<(Subject, Beside)>,
    server: Postgres,
    _address: Address,
}

impl Lab {
    /// Puts everything up; of the proxies those that are among the subjects.
    pub(super) fn set_up(subjects: &[Subject]) -> Result<Self> {
        let address = Address::add(ADDRESS)?;
        let server = Postgres::start(&Setup {
            address: ADDRESS,
            port: SERVER,
            settings: &[
                "max_connections = 600",
                "shared_buffers = 256MB",
                "autovacuum = off",
            ],
            // The same for all: what is compared is the middle.
            hba: &[
                "host bench bench 198.18.0.0/15 trust",
                "host bench bench 0.0.0.0/0 trust",
            ],
        })?;
        server.execute(SERVER, "postgres", "CREATE ROLE bench LOGIN")?;
        server.execute(SERVER, "postgres", "CREATE DATABASE bench OWNER bench")?;
        let mut fill = server.command("pgbench");
        fill.args([
            "--initialize",
            "--quiet",
            "--scale",
            SCALE,
            "--username",
            "bench",
            "--host",
            ADDRESS,
        ]);
        fill.args(["--port", &SERVER.to_string(), "bench"]);
        run_quietly(&mut fill)?;

        let mut proxies = Vec::new();
        if subjects.contains(&Subject::Pgbouncer) {
            proxies.push((Subject::Pgbouncer, start_pgbouncer(&server)?));
        }
        if subjects.contains(&Subject::Haproxy) {
            proxies.push((Subject::Haproxy, start_haproxy(&server)?));
        }
        Ok(Self {
            namespace: Namespace::new()?,
            proxies,
            server,
            _address: address,
        })
    }

    /// Runs pgbench in the clients' namespace, and says what it printed.
    pub(super) fn pgbench(&self, subject: Subject, options: &[String]) -> Result<String> {
        let port = match subject {
            Subject::Direct | Subject::Bailiff => SERVER,
            Subject::Pgbouncer => PGBOUNCER,
            Subject::Haproxy => HAPROXY,
        };
        let command = self.asking(port, options);
        finished(command, &format!("through {subject}"))
    }

    /// The same straight to the server's address, in a cgroup.
    pub(super) fn pgbench_in(&self, cgroup: &Path, options: &[String]) -> Result<String> {
        let command = entering(cgroup, &self.asking(SERVER, options));
        finished(command, "in a pod")
    }

    fn asking(&self, port: u16, options: &[String]) -> Command {
        // In a session of its own, as clients and proxies are: the kernel shares processors out by session.
        let mut command = self.namespace.command(Path::new("setsid"));
        command
            .arg("--wait")
            .arg(self.server.bin().join("pgbench"))
            .args(options)
            .args(connection(port));
        command
    }

    /// A command in the clients' namespace.
    pub(super) fn inside(&self, program: &Path) -> Command {
        self.namespace.command(program)
    }

    /// A proxy's process.
    pub(super) fn pid(&self, of: Subject) -> Option<u32> {
        let mut proxies = self.proxies.iter();
        proxies
            .find(|(subject, _)| *subject == of)
            .map(|(_, proxy)| proxy.pid())
    }

    /// The server.
    pub(super) fn server(&self) -> &Postgres {
        &self.server
    }
}

fn finished(mut command: Command, how: &str) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .context("pgbench can't be started")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "pgbench {how} failed:\n{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

fn connection(port: u16) -> Vec<String> {
    [
        "--host",
        ADDRESS,
        "--port",
        &port.to_string(),
        "--username",
        "bench",
        "bench",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// A shell in one sandbox for a whole run: the agent starts once, as on a node.
pub(super) struct Sandbox {
    session: Session,
    pgbench: PathBuf,
    _record: tempfile::TempDir,
}

impl Sandbox {
    /// Starts it with the policy of a directory, and options of `bailiff run`.
    pub(super) fn start(lab: &Lab, config: &Path, options: &[String]) -> Result<Self> {
        let record = tempfile::Builder::new().prefix("bailiff-bench-").tempdir()?;
        let mut command = Command::new(shell::root().join("target/release/bailiff"));
        command.arg("run").arg("--config").arg(config);
        command
            .args(["--pod", "bench", "--record-dir"])
            .arg(record.path())
            .args(options);
        command.args(["--", "sh"]).current_dir("/");
        println!("\x1b[2m+ {}\x1b[0m", shell::describe(&command));
        let mut session = Session::start(&mut command)?;
        session
            .ask("echo ready\n", "ready", Duration::from_secs(60))
            .context("the sandbox did not start")?;
        Ok(Self {
            pgbench: lab.server.bin().join("pgbench"),
            session,
            _record: record,
        })
    }

    /// Runs pgbench inside, and says what it printed.
    pub(super) fn pgbench(&mut self, options: &[String], limit: Duration) -> Result<String> {
        let words = [options.to_vec(), connection(SERVER)].concat().join(" ");
        // The shell reads its commands from the same input, so pgbench gets another.
        let line = format!(
            "setsid --wait {} {words} </dev/null; echo \"done $?\" | sed 's/^done 0$/done/'\n",
            self.pgbench.display()
        );
        let lines = self
            .session
            .ask(&line, "done", limit)
            .context("pgbench through bailiff failed")?;
        Ok(lines.join("\n"))
    }

    /// Ends it.
    pub(super) fn finish(self) -> Result<()> {
        self.session
            .finish(Duration::from_secs(30))
            .context("the agent did not end well")?;
        Ok(())
    }

    /// The agent's process.
    pub(super) fn pid(&self) -> u32 {
        self.session.pid()
    }
}

fn start_pgbouncer(server: &Postgres) -> Result<Beside> {
    let folder = server.folder();
    let users = folder.join("users.txt");
    std::fs::write(&users, "\"bench\" \"\"\n")?;
    let config = folder.join("pgbouncer.ini");
    let text = format!(
        "[databases]\n\
         bench = host={ADDRESS} port={SERVER} dbname=bench user=bench\n\
         [pgbouncer]\n\
         listen_addr = {ADDRESS}\n\
         listen_port = {PGBOUNCER}\n\
         unix_socket_dir =\n\
         auth_type = trust\n\
         auth_file = {}\n\
         pool_mode = session\n\
         default_pool_size = 400\n\
         max_client_conn = 500\n\
         server_reset_query =\n\
         ignore_startup_parameters = extra_float_digits\n\
         log_connections = 0\n\
         log_disconnections = 0\n",
        users.display()
    );
    std::fs::write(&config, text)?;
    let mut command = lower(&program("pgbouncer")?);
    command.arg(&config);
    start(
        command,
        "pgbouncer",
        &folder.join("pgbouncer.log"),
        Signal::SIGINT,
        PGBOUNCER,
    )
}

fn start_haproxy(server: &Postgres) -> Result<Beside> {
    let folder = server.folder();
    let config = folder.join("haproxy.cfg");
    let text = format!(
        "global\n    maxconn 400\n\
         defaults\n    mode tcp\n    timeout connect 10s\n    timeout client 1h\n    timeout server 1h\n\
         listen postgres\n    bind {ADDRESS}:{HAPROXY}\n    server postgres {ADDRESS}:{SERVER}\n"
    );
    std::fs::write(&config, text)?;
    let mut command = lower(&program("haproxy")?);
    // -db: in the foreground.
    command.args(["-db", "-f"]).arg(&config);
    start(
        command,
        "haproxy",
        &folder.join("haproxy.log"),
        Signal::SIGTERM,
        HAPROXY,
    )
}

fn start(mut command: Command, name: &str, log: &Path, stop: Signal, port: u16) -> Result<Beside> {
    let mut beside = Beside::start(name, &mut command, log, stop)?;
    lab::wait_for(&format!("{name}'s start"), Duration::from_secs(20), || {
        beside.still_runs(log)?;
        Ok(std::net::TcpStream::connect((ADDRESS, port)).is_ok())
    })?;
    Ok(beside)
}

fn program(name: &str) -> Result<PathBuf> {
    shell::which(name).with_context(|| format!("{name} is gone"))
}

/// Neither proxy needs root, and PgBouncer refuses it.
fn lower(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid",
            "postgres",
            "--regid",
            "postgres",
            "--init-groups",
            "--",
        ])
        .arg(program);
    command
}

/// pgbench's last `tps = 12345.6 (without initial connection time)`.
pub(super) fn parse_tps(text: &str) -> Option<f64> {
    let line = text.lines().rev().find_map(|line| line.strip_prefix("tps = "))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tps_is_what_pgbench_says_last() {
        let text = "number of failed transactions: 0 (0.000%)\nlatency average = 0.1 ms\n\
                    tps = 98.5 (including connections establishing)\ntps = 14230.771 (without initial connection time)\n";
        assert_eq!(parse_tps(text), Some(14230.771));
        assert_eq!(parse_tps("pgbench: error"), None);
    }
}
