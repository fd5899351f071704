//! `bailiff run`: a command in a sandbox, with policies in force on it.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::{Child, ExitCode, ExitStatus};
use std::sync::Arc;
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use anyhow::{Result, bail};

use super::agent::{AgentArgs, CERTIFICATES, GRACE, Place};
use crate::app::{Agent, PodSpec};
use crate::proxy::Limits;
use crate::world::standalone::{Instance, Inventory, Sandbox, Signals, Workplace, code};

/// Run a command in a sandbox, and enforce policies on what it does to databases.
///
/// The command gets a network namespace, a cgroup, processes and a view of the files of its own, and runs as the invoking user
/// without any privilege. What it connects to goes through Bailiff if a Target names it, and nowhere otherwise: the sandbox reaches the
/// addresses of Targets alone. Needs root, to load the kernel programs; with sudo, the command runs as whoever called sudo.
///
/// It sees the host's files but changes only the directory that it starts in, unless that is a home or a system directory,
/// and those named by --writable. /tmp, /var/tmp, /run and /dev are its own and empty, and the host's Unix sockets can't be
/// reached: no container runtime, no message bus, no ssh-agent.
///
/// Standard input, output and error are the caller's, the terminal and its signals too. Whatever the command leaves running
/// ends with it. The exit status is the command's; 128+N if signal N ended it, 127 if it wasn't found, 126 if it can't be
/// executed, and 125 if bailiff itself failed.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{EXAMPLES}\nLimits:\n{}", Limits::help()))]
pub(crate) struct Args {
    #[command(flatten)]
    agent: AgentArgs,
    /// Which pod of the inventory the command stands for
    #[arg(long, value_name = "NAME")]
    pod: Option<String>,
    /// A further directory that the command may change; can be given several times
    #[arg(long, value_name = "DIR")]
    writable: Vec<PathBuf>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

const EXAMPLES: &str = "Examples:
  A shell of the pod `ci-runner`, on the policies of a directory:
    sudo bailiff run --config examples/demo --pod ci-runner -- bash

  One statement:
    sudo bailiff run --config examples/demo --pod ci-runner -- psql -h 198.18.0.53 -U app -c 'table customers' shop

  An agent in a project's directory that keeps state in its home, with metrics:
    cd ~/src/project
    sudo bailiff run --config /etc/bailiff --writable ~/.cache/agent --admin 127.0.0.1:9100 -- agent --task fix-tests

  What it did:
    sudo bailiff sessions show last
";

/// What `bailiff run` itself ends with when it can't do its work; everything else is the command's.
pub(crate) const OWN_FAILURE: u8 = 125;

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    Ok(enforced(args).unwrap_or_else(|error| {
        eprintln!("bailiff: {error:#}");
        ExitCode::from(OWN_FAILURE)
    }))
}

fn enforced(args: &Args) -> Result<ExitCode> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!(
            "`bailiff run` needs root, to load programs into the kernel; run it with sudo (the command itself runs as you)"
        );
    }
    let Some(program) = args.command.first() else {
        bail!("give a command after --")
    };
    // Before any thread starts, so that no thread gets them.
    let signals = Signals::take()?;
    let config = args.agent.config()?;
    let pod = Inventory::load(&config)?.pod(args.pod.as_deref(), program)?;
    let record = args.agent.record()?;
    let instance = Instance::create()?;
    let limits = args.agent.limits();
    let drain = limits.drain;
    let place = Place {
        pods_cgroup: instance.pods_cgroup(),
        agent_cgroup: instance.agent_cgroup(),
        pins: instance.pins(),
    };
    let agent = Agent::start(args.agent.options(place, &config, &record, limits))?;
    // A command that starts before would see its first connections fail. What keeps it from being had is in the log.
    agent.wait_for_certificates(CERTIFICATES);
    let outcome = (|| {
        let place = Workplace::new(&args.writable, &config, &record)?;
        // For people: a program that reads standard error expects the command's words there.
        if let (Some(here), true) = (place.only_to_read(), std::io::stderr().is_terminal()) {
            eprintln!(
                "bailiff: the command can't change {}; --writable DIR names directories that it may",
                here.display()
            );
        }
        let sandbox = Sandbox::create(&instance.pods_cgroup(), &pod.name, instance.tag())?;
        let reach = Arc::clone(sandbox.reach());
        agent.on_targets(move |targets| reach.set(targets))?;
        agent.add_pod(PodSpec {
            info: pod.info(),
            container: Some(pod.container.clone().unwrap_or_else(|| "main".to_owned())),
            cgroup: sandbox.cgroup().to_owned(),
            netns: sandbox.netns()?,
            host_links: vec![sandbox.host_link().to_owned()],
        })?;
        let mut child = sandbox.spawn(&signals, &place, &args.command)?;
        Ok(code(wait_draining(&signals, &mut child, &agent, drain)?))
    })();
    agent.shutdown(GRACE)?;
    outcome
}

/// Waits for the command. At SIGTERM the agent drains while the command goes on, and then the command gets the signal.
fn wait_draining(signals: &Signals, child: &mut Child, agent: &Agent, grace: Duration) -> Result<ExitStatus> {
    std::thread::scope(|scope| {
        let mut draining: Option<ScopedJoinHandle<'_, ()>> = None;
        let status = signals.wait_holding(child, |asked| match &draining {
            None => {
                draining = Some(scope.spawn(|| agent.drain(grace)));
                true
            }
            Some(drained) => {
                if asked {
                    agent.hurry();
                }
                !drained.is_finished()
            }
        });
        if draining.is_some() {
            agent.hurry();
        }
        status
    })
}
