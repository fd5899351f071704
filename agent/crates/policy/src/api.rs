//! Requests to the Kubernetes API.

mod typing;

pub use typing::{Doubt, MAX_TARGET, Typed, type_request};
