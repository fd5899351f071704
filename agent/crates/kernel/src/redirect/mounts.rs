//! File systems that are mounted where they aren't, and unmounted after. Other instances may use them by then.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::sys::statfs::statfs;

use crate::KernelError;

const MAGIC: i64 = 0xcafe_4a11;
/// Where it is by custom, so that instances share it.
const USUAL: &str = "/sys/fs/bpf";

/// A directory for pins. While this lives, nobody else can unmount what it lies on: when a bpf file system goes, so does all that
/// only a pin keeps, whoever's it is.
#[derive(Debug)]
pub(super) struct BpfFs {
    directory: File,
    mounted: Option<PathBuf>,
}

impl BpfFs {
    /// Makes the directory, and mounts a bpf file system for it where there is none.
    pub(super) fn with(pins: &Path) -> Result<Self, KernelError> {
        let _alone = alone()?;
        let mounted = mount(pins)?;
        let made = std::fs::create_dir_all(pins).and_then(|()| File::open(pins));
        let directory = made.map_err(KernelError::system(format!("cannot make {}", pins.display())))?;
        Ok(Self { directory, mounted })
    }

    /// Unmounts what was mounted here, unless others have pins there or are about to.
    pub(super) fn leave(self) -> Result<(), KernelError> {
        let _alone = alone()?;
        drop(self.directory);
        let Some(mounted) = self.mounted else {
            return Ok(());
        };
        // The kernel puts iterators of its own there.
        let is_used = std::fs::read_dir(&mounted)
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| !entry.file_name().to_string_lossy().ends_with(".debug"));
        if !is_used {
            // While another instance has its directory open, this fails, and it stays.
            let _ = nix::mount::umount(&mounted);
        }
        Ok(())
    }
}

/// Where the tracepoints are described: attaching asks it for their numbers. While this lives, nobody else can unmount it.
#[derive(Debug)]
pub(super) struct TraceFs {
    _directory: Option<File>,
    /// True if it was mounted for this.
    pub(super) mounted: bool,
}

const TRACING: &str = "/sys/kernel/tracing";

impl TraceFs {
    /// Mounts it where it isn't.
    pub(super) fn mounted() -> Result<Self, KernelError> {
        let _alone = alone()?;
        let place = Path::new(TRACING);
        let is_there = place.join("events").exists();
        let mounted = !is_there && !Path::new("/sys/kernel/debug/tracing/events").exists();
        if mounted {
            nix::mount::mount(
                Some("tracefs"),
                place,
                Some("tracefs"),
                nix::mount::MsFlags::empty(),
                None::<&str>,
            )
            .map_err(|error| {
                KernelError::system(format!("cannot mount tracefs on {TRACING}"))(error.into())
            })?;
        }
        Ok(Self {
            _directory: File::open(place).ok(),
            mounted,
        })
    }

    /// Unmounts it, unless another instance is attaching.
    pub(super) fn unmount() -> Result<(), KernelError> {
        let _alone = alone()?;
        let _ = nix::mount::umount(TRACING);
        Ok(())
    }
}

/// Nobody else mounts or unmounts until this is dropped.
fn alone() -> Result<File, KernelError> {
    File::open("/sys/fs")
        .and_then(|directory| directory.lock().map(|()| directory))
        .map_err(KernelError::system("cannot lock /sys/fs"))
}

/// Mounts a bpf file system above the directory for pins, where there is none. The place, if it was mounted here.
fn mount(pins: &Path) -> Result<Option<PathBuf>, KernelError> {
    let existing = pins
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    if statfs(existing).is_ok_and(|about| about.filesystem_type().0 == MAGIC) {
        return Ok(None);
    }
    let place = if pins.starts_with(USUAL) {
        Path::new(USUAL)
    } else {
        pins.parent().unwrap_or(pins)
    };
    std::fs::create_dir_all(place)
        .map_err(KernelError::system(format!("cannot make {}", place.display())))?;
    nix::mount::mount(
        Some("bpf"),
        place,
        Some("bpf"),
        nix::mount::MsFlags::empty(),
        Some("mode=0700"),
    )
    .map_err(|error| {
        KernelError::system(format!("cannot mount a bpf file system on {}", place.display()))(error.into())
    })?;
    Ok(Some(place.to_owned()))
}
