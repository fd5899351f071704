//! What is decided: one request or one statement, without its protocol's bytes.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A protocol that Bailiff reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// PostgreSQL's frontend/backend protocol, version 3.
    Postgres,
    /// The Kubernetes API: HTTP/1.1 and HTTP/2.
    Kubernetes,
}

impl Protocol {
    /// The name that targets, records and metrics use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Kubernetes => "kubernetes",
        }
    }
}

/// What a SQL statement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum SqlEffect {
    /// Reads rows.
    Read,
    /// Adds rows.
    Insert,
    /// Changes rows.
    Update,
    /// Removes rows.
    Delete,
    /// Empties tables.
    Truncate,
    /// Makes objects.
    Create,
    /// Changes objects.
    Alter,
    /// Removes objects.
    Drop,
    /// Changes rights, roles or ownership.
    Grant,
    /// Runs code that isn't known to be pure: functions, procedures, DO.
    Execute,
    /// Moves rows in bulk, or to and from files and programs.
    Copy,
    /// Changes the session's settings.
    Set,
    /// Begins or ends transactions, savepoints, locks and cursors.
    Transaction,
    /// Takes what was written, as the server's log tells it: a replication connection and its commands.
    Replication,
    /// Can't be told.
    Unknown,
}

impl SqlEffect {
    /// All effects.
    pub const ALL: [Self; 15] = [
        Self::Read,
        Self::Insert,
        Self::Update,
        Self::Delete,
        Self::Truncate,
        Self::Create,
        Self::Alter,
        Self::Drop,
        Self::Grant,
        Self::Execute,
        Self::Copy,
        Self::Set,
        Self::Transaction,
        Self::Replication,
        Self::Unknown,
    ];

    /// The name that policies and metrics use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Truncate => "truncate",
            Self::Create => "create",
            Self::Alter => "alter",
            Self::Drop => "drop",
            Self::Grant => "grant",
            Self::Execute => "execute",
            Self::Copy => "copy",
            Self::Set => "set",
            Self::Transaction => "transaction",
            Self::Replication => "replication",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for SqlEffect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of effects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EffectSet(u16);

impl EffectSet {
    /// The set with nothing in it.
    pub const EMPTY: Self = Self(0);

    /// The set with this effect too.
    #[must_use]
    pub const fn with(self, effect: SqlEffect) -> Self {
        Self(self.0 | 1 << effect as u8)
    }

    /// All that is in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the effect is in the set.
    #[must_use]
    pub const fn contains(self, effect: SqlEffect) -> bool {
        self.0 & (1 << effect as u8) != 0
    }

    /// Whether nothing is in the set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The effects in the set, in the order of [`SqlEffect::ALL`].
    pub fn iter(self) -> impl Iterator<Item = SqlEffect> {
        SqlEffect::ALL
            .into_iter()
            .filter(move |effect| self.contains(*effect))
    }
}

impl FromIterator<SqlEffect> for EffectSet {
    fn from_iter<I: IntoIterator<Item = SqlEffect>>(effects: I) -> Self {
        effects.into_iter().fold(Self::EMPTY, Self::with)
    }
}

/// A relation as a statement names it. Without a schema it may be the relation of that name in any schema.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RelationRef {
    /// The schema, where the statement gives one.
    pub schema: Option<String>,
    /// The name, folded as the server folds it.
    pub name: String,
}

impl fmt::Display for RelationRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// A function as a statement names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FunctionRef {
    /// The schema, where the statement gives one.
    pub schema: Option<String>,
    /// The name, folded as the server folds it.
    pub name: String,
}

/// One SQL statement, classified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statement {
    /// Everything that it does, by itself or by what it contains.
    pub effects: EffectSet,
    /// Relations that it reads.
    pub reads: Vec<RelationRef>,
    /// Relations that it writes, makes, changes or removes.
    pub writes: Vec<RelationRef>,
    /// Functions that it calls.
    pub functions: Vec<FunctionRef>,
    /// Relations whose rows it goes through without a condition that narrows them.
    pub whole: Vec<Whole>,
    /// Whether it returns rows of relations without a LIMIT.
    pub unlimited: bool,
}

/// That a statement does something to all rows of a relation, as far as its text tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// What it does: read, update, delete or truncate.
    pub effect: SqlEffect,
    /// The relation.
    pub relation: RelationRef,
    /// Why no condition narrows it.
    pub condition: Condition,
    /// Whether a LIMIT narrows it all the same.
    pub limited: bool,
}

/// A condition that narrows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Condition {
    /// There is none.
    Missing,
    /// It holds for every row, or names no column and may hold.
    ConstantTrue,
}
