//! The distribution's kernels.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::archive::{self, Archive};
use crate::shell;

/// Which kernel is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Choice {
    /// Debian 12's: the oldest that is supported.
    #[value(name = "6.1")]
    Debian12,
    /// Debian 13's.
    #[value(name = "6.12")]
    Debian13,
}

impl Choice {
    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Debian12 => "6.1",
            Self::Debian13 => "6.12",
        }
    }

    /// The releases that have it.
    fn releases(self) -> &'static [&'static str] {
        match self {
            Self::Debian12 => &["bookworm", "bookworm-security"],
            Self::Debian13 => &["trixie", "trixie-security"],
        }
    }
}

/// An unpacked kernel with its modules.
pub(super) struct Kernel {
    /// Such as `6.1.0-50-amd64`.
    pub(super) version: String,
    root: PathBuf,
}

/// The whole one: that for clouds has no 9p.
const PACKAGE: &str = "linux-image-amd64";

impl Kernel {
    /// Finds it or gets it.
    ///
    /// # Errors
    /// When it can't be fetched or unpacked.
    pub(super) fn get(choice: Choice) -> Result<Self> {
        let folder = super::folder().join("kernels").join(choice.name());
        if !folder.is_dir() {
            fetch(choice, &folder)?;
        }
        let version = version(&folder).with_context(|| {
            format!(
                "{} holds no kernel; remove it and run this again",
                folder.display()
            )
        })?;
        Ok(Self {
            version,
            root: folder,
        })
    }

    /// What a boot loader loads.
    pub(super) fn image(&self) -> PathBuf {
        self.root.join("boot").join(format!("vmlinuz-{}", self.version))
    }

    /// The folder of its modules.
    pub(super) fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.version)
    }

    /// The files of these modules and of those that they need, in the order in which they can be loaded. Some are built in.
    ///
    /// # Errors
    /// When it has no such module.
    pub(super) fn files_of(&self, modules: &[&str]) -> Result<Vec<PathBuf>> {
        let mut files: Vec<PathBuf> = Vec::new();
        for module in modules {
            let mut asked = Command::new(shell::which("modprobe").context("modprobe is missing")?);
            asked.arg("--dirname").arg(&self.root);
            asked.args(["--set-version", &self.version, "--show-depends", module]);
            for file in to_load(&shell::capture(&mut asked)?) {
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        Ok(files)
    }
}

fn fetch(choice: Choice, folder: &Path) -> Result<()> {
    shell::heading(&format!("Getting the kernel {}", choice.name()));
    let archive = Archive::open(choice.releases(), true)?;
    let mut wanted = archive.needs_of(PACKAGE)?;
    wanted.retain(|package| package.starts_with("linux-image-"));
    let packages = archive.fetch(&wanted)?;
    let part = folder.with_file_name(format!("{}.part", choice.name()));
    let _gone = fs::remove_dir_all(&part);
    archive::unpack(&packages, &part)?;
    if !part.join("lib").is_dir() {
        // Debian 13's lie where `/lib` leads to.
        std::os::unix::fs::symlink("usr/lib", part.join("lib"))?;
    }
    // As the package does once it is installed.
    let version = version(&part).context("the package holds no kernel")?;
    let depmod = shell::which("depmod").context("depmod is missing")?;
    shell::run(
        Command::new(depmod).arg("--basedir").arg(&part).arg(version),
        "The list of its modules can't be made.",
    )?;
    fs::rename(&part, folder)?;
    Ok(())
}

/// The name of the one folder of modules.
fn version(folder: &Path) -> Option<String> {
    let entry = fs::read_dir(folder.join("lib/modules")).ok()?.flatten().next()?;
    entry.file_name().to_str().map(str::to_owned)
}

/// The files in modprobe's lines: `insmod /…/virtio.ko` and, for what is built in, `builtin virtio_pci`.
fn to_load(shown: &str) -> Vec<PathBuf> {
    shown
        .lines()
        .filter_map(|line| line.strip_prefix("insmod "))
        .map(|file| PathBuf::from(file.trim()))
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn what_is_built_in_needs_no_loading() {
        let shown = "builtin virtio_pci\ninsmod /m/netfs.ko.xz \ninsmod /m/9p.ko.xz \n";
        assert_eq!(
            to_load(shown),
            [PathBuf::from("/m/netfs.ko.xz"), PathBuf::from("/m/9p.ko.xz")]
        );
    }

    #[test]
    fn a_kernel_is_called_the_same_everywhere() {
        for choice in Choice::value_variants() {
            assert_eq!(choice.to_possible_value().unwrap().get_name(), choice.name());
        }
    }
}
