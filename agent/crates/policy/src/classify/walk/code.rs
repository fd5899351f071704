//! Code that a statement hangs where others' statements run it: functions of triggers, operators, casts, types; what reaches out of the
//! database. It counts as run by whoever hangs it there, since nothing tells later that it runs.

use bailiff_model::{FunctionRef, SqlEffect};
use serde_json::{Map, Value};

use super::super::functions::is_pure;
use super::super::tree::{as_node, list, qualified, strings};
use super::Walk;

/// Options of CREATE AGGREGATE, OPERATOR, TYPE and TEXT SEARCH that name functions.
const FUNCTIONS: &[&str] = &[
    "analyze",
    "canonical",
    "combinefunc",
    "deserialfunc",
    "end",
    "finalfunc",
    "function",
    "gettoken",
    "handler",
    "headline",
    "init",
    "input",
    "lexize",
    "lextypes",
    "mfinalfunc",
    "minvfunc",
    "msfunc",
    "output",
    "procedure",
    "receive",
    "send",
    "serialfunc",
    "sfunc",
    "start",
    "subscript",
    "subtype_diff",
    "typmod_in",
    "typmod_out",
    "validator",
];

/// Operators of `pg_catalog`, of PostgreSQL 13 to 18, sorted.
const OPERATORS: &[&str] = &[
    "!!", "!~", "!~*", "!~~", "!~~*", "#", "##", "#-", "#>", "#>>", "%", "&", "&&", "&<", "&<|", "&>", "*",
    "*<", "*<=", "*<>", "*=", "*>", "*>=", "+", "-", "->", "->>", "-|-", "/", "<", "<->", "<<", "<<=", "<<|",
    "<=", "<>", "<@", "<^", "=", ">", ">=", ">>", ">>=", ">^", "?", "?#", "?&", "?-", "?-|", "?|", "?||",
    "@", "@-@", "@>", "@?", "@@", "@@@", "^", "^@", "|", "|&>", "|/", "|>>", "||", "||/", "~", "~*", "~<=~",
    "~<~", "~=", "~>=~", "~>~", "~~", "~~*",
];

impl Walk {
    /// Notes the code that a statement hangs somewhere.
    pub(super) fn hangs(&mut self, kind: &str, fields: &Map<String, Value>) {
        let of = |name: &str| fields.get(name);
        let named = |name: &str| of(name).and_then(|function| function.get("objname"));
        match kind {
            "CreateTrigStmt" | "CreateEventTrigStmt" => self.hang(of("funcname")),
            "CreateCastStmt" => self.hang(named("func")),
            "CreateConversionStmt" => self.hang(of("func_name")),
            "CreateAmStmt" => self.hang(of("handler_name")),
            "CreatePlangStmt" => {
                for name in ["plhandler", "plinline", "plvalidator"] {
                    self.hang(of(name));
                }
            }
            "CreateTransformStmt" => {
                for name in ["fromsql", "tosql"] {
                    self.hang(named(name));
                }
            }
            "CreateOpClassStmt" | "AlterOpFamilyStmt" => {
                const FUNCTION: i64 = 2;
                for item in list(fields, "items") {
                    let item = item.pointer("/node/CreateOpClassItem");
                    let kind = item.and_then(|item| item.get("itemtype")?.as_i64());
                    if kind == Some(FUNCTION) {
                        self.hang(item.and_then(|item| item.pointer("/name/objname")));
                    }
                }
            }
            "DefineStmt" => self.hang_options(list(fields, "definition")),
            "CreateRangeStmt" => self.hang_options(list(fields, "params")),
            "CreateFdwStmt" | "AlterFdwStmt" => self.hang_options(list(fields, "func_options")),
            // Whatever calls it runs other code afterwards.
            "CreateFunctionStmt" if of("replace").and_then(Value::as_bool) == Some(true) => {
                self.hang(of("funcname"));
            }
            // Rows of another server, or of a file, under a name of this database.
            "AlterForeignServerStmt"
            | "AlterUserMappingStmt"
            | "CreateForeignServerStmt"
            | "CreateForeignTableStmt"
            | "CreateUserMappingStmt"
            | "ImportForeignSchemaStmt" => self.hang_named("FOREIGN"),
            "AlterSubscriptionStmt" | "CreateSubscriptionStmt" => self.hang_named("SUBSCRIPTION"),
            _ => {}
        }
    }

    /// An operator by its bare name is the server's own where it has one of that name, and anybody's otherwise.
    pub(super) fn bare_operator(&mut self, name: &str) {
        let is_symbol = name
            .bytes()
            .all(|byte| !byte.is_ascii_alphanumeric() && byte != b' ');
        if is_symbol && OPERATORS.binary_search(&name).is_err() {
            self.runs("OPERATOR");
        }
    }

    fn hang_options(&mut self, options: &[Value]) {
        for option in options {
            let Some(option) = option.pointer("/node/DefElem") else {
                continue;
            };
            let name = option.get("defname").and_then(Value::as_str).unwrap_or_default();
            if FUNCTIONS
                .binary_search(&name.to_ascii_lowercase().as_str())
                .is_err()
            {
                continue;
            }
            match option.get("arg").and_then(Value::as_object).and_then(as_node) {
                Some(("TypeName", body)) => self.hang(body.get("names")),
                Some(("List", body)) => self.hang(body.get("items")),
                _ => {}
            }
        }
    }

    fn hang(&mut self, names: Option<&Value>) {
        let Some(name) = qualified(&strings(names)) else {
            return;
        };
        if is_pure(name.schema.as_deref(), &name.name) {
            return;
        }
        self.add(SqlEffect::Execute);
        self.found.functions.push(FunctionRef {
            schema: name.schema,
            name: name.name,
        });
    }

    fn hang_named(&mut self, what: &str) {
        self.add(SqlEffect::Execute);
        self.found.functions.push(FunctionRef {
            schema: None,
            name: what.to_owned(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_sorted() {
        assert!(FUNCTIONS.is_sorted() && OPERATORS.is_sorted());
    }
}
