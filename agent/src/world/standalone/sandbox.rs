//! A pod-like sandbox: a cgroup, a network namespace, and a link between it and the host.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context as _, Result, bail};
use bailiff_kernel::cgroup;
use bailiff_kernel::netns::NetnsFd;

use super::signals::Signals;
use super::stages;
use super::workplace::Workplace;

/// Subnets of four addresses in 10.211.0.0/16.
const SUBNETS: u32 = 1 << 14;

/// The sandbox. Dropping it ends everything in it and removes it.
#[derive(Debug)]
pub struct Sandbox {
    netns: NetnsFd,
    cgroup: PathBuf,
    container: PathBuf,
    host_link: String,
    address: String,
}

impl Sandbox {
    /// Makes one below a cgroup. `tag` tells its names from others' on this machine.
    pub fn create(pods_cgroup: &Path, name: &str, tag: &str) -> Result<Self> {
        let cgroup = pods_cgroup.join(name);
        let container = cgroup.join("main");
        std::fs::create_dir_all(&container)
            .with_context(|| format!("cannot make {}", container.display()))?;
        let netns = NetnsFd::create().context("cannot make a network namespace")?;
        let host_link = link_name(tag);
        let first: u32 = u32::from_str_radix(tag, 16).unwrap_or(0);
        let mut last = None;
        for attempt in 0..64 {
            let subnet = (first + attempt * 7919) % SUBNETS * 4;
            match Self::link(&netns, &host_link, subnet) {
                Ok(address) => {
                    return Ok(Self {
                        netns,
                        cgroup,
                        container,
                        host_link,
                        address,
                    });
                }
                Err(error) => last = Some(error),
            }
            let _ = ip(&["link", "del", &host_link]);
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("no subnet is free")))
    }

    fn link(netns: &NetnsFd, host_link: &str, subnet: u32) -> Result<String> {
        let ours = format!("10.211.{}.{}", subnet >> 8 & 0xff, (subnet & 0xff) + 1);
        let theirs = format!("10.211.{}.{}", subnet >> 8 & 0xff, (subnet & 0xff) + 2);
        if ip_output(&["-o", "addr", "show", "to", &ours])?.contains(&ours) {
            bail!("{ours} is taken");
        }
        let path = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            std::os::fd::AsRawFd::as_raw_fd(&netns.as_fd())
        );
        let peer = format!("{host_link}p");
        ip(&["link", "add", host_link, "type", "veth", "peer", "name", &peer])?;
        // `ip` takes a path to a namespace as its name.
        ip(&["link", "set", &peer, "netns", &path])?;
        ip(&["addr", "add", &format!("{ours}/30"), "dev", host_link])?;
        ip(&["link", "set", host_link, "up"])?;
        netns.run_in(|| -> Result<()> {
            ip(&["link", "set", "lo", "up"])?;
            ip(&["link", "set", &peer, "name", "eth0"])?;
            ip(&["addr", "add", &format!("{theirs}/30"), "dev", "eth0"])?;
            ip(&["link", "set", "eth0", "up"])?;
            ip(&["route", "add", "default", "via", &ours])
        })??;
        Ok(theirs)
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

    /// Its IPv4 address.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its network namespace.
    pub fn netns(&self) -> Result<OwnedFd> {
        Ok(self.netns.as_fd().try_clone_to_owned()?)
    }

    /// Starts a command in it, as the invoking user and without any privilege, with the caller's standard input, output and
    /// error. It ends when the calling thread does.
    pub fn spawn(&self, signals: &Signals, place: &Workplace, command: &[String]) -> Result<Child> {
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
        let _ = ip(&["link", "del", &self.host_link]);
    }
}

/// Removes the link of an instance's sandbox, if there is one.
pub(super) fn remove_link(tag: &str) {
    let _ = ip(&["link", "del", &link_name(tag)]);
}

fn link_name(tag: &str) -> String {
    format!("bl{tag}")
}

fn ip(arguments: &[&str]) -> Result<()> {
    ip_output(arguments).map(|_| ())
}

fn ip_output(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("cannot run `ip`; install iproute2")?;
    if !output.status.success() {
        bail!(
            "`ip {}`: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
