//! From an operation to a verdict: the policy in force, and what texts mean.

mod cache;
mod decider;
mod in_force;
mod kept;
mod requests;

pub use cache::ClassificationCache;
pub(crate) use cache::Meaning;
pub(crate) use decider::{CatalogWait, Decider, Lookup, Standing};
pub(crate) use in_force::Load;
pub use in_force::{InForce, Watcher};
pub(crate) use requests::RequestDecider;
