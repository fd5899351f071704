//! Types.

use std::sync::Arc;

use super::{Name, Oid};

/// A type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type {
    /// Its number.
    pub oid: Oid,
    /// Its schema's name.
    pub schema: Name,
    /// Its name. An array's begins with an underscore, mostly.
    pub name: Name,
    /// What it is.
    pub kind: TypeKind,
    /// The type of the arrays of it, where there is one.
    pub array: Option<Oid>,
}

/// What a type is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypeKind {
    /// One of its own.
    Base,
    /// An array, or another type that is taken apart by subscripts (`point`, `name`), of this element.
    Array {
        /// The type of its elements.
        element: Oid,
    },
    /// Rows of a relation. Its members are the relation's columns.
    Composite {
        /// The relation.
        relation: Oid,
    },
    /// Another type with checks.
    Domain {
        /// The other type.
        base: Oid,
        /// Its checks.
        checks: Vec<Arc<str>>,
    },
    /// A list of words.
    Enum,
    /// Ranges of another type.
    Range {
        /// The type of its bounds.
        subtype: Oid,
    },
    /// Several ranges.
    Multirange {
        /// The type of the ranges.
        range: Oid,
    },
    /// What only functions take or give.
    Pseudo,
    /// One of which this program doesn't know what it is made of.
    Other,
}
