//! The redirect with real sockets in a sandbox of its own.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bailiff_kernel::netns::NetnsFd;
use bailiff_kernel::{FourTuple, Options, Origin, Redirect, TargetEntry, cgroup, net};
use bailiff_model::{FailureMode, OriginalDst};
use bailiff_tests::can_be_root;

/// A pod with the kernel side in force on it.
struct Lab {
    root: PathBuf,
    netns: NetnsFd,
    redirect: Option<Redirect>,
    listeners: Vec<TcpListener>,
    port: u16,
}

const ADDRESSES: [&str; 2] = ["10.9.8.7", "fd00:9::7"];

impl Lab {
    fn new(name: &str, mode: FailureMode) -> Result<Self> {
        let name = format!("bailiff-test-{name}-{}", std::process::id());
        let root = cgroup::mount()?.join(&name);
        for part in ["pods/a/main", "pods/stranger", "agent"] {
            std::fs::create_dir_all(root.join(part))?;
        }
        let netns = NetnsFd::create()?;
        netns.run_in(|| Command::new("ip").args(["link", "set", "lo", "up"]).status())??;
        let mut redirect = Redirect::load(Options {
            pins: PathBuf::from(format!("/sys/fs/bpf/{name}")),
            pods_cgroup: root.join("pods"),
            agent_cgroup: cgroup::id(&root.join("agent"))?,
            heartbeat_max_age: Duration::from_secs(60),
        })?;
        let (port, listeners) = net::listeners_in(&netns)?;
        let mut targets = Vec::new();
        for address in ADDRESSES {
            let address: std::net::IpAddr = address.parse()?;
            let prefix = if address.is_ipv4() { 32 } else { 128 };
            targets.push(TargetEntry {
                address,
                prefix,
                port: 5432,
                failure_mode: mode,
            });
        }
        redirect.set_targets(&targets)?;
        redirect.enroll(cgroup::id(&root.join("pods/a"))?, netns.cookie(), port)?;
        Ok(Self {
            root,
            netns,
            redirect: Some(redirect),
            listeners,
            port,
        })
    }

    /// Runs Python in the pod; it prints what it saw.
    fn python(&self, cgroup: &str, script: &str) -> Result<std::process::Child> {
        let procs = self.root.join(cgroup).join("cgroup.procs");
        let script = format!("import socket,errno\n{script}");
        let child = self.netns.run_in(|| {
            Command::new("sh")
                .args(["-c", "echo $$ > \"$1\"; exec python3 -c \"$2\"", "sh"])
                .arg(procs)
                .arg(script)
                .stdout(Stdio::piped())
                .spawn()
        })??;
        Ok(child)
    }

    fn answer(mut child: std::process::Child) -> Result<String> {
        let mut out = String::new();
        child
            .stdout
            .take()
            .context("no output")?
            .read_to_string(&mut out)?;
        child.wait()?;
        Ok(out.trim().to_owned())
    }

    /// Accepts one connection, answers a byte, and tells its origin.
    fn accept(&self, listener: usize) -> Result<Option<Origin>> {
        let listener = self.listeners.get(listener).context("no such listener")?;
        let (mut connection, client) = loop {
            match listener.accept() {
                Ok(accepted) => break accepted,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(2))
                }
                Err(error) => return Err(error.into()),
            }
        };
        let tuple = FourTuple {
            netns: self.netns.cookie(),
            client,
            listener: connection.local_addr()?,
        };
        let origin = self.redirect.as_ref().context("removed")?.origin(&tuple);
        connection.write_all(b"x")?;
        Ok(origin)
    }

    fn counted(&self, event: &str) -> u64 {
        let counters = self.redirect.as_ref().map(Redirect::counters).unwrap_or_default();
        counters
            .iter()
            .find(|(counter, _)| counter.as_str() == event)
            .map_or(0, |(_, total)| *total)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(redirect) = self.redirect.take() {
            let _ = redirect.remove();
        }
        let _ = cgroup::end(&self.root);
    }
}

const DIAL: &str = "
def dial(address, port=5432, family=None, source=None):
    s = socket.socket(family or (socket.AF_INET6 if ':' in address else socket.AF_INET))
    s.settimeout(5)
    try:
        if source: s.bind(source)
        s.connect((address, port))
        peer = s.getpeername()[:2]
        s.recv(1)
        return peer
    except OSError as e:
        return errno.errorcode.get(e.errno, str(e))
";

#[test]
fn ipv4_ipv6_and_mapped_are_diverted_with_their_origins() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let lab = Lab::new("families", FailureMode::Closed)?;
    for (address, listener, destination) in [
        ("10.9.8.7", 0, "10.9.8.7:5432"),
        ("fd00:9::7", 1, "[fd00:9::7]:5432"),
        ("::ffff:10.9.8.7", 0, "10.9.8.7:5432"),
    ] {
        let child = lab.python("pods/a/main", &format!("{DIAL}\nprint(dial('{address}'))"))?;
        let pid = child.id();
        let origin = lab.accept(listener)?.context("no origin")?;
        ensure!(
            origin.original == OriginalDst::new(destination.parse()?),
            "{origin:?}"
        );
        ensure!(
            origin.process.tgid == pid && origin.comm == "python3" && origin.creator.is_none(),
            "{origin:?}"
        );
        ensure!(
            origin.pod_cgroup == cgroup::id(&lab.root.join("pods/a"))?,
            "{origin:?}"
        );
        ensure!(
            Lab::answer(child)? == format!("('{address}', 5432)"),
            "getpeername shows what was asked for"
        );
    }
    ensure!(lab.counted("diverted") == 3 && lab.counted("origin_lost") == 0);
    Ok(())
}

#[test]
fn clients_with_their_own_source_address_and_port_are_told_apart() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let lab = Lab::new("sources", FailureMode::Closed)?;
    for source in ["127.0.0.1", "127.0.0.2"] {
        let child = lab.python(
            "pods/a/main",
            &format!("{DIAL}\nprint(dial('10.9.8.7', source=('{source}', 7001)))"),
        )?;
        let pid = child.id();
        let origin = lab.accept(0)?.context("no origin")?;
        ensure!(origin.process.tgid == pid, "{origin:?}");
        ensure!(Lab::answer(child)? == "('10.9.8.7', 5432)");
    }
    Ok(())
}

#[test]
fn what_must_not_pass_is_refused_and_counted() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let mut lab = Lab::new("refused", FailureMode::Closed)?;
    let print = |call: &str| format!("{DIAL}\nprint({call})");
    let stranger = lab.python("pods/stranger", &print("dial('10.9.8.7')"))?;
    ensure!(
        Lab::answer(stranger)? == "ECONNREFUSED",
        "a cgroup that isn't enrolled"
    );
    let direct = lab.python("pods/a/main", &print(&format!("dial('127.0.0.1', {})", lab.port)))?;
    ensure!(
        Lab::answer(direct)? == "ECONNREFUSED",
        "a direct dial of the listener"
    );
    let nested = lab.netns.run_in(NetnsFd::create)??;
    let outer = std::mem::replace(&mut lab.netns, nested);
    let inner = lab.python("pods/a/main", &print("dial('10.9.8.7')"))?;
    ensure!(
        Lab::answer(inner)? == "ECONNREFUSED",
        "another namespace in the pod's cgroup"
    );
    lab.netns = outer;
    lab.listeners.clear();
    let gone = lab.python("pods/a/main", &print("dial('10.9.8.7')"))?;
    ensure!(Lab::answer(gone)? == "ECONNREFUSED", "the listener gone");
    for event in [
        "refused_unenrolled",
        "refused_listener",
        "refused_namespace",
        "refused_agent",
    ] {
        ensure!(lab.counted(event) == 1, "{event}: {}", lab.counted(event));
    }
    Ok(())
}

#[test]
fn with_failure_mode_open_a_missing_agent_lets_connections_go_direct() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let mut lab = Lab::new("open", FailureMode::Open)?;
    lab.netns.run_in(|| {
        Command::new("ip")
            .args(["addr", "add", "10.9.8.7/32", "dev", "lo"])
            .status()
    })??;
    let server = lab.netns.run_in(|| TcpListener::bind("10.9.8.7:5432"))??;
    lab.listeners.clear();
    let child = lab.python("pods/a/main", &format!("{DIAL}\nprint(dial('10.9.8.7'))"))?;
    let (mut connection, _) = server.accept()?;
    connection.write_all(b"x")?;
    ensure!(Lab::answer(child)? == "('10.9.8.7', 5432)");
    ensure!(lab.counted("direct") == 1);
    Ok(())
}

#[test]
fn udp_and_raw_sockets_to_a_protected_address_are_dropped() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let lab = Lab::new("side-doors", FailureMode::Closed)?;
    lab.netns.run_in(|| {
        Command::new("ip")
            .args(["addr", "add", "10.9.8.7/32", "dev", "lo"])
            .status()
    })??;
    let script = "
def tried(f):
    try: return f()
    except OSError as e: return errno.errorcode.get(e.errno, str(e))
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
r = socket.socket(socket.AF_INET, socket.SOCK_RAW, 6)
i = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
print(tried(lambda: u.sendto(b'x', ('10.9.8.7', 53))), tried(lambda: r.sendto(bytes([0,1,0x15,0x38]+[0]*8+[0x50,2]+[0]*6), ('10.9.8.7', 0))), tried(lambda: i.sendto(b'\\x08\\0\\xf7\\xff\\0\\0\\0\\0', ('10.9.8.7', 0))))
";
    ensure!(Lab::answer(lab.python("pods/a/main", script)?)? == "EPERM EPERM EPERM");
    ensure!(lab.counted("guard_dropped") == 3);
    Ok(())
}

#[test]
fn a_second_agent_takes_over_and_removal_leaves_nothing() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let mut lab = Lab::new("takeover", FailureMode::Closed)?;
    let pins = PathBuf::from(format!(
        "/sys/fs/bpf/bailiff-test-takeover-{}",
        std::process::id()
    ));
    let first = lab.redirect.take().context("no first agent")?;
    let second = Redirect::load(Options {
        pins: pins.clone(),
        pods_cgroup: lab.root.join("pods"),
        agent_cgroup: cgroup::id(&lab.root.join("agent"))?,
        heartbeat_max_age: Duration::from_secs(60),
    })?;
    drop(first);
    lab.redirect = Some(second);
    let child = lab.python("pods/a/main", &format!("{DIAL}\nprint(dial('10.9.8.7'))"))?;
    ensure!(
        lab.accept(0)?.is_some(),
        "targets and enrolments outlive an agent"
    );
    ensure!(Lab::answer(child)? == "('10.9.8.7', 5432)");
    lab.redirect.take().context("no second agent")?.remove()?;
    ensure!(!pins.exists(), "pins are left");
    let child = lab.python("pods/a/main", &format!("{DIAL}\nprint(dial('10.9.8.7'))"))?;
    ensure!(
        Lab::answer(child)? != "('10.9.8.7', 5432)",
        "nothing diverts after removal"
    );
    Ok(())
}
