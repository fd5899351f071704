//! TLS on both sides of a session: what clients are shown, how targets are verified, and the secrets by which the agent
//! authenticates.
//!
//! Files are read on the quiet thread alone. Workers take what is in force with one atomic load.

use bailiff_model::Protocol;

mod certificate;
mod clients;
mod issued;
mod materials;
mod mint;
mod verify;
mod wire;

pub(crate) use certificate::{end_point, expiry};
pub(crate) use clients::asking;
pub(crate) use issued::{Condition, IssueError, Issued, now};
pub(crate) use materials::{ClientsOf, Secret};
pub use materials::{Expiry, FileError, Materials, Snapshot};
pub(crate) use wire::{Hello, Wire};

/// The name of PostgreSQL's protocol in ALPN.
pub(crate) const ALPN: &[u8] = b"postgresql";

/// HTTP/2's.
pub(crate) const HTTP2: &[u8] = b"h2";

/// HTTP/1.1's.
pub(crate) const HTTP1: &[u8] = b"http/1.1";

/// What is spoken inside TLS with a protocol's clients, the preferred one first.
fn spoken(protocol: Protocol) -> Vec<Vec<u8>> {
    match protocol {
        Protocol::Postgres => vec![ALPN.to_vec()],
        Protocol::Kubernetes => vec![HTTP2.to_vec(), HTTP1.to_vec()],
    }
}
