//! What lies behind a [`KernelLab`]'s pod: a node that joins the pod's link with a server's, and all that reaches the server.

use std::io::Read as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bailiff_kernel::netns::NetnsFd;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{KernelLab, check};

/// A node with a bridge, and behind it a server with the protected addresses and others. Whatever leaves the pod's link, of
/// any protocol, reaches the server's, if the guard on the node's side lets it.
#[derive(Debug)]
pub struct Wire {
    /// The node's namespace; the pod's link is `pod0` there.
    pub node: NetnsFd,
    /// The server's namespace.
    pub server: NetnsFd,
    capture: Capture,
}

impl Wire {
    /// The server's addresses on the pod's link: protected and not.
    pub const ADDRESSES: [&str; 4] = ["10.9.8.7/24", "10.9.8.8/24", "fd00:9::7/64", "fd00:9::8/64"];
    /// The server's link address.
    pub const MAC: &str = "02:00:00:09:08:07";

    /// Joins the lab's pod to a server. The pod has 10.9.8.2 and fd00:9::2 on `eth0`. The guard stands on its link.
    pub fn behind(lab: &mut KernelLab) -> Result<Self> {
        let node = NetnsFd::create()?;
        let server = NetnsFd::create()?;
        ip(&node, "link add br0 type bridge mcast_snooping 0")?;
        ip(&node, "link set br0 up")?;
        for (port, end, netns) in [("pod0", "eth0", lab.netns()), ("server0", "eth0", &server)] {
            let path = path(netns);
            ip(
                &node,
                &format!("link add {port} type veth peer name {end} netns {path}"),
            )?;
            ip(&node, &format!("link set {port} master br0 up"))?;
        }
        ip(&server, &format!("link set eth0 address {} up", Self::MAC))?;
        ip(&server, "link set lo up")?;
        for address in Self::ADDRESSES {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            ip(&server, &format!("addr add {address} dev eth0 {nodad}"))?;
        }
        lab.ip("link set eth0 up")?;
        lab.ip("addr add 10.9.8.2/24 dev eth0")?;
        lab.ip("addr add fd00:9::2/64 dev eth0 nodad")?;
        let capture = Capture::on(&server)?;
        let redirect = lab.redirect_mut()?;
        node.run_in(|| redirect.guard_link("pod0"))??;
        Ok(Self {
            node,
            server,
            capture,
        })
    }

    /// Whether any frame that reached the server holds these bytes.
    pub fn saw(&self, bytes: &[u8]) -> Result<bool> {
        let frames = self
            .capture
            .frames
            .lock()
            .map_err(|_| anyhow::anyhow!("the capture failed"))?;
        Ok(frames
            .iter()
            .any(|frame| frame.windows(bytes.len()).any(|window| window == bytes)))
    }

    /// Runs `ip` in the node's namespace, the arguments divided by spaces.
    pub fn node_ip(&self, arguments: &str) -> Result<()> {
        ip(&self.node, arguments)
    }

    /// Runs `ip` in the server's namespace, the arguments divided by spaces.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        ip(&self.server, arguments)
    }
}

fn ip(netns: &NetnsFd, arguments: &str) -> Result<()> {
    netns.run_in(|| check(Command::new("ip").args(arguments.split_whitespace())))??;
    Ok(())
}

fn path(netns: &NetnsFd) -> String {
    let fd = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(netns));
    format!("/proc/{}/fd/{fd}", std::process::id())
}

/// Every frame that comes to a namespace or leaves it.
#[derive(Debug)]
struct Capture {
    frames: Arc<Mutex<Vec<Vec<u8>>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    fn on(netns: &NetnsFd) -> Result<Self> {
        let every = i32::from(u16::to_be(u16::try_from(libc::ETH_P_ALL)?));
        let mut socket =
            netns.run_in(|| Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(every))))??;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let (frames, ended) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (kept, stop) = (Arc::clone(&frames), Arc::clone(&ended));
        let thread = std::thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || {
                let mut buffer = vec![0; 65_536];
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(length) = socket.read(&mut buffer)
                        && let Ok(mut kept) = kept.lock()
                    {
                        kept.extend(buffer.get(..length).map(<[u8]>::to_vec));
                    }
                }
            })
            .context("cannot start the capture")?;
        Ok(Self {
            frames,
            ended,
            thread: Some(thread),
        })
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
