//! The chains of pods' processes, for whoever asks without there being a connection.

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use bailiff_kernel::{Origins, cgroup};
use bailiff_model::{CgroupId, Chain, Evidence, Hop, HopKind, ProcessInfo};

use crate::attribution::{Attribution, PodEntry};

/// Who knows them.
pub(crate) struct Chains {
    attribution: Arc<Attribution>,
    origins: Origins,
}

/// How many processes of one pod are told of.
const MOST_PROCESSES: usize = 1024;

impl Chains {
    pub(crate) fn new(attribution: Arc<Attribution>, origins: Origins) -> Self {
        Self { attribution, origins }
    }

    /// That of a process by its number. `None`: it is in no pod that is known here.
    pub(super) fn of_process(&self, tgid: u32) -> Option<Chain> {
        self.attribution.pods().iter().find_map(|pod| {
            let mut all = cgroup::processes(&pod.cgroup_path).into_iter();
            let (_, cgroup) = all.find(|(found, _)| *found == tgid)?;
            Some(self.chain(pod, Some((tgid, cgroup))))
        })
    }

    /// Those of all processes of the pods with a name, which may have its namespace before it, as `NAMESPACE/NAME`.
    pub(super) fn of_pods(&self, name: &str) -> Vec<Chain> {
        let (namespace, name) = match name.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, name),
        };
        let mut chains = Vec::new();
        for pod in self.attribution.pods() {
            let info = &pod.info;
            if info.name != name || namespace.is_some_and(|namespace| namespace != info.namespace) {
                continue;
            }
            let mut processes = cgroup::processes(&pod.cgroup_path);
            processes.truncate(MOST_PROCESSES);
            if processes.is_empty() {
                chains.push(self.chain(&pod, None));
            }
            chains.extend(
                processes
                    .into_iter()
                    .map(|process| self.chain(&pod, Some(process))),
            );
        }
        chains
    }

    fn chain(&self, pod: &PodEntry, process: Option<(u32, CgroupId)>) -> Chain {
        let process = process.map(|(tgid, cgroup)| {
            let seen = self.origins.process(tgid, pod.cgroup);
            let place = format!("/proc/{tgid}");
            let owner = std::fs::metadata(&place);
            ProcessInfo {
                id: seen.id,
                uid: owner.as_ref().map_or(u32::MAX, |owner| owner.uid()),
                gid: owner.as_ref().map_or(u32::MAX, |owner| owner.gid()),
                comm: std::fs::read_to_string(format!("{place}/comm"))
                    .unwrap_or_default()
                    .trim_end()
                    .to_owned(),
                executable: seen.executable,
                cgroup,
                container: pod.container_of(cgroup),
                ancestry: seen.ancestry,
            }
        });
        Chain::of_caller(Hop {
            kind: HopKind::Pod {
                pod: Arc::clone(&pod.info),
                process,
            },
            evidence: Evidence::Observed,
        })
    }
}
