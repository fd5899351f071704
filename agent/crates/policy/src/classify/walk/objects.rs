//! Relations that a statement means without a name of the grammar's for relations: in COMMENT and DROP, in ALL TABLES, in what is about
//! a whole schema or database.

use bailiff_model::{RelationRef, SqlEffect};
use serde_json::{Map, Value};

use super::super::tree::{list, qualified, strings, text};
use super::{Walk, any_relation, any_relation_of};

/// The grammar's `ObjectType`.
mod object {
    pub(super) const COLUMN: i64 = 7;
    pub(super) const EXTENSION: i64 = 16;
    pub(super) const FOREIGN_TABLE: i64 = 19;
    pub(super) const INDEX: i64 = 21;
    pub(super) const MATVIEW: i64 = 24;
    pub(super) const POLICY: i64 = 29;
    pub(super) const ROLE: i64 = 34;
    pub(super) const RULE: i64 = 36;
    pub(super) const SCHEMA: i64 = 37;
    pub(super) const SEQUENCE: i64 = 38;
    pub(super) const STATISTICS: i64 = 40;
    pub(super) const TABLE_CONSTRAINT: i64 = 41;
    pub(super) const TABLE: i64 = 42;
    pub(super) const TRIGGER: i64 = 45;
    pub(super) const VIEW: i64 = 52;
}

/// Objects that are relations.
const RELATIONS: &[i64] = &[
    object::FOREIGN_TABLE,
    object::INDEX,
    object::MATVIEW,
    object::SEQUENCE,
    object::TABLE,
    object::VIEW,
];

/// Objects of a relation, whose name stands before theirs.
const OF_RELATION: &[i64] = &[
    object::COLUMN,
    object::POLICY,
    object::RULE,
    object::TABLE_CONSTRAINT,
    object::TRIGGER,
];

/// The relation that an object's name in COMMENT, DROP and SECURITY LABEL is about.
fn named(kind: Option<i64>, object: &Value) -> Option<RelationRef> {
    let names = strings(object.pointer("/node/List/items"));
    match kind? {
        kind if RELATIONS.contains(&kind) => qualified(&names),
        kind if OF_RELATION.contains(&kind) => names.split_last().and_then(|(_, table)| qualified(table)),
        _ => None,
    }
}

/// Whether rights are those on tables or sequences.
fn is_of_relations(grant: &Map<String, Value>) -> bool {
    matches!(number(grant, "objtype"), Some(object::TABLE | object::SEQUENCE))
}

fn number(fields: &Map<String, Value>, name: &str) -> Option<i64> {
    fields.get(name).and_then(Value::as_i64)
}

impl Walk {
    pub(super) fn drop_objects(&mut self, fields: &Map<String, Value>) {
        self.add(SqlEffect::Drop);
        let kind = number(fields, "remove_type");
        for object in list(fields, "objects") {
            self.found.writes.extend(named(kind, object));
        }
        match kind {
            // A policy gone lets see more, or less.
            Some(object::POLICY) => self.add(SqlEffect::Grant),
            // Of which table the statistics are isn't said, and an extension's tables go with it.
            Some(object::STATISTICS | object::EXTENSION) => self.found.writes.push(any_relation()),
            _ => {}
        }
        self.cascade(fields);
        self.fields(fields, &[]);
    }

    /// What a statement is about besides what the walk finds by itself.
    pub(super) fn objects(&mut self, kind: &str, fields: &Map<String, Value>) {
        match kind {
            "CommentStmt" | "SecLabelStmt" => {
                let object = fields.get("object").unwrap_or(&Value::Null);
                self.found.writes.extend(named(number(fields, "objtype"), object));
            }
            "RenameStmt" => self.renames(fields),
            "AlterObjectSchemaStmt" => self.moves_schema(fields),
            "AlterOwnerStmt" if number(fields, "object_type") == Some(object::SCHEMA) => {
                let schema = fields
                    .get("object")
                    .and_then(|object| object.pointer("/node/String/sval")?.as_str());
                self.found
                    .writes
                    .push(schema.map_or_else(any_relation, any_relation_of));
            }
            "AlterTableStmt" => self.alters(fields),
            "AlterStatsStmt" | "AlterTableMoveAllStmt" | "DropOwnedStmt" | "ReassignOwnedStmt" => {
                self.found.writes.push(any_relation());
            }
            "VacuumStmt" if list(fields, "rels").is_empty() => self.found.writes.push(any_relation()),
            "ClusterStmt" if fields.get("relation").is_none_or(Value::is_null) => {
                self.found.writes.push(any_relation());
            }
            "ReindexStmt" => match number(fields, "kind") {
                Some(1 | 2) => {} // An index or a table, which is named.
                Some(3) => self.found.writes.push(any_relation_of(text(fields, "name"))),
                _ => self.found.writes.push(any_relation()),
            },
            "GrantStmt" if number(fields, "targtype") == Some(2) && is_of_relations(fields) => {
                self.found
                    .writes
                    .extend(strings(fields.get("objects")).into_iter().map(any_relation_of));
            }
            "AlterDefaultPrivilegesStmt"
                if fields
                    .get("action")
                    .and_then(Value::as_object)
                    .is_none_or(is_of_relations) =>
            {
                let schemas: Vec<&str> = list(fields, "options")
                    .iter()
                    .filter_map(|option| option.pointer("/node/DefElem"))
                    .filter(|option| option.get("defname").and_then(Value::as_str) == Some("schemas"))
                    .flat_map(|option| strings(option.pointer("/arg/node/List/items")))
                    .collect();
                if schemas.is_empty() {
                    self.found.writes.push(any_relation());
                }
                self.found.writes.extend(schemas.into_iter().map(any_relation_of));
            }
            "ImportForeignSchemaStmt" => {
                self.found
                    .writes
                    .push(any_relation_of(text(fields, "local_schema")));
            }
            "CreatePublicationStmt" | "AlterPublicationStmt" => self.publishes(fields),
            "CreateSeqStmt" | "AlterSeqStmt" => {
                let owner = list(fields, "options")
                    .iter()
                    .filter_map(|option| option.pointer("/node/DefElem"))
                    .filter(|option| option.get("defname").and_then(Value::as_str) == Some("owned_by"))
                    .find_map(|option| {
                        let names = strings(option.pointer("/arg/node/List/items"));
                        names.split_last().and_then(|(_, table)| qualified(table))
                    });
                if let Some(owner) = owner {
                    self.read(owner);
                }
            }
            "CreateStmt" => self.of_type(fields.get("of_typename")),
            _ => {}
        }
    }

    /// What a relation is called afterwards is written, too: otherwise a name that is denied could be given to another.
    fn renames(&mut self, fields: &Map<String, Value>) {
        let new = text(fields, "newname");
        match number(fields, "rename_type") {
            Some(kind) if RELATIONS.contains(&kind) => {
                let schema = fields
                    .get("relation")
                    .and_then(|relation| relation.get("schemaname"))
                    .and_then(Value::as_str)
                    .filter(|schema| !schema.is_empty());
                self.found.writes.push(RelationRef {
                    schema: schema.map(str::to_owned),
                    name: new.to_owned(),
                });
            }
            Some(object::SCHEMA) => {
                for schema in [text(fields, "subname"), new] {
                    self.found.writes.push(any_relation_of(schema));
                }
            }
            Some(object::ROLE) => self.add(SqlEffect::Grant),
            _ => {}
        }
    }

    fn moves_schema(&mut self, fields: &Map<String, Value>) {
        let relation = fields
            .get("relation")
            .and_then(|relation| relation.get("relname"))
            .and_then(Value::as_str);
        if let Some(name) = relation {
            self.found.writes.push(RelationRef {
                schema: Some(text(fields, "newschema").to_owned()),
                name: name.to_owned(),
            });
        } else if number(fields, "object_type") == Some(object::EXTENSION) {
            self.found.writes.push(any_relation());
        }
    }

    /// Owners and row security are rights.
    fn alters(&mut self, fields: &Map<String, Value>) {
        const CHANGE_OWNER: i64 = 27;
        const ADD_OF: i64 = 52;
        const ROW_SECURITY: std::ops::RangeInclusive<i64> = 55..=58;
        for command in list(fields, "cmds") {
            let Some(command) = command.pointer("/node/AlterTableCmd") else {
                continue;
            };
            match command.get("subtype").and_then(Value::as_i64) {
                Some(CHANGE_OWNER) => self.add(SqlEffect::Grant),
                Some(ADD_OF) => self.of_type(command.pointer("/def/node/TypeName")),
                Some(subtype) if ROW_SECURITY.contains(&subtype) => self.add(SqlEffect::Grant),
                _ => {}
            }
        }
    }

    /// A table of a composite type, which is a relation to the server.
    fn of_type(&mut self, of: Option<&Value>) {
        let names = strings(of.and_then(|of| of.get("names")));
        if let Some(relation) = qualified(&names) {
            self.add(SqlEffect::Read);
            self.found.reads.push(relation); // Never a CTE.
        }
    }

    /// Walks CREATE SCHEMA. What is made in it without a schema's name is made there.
    pub(super) fn makes_schema(&mut self, fields: &Map<String, Value>) {
        let outer = std::mem::take(&mut self.found.writes);
        self.fields(fields, &[]);
        let role = fields
            .get("authrole")
            .filter(|role| role.get("roletype").and_then(Value::as_i64) == Some(1))
            .and_then(|role| role.get("rolename")?.as_str());
        let schema = Some(text(fields, "schemaname"))
            .filter(|name| !name.is_empty())
            .or(role);
        let grants = list(fields, "schema_elts")
            .iter()
            .any(|element| element.pointer("/node/GrantStmt").is_some());
        let made = std::mem::replace(&mut self.found.writes, outer);
        // A rule about relations alone doesn't let make schemas, with or without relations in them.
        if !made.is_empty() {
            self.found.writes.push(any_relation());
        }
        for relation in made {
            if relation.schema.is_some() {
                self.found.writes.push(relation);
                continue;
            }
            if let Some(schema) = schema {
                self.found.writes.push(RelationRef {
                    schema: Some(schema.to_owned()),
                    name: relation.name.clone(),
                });
            }
            // GRANT may be about what is elsewhere.
            if grants {
                self.found.writes.push(relation);
            }
        }
    }

    fn publishes(&mut self, fields: &Map<String, Value>) {
        let mut all = fields.get("for_all_tables").and_then(Value::as_bool) == Some(true);
        for object in list(fields, "pubobjects") {
            let Some(object) = object.pointer("/node/PublicationObjSpec") else {
                continue;
            };
            match object.get("pubobjtype").and_then(Value::as_i64) {
                Some(2) => {
                    let schema = object.get("name").and_then(Value::as_str).unwrap_or_default();
                    self.add(SqlEffect::Read);
                    self.found.reads.push(any_relation_of(schema));
                }
                Some(3) => all = true, // TABLES IN SCHEMA CURRENT_SCHEMA.
                _ => {}
            }
        }
        if all {
            self.add(SqlEffect::Read);
            self.found.reads.push(any_relation());
        }
    }
}
