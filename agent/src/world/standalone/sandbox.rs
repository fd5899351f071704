//! A pod-like sandbox: a cgroup, a network namespace, and a link between it and the host.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bailiff_kernel::cgroup;
use bailiff_kernel::netns::NetnsFd;

use super::reach::{self, Reach};
use super::signals::Signals;
use super::stages;
use super::workplace::Workplace;

/// Subnets of four addresses from this one on.
const NETWORK: Ipv4Addr = Ipv4Addr::new(10, 211, 0, 0);
const SUBNETS: u32 = 1 << 14;

/// The sandbox. Dropping it ends everything in it and removes it.
#[derive(Debug)]
pub struct Sandbox {
    netns: NetnsFd,
    cgroup: PathBuf,
    container: PathBuf,
    host_link: String,
    reach: Arc<Reach>,
}

impl Sandbox {
    /// Makes one below a cgroup. `tag` tells its names from others' on this machine.
    pub fn create(pods_cgroup: &Path, name: &str, tag: &str) -> Result<Self> {
        // The kernel's own files are called `cgroup.` and so on.
        let plain = name
            .chars()
            .filter(|character| character.is_ascii_alphanumeric() || "-.".contains(*character));
        let cgroup = pods_cgroup.join(format!("pod-{}", plain.take(200).collect::<String>()));
        let container = cgroup.join("main");
        std::fs::create_dir_all(&container)
            .with_context(|| format!("cannot make {}", container.display()))?;
        let netns = NetnsFd::create().context("cannot make a network namespace")?;
        let host_link = link_name(tag);
        let first: u32 = u32::from_str_radix(tag, 16).unwrap_or(0);
        let mut last = None;
        for attempt in 0..64 {
            let subnet = NETWORK.to_bits() + (first + attempt * 7919) % SUBNETS * 4;
            let address = |last: u32| Ipv4Addr::from_bits(subnet + last);
            let inside = NetnsFd::from_fd(netns.as_fd().try_clone_to_owned()?)?;
            match Reach::create(inside, &host_link, address(1), address(2)) {
                Ok(reach) => {
                    return Ok(Self {
                        netns,
                        cgroup,
                        container,
                        host_link,
                        reach: Arc::new(reach),
                    });
                }
                Err(error) => last = Some(error),
            }
            reach::remove_link(&host_link);
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("no subnet is free")))
    }

    /// Its cgroup.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The host's side of its link.
    #[must_use]
    pub fn host_link(&self) -> &str {
        &self.host_link
    }

    /// Where its packets can go; at first nowhere.
    #[must_use]
    pub fn reach(&self) -> &Arc<Reach> {
        &self.reach
    }

    /// Its network namespace.
    pub fn netns(&self) -> Result<OwnedFd> {
        Ok(self.netns.as_fd().try_clone_to_owned()?)
    }

    /// Starts a command in it, as the invoking user and without any privilege, with the caller's standard input, output and
    /// error. It ends when the calling thread does.
    pub fn spawn(&self, signals: &Signals, place: &Workplace, command: &[OsString]) -> Result<Child> {
        let view = serde_json::to_string(&place.view())?;
        let child = self.netns.run_in(|| {
            signals.spawn(
                Command::new("/proc/self/exe")
                    .arg(stages::FIRST)
                    .arg(&self.container)
                    .arg(view)
                    .args(command),
            )
        })?;
        child.context("cannot start the sandbox's first process")
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Err(error) = cgroup::end(&self.cgroup) {
            tracing::warn!(%error, cgroup = %self.cgroup.display(), "a sandbox's cgroup can't be removed");
        }
        reach::remove_link(&self.host_link);
    }
}

/// Removes the link of an instance's sandbox, if there is one.
pub(super) fn remove_link(tag: &str) {
    reach::remove_link(&link_name(tag));
}

fn link_name(tag: &str) -> String {
    format!("bl{tag}")
}
