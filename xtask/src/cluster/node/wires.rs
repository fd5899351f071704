//! The wires of a node: to the machine, and to the other nodes.

use std::path::Path;

use anyhow::{Result, ensure};

use super::Inside;
use crate::cluster::place::{Site, Slot, ip};

/// The machine's end of its wire to a node. Dropping it removes the wire.
#[derive(Debug)]
pub(super) struct Link(pub(super) Site);

impl Drop for Link {
    fn drop(&mut self) {
        // It goes with the node's namespace as well, only later.
        let _gone = ip(&["link", "del", &self.0.link()]);
    }
}

/// Removes the machine's ends of the wires of a cluster that was killed.
pub(crate) fn clear(slot: Slot) {
    slot.sites(Site::MOST).map(Link).for_each(drop);
}

/// The machine's end of a wire to a node in a machine of its own, which QEMU holds the other end of. What it reaches is what [`to_machine`] says.
///
/// # Errors
/// When the kernel has no tap devices, or the link is there already.
pub(super) fn tap(site: Site) -> Result<()> {
    ensure!(
        Path::new("/dev/net/tun").exists(),
        "an emulated node's wire is a tap device, and there is no /dev/net/tun: `modprobe tun`"
    );
    let (link, near) = (site.link(), format!("{}/30", site.gateway()));
    ip(&["tuntap", "add", "dev", &link, "mode", "tap"])?;
    ip(&["addr", "add", &near, "dev", &link])?;
    ip(&["link", "set", &link, "up"])?;
    ip(&["route", "add", &site.pods(), "via", &site.address().to_string()])
}

/// The wire between the machine and the node. The machine reaches pods through it; pods reach the machine, and nothing beyond.
pub(super) fn to_machine(site: Site, inside: &Inside) -> Result<()> {
    let (host, node, link) = (site.gateway(), site.address(), site.link());
    let (near, far) = (format!("{host}/30"), format!("{node}/30"));
    let (host, node, pid) = (host.to_string(), node.to_string(), inside.pid.to_string());
    ip(&[
        "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &pid,
    ])?;
    ip(&["addr", "add", &near, "dev", &link])?;
    ip(&["link", "set", &link, "up"])?;
    ip(&["route", "add", &site.pods(), "via", &node])?;
    inside.run(&["ip", "addr", "add", &far, "dev", "eth0"])?;
    inside.run(&["ip", "link", "set", "eth0", "up"])?;
    inside.run(&["ip", "route", "add", "default", "via", &host])
}

/// A wire between two nodes, each end named for the node at the other one. The machine forwards nothing between them: whether it
/// would is its own affair.
pub(super) fn between(one: (Site, &Inside), other: (Site, &Inside)) -> Result<()> {
    let (name, pid) = (other.0.name(), other.1.pid.to_string());
    one.1.run(&[
        "ip",
        "link",
        "add",
        &name,
        "type",
        "veth",
        "peer",
        "name",
        &one.0.name(),
        "netns",
        &pid,
    ])?;
    for ((own, inside), (far, _)) in [(one, other), (other, one)] {
        let (link, source) = (far.name(), own.address().to_string());
        let (node, pods) = (far.address().to_string(), far.pods());
        inside.run(&["ip", "link", "set", &link, "up"])?;
        inside.run(&["ip", "route", "add", &node, "dev", &link, "src", &source])?;
        inside.run(&[
            "ip", "route", "add", &pods, "via", &node, "dev", &link, "onlink", "src", &source,
        ])?;
    }
    Ok(())
}
