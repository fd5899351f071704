//! `cargo xtask bench kernel`: what the hooks add to a connect.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::numbers::median;
use crate::packages::{self, Purpose};
use crate::{build, shell};

/// Measure what the hooks add to a connect, in nanoseconds.
///
/// Two clients on one loopback take turns in making and closing connections: one in a cgroup under
/// the hooks, one beside them. What each adds is the median, over the rounds, of the difference
/// within a round. Then the kernel's own clock tells how long each program ran, which itself costs
/// some 30 ns a run.
///
/// `unprotected port` is what almost all connects of a pod are; `redirected` goes to the agent's
/// listener, and is compared with a direct connect to it.
#[derive(clap::Args)]
pub(super) struct Args {
    /// How often each cell is measured.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How many connections are made each time.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    connects: u32,
    /// Write rows of cell, bare_ns, hooked_ns and added_ns to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Round {
        cell: String,
        bare_ns: f64,
        hooked_ns: f64,
    },
    Program {
        cell: String,
        program: String,
        runs_per_connect: u64,
        ns_per_run: u64,
    },
}

#[derive(Default, Serialize)]
struct Cell {
    cell: String,
    #[serde(skip)]
    bare: Vec<f64>,
    #[serde(skip)]
    hooked: Vec<f64>,
    bare_ns: f64,
    hooked_ns: f64,
    added_ns: f64,
    programs: Vec<Program>,
}

#[derive(Serialize)]
struct Program {
    program: String,
    runs_per_connect: u64,
    ns_per_run: u64,
}

pub(super) fn run(args: &Args) -> Result<()> {
    packages::ensure(&[Purpose::Build, Purpose::Test])?;
    ensure!(shell::is_root(), "loading kernel programs needs root");
    build::object(None)?;
    shell::heading("Building what measures");
    let mut cargo = shell::cargo();
    cargo.args([
        "build",
        "--release",
        "--package",
        "bailiff-tests",
        "--bin",
        "connect-cost",
    ]);
    shell::run(&mut cargo, "The compiler says above what is wrong.")?;
    shell::heading(&format!(
        "{} rounds of {} connects in each cell",
        args.rounds, args.connects
    ));
    let mut command = Command::new(shell::root().join("target/release/connect-cost"));
    command.args([args.rounds.to_string(), args.connects.to_string()]);
    let mut cells: Vec<Cell> = Vec::new();
    shell::stream(&mut command, |line| take(&mut cells, line))?;
    for cell in &mut cells {
        let added: Vec<f64> = cell
            .hooked
            .iter()
            .zip(&cell.bare)
            .map(|(hooked, bare)| hooked - bare)
            .collect();
        let of = |values: &[f64]| median(values).context("a cell was not measured");
        (cell.bare_ns, cell.hooked_ns, cell.added_ns) = (of(&cell.bare)?, of(&cell.hooked)?, of(&added)?);
    }
    println!(
        "\n{:<34} {:>9} {:>10} {:>9} {:>7}",
        "socket, connect, close: ns", "bare", "hooked", "added", "share"
    );
    for cell in &cells {
        println!(
            "{:<34} {:>9.0} {:>10.0} {:>9.0} {:>6.1}%",
            cell.cell,
            cell.bare_ns,
            cell.hooked_ns,
            cell.added_ns,
            100.0 * cell.added_ns / cell.bare_ns
        );
    }
    println!(
        "\n{:<34} {:<17} {:>5} {:>9}",
        "by the kernel's clock", "program", "runs", "ns a run"
    );
    for cell in &cells {
        for program in &cell.programs {
            println!(
                "{:<34} {:<17} {:>5} {:>9}",
                cell.cell, program.program, program.runs_per_connect, program.ns_per_run
            );
        }
    }
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(&cells)?;
        std::fs::write(file, text + "\n").with_context(|| format!("{} can't be written", file.display()))?;
        println!("rows written to {}", file.display());
    }
    Ok(())
}

fn take(cells: &mut Vec<Cell>, line: &str) -> Result<()> {
    let line = serde_json::from_str(line).with_context(|| format!("connect-cost said {line:?}"))?;
    let name = match &line {
        Line::Round { cell, .. } | Line::Program { cell, .. } => cell,
    };
    let place = match cells.iter().position(|cell| cell.cell == *name) {
        Some(place) => place,
        None => {
            cells.push(Cell {
                cell: name.clone(),
                ..Cell::default()
            });
            cells.len() - 1
        }
    };
    let Some(cell) = cells.get_mut(place) else {
        return Ok(());
    };
    match line {
        Line::Round {
            bare_ns, hooked_ns, ..
        } => {
            cell.bare.push(bare_ns);
            cell.hooked.push(hooked_ns);
        }
        Line::Program {
            program,
            runs_per_connect,
            ns_per_run,
            ..
        } => cell.programs.push(Program {
            program,
            runs_per_connect,
            ns_per_run,
        }),
    }
    Ok(())
}
