//! A node's cgroups on a machine whose hierarchies are hybrid: the controllers in the first version's, one each, and the
//! second version's beside them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

/// A cgroup for the node in each hierarchy, below the cluster's. Dropping it removes them, with all that is below, and the
/// cluster's with the last node's.
#[derive(Debug)]
pub(crate) struct Hierarchies {
    /// The first version's, by what its file system is mounted with.
    first: Vec<(String, PathBuf)>,
    /// The second version's.
    unified: PathBuf,
}

impl Hierarchies {
    /// Makes them below the cluster's.
    ///
    /// # Errors
    /// When the controllers are bound to the second version, or the kernel refuses.
    pub(crate) fn make(cluster: &str, node: &str, unified: &Path) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mut this = Self {
            first: Vec::new(),
            unified: unified.join(node),
        };
        for (name, mount) in first_version(&mounts) {
            let above = mount.join(cluster);
            let own = above.join(node);
            // From here on it goes away again, whatever fails.
            this.first.push((name.clone(), own.clone()));
            for folder in [above, own] {
                fs::create_dir_all(&folder).with_context(|| format!("{} can't be made", folder.display()))?;
                for file in ["cpuset.cpus", "cpuset.mems"].iter().filter(|_| name == "cpuset") {
                    // Empty otherwise, and then no process can enter.
                    let all = fs::read_to_string(mount.join(file))?;
                    fs::write(folder.join(file), all)?;
                }
            }
        }
        ensure!(
            this.first.iter().any(|(name, _)| name.contains("memory")),
            "a node needs cgroups whose controllers are bound to the first version (hybrid), and here they aren't: \
             start with --vm, in whose machine it has a kernel of its own, or with --control-plane-only"
        );
        fs::create_dir_all(this.unified.join("init"))
            .with_context(|| format!("{} can't be made", this.unified.display()))?;
        Ok(this)
    }

    /// What the first version's are mounted with, such as `cpuset memory systemd`.
    pub(crate) fn names(&self) -> String {
        let names: Vec<&str> = self.first.iter().map(|(name, _)| name.as_str()).collect();
        names.join(" ")
    }

    /// The files to which a process writes that is to be in the node's cgroups; the second version's own comes last.
    pub(crate) fn doors(&self) -> Vec<PathBuf> {
        let first = self.first.iter().map(|(_, folder)| folder);
        first
            .chain([&self.unified])
            .map(|folder| folder.join("cgroup.procs"))
            .collect()
    }

    /// The node's cgroup in the second version's.
    pub(crate) fn unified(&self) -> &Path {
        &self.unified
    }

    /// Where the node's own processes are in the second version's, beside those of its pods.
    pub(crate) fn init(&self) -> PathBuf {
        self.unified.join("init/cgroup.procs")
    }
}

impl Drop for Hierarchies {
    fn drop(&mut self) {
        // By now no process holds them but what the kernel is still freeing; the second version's goes with the cluster's.
        let _gone = fs::write(self.unified.join("cgroup.kill"), "1");
        for (_, folder) in &self.first {
            remove(folder);
            // Refused while another node has its own there.
            let _gone = folder.parent().map(fs::remove_dir);
        }
    }
}

/// Removes what a cluster that was killed left in the first version's.
pub(crate) fn clear(cluster: &str) {
    for (_, mount) in first_version(&fs::read_to_string("/proc/self/mounts").unwrap_or_default()) {
        remove(&mount.join(cluster));
    }
}

fn remove(folder: &Path) {
    let until = Instant::now() + Duration::from_secs(10);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    while folder.is_dir() && fs::remove_dir(folder).is_err() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Each hierarchy of the first version: its mount's last name, which is also what it is mounted with, and where it is.
fn first_version(mounts: &str) -> Vec<(String, PathBuf)> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let place = Path::new(words.next()?);
            (words.next()? == "cgroup").then(|| place.to_path_buf())
        })
        .filter_map(|place| Some((place.file_name()?.to_str()?.to_owned(), place)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_the_first_version_are_told_by_their_mounts() {
        let mounts = "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
                      tmpfs /run tmpfs rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let expected = vec![("memory".to_owned(), PathBuf::from("/sys/fs/cgroup/memory"))];
        assert_eq!(first_version(mounts), expected);
    }
}
