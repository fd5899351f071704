//! `bailiff node`: policies in force on the pods of this node.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bailiff_kernel::probe;
use bailiff_model::Mode;
use bailiff_policy::report::PoliciesFrom;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::agent::{AgentArgs, CERTIFICATES, Place};
use crate::app::{Agent, AgentOptions};
use crate::proxy::Limits;
use crate::reports::Findings;
use crate::reports::write::{About, Reporter};
use crate::world::cluster::daemon_set::{DaemonSetName, OwnDaemonSet};
use crate::world::cluster::pods::{ClusterPods, Namespaces};
use crate::world::cluster::policies::ClusterPolicies;
use crate::world::cluster::services::ClusterServices;
use crate::world::node::{NodePods, PodFacts, PodsOfFile, own_cgroup, pods_cgroup};

/// Where below the state the cluster's Targets and Policies are.
const POLICIES: &str = "policies";

/// How long an agent that is to end waits for one that takes over.
const SUCCESSOR: Duration = Duration::from_secs(5);

/// How long passes between two looks for it.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Connections that were diverted to an agent just before the next one took over have arrived after so long.
const ON_THEIR_WAY: Duration = Duration::from_secs(1);

/// An agent that has taken over and says nothing for so long is gone.
const GONE: Duration = Duration::from_secs(15);

/// How long passes between two looks whether it is, in milliseconds.
const LOOKED_AFTER: u16 = 1000;

/// How long the end waits for a last word to the cluster.
const LAST_WORD: Duration = Duration::from_secs(3);

/// How long a start waits for them.
const TOLD: Duration = Duration::from_secs(10);

/// Enforce policies on the pods of this node.
///
/// Pods are told by the cgroups that kubelet made for them. Who they are says the API server, if --node names this node, or inventory.yaml, by
/// their uids; both may change while this runs. A pod of which neither says anything can't reach any Target. An exempt one reaches
/// them past Bailiff, and for one that is only observed is told what policies would do, and nothing is denied or masked.
///
/// It has to run as root in the node's own network namespace, in a cgroup of its own. Where one runs already with the same --pins, this one takes over
/// from it: the other's sessions go on, and no connection is refused. It ends at SIGTERM or SIGINT, once the sessions that are
/// open have ended, for which they have as long as the limit `drain` says; then what it put into the kernel is gone, and
/// connections go direct. With --daemonset that is so only where the DaemonSet was deleted. Otherwise, and where it was killed, connections to Targets
/// are refused (or go direct, by `failureMode`) until the next one runs.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("Limits:\n{}", Limits::help()))]
pub(crate) struct Args {
    #[command(flatten)]
    agent: AgentArgs,
    /// The cgroup of the second version above all pods, such as /sys/fs/cgroup/kubepods.slice. Left out, it is found: the one that this runs
    /// in, or kubepods.slice or kubepods where cgroups are mounted
    #[arg(long, value_name = "DIR")]
    pods_cgroup: Option<PathBuf>,
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
    /// The DaemonSet that starts it: at its end, what it put into the kernel stays for the next agent, unless the DaemonSet was deleted
    #[arg(long, value_name = "NAMESPACE/NAME")]
    daemonset: Option<DaemonSetName>,
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

    /// Who tells the cluster how this node is doing.
    fn reporter(&self, findings: &Arc<Findings>) -> Result<Option<Reporter>> {
        let Some(node) = &self.node else {
            return Ok(None);
        };
        let about = About {
            node: node.clone(),
            mode: self.mode.into(),
            from: if self.agent.has_config() {
                PoliciesFrom::Files
            } else {
                PoliciesFrom::Cluster
            },
        };
        let reporter = Reporter::start(self.agent.cluster(), about, Arc::clone(findings))?;
        Ok(Some(reporter))
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
    let pods_cgroup = match &args.pods_cgroup {
        Some(given) => {
            std::fs::canonicalize(given).with_context(|| format!("cannot find {}", given.display()))?
        }
        None => pods_cgroup()?,
    };
    tracing::info!("pods are those below {}", pods_cgroup.display());
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
        agent_cgroup: own_cgroup(&pods_cgroup)?,
        pods_cgroup,
        pins: args.pins.clone(),
    };
    let daemon_set = args
        .daemonset
        .clone()
        .map(|name| OwnDaemonSet::start(args.agent.cluster(), name))
        .transpose()?;
    let mut options = AgentOptions {
        awaits_pods: true,
        ..args.agent.options(place, &config, &record, limits)
    };
    let reporter = args.reporter(&options.findings)?;
    if policies.is_some() {
        options.last_in_force = Some(args.state_dir.join("in-force.json"));
        let file = args.state_dir.join("services.json");
        options.services = Some(Arc::new(ClusterServices::start(args.agent.cluster(), file)?));
    }
    let agent = match Agent::start(options) {
        Ok(agent) => agent,
        Err(error) => {
            last_word(reporter, &format!("the agent can't start: {error:#}"));
            return Err(error);
        }
    };
    agent.wait_for_certificates(CERTIFICATES);
    while !agent.is_taken_over() {
        pods.follow(&agent);
        if pods.wait(ended.as_fd())? && ended.read_signal()?.is_some() {
            return end(agent, daemon_set.as_ref(), reporter, drain);
        }
    }
    // What is said of this node is the other's.
    drop((pods, reporter));
    let asked = taken_over(agent, &ended, drain);
    drop(policies);
    asked
}

/// Ends an agent that was asked to.
fn end(
    agent: Agent,
    daemon_set: Option<&OwnDaemonSet>,
    reporter: Option<Reporter>,
    drain: Duration,
) -> Result<ExitCode> {
    const ENDED: &str = "the agent has ended";
    let Some(daemon_set) = daemon_set else {
        agent.shutdown(drain)?;
        last_word(reporter, ENDED);
        return Ok(ExitCode::SUCCESS);
    };
    // The next one may be just about to take over: until then this one goes on.
    let until = Instant::now() + SUCCESSOR;
    while !daemon_set.goes() && !agent.is_taken_over() && Instant::now() < until {
        std::thread::sleep(LOOK_AGAIN);
    }
    if agent.is_taken_over() {
        // What is said of this node is the other's.
        drop(reporter);
        std::thread::sleep(ON_THEIR_WAY);
        agent.leave(drain);
        return Ok(ExitCode::SUCCESS);
    }
    if daemon_set.goes() {
        agent.shutdown(drain)?;
    } else {
        tracing::info!("what holds the pods' connections stays in the kernel until the next agent runs");
        agent.leave(drain);
    }
    last_word(reporter, ENDED);
    Ok(ExitCode::SUCCESS)
}

/// Tells the cluster why nothing is enforced by this agent any more.
fn last_word(reporter: Option<Reporter>, why: &str) {
    if let Some(reporter) = reporter {
        reporter.finish(why, LAST_WORD);
    }
}

/// What an agent does from which another has taken over: it carries what it has, and waits until it is asked to end.
fn taken_over(mut agent: Agent, ended: &SignalFd, drain: Duration) -> Result<ExitCode> {
    agent.stand_back();
    loop {
        let mut signalled = [PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        match poll(&mut signalled, LOOKED_AFTER) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for signals"),
        }
        if ended.read_signal()?.is_some() {
            std::thread::sleep(ON_THEIR_WAY);
            agent.leave(drain);
            return Ok(ExitCode::SUCCESS);
        }
        if agent.silence() > GONE {
            agent.leave(Duration::ZERO);
            bail!("the agent that had taken over from this one is gone; this one has to be started again");
        }
    }
}
