//! cgroup v2, whole or the unified half of a hybrid hierarchy.

use std::collections::HashSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bailiff_model::CgroupId;

use crate::KernelError;

/// Where cgroup2 is mounted first, by `/proc/self/mountinfo`.
pub fn mount() -> Result<PathBuf, KernelError> {
    mounts()?.into_iter().next().ok_or(KernelError::NoCgroup2)
}

/// The mount of cgroup2 in which a path lies. In a container there may be two: its own, and the node's.
///
/// # Errors
/// When it lies in none.
pub fn mount_of(path: &Path) -> Result<PathBuf, KernelError> {
    mounts()?
        .into_iter()
        .filter(|mount| path.starts_with(mount))
        .max_by_key(|mount| mount.components().count())
        .ok_or(KernelError::NoCgroup2)
}

/// Where cgroup2 is mounted, by `/proc/self/mountinfo`. Mounts that lie hidden below another are among them.
///
/// # Errors
/// When mounts can't be read.
pub fn mounts() -> Result<Vec<PathBuf>, KernelError> {
    let mounts =
        std::fs::read_to_string("/proc/self/mountinfo").map_err(KernelError::system("cannot read mounts"))?;
    Ok(mounts
        .lines()
        .filter_map(|line| line.split_once(" - "))
        .filter(|(_, kind)| kind.split(' ').next() == Some("cgroup2"))
        .filter_map(|(place, _)| place.split(' ').nth(4))
        .map(PathBuf::from)
        .collect())
}

/// A cgroup's id.
pub fn id(path: &Path) -> io::Result<CgroupId> {
    Ok(CgroupId(std::fs::metadata(path)?.ino()))
}

/// The ids of a cgroup and of all below it.
#[must_use]
pub fn subtree(path: &Path) -> HashSet<CgroupId> {
    let mut ids: HashSet<_> = id(path).into_iter().collect();
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            ids.extend(subtree(&entry.path()));
        }
    }
    ids
}

/// The processes in a cgroup and in those below it, each with its own cgroup, to a depth that no runtime needs. Those that come meanwhile may be
/// left out.
#[must_use]
pub fn processes(path: &Path) -> Vec<(u32, CgroupId)> {
    let mut found = Vec::new();
    add_processes(path, DEEPEST, &mut found);
    found
}

/// A pod may be let make cgroups of its own, as deep as it likes.
const DEEPEST: usize = 32;

fn add_processes(path: &Path, levels: usize, found: &mut Vec<(u32, CgroupId)>) {
    let text = std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    let own = id(path).unwrap_or(CgroupId(0));
    found.extend(text.lines().filter_map(|line| Some((line.parse().ok()?, own))));
    if levels == 0 {
        return;
    }
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            add_processes(&entry.path(), levels - 1, found);
        }
    }
}

/// The calling process's cgroup, below the first mount.
pub fn current() -> Result<PathBuf, KernelError> {
    current_below(&mount()?)
}

/// The calling process's cgroup, below a mount. In a cgroup namespace of its own, as containers have one, `/proc/self/cgroup` says `/`: then it is
/// looked for among all that are there.
///
/// # Errors
/// When the calling process is in none of them.
pub fn current_below(mount: &Path) -> Result<PathBuf, KernelError> {
    let text = std::fs::read_to_string("/proc/self/cgroup")
        .map_err(KernelError::system("cannot read /proc/self/cgroup"))?;
    let path = text
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .ok_or(KernelError::NoCgroup2)?;
    let told = mount.join(path.trim_start_matches('/'));
    let own = std::process::id().to_string();
    if has(&told, &own) {
        return Ok(told);
    }
    find(mount, &own)
        // Where processes can't be listed there, as in a cgroup of threads.
        .or_else(|| (told != mount && told.is_dir()).then_some(told))
        .ok_or(KernelError::NoCgroup2)
}

fn has(cgroup: &Path, process: &str) -> bool {
    std::fs::read_to_string(cgroup.join("cgroup.procs"))
        .is_ok_and(|processes| processes.lines().any(|line| line == process))
}

fn find(cgroup: &Path, process: &str) -> Option<PathBuf> {
    if has(cgroup, process) {
        return Some(cgroup.to_owned());
    }
    std::fs::read_dir(cgroup)
        .ok()?
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .find_map(|entry| find(&entry.path(), process))
}

/// Moves a process into a cgroup; 0 for the calling one.
pub fn join(path: &Path, pid: u32) -> io::Result<()> {
    std::fs::write(path.join("cgroup.procs"), pid.to_string())
}

/// Ends everything in a cgroup and below, and removes it and what is below it.
pub fn end(path: &Path) -> io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let _ = std::fs::write(path.join("cgroup.kill"), "1");
    for entry in std::fs::read_dir(path)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            end(&entry.path())?;
        }
    }
    // Processes that were killed need a moment to go.
    let mut last = Ok(());
    for _ in 0..200 {
        last = std::fs::remove_dir(path);
        match &last {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            _ => break,
        }
    }
    last
}
