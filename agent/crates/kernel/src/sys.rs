//! The system calls that have no safe wrapper elsewhere.
#![expect(
    unsafe_code,
    reason = "each call is made under a safe function that checks what the kernel asks for"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_UPDATE: libc::c_long = 29;

/// A 64-bit socket option.
pub(crate) fn socket_u64(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<u64> {
    let mut value = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or(8);
    // SAFETY: the buffer is as long as `length` says, and both outlive the call.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    if outcome == 0 {
        Ok(value)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Puts another program behind a link, in one step: no event goes without a program.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // The kernel's `union bpf_attr` for this command begins with link_fd, new_prog_fd, flags, old_prog_fd.
    let mut attributes = [0_u32; 32];
    let fd = |fd: BorrowedFd<'_>| u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX);
    attributes[0] = fd(link);
    attributes[1] = fd(program);
    // SAFETY: the attributes are longer than what the command reads, zero beyond it, and outlive the call.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_UPDATE,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Opens what is pinned at a path.
pub(crate) fn object_get(path: &std::path::Path) -> io::Result<OwnedFd> {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).map_err(io::Error::other)?;
    // The kernel's `union bpf_attr` for this command begins with the path's address, a 64-bit number.
    let mut attributes = [0_u64; 16];
    attributes[0] = path.as_ptr().addr() as u64;
    // SAFETY: the path ends with a NUL; it and the attributes outlive the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    match i32::try_from(fd) {
        // SAFETY: the call has just made this descriptor, and nothing else owns it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ids of the programs on one kind of hook of a cgroup itself, by the kernel's `enum bpf_attach_type`; at most 64.
pub(crate) fn programs_on(cgroup: BorrowedFd<'_>, hook: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; 64];
    // `union bpf_attr` for this command: target_fd and attach_type, query_flags and attach_flags, prog_ids, prog_cnt.
    let mut attributes = [0_u64; 16];
    attributes[0] = u64::try_from(cgroup.as_raw_fd()).unwrap_or(u64::MAX) | u64::from(hook) << 32;
    attributes[2] = ids.as_mut_ptr().expose_provenance() as u64;
    attributes[3] = ids.len() as u64;
    // SAFETY: the attributes say how long the buffer of ids is; both outlive the call.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            attributes.as_mut_ptr(),
            size_of_val(&attributes),
        )
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    let count = usize::try_from(attributes[3] & 0xffff_ffff).unwrap_or(0);
    Ok(ids.into_iter().take(count).collect())
}

/// CLOCK_MONOTONIC in nanoseconds: what `bpf_ktime_get_ns` gives.
pub(crate) fn monotonic_ns() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
        u64::try_from(now.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0)
    })
}
