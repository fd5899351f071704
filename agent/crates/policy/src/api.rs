//! Requests to the Kubernetes API: what they are, what rules say of them, and deciding.

pub(crate) mod body;
mod decide;
pub(crate) mod expression;
pub(crate) mod fields;
pub(crate) mod rule;
mod typing;

#[cfg(test)]
mod tests;

pub use body::{ApiBody, BodyFacts, BodyForm, Untold};
pub(crate) use decide::Allowed;
pub use fields::{FieldMasks, FieldPlace, FieldTreatment};
pub use typing::{Doubt, MAX_TARGET, Typed, type_request};
