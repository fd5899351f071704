//! Statements that aren't queries, and those with ways of their own.

use bailiff_model::SqlEffect;
use serde_json::{Map, Value};

use super::super::effects::plain_effects;
use super::super::lasting::Lasting;
use super::super::tree::{as_node, as_relation, list, text};
use super::{PathMove, Walk, any_relation};

/// Fields that hold the relation which a statement makes, changes or locks.
const WRITTEN: &[&str] = &[
    "objects",
    "rel",
    "relation",
    "relations",
    "rels",
    "sequence",
    "table",
    "typevar",
    "view",
];

/// Kinds whose fields of such names are read: what they make takes the rows or the columns of them.
fn reads_all(kind: &str) -> bool {
    matches!(
        kind,
        "CreateStatsStmt" | "CreatePublicationStmt" | "AlterPublicationStmt"
    )
}

impl Walk {
    pub(super) fn other_statement(&mut self, kind: &str, fields: &Map<String, Value>) {
        match plain_effects(kind) {
            Some(effects) => self.found.effects = self.found.effects.union(effects),
            // Uncertainty denies: a statement that a newer grammar brought.
            None => {
                self.add(SqlEffect::Unknown);
                self.lasts(Lasting::ANYTHING);
            }
        }
        self.lasts(Lasting::of(kind, fields));
        self.hangs(kind, fields);
        match kind {
            // What runs may do anything, and set anything.
            "DoStmt" | "ExecuteStmt" | "LoadStmt" => {
                self.runs(match kind {
                    "DoStmt" => "DO",
                    "ExecuteStmt" => "EXECUTE",
                    _ => "LOAD",
                });
                self.moves = PathMove::Anywhere;
            }
            "NotifyStmt" => self.runs("NOTIFY"),
            "CheckPointStmt" => self.runs("CHECKPOINT"),
            "CreateSchemaStmt" => return self.makes_schema(fields),
            "CallStmt" => self.moves = PathMove::Anywhere,
            "CreateForeignTableStmt" => {
                if let Some(base) = fields.get("base_stmt").and_then(Value::as_object) {
                    self.write(base.get("relation"));
                    self.fields(base, &["relation"]);
                }
                return self.fields(fields, &["base_stmt"]);
            }
            "CreateTableAsStmt" => {
                self.write(fields.get("into").and_then(|into| into.get("rel")));
                return self.fields(fields, &["into"]);
            }
            _ => {}
        }
        self.objects(kind, fields);
        if reads_all(kind) {
            return self.fields(fields, &[]);
        }
        for name in WRITTEN {
            if let Some(value) = fields.get(*name) {
                self.write_all(value);
            }
        }
        self.cascade(fields);
        self.fields(fields, WRITTEN);
        for name in WRITTEN {
            if let Some(value) = fields.get(*name) {
                self.called(value);
            }
        }
    }

    /// CASCADE reaches what isn't named.
    pub(super) fn cascade(&mut self, fields: &Map<String, Value>) {
        if fields.get("behavior").and_then(Value::as_i64) == Some(2) {
            self.found.writes.push(any_relation());
        }
    }

    /// Walks what a written relation's field holds besides names of relations: defaults, checks.
    fn called(&mut self, value: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.called(item)),
            Value::Object(fields) if as_relation(fields).is_none() => match as_node(fields) {
                Some(("RangeVar" | "VacuumRelation", _)) => {}
                Some((kind, body)) => self.node(kind, body),
                None => fields.values().for_each(|value| self.called(value)),
            },
            _ => {}
        }
    }

    pub(super) fn set(&mut self, fields: &Map<String, Value>) {
        let name = text(fields, "name");
        if name.starts_with("TRANSACTION") || name.starts_with("SESSION CHARACTERISTICS") {
            self.add(SqlEffect::Transaction);
        } else {
            self.add(SqlEffect::Set);
        }
        // RESET and SET … TO DEFAULT go back to what the session began with.
        let sets = matches!(fields.get("kind").and_then(Value::as_i64), Some(1 | 4));
        // In quotes the name keeps its case, for which the server doesn't care.
        if sets && name.eq_ignore_ascii_case("search_path") {
            let schemas: Vec<String> = list(fields, "args")
                .iter()
                .filter_map(|value| value.pointer("/node/AConst/val/Sval/sval"))
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            self.moves = if schemas.len() == list(fields, "args").len() && self.moves == PathMove::Stays {
                PathMove::To(schemas)
            } else {
                PathMove::Anywhere
            };
        }
        self.fields(fields, &[]);
    }

    pub(super) fn copy(&mut self, fields: &Map<String, Value>) {
        self.add(SqlEffect::Copy);
        let from = fields.get("is_from").and_then(Value::as_bool).unwrap_or(false);
        if from {
            self.add(SqlEffect::Insert);
            self.write(fields.get("relation"));
        } else {
            self.add(SqlEffect::Read);
            if let Some(relation) = fields
                .get("relation")
                .and_then(Value::as_object)
                .and_then(as_relation)
            {
                self.copies_whole(&relation);
                self.found.reads.push(relation); // Never a CTE.
            }
        }
        // A file or program on the server.
        if fields.get("is_program").and_then(Value::as_bool) == Some(true)
            || !text(fields, "filename").is_empty()
        {
            self.runs("COPY");
        }
        self.fields(fields, &["relation"]);
    }

    /// EXPLAIN runs what it explains only with ANALYZE. Without it nothing is written, but the plan tells of what is read.
    pub(super) fn explain(&mut self, fields: &Map<String, Value>) {
        let analyze = list(fields, "options").iter().any(|option| {
            let option = option.pointer("/node/DefElem");
            let name = option
                .and_then(|option| option.get("defname"))
                .and_then(Value::as_str);
            // Whatever its argument: `analyze off` is rare, and taking it for on is only stricter.
            name == Some("analyze")
        });
        self.add(SqlEffect::Read);
        if analyze {
            self.fields(fields, &["options"]);
        } else {
            let mut inner = Self {
                ctes: self.ctes.clone(),
                server: self.server,
                ..Self::default()
            };
            inner.fields(fields, &["options"]);
            for effect in [SqlEffect::Execute, SqlEffect::Unknown] {
                if inner.found.effects.contains(effect) {
                    self.add(effect); // Planning may run functions.
                }
            }
            self.found.functions.extend(inner.found.functions);
            self.found.reads.extend(inner.found.reads);
            self.found.reads.extend(inner.found.writes);
            // An EXPLAIN opens nothing, but planning may run functions.
            self.lasts(inner.lasting);
            if inner.moves != PathMove::Stays {
                self.moves = PathMove::Anywhere;
            }
        }
    }
}
