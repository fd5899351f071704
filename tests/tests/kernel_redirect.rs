//! The redirect with real sockets.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bailiff_kernel::{FourTuple, Options, Redirect, TargetEntry, cgroup, net, netns::NetnsFd};
use bailiff_model::FailureMode;

#[test]
fn a_connection_is_diverted_and_its_origin_known() -> Result<()> {
    let root = cgroup::mount()?.join(format!("bailiff-test-{}", std::process::id()));
    let pod = root.join("pods/a");
    std::fs::create_dir_all(pod.join("ctr"))?;
    std::fs::create_dir_all(root.join("agent"))?;
    let netns = NetnsFd::create()?;
    netns.run_in(|| Command::new("ip").args(["link", "set", "lo", "up"]).status())??;
    let mut redirect = Redirect::load(Options {
        pins: PathBuf::from(format!("/sys/fs/bpf/bailiff-test-{}", std::process::id())),
        pods_cgroup: root.join("pods"),
        agent_cgroup: cgroup::id(&root.join("agent"))?,
        heartbeat_max_age: Duration::from_secs(5),
    })?;
    let (port, listeners) = net::listeners_in(&netns)?;
    redirect.set_targets(&[TargetEntry {
        address: "10.9.8.7".parse()?,
        prefix: 32,
        port: 5432,
        failure_mode: FailureMode::Closed,
    }])?;
    redirect.enroll(cgroup::id(&pod)?, netns.cookie(), port)?;
    let mut child = netns.run_in(|| {
        Command::new("sh").arg("-c").arg(format!("echo $$ > {}/cgroup.procs; exec python3 -c 'import socket;s=socket.create_connection((\"10.9.8.7\",5432),3);print(s.getpeername());s.recv(1)'", pod.join("ctr").display())).stdout(Stdio::piped()).spawn()
    })??;
    listeners[0].set_nonblocking(false)?;
    let (mut conn, peer) = listeners[0].accept()?;
    let origin = redirect
        .origin(&FourTuple {
            netns: netns.cookie(),
            client: peer,
            listener: conn.local_addr()?,
        })
        .context("no origin")?;
    println!("{origin:?} {:?}", redirect.counters());
    conn.write_all(b"x")?;
    let mut out = String::new();
    child.stdout.take().context("stdout")?.read_to_string(&mut out)?;
    child.wait()?;
    ensure!(out.trim() == "('10.9.8.7', 5432)", "{out}");
    redirect.remove()?;
    cgroup::end(&root)?;
    let _: Option<(TcpStream, SocketAddr)> = None;
    Ok(())
}
