//! The maps, typed.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use aya::{Ebpf, EbpfLoader};
use bailiff_common::{
    ABI_VERSION, Address, Config, Counter, Enrolment, HAS_ANY_PORT, HAS_PREFIXES, HostKey,
    Origin as RawOrigin, OriginKey, PrefixKey, Process, Protected,
};
use bailiff_model::{CgroupId, NetnsCookie, ProcessId};

use super::entries::{Kept, TargetEntry, key, original};
use super::processes::{self, Processes, text};
use super::{Creator, FourTuple, Options, Origin, SeenProcess};
use crate::{KernelError, object};

/// Maps that outlive an agent.
const PINNED: [&str; 12] = [
    "CONFIG",
    HEARTBEAT,
    "ENROLMENTS",
    "HOSTS",
    "ADDRESSES",
    "PREFIXES",
    "PORTS",
    "ORIGINS",
    PROCESSES,
    "ENDED",
    "COUNTERS",
    "SOCKETS",
];

/// Whichever version an agent is, it shows here that it lives: a number that will never mean anything else.
const HEARTBEAT: &str = "HEARTBEAT";

const PROCESSES: &str = "PROCESSES";

/// Where this version's maps are. The version is a part of the path: maps of another layout are never misread.
fn directory(pins: &Path) -> PathBuf {
    pins.join(format!("{PREFIX}{ABI_VERSION}"))
}

const PREFIX: &str = "maps-v";

/// Removes the maps of agents of other versions, which nothing uses once their programs are replaced.
pub(super) fn forget_others(pins: &Path) {
    let own = directory(pins);
    let entries = std::fs::read_dir(pins).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let is_maps = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with(PREFIX));
        if !is_maps || path == own {
            continue;
        }
        match std::fs::remove_dir_all(&path) {
            Ok(()) => tracing::info!(maps = %path.display(), "the maps of another version are gone"),
            Err(error) => {
                tracing::warn!(maps = %path.display(), %error, "the maps of another version can't be removed");
            }
        }
    }
}

pub(super) struct Maps {
    config: Array<MapData, Config>,
    pub(super) heartbeat: Option<Heartbeat>,
    enrolments: HashMap<MapData, u64, Enrolment>,
    hosts: HashMap<MapData, HostKey, Protected>,
    addresses: HashMap<MapData, Address, u32>,
    prefixes: LpmTrie<MapData, PrefixKey, Protected>,
    ports: Array<MapData, u64>,
    counters: PerCpuArray<MapData, u64>,
    noted: Arc<Noted>,
}

/// What the programs note, which many threads may read at once.
struct Noted {
    origins: HashMap<MapData, OriginKey, RawOrigin>,
    processes: Processes,
}

/// A reader of origins that belongs to whoever holds it, on whatever thread.
#[derive(Clone)]
pub struct Origins(Arc<Noted>);

impl std::fmt::Debug for Origins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Origins")
    }
}

/// Shows the kernel side that the agent lives.
pub struct Heartbeat(Array<MapData, u64>);

impl Heartbeat {
    /// Says that the agent lives now.
    pub fn beat(&mut self) {
        let _ = self.0.set(0, crate::sys::monotonic_ns(), 0);
    }
}

/// When an agent was seen alive last, whichever it was.
pub struct Pulse(Array<MapData, u64>);

impl Pulse {
    /// Of the agents with these pins.
    ///
    /// # Errors
    /// When there was none since the machine started.
    pub fn of(pins: &Path) -> Result<Self, KernelError> {
        let path = pins.join(HEARTBEAT);
        let map =
            MapData::from_pin(&path).map_err(KernelError::bpf(format!("cannot open {}", path.display())))?;
        Ok(Self(Array::try_from(Map::Array(map)).map_err(
            KernelError::bpf(format!("{} isn't what it should be", path.display())),
        )?))
    }

    /// How long ago that was.
    #[must_use]
    pub fn age(&self) -> std::time::Duration {
        let last = self.0.get(&0, 0).unwrap_or_default();
        std::time::Duration::from_nanos(crate::sys::monotonic_ns().saturating_sub(last))
    }
}

impl std::fmt::Debug for Pulse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pulse")
    }
}

impl std::fmt::Debug for Heartbeat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Heartbeat")
    }
}

impl std::fmt::Debug for Maps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Maps")
    }
}

/// Loads the object, with the maps of an agent before where there are any.
/// The last says whether there were any.
pub(super) fn load(options: &Options) -> Result<(Ebpf, Maps, bool), KernelError> {
    let directory = directory(&options.pins);
    let were_there = directory.exists();
    std::fs::create_dir_all(&directory).map_err(KernelError::system(format!(
        "cannot make {}",
        directory.display()
    )))?;
    let place = |name: &str| match name {
        HEARTBEAT => options.pins.join(name),
        _ => directory.join(name),
    };
    let paths: Vec<(&str, PathBuf)> = PINNED.iter().map(|name| (*name, place(name))).collect();
    let mut loader = EbpfLoader::new();
    for (name, path) in &paths {
        loader.map_pin_path(name, path.as_path());
    }
    if let Some(most) = options.max_origins {
        loader.map_max_entries("ORIGINS", most);
    }
    let offsets = super::links::tracepoint_offsets();
    for (name, offset) in &offsets {
        loader.override_global(name, offset, true);
    }
    let object = object::find()?;
    let mut ebpf = loader
        .load(&object)
        .map_err(KernelError::bpf("cannot load the kernel programs"))?;
    let maps = Maps::of(&mut ebpf).map_err(KernelError::bpf(
        "the kernel programs have other maps than this agent knows",
    ))?;
    Ok((ebpf, maps, were_there))
}

fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<T, MapError> {
    let map = ebpf.take_map(name).ok_or_else(|| MapError::InvalidName {
        name: name.to_owned(),
    })?;
    T::try_from(map)
}

fn failed(what: &str) -> impl FnOnce(MapError) -> KernelError {
    KernelError::bpf(format!("cannot {what}"))
}

impl Maps {
    fn of(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        Ok(Self {
            config: take(ebpf, "CONFIG")?,
            heartbeat: Some(Heartbeat(take(ebpf, "HEARTBEAT")?)),
            enrolments: take(ebpf, "ENROLMENTS")?,
            hosts: take(ebpf, "HOSTS")?,
            addresses: take(ebpf, "ADDRESSES")?,
            prefixes: take(ebpf, "PREFIXES")?,
            ports: take(ebpf, "PORTS")?,
            counters: take(ebpf, "COUNTERS")?,
            noted: Arc::new(Noted {
                origins: take(ebpf, "ORIGINS")?,
                processes: Processes {
                    living: take(ebpf, PROCESSES)?,
                    ended: take(ebpf, "ENDED")?,
                },
            }),
        })
    }

    pub(super) fn set_config(&mut self, config: &Config) -> Result<(), KernelError> {
        let flags = self.config.get(&0, 0).map_or(0, |before| before.flags);
        self.config
            .set(0, Config { flags, ..*config }, 0)
            .map_err(failed("write the settings"))
    }

    /// The agent's cgroup as the settings have it.
    pub(super) fn agent(&self) -> Option<CgroupId> {
        let config = self.config.get(&0, 0).ok()?;
        (config.agent_cgroup != 0).then_some(CgroupId(config.agent_cgroup))
    }

    pub(super) fn enrolment(&self, pod: CgroupId) -> Result<Option<Enrolment>, KernelError> {
        match self.enrolments.get(&pod.0, 0) {
            Ok(found) => Ok(Some(found)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(failed("read an enrolment")(error)),
        }
    }

    pub(super) fn enroll(&mut self, pod: CgroupId, enrolment: Enrolment) -> Result<(), KernelError> {
        self.enrolments
            .insert(pod.0, enrolment, 0)
            .map_err(failed("enrol a pod"))
    }

    pub(super) fn unenroll(&mut self, pod: CgroupId) -> Result<(), KernelError> {
        match self.enrolments.remove(&pod.0) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(failed("unenrol a pod")(error)),
        }
    }

    /// Adds first, then widens what is looked at, then drops: what is protected before and after is so in between.
    pub(super) fn set_targets(&mut self, targets: &[TargetEntry]) -> Result<(), KernelError> {
        let write = failed;
        let (mut hosts, mut prefixes, mut addresses) = (HashSet::new(), HashSet::new(), HashSet::new());
        let mut ports = vec![0_u64; 1024];
        let mut flags = 0;
        for target in targets {
            match target.kept() {
                Kept::Host(key, protected) => {
                    self.hosts
                        .insert(key, protected, 0)
                        .map_err(write("protect an address"))?;
                    self.addresses
                        .insert(key.address, 1, 0)
                        .map_err(write("protect an address"))?;
                    hosts.insert(key);
                    addresses.insert(key.address);
                }
                Kept::Prefix(bits, key, protected) => {
                    self.prefixes
                        .insert(&Key::new(bits, key), protected, 0)
                        .map_err(write("protect a prefix"))?;
                    prefixes.insert((bits, key));
                    flags |= HAS_PREFIXES;
                }
            }
            if target.port == 0 {
                flags |= HAS_ANY_PORT;
            } else if let Some(word) = ports.get_mut(usize::from(target.port >> 6)) {
                *word |= 1 << (target.port & 63);
            }
        }
        for (place, word) in (0..).zip(&ports) {
            self.ports
                .set(place, word, 0)
                .map_err(write("write the protected ports"))?;
        }
        let config = self.config.get(&0, 0).unwrap_or_default();
        self.config
            .set(0, Config { flags, ..config }, 0)
            .map_err(write("write the settings"))?;
        let gone: Vec<_> = self
            .hosts
            .keys()
            .flatten()
            .filter(|key| !hosts.contains(key))
            .collect();
        for key in gone {
            let _ = self.hosts.remove(&key);
        }
        let gone: Vec<_> = self
            .addresses
            .keys()
            .flatten()
            .filter(|key| !addresses.contains(key))
            .collect();
        for key in gone {
            let _ = self.addresses.remove(&key);
        }
        let gone: Vec<_> = self
            .prefixes
            .keys()
            .flatten()
            .filter(|key| !prefixes.contains(&(key.prefix_len(), key.data())))
            .collect();
        for key in gone {
            let _ = self.prefixes.remove(&key);
        }
        Ok(())
    }

    pub(super) fn origins(&self) -> Origins {
        Origins(Arc::clone(&self.noted))
    }

    pub(super) fn counters(&self) -> Vec<(Counter, u64)> {
        Counter::ALL
            .iter()
            .map(|counter| {
                let total = self
                    .counters
                    .get(&(*counter as u32), 0)
                    .map_or(0, |all| all.iter().sum());
                (*counter, total)
            })
            .collect()
    }
}

/// Notes the pods' processes that ran before anybody told of them.
pub(super) fn scan_processes(options: &Options) -> Result<(), KernelError> {
    let path = directory(&options.pins).join(PROCESSES);
    let open = || -> Result<HashMap<MapData, u32, Process>, MapError> {
        HashMap::try_from(Map::LruHashMap(MapData::from_pin(&path)?))
    };
    processes::scan(
        &options.pods_cgroup,
        &mut open().map_err(failed("note the processes that run"))?,
    );
    Ok(())
}

impl Origins {
    /// How many there are, together with the places kept for connects under way. It walks the whole map.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.origins.keys().flatten().count()
    }

    /// What was noted about a process that lives, as one of this pod's. One of which nothing was noted has no start.
    #[must_use]
    pub fn process(&self, tgid: u32, pod: CgroupId) -> SeenProcess {
        let processes = &self.0.processes;
        let seen = processes.living.get(&tgid, 0).ok();
        SeenProcess {
            id: ProcessId {
                tgid,
                start_ns: seen.map_or(0, |seen| seen.started_ns),
            },
            executable: seen.as_ref().and_then(processes::executable),
            ancestry: processes.ancestry(seen.as_ref(), pod),
        }
    }

    /// What was noted about a connection, while it is open. `None`: it wasn't diverted.
    #[must_use]
    pub fn origin(&self, connection: &FourTuple) -> Option<Origin> {
        let raw = self.0.origins.get(&key(connection), 0).ok()?;
        let process = ProcessId {
            tgid: raw.tgid,
            start_ns: raw.started_ns,
        };
        let processes = &self.0.processes;
        let seen = processes.of(process).map(|(seen, _)| seen);
        let creator =
            (raw.creator_tgid != 0 && raw.creator_pod_cgroup != raw.pod_cgroup).then_some(Creator {
                pod_cgroup: CgroupId(raw.creator_pod_cgroup),
                tgid: raw.creator_tgid,
            });
        Some(Origin {
            netns: NetnsCookie(connection.netns.0),
            pod_cgroup: CgroupId(raw.pod_cgroup),
            cgroup: CgroupId(raw.cgroup),
            process,
            uid: raw.uid,
            gid: raw.gid,
            comm: text(&raw.comm),
            executable: seen.as_ref().and_then(processes::executable),
            ancestry: processes.ancestry(seen.as_ref(), CgroupId(raw.pod_cgroup)),
            creator,
            original: original(raw.destination, raw.port),
        })
    }
}
