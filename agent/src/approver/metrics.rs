//! Counters of the approver.

use prometheus::{Encoder, IntCounter, IntCounterVec, Opts, Registry, TextEncoder};

/// All of them.
#[derive(Debug)]
pub(super) struct ApproverMetrics {
    registry: Registry,
    decided: IntCounterVec,
    errors: IntCounter,
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
        Ok(Self {
            registry,
            decided,
            errors,
        })
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
