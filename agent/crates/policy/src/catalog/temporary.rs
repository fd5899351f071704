//! What temporary relations a session may have.

use std::collections::BTreeSet;

use bailiff_model::SqlEffect;

use super::Name;
use crate::classify::{Classified, Compact, Tree};

/// What temporary relations a session may have. They come before all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Temporary {
    /// None but perhaps these, and sequences that the server made for their columns.
    Only(BTreeSet<Name>),
    /// Anything may be one.
    Any,
}

impl Default for Temporary {
    fn default() -> Self {
        Self::Only(BTreeSet::new())
    }
}

/// Names of temporary relations that are told apart.
const MOST: usize = 256;

/// Parts of a statement that name what there is, and nothing that it makes.
const NAMING: &[&str] = &[
    "ColumnRef",
    "FuncCall",
    "SelectStmt",
    "TableLikeClause",
    "TypeName",
];

impl Temporary {
    /// Whether a bare name may be one.
    #[must_use]
    pub fn may_be(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Only(names) => names.contains(name) || !names.is_empty() && is_of_a_column(name),
        }
    }

    /// What there may be after a text. `anywhere` where the search_path isn't known, so that all that is made may be temporary.
    #[must_use]
    pub fn after(&self, classified: &Classified, anywhere: bool) -> Self {
        let mut after = self.clone();
        for (place, statement) in classified.statements().iter().enumerate() {
            let changes = [SqlEffect::Create, SqlEffect::Alter]
                .into_iter()
                .any(|effect| statement.effects.contains(effect));
            let Self::Only(names) = &after else { break };
            if !changes {
                continue;
            }
            let Some(compact) = classified.compact(place) else {
                return Self::Any;
            };
            // A view over a temporary relation is temporary; what was renamed goes on being it.
            if !anywhere && !says(&compact.root) && !some(&compact.root, &|name| after.may_be(name)) {
                continue;
            }
            if !is_told(compact) {
                return Self::Any;
            }
            let mut names = names.clone();
            names.extend(
                statement
                    .writes
                    .iter()
                    .map(|relation| Name::from(&*relation.name)),
            );
            made(&compact.root, &mut names);
            after = if names.len() > MOST {
                Self::Any
            } else {
                Self::Only(names)
            };
        }
        after
    }
}

/// Whether the server may have given a sequence this name, when it made it for a column.
fn is_of_a_column(name: &str) -> bool {
    let number = name
        .rsplit_once('_')
        .and_then(|(_, last)| last.strip_prefix("seq"));
    number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether all that a statement makes is named in it.
fn is_told(compact: &Compact) -> bool {
    compact
        .root
        .node()
        .is_some_and(|node| node.kind != "ImportForeignSchemaStmt")
}

/// Whether it makes or names something temporary.
fn says(tree: &Tree) -> bool {
    match tree {
        Tree::Node(node) => {
            node.text("relpersistence") == "t"
                || node.fields().any(|(_, value)| {
                    matches!(value, Tree::Text(text) if text.starts_with("pg_temp")) || says(value)
                })
        }
        Tree::List(items) => items.iter().any(says),
        Tree::Absent | Tree::Number(_) | Tree::Text(_) => false,
    }
}

/// Whether any name in it is one of these.
fn some(tree: &Tree, is_one: &dyn Fn(&str) -> bool) -> bool {
    match tree {
        Tree::Text(text) => is_one(text),
        Tree::Node(node) => node.fields().any(|(_, value)| some(value, is_one)),
        Tree::List(items) => items.iter().any(|item| some(item, is_one)),
        Tree::Absent | Tree::Number(_) => false,
    }
}

/// Collects the names that it may give.
fn made(tree: &Tree, names: &mut BTreeSet<Name>) {
    match tree {
        Tree::Text(text) => {
            names.insert(text.clone());
        }
        Tree::Node(node) if NAMING.contains(&node.kind) => {}
        Tree::Node(node) => {
            for (field, value) in node.fields() {
                if !matches!(field, "colname" | "inh_relations" | "pktable" | "relpersistence") {
                    made(value, names);
                }
            }
        }
        Tree::List(items) => items.iter().for_each(|item| made(item, names)),
        Tree::Absent | Tree::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::{Settings, classify};

    fn after(before: &Temporary, sql: &str) -> Temporary {
        before.after(&classify(sql, &Settings::default()).unwrap(), false)
    }

    #[test]
    fn what_is_made_temporary() {
        for (sql, name) in [
            ("create temp table notes (a int)", "notes"),
            ("create table pg_temp.notes (a int)", "notes"),
            ("create table U&\"pg_t\\0065mp\".notes (a int)", "notes"),
            ("create view pg_temp_3.notes as select 1", "notes"),
            ("select 1 into temp notes", "notes"),
            ("select 1 as a into U&\"pg_t\\0065mp\".notes", "notes"),
            ("create temp sequence notes", "notes"),
            (
                "create temp table t (a int generated always as identity (sequence name notes))",
                "notes",
            ),
            ("create temp table t (a serial)", "t_a_seq"),
            ("create temp table t (a serial)", "t_a_seq12"),
            ("create temp table notes as execute p", "notes"),
        ] {
            let made = after(&Temporary::default(), sql);
            assert!(made.may_be(name) && made != Temporary::Any, "{sql}: {made:?}");
        }
        let lasting = after(&Temporary::default(), "create table notes (a serial)");
        assert_eq!(lasting, Temporary::default());
        let foreign = after(
            &Temporary::default(),
            "import foreign schema x from server y into pg_temp_3",
        );
        assert_eq!(foreign, Temporary::Any);
    }

    #[test]
    fn what_becomes_so_by_what_it_is_made_of() {
        let one = after(
            &Temporary::default(),
            "create temp table t (a serial) on commit drop",
        );
        for (sql, name) in [
            ("alter table t rename to notes", "notes"),
            ("create view notes as select a from t", "notes"),
            ("create view notes as select * from (select 1 from t) q", "notes"),
            ("create view notes as select last_value from t_a_seq", "notes"),
            (
                "alter table t alter a add generated always as identity (sequence name notes)",
                "notes",
            ),
        ] {
            let made = after(&one, sql);
            assert!(made.may_be(name) && made != Temporary::Any, "{sql}: {made:?}");
        }
        let over = after(
            &after(&one, "create view u as select a from t"),
            "create view w as select * from u",
        );
        assert!(over.may_be("w"));
        // What is read for it isn't made by it.
        let copied = after(&one, "create temp table copied (like people) on commit drop");
        assert!(!copied.may_be("people") && copied.may_be("copied"));
        let filled = after(
            &one,
            "create temp table filled as select people.id from people join orders on true",
        );
        assert!(!filled.may_be("people") && !filled.may_be("orders") && filled.may_be("filled"));
        assert_eq!(after(&one, "create index on orders (id)"), one);
    }
}
