//! The sandbox's own processes, between `bailiff run` and the command.
//!
//! The first joins the cgroup and leaves the host's namespaces; the second, which is process 1 of the new PID namespace,
//! covers what leads out, gives up every privilege, and runs the command. Two, since a PID namespace begins with a child.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context as _, Result};
use bailiff_kernel::cgroup;
use caps::CapSet;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

/// The first stage's name on the command line.
pub const FIRST: &str = "__sandbox-first";
/// The second stage's.
pub const SECOND: &str = "__sandbox-second";

/// Joins the cgroup and leaves the host's namespaces.
pub fn first(container: &Path, command: &[String]) -> Result<ExitCode> {
    cgroup::join(container, 0).context("cannot join the sandbox's cgroup")?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWCGROUP
            | CloneFlags::CLONE_NEWIPC,
    )
    .context("cannot leave the host's namespaces")?;
    let status = Command::new("/proc/self/exe")
        .arg(SECOND)
        .args(command)
        .status()?;
    Ok(code(status))
}

/// Covers what leads out, gives up every privilege, and runs the command.
pub fn second(command: &[String]) -> Result<ExitCode> {
    cover().context("cannot set up the sandbox's view of the files")?;
    give_up().context("cannot give up privileges")?;
    let Some((program, arguments)) = command.split_first() else {
        anyhow::bail!("no command")
    };
    let status = Command::new(program)
        .args(arguments)
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    Ok(code(status))
}

fn code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(255))
}

/// Directories that hold sockets of services, or ways to steer the kernel side.
const COVERED: [&str; 7] = [
    "/run",
    "/tmp",
    "/sys/fs/cgroup",
    "/sys/fs/bpf",
    "/sys/kernel/tracing",
    "/sys/kernel/debug",
    "/dev/shm",
];

fn cover() -> Result<()> {
    let none = None::<&str>;
    let here = std::env::current_dir()?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    // A /proc of this PID namespace: through another's, /proc/PID/root leads out.
    mount(
        Some("proc"),
        "/proc",
        Some("proc"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        none,
    )?;
    let kept = std::fs::File::open(&here)?;
    for place in COVERED {
        if Path::new(place).exists() {
            let mode = if matches!(place, "/tmp" | "/dev/shm") {
                "mode=1777"
            } else {
                "mode=0755"
            };
            mount(
                Some("tmpfs"),
                place,
                Some("tmpfs"),
                MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
                Some(mode),
            )
            .with_context(|| format!("cannot cover {place}"))?;
        }
    }
    if COVERED.iter().any(|place| here.starts_with(place)) {
        // The directory that the command starts in stays.
        std::fs::create_dir_all(&here)?;
        let from = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&kept));
        mount(Some(from.as_str()), &here, none, MsFlags::MS_BIND, none)?;
    }
    std::env::set_current_dir(&here)?;
    Ok(())
}

fn give_up() -> Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Bounding)?;
    caps::clear(None, CapSet::Inheritable)?;
    if let (true, Some(uid), Some(gid)) = (Uid::effective().is_root(), number("SUDO_UID"), number("SUDO_GID"))
    {
        setgroups(&[Gid::from_raw(gid)])?;
        setgid(Gid::from_raw(gid))?;
        setuid(Uid::from_raw(uid))?;
    }
    nix::sys::prctl::set_no_new_privs()?;
    caps::clear(None, CapSet::Effective)?;
    caps::clear(None, CapSet::Permitted)?;
    Ok(())
}
