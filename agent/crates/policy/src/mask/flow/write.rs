//! Statements that write, and those around queries.

use std::sync::Arc;

use super::entries::{Entry, Rte, all};
use super::{Analysis, Flow, MaskedUse, Result, Scope, Source, Used, stop};
use crate::catalog::{Relation, Resolved};
use crate::classify::{Node, Tree};

/// Statements that read no table and keep nothing of one.
const HARMLESS: &[&str] = &[
    "CheckPointStmt",
    "ClosePortalStmt",
    "ConstraintsSetStmt",
    "DeallocateStmt",
    "DiscardStmt",
    "DropStmt",
    "GrantRoleStmt",
    "GrantStmt",
    "ListenStmt",
    "LockStmt",
    "NotifyStmt",
    "TransactionStmt",
    "TruncateStmt",
    "UnlistenStmt",
    "VariableSetStmt",
    "VariableShowStmt",
];

/// Options of EXPLAIN that measure nothing of values.
const MEASURING_NOTHING: &[&str] = &[
    "buffers",
    "costs",
    "format",
    "generic_plan",
    "settings",
    "summary",
    "verbose",
];

impl Analysis<'_> {
    /// A whole statement: the columns of its result, where it has one with rows.
    pub(super) fn statement(&mut self, node: &Node) -> Result<Option<Vec<Entry>>> {
        match node.kind {
            "SelectStmt" => {
                let entries = self.query(node)?;
                Ok(node.get("into_clause").is_none().then_some(entries))
            }
            "InsertStmt" | "UpdateStmt" | "DeleteStmt" | "MergeStmt" => {
                let entries = self.query(node)?;
                Ok(node.get("returning_clause").is_some().then_some(entries))
            }
            "ExplainStmt" => {
                self.only(node, &["query", "options"])?;
                let inner = match node.child("query") {
                    Some(query) => self.statement(query)?,
                    None => return stop("it explains nothing"),
                };
                let measures = node.list("options").iter().any(|option| {
                    option
                        .node()
                        .is_none_or(|option| !MEASURING_NOTHING.contains(&option.text("defname")))
                });
                if measures && self.found.touches {
                    let flow = inner.as_deref().map_or(Flow::Clean, all);
                    self.note(Used {
                        kind: MaskedUse::Measure,
                        source: flow.source().unwrap_or(Source::ANY),
                        what: None,
                    });
                }
                Ok(Some(vec![Entry::several(Flow::Clean)]))
            }
            "DeclareCursorStmt" | "PrepareStmt" => {
                self.only(node, &["portalname", "options", "query", "name", "argtypes"])?;
                let inner = match node.child("query") {
                    Some(query) => self.statement(query)?,
                    None => return stop("its query is missing"),
                };
                // What FETCH and EXECUTE give names no columns of its own.
                let flow = inner.as_deref().map_or(Flow::Clean, all);
                self.uses(MaskedUse::Keep, flow);
                Ok(None)
            }
            "CreateTableAsStmt" => {
                self.only(
                    node,
                    &["query", "into", "objtype", "is_select_into", "if_not_exists"],
                )?;
                const TABLE: i64 = 42;
                let query = node.child("query");
                if node.number("objtype") != TABLE || query.is_some_and(|query| query.kind == "ExecuteStmt") {
                    self.defines("a materialised view or what a prepared statement gives");
                }
                let inner = match query {
                    Some(query) if query.kind == "ExecuteStmt" => None,
                    Some(query) => self.statement(query)?,
                    None => return stop("its query is missing"),
                };
                let flow = inner.as_deref().map_or(Flow::Clean, all);
                self.uses(MaskedUse::Move, flow);
                Ok(None)
            }
            "CopyStmt" => self.copy(node),
            "CallStmt" => {
                let call = node.child("funccall");
                if let Some(call) = call {
                    self.exprs(call.list("args"))?;
                }
                self.runs_unseen("CALL".to_owned());
                Ok(Some(vec![Entry::several(Flow::Derived(Source::ANY))]))
            }
            "ExecuteStmt" => {
                self.exprs(node.list("params"))?;
                self.runs_unseen("EXECUTE".to_owned());
                Ok(Some(vec![Entry::several(Flow::Derived(Source::ANY))]))
            }
            "DoStmt" | "LoadStmt" => {
                self.runs_unseen(if node.kind == "DoStmt" { "DO" } else { "LOAD" }.to_owned());
                Ok(None)
            }
            "FetchStmt" => {
                // DECLARE was held to show nothing masked. A cursor that a function opened may show anything.
                let flow = if self.known.runs_unseen {
                    self.found.touches = true;
                    Flow::Derived(Source::ANY)
                } else {
                    Flow::Clean
                };
                Ok((!node.is("ismove")).then(|| vec![Entry::several(flow)]))
            }
            kind if HARMLESS.contains(&kind) => Ok(None),
            // What it makes or changes may show what is masked under another name.
            kind => {
                self.defines(kind);
                Ok(None)
            }
        }
    }

    fn defines(&mut self, what: &str) {
        self.found.touches = true;
        self.note(Used {
            kind: MaskedUse::Define,
            source: Source::ANY,
            what: Some(what.to_owned()),
        });
    }

    fn copy(&mut self, node: &Node) -> Result<Option<Vec<Entry>>> {
        self.only(
            node,
            &[
                "relation",
                "query",
                "attlist",
                "is_from",
                "is_program",
                "filename",
                "options",
                "where_clause",
            ],
        )?;
        let Some(names) = node.names("attlist") else {
            return stop("the columns of COPY can't be told");
        };
        let entries = match node.child("relation") {
            Some(relation) => {
                let all_of = self.written(relation)?.entries;
                if names.is_empty() {
                    self.stored(relation, all_of)
                } else {
                    named(&all_of, &names)
                }
            }
            None => match node.child("query") {
                Some(query) => match self.statement(query)? {
                    Some(entries) => entries,
                    None => return stop("what it copies gives no rows"),
                },
                None => return stop("it copies nothing"),
            },
        };
        if node.is("is_from") {
            self.uses(MaskedUse::Write, all(&entries));
            self.scopes.push(Scope {
                flat: entries,
                ..Scope::default()
            });
            let condition = self.optional(node.get("where_clause"));
            self.scopes.pop();
            let condition = condition?;
            self.uses(MaskedUse::Predicate, condition);
            return Ok(None);
        }
        if node.is("is_program") || !node.text("filename").is_empty() {
            self.uses(MaskedUse::Copy, all(&entries));
            return Ok(None);
        }
        Ok(Some(entries))
    }

    /// The columns of a relation that COPY of it all writes: those that are generated it leaves out.
    fn stored(&self, node: &Node, entries: Vec<Entry>) -> Vec<Entry> {
        let schema = Some(node.text("schemaname")).filter(|schema| !schema.is_empty());
        let Resolved::Found(relation) = self.names.relation(schema, node.text("relname")) else {
            return entries;
        };
        let generated = |entry: &Entry| {
            let column = entry.name.as_deref().and_then(|name| relation.column(name));
            column.is_some_and(|column| column.generated.is_some())
        };
        entries.into_iter().filter(|entry| !generated(entry)).collect()
    }

    pub(super) fn insert(&mut self, node: &Node) -> Result<Vec<Entry>> {
        self.only(
            node,
            &[
                "relation",
                "cols",
                "select_stmt",
                "on_conflict_clause",
                "returning_clause",
                "with_clause",
                "override",
            ],
        )?;
        self.with(node)?;
        let target = self.target(node)?;
        let given = match node.get("select_stmt") {
            Some(query) => self.query_of(Some(query))?,
            None => Vec::new(),
        };
        let columns: Vec<Entry> = if node.list("cols").is_empty() {
            target.entries.clone()
        } else {
            let names: Option<Vec<&str>> = node
                .list("cols")
                .iter()
                .map(|column| column.node().map(|column| column.text("name")))
                .collect();
            match names {
                Some(names) => named(&target.entries, &names),
                None => return stop("the columns that are written can't be told"),
            }
        };
        if columns.iter().chain(&given).any(|entry| entry.many) {
            self.uses(MaskedUse::Write, all(&columns));
            self.uses(MaskedUse::Move, all(&given));
        } else {
            for (column, value) in columns.iter().zip(&given) {
                self.assigns(column.flow, value.flow);
            }
        }
        if let Some(conflict) = node.child("on_conflict_clause") {
            self.conflict(conflict, &target)?;
        }
        self.returning(node, &target, Scope::default())
    }

    fn conflict(&mut self, conflict: &Node, target: &Target) -> Result<()> {
        self.only(conflict, &["action", "infer", "target_list", "where_clause"])?;
        let mut scope = target.scope();
        if let Some(infer) = conflict.child("infer") {
            self.scopes.push(scope.clone());
            let flow = self.inferred(infer);
            self.scopes.pop();
            let flow = flow?;
            self.uses(MaskedUse::Predicate, flow);
        }
        // `excluded` is named by its name alone.
        scope.rtes.push(Rte {
            name: Arc::from("excluded"),
            entries: target.entries.clone(),
        });
        self.scopes.push(scope);
        let done = self
            .assignments(conflict.list("target_list"), target)
            .and_then(|()| {
                let condition = self.optional(conflict.get("where_clause"))?;
                self.uses(MaskedUse::Predicate, condition);
                Ok(())
            });
        self.scopes.pop();
        done
    }

    fn inferred(&mut self, infer: &Node) -> Result<Flow> {
        self.only(infer, &["index_elems", "where_clause", "conname"])?;
        let mut flow = self.optional(infer.get("where_clause"))?;
        for element in infer.list("index_elems") {
            let Some(element) = element.node().filter(|element| element.kind == "IndexElem") else {
                return stop("a part of ON CONFLICT can't be told");
            };
            let named = self.scopes.last().map(|scope| {
                let same = scope
                    .flat
                    .iter()
                    .filter(|entry| entry.is_named(element.text("name")));
                same.fold(Flow::Clean, |flow, entry| flow.join(entry.flow))
            });
            flow = flow.join(named.unwrap_or(Flow::Clean));
            flow = flow.join(self.optional(element.get("expr"))?);
        }
        Ok(flow)
    }

    pub(super) fn update(&mut self, node: &Node) -> Result<Vec<Entry>> {
        self.only(
            node,
            &[
                "relation",
                "target_list",
                "where_clause",
                "from_clause",
                "returning_clause",
                "with_clause",
            ],
        )?;
        self.with(node)?;
        let target = self.target(node)?;
        let scope = self.with_sources(&target, node.list("from_clause"))?;
        self.scopes.push(scope.clone());
        let done = self
            .assignments(node.list("target_list"), &target)
            .and_then(|()| {
                let condition = self.optional(node.get("where_clause"))?;
                self.uses(MaskedUse::Predicate, condition);
                Ok(())
            });
        self.scopes.pop();
        done?;
        self.returning(node, &target, scope.without(&target))
    }

    pub(super) fn delete(&mut self, node: &Node) -> Result<Vec<Entry>> {
        self.only(
            node,
            &[
                "relation",
                "using_clause",
                "where_clause",
                "returning_clause",
                "with_clause",
            ],
        )?;
        self.with(node)?;
        let target = self.target(node)?;
        let scope = self.with_sources(&target, node.list("using_clause"))?;
        self.scopes.push(scope.clone());
        let condition = self.optional(node.get("where_clause"));
        self.scopes.pop();
        let condition = condition?;
        self.uses(MaskedUse::Predicate, condition);
        self.returning(node, &target, scope.without(&target))
    }

    pub(super) fn merge(&mut self, node: &Node) -> Result<Vec<Entry>> {
        self.only(
            node,
            &[
                "relation",
                "source_relation",
                "join_condition",
                "merge_when_clauses",
                "returning_clause",
                "with_clause",
            ],
        )?;
        self.with(node)?;
        let target = self.target(node)?;
        let Some(source) = node.get("source_relation") else {
            return stop("the source of MERGE is missing");
        };
        let source = self.sources(std::slice::from_ref(source))?;
        let mut scope = target.scope();
        scope.add(source.clone());
        self.scopes.push(scope);
        let done = self.merged_by(node, &target);
        self.scopes.pop();
        done?;
        self.returning(node, &target, source)
    }

    fn merged_by(&mut self, node: &Node, target: &Target) -> Result<()> {
        let condition = self.optional(node.get("join_condition"))?;
        self.uses(MaskedUse::Predicate, condition);
        for clause in node.list("merge_when_clauses") {
            let Some(clause) = clause.node() else {
                return stop("a part of MERGE can't be told");
            };
            self.only(
                clause,
                &[
                    "match_kind",
                    "command_type",
                    "override",
                    "condition",
                    "target_list",
                    "values",
                ],
            )?;
            let condition = self.optional(clause.get("condition"))?;
            self.uses(MaskedUse::Predicate, condition);
            let values = clause.list("values");
            if values.is_empty() {
                self.assignments(clause.list("target_list"), target)?;
                continue;
            }
            let names: Vec<&str> = clause
                .list("target_list")
                .iter()
                .filter_map(|column| column.node().map(|column| column.text("name")))
                .collect();
            let columns = if names.is_empty() {
                target.entries.clone()
            } else {
                named(&target.entries, &names)
            };
            for (place, value) in values.iter().enumerate() {
                let flow = self.expr(value)?.flow;
                let column = columns
                    .get(place)
                    .map_or_else(|| all(&columns), |column| column.flow);
                self.assigns(column, flow);
            }
        }
        Ok(())
    }

    /// `SET column = value, …`.
    fn assignments(&mut self, assignments: &[Tree], target: &Target) -> Result<()> {
        for assignment in assignments {
            let Some(assignment) = assignment.node().filter(|node| node.kind == "ResTarget") else {
                return stop("an assignment can't be told");
            };
            self.only(assignment, &["name", "indirection", "val"])?;
            let mut flow = self.optional(assignment.get("val"))?;
            for step in assignment.list("indirection") {
                let Some(step) = step.node() else { continue };
                for index in ["lidx", "uidx"] {
                    flow = flow.join(self.optional(step.get(index))?);
                }
            }
            let column = named(&target.entries, &[assignment.text("name")]);
            self.assigns(all(&column), flow);
        }
        Ok(())
    }

    fn assigns(&mut self, column: Flow, value: Flow) {
        self.uses(MaskedUse::Write, column);
        self.uses(MaskedUse::Move, value);
    }

    fn with_sources(&mut self, target: &Target, items: &[Tree]) -> Result<Scope> {
        let mut scope = target.scope();
        let sources = self.sources(items)?;
        scope.add(sources);
        Ok(scope)
    }

    fn target(&mut self, node: &Node) -> Result<Target> {
        match node.child("relation") {
            Some(relation) => self.written(relation),
            None => stop("what is written is missing"),
        }
    }

    /// A relation that is written.
    fn written(&mut self, node: &Node) -> Result<Target> {
        let (schema, name) = (node.text("schemaname"), node.text("relname"));
        let schema = (!schema.is_empty()).then_some(schema);
        let entries = self.relation(schema, name)?;
        let names = self.names.clone();
        if let Resolved::Found(relation) = names.relation(schema, name) {
            self.rewritten(relation);
        }
        let alias = node.child("alias").map(|alias| alias.text("aliasname"));
        Ok(Target {
            name: Arc::from(alias.unwrap_or(name)),
            entries,
        })
    }

    /// Rules do something else than what the statement says, and triggers something beside.
    fn rewritten(&mut self, relation: &Relation) {
        let vouched = bailiff_model::RelationRef {
            schema: Some(relation.schema.to_string()),
            name: relation.name.to_string(),
        };
        if !relation.rules.is_empty() && !crate::mask::is_vouched(&vouched, self.known) {
            self.runs_unseen(format!("a rule of {vouched}"));
        }
        // Their notices may say anything.
        self.found.touches |= !relation.triggers.is_empty();
    }

    /// RETURNING: the target's columns, and those of what was joined to it.
    fn returning(&mut self, node: &Node, target: &Target, mut sources: Scope) -> Result<Vec<Entry>> {
        let Some(clause) = node.child("returning_clause") else {
            return Ok(Vec::new());
        };
        self.only(clause, &["options", "exprs"])?;
        let mut scope = if node.kind == "MergeStmt" {
            // `*` gives the source's columns first.
            let own = target.scope();
            sources.add(own);
            sources
        } else {
            let mut scope = target.scope();
            scope.add(sources);
            scope
        };
        let (mut old, mut new) = ("old", "new");
        for option in clause.list("options") {
            let Some(option) = option.node() else {
                return stop("an option of RETURNING can't be told");
            };
            match option.number("option") {
                1 => old = option.text("value"),
                2 => new = option.text("value"),
                _ => return stop("an option of RETURNING isn't known"),
            }
        }
        for name in [old, new] {
            if !scope.rtes.iter().any(|rte| *rte.name == *name) {
                scope.rtes.push(Rte {
                    name: Arc::from(name),
                    entries: target.entries.clone(),
                });
            }
        }
        self.scopes.push(scope);
        let entries = self.targets(clause.list("exprs"));
        self.scopes.pop();
        entries
    }
}

/// A relation that is written, by the name that the statement gives it.
#[derive(Debug, Clone)]
struct Target {
    name: Arc<str>,
    entries: Vec<Entry>,
}

impl Target {
    fn scope(&self) -> Scope {
        Scope {
            rtes: vec![Rte {
                name: Arc::clone(&self.name),
                entries: self.entries.clone(),
            }],
            flat: self.entries.clone(),
            windows: None,
        }
    }
}

impl Scope {
    /// The level without the target that was put first.
    fn without(mut self, target: &Target) -> Self {
        let own = target.entries.len().min(self.flat.len());
        self.flat.drain(..own);
        if !self.rtes.is_empty() {
            self.rtes.remove(0);
        }
        self
    }
}

/// Columns by their names. What isn't known by name may be any.
fn named(entries: &[Entry], names: &[&str]) -> Vec<Entry> {
    names
        .iter()
        .map(|name| {
            let mut same = entries.iter().filter(|entry| entry.is_named(name)).peekable();
            let flow = if same.peek().is_some() {
                same.fold(Flow::Clean, |flow, entry| flow.join(entry.flow))
            } else {
                let perhaps = entries.iter().filter(|entry| entry.name.is_none());
                perhaps.fold(Flow::Clean, |flow, entry| flow.join(entry.flow))
            };
            Entry::column(name, flow)
        })
        .collect()
}
