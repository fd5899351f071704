//! A pod with the kernel side in force on it, and the test in the agent's place.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bailiff_kernel::netns::NetnsFd;
use bailiff_kernel::{FourTuple, GuardBy, Options, Origin, Redirect, TargetEntry, cgroup, net};
use bailiff_model::FailureMode;

use crate::{Alone, can_be_root, check};

/// A pod's cgroup and namespace, with the kernel side in force. Dropping it takes everything down.
#[derive(Debug)]
pub struct KernelLab {
    name: String,
    root: PathBuf,
    netns: NetnsFd,
    redirect: Option<Redirect>,
    listeners: Vec<TcpListener>,
    port: u16,
    mode: FailureMode,
}

/// How long anything may take that a test waits for, also on an emulated machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// After [`KernelLab::TOLD`], the first lines of every client: `dial` connects, reads the byte that the agent sends, and tells
/// the peer's address or the error's name.
const DIAL: &str = "
def dial(address, port=5432, family=None, source=None):
    s = socket.socket(family or (socket.AF_INET6 if ':' in address else socket.AF_INET))
    s.settimeout(5)
    def call():
        if source: s.bind(source)
        s.connect((address, port))
        peer = s.getpeername()[:2]
        s.recv(1)
        return peer
    return told(call)
";

impl KernelLab {
    /// Python that imports what clients need, and has `told`: what a call returns, or its error's name.
    pub const TOLD: &str = "
import errno, os, socket, sys
def told(call):
    try: return call()
    except OSError as error: return errno.errorcode.get(error.errno, str(error))
";

    /// What is protected, on port 5432.
    pub const ADDRESSES: [&str; 2] = ["10.9.8.7", "fd00:9::7"];

    /// The pod, enrolled, with listeners at which the test accepts. The name is a part of those of its cgroup and pins. `None`
    /// where the test can't be root.
    pub fn new(name: &str, mode: FailureMode) -> Result<Option<Self>> {
        let lab = Self::without_redirect(name, mode)?;
        lab.map(|mut lab| lab.enforce().map(|()| lab)).transpose()
    }

    /// The same before the kernel side is in force.
    pub fn without_redirect(name: &str, mode: FailureMode) -> Result<Option<Self>> {
        if can_be_root()? {
            Self::made(name, mode).map(Some)
        } else {
            Ok(None)
        }
    }

    /// The pod on a machine that no other test uses at this time.
    pub fn alone(name: &str, mode: FailureMode, _: &Alone) -> Result<Self> {
        let mut lab = Self::made(name, mode)?;
        lab.enforce()?;
        Ok(lab)
    }

    fn made(name: &str, mode: FailureMode) -> Result<Self> {
        let name = format!("bailiff-test-{name}-{}", std::process::id());
        let root = cgroup::mount()?.join(&name);
        for part in ["pods/a/main", "pods/stranger", "agent"] {
            std::fs::create_dir_all(root.join(part))?;
        }
        let netns = NetnsFd::create()?;
        netns.run_in(|| check(Command::new("ip").args(["link", "set", "lo", "up"])))??;
        let (port, listeners) = net::listeners_in(&netns)?;
        Ok(Self {
            name,
            root,
            netns,
            redirect: None,
            listeners,
            port,
            mode,
        })
    }

    /// Puts the kernel side in force.
    pub fn enforce(&mut self) -> Result<()> {
        self.enforce_with(self.options()?)
    }

    /// The same with other options.
    pub fn enforce_with(&mut self, options: Options) -> Result<()> {
        let mut redirect = Redirect::load(options)?;
        redirect.set_targets(&self.targets()?)?;
        redirect.enroll(self.cgroup_id("pods/a")?, self.netns.cookie(), self.port)?;
        self.redirect = Some(redirect);
        Ok(())
    }

    /// How the kernel side is set up here, for a second agent to take over.
    pub fn options(&self) -> Result<Options> {
        Ok(Options {
            pins: self.pins(),
            pods_cgroup: self.root.join("pods"),
            agent_cgroup: self.cgroup_id("agent")?,
            // The test beats once, when it enforces: longer than any takes, also on an emulated machine.
            heartbeat_max_age: Duration::from_secs(3600),
            guard_by: GuardBy::default(),
            max_origins: None,
            targets: Vec::new(),
        })
    }

    /// What is protected here.
    pub fn targets(&self) -> Result<Vec<TargetEntry>> {
        Self::ADDRESSES
            .iter()
            .map(|address| {
                let address: IpAddr = address.parse()?;
                Ok(TargetEntry {
                    address,
                    prefix: if address.is_ipv4() { 32 } else { 128 },
                    port: 5432,
                    failure_mode: self.mode,
                })
            })
            .collect()
    }

    /// Where links and maps are pinned.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf").join(&self.name)
    }

    /// The cgroup above all others of this lab.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The id of a cgroup below the root, such as `pods/a`.
    pub fn cgroup_id(&self, part: &str) -> Result<bailiff_model::CgroupId> {
        Ok(cgroup::id(&self.root.join(part))?)
    }

    /// The pod's network namespace.
    #[must_use]
    pub fn netns(&self) -> &NetnsFd {
        &self.netns
    }

    /// A path by which another process opens the namespace, while this one lives.
    #[must_use]
    pub fn netns_path(&self) -> PathBuf {
        let fd = std::os::fd::AsFd::as_fd(&self.netns);
        Path::new("/proc")
            .join(std::process::id().to_string())
            .join(format!("fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd)))
    }

    /// Puts another namespace in its place, for the clients to come.
    pub fn swap_netns(&mut self, netns: NetnsFd) -> NetnsFd {
        std::mem::replace(&mut self.netns, netns)
    }

    /// The kernel side.
    pub fn redirect(&self) -> Result<&Redirect> {
        self.redirect.as_ref().context("the kernel side was taken")
    }

    /// The kernel side, to be changed.
    pub fn redirect_mut(&mut self) -> Result<&mut Redirect> {
        self.redirect.as_mut().context("the kernel side was taken")
    }

    /// Takes the kernel side out, or puts another one in.
    pub fn swap_redirect(&mut self, redirect: Option<Redirect>) -> Option<Redirect> {
        std::mem::replace(&mut self.redirect, redirect)
    }

    /// The listeners' port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Takes the listeners out; dropping them closes them.
    pub fn take_listeners(&mut self) -> Vec<TcpListener> {
        std::mem::take(&mut self.listeners)
    }

    /// Gives the pod's loopback the protected IPv4 address, as if the server ran there.
    pub fn own_protected_address(&self) -> Result<()> {
        self.netns
            .run_in(|| check(Command::new("ip").args(["addr", "add", "10.9.8.7/32", "dev", "lo"])))??;
        Ok(())
    }

    /// A command in the pod's namespace and a cgroup such as `pods/a/main`.
    pub fn spawn(&self, cgroup: &str, command: &mut Command) -> Result<Child> {
        let mut entered = self.entering(cgroup, command);
        Ok(self.netns.run_in(|| entered.spawn())??)
    }

    /// A command in a cgroup of the lab, in whatever namespace it is spawned.
    #[must_use]
    pub fn entering(&self, cgroup: &str, command: &Command) -> Command {
        let mut entered = Command::new("sh");
        entered
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(self.root.join(cgroup).join("cgroup.procs"))
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        entered
    }

    /// Python in the pod, with `dial` and `told`; it prints what it saw.
    pub fn python(&self, cgroup: &str, script: &str) -> Result<Child> {
        self.python_with(cgroup, script, &[])
    }

    /// The same with arguments, from `sys.argv[1]` on.
    pub fn python_with(&self, cgroup: &str, script: &str, arguments: &[&str]) -> Result<Child> {
        self.spawn(
            cgroup,
            Command::new("python3")
                .args(["-c", &format!("{}{DIAL}{script}", Self::TOLD)])
                .args(arguments),
        )
    }

    /// What a client printed, once it has ended well.
    pub fn answer(mut child: Child) -> Result<String> {
        let mut out = String::new();
        child
            .stdout
            .take()
            .context("no output")?
            .read_to_string(&mut out)?;
        let status = child.wait()?;
        ensure!(status.success(), "the client: {status}\n{out}");
        Ok(out.trim().to_owned())
    }

    /// Accepts one connection at a listener (0: IPv4, 1: IPv6), answers a byte, and tells its origin.
    pub fn accept(&self, listener: usize) -> Result<Option<Origin>> {
        let (mut connection, origin) = self.accepted(listener)?;
        connection.write_all(b"x")?;
        Ok(origin)
    }

    /// Accepts one connection, and tells its origin.
    pub fn accepted(&self, listener: usize) -> Result<(TcpStream, Option<Origin>)> {
        let listener = self.listeners.get(listener).context("no such listener")?;
        let until = Instant::now() + PATIENCE;
        let (connection, client) = loop {
            match listener.accept() {
                Ok(accepted) => break accepted,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if Instant::now() > until {
                        bail!("nobody connected; counted: {:?}", self.redirect()?.counters());
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(error.into()),
            }
        };
        connection.set_nonblocking(false)?;
        let tuple = FourTuple {
            netns: self.netns.cookie(),
            client,
            listener: connection.local_addr()?,
        };
        let origin = self.redirect()?.origins().origin(&tuple);
        Ok((connection, origin))
    }

    /// Waits until something holds.
    pub fn wait_for(&self, what: &str, condition: impl Fn() -> Result<bool>) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while !condition()? {
            ensure!(Instant::now() < until, "never: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Under what the origin of an accepted connection is kept.
    pub fn tuple(&self, connection: &TcpStream) -> Result<FourTuple> {
        Ok(FourTuple {
            netns: self.netns.cookie(),
            client: connection.peer_addr()?,
            listener: connection.local_addr()?,
        })
    }

    /// What is noted about a connection now.
    pub fn origin(&self, connection: &FourTuple) -> Result<Option<Origin>> {
        Ok(self.redirect()?.origins().origin(connection))
    }

    /// One of the kernel side's counters, such as `diverted`.
    #[must_use]
    pub fn counted(&self, event: &str) -> u64 {
        let counters = self.redirect.as_ref().map(Redirect::counters);
        counters
            .unwrap_or_default()
            .iter()
            .find(|(counter, _)| counter.as_str() == event)
            .map_or(0, |(_, total)| *total)
    }
}

impl Drop for KernelLab {
    fn drop(&mut self) {
        if let Some(redirect) = self.redirect.take() {
            let _ = redirect.remove();
        }
        let _ = cgroup::end(&self.root);
    }
}
