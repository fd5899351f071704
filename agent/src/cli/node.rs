//! `bailiff node`: policies in force on the pods of this node.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bailiff_kernel::probe;
use bailiff_model::Mode;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::agent::{AgentArgs, CERTIFICATES, Place};
use crate::app::Agent;
use crate::proxy::Limits;
use crate::world::cluster::pods::{ClusterPods, Namespaces};
use crate::world::cluster::policies::ClusterPolicies;
use crate::world::node::{NodePods, PodFacts, PodsOfFile, own_cgroup};

/// Where below the state the cluster's Targets and Policies are.
const POLICIES: &str = "policies";

/// How long a start waits for them.
const TOLD: Duration = Duration::from_secs(10);

/// Enforce policies on the pods of this node.
///
/// Pods are told by the cgroups that kubelet made for them. Who they are says the API server, if --node names this node, or inventory.yaml, by
/// their uids; both may change while this runs. A pod of which neither says anything can't reach any Target. An exempt one reaches
/// them past Bailiff, and for one that is only observed is told what policies would do, and nothing is denied or masked.
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
    /// The pods are those that the API server has for this node, and without --config Targets and Policies are its objects, too. Without this
    /// the pods are those of inventory.yaml
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node: Option<String>,
    /// With --node: what policies do to pods
    #[arg(long, value_enum, default_value_t = ModeArg::Observe)]
    mode: ModeArg,
    /// With --node: a namespace for whose pods the other mode holds; may be given several times
    #[arg(long, value_name = "NAMESPACE")]
    except_namespace: Vec<String>,
    /// With --node: a namespace whose pods go past Bailiff; may be given several times. Given once, the defaults don't hold
    #[arg(long, value_name = "NAMESPACE", default_values = ["kube-system", "bailiff"])]
    exempt_namespace: Vec<String>,
    /// With --node: where what the API server said is kept, for a start while it is away
    #[arg(long, value_name = "DIR", default_value = "/var/lib/bailiff/state")]
    state_dir: PathBuf,
}

/// What policies do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ModeArg {
    /// They decide
    Enforce,
    /// They report what they would decide
    Observe,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Enforce => Self::Enforce,
            ModeArg::Observe => Self::Observe,
        }
    }
}

impl Args {
    /// Who has the policies, where that is the cluster.
    fn policies(&self) -> Result<Option<ClusterPolicies>> {
        if self.node.is_none() || self.agent.has_config() {
            return Ok(None);
        }
        let policies = ClusterPolicies::start(self.agent.cluster(), self.state_dir.join(POLICIES))?;
        policies.wait(TOLD);
        Ok(Some(policies))
    }

    /// Who knows the pods.
    fn facts(&self, config: &Path) -> Result<Box<dyn PodFacts>> {
        let Some(node) = &self.node else {
            return Ok(Box::new(PodsOfFile::new(config)?));
        };
        std::fs::create_dir_all(&self.state_dir)
            .with_context(|| format!("cannot make {}", self.state_dir.display()))?;
        let namespaces = Namespaces {
            exempt: self.exempt_namespace.clone(),
            mode: self.mode.into(),
            except: self.except_namespace.clone(),
        };
        Ok(Box::new(ClusterPods::start(
            self.agent.cluster(),
            node.clone(),
            namespaces,
            self.state_dir.join("pods.json"),
        )?))
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("`bailiff node` needs root, to load programs into the kernel");
    }
    // Said at once and by its name, not by whatever fails for it first.
    probe::may_serve_pods()?;
    // Before any thread starts, so that no thread gets them.
    let mut ends = SigSet::empty();
    ends.extend([Signal::SIGTERM, Signal::SIGINT]);
    ends.thread_block()?;
    let ended = SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("cannot take signals")?;
    let pods_cgroup = std::fs::canonicalize(&args.pods_cgroup)
        .with_context(|| format!("cannot find {}", args.pods_cgroup.display()))?;
    let policies = args.policies()?;
    let config = match &policies {
        Some(_) => args.state_dir.join(POLICIES),
        None => args.agent.config()?,
    };
    let record = args.agent.record()?;
    let mut pods = NodePods::new(&pods_cgroup, args.facts(&config)?)?;
    let limits = args.agent.limits();
    let drain = limits.drain;
    let place = Place {
        agent_cgroup: own_cgroup()?,
        pods_cgroup,
        pins: args.pins.clone(),
    };
    let agent = Agent::start(args.agent.options(place, &config, &record, limits))?;
    agent.wait_for_certificates(CERTIFICATES);
    loop {
        pods.follow(&agent);
        if pods.wait(ended.as_fd())? && ended.read_signal()?.is_some() {
            break;
        }
    }
    agent.shutdown(drain)?;
    drop(policies);
    Ok(ExitCode::SUCCESS)
}
