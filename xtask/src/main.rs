//! Setup, build, image, test, demo, bench, corpus, cluster, crds, manifests and lint: `cargo xtask --help`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod build;
mod cluster;
mod corpus;
mod crds;
mod demo;
mod ebpf;
mod image;
mod lab;
mod lint;
mod manifests;
mod packages;
mod servers;
mod setup;
mod shell;
mod test;
mod vm;

/// Everything that is done with this repository, in one place.
///
/// Each command first makes sure that what it needs is there: as root on Debian it installs
/// what is missing, elsewhere it names the exact command. So `cargo xtask test` is all that a
/// new machine needs.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Setup(setup::Args),
    Build(build::Args),
    Image(image::Args),
    Test(test::Args),
    Lint(lint::Args),
    Demo(demo::Args),
    Bench(bench::Args),
    Corpus(corpus::Args),
    Cluster(cluster::Args),
    Crds(crds::Args),
    Manifests(manifests::Args),
    #[command(hide = true)]
    Guest(vm::guest::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Setup(args) => setup::run(&args),
        Command::Build(args) => build::run(&args),
        Command::Image(args) => image::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Corpus(args) => corpus::run(&args),
        Command::Cluster(args) => cluster::run(&args),
        Command::Crds(args) => crds::run(&args),
        Command::Manifests(args) => manifests::run(&args),
        Command::Lint(args) => lint::run(&args),
        Command::Guest(args) => vm::guest::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not its Debug form, which adds a backtrace of this program where one was asked for.
            eprintln!("\nerror: {error}");
            error
                .chain()
                .skip(1)
                .for_each(|cause| eprintln!("  because: {cause}"));
            ExitCode::FAILURE
        }
    }
}
