//! What FROM names.

use std::sync::Arc;

use super::entries::{Entry, Rte, all, renamed};
use super::{Analysis, Flow, MaskedUse, Result, Scope, stop};
use crate::classify::{Node, Tree};

impl Analysis<'_> {
    /// The level that a FROM clause opens.
    pub(super) fn sources(&mut self, items: &[Tree]) -> Result<Scope> {
        let mut scope = Scope::default();
        for item in items {
            let part = self.source(item, &scope)?;
            scope.add(part);
        }
        Ok(scope)
    }

    /// One entry. What stands before it can be named in it where it is lateral.
    fn source(&mut self, item: &Tree, before: &Scope) -> Result<Scope> {
        let Some(node) = item.node() else {
            return stop("an entry of FROM is missing");
        };
        match node.kind {
            "RangeVar" => self.range_var(node),
            "RangeSubselect" => {
                self.only(node, &["lateral", "subquery", "alias"])?;
                let entries = if node.is("lateral") {
                    self.lateral(before, |this| this.query_of(node.get("subquery")))?
                } else {
                    self.query_of(node.get("subquery"))?
                };
                self.aliased(node, entries, None)
            }
            "RangeFunction" => self.range_function(node, before),
            "JoinExpr" => self.join(node, before),
            "RangeTableSample" => {
                self.only(node, &["relation", "method", "args", "repeatable"])?;
                let known = matches!(
                    node.names("method").as_deref(),
                    Some(["bernoulli" | "system"] | ["pg_catalog", "bernoulli" | "system"])
                );
                if !known {
                    self.runs_unseen("a method of TABLESAMPLE".to_owned());
                }
                let flow = self.lateral(before, |this| {
                    let args = this.exprs(node.list("args"))?;
                    Ok(args.join(this.optional(node.get("repeatable"))?))
                })?;
                self.uses(MaskedUse::Predicate, flow);
                match node.get("relation") {
                    Some(relation) => self.source(relation, before),
                    None => stop("the relation of TABLESAMPLE is missing"),
                }
            }
            "RangeTableFunc" => {
                self.only(
                    node,
                    &["lateral", "docexpr", "rowexpr", "namespaces", "columns", "alias"],
                )?;
                let flow = self.lateral(before, |this| this.table_function(node))?;
                self.rows_of(flow, node)
            }
            "JsonTable" => {
                self.only(
                    node,
                    &[
                        "context_item",
                        "pathspec",
                        "passing",
                        "columns",
                        "on_error",
                        "alias",
                        "lateral",
                    ],
                )?;
                let flow = self.lateral(before, |this| {
                    ["context_item", "pathspec", "passing", "columns", "on_error"]
                        .into_iter()
                        .filter_map(|field| node.get(field))
                        .try_fold(Flow::Clean, |flow, tree| Ok(flow.join(this.anything(tree)?)))
                })?;
                self.rows_of(flow, node)
            }
            kind => stop(format!("it isn't known what a {kind} in FROM is")),
        }
    }

    fn lateral<T>(&mut self, before: &Scope, what: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.scopes.push(before.clone());
        let done = what(self);
        self.scopes.pop();
        done
    }

    fn table_function(&mut self, node: &Node) -> Result<Flow> {
        let mut flow = Flow::Clean;
        for field in ["docexpr", "rowexpr"] {
            flow = flow.join(self.optional(node.get(field))?);
        }
        for part in node.list("namespaces").iter().chain(node.list("columns")) {
            let Some(part) = part.node() else { continue };
            for field in ["val", "colexpr", "coldefexpr"] {
                flow = flow.join(self.optional(part.get(field))?);
            }
        }
        Ok(flow)
    }

    /// Rows and columns that are made of a value.
    fn rows_of(&mut self, flow: Flow, node: &Node) -> Result<Scope> {
        self.uses(MaskedUse::Predicate, flow);
        self.aliased(node, vec![Entry::several(flow.derived())], None)
    }

    fn range_var(&mut self, node: &Node) -> Result<Scope> {
        self.only(
            node,
            &[
                "catalogname",
                "schemaname",
                "relname",
                "inh",
                "relpersistence",
                "alias",
            ],
        )?;
        let (schema, name) = (node.text("schemaname"), node.text("relname"));
        let schema = (!schema.is_empty()).then_some(schema);
        let entries = match self.cte_named(name).filter(|_| schema.is_none()) {
            Some(cte) => cte.entries.clone(),
            None => self.relation(schema, name)?,
        };
        self.aliased(node, entries, Some(name))
    }

    /// Names what an entry of FROM gives.
    pub(super) fn aliased(&mut self, node: &Node, entries: Vec<Entry>, name: Option<&str>) -> Result<Scope> {
        let (name, entries) = match node.child("alias") {
            None => (name, entries),
            Some(alias) => {
                self.only(alias, &["aliasname", "colnames"])?;
                let Some(columns) = alias.names("colnames") else {
                    return stop("the names of columns can't be told");
                };
                (Some(alias.text("aliasname")), renamed(entries, &columns))
            }
        };
        let rtes = name.map(|name| Rte {
            name: Arc::from(name),
            entries: entries.clone(),
        });
        Ok(Scope {
            rtes: rtes.into_iter().collect(),
            flat: entries,
            windows: None,
        })
    }

    fn range_function(&mut self, node: &Node, before: &Scope) -> Result<Scope> {
        self.only(
            node,
            &[
                "lateral",
                "ordinality",
                "is_rowsfrom",
                "functions",
                "alias",
                "coldeflist",
            ],
        )?;
        let mut entries = Vec::new();
        let mut name = None;
        for function in node.list("functions") {
            let Some(pair) = function.node().filter(|pair| pair.kind == "List") else {
                return stop("a function in FROM can't be told");
            };
            let (call, columns) = match pair.list("items") {
                [call] | [call, Tree::Absent] => (call, &[][..]),
                [call, columns] => (call, column_list(columns)),
                _ => return stop("a function in FROM can't be told"),
            };
            let value = self.lateral(before, |this| this.expr(call))?;
            // How many rows come depends on it.
            self.uses(MaskedUse::Predicate, value.flow);
            let flow = value.flow.derived();
            let called = call
                .node()
                .filter(|call| call.kind == "FuncCall")
                .and_then(|call| call.list("funcname").last()?.name());
            name = name.or(called);
            let defined = if columns.is_empty() {
                node.list("coldeflist")
            } else {
                columns
            };
            if defined.is_empty() {
                match called {
                    // The column of a function that gives one is named like the function, or like its alias.
                    Some(called) if self.gives_one_column(call) => {
                        let alias = node.child("alias").map_or("", |alias| alias.text("aliasname"));
                        entries.push(Entry::column(if alias.is_empty() { called } else { alias }, flow));
                    }
                    _ => entries.push(Entry::several(flow)),
                }
            }
            for column in defined {
                match column.node().map(|column| column.text("colname")) {
                    Some(name) if !name.is_empty() => entries.push(Entry::column(name, flow)),
                    _ => return stop("a column of a function in FROM can't be told"),
                }
            }
        }
        if node.is("ordinality") {
            entries.push(Entry::column("ordinality", Flow::Clean));
        }
        self.aliased(node, entries, name)
    }

    fn join(&mut self, node: &Node, before: &Scope) -> Result<Scope> {
        self.only(
            node,
            &[
                "jointype",
                "is_natural",
                "larg",
                "rarg",
                "using_clause",
                "join_using_alias",
                "quals",
                "alias",
            ],
        )?;
        let (Some(left), Some(right)) = (node.get("larg"), node.get("rarg")) else {
            return stop("a side of a join is missing");
        };
        let left = self.source(left, before)?;
        let mut seen = before.clone();
        seen.add(left.clone());
        let right = self.source(right, &seen)?;
        let mut flat = self.merged(node, &left.flat, &right.flat)?;
        let mut scope = Scope {
            rtes: left.rtes,
            flat: Vec::new(),
            windows: None,
        };
        scope.rtes.extend(right.rtes);
        if let Some(quals) = node.get("quals") {
            // It sees what is joined here, and beyond that what is outside of this FROM.
            let inside = Scope {
                rtes: scope.rtes.clone(),
                flat: flat.clone(),
                windows: None,
            };
            let flow = self.lateral(&inside, |this| this.expr(quals))?.flow;
            self.uses(MaskedUse::Predicate, flow);
        }
        if let Some(alias) = node.child("join_using_alias") {
            let merged = node.list("using_clause").len();
            scope.rtes.push(Rte {
                name: Arc::from(alias.text("aliasname")),
                entries: flat.get(..merged).unwrap_or_default().to_vec(),
            });
        }
        if node.child("alias").is_some() {
            // The names inside are hidden.
            return self.aliased(node, flat, None);
        }
        scope.flat.append(&mut flat);
        Ok(scope)
    }

    /// The columns of a join: those that USING or NATURAL merge, and then the others.
    fn merged(&mut self, node: &Node, left: &[Entry], right: &[Entry]) -> Result<Vec<Entry>> {
        let natural = node.is("is_natural");
        let Some(using) = node.names("using_clause") else {
            return stop("the columns of USING can't be told");
        };
        if !natural && using.is_empty() {
            return Ok([left, right].concat());
        }
        if left.iter().chain(right).any(|entry| entry.name.is_none()) {
            // Which columns are merged can't be told.
            let flow = all(left).join(all(right));
            self.uses(MaskedUse::Predicate, flow);
            let mut entries: Vec<Entry> = using.iter().map(|name| Entry::column(name, flow)).collect();
            entries.push(Entry::several(flow));
            return Ok(entries);
        }
        let has = |entries: &[Entry], name: &str| entries.iter().any(|entry| entry.is_named(name));
        let names: Vec<&str> = if natural {
            let names = left.iter().filter_map(|entry| entry.name.as_deref());
            names.filter(|name| has(right, name)).collect()
        } else {
            using
        };
        let mut entries = Vec::new();
        for name in &names {
            let both = left.iter().chain(right).filter(|entry| entry.is_named(name));
            let flow = both.fold(Flow::Clean, |flow, entry| flow.join(entry.flow));
            self.uses(MaskedUse::Predicate, flow);
            let both: Vec<Entry> = left
                .iter()
                .chain(right)
                .filter(|entry| entry.is_named(name))
                .cloned()
                .collect();
            self.computes(&both);
            entries.push(Entry::column(name, flow));
        }
        let others = left.iter().chain(right);
        entries.extend(
            others
                .filter(|entry| !names.iter().any(|name| entry.is_named(name)))
                .cloned(),
        );
        Ok(entries)
    }
}

impl Scope {
    pub(super) fn add(&mut self, part: Self) {
        self.rtes.extend(part.rtes);
        self.flat.extend(part.flat);
    }
}

/// A list of column definitions, which the tree holds as a list in a list.
fn column_list(tree: &Tree) -> &[Tree] {
    match tree {
        Tree::List(items) => items,
        Tree::Node(node) if node.kind == "List" => node.list("items"),
        _ => &[],
    }
}
