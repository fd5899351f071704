//! One `bailiff run` among others on the machine: its cgroup, its names, and the removal of what dead ones left.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use bailiff_kernel::cgroup;
use nix::fcntl::{Flock, FlockArg};

use super::sandbox;

const NAME: &str = "bailiff-";
const PINS: &str = "/sys/fs/bpf";

/// The cgroup of this instance; it goes with it. While a process is in its `agent` part, the instance lives: that is how others
/// tell, in whichever PID namespace they are.
#[derive(Debug)]
pub struct Instance {
    root: PathBuf,
    before: PathBuf,
    tag: String,
}

impl Instance {
    /// Removes what dead instances left, and makes one for the calling process.
    pub fn create() -> Result<Self> {
        let mount = cgroup::mount()?;
        // Between making the cgroup and joining it, an instance looks dead.
        let Ok(_alone) = Flock::lock(File::open(&mount)?, FlockArg::LockExclusive) else {
            bail!("cannot lock {}", mount.display())
        };
        clear_leftovers(&mount);
        let first = std::process::id();
        for attempt in 0..64_u32 {
            // The number is taken where another PID namespace has the same.
            let tag = format!("{:x}", first.wrapping_add(attempt << 22));
            let root = mount.join(format!("{NAME}{tag}"));
            match fs::create_dir(&root) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error).with_context(|| format!("cannot make {}", root.display())),
            }
            let this = Self {
                before: cgroup::current()?,
                root,
                tag,
            };
            fs::create_dir(this.agent_cgroup())?;
            fs::create_dir(this.pods_cgroup())?;
            cgroup::join(&this.agent_cgroup(), 0).context("cannot join the agent's cgroup")?;
            return Ok(this);
        }
        bail!("no name is free below {}", mount.display())
    }

    /// What tells its names from others' on this machine.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The agent's own cgroup.
    #[must_use]
    pub fn agent_cgroup(&self) -> PathBuf {
        self.root.join("agent")
    }

    /// The cgroup above all of its pods.
    #[must_use]
    pub fn pods_cgroup(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// Where its kernel side is pinned.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        Path::new(PINS).join(format!("{NAME}{}", self.tag))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = cgroup::join(&self.before, 0);
        // There are none any more, unless the agent couldn't start or stop as it should.
        let _ = fs::remove_dir_all(self.pins());
        let _ = cgroup::end(&self.root);
    }
}

/// Instances that were killed leave their cgroup, their pins and a link. The cgroup goes last: by it the rest is found.
fn clear_leftovers(mount: &Path) {
    let Ok(entries) = fs::read_dir(mount) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(tag) = name.strip_prefix(NAME) else {
            continue;
        };
        let ours = !tag.is_empty() && tag.bytes().all(|byte| byte.is_ascii_hexdigit());
        let agent = entry.path().join("agent");
        if !ours || !entry.path().join("pods").is_dir() || lives(&agent) {
            continue;
        }
        tracing::info!(instance = name, "removing what a dead instance left");
        let _ = cgroup::end(&entry.path().join("pods"));
        let _ = fs::remove_dir_all(Path::new(PINS).join(&name));
        sandbox::remove_link(tag);
        if let Err(error) = cgroup::end(&entry.path()) {
            tracing::warn!(%error, instance = name, "what a dead instance left can't be removed");
        }
    }
}

fn lives(agent: &Path) -> bool {
    // What can't be read is left alone.
    !agent.is_dir()
        || fs::read_to_string(agent.join("cgroup.events"))
            .map_or(true, |events| !events.contains("populated 0"))
}
