//! How much of an operation is kept as evidence.

use serde::{Deserialize, Serialize};

/// How much of an operation is recorded. The order is the algebra: the strictest records most and is the greatest.
///
/// Of requests to the Kubernetes API a policy says it by the words of the API's audit: `Metadata` is also what the default keeps,
/// `Request` is [`Self::Values`], `RequestResponse` is [`Self::Results`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RecordingLevel {
    /// Who, when and what kind; no statement text.
    Metadata,
    /// The statement's text too.
    #[default]
    Statement,
    /// The values bound to it too, those of columns that are masked left out. Of a request its body.
    Values,
    /// The rows of its answer too, as the client saw them. Of a request the object that came back.
    Results,
}

/// What is recorded of an operation, and how much of it at the most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Recording {
    level: RecordingLevel,
    digest: bool,
    max_rows: u32,
    max_bytes: u32,
}

impl Recording {
    /// Rows of an answer that are kept where a policy says nothing else.
    pub const ROWS: u32 = 100;

    /// Bytes of values, and of rows, that are kept where a policy says nothing else.
    pub const BYTES: u32 = 64 * 1024;

    /// What a policy asks for. Sizes that are about more than the level keeps count for nothing.
    #[must_use]
    pub fn new(level: RecordingLevel, digest: bool, max_rows: u32, max_bytes: u32) -> Self {
        Self {
            level,
            digest,
            max_rows: if level >= RecordingLevel::Results {
                max_rows
            } else {
                0
            },
            max_bytes: if level >= RecordingLevel::Values {
                max_bytes
            } else {
                0
            },
        }
    }

    /// A level with nothing else asked for.
    #[must_use]
    pub fn of_level(level: RecordingLevel) -> Self {
        Self::new(level, false, Self::ROWS, Self::BYTES)
    }

    /// All that either of two asks for.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self {
            level: self.level.max(other.level),
            digest: self.digest || other.digest,
            max_rows: self.max_rows.max(other.max_rows),
            max_bytes: self.max_bytes.max(other.max_bytes),
        }
    }

    /// How much.
    #[must_use]
    pub const fn level(self) -> RecordingLevel {
        self.level
    }

    /// Whether the statement's text is kept.
    #[must_use]
    pub fn keeps_text(self) -> bool {
        self.level >= RecordingLevel::Statement
    }

    /// Whether bound values are kept.
    #[must_use]
    pub fn keeps_values(self) -> bool {
        self.level >= RecordingLevel::Values
    }

    /// Whether rows of the answer are kept.
    #[must_use]
    pub fn keeps_rows(self) -> bool {
        self.level >= RecordingLevel::Results
    }

    /// Whether a digest of the answer is kept.
    #[must_use]
    pub const fn digest(self) -> bool {
        self.digest
    }

    /// Whether the answer has to be looked at.
    #[must_use]
    pub fn watches_answer(self) -> bool {
        self.digest || self.keeps_rows()
    }

    /// How many rows of an answer are kept.
    #[must_use]
    pub const fn max_rows(self) -> u32 {
        self.max_rows
    }

    /// How many bytes of an operation's values are kept, and as many of its rows.
    #[must_use]
    pub const fn max_bytes(self) -> u32 {
        self.max_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_greater() {
        assert!(RecordingLevel::Statement > RecordingLevel::Metadata);
        assert!(RecordingLevel::Values > RecordingLevel::Statement);
        assert!(RecordingLevel::Results > RecordingLevel::Values);
    }

    #[test]
    fn sizes_of_what_is_not_kept_do_not_count() {
        let text = Recording::of_level(RecordingLevel::Statement);
        assert_eq!((text.max_rows(), text.max_bytes()), (0, 0));
        let small = Recording::new(RecordingLevel::Results, false, 3, 10);
        assert_eq!(text.join(small), small);
        let values = Recording::of_level(RecordingLevel::Values).join(small);
        assert_eq!(
            (values.level(), values.max_rows(), values.max_bytes()),
            (RecordingLevel::Results, 3, Recording::BYTES)
        );
    }
}
