//! What has to happen between fork and exec.
#![expect(
    unsafe_code,
    reason = "close_range and signal have no safe wrappers, and what runs after fork must be safe there"
)]

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};

/// Lets a command begin with these signals blocked and no others, whatever the starting thread blocks.
pub fn with_signal_mask(command: &mut Command, mask: SigSet) {
    // SAFETY: between fork and exec only one system call is made, which takes no lock and allocates nothing.
    unsafe {
        command.pre_exec(move || Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None)?));
    }
}

/// Has the ends of children told to this process, also where it was started by one that ignores them.
pub fn hear_of_children() -> io::Result<()> {
    // SAFETY: no handler is installed, so that nothing runs at the signal.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    Ok(())
}

/// Keeps descriptors from `first` on from everything that is executed from now on. Needs Linux 5.11.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: no memory is passed, and no descriptor is closed here: one that is in use stays usable.
    let outcome = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
