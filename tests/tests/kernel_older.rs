//! Connections that are older than their protection.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command};

use anyhow::{Context as _, Result, ensure};
use bailiff_kernel::TargetEntry;
use bailiff_kernel::netns::NetnsFd;
use bailiff_model::FailureMode;
use bailiff_tests::KernelLab;

/// Connects, says so, and tells what became of the connection once it is asked to.
const HOLDER: &str = "
address, port, protocol = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_STREAM, protocol)
s.connect((address, port))
print('connected', flush=True)
sys.stdin.readline()
s.setblocking(False)
print(told(lambda: s.recv(1)))
";

const MPTCP: u32 = 262;

struct Holder {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Holder {
    fn of(mut child: Child) -> Result<Self> {
        let mut said = BufReader::new(child.stdout.take().context("no output")?);
        let mut line = String::new();
        said.read_line(&mut line)?;
        ensure!(line == "connected\n", "the client didn't connect");
        Ok(Self { child, said })
    }

    fn connect(lab: &KernelLab, cgroup: &str, address: &str, protocol: u32) -> Result<Self> {
        let arguments = [address, "5432", &protocol.to_string()];
        Self::of(lab.python_with(cgroup, HOLDER, &arguments)?)
    }

    /// EAGAIN: the connection is open, and nothing has come.
    fn fate(mut self) -> Result<String> {
        self.child.stdin.take().context("no input")?.write_all(b"\n")?;
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        self.child.wait()?;
        Ok(line.trim().to_owned())
    }
}

/// Listens at addresses of the pod's loopback, for as long as the test lives.
fn servers(lab: &KernelLab) -> Result<Vec<TcpListener>> {
    lab.own_protected_address()?;
    lab.netns().run_in(|| -> Result<_> {
        bailiff_tests::check(Command::new("ip").args([
            "addr",
            "add",
            "fd00:9::7/128",
            "dev",
            "lo",
            "nodad",
        ]))?;
        ["10.9.8.7:5432", "[fd00:9::7]:5432", "127.0.0.9:5432"]
            .into_iter()
            .map(|address| Ok(TcpListener::bind(address)?))
            .collect()
    })?
}

#[test]
fn those_to_protected_addresses_are_destroyed_and_no_others() -> Result<()> {
    let Some(mut lab) = KernelLab::without_redirect("older", FailureMode::Closed)? else {
        return Ok(());
    };
    let _servers = servers(&lab)?;
    let hold = |cgroup, address, protocol| Holder::connect(&lab, cgroup, address, protocol);
    let ended = [
        hold("pods/a/main", "10.9.8.7", 0)?,
        hold("pods/a/main", "fd00:9::7", 0)?,
        hold("pods/a/main", "::ffff:10.9.8.7", 0)?,
        hold("pods/a/main", "10.9.8.7", MPTCP)?,
        // In the pod's namespace, but of no process of the pod: somebody put it there.
        hold("pods/stranger", "10.9.8.7", 0)?,
    ];
    let kept = [
        hold("pods/a/main", "127.0.0.9", 0)?,
        // An agent before this one has sessions of its own.
        hold("agent", "10.9.8.7", 0)?,
    ];
    lab.enforce()?;
    let destroyed =
        lab.redirect()?
            .sweep()?
            .destroy_older(lab.netns(), &lab.root().join("pods/a"), &lab.targets()?)?;
    ensure!(destroyed == ended.len(), "{destroyed}");
    for holder in ended {
        let fate = holder.fate()?;
        ensure!(fate == "ECONNABORTED", "{fate}");
    }
    for holder in kept {
        let fate = holder.fate()?;
        ensure!(fate == "EAGAIN", "{fate}");
    }
    Ok(())
}

#[test]
fn in_the_nodes_namespace_only_the_pods_own_are_destroyed() -> Result<()> {
    let Some(lab) = KernelLab::new("older-host", FailureMode::Closed)? else {
        return Ok(());
    };
    let server = TcpListener::bind("127.77.0.9:0")?;
    let port = server.local_addr()?.port();
    let hold = |cgroup: &str| {
        let script = KernelLab::TOLD.to_owned() + HOLDER;
        let mut client = Command::new("python3");
        client.args(["-c", &script, "127.77.0.9", &port.to_string(), "0"]);
        let child = lab.entering(cgroup, &client).spawn()?;
        Holder::of(child)
    };
    let (of_the_pod, of_others) = (hold("pods/a/main")?, hold("pods/stranger")?);
    let address: IpAddr = "127.77.0.9".parse()?;
    let target = TargetEntry {
        address,
        prefix: 32,
        port,
        failure_mode: FailureMode::Closed,
    };
    let here = NetnsFd::open(Path::new("/proc/thread-self/ns/net"))?;
    let sweep = lab.redirect()?.sweep()?;
    ensure!(sweep.destroy_older(&here, &lab.root().join("pods/a"), &[target])? == 1);
    ensure!(of_the_pod.fate()? == "ECONNABORTED");
    ensure!(of_others.fate()? == "EAGAIN");
    Ok(())
}
