//! Reading the tree as `serde_json` holds it.

use bailiff_model::RelationRef;
use serde_json::{Map, Value};

/// Whether a column is named anywhere below.
pub(super) fn holds_column(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(holds_column),
        Value::Object(fields) => fields.contains_key("ColumnRef") || fields.values().any(holds_column),
        _ => false,
    }
}

/// Whether any text below but a literal's has letters beyond ASCII.
pub(super) fn has_foreign_name(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.is_ascii(),
        Value::Array(items) => items.iter().any(has_foreign_name),
        Value::Object(fields) => fields
            .iter()
            .any(|(name, value)| name != "AConst" && has_foreign_name(value)),
        _ => false,
    }
}

/// A `Node`: an object whose only field is `node`, holding the kind and the body.
pub(super) fn as_node(fields: &Map<String, Value>) -> Option<(&str, &Value)> {
    if fields.len() != 1 {
        return None;
    }
    let (kind, body) = fields.get("node")?.as_object()?.iter().next()?;
    Some((kind, body))
}

/// A `RangeVar`, which the tree also holds without a Node around it.
pub(super) fn as_relation(fields: &Map<String, Value>) -> Option<RelationRef> {
    let name = fields.get("relname")?.as_str()?.to_owned();
    fields.get("relpersistence")?;
    let schema = fields.get("schemaname")?.as_str()?;
    Some(RelationRef {
        schema: (!schema.is_empty()).then(|| schema.to_owned()),
        name,
    })
}

/// A `SelectStmt` by its fields.
pub(super) fn is_query(fields: &Map<String, Value>) -> bool {
    fields.contains_key("target_list")
        && fields.contains_key("from_clause")
        && fields.contains_key("values_lists")
}

pub(super) fn list<'a>(fields: &'a Map<String, Value>, name: &str) -> &'a [Value] {
    fields
        .get(name)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

pub(super) fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> &'a str {
    fields.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The texts of a list of `String` nodes.
pub(super) fn strings(nodes: Option<&Value>) -> Vec<&str> {
    let nodes = nodes.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    nodes
        .iter()
        .filter_map(|node| node.pointer("/node/String/sval"))
        .filter_map(Value::as_str)
        .collect()
}

pub(super) fn qualified(names: &[&str]) -> Option<RelationRef> {
    match names {
        [name] => Some(RelationRef {
            schema: None,
            name: (*name).to_owned(),
        }),
        [.., schema, name] => Some(RelationRef {
            schema: Some((*schema).to_owned()),
            name: (*name).to_owned(),
        }),
        [] => None,
    }
}
