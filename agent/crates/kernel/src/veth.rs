//! Links between a pod's network namespace and the node's.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::netns::NetnsFd;

/// From the kernel's `rtnetlink.h`, `if_link.h`, `net_namespace.h` and `netlink.h`.
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK_NETNSID: u16 = 37;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
/// `struct ifinfomsg`.
const LINK_HEAD: usize = 16;
/// `struct rtgenmsg`, padded.
const GENERIC_HEAD: usize = 4;

/// The host's sides of a pod's links: the interfaces of the calling thread's namespace whose other end is in this one.
///
/// The kernel tells it of the interfaces here, so that nothing in the pod can name another pod's.
pub fn host_links(netns: &NetnsFd) -> io::Result<Vec<String>> {
    let fd = netns.as_fd().as_raw_fd().to_ne_bytes();
    let mut asked = [0; GENERIC_HEAD].to_vec();
    asked.extend(attribute(NETNSA_FD, &fd));
    let mut number = None;
    ask(RTM_GETNSID, 0, &asked, RTM_NEWNSID, |message| {
        number = find(message, GENERIC_HEAD, NETNSA_NSID).and_then(as_i32);
    })?;
    // -1: no interface here has its other end there.
    let Some(number @ 0..) = number else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    ask(RTM_GETLINK, NLM_F_DUMP, &[0; LINK_HEAD], RTM_NEWLINK, |message| {
        if find(message, LINK_HEAD, IFLA_LINK_NETNSID).and_then(as_i32) == Some(number)
            && let Some(name) = find(message, LINK_HEAD, IFLA_IFNAME)
        {
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            names.push(String::from_utf8_lossy(name).into_owned());
        }
    })?;
    Ok(names)
}

/// Asks the kernel and shows each message of the kind that answers, without its header.
fn ask(kind: u16, flags: u16, body: &[u8], answers: u16, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
    let mut request = length.to_ne_bytes().to_vec();
    request.extend(kind.to_ne_bytes());
    request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    request.extend([0; 8]); // Sequence and port.
    request.extend(body);
    socket.send(&request, 0)?;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while let Some((head, _)) = rest.split_at_checked(HEADER) {
            let length = head.get(..4).and_then(as_u32).unwrap_or(0);
            let length = usize::try_from(length).unwrap_or(0);
            let Some(message) = rest.get(HEADER..length) else {
                return Err(io::Error::other("a message of the kernel's that is cut short"));
            };
            match head.get(4..6).and_then(as_u16) {
                Some(NLMSG_DONE) => return Ok(()),
                Some(NLMSG_ERROR) => {
                    let code = message.get(..4).and_then(as_i32).unwrap_or(0);
                    return Err(io::Error::from_raw_os_error(-code));
                }
                Some(found) if found == answers => each(message),
                _ => {}
            }
            // What isn't dumped is answered by one message.
            if flags & NLM_F_DUMP == 0 {
                return Ok(());
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn attribute(kind: u16, value: &[u8; 4]) -> Vec<u8> {
    let mut bytes = 8_u16.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes
}

/// The value of a message's attribute.
fn find(message: &[u8], head: usize, wanted: u16) -> Option<&[u8]> {
    let mut rest = message.get(head..)?;
    loop {
        let length = usize::from(rest.get(..2).and_then(as_u16)?);
        let kind = rest.get(2..4).and_then(as_u16)?;
        let value = rest.get(4..length)?;
        // The upper two bits say how a value is written.
        if kind & 0x3fff == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

fn as_u16(bytes: &[u8]) -> Option<u16> {
    bytes.try_into().ok().map(u16::from_ne_bytes)
}

fn as_u32(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

fn as_i32(bytes: &[u8]) -> Option<i32> {
    bytes.try_into().ok().map(i32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_and_none_is_read_beyond_its_message() {
        let mut message = vec![0; LINK_HEAD];
        message.extend(7_u16.to_ne_bytes());
        message.extend(IFLA_IFNAME.to_ne_bytes());
        message.extend(b"e0\0\0");
        message.extend(attribute(IFLA_LINK_NETNSID, &5_i32.to_ne_bytes()));
        assert_eq!(find(&message, LINK_HEAD, IFLA_IFNAME), Some(b"e0\0".as_slice()));
        assert_eq!(
            find(&message, LINK_HEAD, IFLA_LINK_NETNSID).and_then(as_i32),
            Some(5)
        );
        for end in 0..message.len() {
            assert_eq!(find(&message[..end], LINK_HEAD, IFLA_LINK_NETNSID), None, "{end}");
        }
    }
}
