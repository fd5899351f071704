//! JSON Patch (RFC 6902), as the API server reads it: `gopkg.in/evanphx/json-patch.v4`.

use serde_json::{Map, Value};

/// What each operation puts where, as a part of the object. `None` where that can't be told: a `copy` or `move` puts what isn't said, and
/// some readers take what is no pointer for one.
pub(super) fn parts(body: &Value) -> Option<Vec<Value>> {
    let mut parts = Vec::new();
    for operation in body.as_array()? {
        let operation = operation.as_object()?;
        let way = pointer(operation.get("path")?.as_str()?)?;
        let value = match operation.get("op")?.as_str()? {
            "add" | "replace" => operation.get("value")?.clone(),
            "remove" => Value::Null,
            "test" => continue,
            _ => return None,
        };
        parts.push(placed(way, value));
    }
    Some(parts)
}

/// A pointer's steps, the last one first.
fn pointer(path: &str) -> Option<Vec<String>> {
    let steps = path.strip_prefix('/')?.split('/');
    let mut way: Vec<String> = steps
        .map(|step| step.replace("~1", "/").replace("~0", "~"))
        .collect();
    // The deepest that an object may be.
    if way.len() > 200 {
        return None;
    }
    way.reverse();
    Some(way)
}

fn placed(way: Vec<String>, value: Value) -> Value {
    way.into_iter().fold(value, |value, step| {
        let digits = step.strip_prefix('-').unwrap_or(&step);
        let is_place = digits.bytes().all(|byte| byte.is_ascii_digit()) && !step.is_empty();
        if is_place {
            Value::Array(vec![value])
        } else {
            Value::Object(Map::from_iter([(step, value)]))
        }
    })
}
