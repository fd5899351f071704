//! What passes the guard on the node's side of a pod's link: the agent's own connections, and whatever else is meant to.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bailiff_kernel::netns::NetnsFd;
use bailiff_kernel::{Options, Redirect};
use bailiff_model::FailureMode;
use bailiff_tests::{KernelLab, Wire, check};
use socket2::{Domain, Socket, Type};

const FRAMES: &str = include_str!("../clients/frames.py");

fn joined(name: &str) -> Result<Option<(KernelLab, Wire)>> {
    let Some(mut lab) = KernelLab::new(name, FailureMode::Closed)? else {
        return Ok(None);
    };
    let wire = Wire::behind(&mut lab)?;
    Ok(Some((lab, wire)))
}

/// A connection from the server's namespace.
fn dial(wire: &Wire, from: &str, to: &str) -> Result<TcpStream> {
    let (from, to): (SocketAddr, SocketAddr) = (from.parse()?, to.parse()?);
    wire.server.run_in(|| -> Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(from), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
        socket.connect_timeout(&to.into(), Duration::from_secs(20))?;
        Ok(socket.into())
    })?
}

#[test]
fn the_agents_own_connections() -> Result<()> {
    let Some((lab, wire)) = joined("upstream")? else {
        return Ok(());
    };
    for (address, pod) in [("10.9.8.7", "10.9.8.2"), ("fd00:9::7", "fd00:9::2")] {
        let to: SocketAddr = (address.parse::<std::net::IpAddr>()?, 5432).into();
        let server = wire.server.run_in(|| TcpListener::bind(to))??;
        let mut agent = lab.talk(
            "agent",
            &format!(
                "s = socket.create_connection(('{address}', 5432))
s.sendall(bytes(20_000_000)); say(s.recv(5)); hear(); s.close(); say('closed'); hear()"
            ),
        )?;
        let (mut connection, peer) = server.accept()?;
        ensure!(peer.ip() == pod.parse::<std::net::IpAddr>()?, "{peer}");
        let mut taken = vec![0; 20_000_000];
        connection.read_exact(&mut taken)?;
        connection.write_all(b"hello")?;
        ensure!(agent.hear()? == "b'hello'");
        // The agent's side closes first: what acknowledges the server's end then comes from no socket.
        agent.say("")?;
        ensure!(agent.hear()? == "closed" && connection.read(&mut taken)? == 0);
        drop(connection);
        lab.wait_for("the server's side of the connection ends", || {
            let tables = wire.server.run_in(|| {
                ["tcp", "tcp6"].map(|table| std::fs::read_to_string(format!("/proc/thread-self/net/{table}")))
            })?;
            let [v4, v6] = tables;
            // LAST_ACK is state 9.
            let waits = |table: &str| {
                table
                    .lines()
                    .any(|line| line.split_whitespace().nth(3) == Some("09"))
            };
            Ok(!waits(&v4?) && !waits(&v6?))
        })?;
    }
    ensure!(lab.counted("host_guard_dropped") == 0 && lab.counted("guard_dropped") == 0);
    Ok(())
}

#[test]
fn the_kernels_own_answers() -> Result<()> {
    let Some((lab, wire)) = joined("answers")? else {
        return Ok(());
    };
    // Nobody listens there: the reset comes from no socket, and finding the way back takes neighbour discovery.
    for (from, to) in [
        ("10.9.8.7:5432", "10.9.8.2:9"),
        ("[fd00:9::7]:5432", "[fd00:9::2]:9"),
    ] {
        let error = dial(&wire, from, to).err().context("somebody listens")?;
        let error = error.downcast::<std::io::Error>()?;
        ensure!(error.kind() == std::io::ErrorKind::ConnectionRefused, "{error}");
    }
    ensure!(lab.counted("host_guard_dropped") == 0);
    Ok(())
}

#[test]
fn what_a_packet_socket_says_in_the_agents_name() -> Result<()> {
    let Some((lab, wire)) = joined("inject")? else {
        return Ok(());
    };
    let server = wire.server.run_in(|| TcpListener::bind("10.9.8.7:5432"))??;
    let mut agent = lab.talk(
        "agent",
        "s = socket.create_connection(('10.9.8.7', 5432)); say(s.recv(3)); hear(); s.sendall(b'the agent'); say(s.recv(9)); hear()",
    )?;
    let (mut connection, _) = server.accept()?;
    let script = format!(
        "{FRAMES}
r = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)); r.bind(('eth0', 3)); say('listens')
while True:
    f = r.recv(2000)
    if f[12:14] != b'\\x08\\0' or f[23] != 6 or not f.endswith(b'row'): continue
    port, mine, seq, ack = struct.unpack('!HHII', f[34:46])
    break
for bypass in (False, True):
    s = packet_socket(bypass)
    for flags, word in ((ACK | PSH, b'<injected>'), (RST, b''), (RST | ACK, b''), (ACK, b''), (SYN, b'')):
        s.send(ether(ip4(PROTECTED, TCP, tcp(PROTECTED, word, flags, source_port=mine, seq=ack, ack=seq + 3))))
    s.send(ether(ip4(OTHER, TCP, tcp(OTHER, b'<arrives>'))))
say('sent', f[-3:])"
    );
    let mut other = lab.talk("pods/a/main", &script)?;
    ensure!(other.hear()? == "listens");
    connection.write_all(b"row")?;
    ensure!(other.hear()? == "sent b'row'", "the pod reads its own link");
    lab.wait_for("the packets beside", || wire.saw(b"<arrives>"))?;
    ensure!(lab.counted("host_guard_dropped") == 10 && !wire.saw(b"<injected>")?);
    // The connection is as it was.
    ensure!(agent.hear()? == "b'row'");
    agent.say("")?;
    let mut said = [0; 9];
    connection.read_exact(&mut said)?;
    ensure!(&said == b"the agent");
    connection.write_all(b"lives yet")?;
    ensure!(agent.hear()? == "b'lives yet'");
    Ok(())
}

#[test]
fn exempt_cgroups() -> Result<()> {
    let Some((mut lab, wire)) = joined("exempt")? else {
        return Ok(());
    };
    let exempt = lab.cgroup_id("pods/stranger")?;
    lab.redirect_mut()?.exempt(exempt)?;
    let server = wire.server.run_in(|| TcpListener::bind("10.9.8.7:5432"))??;
    let script = format!(
        "{FRAMES}
s = socket.create_connection((PROTECTED, 5432)); say(s.getpeername(), s.recv(3))
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'<udp>', (PROTECTED, 53))
raw(PROTECTED, ICMP, b'\\x08\\0\\0\\0\\0\\0\\0\\0<icmp>')
packet_socket().send(ether(ip4(PROTECTED, TCP, tcp(PROTECTED, b'<frame>'))))
say('sent')"
    );
    let mut client = lab.talk("pods/stranger", &script)?;
    server.accept()?.0.write_all(b"row")?;
    ensure!(client.hear()? == "('10.9.8.7', 5432) b'row'" && client.hear()? == "sent");
    for word in ["<udp>", "<icmp>", "<frame>"] {
        lab.wait_for(word, || wire.saw(word.as_bytes()))?;
    }
    ensure!(lab.counted("exempt") == 1 && lab.counted("diverted") == 0);
    ensure!(lab.counted("guard_dropped") == 0 && lab.counted("host_guard_dropped") == 0);
    Ok(())
}

#[test]
fn what_comes_to_the_pod() -> Result<()> {
    let Some((lab, wire)) = joined("inbound")? else {
        return Ok(());
    };
    let mut pod = lab.talk(
        "pods/a/main",
        "
t = socket.socket(); t.bind(('10.9.8.2', 8080)); t.listen(5)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('10.9.8.2', 53)); say('listens')
for _ in range(2):
    c, _ = t.accept(); c.sendall(c.recv(4)); c.close()
    said, peer = u.recvfrom(9); say(peer[0], said, told(lambda: u.sendto(said, peer)))",
    )?;
    ensure!(pod.hear()? == "listens");
    // What isn't protected is answered in every way; a protected host by TCP alone.
    for (host, by_udp) in [("10.9.8.8", true), ("10.9.8.7", false)] {
        let mut connection = dial(&wire, &format!("{host}:0"), "10.9.8.2:8080")?;
        connection.write_all(b"ping")?;
        let mut said = Vec::new();
        connection.read_to_end(&mut said)?;
        ensure!(said == b"ping");
        let socket = wire.server.run_in(|| UdpSocket::bind((host, 0)))??;
        socket.send_to(b"ping", "10.9.8.2:53")?;
        let told = pod.hear()?;
        if by_udp {
            ensure!(told == format!("{host} b'ping' 4"), "{told}");
            let mut said = [0; 9];
            ensure!(socket.recv(&mut said)? == 4 && said.starts_with(b"ping"));
        } else {
            ensure!(told == format!("{host} b'ping' EPERM"), "{told}");
        }
    }
    ensure!(lab.counted("guard_dropped") == 1 && lab.counted("host_guard_dropped") == 0);
    Ok(())
}

#[test]
fn what_inner_namespaces_send_through_the_pod() -> Result<()> {
    let Some((mut lab, wire)) = joined("inner")? else {
        return Ok(());
    };
    let inner = NetnsFd::create()?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&inner));
    let path = format!("/proc/{}/fd/{fd}", std::process::id());
    lab.ip(&format!("link add inner0 type veth peer name eth0 netns {path}"))?;
    lab.ip("addr add 10.77.0.1/24 dev inner0")?;
    lab.ip("link set inner0 up")?;
    lab.sysctl("net/ipv4/ip_forward", "1")?;
    for arguments in [
        "addr add 10.77.0.2/24 dev eth0",
        "link set eth0 up",
        "link set lo up",
        "route add default via 10.77.0.1",
    ] {
        inner.run_in(|| check(Command::new("ip").args(arguments.split(' '))))??;
    }
    wire.ip("route add 10.77.0.0/24 via 10.9.8.2")?;
    std::fs::create_dir_all(lab.root().join("outside"))?;
    let servers =
        ["10.9.8.7:5432", "10.9.8.8:5432"].map(|address| wire.server.run_in(|| TcpListener::bind(address)));
    let [Ok(Ok(protected)), Ok(Ok(other))] = servers else {
        anyhow::bail!("cannot listen")
    };
    lab.swap_netns(inner);
    // In the pod's cgroup the hook refuses. From a cgroup outside, as of a container's daemon of the pod, it's the guard.
    let script = "
OTHER, PROTECTED = '10.9.8.8', '10.9.8.7'
def connects(to):
    s = socket.socket(); s.settimeout(3)
    return told(lambda: s.connect((to, 5432)))
say(connects(OTHER), connects(PROTECTED))";
    let mut client = lab.talk("pods/a/main", script)?;
    ensure!(client.hear()? == "None ECONNREFUSED");
    other.accept()?;
    ensure!(lab.counted("refused_namespace") == 1 && lab.counted("host_guard_dropped") == 0);
    let mut client = lab.talk("outside", script)?;
    ensure!(client.hear()? == "None timed out");
    other.accept()?;
    ensure!(lab.counted("host_guard_dropped") > 0);
    protected.set_nonblocking(true)?;
    ensure!(protected.accept().is_err());
    Ok(())
}

#[test]
fn the_further_subflows_of_mptcp() -> Result<()> {
    let Some((lab, wire)) = joined("subflows")? else {
        return Ok(());
    };
    // A server elsewhere announces addresses to join: one of them protected, one not.
    wire.ip("addr add 10.9.8.9/24 dev eth0")?;
    wire.ip("mptcp limits set subflow 8 add_addr_accepted 8")?;
    lab.ip("mptcp limits set subflow 8 add_addr_accepted 8")?;
    for address in ["10.9.8.7", "10.9.8.9"] {
        wire.ip(&format!("mptcp endpoint add {address} dev eth0 signal"))?;
    }
    let server = wire.server.run_in(|| -> Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(socket2::Protocol::MPTCP))?;
        socket.bind(&"0.0.0.0:5432".parse::<SocketAddr>()?.into())?;
        socket.listen(5)?;
        Ok(socket)
    })??;
    let mut client = lab.talk(
        "pods/a/main",
        "s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262); s.connect(('10.9.8.8', 5432))
say(s.recv(3)); s.sendall(b'more'); hear()",
    )?;
    let (mut connection, _) = server.accept()?;
    connection.write_all(b"row")?;
    ensure!(client.hear()? == "b'row'");
    // SYNs of the pod to these, by what stands in their headers: TCP, source and destination.
    let joins = |last: u8| wire.saw(&[10, 9, 8, 2, 10, 9, 8, last]);
    lab.wait_for("the subflow to the other address", || joins(9))?;
    lab.wait_for("the subflow to the protected address is dropped", || {
        Ok(lab.counted("guard_dropped") > 0)
    })?;
    ensure!(!joins(7)?);
    ensure!(lab.counted("diverted") == 0);
    Ok(())
}

#[test]
fn an_agent_that_drains_after_the_next_one_has_taken_over() -> Result<()> {
    let Some((mut lab, wire)) = joined("drains")? else {
        return Ok(());
    };
    let server = wire.server.run_in(|| TcpListener::bind("10.9.8.7:5432"))??;
    let script = "s = socket.create_connection(('10.9.8.7', 5432)); s.settimeout(3)
while hear(): s.sendall(b'more'); say(told(lambda: s.recv(4)))";
    let mut old = lab.talk("agent", script)?;
    let (mut connection, _) = server.accept()?;
    // Each agent has a cgroup of its own, as pods have.
    for (next, passes) in [("agent-2", true), ("agent-3", false)] {
        std::fs::create_dir_all(lab.root().join(next))?;
        drop(lab.swap_redirect(None));
        let options = Options {
            agent_cgroup: lab.cgroup_id(next)?,
            ..lab.options()?
        };
        lab.swap_redirect(Some(Redirect::load(options)?));
        let redirect = lab.redirect_mut()?;
        wire.node.run_in(|| redirect.guard_link("pod0"))??;
        let mut fresh = lab.talk(next, script)?;
        drop(server.accept()?);
        fresh.say("")?;
        let before = lab.counted("host_guard_dropped");
        old.say("go on")?;
        if passes {
            let mut said = [0; 4];
            connection.read_exact(&mut said)?;
            connection.write_all(b"row.")?;
            ensure!(old.hear()? == "b'row.'");
            ensure!(lab.counted("host_guard_dropped") == before);
        } else {
            ensure!(old.hear()? == "timed out");
            ensure!(lab.counted("host_guard_dropped") > before);
        }
    }
    Ok(())
}
