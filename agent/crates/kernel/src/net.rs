//! Sockets, made in the namespace to which they are to belong.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};

use crate::netns::NetnsFd;

/// Connections that may wait to be accepted: an agent that hangs must not hang clients.
const BACKLOG: i32 = 4096;

/// How often another port is tried where one is free on 127.0.0.1 but not on ::1.
const TRIES: u32 = 16;

/// An unconnected, non-blocking TCP socket of the caller's namespace.
pub fn tcp_socket(to: SocketAddr) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    Ok(socket(
        family,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?
    .into())
}

/// The same, of another namespace. It belongs there wherever it is used.
pub fn tcp_socket_in(netns: &NetnsFd, to: SocketAddr) -> io::Result<TcpStream> {
    netns.run_in(|| tcp_socket(to))?
}

/// Has the kernel ask a silent peer whether it is there, from half of the time on, and fail the connection with ETIMEDOUT when
/// the time is over. In whole seconds, two at least.
///
/// Bytes that aren't acknowledged are another matter: those the kernel sends again `net.ipv4.tcp_retries2` times. TCP_USER_TIMEOUT
/// would be shorter, but it also ends connections whose peer is there and just doesn't read.
pub fn keep_alive(socket: &impl AsFd, dead_after: Duration) -> io::Result<()> {
    let seconds = u32::try_from(dead_after.as_secs())
        .unwrap_or(u32::MAX)
        .clamp(2, 32_767);
    let idle = seconds / 2;
    let interval = (idle / 6).max(1);
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    setsockopt(socket, sockopt::TcpKeepIdle, &idle)?;
    setsockopt(socket, sockopt::TcpKeepInterval, &interval)?;
    setsockopt(
        socket,
        sockopt::TcpKeepCount,
        &((seconds - idle) / interval).max(1),
    )?;
    Ok(())
}

/// Listeners on 127.0.0.1 and ::1 of a namespace, on one port. Without IPv6 in the namespace, the first alone.
pub fn listeners_in(netns: &NetnsFd) -> io::Result<(u16, Vec<TcpListener>)> {
    netns.run_in(|| {
        let mut last = io::Error::other("no port is free on both loopback addresses");
        for _ in 0..TRIES {
            let v4 = listener(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
            let port = v4.local_addr()?.port();
            match listener(SocketAddr::from((Ipv6Addr::LOCALHOST, port))) {
                Ok(v6) => return Ok((port, vec![v4, v6])),
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT)
                    ) =>
                {
                    return Ok((port, vec![v4]));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    })?
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let fd = socket(
        family,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    bind(
        std::os::fd::AsRawFd::as_raw_fd(&fd),
        &SockaddrStorage::from(address),
    )?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd.into())
}
