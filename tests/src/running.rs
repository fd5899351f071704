//! An agent with a sandbox out of which the test itself speaks.

use std::io::{ErrorKind, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::Enforced;

/// Connects inside the sandbox and passes the connected socket out, so that a test sends and reads by itself what it wants.
const DIALER: &str = "
import socket
control = socket.socket(fileno=0)
control.send(b'r')
while True:
    asked = control.recv(200).decode().split()
    if not asked: break
    dialed = socket.socket()
    dialed.settimeout(30)
    try: dialed.connect((asked[0], int(asked[1])))
    except OSError as error: control.send(b'e%d' % (error.errno or 0)); continue
    dialed.setblocking(True)
    socket.send_fds(control, [b'k'], [dialed.fileno()])
    dialed.close()
";

/// How long the agent may take for what it is asked.
const PATIENCE: Duration = Duration::from_secs(60);

/// The agent's process. Dropping it ends it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    control: Option<UnixStream>,
    admin: SocketAddr,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn start(enforced: &Enforced, options: &[&str]) -> Result<Self> {
        let admin = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let (control, inside) = UnixStream::pair()?;
        let admin_at = admin.to_string();
        let options = [&["--admin", &admin_at], options].concat();
        let mut child = enforced
            .run_with(&options, &["python3", "-c", DIALER])?
            .stdin(OwnedFd::from(inside))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut said = child.stderr.take().context("no log")?;
        let log = Arc::<Mutex<String>>::default();
        let kept = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = said.read(&mut buffer) {
                if let Ok(mut kept) = kept.lock() {
                    kept.push_str(&String::from_utf8_lossy(buffer.get(..read).unwrap_or_default()));
                }
            }
        });
        control.set_read_timeout(Some(PATIENCE))?;
        let mut this = Self {
            child,
            control: Some(control),
            admin,
            log,
            reader: Some(reader),
        };
        // `read_exact` goes on after a signal, as one whose child has ended may get.
        if let Err(error) = this.control()?.read_exact(&mut [0]) {
            ensure!(error.kind() == std::io::ErrorKind::UnexpectedEof, error);
            this.child.wait()?;
            bail!("the agent didn't start: {}", this.log());
        }
        Ok(this)
    }

    fn control(&self) -> Result<&UnixStream> {
        self.control.as_ref().context("the sandbox's command has ended")
    }

    /// Connects from inside the sandbox. An error of the connect is returned as the system's.
    pub fn dial(&self, address: &str, port: u16) -> Result<TcpStream> {
        let mut control = self.control()?;
        control.write_all(format!("{address} {port}").as_bytes())?;
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut passed = RecvAncillaryBuffer::new(&mut space);
        let mut said = [0; 32];
        // A socket with a time limit isn't read again by itself after a signal.
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(
                control,
                &mut [std::io::IoSliceMut::new(&mut said)],
                &mut passed,
                RecvFlags::CMSG_CLOEXEC,
            )
        })?;
        let descriptor = passed.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        if let Some(descriptor) = descriptor {
            return Ok(TcpStream::from(descriptor));
        }
        let said = String::from_utf8_lossy(said.get(..received.bytes).unwrap_or_default()).into_owned();
        let number = said.strip_prefix('e').and_then(|number| number.parse().ok());
        Err(std::io::Error::from_raw_os_error(number.context("the sandbox's command has ended")?).into())
    }

    /// The process's id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Memory that the agent has in use, in KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        status
            .lines()
            .find_map(|line| {
                line.strip_prefix("VmRSS:")?
                    .trim()
                    .strip_suffix(" kB")?
                    .trim()
                    .parse()
                    .ok()
            })
            .context("no VmRSS")
    }

    /// What it logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().map(|log| log.clone()).unwrap_or_default()
    }

    /// What its admin server answers, with status and headers.
    pub fn get(&self, path: &str) -> Result<String> {
        get(self.admin, path)
    }

    /// All metrics, as served.
    pub fn metrics(&self) -> Result<String> {
        self.get("/metrics")
    }

    /// Where its kernel side is pinned.
    pub fn pins(&self) -> Result<PathBuf> {
        let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", self.pid()))?;
        let instance = cgroups.lines().find_map(|line| {
            line.strip_prefix("0::")?
                .strip_suffix("/agent")?
                .rsplit('/')
                .next()
        });
        Ok(Path::new("/sys/fs/bpf").join(instance.context("the agent is in no cgroup of its own")?))
    }

    /// A metric by its name and labels, such as `bailiff_sessions_open`; 0 where it isn't there yet.
    pub fn metric(&self, name: &str) -> Result<u64> {
        metric_of(&self.metrics()?, name)
    }

    /// How often a limit was reached.
    pub fn reached(&self, limit: &str) -> Result<u64> {
        self.metric(&format!("bailiff_limits_reached_total{{limit=\"{limit}\"}}"))
    }

    /// Waits until something holds.
    pub fn wait_for(&self, what: &str, condition: impl Fn() -> Result<bool>) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while !condition()? {
            ensure!(Instant::now() < until, "never: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Sends it SIGTERM.
    pub fn terminate(&self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid())?), Signal::SIGTERM)?;
        Ok(())
    }

    /// Waits for its end, and tells how it ended and what it had logged.
    pub fn wait(mut self) -> Result<(ExitStatus, String)> {
        let status = self.child.wait()?;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        Ok((status, self.log()))
    }

    /// Ends the sandbox's command, and with it the agent.
    pub fn stop(mut self) -> Result<(ExitStatus, String)> {
        self.control = None;
        self.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.control = None;
        let until = Instant::now() + Duration::from_secs(10);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > until {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A metric out of all of them; 0 where it isn't there yet.
pub(crate) fn metric_of(metrics: &str, name: &str) -> Result<u64> {
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.map_or(Ok(0), str::parse)?)
}

/// The sum over all series of a metric, by its name.
pub fn sum_of(metrics: &str, name: &str) -> Result<u64> {
    let series = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let of_it = rest.starts_with('{') || rest.starts_with(' ');
        of_it.then(|| rest.rsplit(' ').next()).flatten()
    });
    Ok(series.map(str::parse::<u64>).sum::<std::result::Result<_, _>>()?)
}

/// What a peer says until it closes its end, in whichever way.
pub fn until_closed(stream: &mut impl Read) -> Result<String> {
    let mut said = Vec::new();
    let outcome = stream.read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said).into_owned();
    match outcome {
        Err(error)
            if !matches!(
                error.kind(),
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
            ) =>
        {
            Err(error).context(said)
        }
        _ => Ok(said),
    }
}

/// What an admin server answers, with status and headers.
pub(crate) fn get(admin: SocketAddr, path: &str) -> Result<String> {
    let mut http = TcpStream::connect(admin)?;
    http.set_read_timeout(Some(PATIENCE))?;
    write!(
        http,
        "GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    http.read_to_string(&mut text)?;
    Ok(text)
}
