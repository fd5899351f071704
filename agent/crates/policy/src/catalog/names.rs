//! What a session's names stand for.

use std::sync::Arc;

use bailiff_model::RelationRef;

use super::{Catalog, Function, Name, Operator, Relation, Temporary, Type};
use crate::classify::{Touch, is_catalog};

/// A catalog, and how one session looks for names in it.
#[derive(Debug, Clone)]
pub struct Names {
    catalog: Arc<Catalog>,
    /// Schemas in which unqualified names are looked for; `None` where they may be any.
    path: Option<Vec<Name>>,
    temporary: Temporary,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved<'a, T> {
    /// This, or the server reports an error.
    Found(&'a T),
    /// One of these, or the server reports an error: which one depends on rights, or on a search_path that isn't known.
    Ambiguous(Vec<&'a T>),
    /// Nothing that the catalog has. It may be anything: a temporary relation, or one that is newer than the catalog.
    Missing,
}

impl<'a, T> Resolved<'a, T> {
    /// Everything that it may stand for; `None` where it may be anything.
    #[must_use]
    pub fn candidates(&self) -> Option<&[&'a T]> {
        match self {
            Self::Found(one) => Some(std::slice::from_ref(one)),
            Self::Ambiguous(several) => Some(several),
            Self::Missing => None,
        }
    }

    fn among(mut found: Vec<&'a T>) -> Self {
        match (found.len(), found.pop()) {
            (1, Some(one)) => Self::Found(one),
            (_, Some(last)) => {
                found.push(last);
                Self::Ambiguous(found)
            }
            (_, None) => Self::Missing,
        }
    }
}

impl Names {
    /// A session's names. `path` as [`Catalog::search_path_at_start`] gives it; `None` where it isn't known.
    #[must_use]
    pub fn new(catalog: Arc<Catalog>, path: Option<Vec<Name>>, temporary: Temporary) -> Self {
        Self {
            catalog,
            path,
            temporary,
        }
    }

    /// Names in texts that the server wrote itself, such as a view's definition: all are qualified but those of `pg_catalog`.
    #[must_use]
    pub fn of_definitions(catalog: Arc<Catalog>) -> Self {
        Self::new(catalog, Some(Vec::new()), Temporary::default())
    }

    /// The same session's names by another search_path, as a function may have one of its own.
    #[must_use]
    pub fn with_path(&self, path: Option<Vec<Name>>) -> Self {
        Self { path, ..self.clone() }
    }

    /// The catalog.
    #[must_use]
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// Schemas in which unqualified names are looked for, without `pg_catalog` where it comes first by itself.
    #[must_use]
    pub fn path(&self) -> Option<&[Name]> {
        self.path.as_deref()
    }

    /// What temporary relations there may be.
    #[must_use]
    pub fn temporary(&self) -> &Temporary {
        &self.temporary
    }

    /// The relation of a name.
    #[must_use]
    pub fn relation(&self, schema: Option<&str>, name: &str) -> Resolved<'_, Relation> {
        self.resolve(
            schema,
            name,
            |relation: &Relation| &relation.schema,
            || self.catalog.relations_named(name),
        )
    }

    /// Whether what is done with what a name stands for may run code that changes the session.
    #[must_use]
    pub fn may_change_session(&self, relation: &RelationRef, touch: Touch) -> bool {
        // The session made it by a statement that was seen.
        if relation.schema.is_none()
            && self.temporary != Temporary::Any
            && self.temporary.may_be(&relation.name)
        {
            return false;
        }
        let found = self.relation(relation.schema.as_deref(), &relation.name);
        let Some(candidates) = found.candidates() else {
            // Uncertainty denies: it is newer than what is known. What came with the server may be left out there.
            return touch != Touch::Altered
                && relation.schema.as_deref() != Some("pg_catalog")
                && !is_catalog(&relation.name);
        };
        candidates.iter().any(|one| {
            if touch == Touch::Read {
                self.catalog.changes_session_when_read(one.oid)
            } else {
                self.catalog.changes_session_when_written(one.oid)
            }
        })
    }

    /// The type of a name. Every relation is one, too.
    #[must_use]
    pub fn type_named(&self, schema: Option<&str>, name: &str) -> Resolved<'_, Type> {
        self.resolve(
            schema,
            name,
            |r#type: &Type| &r#type.schema,
            || self.catalog.types_named(name),
        )
    }

    /// The functions that a call may mean: all of the name that can be called with that many arguments, in any schema of the
    /// path, since the server picks by types. Empty where it may be anything; then `f(x)` may also be a cast to type `f` or x's
    /// column of that name. Temporary functions are only found under `pg_temp`, for which nothing is returned.
    #[must_use]
    pub fn functions(&self, schema: Option<&str>, name: &str, arguments: usize) -> Vec<&Function> {
        self.catalog
            .functions_named(name)
            .filter(|function| self.is_looked_at(schema, &function.schema) && function.takes(arguments))
            .collect()
    }

    /// The operators that an expression may mean, on any types. Empty where it may be anything.
    #[must_use]
    pub fn operators(&self, schema: Option<&str>, name: &str) -> Vec<&Operator> {
        self.catalog
            .operators_named(name)
            .filter(|operator| self.is_looked_at(schema, &operator.schema))
            .collect()
    }

    /// Whether a name is looked for in a schema.
    fn is_looked_at(&self, named: Option<&str>, schema: &str) -> bool {
        match (named, &self.path) {
            (Some(named), _) => *named == *schema,
            (None, None) => true,
            (None, Some(path)) => schema == "pg_catalog" || path.iter().any(|entry| **entry == *schema),
        }
    }

    fn resolve<'a, T, I: Iterator<Item = &'a T>>(
        &self,
        schema: Option<&str>,
        name: &str,
        schema_of: impl Fn(&T) -> &Name,
        all: impl Fn() -> I,
    ) -> Resolved<'a, T> {
        if let Some(schema) = schema {
            return Resolved::among(all().filter(|found| **schema_of(found) == *schema).collect());
        }
        // Uncertainty denies: a temporary one comes first, and what it holds isn't known.
        if self.temporary.may_be(name) {
            return Resolved::Missing;
        }
        let Some(path) = &self.path else {
            return Resolved::among(all().collect());
        };
        let within = |schema: &str| all().find(|found| **schema_of(found) == *schema);
        // It comes first where it isn't named, whatever the user's rights.
        if !path.iter().any(|schema| **schema == *"pg_catalog")
            && let Some(found) = within("pg_catalog")
        {
            return Resolved::Found(found);
        }
        // The server passes over schemas that the user may not use. So wherever a name is in several, it may be any of them.
        let mut found: Vec<(&Name, &T)> = Vec::new();
        for schema in path {
            if let Some(here) = within(schema)
                && !found.iter().any(|(seen, _)| *seen == schema)
            {
                found.push((schema, here));
            }
        }
        Resolved::among(found.into_iter().map(|(_, found)| found).collect())
    }
}
