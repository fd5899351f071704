//! Putting a catalog together, within limits.

use std::collections::HashMap;
use std::sync::Arc;

use super::hidden::Hidden;
use super::{
    Cast, Catalog, CatalogVersion, Column, Contents, Dependency, Function, Name, Oid, Operator, Relation,
    Rule, Trigger, Type, TypeKind,
};

/// How large a catalog may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogLimits {
    /// Bytes of memory, as [`Catalog::bytes`] counts them.
    pub bytes: usize,
    /// Relations; TOAST tables and composite types count, indexes don't.
    pub relations: usize,
}

impl Default for CatalogLimits {
    fn default() -> Self {
        Self {
            bytes: 256 << 20,
            relations: 200_000,
        }
    }
}

/// What an allocation takes beyond its bytes.
const PIECE: usize = 24;

/// What a name takes: twice as a text of its own, a list of what is called so, and places in maps that are half empty at worst.
const NAMED: usize = 4 * PIECE + 160;

/// A database has more than a catalog may hold. None is made then: one that lacks something would say what isn't so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    /// Of memory.
    #[error("its catalog takes more than {0} bytes")]
    Bytes(usize),
    /// Of relations.
    #[error("it has more than {0} relations")]
    Relations(usize),
}

/// A schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// Its number.
    pub oid: Oid,
    /// Its name.
    pub name: Name,
}

/// A search_path that sessions begin with, by ALTER ROLE or ALTER DATABASE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchPathSetting {
    /// Whether it is for this database only.
    pub for_database: bool,
    /// Whose sessions; `None` for everybody's.
    pub role: Option<Name>,
    /// The setting as written.
    pub value: Name,
}

/// Takes what the server tells, and makes a [`Catalog`] of it. Whatever is about a relation that isn't there is left out, so
/// relations come first.
pub struct Builder {
    limits: CatalogLimits,
    contents: Contents,
    estimates: HashMap<Oid, f32>,
}

impl Builder {
    /// Of a server of a version (`server_version_num`), a database of a name.
    #[must_use]
    pub fn new(limits: CatalogLimits, server_version: u32, database: &str) -> Self {
        Self {
            limits,
            contents: Contents {
                server_version,
                database: database.into(),
                ..Contents::default()
            },
            estimates: HashMap::new(),
        }
    }

    /// Takes a schema.
    pub fn schema(&mut self, schema: Schema) -> Result<(), TooLarge> {
        self.takes(64 + schema.name.len())?;
        self.contents.schemas.insert(schema.oid, schema.name);
        Ok(())
    }

    /// Takes a relation, with or without what the other methods add to it, and the server's estimate of its rows, which is
    /// negative where it never counted.
    pub fn relation(&mut self, relation: Relation, rows: f32) -> Result<(), TooLarge> {
        if self.contents.relations.len() >= self.limits.relations {
            return Err(TooLarge::Relations(self.limits.relations));
        }
        let texts = relation.definition.as_deref().map_or(0, str::len)
            + relation.expressions.iter().map(|text| text.len()).sum::<usize>();
        self.takes(size_of::<Relation>() + NAMED + relation.schema.len() + 2 * relation.name.len() + texts)?;
        for column in &relation.columns {
            self.takes(bytes_of(column))?;
        }
        self.estimates.insert(relation.oid, rows);
        if let Some(row_type) = relation.row_type {
            self.contents.row_types.insert(row_type, relation.oid);
        }
        let named = self.contents.relation_names.entry(relation.name.clone());
        named.or_default().push(relation.oid);
        self.contents.relations.insert(relation.oid, relation);
        Ok(())
    }

    /// Takes a column.
    pub fn column(&mut self, of: Oid, column: Column) -> Result<(), TooLarge> {
        self.takes(bytes_of(&column))?;
        self.about(of, |relation| relation.columns.push(column));
        Ok(())
    }

    /// Takes the expression of a column's default, or by which it is computed.
    pub fn default(&mut self, of: Oid, number: i16, text: &str) -> Result<(), TooLarge> {
        self.takes(PIECE + text.len())?;
        self.about(of, |relation| {
            if let Some(column) = relation.columns.iter_mut().find(|column| column.number == number) {
                column.expression = Some(text.into());
            }
        });
        Ok(())
    }

    /// Takes a view's query.
    pub fn definition(&mut self, of: Oid, text: &str) -> Result<(), TooLarge> {
        self.takes(PIECE + text.len())?;
        self.about(of, |relation| relation.definition = Some(text.into()));
        Ok(())
    }

    /// Takes what a rule of a relation needs.
    pub fn dependency(&mut self, of: Oid, on: Dependency) -> Result<(), TooLarge> {
        self.takes(size_of::<Dependency>())?;
        self.about(of, |relation| relation.depends.push(on));
        Ok(())
    }

    /// Takes a parent of a relation.
    pub fn parent(&mut self, child: Oid, parent: Oid) -> Result<(), TooLarge> {
        self.takes(2 * size_of::<Oid>())?;
        self.about(child, |relation| relation.parents.push(parent));
        self.about(parent, |relation| relation.children.push(child));
        Ok(())
    }

    /// Takes a rule.
    pub fn rule(&mut self, of: Oid, rule: Rule) -> Result<(), TooLarge> {
        self.takes(size_of::<Rule>() + rule.name.len() + rule.definition.len())?;
        self.about(of, |relation| relation.rules.push(rule));
        Ok(())
    }

    /// Takes a trigger.
    pub fn trigger(&mut self, of: Oid, trigger: Trigger) -> Result<(), TooLarge> {
        self.takes(size_of::<Trigger>() + trigger.name.len())?;
        self.about(of, |relation| relation.triggers.push(trigger));
        Ok(())
    }

    /// Takes an expression of a row security policy, check constraint or index.
    pub fn expression(&mut self, of: Oid, text: &str) -> Result<(), TooLarge> {
        self.takes(size_of::<Arc<str>>() + text.len())?;
        self.about(of, |relation| relation.expressions.push(text.into()));
        Ok(())
    }

    /// Says whose values a TOAST table holds.
    pub fn toast(&mut self, toast: Oid, of: Oid) {
        self.about(toast, |relation| relation.toast_of = Some(of));
    }

    /// Takes a function.
    pub fn function(&mut self, function: Function) -> Result<(), TooLarge> {
        let lists = function.arguments.len() * size_of::<Oid>()
            + function.modes.len() * size_of::<(u8, Oid)>()
            + function
                .parameters
                .iter()
                .map(|name| size_of::<Name>() + name.len())
                .sum::<usize>();
        let texts = function.schema.len()
            + 2 * function.name.len()
            + function.language.len()
            + function.body.as_deref().map_or(0, str::len)
            + function.search_path.as_deref().map_or(0, str::len);
        self.takes(size_of::<Function>() + NAMED + lists + texts)?;
        let named = self.contents.function_names.entry(function.name.clone());
        named.or_default().push(function.oid);
        self.contents.functions.insert(function.oid, function);
        Ok(())
    }

    /// Takes a type.
    pub fn r#type(&mut self, r#type: Type) -> Result<(), TooLarge> {
        let checks = match &r#type.kind {
            TypeKind::Domain { checks, .. } => checks.iter().map(|check| 16 + check.len()).sum(),
            _ => 0,
        };
        self.takes(size_of::<Type>() + NAMED + r#type.schema.len() + 2 * r#type.name.len() + checks)?;
        let named = self.contents.type_names.entry(r#type.name.clone());
        named.or_default().push(r#type.oid);
        self.contents.types.insert(r#type.oid, r#type);
        Ok(())
    }

    /// Takes an operator.
    pub fn operator(&mut self, operator: Operator) -> Result<(), TooLarge> {
        self.takes(size_of::<Operator>() + NAMED + operator.schema.len() + 2 * operator.name.len())?;
        let named = self.contents.operator_names.entry(operator.name.clone());
        named.or_default().push(operator.oid);
        self.contents.operators.insert(operator.oid, operator);
        Ok(())
    }

    /// Takes a cast.
    pub fn cast(&mut self, cast: Cast) -> Result<(), TooLarge> {
        self.takes(size_of::<Cast>())?;
        self.contents.casts.push(cast);
        Ok(())
    }

    /// Takes a search_path of a role or of the database.
    pub fn search_path(&mut self, setting: SearchPathSetting) -> Result<(), TooLarge> {
        self.takes(size_of::<SearchPathSetting>() + setting.value.len())?;
        self.contents.paths.push(setting);
        Ok(())
    }

    /// Takes the search_path of the server's own configuration.
    pub fn system_search_path(&mut self, value: &str) {
        self.contents.system_path = Some(value.into());
    }

    /// The snapshot.
    #[must_use]
    pub fn finish(mut self) -> Catalog {
        for relation in self.contents.relations.values_mut() {
            relation.columns.sort_by_key(|column| column.number);
            relation.depends.sort_unstable();
            relation.depends.dedup();
            relation.columns.shrink_to_fit();
            relation.depends.shrink_to_fit();
            relation.expressions.shrink_to_fit();
        }
        self.contents.hidden = Hidden::of(&self.contents);
        Catalog {
            version: CatalogVersion::next(),
            contents: Arc::new(self.contents),
            estimates: Arc::new(self.estimates),
        }
    }

    fn about(&mut self, oid: Oid, change: impl FnOnce(&mut Relation)) {
        if let Some(relation) = self.contents.relations.get_mut(&oid) {
            change(relation);
        }
    }

    fn takes(&mut self, bytes: usize) -> Result<(), TooLarge> {
        self.contents.bytes = self.contents.bytes.saturating_add(bytes);
        if self.contents.bytes > self.limits.bytes {
            return Err(TooLarge::Bytes(self.limits.bytes));
        }
        Ok(())
    }
}

fn bytes_of(column: &Column) -> usize {
    size_of::<Column>() + PIECE + column.name.len() + column.expression.as_deref().map_or(0, str::len)
}
