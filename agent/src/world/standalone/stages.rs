//! The sandbox's own processes, between `bailiff run` and the command.
//!
//! The first joins the cgroup and leaves the host's namespaces; the second, which is process 1 of the new PID namespace,
//! takes the command's view of the files, gives up every privilege, and runs the command. Two, since a PID namespace begins
//! with a child. Each dies with the one before, so that nothing outlives `bailiff run`.

use std::ffi::{CStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use bailiff_kernel::{cgroup, spawn};
use caps::CapSet;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{setgid, setgroups, setuid};

use super::filter;
use super::invoker::Invoker;
use super::signals::{Signals, code};
use super::view::{self, View};

/// The first stage's name on the command line.
pub const FIRST: &str = "__sandbox-first";
/// The second stage's.
pub const SECOND: &str = "__sandbox-second";

/// How they are seen in lists of processes, rather than as the `exe` that was executed.
const PROCESS: &CStr = c"bailiff";

/// What shells say of a command that isn't there, and of one that can't be executed.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Joins the cgroup and leaves the host's namespaces. `words` are the view and the command.
pub fn first(container: &Path, words: &[OsString]) -> Result<ExitCode> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    nix::sys::prctl::set_name(PROCESS)?;
    // Whatever else was open where `bailiff run` was called stays outside, also of the second stage, into whose descriptors
    // the command could look.
    spawn::close_on_exec_from(3).context("cannot close descriptors; this needs Linux 5.11")?;
    let signals = Signals::take()?;
    cgroup::join(container, 0).context("cannot join the sandbox's cgroup")?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWCGROUP
            | CloneFlags::CLONE_NEWIPC,
    )
    .context("cannot leave the host's namespaces")?;
    let mut second = signals.spawn(
        Command::new("/proc/self/exe")
            .arg0("bailiff")
            .arg(SECOND)
            .args(words),
    )?;
    Ok(code(signals.wait(&mut second)?))
}

/// Takes the command's view, gives up every privilege, and runs the command.
pub fn second(words: &[OsString]) -> Result<ExitCode> {
    let Some((view, [program, arguments @ ..])) = words.split_first() else {
        bail!("no command")
    };
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    nix::sys::prctl::set_name(PROCESS)?;
    let view: View = serde_json::from_slice(view.as_encoded_bytes())?;
    no_directories()?;
    let signals = Signals::take()?;
    let invoker = Invoker::find();
    view::enter(&view).context("cannot set up the sandbox's view of the files")?;
    give_up(&invoker).context("cannot give up privileges")?;
    let mut command = Command::new(program);
    command.args(arguments);
    invoker.environment(&mut command);
    let mut child = match signals.spawn(&mut command) {
        Ok(child) => child,
        Err(error) => {
            eprintln!("bailiff: cannot run {}: {error}", program.display());
            return Ok(ExitCode::from(match error.kind() {
                std::io::ErrorKind::NotFound => NOT_FOUND,
                _ => NOT_EXECUTABLE,
            }));
        }
    };
    Ok(code(signals.wait_as_init(&mut child)?))
}

/// An open directory of the host's would be a door to all of its files.
fn no_directories() -> Result<()> {
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    for about in [fstat(&input), fstat(&output), fstat(&error)]
        .into_iter()
        .flatten()
    {
        if SFlag::from_bits_truncate(about.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR {
            bail!("standard input, output or error is a directory, which would lead out of the sandbox");
        }
    }
    Ok(())
}

fn give_up(invoker: &Invoker) -> Result<()> {
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Bounding)?;
    caps::clear(None, CapSet::Inheritable)?;
    if let Invoker::Other { uid, gid, groups, .. } = invoker {
        setgroups(groups)?;
        setgid(*gid)?;
        setuid(*uid)?;
    }
    nix::sys::prctl::set_no_new_privs()?;
    // The command's user is this process's: nobody is to look into it or steer it.
    nix::sys::prctl::set_dumpable(false)?;
    caps::clear(None, CapSet::Effective)?;
    caps::clear(None, CapSet::Permitted)?;
    // A change of user has cleared it.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    filter::apply().context("cannot filter system calls")
}
