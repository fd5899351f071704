//! Processes as the stable tracepoints tell of them: who forked whom, and what was executed.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_ktime_get_boot_ns,
};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel_str_bytes};
use aya_ebpf::macros::tracepoint;
use aya_ebpf::programs::TracePointContext;
use bailiff_common::{EndedKey, LEVELS_OF_PODS, MAX_CGROUP_LEVELS, Process};

use crate::maps::{ENDED, PROCESSES, config};

/// Where fields stand in the tracepoints' records. Kernels differ, so that the agent reads it from tracefs and sets it.
#[unsafe(no_mangle)]
static NEWTASK_PID: u32 = 8;
#[unsafe(no_mangle)]
static NEWTASK_FLAGS: u32 = 32;
#[unsafe(no_mangle)]
static EXEC_FILENAME: u32 = 8;

const CLONE_THREAD: u64 = 0x10000;

#[inline(always)]
fn set(offset: &u32) -> usize {
    // SAFETY: a plain read that the compiler may not replace by what it sees here, since the loader changes it.
    unsafe { core::ptr::read_volatile(offset) as usize }
}

/// On `task_newtask`, which also tells of threads that the kernel makes for a process, as io_uring's.
#[tracepoint]
pub(crate) fn bailiff_fork(ctx: TracePointContext) -> u32 {
    // SAFETY: the record is at least as long as the tracepoint's format says.
    let (child, flags) = unsafe {
        (
            ctx.read_at::<u32>(set(&NEWTASK_PID)),
            ctx.read_at::<u64>(set(&NEWTASK_FLAGS)),
        )
    };
    let (Ok(child), Ok(flags)) = (child, flags) else {
        return 0;
    };
    let parent = (bpf_get_current_pid_tgid() >> 32) as u32;
    if flags & CLONE_THREAD != 0 {
        add_threads(parent, 1);
        return 0;
    }
    let process = Process {
        // SAFETY: helpers without pointers.
        started_ns: unsafe { bpf_ktime_get_boot_ns() },
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        within: within(),
        parent_started_ns: has_forked(parent),
        parent,
        execs: 0,
        forks: 0,
        flags: 0,
        threads: 1,
        executable: [0; 128],
    };
    let _ = PROCESSES.insert(&child, &process, 0);
    0
}

/// Notes that a process has forked; when it was forked itself, or 0 where that isn't known.
#[inline(always)]
fn has_forked(tgid: u32) -> u64 {
    match PROCESSES.get_ptr_mut(&tgid) {
        // SAFETY: the map gave the pointer.
        Some(process) => unsafe {
            (*process).forks = (*process).forks.saturating_add(1);
            (*process).started_ns
        },
        None => 0,
    }
}

/// The cgroups of the current task right below the pods'; zeros for one that is in no pod.
#[inline(always)]
fn within() -> [u64; LEVELS_OF_PODS] {
    let mut within = [0; LEVELS_OF_PODS];
    let Some(config) = config() else { return within };
    let pods = config.pods_cgroup;
    for level in 0..MAX_CGROUP_LEVELS {
        // SAFETY: helpers without pointers.
        unsafe {
            let cgroup = bpf_get_current_ancestor_cgroup_id(level);
            if cgroup == 0 {
                return within;
            }
            if cgroup == pods {
                within[0] = bpf_get_current_ancestor_cgroup_id(level + 1);
                within[1] = bpf_get_current_ancestor_cgroup_id(level + 2);
                within[2] = bpf_get_current_ancestor_cgroup_id(level + 3);
                return within;
            }
        }
    }
    within
}

/// Adds to the number of a process's threads; how many there are then, where the process is known.
///
/// The target has no atomic addition. Of two processors that count at once one may be lost: then the process is forgotten before
/// its end, and less is known of it, or kept until its number is used again or room is needed.
#[inline(always)]
fn add_threads(tgid: u32, more: i64) -> Option<u64> {
    let process = PROCESSES.get_ptr_mut(&tgid)?;
    // SAFETY: the map gave the pointer.
    unsafe {
        let threads = (*process).threads.wrapping_add_signed(more);
        (*process).threads = threads;
        Some(threads)
    }
}

#[tracepoint]
pub(crate) fn bailiff_exec(ctx: TracePointContext) -> u32 {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let Some(process) = PROCESSES.get_ptr_mut(&tgid) else {
        return 0;
    };
    // SAFETY: the record holds where the name begins, in its lower half.
    if let Ok(place) = unsafe { ctx.read_at::<u32>(set(&EXEC_FILENAME)) } {
        let name = (ctx.as_ptr() as usize + (place & 0xffff) as usize) as *const u8;
        // SAFETY: the map gave the pointer; the helper checks what it reads.
        unsafe {
            (*process).execs += 1;
            let _ = bpf_probe_read_kernel_str_bytes(name, &mut (*process).executable);
        }
    }
    0
}

#[tracepoint]
pub(crate) fn bailiff_exit(_: TracePointContext) -> u32 {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // A process ends with its last thread, which needn't be its first.
    if add_threads(tgid, -1) == Some(0) {
        keep_for_its_children(tgid);
        let _ = PROCESSES.remove(&tgid);
    }
    0
}

/// Keeps a pod's process that has forked others: they may live on, and lead back to it.
#[inline(always)]
fn keep_for_its_children(tgid: u32) {
    // SAFETY: the value is only read, and copied at once by the map below.
    let Some(process) = (unsafe { PROCESSES.get(&tgid) }) else {
        return;
    };
    // It may have come into the pod after it was forked, as the first process of each container.
    if process.forks == 0 || within()[0] == 0 {
        return;
    }
    let key = EndedKey {
        started_ns: process.started_ns,
        tgid,
        _pad: 0,
    };
    let _ = ENDED.insert(&key, process, 0);
}
