//! Expressions.

use super::entries::{Entry, Value, all, row_of};
use super::functions::{Never, fails_never, operator_fails_never};
use super::{Analysis, Flow, MaskedUse, Result, stop};
use crate::catalog::Resolved;
use crate::classify::{Node, Tree};

/// Columns that every table has and no `*` shows. What they say is not what is in the others.
const SYSTEM_COLUMNS: &[&str] = &["cmax", "cmin", "ctid", "oid", "tableoid", "xmax", "xmin"];

/// Types that hold any text, as they are named once the grammar has read them.
const TEXTS: &[&str] = &["bpchar", "name", "text", "varchar"];

impl Analysis<'_> {
    /// What an expression's value depends on.
    pub(super) fn expr(&mut self, tree: &Tree) -> Result<Value> {
        let Some(node) = tree.node() else {
            return match tree {
                Tree::List(items) => self.exprs(items).map(Value::from),
                Tree::Absent => Ok(Flow::Clean.into()),
                Tree::Number(_) | Tree::Text(_) | Tree::Node(_) => {
                    stop("a part of an expression can't be told")
                }
            };
        };
        self.spend()?;
        match node.kind {
            "AConst" | "ParamRef" | "SetToDefault" | "SqlvalueFunction" | "SQLValueFunction" | "String"
            | "CurrentOfExpr" | "MergeSupportFunc" => Ok(Flow::Clean.into()),
            "List" => Ok(self.exprs(node.list("items"))?.into()),
            "ColumnRef" => self.column(node),
            "AExpr" => Ok(self.operation(node)?.into()),
            "BoolExpr" => {
                self.only(node, &["boolop", "args"])?;
                let before = self.strikes;
                let flow = self.exprs(node.list("args"))?;
                self.guards(flow, before);
                Ok(self.computed(flow, true).into())
            }
            "NullTest" | "BooleanTest" => {
                self.only(node, &["arg", "nulltesttype", "booltesttype", "argisrow"])?;
                Ok(self.optional(node.get("arg"))?.derived().into())
            }
            "CaseExpr" => self.case(node),
            "CoalesceExpr" | "MinMaxExpr" => {
                self.only(node, &["args", "op"])?;
                let before = self.strikes;
                let flow = self.exprs(node.list("args"))?;
                self.guards(flow, before);
                Ok(self.computed(flow, true).into())
            }
            "RowExpr" => {
                self.only(node, &["args", "row_format", "colnames"])?;
                let entries = self.row_entries(node.list("args"))?;
                Ok(row_of(&entries))
            }
            "AArrayExpr" => {
                self.only(node, &["elements"])?;
                let flow = self.exprs(node.list("elements"))?;
                // Arrays of arrays have to be of one size.
                Ok(self.computed(flow, true).into())
            }
            "CollateClause" => {
                self.only(node, &["arg", "collname"])?;
                Ok(self.optional(node.get("arg"))?.into())
            }
            "TypeCast" => self.cast(node),
            "AIndirection" => self.indirection(node),
            "SubLink" => self.sublink(node),
            "FuncCall" => Ok(self.call(node)?.into()),
            "NamedArgExpr" => Ok(self.optional(node.get("arg"))?.into()),
            "GroupingFunc" => Ok(Flow::Clean.into()),
            "MultiAssignRef" => Ok(self.optional(node.get("source"))?.into()),
            "XmlExpr"
            | "XmlSerialize"
            | "JsonFuncExpr"
            | "JsonObjectConstructor"
            | "JsonArrayConstructor"
            | "JsonArrayQueryConstructor"
            | "JsonObjectAgg"
            | "JsonArrayAgg"
            | "JsonIsPredicate"
            | "JsonParseExpr"
            | "JsonScalarExpr"
            | "JsonSerializeExpr"
            | "JsonValueExpr"
            | "JsonKeyValue"
            | "JsonArgument"
            | "JsonBehavior" => {
                let flow = self.fields(node)?;
                let never_fails = matches!(
                    node.kind,
                    "JsonArrayConstructor"
                        | "JsonArrayQueryConstructor"
                        | "JsonArrayAgg"
                        | "JsonScalarExpr"
                        | "JsonValueExpr"
                );
                Ok(self.computed(flow, never_fails).into())
            }
            kind => stop(format!("it isn't known what a {kind} is")),
        }
    }

    /// Everything that a node holds, whatever it is called.
    fn fields(&mut self, node: &Node) -> Result<Flow> {
        let mut flow = Flow::Clean;
        for (_, tree) in node.fields() {
            flow = flow.join(self.anything(tree)?);
        }
        Ok(flow)
    }

    /// Any part of a tree: expressions as such, and of what holds expressions all of them.
    pub(super) fn anything(&mut self, tree: &Tree) -> Result<Flow> {
        match tree {
            Tree::Absent | Tree::Number(_) | Tree::Text(_) => Ok(Flow::Clean),
            Tree::List(items) => items
                .iter()
                .try_fold(Flow::Clean, |flow, item| Ok(flow.join(self.anything(item)?))),
            Tree::Node(node) => match node.kind {
                "SelectStmt" => Ok(all(&self.query(node)?)),
                "WindowDef" => self.window(Some(node)),
                "SortBy" => self.ordering_of_values(tree),
                "ResTarget" => self.optional(node.get("val")),
                "TypeName" => {
                    self.target_type(node);
                    Ok(Flow::Clean)
                }
                "JsonOutput" | "JsonAggConstructor" | "JsonFormat" | "JsonReturning" | "JsonTableColumn"
                | "JsonTablePathSpec" => self.fields(node),
                _ => Ok(self.expr(tree)?.flow),
            },
        }
    }

    /// Notes where computing a value may fail for some values and not for others, and gives the result's flow.
    pub(super) fn computed(&mut self, flow: Flow, never_fails: bool) -> Flow {
        self.strikes += usize::from(!never_fails);
        if let Some(source) = flow.source()
            && !(never_fails && source.plain)
        {
            self.uses(MaskedUse::Compute, flow);
        }
        flow.derived()
    }

    /// Notes where something that may fail or act is only done for some masked values: `CASE WHEN ssn > 'm' THEN 1 / 0 END`.
    fn guards(&mut self, condition: Flow, before: usize) {
        if self.strikes != before {
            self.uses(MaskedUse::Compute, condition);
        }
    }

    /// The columns of a row constructor, in which stars stand for several.
    fn row_entries(&mut self, args: &[Tree]) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for arg in args {
            let star = arg.node().filter(|node| {
                node.kind == "ColumnRef"
                    && node
                        .list("fields")
                        .last()
                        .and_then(Tree::node)
                        .is_some_and(|last| last.kind == "AStar")
            });
            if star.is_some() {
                entries.push(Entry::several(self.expr(arg)?.flow));
            } else {
                let value = self.expr(arg)?;
                entries.push(Entry {
                    row: value.row,
                    ..Entry::column(&format!("f{}", entries.len() + 1), value.flow)
                });
            }
        }
        if entries.iter().any(|entry| entry.many) {
            // The names count what the stars stand for, too.
            let flow = all(&entries);
            return Ok(vec![Entry::several(flow)]);
        }
        Ok(entries)
    }

    fn column(&mut self, node: &Node) -> Result<Value> {
        self.only(node, &["fields"])?;
        let fields = node.list("fields");
        let starred = fields
            .last()
            .and_then(Tree::node)
            .is_some_and(|last| last.kind == "AStar");
        let names: Vec<&str> = fields.iter().filter_map(Tree::name).collect();
        if names.len() + usize::from(starred) != fields.len() {
            return stop("a column's name can't be told");
        }
        match (names.as_slice(), starred) {
            ([], true) => {
                let flat = self
                    .scopes
                    .last()
                    .map(|scope| scope.flat.clone())
                    .unwrap_or_default();
                self.computes(&flat);
                Ok(row_of(&flat))
            }
            ([.., row], true) => self.whole_row(row),
            ([name], false) => self.bare(name),
            ([.., relation, name], false) => self.of(relation, name),
            ([], false) => stop("a column's name is missing"),
        }
    }

    fn whole_row(&mut self, name: &str) -> Result<Value> {
        match self.rte(name).map(|rte| rte.entries.clone()) {
            Some(entries) => {
                self.computes(&entries);
                Ok(row_of(&entries))
            }
            None => stop(format!("it can't be told what {name} is")),
        }
    }

    /// A column by its name alone: the innermost level that has it.
    fn bare(&mut self, name: &str) -> Result<Value> {
        // What a column of any name may be, at levels nearer than the one that surely has it.
        let mut perhaps: Option<Flow> = None;
        for scope in self.scopes.iter().rev() {
            let named: Vec<Entry> = scope
                .flat
                .iter()
                .filter(|entry| entry.is_named(name))
                .cloned()
                .collect();
            if let Some(first) = named.first() {
                let surely = named.len() == 1 && perhaps.is_none();
                let value = Value {
                    flow: all(&named).join(perhaps.unwrap_or(Flow::Clean)),
                    row: first.row.clone().filter(|_| surely),
                };
                self.computes(&named);
                return Ok(value);
            }
            for entry in scope.flat.iter().filter(|entry| entry.name.is_none()) {
                perhaps = Some(perhaps.unwrap_or(Flow::Clean).join(entry.flow));
            }
            let is_system = SYSTEM_COLUMNS.contains(&name) && !scope.flat.is_empty();
            if is_system && perhaps.is_none() {
                return Ok(Flow::Clean.into());
            }
        }
        let row = self.rte(name).map(|rte| rte.entries.clone());
        self.computes(row.as_deref().unwrap_or_default());
        match (row.map(|row| row_of(&row)), perhaps) {
            (Some(row), None) => Ok(row),
            (Some(row), Some(flow)) => Ok(row.flow.join(flow).derived().into()),
            (None, Some(flow)) => Ok(flow.into()),
            (None, None) => stop(format!("it can't be told what {name} is")),
        }
    }

    /// A column behind a relation's name, or a function of the whole row: `p.f` may be f(p).
    fn of(&mut self, relation: &str, name: &str) -> Result<Value> {
        let Some(entries) = self.rte(relation).map(|rte| rte.entries.clone()) else {
            return stop(format!("it can't be told what {relation}.{name} is"));
        };
        let named: Vec<Entry> = entries
            .iter()
            .filter(|entry| entry.is_named(name))
            .cloned()
            .collect();
        self.computes(&named);
        match named.as_slice() {
            [one] => return Ok(one.value()),
            [] => {}
            several => return Ok(all(several).into()),
        }
        let row = row_of(&entries);
        let nameless: Vec<Flow> = entries
            .iter()
            .filter(|entry| entry.name.is_none())
            .map(|entry| entry.flow)
            .collect();
        if !nameless.is_empty() {
            return Ok(nameless.into_iter().fold(Flow::Clean, Flow::join).into());
        }
        if SYSTEM_COLUMNS.contains(&name) {
            return Ok(Flow::Clean.into());
        }
        self.computes(&entries);
        Ok(self.applied(None, name, row.flow, 1)?.into())
    }

    fn operation(&mut self, node: &Node) -> Result<Flow> {
        self.only(node, &["kind", "name", "lexpr", "rexpr"])?;
        let operator = self.operator(node, "name")?;
        let before = self.strikes;
        let left = self.optional(node.get("lexpr"))?;
        let flow = left.join(self.optional(node.get("rexpr"))?);
        // Lists and rows may be compared until the first that differs.
        let several = |side: &str| {
            node.get(side).is_some_and(|side| match side {
                Tree::List(_) => true,
                side => side
                    .node()
                    .is_some_and(|side| matches!(side.kind, "List" | "RowExpr")),
            })
        };
        if several("lexpr") || several("rexpr") {
            self.guards(flow, before);
        }
        // LIKE and its kind fail where a pattern ends in an escape.
        const PATTERNS: std::ops::RangeInclusive<i64> = 8..=10;
        let never_fails = operator.fails_never && !PATTERNS.contains(&node.number("kind"));
        Ok(self.computed(flow, never_fails).join(operator.unseen))
    }

    /// What is known of an operator.
    pub(super) fn operator(&mut self, node: &Node, field: &str) -> Result<Operator> {
        let Some(names) = node.names(field) else {
            return stop("an operator's name can't be told");
        };
        let (schema, name) = match names.as_slice() {
            [name] => (None, *name),
            [.., schema, name] => (Some(*schema), *name),
            [] => {
                return Ok(Operator {
                    fails_never: true,
                    unseen: Flow::Clean,
                });
            }
        };
        // BETWEEN and LIKE stand where their operators do.
        if schema.is_none() && name.contains(|letter: char| letter.is_ascii_alphabetic()) {
            return Ok(Operator {
                fails_never: name.contains("BETWEEN"),
                unseen: Flow::Clean,
            });
        }
        let catalog = std::sync::Arc::clone(self.names.catalog());
        let candidates = self.names.operators(schema, name);
        let foreign: Vec<_> = candidates
            .iter()
            .filter(|operator| !operator.oid.came_with_server())
            .collect();
        let unseen = foreign.iter().any(|operator| {
            let function = catalog.function_by_oid(operator.function);
            function.is_none_or(|function| !matches!(&*function.language, "c" | "internal"))
        });
        let ours = foreign.is_empty();
        let missing = candidates.is_empty() && !matches!(name, "!=" | "<>");
        let unseen = if unseen || missing {
            self.runs_unseen(format!("the operator {name}"))
        } else {
            Flow::Clean
        };
        Ok(Operator {
            fails_never: ours && operator_fails_never(name),
            unseen,
        })
    }

    fn case(&mut self, node: &Node) -> Result<Value> {
        self.only(node, &["arg", "args", "defresult"])?;
        let before = self.strikes;
        let mut condition = self.optional(node.get("arg"))?;
        let mut result = self.optional(node.get("defresult"))?;
        for when in node.list("args") {
            let Some(when) = when.node().filter(|node| node.kind == "CaseWhen") else {
                return stop("a part of CASE can't be told");
            };
            self.only(when, &["expr", "result"])?;
            condition = condition.join(self.optional(when.get("expr"))?);
            result = result.join(self.optional(when.get("result"))?);
        }
        self.guards(condition, before);
        let condition = self.computed(condition, true);
        Ok(condition.join(result).into())
    }

    fn cast(&mut self, node: &Node) -> Result<Value> {
        self.only(node, &["arg", "type_name"])?;
        let value = match node.get("arg") {
            Some(arg) => self.expr(arg)?,
            None => return stop("a cast is of nothing"),
        };
        let Some(target) = node.child("type_name") else {
            return stop("a cast's type is missing");
        };
        let text = self.target_type(target);
        match (text, value.flow) {
            (text, Flow::Clean) => {
                self.strikes += usize::from(text.is_none());
                Ok(value)
            }
            (Some(Text::Whole), Flow::Copy(source, action)) if source.plain => {
                Ok(Flow::Copy(source.as_text(), action).into())
            }
            (Some(_), flow) => Ok(self.computed(flow, true).into()),
            (None, flow) => Ok(self.computed(flow, false).into()),
        }
    }

    /// Whether a type holds any text. Notes where its input runs code that isn't the server's.
    pub(super) fn target_type(&mut self, node: &Node) -> Option<Text> {
        let names = node.names("names")?;
        let (schema, name) = match names.as_slice() {
            [name] => (None, *name),
            [.., schema, name] => (Some(*schema), *name),
            [] => return None,
        };
        let catalog = std::sync::Arc::clone(self.names.catalog());
        let found = match self.names.type_named(schema, name) {
            Resolved::Found(found) => Some(found.clone()),
            _ => None,
        };
        let unseen = catalog.casts().iter().any(|cast| {
            let function = cast.function.and_then(|oid| catalog.function_by_oid(oid));
            function.is_some_and(|function| {
                !function.oid.came_with_server() && !matches!(&*function.language, "c" | "internal")
            }) && found.as_ref().is_none_or(|found| found.oid == cast.to)
        });
        let checked = found
            .as_ref()
            .is_some_and(|found| catalog.changes_session_when_made(found.oid));
        if unseen || checked {
            self.runs_unseen(format!("a cast to {name}"));
        }
        let is_text = found.is_some_and(|found| *found.schema == *"pg_catalog") && TEXTS.contains(&name);
        if !is_text || !node.list("array_bounds").is_empty() {
            return None;
        }
        // A name is cut, and so is what has a length.
        if name == "name" || !node.list("typmods").is_empty() {
            Some(Text::Cut)
        } else {
            Some(Text::Whole)
        }
    }

    /// Fields of a row and elements of an array.
    pub(super) fn indirection(&mut self, node: &Node) -> Result<Value> {
        self.only(node, &["arg", "indirection"])?;
        let mut value = match node.get("arg") {
            Some(arg) => self.expr(arg)?,
            None => return stop("a field is of nothing"),
        };
        for step in node.list("indirection") {
            let Some(step) = step.node() else {
                return stop("a field can't be told");
            };
            value = match step.kind {
                "String" => {
                    let name = step.text("sval");
                    let row = value.row.as_deref().unwrap_or_default();
                    let mut named = row.iter().filter(|entry| entry.is_named(name));
                    match (named.next(), named.next()) {
                        (Some(one), None) => one.value(),
                        // It may be a function of the row.
                        _ if value.row.is_some() && row.iter().all(|entry| entry.name.is_some()) => {
                            self.applied(None, name, value.flow, 1)?.into()
                        }
                        _ => value.flow.derived().into(),
                    }
                }
                "AIndices" => {
                    self.only(step, &["is_slice", "lidx", "uidx"])?;
                    let index = self.optional(step.get("lidx"))?;
                    let index = index.join(self.optional(step.get("uidx"))?);
                    self.uses(MaskedUse::Compute, index);
                    value.flow.join(index).derived().into()
                }
                "AStar" => value,
                kind => return stop(format!("it isn't known what a {kind} of a value is")),
            };
        }
        Ok(value)
    }

    fn sublink(&mut self, node: &Node) -> Result<Value> {
        self.only(
            node,
            &[
                "sub_link_type",
                "sub_link_id",
                "testexpr",
                "oper_name",
                "subselect",
            ],
        )?;
        let tested = self.optional(node.get("testexpr"))?;
        self.strikes += 1; // One that gives a value fails where there are two.
        let entries = self.query_of(node.get("subselect"))?;
        const EXISTS: i64 = 1;
        const COMPARING: std::ops::RangeInclusive<i64> = 2..=4;
        const VALUE: i64 = 5;
        match node.number("sub_link_type") {
            // Whether there are rows; what that depends on is noted below.
            EXISTS => Ok(Flow::Clean.into()),
            kind if COMPARING.contains(&kind) => {
                let operator = self.operator(node, "oper_name")?;
                let flow = tested.join(all(&entries));
                Ok(self
                    .computed(flow, operator.fails_never)
                    .join(operator.unseen)
                    .into())
            }
            VALUE => Ok(match entries.as_slice() {
                [one] if !one.many => one.value(),
                several => all(several).derived().into(),
            }),
            // MULTIEXPR gives several values, ARRAY all rows.
            _ => Ok(all(&entries).derived().join(tested.derived()).into()),
        }
    }

    fn call(&mut self, node: &Node) -> Result<Flow> {
        self.only(
            node,
            &[
                "funcname",
                "args",
                "agg_order",
                "agg_filter",
                "over",
                "agg_within_group",
                "agg_star",
                "agg_distinct",
                "func_variadic",
                "funcformat",
            ],
        )?;
        let Some(names) = node.names("funcname") else {
            return stop("a function's name can't be told");
        };
        let (schema, name) = match names.as_slice() {
            [name] => (None, *name),
            [.., schema, name] => (Some(*schema), *name),
            [] => return stop("a function's name is missing"),
        };
        let before = self.strikes;
        let args = node.list("args");
        let mut flows = Vec::with_capacity(args.len());
        let mut row = None;
        for arg in args {
            let value = self.expr(arg)?;
            flows.push(value.flow);
            row = row.or(value.row);
        }
        // `f(p)` may be `p.f`.
        if let ([_], Some(row)) = (args, &row)
            && let Some(entry) = row.iter().find(|entry| entry.is_named(name))
            && self.names.functions(schema, name, 1).is_empty()
        {
            return Ok(entry.flow);
        }
        let mut around = Flow::Clean;
        for item in node.list("agg_order") {
            around = around.join(self.ordering_of_values(item)?);
        }
        around = around.join(self.optional(node.get("agg_filter"))?);
        self.guards(around, before);
        if let Some(window) = node.child("over") {
            around = around.join(self.window(Some(window))?);
        }
        let given = flows.len()
            + if node.is("agg_within_group") {
                node.list("agg_order").len()
            } else {
                0
            };
        let unseen = self.unseen_function(schema, name, given);
        if name == "pg_typeof" && unseen == Flow::Clean {
            return Ok(Flow::Clean);
        }
        let never = fails_never(name);
        let mut flow = self.computed(around, never.is_some() || node.child("over").is_some());
        for (place, arg) in flows.into_iter().enumerate() {
            let never_fails = match never {
                Some(Never::Any) => true,
                Some(Never::First) => place == 0,
                Some(Never::AllButFirst) => place > 0,
                Some(Never::Odd) => place % 2 == 1,
                None => false,
            };
            let counts = matches!(name, "count" | "num_nulls" | "num_nonnulls") && unseen == Flow::Clean;
            flow = flow.join(if counts {
                arg.derived()
            } else {
                self.computed(arg, never_fails)
            });
        }
        Ok(flow.join(unseen))
    }

    /// A function of one value whose flow is known.
    fn applied(&mut self, schema: Option<&str>, name: &str, flow: Flow, arguments: usize) -> Result<Flow> {
        let unseen = self.unseen_function(schema, name, arguments);
        let never_fails = fails_never(name).is_some();
        Ok(self.computed(flow, never_fails).join(unseen))
    }
}

/// What is known of an operator.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operator {
    /// Whether it fails for no plain value.
    pub(super) fails_never: bool,
    /// What it may read besides what it is given.
    pub(super) unseen: Flow,
}

/// Types of texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    /// The text stays what it is.
    Whole,
    /// It may be cut.
    Cut,
}
