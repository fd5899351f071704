//! What doesn't go through connect(2) doesn't reach what is protected, and everything else arrives.

use std::net::TcpListener;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use bailiff_model::FailureMode;
use bailiff_tests::{KernelLab, Wire, check};

const FRAMES: &str = include_str!("../clients/frames.py");

fn joined(name: &str) -> Result<Option<(KernelLab, Wire)>> {
    let Some(mut lab) = KernelLab::new(name, FailureMode::Closed)? else {
        return Ok(None);
    };
    let wire = Wire::behind(&mut lab)?;
    Ok(Some((lab, wire)))
}

/// Makes attempts in the pod. Those to the other address, where there is one, arrive; of those to the protected one nothing does,
/// which ends with this outcome and this counter.
fn none_arrives(lab: &KernelLab, wire: &Wire, cases: &str, outcome: &str, counter: &str) -> Result<()> {
    let before = lab.counted(counter);
    let script = format!("{FRAMES}\n{cases}\nattempts(cases)");
    let answer = KernelLab::answer(lab.python("pods/a/main", &script)?)?;
    let mut made = 0;
    for line in answer.lines() {
        let (name, outcomes) = line.split_once(' ').context("no outcomes")?;
        if outcomes != outcome {
            ensure!(outcomes == format!("{outcome} None"), "{line}");
            lab.wait_for(&format!("other {name}"), || {
                wire.saw(format!("<other {name}>").as_bytes())
            })?;
        }
        made += 1;
    }
    for line in answer.lines() {
        let name = line.split(' ').next().unwrap_or_default();
        ensure!(
            !wire.saw(format!("<protected {name}>").as_bytes())?,
            "{name} arrived"
        );
    }
    let counted = lab.counted(counter) - before;
    ensure!(made > 3 && counted == made, "{counter}: {counted} of {made}");
    Ok(())
}

#[test]
fn what_sockets_send_other_than_by_tcp() -> Result<()> {
    let Some((lab, wire)) = joined("sockets")? else {
        return Ok(());
    };
    let cases = "
cases = {
'udp': (lambda to, w: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(w, (to, 53)), PROTECTED, OTHER),
'udp6': (lambda to, w: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(w, (to, 53)), PROTECTED6, OTHER6),
'udp-mapped': (lambda to, w: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(w, ('::ffff:' + to, 53)), PROTECTED, OTHER),
'udp-large': (lambda to, w: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(w * 300, (to, 53)), PROTECTED, OTHER),
'udp6-hop-by-hop': (lambda to, w: dgram6(to, w, socket.IPV6_HOPOPTS, bytes([0, 0, 1, 4, 0, 0, 0, 0])), PROTECTED6, OTHER6),
'udp6-destination': (lambda to, w: dgram6(to, w, socket.IPV6_DSTOPTS, bytes([0, 0, 1, 4, 0, 0, 0, 0])), PROTECTED6, OTHER6),
'raw-tcp': (lambda to, w: raw(to, TCP, tcp(to, w)), PROTECTED, OTHER),
'raw-tcp6': (lambda to, w: raw(to, TCP, tcp(to, w)), PROTECTED6, OTHER6),
'raw-udp': (lambda to, w: raw(to, UDP, udp(to, w)), PROTECTED, OTHER),
'raw-icmp': (lambda to, w: raw(to, ICMP, b'\\x08\\0\\0\\0\\0\\0\\0\\0' + w), PROTECTED, OTHER),
'raw-icmp6': (lambda to, w: raw(to, ICMPV6, b'\\x80\\0\\0\\0\\0\\0\\0\\0' + w), PROTECTED6, OTHER6),
'raw-ipip': (lambda to, w: raw(to, 4, ip4(to, TCP, tcp(to, w))), PROTECTED, OTHER),
'raw-gre': (lambda to, w: raw(to, 47, b'\\0\\0\\x08\\0' + w), PROTECTED, OTHER),
'raw-sctp': (lambda to, w: raw(to, 132, udp(to, w)), PROTECTED, OTHER),
'raw-udplite': (lambda to, w: raw(to, 136, udp(to, w)), PROTECTED, OTHER),
'raw-header': (lambda to, w: raw(to, 255, ip4(to, TCP, tcp(to, w))), PROTECTED, OTHER),
'raw-header-elsewhere': (lambda to, w: socket.socket(socket.AF_INET, socket.SOCK_RAW, 255).sendto(ip4(to, TCP, tcp(to, w)), (OTHER, 0)), PROTECTED, OTHER),
'raw-header-fragment': (lambda to, w: raw(to, 255, ip4(to, TCP, tcp(to, w), fragment=0x2000)), PROTECTED, OTHER),
'raw-header-later-fragment': (lambda to, w: raw(to, 255, ip4(to, TCP, w, fragment=0x0003)), PROTECTED, OTHER),
'raw-header-options': (lambda to, w: raw(to, 255, ip4(to, TCP, tcp(to, w), options=b'\\x94\\4\\0\\0')), PROTECTED, OTHER)}";
    none_arrives(&lab, &wire, cases, "EPERM", "guard_dropped")
}

#[test]
fn what_packet_sockets_send() -> Result<()> {
    let Some((lab, wire)) = joined("packets")? else {
        return Ok(());
    };
    // Each by way of the queueing discipline, past it, and with the kernel making the link's header.
    for send in [
        "def send(p, **how): packet_socket().send(ether(p, **how))",
        "def send(p, **how): packet_socket(True).send(ether(p, **how))",
        "def send(p, kind=None, tags=None): packet_socket(True, socket.SOCK_DGRAM).sendto(p, \
         ('eth0', 0x86dd if p[0] >> 4 == 6 else 0x0800, 0, 0, SERVER))",
    ] {
        let cases = format!(
            "
{send}
def chain(to, w, *kinds):
    protocol, payload = extended(kinds, TCP, tcp(to, w)); send(ip6(to, protocol, payload))
cases = {{
'tcp': (lambda to, w: send(ip4(to, TCP, tcp(to, w))), PROTECTED, OTHER),
'tcp-ack-with-data': (lambda to, w: send(ip4(to, TCP, tcp(to, w, ACK))), PROTECTED, OTHER),
'tcp6': (lambda to, w: send(ip6(to, TCP, tcp(to, w))), PROTECTED6, OTHER6),
'udp': (lambda to, w: send(ip4(to, UDP, udp(to, w))), PROTECTED, OTHER),
'udp-elsewhere': (lambda to, w: send(ip4(to, UDP, udp(to, w, 53))), PROTECTED, OTHER),
'icmp': (lambda to, w: send(ip4(to, ICMP, b'\\x08\\0\\0\\0\\0\\0\\0\\0' + w)), PROTECTED, OTHER),
'icmp6': (lambda to, w: send(ip6(to, ICMPV6, b'\\x80\\0\\0\\0\\0\\0\\0\\0' + w)), PROTECTED6, OTHER6),
'gre': (lambda to, w: send(ip4(to, 47, b'\\0\\0\\x08\\0' + w)), PROTECTED, OTHER),
'ipip': (lambda to, w: send(ip4(to, 4, ip4(to, TCP, tcp(to, w)))), PROTECTED, OTHER),
'sctp': (lambda to, w: send(ip4(to, 132, udp(to, w))), PROTECTED, OTHER),
'first-fragment': (lambda to, w: send(ip4(to, TCP, tcp(to, w), fragment=0x2000)), PROTECTED, OTHER),
'later-fragment': (lambda to, w: send(ip4(to, TCP, w, fragment=0x2003)), PROTECTED, OTHER),
'options': (lambda to, w: send(ip4(to, TCP, tcp(to, w), options=b'\\1\\1\\x94\\4\\0\\0')), PROTECTED, OTHER),
'other-source': (lambda to, w: send(ip4(to, TCP, tcp(to, w), source='10.9.8.99')), PROTECTED, OTHER),
'hop-by-hop': (lambda to, w: chain(to, w, 0), PROTECTED6, OTHER6),
'five-headers': (lambda to, w: chain(to, w, 0, 60, 43, 44, 60), PROTECTED6, OTHER6),
'fragment6': (lambda to, w: chain(to, w, 44), PROTECTED6, OTHER6)}}"
        );
        none_arrives(&lab, &wire, &cases, "None", "host_guard_dropped").with_context(|| send.to_owned())?;
    }
    Ok(())
}

#[test]
fn what_hides_where_it_goes() -> Result<()> {
    let Some((lab, wire)) = joined("hidden")? else {
        return Ok(());
    };
    // The kernel takes one tag off, and what is below is judged. Whatever else could carry IP, goes elsewhere first or can't be
    // followed is dropped wherever it says that it goes.
    let cases = "
def send(p, **how): packet_socket().send(ether(p, **how))
def tag(*kinds): return b''.join(struct.pack('!HH', kind, 5) for kind in kinds)
def chain(to, w, *kinds):
    protocol, payload = extended(kinds, TCP, tcp(to, w)); send(ip6(to, protocol, payload))
def routed6(to, w):
    protocol, payload = extended([43], TCP, tcp(to, w)); send(ip6(to, protocol, payload[:3] + b'\\1' + payload[4:]))
def snap(p): return SERVER + b'\\2\\0\\0\\0\\0\\2' + struct.pack('!H', len(p) + 8) + b'\\xaa\\xaa\\3\\0\\0\\0\\x08\\0' + p
cases = {
'source-route': (lambda to, w: send(ip4(to, TCP, tcp(to, w), options=b'\\x83\\7\\4' + aton(PROTECTED))), OTHER),
'strict-route': (lambda to, w: send(ip4(to, TCP, tcp(to, w), options=b'\\1\\x89\\7\\4' + aton(PROTECTED))), OTHER),
'source-route-after-many': (lambda to, w: send(ip4(to, TCP, tcp(to, w), options=b'\\1' * 20 + b'\\x83\\7\\4' + aton(PROTECTED))), OTHER),
'endless-option': (lambda to, w: send(ip4(to, TCP, tcp(to, w), options=b'\\x94\\0\\x83\\7')), OTHER),
'routed6': (routed6, OTHER6),
'seven-headers': (lambda to, w: chain(to, w, 0, 60, 60, 60, 60, 60, 60), OTHER6),
'cut-short': (lambda to, w: send(ip4(to, TCP, b'')[:20] + w[:2]), OTHER),
'other-version': (lambda to, w: send(ip6(to, TCP, tcp(to, w)), kind=0x0800), OTHER6),
'two-tags': (lambda to, w: send(ip4(to, TCP, tcp(to, w)), tags=tag(0x88a8, 0x8100)), OTHER),
'three-tags': (lambda to, w: send(ip4(to, TCP, tcp(to, w)), tags=tag(0x8100, 0x8100, 0x8100)), OTHER),
'pppoe': (lambda to, w: send(b'\\x11\\0\\0\\1' + struct.pack('!HH', 80, 0x21) + ip4(to, TCP, tcp(to, w)), kind=0x8864), OTHER),
'mpls': (lambda to, w: send(b'\\0\\1\\1\\x40' + ip4(to, TCP, tcp(to, w)), kind=0x8847), OTHER),
'snap': (lambda to, w: packet_socket().send(snap(ip4(to, TCP, tcp(to, w)))), OTHER),
'one-tag': (lambda to, w: send(ip4(to, TCP, tcp(to, w)), tags=tag(0x8100)), PROTECTED, OTHER),
'one-service-tag': (lambda to, w: send(ip6(to, TCP, tcp(to, w)), tags=tag(0x88a8)), PROTECTED6, OTHER6),
'untagged': (lambda to, w: send(ip4(to, TCP, tcp(to, w))), PROTECTED, OTHER)}";
    none_arrives(&lab, &wire, cases, "None", "host_guard_dropped")
}

#[test]
fn frames_whose_headers_lie_in_pages() -> Result<()> {
    let Some((lab, wire)) = joined("pages")? else {
        return Ok(());
    };
    lab.ip("link set eth0 mtu 9000")?;
    for link in ["br0", "pod0", "server0"] {
        wire.node_ip(&format!("link set {link} mtu 9000"))?;
    }
    wire.ip("link set eth0 mtu 9000")?;
    let cases = "
def send(p, bypass): packet_socket(bypass).send(ether(p))
cases = {
'large': (lambda to, w: send(ip4(to, TCP, tcp(to, w + bytes(7000))), False), PROTECTED, OTHER),
'large-udp': (lambda to, w: send(ip4(to, UDP, udp(to, w + bytes(7000))), False), PROTECTED, OTHER),
'large6': (lambda to, w: send(ip6(to, TCP, tcp(to, w + bytes(7000))), False), PROTECTED6, OTHER6),
'large-bypass': (lambda to, w: send(ip4(to, TCP, tcp(to, w + bytes(7000))), True), PROTECTED, OTHER)}";
    none_arrives(&lab, &wire, cases, "None", "host_guard_dropped")
}

#[test]
fn a_prefix_leaves_its_other_ports_alone() -> Result<()> {
    let Some((mut lab, wire)) = joined("prefix")? else {
        return Ok(());
    };
    let narrow = lab.targets()?;
    let wide: Vec<_> = narrow
        .into_iter()
        .map(|target| bailiff_kernel::TargetEntry {
            prefix: target.prefix - 3,
            ..target
        })
        .collect();
    lab.redirect_mut()?.set_targets(&wide)?;
    // 10.9.8.0/29 holds .7, and not .8. In place of another address here stands another port.
    let cases = "
def send(p): packet_socket().send(ether(p))
def chain(to, w, port, *kinds):
    protocol, payload = extended(kinds, TCP, tcp(to, w, port=port)); send(ip6(to, protocol, payload))
P = lambda port: (PROTECTED, port)
cases = {
'tcp': (lambda to, w: send(ip4(to[0], TCP, tcp(to[0], w, port=to[1]))), P(5432), P(5433)),
'udp': (lambda to, w: send(ip4(to[0], UDP, udp(to[0], w, port=to[1]))), P(5432), P(53)),
'first-fragment': (lambda to, w: send(ip4(to[0], TCP, tcp(to[0], w, port=to[1]), fragment=0x2000)), P(5432), P(80)),
'five-headers': (lambda to, w: chain(PROTECTED6, w, to[1], 0, 60, 43, 44, 60), P(5432), P(5431)),
'seven-headers': (lambda to, w: chain(PROTECTED6, w, to[1], 0, 60, 60, 60, 60, 60, 60), P(5432)),
'fragment-without-ports': (lambda to, w: send(ip4(to[0], TCP, b'', fragment=0x2000)), P(5432)),
'outside': (lambda to, w: send(ip4(to[0], TCP, tcp(to[0], w))), P(5432), (OTHER, 5432))}";
    none_arrives(&lab, &wire, cases, "None", "host_guard_dropped")
}

#[test]
fn what_the_pods_own_address_translation_makes_of_a_connection() -> Result<()> {
    let Some((lab, wire)) = joined("translated")? else {
        return Ok(());
    };
    // Connects to an unprotected address and port, which the pod's namespace translates on their way out.
    let rules = "add table ip t; add chain ip t o { type nat hook output priority -100; };
        add rule ip t o ip daddr 10.9.8.8 tcp dport 9999 dnat to 10.9.8.7:5432;
        add rule ip t o ip daddr 10.9.8.8 tcp dport 9998 dnat to 10.9.8.8:5432";
    lab.netns().run_in(|| check(Command::new("nft").arg(rules)))??;
    let servers =
        ["10.9.8.7:5432", "10.9.8.8:5432"].map(|address| wire.server.run_in(|| TcpListener::bind(address)));
    let [Ok(Ok(protected)), Ok(Ok(other))] = servers else {
        anyhow::bail!("cannot listen")
    };
    let script = "
def connects(port):
    s = socket.socket(); s.settimeout(3)
    return told(lambda: s.connect(('10.9.8.8', port)))
say(connects(9998), connects(9999))";
    let mut client = lab.talk("pods/a/main", script)?;
    ensure!(client.hear()? == "None timed out");
    other.accept()?;
    protected.set_nonblocking(true)?;
    ensure!(protected.accept().is_err());
    ensure!(lab.counted("guard_dropped") + lab.counted("host_guard_dropped") > 0);
    Ok(())
}
