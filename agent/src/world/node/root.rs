//! The cgroup above all pods, where nobody says which one it is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use bailiff_kernel::cgroup;

use super::cgroups;

/// Where kubelet makes it below the mount: by its driver (`systemd`, `cgroupfs`), and by kind, whose kubelet is given `--cgroup-root=/kubelet`.
/// Source: `k8s.io/kubernetes/pkg/kubelet/cm`, `defaultNodeAllocatableCgroupName` and `CgroupName.ToSystemd`.
const PLACES: [&str; 4] = [
    "kubepods.slice",
    "kubepods",
    "kubelet.slice/kubelet-kubepods.slice",
    "kubelet/kubepods",
];

/// Finds the cgroup above all pods of this node: the one that this process is in, where it is a pod itself, and otherwise the one that is there.
///
/// # Errors
/// When there is none, or when there are several and nothing says which of them kubelet uses. Says what was looked for.
pub(crate) fn pods_cgroup() -> Result<PathBuf> {
    let mounts: BTreeSet<PathBuf> = cgroup::mounts()
        .context("cannot look for the pods' cgroup")?
        .into_iter()
        // A container's own may lie hidden below the node's.
        .filter_map(|mount| std::fs::canonicalize(mount).ok())
        .collect();
    let own: Vec<PathBuf> = mounts
        .iter()
        .filter_map(|mount| cgroup::current_below(mount).ok())
        .collect();
    among(&mounts, &own)
}

fn among(mounts: &BTreeSet<PathBuf>, own: &[PathBuf]) -> Result<PathBuf> {
    // The innermost is that of the kubelet that started this pod.
    let above = own.iter().find_map(|own| {
        own.ancestors()
            .skip(1)
            .find(|above| is_pods(above) && mounts.iter().any(|mount| above.starts_with(mount)))
    });
    if let Some(above) = above {
        return Ok(above.to_owned());
    }
    let there: Vec<PathBuf> = mounts
        .iter()
        .flat_map(|mount| PLACES.iter().map(|place| mount.join(place)))
        .filter(|place| place.is_dir())
        .collect();
    // What kubelet made before its driver was changed stays, empty, until the next boot.
    let used: Vec<&PathBuf> = there.iter().filter(|place| has_pods(place)).collect();
    match (used.as_slice(), there.as_slice()) {
        ([one], _) => Ok((*one).clone()),
        ([], [one]) => Ok(one.clone()),
        ([], []) if mounts.is_empty() => bail!(
            "no cgroup of the second version is mounted here; in a pod, /sys/fs/cgroup has to be the node's (hostPath)"
        ),
        ([], []) => bail!(
            "no pods' cgroup is here: looked for {} below {}. Start kubelet first, or give --pods-cgroup (`agent.podsCgroup` of the chart) where it \
             makes them elsewhere",
            PLACES.join(", "),
            listed(mounts)
        ),
        // Uncertainty denies: pods below the other one would go past the agent.
        ([], several) => bail!(several_are_there(&listed(several))),
        (several, _) => bail!(several_are_there(&listed(several.iter().copied()))),
    }
}

fn several_are_there(which: &str) -> String {
    format!(
        "several pods' cgroups are here ({which}), and nothing says which of them kubelet uses: give --pods-cgroup (`agent.podsCgroup` of the chart)"
    )
}

fn listed<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> String {
    let paths: Vec<String> = paths.into_iter().map(|path| path.display().to_string()).collect();
    paths.join(", ")
}

/// Whether kubelet calls the cgroup above all pods so, below whatever root it was given.
fn is_pods(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| {
            name == "kubepods" || name == "kubepods.slice" || name.ends_with("-kubepods.slice")
        })
}

fn has_pods(place: &Path) -> bool {
    let below = cgroups::pods(place);
    !below.pods.is_empty() || !below.empty.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "pod3a2b1c4d-0000-4000-8000-0123456789ab";

    fn told(folder: &Path, made: &[&str], own: &[&str]) -> Result<PathBuf> {
        for place in made {
            std::fs::create_dir_all(folder.join(place)).unwrap();
        }
        let own: Vec<PathBuf> = own.iter().map(|place| folder.join(place)).collect();
        among(&BTreeSet::from([folder.to_owned()]), &own)
    }

    #[test]
    fn a_pod_is_below_the_one_that_counts() {
        for (own, expected) in [
            (format!("kubepods/burstable/{POD}/id"), "kubepods"),
            (
                "kubepods.slice/kubepods-pod1.slice/cri-containerd-1.scope".to_owned(),
                "kubepods.slice",
            ),
            // A node in a pod of another node.
            (
                "kubepods.slice/a.scope/kubelet.slice/kubelet-kubepods.slice/b.slice/c.scope".to_owned(),
                "kubepods.slice/a.scope/kubelet.slice/kubelet-kubepods.slice",
            ),
        ] {
            let folder = tempfile::tempdir().unwrap();
            // Others that are there say nothing against it.
            let found = told(folder.path(), &["kubepods/besteffort", "kubepods.slice"], &[&own]).unwrap();
            assert_eq!(found, folder.path().join(expected));
        }
    }

    #[test]
    fn beside_the_pods_it_is_the_one_that_is_there() {
        for place in PLACES {
            let folder = tempfile::tempdir().unwrap();
            let found = told(folder.path(), &[place], &["system.slice/bailiff.service"]).unwrap();
            assert_eq!(found, folder.path().join(place));
        }
        // One of them was another driver's.
        let folder = tempfile::tempdir().unwrap();
        let pod = format!("kubepods/burstable/{POD}");
        let found = told(folder.path(), &["kubepods.slice", &pod], &[]).unwrap();
        assert_eq!(found, folder.path().join("kubepods"));
    }

    #[test]
    fn none_or_several_are_told_with_what_was_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let none = told(folder.path(), &["system.slice"], &["system.slice"]).unwrap_err();
        let none = none.to_string();
        for place in PLACES {
            assert!(none.contains(place), "{none}");
        }
        assert!(
            none.contains("give --pods-cgroup") && none.contains(folder.path().to_str().unwrap()),
            "{none}"
        );
        let several = told(folder.path(), &["kubepods", "kubepods.slice"], &[]).unwrap_err();
        let several = several.to_string();
        assert!(
            several.contains("several pods' cgroups") && several.contains("kubepods.slice"),
            "{several}"
        );
        let nowhere = among(&BTreeSet::new(), &[]).unwrap_err().to_string();
        assert!(nowhere.contains("no cgroup of the second version"), "{nowhere}");
    }
}
