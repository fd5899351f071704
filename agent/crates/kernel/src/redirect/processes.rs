//! Processes of pods: who forked whom, as the tracepoints told, and a look at those that ran before.
//!
//! What a process says of its parent is whom it was given to once its own had ended. Here it is who forked it, which nobody can change.

use std::collections::HashMap as Table;
use std::fs;
use std::path::Path;

use aya::maps::{HashMap, MapData};
use bailiff_common::{EndedKey, LEVELS_OF_PODS, Process, SCANNED};
use bailiff_model::{Ancestor, Ancestry, CgroupId, ProcessId};

use crate::{ProcessStat, cgroup};

/// How far up a process's ancestors are followed.
const MOST_ANCESTORS: usize = 32;

/// How many processes are looked at that ran before: as many as the kernel side keeps.
const MOST_SCANNED: usize = 32_768;

/// How deep below the pods' cgroup they are looked for.
const DEEPEST: usize = 12;

/// The kernel side's own flag for entries that are only added where there is none.
const NO_EXIST: u64 = 1;

/// What the tracepoints noted.
pub(super) struct Processes {
    pub(super) living: HashMap<MapData, u32, Process>,
    pub(super) ended: HashMap<MapData, EndedKey, Process>,
}

impl Processes {
    /// A process that lives, or has ended and forked others before. `None` where that wasn't told, or is forgotten.
    pub(super) fn of(&self, id: ProcessId) -> Option<(Process, bool)> {
        // When it started wasn't told, and a later one may have its number.
        if id.start_ns == 0 {
            return None;
        }
        let living = self.living.get(&id.tgid, 0).ok();
        if let Some(process) = living.filter(|process| process.started_ns == id.start_ns) {
            return Some((process, false));
        }
        let key = EndedKey {
            started_ns: id.start_ns,
            tgid: id.tgid,
            _pad: 0,
        };
        self.ended.get(&key, 0).ok().map(|process| (process, true))
    }

    /// From whom a pod's process descends, up to the one that came into the pod from outside.
    pub(super) fn ancestry(&self, process: Option<&Process>, pod: CgroupId) -> Ancestry {
        let mut ancestry = Ancestry::default();
        let Some(process) = process else {
            return ancestry;
        };
        let mut current = *process;
        while ancestry.processes.len() < MOST_ANCESTORS {
            // It wasn't in the pod yet when it was forked.
            if !current.within.contains(&pod.0) {
                ancestry.complete = true;
                break;
            }
            let id = ProcessId {
                tgid: current.parent,
                start_ns: current.parent_started_ns,
            };
            let Some((parent, ended)) = self.of(id) else {
                break;
            };
            ancestry.processes.push(Ancestor {
                id,
                executable: executable(&parent),
                ended,
                found: parent.flags & SCANNED != 0,
            });
            current = parent;
        }
        ancestry
    }
}

/// What a process executed last, where that was told.
pub(super) fn executable(process: &Process) -> Option<String> {
    (process.execs > 0).then(|| text(&process.executable))
}

/// Up to the first NUL.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

/// A process that runs, as `/proc` says.
struct Running {
    cgroup: u64,
    within: [u64; LEVELS_OF_PODS],
    stat: ProcessStat,
    executable: String,
    threads: u64,
}

/// Notes the processes below the pods' cgroup that nobody has told of, since they began before anybody listened. Whoever forks meanwhile is told of.
///
/// Who forked them isn't known: their parent may be whom they were given to.
pub(super) fn scan(pods: &Path, living: &mut HashMap<MapData, u32, Process>) {
    let mut running = Table::new();
    gather(pods, &mut Vec::new(), &mut running);
    for (tgid, found) in &running {
        let parent = running.get(&found.stat.parent);
        // From another container, or from outside: then it is the first of its own.
        let is_first = !parent.is_some_and(|parent| are_of_one(&parent.within, &found.within));
        let process = Process {
            started_ns: found.stat.started_ns,
            cgroup: found.cgroup,
            within: if is_first {
                [0; LEVELS_OF_PODS]
            } else {
                found.within
            },
            parent: found.stat.parent,
            parent_started_ns: 0,
            execs: 1,
            forks: 1,
            flags: SCANNED,
            threads: found.threads,
            executable: bytes(&found.executable),
        };
        // One that was told of is known better.
        let _told = living.insert(tgid, process, NO_EXIST);
    }
    // Once all have their entries: a parent may be one that was told of.
    for tgid in running.keys() {
        let Ok(mut process) = living.get(tgid, 0) else {
            continue;
        };
        if process.flags & SCANNED == 0 || process.within == [0; LEVELS_OF_PODS] {
            continue;
        }
        if let Ok(parent) = living.get(&process.parent, 0) {
            process.parent_started_ns = parent.started_ns;
            let _ended = living.insert(tgid, process, 0);
        }
    }
}

/// Whether one is in the other's cgroup or below it.
fn are_of_one(one: &[u64; LEVELS_OF_PODS], other: &[u64; LEVELS_OF_PODS]) -> bool {
    one.iter()
        .zip(other)
        .all(|(one, other)| *one == 0 || *other == 0 || one == other)
}

fn gather(folder: &Path, above: &mut Vec<u64>, running: &mut Table<u32, Running>) {
    if !above.is_empty() {
        let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        let mut within = [0; LEVELS_OF_PODS];
        within
            .iter_mut()
            .zip(&*above)
            .for_each(|(place, id)| *place = *id);
        for tgid in text.lines().filter_map(|line| line.parse::<u32>().ok()) {
            if running.len() >= MOST_SCANNED {
                return;
            }
            let Some(stat) = ProcessStat::of(tgid) else {
                continue;
            };
            let executable = fs::read_link(format!("/proc/{tgid}/exe"));
            let threads = fs::read_dir(format!("/proc/{tgid}/task")).map_or(1, Iterator::count);
            running.insert(
                tgid,
                Running {
                    cgroup: above.last().copied().unwrap_or_default(),
                    within,
                    stat,
                    executable: executable.map_or_else(|_| String::new(), |path| path.display().to_string()),
                    threads: u64::try_from(threads).unwrap_or(1),
                },
            );
        }
    }
    if above.len() >= DEEPEST {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Ok(id) = cgroup::id(&entry.path())
        {
            above.push(id.0);
            gather(&entry.path(), above, running);
            above.pop();
        }
    }
}

fn bytes(text: &str) -> [u8; 128] {
    let mut bytes = [0; 128];
    // The last one stays zero.
    let end = text.len().min(bytes.len() - 1);
    if let (Some(place), Some(text)) = (bytes.get_mut(..end), text.as_bytes().get(..end)) {
        place.copy_from_slice(text);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_told_from_its_neighbours_and_not_from_what_is_below_it() {
        assert!(are_of_one(&[1, 2, 0], &[1, 2, 3]));
        assert!(are_of_one(&[1, 2, 3], &[1, 2, 3]));
        assert!(!are_of_one(&[1, 2, 3], &[1, 2, 4]));
    }

    #[test]
    fn texts_end_in_time() {
        assert_eq!(text(&bytes("/bin/sh")), "/bin/sh");
        assert_eq!(text(&bytes(&"x".repeat(500))).len(), 127);
    }
}
