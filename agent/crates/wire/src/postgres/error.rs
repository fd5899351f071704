//! What can be wrong with bytes.

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends before its last field does.
    #[error("message {tag:?} is truncated")]
    Truncated {
        /// The message's tag.
        tag: char,
    },
    /// The message goes on after its last field.
    #[error("message {tag:?} has bytes after its last field")]
    Trailing {
        /// The message's tag.
        tag: char,
    },
    /// The declared length can't be: it's shorter than itself.
    #[error("message {tag:?} declares the impossible length {length}")]
    BadLength {
        /// The message's tag.
        tag: char,
        /// What it declares.
        length: i32,
    },
    /// The declared length is more than the cap for its kind.
    #[error("message {tag:?} of {length} bytes is over the cap of {cap}")]
    Oversized {
        /// The message's tag.
        tag: char,
        /// What it declares, in bytes.
        length: usize,
        /// What is allowed, in bytes.
        cap: usize,
    },
    /// A tag that this side never sends.
    #[error("unknown message tag 0x{0:02x}")]
    UnknownTag(u8),
    /// A field has a value that it can't have.
    #[error("message {tag:?} has an impossible {field}")]
    BadField {
        /// The message's tag.
        tag: char,
        /// Which field.
        field: &'static str,
    },
}

impl DecodeError {
    /// A label for metrics: bounded.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Truncated { .. } => "truncated",
            Self::Trailing { .. } => "trailing_bytes",
            Self::BadLength { .. } => "bad_length",
            Self::Oversized { .. } => "oversized",
            Self::UnknownTag(_) => "unknown_tag",
            Self::BadField { .. } => "bad_field",
        }
    }
}
