//! Pods by their cgroups.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use bailiff_kernel::cgroup;
use bailiff_kernel::netns::{NetnsFd, NetnsNumber};
use bailiff_model::CgroupId;

/// `kubepods/burstable/podUID`: classes of service are one level, the pods of guaranteed service lie beside these.
const LEVELS: usize = 2;

/// How many processes of a pod are looked at for its namespace.
const MOST_PROCESSES: usize = 16;

/// A pod's cgroup, with processes in it.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) uid: String,
    pub(super) id: CgroupId,
    pub(super) path: PathBuf,
}

/// What lies below a cgroup.
#[derive(Debug, Default)]
pub(super) struct Below {
    /// The pods that run.
    pub(super) pods: Vec<Found>,
    /// Pods' cgroups without a process: theirs comes yet, or has ended.
    pub(super) empty: Vec<PathBuf>,
    /// Cgroups in which pods' cgroups are made.
    pub(super) folders: Vec<PathBuf>,
}

/// The pods below a cgroup.
pub(super) fn pods(root: &Path) -> Below {
    let mut found = Below::default();
    look(root, LEVELS, &mut found);
    found
}

fn look(folder: &Path, levels: usize, found: &mut Below) {
    found.folders.push(folder.to_owned());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        let name = entry.file_name();
        match name.to_str().and_then(uid) {
            // Kubelet may leave the cgroup of a pod that has ended.
            Some(uid) if is_populated(&path) => {
                if let Ok(id) = cgroup::id(&path) {
                    found.pods.push(Found { uid, id, path });
                }
            }
            Some(_) => found.empty.push(path),
            None if levels > 1 => look(&path, levels - 1, found),
            None => {}
        }
    }
}

/// The uid in a cgroup's name: `podUID` as the driver `cgroupfs` has it, or `kubepods-burstable-podUID.slice` as `systemd` has it,
/// where dashes in the uid are underscores.
fn uid(name: &str) -> Option<String> {
    let uid = match name.strip_suffix(".slice") {
        None => name.strip_prefix("pod")?.to_owned(),
        Some(slice) => slice.rsplit('-').next()?.strip_prefix("pod")?.replace('_', "-"),
    };
    let is_one = uid.len() >= 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_one.then_some(uid)
}

/// How many cgroups of one pod are told apart. A container may make as many as it likes below its own.
const MOST_CGROUPS: usize = 256;

/// How deep below a container's cgroup others are looked for.
const NESTED: usize = 4;

/// The containers of a pod: each cgroup's id, and that of the container whose processes are in it.
pub(super) fn containers(pod: &Path) -> HashMap<CgroupId, String> {
    let mut found = HashMap::new();
    for entry in fs::read_dir(pod).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if let Some(id) = name.to_str().and_then(container_id) {
            within(&entry.path(), id, NESTED, &mut found);
        }
    }
    found
}

fn within(folder: &Path, container: &str, levels: usize, found: &mut HashMap<CgroupId, String>) {
    if found.len() >= MOST_CGROUPS {
        return;
    }
    if let Ok(id) = cgroup::id(folder) {
        found.insert(id, container.to_owned());
    }
    if levels == 0 {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            within(&entry.path(), container, levels - 1, found);
        }
    }
}

/// The id in a cgroup's name: `ID`, or `cri-containerd-ID.scope` and `crio-ID.scope` as the runtimes call it for systemd.
fn container_id(name: &str) -> Option<&str> {
    let id = match name.strip_suffix(".scope") {
        None => name,
        Some(scope) => scope.rsplit('-').next()?,
    };
    is_container_id(id).then_some(id)
}

/// As all runtimes make them: 64 hexadecimal digits.
pub(crate) fn is_container_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_populated(path: &Path) -> bool {
    fs::read_to_string(path.join("cgroup.events")).is_ok_and(|events| events.contains("populated 1"))
}

impl Found {
    /// The network namespace of its processes, other than the node's. None while there is none yet, and for a pod that uses the node's.
    ///
    /// A container's first process is in the pod's cgroup before it has entered the pod's namespace, so those in the node's own count
    /// for nothing. A process that made a namespace of its own could come first: then the pod's others have another, its connections are
    /// refused by the kernel side, and it has only harmed itself.
    pub(super) fn netns(&self, own: NetnsNumber) -> Option<NetnsFd> {
        self.namespaces()
            .filter_map(|path| NetnsFd::open(&path).ok())
            .find(|netns| netns.number() != own)
    }

    /// The number of the same one.
    pub(super) fn netns_number(&self, own: NetnsNumber) -> Option<NetnsNumber> {
        self.namespaces()
            .filter_map(|path| NetnsNumber::at(&path).ok())
            .find(|number| *number != own)
    }

    /// Where the namespaces of its first processes are. The oldest is the one that holds the pod's.
    fn namespaces(&self) -> impl Iterator<Item = PathBuf> {
        let mut processes = cgroup::processes(&self.path);
        processes.sort_unstable();
        processes
            .into_iter()
            .take(MOST_PROCESSES)
            .map(|(pid, _)| PathBuf::from(format!("/proc/{pid}/ns/net")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_told_by_their_cgroups_names() {
        let id = "0123456789abcdef".repeat(4);
        for name in [
            id.clone(),
            format!("cri-containerd-{id}.scope"),
            format!("crio-{id}.scope"),
            format!("docker-{id}.scope"),
        ] {
            assert_eq!(container_id(&name), Some(id.as_str()), "{name}");
        }
        for name in ["", "x", ".scope", "crio-.scope", "init.scope", id.split_at(63).0] {
            assert_eq!(container_id(name), None, "{name}");
        }
    }

    #[test]
    fn uids_are_read_from_the_names_that_both_drivers_give() {
        let one = "1f0c2b7e-0a5d-4b9e-8b1f-2f6d7c3e9a10";
        for name in [
            format!("pod{one}"),
            format!("kubepods-besteffort-pod{}.slice", one.replace('-', "_")),
            format!("kubepods-pod{}.slice", one.replace('-', "_")),
        ] {
            assert_eq!(uid(&name).as_deref(), Some(one), "{name}");
        }
        // A static pod's is a hash.
        assert!(uid("pod0123456789abcdef0123456789abcdef").is_some());
        for name in [
            "burstable",
            "kubepods-burstable.slice",
            "pod",
            "pods",
            "podx",
            "pod..",
            "podman",
        ] {
            assert_eq!(uid(name), None, "{name}");
        }
    }
}
