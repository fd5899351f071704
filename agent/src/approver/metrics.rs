//! Counters of the approver.

use prometheus::{Encoder, IntCounter, IntCounterVec, Opts, Registry, TextEncoder};

/// All of them.
#[derive(Debug)]
pub(super) struct ApproverMetrics {
    registry: Registry,
    decided: IntCounterVec,
    errors: IntCounter,
    statuses: IntCounter,
    status_errors: IntCounter,
}

impl ApproverMetrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let decided = IntCounterVec::new(
            Opts::new(
                "bailiff_approver_requests_total",
                "Requests for certificates that were approved, denied or left alone, and why.",
            ),
            &["decision", "reason"],
        )?;
        registry.register(Box::new(decided.clone()))?;
        let errors = IntCounter::new(
            "bailiff_approver_errors_total",
            "Failures to follow requests, or to write what became of one.",
        )?;
        registry.register(Box::new(errors.clone()))?;
        let counter = |name: &str, about: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, about)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        Ok(Self {
            statuses: counter(
                "bailiff_approver_status_writes_total",
                "Statuses of Targets and Policies that were written.",
            )?,
            status_errors: counter(
                "bailiff_approver_status_errors_total",
                "Failures to follow what nodes say, or to write a status.",
            )?,
            registry,
            decided,
            errors,
        })
    }

    /// Counts a status.
    pub(super) fn status_written(&self) {
        self.statuses.inc();
    }

    /// Counts a failure of following reports and objects, or of writing a status.
    pub(super) fn status_error(&self) {
        self.status_errors.inc();
    }

    /// Counts a decision. Both are words of the program.
    pub(super) fn decided(&self, decision: &'static str, reason: &'static str) {
        self.decided.with_label_values(&[decision, reason]).inc();
    }

    /// Counts a failure.
    pub(super) fn error(&self) {
        self.errors.inc();
    }

    /// Prometheus' text format.
    pub(super) fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        Ok(out)
    }
}
