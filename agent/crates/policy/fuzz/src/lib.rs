//! What must hold of whatever `bailiff-policy` reads: the statements and requests of clients, and the
//! files of operators.
//!
//! Laid out as `bailiff-wire-fuzz`, which says how the targets are run.

mod api_request;
mod classify;
mod load;

pub use api_request::api_request;
pub use classify::classify;
pub use load::load;

/// A target and its name, which is also that of its folder in `corpus/`.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("api_request", api_request),
    ("classify", classify),
    ("load", load),
];
