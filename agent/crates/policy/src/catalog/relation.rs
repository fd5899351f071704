//! Relations and what hangs on them.

use std::sync::Arc;

use super::{Name, Oid};

/// A relation.
#[derive(Debug, Clone, PartialEq)]
pub struct Relation {
    /// Its number.
    pub oid: Oid,
    /// Its schema's name.
    pub schema: Name,
    /// Its name.
    pub name: Name,
    /// What it is.
    pub kind: RelationKind,
    /// The type of its rows, where it has one.
    pub row_type: Option<Oid>,
    /// Its columns by their numbers, without dropped ones and without the system's.
    pub columns: Vec<Column>,
    /// A view's query, with every name outside of `pg_catalog` qualified.
    pub definition: Option<Arc<str>>,
    /// What a view's query and other rules need.
    pub depends: Vec<Dependency>,
    /// Parents by inheritance and partitioning.
    pub parents: Vec<Oid>,
    /// Children by inheritance and partitioning.
    pub children: Vec<Oid>,
    /// Rules other than a view's own.
    pub rules: Vec<Rule>,
    /// Triggers but those that the server makes for foreign keys and its kind.
    pub triggers: Vec<Trigger>,
    /// Whether row security is enabled.
    pub row_security: bool,
    /// Expressions of row security policies, of check constraints and of indexes with their predicates: where one fails, its
    /// error may quote values. Names outside of `pg_catalog` are qualified. An empty one couldn't be told.
    pub expressions: Vec<Arc<str>>,
    /// Of a TOAST table, whose values it holds.
    pub toast_of: Option<Oid>,
}

impl Relation {
    /// One of which nothing else is known.
    #[must_use]
    pub fn new(oid: Oid, schema: impl Into<Name>, name: impl Into<Name>, kind: RelationKind) -> Self {
        Self {
            oid,
            schema: schema.into(),
            name: name.into(),
            kind,
            row_type: None,
            columns: Vec::new(),
            definition: None,
            depends: Vec::new(),
            parents: Vec::new(),
            children: Vec::new(),
            rules: Vec::new(),
            triggers: Vec::new(),
            row_security: false,
            expressions: Vec::new(),
            toast_of: None,
        }
    }

    /// The column of a name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| *column.name == *name)
    }

    /// The column of a number.
    #[must_use]
    pub fn column_at(&self, number: i16) -> Option<&Column> {
        self.columns.iter().find(|column| column.number == number)
    }
}

/// Kinds of relations (`pg_class.relkind`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RelationKind {
    /// An ordinary table.
    Table,
    /// A partitioned table: its rows are in its children.
    Partitioned,
    /// A view.
    View,
    /// A materialised view: its rows are those of its query at the last refresh.
    MaterializedView,
    /// A foreign table: what is behind it is unknown.
    Foreign,
    /// A sequence.
    Sequence,
    /// A TOAST table.
    Toast,
    /// A composite type: it has columns and no rows.
    Composite,
    /// One that this program doesn't know.
    Other,
}

impl RelationKind {
    /// By the letter in the server's table.
    #[must_use]
    pub fn from_letter(letter: u8) -> Self {
        match letter {
            b'r' => Self::Table,
            b'p' => Self::Partitioned,
            b'v' => Self::View,
            b'm' => Self::MaterializedView,
            b'f' => Self::Foreign,
            b'S' => Self::Sequence,
            b't' => Self::Toast,
            b'c' => Self::Composite,
            _ => Self::Other,
        }
    }
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: Name,
    /// Its number, from 1; dropped columns leave gaps.
    pub number: i16,
    /// Its type.
    pub type_oid: Oid,
    /// Whether its value is computed from other columns.
    pub generated: Option<Generated>,
    /// The expression of its default, or by which it is computed; empty where it couldn't be told.
    pub expression: Option<Arc<str>>,
}

/// How a generated column is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generated {
    /// Computed when its row is written.
    Stored,
    /// Computed when it is read.
    Virtual,
}

/// A relation that a rule's query needs, or one column of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dependency {
    /// The relation.
    pub relation: Oid,
    /// The column's number; 0 for the relation as a whole.
    pub column: i16,
}

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleEvent {
    /// SELECT.
    Select,
    /// UPDATE.
    Update,
    /// INSERT.
    Insert,
    /// DELETE.
    Delete,
}

impl RuleEvent {
    /// By the letter in the server's table.
    #[must_use]
    pub fn from_letter(letter: u8) -> Option<Self> {
        Some(match letter {
            b'1' => Self::Select,
            b'2' => Self::Update,
            b'3' => Self::Insert,
            b'4' => Self::Delete,
            _ => return None,
        })
    }
}

/// A rule that rewrites statements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub name: Name,
    /// Which statements; `None` for a kind that this program doesn't know.
    pub event: Option<RuleEvent>,
    /// Whether it takes the statement's place.
    pub instead: bool,
    /// Its CREATE RULE, with every name outside of `pg_catalog` qualified; empty where it couldn't be told.
    pub definition: Arc<str>,
}

/// A trigger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    /// Its name.
    pub name: Name,
    /// Its function.
    pub function: Oid,
    /// Bits of `pg_trigger.tgtype`: 1 row, 2 before, 4 insert, 8 delete, 16 update, 32 truncate, 64 instead.
    pub events: i16,
}
