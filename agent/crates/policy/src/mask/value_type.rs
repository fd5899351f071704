//! What types are made of, as far as masking asks.

use crate::catalog::{Catalog, Oid, TypeKind};

/// What a type's values are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueType {
    /// A type that came with the server, by its number in `pg_type`.
    BuiltIn(u32),
    /// Any text, under another name.
    Text,
    /// Arrays, with commas between the elements.
    Array(Box<ValueType>),
    /// Rows of these columns.
    Row(Vec<ValueType>),
    /// Nothing is known of what they hold.
    Unknown,
}

impl ValueType {
    /// The type of a number, by the catalog. A domain is what it is made from.
    pub(super) fn of(catalog: &Catalog, oid: u32) -> Self {
        read(catalog, Oid(oid), 0, &mut MOST_PARTS.clone())
    }
}

/// How deep types are looked into.
const MOST_DEPTH: u8 = 8;

/// Of how many types one may be made.
const MOST_PARTS: u16 = 2048;

fn read(catalog: &Catalog, oid: Oid, depth: u8, left: &mut u16) -> ValueType {
    *left = left.saturating_sub(1);
    if *left == 0 || depth > MOST_DEPTH {
        return ValueType::Unknown;
    }
    let Some(found) = catalog.type_by_oid(oid) else {
        return if oid.came_with_server() {
            ValueType::BuiltIn(oid.0)
        } else {
            ValueType::Unknown
        };
    };
    match &found.kind {
        TypeKind::Domain { base, .. } => read(catalog, *base, depth + 1, left),
        _ if oid.came_with_server() => ValueType::BuiltIn(oid.0),
        TypeKind::Array { element } => {
            let element = catalog.type_by_oid(*element);
            // What is taken apart by subscripts isn't always an array, and other types' elements may have more between them than commas.
            let is_array = element.filter(|element| {
                element.array == Some(oid) && !matches!(element.kind, TypeKind::Base | TypeKind::Other)
                    || is_text(element)
            });
            match is_array {
                Some(element) => ValueType::Array(Box::new(read(catalog, element.oid, depth + 1, left))),
                None => ValueType::Unknown,
            }
        }
        TypeKind::Composite { relation } => match catalog.relation(*relation) {
            Some(relation) => {
                let columns = relation.columns.iter();
                ValueType::Row(
                    columns
                        .map(|column| read(catalog, column.type_oid, depth + 1, left))
                        .collect(),
                )
            }
            None => ValueType::Unknown,
        },
        TypeKind::Base if is_text(found) => ValueType::Text,
        TypeKind::Base
        | TypeKind::Enum
        | TypeKind::Range { .. }
        | TypeKind::Multirange { .. }
        | TypeKind::Pseudo
        | TypeKind::Other => ValueType::Unknown,
    }
}

/// Only a superuser makes types of a kind of their own: one of this name is the extension's.
fn is_text(found: &crate::catalog::Type) -> bool {
    found.kind == TypeKind::Base && *found.name == *"citext"
}
