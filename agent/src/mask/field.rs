//! Masks fields of API objects.

use std::cell::RefCell;
use std::sync::Arc;

use bailiff_policy::{FieldMasks, FieldPlace, FieldTreatment, MaskAction, PLACEHOLDER};
use bailiff_wire::kubernetes::schema::Type;
use bailiff_wire::kubernetes::{Fields, Replacement, Value};
use bailiff_wire::postgres::value::Format;

use super::kind::{Kind, Shapes};
use super::value::{self, Done, Kept, LEAST_NUMBER, Scratch, Treatment};

/// Masks what an answer holds, and counts it.
pub(crate) struct FieldMasker {
    masks: Arc<FieldMasks>,
    masked: u64,
    hides_texts: bool,
}

impl FieldMasker {
    /// `hides_texts` where texts of errors may quote values: where something was written, and was held against what is there.
    pub(crate) fn new(masks: Arc<FieldMasks>, hides_texts: bool) -> Self {
        Self {
            masks,
            masked: 0,
            hides_texts,
        }
    }

    /// How many values were masked since this was asked last.
    pub(crate) fn take_masked(&mut self) -> u64 {
        std::mem::take(&mut self.masked)
    }
}

impl Fields for FieldMasker {
    type At = FieldPlace;

    fn object(&mut self, namespace: Option<&str>, name: Option<&str>) -> FieldPlace {
        self.masks.root(namespace, name)
    }

    fn member(&mut self, at: FieldPlace, key: &str) -> FieldPlace {
        self.masks.member(at, key)
    }

    fn element(&mut self, at: FieldPlace, _: usize, _: Option<&str>) -> FieldPlace {
        at
    }

    fn unnamed(&mut self, at: FieldPlace, of: Type) -> bool {
        self.masks.unnamed(at, |name| !of.member(name).is_unknown())
    }

    fn passes(&self, at: FieldPlace) -> bool {
        self.masks.passes(at)
    }

    fn replace(&mut self, at: FieldPlace, value: Value<'_>) -> Option<Replacement> {
        let replacement = masked(&self.masks.treatment(at), value)?;
        self.masked += 1;
        Some(replacement)
    }

    fn hides_texts(&self) -> bool {
        self.hides_texts
    }

    fn hides_cells(&self) -> bool {
        self.masks.hides_cells()
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What stands in place of a value; `None` where it stays.
pub(crate) fn masked(treatment: &FieldTreatment, value: Value<'_>) -> Option<Replacement> {
    let (action, detection) = match treatment {
        FieldTreatment::Pass => return None,
        FieldTreatment::Mask(action) => (Some(*action), None),
        FieldTreatment::Detect(detection) => (None, Some(&**detection)),
    };
    let bytes = match value {
        Value::Text(text) => text.as_bytes(),
        Value::Bytes(bytes) => bytes,
        // No part of a number stays valid for sure.
        Value::Scalar(_) if action.is_some() => return Some(Replacement::Empty),
        Value::Scalar(text) if text.len() < LEAST_NUMBER => return None,
        Value::Scalar(text) => text.as_bytes(),
    };
    let kept = action.map(|action: MaskAction| Kept::of(action));
    let treatment = Treatment {
        shapes: &Shapes::default(),
        action: kept.as_ref().map(Kept::action),
        detection,
    };
    let mut out = Vec::new();
    let done = SCRATCH.with_borrow_mut(|scratch| {
        value::mask(treatment, Kind::Text, Format::Text, bytes, &mut out, scratch)
    });
    match done {
        Done::Kept => None,
        _ if matches!(value, Value::Scalar(_)) => Some(Replacement::Empty),
        Done::Value => Some(Replacement::Value(out)),
        // Without a key there's no hash: uncertainty denies.
        Done::Null => Some(Replacement::Value(PLACEHOLDER.to_vec())),
    }
}
