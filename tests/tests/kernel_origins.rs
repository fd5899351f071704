//! Origins and the places kept for them come and go with their sockets, and nobody gets another's.

use std::net::TcpListener;

use anyhow::{Context as _, Result, ensure};
use bailiff_kernel::{Options, net};
use bailiff_model::FailureMode;
use bailiff_tests::KernelLab;
use socket2::SockRef;

fn lab(name: &str) -> Result<Option<KernelLab>> {
    KernelLab::new(name, FailureMode::Closed)
}

fn kept(lab: &KernelLab) -> Result<usize> {
    Ok(lab.redirect()?.origins().count())
}

#[test]
fn a_connect_that_is_refused_on_its_way_leaves_nothing_to_inherit() -> Result<()> {
    let Some(mut lab) = lab("stale")? else {
        return Ok(());
    };
    std::fs::create_dir_all(lab.root().join("outside"))?;
    // The hook finds a listener, which then takes no SYN, and is gone when the SYN is sent again.
    let listeners = lab.take_listeners();
    let deaf = socket2::SockFilter::new(6, 0, 0, 0);
    SockRef::from(&listeners[0]).attach_filter(&[deaf])?;
    let script = "
import select
s = socket.socket(); s.bind(('127.0.0.1', 7010)); s.setblocking(False)
say(errno.errorcode[s.connect_ex(('10.9.8.7', 5432))])
p = select.poll(); p.register(s, select.POLLOUT); p.poll()
say(errno.errorcode[s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)]); hear()";
    let mut client = lab.talk("pods/a/main", script)?;
    ensure!(client.hear()? == "EINPROGRESS" && kept(&lab)? == 1);
    drop(listeners);
    ensure!(client.hear()? == "ECONNREFUSED" && kept(&lab)? == 0);
    drop(client);
    // Whoever dials the listener from the same address and port, past all hooks or from a pod that isn't enrolled, is nobody.
    let port = lab.port();
    let listener = lab.netns().run_in(|| TcpListener::bind(("127.0.0.1", port)))??;
    for cgroup in ["outside", "pods/stranger"] {
        let script = format!("print(dial('127.0.0.1', {port}, source=('127.0.0.1', 7010)))");
        let child = lab.python(cgroup, &script)?;
        let (connection, client) = listener.accept()?;
        ensure!(client.port() == 7010);
        ensure!(lab.origin(&lab.tuple(&connection)?)?.is_none(), "{cgroup}");
        // Reset, so that the next one gets the same port.
        SockRef::from(&connection).set_linger(Some(std::time::Duration::ZERO))?;
        drop(connection);
        KernelLab::answer(child)?;
    }
    ensure!(lab.counted("diverted") == 1 && lab.counted("origin_lost") == 0);
    Ok(())
}

#[test]
fn a_place_that_was_kept_is_given_back() -> Result<()> {
    let Some(lab) = lab("kept")? else { return Ok(()) };
    // The hook diverts, and then there is no way to the loopback.
    lab.ip("addr del 127.0.0.1/8 dev lo")?;
    lab.ip("addr del ::1/128 dev lo")?;
    for (protocol, address) in [
        (0, "10.9.8.7"),
        (0, "fd00:9::7"),
        (262, "10.9.8.7"),
        (262, "fd00:9::7"),
    ] {
        let script = format!(
            "
s = socket.socket(socket.AF_INET6 if ':' in '{address}' else socket.AF_INET, socket.SOCK_STREAM, {protocol})
for _ in range(3): say(told(lambda: s.connect(('{address}', 5432))))
hear(); s.close(); say('closed'); hear()"
        );
        let mut client = lab.talk("pods/a/main", &script)?;
        for _ in 0..3 {
            let told = client.hear()?;
            ensure!(told.contains("UNREACH") || told == "EADDRNOTAVAIL", "{told}");
        }
        // The kernel doesn't tell of the end of an MPTCP connection's sockets; so no place is kept for them.
        ensure!(
            kept(&lab)? == usize::from(protocol == 0),
            "one socket keeps one place"
        );
        client.say("")?;
        ensure!(client.hear()? == "closed");
        lab.wait_for(&format!("protocol {protocol} to {address} gives it back"), || {
            Ok(kept(&lab)? == 0)
        })?;
    }
    Ok(())
}

#[test]
fn a_connect_from_a_taken_address_and_port_does_not_touch_the_others_origin() -> Result<()> {
    let Some(lab) = lab("taken")? else { return Ok(()) };
    let script = "
import ctypes
def fresh():
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('127.0.0.1', 7001)); s.settimeout(1)
    return s
def go(s): say(told(lambda: s.connect(('10.9.8.7', 5432))))
def undo(s): ctypes.CDLL(None).connect(s.fileno(), bytes(16), 16)
def device(s): s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'lo')
s = fresh()
while True: exec(hear()); say('done')";
    let mut second = lab.talk("pods/a/main", script)?;
    second.say("go(s)")?;
    drop(lab.accepted(0)?);
    ensure!(second.hear()? == "None" && second.hear()? == "done");
    second.say("undo(s)")?;
    ensure!(second.hear()? == "done");
    let mut first = lab.talk("pods/a/main", script)?;
    first.say("go(s)")?;
    let (connection, origin) = lab.accepted(0)?;
    ensure!(first.hear()? == "None" && first.hear()? == "done");
    lab.told(origin, first.pid(), "python3", "10.9.8.7:5432")?;
    let tuple = lab.tuple(&connection)?;
    second.say("go(s)")?;
    ensure!(second.hear()? == "EADDRNOTAVAIL" && second.hear()? == "done");
    lab.told(lab.origin(&tuple)?, first.pid(), "python3", "10.9.8.7:5432")?;
    // Bound to a device, the first one's address and port are free for others; the kernel even lets the second one through. Then
    // the connection is nobody's: of two that may be meant, neither is.
    first.say("device(s)")?;
    ensure!(first.hear()? == "done" && lab.counted("origin_lost") == 0);
    second.say("go(s)")?;
    second.hear()?;
    ensure!(lab.origin(&tuple)?.is_none() && lab.counted("origin_lost") == 1);
    Ok(())
}

#[test]
fn a_full_map() -> Result<()> {
    for (mode, name) in [(FailureMode::Closed, "full"), (FailureMode::Open, "full-open")] {
        let Some(mut lab) = KernelLab::without_redirect(name, mode)? else {
            return Ok(());
        };
        lab.enforce_with(Options {
            max_origins: Some(4),
            ..lab.options()?
        })?;
        lab.own_protected_address()?;
        let _server = lab.netns().run_in(|| TcpListener::bind("10.9.8.7:5432"))??;
        let script = "
def go():
    s = socket.socket(); s.settimeout(5); say(told(lambda: s.connect(('10.9.8.7', 5432))), told(s.getpeername)); return s
open = [go() for _ in range(4)]; hear()
more = go(); hear()
open.pop().close(); say('closed'); hear()
open.append(go()); hear()";
        let mut client = lab.talk("pods/a/main", script)?;
        let mut accepted = Vec::new();
        for _ in 0..4 {
            let (connection, origin) = lab.accepted(0)?;
            lab.told(origin, client.pid(), "python3", "10.9.8.7:5432")?;
            accepted.push(connection);
            ensure!(client.hear()? == "None ('10.9.8.7', 5432)");
        }
        client.say("")?;
        // Also where the failure mode is Open: a pod could fill the map to get round its policies.
        ensure!(client.hear()? == "ECONNREFUSED ENOTCONN");
        ensure!(lab.counted("direct") == 0 && lab.counted("refused_full") == 1);
        client.say("")?;
        ensure!(client.hear()? == "closed");
        drop(accepted.pop());
        lab.wait_for("a place", || Ok(kept(&lab)? == 3))?;
        client.say("")?;
        let (_connection, origin) = lab.accepted(0)?;
        lab.told(origin, client.pid(), "python3", "10.9.8.7:5432")?;
        ensure!(client.hear()? == "None ('10.9.8.7', 5432)");
        ensure!(lab.counted("diverted") == 5 && lab.counted("origin_lost") == 0);
    }
    Ok(())
}

#[test]
fn nobody_else_listens_in_the_agents_place() -> Result<()> {
    for (mode, name) in [(FailureMode::Closed, "thief"), (FailureMode::Open, "thief-open")] {
        let Some(mut lab) = KernelLab::new(name, mode)? else {
            return Ok(());
        };
        lab.own_protected_address()?;
        let server = lab.netns().run_in(|| TcpListener::bind("10.9.8.7:5432"))??;
        let port = lab.port();
        let script = format!(
            "
def take(address):
    s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind((address, {port})); s.listen(5); return s
say(*[told(lambda: take(a) and 'taken') for a in ('127.0.0.1', '0.0.0.0', '::1', '::')])
hear()
thieves = take('127.0.0.1'), take('::1'); say('listens'); hear()
for thief in thieves:
    thief.setblocking(False); say(told(thief.accept))"
        );
        let mut thief = lab.talk("pods/a/main", &script)?;
        let told = thief.hear()?;
        ensure!(told == "EADDRINUSE EADDRINUSE EADDRINUSE EADDRINUSE", "{told}");
        drop(lab.take_listeners());
        thief.say("")?;
        ensure!(thief.hear()? == "listens");
        let mut client = lab.talk(
            "pods/a/main",
            "s = socket.socket(); say(told(lambda: s.connect(('10.9.8.7', 5432)))); hear()",
        )?;
        if mode == FailureMode::Open {
            server.accept()?;
            ensure!(client.hear()? == "None" && lab.counted("direct") == 1);
        } else {
            ensure!(client.hear()? == "ECONNREFUSED" && lab.counted("refused_agent") == 1);
            let v6 = lab.python("pods/a/main", "print(dial('fd00:9::7'))")?;
            ensure!(KernelLab::answer(v6)? == "ECONNREFUSED");
        }
        thief.say("")?;
        ensure!(thief.hear()? == "EAGAIN" && thief.hear()? == "EAGAIN");
        ensure!(lab.counted("diverted") == 0);
    }
    Ok(())
}

#[test]
fn neither_the_listener_nor_the_one_before_is_dialed_directly() -> Result<()> {
    let Some(mut lab) = lab("direct")? else {
        return Ok(());
    };
    let pod = lab.cgroup_id("pods/a")?;
    let (old, netns) = (lab.port(), lab.netns().cookie());
    let (port, listeners) = net::listeners_in(lab.netns())?;
    lab.redirect_mut()?.enroll(pod, netns, port)?;
    let mut tried = 0;
    for port in [old, port] {
        for address in [
            "127.0.0.1",
            "127.0.0.2",
            "0.0.0.0",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:0.0.0.0",
        ] {
            let answer =
                KernelLab::answer(lab.python("pods/a/main", &format!("print(dial('{address}', {port}))"))?)?;
            ensure!(answer == "ECONNREFUSED", "{address}: {answer}");
            tried += 1;
            ensure!(lab.counted("refused_listener") == tried, "{address}:{port}");
        }
    }
    // What is diverted goes to the new one.
    let mut client = lab.talk("pods/a/main", "say(dial('10.9.8.7'))")?;
    let connection = loop {
        match listeners.first().context("no listener")?.accept() {
            Ok((connection, _)) => break connection,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            Err(error) => return Err(error.into()),
        }
    };
    lab.told(
        lab.origin(&lab.tuple(&connection)?)?,
        client.pid(),
        "python3",
        "10.9.8.7:5432",
    )?;
    drop(connection);
    client.hear()?;
    Ok(())
}

#[test]
fn a_nested_namespace_has_its_own_ports_and_takes_sockets_along() -> Result<()> {
    let Some(lab) = lab("nested")? else { return Ok(()) };
    let port = lab.port();
    let script = format!(
        "
import ctypes
s = socket.socket()
assert ctypes.CDLL(None).unshare(0x40000000) == 0 and os.system('ip link set lo up') == 0
own = socket.socket(); own.bind(('127.0.0.1', {port})); own.listen()
say(dial('10.9.8.7'))
o = socket.socket(); say(told(lambda: o.connect(('127.0.0.1', {port}))), told(o.getpeername)[1] == {port})
say(told(lambda: s.connect(('10.9.8.7', 5432))), told(s.getpeername)); hear()"
    );
    let mut client = lab.talk("pods/a/main", &script)?;
    // A socket of the inner namespace is refused, a port of it is its own.
    ensure!(client.hear()? == "ECONNREFUSED" && lab.counted("refused_namespace") == 1);
    ensure!(client.hear()? == "None True" && lab.counted("refused_listener") == 0);
    // A socket made before belongs to the pod's namespace.
    let (_connection, origin) = lab.accepted(0)?;
    lab.told(origin, client.pid(), "python3", "10.9.8.7:5432")?;
    ensure!(client.hear()? == "None ('10.9.8.7', 5432)");
    Ok(())
}
