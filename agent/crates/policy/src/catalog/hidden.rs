//! Code that relations run by themselves and that may change the session: its search_path, its role, its temporary relations.
//!
//! Views, rules, defaults, checks, policies and triggers hold code that the statement doesn't show. Most of it changes nothing of
//! the session; what may is told by the texts that the server gives of it. What can't be told counts as changing it.

use std::collections::{HashMap, HashSet};

use super::{Contents, Name, Oid, Relation, Trigger, TypeKind};

/// Built-in functions that change settings, or run whatever text they are given. Sorted.
const CHANGING: &[&str] = &[
    "cursor_to_xml",
    "cursor_to_xmlschema",
    "database_to_xml",
    "database_to_xml_and_xmlschema",
    "query_to_xml",
    "query_to_xml_and_xmlschema",
    "query_to_xmlschema",
    "schema_to_xml",
    "schema_to_xml_and_xmlschema",
    "set_config",
    "table_to_xml",
    "table_to_xml_and_xmlschema",
    "ts_rewrite",
    "ts_stat",
];

/// Words of PL/pgSQL with which a function may change the session, or run what can't be told.
const STRONG: &[&str] = &[
    "alter",
    "authorization",
    "call",
    "create",
    "discard",
    "execute",
    "pg_settings",
    "pg_temp",
    "reset",
    "role",
    "schema",
    "search_path",
    "session",
    "temp",
    "temporary",
    "u",
];

/// Relations that may change the session, by what is done with them.
#[derive(Debug, Default)]
pub(super) struct Hidden {
    read: HashSet<Oid>,
    written: HashSet<Oid>,
}

impl Hidden {
    /// Of everything that a catalog has.
    pub(super) fn of(contents: &Contents) -> Self {
        let mut this = Self::default();
        let made: HashSet<&str> = contents
            .functions
            .values()
            .filter(|function| {
                !function.oid.came_with_server() && !matches!(&*function.language, "c" | "internal")
            })
            .map(|function| &*function.name)
            .collect();
        let mut triggers = HashMap::new();
        // What a view or a trigger uses may be found to be such only later.
        loop {
            let before = this.read.len() + this.written.len();
            let by_name = this.names(contents);
            for relation in contents
                .relations
                .values()
                .filter(|one| !one.oid.came_with_server())
            {
                let below = |set: &HashSet<Oid>| relation.depends.iter().any(|on| set.contains(&on.relation));
                let family = |set: &HashSet<Oid>| relation.children.iter().any(|child| set.contains(child));
                if below(&this.read) || family(&this.read) || when_read(contents, relation) {
                    this.read.insert(relation.oid);
                }
                let triggered = relation
                    .triggers
                    .iter()
                    .any(|trigger| fires(contents, trigger, &made, &by_name, &mut triggers));
                if triggered
                    || below(&this.written)
                    || family(&this.written)
                    || when_written(contents, relation)
                {
                    this.written.insert(relation.oid);
                }
            }
            triggers.clear();
            if this.read.len() + this.written.len() == before {
                return this;
            }
        }
    }

    pub(super) fn when_read(&self, oid: Oid) -> bool {
        self.read.contains(&oid)
    }

    pub(super) fn when_written(&self, oid: Oid) -> bool {
        self.written.contains(&oid) || self.read.contains(&oid)
    }

    /// The names of all of them, without capitals.
    fn names(&self, contents: &Contents) -> HashSet<String> {
        self.read
            .iter()
            .chain(&self.written)
            .filter_map(|oid| contents.relations.get(oid))
            .map(|relation| relation.name.to_lowercase())
            .collect()
    }
}

fn when_read(contents: &Contents, relation: &Relation) -> bool {
    relation
        .definition
        .as_deref()
        .is_some_and(|text| changes(contents, text))
        || relation.row_security && relation.expressions.iter().any(|text| changes(contents, text))
}

fn when_written(contents: &Contents, relation: &Relation) -> bool {
    let of_column = |column: &super::Column| {
        column
            .expression
            .as_deref()
            .is_some_and(|text| changes(contents, text))
            || type_changes(contents, column.type_oid, &mut HashSet::new())
    };
    relation.expressions.iter().any(|text| changes(contents, text))
        || relation.rules.iter().any(|rule| changes(contents, &rule.definition))
        || relation.columns.iter().any(of_column)
        // An UPDATE of it is one of settings.
        || relation.definition.as_deref().is_some_and(|text| text.contains("pg_settings"))
}

/// Whether making a value of a type may change the session.
pub(super) fn type_changes(contents: &Contents, oid: Oid, seen: &mut HashSet<Oid>) -> bool {
    if oid.came_with_server() || !seen.insert(oid) {
        return false;
    }
    match contents.types.get(&oid).map(|found| &found.kind) {
        Some(TypeKind::Domain { base, checks }) => {
            checks.iter().any(|check| changes(contents, check)) || type_changes(contents, *base, seen)
        }
        Some(
            TypeKind::Array { element: inner }
            | TypeKind::Range { subtype: inner }
            | TypeKind::Multirange { range: inner },
        ) => type_changes(contents, *inner, seen),
        Some(TypeKind::Composite { relation }) => contents.relations.get(relation).is_some_and(|relation| {
            let mut columns = relation.columns.iter();
            columns.any(|column| type_changes(contents, column.type_oid, seen))
        }),
        Some(TypeKind::Base | TypeKind::Enum | TypeKind::Pseudo | TypeKind::Other) | None => false,
    }
}

/// Whether a text that the server wrote calls anything that may change the session. It qualifies whatever isn't its own, so
/// every qualified call or operator counts but those of compiled functions, which a superuser made.
fn changes(contents: &Contents, text: &str) -> bool {
    changes_but(text, &|schema, name| {
        let named = contents.function_names.get(name);
        let found = || {
            let all = named.into_iter().flatten();
            let all = all.filter_map(|oid| contents.functions.get(oid));
            all.filter(|function| *function.schema == *schema)
        };
        found().next().is_some() && found().all(|function| matches!(&*function.language, "c" | "internal"))
    })
}

/// The same, with what tells of a function by its schema and name whether it is compiled.
fn changes_but(text: &str, is_compiled: &dyn Fn(&str, &str) -> bool) -> bool {
    // Uncertainty denies: an empty one couldn't be told.
    if text.is_empty() || text.contains("OPERATOR(") && !text.contains("OPERATOR(pg_catalog.") {
        return true;
    }
    text.match_indices('(').any(|(place, _)| {
        let (ahead, name) = last_name(text.get(..place).unwrap_or_default());
        if name.is_empty() {
            return false;
        }
        match ahead.strip_suffix('.').map(|schema| last_name(schema).1) {
            Some("pg_catalog") | None => CHANGING.binary_search(&name).is_ok(),
            Some(schema) => !is_compiled(schema, name),
        }
    })
}

/// The name at a text's end, and what stands before it. One in quotes is given without them, and with its own quotes doubled.
fn last_name(text: &str) -> (&str, &str) {
    if let Some(inner) = text.strip_suffix('"') {
        let start = inner.rfind('"').unwrap_or_default();
        let (ahead, name) = inner.split_at(start);
        return (ahead, name.strip_prefix('"').unwrap_or(name));
    }
    let within = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$');
    text.split_at(text.trim_end_matches(within).len())
}

/// Whether a trigger may change the session.
fn fires(
    contents: &Contents,
    trigger: &Trigger,
    made: &HashSet<&str>,
    relations: &HashSet<String>,
    known: &mut HashMap<Oid, bool>,
) -> bool {
    let Some(function) = contents.functions.get(&trigger.function) else {
        return true;
    };
    if matches!(&*function.language, "internal" | "c") {
        return false; // Compiled, by a superuser.
    }
    *known
        .entry(function.oid)
        .or_insert_with(|| match function.body.as_deref() {
            Some(body) if &*function.language == "plpgsql" => runs(body, &function.name, made, relations),
            // Uncertainty denies: another language, or a body that is too long.
            _ => true,
        })
}

/// Whether a body in PL/pgSQL may change the session: by its words, by functions that aren't the server's, or by relations that
/// may do so.
fn runs(body: &str, own: &Name, made: &HashSet<&str>, relations: &HashSet<String>) -> bool {
    let body = body.to_lowercase();
    let mut words = body.split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '$')));
    words.any(|word| {
        STRONG.binary_search(&word).is_ok()
            || CHANGING.binary_search(&word).is_ok()
            || made.contains(word)
            || relations.contains(word)
    }) || made
        .iter()
        .any(|name| **name != **own && is_odd(name) && body.contains(&name.to_lowercase()))
        || relations.iter().any(|name| is_odd(name) && body.contains(name))
}

/// Whether a name isn't one word, or has capitals.
fn is_odd(name: &str) -> bool {
    !name
        .chars()
        .all(|c| c.is_lowercase() || c.is_numeric() || matches!(c, '_' | '$'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sorted() {
        assert!(CHANGING.is_sorted() && STRONG.is_sorted());
    }

    #[test]
    fn texts_of_the_server() {
        let told = |text: &str| changes_but(text, &|schema, name| (schema, name) == ("public", "uuid"));
        for harmless in [
            "nextval('public.t_a_seq'::regclass)",
            "public.uuid()",
            "(\"public\".\"uuid\"() <> 'x')",
            "(length(ssn) < 100)",
            "SELECT p.id, upper(p.ssn) AS number FROM public.people p WHERE (p.id = ANY (ARRAY[1, 2]))",
            "CREATE RULE copies AS ON INSERT TO hr.people DO INSERT INTO public.parts (id) VALUES (new.id)",
            "'x'::character varying(20)",
            "(count(*) + pg_catalog.count(*))",
            "(a OPERATOR(pg_catalog.+) b)",
        ] {
            assert!(!told(harmless), "{harmless}");
        }
        for telling in [
            "set_config('search_path'::text, 'other'::text, false)",
            "pg_catalog.set_config('a', 'b', false)",
            "SELECT public.f(1)",
            "other.uuid()",
            "SELECT \"Odd\".\"f g\"(1)",
            "SELECT \"set_config\"('a', 'b', false)",
            "(a OPERATOR(public.===) b)",
            "query_to_xml('select 1', true, false, '')",
            "",
        ] {
            assert!(told(telling), "{telling}");
        }
    }

    #[test]
    fn bodies_of_triggers() {
        let own = "touch".into();
        let made = HashSet::from(["touch", "worker", "My Worker"]);
        let relations = HashSet::from(["acting".to_owned()]);
        let told = |body: &str| runs(body, &own, &made, &relations);
        assert!(!told("begin new.updated_at := now(); return new; end"));
        assert!(!told(
            "begin insert into audit values (old.id, \"x\"); return null; end"
        ));
        for body in [
            "begin perform set_config('search_path', 'a', false); return new; end",
            "begin SET search_path = a; return new; end",
            "begin execute 'x'; return new; end",
            "begin create TEMP table notes (a int); return new; end",
            "begin perform worker(); return new; end",
            "begin perform \"My Worker\"(); return new; end",
            "begin insert into acting values (1); return new; end",
            "begin set local U&\"r\\006fle\" = 'bob'; end",
        ] {
            assert!(told(body), "{body}");
        }
    }
}
