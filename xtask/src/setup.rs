//! `cargo xtask setup`: installs what the other commands need.

use anyhow::Result;

use crate::ebpf;
use crate::packages::{self, Purpose};
use crate::servers;

/// Install what building and testing need, and nothing else.
///
/// The other commands do this by themselves; this one prepares a machine or an image without
/// running anything. As root on Debian it installs packages without asking, elsewhere it names
/// the command that would. It also gets a toolchain for the kernel programs (see
/// `cargo xtask build --help`) and PostgreSQL servers of all supported versions.
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args) -> Result<()> {
    packages::ensure(&[Purpose::Build, Purpose::Test])?;
    servers::ensure()?;
    let toolchain = ebpf::ensure(None)?;
    println!("kernel programs: {toolchain}");
    println!("everything is there");
    Ok(())
}
