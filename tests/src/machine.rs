//! The machine that all tests share, also those of another checkout: who is on it, and what is on it.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};

static SHARED: OnceLock<Flock<File>> = OnceLock::new();

fn lock(how: FlockArg) -> Result<Flock<File>> {
    let path = std::env::temp_dir().join("bailiff-tests.lock");
    let file = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    Flock::lock(file, how).map_err(|(_, error)| error.into())
}

/// Notes that this process makes namespaces, cgroups and pins, for as long as it lives.
pub(crate) fn share() -> Result<()> {
    if SHARED.get().is_none() {
        let _ = SHARED.set(lock(FlockArg::LockShared)?);
    }
    Ok(())
}

/// The machine without any other tests, until this is dropped. Waits for them to end; so a process that asks for it must not
/// have called [`crate::can_be_root`] before, and runs its tests one at a time.
#[derive(Debug)]
pub struct Alone(#[expect(dead_code, reason = "held, not read")] Flock<File>);

impl Alone {
    /// Waits until no other process tests here.
    pub fn wait() -> Result<Self> {
        Ok(Self(lock(FlockArg::LockExclusive)?))
    }
}

/// What is loaded, attached, pinned and made on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing(BTreeSet<String>);

impl Listing {
    /// As it is now: programs, links, maps, pins, mounts of bpf and trace file systems, network namespaces, interfaces, cgroups.
    pub fn now() -> Result<Self> {
        let mut all = BTreeSet::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        for program in aya::programs::loaded_programs().flatten() {
            all.insert(format!("program {} {}", program.id(), text(program.name())));
        }
        for link in aya::programs::loaded_links().flatten() {
            all.insert(format!("link {} of program {}", link.id(), link.program_id()));
        }
        for map in aya::maps::loaded_maps().flatten() {
            all.insert(format!("map {} {}", map.id(), text(map.name())));
        }
        for line in std::fs::read_to_string("/proc/self/mounts")?.lines() {
            let mut words = line.split(' ').skip(1);
            if let (Some(place), Some("bpf" | "tracefs")) = (words.next(), words.next()) {
                all.insert(format!("mount {place}"));
                if place != "/sys/kernel/tracing" && place != "/sys/kernel/debug/tracing" {
                    walk(Path::new(place), &mut |path| {
                        all.insert(format!("pin {}", path.display()));
                    });
                }
            }
        }
        walk(&bailiff_kernel::cgroup::mount()?, &mut |path| {
            if path.is_dir() {
                all.insert(format!("cgroup {}", path.display()));
            }
        });
        for process in std::fs::read_dir("/proc")?.flatten() {
            if let Ok(netns) = std::fs::read_link(process.path().join("ns/net")) {
                all.insert(format!("netns {}", netns.display()));
            }
        }
        for interface in nix::net::if_::if_nameindex()?.iter() {
            all.insert(format!("interface {}", interface.name().to_string_lossy()));
        }
        walk(Path::new("/run/netns"), &mut |path| {
            all.insert(format!("netns {}", path.display()));
        });
        Ok(Self(all))
    }

    /// The same once it hasn't changed for a while: the kernel frees things late.
    pub fn settled() -> Result<Self> {
        let mut last = Self::now()?;
        for _ in 0..40 {
            std::thread::sleep(Duration::from_millis(500));
            let now = Self::now()?;
            if now == last {
                return Ok(now);
            }
            last = now;
        }
        anyhow::bail!("programs, namespaces or cgroups come and go on this machine all the time")
    }

    /// What is here and not in another one.
    #[must_use]
    pub fn beyond(&self, other: &Self) -> Vec<String> {
        self.0.difference(&other.0).cloned().collect()
    }
}

fn walk(directory: &Path, found: &mut dyn FnMut(PathBuf)) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, found);
        }
        found(path);
    }
}
