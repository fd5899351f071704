//! Network namespaces.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use bailiff_model::NetnsCookie;
use nix::sched::{CloneFlags, setns, unshare};

use crate::sys;

/// The number of a network namespace among those that there are: cheaper to ask for than its cookie, and given to another once it is gone. Who
/// holds it open may go by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetnsNumber {
    device: u64,
    inode: u64,
}

impl NetnsNumber {
    /// Of the one that a path such as `/proc/PID/ns/net` leads to.
    pub fn at(path: &Path) -> io::Result<Self> {
        std::fs::metadata(path).map(|found| Self::of(&found))
    }

    fn of(found: &std::fs::Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
        }
    }
}

/// An open network namespace. It lives at least as long as this.
#[derive(Debug)]
pub struct NetnsFd {
    fd: OwnedFd,
    cookie: NetnsCookie,
    number: NetnsNumber,
}

impl NetnsFd {
    /// Makes a new one.
    pub fn create() -> io::Result<Self> {
        // A thread of its own, so that the caller's never leaves its namespace.
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let file = made
            .join()
            .map_err(|_| io::Error::other("the thread that makes the namespace failed"))??;
        Self::from_fd(file.into())
    }

    /// Opens one by a path such as `/proc/PID/ns/net` or `/run/netns/NAME`.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::from_fd(File::open(path)?.into())
    }

    /// Takes an open one.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let file = File::from(fd);
        let number = NetnsNumber::of(&file.metadata()?);
        let mut this = Self {
            fd: file.into(),
            cookie: NetnsCookie(0),
            number,
        };
        let socket = this.run_in(|| std::net::UdpSocket::bind(("127.0.0.1", 0)).or_else(|_| unbound()))??;
        this.cookie = NetnsCookie(sys::socket_u64(socket.as_fd(), libc::SO_NETNS_COOKIE)?);
        Ok(this)
    }

    /// Its cookie.
    #[must_use]
    pub fn cookie(&self) -> NetnsCookie {
        self.cookie
    }

    /// Its number, while this is open.
    #[must_use]
    pub fn number(&self) -> NetnsNumber {
        self.number
    }

    /// The descriptor alone.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Takes the calling thread in, until the guard is dropped, also by a panic.
    pub fn enter(&self) -> io::Result<Entered> {
        let back = File::open("/proc/thread-self/ns/net")?;
        setns(&self.fd, CloneFlags::CLONE_NEWNET)?;
        Ok(Entered {
            back,
            _not_send: PhantomData,
        })
    }

    /// Runs something on the calling thread inside.
    pub fn run_in<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        let entered = self.enter()?;
        let done = work();
        drop(entered);
        Ok(done)
    }
}

impl AsFd for NetnsFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A socket without an address: a fresh namespace's loopback is down.
fn unbound() -> io::Result<std::net::UdpSocket> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    Ok(socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?
    .into())
}

/// The calling thread is in another namespace; dropping this takes it back.
#[derive(Debug)]
pub struct Entered {
    back: File,
    /// What was entered is the thread's, so this stays on it.
    _not_send: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Err(error) = setns(&self.back, CloneFlags::CLONE_NEWNET) {
            // A thread in the wrong namespace would dial from the wrong pod. Nothing it does can be relied on.
            tracing::error!(%error, "a thread can't leave a pod's network namespace; ending");
            std::process::abort();
        }
    }
}
