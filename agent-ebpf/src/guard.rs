//! What doesn't go through connect(2): packets to protected addresses are dropped.
//!
//! One guard hangs on the pods' cgroup and sees what their sockets send. Packet sockets pass it, so that a second one stands on
//! the host's side of each pod's link.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{
    bpf_sk_fullsock, bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id, bpf_skb_pull_data,
};
use aya_ebpf::macros::{cgroup_skb, classifier};
use aya_ebpf::programs::{SkBuffContext, TcContext};
use bailiff_common::{Config, Counter, EXEMPT, MAX_CGROUP_LEVELS, NOTE_DIRECT};

use crate::connect::{TCP, note};
use crate::maps::{ADDRESSES, ENROLMENTS, config, count, is_agents, maybe_protected, protected};
use crate::packet::{Packet, Reach, Start, UDP, load, parse};

const PASS: i32 = 1;
const DROP: i32 = 0;
/// Leaves the packet to whoever comes next on the same hook.
const NEXT: i32 = -1;
const SHOT: i32 = 2;
const ROOT_CGROUP: u64 = 1;
/// How much of a packet is made readable in one piece: more than the longest headers that are followed.
const HEADERS: u32 = 512;

/// The first byte of an IPv4 header without options.
const PLAIN_V4: u8 = 0x45;

/// In host order, as they stand in a packet's `protocol`.
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;
const RARP: u16 = 0x8035;

#[cgroup_skb]
pub(crate) fn bailiff_egress(ctx: SkBuffContext) -> i32 {
    let Some(config) = config() else { return PASS };
    let skb = ctx.skb.skb;
    // SAFETY: the context is valid for the call.
    let kind = u16::from_be(unsafe { (*skb).protocol } as u16);
    if is_tcp_elsewhere(config, ctx.as_ptr(), kind == IPV6) {
        return PASS;
    }
    let packet = parse(ctx.as_ptr(), Start::Data, kind == IPV6);
    if !hits(config, &packet) || is_trusted(config, skb) || is_direct(skb) {
        return PASS;
    }
    count(Counter::GuardDropped);
    DROP
}

/// Whether the packet is plain TCP to a port that no target has. Most packets are, and one look tells.
#[inline(always)]
fn is_tcp_elsewhere(config: &Config, skb: *mut c_void, is_v6: bool) -> bool {
    // By what the packet says and not by what its socket knows: the pod's own NAT may have come between.
    let port = if is_v6 {
        let mut head = [0u8; 44];
        if !load(skb, Start::Data, 0, &mut head) || head[6] != TCP as u8 {
            return false;
        }
        [head[42], head[43]]
    } else {
        let mut head = [0u8; 24];
        if !load(skb, Start::Data, 0, &mut head)
            || head[0] != PLAIN_V4
            || head[9] != TCP as u8
            || head[6] & 0x3f != 0
            || head[7] != 0
        {
            return false;
        }
        [head[22], head[23]]
    };
    !maybe_protected(config, u16::from_be_bytes(port))
}

#[classifier]
pub(crate) fn bailiff_host_guard(ctx: TcContext) -> i32 {
    let Some(config) = config() else { return NEXT };
    let skb = ctx.skb.skb;
    // The kernel has taken off one VLAN tag by now. What is left must be IP or the resolution of its addresses: anything else
    // may carry IP in a way that isn't followed here.
    // SAFETY: the context is valid for the call.
    let kind = u16::from_be(unsafe { (*skb).protocol } as u16);
    if matches!(kind, ARP | RARP) {
        return NEXT;
    }
    let mut packet = Packet::UNCLEAR;
    if matches!(kind, IPV4 | IPV6) {
        packet = parse(ctx.as_ptr(), Start::NetworkHeader, kind == IPV6);
        if packet.reach == Reach::Unclear {
            // A packet socket's ring keeps its frames in pages.
            let length = ctx.len();
            // SAFETY: the context is valid for the call.
            unsafe { bpf_skb_pull_data(skb, if length < HEADERS { length } else { HEADERS }) };
            packet = parse(ctx.as_ptr(), Start::NetworkHeader, kind == IPV6);
        }
    }
    if !hits(config, &packet) {
        return NEXT;
    }
    // SAFETY: as above.
    let cgroup = unsafe { bpf_skb_cgroup_id(skb) };
    let passes = if cgroup == 0 || cgroup == ROOT_CGROUP || cgroup == config.root_cgroup {
        // Without a socket: what the kernel itself answers for the agent's connections.
        packet.bare
    } else {
        is_trusted(config, skb) || is_direct(skb)
    };
    if passes {
        return NEXT;
    }
    count(Counter::HostGuardDropped);
    SHOT
}

/// Whether a packet may reach something protected. To a host address nothing but TCP on other ports passes; to a wider prefix,
/// which may hold other things, what has another port passes.
#[inline(always)]
fn hits(config: &Config, packet: &Packet) -> bool {
    match packet.reach {
        // Uncertainty denies, wherever it says that it goes.
        Reach::Unclear => true,
        // Without it the protected host's neighbours couldn't find each other. It carries nothing but link addresses.
        Reach::Neighbour => false,
        // SAFETY: the value isn't read.
        Reach::Host => unsafe { ADDRESSES.get(&packet.destination) }.is_some(),
        Reach::Port => {
            // SAFETY: as above.
            if packet.protocol == UDP && unsafe { ADDRESSES.get(&packet.destination) }.is_some() {
                return true;
            }
            protected(config, &packet.destination, packet.port).is_some()
        }
    }
}

/// Whether the packet's socket is the agent's, or of a cgroup that is exempt.
#[inline(always)]
fn is_trusted(config: &Config, skb: *mut __sk_buff) -> bool {
    for level in 1..MAX_CGROUP_LEVELS {
        // SAFETY: the context is valid for the call.
        let above = unsafe { bpf_skb_ancestor_cgroup_id(skb, level) };
        if above == 0 {
            return false;
        }
        if is_agents(config, above) {
            return true;
        }
        // SAFETY: the value is read at once.
        if unsafe { ENROLMENTS.get(&above) }.is_some_and(|enrolment| enrolment.flags & EXEMPT != 0) {
            return true;
        }
    }
    false
}

/// Whether the packet's socket may go direct, by the target's failure mode.
#[inline(always)]
fn is_direct(skb: *mut __sk_buff) -> bool {
    // SAFETY: the context is valid for the call.
    let sk = unsafe { (*skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return false;
    }
    // SAFETY: the helper checks the socket.
    let full = unsafe { bpf_sk_fullsock(sk) };
    if full.is_null() {
        return false;
    }
    let note = note(full.cast::<c_void>(), 0);
    // SAFETY: the socket's own storage.
    !note.is_null() && unsafe { (*note).state == NOTE_DIRECT }
}
