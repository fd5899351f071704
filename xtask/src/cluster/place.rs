//! Where on this machine a cluster is: its addresses, its translation of the service's address, its cgroup.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// A number that no other cluster on this machine has at the same time. All addresses follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(u8);

impl Slot {
    const LAST: u8 = 15;

    /// How many bits of a pod's address are its node's: room for as many pods as a kubelet can be told to run.
    pub(crate) const PODS_OF_A_NODE: u8 = 22;

    /// Of a number that was noted.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn new(number: u8) -> Result<Self> {
        ensure!(number <= Self::LAST, "there is no cluster {number}");
        Ok(Self(number))
    }

    /// The number itself.
    pub(crate) fn number(self) -> u8 {
        self.0
    }

    /// Where the API server listens. Of the range that is set aside for benchmarks (RFC 2544), so nothing else is there.
    pub(crate) fn api_server(self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(198, 18, 64 + self.0, 1), 6443)
    }

    /// The place of each of so many nodes.
    pub(crate) fn sites(self, nodes: u8) -> impl Iterator<Item = Site> {
        (1..=nodes).map(move |number| Site { slot: self, number })
    }

    /// Where what no pod may reach listens: another loopback address for each cluster.
    pub(crate) fn inside(self) -> Ipv4Addr {
        Ipv4Addr::new(127, 64, self.0, 1)
    }

    /// The services' range: 10.96.0.0/16 for the first cluster.
    pub(crate) fn services(self) -> String {
        format!("10.{}.0.0/16", 96 + self.0)
    }

    /// The address of `kubernetes.default.svc`.
    pub(crate) fn service(self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(10, 96 + self.0, 0, 1), 443)
    }

    /// The pods' range.
    pub(crate) fn pods(self) -> String {
        format!("10.{}.0.0/16", 64 + self.0)
    }

    /// What all that is made for this cluster is called.
    pub(crate) fn name(self) -> String {
        format!("bailiff-cluster-{}", self.0)
    }
}

/// The place of one node of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    slot: Slot,
    /// The first is 1.
    number: u8,
}

impl Site {
    /// So many nodes a cluster can have.
    pub(crate) const MOST: u8 = 4;

    /// The cluster's slot.
    pub(crate) fn slot(self) -> Slot {
        self.slot
    }

    /// The node's name, and that of its folder and its cgroups.
    pub(crate) fn name(self) -> String {
        format!("node-{}", self.number)
    }

    /// The node's address.
    pub(crate) fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, 64 + self.slot.0, 4 * self.number + 2)
    }

    /// The machine's address on the wire to the node, a network of four addresses.
    pub(crate) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, 64 + self.slot.0, 4 * self.number + 1)
    }

    /// The machine's end of that wire.
    pub(crate) fn link(self) -> String {
        format!("bcluster{}n{}", self.slot.0, self.number)
    }

    /// Its pods' range: the next that the controllers give away, where nodes come one after the other.
    pub(crate) fn pods(self) -> String {
        format!(
            "10.{}.{}.0/{}",
            64 + self.slot.0,
            4 * (self.number - 1),
            Slot::PODS_OF_A_NODE
        )
    }
}

/// The addresses and the cgroup, with this process in it and so all that it starts. Dropping it removes them.
#[derive(Debug)]
pub(crate) struct Place {
    // Dropped in this order.
    addresses: Addresses,
    cgroup: Cgroup,
}

impl Place {
    /// Takes the first free slot and makes what belongs to it.
    ///
    /// # Errors
    /// When none is free, or the kernel refuses.
    pub(crate) fn take() -> Result<Self> {
        let slot = (0..=Slot::LAST)
            .map(Slot)
            .find(|slot| ip(&address("add", *slot.api_server().ip())).is_ok())
            .with_context(|| {
                format!(
                    "no address 198.18.{}-{}.1 can be put on lo: needs root, and `ip -4 addr show lo` tells which are taken",
                    64,
                    64 + Slot::LAST
                )
            })?;
        // From here on it goes away again, whatever fails.
        let addresses = Addresses(slot);
        let cgroup = Cgroup::enter(&slot.name())?;
        ip(&address("add", *slot.service().ip()))?;
        nft(&translation(slot))?;
        Ok(Self { addresses, cgroup })
    }

    /// Its number and addresses.
    pub(crate) fn slot(&self) -> Slot {
        self.addresses.0
    }

    /// Where its cgroup is.
    pub(crate) fn cgroup(&self) -> &Path {
        &self.cgroup.path
    }
}

/// Ends everything that runs in the place of this number and removes what was made for it. For a cluster whose own
/// process was killed, and as the last word of `down`.
///
/// # Errors
/// When something doesn't go.
pub(crate) fn clear(slot: Slot) -> Result<()> {
    let cgroup = mount()?.join(slot.name());
    if let Err(error) = fs::write(cgroup.join("cgroup.kill"), "1")
        && cgroup.is_dir()
    {
        return Err(error).with_context(|| format!("{} can't be killed", cgroup.display()));
    }
    remove(&cgroup)?;
    drop(Addresses(slot));
    Ok(())
}

/// True while processes run in the place of this number.
pub(crate) fn is_alive(slot: Slot) -> bool {
    mount().is_ok_and(|mount| is_populated(&mount.join(slot.name())))
}

/// True while this process is in the place of this number.
pub(crate) fn holds(slot: Slot, pid: u32) -> bool {
    let Ok(mount) = mount() else { return false };
    let members = fs::read_to_string(mount.join(slot.name()).join("cgroup.procs"));
    members.is_ok_and(|members| members.lines().any(|line| line == pid.to_string()))
}

#[derive(Debug)]
struct Addresses(Slot);

impl Drop for Addresses {
    fn drop(&mut self) {
        // What isn't there any more is as good.
        let _gone = nft(&format!("delete table ip {}\n", self.0.name()));
        let _gone = ip(&address("del", *self.0.service().ip()));
        let _gone = ip(&address("del", *self.0.api_server().ip()));
    }
}

fn address(what: &'static str, address: Ipv4Addr) -> [String; 5] {
    ["addr", what, &format!("{address}/32"), "dev", "lo"].map(str::to_owned)
}

/// The service's address leads to the API server, as kube-proxy does it on a node: for this machine's own connections, and
/// for those of sandboxes.
fn translation(slot: Slot) -> String {
    let (from, to) = (slot.service(), slot.api_server());
    let rule = format!("ip daddr {} tcp dport {} dnat to {to}", from.ip(), from.port());
    format!(
        "table ip {} {{\n\
         chain in {{ type nat hook prerouting priority -100; {rule}; }}\n\
         chain own {{ type nat hook output priority -100; {rule}; }}\n\
         }}\n",
        slot.name()
    )
}

#[derive(Debug)]
struct Cgroup {
    path: PathBuf,
    before: PathBuf,
}

impl Cgroup {
    /// Makes it and puts this process into it. In the second version's hierarchy, wherever that is mounted.
    fn enter(name: &str) -> Result<Self> {
        let mount = mount()?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .context("this process is in no cgroup of the second version")?;
        let before = mount.join(own);
        let path = mount.join(name);
        fs::create_dir(&path).with_context(|| {
            format!(
                "{} can't be made; if it is there from a cluster that was killed: `cargo xtask cluster down`",
                path.display()
            )
        })?;
        let this = Self { path, before };
        fs::write(this.path.join("cgroup.procs"), std::process::id().to_string())
            .with_context(|| format!("{} can't be entered", this.path.display()))?;
        Ok(this)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let left = fs::write(self.before.join("cgroup.procs"), std::process::id().to_string());
        // Children that a component left behind.
        let killed = left.and_then(|()| fs::write(self.path.join("cgroup.kill"), "1"));
        if let Err(error) = killed {
            eprintln!("{} can't be left: {error}", self.path.display());
        } else if let Err(error) = remove(&self.path) {
            eprintln!("{error:#}");
        }
    }
}

/// Where cgroups of the second version are mounted.
pub(crate) fn mount() -> Result<PathBuf> {
    fs::read_to_string("/proc/self/mounts")?
        .lines()
        .find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let place = words.next()?;
            (words.next()? == "cgroup2").then(|| PathBuf::from(place))
        })
        .context("cgroups of the second version are mounted nowhere")
}

fn is_populated(cgroup: &Path) -> bool {
    fs::read_to_string(cgroup.join("cgroup.events")).is_ok_and(|text| text.contains("populated 1"))
}

/// Removes a cgroup and all below it, once what is killed there is gone.
pub(crate) fn remove(cgroup: &Path) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(20);
    while is_populated(cgroup) {
        if Instant::now() > until {
            bail!("processes in {} don't end", cgroup.display());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // A cluster that is told to end removes its own at the same time.
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path())?;
        }
    }
    match fs::remove_dir(cgroup) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} can't be removed", cgroup.display()))
        }
        _ => Ok(()),
    }
}

fn nft(text: &str) -> Result<()> {
    let program = crate::shell::which("nft").context("nft is missing: apt-get install nftables")?;
    let mut child = Command::new(program)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(text.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("nft: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Runs iproute2's `ip`.
///
/// # Errors
/// When it fails, with what it said.
pub(super) fn ip(args: &[impl AsRef<std::ffi::OsStr>]) -> Result<()> {
    let output = Command::new("ip")
        .args(args)
        .output()
        .context("ip can't be started")?;
    if !output.status.success() {
        bail!("ip: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cluster_has_the_usual_service_address() {
        let slot = Slot::new(0).unwrap();
        assert_eq!(slot.services(), "10.96.0.0/16");
        assert_eq!(slot.service().to_string(), "10.96.0.1:443");
        assert!(translation(slot).contains("ip daddr 10.96.0.1 tcp dport 443 dnat to 198.18.64.1:6443"));
    }

    #[test]
    fn no_two_clusters_share_an_address() {
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..=Slot::LAST {
            let slot = Slot::new(number).unwrap();
            for text in [
                slot.services(),
                slot.pods(),
                slot.api_server().to_string(),
                slot.name(),
            ] {
                assert!(seen.insert(text));
            }
            for site in slot.sites(Site::MOST) {
                for text in [
                    site.address().to_string(),
                    site.gateway().to_string(),
                    site.pods(),
                    site.link(),
                ] {
                    // The kernel's limit for an interface's name.
                    assert!(site.link().len() < 16);
                    assert!(seen.insert(text));
                }
            }
        }
        assert!(Slot::new(Slot::LAST + 1).is_err());
    }
}
