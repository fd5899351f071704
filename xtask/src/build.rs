//! `cargo xtask build`: the kernel object, then the agent.

use anyhow::Result;

use crate::packages::{self, Purpose};
use crate::{ebpf, shell};

/// Build the eBPF object and the agent.
///
/// The object goes to target/bpf/bailiff-ebpf.o and is embedded in the agent. It needs a Rust
/// toolchain that has the sources of `core`, and bpf-linker. Either toolchain does:
///
///   debian   apt-get install rustc-web cargo-web rust-web-src
///   rustup   rustup toolchain install nightly-2026-05-20 --profile minimal --component rust-src
///
/// plus `cargo install bpf-linker@0.10.3 --locked`. What is missing is installed: as root Debian's
/// packages, and where they can't be had, rustup's nightly. The agent alone builds without any of
/// this (--no-ebpf); it then looks for the object when it runs, and says so if there is none.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Optimise, as for use and for measuring.
    #[arg(long)]
    release: bool,
    /// Leave the kernel programs out.
    #[arg(long, conflicts_with = "toolchain")]
    no_ebpf: bool,
    /// Build the kernel programs with this toolchain; otherwise with whichever is there.
    #[arg(long)]
    toolchain: Option<ebpf::Kind>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    packages::ensure(&[Purpose::Build])?;
    if !args.no_ebpf {
        object(args.toolchain)?;
    }
    agent(args.release)
}

/// Builds the kernel object, after getting a toolchain if there is none.
///
/// # Errors
/// When there is no toolchain and none can be had, or the build fails.
pub(crate) fn object(kind: Option<ebpf::Kind>) -> Result<()> {
    shell::heading("Building the kernel programs");
    ebpf::ensure(kind)?.build()
}

/// Builds the agent's binary.
///
/// # Errors
/// When the build fails.
pub(crate) fn agent(release: bool) -> Result<()> {
    shell::heading("Building the agent");
    let mut cargo = shell::cargo();
    cargo.args(["build", "--package", "bailiff"]);
    if release {
        cargo.arg("--release");
    }
    shell::run(&mut cargo, "The compiler says above what is wrong.")?;
    let profile = if release { "release" } else { "debug" };
    println!("built target/{profile}/bailiff");
    Ok(())
}
