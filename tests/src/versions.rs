//! PostgreSQL servers of all supported versions, which `cargo xtask setup` fetches.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{Postgres, check};

/// The server's versions that are supported.
pub const VERSIONS: [u32; 6] = [13, 14, 15, 16, 17, 18];

impl Postgres {
    /// Starts a server of this major version on an address of its own.
    ///
    /// # Errors
    /// When it isn't there: `cargo xtask setup` fetches it.
    pub fn start_version(version: u32) -> Result<Self> {
        let binaries = binaries(version)?;
        Self::start_at(&Self::free_address(), Some(&binaries))
    }

    /// The versions of [`VERSIONS`] that are here. Says so where there is none; under CI all have to be.
    ///
    /// # Errors
    /// Under CI, when one is missing.
    pub fn versions() -> Result<Vec<u32>> {
        let found: Vec<u32> = VERSIONS
            .into_iter()
            .filter(|version| binaries(*version).is_ok())
            .collect();
        ensure!(
            found.len() == VERSIONS.len() || std::env::var_os("CI").is_none(),
            "of the servers {VERSIONS:?} only {found:?} are here, and CI needs all: cargo xtask setup"
        );
        if found.len() < VERSIONS.len() {
            eprintln!(
                "SKIPPED: of the servers {VERSIONS:?} only {found:?} are here; `cargo xtask setup` fetches them"
            );
        }
        Ok(found)
    }
}

/// The folder of a version's programs.
fn binaries(version: u32) -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the workspace has no folder")?;
    let bin = root.join(format!("target/servers/{version}/bin"));
    ensure!(
        bin.join("postgres").is_file(),
        "there is no server {version} in {}: cargo xtask setup",
        bin.display()
    );
    // The server runs as a user of its own, who may not see this folder.
    let seen = Command::new("runuser")
        .args(["-u", "postgres", "--", "test", "-x"])
        .arg(bin.join("postgres"))
        .current_dir("/")
        .status()
        .context("there is no runuser")?;
    if seen.success() {
        return Ok(bin);
    }
    let copies = std::env::temp_dir().join("bailiff-servers");
    let real = std::fs::canonicalize(&bin)?;
    let home = real.parent().context("a folder of programs without a parent")?;
    let copy = copies.join(home.file_name().context("a server without a name")?);
    if !copy.join("bin/postgres").is_file() {
        std::fs::create_dir_all(&copies)?;
        let half = copies.join(format!("half-{}-{version}", std::process::id()));
        check(Command::new("cp").arg("-a").arg(home).arg(&half))?;
        // Another process may have been quicker.
        if std::fs::rename(&half, &copy).is_err() {
            std::fs::remove_dir_all(&half)?;
        }
    }
    Ok(copy.join("bin"))
}
