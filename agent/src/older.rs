//! Connections that are older than their protection are destroyed, so that they come back through the proxy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bailiff_kernel::{Sweep, TargetEntry};

use crate::attribution::{Attribution, PodEntry};
use crate::metrics::Metrics;

/// Sweeps pods for such connections: when a pod is enrolled and when targets change, and each time once more a while later, for
/// a client that was in the middle of its connect.
pub(crate) struct Older {
    sweep: Sweep,
    attribution: Arc<Attribution>,
    metrics: Arc<Metrics>,
    again: AtomicBool,
}

impl Older {
    pub(crate) fn new(sweep: Sweep, attribution: Arc<Attribution>, metrics: Arc<Metrics>) -> Self {
        Self {
            sweep,
            attribution,
            metrics,
            again: AtomicBool::new(false),
        }
    }

    /// After a pod was enrolled.
    pub(crate) fn of_pod(&self, pod: &PodEntry, targets: &[TargetEntry]) {
        self.destroy(pod, targets);
        self.again.store(true, Ordering::Release);
    }

    /// After targets changed.
    pub(crate) fn of_all(&self, targets: &[TargetEntry]) {
        self.each(targets);
        self.again.store(true, Ordering::Release);
    }

    /// A while after either.
    pub(crate) fn again(&self, targets: &[TargetEntry]) {
        if self.again.swap(false, Ordering::AcqRel) {
            self.each(targets);
        }
    }

    fn each(&self, targets: &[TargetEntry]) {
        for pod in self.attribution.pods() {
            self.destroy(&pod, targets);
        }
    }

    fn destroy(&self, pod: &PodEntry, targets: &[TargetEntry]) {
        match self.sweep.destroy_older(&pod.netns, &pod.cgroup_path, targets) {
            Ok(0) => {}
            Ok(count) => {
                self.metrics.destroyed.inc_by(u64::try_from(count).unwrap_or(0));
                tracing::info!(pod = %pod.info.name, count, "destroyed connections that are older than their protection");
            }
            Err(error) => {
                tracing::error!(pod = %pod.info.name, %error, "connections that are older than their protection go on undecided");
            }
        }
    }
}
