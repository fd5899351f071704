//! What Services' addresses make of the Targets that name them: which addresses are protected, and what there is to say of others.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bailiff_policy::{PolicySet, Sources};

use crate::decide::Load;
use crate::metrics::Metrics;
use crate::world::cluster::services::ClusterServices;

/// How long a start waits for Services of which nothing is known.
const TOLD: Duration = Duration::from_secs(5);

/// The addresses that Targets have by Services, where there is a cluster to ask.
#[derive(Debug)]
pub(crate) struct Addresses {
    services: Option<Arc<ClusterServices>>,
    metrics: Arc<Metrics>,
    /// The version that was taken last.
    taken: AtomicU64,
    /// A line for each thing that is wrong.
    lines: ArcSwap<Vec<String>>,
}

impl Addresses {
    pub(crate) fn new(services: Option<Arc<ClusterServices>>, metrics: Arc<Metrics>) -> Self {
        Self {
            services,
            metrics,
            taken: AtomicU64::new(0),
            lines: ArcSwap::default(),
        }
    }

    /// How policies are read here: with Services, if somebody can be asked for them.
    pub(crate) fn load(services: Option<&Arc<ClusterServices>>) -> Load {
        match services {
            Some(_) => Sources::load_in_cluster,
            None => Sources::load,
        }
    }

    /// Policies that the agent starts with, with the addresses that can be had soon. Blocks.
    pub(crate) fn first(&self, set: &PolicySet) -> PolicySet {
        self.follow(set);
        if let Some(services) = &self.services {
            services.wait(TOLD);
        }
        self.resolve(set)
    }

    /// Asks for the Services that these Targets name. Their addresses come later.
    pub(crate) fn follow(&self, set: &PolicySet) {
        if let Some(services) = &self.services {
            services.follow(set);
        }
    }

    /// Whether there are other addresses than were taken last.
    pub(crate) fn have_changed(&self) -> bool {
        let version = self.services.as_ref().map_or(0, |services| services.version());
        version != self.taken.load(Ordering::Acquire)
    }

    /// The same policies with the addresses that are known now. What is wrong with some is told, each once.
    pub(crate) fn resolve(&self, set: &PolicySet) -> PolicySet {
        let Some(services) = &self.services else {
            return set.clone();
        };
        self.taken.store(services.version(), Ordering::Release);
        let (resolved, refused) = set.with_addresses(&services.addresses());
        let problems = services.problems();
        let mut lines = Vec::new();
        for target in set.targets() {
            let named = target.services.iter();
            for (service, problems) in named.filter_map(|service| problems.get_key_value(service)) {
                let each = problems.iter();
                lines.extend(
                    each.map(|problem| format!("target {}, service {service}: {problem}", target.name)),
                );
            }
        }
        lines.extend(
            refused
                .iter()
                .map(|refused| format!("target {}: {refused}", refused.target)),
        );
        let before: HashSet<String> = self.lines.load().iter().cloned().collect();
        for line in lines.iter().filter(|line| !before.contains(*line)) {
            tracing::warn!("{line}");
        }
        self.metrics
            .target_addresses(set, &resolved, i64::try_from(lines.len()).unwrap_or(i64::MAX));
        self.lines.store(Arc::new(lines));
        resolved
    }

    /// A line for each thing that is wrong.
    pub(crate) fn lines(&self) -> Arc<Vec<String>> {
        self.lines.load_full()
    }
}
