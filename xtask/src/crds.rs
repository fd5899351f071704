//! `cargo xtask crds`: the CRDs in deploy/chart/files/crds, from the types that policy files are read with.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::packages::{self, Purpose};
use crate::shell;

/// Write the CRDs of Targets, Policies and NodeReports into deploy/chart/files/crds.
///
/// They are made of the types in agent/crates/policy/src/load/schema.rs and report.rs and what stands above their fields. `lint` fails
/// where they aren't current.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only say whether they are current.
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    packages::ensure(&[Purpose::Build])?;
    shell::heading("CRDs");
    let folder = shell::root().join(FOLDER);
    let files = generated()?;
    if args.check {
        let stale = stale(&folder, &files)?;
        if stale.is_empty() {
            println!("{FOLDER}: current");
            return Ok(());
        }
        bail!("{}", stale.join("\n"));
    }
    std::fs::create_dir_all(&folder)?;
    for (name, text) in &files {
        let file = folder.join(name);
        std::fs::write(&file, text).with_context(|| format!("{} can't be written", file.display()))?;
        println!("{FOLDER}/{name}");
    }
    Ok(())
}

/// A line for each CRD that isn't what the types say.
///
/// # Errors
/// When they can't be made.
pub(crate) fn check() -> Result<Vec<String>> {
    stale(&shell::root().join(FOLDER), &generated()?)
}

const FOLDER: &str = "deploy/chart/files/crds";

/// Files by their names.
type Files = BTreeMap<String, String>;

/// What the types say. An example of the policy crate prints it, since nothing of ours is linked with this program; with the selection
/// of packages that tests are built with, so that nothing is built for this alone.
fn generated() -> Result<Files> {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--workspace", "--example", "crds"]);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    let mut program = None;
    shell::stream(&mut cargo, |line| {
        let message: serde_json::Value = serde_json::from_str(line)?;
        if let Some(path) = message.get("executable").and_then(serde_json::Value::as_str) {
            program = Some(path.to_owned());
        }
        Ok(())
    })?;
    let program = program.context("cargo built no example `crds`")?;
    serde_json::from_str(&shell::capture(&mut Command::new(program))?).context("no files were printed")
}

fn stale(folder: &Path, files: &Files) -> Result<Vec<String>> {
    shell::stale(
        folder,
        files,
        FOLDER,
        "isn't what the types say",
        "cargo xtask crds",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_old_is_told_with_its_mend() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["same", "old", "missing"].map(|name| (name.to_owned(), "new".to_owned()));
        std::fs::write(folder.path().join("same"), "new").unwrap();
        std::fs::write(folder.path().join("old"), "old").unwrap();
        assert_eq!(
            stale(folder.path(), &files.into()).unwrap(),
            [
                "deploy/chart/files/crds/missing is missing: run `cargo xtask crds`",
                "deploy/chart/files/crds/old isn't what the types say: run `cargo xtask crds`",
            ]
        );
    }
}
