//! Processes as the stable tracepoints tell of them: who forked whom, and what was executed.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_ktime_get_boot_ns};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel_str_bytes};
use aya_ebpf::macros::tracepoint;
use aya_ebpf::programs::TracePointContext;
use bailiff_common::Process;

use crate::maps::PROCESSES;

/// Where fields stand in the tracepoints' records. Kernels differ, so that the agent reads it from tracefs and sets it.
#[unsafe(no_mangle)]
static FORK_CHILD_PID: u32 = 44;
#[unsafe(no_mangle)]
static EXEC_FILENAME: u32 = 8;

#[inline(always)]
fn set(offset: &u32) -> usize {
    // SAFETY: a plain read that the compiler may not replace by what it sees here, since the loader changes it.
    unsafe { core::ptr::read_volatile(offset) as usize }
}

#[tracepoint]
pub(crate) fn bailiff_fork(ctx: TracePointContext) -> u32 {
    // SAFETY: the record is at least as long as the tracepoint's format says.
    if let Ok(child) = unsafe { ctx.read_at::<u32>(set(&FORK_CHILD_PID)) } {
        let process = Process {
            // SAFETY: helpers without pointers.
            started_ns: unsafe { bpf_ktime_get_boot_ns() },
            cgroup: unsafe { bpf_get_current_cgroup_id() },
            parent: (bpf_get_current_pid_tgid() >> 32) as u32,
            execs: 0,
            executable: [0; 128],
        };
        let _ = PROCESSES.insert(&child, &process, 0);
    }
    0
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
    let both = bpf_get_current_pid_tgid();
    // Only when the whole process ends, not one of its threads.
    if both >> 32 == both & 0xffff_ffff {
        let _ = PROCESSES.remove(&((both >> 32) as u32));
    }
    0
}
