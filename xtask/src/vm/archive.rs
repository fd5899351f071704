//! Packages of other releases of Debian than this machine's, fetched by apt-get with sources and lists of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::shell;

/// Some releases' packages. What was fetched goes with it.
pub(super) struct Archive {
    folder: PathBuf,
    /// What this machine has installed doesn't count.
    foreign: bool,
}

impl Drop for Archive {
    fn drop(&mut self) {
        // Lists age quickly, and are fetched anew whenever something is missing.
        let _kept = fs::remove_dir_all(&self.folder);
    }
}

impl Archive {
    /// Fetches the lists of these releases, such as `trixie` or `bookworm-backports`, from the mirrors that this machine uses. A
    /// `foreign` archive knows nothing of what is installed here.
    ///
    /// # Errors
    /// When this isn't Debian, or the lists can't be had.
    pub(super) fn open(releases: &[&str], foreign: bool) -> Result<Self> {
        let mirrors = Mirrors::of_this_machine()?;
        let folder = super::folder().join("apt").join(releases.join("+"));
        // What a run that was interrupted left would be unpacked, too.
        let _gone = fs::remove_dir_all(&folder);
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).with_context(|| format!("{} can't be made", part.display()))?;
        }
        let sources: String = releases
            .iter()
            .map(|release| mirrors.line(release))
            .collect::<Result<_>>()?;
        fs::write(folder.join("sources.list"), sources)?;
        let archive = Self { folder, foreign };
        shell::run(
            archive.apt("apt-get").args(["-q", "update"]),
            "The package lists could not be fetched: check the network and /etc/apt.",
        )?;
        Ok(archive)
    }

    /// The names of the packages that this one depends on; of alternatives the first.
    ///
    /// # Errors
    /// When there is no such package.
    pub(super) fn needs_of(&self, package: &str) -> Result<Vec<String>> {
        let mut command = self.apt("apt-cache");
        command.args(["show", "--no-all-versions", package]);
        Ok(dependencies(&shell::capture(&mut command)?))
    }

    /// Fetches these packages and nothing else.
    ///
    /// # Errors
    /// When one can't be had.
    pub(super) fn fetch(&self, packages: &[String]) -> Result<Vec<PathBuf>> {
        let mut command = self.apt("apt-get");
        command.args(["-q", "download"]).args(packages);
        shell::run(command.current_dir(self.packages()), NOT_FETCHED)?;
        self.fetched()
    }

    /// Fetches one package of this release and whatever it needs that isn't installed.
    ///
    /// # Errors
    /// When they can't be had.
    pub(super) fn fetch_with_needs(&self, package: &str, release: &str) -> Result<Vec<PathBuf>> {
        let mut command = self.apt("apt-get");
        // Nothing is installed, so whoever installs something just now isn't in the way.
        command.args(["-q", "-y", "-o", "Debug::NoLocking=1", "--download-only"]);
        command.args(["--no-install-recommends", "-t", release, "install", package]);
        shell::run(&mut command, NOT_FETCHED)?;
        self.fetched()
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        let mut option = |name: &str, value: &Path| {
            command.arg("-o").arg(format!("{name}={}", value.display()));
        };
        option("Dir::Etc::SourceList", &self.folder.join("sources.list"));
        option("Dir::Etc::SourceParts", Path::new("-"));
        option("Dir::State::Lists", &self.folder.join("lists"));
        option("Dir::Cache", &self.folder.join("cache"));
        // Its own user may not be let into this folder.
        option("APT::Sandbox::User", Path::new("root"));
        if self.foreign {
            option("Dir::State::Status", Path::new("/dev/null"));
        }
        command
    }

    fn packages(&self) -> PathBuf {
        self.folder.join("cache/archives")
    }

    fn fetched(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(self.packages())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                files.push(path);
            }
        }
        ensure!(!files.is_empty(), "apt-get fetched nothing, without an error");
        Ok(files)
    }
}

const NOT_FETCHED: &str = "apt-get says above what stands in the way.";

/// Unpacks packages into a folder.
///
/// # Errors
/// When one can't be unpacked: the disk is full.
pub(super) fn unpack(packages: &[PathBuf], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("{} can't be made", folder.display()))?;
    for package in packages {
        let status = Command::new("dpkg-deb")
            .arg("-x")
            .args([package, folder])
            .status()
            .context("dpkg-deb can't be started")?;
        ensure!(status.success(), "{} can't be unpacked", package.display());
    }
    Ok(())
}

/// This machine's release of Debian: `bookworm`.
///
/// # Errors
/// When it is another distribution.
pub(super) fn release_here() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(|value| value.trim_matches('"').to_owned())
    };
    match (value("ID").as_deref(), value("VERSION_CODENAME")) {
        (Some("debian"), Some(release)) => Ok(release),
        _ => bail!("QEMU and the kernels are Debian's packages: run this on Debian 12 or 13"),
    }
}

/// Where this machine's own packages come from, which has the other releases', too.
struct Mirrors {
    main: String,
    security: String,
}

impl Mirrors {
    fn of_this_machine() -> Result<Self> {
        let release = release_here()?;
        let listed = shell::capture(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(RELEASE) $(REPO_URI)",
            "Created-By: Packages",
        ]))?;
        Self::among(&listed, &release).with_context(|| {
            format!("/etc/apt names no sources for {release} and {release}-security, from whose mirrors packages would come")
        })
    }

    /// From lines of a release and an address.
    fn among(listed: &str, release: &str) -> Option<Self> {
        let of = |wanted: &str| {
            listed
                .lines()
                .filter_map(|line| line.split_once(' '))
                .find(|(release, _)| *release == wanted)
                .map(|(_, address)| address.to_owned())
        };
        Some(Self {
            main: of(release)?,
            security: of(&format!("{release}-security"))?,
        })
    }

    fn line(&self, release: &str) -> Result<String> {
        let mirror = if release.ends_with("-security") {
            &self.security
        } else {
            &self.main
        };
        ensure!(
            Path::new(KEYS).is_file(),
            "{KEYS} is missing: apt-get install debian-archive-keyring"
        );
        Ok(format!("deb [signed-by={KEYS}] {mirror} {release} main\n"))
    }
}

const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Of `Depends: linux-image-6.1.0-50-amd64 (= 6.1.176-1), kmod | other`, the first of each alternatives.
fn dependencies(shown: &str) -> Vec<String> {
    shown
        .lines()
        .find_map(|line| line.strip_prefix("Depends: "))
        .into_iter()
        .flat_map(|depends| depends.split(','))
        .filter_map(|one| one.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_those_of_this_machines_release() {
        let listed = "bookworm http://mirror/debian/\nbookworm-updates http://mirror/debian/\n\
                      bookworm-security http://mirror/security/\nother http://elsewhere/\n";
        let mirrors = Mirrors::among(listed, "bookworm").unwrap();
        assert_eq!(
            (mirrors.main.as_str(), mirrors.security.as_str()),
            ("http://mirror/debian/", "http://mirror/security/")
        );
        assert!(Mirrors::among(listed, "trixie").is_none());
        assert!(Mirrors::among("bookworm http://mirror/debian/\n", "bookworm").is_none());
    }

    #[test]
    fn dependencies_are_told_without_versions_and_alternatives() {
        let shown = "Package: a\nDepends: linux-image-6.1.0-50-amd64 (= 6.1.176-1), kmod | other, c\n";
        assert_eq!(dependencies(shown), ["linux-image-6.1.0-50-amd64", "kmod", "c"]);
        assert!(dependencies("Package: a\n").is_empty());
    }
}
