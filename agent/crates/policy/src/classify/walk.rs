//! The walk over a statement's tree.

mod code;
mod objects;
mod statements;
mod whole;

use bailiff_model::{FunctionRef, RelationRef, SqlEffect, Statement};
use serde_json::{Map, Value};

use super::functions::{acts_alone, is_pure};
use super::lasting::Lasting;
use super::tree::{as_node, as_relation, holds_column, is_query, list, qualified, strings, text};

/// What a walk found.
pub(super) struct Walked {
    pub(super) statement: Statement,
    pub(super) moves: PathMove,
    pub(super) lasting: Lasting,
    /// Whether what it does depends on a number that stands in it.
    pub(super) by_number: bool,
}

/// Where unqualified names are looked for after a statement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PathMove {
    /// Where they were before.
    #[default]
    Stays,
    /// In these schemas.
    To(Vec<String>),
    /// Nobody knows.
    Anywhere,
}

/// Walks one statement, given as the JSON of its `Node`, as a server of a major version reads it.
pub(super) fn statement(tree: &Value, server: u32) -> Walked {
    let mut walk = Walk {
        server,
        ..Walk::default()
    };
    walk.value(tree);
    walk.found.unlimited = whole::unlimited(tree) && !walk.found.reads.is_empty();
    for list in [&mut walk.found.reads, &mut walk.found.writes] {
        list.sort();
        list.dedup();
    }
    walk.found.functions.sort();
    walk.found.functions.dedup();
    Walked {
        statement: walk.found,
        moves: walk.moves,
        lasting: walk.lasting,
        by_number: walk.by_number,
    }
}

/// What the grammar reads as the server's own since a major version, and an older server as a call of whatever function has that name:
/// JSON_VALUE, JSON_ARRAY, MERGE_ACTION and their kind.
fn newer_function(kind: &str) -> Option<u32> {
    match kind {
        "JsonObjectConstructor" | "JsonArrayConstructor" | "JsonObjectAgg" | "JsonArrayAgg" => Some(16),
        "JsonFuncExpr" | "JsonParseExpr" | "JsonScalarExpr" | "JsonSerializeExpr" | "MergeSupportFunc" => {
            Some(17)
        }
        _ => None,
    }
}

/// A relation that can't be told: CASCADE reaches what the statement doesn't name. Only a rule for all relations covers it.
pub(crate) fn any_relation() -> RelationRef {
    RelationRef {
        schema: Some("*".to_owned()),
        name: "*".to_owned(),
    }
}

/// Any relation of a schema, where a statement is about all that are there.
pub(crate) fn any_relation_of(schema: &str) -> RelationRef {
    RelationRef {
        schema: Some(schema.to_owned()),
        name: "*".to_owned(),
    }
}

#[derive(Default)]
struct Walk {
    found: Statement,
    moves: PathMove,
    lasting: Lasting,
    by_number: bool,
    /// The server's major version.
    server: u32,
    /// Names of CTEs in scope. A relation of such a name, unqualified, is the CTE.
    ctes: Vec<String>,
}

impl Walk {
    fn add(&mut self, effect: SqlEffect) {
        self.found.effects = self.found.effects.with(effect);
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.value(item)),
            Value::Object(fields) => {
                if let Some((kind, body)) = as_node(fields) {
                    self.node(kind, body);
                } else if let Some(relation) = as_relation(fields) {
                    self.read(relation);
                    self.fields(fields, &[]);
                } else if is_query(fields) {
                    self.select(fields); // An arm of UNION, which the tree holds without a Node around it.
                } else if fields.contains_key("funcname") && fields.contains_key("agg_within_group") {
                    self.function(fields); // CALL holds its call so.
                } else {
                    self.fields(fields, &[]);
                }
            }
            _ => {}
        }
    }

    fn fields(&mut self, fields: &Map<String, Value>, except: &[&str]) {
        for (name, value) in fields {
            if !except.contains(&name.as_str()) {
                self.value(value);
            }
        }
    }

    fn read(&mut self, relation: RelationRef) {
        if relation.schema.is_none() && self.ctes.contains(&relation.name) {
            return;
        }
        self.add(SqlEffect::Read);
        self.found.reads.push(relation);
    }

    fn lasts(&mut self, more: Lasting) {
        self.lasting = self.lasting.and(more);
    }

    /// Notes a call of code that only its caller's name tells.
    fn runs(&mut self, what: &str) {
        self.add(SqlEffect::Execute);
        self.lasts(Lasting::CODE);
        self.found.functions.push(FunctionRef {
            schema: None,
            name: what.to_owned(),
        });
    }

    /// Writes every relation that a field holds, however deep.
    fn write_all(&mut self, value: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.write_all(item)),
            Value::Object(fields) => match as_relation(fields) {
                Some(relation) => self.found.writes.push(relation),
                None => fields.values().for_each(|value| self.write_all(value)),
            },
            _ => {}
        }
    }

    /// Notes where a change of rows is one of settings, by the server's own rule.
    fn sets(&mut self, fields: &Map<String, Value>) {
        let relation = fields.get("relation").and_then(Value::as_object);
        if relation.is_some_and(|relation| text(relation, "relname") == "pg_settings") {
            self.add(SqlEffect::Set);
            self.moves = PathMove::Anywhere;
        }
    }

    fn write(&mut self, relation: Option<&Value>) {
        if let Some(relation) = relation.and_then(Value::as_object).and_then(as_relation) {
            self.found.writes.push(relation);
        }
    }

    fn node(&mut self, kind: &str, body: &Value) {
        let Some(fields) = body.as_object() else { return };
        match kind {
            "SelectStmt" => self.select(fields),
            "InsertStmt" => {
                self.add(SqlEffect::Insert);
                self.write(fields.get("relation"));
                let updates = fields
                    .get("on_conflict_clause")
                    .and_then(|clause| clause.get("action"));
                if updates.and_then(Value::as_i64) == Some(3) {
                    self.add(SqlEffect::Update);
                }
                // A list of VALUES reads nothing.
                let values = fields
                    .get("select_stmt")
                    .and_then(|source| source.pointer("/node/SelectStmt"))
                    .and_then(Value::as_object)
                    .filter(|source| !list(source, "values_lists").is_empty());
                match values {
                    Some(source) => {
                        self.with_scope(fields, &["relation", "select_stmt"]);
                        self.with_scope(source, &[]);
                    }
                    None => self.with_scope(fields, &["relation"]),
                }
                self.returning(fields);
            }
            "UpdateStmt" | "DeleteStmt" => {
                self.add(if kind == "UpdateStmt" {
                    SqlEffect::Update
                } else {
                    SqlEffect::Delete
                });
                self.write(fields.get("relation"));
                self.sets(fields);
                self.changes_whole(kind, fields);
                self.with_scope(fields, &["relation"]);
                self.returning(fields);
            }
            "MergeStmt" => {
                self.write(fields.get("relation"));
                self.add(SqlEffect::Read);
                for clause in list(fields, "merge_when_clauses") {
                    let command = clause
                        .pointer("/node/MergeWhenClause/command_type")
                        .and_then(Value::as_i64);
                    self.add(match command {
                        Some(3) => SqlEffect::Update,
                        Some(4) => SqlEffect::Insert,
                        Some(5) => SqlEffect::Delete,
                        Some(8) => continue, // DO NOTHING
                        _ => SqlEffect::Unknown,
                    });
                }
                self.merges_whole(fields);
                self.with_scope(fields, &["relation"]);
                // What is there already decides what is done.
                let target = fields.get("relation").and_then(Value::as_object);
                self.found.reads.extend(target.and_then(as_relation));
            }
            "TruncateStmt" => {
                self.add(SqlEffect::Truncate);
                self.empties_whole(fields);
                for relation in list(fields, "relations") {
                    self.write(relation.pointer("/node/RangeVar"));
                }
                self.cascade(fields);
            }
            "CopyStmt" => self.copy(fields),
            "ExplainStmt" => self.explain(fields),
            "FuncCall" => self.function(fields),
            "CommonTableExpr" => self.fields(fields, &[]),
            "AExpr" => {
                self.operator(fields, "name");
                self.fields(fields, &[]);
            }
            "SubLink" => {
                self.operator(fields, "oper_name");
                self.fields(fields, &[]);
            }
            "SortBy" => {
                self.operator(fields, "use_op");
                self.fields(fields, &[]);
            }
            "RangeTableSample" => {
                if !matches!(
                    strings(fields.get("method")).as_slice(),
                    ["bernoulli" | "system"] | ["pg_catalog", "bernoulli" | "system"]
                ) {
                    self.runs("TABLESAMPLE");
                }
                self.fields(fields, &[]);
            }
            "VariableSetStmt" => self.set(fields),
            "DropStmt" => self.drop_objects(fields),
            "RangeVar" => {
                if let Some(relation) = as_relation(fields) {
                    self.read(relation);
                }
                self.fields(fields, &[]);
            }
            "IntoClause" => {
                self.add(SqlEffect::Create);
                self.write(fields.get("rel"));
                self.fields(fields, &["rel"]);
            }
            kind if kind.ends_with("Stmt") => self.other_statement(kind, fields),
            _ => {
                if newer_function(kind).is_some_and(|since| self.server < since) {
                    self.runs("JSON");
                    self.moves = PathMove::Anywhere;
                }
                self.fields(fields, &[]);
            }
        }
    }

    fn select(&mut self, fields: &Map<String, Value>) {
        self.add(SqlEffect::Read);
        if let Some(into) = fields.get("into_clause").filter(|into| !into.is_null()) {
            self.add(SqlEffect::Create);
            self.write(into.get("rel"));
        }
        let before = self.found.reads.len();
        self.reads_whole(fields);
        self.with_scope(fields, &["into_clause"]);
        if !list(fields, "locking_clause").is_empty() {
            // FOR UPDATE and its kind lock rows as writing them does, and need the same right.
            self.add(SqlEffect::Update);
            let locked: Vec<_> = self.found.reads.get(before..).unwrap_or_default().to_vec();
            self.found.writes.extend(locked);
        }
    }

    /// Walks a statement that may have CTEs: each sees those before it, or all where they are recursive.
    fn with_scope(&mut self, fields: &Map<String, Value>, except: &[&str]) {
        let outer = self.ctes.len();
        let with = fields.get("with_clause").and_then(Value::as_object);
        if let Some(with) = with {
            let bodies: Vec<_> = list(with, "ctes")
                .iter()
                .filter_map(|cte| cte.pointer("/node/CommonTableExpr"))
                .collect();
            let name = |cte: &Value| {
                cte.get("ctename")
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            let recursive = with.get("recursive").and_then(Value::as_bool).unwrap_or(false);
            if recursive {
                self.ctes.extend(bodies.iter().map(|cte| name(cte)));
            }
            for cte in bodies {
                self.value(cte);
                if !recursive {
                    self.ctes.push(name(cte));
                }
            }
        }
        let mut except = except.to_vec();
        except.push("with_clause");
        self.fields(fields, &except);
        self.ctes.truncate(outer);
    }

    /// RETURNING, conditions and expressions over its columns read the relation that is written: the server asks for the
    /// right to read it too.
    fn returning(&mut self, fields: &Map<String, Value>) {
        let there = |name: &str| match fields.get(name) {
            None | Some(Value::Null) => false,
            Some(Value::Array(items)) => !items.is_empty(),
            Some(_) => true,
        };
        let reads = [
            "returning_clause",
            "returning_list",
            "where_clause",
            "on_conflict_clause",
        ]
        .into_iter()
        .any(there)
            || fields.get("target_list").is_some_and(holds_column);
        let relation = fields.get("relation").and_then(Value::as_object);
        if let Some(relation) = relation.and_then(as_relation).filter(|_| reads) {
            self.add(SqlEffect::Read);
            self.found.reads.push(relation);
        }
    }

    fn function(&mut self, fields: &Map<String, Value>) {
        let names = strings(fields.get("funcname"));
        let Some(name) = qualified(&names) else {
            self.add(SqlEffect::Unknown);
            return self.fields(fields, &["funcname"]);
        };
        if name.name == "system_user" && self.server < 16 {
            self.add(SqlEffect::Unknown); // Uncertainty denies: it is a column there, and the tree has none.
        }
        if name.name == "set_config" {
            self.add(SqlEffect::Set);
            self.moves = PathMove::Anywhere;
        } else if !is_pure(name.schema.as_deref(), &name.name) {
            self.add(SqlEffect::Execute);
            if !acts_alone(name.schema.as_deref(), &name.name) {
                self.moves = PathMove::Anywhere;
                self.lasts(Lasting::CODE);
            }
        }
        self.found.functions.push(FunctionRef {
            schema: name.schema,
            name: name.name,
        });
        self.fields(fields, &["funcname"]);
    }

    /// An operator named with a schema may be anybody's.
    fn operator(&mut self, fields: &Map<String, Value>, field: &str) {
        let names = strings(fields.get(field));
        if let [schema, .., _] = names.as_slice()
            && *schema != "pg_catalog"
        {
            self.runs("OPERATOR");
        } else if let [name] = names.as_slice() {
            self.bare_operator(name);
        }
    }
}
