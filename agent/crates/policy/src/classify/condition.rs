//! Whether a condition narrows what a statement touches.
//!
//! A condition is folded to the set of what it may be: true for every row, false for every row, null for every row, or different
//! from row to row. What names no column is the same for every row, whatever it is; where its value can't be told it may be
//! any of the first three.

use bailiff_model::Condition;
use serde_json::{Map, Value};

use super::tree::{as_node, holds_column, list, strings, text};

const TRUE: u8 = 1;
const FALSE: u8 = 2;
const NULL: u8 = 4;
const VARIES: u8 = 8;
/// The same for every row, and nobody knows which.
const CONSTANT: u8 = TRUE | FALSE | NULL;

/// What a condition came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Narrowing {
    /// Why it narrows nothing; `None` where it does.
    pub(super) open: Option<Condition>,
    /// Whether that depends on the value of a number that stands in it.
    pub(super) by_number: bool,
}

/// Of a WHERE clause, or of what stands in its place.
pub(super) fn narrowing(condition: Option<&Value>) -> Narrowing {
    all_of(&[condition])
}

/// Of several conditions that must all hold.
pub(super) fn all_of(conditions: &[Option<&Value>]) -> Narrowing {
    let mut fold = Fold { by_number: false };
    let mut truth = None;
    for condition in conditions.iter().flatten().filter(|value| !value.is_null()) {
        let found = fold.truth(condition);
        truth = Some(truth.map_or(found, |before| and(before, found)));
    }
    Narrowing {
        open: match truth {
            None => Some(Condition::Missing),
            // Uncertainty denies: what may hold for all rows counts as if it did.
            Some(truth) if truth & TRUE != 0 => Some(Condition::ConstantTrue),
            Some(_) => None,
        },
        by_number: fold.by_number,
    }
}

enum Folded {
    Truth(u8),
    Number(f64),
    Text(String),
}

struct Fold {
    by_number: bool,
}

impl Fold {
    fn truth(&mut self, value: &Value) -> u8 {
        match self.fold(value) {
            Folded::Truth(truth) => truth,
            Folded::Number(_) => CONSTANT,
            Folded::Text(text) => boolean(&text),
        }
    }

    fn fold(&mut self, value: &Value) -> Folded {
        let Some((kind, fields)) = value
            .as_object()
            .and_then(as_node)
            .and_then(|(kind, body)| Some((kind, body.as_object()?)))
        else {
            return Folded::Truth(anything(value));
        };
        match kind {
            "AConst" => constant(fields),
            "ColumnRef" | "CurrentOfExpr" => Folded::Truth(VARIES),
            "BoolExpr" => Folded::Truth(self.boolean_operation(fields)),
            "AExpr" => Folded::Truth(self.operation(fields).unwrap_or_else(|| anything(value))),
            "NullTest" => Folded::Truth(self.null_test(fields)),
            "BooleanTest" => Folded::Truth(self.boolean_test(fields)),
            "TypeCast" => self.cast(fields),
            "SubLink" => Folded::Truth(subquery(fields)),
            _ => Folded::Truth(anything(value)),
        }
    }

    fn boolean_operation(&mut self, fields: &Map<String, Value>) -> u8 {
        let args: Vec<u8> = list(fields, "args").iter().map(|arg| self.truth(arg)).collect();
        match fields.get("boolop").and_then(Value::as_i64) {
            Some(1) => args.into_iter().fold(TRUE, and),
            Some(2) => not(args.into_iter().map(not).fold(TRUE, and)),
            Some(3) => args.first().map_or(CONSTANT, |arg| not(*arg)),
            _ => CONSTANT | VARIES,
        }
    }

    /// Comparisons; `None` where it's something else.
    fn operation(&mut self, fields: &Map<String, Value>) -> Option<u8> {
        let operator = strings(fields.get("name"));
        let operator = match operator.as_slice() {
            [name] | ["pg_catalog", name] => *name,
            _ => return None, // Anybody's.
        };
        let (left, right) = (fields.get("lexpr")?, fields.get("rexpr")?);
        match fields.get("kind").and_then(Value::as_i64)? {
            1 => {
                let same_column = is_column(left) && without_places(left) == without_places(right);
                if same_column {
                    // Null aside, which no key holds.
                    return match operator {
                        "=" | ">=" | "<=" => Some(TRUE),
                        "<>" | ">" | "<" => Some(FALSE),
                        _ => None,
                    };
                }
                self.compare(left, operator, right)
            }
            kind @ (4 | 5) => {
                let same = if is_column(left) && without_places(left) == without_places(right) {
                    TRUE
                } else {
                    match (self.is_null(left)?, self.is_null(right)?) {
                        (true, true) => TRUE,
                        (false, false) => self.compare(left, "=", right)?,
                        _ => FALSE,
                    }
                };
                Some(if kind == 4 { not(same) } else { same })
            }
            7 => {
                let items = right.pointer("/node/List/items")?.as_array()?;
                let mut found = FALSE;
                for item in items {
                    found = not(and(not(found), not(self.compare(left, "=", item)?)));
                }
                Some(if operator == "<>" { not(found) } else { found })
            }
            // LIKE '%' holds for whatever isn't null.
            8 | 9 => match self.fold(right) {
                Folded::Text(pattern) if !pattern.is_empty() && pattern.bytes().all(|byte| byte == b'%') => {
                    Some(if operator.starts_with('!') { FALSE } else { TRUE })
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether a constant is null; `None` where it's no plain constant.
    fn is_null(&mut self, value: &Value) -> Option<bool> {
        match self.fold(value) {
            Folded::Truth(NULL) => Some(true),
            Folded::Truth(TRUE | FALSE) | Folded::Number(_) | Folded::Text(_) => Some(false),
            Folded::Truth(_) => None,
        }
    }

    fn compare(&mut self, left: &Value, operator: &str, right: &Value) -> Option<u8> {
        if !matches!(operator, "=" | "<>" | "<" | ">" | "<=" | ">=") {
            return None;
        }
        let holds = match (self.fold(left), self.fold(right)) {
            (Folded::Truth(NULL), _) | (_, Folded::Truth(NULL)) => return Some(NULL),
            (Folded::Number(left), Folded::Number(right)) => {
                self.by_number = true;
                ordered(operator, left.partial_cmp(&right)?)
            }
            // Of texts it is the collation that says which is less.
            (Folded::Text(left), Folded::Text(right)) => match operator {
                "=" => left == right,
                "<>" => left != right,
                _ => return None,
            },
            (Folded::Truth(left @ (TRUE | FALSE)), Folded::Truth(right @ (TRUE | FALSE))) => {
                // True is the greater one.
                ordered(operator, (left == TRUE).cmp(&(right == TRUE)))
            }
            _ => return None,
        };
        Some(if holds { TRUE } else { FALSE })
    }

    fn null_test(&mut self, fields: &Map<String, Value>) -> u8 {
        let Some(arg) = fields.get("arg") else {
            return CONSTANT;
        };
        let is_null = match self.is_null(arg) {
            Some(true) => TRUE,
            Some(false) => FALSE,
            None => anything(arg),
        };
        match fields.get("nulltesttype").and_then(Value::as_i64) {
            Some(1) => is_null,
            Some(2) => not(is_null),
            _ => CONSTANT | VARIES,
        }
    }

    fn boolean_test(&mut self, fields: &Map<String, Value>) -> u8 {
        let Some(arg) = fields.get("arg") else {
            return CONSTANT;
        };
        let found = self.truth(arg);
        // For which of true, false and null it holds.
        let (holds, negated) = match fields.get("booltesttype").and_then(Value::as_i64) {
            Some(kind @ (1 | 2)) => (TRUE, kind == 2),
            Some(kind @ (3 | 4)) => (FALSE, kind == 4),
            Some(kind @ (5 | 6)) => (NULL, kind == 6),
            _ => return CONSTANT | VARIES,
        };
        let mut result = found & VARIES;
        for outcome in [TRUE, FALSE, NULL] {
            if found & outcome != 0 {
                result |= if (outcome == holds) != negated {
                    TRUE
                } else {
                    FALSE
                };
            }
        }
        result
    }

    fn cast(&mut self, fields: &Map<String, Value>) -> Folded {
        let Some(arg) = fields.get("arg") else {
            return Folded::Truth(CONSTANT);
        };
        let names = strings(fields.get("type_name").and_then(|name| name.get("names")));
        let to = names.last().copied().unwrap_or_default();
        match (self.fold(arg), to) {
            (Folded::Text(text), "bool") => Folded::Truth(boolean(&text)),
            (Folded::Text(text), "text" | "varchar") if names.len() < 3 => Folded::Text(text),
            (Folded::Number(number), "int4" | "int8" | "numeric" | "float8") => Folded::Number(number),
            (Folded::Number(number), "bool") => {
                self.by_number = true;
                Folded::Truth(if number == 0.0 { FALSE } else { TRUE })
            }
            (Folded::Truth(truth @ (TRUE | FALSE)), "bool") => Folded::Truth(truth),
            (Folded::Truth(NULL), _) => Folded::Truth(NULL),
            _ => Folded::Truth(anything(arg)),
        }
    }
}

fn ordered(operator: &str, order: std::cmp::Ordering) -> bool {
    match operator {
        "=" => order.is_eq(),
        "<>" => order.is_ne(),
        "<" => order.is_lt(),
        ">" => order.is_gt(),
        "<=" => order.is_le(),
        _ => order.is_ge(),
    }
}

fn and(left: u8, right: u8) -> u8 {
    let mut found = 0;
    for a in [TRUE, FALSE, NULL, VARIES] {
        for b in [TRUE, FALSE, NULL, VARIES] {
            if left & a != 0 && right & b != 0 {
                found |= match (a, b) {
                    (FALSE, _) | (_, FALSE) => FALSE,
                    (VARIES, _) | (_, VARIES) => VARIES,
                    (NULL, _) | (_, NULL) => NULL,
                    _ => TRUE,
                };
            }
        }
    }
    found
}

fn not(truth: u8) -> u8 {
    let swapped = (truth & TRUE) << 1 | (truth & FALSE) >> 1;
    truth & (NULL | VARIES) | swapped
}

/// What the server takes for a boolean.
fn boolean(text: &str) -> u8 {
    match text.trim().to_ascii_lowercase().as_str() {
        "t" | "tr" | "tru" | "true" | "y" | "ye" | "yes" | "on" | "1" => TRUE,
        "f" | "fa" | "fal" | "fals" | "false" | "n" | "no" | "of" | "off" | "0" => FALSE,
        _ => CONSTANT,
    }
}

fn constant(fields: &Map<String, Value>) -> Folded {
    if fields.get("isnull").and_then(Value::as_bool) == Some(true) {
        return Folded::Truth(NULL);
    }
    let value = fields.get("val");
    let of = |pointer: &str| value.and_then(|value| value.pointer(pointer));
    if let Some(value) = of("/Boolval/boolval").and_then(Value::as_bool) {
        return Folded::Truth(if value { TRUE } else { FALSE });
    }
    if let Some(number) = of("/Ival/ival").and_then(Value::as_f64) {
        return Folded::Number(number);
    }
    let float = of("/Fval/fval").and_then(Value::as_str);
    if let Some(number) = float.and_then(|text| text.parse().ok()) {
        return Folded::Number(number);
    }
    match of("/Sval/sval").and_then(Value::as_str) {
        Some(text) => Folded::Text(text.to_owned()),
        None => Folded::Truth(CONSTANT),
    }
}

/// EXISTS and its kind. One that reads something depends on it, and perhaps on the row outside.
fn subquery(fields: &Map<String, Value>) -> u8 {
    const EXISTS: i64 = 1;
    let query = fields
        .get("subselect")
        .and_then(|query| query.pointer("/node/SelectStmt"))
        .and_then(Value::as_object);
    let Some(query) = query else { return VARIES };
    let plain = list(query, "from_clause").is_empty()
        && query.get("op").and_then(Value::as_i64) == Some(1)
        && [
            "where_clause",
            "having_clause",
            "limit_count",
            "limit_offset",
            "with_clause",
        ]
        .into_iter()
        .all(|name| query.get(name).is_none_or(Value::is_null));
    match fields.get("sub_link_type").and_then(Value::as_i64) {
        _ if !plain => VARIES,
        Some(EXISTS) => TRUE,
        _ if fields.values().any(holds_column) => VARIES,
        _ => CONSTANT,
    }
}

/// Of what isn't folded.
fn anything(value: &Value) -> u8 {
    if holds_column(value) || holds_subquery(value) {
        VARIES
    } else {
        CONSTANT
    }
}

fn holds_subquery(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(holds_subquery),
        Value::Object(fields) => fields.contains_key("SubLink") || fields.values().any(holds_subquery),
        _ => false,
    }
}

fn is_column(value: &Value) -> bool {
    value.pointer("/node/ColumnRef").is_some()
}

/// A column reference's names.
fn without_places(value: &Value) -> Vec<String> {
    let fields = value.pointer("/node/ColumnRef/fields").and_then(Value::as_array);
    fields
        .into_iter()
        .flatten()
        .map(|field| match field.pointer("/node/String") {
            Some(Value::Object(name)) => text(name, "sval").to_owned(),
            _ => "*".to_owned(),
        })
        .collect()
}
