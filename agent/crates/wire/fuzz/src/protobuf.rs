//! What must hold of masks in protobuf bodies.

use bailiff_wire::kubernetes::protobuf::{Stream, body};
use bailiff_wire::kubernetes::schema::Type;
use bailiff_wire::kubernetes::{Fields, Malformed, Replacement, Shape, Value};
use bytes::Bytes;

use crate::cuts;

/// A body behind a byte that says how it is looked at.
///
/// Where nothing is masked, what is passed on is what came. Where all is, it is the same in pieces as at once, and is a body again.
pub fn protobuf(bytes: &[u8]) {
    let Some((how, bytes)) = bytes.split_first() else {
        return;
    };
    let shape = match how % 3 {
        0 => Shape::Object,
        1 => Shape::List,
        _ => Shape::Watch,
    };
    let held = if how & 4 == 0 { 1 << 20 } else { 0 };
    let all = || All {
        empty: how & 8 != 0,
        ..All::default()
    };
    let stream = || Stream::new(shape).holding(held);

    let mut nothing = All {
        passes: true,
        ..All::default()
    };
    if let Ok(out) = fed(stream(), bytes, &[], &mut nothing) {
        assert_eq!(out, bytes, "nothing is masked");
    }

    let at_once = fed(stream(), bytes, &[], &mut all());
    for cut in cuts(bytes.len()) {
        let cut = fed(stream(), bytes, &[cut], &mut all());
        assert_eq!(cut.is_ok(), at_once.is_ok(), "it depends on how it comes");
        assert!(cut.is_err() || cut == at_once, "it depends on how it comes");
    }
    if let Ok(out) = at_once {
        assert!(
            fed(stream(), &out, &[], &mut all()).is_ok(),
            "what was masked is no body"
        );
    }

    let mut out = Vec::new();
    match body(bytes, Type::UNKNOWN, &mut all(), &mut out) {
        Ok(true) => assert!(body(&out, Type::UNKNOWN, &mut all(), &mut Vec::new()).is_ok()),
        Ok(false) | Err(_) => assert!(out.is_empty()),
    }
}

fn fed(mut stream: Stream, bytes: &[u8], cuts: &[usize], fields: &mut All) -> Result<Vec<u8>, Malformed> {
    let whole = Bytes::copy_from_slice(bytes);
    let (mut out, mut from) = (Vec::new(), 0);
    for end in cuts.iter().copied().chain([bytes.len()]) {
        stream.feed(&whole.slice(from..end), fields, &mut out)?;
        from = end;
    }
    stream.finish(fields, &mut out)?;
    Ok(out.concat())
}

/// Masks everything, or nothing.
#[derive(Default)]
struct All {
    passes: bool,
    empty: bool,
}

impl Fields for All {
    type At = ();

    const NAMED: bool = true;

    fn object(&mut self, _: Option<&str>, _: Option<&str>) {}

    fn member(&mut self, (): (), _: &str) {}

    fn element(&mut self, (): (), _: usize, _: Option<&str>) {}

    fn unnamed(&mut self, (): (), _: Type) -> bool {
        false
    }

    fn passes(&self, (): ()) -> bool {
        self.passes
    }

    fn replace(&mut self, (): (), value: Value<'_>) -> Option<Replacement> {
        Some(match value {
            Value::Text(_) | Value::Bytes(_) if !self.empty => Replacement::Value("[masked \u{e9}]".into()),
            _ => Replacement::Empty,
        })
    }

    fn hides_texts(&self) -> bool {
        !self.passes
    }

    fn hides_cells(&self) -> bool {
        !self.passes
    }
}
