//! An agent's kernel side in a process of its own, to be killed, stopped and replaced by tests: it takes over what is pinned,
//! protects the addresses that it is told where nothing is, opens listeners of its own, and checks each connection's origin against what the client says of itself.
//!
//! Its heartbeat may be as old as it is told.
//!
//! A client sends a line, `PID ADDRESS PORT`, and gets a byte. The end of standard input retires the agent as a take-over
//! does: it goes on accepting for a grace, and then says how many connections it served and how many origins were wrong.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bailiff_kernel::netns::NetnsFd;
use bailiff_kernel::{FourTuple, GuardBy, Options, Origins, Redirect, TargetEntry, cgroup, net};
use bailiff_model::{FailureMode, NetnsCookie, OriginalDst};

/// As long as the trials found to be enough.
const GRACE: Duration = Duration::from_millis(250);

#[derive(Default)]
struct Seen {
    right: AtomicUsize,
    wrong: AtomicUsize,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [pins, root, netns, max_age, protected @ ..] = arguments.as_slice() else {
        anyhow::bail!("usage: stand-in-agent PINS CGROUP NETNS SECONDS [ADDRESS:PORT ...]")
    };
    let protected = protected.iter().map(|at| {
        let at: SocketAddr = at.parse()?;
        Ok(TargetEntry {
            address: at.ip(),
            prefix: if at.is_ipv4() { 32 } else { 128 },
            port: at.port(),
            failure_mode: FailureMode::Closed,
        })
    });
    let root = Path::new(root);
    let mut redirect = Redirect::load(Options {
        pins: PathBuf::from(pins),
        pods_cgroup: root.join("pods"),
        agent_cgroup: cgroup::id(&root.join("agent"))?,
        heartbeat_max_age: Duration::from_secs(max_age.parse()?),
        guard_by: GuardBy::default(),
        max_origins: None,
        targets: protected.collect::<Result<_>>()?,
    })?;
    let mut heartbeat = redirect.heartbeat().context("no heartbeat")?;
    std::thread::spawn(move || {
        loop {
            heartbeat.beat();
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let netns = NetnsFd::open(Path::new(netns))?;
    let (port, listeners) = net::listeners_in(&netns)?;
    let (seen, retired) = (Arc::<Seen>::default(), Arc::<AtomicBool>::default());
    let mut accepting = Vec::new();
    for listener in listeners {
        let (seen, retired) = (Arc::clone(&seen), Arc::clone(&retired));
        let (origins, cookie) = (redirect.origins(), netns.cookie());
        accepting.push(std::thread::spawn(move || {
            accept(&listener, &origins, cookie, &seen, &retired)
        }));
    }
    redirect.enroll(cgroup::id(&root.join("pods/a"))?, netns.cookie(), port)?;
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    std::thread::sleep(GRACE);
    retired.store(true, Ordering::Release);
    for thread in accepting {
        let _ = thread.join();
    }
    let read = |counter: &AtomicUsize| counter.load(Ordering::Acquire);
    println!("{} {}", read(&seen.right), read(&seen.wrong));
    Ok(())
}

fn accept(
    listener: &TcpListener,
    origins: &Origins,
    netns: NetnsCookie,
    seen: &Arc<Seen>,
    retired: &AtomicBool,
) {
    let Ok(local) = listener.local_addr() else { return };
    let mut serving = Vec::new();
    loop {
        let Ok((connection, client)) = listener.accept() else {
            // Only once the queue is empty.
            if retired.load(Ordering::Acquire) {
                break;
            }
            std::thread::sleep(Duration::from_micros(100));
            continue;
        };
        let tuple = FourTuple {
            netns,
            client,
            listener: local,
        };
        let origin = origins.origin(&tuple);
        let seen = Arc::clone(seen);
        serving.push(std::thread::spawn(move || {
            let told = serve(connection);
            let fits = origin.zip(told.ok()).is_some_and(|(origin, (pid, destination))| {
                origin.process.tgid == pid && origin.original == destination
            });
            let counter = if fits { &seen.right } else { &seen.wrong };
            counter.fetch_add(1, Ordering::AcqRel);
        }));
        if serving.len() > 512 {
            serving.retain(|thread| !thread.is_finished());
        }
    }
    for thread in serving {
        let _ = thread.join();
    }
}

fn serve(mut connection: TcpStream) -> Result<(u32, OriginalDst)> {
    connection.set_nonblocking(false)?;
    connection.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut line = String::new();
    BufReader::new(&connection).read_line(&mut line)?;
    connection.write_all(b"x")?;
    let mut said = line.split_whitespace();
    let pid = said.next().context("no pid")?.parse()?;
    let address: std::net::IpAddr = said.next().context("no address")?.parse()?;
    let port: u16 = said.next().context("no port")?.parse()?;
    Ok((pid, OriginalDst::new((address.to_canonical(), port).into())))
}
