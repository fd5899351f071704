//! `cargo xtask bench postgres`: pgbench, direct and through PgBouncer, HAProxy and Bailiff.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde::Serialize;

use super::numbers::{geometric_mean, median};
use crate::lab::network::{Address, Namespace};
use crate::lab::postgres::{Postgres, Setup, run as run_quietly};
use crate::lab::session::Session;
use crate::lab::{self, Beside};
use crate::packages::{self, Purpose};
use crate::{build, shell};

/// Compare pgbench through Bailiff with direct, PgBouncer and HAProxy.
///
/// pgbench -S runs in a network namespace with a link to this machine, where a throw-away
/// PostgreSQL, PgBouncer (session mode) and HAProxy (TCP) listen; for Bailiff it runs in a
/// `bailiff run` sandbox, with policy, mask and recording on (examples/bench). In every round
/// each subject takes its turn in every cell of clients × mode, so that what else the machine
/// does falls on all alike. The table shows medians over the rounds and what share of direct
/// each is; the last line is the geometric mean of Bailiff to PgBouncer.
///
/// A quick look: `cargo xtask bench postgres --rounds 1 --seconds 1 --clients 8`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// How often each cell is measured.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long pgbench runs each time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Numbers of clients.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32],
          value_parser = clap::value_parser!(u32).range(1..=80))]
    clients: Vec<u32>,
    /// Query modes.
    #[arg(long, value_delimiter = ',', default_values_t = [Mode::Simple, Mode::Prepared])]
    modes: Vec<Mode>,
    /// Who is measured.
    #[arg(long, value_delimiter = ',',
          default_values_t = [Subject::Direct, Subject::Pgbouncer, Subject::Haproxy, Subject::Bailiff])]
    subjects: Vec<Subject>,
    /// How many threads of the agent carry connections; by default what `bailiff run` chooses.
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Write rows of mode, clients, subject and tps_median to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Simple,
    Prepared,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Subject {
    Direct,
    Pgbouncer,
    Haproxy,
    Bailiff,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Simple => "simple",
            Self::Prepared => "prepared",
        })
    }
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
const ADDRESS: &str = "198.18.0.54";
const SERVER: u16 = 5432;
const PGBOUNCER: u16 = 6432;
const HAPROXY: u16 = 7432;
const SCALE: &str = "10";

pub(super) fn run(args: &Args) -> Result<()> {
    packages::ensure(&[Purpose::Build, Purpose::Test, Purpose::Bench])?;
    ensure!(shell::is_root(), "network namespaces need root");
    let with_bailiff = args.subjects.contains(&Subject::Bailiff);
    if with_bailiff {
        build::object(None)?;
        build::agent(true)?;
    }
    lab::catch_signals()?;
    shell::heading("Setting up the server, the proxies and the sandboxes");
    let lab = Lab::set_up(args)?;
    let mut sandbox = if with_bailiff {
        Some(Sandbox::start(&lab, args.workers)?)
    } else {
        None
    };

    let mut cells = Vec::new();
    for &mode in &args.modes {
        for &clients in &args.clients {
            for &subject in &args.subjects {
                cells.push(Cell {
                    mode,
                    clients,
                    subject,
                    tps: Vec::new(),
                });
            }
        }
    }
    for round in 1..=args.rounds {
        shell::heading(&format!("Round {round} of {}", args.rounds));
        for cell in &mut cells {
            lab::checkpoint()?;
            let options = pgbench_options(cell, args.seconds);
            let tps = match (cell.subject, &mut sandbox) {
                (Subject::Bailiff, Some(sandbox)) => sandbox.pgbench(&lab, &options, args.seconds)?,
                _ => lab.pgbench(cell.subject, &options)?,
            };
            println!(
                "{:<9} {:>3} {:<10} {tps:>10.0} tps",
                cell.mode, cell.clients, cell.subject
            );
            cell.tps.push(tps);
        }
    }
    if let Some(sandbox) = sandbox {
        sandbox
            .session
            .finish(Duration::from_secs(30))
            .context("the agent did not end well")?;
    }
    report(args, &cells)
}

struct Cell {
    mode: Mode,
    clients: u32,
    subject: Subject,
    tps: Vec<f64>,
}

#[derive(Serialize)]
struct JsonRow {
    mode: Mode,
    clients: u32,
    subject: Subject,
    tps_median: f64,
}

fn report(args: &Args, cells: &[Cell]) -> Result<()> {
    let find = |mode, clients, subject| {
        cells
            .iter()
            .find(|cell| cell.mode == mode && cell.clients == clients && cell.subject == subject)
            .and_then(|cell| median(&cell.tps))
    };
    println!(
        "\nmedian tps of {} rounds of {} s (share of direct)",
        args.rounds, args.seconds
    );
    print!("{:<9} {:>7}", "mode", "clients");
    args.subjects
        .iter()
        .for_each(|subject| print!(" {:>17}", subject.to_string()));
    println!(" {:>18}", "bailiff/pgbouncer");
    let mut ratios = Vec::new();
    for &mode in &args.modes {
        for &clients in &args.clients {
            print!("{:<9} {clients:>7}", mode.to_string());
            let direct = find(mode, clients, Subject::Direct);
            for &subject in &args.subjects {
                let tps = find(mode, clients, subject).context("a cell was not measured")?;
                match direct {
                    Some(direct) => print!(" {:>10.0} ({:.2})", tps, tps / direct),
                    None => print!(" {tps:>17.0}"),
                }
            }
            match (
                find(mode, clients, Subject::Bailiff),
                find(mode, clients, Subject::Pgbouncer),
            ) {
                (Some(bailiff), Some(pgbouncer)) => {
                    ratios.push(bailiff / pgbouncer);
                    println!(" {:>18.3}", bailiff / pgbouncer);
                }
                _ => println!(),
            }
        }
    }
    if let Some(file) = &args.json {
        let rows: Vec<JsonRow> = cells
            .iter()
            .filter_map(|cell| {
                let Cell {
                    mode,
                    clients,
                    subject,
                    ..
                } = *cell;
                median(&cell.tps).map(|tps_median| JsonRow {
                    mode,
                    clients,
                    subject,
                    tps_median,
                })
            })
            .collect();
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(file, text + "\n").with_context(|| format!("{} can't be written", file.display()))?;
        println!("rows written to {}", file.display());
    }
    if let Some(mean) = geometric_mean(&ratios) {
        println!("\ngeometric mean of bailiff/pgbouncer: {mean:.3}");
    }
    Ok(())
}

fn pgbench_options(cell: &Cell, seconds: u32) -> Vec<String> {
    let words = format!(
        "--select-only --no-vacuum --protocol={} --client={} --jobs={} --time={seconds}",
        cell.mode,
        cell.clients,
        cell.clients.min(2)
    );
    words.split(' ').map(str::to_owned).collect()
}

/// Everything but Bailiff. Dropped from the top: the clients' namespace first, the address last.
struct Lab {
    namespace: Namespace,
    _proxies: Vec<Beside>,
    server: Postgres,
    record: tempfile::TempDir,
    _address: Address,
}

impl Lab {
    fn set_up(args: &Args) -> Result<Self> {
        let address = Address::add(ADDRESS)?;
        let server = Postgres::start(&Setup {
            address: ADDRESS,
            port: SERVER,
            settings: &[
                "max_connections = 200",
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
        if args.subjects.contains(&Subject::Pgbouncer) {
            proxies.push(start_pgbouncer(&server)?);
        }
        if args.subjects.contains(&Subject::Haproxy) {
            proxies.push(start_haproxy(&server)?);
        }
        Ok(Self {
            namespace: Namespace::new()?,
            _proxies: proxies,
            server,
            record: tempfile::Builder::new().prefix("bailiff-bench-").tempdir()?,
            _address: address,
        })
    }

    fn pgbench(&self, subject: Subject, options: &[String]) -> Result<f64> {
        let port = match subject {
            Subject::Direct | Subject::Bailiff => SERVER,
            Subject::Pgbouncer => PGBOUNCER,
            Subject::Haproxy => HAPROXY,
        };
        let mut command = self.namespace.command(&self.server.bin().join("pgbench"));
        command
            .args(options)
            .args(connection(port))
            .stdin(std::process::Stdio::null());
        let output = command.output().context("pgbench can't be started")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "pgbench through {subject} failed:\n{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        parse_tps(&text).with_context(|| format!("pgbench through {subject} named no tps:\n{text}"))
    }
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

/// A shell in one sandbox for the whole run: the agent starts once, as on a node.
struct Sandbox {
    session: Session,
}

impl Sandbox {
    fn start(lab: &Lab, workers: Option<usize>) -> Result<Self> {
        let mut command = Command::new(shell::root().join("target/release/bailiff"));
        command
            .arg("run")
            .arg("--config")
            .arg(shell::root().join("examples/bench"));
        command
            .args(["--pod", "bench", "--record-dir"])
            .arg(lab.record.path());
        if let Some(workers) = workers {
            command.args(["--workers", &workers.to_string()]);
        }
        command.args(["--", "sh"]).current_dir("/");
        println!("\x1b[2m+ {}\x1b[0m", shell::describe(&command));
        let mut session = Session::start(&mut command)?;
        session
            .ask("echo ready\n", "ready", Duration::from_secs(60))
            .context("the sandbox did not start")?;
        Ok(Self { session })
    }

    fn pgbench(&mut self, lab: &Lab, options: &[String], seconds: u32) -> Result<f64> {
        let pgbench = lab.server.bin().join("pgbench");
        let words = [options.to_vec(), connection(SERVER)].concat().join(" ");
        // The shell reads its commands from the same input, so pgbench gets another.
        let line = format!(
            "{} {words} </dev/null; echo \"done $?\" | sed 's/^done 0$/done/'\n",
            pgbench.display()
        );
        let limit = Duration::from_secs(u64::from(seconds) + 30);
        let lines = self
            .session
            .ask(&line, "done", limit)
            .context("pgbench through bailiff failed")?;
        let text = lines.join("\n");
        parse_tps(&text).with_context(|| format!("pgbench through bailiff named no tps:\n{text}"))
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
         default_pool_size = 100\n\
         max_client_conn = 200\n\
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
fn parse_tps(text: &str) -> Option<f64> {
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
