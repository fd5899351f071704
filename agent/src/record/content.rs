//! What is kept of an operation's values and answer, where policy asks for it: as it came. The recorder's thread makes it
//! readable.

use std::sync::Arc;

use bailiff_model::Recording;
use bailiff_wire::postgres::content::BindValues;
use bailiff_wire::postgres::{DecodeError, FrameHeader};
use sha2::{Digest as _, Sha256};

/// What is kept of one operation.
#[derive(Debug, Clone, Default)]
pub struct Content {
    /// Its bound values.
    pub values: Option<Values>,
    /// Its answer.
    pub answer: Option<Answer>,
}

impl Content {
    /// Roughly what it takes in memory, in bytes.
    pub(crate) fn size(&self) -> usize {
        let values = match &self.values {
            Some(Values::Kept { bound, .. }) => bound.held(),
            _ => 0,
        };
        128 + values + self.answer.as_ref().map_or(0, Answer::held)
    }
}

/// Values bound to a statement.
#[derive(Debug, Clone)]
pub enum Values {
    /// They are kept.
    Kept {
        /// As they came.
        bound: Arc<Bound>,
        /// Their types, by number in `pg_type`; 0 where it isn't known.
        types: Option<Arc<[u32]>>,
    },
    /// They aren't, and why.
    Withheld(&'static str),
}

/// The values of one Bind, in one piece.
#[derive(Debug)]
pub struct Bound {
    parts: Box<[Part]>,
    bytes: Box<[u8]>,
    /// How many there were.
    of: usize,
    result_formats: Box<[u8]>,
}

/// One value.
#[derive(Debug, Clone, Copy)]
struct Part {
    binary: bool,
    /// Its length; `None` is null.
    length: Option<usize>,
    /// Where it begins, if it is kept.
    at: Option<usize>,
}

/// A bound value as it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BoundValue<'a> {
    /// Null.
    Null,
    /// The value.
    Whole {
        /// Whether it is in binary format.
        binary: bool,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// It was too long. Values are kept whole or not at all, since a detector doesn't know half a card number.
    Left {
        /// How long.
        length: usize,
    },
}

impl Bound {
    /// Keeps the values of a Bind, or of as much of it as has come, up to `most` bytes of them. Those after the end of what has
    /// come are left out.
    pub(crate) fn keep(body: &[u8], most: usize) -> Result<Self, DecodeError> {
        let mut values = BindValues::begin(body)?;
        let (mut parts, mut bytes) = (Vec::with_capacity(values.count()), Vec::new());
        let mut ended_early = false;
        while let Some(value) = values.next() {
            let Ok((binary, value)) = value else {
                ended_early = true;
                break;
            };
            let fits = value.is_some_and(|value| bytes.len() + value.len() <= most);
            parts.push(Part {
                binary,
                length: value.map(<[u8]>::len),
                at: fits.then_some(bytes.len()),
            });
            if let (Some(value), true) = (value, fits) {
                bytes.extend_from_slice(value);
            }
        }
        let of = values.count();
        let result_formats = match ended_early {
            true => &[],
            false => values.result_formats()?,
        };
        Ok(Self {
            parts: parts.into_boxed_slice(),
            bytes: bytes.into_boxed_slice(),
            of,
            result_formats: Box::from(result_formats),
        })
    }

    /// What it takes in memory, in bytes.
    pub(crate) fn held(&self) -> usize {
        std::mem::size_of::<Self>() + self.parts.len() * std::mem::size_of::<Part>() + self.bytes.len()
    }

    /// How many values the Bind had.
    pub(crate) fn of(&self) -> usize {
        self.of
    }

    /// The formats of the result's columns.
    pub(crate) fn result_formats(&self) -> &[u8] {
        &self.result_formats
    }

    /// The values, in order, as far as they had come.
    pub(crate) fn values(&self) -> impl Iterator<Item = BoundValue<'_>> {
        self.parts.iter().map(|part| match (part.length, part.at) {
            (None, _) => BoundValue::Null,
            (Some(length), Some(at)) => BoundValue::Whole {
                binary: part.binary,
                bytes: self.bytes.get(at..at + length).unwrap_or_default(),
            },
            (Some(length), None) => BoundValue::Left { length },
        })
    }
}

/// What the client saw of an answer.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// SHA-256 over its DataRow and CopyData messages, see [`Watched`].
    pub digest: Option<[u8; 32]>,
    /// RowDescription, DataRow and CopyData messages as the client saw them, up to what may be kept.
    pub messages: Vec<u8>,
    /// How many rows, or pieces of COPY, are among them.
    pub kept: u64,
    /// How many there were.
    pub of: u64,
    /// What a Describe told of the columns: a RowDescription's body.
    pub columns: Option<Arc<[u8]>>,
    /// The formats that the Bind asked for.
    pub bound: Option<Arc<Bound>>,
    /// Whether rows were to be kept.
    pub rows: bool,
}

impl Answer {
    fn held(&self) -> usize {
        self.messages.capacity() + self.columns.as_ref().map_or(0, |columns| columns.len())
    }
}

/// An answer while it goes by.
///
/// The digest is SHA-256 over the DataRow and CopyData messages as the client saw them, in their order, each without its tag: four
/// bytes of length and the body.
#[derive(Debug)]
pub(crate) struct Watched {
    recording: Recording,
    digest: Option<Sha256>,
    messages: Vec<u8>,
    kept: u64,
    of: u64,
    /// Nothing more is kept, since something didn't fit: what is kept is a beginning.
    full: bool,
    /// Whether what is still to come of a long message is kept.
    keeps_rest: bool,
}

impl Watched {
    pub(crate) fn new(recording: Recording) -> Self {
        Self {
            recording,
            digest: recording.digest().then(Sha256::new),
            messages: Vec::new(),
            kept: 0,
            of: 0,
            full: !recording.keeps_rows(),
            keeps_rest: false,
        }
    }

    /// Memory that it takes, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.messages.capacity()
    }

    /// Sees whole messages.
    pub(crate) fn saw(&mut self, mut bytes: &[u8]) {
        while let Some(header) = FrameHeader::parse(bytes) {
            let (message, rest) = bytes.split_at(header.total_len().min(bytes.len()));
            self.begins(message, message.len());
            bytes = rest;
        }
    }

    /// Sees the beginning of a message, which is `whole` bytes long.
    pub(crate) fn begins(&mut self, message: &[u8], whole: usize) {
        let Some((tag, after)) = message.split_first() else {
            return;
        };
        self.keeps_rest = false;
        match tag {
            b'D' | b'd' => {
                self.of += 1;
                if let Some(digest) = &mut self.digest {
                    digest.update(after);
                }
                let (rows, bytes) = (self.recording.max_rows(), self.recording.max_bytes());
                let fits = self.kept < u64::from(rows)
                    && self.messages.len() + whole <= usize::try_from(bytes).unwrap_or(usize::MAX);
                if !self.full && fits {
                    self.kept += 1;
                    self.messages.extend_from_slice(message);
                    self.keeps_rest = true;
                }
                self.full |= !fits;
            }
            // Without it the rows after it can't be told apart from those before.
            b'T' if !self.full => self.messages.extend_from_slice(message),
            _ => {}
        }
    }

    /// Sees more of a message that began.
    pub(crate) fn goes_on(&mut self, bytes: &[u8]) {
        if let Some(digest) = &mut self.digest {
            digest.update(bytes);
        }
        if self.keeps_rest {
            self.messages.extend_from_slice(bytes);
        }
    }

    /// What there is of it in the end.
    pub(crate) fn answer(self) -> Answer {
        Answer {
            digest: self.digest.map(|digest| digest.finalize().into()),
            messages: self.messages,
            kept: self.kept,
            of: self.of,
            columns: None,
            bound: None,
            rows: self.recording.keeps_rows(),
        }
    }
}
