//! What is decided about an operation. The decision itself, `Permit` included, is made in `bailiff-policy`.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ApiVerb, EffectSet, Recording};

/// What a rule says. The order is the algebra: the strictest is the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Effect {
    /// Refuse.
    Deny,
    /// Ask a human.
    RequireApproval,
    /// Let it pass.
    Allow,
}

impl Effect {
    /// The name in records and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::RequireApproval => "require_approval",
            Self::Allow => "allow",
        }
    }
}

/// Whether a policy decides or only reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// Decides.
    #[default]
    Enforce,
    /// Decides and reports, but never blocks.
    Observe,
}

/// What happens to new connections when the agent doesn't answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FailureMode {
    /// They are refused at once.
    #[default]
    Closed,
    /// They go to the target directly, and are counted.
    Open,
}

/// From where the agent dials the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum SourceAddress {
    /// From the pod's network namespace: the target sees the pod's address.
    #[default]
    Pod,
    /// From the node's network namespace.
    Node,
}

/// What happens to an operation when the recorder's queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum WhenFull {
    /// It waits until it can be recorded.
    #[default]
    Block,
    /// It goes on unrecorded, and is counted.
    Drop,
}

/// Why a verdict is what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// The policy, or `None` where the target's default decided.
    pub policy: Option<Arc<str>>,
    /// The rule in that policy.
    pub rule: Option<Arc<str>>,
    /// The hop of the chain that made it so strict: its place, 0 for the origin.
    pub hop: usize,
    /// What the policy's author wants the caller to read.
    pub message: Arc<str>,
}

/// What was decided about an operation, as the record tells it. Shared by all operations that it was decided for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What was decided.
    pub verdict: Effect,
    /// Why.
    pub reason: Reason,
    /// What the policies in Observe mode would have decided, where that differs.
    pub observed: Option<(Effect, Reason)>,
    /// What the statement does; nothing where it's a request to the Kubernetes API.
    pub effects: EffectSet,
    /// What the request to the Kubernetes API does; `None` where it's a statement.
    pub verb: Option<ApiVerb>,
    /// How much of it is recorded.
    pub recording: Recording,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.policy, &self.rule) {
            (Some(policy), Some(rule)) => write!(f, "policy {policy}, rule {rule}"),
            (Some(policy), None) => write!(f, "policy {policy}"),
            _ => f.write_str("the target's default"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strictest_effect_is_the_least() {
        assert_eq!(Effect::Allow.min(Effect::Deny), Effect::Deny);
        assert_eq!(
            Effect::Allow.min(Effect::RequireApproval),
            Effect::RequireApproval
        );
    }
}
