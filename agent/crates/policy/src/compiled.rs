//! Policies as they are used: parsed, checked and indexed.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bailiff_model::{
    Condition, Effect, EffectSet, FailureMode, Hop, HopKind, Mode, OriginalDst, PodInfo, Protocol, Recording,
    SourceAddress, TargetName, WhenFull,
};

use crate::addresses::ServiceRef;
use crate::api::fields::AllMasks;
use crate::api::rule::ApiRule;
use crate::catalog::Catalog;
use crate::connection::{ClientTls, ClientTokens, ConnectAs, Credential, Proof, UpstreamTls};
use crate::detect::DetectRule;
use crate::glob::Glob;
use crate::load::{self, LoadErrors, World};
use crate::mask::{MaskedColumn, MaskedUse, SecretsCache};

/// Addresses of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Network address.
    pub address: IpAddr,
    /// Length of its prefix in bits.
    pub prefix: u8,
    /// Port; 0 for any.
    pub port: u16,
}

impl Endpoint {
    /// Whether an address lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr, port: u16) -> bool {
        (self.port == 0 || self.port == port)
            && match (self.address, address) {
                (IpAddr::V4(mine), IpAddr::V4(other)) => same_prefix(
                    u128::from(mine.to_bits()) << 96,
                    u128::from(other.to_bits()) << 96,
                    self.prefix,
                ),
                (IpAddr::V6(mine), IpAddr::V6(other)) => {
                    same_prefix(mine.to_bits(), other.to_bits(), self.prefix)
                }
                _ => false,
            }
    }
}

fn same_prefix(a: u128, b: u128, bits: u8) -> bool {
    bits == 0 || (a ^ b) >> (128 - u32::from(bits.min(128))) == 0
}

/// The agent's own way into a target's databases, to read their catalogs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogAccess {
    /// The role. It needs no right but to connect.
    pub user: String,
    /// What proves it; `None` where the server asks for nothing.
    pub proof: Option<Proof>,
}

/// What is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: TargetName,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Where it is.
    pub endpoints: Vec<Endpoint>,
    /// Services behind which it is, too.
    pub services: Vec<ServiceRef>,
    /// What happens to new connections when the agent doesn't answer.
    pub failure_mode: FailureMode,
    /// From where the agent dials it.
    pub source_address: SourceAddress,
    /// What happens to operations that no rule names.
    pub default: Effect,
    /// What happens to operations of which can't be told what they do.
    pub unknown: Effect,
    /// What happens to operations that can't be recorded.
    pub when_full: WhenFull,
    /// As whom the agent reads its databases' catalogs.
    pub(crate) catalog: Option<CatalogAccess>,
    pub(crate) search_path: Vec<String>,
    pub(crate) plain_relations: Vec<(Glob, Glob)>,
    /// TLS towards clients.
    pub tls_client: ClientTls,
    /// TLS towards it.
    pub tls_upstream: UpstreamTls,
    /// As whom the agent connects to it.
    pub credential: Option<Credential>,
    /// Who makes its clients' tokens; `None` where tokens aren't read.
    pub identity: Option<ClientTokens>,
}

impl Target {
    /// As whom the agent reads its databases' catalogs; `None` where it may not, so that masks rest on names.
    #[must_use]
    pub fn catalog_access(&self) -> Option<&CatalogAccess> {
        self.catalog.as_ref()
    }

    /// Schemas in which unqualified names are looked for, as the operator says.
    #[must_use]
    pub fn search_path(&self) -> &[String] {
        &self.search_path
    }
}

/// Which hops a policy is about. An empty list asks for nothing; what is given must all match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) namespaces: Vec<Glob>,
    pub(crate) service_accounts: Vec<Glob>,
    pub(crate) pods: Vec<Glob>,
    pub(crate) pod_labels: Vec<(String, Glob)>,
}

impl Subject {
    fn matches(&self, pod: &PodInfo) -> bool {
        let any =
            |globs: &[Glob], name: &str| globs.is_empty() || globs.iter().any(|glob| glob.matches(name));
        any(&self.namespaces, &pod.namespace)
            && any(&self.service_accounts, &pod.service_account)
            && any(&self.pods, &pod.name)
            && self
                .pod_labels
                .iter()
                .all(|(key, value)| pod.labels.get(key).is_some_and(|found| value.matches(found)))
    }
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) name: Arc<str>,
    pub(crate) effects: EffectSet,
    pub(crate) relations: Option<Vec<(Glob, Glob)>>,
    pub(crate) functions: Option<Vec<(Glob, Glob)>>,
    pub(crate) scope: Scope,
    /// Ways in which it allows masked columns to be used.
    pub(crate) masked: Vec<MaskedUse>,
    pub(crate) action: Effect,
    pub(crate) message: Option<Arc<str>>,
    /// What is recorded of statements that it touches, beside what the policy says.
    pub(crate) recording: Option<Recording>,
}

/// How much a statement must touch for a rule that forbids to be about it. What is given must all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Scope {
    /// Its condition is one of these.
    pub(crate) conditions: Option<Vec<Condition>>,
    /// More rows than so many, by the server's estimate, of a relation that no condition narrows.
    pub(crate) rows_above: Option<u64>,
    /// It returns rows without a LIMIT.
    pub(crate) without_limit: bool,
    /// It comes in a text of more statements than so many.
    pub(crate) statements_above: Option<u64>,
}

/// One policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) name: Arc<str>,
    /// What its rules are about. Targets of another protocol aren't its concern.
    pub(crate) protocol: Protocol,
    pub(crate) mode: Mode,
    /// `None` for every target.
    pub(crate) targets: Option<Vec<TargetName>>,
    pub(crate) subjects: Vec<Subject>,
    /// Rules about statements.
    pub(crate) rules: Vec<Rule>,
    /// Rules about requests to the Kubernetes API.
    pub(crate) requests: Vec<ApiRule>,
    pub(crate) masks: Vec<MaskedColumn>,
    pub(crate) detect: Vec<DetectRule>,
    /// Fields of API objects.
    pub(crate) fields: AllMasks,
    pub(crate) recording: Recording,
    pub(crate) connect_as: ConnectAs,
}

impl Policy {
    /// Whether it is about a hop at a target. Somebody of whom nothing is known may be anybody.
    pub(crate) fn about(&self, target: &Target, hop: &Hop) -> About {
        let here = self.protocol == target.protocol
            && self
                .targets
                .as_ref()
                .is_none_or(|targets| targets.contains(&target.name));
        match &hop.kind {
            _ if !here => About::Another,
            _ if self.subjects.is_empty() => About::Hop,
            HopKind::Pod { pod, .. } if self.subjects.iter().any(|subject| subject.matches(pod)) => {
                About::Hop
            }
            HopKind::Pod { .. } => About::Another,
            HopKind::Unknown { .. } => About::MaybeHop,
        }
    }
}

/// Whom a policy is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    /// The hop.
    Hop,
    /// The hop perhaps: what the policy forbids and masks counts, what it allows doesn't.
    MaybeHop,
    /// Somebody or something else.
    Another,
}

/// All targets and policies of one load.
#[derive(Debug, Clone)]
pub struct PolicySet {
    pub(crate) generation: u64,
    pub(crate) targets: Vec<Arc<Target>>,
    /// Addresses that targets have by Services.
    pub(crate) resolved: Arc<HashMap<SocketAddr, Arc<Target>>>,
    pub(crate) policies: Vec<Arc<Policy>>,
    /// The same, all of mode Observe: for pods that are only observed. Made when the first of them connects.
    watching: OnceLock<Vec<Arc<Policy>>>,
    pub(crate) secrets: Arc<SecretsCache>,
}

impl PolicySet {
    /// Reads every `*.yaml` and `*.yml` in a directory.
    ///
    /// Documents of group `bailiff.dev` and kinds Target and Policy are taken; kinds that other parts of Bailiff read are left
    /// alone. All problems are told together, each with its file, line and mend; with any of them nothing is loaded.
    pub fn load(directory: &Path) -> Result<Self, LoadErrors> {
        load::directory(directory)
    }

    /// The same, from texts with names to call them by.
    pub fn from_sources(sources: &[(&str, &str)]) -> Result<Self, LoadErrors> {
        load::sources(sources, World::Files)
    }

    /// The same where Targets may name Services.
    pub fn from_sources_in_cluster(sources: &[(&str, &str)]) -> Result<Self, LoadErrors> {
        load::sources(sources, World::Cluster)
    }

    pub(crate) fn new(targets: Vec<Target>, policies: Vec<Policy>) -> Self {
        static GENERATION: AtomicU64 = AtomicU64::new(1);
        Self {
            generation: GENERATION.fetch_add(1, Ordering::Relaxed),
            targets: targets.into_iter().map(Arc::new).collect(),
            resolved: Arc::default(),
            policies: policies.into_iter().map(Arc::new).collect(),
            watching: OnceLock::new(),
            secrets: Arc::default(),
        }
    }

    /// The policies for a pod in this mode.
    pub(crate) fn policies_in(&self, mode: Mode) -> &[Arc<Policy>] {
        let watched = |policy: &Arc<Policy>| {
            Arc::new(Policy {
                mode: Mode::Observe,
                ..Policy::clone(policy)
            })
        };
        match mode {
            Mode::Enforce => &self.policies,
            Mode::Observe => self
                .watching
                .get_or_init(|| self.policies.iter().map(watched).collect()),
        }
    }

    /// Tells this load from every other one of this process.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What is protected.
    #[must_use]
    pub fn targets(&self) -> &[Arc<Target>] {
        &self.targets
    }

    /// Every file that proves a user, of targets and policies.
    pub fn proofs(&self) -> impl Iterator<Item = &Proof> {
        let targets = self
            .targets
            .iter()
            .filter_map(|target| target.credential.as_ref());
        let policies = self
            .policies
            .iter()
            .filter_map(|policy| policy.connect_as.proof.as_ref());
        let catalogs = self
            .targets
            .iter()
            .filter_map(|target| target.catalog.as_ref()?.proof.as_ref());
        targets
            .map(|credential| &credential.proof)
            .chain(catalogs)
            .chain(policies)
    }

    /// Masks of policies for a target that match no column of a database of it: policies' names, and the columns as they are
    /// written. A name that is wrong masks nothing.
    #[must_use]
    pub fn masks_of_nothing(&self, target: &TargetName, catalog: &Catalog) -> Vec<(Arc<str>, String)> {
        let here = |policy: &&Arc<Policy>| {
            policy.mode == Mode::Enforce
                && policy
                    .targets
                    .as_ref()
                    .is_none_or(|targets| targets.contains(target))
        };
        self.policies
            .iter()
            .filter(here)
            .flat_map(|policy| &policy.masks)
            .filter(|mask| !mask.matches_any(catalog))
            .map(|mask| (Arc::clone(&mask.policy), mask.to_string()))
            .collect()
    }

    /// Targets for which columns are masked by names alone, since their definitions don't say how to read catalogs.
    pub fn masked_by_names(&self) -> impl Iterator<Item = &Arc<Target>> {
        let masked = |target: &Target| {
            self.policies.iter().any(|policy| {
                policy.mode == Mode::Enforce
                    && policy.protocol == target.protocol
                    && !policy.masks.is_empty()
                    && policy
                        .targets
                        .as_ref()
                        .is_none_or(|targets| targets.contains(&target.name))
            })
        };
        let mut targets = self.targets.iter();
        std::iter::from_fn(move || targets.find(|target| target.catalog_access().is_none() && masked(target)))
    }

    /// How many policies there are.
    #[must_use]
    pub fn policies(&self) -> usize {
        self.policies.len()
    }

    /// The target at an address: by the longest prefix, then an exact port before any.
    #[must_use]
    pub fn target_for(&self, destination: OriginalDst) -> Option<&Arc<Target>> {
        // A whole address with its port: no endpoint is closer, and what another target's `endpoints` have isn't among these.
        if let Some(target) = self.resolved.get(&destination.get()) {
            return Some(target);
        }
        let (address, port) = (destination.get().ip(), destination.get().port());
        self.targets
            .iter()
            .flat_map(|target| target.endpoints.iter().map(move |endpoint| (target, endpoint)))
            .filter(|(_, endpoint)| endpoint.contains(address, port))
            .max_by_key(|(_, endpoint)| (endpoint.prefix, endpoint.port != 0))
            .map(|(target, _)| target)
    }
}
