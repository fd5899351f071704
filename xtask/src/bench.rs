//! `cargo xtask bench`: what the data path and the hooks cost.

use anyhow::Result;

mod costs;
mod kernel;
mod kubernetes;
mod node;
mod numbers;
mod postgres;
mod rig;

/// Measure.
///
/// Only ratios within one run mean something, on a machine that does nothing else. Everything is
/// built with optimisation first.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Costs(costs::Args),
    Kernel(kernel::Args),
    Kubernetes(kubernetes::Args),
    Node(node::Args),
    Postgres(postgres::Args),
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.what {
        What::Costs(args) => costs::run(args),
        What::Kernel(args) => kernel::run(args),
        What::Kubernetes(args) => kubernetes::run(args),
        What::Node(args) => node::run(args),
        What::Postgres(args) => postgres::run(args),
    }
}
