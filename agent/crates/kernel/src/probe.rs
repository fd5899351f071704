//! What a node has, for `bailiff doctor`.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use crate::{object, sys};

/// Hooks of a cgroup that Bailiff uses, by name and number in the kernel's `enum bpf_attach_type`.
const HOOKS: [(&str, u32); 7] = [
    ("egress", 1),
    ("sock_create", 2),
    ("sock_ops", 3),
    ("connect4", 10),
    ("connect6", 11),
    ("getpeername4", 29),
    ("getpeername6", 30),
];

/// The kernel's release as major and minor version.
pub fn kernel_version() -> io::Result<(u32, u32)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut parts = release.split(['.', '-']).map(str::parse);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => Err(io::Error::other(format!("{release:?} is no release of Linux"))),
    }
}

/// Programs in effect on a cgroup's hooks that Bailiff uses too: the hook and how many.
pub fn neighbours(cgroup: &Path) -> io::Result<Vec<(&'static str, usize)>> {
    let cgroup = File::open(cgroup)?;
    let mut found = Vec::new();
    for (name, hook) in HOOKS {
        let count = sys::programs_on(cgroup.as_fd(), hook)?.len();
        if count > 0 {
            found.push((name, count));
        }
    }
    Ok(found)
}

/// Whether the kernel programs can be found, and else why not.
pub fn has_object() -> Result<(), crate::KernelError> {
    object::find().map(|_| ())
}
