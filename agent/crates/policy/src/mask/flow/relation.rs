//! What a relation's columns have to do with masked columns.

use std::collections::HashSet;
use std::sync::Arc;

use super::entries::{Entry, all};
use super::{Analysis, Flow, Result, Stop, Used, stop};
use crate::catalog::{Names, Oid, Relation, RelationKind, Resolved};
use crate::classify::{Compact, is_catalog};
use crate::classify::{MAX_NESTING, STACK_PER_LEVEL, nesting_bound};
use crate::mask::{Known, Secrets, TELLING, is_vouched};

/// Columns of a relation, worked out.
#[derive(Debug)]
pub(crate) struct Expanded {
    entries: Vec<Entry>,
    /// What a view's own query uses masked columns for.
    uses: Vec<Used>,
    touches: bool,
    /// Why nothing can be said of it.
    trouble: Option<Stop>,
}

impl Analysis<'_> {
    /// The columns of the relation of a name.
    pub(super) fn relation(&mut self, schema: Option<&str>, name: &str) -> Result<Vec<Entry>> {
        let catalog = Arc::clone(self.secrets.catalog());
        let names = self.names.clone();
        match names.relation(schema, name) {
            Resolved::Found(relation) => self.columns(relation),
            Resolved::Ambiguous(several) => {
                // Whichever it is: what any of them hides counts.
                let mut flow = Flow::Clean;
                for relation in several {
                    flow = flow.join(all(&self.columns(relation)?));
                }
                Ok(vec![Entry::several(flow.derived())])
            }
            Resolved::Missing => {
                drop(catalog);
                let vouched = bailiff_model::RelationRef {
                    schema: schema.map(str::to_owned),
                    name: name.to_owned(),
                };
                // The catalogs themselves may be left out of the snapshot.
                let known = schema == Some("pg_catalog")
                    || (schema.is_none() && is_catalog(name) && names.path().is_some());
                if !known && is_vouched(&vouched, self.known) {
                    return Ok(vec![Entry::several(Flow::Clean)]);
                }
                stop(format!(
                    "{vouched} isn't in the catalog: it may be temporary, or newer than what is known"
                ))
            }
        }
    }

    /// The columns of a relation.
    pub(super) fn columns(&mut self, relation: &Relation) -> Result<Vec<Entry>> {
        self.spend()?;
        let expanded = match self.secrets.expanded(relation.oid) {
            Some(expanded) => expanded,
            None => {
                if !self.expanding.insert(relation.oid) {
                    return stop(format!("{}.{} shows itself", relation.schema, relation.name));
                }
                let expanded = Arc::new(self.expand(relation));
                self.expanding.remove(&relation.oid);
                self.secrets.keep(relation.oid, Arc::clone(&expanded));
                expanded
            }
        };
        if let Some(trouble) = &expanded.trouble {
            return Err(trouble.clone());
        }
        self.found.touches |= expanded.touches;
        self.found.runs |= expanded
            .uses
            .iter()
            .any(|used| used.kind == super::MaskedUse::Function);
        for used in &expanded.uses {
            self.note(used.clone());
        }
        Ok(expanded.entries.clone())
    }

    fn expand(&self, relation: &Relation) -> Expanded {
        let mut expanded = Expanded {
            entries: Vec::new(),
            uses: Vec::new(),
            touches: self.secrets.masks_some(relation.oid),
            trouble: None,
        };
        let named = format!("{}.{}", relation.schema, relation.name);
        let troubled = |mut expanded: Expanded, why: String| {
            expanded.trouble = Some(Stop(why));
            expanded
        };
        if matches!(&*relation.schema, "pg_catalog" | "information_schema") && relation.oid.came_with_server()
        {
            if TELLING.contains(&&*relation.name) {
                return troubled(expanded, format!("{named} may hold what is masked"));
            }
            let own = |column: &crate::catalog::Column| {
                Entry::column(&column.name, self.secrets.own(relation.oid, column.number))
            };
            expanded.entries = relation.columns.iter().map(own).collect();
            return expanded;
        }
        match relation.kind {
            RelationKind::Table | RelationKind::Partitioned | RelationKind::Sequence => {
                self.table(relation, &mut expanded);
            }
            RelationKind::Foreign => {
                let by_name = bailiff_model::RelationRef {
                    schema: Some(relation.schema.to_string()),
                    name: relation.name.to_string(),
                };
                if !expanded.touches && !is_vouched(&by_name, self.known) {
                    return troubled(
                        expanded,
                        format!(
                            "{named} is foreign and may show masked columns; if it doesn't, list it in the target's plainRelations"
                        ),
                    );
                }
                self.table(relation, &mut expanded);
            }
            RelationKind::View | RelationKind::MaterializedView => {
                let Some(definition) = relation.definition.as_deref() else {
                    return troubled(expanded, format!("the query of {named} isn't known"));
                };
                match self.defined_by(definition) {
                    Ok((entries, uses, touches)) => {
                        if entries.len() != relation.columns.len() || entries.iter().any(|entry| entry.many) {
                            return troubled(expanded, format!("the columns of {named} can't be told"));
                        }
                        expanded.touches |= touches;
                        expanded.uses = uses;
                        let both = relation.columns.iter().zip(entries);
                        let both = both.map(|(column, entry)| Entry {
                            name: Some(Arc::from(&*column.name)),
                            // A rule may name the view's column as well.
                            flow: self.secrets.own(relation.oid, column.number).join(entry.flow),
                            // What is stored isn't computed when it is read.
                            fails: entry.fails && relation.kind == RelationKind::View,
                            ..entry
                        });
                        expanded.entries = both.collect();
                    }
                    Err(Stop(why)) => return troubled(expanded, format!("the view {named}: {why}")),
                }
            }
            RelationKind::Toast | RelationKind::Composite | RelationKind::Other => {
                return troubled(expanded, format!("{named} may hold what is masked"));
            }
        }
        expanded
    }

    /// Columns as they are stored, and those that are computed from others.
    fn table(&self, relation: &Relation, expanded: &mut Expanded) {
        for column in &relation.columns {
            let own = self.secrets.own(relation.oid, column.number);
            expanded.entries.push(Entry::column(&column.name, own));
        }
        if !expanded.touches {
            return;
        }
        let stored = expanded.entries.clone();
        for (place, column) in relation.columns.iter().enumerate() {
            let (Some(_), Some(expression)) = (column.generated, column.expression.as_deref()) else {
                continue;
            };
            let text = format!("SELECT {expression}");
            let flow = self.on_stack(|this| {
                let mut inner = this.inner();
                inner.scopes.push(super::Scope {
                    flat: stored.clone(),
                    ..super::Scope::default()
                });
                let entries = inner.parsed(&text)?;
                Ok(all(&entries))
            });
            // A column that nothing can be said of is made of all.
            let flow = flow.unwrap_or_else(|_| all(&stored).derived());
            if let Some(entry) = expanded.entries.get_mut(place) {
                entry.flow = entry.flow.join(flow);
            }
        }
    }

    /// What a view's query gives, and what it uses.
    fn defined_by(&self, definition: &str) -> Result<(Vec<Entry>, Vec<Used>, bool)> {
        self.on_stack(|this| {
            let mut inner = this.inner();
            inner.defers = true;
            let entries = inner.parsed(definition)?;
            Ok((entries, inner.found.uses, inner.found.touches))
        })
    }

    /// The same for a text that the server wrote.
    fn inner(&self) -> Analysis<'_> {
        let names = Names::of_definitions(Arc::clone(self.secrets.catalog()));
        let mut inner = Analysis::new(self.secrets, names, self.known);
        inner.budget = self.budget;
        inner.expanding = self.expanding.clone();
        inner.has_large_stack = true;
        inner
    }

    fn parsed(&mut self, text: &str) -> Result<Vec<Entry>> {
        if nesting_bound(text) > MAX_NESTING {
            return stop("its definition is too deep");
        }
        let parsed = pg_query::parse(text, pg_query::ParserOptions::DEFAULT);
        let parsed = parsed.map_err(|_| Stop("its definition can't be parsed".to_owned()))?;
        let [raw] = parsed.protobuf.stmts.as_slice() else {
            return stop("its definition isn't one query");
        };
        let compact =
            Compact::of(&raw.stmt).ok_or_else(|| Stop("its definition can't be told".to_owned()))?;
        self.query_of(Some(&compact.root))
    }

    /// Runs something that parses where the deepest text doesn't overflow.
    fn on_stack<T: Send>(&self, what: impl FnOnce(&Self) -> Result<T> + Send) -> Result<T> {
        if self.has_large_stack {
            return what(self);
        }
        large_stack(|| what(self)).unwrap_or_else(|| stop("there is no room to work it out"))
    }
}

/// Whether all relations of a statement are known and have nothing to do with anything masked.
pub(in crate::mask) fn touches_nothing(
    statement: &bailiff_model::Statement,
    secrets: &Secrets,
    names: &Names,
    known: &Known<'_>,
) -> bool {
    let mut analysis = Analysis::new(secrets, names.clone(), known);
    let relations = statement.reads.iter().chain(&statement.writes);
    let all_known = relations.into_iter().all(|relation| {
        analysis
            .relation(relation.schema.as_deref(), &relation.name)
            .is_ok()
    });
    all_known && !analysis.found.touches && analysis.found.uses.is_empty()
}

/// Runs something on a thread of its own whose stack what is accepted can't overflow. `None` where there is no such thread.
pub(in crate::mask) fn large_stack<T: Send>(what: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("masks".to_owned())
            .stack_size(MAX_NESTING * STACK_PER_LEVEL)
            .spawn_scoped(scope, what);
        thread.ok()?.join().ok()
    })
}

/// Relations that are being worked out.
pub(super) type Expanding = HashSet<Oid>;
