//! What is made anew in every sandbox: /dev and /proc.

use std::fs::{self, File};
use std::io::IsTerminal;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{FileStat, fstat};

use super::{NOTHING, inside, opened, through};

/// A /dev with the devices that no program can do without, and terminals of its own.
pub(super) fn devices() -> Result<()> {
    let none = None::<&str>;
    let dev = inside(Path::new("/dev"));
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), &dev, Some("tmpfs"), quiet, Some("mode=0755"))?;
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        let place = dev.join(name);
        File::create(&place)?;
        mount(
            Some(&Path::new("/dev").join(name)),
            &place,
            none,
            MsFlags::MS_BIND,
            none,
        )
        .with_context(|| format!("cannot show /dev/{name}"))?;
    }
    for (name, to) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        symlink(to, dev.join(name))?;
    }
    for name in ["pts", "shm"] {
        fs::create_dir(dev.join(name))?;
    }
    mount(
        Some("devpts"),
        &dev.join("pts"),
        Some("devpts"),
        quiet,
        Some("newinstance,ptmxmode=0666,mode=620"),
    )?;
    mount(
        Some("tmpfs"),
        &dev.join("shm"),
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=1777"),
    )?;
    // The terminal keeps a name, though its own is another instance's.
    if let Some(terminal) = terminal() {
        let place = dev.join("console");
        File::create(&place)?;
        mount(Some(&through(&terminal)), &place, none, MsFlags::MS_BIND, none)?;
    }
    mount(
        none,
        &dev,
        none,
        MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | quiet,
        none,
    )?;
    Ok(())
}

/// The terminal among standard input, output and error, by its path: what is open already belongs to the mounts of the namespace
/// where it was opened, and those can't be bound here.
fn terminal() -> Option<OwnedFd> {
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let streams = [input.as_fd(), output.as_fd(), error.as_fd()];
    let stream = streams.into_iter().find(IsTerminal::is_terminal)?;
    let here = opened(&fs::read_link(format!("/proc/self/fd/{}", stream.as_raw_fd())).ok()?).ok()?;
    let same =
        |a: FileStat, b: FileStat| a.st_rdev == b.st_rdev && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
    same(fstat(stream).ok()?, fstat(&here).ok()?).then_some(here)
}

/// A /proc of this PID namespace: through another's, /proc/PID/root leads out. What steers the kernel is read-only in it, since
/// much of it asks only for root's number.
pub(super) fn processes() -> Result<()> {
    let none = None::<&str>;
    let proc = inside(Path::new("/proc"));
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), &proc, Some("proc"), quiet, none)?;
    for entry in fs::read_dir(&proc)?.flatten() {
        let name = entry.file_name();
        let is_process = name.to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
        let about = entry.metadata()?;
        let steers = about.is_dir() || about.mode() & 0o222 != 0;
        if is_process || about.is_symlink() {
            continue;
        }
        let place = entry.path();
        if ["kcore", "keys", "key-users", "kmsg", "timer_list", "vmallocinfo"]
            .iter()
            .any(|hidden| name == *hidden)
        {
            mount(Some(NOTHING), &place, none, MsFlags::MS_BIND, none)?;
        } else if steers {
            mount(Some(&place), &place, none, MsFlags::MS_BIND, none)?;
        } else {
            continue;
        }
        mount(
            none,
            &place,
            none,
            MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | quiet,
            none,
        )?;
    }
    Ok(())
}
