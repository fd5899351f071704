//! Counters for Prometheus. Labels are of bounded number: never a pod, a path or a statement.

use std::sync::atomic::{AtomicBool, Ordering};

use bailiff_model::{ApiVerb, Effect, Protocol, SqlEffect, TargetName, TokenState};
use bailiff_policy::PolicySet;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::proxy::tls::Expiry;

/// All metrics of the data path.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Connections accepted and attributed.
    pub connections: IntCounter,
    /// Sessions open now.
    pub sessions_open: IntGauge,
    /// accept(2) failing.
    pub accept_errors: IntCounter,
    /// Values masked.
    pub masked_values: IntCounter,
    /// Seconds from reading a client's message to having passed it on.
    pub added_latency: Histogram,
    /// Bytes from clients.
    pub bytes_from_clients: IntCounter,
    /// Bytes to clients.
    pub bytes_to_clients: IntCounter,
    /// Bytes that wait to be written into the record.
    pub recorder_queue_bytes: IntGauge,
    /// Operations that went on unrecorded.
    pub recorder_dropped: IntCounter,
    /// Writes of the record that failed.
    pub recorder_errors: IntCounter,
    /// Reloads of the policies, good ones.
    pub policy_reloads: IntCounter,
    /// Reloads of the policies, bad ones.
    pub policy_reload_errors: IntCounter,
    /// 1 while the policies' files are refused, so that older ones are in force.
    pub policies_refused: IntGauge,
    /// 1 while the record can't be written.
    pub recorder_failing: IntGauge,
    /// Kernel programs that aren't where they were attached.
    pub kernel_detached: IntGauge,
    /// Whether the pods that run here haven't been looked at yet. Not served: readiness says it.
    pub awaits_pods: AtomicBool,
    /// Whether the policies are in force in part, since the rest is refused and there were none before. Not served: readiness says it.
    pub partly_in_force: AtomicBool,
    /// 1 once the agent drains.
    pub draining: IntGauge,
    /// Connections destroyed because they were older than their protection.
    pub destroyed: IntCounter,
    /// Certificates of targets' definitions that have ended.
    pub certificates_expired: IntGauge,
    /// 1 while files that targets name can't be used, so that earlier ones are in force.
    pub tls_files_refused: IntGauge,
    /// 1 while the API server can't be asked about this node's pods or policies, so that what was known before is in force.
    pub cluster_away: IntGauge,
    service_problems: IntGauge,
    target_addresses: IntGaugeVec,
    pods: IntGaugeVec,
    certificate_expiry: IntGaugeVec,
    certificate_states: IntGaugeVec,
    pods_ca: IntGaugeVec,
    /// Databases that are masked by their catalogs.
    pub catalogs: IntGauge,
    /// Databases in use whose catalogs can't be had, so that they are masked by names.
    pub catalogs_missing: IntGauge,
    /// Targets with masks whose definitions don't say how to read catalogs, so that names alone decide.
    pub targets_masked_by_names: IntGauge,
    /// Relations of all catalogs.
    pub catalog_relations: IntGauge,
    /// Bytes of memory of all catalogs.
    pub catalog_bytes: IntGauge,
    /// Seconds since the catalog of which that is longest was known to be fresh.
    pub catalog_age: Gauge,
    /// Readings of catalogs.
    pub catalog_refreshes: IntCounter,
    catalog_failures: IntCounterVec,
    refused: IntCounterVec,
    limits: IntCounterVec,
    ended: IntCounterVec,
    operations: Vec<[IntCounter; 3]>,
    requests: Vec<[IntCounter; 3]>,
    tokens: [IntCounter; 6],
    kernel: IntCounterVec,
}

/// What becomes of a pod that runs on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodState {
    /// Policies decide what it does.
    Enforced,
    /// Policies report what they would decide.
    Observed,
    /// It goes past the agent.
    Exempt,
    /// It is known, and about to be enrolled: its connections to targets are refused meanwhile.
    Waiting,
    /// Nobody says who it is: its connections to targets are refused.
    Unknown,
}

impl PodState {
    const ALL: [Self; 5] = [
        Self::Enforced,
        Self::Observed,
        Self::Exempt,
        Self::Waiting,
        Self::Unknown,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::Observed => "observed",
            Self::Exempt => "exempt",
            Self::Waiting => "waiting",
            Self::Unknown => "unknown",
        }
    }
}

/// How the signing of a certificate can be doing.
const CERTIFICATE_STATES: [&str; 12] = [
    "asking",
    "unreachable",
    "no_node",
    "unapproved",
    "unsigned",
    "denied",
    "failed",
    "deleted",
    "untrusted",
    "clock",
    "other",
    "issued",
];

impl Metrics {
    /// Registers all of them.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let family = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let family = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok(family)
        };
        let added_latency = Histogram::with_opts(
            HistogramOpts::new(
                "bailiff_added_latency_seconds",
                "Seconds from reading a client's message to having passed it on.",
            )
            .buckets(vec![
                5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 5e-3, 2e-2, 1e-1, 1.0,
            ]),
        )?;
        registry.register(Box::new(added_latency.clone()))?;
        let by_effect = family(
            "bailiff_operations_total",
            "Operations decided, by protocol, effect and verdict; one with several effects counts by the gravest.",
            &["protocol", "effect", "verdict"],
        )?;
        // Looked up once here, so that the data path only adds.
        let operations = SqlEffect::ALL
            .iter()
            .map(|effect| {
                [Effect::Deny, Effect::RequireApproval, Effect::Allow].map(|verdict| {
                    by_effect.with_label_values(&["postgres", effect.as_str(), verdict.as_str()])
                })
            })
            .collect();
        let requests = ApiVerb::ALL
            .iter()
            .map(|verb| {
                [Effect::Deny, Effect::RequireApproval, Effect::Allow].map(|verdict| {
                    by_effect.with_label_values(&["kubernetes", verb.as_str(), verdict.as_str()])
                })
            })
            .collect();
        let by_token = family(
            "bailiff_api_tokens_total",
            "Requests to the Kubernetes API, by what they show of who they are; stolen is a token made for another pod.",
            &["token"],
        )?;
        let tokens = TokenState::ALL.map(|state| by_token.with_label_values(&[state.as_str()]));
        let certificate_expiry = IntGaugeVec::new(
            Opts::new(
                "bailiff_certificate_expiry_timestamp_seconds",
                "When certificates end, in seconds since 1970: those of targets' definitions, and those that targets show.",
            ),
            &["target", "role"],
        )?;
        registry.register(Box::new(certificate_expiry.clone()))?;
        let pods = IntGaugeVec::new(
            Opts::new(
                "bailiff_pods",
                "Pods that run on this node, by what becomes of them; waiting and unknown ones reach no target.",
            ),
            &["state"],
        )?;
        registry.register(Box::new(pods.clone()))?;
        let target_addresses = IntGaugeVec::new(
            Opts::new(
                "bailiff_target_addresses",
                "Addresses that a target has by the Services that it names; 0: nothing is protected by them.",
            ),
            &["target"],
        )?;
        registry.register(Box::new(target_addresses.clone()))?;
        let certificate_states = IntGaugeVec::new(
            Opts::new(
                "bailiff_serving_certificate_state",
                "1 for how the cluster's signing of a target's certificate is doing: issued, or what keeps the next one from being had.",
            ),
            &["target", "state"],
        )?;
        registry.register(Box::new(certificate_states.clone()))?;
        let pods_ca = IntGaugeVec::new(
            Opts::new(
                "bailiff_pods_ca_state",
                "1 for whether the CA that a target's certificate is held against is the one that pods trust: same, other, unknown, or asking.",
            ),
            &["target", "state"],
        )?;
        registry.register(Box::new(pods_ca.clone()))?;
        let catalog_age = Gauge::new(
            "bailiff_catalog_age_seconds",
            "Seconds since the catalog of which that is longest was known to be fresh.",
        )?;
        registry.register(Box::new(catalog_age.clone()))?;
        let build = family("bailiff_build_info", "The build; always 1.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).inc();
        Ok(Self {
            connections: counter(
                "bailiff_connections_total",
                "Connections accepted and attributed.",
            )?,
            sessions_open: gauge("bailiff_sessions_open", "Sessions open now.")?,
            accept_errors: counter("bailiff_accept_errors_total", "Failures to accept a connection.")?,
            masked_values: counter("bailiff_masked_values_total", "Values masked.")?,
            added_latency,
            bytes_from_clients: counter("bailiff_bytes_from_clients_total", "Bytes from clients.")?,
            bytes_to_clients: counter("bailiff_bytes_to_clients_total", "Bytes to clients.")?,
            recorder_queue_bytes: gauge(
                "bailiff_recorder_queue_bytes",
                "Bytes that wait to be written into the record.",
            )?,
            recorder_dropped: counter(
                "bailiff_recorder_dropped_total",
                "Operations that went on unrecorded.",
            )?,
            recorder_errors: counter(
                "bailiff_recorder_errors_total",
                "Writes of the record that failed.",
            )?,
            policy_reloads: counter("bailiff_policy_reloads_total", "Reloads of the policies.")?,
            policy_reload_errors: counter(
                "bailiff_policy_reload_errors_total",
                "Reloads of the policies that were refused.",
            )?,
            policies_refused: gauge(
                "bailiff_policies_refused",
                "1 while the policies' files are refused, so that older ones are in force.",
            )?,
            recorder_failing: gauge("bailiff_recorder_failing", "1 while the record can't be written.")?,
            awaits_pods: AtomicBool::default(),
            partly_in_force: AtomicBool::default(),
            kernel_detached: gauge(
                "bailiff_kernel_programs_detached",
                "Kernel programs that aren't where they were attached.",
            )?,
            draining: gauge("bailiff_draining", "1 once the agent drains.")?,
            destroyed: counter(
                "bailiff_connections_destroyed_total",
                "Connections destroyed because they were older than their protection.",
            )?,
            certificates_expired: gauge(
                "bailiff_certificates_expired",
                "Certificates of targets' definitions that have ended.",
            )?,
            tls_files_refused: gauge(
                "bailiff_tls_files_refused",
                "1 while files that targets name can't be used, so that earlier ones are in force.",
            )?,
            cluster_away: gauge(
                "bailiff_cluster_away",
                "1 while the API server can't be asked about this node's pods, so that what was known before is in force.",
            )?,
            service_problems: gauge(
                "bailiff_service_problems",
                "What is wrong with Services that targets name, as /readyz lists it: addresses that aren't protected.",
            )?,
            target_addresses,
            pods,
            certificate_expiry,
            certificate_states,
            pods_ca,
            catalogs: gauge("bailiff_catalogs", "Databases that are masked by their catalogs.")?,
            catalogs_missing: gauge(
                "bailiff_catalogs_missing",
                "Databases in use whose catalogs can't be had, so that they are masked by names.",
            )?,
            targets_masked_by_names: gauge(
                "bailiff_targets_masked_by_names",
                "Targets with masks whose definitions don't say how to read catalogs, so that names alone decide.",
            )?,
            catalog_relations: gauge("bailiff_catalog_relations", "Relations of all catalogs.")?,
            catalog_bytes: gauge("bailiff_catalog_bytes", "Bytes of memory of all catalogs.")?,
            catalog_age,
            catalog_refreshes: counter("bailiff_catalog_refreshes_total", "Readings of catalogs.")?,
            catalog_failures: family(
                "bailiff_catalog_failures_total",
                "Failures to read a catalog or to look whether it has changed, by reason.",
                &["reason"],
            )?,
            refused: family(
                "bailiff_connections_refused_total",
                "Connections closed before a session, by reason.",
                &["reason"],
            )?,
            limits: family(
                "bailiff_limits_reached_total",
                "Times that a limit was reached, by which one.",
                &["limit"],
            )?,
            ended: family(
                "bailiff_sessions_ended_total",
                "Sessions ended, by who broke the protocol and why.",
                &["offender", "reason"],
            )?,
            kernel: family(
                "bailiff_kernel_events_total",
                "What the kernel programs counted.",
                &["event"],
            )?,
            operations,
            requests,
            tokens,
            registry,
        })
    }

    /// The counter of an operation of an effect and verdict.
    #[must_use]
    pub fn operation(&self, _: Protocol, effect: SqlEffect, verdict: Effect) -> Option<&IntCounter> {
        self.operations.get(effect as usize)?.get(verdict as usize)
    }

    /// The counter of a request of a verb and verdict.
    #[must_use]
    pub fn request(&self, verb: ApiVerb, verdict: Effect) -> Option<&IntCounter> {
        self.requests.get(verb as usize)?.get(verdict as usize)
    }

    /// Counts a request by what it shows of who it is.
    pub fn token(&self, state: TokenState) {
        if let Some(counter) = self.tokens.get(state as usize) {
            counter.inc();
        }
    }

    /// Counts a connection that was closed before it became a session. Reasons are words of the program.
    pub fn refused(&self, reason: &'static str) {
        self.refused.with_label_values(&[reason]).inc();
    }

    /// Counts that a catalog couldn't be had. Reasons are words of the program.
    pub fn catalog_failed(&self, reason: &'static str) {
        self.catalog_failures.with_label_values(&[reason]).inc();
    }

    /// Counts that a limit was reached. Names are words of the program.
    pub fn limit(&self, limit: &'static str) {
        self.limits.with_label_values(&[limit]).inc();
    }

    /// Notes when certificates end. Targets are as many as the operator defined; those that are gone are forgotten.
    pub fn certificates(&self, expiries: &[Expiry]) {
        self.certificate_expiry.reset();
        for expiry in expiries {
            self.certificate_expires(&expiry.target, expiry.role, expiry.at);
        }
    }

    /// Notes the certificate that a target showed.
    pub fn target_certificate(&self, target: &TargetName, shown: &[u8]) {
        if let Some(at) = crate::proxy::tls::expiry(shown) {
            self.certificate_expires(target, "target", at);
        }
    }

    /// Notes what becomes of the pods that run on this node.
    pub fn pods(&self, states: &[PodState]) {
        self.awaits_pods.store(false, Ordering::Release);
        for state in PodState::ALL {
            let count = states.iter().filter(|other| **other == state).count();
            self.pods
                .with_label_values(&[state.as_str()])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Notes how many addresses targets have by Services, and how many things are wrong with those.
    pub fn target_addresses(&self, named: &PolicySet, resolved: &PolicySet, problems: i64) {
        self.target_addresses.reset();
        for target in named
            .targets()
            .iter()
            .filter(|target| !target.services.is_empty())
        {
            let count = resolved.addresses_of(&target.name);
            self.target_addresses
                .with_label_values(&[target.name.as_str()])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.service_problems.set(problems);
    }

    /// How many pods run on this node that reach no target, since nobody says who they are.
    #[must_use]
    pub fn unknown_pods(&self) -> i64 {
        self.pods.with_label_values(&[PodState::Unknown.as_str()]).get()
    }

    /// Notes how the signing of a target's certificate is doing. States are words of the program.
    pub fn certificate_state(&self, target: &TargetName, state: &'static str) {
        for other in CERTIFICATE_STATES {
            self.certificate_states
                .with_label_values(&[target.as_str(), other])
                .set(i64::from(other == state));
        }
    }

    /// Notes whether pods trust the CA that a target's certificate is held against. States are words of the program.
    pub fn pods_ca_state(&self, target: &TargetName, state: &'static str) {
        for other in ["asking", "same", "other", "unknown"] {
            self.pods_ca
                .with_label_values(&[target.as_str(), other])
                .set(i64::from(other == state));
        }
    }

    /// Forgets the targets that may be gone.
    pub fn certificate_states_forgotten(&self) {
        self.pods_ca.reset();
        self.certificate_states.reset();
    }

    /// Notes when a certificate ends, in seconds since 1970. Roles are words of the program.
    pub fn certificate_expires(&self, target: &TargetName, role: &str, at: i64) {
        self.certificate_expiry
            .with_label_values(&[target.as_str(), role])
            .set(at);
    }

    /// Counts a session's end.
    pub fn ended(&self, offender: &'static str, reason: &'static str) {
        self.ended.with_label_values(&[offender, reason]).inc();
    }

    /// Takes what the kernel programs counted so far.
    pub fn kernel(&self, event: &'static str, total: u64) {
        let counter = self.kernel.with_label_values(&[event]);
        counter.inc_by(total.saturating_sub(counter.get()));
    }

    /// Prometheus' text format.
    pub fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        Ok(out)
    }
}
