//! The corpus on stable, without libFuzzer.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bailiff_policy_fuzz::TARGETS;

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("{} can't be read", folder.display()))? {
        files.push(entry?.path());
    }
    files.sort();
    ensure!(!files.is_empty(), "{} holds nothing", folder.display());
    Ok(files)
}

#[test]
fn every_file_holds_in_its_target() -> Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (target, run) in TARGETS {
        let mut folders = vec![here.join("corpus").join(target)];
        match *target {
            // What clients were seen to ask.
            "classify" => folders.push(here.join("../../wire/fuzz/corpus/sql")),
            "load" => folders.extend(
                ["demo", "bench", "kubernetes"].map(|name| here.join("../../../../examples").join(name)),
            ),
            _ => {}
        }
        for folder in folders {
            for file in files(&folder)? {
                let bytes = std::fs::read(&file)?;
                if std::panic::catch_unwind(|| run(&bytes)).is_err() {
                    anyhow::bail!("{} doesn't hold in {target}", file.display());
                }
            }
        }
    }
    Ok(())
}

#[test]
fn every_request_of_the_table_holds() {
    for line in include_str!("../../../../../tests/api/requests.txt").lines() {
        if let Some((request, _)) = line.split_once(" => ") {
            bailiff_policy_fuzz::api_request(request.as_bytes());
        }
    }
}
