//! What rules match and cover: the meaning is told in `decide`.

use bailiff_model::{Effect, FunctionRef, RelationRef, SqlEffect, Statement};

use crate::catalog::Names;
use crate::classify::{any_relation, is_catalog, is_pure};
use crate::compiled::{Rule, Scope};
use crate::glob::Glob;
use crate::mask::Asked;

/// One thing that a statement does, which Allow rules must cover.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'a> {
    pub(crate) effect: SqlEffect,
    pub(crate) relation: Option<&'a RelationRef>,
    pub(crate) function: Option<&'a FunctionRef>,
}

/// What a statement does, each effect with each relation or function that it is about.
pub(crate) fn parts(statement: &Statement, path_trusted: bool) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    for effect in statement.effects.iter() {
        let (reads, writes): (&[RelationRef], &[RelationRef]) = match effect {
            SqlEffect::Read => (&statement.reads, &[]),
            SqlEffect::Insert
            | SqlEffect::Update
            | SqlEffect::Delete
            | SqlEffect::Truncate
            | SqlEffect::Create
            | SqlEffect::Alter
            | SqlEffect::Drop
            | SqlEffect::Grant
            | SqlEffect::Transaction => (&[], &statement.writes),
            SqlEffect::Copy => (&statement.reads, &statement.writes),
            SqlEffect::Execute | SqlEffect::Set | SqlEffect::Replication | SqlEffect::Unknown => (&[], &[]),
        };
        let before = parts.len();
        parts.extend(reads.iter().chain(writes).map(|relation| Part {
            effect,
            relation: Some(relation),
            function: None,
        }));
        if effect == SqlEffect::Execute {
            let acting = statement.functions.iter().filter(|function| {
                function.name != "set_config"
                    && !(is_pure(function.schema.as_deref(), &function.name)
                        && (path_trusted || function.schema.is_some()))
            });
            parts.extend(acting.map(|function| Part {
                effect,
                relation: None,
                function: Some(function),
            }));
        }
        if parts.len() == before {
            parts.push(Part {
                effect,
                relation: None,
                function: None,
            });
        }
    }
    parts
}

/// What is known of a statement besides what it says itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Around<'a> {
    /// How many statements its text has.
    pub(crate) statements: usize,
    /// The database's catalog, where it is known.
    pub(crate) names: Option<&'a Names>,
}

impl Around<'_> {
    /// Of an operation that comes alone, where no catalog is asked.
    pub(crate) const ALONE: Self = Self {
        statements: 1,
        names: None,
    };
}

impl Rule {
    /// Whether a statement does any of what the rule names, and as much as it asks for. A name without a schema may be in any.
    pub(crate) fn touches(&self, statement: &Statement, around: Around<'_>) -> bool {
        let may_be_named = |relation: &RelationRef| {
            self.relations
                .as_ref()
                .is_none_or(|globs| globs.iter().any(|glob| may_match(glob, relation)))
        };
        let effects = parts(statement, true).iter().any(|part| {
            self.effects.contains(part.effect)
                && match part.relation {
                    Some(relation) => may_be_named(relation),
                    // An effect without relations, in a rule about relations: any relation of the statement counts.
                    None => {
                        self.relations.is_none()
                            || statement.reads.iter().chain(&statement.writes).any(may_be_named)
                    }
                }
        });
        effects
            && self.functions.as_ref().is_none_or(|globs| {
                statement.functions.iter().any(|function| {
                    is_unseen_code(function) || globs.iter().any(|(_, name)| name.matches(&function.name))
                })
            })
            && self.reaches(statement, around)
    }

    /// Whether a statement touches as much as the rule asks for. Of what can't be told everything is touched.
    fn reaches(&self, statement: &Statement, around: Around<'_>) -> bool {
        let Scope {
            conditions,
            rows_above,
            without_limit,
            statements_above,
        } = &self.scope;
        let untold =
            statement.effects.contains(SqlEffect::Unknown) && self.effects.contains(SqlEffect::Unknown);
        if untold {
            return true;
        }
        let named = |relation: &RelationRef| {
            self.relations
                .as_ref()
                .is_none_or(|globs| globs.iter().any(|glob| may_match(glob, relation)))
        };
        let whole = || {
            statement.whole.iter().filter(|whole| {
                self.effects.contains(whole.effect)
                    && named(&whole.relation)
                    && conditions
                        .as_ref()
                        .is_none_or(|conditions| conditions.contains(&whole.condition))
            })
        };
        let many = |above: u64| {
            whole().any(|whole| {
                !whole.limited && rows(&whole.relation, around.names).is_none_or(|rows| rows > above)
            })
        };
        (conditions.is_none() || whole().next().is_some())
            && rows_above.is_none_or(many)
            && (!without_limit || statement.unlimited && statement.reads.iter().any(named))
            && statements_above.is_none_or(|above| around.statements as u64 > above)
    }

    /// Whether the rule allows a masked column to be used so.
    pub(crate) fn permits(&self, asked: &Asked<'_>) -> bool {
        let relations = match (&self.relations, asked.relation) {
            (None, _) => true,
            (Some(globs), Some((schema, table))) => {
                globs.iter().any(|(s, t)| s.matches(schema) && t.matches(table))
            }
            // What is used isn't known, so `relations` can't bound it.
            (Some(_), None) => false,
        };
        self.action == Effect::Allow
            && self.masked.contains(&asked.kind)
            && asked
                .statement
                .effects
                .iter()
                .all(|effect| self.effects.contains(effect))
            && relations
    }

    /// Whether the rule allows this part. A name without a schema is looked for in `path`, and must be allowed in every
    /// schema there.
    pub(crate) fn covers(&self, part: Part<'_>, path: &[String]) -> bool {
        let relations = match (&self.relations, part.relation) {
            (None, _) => true,
            (Some(globs), Some(relation)) => surely_matches(globs, relation, path),
            // `SELECT 1`, `BEGIN`, `SET` are about no relation. What is made or dropped is, or is no relation at all.
            (Some(_), None) => match part.effect {
                SqlEffect::Read | SqlEffect::Copy | SqlEffect::Set | SqlEffect::Transaction => true,
                SqlEffect::Execute => self.functions.is_some(),
                _ => false,
            },
        };
        let functions = match &self.functions {
            Some(globs) if part.effect == SqlEffect::Execute => part.function.is_some_and(|function| {
                globs.iter().any(|(schema, name)| {
                    name.matches(&function.name)
                        && (schema.is_any()
                            || match function.schema.as_deref() {
                                Some(found) => schema.matches(found),
                                None => !path.is_empty() && path.iter().all(|found| schema.matches(found)),
                            })
                })
            }),
            _ => true,
        };
        part.effect != SqlEffect::Unknown && self.effects.contains(part.effect) && relations && functions
    }
}

/// About how many rows a relation has. `None` where that isn't known, which counts as more than any number: uncertainty denies.
fn rows(relation: &RelationRef, names: Option<&Names>) -> Option<u64> {
    let names = names?;
    let found = names.relation(relation.schema.as_deref(), &relation.name);
    let mut most = None;
    for candidate in found.candidates()? {
        most = most.max(Some(names.catalog().rows(candidate.oid)?));
    }
    most
}

/// Stands for code that a statement brings or that was prepared before.
fn is_unseen_code(function: &FunctionRef) -> bool {
    function.schema.is_none() && matches!(function.name.as_str(), "DO" | "EXECUTE")
}

/// The name that stands for every relation of a schema. A relation that is really called so is held to the same, which is only stricter.
const ANY: &str = "*";

fn may_match((schema, name): &(Glob, Glob), relation: &RelationRef) -> bool {
    *relation == any_relation()
        || (relation.name == ANY || name.matches(&relation.name))
            && relation.schema.as_ref().is_none_or(|found| schema.matches(found))
}

fn surely_matches(globs: &[(Glob, Glob)], relation: &RelationRef, path: &[String]) -> bool {
    let in_schema = |schema: &str| {
        globs
            .iter()
            .any(|(s, name)| s.matches(schema) && name.matches(&relation.name))
    };
    if *relation == any_relation() {
        return globs
            .iter()
            .any(|(schema, name)| schema.is_any() && name.is_any());
    }
    match relation.schema.as_deref() {
        Some(schema) if relation.name == ANY => {
            globs.iter().any(|(s, name)| s.matches(schema) && name.is_any())
        }
        Some(schema) => in_schema(schema),
        None if in_any_schema(globs, &relation.name) => true,
        // pg_catalog is searched before anything else, as long as the path is known.
        None if is_catalog(&relation.name) => !path.is_empty() && in_schema("pg_catalog"),
        None => !path.is_empty() && path.iter().all(|schema| in_schema(schema)),
    }
}

fn in_any_schema(globs: &[(Glob, Glob)], name: &str) -> bool {
    globs
        .iter()
        .any(|(schema, pattern)| schema.is_any() && pattern.matches(name))
}
