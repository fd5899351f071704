//! `cargo xtask bench node`: what the agent of a full node takes, with nothing to do and at a steady load.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::rig::{Lab, Subject, parse_tps};
use crate::cluster::place;
use crate::lab::{self, Beside};
use crate::packages::{self, Purpose};
use crate::{build, shell};

/// Measure memory and processor time of a node's agent.
///
/// Each pod is a process in a network namespace and a cgroup of its own, as kubelet's are. First
/// none of them does anything; then one asks a database, through the agent, at a steady rate.
/// PgBouncer carries the same load beside it. Memory is what a process has for itself; processor
/// time is what the scheduler gave to all its threads.
#[derive(clap::Args)]
pub(super) struct Args {
    /// How many pods the node has.
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pods: u32,
    /// Statements a second.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// How long each is measured.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(2..))]
    seconds: u32,
}

/// Where the agent says how it is.
const ADMIN: &str = "127.0.0.1:9471";

/// What is left of starting has settled after so long.
const SETTLED: Duration = Duration::from_secs(5);

pub(super) fn run(args: &Args) -> Result<()> {
    packages::ensure(&[Purpose::Build, Purpose::Test, Purpose::Bench])?;
    ensure!(shell::is_root(), "network namespaces need root");
    build::object(None)?;
    build::agent(true)?;
    lab::catch_signals()?;
    shell::heading("Setting up the server, PgBouncer and the pods");
    let rig = Lab::set_up(&[Subject::Direct, Subject::Pgbouncer, Subject::Bailiff])?;
    let folder = tempfile::Builder::new().prefix("bailiff-bench-").tempdir()?;
    let pods = Pods::make(&rig, args.pods)?;
    let agent = Agent::start(&pods, folder.path())?;

    shell::heading(&format!("Nothing to do, {} pods, {} s", args.pods, args.seconds));
    std::thread::sleep(SETTLED);
    let time = Duration::from_secs(u64::from(args.seconds));
    let idle = Taken::by(agent.0.pid(), || {
        std::thread::sleep(time);
        lab::checkpoint()
    })?;
    println!("{:<10} {idle}", "bailiff");

    shell::heading(&format!(
        "{} statements a second, 16 connections, {} s",
        args.rate, args.seconds
    ));
    let options: Vec<String> = [
        "--no-vacuum",
        "--select-only",
        "--client=16",
        "--jobs=1",
        &format!("--rate={}", args.rate),
        &format!("--time={}", args.seconds),
    ]
    .map(str::to_owned)
    .to_vec();
    let pgbouncer = rig.pid(Subject::Pgbouncer).context("PgBouncer isn't there")?;
    let ask = |subject| -> Result<()> {
        let said = match subject {
            Subject::Bailiff => rig.pgbench_in(&pods.busy(), &options)?,
            other => rig.pgbench(other, &options)?,
        };
        let reached = parse_tps(&said).context("pgbench said no rate")?;
        ensure!(
            reached > f64::from(args.rate) * 0.95,
            "the machine is too slow or too busy: {reached:.0} statements a second"
        );
        Ok(())
    };
    let mut rows = Vec::new();
    for (name, subject, pid) in [
        ("bailiff", Subject::Bailiff, agent.0.pid()),
        ("pgbouncer", Subject::Pgbouncer, pgbouncer),
    ] {
        rows.push((name, Taken::by(pid, || ask(subject))?));
    }
    for (name, taken) in rows {
        let each = taken.cores * 1e6 / f64::from(args.rate);
        println!("{name:<10} {taken}, {each:.0} us a statement");
    }
    Ok(())
}

/// What a process took over some time.
struct Taken {
    /// Of one processor.
    cores: f64,
    /// At the end, for itself alone.
    kib: f64,
    /// At the end, with what it shares with files.
    resident: f64,
}

impl Taken {
    fn by(pid: u32, work: impl FnOnce() -> Result<()>) -> Result<Self> {
        let (begun, before) = (Instant::now(), processor_time(pid)?);
        work()?;
        let took = begun.elapsed().as_secs_f64();
        let cores = (processor_time(pid)? - before) / took;
        Ok(Self {
            cores,
            kib: of_smaps(pid, "Private_Dirty:")? + of_smaps(pid, "Private_Clean:")?,
            resident: of_smaps(pid, "Rss:")?,
        })
    }
}

impl std::fmt::Display for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:5.1} MiB for itself ({:.1} resident), {:5.2} % of a core",
            self.kib / 1024.0,
            self.resident / 1024.0,
            self.cores * 100.0
        )
    }
}

/// What the scheduler gave to a process's threads so far, in seconds. What `stat` says is sampled by the clock that also wakes idle threads.
fn processor_time(pid: u32) -> Result<f64> {
    let mut nanos = 0_u64;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // One that ends meanwhile was a short one.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else {
            continue;
        };
        nanos += text
            .split_whitespace()
            .next()
            .context("no time")?
            .parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanos).as_secs_f64())
}

/// A number of a process's memory, in KiB.
fn of_smaps(pid: u32, name: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .with_context(|| format!("process {pid} can't be looked at"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    number.with_context(|| format!("the kernel doesn't say {name}"))
}

/// Pods of a node, without kubelet. Dropped, they end.
struct Pods {
    root: PathBuf,
    processes: Vec<Child>,
}

impl Pods {
    /// So many. The first has a link, and asks.
    fn make(rig: &Lab, count: u32) -> Result<Self> {
        let root = place::mount()?.join(format!("bailiff-bench-{}", std::process::id()));
        let mut pods = Self {
            root,
            processes: Vec::new(),
        };
        fs::create_dir_all(pods.root.join("agent"))?;
        for number in 0..count {
            lab::checkpoint()?;
            let container = pods.folder(number).join("main");
            fs::create_dir_all(&container)?;
            let sleep = match number {
                0 => rig.inside(Path::new("sleep")),
                _ => {
                    let mut command = Command::new("unshare");
                    command.args(["--net", "sleep"]);
                    command
                }
            };
            let mut command = entering(&container, &sleep);
            command.arg("infinity").stdin(Stdio::null()).process_group(0);
            pods.processes.push(command.spawn()?);
        }
        Ok(pods)
    }

    fn folder(&self, number: u32) -> PathBuf {
        self.root
            .join("kubepods/burstable")
            .join(format!("pod{}", uid(number)))
    }

    /// The cgroup of the container that asks.
    fn busy(&self) -> PathBuf {
        self.folder(0).join("main")
    }

    fn inventory(&self) -> String {
        let mut text = String::from(
            "apiVersion: bailiff.dev/v1alpha1\nkind: Inventory\nmetadata: {name: bench}\nspec:\n  pods:\n",
        );
        for number in 0..self.processes.len() {
            let uid = uid(u32::try_from(number).unwrap_or(u32::MAX));
            text.push_str(&format!(
                "    - {{name: bench-{number}, namespace: bench, serviceAccount: bench, uid: {uid}}}\n"
            ));
        }
        text
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        // All at once; one after another takes a while.
        if let Err(error) = fs::write(self.root.join("cgroup.kill"), "1") {
            eprintln!("the pods' processes can't be ended: {error}");
        }
        for process in &mut self.processes {
            let _ended = process.wait();
        }
        if let Err(error) = place::remove(&self.root) {
            eprintln!("{error:#}");
        }
    }
}

fn uid(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

/// The same command in a cgroup.
pub(super) fn entering(cgroup: &Path, command: &Command) -> Command {
    let mut inside = Command::new("sh");
    inside
        .args(["-c", "echo 0 >\"$1\" && shift && exec \"$@\"", "sh"])
        .arg(cgroup.join("cgroup.procs"))
        .arg(command.get_program())
        .args(command.get_args());
    inside
}

/// The node's agent.
struct Agent(Beside);

impl Agent {
    /// Starts it, and waits until it has enrolled all pods.
    fn start(pods: &Pods, folder: &Path) -> Result<Self> {
        let config = folder.join("config");
        fs::create_dir(&config)?;
        for file in ["target.yaml", "policies.yaml"] {
            let from = shell::root().join("examples/bench").join(file);
            fs::copy(&from, config.join(file)).with_context(|| format!("reading {}", from.display()))?;
        }
        fs::write(config.join("inventory.yaml"), pods.inventory())?;
        let mut agent = Command::new(shell::root().join("target/release/bailiff"));
        agent.args(["node", "--admin", ADMIN, "--config"]).arg(&config);
        agent.arg("--pods-cgroup").arg(pods.root.join("kubepods"));
        agent.arg("--record-dir").arg(folder.join("record"));
        agent.args([
            "--pins",
            &format!("/sys/fs/bpf/bailiff-bench-{}", std::process::id()),
        ]);
        println!("\x1b[2m+ {}\x1b[0m", shell::describe(&agent));
        let mut command = entering(&pods.root.join("agent"), &agent);
        let log = folder.join("agent.log");
        let mut beside = Beside::start("bailiff", &mut command, &log, Signal::SIGTERM)?;
        let wanted = format!("bailiff_pods{{state=\"enforced\"}} {}", pods.processes.len());
        lab::wait_for("the enrolment of all pods", Duration::from_secs(120), || {
            beside.still_runs(&log)?;
            Ok(metrics().is_ok_and(|text| text.lines().any(|line| line == wanted)))
        })?;
        Ok(Self(beside))
    }
}

fn metrics() -> Result<String> {
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "5", &format!("http://{ADMIN}/metrics")])
        .output()?;
    ensure!(output.status.success(), "no metrics");
    Ok(String::from_utf8(output.stdout)?)
}
