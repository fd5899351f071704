//! What nodes say: each node's agent writes one `NodeReport`, and from all of them follows what became of a Target or Policy.
//!
//! The agent's parts put what they find into [`Findings`]; a thread of its own ([`write`]) tells the cluster. The approver and
//! `bailiff status` read all reports ([`said`]).

mod findings;
pub(crate) mod said;
pub(crate) mod write;

use kube::api::ApiResource;

pub use findings::Findings;
pub(crate) use findings::Wrong;

/// After so many seconds without a word an agent may have ended, and what it said needn't hold. It writes every five to six minutes.
pub(crate) const SILENT_SECONDS: i64 = 15 * 60;

/// The kinds of objects, by their plurals.
pub(crate) fn resource(kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: "bailiff.dev".to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: "bailiff.dev/v1alpha1".to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

/// Reports.
pub(crate) fn reports() -> ApiResource {
    resource("NodeReport", "nodereports")
}
