//! Which relations a statement goes through without a condition that narrows them.

use bailiff_model::{Condition, RelationRef, SqlEffect, Whole};
use serde_json::{Map, Value};

use super::super::condition::{Narrowing, all_of, narrowing};
use super::super::tree::{as_node, as_relation, list};
use super::Walk;

impl Walk {
    pub(super) fn reads_whole(&mut self, select: &Map<String, Value>) {
        let sources = self.sources(select, "from_clause");
        if sources.is_empty() {
            return;
        }
        let limited = is_limited(select);
        let narrowing = self.noted(narrowing(select.get("where_clause")));
        for relation in &sources {
            self.goes_through(SqlEffect::Read, relation, narrowing, limited);
            if !list(select, "locking_clause").is_empty() {
                self.goes_through(SqlEffect::Update, relation, narrowing, limited);
            }
        }
    }

    /// UPDATE and DELETE.
    pub(super) fn changes_whole(&mut self, kind: &str, fields: &Map<String, Value>) {
        let narrowing = self.noted(narrowing(fields.get("where_clause")));
        let (effect, others) = match kind {
            "UpdateStmt" => (SqlEffect::Update, "from_clause"),
            _ => (SqlEffect::Delete, "using_clause"),
        };
        if let Some(relation) = target(fields) {
            self.goes_through(effect, &relation, narrowing, false);
        }
        for relation in self.sources(fields, others) {
            self.goes_through(SqlEffect::Read, &relation, narrowing, false);
        }
    }

    /// What matches is narrowed by the join's condition, what doesn't match by nothing but the clause's own.
    pub(super) fn merges_whole(&mut self, fields: &Map<String, Value>) {
        const BY_SOURCE: i64 = 2;
        let Some(relation) = target(fields) else { return };
        for clause in list(fields, "merge_when_clauses") {
            let Some(clause) = clause.pointer("/node/MergeWhenClause") else {
                continue;
            };
            let effect = match clause.get("command_type").and_then(Value::as_i64) {
                Some(3) => SqlEffect::Update,
                Some(5) => SqlEffect::Delete,
                _ => continue,
            };
            let own = clause.get("condition");
            let narrowing = if clause.get("match_kind").and_then(Value::as_i64) == Some(BY_SOURCE) {
                narrowing(own)
            } else {
                all_of(&[fields.get("join_condition"), own])
            };
            let narrowing = self.noted(narrowing);
            self.goes_through(effect, &relation, narrowing, false);
        }
    }

    pub(super) fn empties_whole(&mut self, fields: &Map<String, Value>) {
        for relation in list(fields, "relations") {
            if let Some(relation) = relation
                .pointer("/node/RangeVar")
                .and_then(Value::as_object)
                .and_then(as_relation)
            {
                self.goes_through(SqlEffect::Truncate, &relation, Some(Condition::Missing), false);
            }
        }
    }

    pub(super) fn copies_whole(&mut self, relation: &RelationRef) {
        self.goes_through(SqlEffect::Read, relation, Some(Condition::Missing), false);
    }

    fn noted(&mut self, narrowing: Narrowing) -> Option<Condition> {
        self.by_number |= narrowing.by_number;
        narrowing.open
    }

    fn goes_through(
        &mut self,
        effect: SqlEffect,
        relation: &RelationRef,
        open: Option<Condition>,
        limited: bool,
    ) {
        let Some(condition) = open else { return };
        let whole = Whole {
            effect,
            relation: relation.clone(),
            condition,
            limited,
        };
        if !self.found.whole.contains(&whole) {
            self.found.whole.push(whole);
        }
    }

    /// The relations that a FROM clause names itself, not those of its subqueries: they have conditions of their own.
    fn sources(&self, fields: &Map<String, Value>, clause: &str) -> Vec<RelationRef> {
        let with = fields.get("with_clause").and_then(Value::as_object);
        let own: Vec<&str> = with
            .map_or(&[][..], |with| list(with, "ctes"))
            .iter()
            .filter_map(|cte| cte.pointer("/node/CommonTableExpr/ctename")?.as_str())
            .collect();
        let mut found = Vec::new();
        for item in list(fields, clause) {
            collect(item, &mut found);
        }
        found.retain(|relation: &RelationRef| {
            relation.schema.is_some()
                || !self.ctes.contains(&relation.name) && !own.contains(&relation.name.as_str())
        });
        found
    }
}

fn collect(item: &Value, found: &mut Vec<RelationRef>) {
    match item.as_object().and_then(as_node) {
        Some(("RangeVar", body)) => found.extend(body.as_object().and_then(as_relation)),
        Some(("JoinExpr", body)) => {
            for side in ["larg", "rarg"] {
                if let Some(side) = body.get(side) {
                    collect(side, found);
                }
            }
        }
        Some(("RangeTableSample", body)) => {
            if let Some(relation) = body.get("relation") {
                collect(relation, found);
            }
        }
        _ => {}
    }
}

fn target(fields: &Map<String, Value>) -> Option<RelationRef> {
    fields
        .get("relation")
        .and_then(Value::as_object)
        .and_then(as_relation)
}

fn is_limited(select: &Map<String, Value>) -> bool {
    match select.get("limit_count") {
        None | Some(Value::Null) => false,
        // LIMIT ALL and LIMIT NULL.
        Some(count) => count.pointer("/node/AConst/isnull").and_then(Value::as_bool) != Some(true),
    }
}

/// Whether what a statement returns, it returns without a LIMIT.
pub(super) fn unlimited(tree: &Value) -> bool {
    let Some((kind, body)) = tree.as_object().and_then(as_node) else {
        return false;
    };
    let Some(fields) = body.as_object() else {
        return false;
    };
    match kind {
        "SelectStmt" => !is_limited(fields),
        "CopyStmt" => {
            fields.get("is_from").and_then(Value::as_bool) != Some(true)
                && fields
                    .get("query")
                    .filter(|query| !query.is_null())
                    .is_none_or(unlimited)
        }
        "DeclareCursorStmt" | "PrepareStmt" => fields.get("query").is_some_and(unlimited),
        _ => false,
    }
}
