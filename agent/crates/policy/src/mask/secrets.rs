//! Which columns of a database are masked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::flow::{Expanded, Flow, Source};
use super::{MaskAction, MaskedColumn};
use crate::catalog::{Catalog, Column, Oid, Relation, RelationKind, TypeKind};

/// The columns that some rules mask in one snapshot of a catalog, and what is worked out from them as it is needed.
#[derive(Debug)]
pub(crate) struct Secrets {
    catalog: Arc<Catalog>,
    masked: Arc<[MaskedColumn]>,
    columns: Vec<Secret>,
    by_relation: HashMap<Oid, Vec<(i16, u32)>>,
    expanded: Mutex<HashMap<Oid, Arc<Expanded>>>,
}

/// A masked column.
#[derive(Debug)]
pub(crate) struct Secret {
    pub(crate) schema: Box<str>,
    pub(crate) table: Box<str>,
    column: Box<str>,
    /// The policy that masks it.
    pub(crate) policy: Arc<str>,
    /// What is done to its values.
    pub(crate) action: MaskAction,
    /// Whether functions that never fail for texts and numbers never fail for its values.
    plain: bool,
    type_oid: u32,
}

impl Secret {
    /// `schema.table.column`.
    pub(crate) fn name(&self) -> String {
        format!("{}.{}.{}", self.schema, self.table, self.column)
    }
}

/// How deep types are looked into.
const TYPE_DEPTH: usize = 8;

/// Types for whose values no comparison, conversion to text or length ever fails.
const PLAIN: &[&str] = &[
    "bool", "bpchar", "bytea", "cidr", "inet", "int2", "int4", "int8", "macaddr", "name", "numeric", "oid",
    "text", "uuid", "varchar",
];

impl Secrets {
    /// Finds the columns that rules mask. What a rule masks in a parent or a partitioned table it masks in the children, and the
    /// other way round, since each shows the other's rows.
    pub(crate) fn new(catalog: Arc<Catalog>, masked: Arc<[MaskedColumn]>) -> Self {
        let mut this = Self {
            catalog: Arc::clone(&catalog),
            masked,
            columns: Vec::new(),
            by_relation: HashMap::new(),
            expanded: Mutex::default(),
        };
        let mut left = Vec::new();
        for relation in catalog.relations() {
            if !has_rows(relation.kind) {
                continue;
            }
            for column in &relation.columns {
                let found = this
                    .masked
                    .iter()
                    .filter(|mask| mask.masks(&catalog, relation, column));
                let Some(strictest) = found.max_by_key(|mask| mask.action) else {
                    continue;
                };
                let (action, policy) = (strictest.action, Arc::clone(&strictest.policy));
                this.add(relation, column, action, &policy);
                left.push((relation.oid, Arc::<str>::from(&*column.name), action, policy));
            }
        }
        while let Some((oid, name, action, policy)) = left.pop() {
            let Some(relation) = catalog.relation(oid) else {
                continue;
            };
            for next in relation.parents.iter().chain(&relation.children) {
                let Some(next) = catalog.relation(*next) else {
                    continue;
                };
                let Some(column) = next.column(&name) else {
                    continue;
                };
                if this.add(next, column, action, &policy) {
                    left.push((next.oid, Arc::clone(&name), action, Arc::clone(&policy)));
                }
            }
        }
        this
    }

    /// Notes a column, and says whether that is new.
    fn add(&mut self, relation: &Relation, column: &Column, action: MaskAction, policy: &Arc<str>) -> bool {
        let known = self.by_relation.entry(relation.oid).or_default();
        let place = known.iter().find(|(number, _)| *number == column.number);
        if let Some(secret) = place.and_then(|(_, place)| self.columns.get_mut(*place as usize)) {
            let stricter = action > secret.action;
            secret.action = secret.action.join(action);
            return stricter;
        }
        let Ok(place) = u32::try_from(self.columns.len()) else {
            return false;
        };
        known.push((column.number, place));
        self.columns.push(Secret {
            schema: relation.schema.clone(),
            table: relation.name.clone(),
            column: column.name.clone(),
            policy: Arc::clone(policy),
            action,
            plain: is_plain(&self.catalog, column.type_oid),
            type_oid: column.type_oid.0,
        });
        true
    }

    /// The catalog.
    pub(crate) fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// A masked column by its place.
    pub(crate) fn get(&self, source: Source) -> Option<&Secret> {
        self.columns.get(source.place() as usize)
    }

    /// Whether any column is masked.
    pub(crate) fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// What is known of a column by itself.
    pub(crate) fn own(&self, relation: Oid, number: i16) -> Flow {
        let found = self.by_relation.get(&relation);
        let place = found.and_then(|found| found.iter().find(|(column, _)| *column == number));
        match place.and_then(|(_, place)| Some((*place, self.columns.get(*place as usize)?))) {
            Some((place, secret)) => {
                let source = Source::new(place, secret.plain, secret.type_oid);
                Flow::Copy(source, secret.action)
            }
            None => Flow::Clean,
        }
    }

    /// Whether a rule names a column of the relation.
    pub(crate) fn masks_some(&self, relation: Oid) -> bool {
        self.by_relation.contains_key(&relation)
    }

    /// What is done to columns, by relation and number as the server tells them.
    pub(crate) fn by_number(&self, relation: u32, number: i16) -> Option<MaskAction> {
        match self.own(Oid(relation), number) {
            Flow::Copy(_, action) => Some(action),
            _ => None,
        }
    }

    /// What is known of a view's or table's columns, if it was worked out before.
    pub(super) fn expanded(&self, relation: Oid) -> Option<Arc<Expanded>> {
        let expanded = self.expanded.lock().unwrap_or_else(PoisonError::into_inner);
        expanded.get(&relation).cloned()
    }

    /// Keeps what was worked out. Bounded by the catalog.
    pub(super) fn keep(&self, relation: Oid, expanded: Arc<Expanded>) {
        let mut all = self.expanded.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(relation, expanded);
    }
}

fn has_rows(kind: RelationKind) -> bool {
    matches!(
        kind,
        RelationKind::Table
            | RelationKind::Partitioned
            | RelationKind::View
            | RelationKind::MaterializedView
            | RelationKind::Foreign
    )
}

fn is_plain(catalog: &Catalog, mut oid: Oid) -> bool {
    for _ in 0..TYPE_DEPTH {
        let Some(found) = catalog.type_by_oid(oid) else {
            return false;
        };
        match &found.kind {
            TypeKind::Domain { base, .. } => oid = *base,
            _ => return *found.schema == *"pg_catalog" && PLAIN.contains(&&*found.name),
        }
    }
    false
}

/// Whether a type is one that a rule names, or holds values of such: domains count as themselves and as what they are made
/// from, and arrays, ranges and rows as what is in them.
pub(super) fn holds_type(
    catalog: &Catalog,
    oid: Oid,
    named: &impl Fn(&str, &str) -> bool,
    depth: usize,
) -> bool {
    let Some(found) = catalog.type_by_oid(oid) else {
        return true; // Uncertainty denies: a type that the catalog doesn't know may be it.
    };
    // Uncertainty denies here as well.
    if depth > TYPE_DEPTH || named(&found.schema, &found.name) {
        return true;
    }
    let inner = |oid: Oid| holds_type(catalog, oid, named, depth + 1);
    match &found.kind {
        TypeKind::Domain { base, .. } => inner(*base),
        TypeKind::Array { element } => inner(*element),
        TypeKind::Range { subtype } => inner(*subtype),
        TypeKind::Multirange { range } => inner(*range),
        TypeKind::Composite { relation } => catalog
            .relation(*relation)
            .is_none_or(|relation| relation.columns.iter().any(|column| inner(column.type_oid))),
        TypeKind::Base | TypeKind::Enum | TypeKind::Pseudo | TypeKind::Other => false,
    }
}
