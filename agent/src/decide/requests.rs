//! Decisions about requests to the Kubernetes API, for one connection.

use std::sync::Arc;

use bailiff_model::{ApiRequest, Chain};
use bailiff_policy::{ApiBody, ChainPolicy, Denial, DialPermit, Ruling, Target};

use super::InForce;

/// Decides by the policy in force, also when that changes under an open connection.
pub(crate) struct RequestDecider {
    in_force: Arc<InForce>,
    target: Arc<Target>,
    chain: Arc<Chain>,
    policy: ChainPolicy,
    generation: u64,
}

impl RequestDecider {
    /// Decides for a chain at a target.
    pub(crate) fn new(
        in_force: Arc<InForce>,
        target: Arc<Target>,
        chain: Arc<Chain>,
        policy: ChainPolicy,
    ) -> Self {
        Self {
            in_force,
            target,
            chain,
            generation: policy.generation(),
            policy,
        }
    }

    /// Whether a rule could look into the body of such a request.
    pub(crate) fn asks_body(&mut self, request: &ApiRequest) -> bool {
        self.refresh();
        self.policy.asks_body(request)
    }

    /// What is decided about a request and its body.
    pub(crate) fn decide(&mut self, request: &ApiRequest, body: &ApiBody) -> Arc<Ruling> {
        self.refresh();
        self.policy.decide_request_with(request, body)
    }

    /// Leave to dial the target once more.
    pub(crate) fn connect(&mut self) -> Result<DialPermit, Denial> {
        self.refresh();
        self.policy.connect()
    }

    /// The target and the policy by which it is decided now.
    pub(crate) fn in_force(&self) -> (&Target, &ChainPolicy) {
        (&self.target, &self.policy)
    }

    fn refresh(&mut self) {
        if self.in_force.generation() == self.generation {
            return;
        }
        let set = self.in_force.load();
        // A target that is gone from the configuration keeps its last definition for connections that are open; its policies no
        // longer name it, so its default decides.
        if let Some(target) = set
            .targets()
            .iter()
            .find(|target| target.name == self.target.name)
        {
            self.target = Arc::clone(target);
        }
        self.policy = set.for_chain(&self.target, &self.chain);
        self.generation = set.generation();
    }
}
