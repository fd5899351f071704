//! `bailiff node`: policies in force on the pods of this node.

use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::agent::{AgentArgs, CERTIFICATES, Place};
use crate::app::Agent;
use crate::proxy::Limits;
use crate::world::node::{NodePods, own_cgroup};

/// How often pods that came and went are looked for, in milliseconds.
const LOOK: u16 = 200;

/// Enforce policies on the pods of this node.
///
/// Pods are told by the cgroups that kubelet made for them, and by the uids of inventory.yaml. A pod that isn't in the inventory can't
/// reach any Target; one that says `exempt: true` there reaches them past Bailiff. The inventory may change while this runs.
///
/// It has to run as root in the node's own network namespace, in a cgroup of its own. It ends at SIGTERM or SIGINT, once the sessions that are
/// open have ended, for which they have as long as the limit `drain` says; then what it put into the kernel is gone, and
/// connections go direct. Where it was killed, connections to Targets are refused (or go direct, by `failureMode`) until it runs again.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("Limits:\n{}", Limits::help()))]
pub(crate) struct Args {
    #[command(flatten)]
    agent: AgentArgs,
    /// The cgroup of the second version above all pods, such as /sys/fs/cgroup/kubepods.slice
    #[arg(long, value_name = "DIR")]
    pods_cgroup: PathBuf,
    /// Where its programs and maps are pinned: a directory of its own on a bpf file system
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/bailiff-node")]
    pins: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("`bailiff node` needs root, to load programs into the kernel");
    }
    // Before any thread starts, so that no thread gets them.
    let mut ends = SigSet::empty();
    ends.extend([Signal::SIGTERM, Signal::SIGINT]);
    ends.thread_block()?;
    let ended = SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("cannot take signals")?;
    let pods_cgroup = std::fs::canonicalize(&args.pods_cgroup)
        .with_context(|| format!("cannot find {}", args.pods_cgroup.display()))?;
    let config = args.agent.config()?;
    let record = args.agent.record()?;
    let mut pods = NodePods::new(&pods_cgroup, &config)?;
    let limits = args.agent.limits();
    let drain = limits.drain;
    let place = Place {
        agent_cgroup: own_cgroup(&pods_cgroup)?,
        pods_cgroup,
        pins: args.pins.clone(),
    };
    let agent = Agent::start(args.agent.options(place, &config, &record, limits))?;
    agent.wait_for_certificates(CERTIFICATES);
    while ended.read_signal()?.is_none() {
        pods.follow(&agent);
        match poll(&mut [PollFd::new(ended.as_fd(), PollFlags::POLLIN)], LOOK) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    agent.shutdown(drain)?;
    Ok(ExitCode::SUCCESS)
}
