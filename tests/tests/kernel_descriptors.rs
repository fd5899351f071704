//! Descriptors that wander: the connecting process is told, and the one that made the socket beside it.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use anyhow::{Context as _, Result, ensure};
use bailiff_kernel::netns::NetnsFd;
use bailiff_kernel::{Creator, Origin, net};
use bailiff_model::FailureMode;
use bailiff_tests::{KernelLab, Talk, Wire};

/// `give` sends a socket to whoever listens at a path, `take` waits for one there.
const PASSING: &str = "
import array, ctypes
def take(path):
    u = socket.socket(socket.AF_UNIX); u.bind(path); u.listen(); say('waits')
    c, _ = u.accept(); _, fds, _, _ = socket.recv_fds(c, 1, 1); return socket.socket(fileno=fds[0])
def give(path, s):
    u = socket.socket(socket.AF_UNIX); u.connect(path); socket.send_fds(u, [b'x'], [s.fileno()])
def go(s, address='10.9.8.7'):
    s.settimeout(3); say(told(lambda: s.connect((address, 5432))), told(s.getpeername))
def join(cgroup): open(cgroup + '/cgroup.procs', 'w').write('0')
";

/// A lab with a pod `b` beside `a`, in the same namespace, and a cgroup of no pod.
fn lab(name: &str) -> Result<Option<KernelLab>> {
    let Some(mut lab) = KernelLab::new(name, FailureMode::Closed)? else {
        return Ok(None);
    };
    for part in ["pods/b/main", "outside"] {
        std::fs::create_dir_all(lab.root().join(part))?;
    }
    let (pod, netns, port) = (lab.cgroup_id("pods/b")?, lab.netns().cookie(), lab.port());
    lab.redirect_mut()?.enroll(pod, netns, port)?;
    Ok(Some(lab))
}

fn talk(lab: &KernelLab, cgroup: &str, script: &str) -> Result<Talk> {
    lab.talk(cgroup, &format!("{PASSING}\n{script}"))
}

/// A socket that a process in one cgroup makes, and another process in another cgroup connects. Who made it, and who has it.
fn passed(lab: &KernelLab, from: &str, to: &str) -> Result<(Talk, Talk)> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("socket");
    let path = path.display();
    let mut taker = talk(lab, to, &format!("s = take('{path}'); go(s); hear()"))?;
    ensure!(taker.hear()? == "waits");
    let script = format!("s = socket.socket(); give('{path}', s); say('gave'); hear()");
    let mut giver = talk(lab, from, &script)?;
    ensure!(giver.hear()? == "gave");
    Ok((giver, taker))
}

/// The origin without who made its socket, and who that was.
fn parted(origin: Option<Origin>) -> Result<(Option<Origin>, Option<Creator>)> {
    let mut origin = origin.context("no origin")?;
    let creator = origin.creator.take();
    Ok((Some(origin), creator))
}

#[test]
fn made_in_a_pod_and_connected_in_another() -> Result<()> {
    let Some(lab) = lab("two-pods")? else {
        return Ok(());
    };
    let (giver, mut taker) = passed(&lab, "pods/a/main", "pods/b/main")?;
    let (_connection, origin) = lab.accepted(0)?;
    ensure!(taker.hear()? == "None ('10.9.8.7', 5432)");
    let (origin, creator) = parted(origin)?;
    lab.told_in("b", origin, taker.pid(), "python3", "10.9.8.7:5432")?;
    let creator = creator.context("nobody made it")?;
    ensure!(
        creator.pod_cgroup == lab.cgroup_id("pods/a")? && creator.tgid == giver.pid(),
        "{creator:?}"
    );
    Ok(())
}

#[test]
fn made_in_a_pod_and_connected_in_one_of_another_namespace() -> Result<()> {
    let Some(mut lab) = lab("two-spaces")? else {
        return Ok(());
    };
    let other = NetnsFd::create()?;
    let (port, _listeners) = net::listeners_in(&other)?;
    let pod = lab.cgroup_id("pods/b")?;
    lab.redirect_mut()?.enroll(pod, other.cookie(), port)?;
    // The socket stays one of the namespace that it was made in, which isn't that of who connects it.
    let (_giver, mut taker) = passed(&lab, "pods/a/main", "pods/b/main")?;
    ensure!(taker.hear()? == "ECONNREFUSED ENOTCONN");
    ensure!(lab.counted("refused_namespace") == 1 && lab.counted("diverted") == 0);
    Ok(())
}

#[test]
fn made_in_a_pod_and_connected_outside() -> Result<()> {
    let Some(lab) = lab("out")? else { return Ok(()) };
    // Also in the root of the hierarchy, where the kernel's own sockets are let through.
    for (cgroup, refused) in [("outside", 1), ("..", 2)] {
        let (_giver, mut taker) = passed(&lab, "pods/a/main", cgroup)?;
        ensure!(taker.hear()? == "ECONNREFUSED ENOTCONN", "{cgroup}");
        ensure!(lab.counted("refused_unenrolled") == refused && lab.counted("diverted") == 0);
    }
    Ok(())
}

#[test]
fn made_outside_and_connected_in_a_pod() -> Result<()> {
    let Some(mut lab) = lab("in")? else { return Ok(()) };
    let wire = Wire::behind(&mut lab)?;
    let servers =
        ["10.9.8.7:5432", "10.9.8.8:5432"].map(|address| wire.server.run_in(|| TcpListener::bind(address)));
    let [Ok(Ok(protected)), Ok(Ok(other))] = servers else {
        anyhow::bail!("cannot listen")
    };
    protected.set_nonblocking(true)?;
    // No hook sees such a socket, whether it is passed in or its maker moves in. The guard on the pod's link does.
    let (_giver, mut taker) = passed(&lab, "outside", "pods/a/main")?;
    ensure!(taker.hear()? == "timed out ENOTCONN" && lab.counted("host_guard_dropped") > 0);
    let pod = lab.root().join("pods/a/main");
    let script = format!(
        "s, t, u = socket.socket(), socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
join('{}'); go(s, '10.9.8.8'); go(t); say(u.sendto(b'<udp>', ('10.9.8.7', 53)), u.sendto(b'<else>', ('10.9.8.8', 53)))",
        pod.display()
    );
    let before = lab.counted("host_guard_dropped");
    let mut mover = talk(&lab, "outside", &script)?;
    ensure!(mover.hear()? == "None ('10.9.8.8', 5432)");
    other.accept()?;
    ensure!(mover.hear()? == "timed out ENOTCONN" && lab.counted("host_guard_dropped") > before);
    ensure!(mover.hear()? == "5 6");
    lab.wait_for("the datagram to the other address", || wire.saw(b"<else>"))?;
    ensure!(!wire.saw(b"<udp>")? && protected.accept().is_err());
    ensure!(lab.counted("diverted") == 0 && lab.counted("guard_dropped") == 0);
    Ok(())
}

#[test]
fn a_connection_passed_on_stays_its_connectors() -> Result<()> {
    let Some(lab) = lab("connected")? else {
        return Ok(());
    };
    for cgroup in ["pods/b/main", "outside"] {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("socket");
        let path = path.display();
        let script = format!(
            "s = take('{path}'); s.settimeout(5); say(s.getpeername()); s.sendall(b'me'); say(s.recv(3)); hear()"
        );
        let mut taker = talk(&lab, cgroup, &script)?;
        ensure!(taker.hear()? == "waits");
        let mut giver = talk(
            &lab,
            "pods/a/main",
            &format!("s = socket.socket(); go(s); give('{path}', s); s.close(); say('gave')"),
        )?;
        let (mut connection, origin) = lab.accepted(0)?;
        ensure!(giver.hear()? == "None ('10.9.8.7', 5432)" && giver.hear()? == "gave");
        let connector = giver.pid();
        drop(giver);
        ensure!(taker.hear()? == "('10.9.8.7', 5432)", "{cgroup}");
        let mut said = [0; 2];
        connection.read_exact(&mut said)?;
        connection.write_all(b"you")?;
        ensure!(&said == b"me" && taker.hear()? == "b'you'");
        // It lives on after the process that connected it.
        let again = lab.origin(&lab.tuple(&connection)?)?;
        for origin in [origin, again] {
            let (origin, creator) = parted(origin)?;
            lab.told(origin, connector, "python3", "10.9.8.7:5432")?;
            ensure!(creator.is_none(), "{creator:?}");
        }
    }
    Ok(())
}

#[test]
fn inherited_by_fork_and_exec() -> Result<()> {
    let Some(lab) = lab("inherited")? else {
        return Ok(());
    };
    let script = "
s = socket.socket(); s.set_inheritable(True)
child = os.fork()
if not child:
    os.execvp('perl', ['a-name', '-e', 'use Socket; open(S, \"+<&=\", $ARGV[0]); connect(S, pack_sockaddr_in(5432, inet_aton(\"10.9.8.7\"))) or die; sysread(S, $_, 1)', str(s.fileno())])
say(child); hear()";
    let mut parent = talk(&lab, "pods/a/main", script)?;
    let (mut connection, origin) = lab.accepted(0)?;
    let child = parent.hear()?.parse()?;
    ensure!(child != parent.pid());
    let (origin, creator) = parted(origin)?;
    let executable = origin.as_ref().and_then(|origin| origin.executable.clone());
    ensure!(
        executable.as_deref().is_some_and(|name| name.ends_with("/perl")),
        "{executable:?}"
    );
    lab.told(origin, child, "perl", "10.9.8.7:5432")?;
    ensure!(creator.is_none(), "one pod: {creator:?}");
    connection.write_all(b"x")?;
    Ok(())
}

#[test]
fn made_in_a_pod_by_a_process_that_moves_to_another() -> Result<()> {
    let Some(lab) = lab("moved")? else { return Ok(()) };
    let there = lab.root().join("pods/b/main");
    let script = format!("s = socket.socket(); join('{}'); go(s); hear()", there.display());
    let mut mover = talk(&lab, "pods/a/main", &script)?;
    let (_connection, origin) = lab.accepted(0)?;
    ensure!(mover.hear()? == "None ('10.9.8.7', 5432)");
    let (origin, creator) = parted(origin)?;
    lab.told_in("b", origin, mover.pid(), "python3", "10.9.8.7:5432")?;
    let creator = creator.context("nobody made it")?;
    ensure!(creator.pod_cgroup == lab.cgroup_id("pods/a")? && creator.tgid == mover.pid());
    Ok(())
}

#[test]
fn taken_by_pidfd_getfd() -> Result<()> {
    let Some(lab) = lab("pidfd")? else { return Ok(()) };
    let mut owner = talk(
        &lab,
        "pods/a/main",
        "s = socket.socket(); say(s.fileno()); hear()",
    )?;
    let fd = owner.hear()?;
    let script = format!(
        "s = socket.socket(fileno=ctypes.CDLL(None).syscall(438, os.pidfd_open({}), {fd}, 0)); go(s); hear()",
        owner.pid()
    );
    let mut taker = talk(&lab, "pods/b/main", &script)?;
    let (connection, origin) = lab.accepted(0)?;
    ensure!(taker.hear()? == "None ('10.9.8.7', 5432)");
    let (origin, creator) = parted(origin)?;
    lab.told_in("b", origin, taker.pid(), "python3", "10.9.8.7:5432")?;
    let creator = creator.context("nobody made it")?;
    ensure!(creator.pod_cgroup == lab.cgroup_id("pods/a")? && creator.tgid == owner.pid());
    // Whoever else takes it then only has what is connected, and it stays the connector's.
    let mut outside = talk(&lab, "outside", &script)?;
    ensure!(outside.hear()? == "None ('10.9.8.7', 5432)");
    let (origin, _) = parted(lab.origin(&lab.tuple(&connection)?)?)?;
    lab.told_in("b", origin, taker.pid(), "python3", "10.9.8.7:5432")?;
    ensure!(lab.counted("diverted") == 1);
    Ok(())
}
