//! Objects of the Kubernetes API in the formats that they travel in: a walk over their fields that passes on what nobody asked
//! for, and puts other values in place of those that somebody did.
//!
//! A format's *stream* (`feed` and `finish`) takes an answer's body as it comes, finds the objects in it (one object, the items of a
//! list, the events of a watch, the rows of a table) and holds no more of it than one of them.

pub mod cbor;
mod format;
pub mod json;
mod outlet;
pub mod protobuf;
mod read;
pub mod schema;
#[cfg(test)]
mod testing;
mod walk;
pub mod yaml;

use std::fmt;

pub use format::{Format, Stream, object};
pub use read::{MAX_VALUES, read};

/// An object is held whole while it is looked at: up to so many bytes. etcd keeps none that is larger than 1.5 MiB, and the API
/// server takes no request of more than 3 MiB; JSON is larger than what is kept.
pub const MAX_OBJECT: usize = 16 * 1024 * 1024;

/// Fields lie at most so deep in an object. The API server itself takes no JSON that is deeper than 10,000.
pub const MAX_DEPTH: usize = 200;

/// The annotation in which `kubectl apply` keeps what it applied: the object once more, as JSON in a string.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What looks at an object's fields, and says what stands in their place.
///
/// The walk goes from the object's root by members of objects and maps ([`member`](Self::member)) and elements of lists
/// ([`element`](Self::element)) to values ([`replace`](Self::replace)). Names are those that the field has in JSON, in every format.
pub trait Fields {
    /// A place among the fields.
    type At: Copy;

    /// Whether [`element`](Self::element) is told names. Finding them costs a look ahead.
    const NAMED: bool = false;

    /// Begins an object: its root. What is `None` can't be told, or isn't there: then every object may be meant.
    fn object(&mut self, namespace: Option<&str>, name: Option<&str>) -> Self::At;

    /// Begins the object that the annotation [`LAST_APPLIED`] holds: its root.
    fn applied(&mut self, root: Self::At) -> Self::At {
        root
    }

    /// A member of an object, or a key of a map.
    fn member(&mut self, at: Self::At, key: &str) -> Self::At;

    /// An element of a list: its place, and the text of its member `name` where it has one and [`NAMED`](Self::NAMED) asks for it.
    fn element(&mut self, at: Self::At, index: usize, name: Option<&str>) -> Self::At;

    /// Whether something may be looked at in a member of a place whose name isn't known: a field of a newer server, in protobuf. `of`
    /// is the place's type, which doesn't have it. It can be told from what is asked for by name when all of those names are members
    /// of that type.
    fn unnamed(&mut self, at: Self::At, of: schema::Type) -> bool {
        let _ = of;
        !self.passes(at)
    }

    /// Whether nothing there or below is looked at: it is passed on unread.
    fn passes(&self, at: Self::At) -> bool;

    /// What stands in place of a value; `None` leaves it as it is. Null is no value: it is never asked about.
    fn replace(&mut self, at: Self::At, value: Value<'_>) -> Option<Replacement>;

    /// Whether texts that may quote values are withheld: messages of a `Status` that tells a failure.
    fn hides_texts(&self) -> bool;

    /// Whether cells of a `Table` may show what is masked. The names of objects are shown all the same.
    fn hides_cells(&self) -> bool;
}

/// A value in an object: no object and no list.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// A text, or a key's value in a map of texts.
    Text(&'a str),
    /// Bytes: what stands behind base64 in JSON and YAML, where the field is known to hold bytes.
    Bytes(&'a [u8]),
    /// Anything else (numbers, booleans, and texts that stand for quantities and times where that is known): as JSON has it, without quotes.
    Scalar(&'a str),
}

/// What stands in a value's place.
#[derive(Clone, PartialEq, Eq)]
pub enum Replacement {
    /// This: for texts and bytes what they hold, for other values what JSON has without quotes.
    Value(Vec<u8>),
    /// The least value that is valid for its type: `""`, `0`, `false`, the quantity `0`, the time 1970-01-01T00:00:00Z.
    Empty,
}

/// Secrets never print.
impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text(_) => "Text(…)",
            Self::Bytes(_) => "Bytes(…)",
            Self::Scalar(_) => "Scalar(…)",
        })
    }
}

/// Secrets never print.
impl fmt::Debug for Replacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Value(_) => "Value(…)",
            Self::Empty => "Empty",
        })
    }
}

/// What a body holds, as the request says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One object; or a `Status`, or a `Table` of one row.
    Object,
    /// A list (`items`), a `Table` (`rows`) or a `Status`.
    List,
    /// Events, one after another, each with an object, a `Table` or a `Status`.
    Watch,
}

/// Why a body isn't passed on: it isn't what it says it is, or is larger than can be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It isn't written in its format.
    #[error("the body isn't well-formed")]
    Form,
    /// An object is larger than [`MAX_OBJECT`].
    #[error("an object is larger than can be looked at")]
    Long,
    /// An object is deeper than [`MAX_DEPTH`].
    #[error("an object is deeper than can be looked at")]
    Deep,
    /// It is well-formed, but of a kind whose fields aren't known in this format.
    #[error("the fields of this kind aren't known in this format")]
    Kind,
    /// What would stand in a value's place doesn't fit its type or its room.
    #[error("a value has no room for what stands in its place")]
    Room,
}
