//! Connections that are older than their protection are destroyed, so that they come back through the proxy.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bailiff_kernel::{Sweep, TargetEntry};
use bailiff_model::CgroupId;

use crate::attribution::{Attribution, PodEntry};
use crate::metrics::Metrics;

/// How long after the first look at a pod comes the second, for a client that was in the middle of its connect.
const AGAIN: Duration = Duration::from_secs(1);

/// How long [`Older::work`] goes on at a time. A look at one pod takes the kernel through its table of all connections of all namespaces, which
/// is milliseconds: many pods that come at once must wait neither for each other's look nor the thread's other work for all.
const AT_A_TIME: Duration = Duration::from_millis(50);

/// Sweeps pods for such connections: after a pod was enrolled and after targets changed, and each time once more.
pub(crate) struct Older {
    sweep: Sweep,
    attribution: Arc<Attribution>,
    metrics: Arc<Metrics>,
    waiting: Mutex<Waiting>,
}

/// Pods to be looked at.
#[derive(Default)]
struct Waiting {
    first: VecDeque<CgroupId>,
    /// When that is, in order.
    second: VecDeque<(Instant, CgroupId)>,
}

impl Waiting {
    /// The next pod whose time has come, with whether that was its first look.
    fn next(&mut self, now: Instant) -> Option<(CgroupId, bool)> {
        if let Some(pod) = self.first.pop_front() {
            return Some((pod, true));
        }
        let (_, pod) = self.second.pop_front_if(|(at, _)| *at <= now)?;
        Some((pod, false))
    }
}

impl Older {
    pub(crate) fn new(sweep: Sweep, attribution: Arc<Attribution>, metrics: Arc<Metrics>) -> Self {
        Self {
            sweep,
            attribution,
            metrics,
            waiting: Mutex::default(),
        }
    }

    /// After a pod was enrolled.
    pub(crate) fn of_pod(&self, pod: CgroupId) {
        self.with(|waiting| waiting.first.push_back(pod));
    }

    /// After targets changed.
    pub(crate) fn of_all(&self) {
        let all = self.attribution.pods().iter().map(|pod| pod.cgroup).collect();
        self.with(|waiting| {
            *waiting = Waiting {
                first: all,
                second: VecDeque::new(),
            }
        });
    }

    /// Looks at pods whose time has come, for a while: to be called again and again.
    pub(crate) fn work(&self, targets: impl FnOnce() -> Vec<TargetEntry>) {
        let begun = Instant::now();
        let Some(mut next) = self.with(|waiting| waiting.next(begun)) else {
            return;
        };
        let targets = targets();
        loop {
            let (cgroup, is_first) = next;
            // One that has gone meanwhile has no connections.
            if let Some(pod) = self.attribution.pod(cgroup) {
                self.destroy(&pod, &targets);
                if is_first {
                    self.with(|waiting| waiting.second.push_back((Instant::now() + AGAIN, cgroup)));
                }
            }
            if begun.elapsed() >= AT_A_TIME {
                return;
            }
            match self.with(|waiting| waiting.next(Instant::now())) {
                Some(more) => next = more,
                None => return,
            }
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Waiting) -> T) -> T {
        work(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_looks_come_first_and_second_ones_in_time() {
        let now = Instant::now();
        let mut waiting = Waiting::default();
        waiting.second.push_back((now, CgroupId(1)));
        waiting.second.push_back((now + AGAIN, CgroupId(2)));
        waiting.first.push_back(CgroupId(3));
        assert_eq!(waiting.next(now), Some((CgroupId(3), true)));
        assert_eq!(waiting.next(now), Some((CgroupId(1), false)));
        assert_eq!(waiting.next(now), None);
        assert_eq!(waiting.next(now + AGAIN), Some((CgroupId(2), false)));
    }
}
