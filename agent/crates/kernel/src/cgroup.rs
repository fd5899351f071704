//! cgroup v2, whole or the unified half of a hybrid hierarchy.

use std::collections::HashSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bailiff_model::CgroupId;

use crate::KernelError;

/// Where cgroup2 is mounted, by `/proc/self/mountinfo`.
pub fn mount() -> Result<PathBuf, KernelError> {
    let mounts =
        std::fs::read_to_string("/proc/self/mountinfo").map_err(KernelError::system("cannot read mounts"))?;
    mounts
        .lines()
        .filter_map(|line| line.split_once(" - "))
        .filter(|(_, kind)| kind.split(' ').next() == Some("cgroup2"))
        .find_map(|(place, _)| place.split(' ').nth(4))
        .map(PathBuf::from)
        .ok_or(KernelError::NoCgroup2)
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

/// The calling process's cgroup, below the mount.
///
/// A process in a cgroup namespace of its own, as containers are on hosts with the second version alone, is told a path that
/// begins at its own cgroup, while the mount may be the host's: then it is looked for where it is listed.
pub fn current() -> Result<PathBuf, KernelError> {
    let text = std::fs::read_to_string("/proc/self/cgroup")
        .map_err(KernelError::system("cannot read /proc/self/cgroup"))?;
    let path = text
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .ok_or(KernelError::NoCgroup2)?;
    let mount = mount()?;
    let own = std::process::id().to_string();
    let told = mount.join(path.trim_start_matches('/'));
    if lists(&told, &own) {
        return Ok(told);
    }
    let mut waiting = vec![mount];
    while let Some(cgroup) = waiting.pop() {
        if lists(&cgroup, &own) {
            return Ok(cgroup);
        }
        for entry in std::fs::read_dir(&cgroup).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(entry.path());
            }
        }
    }
    // A mount below which it isn't: what hangs on this path fails by itself.
    Ok(told)
}

/// Whether a process is in a cgroup itself.
fn lists(cgroup: &Path, pid: &str) -> bool {
    std::fs::read_to_string(cgroup.join("cgroup.procs"))
        .is_ok_and(|processes| processes.lines().any(|process| process == pid))
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
