//! QEMU: the machine's own where it is new enough, and otherwise the distribution's package, unpacked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::archive::{self, Archive};
use crate::shell;

/// An emulator of this processor's kind.
pub(super) struct Qemu {
    program: PathBuf,
    /// Where it was unpacked; `None` for one that is installed.
    unpacked: Option<PathBuf>,
}

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";

/// 7.2, which Debian 12 has beside its backports, stalls with more than one emulated processor.
const OLDEST: u32 = 8;

impl Qemu {
    /// Finds it or gets it.
    ///
    /// # Errors
    /// When it can't be fetched or unpacked.
    pub(super) fn get() -> Result<Self> {
        if let Some(program) = shell::which(PROGRAM)
            && version(&Command::new(&program)).is_some_and(|major| major >= OLDEST)
        {
            return Ok(Self {
                program,
                unpacked: None,
            });
        }
        let folder = super::folder().join("qemu");
        if !folder.is_dir() {
            fetch(&folder)?;
        }
        let found = Self {
            program: folder.join("usr/bin").join(PROGRAM),
            unpacked: Some(folder.clone()),
        };
        version(&found.command()).with_context(|| {
            format!(
                "QEMU doesn't run on this machine any more; remove {} and run this again",
                folder.display()
            )
        })?;
        Ok(found)
    }

    /// A command that runs it, without arguments but for where its own files are.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(folder) = &self.unpacked {
            let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
                .map(|part| folder.join(part).display().to_string());
            command.env("LD_LIBRARY_PATH", libraries.join(":"));
            for part in ["usr/share/qemu", "usr/share/seabios"] {
                command.arg("-L").arg(folder.join(part));
            }
        }
        command
    }
}

fn fetch(folder: &Path) -> Result<()> {
    shell::heading("Getting QEMU");
    let release = archive::release_here()?;
    let security = format!("{release}-security");
    let backports = format!("{release}-backports");
    // Those of Debian 13 are new enough as they are.
    let (releases, from) = if release == "bookworm" {
        (vec![release.as_str(), &security, &backports], backports.as_str())
    } else {
        (vec![release.as_str(), &security], release.as_str())
    };
    let archive = Archive::open(&releases, false)?;
    let packages = archive.fetch_with_needs(PACKAGE, from)?;
    let part = folder.with_extension("part");
    let _gone = fs::remove_dir_all(&part);
    archive::unpack(&packages, &part)?;
    fs::rename(&part, folder)?;
    Ok(())
}

/// The first number of `QEMU emulator version 10.0.2 (…)`.
fn version(command: &Command) -> Option<u32> {
    let mut asked = Command::new(command.get_program());
    for (key, value) in command.get_envs() {
        asked.env(key, value.unwrap_or_default());
    }
    let output = asked.arg("--version").output().ok()?;
    major(&String::from_utf8_lossy(&output.stdout))
}

fn major(said: &str) -> Option<u32> {
    let rest = said.strip_prefix("QEMU emulator version ")?;
    rest.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read() {
        assert_eq!(
            major("QEMU emulator version 10.0.2 (Debian 1:10.0.2)\nCopyright\n"),
            Some(10)
        );
        assert_eq!(major("bash: not found"), None);
    }
}
