//! The harness: throw-away PostgreSQL servers, the agent's binary, and a client that says whatever a test wants.

mod api;
mod away;
mod burst;
mod certificates;
mod certified;
mod client;
mod cluster;
mod compared;
mod config;
pub mod databases;
pub mod deploy;
mod disk;
mod enforced;
mod escape;
pub mod evasions;
mod kernel_client;
mod kernel_lab;
mod kernel_wire;
mod lab;
mod machine;
pub mod masked;
mod neighbours;
mod node;
mod nodes;
mod noise;
mod pgbouncer;
mod postgres;
pub mod reporting;
mod running;
mod said;
mod scrape;
pub mod secret;
mod stand_in;
mod starts;
mod statements;
mod terminal;
mod truth;
pub mod types;
mod versions;

use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail, ensure};

pub use api::{ApiLab, policy as api_policy, target as api_target};
pub use away::ApiServer;
pub use burst::Burst;
pub use certificates::Authority;
pub use certified::{Approver, Certified, Encrypted};
pub use client::{Client, Message, message, say};
pub use cluster::{Cluster, ClusterOptions};
pub use compared::{Compared, Same, client_program};
pub use config::{ALLOW_ALL, policy, target};
pub use disk::Disk;
pub use enforced::{Enforced, events_in};
pub use escape::{Attempt, Escape, Invoker, Report, Told, python};
pub use kernel_client::Talk;
pub use kernel_lab::KernelLab;
pub use kernel_wire::Wire;
pub use lab::Lab;
pub use machine::{Alone, Listing};
pub use neighbours::Neighbour;
pub use node::{NodeAgent, NodeLab, image};
pub use nodes::ClusterNode;
pub use noise::noise;
pub use pgbouncer::PgBouncer;
pub use postgres::Postgres;
pub use reporting::Reporting;
pub use running::{Running, sum_of, until_closed};
pub use said::{Answer as SaidAnswer, Said};
pub use scrape::{metric_at, metrics_at, scraped};
pub use stand_in::{Asked, Served, StandIn};
pub use starts::{CgroupForm, Start, Starts};
pub use statements::Statements;
pub use terminal::{Step, Transcript, on_terminal};
pub use truth::{Deeds, Witness};
pub use versions::VERSIONS;

/// Whether a test that needs root can run, beside others. Says so where it can't; under CI it has to.
pub fn can_be_root() -> Result<bool> {
    let root = is_root()?;
    if root {
        machine::share()?;
    }
    Ok(root)
}

/// The same for a test that wants the machine for itself, by [`Alone`].
pub fn is_root() -> Result<bool> {
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
    harness_program("bailiff")
}

/// A program that is built beside the tests, such as one that stands in for an agent.
pub fn harness_program(name: &str) -> Result<PathBuf> {
    let mut path = std::env::current_exe()?;
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path.push(name);
    ensure!(
        path.exists(),
        "{} is missing; run `cargo xtask test`",
        path.display()
    );
    Ok(path)
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
