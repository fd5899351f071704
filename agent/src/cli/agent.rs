//! What all ways to start an agent have in common.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::app::AgentOptions;
use crate::proxy::{LimitSetting, Limits};
use crate::world::cluster::ClusterAccess;

/// How long pods wait for certificates that the cluster signs.
pub(super) const CERTIFICATES: Duration = Duration::from_secs(5);

/// How long sessions may go on after what they belong to has ended.
pub(super) const GRACE: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub(super) struct AgentArgs {
    /// The directory with Targets, Policies and, if there is one, inventory.yaml
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,
    /// Serve /metrics, /healthz and /readyz here, on the host
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin: Option<SocketAddr>,
    /// Answer /healthz?revision=TEXT and /readyz?revision=TEXT only for this TEXT, so that whoever replaces an agent by another isn't
    /// answered by the one before
    #[arg(long, value_name = "TEXT")]
    revision: Option<String>,
    /// Where the record of sessions goes
    #[arg(long, value_name = "DIR", default_value = "/var/lib/bailiff/record")]
    record_dir: PathBuf,
    /// How much disk the record may take, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    record_mib: u64,
    /// Threads that carry connections; by default half as many as there are processors, or two
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Microseconds that such a thread looks for more work before it sleeps, at most; 0: sleeps at once
    #[arg(long, value_name = "MICROS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(..=10_000))]
    busy_poll: u64,
    /// Set a limit of the data path; may be given several times. The limits are listed below
    #[arg(long = "limit", value_name = "NAME=VALUE")]
    limits: Vec<LimitSetting>,
    #[command(flatten)]
    cluster: ClusterAccess,
}

/// Where an agent hangs in the kernel.
pub(super) struct Place {
    pub(super) pods_cgroup: PathBuf,
    pub(super) agent_cgroup: PathBuf,
    pub(super) pins: PathBuf,
}

impl AgentArgs {
    /// The configuration's directory, without symbolic links: who can move one on the way can't move what it led to.
    pub(super) fn config(&self) -> Result<PathBuf> {
        let config = self
            .config
            .as_ref()
            .context("give --config DIR, a directory with Targets and Policies; see examples/")?;
        std::fs::canonicalize(config).with_context(|| format!("cannot find {}", config.display()))
    }

    /// Whether a directory was named.
    pub(super) fn has_config(&self) -> bool {
        self.config.is_some()
    }

    /// The record's directory, which is made if it isn't there; without symbolic links, too.
    pub(super) fn record(&self) -> Result<PathBuf> {
        std::fs::create_dir_all(&self.record_dir)
            .with_context(|| format!("cannot make {}", self.record_dir.display()))?;
        std::fs::canonicalize(&self.record_dir)
            .with_context(|| format!("cannot find {}", self.record_dir.display()))
    }

    pub(super) fn cluster(&self) -> ClusterAccess {
        self.cluster.clone()
    }

    pub(super) fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        self.limits.iter().for_each(|setting| limits.set(setting));
        limits
    }

    pub(super) fn options(&self, place: Place, config: &Path, record: &Path, limits: Limits) -> AgentOptions {
        AgentOptions {
            config: config.to_owned(),
            pods_cgroup: place.pods_cgroup,
            agent_cgroup: place.agent_cgroup,
            pins: place.pins,
            record: record.to_owned(),
            record_bytes: self.record_mib << 20,
            admin: self.admin,
            revision: self.revision.clone(),
            awaits_pods: false,
            workers: self.workers.unwrap_or_else(default_workers),
            busy_poll: Duration::from_micros(self.busy_poll),
            limits,
            cluster: self.cluster.clone(),
            services: None,
            last_in_force: None,
            findings: Arc::default(),
        }
    }
}

/// Half of the processors: the programs whose connections are carried need the others, and a worker that serves many connections
/// finds several of them ready at each wake-up, which costs less than more workers that are each woken for one. But two, where
/// there are as many: one alone gets no more than its turn on one processor, while the other may have nothing to do.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| {
        (processors.get() / 2).max(processors.get().min(2))
    })
}
