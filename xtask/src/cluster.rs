//! `cargo xtask cluster`: a real Kubernetes on this machine, for the tests and for whoever works on Bailiff.

use std::io::{IsTerminal as _, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::packages::{self, Purpose};
use crate::vm::{self, Choice};
use crate::{lab, shell};

pub(crate) mod components;
mod control_plane;
mod go;
mod hierarchies;
mod images;
mod keys;
mod node;
pub(crate) mod place;
pub(crate) mod state;

use control_plane::{ControlPlane, Flags};
use keys::Keys;
use node::{Emulated, Node};
use place::{Place, Site};
use state::{Files, Ready, ReadyNode};

/// A real Kubernetes on this machine.
///
///   build        its programs, from Kubernetes' own modules by Go: minutes the first time
///   up           builds what is missing, starts it and waits until it is ready
///   status       what runs, and where
///   kubeconfig   the path of an administrator's kubeconfig
///   down         ends it; nothing stays but its logs
///   schema       prints the built-in types' fields in protobuf: agent/crates/wire/src/kubernetes/schema.txt
///
/// etcd, kube-apiserver (RBAC and Node authorizers, audit log) and kube-controller-manager (with the
/// signers of certificates) listen on addresses of their own. The service's address, 10.96.0.1:443 for
/// the first cluster, leads to the API server from this machine and from sandboxes. Each node runs
/// containerd, kubelet and kube-proxy in namespaces and cgroups of its own; wires join the nodes, so
/// that pods reach each other. With --vm there is one node instead, in an emulated machine. Images are
/// made here and hold busybox: bailiff.test/busybox:1; --image puts others on the nodes. There is no
/// DNS, and no way out for pods. Several clusters can run beside each other, each in its own --state
/// folder.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
    /// Where its keys, logs and data are; target/cluster/run if none is given.
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Build its programs.
    Build,
    /// Start it, and wait until it is ready.
    Up(Start),
    /// End it.
    Down,
    /// Print the path of an administrator's kubeconfig.
    Kubeconfig,
    /// Say what runs, and where.
    Status,
    /// Print the fields that the built-in types have in protobuf.
    Schema,
    /// Hold it in this process: `up` starts this in the background.
    #[command(hide = true)]
    Serve {
        #[command(flatten)]
        start: Start,
        /// End it when standard input ends, and remove its files unless a component had ended by itself.
        #[arg(long)]
        until_end_of_input: bool,
        /// Components may end by themselves: somebody kills them on purpose.
        #[arg(long)]
        components_may_end: bool,
    },
}

#[derive(clap::Args)]
struct Start {
    /// How many nodes it has, 0 to 4. Each takes about 15 s and 300 MB.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u8).range(..=i64::from(Site::MOST)))]
    nodes: u8,
    /// Without a node: pods stay pending.
    #[arg(long, conflicts_with = "nodes")]
    control_plane_only: bool,
    /// With one node in an emulated machine instead: Debian 12's kernel or the one that is named, and cgroups of the second version alone.
    /// Takes minutes where the processor doesn't virtualise, and 4 GB of memory.
    #[arg(
        long,
        value_name = "KERNEL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "6.1",
        conflicts_with_all = ["nodes", "control_plane_only"]
    )]
    vm: Option<Choice>,
    #[command(flatten)]
    node: node::Options,
    #[command(flatten)]
    flags: Flags,
}

impl Start {
    fn nodes(&self) -> u8 {
        if self.control_plane_only || self.vm.is_some() {
            0
        } else {
            self.nodes
        }
    }

    fn with_node(&self) -> bool {
        self.nodes() > 0 || self.vm.is_some()
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let files = Files::new(args.state.as_deref())?;
    match &args.action {
        Action::Build => build(true),
        Action::Up(start) => up(&files, start),
        Action::Down => down(&files),
        Action::Kubeconfig => {
            let ready = running(&files)?;
            println!("{}", ready.kubeconfig.display());
            Ok(())
        }
        Action::Status => {
            show(&running(&files)?, &files);
            Ok(())
        }
        Action::Schema => {
            print!("{}", components::call("schema")?);
            Ok(())
        }
        Action::Serve {
            start,
            until_end_of_input,
            components_may_end,
        } => serve(&files, start, *until_end_of_input, *components_may_end),
    }
}

/// Builds what a cluster needs, for those who start one later, and gets what a node needs of the distribution.
///
/// # Errors
/// When a package, Go or a module can't be had, or the build fails.
pub(crate) fn build(with_node: bool) -> Result<()> {
    packages::ensure(&[Purpose::Cluster])?;
    if with_node {
        packages::ensure(&[Purpose::Node])?;
    }
    components::build()
}

fn up(files: &Files, start: &Start) -> Result<()> {
    if let Some(ready) = files.ready() {
        println!("it runs already");
        show(&ready, files);
        return Ok(());
    }
    ensure!(
        shell::is_root(),
        "a cluster needs addresses, cgroups and namespaces: run this as root"
    );
    build(start.with_node())?;
    if let Some(choice) = start.vm {
        // What has to be fetched is told here, and not in the log.
        vm::Parts::get(choice)?;
    }
    lab::catch_signals()?;
    // What a cluster that was killed left behind.
    down(files)?;
    shell::heading("Starting a cluster");
    let begun = Instant::now();
    std::fs::create_dir_all(files.folder())
        .with_context(|| format!("{} can't be made", files.folder().display()))?;
    // Beside the folder, which the other process empties.
    let log = files.folder().with_extension("log");
    let said = std::fs::File::create(&log).with_context(|| format!("{} can't be written", log.display()))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["cluster", "serve", "--state"]).arg(files.folder());
    match start.vm {
        Some(choice) => command.arg(format!("--vm={}", choice.name())),
        None => command.arg(format!("--nodes={}", start.nodes())),
    };
    command.args(start.node.arguments());
    for (name, values) in [
        ("--api-server-flag", &start.flags.api_server_flag),
        ("--controllers-flag", &start.flags.controllers_flag),
    ] {
        command.args(values.iter().map(|value| format!("{name}={value}")));
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said)
        .process_group(0)
        .spawn()?;
    let limit = Duration::from_secs(if start.vm.is_some() { 1500 } else { 600 });
    let waited = lab::wait_for("a ready cluster", limit, || {
        if let Some(status) = child.try_wait()? {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            bail!("it ended ({status}); it said:\n{}", text.trim());
        }
        Ok(files.ready().is_some())
    });
    if let Err(error) = waited {
        lab::end(&mut child, Signal::SIGTERM);
        return Err(error);
    }
    println!("ready after {}", shell::human(begun.elapsed()));
    show(&running(files)?, files);
    Ok(())
}

/// Ends the cluster of this folder. None is as good.
fn down(files: &Files) -> Result<()> {
    let Some(slot) = files.slot()? else { return Ok(()) };
    if let Some(ready) = files.ready() {
        let until = Instant::now() + Duration::from_secs(60);
        // It ends everything in order. Where it was killed, its number may be another's by now.
        if place::holds(slot, ready.pid) {
            kill(Pid::from_raw(i32::try_from(ready.pid)?), Signal::SIGTERM)
                .with_context(|| format!("process {} can't be told to end", ready.pid))?;
        }
        while place::holds(slot, ready.pid) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    place::clear(slot)?;
    hierarchies::clear(&slot.name());
    node::clear(slot);
    files.forget();
    println!(
        "the cluster is down; its logs are in {}",
        files.folder().display()
    );
    Ok(())
}

fn running(files: &Files) -> Result<Ready> {
    files.ready().with_context(|| {
        format!(
            "no cluster runs with its files in {}: `cargo xtask cluster up`",
            files.folder().display()
        )
    })
}

fn show(ready: &Ready, files: &Files) {
    println!("{:<26} {}", "Kubernetes", ready.version);
    println!("{:<26} https://{}", "API server", ready.api_server);
    println!("{:<26} https://{}", "kubernetes.default.svc", ready.service);
    if ready.nodes.is_empty() {
        println!("{:<26} none", "nodes");
    }
    for node in &ready.nodes {
        let machine = node
            .kernel
            .as_ref()
            .map(|kernel| format!(", in an emulated machine with {kernel}"));
        println!(
            "{:<26} {}, its pods {}{}",
            node.name,
            node.address,
            node.pods,
            machine.unwrap_or_default()
        );
    }
    println!("{:<26} {}", "audit log", ready.audit_log.display());
    println!("{:<26} {}", "CA", ready.ca.display());
    for component in &ready.components {
        println!("{component:<26} {}", files.log(component).display());
    }
    println!("\nexport KUBECONFIG={}", ready.kubeconfig.display());
    println!("export PATH={}:$PATH", ready.programs.display());
}

/// Starts everything, tells when it is ready, and holds it until it is asked to end.
fn serve(files: &Files, start: &Start, until_end_of_input: bool, may_end: bool) -> Result<()> {
    components::ensure_built()?;
    lab::catch_signals()?;
    let ended = Arc::new(AtomicBool::new(false));
    if until_end_of_input {
        ensure!(!std::io::stdin().is_terminal(), "standard input is a terminal");
        let ended = Arc::clone(&ended);
        std::thread::spawn(move || {
            let mut rest = [0; 64];
            while matches!(std::io::stdin().read(&mut rest), Ok(1..)) {}
            ended.store(true, Ordering::Relaxed);
        });
    }
    files.fresh()?;
    // Where something fails these are dropped in the opposite order: the processes, then the place.
    let place = Place::take()?;
    files.note_slot(place.slot())?;
    let _forgotten = Forget(files);
    let keys = Keys::create(&files.keys())?;
    let slot = place.slot();
    let mut control_plane = ControlPlane::start(slot, files, &keys, &start.flags, start.with_node())?;
    let mut nodes = Vec::new();
    for site in slot.sites(start.nodes()) {
        // One after the other: then each gets the range of pods that its site says.
        let node = Node::start(site, &place, files, &keys, &start.node, &nodes)?;
        nodes.push(node);
    }
    let emulated = start.vm.map(|choice| {
        let site = slot.sites(1).next().context("a cluster has room for a node")?;
        Emulated::start(choice, site, files, &keys, &start.node)
    });
    let mut emulated = emulated.transpose()?;
    let of_nodes = nodes.iter().flat_map(|node| node.components.iter().rev());
    let components = control_plane.components.iter().rev().chain(of_nodes);
    let names = components.map(|component| component.name.clone());
    let names = names.chain(emulated.iter().map(|node| node.name().to_owned()));
    let told = nodes.iter().map(ReadyNode::from);
    let told = told.chain(emulated.iter().map(ReadyNode::from));
    files.note_ready(slot, &keys, told.collect(), names.collect())?;
    println!("ready");
    let mut failed = false;
    while !ended.load(Ordering::Relaxed) && lab::checkpoint().is_ok() {
        let runs = control_plane.still_runs(files);
        let runs = runs.and_then(|()| nodes.iter_mut().try_for_each(|node| node.still_runs(files)));
        let runs = runs.and_then(|()| emulated.iter_mut().try_for_each(Emulated::still_runs));
        if !failed
            && !may_end
            && let Err(error) = runs
        {
            // The others go on, for whoever wants to look.
            eprintln!("{error:#}");
            failed = true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(emulated);
    drop(nodes);
    drop(control_plane);
    drop(place);
    if until_end_of_input && !failed {
        std::fs::remove_dir_all(files.folder())
            .with_context(|| format!("{} can't be removed", files.folder().display()))?;
    }
    Ok(())
}

struct Forget<'a>(&'a Files);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.forget();
    }
}
