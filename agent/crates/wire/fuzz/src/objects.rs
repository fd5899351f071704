//! Objects of the Kubernetes API, in the formats that are walked as text or as CBOR.

use bailiff_wire::kubernetes::schema::of_resource;
use bailiff_wire::kubernetes::{Fields, Format, Malformed, Replacement, Shape, Stream, Value, object};
use bytes::Bytes;

use crate::cuts;

/// What `Masks` puts in place of values.
const MASK: &[u8] = b"[masked]";

/// Masks every value below `data` and every one called `value`, or nothing at all.
#[derive(Debug, Clone, Copy)]
struct Masks {
    any: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Root,
    Data,
    Value,
    Elsewhere,
}

impl Fields for Masks {
    type At = At;

    const NAMED: bool = true;

    fn object(&mut self, _: Option<&str>, _: Option<&str>) -> At {
        At::Root
    }

    fn member(&mut self, at: At, key: &str) -> At {
        match (at, key) {
            (At::Root, "data") | (At::Data, _) => At::Data,
            (_, "value") => At::Value,
            _ => At::Elsewhere,
        }
    }

    fn element(&mut self, at: At, _: usize, _: Option<&str>) -> At {
        at
    }

    fn passes(&self, _: At) -> bool {
        !self.any
    }

    fn replace(&mut self, at: At, value: Value<'_>) -> Option<Replacement> {
        match (at, value) {
            (At::Root | At::Elsewhere, _) => None,
            (_, Value::Scalar(_)) => Some(Replacement::Empty),
            (_, Value::Text(_) | Value::Bytes(_)) => Some(Replacement::Value(MASK.to_vec())),
        }
    }

    fn hides_texts(&self) -> bool {
        self.any
    }

    fn hides_cells(&self) -> bool {
        self.any
    }
}

/// A body: what its first byte says. It gives the same however it is cut; what nobody looks at stays as it is; and what was masked is
/// read again, and masked already.
pub fn objects(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else {
        return;
    };
    let format = match kind % 3 {
        0 => Format::Json,
        1 => Format::Yaml,
        _ => Format::Cbor,
    };
    let shape = match kind / 3 % 3 {
        0 => Shape::Object,
        1 => Shape::List,
        _ => Shape::Watch,
    };
    let untouched = passed(format, shape, body, body.len(), Masks { any: false });
    assert!(
        untouched.as_ref().is_err() || untouched.as_deref() == Ok(body),
        "untouched bytes changed"
    );
    let masked = passed(format, shape, body, body.len(), Masks { any: true });
    for cut in cuts(body.len()) {
        let again = passed(format, shape, body, cut, Masks { any: true });
        assert_eq!(again.is_ok(), masked.is_ok(), "cut at {cut}");
        assert!(again.is_err() || again == masked, "cut at {cut}");
    }
    if let Ok(masked) = &masked {
        let twice = passed(format, shape, masked, masked.len(), Masks { any: true });
        assert_eq!(twice.as_ref(), Ok(masked), "what was masked isn't masked");
    }
    // As a request's body, which may be a part of an object.
    let (mut out, secret) = (Vec::new(), of_resource("v1", "secrets"));
    if object(format, secret, body, &mut Masks { any: true }, &mut out) == Ok(true) {
        let mut again = Vec::new();
        let read = object(format, secret, &out, &mut Masks { any: true }, &mut again);
        assert!(read.is_ok(), "what was masked isn't read");
        assert!(read == Ok(false) || again == out, "what was masked isn't masked");
    }
}

fn passed(
    format: Format,
    shape: Shape,
    body: &[u8],
    cut: usize,
    mut masks: Masks,
) -> Result<Vec<u8>, Malformed> {
    let of = of_resource("v1", "secrets").unwrap_or(bailiff_wire::kubernetes::schema::Type::UNKNOWN);
    let mut stream = Stream::new(format, shape, of);
    let mut out = Vec::new();
    let (first, second) = body.split_at(cut);
    for piece in [first, second] {
        stream.feed(&Bytes::copy_from_slice(piece), &mut masks, &mut out)?;
    }
    stream.finish(&mut masks, &mut out)?;
    Ok(out.concat())
}
