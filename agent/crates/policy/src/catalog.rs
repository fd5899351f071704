//! What a database holds: its relations, functions, types and what they are made of, as one snapshot that never changes.
//!
//! Pure: how it is read, and how fresh it is, is the agent's matter. What a name stands for depends on the session too; that is
//! [`Names`]. Temporary objects aren't in it, since each session has its own.

mod build;
mod function;
mod hidden;
mod names;
mod relation;
mod temporary;
mod types;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use build::{Builder, CatalogLimits, Schema, SearchPathSetting, TooLarge};
pub use function::{Cast, Function, FunctionKind, Operator, Volatility};
pub use names::{Names, Resolved};
pub use relation::{Column, Dependency, Generated, Relation, RelationKind, Rule, RuleEvent, Trigger};
pub use temporary::Temporary;
pub use types::{Type, TypeKind};

use crate::path;

/// A name as the server keeps it: folded already, never with quotes.
pub type Name = Box<str>;

/// The number by which the server knows an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Oid(pub u32);

impl Oid {
    /// Objects from this number on were not made by `initdb` (`FirstNormalObjectId` of PostgreSQL).
    const FIRST_NORMAL: u32 = 16_384;

    /// Whether it came with the server. What extensions and users made did not.
    #[must_use]
    pub fn came_with_server(self) -> bool {
        self.0 < Self::FIRST_NORMAL
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Tells one snapshot from every other of this process; a later one is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CatalogVersion(u64);

impl CatalogVersion {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A database's catalog at one moment. Whole: one that is too large isn't cut, there is none.
#[derive(Clone)]
pub struct Catalog {
    version: CatalogVersion,
    contents: Arc<Contents>,
    /// Rows by the server's last ANALYZE or VACUUM. Apart, since they change without anything else.
    estimates: Arc<HashMap<Oid, f32>>,
}

/// What doesn't change as long as nothing is created, altered or dropped.
#[derive(Default)]
struct Contents {
    /// `server_version_num`, such as 150004.
    server_version: u32,
    database: Name,
    bytes: usize,
    schemas: HashMap<Oid, Name>,
    relations: HashMap<Oid, Relation>,
    functions: HashMap<Oid, Function>,
    types: HashMap<Oid, Type>,
    operators: HashMap<Oid, Operator>,
    casts: Vec<Cast>,
    relation_names: HashMap<Name, Vec<Oid>>,
    function_names: HashMap<Name, Vec<Oid>>,
    type_names: HashMap<Name, Vec<Oid>>,
    operator_names: HashMap<Name, Vec<Oid>>,
    row_types: HashMap<Oid, Oid>,
    paths: Vec<SearchPathSetting>,
    system_path: Option<Name>,
    hidden: hidden::Hidden,
}

impl Catalog {
    /// Which snapshot it is.
    #[must_use]
    pub fn version(&self) -> CatalogVersion {
        self.version
    }

    /// The database's name.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.contents.database
    }

    /// The server's version as `server_version_num`: 150004 for 15.4.
    #[must_use]
    pub fn server_version(&self) -> u32 {
        self.contents.server_version
    }

    /// About how many bytes of memory it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.contents.bytes
    }

    /// The relation of a number.
    #[must_use]
    pub fn relation(&self, oid: Oid) -> Option<&Relation> {
        self.contents.relations.get(&oid)
    }

    /// All relations, in no order.
    pub fn relations(&self) -> impl ExactSizeIterator<Item = &Relation> {
        self.contents.relations.values()
    }

    /// The relations of a name, in any schema.
    pub fn relations_named<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Relation> + use<'a> {
        let oids = self.contents.relation_names.get(name);
        oids.into_iter().flatten().filter_map(|oid| self.relation(*oid))
    }

    /// The relation of a name in a schema.
    #[must_use]
    pub fn relation_in(&self, schema: &str, name: &str) -> Option<&Relation> {
        self.relations_named(name)
            .find(|relation| *relation.schema == *schema)
    }

    /// The relation whose rows are of a type.
    #[must_use]
    pub fn relation_of_row_type(&self, row_type: Oid) -> Option<&Relation> {
        self.relation(*self.contents.row_types.get(&row_type)?)
    }

    /// About how many rows a relation has, by the server's last ANALYZE or VACUUM; of a partitioned table and a parent, those of
    /// its children are part. `None` where the server never counted some of it.
    #[must_use]
    pub fn rows(&self, oid: Oid) -> Option<u64> {
        let mut seen = std::collections::HashSet::new();
        let mut left = vec![oid];
        let mut sum = 0.0_f64;
        while let Some(oid) = left.pop() {
            if !seen.insert(oid) {
                continue;
            }
            let relation = self.relation(oid)?;
            left.extend(&relation.children);
            // A partitioned table has no rows of its own.
            if relation.kind != RelationKind::Partitioned {
                sum += f64::from(*self.estimates.get(&oid).filter(|rows| **rows >= 0.0)?);
            }
        }
        // Floats become integers by cutting off, and stop at the ends.
        Some(sum as u64)
    }

    /// The function of a number, as the function call message names it.
    #[must_use]
    pub fn function_by_oid(&self, oid: Oid) -> Option<&Function> {
        self.contents.functions.get(&oid)
    }

    /// All functions of a name, in any schema, with any arguments.
    pub fn functions_named<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Function> + use<'a> {
        let oids = self.contents.function_names.get(name);
        oids.into_iter()
            .flatten()
            .filter_map(|oid| self.function_by_oid(*oid))
    }

    /// All functions, in no order.
    pub fn functions(&self) -> impl ExactSizeIterator<Item = &Function> {
        self.contents.functions.values()
    }

    /// The type of a number.
    #[must_use]
    pub fn type_by_oid(&self, oid: Oid) -> Option<&Type> {
        self.contents.types.get(&oid)
    }

    /// The types of a name, in any schema.
    pub fn types_named<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Type> + use<'a> {
        let oids = self.contents.type_names.get(name);
        oids.into_iter()
            .flatten()
            .filter_map(|oid| self.type_by_oid(*oid))
    }

    /// The operators of a name, in any schema, on any types.
    pub fn operators_named<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Operator> + use<'a> {
        let oids = self.contents.operator_names.get(name);
        oids.into_iter()
            .flatten()
            .filter_map(|oid| self.contents.operators.get(oid))
    }

    /// All casts.
    #[must_use]
    pub fn casts(&self) -> &[Cast] {
        &self.contents.casts
    }

    /// Whether reading a relation may run code that changes the session's settings, role or temporary relations.
    #[must_use]
    pub fn changes_session_when_read(&self, oid: Oid) -> bool {
        self.contents.hidden.when_read(oid)
    }

    /// The same of inserting, updating or deleting.
    #[must_use]
    pub fn changes_session_when_written(&self, oid: Oid) -> bool {
        self.contents.hidden.when_written(oid)
    }

    /// Whether making a value of a type may do so.
    #[must_use]
    pub fn changes_session_when_made(&self, r#type: Oid) -> bool {
        hidden::type_changes(&self.contents, r#type, &mut std::collections::HashSet::new())
    }

    /// Whether there is a schema of a name.
    #[must_use]
    pub fn has_schema(&self, name: &str) -> bool {
        self.contents.schemas.values().any(|schema| **schema == *name)
    }

    /// The schemas in which a session of a user looks for unqualified names as it begins: by what it asked for itself, else by
    /// the role's and database's settings, else by the server's. `None` where that isn't known. `pg_catalog`, which comes
    /// first without being named, is left out, as the server leaves it out.
    #[must_use]
    pub fn search_path_at_start(&self, user: &str, asked: Option<&str>) -> Option<Vec<Name>> {
        let contents = &self.contents;
        // In the order in which the server lets them win (`process_settings`).
        let set = || {
            let of = |role: bool, database: bool| {
                contents.paths.iter().find(|setting| {
                    setting.for_database == database
                        && setting.role.is_some() == role
                        && setting.role.as_deref().is_none_or(|name| *name == *user)
                })
            };
            let found = of(true, true)
                .or_else(|| of(true, false))
                .or_else(|| of(false, true));
            match found.or_else(|| of(false, false)) {
                Some(setting) => Some(&*setting.value),
                None => contents.system_path.as_deref(),
            }
        };
        path_of_text(asked.or_else(set)?, user)
    }

    /// Whether another snapshot differs in estimates alone.
    pub(crate) fn has_same_definitions(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.contents, &other.contents)
    }

    /// The same snapshot with other estimates of rows.
    #[must_use]
    pub fn with_estimates(&self, estimates: HashMap<Oid, f32>) -> Self {
        Self {
            version: CatalogVersion::next(),
            contents: Arc::clone(&self.contents),
            estimates: Arc::new(estimates),
        }
    }
}

/// The schemas of a search_path as it is written, as a user's session takes them. `None` where that isn't known.
#[must_use]
pub fn path_of_text(written: &str, user: &str) -> Option<Vec<Name>> {
    path_of(&path::schemas(written)?, user)
}

/// The schemas of a search_path as a user's session takes them. `pg_temp` is left out: what a session may have there is told by
/// [`Temporary`], wherever it stands. Where it comes first, whatever is made without a schema is temporary: then it's `None`.
#[must_use]
pub fn path_of(schemas: &[String], user: &str) -> Option<Vec<Name>> {
    if schemas.first().is_some_and(|schema| schema == "pg_temp") {
        return None;
    }
    let named = schemas.iter().filter(|schema| *schema != "pg_temp");
    Some(
        named
            .map(|schema| if schema == "$user" { user } else { schema })
            .map(Name::from)
            .collect(),
    )
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalog")
            .field("version", &self.version)
            .field("database", &self.contents.database)
            .field("relations", &self.contents.relations.len())
            .field("functions", &self.contents.functions.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
