//! Connections that are older than their protection: they are destroyed, so that clients come back through the proxy.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use bailiff_model::{CgroupId, NetnsCookie};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    Nla as _,
};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use crate::netns::NetnsFd;
use crate::{KernelError, TargetEntry, cgroup};

/// Attribute with the id of a socket's cgroup, from the kernel's `inet_diag.h`.
const INET_DIAG_CGROUP_ID: u16 = 21;

/// Messages of a dump are at most as long as the kernel's largest buffer for them.
const BUFFER: usize = 64 << 10;

/// In place of a socket's cookie: whichever it has. `INET_DIAG_NOCOOKIE`, from the same file.
const ANY_COOKIE: [u8; 8] = [0xff; 8];

/// Finds the connections of pods that are older than their protection, and destroys them.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// This agent's and the one's before, whose sessions may go on for a while.
    agents: HashSet<CgroupId>,
    own_netns: NetnsCookie,
}

impl Sweep {
    pub(crate) fn new(agents: impl IntoIterator<Item = CgroupId>) -> io::Result<Self> {
        Ok(Self {
            agents: agents.into_iter().collect(),
            own_netns: NetnsFd::open(Path::new("/proc/thread-self/ns/net"))?.cookie(),
        })
    }

    /// Destroys a pod's TCP connections to any of these that weren't made by an agent; their clients see ECONNABORTED. How
    /// many there were.
    ///
    /// In a namespace of the pod's own that means whoever made them, also when their sockets were passed in; in the agent's,
    /// which is the node's, only those that processes of the pod made.
    ///
    /// A client that is between its connect call and the table of sockets is missed: call it again a moment later.
    pub fn destroy_older(
        &self,
        netns: &NetnsFd,
        pod_cgroup: &Path,
        protected: &[TargetEntry],
    ) -> Result<usize, KernelError> {
        let whose = if netns.cookie() == self.own_netns {
            Whose::Only(cgroup::subtree(pod_cgroup))
        } else {
            Whose::AllBut(self.agents.clone())
        };
        let goes_to = |to: SocketAddr| protected.iter().any(|entry| entry.covers(to));
        netns
            .run_in(|| destroy(&whose, goes_to))
            .and_then(|outcome| outcome)
            .map_err(KernelError::system(
                "cannot destroy the connections that are older than their protection",
            ))
    }
}

enum Whose {
    AllBut(HashSet<CgroupId>),
    Only(HashSet<CgroupId>),
}

impl Whose {
    fn holds(&self, cgroup: Option<CgroupId>) -> bool {
        match (self, cgroup) {
            (Self::AllBut(spared), Some(cgroup)) => !spared.contains(&cgroup),
            (Self::Only(meant), Some(cgroup)) => meant.contains(&cgroup),
            // A socket of which the kernel doesn't tell it.
            (Self::AllBut(_), None) => true,
            (Self::Only(_), None) => false,
        }
    }
}

/// Destroys TCP connections of the calling thread's network namespace by where they go. How many.
fn destroy(whose: &Whose, goes_to: impl Fn(SocketAddr) -> bool) -> io::Result<usize> {
    let mut destroyed = 0;
    for family in [AF_INET, AF_INET6] {
        let found = match dump(family) {
            Ok(found) => found,
            // A kernel without IPv6.
            Err(error) if family == AF_INET6 && error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for response in found {
            let id = &response.header.socket_id;
            let far = SocketAddr::from((id.destination_address.to_canonical(), id.destination_port));
            if !goes_to(far) || !whose.holds(cgroup_of(&response)) {
                continue;
            }
            match destroy_one(family, id.clone()) {
                Ok(()) => destroyed += 1,
                // It ended by itself.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(destroyed)
}

/// Whether connections can be destroyed, by making one to itself and destroying that: the kernel looks at rights only where there is one.
pub(crate) fn is_supported() -> io::Result<bool> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let far = listener.local_addr()?;
    let own = TcpStream::connect(far)?;
    let near = own.local_addr()?;
    let id = SocketId {
        source_port: near.port(),
        destination_port: far.port(),
        source_address: near.ip(),
        destination_address: far.ip(),
        interface_id: 0,
        cookie: ANY_COOKIE,
    };
    match destroy_one(AF_INET, id) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
        Ok(()) => Ok(true),
    }
}

fn cgroup_of(response: &InetResponse) -> Option<CgroupId> {
    let attribute = response
        .nlas
        .iter()
        .find(|nla| nla.kind() == INET_DIAG_CGROUP_ID)?;
    let mut bytes = [0; 8];
    if attribute.value_len() != bytes.len() {
        return None;
    }
    attribute.emit_value(&mut bytes);
    Some(CgroupId(u64::from_ne_bytes(bytes)))
}

fn request(family: u8, states: StateFlags, socket_id: SocketId) -> SockDiagMessage {
    SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states,
        socket_id,
    })
}

fn send<T: NetlinkSerializable>(flags: u16, message: T) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    Ok(socket)
}

/// All TCP sockets of a family but those that listen or wait for nothing but time.
fn dump(family: u8) -> io::Result<Vec<InetResponse>> {
    let states = StateFlags::all() - StateFlags::LISTEN - StateFlags::TIME_WAIT - StateFlags::CLOSE;
    let id = if family == AF_INET {
        SocketId::new_v4()
    } else {
        SocketId::new_v6()
    };
    let socket = send(NLM_F_DUMP, request(family, states, id))?;
    let mut found = Vec::new();
    loop {
        for message in messages::<SockDiagMessage>(&socket)? {
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    found.push(*response)
                }
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
        }
    }
}

fn destroy_one(family: u8, id: SocketId) -> io::Result<()> {
    let message = SockDiagDestroy::new(request(family, StateFlags::all(), id));
    let socket = send(NLM_F_ACK, message)?;
    loop {
        for message in messages::<SockDiagMessage>(&socket)? {
            if let NetlinkPayload::Error(error) = message.payload {
                return match error.code {
                    None => Ok(()),
                    Some(_) => Err(error.to_io()),
                };
            }
        }
    }
}

/// The messages of one datagram.
fn messages<T>(socket: &Socket) -> io::Result<Vec<NetlinkMessage<T>>>
where
    T: netlink_packet_core::NetlinkDeserializable,
{
    let mut buffer = Vec::with_capacity(BUFFER);
    socket.recv(&mut buffer, 0)?;
    let mut rest = buffer.as_slice();
    let mut found = Vec::new();
    while !rest.is_empty() {
        let message = NetlinkMessage::<T>::deserialize(rest).map_err(io::Error::other)?;
        let length = usize::try_from(message.header.length).unwrap_or(rest.len());
        found.push(message);
        // Each message begins at a multiple of four bytes.
        rest = rest.get(length.max(1).next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(found)
}
