//! The maps, and small questions to them.

use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use bailiff_common::{
    Address, Config, Counter, EndedKey, Enrolment, HAS_ANY_PORT, HAS_PREFIXES, HostKey, MAX_CGROUP_LEVELS,
    Origin, OriginKey, PREFIX_KEY_HEAD, PrefixKey, Process, Protected, SocketNote,
};

#[map]
pub(crate) static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
/// CLOCK_MONOTONIC in nanoseconds when the agent last showed that it lives.
#[map]
pub(crate) static HEARTBEAT: Array<u64> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static ENROLMENTS: HashMap<u64, Enrolment> = HashMap::with_max_entries(4096, 0);
/// Host addresses with a port, or port 0 for any.
#[map]
pub(crate) static HOSTS: HashMap<HostKey, Protected> = HashMap::with_max_entries(65_536, 0);
/// Host addresses alone, for what has no port.
#[map]
pub(crate) static ADDRESSES: HashMap<Address, u32> = HashMap::with_max_entries(65_536, 0);
#[map]
pub(crate) static PREFIXES: LpmTrie<PrefixKey, Protected> = LpmTrie::with_max_entries(16_384, 1);
/// A bit for each protected port, so that a connect to any other costs next to nothing.
#[map]
pub(crate) static PORTS: Array<u64> = Array::with_max_entries(1024, 0);
#[map]
pub(crate) static ORIGINS: HashMap<OriginKey, Origin> = HashMap::with_max_entries(131_072, 0);
#[map]
pub(crate) static PROCESSES: LruHashMap<u32, Process> = LruHashMap::with_max_entries(32_768, 0);
/// Processes of pods that have ended and forked others before, which may still live.
#[map]
pub(crate) static ENDED: LruHashMap<EndedKey, Process> = LruHashMap::with_max_entries(16_384, 0);
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::ALL.len() as u32, 0);
#[btf_map]
pub(crate) static SOCKETS: SkStorage<SocketNote> = SkStorage::new();

/// Counts.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the map gave the pointer, and each processor has its own.
        unsafe { *slot += 1 };
    }
}

/// The settings; none while the agent hasn't written them.
#[inline(always)]
pub(crate) fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}

/// Whether a cgroup is the agent's, or that of the agent before it.
#[inline(always)]
pub(crate) fn is_agents(config: &Config, cgroup: u64) -> bool {
    cgroup != 0 && (cgroup == config.agent_cgroup || cgroup == config.agent_before)
}

/// Whether any target has this port.
#[inline(always)]
pub(crate) fn maybe_protected(config: &Config, port: u16) -> bool {
    if config.flags & HAS_ANY_PORT != 0 {
        return true;
    }
    match PORTS.get(u32::from(port >> 6)) {
        Some(bits) => bits >> (port & 63) & 1 == 1,
        None => true,
    }
}

/// What protects an address and port: the longest prefix, and of two as long the one of this port.
#[inline(always)]
pub(crate) fn protected(config: &Config, address: &Address, port: u16) -> Option<Protected> {
    let mut key = HostKey {
        address: *address,
        port,
        _pad: 0,
    };
    // SAFETY: values are copied at once; what changes under the hand is a whole entry.
    if let Some(found) = unsafe { HOSTS.get(&key) } {
        return Some(*found);
    }
    if config.flags & HAS_ANY_PORT != 0 {
        key.port = 0;
        // SAFETY: as above.
        if let Some(found) = unsafe { HOSTS.get(&key) } {
            return Some(*found);
        }
    }
    if config.flags & HAS_PREFIXES == 0 {
        return None;
    }
    let mut key = Key::new(
        PREFIX_KEY_HEAD + 128,
        PrefixKey {
            port,
            _pad: 0,
            address: *address,
        },
    );
    let exact = longest(&key);
    let mut best = exact;
    if config.flags & HAS_ANY_PORT != 0 {
        key.data.port = 0;
        let any = longest(&key);
        if any.open != NONE && (exact.open == NONE || any.prefix > exact.prefix) {
            best = any;
        }
    }
    if best.open == NONE { None } else { Some(best) }
}

/// Stands for no entry. An Option of a map's pointer would do, were it not that the compiler then joins two of them with an
/// OR: "R8 pointer |= pointer prohibited".
const NONE: u32 = u32::MAX;

#[inline(always)]
fn longest(key: &Key<PrefixKey>) -> Protected {
    match PREFIXES.get(key) {
        // SAFETY: the map gave the reference. Volatile, so that the entry is copied here.
        Some(found) => unsafe { core::ptr::read_volatile(found) },
        None => Protected {
            open: NONE,
            prefix: 0,
        },
    }
}

/// The pod that the current task belongs to: its cgroup and what was enrolled for it.
#[inline(always)]
pub(crate) fn current_pod() -> Option<(u64, Enrolment)> {
    for level in 1..MAX_CGROUP_LEVELS {
        // SAFETY: a helper without pointers.
        let cgroup = unsafe { aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id(level) };
        if cgroup == 0 {
            return None;
        }
        // SAFETY: the value is copied at once.
        if let Some(found) = unsafe { ENROLMENTS.get(&cgroup) } {
            return Some((cgroup, *found));
        }
    }
    None
}
