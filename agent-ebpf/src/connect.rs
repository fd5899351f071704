//! connect(2) and getpeername(2), and the making and closing of sockets.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{bpf_sock, bpf_sock_tuple};
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_netns_cookie,
    bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_set_retval, bpf_setsockopt, bpf_sk_lookup_tcp,
    bpf_sk_release, bpf_sk_storage_get,
};
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid};
use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use bailiff_common::{
    Address, Config, Counter, EXEMPT, Enrolment, MAX_CGROUP_LEVELS, NOTE_DIRECT, NOTE_DIVERTED, OriginKey,
    SocketNote,
};

use crate::address::{is_loopback, is_mapped, mapped, read_words, word};
use crate::maps::{
    HEARTBEAT, ORIGINS, PROCESSES, SOCKETS, config, count, current_pod, is_agents, maybe_protected, protected,
};
use crate::tell;

const PASS: i32 = 1;
const REFUSE: i32 = 0;
const ECONNREFUSED: i32 = 111;
pub(crate) const TCP: u32 = 6;
const SOCK_STREAM: u32 = 1;
const SOL_SOCKET: i32 = 1;
const SO_BINDTODEVICE: i32 = 25;
/// The loopback is every namespace's first device.
const LOOPBACK: u32 = 1;
const CREATE: u64 = 1;
const CURRENT_NETNS: u64 = u64::MAX;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

#[cgroup_sock_addr(connect4)]
pub(crate) fn bailiff_connect4(ctx: SockAddrContext) -> i32 {
    verdict(&ctx, Family::V4)
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn bailiff_connect6(ctx: SockAddrContext) -> i32 {
    verdict(&ctx, Family::V6)
}

/// Uncertainty denies: whatever isn't let through is refused, in a way after which clients try again.
#[inline(always)]
fn verdict(ctx: &SockAddrContext, family: Family) -> i32 {
    match try_connect(ctx, family) {
        Ok(()) => PASS,
        Err(counter) => {
            count(counter);
            // SAFETY: the context is valid for the call.
            let port = unsafe { u16::from_be((*ctx.sock_addr).user_port as u16) };
            tell::refused(ctx, counter, &asked_for(ctx, family), port);
            // SAFETY: a helper without pointers.
            unsafe { bpf_set_retval(-ECONNREFUSED) };
            REFUSE
        }
    }
}

#[inline(always)]
fn try_connect(ctx: &SockAddrContext, family: Family) -> Result<(), Counter> {
    // SAFETY: the kernel gives a context that is valid for the call.
    let addr = unsafe { &mut *ctx.sock_addr };
    if addr.protocol != TCP || addr.type_ != SOCK_STREAM {
        return Ok(()); // The guard deals with what isn't TCP.
    }
    let Some(config) = config() else { return Ok(()) };
    let port = u16::from_be(addr.user_port as u16);
    if !maybe_protected(config, port) && !maybe_listener(port) {
        return Ok(());
    }
    let destination = asked_for(ctx, family);
    let Some(target) = protected(config, &destination, port) else {
        return if is_loopback(&destination) {
            not_the_listener(ctx, port)
        } else {
            Ok(())
        };
    };
    // SAFETY: a helper without pointers.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    let sk: *mut bpf_sock = unsafe { addr.__bindgen_anon_1.sk };
    if sk.is_null() {
        return Err(Counter::RefusedError);
    }
    let note = note(sk.cast(), CREATE);
    if note.is_null() {
        return Err(Counter::RefusedError);
    }
    // SAFETY: the socket's own storage, valid for the call.
    let note = unsafe { &mut *note };
    // What held for an earlier connect with this socket doesn't hold for this one.
    note.state = 0;
    let Some((pod_cgroup, enrolment)) = current_pod() else {
        // A kernel thread that reconnects for the kernel itself (NFS): refusing that has frozen nodes elsewhere. Its socket
        // was made by no task, and it stands in the hierarchy's root.
        if cgroup == config.root_cgroup && note.creator_tgid == 0 {
            return Ok(());
        }
        return Err(Counter::RefusedUnenrolled);
    };
    if enrolment.flags & EXEMPT != 0 {
        count(Counter::Exempt);
        note.state = NOTE_DIRECT;
        return Ok(());
    }
    // SAFETY: the context is valid for the call.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    if netns != enrolment.netns {
        return Err(Counter::RefusedNamespace);
    }
    if !reaches_loopback(ctx, sk) {
        return Err(Counter::RefusedError);
    }
    // SAFETY: as above.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    if !agent_answers(ctx, config, family, &destination, enrolment.port) {
        if target.open == 0 {
            return Err(Counter::RefusedAgent);
        }
        count(Counter::Direct);
        note.state = NOTE_DIRECT;
        return Ok(());
    }
    // Whatever the failure mode: it is for an agent that doesn't answer, and a pod can fill the map by itself.
    if !reserve(cookie, note.creator_tgid != 0) {
        return Err(Counter::RefusedFull);
    }
    describe(note, cookie, pod_cgroup, cgroup, &destination, port, &enrolment);
    divert(ctx, family, &destination, enrolment.port);
    count(Counter::Diverted);
    Ok(())
}

/// Whether a port may be one of the agent's listeners: only ephemeral ones are, and there are few connects to those.
#[inline(always)]
fn maybe_listener(port: u16) -> bool {
    port >= 1024
}

/// Refuses a dial of the pod's own listener: what it accepts must have been diverted. In an inner namespace the port is somebody
/// else's.
#[inline(always)]
fn not_the_listener(ctx: &SockAddrContext, port: u16) -> Result<(), Counter> {
    match current_pod() {
        Some((_, enrolment)) if enrolment.port == port || enrolment.old_port == port => {
            // SAFETY: the context is valid for the call.
            if unsafe { bpf_get_netns_cookie(ctx.as_ptr()) } == enrolment.netns {
                return Err(Counter::RefusedListener);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

#[inline(always)]
fn asked_for(ctx: &SockAddrContext, family: Family) -> Address {
    let addr = ctx.sock_addr;
    // SAFETY: the context is valid for the call.
    unsafe {
        match family {
            Family::V4 => mapped((*addr).user_ip4),
            Family::V6 => read_words(&raw const (*addr).user_ip6),
        }
    }
}

/// Undoes a socket's binding to a device, from which it would never reach the loopback. The kernel asks the caller for
/// CAP_NET_RAW, so that this fails for others.
#[inline(always)]
fn reaches_loopback(ctx: &SockAddrContext, sk: *mut bpf_sock) -> bool {
    // SAFETY: the context, its socket and the option's value are valid for the call.
    unsafe {
        let mut none = 0u32;
        matches!((*sk).bound_dev_if, 0 | LOOPBACK)
            || bpf_setsockopt(
                ctx.as_ptr(),
                SOL_SOCKET,
                SO_BINDTODEVICE,
                (&raw mut none).cast(),
                4,
            ) == 0
    }
}

#[inline(always)]
fn divert(ctx: &SockAddrContext, family: Family, destination: &Address, port: u16) {
    // SAFETY: the context is valid for the call.
    let addr = unsafe { &mut *ctx.sock_addr };
    let v4 = u32::from_ne_bytes([127, 0, 0, 1]);
    match family {
        Family::V4 => addr.user_ip4 = v4,
        Family::V6 => {
            let mapped = is_mapped(destination);
            addr.user_ip6[0] = 0;
            addr.user_ip6[1] = 0;
            addr.user_ip6[2] = if mapped {
                u32::from_ne_bytes([0, 0, 0xff, 0xff])
            } else {
                0
            };
            addr.user_ip6[3] = if mapped {
                v4
            } else {
                u32::from_ne_bytes([0, 0, 0, 1])
            };
        }
    }
    addr.user_port = u32::from(port.to_be());
}

/// Whether the agent showed recently that it lives, and listens in this namespace.
#[inline(always)]
fn agent_answers(
    ctx: &SockAddrContext,
    config: &Config,
    family: Family,
    destination: &Address,
    port: u16,
) -> bool {
    let Some(beat) = HEARTBEAT.get(0) else {
        return false;
    };
    // SAFETY: a helper without pointers.
    let now = unsafe { bpf_ktime_get_ns() };
    if now.saturating_sub(*beat) > config.heartbeat_max_age_ns {
        return false;
    }
    // SAFETY: plain data.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let size = if family == Family::V6 && !is_mapped(destination) {
        let one = u32::from_ne_bytes([0, 0, 0, 1]);
        // SAFETY: fields of a union of plain data.
        unsafe {
            tuple.__bindgen_anon_1.ipv6.saddr[3] = one;
            tuple.__bindgen_anon_1.ipv6.daddr[3] = one;
            tuple.__bindgen_anon_1.ipv6.dport = port.to_be();
        }
        36
    } else {
        let v4 = u32::from_ne_bytes([127, 0, 0, 1]);
        tuple.__bindgen_anon_1.ipv4.saddr = v4;
        tuple.__bindgen_anon_1.ipv4.daddr = v4;
        tuple.__bindgen_anon_1.ipv4.dport = port.to_be();
        12
    };
    // SAFETY: context and tuple are valid for the call; what is found is released.
    unsafe {
        let found = bpf_sk_lookup_tcp(ctx.as_ptr(), &raw mut tuple, size, CURRENT_NETNS, 0);
        if found.is_null() {
            return false;
        }
        // Once the agent's listener has gone, anybody in the pod may take its port. Their sockets are noted, the agent's aren't.
        let note = note(found.cast(), 0);
        let is_agents = note.is_null() || is_agents(config, (*note).creator_pod_cgroup);
        bpf_sk_release(found.cast());
        is_agents
    }
}

/// Keeps a place free for the origin, since the place where it is published can't refuse any more.
///
/// A socket that the kernel made for another one (MPTCP) is never released in a way that is told here. Its place isn't kept, or
/// it would never be given back; it is only seen that there is one.
#[inline(always)]
fn reserve(cookie: u64, is_released: bool) -> bool {
    let key = OriginKey {
        netns: cookie,
        ..OriginKey::default()
    };
    // An entry of zeros: a place.
    let place = bailiff_common::Origin::default();
    let kept = ORIGINS.insert(&key, &place, 0).is_ok();
    if kept && !is_released {
        let _ = ORIGINS.remove(&key);
    }
    kept
}

#[inline(always)]
fn describe(
    note: &mut SocketNote,
    cookie: u64,
    pod_cgroup: u64,
    cgroup: u64,
    destination: &Address,
    port: u16,
    enrolment: &Enrolment,
) {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let uid_gid = bpf_get_current_uid_gid();
    note.state = NOTE_DIVERTED;
    let origin = &mut note.origin;
    origin.socket = cookie;
    origin.pod_cgroup = pod_cgroup;
    origin.cgroup = cgroup;
    origin.creator_pod_cgroup = note.creator_pod_cgroup;
    origin.creator_tgid = note.creator_tgid;
    origin.tgid = tgid;
    origin.uid = uid_gid as u32;
    origin.gid = (uid_gid >> 32) as u32;
    origin.destination = *destination;
    origin.port = port;
    origin.listener_port = enrolment.port;
    // SAFETY: the value is read at once.
    origin.started_ns = unsafe { PROCESSES.get(&tgid) }.map_or(0, |process| process.started_ns);
    if let Ok(comm) = bpf_get_current_comm() {
        origin.comm = comm;
    }
}

/// The socket's own storage.
#[inline(always)]
pub(crate) fn note(sk: *mut c_void, flags: u64) -> *mut SocketNote {
    // SAFETY: the helper checks the socket; the map's address is what it takes for a map.
    unsafe {
        bpf_sk_storage_get(
            (&raw const SOCKETS).cast_mut().cast(),
            sk,
            core::ptr::null_mut(),
            flags,
        )
    }
    .cast()
}

/// Whether the current task is the agent's, whose cgroup may lie among the pods'.
#[inline(always)]
fn is_agent() -> bool {
    let Some(config) = config() else { return false };
    for level in 1..MAX_CGROUP_LEVELS {
        // SAFETY: a helper without pointers.
        let cgroup = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if cgroup == 0 {
            break;
        }
        if is_agents(config, cgroup) {
            return true;
        }
    }
    false
}

#[cgroup_sock(sock_create)]
pub(crate) fn bailiff_sock_create(ctx: SockContext) -> i32 {
    // SAFETY: the context is the socket.
    if unsafe { (*ctx.sock).type_ } != SOCK_STREAM || is_agent() {
        return PASS;
    }
    let note = note(ctx.as_ptr(), CREATE);
    if !note.is_null() {
        // SAFETY: the socket's own storage.
        let note = unsafe { &mut *note };
        note.creator_tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
        note.creator_pod_cgroup = match current_pod() {
            Some((cgroup, _)) => cgroup,
            // SAFETY: a helper without pointers.
            None => unsafe { bpf_get_current_cgroup_id() },
        };
    }
    PASS
}

/// Gives the place back that was kept for a connect which came to nothing.
#[cgroup_sock(sock_release)]
pub(crate) fn bailiff_sock_release(ctx: SockContext) -> i32 {
    let note = note(ctx.as_ptr(), 0);
    if !note.is_null() {
        // SAFETY: the socket's own storage.
        let cookie = unsafe { (*note).origin.socket };
        if cookie != 0 {
            let _ = ORIGINS.remove(&OriginKey {
                netns: cookie,
                ..OriginKey::default()
            });
        }
    }
    PASS
}

#[cgroup_sock_addr(getpeername4)]
pub(crate) fn bailiff_getpeername4(ctx: SockAddrContext) -> i32 {
    show_asked_for(&ctx, Family::V4);
    PASS
}

#[cgroup_sock_addr(getpeername6)]
pub(crate) fn bailiff_getpeername6(ctx: SockAddrContext) -> i32 {
    show_asked_for(&ctx, Family::V6);
    PASS
}

/// Shows the address that was asked for, if the real peer is the listener.
#[inline(always)]
fn show_asked_for(ctx: &SockAddrContext, family: Family) {
    let peer = asked_for(ctx, family);
    if !is_loopback(&peer) {
        return;
    }
    // SAFETY: the context is valid for the call.
    let addr = unsafe { &mut *ctx.sock_addr };
    let port = u16::from_be(addr.user_port as u16);
    let sk: *mut bpf_sock = unsafe { addr.__bindgen_anon_1.sk };
    if sk.is_null() {
        return;
    }
    let note = note(sk.cast(), 0);
    let mut found = None;
    if !note.is_null() {
        // SAFETY: the socket's own storage.
        let note = unsafe { &*note };
        if note.state == NOTE_DIVERTED && note.origin.listener_port == port {
            found = Some((note.origin.destination, note.origin.port));
        }
    }
    if found.is_none() {
        // The socket of an MPTCP connection isn't the one that was diverted.
        // SAFETY: reads of the socket's fields, each by itself.
        let (local, local_port) = unsafe { local_of(&*sk, family) };
        // SAFETY: the context is valid for the call.
        let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
        let key = OriginKey {
            netns,
            client: local,
            listener: peer,
            client_port: local_port,
            listener_port: port,
            _pad: 0,
        };
        // SAFETY: the value is copied at once.
        found = unsafe { ORIGINS.get(&key) }.map(|origin| (origin.destination, origin.port));
    }
    let Some((destination, port)) = found else { return };
    match family {
        Family::V4 => addr.user_ip4 = word(&destination, 12),
        Family::V6 => {
            addr.user_ip6[0] = word(&destination, 0);
            addr.user_ip6[1] = word(&destination, 4);
            addr.user_ip6[2] = word(&destination, 8);
            addr.user_ip6[3] = word(&destination, 12);
        }
    }
    addr.user_port = u32::from(port.to_be());
}

/// A socket's local address and port.
///
/// # Safety
/// The socket must come from the context.
#[inline(always)]
unsafe fn local_of(sk: &bpf_sock, family: Family) -> (Address, u16) {
    let address = match family {
        Family::V4 => mapped(sk.src_ip4),
        // SAFETY: a field of a valid reference.
        Family::V6 => unsafe { read_words(&raw const sk.src_ip6) },
    };
    (address, sk.src_port as u16)
}
