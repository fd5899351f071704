//! Queries: SELECT, VALUES, set operations, WITH.

use std::sync::Arc;

use super::entries::{Entry, Rte, Value, all};
use super::{Analysis, Cte, Flow, MaskedUse, Result, Scope, stop};
use crate::classify::{Node, Tree};

/// Rounds in which recursive CTEs have to settle.
const ROUNDS: usize = 16;

impl Analysis<'_> {
    /// A statement that may stand where a query does: the columns that it gives.
    pub(super) fn query(&mut self, node: &Node) -> Result<Vec<Entry>> {
        let outer = self.ctes.len();
        let entries = match node.kind {
            "SelectStmt" => self.select(node),
            "InsertStmt" => self.insert(node),
            "UpdateStmt" => self.update(node),
            "DeleteStmt" => self.delete(node),
            "MergeStmt" => self.merge(node),
            kind => stop(format!("it isn't known what a {kind} gives")),
        };
        self.ctes.truncate(outer);
        entries
    }

    pub(super) fn query_of(&mut self, tree: Option<&Tree>) -> Result<Vec<Entry>> {
        match tree.and_then(Tree::node) {
            Some(node) => self.query(node),
            None => stop("a query is missing"),
        }
    }

    fn select(&mut self, node: &Node) -> Result<Vec<Entry>> {
        self.only(
            node,
            &[
                "distinct_clause",
                "into_clause",
                "target_list",
                "from_clause",
                "where_clause",
                "group_clause",
                "group_distinct",
                "having_clause",
                "window_clause",
                "values_lists",
                "sort_clause",
                "limit_offset",
                "limit_count",
                "limit_option",
                "locking_clause",
                "with_clause",
                "op",
                "all",
                "larg",
                "rarg",
            ],
        )?;
        let deferring = std::mem::take(&mut self.defers);
        self.with(node)?;
        let entries = if node.number("op") > 1 {
            self.set_operation(node)?
        } else if !node.list("values_lists").is_empty() {
            let entries = self.values(node)?;
            self.scopes.push(Scope::default());
            self.sorted(node, &entries)?;
            self.scopes.pop();
            entries
        } else {
            // Where columns are compared, or a CTE is kept, all of them are computed.
            let apart = node.list("distinct_clause").is_empty() && node.get("with_clause").is_none();
            self.plain_select(node, deferring && apart)?
        };
        // LIMIT sees nothing of the level itself.
        for limit in ["limit_offset", "limit_count"] {
            let flow = self.optional(node.get(limit))?;
            self.uses(MaskedUse::Predicate, flow);
        }
        if node.get("into_clause").is_some() {
            self.uses(MaskedUse::Move, all(&entries));
        }
        Ok(entries)
    }

    fn plain_select(&mut self, node: &Node, defers: bool) -> Result<Vec<Entry>> {
        let scope = self.sources(node.list("from_clause"))?;
        self.scopes.push(scope);
        let selected = self.select_level(node, defers);
        self.scopes.pop();
        selected
    }

    fn select_level(&mut self, node: &Node, defers: bool) -> Result<Vec<Entry>> {
        let condition = self.optional(node.get("where_clause"))?;
        self.uses(MaskedUse::Predicate, condition);
        let mut windows = Flow::Clean;
        for window in node.list("window_clause") {
            windows = windows.join(self.window(window.node())?);
        }
        if let Some(scope) = self.scopes.last_mut() {
            scope.windows = Some(windows);
        }
        self.defers = defers;
        let entries = self.targets(node.list("target_list"));
        self.defers = false;
        let entries = entries?;
        for item in node.list("group_clause") {
            let flow = self.ordering(item, &entries, false)?;
            self.uses(MaskedUse::Group, flow);
        }
        let having = self.optional(node.get("having_clause"))?;
        self.uses(MaskedUse::Predicate, having);
        self.distinct(node, &entries)?;
        self.sorted(node, &entries)?;
        Ok(entries)
    }

    /// A select list's columns.
    pub(super) fn targets(&mut self, targets: &[Tree]) -> Result<Vec<Entry>> {
        let mut entries = Vec::with_capacity(targets.len());
        for target in targets {
            let Some(target) = target.node().filter(|node| node.kind == "ResTarget") else {
                return stop("an entry of the select list can't be told");
            };
            self.only(target, &["name", "val"])?;
            let Some(value) = target.get("val") else {
                return stop("an entry of the select list is missing");
            };
            if let Some(stars) = self.stars(value)? {
                self.computes(&stars);
                entries.extend(stars);
                continue;
            }
            let deferred = std::mem::take(&mut self.defers).then(|| std::mem::take(&mut self.found.uses));
            let found = self.expr(value)?;
            let mut fails = false;
            if let Some(before) = deferred {
                self.defers = true;
                for used in std::mem::replace(&mut self.found.uses, before) {
                    if used.kind == MaskedUse::Compute {
                        fails = true;
                    } else {
                        self.note(used);
                    }
                }
            }
            let name = match target.text("name") {
                "" => name_of(value),
                name => Some(Arc::from(name)),
            };
            entries.push(Entry {
                name,
                flow: found.flow,
                many: false,
                fails,
                row: found.row,
            });
        }
        Ok(entries)
    }

    /// What `*`, `t.*` and `(row).*` stand for; `None` where the value is none of these.
    fn stars(&mut self, value: &Tree) -> Result<Option<Vec<Entry>>> {
        let Some(node) = value.node() else { return Ok(None) };
        let is_star =
            |tree: Option<&Tree>| tree.and_then(Tree::node).is_some_and(|node| node.kind == "AStar");
        match node.kind {
            "ColumnRef" if is_star(node.list("fields").last()) => {
                let names: Vec<&str> = node.list("fields").iter().filter_map(Tree::name).collect();
                match names.last() {
                    None => match self.scopes.last() {
                        Some(scope) => Ok(Some(scope.flat.clone())),
                        None => stop("a * stands for nothing"),
                    },
                    Some(name) => match self.rte(name) {
                        Some(rte) => Ok(Some(rte.entries.clone())),
                        None => stop(format!("it can't be told what {name}.* is")),
                    },
                }
            }
            "AIndirection" if is_star(node.list("indirection").last()) => {
                let value = self.indirection(node)?;
                Ok(Some(match value.row {
                    Some(row) => row.to_vec(),
                    None => vec![Entry::several(value.flow.derived())],
                }))
            }
            _ => Ok(None),
        }
    }

    /// Notes that columns are computed.
    pub(super) fn computes(&mut self, entries: &[Entry]) {
        for entry in entries.iter().filter(|entry| entry.fails) {
            self.uses(MaskedUse::Compute, entry.flow);
        }
    }

    fn distinct(&mut self, node: &Node, entries: &[Entry]) -> Result<()> {
        let clause = node.list("distinct_clause");
        let on: Vec<&Tree> = clause.iter().filter(|item| **item != Tree::Absent).collect();
        if clause.is_empty() {
            return Ok(());
        }
        if on.is_empty() {
            self.uses(MaskedUse::Group, all(entries));
        }
        for item in on {
            let flow = self.ordering(item, entries, true)?;
            self.uses(MaskedUse::Group, flow);
        }
        Ok(())
    }

    fn sorted(&mut self, node: &Node, entries: &[Entry]) -> Result<()> {
        for item in node.list("sort_clause") {
            let flow = self.ordering(item, entries, true)?;
            self.uses(MaskedUse::Sort, flow);
        }
        Ok(())
    }

    /// What an entry of ORDER BY, GROUP BY or DISTINCT ON depends on: a place in the result, a name of it, or an expression.
    fn ordering(&mut self, item: &Tree, entries: &[Entry], outputs_first: bool) -> Result<Flow> {
        let Some(node) = item.node() else {
            return Ok(Flow::Clean);
        };
        match node.kind {
            "SortBy" => {
                self.only(node, &["node", "sortby_dir", "sortby_nulls", "use_op"])?;
                let flow = match node.get("node") {
                    Some(inner) => self.ordering(inner, entries, outputs_first)?,
                    None => Flow::Clean,
                };
                if node.list("use_op").is_empty() {
                    return Ok(flow);
                }
                let operator = self.operator(node, "use_op")?;
                Ok(flow.join(operator.unseen))
            }
            "GroupingSet" => {
                self.only(node, &["kind", "content"])?;
                self.orderings(node.list("content"), entries, outputs_first)
            }
            "RowExpr" => {
                self.only(node, &["args", "row_format"])?;
                self.orderings(node.list("args"), entries, outputs_first)
            }
            "List" => self.orderings(node.list("items"), entries, outputs_first),
            "AConst" => Ok(match item.integer() {
                Some(place) => {
                    let sure = !entries.iter().any(|entry| entry.many);
                    let place = usize::try_from(place).ok().and_then(|place| place.checked_sub(1));
                    let entry = place.filter(|_| sure).and_then(|place| entries.get(place));
                    entry.map_or_else(|| all(entries), |entry| entry.flow)
                }
                None => Flow::Clean,
            }),
            "ColumnRef" => {
                let outputs = match node.names("fields").as_deref() {
                    Some([name]) => {
                        let named = entries.iter().filter(|entry| entry.is_named(name));
                        let named: Vec<Flow> = named.map(|entry| entry.flow).collect();
                        (!named.is_empty()).then(|| named.into_iter().fold(Flow::Clean, Flow::join))
                    }
                    _ => None,
                };
                match outputs {
                    Some(flow) if outputs_first => Ok(flow),
                    // Which of both GROUP BY takes depends on what there is: whichever.
                    Some(flow) => Ok(self.expr(item).map_or(flow, |value| value.flow.join(flow))),
                    None => Ok(self.expr(item)?.flow),
                }
            }
            _ => Ok(self.expr(item)?.flow),
        }
    }

    fn orderings(&mut self, items: &[Tree], entries: &[Entry], outputs_first: bool) -> Result<Flow> {
        items.iter().try_fold(Flow::Clean, |flow, item| {
            Ok(flow.join(self.ordering(item, entries, outputs_first)?))
        })
    }

    /// What a window depends on. The order in which rows come out may show it.
    pub(super) fn window(&mut self, window: Option<&Node>) -> Result<Flow> {
        let Some(window) = window else {
            return Ok(Flow::Clean);
        };
        self.only(
            window,
            &[
                "name",
                "refname",
                "partition_clause",
                "order_clause",
                "frame_options",
                "start_offset",
                "end_offset",
            ],
        )?;
        let mut flow = self.exprs(window.list("partition_clause"))?;
        for item in window.list("order_clause") {
            flow = flow.join(self.ordering_of_values(item)?);
        }
        for offset in ["start_offset", "end_offset"] {
            flow = flow.join(self.optional(window.get(offset))?);
        }
        self.uses(MaskedUse::Sort, flow);
        // A window may be named by its name alone, or refined.
        if !window.text("refname").is_empty() || !window.text("name").is_empty() {
            let named = self.scopes.last().and_then(|scope| scope.windows);
            flow = flow.join(named.unwrap_or(Flow::Clean));
        }
        Ok(flow)
    }

    /// An entry of an ORDER BY in which names and numbers mean no output: an aggregate's or a window's.
    pub(super) fn ordering_of_values(&mut self, item: &Tree) -> Result<Flow> {
        let Some(node) = item.node().filter(|node| node.kind == "SortBy") else {
            return stop("an entry of ORDER BY can't be told");
        };
        self.only(node, &["node", "sortby_dir", "sortby_nulls", "use_op"])?;
        let flow = self.optional(node.get("node"))?;
        if node.list("use_op").is_empty() {
            return Ok(flow);
        }
        Ok(flow.join(self.operator(node, "use_op")?.unseen))
    }

    fn values(&mut self, node: &Node) -> Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        for row in node.list("values_lists") {
            let items = match row.node() {
                Some(list) if list.kind == "List" => list.list("items"),
                _ => return stop("a row of VALUES can't be told"),
            };
            for (place, item) in items.iter().enumerate() {
                let flow = self.expr(item)?.flow;
                match entries.get_mut(place) {
                    Some(entry) => entry.flow = entry.flow.join(flow),
                    None => entries.push(Entry::column(&format!("column{}", place + 1), flow)),
                }
            }
        }
        Ok(entries)
    }

    fn set_operation(&mut self, node: &Node) -> Result<Vec<Entry>> {
        let left = self.query_of(node.get("larg"))?;
        let right = self.query_of(node.get("rarg"))?;
        let entries: Vec<Entry> = if left.iter().chain(&right).any(|entry| entry.many) {
            let flow = all(&left).join(all(&right));
            left.iter()
                .map(|entry| Entry {
                    flow,
                    row: None,
                    ..entry.clone()
                })
                .collect()
        } else {
            if left.len() != right.len() {
                return stop("both sides of a set operation have to have as many columns");
            }
            left.iter()
                .zip(&right)
                .map(|(left, right)| Entry {
                    name: left.name.clone(),
                    flow: left.flow.join(right.flow),
                    many: false,
                    fails: false,
                    row: None,
                })
                .collect()
        };
        const UNION: i64 = 2;
        if !node.is("all") || node.number("op") != UNION {
            self.uses(MaskedUse::Group, all(&entries));
        }
        self.scopes.push(Scope {
            flat: entries.clone(),
            ..Scope::default()
        });
        let sorted = self.sorted(node, &entries);
        self.scopes.pop();
        sorted?;
        Ok(entries)
    }

    /// Takes a statement's CTEs in. Whoever calls it takes them out again.
    pub(super) fn with(&mut self, statement: &Node) -> Result<()> {
        let Some(with) = statement.child("with_clause") else {
            return Ok(());
        };
        self.only(with, &["ctes", "recursive"])?;
        let mut ctes = Vec::new();
        for cte in with.list("ctes") {
            match cte.node() {
                Some(node) if node.kind == "CommonTableExpr" => ctes.push(node),
                _ => return stop("a part of WITH can't be told"),
            }
        }
        if !with.is("recursive") {
            for node in ctes {
                let entries = self.cte(node)?;
                self.name_cte(node.text("ctename"), entries);
            }
            return Ok(());
        }
        let first = self.ctes.len();
        for node in &ctes {
            self.name_cte(node.text("ctename"), vec![Entry::several(Flow::Clean)]);
        }
        let uses = self.found.uses.clone();
        for _ in 0..ROUNDS {
            self.found.uses.clone_from(&uses);
            let mut settled = true;
            for (place, node) in ctes.iter().enumerate() {
                let entries = self.cte(node)?;
                if let Some(cte) = self.ctes.get_mut(first + place)
                    && cte.entries != entries
                {
                    cte.entries = entries;
                    settled = false;
                }
            }
            if settled {
                return Ok(());
            }
        }
        stop("a recursive WITH doesn't come to an end")
    }

    fn name_cte(&mut self, name: &str, entries: Vec<Entry>) {
        self.ctes.push(Cte {
            name: Arc::from(name),
            entries,
        });
    }

    fn cte(&mut self, node: &Node) -> Result<Vec<Entry>> {
        self.only(
            node,
            &[
                "ctename",
                "aliascolnames",
                "ctematerialized",
                "ctequery",
                "search_clause",
                "cycle_clause",
            ],
        )?;
        let entries = self.query_of(node.get("ctequery"))?;
        let Some(names) = node.names("aliascolnames") else {
            return stop("the columns of a part of WITH can't be told");
        };
        let mut entries = super::entries::renamed(entries, &names);
        if node.get("search_clause").is_some() || node.get("cycle_clause").is_some() {
            // They compare and order rows by some of the columns.
            let flow = all(&entries).derived();
            self.uses(MaskedUse::Predicate, flow);
            if let Some(cycle) = node.child("cycle_clause") {
                for value in ["cycle_mark_value", "cycle_mark_default"] {
                    self.optional(cycle.get(value))?;
                }
            }
            entries.push(Entry::several(flow));
        }
        Ok(entries)
    }

    /// The CTE of a name.
    pub(super) fn cte_named(&self, name: &str) -> Option<&Cte> {
        self.ctes.iter().rev().find(|cte| *cte.name == *name)
    }

    /// What FROM names by a name.
    pub(super) fn rte(&self, name: &str) -> Option<&Rte> {
        let scopes = self.scopes.iter().rev();
        scopes
            .filter_map(|scope| scope.rtes.iter().find(|rte| *rte.name == *name))
            .next()
    }

    /// An expression, if there is one.
    pub(super) fn optional(&mut self, tree: Option<&Tree>) -> Result<Flow> {
        match tree {
            Some(tree) => Ok(self.expr(tree)?.flow),
            None => Ok(Flow::Clean),
        }
    }

    pub(super) fn exprs(&mut self, trees: &[Tree]) -> Result<Flow> {
        trees.iter().try_fold(Flow::Clean, |flow, tree| {
            let value: Value = self.expr(tree)?;
            Ok(flow.join(value.flow))
        })
    }
}

/// The name that the server gives to a column without one. `None` where that isn't certain.
fn name_of(value: &Tree) -> Option<Arc<str>> {
    let node = value.node()?;
    match node.kind {
        "ColumnRef" => node.list("fields").last()?.name().map(Arc::from),
        "FuncCall" => node.list("funcname").last()?.name().map(Arc::from),
        "CollateClause" => name_of(node.get("arg")?),
        "TypeCast" => {
            let arg = node.child("arg")?;
            matches!(arg.kind, "ColumnRef" | "FuncCall")
                .then(|| name_of(node.get("arg")?))
                .flatten()
        }
        "AIndirection" => {
            let named = node.list("indirection").iter().rev().find_map(Tree::name);
            match named {
                Some(name) => Some(Arc::from(name)),
                None => name_of(node.get("arg")?),
            }
        }
        _ => None,
    }
}
