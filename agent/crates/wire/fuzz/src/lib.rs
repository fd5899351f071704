//! What must hold of every decoder of `bailiff-wire`, whatever the bytes are.
//!
//! Each target is a function that panics where it doesn't hold. libFuzzer calls them with what it makes up (`cargo xtask test
//! fuzz`), and `tests/wire_corpus.rs` with what was captured of real servers and clients.

mod messages;
mod objects;
mod protobuf;
mod startup;
mod stream;
mod texts;
mod values;

pub use messages::{backend, decode_backend, decode_frontend, frontend};
pub use objects::objects;
pub use protobuf::protobuf;
pub use startup::startup;
pub use stream::frame;
pub use texts::{sql, writing};
pub use values::{copy, value};

/// A target and its name, which is also that of its folder in `corpus/`.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("backend", backend),
    ("copy", copy),
    ("frame", frame),
    ("frontend", frontend),
    ("protobuf", protobuf),
    ("objects", objects),
    ("sql", sql),
    ("startup", startup),
    ("value", value),
    ("writing", writing),
];

/// Where to cut what is tried in two pieces: everywhere in what is short, at places spread over what is long.
fn cuts(length: usize) -> impl Iterator<Item = usize> {
    const MOST: usize = 24;
    (0..length).step_by(length.div_ceil(MOST).max(1))
}
