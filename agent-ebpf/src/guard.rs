//! What doesn't go through connect(2): packets to protected addresses are dropped.
//!
//! One guard hangs on the pods' cgroup and sees what their sockets send. Packet sockets pass it, so that a second one stands on
//! the host's side of each pod's link.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{
    bpf_sk_fullsock, bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id, bpf_skb_load_bytes,
};
use aya_ebpf::macros::{cgroup_skb, classifier};
use aya_ebpf::programs::{SkBuffContext, TcContext};
use bailiff_common::{Address, Config, Counter, MAX_CGROUP_LEVELS, NOTE_DIRECT};

use crate::address::mapped;
use crate::connect::note;
use crate::maps::{ADDRESSES, config, count, protected};

const PASS: i32 = 1;
const DROP: i32 = 0;
/// Leaves the packet to whoever comes next on the same hook.
const NEXT: i32 = -1;
const SHOT: i32 = 2;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ROOT_CGROUP: u64 = 1;

/// What a packet is, as far as it matters here.
struct Packet {
    destination: Address,
    protocol: u8,
    port: u16,
    /// Not the first fragment, or an unfinished one: what follows the header can't be relied on.
    fragment: bool,
    /// TCP without payload that only acknowledges or resets.
    bare: bool,
}

#[cgroup_skb]
pub(crate) fn bailiff_egress(ctx: SkBuffContext) -> i32 {
    let skb = ctx.as_ptr();
    let Some(config) = config() else { return PASS };
    // What can't be read is no packet to a protected address: the kernel made it from a socket that it knows.
    let Some(packet) = parse(skb, 0, ctx.len()) else {
        return PASS;
    };
    if !hits(config, &packet) || is_direct(unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk }.cast()) {
        return PASS;
    }
    count(Counter::GuardDropped);
    DROP
}

#[classifier]
pub(crate) fn bailiff_host_guard(ctx: TcContext) -> i32 {
    let skb = ctx.as_ptr();
    let Some(config) = config() else { return NEXT };
    // ARP and other protocols carry nothing to a protected address; tagged frames aren't unwrapped, and are dropped.
    let mut kind = [0u8; 2];
    if !load(skb, 12, &mut kind) {
        return NEXT;
    }
    if kind == [0x81, 0x00] || kind == [0x88, 0xa8] {
        count(Counter::HostGuardDropped);
        return SHOT;
    }
    if kind != [0x08, 0x00] && kind != [0x86, 0xdd] {
        return NEXT;
    }
    let Some(packet) = parse(skb, 14, ctx.len()) else {
        // Uncertainty denies: an IP packet that can't be read comes from a packet socket.
        count(Counter::HostGuardDropped);
        return SHOT;
    };
    if !hits(config, &packet) {
        return NEXT;
    }
    let buff = ctx.skb.skb;
    // SAFETY: the context is valid for the call.
    let cgroup = unsafe { bpf_skb_cgroup_id(buff) };
    if cgroup == 0 || cgroup == ROOT_CGROUP || cgroup == config.root_cgroup {
        // Without a socket: what the kernel itself answers for the agent's connections.
        if packet.bare {
            return NEXT;
        }
    } else {
        for level in 1..MAX_CGROUP_LEVELS {
            // SAFETY: as above.
            let above = unsafe { bpf_skb_ancestor_cgroup_id(buff, level) };
            if above == 0 {
                break;
            }
            if above == config.agent_cgroup {
                return NEXT;
            }
        }
        if is_direct(unsafe { (*buff).__bindgen_anon_2.sk }.cast()) {
            return NEXT;
        }
    }
    count(Counter::HostGuardDropped);
    SHOT
}

/// Whether a packet goes to a protected address. To a host address nothing but TCP on other ports passes; to a wider prefix,
/// which may hold other things, what has another port passes.
#[inline(always)]
fn hits(config: &Config, packet: &Packet) -> bool {
    // SAFETY: the value isn't read.
    let is_host = unsafe { ADDRESSES.get(&packet.destination) }.is_some();
    if packet.fragment || !matches!(packet.protocol, TCP | UDP) {
        return is_host;
    }
    if packet.protocol == UDP && is_host {
        return true;
    }
    protected(config, &packet.destination, packet.port).is_some()
}

/// Whether the packet's socket may go direct, by the target's failure mode or because its pod is exempt.
#[inline(always)]
fn is_direct(sk: *mut c_void) -> bool {
    if sk.is_null() {
        return false;
    }
    // SAFETY: the helper checks the socket.
    let full = unsafe { bpf_sk_fullsock(sk.cast()) };
    if full.is_null() {
        return false;
    }
    let note = note(full.cast(), 0);
    // SAFETY: the socket's own storage.
    !note.is_null() && unsafe { (*note).state == NOTE_DIRECT }
}

#[inline(always)]
fn load<const N: usize>(skb: *mut c_void, at: u32, into: &mut [u8; N]) -> bool {
    // SAFETY: the helper checks the bounds of the packet; the buffer is as long as it is said to be.
    unsafe { bpf_skb_load_bytes(skb, at, into.as_mut_ptr().cast(), N as u32) == 0 }
}

#[inline(always)]
fn parse(skb: *mut c_void, at: u32, length: u32) -> Option<Packet> {
    let mut first = [0u8; 1];
    if !load(skb, at, &mut first) {
        return None;
    }
    match first[0] >> 4 {
        4 => parse_v4(skb, at, length),
        6 => parse_v6(skb, at, length),
        _ => None,
    }
}

#[inline(always)]
fn parse_v4(skb: *mut c_void, at: u32, _: u32) -> Option<Packet> {
    let mut ip = [0u8; 20];
    if !load(skb, at, &mut ip) {
        return None;
    }
    let header = u32::from(ip[0] & 0xf) * 4;
    let total = u32::from(u16::from_be_bytes([ip[2], ip[3]]));
    let destination = mapped(u32::from_ne_bytes([ip[16], ip[17], ip[18], ip[19]]));
    let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0;
    Some(transport(
        skb,
        at + header,
        destination,
        ip[9],
        fragment,
        total.saturating_sub(header),
    ))
}

#[inline(always)]
fn parse_v6(skb: *mut c_void, at: u32, _: u32) -> Option<Packet> {
    let mut ip = [0u8; 40];
    if !load(skb, at, &mut ip) {
        return None;
    }
    let mut destination = [0u8; 16];
    destination.copy_from_slice(&ip[24..40]);
    let mut payload = u32::from(u16::from_be_bytes([ip[4], ip[5]]));
    let mut protocol = ip[6];
    let mut at = at + 40;
    let mut fragment = false;
    // Hop-by-hop, routing, fragment, destination options. More of them than this nobody needs: then the protocol stays one of
    // these, and counts as no TCP.
    for _ in 0..4 {
        if !matches!(protocol, 0 | 43 | 44 | 60) {
            break;
        }
        let mut extension = [0u8; 8];
        if !load(skb, at, &mut extension) {
            fragment = true;
            break;
        }
        let long = if protocol == 44 {
            fragment = true;
            8
        } else {
            (u32::from(extension[1]) + 1) * 8
        };
        protocol = extension[0];
        at += long;
        payload = payload.saturating_sub(long);
    }
    Some(transport(skb, at, destination, protocol, fragment, payload))
}

#[inline(always)]
fn transport(
    skb: *mut c_void,
    at: u32,
    destination: Address,
    protocol: u8,
    fragment: bool,
    length: u32,
) -> Packet {
    let mut packet = Packet {
        destination,
        protocol,
        port: 0,
        fragment,
        bare: false,
    };
    let mut head = [0u8; 14];
    let mut ports = [0u8; 4];
    if fragment || !matches!(protocol, TCP | UDP) {
        return packet;
    }
    if !load(skb, at, &mut ports) {
        packet.fragment = true;
        return packet;
    }
    packet.port = u16::from_be_bytes([ports[2], ports[3]]);
    if protocol == TCP && load(skb, at, &mut head) {
        let header = u32::from(head[12] >> 4) * 4;
        let flags = head[13];
        // ACK alone, or RST with or without it.
        packet.bare = length == header && (flags & 0x3f == 0x10 || flags & 0x3b == 0);
        if flags & 0x04 != 0 {
            packet.bare = length == header && flags & 0x2b == 0;
        }
    }
    packet
}
