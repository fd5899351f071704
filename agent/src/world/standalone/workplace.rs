//! Where the command works: which of the user's files it may change.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::unistd::{Uid, User};

use super::invoker::Invoker;
use super::view::View;

/// Directories that make a machine what it is, with all below them. Starting a command there doesn't mean that it may change them.
const SYSTEM: [&str; 14] = [
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/proc",
    "/run",
    "/sbin",
    "/sys",
    "/usr",
    "/var/lib",
    "/var/spool",
];

/// The directories of one command.
#[derive(Debug, Clone)]
pub struct Workplace {
    here: PathBuf,
    writable: Vec<PathBuf>,
    kept: Vec<PathBuf>,
    hidden: Vec<PathBuf>,
}

impl Workplace {
    /// The working directory, and others that the user names, may be changed, except for the configuration and this program.
    /// The record isn't seen at all.
    pub fn new(named: &[PathBuf], config: &Path, record: &Path) -> Result<Self> {
        let real = |path: &Path| {
            std::fs::canonicalize(path).with_context(|| format!("cannot find {}", path.display()))
        };
        let here = std::env::current_dir().context("the working directory is gone")?;
        let program = std::env::current_exe()?;
        let mut kept = vec![real(config)?];
        // What the next start would load into the kernel.
        let object = std::env::var_os("BAILIFF_EBPF_OBJECT").map(PathBuf::from);
        let objects = object
            .into_iter()
            .chain([program.with_file_name("bailiff-ebpf.o")]);
        kept.extend(objects.filter_map(|object| std::fs::canonicalize(object).ok()));
        kept.push(program);
        // Files of the configuration may be links to files elsewhere.
        for entry in std::fs::read_dir(config)?.flatten() {
            if let Ok(file) = std::fs::canonicalize(entry.path()) {
                kept.push(file);
            }
        }
        let hidden = vec![real(record)?];
        let mut writable = Vec::new();
        for path in named {
            let path = real(path)?;
            if !path.is_dir() {
                bail!("--writable {}: it is no directory", path.display());
            }
            if path == Path::new("/") {
                bail!("--writable /: then nothing would hold the command; name directories below it");
            }
            writable.push(path);
        }
        if is_workplace(&here, &homes(&here)) {
            writable.push(here.clone());
        }
        writable.retain(|path| !kept.iter().chain(&hidden).any(|fixed| path.starts_with(fixed)));
        writable.sort();
        writable.dedup();
        Ok(Self {
            here,
            writable,
            kept,
            hidden,
        })
    }

    /// The working directory, where the command may not change it.
    #[must_use]
    pub fn only_to_read(&self) -> Option<&Path> {
        let writable = self.writable.iter().any(|path| self.here.starts_with(path));
        (!writable).then_some(&*self.here)
    }

    pub(super) fn view(&self) -> View {
        View {
            here: self.here.clone(),
            writable: self.writable.clone(),
            kept: self.kept.clone(),
            hidden: self.hidden.clone(),
        }
    }
}

/// The homes of whoever called, of root, and of whoever owns the directory.
fn homes(here: &Path) -> Vec<PathBuf> {
    let owner = std::fs::metadata(here)
        .ok()
        .and_then(|about| User::from_uid(Uid::from_raw(about.uid())).ok().flatten());
    let mut homes = vec![PathBuf::from("/root")];
    homes.extend(Invoker::find().home());
    homes.extend(owner.map(|owner| owner.dir));
    // Users without a home often have `/` or `/nonexistent` there.
    homes.retain(|home| home != Path::new("/"));
    homes
}

/// Whether a working directory is there to be worked in, and doesn't steer the machine or somebody's next login.
fn is_workplace(here: &Path, homes: &[PathBuf]) -> bool {
    let is_system = SYSTEM.iter().any(|system| here.starts_with(system));
    // "/", "/srv", "/tmp" and the like hold what belongs to others.
    let is_shared = here.components().count() <= 2 || here == Path::new("/var/tmp");
    let is_home = homes.iter().any(|home| {
        home.starts_with(here)
            || here
                .strip_prefix(home)
                .is_ok_and(|below| below.to_string_lossy().starts_with('.'))
    });
    !(is_system || is_shared || is_home)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_the_machine_or_a_login_is_no_workplace() {
        let homes = ["/root", "/home/ada"].map(PathBuf::from);
        for place in [
            "/home/ada/src",
            "/work/project",
            "/tmp/build",
            "/var/www/site",
            "/opt/app/data",
            "/root/job",
        ] {
            assert!(is_workplace(Path::new(place), &homes), "{place}");
        }
        for place in [
            "/",
            "/tmp",
            "/var",
            "/etc/cron.d",
            "/usr/local/lib",
            "/home",
            "/home/ada",
            "/home/ada/.ssh",
            "/home/ada/.config/systemd/user",
            "/root",
            "/root/.ssh",
            "/var/spool/cron/crontabs",
            "/srv",
            "/var/tmp",
        ] {
            assert!(!is_workplace(Path::new(place), &homes), "{place}");
        }
    }
}
