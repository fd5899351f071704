//! The walk over a statement's tree.

use bailiff_model::{EffectSet, FunctionRef, RelationRef, SqlEffect, Statement};
use serde_json::{Map, Value};

use super::functions::is_pure;

/// What a walk found.
pub(super) struct Walked {
    pub(super) statement: Statement,
    pub(super) moves_search_path: bool,
}

/// Walks one statement, given as the JSON of its `Node`.
pub(super) fn statement(tree: &Value) -> Walked {
    let mut walk = Walk::default();
    walk.value(tree);
    for list in [&mut walk.found.reads, &mut walk.found.writes] {
        list.sort();
        list.dedup();
    }
    walk.found.functions.sort();
    walk.found.functions.dedup();
    Walked {
        statement: walk.found,
        moves_search_path: walk.moves_search_path,
    }
}

#[derive(Default)]
struct Walk {
    found: Statement,
    moves_search_path: bool,
    /// Names of CTEs in scope. A relation of such a name, unqualified, is the CTE.
    ctes: Vec<String>,
}

/// Statements whose effects don't depend on what they hold, by the grammar's names. What they hold is walked as well.
fn plain_effects(kind: &str) -> Option<EffectSet> {
    use SqlEffect::{Alter, Create, Drop, Execute, Grant, Read, Set, Transaction};
    let effects: &[SqlEffect] = match kind {
        "AlterCollationStmt"
        | "AlterDatabaseRefreshCollStmt"
        | "AlterDatabaseSetStmt"
        | "AlterDatabaseStmt"
        | "AlterDomainStmt"
        | "AlterEnumStmt"
        | "AlterEventTrigStmt"
        | "AlterExtensionContentsStmt"
        | "AlterExtensionStmt"
        | "AlterFdwStmt"
        | "AlterForeignServerStmt"
        | "AlterFunctionStmt"
        | "AlterObjectDependsStmt"
        | "AlterObjectSchemaStmt"
        | "AlterOpFamilyStmt"
        | "AlterOperatorStmt"
        | "AlterPublicationStmt"
        | "AlterSeqStmt"
        | "AlterStatsStmt"
        | "AlterSubscriptionStmt"
        | "AlterSystemStmt"
        | "AlterTableMoveAllStmt"
        | "AlterTableSpaceOptionsStmt"
        | "AlterTableStmt"
        | "AlterTsconfigurationStmt"
        | "AlterTsdictionaryStmt"
        | "AlterTypeStmt"
        | "AlterUserMappingStmt"
        | "ClusterStmt"
        | "CommentStmt"
        | "RefreshMatViewStmt"
        | "ReindexStmt"
        | "RenameStmt"
        | "ReplicaIdentityStmt"
        | "VacuumStmt" => &[Alter],
        "AlterDefaultPrivilegesStmt"
        | "AlterPolicyStmt"
        | "AlterRoleSetStmt"
        | "AlterRoleStmt"
        | "CreatePolicyStmt"
        | "CreateRoleStmt"
        | "DropRoleStmt"
        | "GrantRoleStmt"
        | "GrantStmt"
        | "ReassignOwnedStmt"
        | "SecLabelStmt" => &[Grant],
        "AlterOwnerStmt" => &[Alter, Grant],
        "DropOwnedStmt" => &[Drop, Grant],
        "CompositeTypeStmt"
        | "CreateAmStmt"
        | "CreateCastStmt"
        | "CreateConversionStmt"
        | "CreateDomainStmt"
        | "CreateEnumStmt"
        | "CreateEventTrigStmt"
        | "CreateExtensionStmt"
        | "CreateFdwStmt"
        | "CreateForeignServerStmt"
        | "CreateForeignTableStmt"
        | "CreateFunctionStmt"
        | "CreateOpClassItem"
        | "CreateOpClassStmt"
        | "CreateOpFamilyStmt"
        | "CreatePlangStmt"
        | "CreatePLangStmt"
        | "CreatePublicationStmt"
        | "CreateRangeStmt"
        | "CreateSchemaStmt"
        | "CreateSeqStmt"
        | "CreateStatsStmt"
        | "CreateStmt"
        | "CreateSubscriptionStmt"
        | "CreateTableSpaceStmt"
        | "CreateTransformStmt"
        | "CreateTrigStmt"
        | "CreateUserMappingStmt"
        | "CreatedbStmt"
        | "DefineStmt"
        | "ImportForeignSchemaStmt"
        | "IndexStmt"
        | "RuleStmt"
        | "ViewStmt"
        | "CreateTableAsStmt" => &[Create],
        "DropStmt" | "DropSubscriptionStmt" | "DropTableSpaceStmt" | "DropUserMappingStmt" | "DropdbStmt" => {
            &[Drop]
        }
        "CallStmt" | "CheckPointStmt" | "DoStmt" | "ExecuteStmt" | "LoadStmt" | "NotifyStmt" => &[Execute],
        "ClosePortalStmt" | "ConstraintsSetStmt" | "DeallocateStmt" | "DeclareCursorStmt" | "LockStmt"
        | "TransactionStmt" => &[Transaction],
        "FetchStmt" => &[Transaction, Read],
        "DiscardStmt" | "ListenStmt" | "UnlistenStmt" | "VariableSetStmt" => &[Set],
        "VariableShowStmt" => &[Read],
        // What they hold says it.
        "PrepareStmt" | "ReturnStmt" | "PlassignStmt" | "RawStmt" => &[],
        _ => return None,
    };
    Some(effects.iter().copied().collect())
}

/// Kinds that write the relation which they name, though what they do isn't a change of rows.
fn names_written(kind: &str) -> bool {
    !matches!(kind, "ViewStmt" | "RuleStmt" | "LockStmt" | "CreateTableAsStmt")
}

impl Walk {
    fn add(&mut self, effect: SqlEffect) {
        self.found.effects = self.found.effects.with(effect);
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.value(item)),
            Value::Object(fields) => {
                if let Some((kind, body)) = as_node(fields) {
                    self.node(kind, body);
                } else if let Some(relation) = as_relation(fields) {
                    self.read(relation);
                    self.fields(fields, &[]);
                } else if is_query(fields) {
                    self.select(fields); // An arm of UNION, which the tree holds without a Node around it.
                } else {
                    self.fields(fields, &[]);
                }
            }
            _ => {}
        }
    }

    fn fields(&mut self, fields: &Map<String, Value>, except: &[&str]) {
        for (name, value) in fields {
            if !except.contains(&name.as_str()) {
                self.value(value);
            }
        }
    }

    fn read(&mut self, relation: RelationRef) {
        if relation.schema.is_none() && self.ctes.contains(&relation.name) {
            return;
        }
        self.found.reads.push(relation);
    }

    fn write(&mut self, relation: Option<&Value>) {
        if let Some(relation) = relation.and_then(Value::as_object).and_then(as_relation) {
            self.found.writes.push(relation);
        }
    }

    fn node(&mut self, kind: &str, body: &Value) {
        let Some(fields) = body.as_object() else { return };
        match kind {
            "SelectStmt" => self.select(fields),
            "InsertStmt" => {
                self.add(SqlEffect::Insert);
                self.write(fields.get("relation"));
                let updates = fields
                    .get("on_conflict_clause")
                    .and_then(|clause| clause.get("action"));
                if updates.and_then(Value::as_i64) == Some(3) {
                    self.add(SqlEffect::Update);
                }
                self.with_scope(fields, &["relation"]);
                self.returning(fields);
            }
            "UpdateStmt" | "DeleteStmt" => {
                self.add(if kind == "UpdateStmt" {
                    SqlEffect::Update
                } else {
                    SqlEffect::Delete
                });
                self.write(fields.get("relation"));
                self.with_scope(fields, &["relation"]);
                self.returning(fields);
            }
            "MergeStmt" => {
                self.write(fields.get("relation"));
                self.add(SqlEffect::Read);
                for clause in list(fields, "merge_when_clauses") {
                    let command = clause
                        .pointer("/node/MergeWhenClause/command_type")
                        .and_then(Value::as_i64);
                    self.add(match command {
                        Some(3) => SqlEffect::Update,
                        Some(4) => SqlEffect::Insert,
                        Some(5) => SqlEffect::Delete,
                        Some(8) => continue, // DO NOTHING
                        _ => SqlEffect::Unknown,
                    });
                }
                self.with_scope(fields, &["relation"]);
            }
            "TruncateStmt" => {
                self.add(SqlEffect::Truncate);
                for relation in list(fields, "relations") {
                    self.write(relation.pointer("/node/RangeVar"));
                }
            }
            "CopyStmt" => self.copy(fields),
            "ExplainStmt" => self.explain(fields),
            "FuncCall" => self.function(fields),
            "CommonTableExpr" => self.fields(fields, &[]),
            "AExpr" => {
                self.operator(fields);
                self.fields(fields, &[]);
            }
            "VariableSetStmt" => {
                self.add(SqlEffect::Set);
                let name = text(fields, "name");
                // RESET ALL and SET of anything that carries a search_path along.
                self.moves_search_path |= name.is_empty() || name == "search_path" || name.contains("SCHEMA");
                self.fields(fields, &[]);
            }
            "DiscardStmt" | "TransactionStmt" => {
                // ROLLBACK takes back SET, so that an earlier search_path comes again: it was then moved before already.
                self.add(if kind == "DiscardStmt" {
                    SqlEffect::Set
                } else {
                    SqlEffect::Transaction
                });
            }
            "DropStmt" => {
                self.add(SqlEffect::Drop);
                for object in list(fields, "objects") {
                    let names: Vec<&str> = strings(object.pointer("/node/List/items"));
                    if let Some(relation) = qualified(&names) {
                        self.found.writes.push(relation);
                    }
                }
                self.fields(fields, &[]);
            }
            "RangeVar" => {
                if let Some(relation) = as_relation(fields) {
                    self.read(relation);
                }
                self.fields(fields, &[]);
            }
            "IntoClause" => {
                self.add(SqlEffect::Create);
                self.write(fields.get("rel"));
                self.fields(fields, &["rel"]);
            }
            "LockingClause" => self.add(SqlEffect::Update),
            kind if kind.ends_with("Stmt") => self.other_statement(kind, fields),
            _ => self.fields(fields, &[]),
        }
    }

    fn other_statement(&mut self, kind: &str, fields: &Map<String, Value>) {
        match plain_effects(kind) {
            Some(effects) => self.found.effects = self.found.effects.union(effects),
            // Uncertainty denies: a statement that a newer grammar brought.
            None => self.add(SqlEffect::Unknown),
        }
        if matches!(
            kind,
            "ExecuteStmt" | "CallStmt" | "DoStmt" | "LoadStmt" | "AlterRoleSetStmt"
        ) {
            // What runs may set anything.
            self.moves_search_path = true;
        }
        if kind == "CreateTableAsStmt" {
            self.write(fields.get("into").and_then(|into| into.get("rel")));
            return self.fields(fields, &["into"]);
        }
        if names_written(kind) {
            for name in ["relation", "rel", "sequence", "typevar", "view"] {
                self.write(fields.get(name));
            }
            return self.fields(fields, &["relation", "rel", "sequence", "typevar", "view"]);
        }
        self.fields(fields, &[]);
    }

    fn select(&mut self, fields: &Map<String, Value>) {
        let only_values = !list(fields, "values_lists").is_empty();
        if !only_values {
            self.add(SqlEffect::Read);
        }
        if let Some(into) = fields.get("into_clause").filter(|into| !into.is_null()) {
            self.add(SqlEffect::Create);
            self.write(into.get("rel"));
        }
        self.with_scope(fields, &["into_clause"]);
    }

    /// Walks a statement that may have CTEs: each sees those before it, or all where they are recursive.
    fn with_scope(&mut self, fields: &Map<String, Value>, except: &[&str]) {
        let outer = self.ctes.len();
        let with = fields.get("with_clause").and_then(Value::as_object);
        if let Some(with) = with {
            let bodies: Vec<_> = list(with, "ctes")
                .iter()
                .filter_map(|cte| cte.pointer("/node/CommonTableExpr"))
                .collect();
            let name = |cte: &Value| {
                cte.get("ctename")
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            let recursive = with.get("recursive").and_then(Value::as_bool).unwrap_or(false);
            if recursive {
                self.ctes.extend(bodies.iter().map(|cte| name(cte)));
            }
            for cte in bodies {
                self.value(cte);
                if !recursive {
                    self.ctes.push(name(cte));
                }
            }
        }
        let mut except = except.to_vec();
        except.push("with_clause");
        self.fields(fields, &except);
        self.ctes.truncate(outer);
    }

    /// RETURNING, WHERE and FROM read the relation that is written.
    fn returning(&mut self, fields: &Map<String, Value>) {
        let there = |name: &str| match fields.get(name) {
            None | Some(Value::Null) => false,
            Some(Value::Array(items)) => !items.is_empty(),
            Some(_) => true,
        };
        if there("returning_clause") || there("returning_list") {
            self.add(SqlEffect::Read);
        }
        if let Some(relation) = fields
            .get("relation")
            .and_then(Value::as_object)
            .and_then(as_relation)
        {
            if there("returning_clause")
                || there("returning_list")
                || there("where_clause")
                || there("on_conflict_clause")
            {
                self.found.reads.push(relation);
            }
        }
    }

    fn copy(&mut self, fields: &Map<String, Value>) {
        self.add(SqlEffect::Copy);
        let from = fields.get("is_from").and_then(Value::as_bool).unwrap_or(false);
        if from {
            self.add(SqlEffect::Insert);
            self.write(fields.get("relation"));
        } else {
            self.add(SqlEffect::Read);
            if let Some(relation) = fields
                .get("relation")
                .and_then(Value::as_object)
                .and_then(as_relation)
            {
                self.found.reads.push(relation);
            }
        }
        // A file or program on the server.
        if fields.get("is_program").and_then(Value::as_bool) == Some(true)
            || !text(fields, "filename").is_empty()
        {
            self.add(SqlEffect::Execute);
        }
        self.fields(fields, &["relation"]);
    }

    /// EXPLAIN runs what it explains only with ANALYZE. Without it nothing is written, but the plan tells of what is read.
    fn explain(&mut self, fields: &Map<String, Value>) {
        let analyze = list(fields, "options").iter().any(|option| {
            let option = option.pointer("/node/DefElem");
            let name = option
                .and_then(|option| option.get("defname"))
                .and_then(Value::as_str);
            // Whatever its argument: `analyze off` is rare, and taking it for on is only stricter.
            name == Some("analyze")
        });
        self.add(SqlEffect::Read);
        if analyze {
            self.fields(fields, &["options"]);
        } else {
            let mut inner = Self {
                ctes: self.ctes.clone(),
                ..Self::default()
            };
            inner.fields(fields, &["options"]);
            for effect in [SqlEffect::Execute, SqlEffect::Unknown] {
                if inner.found.effects.contains(effect) {
                    self.add(effect); // Planning may run functions.
                }
            }
            self.found.functions.extend(inner.found.functions);
            self.found.reads.extend(inner.found.reads);
            self.found.reads.extend(inner.found.writes);
        }
    }

    fn function(&mut self, fields: &Map<String, Value>) {
        let names = strings(fields.get("funcname"));
        let Some(name) = qualified(&names) else {
            self.add(SqlEffect::Unknown);
            return self.fields(fields, &["funcname"]);
        };
        if name.name == "set_config" {
            self.add(SqlEffect::Set);
            self.moves_search_path = true;
        } else if !is_pure(name.schema.as_deref(), &name.name) {
            self.add(SqlEffect::Execute);
            self.moves_search_path = true;
        }
        self.found.functions.push(FunctionRef {
            schema: name.schema,
            name: name.name,
        });
        self.fields(fields, &["funcname"]);
    }

    /// An operator named with a schema may be anybody's.
    fn operator(&mut self, fields: &Map<String, Value>) {
        let names = strings(fields.get("name"));
        if let [schema, _] = names.as_slice() {
            if *schema != "pg_catalog" {
                self.add(SqlEffect::Execute);
            }
        }
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

fn qualified(names: &[&str]) -> Option<RelationRef> {
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
