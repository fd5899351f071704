//! `cargo xtask corpus`: what real clients and servers say, cut into the inputs that the decoders are tried with.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::lab::postgres::{Postgres, Setup};
use crate::packages::{self, Purpose};
use crate::{lab, shell};

mod clients;
mod relay;
mod streams;

use clients::{CLIENTS, SCENARIOS, Scenario};
use relay::{Connection, Relay};
use streams::{Pieces, client_stream, server_stream, statement};

/// Capture anew the bytes of real clients and servers that the decoders are tried with.
///
/// Starts a throw-away PostgreSQL and lets psql, pgbench, psycopg and asyncpg work on it through
/// a relay that keeps what passes. The messages are cut into small files in
/// agent/crates/wire/fuzz/corpus/ and replace those captured before; the others there, made by
/// hand or found by fuzzing, stay. Roles, passwords and data are made up and end with the server.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Write here instead.
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
}

/// Where the server listens. Only its clients' relay, on a port of its own, is dialled by name.
const ADDRESS: &str = "127.0.0.1";

/// What the repository is ready to hold, in bytes.
const MOST: u64 = 1 << 20;

pub(crate) fn run(args: &Args) -> Result<()> {
    packages::ensure(&[Purpose::Test, Purpose::Corpus])?;
    ensure!(
        shell::is_root(),
        "the server runs as another user, so this needs root"
    );
    lab::catch_signals()?;
    let into = args
        .into
        .clone()
        .unwrap_or_else(|| shell::root().join("agent/crates/wire/fuzz/corpus"));

    shell::heading("A throw-away PostgreSQL");
    let port = free_port()?;
    let server = Postgres::start(&Setup {
        address: ADDRESS,
        port,
        settings: &["ssl = off", "log_min_messages = fatal"],
        hba: &[
            "host corpus by_scram 127.0.0.1/32 scram-sha-256",
            "host corpus by_md5 127.0.0.1/32 md5",
            "host corpus by_password 127.0.0.1/32 password",
            "host all app 127.0.0.1/32 trust",
        ],
    })?;
    server.execute(port, "postgres", "CREATE DATABASE corpus")?;
    server.execute(port, "corpus", clients::SCHEMA)?;
    let relay = Relay::start((ADDRESS, port))?;
    let home = tempfile::Builder::new().prefix("bailiff-corpus-").tempdir()?;

    shell::heading("Clients");
    let mut files = Files::default();
    for scenario in SCENARIOS {
        lab::checkpoint()?;
        let taken = capture(scenario, &server, &relay, home.path())?;
        let connections = taken.len();
        let before = files.0.len();
        files.add(scenario, taken)?;
        println!(
            "{:<24} {connections} connections, {} new files",
            scenario.name,
            files.0.len() - before
        );
    }
    files.write(&into)
}

/// A port that nothing listens on now.
fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind((ADDRESS, 0))?;
    Ok(listener.local_addr()?.port())
}

fn capture(scenario: &Scenario, server: &Postgres, relay: &Relay, home: &Path) -> Result<Vec<Connection>> {
    let program = match scenario.program {
        "psql" | "pgbench" => server.bin().join(scenario.program),
        // Where Debian's packages put their modules; another Python first on PATH hasn't them.
        "python3" if Path::new("/usr/bin/python3").is_file() => PathBuf::from("/usr/bin/python3"),
        other => PathBuf::from(other),
    };
    let mut command = Command::new(program);
    command
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .envs([
            ("LC_ALL", "C.UTF-8"),
            ("PGHOST", ADDRESS),
            ("PGDATABASE", "corpus"),
        ])
        .envs([("PGUSER", "app"), ("PGPASSWORD", clients::PASSWORD)])
        .env("PGPORT", relay.port().to_string())
        .env("HOME", home)
        .current_dir(home)
        .envs(scenario.environment.iter().copied());
    std::fs::write(home.join("input"), scenario.input)?;
    let output = command
        .args(scenario.arguments)
        .stdin(Stdio::from(std::fs::File::open(home.join("input"))?))
        .output()
        .with_context(|| format!("{} can't be started", scenario.program))?;
    ensure!(
        output.status.success() != scenario.fails,
        "{} ended with {}: {}{}",
        scenario.name,
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    relay.take()
}

/// Files by folder and name.
#[derive(Default)]
struct Files(Vec<(&'static str, String, Vec<u8>)>, Seen);

/// What there is one of already: streams by the kinds of their messages, the rest by its bytes.
type Seen = HashSet<(&'static str, Vec<u8>)>;

impl Files {
    fn add(&mut self, scenario: &Scenario, connections: Vec<Connection>) -> Result<()> {
        for connection in connections {
            let (packets, messages) = client_stream(&connection.client)
                .with_context(|| format!("{}: the client's bytes don't come apart", scenario.name))?;
            let skipped = packets.len().saturating_sub(1);
            let answers = server_stream(&connection.server, skipped)
                .with_context(|| format!("{}: the server's bytes don't come apart", scenario.name))?;
            for packet in packets {
                // A cancel key is another one each time.
                let sort = packet.get(..8).filter(|_| packet.len() == 16).unwrap_or(packet);
                self.one(scenario, "startup", sort.to_vec(), packet);
            }
            for text in messages.iter().filter_map(|message| statement(message)) {
                self.one(scenario, "sql", text.to_vec(), text);
            }
            for (folder, stream) in [("frontend", messages), ("backend", answers)] {
                for (kinds, piece) in Pieces::of(&stream) {
                    self.one(scenario, folder, kinds, &piece);
                }
            }
        }
        Ok(())
    }

    fn one(&mut self, scenario: &Scenario, folder: &'static str, sort: Vec<u8>, bytes: &[u8]) {
        if bytes.len() <= streams::LONGEST && self.1.insert((folder, sort)) {
            let begins = |name: &str| name.starts_with(&format!("{}-", scenario.name));
            let number = 1 + self
                .0
                .iter()
                .filter(|(other, name, _)| *other == folder && begins(name))
                .count();
            let name = format!("{}-{number:02}", scenario.name);
            self.0.push((folder, name, bytes.to_vec()));
        }
    }

    fn write(&self, into: &Path) -> Result<()> {
        let mut gone = 0;
        for folder in ["backend", "frontend", "sql", "startup"] {
            let folder = into.join(folder);
            std::fs::create_dir_all(&folder)?;
            for entry in std::fs::read_dir(&folder)? {
                let entry = entry?;
                let name = entry.file_name();
                if CLIENTS
                    .iter()
                    .any(|client| name.to_string_lossy().starts_with(&format!("{client}-")))
                {
                    std::fs::remove_file(entry.path())?;
                    gone += 1;
                }
            }
        }
        for (folder, name, bytes) in &self.0 {
            let path = into.join(folder).join(name);
            std::fs::write(&path, bytes).with_context(|| format!("{} can't be written", path.display()))?;
        }
        let written: usize = self.0.iter().map(|(_, _, bytes)| bytes.len()).sum();
        println!(
            "{} files of {written} bytes, in place of {gone}, in {}",
            self.0.len(),
            into.display()
        );
        ensure!(
            written as u64 <= MOST,
            "that is more than the {MOST} bytes that the repository is ready to hold"
        );
        Ok(())
    }
}
