//! `cargo xtask bench kubernetes`: requests to a real API server, direct and through HAProxy and Bailiff.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::numbers::median;
use crate::packages::{self, Purpose};
use crate::{build, cluster, shell};

/// Compare requests to the Kubernetes API through Bailiff with direct ones and HAProxy.
///
/// A real control plane holds 5,000 pods. Clients over HTTP/2 read a small object with 1 and 16
/// connections, list the pods as JSON and protobuf, and watch an object that is written again and
/// again. HAProxy ends TLS in front and begins it anew behind, as the agent does, and goes on by
/// HTTP/2; as `haproxy 1.1` by HTTP/1.1, on connections that its clients share; as `haproxy apart`
/// on one for each client, as the agent has to, since its connections are the pods' own. All
/// clients run in `bailiff run` sandboxes, as pods have network namespaces of their own; what all
/// but two of them dial is no target there. For Bailiff policy and recording are on: once without
/// masks, once with a mask on every pod's environment. In every round each takes its turn in each
/// cell; the table shows medians over the rounds.
///
/// `memory` is by how much a list raises the most that the agent had resident, `cpu_us` the
/// processor time that the proxy took for a request.
///
/// A quick look: `cargo xtask bench kubernetes --rounds 1 --pods 500`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// How often each cell is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long small reads go on each time.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// How many pods there are to list.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=20000))]
    pods: u32,
    /// Write each measurement to this file, a line of JSON for each.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Line {
    subject: String,
    cell: String,
    #[serde(flatten)]
    values: BTreeMap<String, f64>,
}

const SUBJECTS: [&str; 6] = [
    "direct",
    "haproxy",
    "haproxy 1.1",
    "haproxy apart",
    "bailiff",
    "bailiff masked",
];

pub(super) fn run(args: &Args) -> Result<()> {
    packages::ensure(&[Purpose::Build, Purpose::Test, Purpose::Bench])?;
    ensure!(shell::is_root(), "network namespaces need root");
    build::object(None)?;
    cluster::build(false)?;
    shell::heading("Building what is measured, and what measures");
    let mut cargo = shell::cargo();
    cargo.args(["build", "--release", "--package", "bailiff", "--package", "xtask"]);
    cargo.args(["--package", "bailiff-tests", "--bins"]);
    shell::run(&mut cargo, "The compiler says above what is wrong.")?;
    shell::heading(&format!("{} rounds, {} pods", args.rounds, args.pods));
    let mut command = Command::new(shell::root().join("target/release/api-cost"));
    command.args([args.rounds, args.seconds, args.pods].map(|number| number.to_string()));
    let mut lines: Vec<Line> = Vec::new();
    let mut raw = String::new();
    shell::stream(&mut command, |line| {
        let said: Value = serde_json::from_str(line).with_context(|| format!("no measurement: {line}"))?;
        println!("{said}");
        raw.push_str(line);
        raw.push('\n');
        lines.push(serde_json::from_value(said)?);
        Ok(())
    })?;
    if let Some(file) = &args.json {
        std::fs::write(file, raw).with_context(|| format!("{} can't be written", file.display()))?;
    }
    report(&lines)
}

fn report(lines: &[Line]) -> Result<()> {
    let of = |subject: &str, cell: &str, value: &str| {
        let values: Vec<f64> = lines
            .iter()
            .filter(|line| line.subject == subject && line.cell == cell)
            .filter_map(|line| line.values.get(value).copied())
            .collect();
        median(&values)
    };
    println!(
        "\n{:<16} {:>10}{}",
        "median",
        "",
        SUBJECTS.map(|subject| format!(" {subject:>15}")).concat()
    );
    for (cell, value) in [
        ("get 1", "p50_us"),
        ("get 1", "p99_us"),
        ("get 1", "cpu_us"),
        ("get 16", "p50_us"),
        ("get 16", "p99_us"),
        ("get 16", "requests"),
        ("get 16", "cpu_us"),
        ("list json", "us"),
        ("list json", "first_us"),
        ("list json", "bytes"),
        ("list json", "memory"),
        ("list protobuf", "us"),
        ("list protobuf", "first_us"),
        ("list protobuf", "bytes"),
        ("list protobuf", "memory"),
        ("watch", "p50_us"),
        ("watch", "p99_us"),
    ] {
        let direct = of("direct", cell, value);
        print!("{cell:<16} {value:>10}");
        for subject in SUBJECTS {
            match (of(subject, cell, value), direct) {
                (Some(found), Some(direct)) => print!(" {found:>8.0} ({:.2})", found / direct),
                (Some(found), None) => print!(" {found:>15.0}"),
                (None, _) => print!(" {:>15}", "-"),
            }
        }
        println!();
    }
    let added =
        |subject: &str, cell: &str| Some(of(subject, cell, "p50_us")? - of("direct", cell, "p50_us")?);
    for cell in ["get 1", "get 16"] {
        println!("\nadded p50, {cell}:");
        for subject in SUBJECTS.iter().skip(1) {
            let added = added(subject, cell).context("a cell was not measured")?;
            println!("  {subject} {added:.0} us");
        }
    }
    Ok(())
}
