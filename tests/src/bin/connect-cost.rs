//! Measures what the kernel programs add to a connect, for `cargo xtask bench kernel`: prints a line of JSON for each
//! measurement.
//!
//! A client below the hooks and one beside them make and close connections in turns, over the same loopback, to the same
//! listeners. Then the kernel itself measures how long each program runs.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, ChildStdin, ChildStdout, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bailiff_kernel::TargetEntry;
use bailiff_model::FailureMode;
use bailiff_tests::{KernelLab, check};
use socket2::{Domain, Protocol, Socket, Type};

/// How the kernel cuts the names of programs: to 15 bytes.
const NAMES: [(&str, &str); 5] = [
    ("bailiff_connect", "connect4"),
    ("bailiff_sockops", "sockops"),
    ("bailiff_sock_cr", "sock_create"),
    ("bailiff_sock_re", "sock_release"),
    ("bailiff_egress", "egress guard"),
];

/// Prefixes among which an unprotected address isn't.
const PREFIXES: u8 = 200;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["client"] => client(),
        [rounds, connects] => measure(rounds.parse()?, connects.parse()?),
        _ => bail!("usage: connect-cost ROUNDS CONNECTS"),
    }
}

/// Answers each line, `ADDRESS:PORT CONNECTS`, by the nanoseconds that one took.
fn client() -> Result<()> {
    for line in std::io::stdin().lines() {
        let line = line?;
        let (to, connects) = line.split_once(' ').context("no number of connects")?;
        let (to, connects): (SocketAddr, u32) = (to.parse()?, connects.parse()?);
        let began = Instant::now();
        for _ in 0..connects {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            socket.connect(&to.into())?;
            // By a reset, so that ports don't wait for their time to pass.
            socket.set_linger(Some(Duration::ZERO))?;
        }
        println!("{}", began.elapsed().as_nanos() / u128::from(connects.max(1)));
    }
    Ok(())
}

struct Client {
    child: Child,
    asks: ChildStdin,
    says: BufReader<ChildStdout>,
}

impl Client {
    fn start(lab: &KernelLab, cgroup: &str) -> Result<Self> {
        let mut child = lab.spawn(cgroup, Command::new(std::env::current_exe()?).arg("client"))?;
        Ok(Self {
            asks: child.stdin.take().context("no input")?,
            says: BufReader::new(child.stdout.take().context("no output")?),
            child,
        })
    }

    /// Nanoseconds that a socket, its connect and its close take.
    fn connect(&mut self, to: SocketAddr, connects: u32) -> Result<u64> {
        writeln!(self.asks, "{to} {connects}")?;
        let mut line = String::new();
        self.says.read_line(&mut line)?;
        line.trim().parse().context("the client failed")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is connected to below the hooks, and what beside them.
struct Cell {
    name: &'static str,
    hooked: SocketAddr,
    bare: SocketAddr,
    prefixes: bool,
}

fn measure(rounds: u32, connects: u32) -> Result<()> {
    let before: HashSet<u32> = programs()?.into_iter().map(|(id, ..)| id).collect();
    let Some(mut lab) = KernelLab::new("cost", FailureMode::Closed)? else {
        bail!("loading kernel programs takes root");
    };
    let mut heartbeat = lab.redirect_mut()?.heartbeat().context("no heartbeat")?;
    std::thread::spawn(move || {
        loop {
            heartbeat.beat();
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    let listener = SocketAddr::from(([127, 0, 0, 1], lab.port()));
    let protected: SocketAddr = "10.9.8.7:5432".parse()?;
    let elsewhere: SocketAddr = "10.9.8.9:5432".parse()?;
    let other_port: SocketAddr = "10.9.8.9:700".parse()?;
    // Not on the loopback's own network, which only what is diverted goes to.
    let address = ["addr", "add", "10.9.8.9/32", "dev", "lo"];
    lab.netns().run_in(|| check(Command::new("ip").args(address)))??;
    for address in [elsewhere, other_port] {
        let server = lab.netns().run_in(|| -> Result<TcpListener> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            socket.bind(&address.into())?;
            // As long as the agent's: a full one would have clients wait a second.
            socket.listen(4096)?;
            Ok(socket.into())
        })??;
        serve(server);
    }
    lab.take_listeners().into_iter().try_for_each(|listener| {
        listener.set_nonblocking(false)?;
        serve(listener);
        anyhow::Ok(())
    })?;
    let same = |name, to, prefixes| Cell {
        name,
        hooked: to,
        bare: to,
        prefixes,
    };
    let cells = [
        same("unprotected port", other_port, false),
        same("protected port, another address", elsewhere, false),
        same("the same among 200 prefixes", elsewhere, true),
        Cell {
            name: "redirected",
            hooked: protected,
            bare: listener,
            prefixes: false,
        },
    ];
    let (mut hooked, mut bare) = (Client::start(&lab, "pods/a/main")?, Client::start(&lab, "agent")?);
    for round in 0..rounds {
        for cell in &cells {
            protect(&mut lab, cell.prefixes)?;
            // Who comes first changes, since the first one finds colder caches.
            let (with, without) = if round % 2 == 0 {
                let with = hooked.connect(cell.hooked, connects)?;
                (with, bare.connect(cell.bare, connects)?)
            } else {
                let without = bare.connect(cell.bare, connects)?;
                (hooked.connect(cell.hooked, connects)?, without)
            };
            println!(
                "{}",
                serde_json::json!({"cell": cell.name, "round": round, "bare_ns": without, "hooked_ns": with})
            );
        }
    }
    let _stats = aya::sys::enable_stats(aya::sys::Stats::RunTime)?;
    for cell in &cells {
        protect(&mut lab, cell.prefixes)?;
        let earlier = programs()?;
        hooked.connect(cell.hooked, connects)?;
        for (id, name, time, runs) in programs()? {
            let (time_before, runs_before) = earlier
                .iter()
                .find(|(other, ..)| *other == id)
                .map_or((0, 0), |(_, _, time, runs)| (*time, *runs));
            let runs = runs - runs_before;
            let Some((_, name)) = NAMES.iter().find(|(cut, _)| *cut == name) else {
                continue;
            };
            if before.contains(&id) || runs < u64::from(connects) {
                continue;
            }
            println!(
                "{}",
                serde_json::json!({
                    "cell": cell.name,
                    "program": name,
                    "runs_per_connect": runs / u64::from(connects),
                    "ns_per_run": (time - time_before) / u128::from(runs),
                })
            );
        }
    }
    Ok(())
}

/// Accepts and closes for as long as the process lives.
fn serve(listener: TcpListener) {
    std::thread::spawn(move || while listener.accept().is_ok() {});
}

fn protect(lab: &mut KernelLab, prefixes: bool) -> Result<()> {
    let mut targets = lab.targets()?;
    if prefixes {
        targets.extend((0..PREFIXES).map(|third| TargetEntry {
            address: std::net::Ipv4Addr::new(10, 200, third, 0).into(),
            prefix: 24,
            port: 5432,
            failure_mode: FailureMode::Closed,
        }));
    }
    Ok(lab.redirect_mut()?.set_targets(&targets)?)
}

/// Number, name, nanoseconds and runs of each program.
fn programs() -> Result<Vec<(u32, String, u128, u64)>> {
    aya::programs::loaded_programs()
        .map(|program| {
            let program = program?;
            let name = String::from_utf8_lossy(program.name()).into_owned();
            Ok((
                program.id(),
                name,
                program.run_time().as_nanos(),
                program.run_count(),
            ))
        })
        .collect()
}
