//! Functions: which read what they aren't given, and which never fail.

use super::{Analysis, Flow};
use crate::catalog::TypeKind;
use crate::classify::{Tree, is_pure};

/// Built-in functions that act, but read no table: what they tell has nothing to do with what is in columns. Sorted.
const ACTING: &[&str] = &[
    "currval",
    "lastval",
    "nextval",
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_advisory_unlock",
    "pg_advisory_unlock_all",
    "pg_advisory_unlock_shared",
    "pg_advisory_xact_lock",
    "pg_advisory_xact_lock_shared",
    "pg_current_snapshot",
    "pg_current_xact_id",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared",
    "pg_try_advisory_xact_lock",
    "pg_try_advisory_xact_lock_shared",
    "set_config",
    "setseed",
    "setval",
    "txid_current",
    "txid_current_snapshot",
];

/// Which arguments of a function may hold anything without its ever failing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Never {
    /// All.
    Any,
    /// The first.
    First,
    /// All but the first.
    AllButFirst,
    /// The second, the fourth and so on.
    Odd,
}

/// Sorted by name.
const FAILING_NEVER: &[(&str, Never)] = &[
    ("any_value", Never::Any),
    ("array_agg", Never::Any),
    ("ascii", Never::Any),
    ("avg", Never::Any),
    ("bit_length", Never::Any),
    ("bool_and", Never::Any),
    ("bool_or", Never::Any),
    ("btrim", Never::Any),
    ("char_length", Never::Any),
    ("character_length", Never::Any),
    ("concat", Never::Any),
    ("concat_ws", Never::Any),
    ("count", Never::Any),
    ("dense_rank", Never::Any),
    ("every", Never::Any),
    ("first_value", Never::Any),
    ("format", Never::AllButFirst),
    ("json_agg", Never::Any),
    ("json_agg_strict", Never::Any),
    ("json_build_array", Never::Any),
    ("json_build_object", Never::Odd),
    ("jsonb_agg", Never::Any),
    ("jsonb_agg_strict", Never::Any),
    ("jsonb_build_array", Never::Any),
    ("jsonb_build_object", Never::Odd),
    ("lag", Never::First),
    ("last_value", Never::Any),
    ("lead", Never::First),
    ("left", Never::First),
    ("length", Never::Any),
    ("lower", Never::Any),
    ("ltrim", Never::Any),
    ("max", Never::Any),
    ("md5", Never::Any),
    ("min", Never::Any),
    ("nth_value", Never::First),
    ("octet_length", Never::Any),
    ("overlay", Never::First),
    ("percentile_disc", Never::AllButFirst),
    ("pg_column_size", Never::Any),
    ("position", Never::Any),
    ("quote_ident", Never::Any),
    ("quote_literal", Never::Any),
    ("quote_nullable", Never::Any),
    ("rank", Never::Any),
    ("replace", Never::First),
    ("reverse", Never::Any),
    ("right", Never::First),
    ("row_number", Never::Any),
    ("row_to_json", Never::Any),
    ("rtrim", Never::Any),
    ("sha256", Never::Any),
    ("starts_with", Never::Any),
    ("string_agg", Never::Any),
    ("strpos", Never::Any),
    ("substr", Never::First),
    ("substring", Never::First),
    ("sum", Never::Any),
    ("to_json", Never::Any),
    ("to_jsonb", Never::Any),
    ("translate", Never::Any),
    ("upper", Never::Any),
];

pub(super) fn fails_never(name: &str) -> Option<Never> {
    let place = FAILING_NEVER
        .binary_search_by_key(&name, |(name, _)| *name)
        .ok()?;
    FAILING_NEVER.get(place).map(|(_, never)| *never)
}

/// Comparing, and joining texts.
pub(super) fn operator_fails_never(name: &str) -> bool {
    matches!(name, "=" | "<>" | "!=" | "<" | ">" | "<=" | ">=" | "||")
}

impl Analysis<'_> {
    /// What a call may read besides its arguments.
    pub(super) fn unseen_function(&mut self, schema: Option<&str>, name: &str, arguments: usize) -> Flow {
        let known = is_pure(schema, name)
            || (matches!(schema, None | Some("pg_catalog")) && ACTING.binary_search(&name).is_ok());
        let candidates = self.names.functions(schema, name, arguments);
        let ours = |found: &&crate::catalog::Function| {
            found.oid.came_with_server() && *found.schema == *"pg_catalog"
        };
        if known && !candidates.is_empty() && candidates.iter().all(ours) {
            return Flow::Clean;
        }
        self.runs_unseen(format!("{name}()"))
    }

    /// Whether a call in FROM surely gives one column: no composite type, no OUT parameters.
    pub(super) fn gives_one_column(&self, call: &Tree) -> bool {
        let Some(node) = call.node() else { return false };
        let Some(names) = node.names("funcname") else {
            return false;
        };
        let (schema, name) = match names.as_slice() {
            [name] => (None, *name),
            [.., schema, name] => (Some(*schema), *name),
            [] => return false,
        };
        let catalog = self.names.catalog();
        let candidates = self.names.functions(schema, name, node.list("args").len());
        !candidates.is_empty()
            && candidates.iter().all(|function| {
                let gives = function
                    .modes
                    .iter()
                    .filter(|(mode, _)| matches!(mode, b'o' | b'b' | b't'));
                let scalar = catalog.type_by_oid(function.returns).is_some_and(|found| {
                    !matches!(
                        found.kind,
                        TypeKind::Composite { .. }
                            | TypeKind::Domain { .. }
                            | TypeKind::Pseudo
                            | TypeKind::Other
                    )
                });
                gives.count() == 0 && scalar
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sorted() {
        assert!(ACTING.is_sorted());
        assert!(FAILING_NEVER.is_sorted_by_key(|(name, _)| name));
        assert_eq!(fails_never("upper"), Some(Never::Any));
        assert_eq!(fails_never("unnest"), None);
    }
}
