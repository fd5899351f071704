//! The command line.

mod agent;
mod approver;
mod chain;
mod doctor;
mod node;
mod record;
mod run;
mod sessions;
mod status;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::world::standalone::stages;

/// Decide every statement that a pod sends to a database, by who is really behind it.
///
/// Bailiff diverts connections in the kernel, knows which pod, container and process made them, decides each statement by
/// policy, masks what comes back and keeps a record. No client is changed.
///
/// Try it:  bailiff run --config examples/demo --pod ci-runner -- psql -h 198.18.0.53 -U app shop
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Approver(approver::Args),
    Chain(chain::Args),
    Doctor(doctor::Args),
    Node(node::Args),
    Record(record::Args),
    Run(run::Args),
    Sessions(sessions::Args),
    Status(status::Args),
}

impl Command {
    /// What is logged unless BAILIFF_LOG says otherwise.
    fn usual_log(&self) -> &'static str {
        match self {
            // What it approves is to be found again.
            Self::Approver(_) => "warn,bailiff=info",
            _ => "warn",
        }
    }
}

/// Runs what the command line asks for.
pub fn main() -> ExitCode {
    // The sandbox's own stages are no commands for people.
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let staged = match arguments.as_slice() {
        [_, stage, container, command @ ..] if stage == stages::FIRST => {
            Some(stages::first(std::path::Path::new(container), command))
        }
        [_, stage, command @ ..] if stage == stages::SECOND => Some(stages::second(command)),
        _ => None,
    };
    if let Some(outcome) = staged {
        return outcome.unwrap_or_else(|error| {
            eprintln!("bailiff: {error:#}");
            ExitCode::from(run::OWN_FAILURE)
        });
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return match arguments.get(1) {
                _ if !error.use_stderr() => ExitCode::SUCCESS,
                // All other codes are the command's.
                Some(subcommand) if subcommand == "run" => ExitCode::from(run::OWN_FAILURE),
                _ => ExitCode::from(2),
            };
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("BAILIFF_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(cli.command.usual_log())),
        )
        .with_writer(std::io::stderr)
        .init();
    let outcome = match cli.command {
        Command::Approver(args) => approver::run(&args),
        Command::Chain(args) => chain::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Node(args) => node::run(&args),
        Command::Record(args) => record::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Sessions(args) => sessions::run(&args),
        Command::Status(args) => status::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("bailiff: {error:#}");
        ExitCode::FAILURE
    })
}
