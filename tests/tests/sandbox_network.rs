//! Ways to the database past the sandbox's network namespace.

use std::fs::File;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::fd::AsFd as _;

use anyhow::{Result, ensure};
use bailiff_tests::{Escape, Invoker};
use serde_json::{Value, json};

#[test]
fn entering_the_hosts_network_namespace_by_its_path() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let arguments = to_target(&escape, "path", json!(own_namespace()));
    escape.succeeds_by(&["unshare", "--net"], "setns_path", &arguments, &[])?;
    ensure!(escape.claimed()?);
    escape.fails("setns_path", &arguments, &["ENOENT"])?;
    // The sandbox's own first process.
    let first = to_target(&escape, "path", json!("/proc/1/ns/net"));
    escape.fails("setns_path", &first, &["EPERM", "EACCES"])?;
    for invoker in Invoker::ALL {
        let told = escape.inside(invoker, "setns_each", &escape.target())?;
        ensure!(
            told.refused
                .as_deref()
                .is_some_and(|text| text.starts_with("no other")),
            "{told:?}"
        );
        escape.in_force(&told)?;
    }
    Ok(())
}

#[test]
fn entering_the_hosts_network_namespace_by_a_descriptor() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let host = File::open(own_namespace())?;
    let arguments = escape.target();
    escape.succeeds_by(&["unshare", "--net"], "setns_passed", &arguments, &[host.as_fd()])?;
    ensure!(escape.claimed()?);
    escape.fails_with("setns_passed", &arguments, &["EPERM"], &[host.as_fd()])
}

#[test]
fn nsenter() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let arguments = to_target(&escape, "path", json!(own_namespace()));
    escape.succeeds_by(&["unshare", "--net"], "nsenter", &arguments, &[])?;
    for path in [own_namespace(), "/proc/1/ns/net".to_owned()] {
        let arguments = to_target(&escape, "path", json!(path));
        for invoker in Invoker::ALL {
            let told = escape.inside(invoker, "nsenter", &arguments)?;
            let refused = told.refused.clone().unwrap_or_default();
            ensure!(
                refused.contains("Operation not permitted")
                    || refused.contains("Permission denied")
                    || refused.contains("No such file"),
                "{told:?}"
            );
            escape.in_force(&told)?;
        }
    }
    Ok(())
}

#[test]
fn making_namespaces() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    for kind in ["net", "user", "mnt", "cgroup", "pid", "uts", "ipc", "time"] {
        let arguments = json!({ "kind": kind });
        escape.succeeds("unshare", &arguments)?;
        escape.fails("unshare", &arguments, &["EPERM"])?;
    }
    for kind in ["net", "user", "mnt", "cgroup", "pid", "uts", "ipc"] {
        let arguments = json!({ "kind": kind });
        escape.succeeds("clone", &arguments)?;
        escape.fails("clone", &arguments, &["EPERM"])?;
        escape.succeeds("clone3", &arguments)?;
        escape.fails("clone3", &arguments, &["ENOSYS"])?;
    }
    Ok(())
}

#[test]
fn connecting_by_io_uring() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    escape.is_no_way("io_uring", &escape.target(), &["ENOSYS"])
}

#[test]
fn raw_and_packet_sockets() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    for (family, kind, protocol) in [
        ("AF_INET", "SOCK_RAW", 6),
        ("AF_INET6", "SOCK_RAW", 6),
        ("AF_PACKET", "SOCK_RAW", 0x300),
        ("AF_PACKET", "SOCK_DGRAM", 0x300),
    ] {
        let arguments = json!({ "family": family, "kind": kind, "protocol": protocol });
        escape.succeeds("made", &arguments)?;
        escape.fails("made", &arguments, &["EPERM"])?;
    }
    Ok(())
}

#[test]
fn sockets_that_no_network_namespace_holds() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    // AF_VSOCK reaches the hypervisor, AF_ALG the kernel's ciphers.
    let vsock = json!({ "family": "AF_VSOCK", "kind": "SOCK_STREAM", "protocol": 0 });
    let alg = json!({ "family": "AF_ALG", "kind": "SOCK_SEQPACKET", "protocol": 0 });
    // Not every kernel has them.
    let mut known = 0;
    for arguments in [vsock, alg] {
        known += u32::from(escape.outside("made", &arguments)?.got.is_some());
        escape.fails("made", &arguments, &["EAFNOSUPPORT"])?;
    }
    ensure!(
        known > 0,
        "neither is there outside; this kernel can't tell anything"
    );
    Ok(())
}

#[test]
fn services_on_the_hosts_loopback() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for mut caller in listener.incoming().flatten() {
            let _ = caller.write_all(b"hi");
        }
    });
    let arguments = json!({ "host": "127.0.0.1", "port": port });
    ensure!(escape.succeeds("tcp", &arguments)? == "hi");
    escape.fails("tcp", &arguments, &["ECONNREFUSED"])
}

fn own_namespace() -> String {
    format!("/proc/{}/ns/net", std::process::id())
}

/// Arguments of an attempt: the target's, and one more.
fn to_target(escape: &Escape, name: &str, value: Value) -> Value {
    let mut arguments = escape.target();
    if let Some(map) = arguments.as_object_mut() {
        map.insert(name.to_owned(), value);
    }
    arguments
}
