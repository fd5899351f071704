//! Tells the agent's log of refusals, so that whoever is refused finds out why.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::warn;
use bailiff_common::{Address, Counter};

/// A processor tells of no more than one refusal in this time: a pod that is refused all day must not fill the log.
const PAUSE_NS: u64 = 100_000_000;

#[map]
static TOLD: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Tells of a refused connect, unless another one was told of a moment ago.
#[inline(never)]
pub(crate) fn refused(ctx: &SockAddrContext, why: Counter, to: &Address, port: u16) -> i32 {
    let Some(last) = TOLD.get_ptr_mut(0) else { return 0 };
    // SAFETY: helpers without pointers; the map gave the pointer, and each processor has its own.
    unsafe {
        let now = bpf_ktime_get_ns();
        if now - *last < PAUSE_NS {
            return 0;
        }
        *last = now;
    }
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let to = *to;
    match why {
        Counter::RefusedUnenrolled => warn!(
            ctx,
            "refused process {} to {:i} port {}: its cgroup belongs to no enrolled pod", pid, to, port
        ),
        Counter::RefusedNamespace => warn!(
            ctx,
            "refused process {} to {:i} port {}: it is in another network namespace than its pod",
            pid,
            to,
            port
        ),
        Counter::RefusedAgent => warn!(
            ctx,
            "refused process {} to {:i} port {}: the agent doesn't answer, and failureMode is Closed",
            pid,
            to,
            port
        ),
        Counter::RefusedListener => warn!(
            ctx,
            "refused process {} to {:i} port {}: that is the agent's own listener", pid, to, port
        ),
        Counter::RefusedFull => warn!(
            ctx,
            "refused process {} to {:i} port {}: too many connections are open on this node", pid, to, port
        ),
        _ => warn!(ctx, "refused process {} to {:i} port {}", pid, to, port),
    }
    0
}
