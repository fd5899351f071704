//! TLS on both sides of a session: what clients are shown, how targets are verified, and the secrets by which the agent
//! authenticates.
//!
//! Files are read on the quiet thread alone. Workers take what is in force with one atomic load.

mod certificate;
mod materials;
mod mint;
mod verify;
mod wire;

pub(crate) use certificate::{end_point, expiry};
pub(crate) use materials::Secret;
pub use materials::{Expiry, FileError, Materials, Snapshot};
pub(crate) use wire::{Hello, Wire};

/// The name of PostgreSQL's protocol in ALPN.
pub(crate) const ALPN: &[u8] = b"postgresql";
