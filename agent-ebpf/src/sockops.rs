//! TCP's callbacks: the origin is published when the local port is known, and before the SYN leaves.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock_ops;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use bailiff_common::{Counter, NOTE_DIVERTED, OriginKey};

use crate::address::{is_loopback, mapped, read_words};
use crate::connect::note;
use crate::maps::{ORIGINS, count};

const CONNECT: u32 = 3;
const STATE: u32 = 10;
const STATE_FLAG: i32 = 4;
const TCP_CLOSE: u32 = 7;
const AF_INET: u32 = 2;
const NOEXIST: u64 = 1;
const EEXIST: i32 = -17;

#[sock_ops]
pub(crate) fn bailiff_sockops(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        CONNECT => connecting(&ctx),
        STATE if ctx.arg(1) == TCP_CLOSE => closed(&ctx),
        _ => {}
    }
    1
}

#[inline(always)]
fn connecting(ctx: &SockOpsContext) {
    if !goes_to_loopback(ctx) {
        return; // Neither diverted nor able to inherit what a refused connect left.
    }
    let key = key(ctx);
    // SAFETY: the context is valid for the call.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    let note = if sk.is_null() {
        core::ptr::null_mut()
    } else {
        note(sk.cast(), 0)
    };
    // SAFETY: the socket's own storage.
    let diverted = !note.is_null()
        && unsafe {
            (*note).state == NOTE_DIVERTED
                && u32::from((*note).origin.listener_port) == u32::from(key.listener_port)
        };
    if !diverted {
        // An entry that a refused connect left must not be inherited by whoever gets its port next.
        let _ = ORIGINS.remove(&key);
        return;
    }
    // SAFETY: as above.
    let origin = unsafe { &(*note).origin };
    let _ = ORIGINS.remove(&OriginKey {
        netns: origin.socket,
        ..OriginKey::default()
    });
    match ORIGINS.insert(&key, origin, NOEXIST) {
        Ok(()) => {}
        Err(error) => {
            // Sockets that are bound to devices may have one address and port between them. Uncertainty denies: of two that
            // may be meant, neither is.
            if error == EEXIST {
                let _ = ORIGINS.remove(&key);
            }
            count(Counter::OriginLost);
        }
    }
    let _ = ctx.set_cb_flags(STATE_FLAG);
}

/// Takes the origin away with the connection, so that whoever gets its port next doesn't inherit it. One that another socket has
/// published there stays.
#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    let key = key(ctx);
    // SAFETY: the context is valid for the call; the value is read at once.
    unsafe {
        let cookie = bpf_get_socket_cookie(ctx.as_ptr());
        if ORIGINS.get(&key).is_some_and(|origin| origin.socket == cookie) {
            let _ = ORIGINS.remove(&key);
        }
    }
}

#[inline(always)]
fn goes_to_loopback(ctx: &SockOpsContext) -> bool {
    if ctx.family() == AF_INET {
        loopback_v4(ctx.ops)
    } else {
        loopback_v6(ctx.ops)
    }
}

// Functions of their own, for the reason told below.
#[inline(never)]
fn loopback_v4(ops: *mut bpf_sock_ops) -> bool {
    // SAFETY: the context is valid for the call.
    is_loopback(&mapped(unsafe { (*ops).remote_ip4 }))
}

#[inline(never)]
fn loopback_v6(ops: *mut bpf_sock_ops) -> bool {
    // SAFETY: as above.
    is_loopback(&unsafe { read_words(&raw const (*ops).remote_ip6) })
}

#[inline(always)]
fn key(ctx: &SockOpsContext) -> OriginKey {
    // SAFETY: the context is valid for the call.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let mut key = OriginKey {
        netns,
        client_port: ctx.local_port() as u16,
        // In network order, in the upper half.
        listener_port: u32::from_be(ctx.remote_port()) as u16,
        ..OriginKey::default()
    };
    if ctx.family() == AF_INET {
        addresses_v4(ctx.ops, &mut key)
    } else {
        addresses_v6(ctx.ops, &mut key)
    };
    key
}

// Functions of their own: in one, the compiler computes the fields' place first and loads them after the branch, and the
// verifier answers "dereference of modified ctx ptr R6 off=24 disallowed".
#[inline(never)]
fn addresses_v4(ops: *mut bpf_sock_ops, key: &mut OriginKey) -> u32 {
    // SAFETY: the context is valid for the call.
    let (local, remote) = unsafe { ((*ops).local_ip4, (*ops).remote_ip4) };
    key.client = mapped(local);
    key.listener = mapped(remote);
    0
}

#[inline(never)]
fn addresses_v6(ops: *mut bpf_sock_ops, key: &mut OriginKey) -> u32 {
    // SAFETY: the context is valid for the call.
    unsafe {
        key.client = read_words(&raw const (*ops).local_ip6);
        key.listener = read_words(&raw const (*ops).remote_ip6);
    }
    0
}
