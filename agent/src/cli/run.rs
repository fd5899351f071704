//! `bailiff run`: a command in a sandbox, with policies in force on it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bailiff_kernel::cgroup;

use crate::app::{Agent, AgentOptions, PodSpec};
use crate::proxy::{LimitSetting, Limits};
use crate::world::standalone::{Inventory, Sandbox};

/// How long sessions may go on after the command has ended.
const GRACE: Duration = Duration::from_millis(500);

/// Run a command in a sandbox, and enforce policies on what it does to databases.
///
/// The command gets a network namespace, a cgroup and a view of the files of its own, and runs as the invoking user without
/// any privilege. Whatever it connects to that a Target names goes through Bailiff. Needs root, to load the kernel programs.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("Limits:\n{}", Limits::help()))]
pub(crate) struct Args {
    /// The directory with Targets, Policies and, if there is one, inventory.yaml
    #[arg(long, value_name = "DIR")]
    config: PathBuf,
    /// Which pod of the inventory the command stands for
    #[arg(long, value_name = "NAME")]
    pod: Option<String>,
    /// Serve /metrics, /healthz and /readyz here, on the host
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin: Option<SocketAddr>,
    /// Where the record of sessions goes
    #[arg(long, value_name = "DIR", default_value = "/var/lib/bailiff/record")]
    record_dir: PathBuf,
    /// How much disk the record may take, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    record_mib: u64,
    /// Threads that carry connections
    #[arg(long, value_name = "N", default_value_t = 2)]
    workers: usize,
    /// Set a limit of the data path; may be given several times. The limits are listed below
    #[arg(long = "limit", value_name = "NAME=VALUE")]
    limits: Vec<LimitSetting>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// The cgroup of this instance; it goes with it.
struct Instance {
    root: PathBuf,
    before: PathBuf,
}

impl Instance {
    fn create(tag: &str) -> Result<Self> {
        let root = cgroup::mount()?.join(format!("bailiff-{tag}"));
        for part in ["agent", "pods"] {
            std::fs::create_dir_all(root.join(part))
                .with_context(|| format!("cannot make {}", root.display()))?;
        }
        let before = cgroup::current()?;
        cgroup::join(&root.join("agent"), 0).context("cannot join the agent's cgroup")?;
        Ok(Self { root, before })
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = cgroup::join(&self.before, 0);
        let _ = cgroup::end(&self.root);
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!(
            "`bailiff run` needs root, to load programs into the kernel; run it with sudo (the command itself runs as you)"
        );
    }
    let Some(program) = args.command.first() else {
        bail!("give a command after --")
    };
    let pod = Inventory::load(&args.config)?.pod(args.pod.as_deref(), program)?;
    let mut limits = Limits::default();
    args.limits.iter().for_each(|setting| limits.set(setting));
    let tag = format!("{:x}", std::process::id());
    let instance = Instance::create(&tag)?;
    let agent = Agent::start(AgentOptions {
        config: args.config.clone(),
        pods_cgroup: instance.root.join("pods"),
        agent_cgroup: instance.root.join("agent"),
        pins: PathBuf::from(format!("/sys/fs/bpf/bailiff-{tag}")),
        record: args.record_dir.clone(),
        record_bytes: args.record_mib << 20,
        admin: args.admin,
        workers: args.workers,
        limits,
    })?;
    let outcome = enforce(args, &agent, &instance, &pod, &tag);
    agent.shutdown(GRACE)?;
    outcome
}

fn enforce(
    args: &Args,
    agent: &Agent,
    instance: &Instance,
    pod: &crate::world::standalone::InventoryPod,
    tag: &str,
) -> Result<ExitCode> {
    let sandbox = Sandbox::create(&instance.root.join("pods"), &pod.name, tag)?;
    agent.add_pod(PodSpec {
        info: pod.info(),
        container: Some(pod.container.clone().unwrap_or_else(|| "main".to_owned())),
        cgroup: sandbox.cgroup().to_owned(),
        netns: sandbox.netns()?,
        host_link: Some(sandbox.host_link().to_owned()),
    })?;
    let mut child = sandbox.spawn(
        &args.command,
        [Stdio::inherit(), Stdio::inherit(), Stdio::inherit()],
    )?;
    // Signals of the terminal reach the command by themselves; the agent outlives it to clean up.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let status = runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok::<_, anyhow::Error>(Some(status));
            }
            tokio::select! {
                _ = term.recv() => return Ok(None),
                _ = int.recv() => {}
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
        }
    })?;
    let Some(status) = status else {
        child.kill()?; // What it started ends with the sandbox's cgroup.
        child.wait()?;
        return Ok(ExitCode::from(143));
    };
    Ok(ExitCode::from(
        u8::try_from(status.code().unwrap_or(255)).unwrap_or(255),
    ))
}
