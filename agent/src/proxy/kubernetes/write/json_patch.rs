//! JSON Patch (RFC 6902): its operations copy, move and compare what is there, so that they may read without reading.

use std::sync::Arc;

use bailiff_policy::{FieldMasks, FieldPlace, FieldTreatment, PLACEHOLDER};
use bailiff_wire::kubernetes::LAST_APPLIED;
use memchr::memmem;
use serde::Deserialize;
use serde_json::Value;

use crate::proxy::kubernetes::status::Status;

/// The API server takes no more operations than that. (`MaxJSONPatchOperations`.)
const MAX_OPERATIONS: usize = 10_000;

/// A number in a pointer is a place in a list or a name. With more of them than that, too many places would have to be followed.
const MAX_NUMBERS: usize = 8;

#[derive(Deserialize)]
struct Operation {
    op: String,
    path: String,
    from: Option<String>,
    #[serde(default)]
    value: Value,
}

/// Refuses operations on masked fields.
pub(super) fn check(body: &[u8], masks: &Arc<FieldMasks>) -> Result<(), Status> {
    let operations: Vec<Operation> =
        serde_json::from_slice(body).map_err(|_| Status::bad_request("the JSON patch can't be read"))?;
    if operations.len() > MAX_OPERATIONS {
        return Err(Status::bad_request(
            "the JSON patch has more operations than the API server takes",
        ));
    }
    for operation in &operations {
        let reads = !matches!(operation.op.as_str(), "add" | "replace" | "remove");
        let refused = |pointer: &str| {
            let shown: String = pointer.chars().take(256).collect();
            Status::invalid(&format!(
                "the JSON patch has {:?} with {shown:?}, where fields are masked: use a merge patch or an apply with the values themselves",
                operation.op.chars().take(16).collect::<String>(),
            ))
        };
        let pointers = [Some(operation.path.as_str()), operation.from.as_deref()];
        for pointer in pointers.into_iter().flatten() {
            let places = places(masks, pointer).ok_or_else(|| refused(pointer))?;
            let touched = |place: &FieldPlace| match masks.treatment(*place) {
                FieldTreatment::Mask(_) => true,
                // What is looked at may be anything that is there.
                FieldTreatment::Detect(_) => reads,
                FieldTreatment::Pass => reads && !masks.passes(*place),
            };
            if places.iter().any(touched) || reads && is_applied(pointer) {
                return Err(refused(pointer));
            }
            if places
                .iter()
                .any(|place| writes(masks, *place, &operation.value, 0))
            {
                return Err(refused(pointer));
            }
        }
        let texts = operation.value.to_string();
        if memmem::find(texts.as_bytes(), PLACEHOLDER).is_some() {
            return Err(Status::invalid(
                "the JSON patch holds a placeholder that stands for a masked value: write the value itself",
            ));
        }
    }
    Ok(())
}

/// The places that a pointer may mean. `None` where they can't be told.
fn places(masks: &FieldMasks, pointer: &str) -> Option<Vec<FieldPlace>> {
    let mut places = vec![masks.root(None, None)];
    if pointer.is_empty() {
        return Some(places);
    }
    let mut numbers = 0;
    for token in pointer.strip_prefix('/')?.split('/') {
        let token = token.replace("~1", "/").replace("~0", "~");
        let number = token == "-" || !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_digit());
        numbers += usize::from(number);
        if numbers > MAX_NUMBERS {
            return None;
        }
        let mut next: Vec<FieldPlace> = places.iter().map(|place| masks.member(*place, &token)).collect();
        if number {
            // Elements of lists are at their list's place.
            next.append(&mut places);
        }
        places = next;
    }
    Some(places)
}

/// Whether a value that is written somewhere has something in a masked field.
fn writes(masks: &FieldMasks, at: FieldPlace, value: &Value, depth: usize) -> bool {
    // Uncertainty denies.
    if depth > bailiff_wire::kubernetes::MAX_DEPTH {
        return true;
    }
    match value {
        Value::Object(members) => members
            .iter()
            .any(|(key, value)| writes(masks, masks.member(at, key), value, depth + 1)),
        Value::Array(elements) => elements.iter().any(|value| writes(masks, at, value, depth + 1)),
        Value::Null => false,
        _ => matches!(masks.treatment(at), FieldTreatment::Mask(_)),
    }
}

/// Whether it reads the annotation that holds the object as it was applied, alone or with others.
fn is_applied(pointer: &str) -> bool {
    let applied = format!("/metadata/annotations/{}", LAST_APPLIED.replace('/', "~1"));
    applied == pointer || applied.starts_with(&format!("{pointer}/"))
}
