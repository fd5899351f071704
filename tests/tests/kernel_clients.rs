//! Clients that connect in every way there is: each is diverted, and each origin is its own.

use std::io::Write as _;
use std::net::TcpListener;

use anyhow::{Context as _, Result, ensure};
use bailiff_model::FailureMode;
use bailiff_tests::{KernelLab, Talk};

const V4: (&str, usize, &str) = ("10.9.8.7", 0, "10.9.8.7:5432");
const V6: (&str, usize, &str) = ("fd00:9::7", 1, "[fd00:9::7]:5432");

fn lab(name: &str) -> Result<Option<KernelLab>> {
    KernelLab::new(name, FailureMode::Closed)
}

#[test]
fn connects_that_do_not_block() -> Result<()> {
    let Some(lab) = lab("unblocked")? else {
        return Ok(());
    };
    let script = "
import select
s = socket.socket(); s.setblocking(False)
begun = errno.errorcode.get(s.connect_ex(('10.9.8.7', 5432)), 'at once')
at_once = told(s.getpeername)
p = select.poll(); p.register(s, select.POLLOUT); p.poll()
print(begun, s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), s.getpeername(), at_once in (('10.9.8.7', 5432), 'ENOTCONN'))
p.modify(s, select.POLLIN); p.poll(); print(s.recv(1))
";
    let child = lab.python("pods/a/main", script)?;
    let pid = child.id();
    lab.told(lab.accept(0)?, pid, "python3", "10.9.8.7:5432")?;
    let answer = KernelLab::answer(child)?;
    ensure!(
        answer == "EINPROGRESS 0 ('10.9.8.7', 5432) True\nb'x'",
        "{answer}"
    );
    let script = "
import asyncio
async def main():
    reader, writer = await asyncio.open_connection('fd00:9::7', 5432)
    print(writer.get_extra_info('peername')[:2], await reader.read(1))
    writer.close()
asyncio.run(main())
";
    let child = lab.python("pods/a/main", script)?;
    let pid = child.id();
    lab.told(lab.accept(1)?, pid, "python3", "[fd00:9::7]:5432")?;
    let answer = KernelLab::answer(child)?;
    ensure!(answer == "('fd00:9::7', 5432) b'x'", "{answer}");
    ensure!(lab.counted("diverted") == 2 && lab.counted("origin_lost") == 0);
    Ok(())
}

/// Connects in these ways, by IPv4 and IPv6, and checks what came of it.
fn dials(lab: &KernelLab, ways: &[(&str, &str)]) -> Result<()> {
    let before = lab.counted("diverted");
    let mut dialed = 0;
    for (way, comm) in ways {
        for (address, listener, destination) in [V4, V6] {
            let child = lab
                .dial("pods/a/main", way, address)
                .with_context(|| (*way).to_owned())?;
            let pid = child.id();
            let (mut connection, origin) = lab.accepted(listener).with_context(|| (*way).to_owned())?;
            connection.write_all(b"x")?;
            let answer = KernelLab::answer(child)?;
            let (connected_by, told) = answer.split_once(' ').context("no process")?;
            ensure!(told == format!("ok {address} 5432"), "{way}: {answer}");
            // A thread's process is the one that was started; vfork and clone make another.
            let tgid: u32 = connected_by.parse()?;
            ensure!(
                (tgid == pid) != matches!(*way, "vfork" | "clone"),
                "{way}: {answer}"
            );
            lab.told(origin, tgid, comm, destination)
                .with_context(|| (*way).to_owned())?;
            dialed += 1;
        }
    }
    ensure!(lab.counted("diverted") == before + dialed && lab.counted("origin_lost") == 0);
    Ok(())
}

#[test]
fn io_uring() -> Result<()> {
    let Some(lab) = lab("uring")? else { return Ok(()) };
    dials(
        &lab,
        &[
            ("uring", "test-dial"),
            ("uring-async", "iou-wrk-PID"),
            ("uring-sqpoll", "iou-sqp-PID"),
            ("uring-fastopen", "test-dial"),
        ],
    )
}

#[test]
fn tcp_fast_open() -> Result<()> {
    let Some(lab) = lab("fastopen")? else {
        return Ok(());
    };
    let ways = [("fastopen-send", "test-dial"), ("fastopen-connect", "test-dial")];
    dials(&lab, &ways)?;
    // For clients and servers, without a cookie: now the SYN carries data, and connect(2) itself sends nothing.
    lab.sysctl("net/ipv4/tcp_fastopen", "1543")?;
    dials(&lab, &ways)
}

#[test]
fn mptcp() -> Result<()> {
    let Some(lab) = lab("mptcp")? else { return Ok(()) };
    dials(&lab, &[("mptcp", "test-dial"), ("mptcp-uring", "test-dial")])?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut parts = kernel
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    if (parts.next(), parts.next()) >= (Some(6), Some(2)) {
        dials(&lab, &[("mptcp-fastopen-send", "test-dial")])?;
    }
    Ok(())
}

#[test]
fn processes_and_their_threads() -> Result<()> {
    let Some(lab) = lab("threads")? else { return Ok(()) };
    dials(
        &lab,
        &[
            ("plain", "test-dial"),
            ("thread", "a-thread"),
            ("vfork", "test-dial"),
            ("clone", "test-dial"),
            // The process lives on without its first thread.
            ("leaderless", "a-thread"),
        ],
    )
}

#[test]
fn one_source_port_on_two_addresses_at_once() -> Result<()> {
    let Some(lab) = lab("collide")? else { return Ok(()) };
    let mut open = Vec::new();
    for source in ["127.0.0.1", "127.0.0.2"] {
        let talk = lab.talk(
            "pods/a/main",
            &format!(
                "s = socket.socket(); s.bind(('{source}', 7001)); s.connect(('10.9.8.7', 5432)); s.recv(1)
say(s.getsockname(), s.getpeername()); hear()"
            ),
        )?;
        let (mut connection, origin) = lab.accepted(0)?;
        ensure!(connection.peer_addr()?.to_string() == format!("{source}:7001"));
        lab.told(origin, talk.pid(), "python3", "10.9.8.7:5432")?;
        connection.write_all(b"x")?;
        open.push((source, talk, connection));
    }
    // Both live on, and each is still told to be itself.
    for (source, talk, connection) in &mut open {
        ensure!(talk.hear()? == format!("('{source}', 7001) ('10.9.8.7', 5432)"));
        lab.told(
            lab.origin(&lab.tuple(connection)?)?,
            talk.pid(),
            "python3",
            "10.9.8.7:5432",
        )?;
    }
    // One ends: its origin goes, the other's stays.
    let (_, mut ended, connection) = open.remove(0);
    let tuple = lab.tuple(&connection)?;
    ended.say("end")?;
    ensure!(ended.hear().is_err());
    lab.wait_for("the origin goes", || Ok(lab.origin(&tuple)?.is_none()))?;
    let (_, talk, connection) = &open[0];
    lab.told(
        lab.origin(&lab.tuple(connection)?)?,
        talk.pid(),
        "python3",
        "10.9.8.7:5432",
    )
}

#[test]
fn sockets_bound_to_a_device() -> Result<()> {
    let Some(lab) = lab("device")? else { return Ok(()) };
    lab.ip("link add pod0 type veth peer name other0")?;
    lab.ip("link set pod0 up")?;
    lab.ip("addr add 10.44.0.2/24 dev pod0")?;
    let dial = |user: u32, device: &str, source: &str| {
        let script = format!(
            "
os.setuid({user})
s = socket.socket(); s.settimeout(5)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'{device}')
if '{source}': s.bind(('{source}', 0))
def call():
    s.connect(('10.9.8.7', 5432)); s.recv(1)
    return s.getpeername()
print(told(call))"
        );
        lab.python("pods/a/main", &script)
    };
    for user in [0, 65534] {
        for (device, source) in [("lo", ""), ("pod0", ""), ("pod0", "10.44.0.2")] {
            let child = dial(user, device, source)?;
            if user != 0 && device != "lo" {
                // The kernel lets nobody but those with CAP_NET_RAW undo such a binding, not even a program in its place.
                ensure!(KernelLab::answer(child)? == "ECONNREFUSED");
                continue;
            }
            let pid = child.id();
            let origin = lab.accept(0)?.context("no origin")?;
            ensure!(origin.uid == user && origin.gid == 0, "{origin:?}");
            lab.told(Some(origin), pid, "python3", "10.9.8.7:5432")?;
            ensure!(
                KernelLab::answer(child)? == "('10.9.8.7', 5432)",
                "{user} {device} {source}"
            );
        }
    }
    ensure!(lab.counted("diverted") == 4 && lab.counted("refused_error") == 2);
    Ok(())
}

#[test]
fn a_socket_that_is_used_again() -> Result<()> {
    let Some(lab) = lab("again")? else { return Ok(()) };
    let elsewhere = lab.netns().run_in(|| TcpListener::bind("127.0.0.1:7100"))??;
    let script = "
import ctypes
s = socket.socket(); s.settimeout(5)
def undo(): say('undone', ctypes.CDLL(None).connect(s.fileno(), bytes(16), 16), told(s.getpeername))
def go(address, port): say(told(lambda: s.connect((address, port))), told(s.getpeername))
go('10.9.8.7', 5432); hear(); undo()
go('127.0.0.1', 7100); hear(); undo()
go('10.9.8.7', 5432); hear(); undo()
";
    let mut talk = lab.talk("pods/a/main", script)?;
    for again in [false, true] {
        let (connection, origin) = lab.accepted(0)?;
        let tuple = lab.tuple(&connection)?;
        lab.told(origin, talk.pid(), "python3", "10.9.8.7:5432")?;
        ensure!(talk.hear()? == "None ('10.9.8.7', 5432)");
        talk.say("")?;
        ensure!(talk.hear()? == "undone 0 ENOTCONN");
        ensure!(
            lab.origin(&tuple)?.is_none(),
            "the origin outlives the connection"
        );
        if !again {
            let (_other, _) = elsewhere.accept()?;
            ensure!(
                talk.hear()? == "None ('127.0.0.1', 7100)",
                "the address that was asked for before"
            );
            talk.say("")?;
            ensure!(talk.hear()? == "undone 0 ENOTCONN");
        }
    }
    ensure!(lab.counted("diverted") == 2 && lab.counted("origin_lost") == 0);
    Ok(())
}

#[test]
fn a_socket_that_was_refused_connects_when_it_may() -> Result<()> {
    let Some(mut lab) = lab("retry")? else {
        return Ok(());
    };
    let pod = lab.cgroup_id("pods/a")?;
    lab.redirect_mut()?.unenroll(pod)?;
    let script = "
s = socket.socket(); s.settimeout(5)
def go(): say(told(lambda: s.connect(('10.9.8.7', 5432))), told(s.getpeername))
go(); hear(); go(); hear()
";
    let mut talk = lab.talk("pods/a/main", script)?;
    ensure!(talk.hear()? == "ECONNREFUSED ENOTCONN");
    let (netns, port) = (lab.netns().cookie(), lab.port());
    lab.redirect_mut()?.enroll(pod, netns, port)?;
    talk.say("")?;
    let (_connection, origin) = lab.accepted(0)?;
    ensure!(talk.hear()? == "None ('10.9.8.7', 5432)");
    let tgid = talk.pid();
    lab.told(origin, tgid, "python3", "10.9.8.7:5432")?;
    ensure!(lab.counted("refused_unenrolled") == 1 && lab.counted("diverted") == 1);
    Ok(())
}

#[test]
fn connected_udp_is_not_diverted_and_does_not_get_out() -> Result<()> {
    let Some(lab) = lab("udp")? else { return Ok(()) };
    lab.own_protected_address()?;
    let script = "
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(('10.9.8.7', 5432))
print(s.getpeername(), told(lambda: s.send(b'x')))";
    let answer = KernelLab::answer(lab.python("pods/a/main", script)?)?;
    ensure!(answer == "('10.9.8.7', 5432) EPERM", "{answer}");
    ensure!(lab.counted("diverted") == 0 && lab.counted("guard_dropped") == 1);
    Ok(())
}

#[test]
fn a_client_that_ends_at_once() -> Result<()> {
    let Some(lab) = lab("ends")? else { return Ok(()) };
    for _ in 0..50 {
        // The accepting side may come before or after the connection's end: it sees the right origin or none.
        let mut talk = Talk::with(lab.dial("pods/a/main", "then-exit", "10.9.8.7")?)?;
        let (_connection, origin) = lab.accepted(0)?;
        let told = talk.hear()?;
        let (tgid, outcome) = told.split_once(' ').context("no process")?;
        ensure!(outcome == "ok", "{told}");
        if origin.is_some() {
            lab.told(origin, tgid.parse()?, "test-dial", "10.9.8.7:5432")?;
        }
    }
    ensure!(lab.counted("diverted") == 50 && lab.counted("origin_lost") == 0);
    Ok(())
}
