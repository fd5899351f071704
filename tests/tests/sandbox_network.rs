//! Ways to the database past the sandbox's network namespace.

use std::fs::File;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::process::Command;

use anyhow::{Result, ensure};
use bailiff_tests::{Attempt, Client, Enforced, Escape, Invoker, Postgres, Report, can_be_root, check};
use bailiff_tests::{policy, target};
use serde_json::{Value, json};

#[test]
fn entering_the_hosts_network_namespace_by_its_path() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let entering = |path: &str| [("setns_path", to_target(&escape, "path", json!(path)))];
    escape.succeed_by(&["unshare", "--net"], &entering(&own_namespace()), &[])?;
    ensure!(escape.claimed()?);
    escape.fail(&entering(&own_namespace()), &["ENOENT"])?;
    // The sandbox's own first process.
    escape.fail(&entering("/proc/1/ns/net"), &["EPERM", "EACCES"])?;
    for invoker in Invoker::ALL {
        let report = escape.inside(invoker, &[("setns_each", escape.target())])?;
        ensure!(refused(&report).starts_with("no other"), "{report:?}");
        escape.in_force(&report)?;
    }
    Ok(())
}

#[test]
fn entering_the_hosts_network_namespace_by_a_descriptor() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let host = File::open(own_namespace())?;
    let attempts = [("setns_passed", escape.target())];
    escape.succeed_by(&["unshare", "--net"], &attempts, &[host.as_fd()])?;
    ensure!(escape.claimed()?);
    escape.fail_with(&attempts, &["EPERM"], &[host.as_fd()])
}

#[test]
fn nsenter() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let entering = |path: &str| [("nsenter", to_target(&escape, "path", json!(path)))];
    escape.succeed_by(&["unshare", "--net"], &entering(&own_namespace()), &[])?;
    for path in [own_namespace().as_str(), "/proc/1/ns/net"] {
        for invoker in Invoker::ALL {
            let report = escape.inside(invoker, &entering(path))?;
            let ways = ["Operation not permitted", "Permission denied", "No such file"];
            ensure!(
                ways.iter().any(|way| refused(&report).contains(way)),
                "{report:?}"
            );
            escape.in_force(&report)?;
        }
    }
    Ok(())
}

#[test]
fn making_namespaces() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let each = |way: &'static str, kinds: &[&str]| -> Vec<Attempt<'static>> {
        kinds.iter().map(|kind| (way, json!({ "kind": kind }))).collect()
    };
    let kinds = ["net", "user", "mnt", "cgroup", "pid", "uts", "ipc", "time"];
    escape.are_no_ways(&each("unshare", &kinds), &["EPERM"])?;
    // In clone(2) the place of `time` is the signal's.
    let kinds = ["net", "user", "mnt", "cgroup", "pid", "uts", "ipc"];
    escape.are_no_ways(&each("clone", &kinds), &["EPERM"])?;
    escape.are_no_ways(&each("clone3", &kinds), &["ENOSYS"])
}

#[test]
fn connecting_by_io_uring() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    escape.leads_nowhere(("io_uring", escape.target()), &["ENOSYS"])
}

#[test]
fn raw_and_packet_sockets() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let attempts = [
        ("AF_INET", "SOCK_RAW", 6),
        ("AF_INET6", "SOCK_RAW", 6),
        ("AF_PACKET", "SOCK_RAW", 0x300),
        ("AF_PACKET", "SOCK_DGRAM", 0x300),
    ]
    .map(|(family, kind, protocol)| socket(family, kind, protocol));
    escape.are_no_ways(&attempts, &["EPERM"])
}

#[test]
fn sockets_that_no_network_namespace_holds() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    // AF_VSOCK reaches the hypervisor, AF_ALG the kernel's ciphers. Not every kernel has them.
    let attempts = [
        socket("AF_VSOCK", "SOCK_STREAM", 0),
        socket("AF_ALG", "SOCK_SEQPACKET", 0),
    ];
    let outside = escape.outside(&attempts)?;
    ensure!(
        outside.told.iter().any(|told| told.got.is_some()),
        "neither is there outside: {outside:?}"
    );
    escape.fail(&attempts, &["EAFNOSUPPORT"])
}

#[test]
fn services_on_the_hosts_loopback() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let port = greeter(TcpListener::bind("127.0.0.1:0")?)?;
    let attempts = [("tcp", json!({ "host": "127.0.0.1", "port": port }))];
    ensure!(escape.succeed(&attempts)? == ["hi"]);
    escape.fail(&attempts, &["ECONNREFUSED"])
}

#[test]
fn the_database_at_other_addresses_of_the_host() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let address = Address::add()?;
    escape.lab.server.listen_also(&[&address.0], &[])?;
    let arguments = json!({ "host": address.0, "port": Postgres::PORT });
    escape.leads_nowhere(("dial", arguments), &["ENETUNREACH"])
}

#[test]
fn the_hosts_end_of_the_link() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    // As most services listen.
    let port = greeter(TcpListener::bind("0.0.0.0:0")?)?;
    escape.succeed(&[("tcp", json!({ "host": "127.0.0.1", "port": port }))])?;
    escape.fail(&[("gateway", json!({ "port": port }))], &["ENETUNREACH"])
}

#[test]
fn the_hosts_side_of_the_link_by_ipv6() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let link = "ip link add name ours type veth peer name theirs && ip link set ours up && \
                ip link set theirs up && ip addr add fe80::1/64 dev ours nodad && exec \"$@\"";
    let attempts = [("all_nodes", json!({}))];
    escape.succeed_by(&["unshare", "--net", "sh", "-c", link, "sh"], &attempts, &[])?;
    escape.fail(&attempts, &["no address"])
}

#[test]
fn a_target_that_is_added_later_can_be_reached() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let (first, second) = (Postgres::start_anywhere()?, Postgres::start_anywhere()?);
    let rules = "    - { name: reading, effects: [read], action: Allow }\n";
    let enforced = Enforced::with(&[
        ("target.yaml", &target(first.address(), "")),
        ("policy.yaml", &policy(rules)),
    ])?;
    let agent = enforced.start()?;
    let before = agent.dial(second.address(), Postgres::PORT);
    ensure!(before.is_err(), "a way to what no Target names");
    let more = format!("{}---\n{}", target(second.address(), ""), policy(rules))
        .replace("name: tested", "name: also-tested")
        .replace("name: db", "name: more")
        .replace("[db]", "[more]");
    std::fs::write(enforced.config().join("more.yaml"), more)?;
    agent.wait_for("the new target is in force", || {
        Ok(agent.metric("bailiff_policy_reloads_total")? == 1)
    })?;
    let mut session = Client::started(agent.dial(second.address(), Postgres::PORT)?)?;
    ensure!(session.value("select 1")? == "1");
    let answer = session.ask("create table escaped ()")?;
    ensure!(
        answer
            .iter()
            .any(|message| message.sqlstate().as_deref() == Some("42501")),
        "{answer:?}"
    );
    Ok(())
}

/// A service that says "hi".
fn greeter(listener: TcpListener) -> Result<u16> {
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for mut caller in listener.incoming().flatten() {
            let _ = caller.write_all(b"hi");
        }
    });
    Ok(port)
}

/// A further address of the host, in which no Target lies.
struct Address(String);

impl Address {
    fn add() -> Result<Self> {
        let address = std::net::Ipv4Addr::from_bits((10 << 24 | 64 << 16) + std::process::id() % (1 << 22));
        check(Command::new("ip").args(["addr", "add", &format!("{address}/32"), "dev", "lo"]))?;
        Ok(Self(address.to_string()))
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["addr", "del", &format!("{}/32", self.0), "dev", "lo"])
            .status();
    }
}

fn own_namespace() -> String {
    format!("/proc/{}/ns/net", std::process::id())
}

fn socket(family: &str, kind: &str, protocol: u32) -> Attempt<'static> {
    (
        "made",
        json!({ "family": family, "kind": kind, "protocol": protocol }),
    )
}

fn refused(report: &Report) -> &str {
    report
        .told
        .first()
        .and_then(|told| told.refused.as_deref())
        .unwrap_or_default()
}

/// Arguments of an attempt: the target's, and one more.
fn to_target(escape: &Escape, name: &str, value: Value) -> Value {
    let mut arguments = escape.target();
    if let Some(map) = arguments.as_object_mut() {
        map.insert(name.to_owned(), value);
    }
    arguments
}
