//! A `Status` that tells a failure may quote values that are masked.

use super::patch::{Patch, Room};
use super::reader::{Part, Reader, Wire};
use super::walk::{Walk, expect};
use crate::kubernetes::schema::{self, Type};
use crate::kubernetes::walk::{QUOTE_NOTHING, WITHHELD};
use crate::kubernetes::{Fields, Malformed, Replacement, Value};

/// Withholds the texts of a `Status`, where the walk asks for that.
pub(super) fn withhold<F: Fields>(walk: &mut Walk<'_, '_, F>, raw: &Part) -> Result<(), Malformed> {
    if !walk.hides_texts() || may_be_told(walk.source(), raw)? {
        return Ok(());
    }
    let of = schema::lookup("v1", "Status").ok_or(Malformed::Kind)?;
    let message = walk.source().get(raw.content.clone()).unwrap_or_default();
    let (mut texts, mut out) = (Texts, Vec::new());
    let mut inner = Walk::new(message, &mut texts, Patch::new(message, 0, Room::Any, &mut out));
    inner.root(0..message.len(), of, At::Status, 0)?;
    if inner.patch().finish(message.len()) {
        walk.put(raw, &out);
    }
    Ok(())
}

/// Whether it tells a success, or a failure whose texts quote nothing.
fn may_be_told(source: &[u8], raw: &Part) -> Result<bool, Malformed> {
    let mut reader = Reader::new(source, raw.content.clone());
    while let Some(part) = reader.next()? {
        let text = source.get(part.content.clone()).unwrap_or_default();
        match part.number {
            2 if text == b"Success" => return Ok(true),
            4 => {
                expect(&part, Wire::Delimited)?;
                return Ok(QUOTE_NOTHING.iter().any(|reason| reason.as_bytes() == text));
            }
            _ => {}
        }
    }
    Ok(false)
}

/// The texts of a `Status`.
struct Texts;

#[derive(Debug, Clone, Copy)]
enum At {
    Status,
    Details,
    Causes,
    Text,
    Other,
}

impl Fields for Texts {
    type At = At;

    fn object(&mut self, _: Option<&str>, _: Option<&str>) -> At {
        At::Status
    }

    fn member(&mut self, at: At, key: &str) -> At {
        match (at, key) {
            (At::Status | At::Causes, "message") => At::Text,
            (At::Status, "details") => At::Details,
            (At::Details, "causes") => At::Causes,
            _ => At::Other,
        }
    }

    fn element(&mut self, at: At, _: usize, _: Option<&str>) -> At {
        at
    }

    fn unnamed(&mut self, at: At, _: Type) -> bool {
        // A newer server's status may quote a value there.
        !matches!(at, At::Other)
    }

    fn passes(&self, at: At) -> bool {
        matches!(at, At::Other)
    }

    fn replace(&mut self, at: At, _: Value<'_>) -> Option<Replacement> {
        matches!(at, At::Text).then(|| Replacement::Value(WITHHELD.as_bytes().to_vec()))
    }

    fn hides_texts(&self) -> bool {
        true
    }

    fn hides_cells(&self) -> bool {
        true
    }
}
