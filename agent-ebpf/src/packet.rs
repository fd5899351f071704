//! Where a packet goes, as far as the guards have to know.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_skb_load_bytes, bpf_skb_load_bytes_relative};
use bailiff_common::Address;

use crate::address::mapped;

const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
const ICMPV6: u8 = 58;

const NETWORK_HEADER: u32 = 1;
/// IPv6's extension headers that are followed; the standard's recommended order has five.
const MAX_EXTENSIONS: u32 = 6;
/// IPv4's options that are looked at.
const MAX_OPTIONS: u32 = 12;

/// What tells whether a packet reaches something protected.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Its destination and port.
    Port,
    /// Its destination alone: another protocol, or a fragment that comes after the one with the ports.
    Host,
    /// Nothing: it can't be read, or goes elsewhere first.
    Unclear,
    /// It asks for link addresses or tells them.
    Neighbour,
}

/// A packet.
pub(crate) struct Packet {
    pub(crate) reach: Reach,
    pub(crate) destination: Address,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
    /// TCP without payload that only acknowledges or resets.
    pub(crate) bare: bool,
}

impl Packet {
    pub(crate) const UNCLEAR: Self = Self {
        reach: Reach::Unclear,
        destination: [0; 16],
        protocol: 0,
        port: 0,
        bare: false,
    };
}

/// Where a packet's IP header begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// With the data: on cgroups.
    Data,
    /// Behind what the link has before it, if anything: on interfaces.
    NetworkHeader,
}

#[inline(always)]
pub(crate) fn parse(skb: *mut c_void, start: Start, is_v6: bool) -> Packet {
    if is_v6 {
        parse_v6(skb, start)
    } else {
        parse_v4(skb, start)
    }
}

#[inline(always)]
pub(crate) fn load<const N: usize>(skb: *mut c_void, start: Start, at: u32, into: &mut [u8; N]) -> bool {
    let into = into.as_mut_ptr().cast();
    // SAFETY: the helpers check the bounds of the packet; the buffer is as long as it is said to be.
    unsafe {
        match start {
            Start::Data => bpf_skb_load_bytes(skb, at, into, N as u32) == 0,
            Start::NetworkHeader => bpf_skb_load_bytes_relative(skb, at, into, N as u32, NETWORK_HEADER) == 0,
        }
    }
}

/// RFC 791, section 3.1.
#[inline(always)]
fn parse_v4(skb: *mut c_void, start: Start) -> Packet {
    let mut packet = Packet::UNCLEAR;
    let mut ip = [0u8; 20];
    if !load(skb, start, 0, &mut ip) || ip[0] >> 4 != 4 {
        return packet;
    }
    let header = u32::from(ip[0] & 0xf) * 4;
    if header < 20 || (header > 20 && detours(skb, start, header)) {
        return packet;
    }
    packet.destination = mapped(u32::from_ne_bytes([ip[16], ip[17], ip[18], ip[19]]));
    packet.protocol = ip[9];
    if u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff != 0 {
        packet.reach = Reach::Host;
        return packet;
    }
    let total = u32::from(u16::from_be_bytes([ip[2], ip[3]]));
    transport(skb, start, header, total.saturating_sub(header), &mut packet);
    packet
}

/// Whether IPv4's options send the packet elsewhere first, or can't be read.
#[inline(always)]
fn detours(skb: *mut c_void, start: Start, header: u32) -> bool {
    let mut at = 20;
    for _ in 0..MAX_OPTIONS {
        let mut option = [0u8; 1];
        if at >= header {
            return false;
        }
        if !load(skb, start, at, &mut option) {
            return true;
        }
        match option[0] {
            0 => return false,
            1 => at += 1,
            // Loose and strict source routes.
            131 | 137 => return true,
            _ => {
                if !load(skb, start, at + 1, &mut option) || option[0] < 2 {
                    return true;
                }
                at += u32::from(option[0]);
            }
        }
    }
    at < header
}

/// RFC 8200, sections 3 and 4.
#[inline(always)]
fn parse_v6(skb: *mut c_void, start: Start) -> Packet {
    let mut packet = Packet::UNCLEAR;
    let mut ip = [0u8; 40];
    if !load(skb, start, 0, &mut ip) || ip[0] >> 4 != 6 {
        return packet;
    }
    let mut payload = u32::from(u16::from_be_bytes([ip[4], ip[5]]));
    let mut protocol = ip[6];
    let mut at = 40;
    let mut later = false;
    // Hop-by-hop, routing, fragment, destination options.
    for _ in 0..MAX_EXTENSIONS {
        if later || !matches!(protocol, 0 | 43 | 44 | 60) {
            break;
        }
        let mut extension = [0u8; 8];
        if !load(skb, start, at, &mut extension) {
            return packet;
        }
        // Segments left: it goes elsewhere first, or this address is a stage.
        if protocol == 43 && extension[3] != 0 {
            return packet;
        }
        let mut long = 8;
        if protocol == 44 {
            later = u16::from_be_bytes([extension[2], extension[3]]) & 0xfff8 != 0;
        } else {
            long += u32::from(extension[1]) * 8;
        }
        protocol = extension[0];
        at += long;
        payload = payload.saturating_sub(long);
    }
    if !later && matches!(protocol, 0 | 43 | 44 | 60) {
        return packet; // Nobody needs more of them.
    }
    packet.destination.copy_from_slice(&ip[24..40]);
    packet.protocol = protocol;
    if later {
        packet.reach = Reach::Host;
        return packet;
    }
    transport(skb, start, at, payload, &mut packet);
    // Neighbour discovery, RFC 4861: a hop limit of 255 shows that it comes from the link itself.
    let mut kind = [0u8; 1];
    if protocol == ICMPV6
        && at == 40
        && ip[7] == 255
        && load(skb, start, at, &mut kind)
        && is_discovery(kind[0])
    {
        packet.reach = Reach::Neighbour;
    }
    packet
}

#[inline(always)]
fn is_discovery(kind: u8) -> bool {
    // Solicitation and advertisement of neighbours.
    matches!(kind, 135 | 136)
}

/// What stands behind the IP header. A packet that claims ports must have them: a first fragment without would hide them.
#[inline(always)]
fn transport(skb: *mut c_void, start: Start, at: u32, length: u32, packet: &mut Packet) {
    if !matches!(packet.protocol, TCP | UDP) {
        packet.reach = Reach::Host;
        return;
    }
    let mut ports = [0u8; 4];
    if !load(skb, start, at, &mut ports) {
        return;
    }
    packet.port = u16::from_be_bytes([ports[2], ports[3]]);
    packet.reach = Reach::Port;
    let mut head = [0u8; 14];
    if packet.protocol == TCP && load(skb, start, at, &mut head) {
        let header = u32::from(head[12] >> 4) * 4;
        let flags = head[13];
        // ACK alone, or RST with or without it.
        packet.bare = length == header
            && if flags & 0x04 != 0 {
                flags & 0x2b == 0
            } else {
                flags & 0x3f == 0x10
            };
    }
}
