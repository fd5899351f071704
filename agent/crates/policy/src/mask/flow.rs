//! Which masked columns the columns of a result come from, and how else a statement uses masked columns.
//!
//! The statement's tree is followed with the catalog at hand: every column of every level gets a [`Flow`]. Whatever the
//! analysis doesn't know (a kind of node, a field that says something, a name) ends it, and the statement is refused.

mod entries;
mod expr;
mod from;
mod functions;
mod query;
mod relation;
mod write;

use std::fmt;
use std::sync::Arc;

pub(super) use relation::{Expanded, large_stack, touches_nothing};

use self::entries::{Entry, Rte};
use super::{Known, MaskAction, Secrets};
use crate::catalog::Names;
use crate::classify::{Node, Tree};

/// What a value has to do with masked columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Nothing: it is the same whatever they hold.
    Clean,
    /// It is a masked column's value, and which row's doesn't depend on what is masked.
    Copy(Source, MaskAction),
    /// It may depend on what is masked in any way.
    Derived(Source),
}

/// The masked column that is named to the client, of those that a value may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Source {
    place: u32,
    /// Whether all of them are of types for which what never fails for texts and numbers never fails.
    plain: bool,
    /// The type of all of them; 0 where they differ.
    type_oid: u32,
}

impl Source {
    /// Where nobody knows which.
    pub(super) const ANY: Self = Self {
        place: 0,
        plain: false,
        type_oid: 0,
    };

    pub(super) fn new(place: u32, plain: bool, type_oid: u32) -> Self {
        Self {
            place,
            plain,
            type_oid,
        }
    }

    /// The same as a text.
    fn as_text(self) -> Self {
        const TEXT: u32 = 25;
        Self {
            type_oid: TEXT,
            ..self
        }
    }

    pub(super) fn place(self) -> u32 {
        self.place
    }

    fn join(self, other: Self) -> Self {
        Self {
            place: self.place.min(other.place),
            plain: self.plain && other.plain,
            type_oid: if self.type_oid == other.type_oid {
                self.type_oid
            } else {
                0
            },
        }
    }
}

impl Flow {
    /// What a value that may be either has to do with them.
    #[must_use]
    pub(super) fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::Clean, other) | (other, Self::Clean) => other,
            (Self::Copy(a, one), Self::Copy(b, other)) => Self::Copy(a.join(b), one.join(other)),
            (Self::Copy(a, _) | Self::Derived(a), Self::Copy(b, _) | Self::Derived(b)) => {
                Self::Derived(a.join(b))
            }
        }
    }

    /// What a value that is made of it has to do with them.
    #[must_use]
    pub(super) fn derived(self) -> Self {
        match self.source() {
            Some(source) => Self::Derived(source),
            None => Self::Clean,
        }
    }

    pub(super) fn source(self) -> Option<Source> {
        match self {
            Self::Clean => None,
            Self::Copy(source, _) | Self::Derived(source) => Some(source),
        }
    }

    /// What is done to it in a result. Of what is derived not even whether it is null may be told.
    pub(super) fn action(self) -> Option<MaskAction> {
        match self {
            Self::Clean => None,
            Self::Copy(_, action) => Some(action),
            Self::Derived(_) => Some(MaskAction::Null),
        }
    }

    /// The type of what is a masked column's value as it is; 0 where it can't be told.
    fn type_oid(self) -> u32 {
        match self {
            Self::Copy(source, _) => source.type_oid,
            Self::Clean | Self::Derived(_) => 0,
        }
    }
}

/// Ways of using a masked column other than showing it, which would tell of its values though they are hidden.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize, schemars::JsonSchema,
)]
pub(crate) enum MaskedUse {
    /// Which rows there are depends on it: WHERE, ON, USING, HAVING, LIMIT, functions that give rows.
    Predicate,
    /// The order of rows depends on it: ORDER BY, windows.
    Sort,
    /// Rows are compared by it: GROUP BY, DISTINCT, UNION, INTERSECT, EXCEPT.
    Group,
    /// It is given a value.
    Write,
    /// Its value is written to where it isn't masked: another table, a file.
    Move,
    /// Something is computed from it that may fail for some values and not for others.
    Compute,
    /// Code runs that may read it unseen.
    Function,
    /// A cursor or prepared statement would show it by another name. No rule can allow it: what FETCH and EXECUTE give couldn't
    /// be masked.
    Keep,
    /// COPY writes it to a file or program of the server. No rule can allow it: there it isn't masked.
    Copy,
    /// Its size or place is told: EXPLAIN ANALYZE.
    Measure,
    /// An object is made or changed that may show it.
    Define,
}

impl MaskedUse {
    /// All of them.
    pub(crate) const ALL: [Self; 11] = [
        Self::Predicate,
        Self::Sort,
        Self::Group,
        Self::Write,
        Self::Move,
        Self::Compute,
        Self::Function,
        Self::Keep,
        Self::Copy,
        Self::Measure,
        Self::Define,
    ];

    /// Whether a rule can allow it. What can't be masked and would be shown can't be.
    #[must_use]
    pub(crate) const fn may_be_allowed(self) -> bool {
        !matches!(self, Self::Keep | Self::Copy)
    }

    /// The name that policies use.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Predicate => "Predicate",
            Self::Sort => "Sort",
            Self::Group => "Group",
            Self::Write => "Write",
            Self::Move => "Move",
            Self::Compute => "Compute",
            Self::Function => "Function",
            Self::Keep => "Keep",
            Self::Copy => "Copy",
            Self::Measure => "Measure",
            Self::Define => "Define",
        }
    }
}

impl fmt::Display for MaskedUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why nothing can be said of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stop(pub(crate) String);

type Result<T> = std::result::Result<T, Stop>;

fn stop<T>(why: impl Into<String>) -> Result<T> {
    Err(Stop(why.into()))
}

/// What following a statement found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    /// Uses that tell of masked values, with the column and what is said of them.
    pub(crate) uses: Vec<Used>,
    /// Whether it touches a relation with masked columns, or one behind which there may be some.
    pub(crate) touches: bool,
    /// Whether code runs that can't be seen.
    pub(crate) runs: bool,
    /// The columns of the result, where there is one with rows of its own.
    pub(crate) outputs: Option<Vec<Output>>,
}

/// A use of a masked column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) kind: MaskedUse,
    pub(crate) source: Source,
    /// Where the column says too little.
    pub(crate) what: Option<String>,
}

/// A column of a result, or any number of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) action: Option<MaskAction>,
    pub(crate) many: bool,
    /// The type of a masked column that is shown as it is; 0 where it can't be told.
    pub(crate) type_oid: u32,
}

/// Nodes that are looked at for one statement.
const BUDGET: usize = 500_000;

/// Follows a statement.
pub(super) fn follow(root: &Tree, secrets: &Secrets, names: &Names, known: &Known<'_>) -> Result<Found> {
    let mut analysis = Analysis::new(secrets, names.clone(), known);
    let Some(node) = root.node() else {
        return stop("it can't be told what it does");
    };
    let outputs = analysis.statement(node)?;
    analysis.found.outputs = outputs.map(|entries| {
        let output = |entry: &Entry| Output {
            action: entry.flow.action(),
            many: entry.many,
            type_oid: entry.flow.type_oid(),
        };
        entries.iter().map(output).collect()
    });
    Ok(analysis.found)
}

struct Analysis<'a> {
    secrets: &'a Secrets,
    names: Names,
    known: &'a Known<'a>,
    found: Found,
    /// What can be named at each level around the place that is looked at, the innermost last.
    scopes: Vec<Scope>,
    /// CTEs that can be named, the innermost last.
    ctes: Vec<Cte>,
    budget: usize,
    /// How many things were met so far that may fail or act.
    strikes: usize,
    /// Whether what may fail is noted with the columns that it is computed for.
    defers: bool,
    expanding: relation::Expanding,
    /// Whether this runs where the deepest text that is accepted doesn't overflow the stack.
    has_large_stack: bool,
}

#[derive(Debug, Clone, Default)]
struct Scope {
    /// What FROM names.
    rtes: Vec<Rte>,
    /// What a column's bare name may mean, and what `*` stands for.
    flat: Vec<Entry>,
    /// What the level's named windows depend on.
    windows: Option<Flow>,
}

#[derive(Debug, Clone)]
struct Cte {
    name: Arc<str>,
    entries: Vec<Entry>,
}

impl<'a> Analysis<'a> {
    fn new(secrets: &'a Secrets, names: Names, known: &'a Known<'a>) -> Self {
        Self {
            secrets,
            names,
            known,
            found: Found::default(),
            scopes: Vec::new(),
            ctes: Vec::new(),
            budget: BUDGET,
            strikes: 0,
            defers: false,
            expanding: relation::Expanding::new(),
            has_large_stack: false,
        }
    }

    /// Notes that something other than the result depends on a value.
    fn uses(&mut self, kind: MaskedUse, flow: Flow) {
        if let Some(source) = flow.source() {
            self.note(Used {
                kind,
                source,
                what: None,
            });
        }
    }

    fn note(&mut self, used: Used) {
        if !self.found.uses.contains(&used) {
            self.found.uses.push(used);
        }
    }

    /// Notes code that may read anything. What it gives may be anything.
    fn runs_unseen(&mut self, what: String) -> Flow {
        self.found.touches = true;
        self.found.runs = true;
        self.note(Used {
            kind: MaskedUse::Function,
            source: Source::ANY,
            what: Some(what),
        });
        Flow::Derived(Source::ANY)
    }

    fn spend(&mut self) -> Result<()> {
        match self.budget.checked_sub(1) {
            Some(left) => self.budget = left,
            None => return stop("it is too long to be followed"),
        }
        Ok(())
    }

    /// Holds that nothing else of a node says anything.
    fn only(&mut self, node: &Node, fields: &[&str]) -> Result<()> {
        self.spend()?;
        match node.fields().find(|(name, _)| !fields.contains(name)) {
            // Uncertainty denies: a newer grammar may mean anything by it.
            Some((name, _)) => stop(format!("it isn't known what `{name}` of {} means", node.kind)),
            None => Ok(()),
        }
    }
}
