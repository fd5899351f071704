//! What planning a mask has to know of a statement, beyond what it reads and writes.

use serde_json::{Map, Value};

use super::tree::{as_node, as_relation, list, strings, text};

/// One entry of a select list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    /// `*` or `t.*`.
    Star,
    /// A plain column; the alias is what sorts and the like may call it.
    Column {
        /// The last part of its name.
        name: String,
        /// `AS …`, if any.
        alias: Option<String>,
        /// Whether something stands before the name: `p.f` may then be f(p).
        qualified: bool,
    },
    /// Anything else. Names in it are in [`Shape::used`].
    Expression,
}

/// A statement's shape.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shape {
    /// The select list, where the statement is one plain SELECT: no set operation, CTE, INTO, DISTINCT or VALUES.
    pub(crate) outputs: Option<Vec<Output>>,
    /// Names used anywhere but as a plain entry of that list: each part of each column reference, columns written, USING.
    pub(crate) used: Vec<String>,
    /// Whether columns are used that no name tells: `*` elsewhere, NATURAL JOIN, renamed columns.
    pub(crate) unnamed_use: bool,
    /// Whether integer literals stand where they name an output: ORDER BY 1.
    pub(crate) positions: bool,
    /// Names that FROM gives to what it reads: aliases and names of relations. A column of such a name is a whole row.
    pub(crate) row_names: Vec<String>,
}

impl Shape {
    pub(super) fn of(tree: &Value) -> Self {
        let mut shape = Self::default();
        match tree.as_object().and_then(as_node) {
            Some(("SelectStmt", body)) if is_plain(body) => {
                let Some(fields) = body.as_object() else {
                    return shape;
                };
                let outputs = list(fields, "target_list")
                    .iter()
                    .map(|target| shape.output(target))
                    .collect();
                shape.outputs = Some(outputs);
                for (name, value) in fields {
                    if name != "target_list" {
                        shape.visit(value);
                    }
                }
                for clause in ["sort_clause", "group_clause", "distinct_clause"] {
                    shape.positions |= list(fields, clause).iter().any(holds_integer);
                }
            }
            _ => shape.visit(tree),
        }
        for names in [&mut shape.used, &mut shape.row_names] {
            names.sort();
            names.dedup();
        }
        shape
    }

    fn output(&mut self, target: &Value) -> Output {
        let Some(target) = target.pointer("/node/ResTarget").and_then(Value::as_object) else {
            self.unnamed_use = true;
            return Output::Expression;
        };
        let column = target
            .get("val")
            .and_then(|value| value.pointer("/node/ColumnRef"))
            .and_then(Value::as_object);
        if let Some(column) = column {
            let names = strings(column.get("fields"));
            let all = list(column, "fields").len();
            if names.len() < all {
                return Output::Star;
            }
            if let Some(name) = names.last() {
                let alias = text(target, "name");
                return Output::Column {
                    name: (*name).to_owned(),
                    alias: (!alias.is_empty()).then(|| alias.to_owned()),
                    qualified: names.len() > 1,
                };
            }
        }
        if let Some(value) = target.get("val") {
            self.visit(value);
        }
        Output::Expression
    }

    fn visit(&mut self, value: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.visit(item)),
            Value::Object(fields) => match as_node(fields) {
                Some((kind, body)) => self.node(kind, body),
                None => self.object(fields),
            },
            _ => {}
        }
    }

    fn object(&mut self, fields: &Map<String, Value>) {
        if let Some(relation) = as_relation(fields) {
            self.row_names.push(relation.name);
        }
        if fields.contains_key("aliasname") {
            self.row_names.push(text(fields, "aliasname").to_owned());
            self.unnamed_use |= !list(fields, "colnames").is_empty();
        }
        fields.values().for_each(|value| self.visit(value));
    }

    fn node(&mut self, kind: &str, body: &Value) {
        let Some(fields) = body.as_object() else { return };
        match kind {
            // Every name in the tree counts as a use, whatever it names: being wrong only makes the answer stricter.
            "String" => self.used.push(text(fields, "sval").to_owned()),
            "AStar" => self.unnamed_use = true,
            "ResTarget" if !text(fields, "name").is_empty() => {
                self.used.push(text(fields, "name").to_owned())
            }
            "ColumnRef" => {
                let names = strings(fields.get("fields"));
                self.unnamed_use |= names.len() < list(fields, "fields").len();
                if let Some(name) = names.last() {
                    // `p.f` may mean f(p), which reads the whole row.
                    self.unnamed_use |= names.len() > 1 && takes_rows(name);
                    self.used.push((*name).to_owned());
                }
                return;
            }
            "JoinExpr" => {
                self.unnamed_use |= fields.get("is_natural").and_then(Value::as_bool).unwrap_or(true)
            }
            // Without a list of columns all of them are copied or written.
            "CopyStmt" => {
                self.unnamed_use |= is_there(fields, "relation") && list(fields, "attlist").is_empty()
            }
            "InsertStmt" => self.unnamed_use |= list(fields, "cols").is_empty(),
            "FuncCall" => {
                // The function's own name is no column.
                fields
                    .iter()
                    .filter(|(name, _)| *name != "funcname")
                    .for_each(|(_, value)| self.visit(value));
                return;
            }
            _ => {}
        }
        self.object(fields);
    }
}

/// Built-in functions of one argument that give away a row, or what an aggregate made of it, by a name behind a dot.
fn takes_rows(name: &str) -> bool {
    const TAKING: &[&str] = &[
        "any_value",
        "array_agg",
        "concat",
        "json_agg",
        "json_agg_strict",
        "json_build_array",
        "jsonb_agg",
        "jsonb_agg_strict",
        "jsonb_build_array",
        "max",
        "min",
        "quote_literal",
        "quote_nullable",
        "row_to_json",
        "to_json",
        "to_jsonb",
    ];
    TAKING.contains(&name) || name.starts_with("record_") || name.starts_with("hash_record")
}

fn is_there(fields: &Map<String, Value>, name: &str) -> bool {
    fields.get(name).is_some_and(|value| !value.is_null())
}

fn is_plain(select: &Value) -> bool {
    let Some(fields) = select.as_object() else {
        return false;
    };
    let absent = |name: &str| fields.get(name).is_none_or(Value::is_null);
    fields.get("op").and_then(Value::as_i64) == Some(1)
        && absent("with_clause")
        && absent("into_clause")
        && list(fields, "distinct_clause").is_empty()
        && list(fields, "values_lists").is_empty()
}

/// Whether an integer literal stands directly in an entry of ORDER BY or GROUP BY.
fn holds_integer(entry: &Value) -> bool {
    let entry = entry.pointer("/node/SortBy/node").unwrap_or(entry);
    // GROUPING SETS and their kind hold lists, and so does `GROUP BY (1, 2)`, which is no row to the server.
    ["AConst", "GroupingSet", "RowExpr"].iter().any(|kind| {
        entry
            .pointer("/node")
            .is_some_and(|node| node.get(kind).is_some())
    })
}
