//! `cargo xtask image`: the agent as an OCI image, without a container engine.

mod archive;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::packages::{self, Purpose};
use crate::{build, shell};

/// Make the OCI image of the agent and the approver.
///
/// It holds one file, a static binary, and nothing else: no shell, no libraries, no package database. No container engine is asked for
/// anything; the archive can be loaded by each of them:
///
///   ctr -n k8s.io images import target/image/bailiff.tar
///   skopeo copy oci-archive:target/image/bailiff.tar docker://registry.example/bailiff:0.1.0
///   podman load -i target/image/bailiff.tar
///
/// The same binary gives the same archive, byte for byte, and its digest is printed. Those who have an engine find a Dockerfile in deploy/.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Where the archive goes.
    #[arg(long, value_name = "FILE", default_value = "target/image/bailiff.tar")]
    output: PathBuf,
    /// What the image is called in it.
    #[arg(long, value_name = "NAME:TAG", default_value = concat!("bailiff:", env!("CARGO_PKG_VERSION")))]
    tag: String,
    /// Take this static binary rather than build one.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// With --binary: it isn't static, and the libraries that it loads go into the image, too. For one that is being worked on: building it
    /// takes seconds where the static one takes minutes.
    #[arg(long, requires = "binary")]
    with_libraries: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    packages::ensure(&[Purpose::Build])?;
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => {
            build::object(None)?;
            static_agent()?
        }
    };
    let bytes = fs::read(&binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let libraries = if args.with_libraries {
        libraries(&binary)?
    } else {
        Vec::new()
    };
    ensure!(
        args.with_libraries || is_static(&bytes),
        "{} isn't a static program: in an image without libraries it couldn't start",
        binary.display()
    );
    let output = shell::root().join(&args.output);
    let made = archive::write(&output, &args.tag, &bytes, &libraries)
        .with_context(|| format!("cannot write {}", output.display()))?;
    println!(
        "{}: {} as {}\n  {:.1} MiB packed, {:.1} MiB unpacked\n  {}",
        args.output.display(),
        archive::ARCHITECTURE,
        args.tag,
        mib(made.packed),
        mib((bytes.len() + libraries.iter().map(|(_, library)| library.len()).sum::<usize>()) as u64),
        made.digest
    );
    Ok(())
}

/// What the loader would load for a program, the loader itself among it, by paths without the first slash.
fn libraries(program: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let listed = shell::capture(Command::new("ldd").arg(program))?;
    let paths = listed.lines().filter_map(|line| {
        // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, and the loader as `/lib64/ld-linux-x86-64.so.2 (0x…)`.
        let (_, found) = line.split_once(" => ").unwrap_or(("", line));
        found
            .split_whitespace()
            .next()
            .filter(|path| path.starts_with('/'))
    });
    paths
        .map(|path| {
            let bytes = fs::read(path).with_context(|| format!("cannot read {path}"))?;
            Ok((path.trim_start_matches('/').to_owned(), bytes))
        })
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Builds the agent with everything in it, without symbols and without names of this machine.
fn static_agent() -> Result<PathBuf> {
    shell::heading("Building the static agent");
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let renamed = shell::renamed();
    let rust: String = renamed
        .iter()
        .map(|(from, to)| format!(" --remap-path-prefix={}={to}", from.display()))
        .collect();
    let c: String = renamed
        .iter()
        .map(|(from, to)| format!(" -ffile-prefix-map={}={to}", from.display()))
        .collect();
    let mut cargo = shell::cargo();
    cargo
        .args([
            "build",
            "--package",
            "bailiff",
            "--profile",
            "image",
            "--target",
            &target,
        ])
        // Names are looked up by glibc's own resolver, which is in there: what an agent asks for are addresses, or names in DNS.
        .env("RUSTFLAGS", format!("-C target-feature=+crt-static{rust}"))
        .env("CFLAGS", c.trim_start());
    shell::run(&mut cargo, "The compiler says above what is wrong.")?;
    Ok(shell::root().join("target").join(target).join("image/bailiff"))
}

/// Whether a program of 64 bits asks for no interpreter, which would load libraries.
fn is_static(elf: &[u8]) -> bool {
    const INTERPRETER: u32 = 3;
    let word = |at: usize, length: usize| -> Option<u64> {
        let bytes = elf.get(at..at.checked_add(length)?)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |all, byte| all << 8 | u64::from(*byte)),
        )
    };
    let headers = || -> Option<Vec<u64>> {
        // A file of 64 bits, in the order of bytes that is read here.
        (elf.get(..6)? == b"\x7fELF\x02\x01").then_some(())?;
        let at = usize::try_from(word(32, 8)?).ok()?;
        let (size, count) = (
            usize::try_from(word(54, 2)?).ok()?,
            usize::try_from(word(56, 2)?).ok()?,
        );
        (0..count)
            .map(|header| word(at.checked_add(header.checked_mul(size)?)?, 4))
            .collect()
    };
    headers().is_some_and(|headers| !headers.is_empty() && !headers.contains(&u64::from(INTERPRETER)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_libraries_is_told_from_what_does_not() {
        // This test itself is linked to libc.
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!is_static(&own));
        assert!(!is_static(b""));
        assert!(!is_static(b"#!/bin/sh\n"));
        // A program with one header: a segment to load.
        let mut alone = vec![0; 64 + 56];
        alone.splice(..6, *b"\x7fELF\x02\x01");
        for (at, value) in [(32, 64), (54, 56), (56, 1), (64, 1)] {
            *alone.get_mut(at).unwrap() = value;
        }
        assert!(is_static(&alone));
        *alone.get_mut(64).unwrap() = 3;
        assert!(!is_static(&alone));
        // Its headers are elsewhere than in it.
        *alone.get_mut(39).unwrap() = 0xff;
        assert!(!is_static(&alone));
    }
}
