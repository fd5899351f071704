//! Where a sandbox's packets can go: to the addresses of Targets, and nowhere else.
//!
//! A database usually listens on all addresses of its machine, so that a Target's address is one of several ways to it. The others
//! have no route, and the command has no right to make one.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail};
use bailiff_kernel::netns::NetnsFd;
use bailiff_policy::PolicySet;

/// The name of the link inside.
const INSIDE: &str = "eth0";

/// Where `ip` may lie. Not where PATH says: the command may be able to write there.
const PROGRAMS: &str = "/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin";

/// The link between a sandbox and the host, and what is reached by it.
#[derive(Debug)]
pub struct Reach {
    netns: NetnsFd,
    host: Ipv4Addr,
    own: Ipv4Addr,
    routes: Mutex<BTreeSet<(Ipv4Addr, u8)>>,
}

impl Reach {
    /// Makes the link. `host` is the host's address on it, `own` the sandbox's.
    pub(super) fn create(netns: NetnsFd, link: &str, host: Ipv4Addr, own: Ipv4Addr) -> Result<Self> {
        if ip_output(&["-o", "addr", "show", "to", &host.to_string()])?.contains(&host.to_string()) {
            bail!("{host} is taken");
        }
        let path = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&netns))
        );
        let peer = format!("{link}p");
        ip(&["link", "add", link, "type", "veth", "peer", "name", &peer])?;
        // `ip` takes a path to a namespace as its name.
        ip(&["link", "set", &peer, "netns", &path])?;
        without_ipv6(link)?;
        ip(&["addr", "add", &format!("{host}/30"), "dev", link])?;
        ip(&["link", "set", link, "up"])?;
        netns.run_in(|| -> Result<()> {
            ip(&["link", "set", "lo", "up"])?;
            ip(&["link", "set", &peer, "name", INSIDE])?;
            without_ipv6(INSIDE)?;
            ip(&["addr", "add", &format!("{own}/32"), "dev", INSIDE])?;
            ip(&["link", "set", INSIDE, "up"])
        })??;
        Ok(Self {
            netns,
            host,
            own,
            routes: Mutex::default(),
        })
    }

    /// Lets exactly the addresses of these Targets be reached.
    pub fn set(&self, targets: &PolicySet) -> Result<()> {
        let wanted: BTreeSet<(Ipv4Addr, u8)> = targets
            .targets()
            .iter()
            .flat_map(|target| &target.endpoints)
            .filter_map(|endpoint| match endpoint.address {
                IpAddr::V4(address) => Some((address, endpoint.prefix)),
                IpAddr::V6(_) => None,
            })
            .collect();
        let Ok(mut routes) = self.routes.lock() else {
            bail!("the routes are in an unknown state")
        };
        self.netns.run_in(|| -> Result<()> {
            let (via, from) = (self.host.to_string(), self.own.to_string());
            for (address, prefix) in wanted.difference(&routes) {
                let to = format!("{address}/{prefix}");
                let way = ["via", &via, "dev", INSIDE, "onlink", "src", &from];
                ip(&[&["route", "replace", &to], way.as_slice()].concat())?;
            }
            for (address, prefix) in routes.difference(&wanted) {
                ip(&["route", "del", &format!("{address}/{prefix}")])?;
            }
            Ok(())
        })??;
        *routes = wanted;
        Ok(())
    }
}

/// Removes a link, if it is there.
pub(super) fn remove_link(name: &str) {
    let _ = ip(&["link", "del", name]);
}

/// By IPv6 both ends would give themselves addresses, to which there would be a route.
fn without_ipv6(link: &str) -> Result<()> {
    let switch = format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6");
    if Path::new("/proc/sys/net/ipv6").exists() {
        std::fs::write(&switch, "1").with_context(|| format!("cannot write {switch}"))?;
    }
    Ok(())
}

fn ip(arguments: &[&str]) -> Result<()> {
    ip_output(arguments).map(|_| ())
}

/// Nothing that the command can change has a say in how this runs, as root and outside.
fn ip_output(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip")
        .env_clear()
        .env("PATH", PROGRAMS)
        .args(arguments)
        .current_dir("/")
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
