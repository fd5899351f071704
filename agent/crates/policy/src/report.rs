//! What a node's agent says of itself to the cluster, and what of an object that makes on all nodes: the `status` of a `NodeReport`,
//! and the judgement of a Target or Policy from all of them. Pure.

mod judge;

use bailiff_model::Mode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use judge::{Judged, NodeFacts, Refusal, Taken, judge};

/// Objects of each kind that a report lists; what is beyond is only counted. With names as long as they may be, and all that may
/// stand beside them, a report has less than 1.2 MB then; the API server takes 1.5. A thousand usual policies take 250 kB.
pub const MAX_OBJECTS: usize = 1_000;

/// Pods that a report names which aren't covered; the others are only counted.
pub const MAX_PODS: usize = 50;

/// Certificates that a report lists.
pub const MAX_CERTIFICATES: usize = 100;

/// Objects of which a report says why they are refused. Of the others it says only that they are.
pub const MAX_REASONS: usize = 50;

/// Letters of a reason, and of what to do about it.
pub const MAX_REASON: usize = 512;

/// What one node's agent says of itself. It holds no secret: names, states, and what the loader says of what is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// The agent's version.
    #[schemars(length(max = 64))]
    pub version: String,
    /// What policies do to this node's pods, but for namespaces that are excepted.
    pub mode: Mode,
    /// When the agent started.
    #[schemars(extend("format" = "date-time"))]
    pub started: String,
    /// When this was written. That is so every five minutes, too, where nothing has changed.
    #[schemars(extend("format" = "date-time"))]
    pub written: String,
    /// Whether connections are diverted and decided.
    pub data_path: DataPath,
    /// What becomes of the node's pods.
    pub pods: PodCounts,
    /// The pods that aren't covered: what they ask of targets is refused. Of many some.
    #[serde(default)]
    #[schemars(length(max = 50))]
    pub not_covered: Vec<NotCovered>,
    /// Where the agent has its Targets and Policies from.
    pub policies_from: PoliciesFrom,
    /// How many objects there are, of which the lists below may have fewer.
    pub objects: ObjectCounts,
    /// What became of each Target here.
    #[serde(default)]
    #[schemars(length(max = 1_000))]
    pub targets: Vec<ObjectReport>,
    /// What became of each Policy here.
    #[serde(default)]
    #[schemars(length(max = 1_000))]
    pub policies: Vec<ObjectReport>,
    /// The certificates that targets have here.
    #[serde(default)]
    #[schemars(length(max = 100))]
    pub certificates: Vec<CertificateReport>,
}

/// Whether connections are diverted and decided.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataPath {
    /// Whether they are.
    pub ready: bool,
    /// Which conditions of the agent's `/readyz` fail.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub reason: String,
}

/// How many pods run on the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodCounts {
    /// Those of which policies decide what they do.
    #[schemars(range(min = 0))]
    pub enforced: u32,
    /// Those of which policies report what they would decide.
    #[schemars(range(min = 0))]
    pub observed: u32,
    /// Those that go past the agent.
    #[schemars(range(min = 0))]
    pub exempt: u32,
    /// Those whose connections to targets are refused, since they can't be told or enrolled.
    #[schemars(range(min = 0))]
    pub not_covered: u32,
}

impl PodCounts {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.enforced
            .saturating_add(self.observed)
            .saturating_add(self.exempt)
            .saturating_add(self.not_covered)
    }
}

/// A pod that isn't covered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotCovered {
    /// Its namespace; empty where nobody says who it is.
    #[schemars(length(max = 253))]
    pub namespace: String,
    /// Its name, or the uid that its cgroup is named by.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Why it isn't.
    #[schemars(length(max = 512))]
    pub reason: String,
}

/// Where an agent has its Targets and Policies from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PoliciesFrom {
    /// The cluster's objects.
    #[default]
    Cluster,
    /// Files on the node, so that the cluster's objects say nothing of it.
    Files,
}

/// How many objects an agent knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectCounts {
    /// Targets that are in force as they are written now.
    #[schemars(range(min = 0))]
    pub targets: u32,
    /// Policies that are in force as they are written now.
    #[schemars(range(min = 0))]
    pub policies: u32,
    /// Objects that are refused.
    #[schemars(range(min = 0))]
    pub refused: u32,
    /// Objects that wait until those are mended.
    #[schemars(range(min = 0))]
    pub held_back: u32,
}

/// What became of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectReport {
    /// Its name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Which of that name it is.
    #[schemars(length(max = 64))]
    pub uid: String,
    /// The generation that this is about.
    #[schemars(range(min = 0))]
    pub generation: i64,
    /// What became of it.
    pub state: ObjectState,
    /// Why it is refused.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub reason: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub mend: String,
}

/// What became of an object on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ObjectState {
    /// It is in force.
    InForce,
    /// It is refused. What was in force before stays.
    Refused,
    /// It is not at fault, and waits: while one object is refused, no change of another comes into force.
    HeldBack,
}

/// A certificate of a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificateReport {
    /// The target.
    #[schemars(length(max = 253))]
    pub target: String,
    /// For what: `client`, `client_ca`, `clients_ca`, `target_ca` or `credential`.
    #[schemars(length(max = 32))]
    pub role: String,
    /// How it is doing.
    pub state: CertificateState,
    /// Why, where that isn't well.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub reason: String,
    /// When it ends. Left out where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub not_after: Option<String>,
    /// Whether the agent has the next one signed by itself.
    #[serde(default)]
    pub renewed: bool,
}

/// How a certificate is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CertificateState {
    /// It is in use.
    Good,
    /// It is in use, and the next one can't be had.
    Ending,
    /// There is none that clients could verify.
    Missing,
    /// Pods trust another CA than the one that it is held against.
    Untrusted,
}

/// A text of at most so many letters, whose end says where it was cut.
#[must_use]
pub fn cut(text: &str, letters: usize) -> String {
    if text.chars().count() <= letters {
        return text.to_owned();
    }
    let mut kept: String = text.chars().take(letters.saturating_sub(1)).collect();
    kept.push('…');
    kept
}
