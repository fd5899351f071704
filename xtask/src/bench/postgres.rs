//! `cargo xtask bench postgres`: pgbench, direct and through PgBouncer, HAProxy and Bailiff.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::numbers::{geometric_mean, median};
use super::rig::{Lab, Sandbox, Subject, parse_tps};
use crate::packages::{self, Purpose};
use crate::{build, lab, shell};

/// Compare pgbench through Bailiff with direct, PgBouncer and HAProxy.
///
/// pgbench -S runs in a network namespace with a link to this machine, where a throw-away
/// PostgreSQL, PgBouncer (session mode) and HAProxy (TCP) listen; for Bailiff it runs in a
/// `bailiff run` sandbox, with policy, a mask that applies, one that doesn't, and recording on (examples/bench). In every round
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

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Simple => "simple",
            Self::Prepared => "prepared",
        })
    }
}

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
    let lab = Lab::set_up(&args.subjects)?;
    let mut sandbox = if with_bailiff {
        let workers = args
            .workers
            .map(|workers| vec!["--workers".to_owned(), workers.to_string()])
            .unwrap_or_default();
        Some(Sandbox::start(
            &lab,
            &shell::root().join("examples/bench"),
            &workers,
        )?)
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
            let limit = Duration::from_secs(u64::from(args.seconds) + 30);
            let text = match (cell.subject, &mut sandbox) {
                (Subject::Bailiff, Some(sandbox)) => sandbox.pgbench(&options, limit)?,
                _ => lab.pgbench(cell.subject, &options)?,
            };
            let tps = parse_tps(&text)
                .with_context(|| format!("pgbench through {} named no tps:\n{text}", cell.subject))?;
            println!(
                "{:<9} {:>3} {:<10} {tps:>10.0} tps",
                cell.mode, cell.clients, cell.subject
            );
            cell.tps.push(tps);
        }
    }
    if let Some(sandbox) = sandbox {
        sandbox.finish()?;
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
