use bailiff_policy::{Detection, Detector, HashKey, Treatment as Found};
use proptest::prelude::*;

use super::*;
use crate::mask::kind::Shape;

/// What may not come out, and isn't long enough to be kept.
const MARK: &[u8] = b"Secr3tSecr3t";

const KINDS: &[Kind] = &[
    Kind::Text,
    Kind::Padded,
    Kind::Xml,
    Kind::Json,
    Kind::Jsonb,
    Kind::Integer {
        bytes: 4,
        signed: true,
    },
    Kind::Integer {
        bytes: 8,
        signed: true,
    },
    Kind::Numeric,
    Kind::Uuid,
    Kind::Bytea,
    Kind::Array(25),
    Kind::Array(3802),
    Kind::Array(17),
    Kind::Record,
    Kind::Shape(0),
    Kind::Shape(1),
    Kind::Shape(2),
    Kind::Plain,
    Kind::Unknown,
];

fn shapes() -> Shapes {
    let mut shapes = Shapes::default();
    let row = bailiff_policy::ValueType::Row(vec![
        bailiff_policy::ValueType::BuiltIn(25),
        bailiff_policy::ValueType::Array(Box::new(bailiff_policy::ValueType::Text)),
        bailiff_policy::ValueType::Unknown,
    ]);
    // The array inside of the row, the row, arrays of it.
    assert_eq!(
        shapes.take(&bailiff_policy::ValueType::Array(Box::new(row))),
        Kind::Shape(2)
    );
    assert!(matches!(shapes.get(2), Some(Shape::Array(Kind::Shape(1)))));
    shapes
}

fn binary_array(element: u32, value: &[u8]) -> Vec<u8> {
    let length = u32::try_from(value.len()).unwrap();
    let mut array = Vec::new();
    for number in [1, 0, element, 1, 1, length] {
        array.extend_from_slice(&number.to_be_bytes());
    }
    array.extend_from_slice(value);
    array
}

fn binary_row(fields: &[(u32, &[u8])]) -> Vec<u8> {
    let mut row = u32::try_from(fields.len()).unwrap().to_be_bytes().to_vec();
    for (oid, value) in fields {
        row.extend_from_slice(&oid.to_be_bytes());
        row.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
        row.extend_from_slice(value);
    }
    row
}

/// Values of several types around a text.
fn around(text: &[u8]) -> Vec<Vec<u8>> {
    let shown = |before: &str, after: &str| [before.as_bytes(), text, after.as_bytes()].concat();
    let mut all = vec![
        text.to_vec(),
        shown("{", "}"),
        shown("{\"", "\",NULL}"),
        shown("{{a},{\"x ", "\"}}"),
        shown("[0:0]={", "}"),
        shown("(", ")"),
        shown("(,\"a", "\"\"\"\")"),
        shown("(\"", "\",\"{x,y}\",)"),
        shown("(a,{", "},)"),
        shown("{\"(", ",{x},)\"}"),
        shown("{\"k\": \"", "\"}"),
        shown("\"", "\""),
        shown("\u{1}[1, \"", "\", null, true]"),
        shown("<a>", "</a>"),
        shown("\\x", ""),
        shown("-", " 5"),
    ];
    let json = all.get(10).cloned().unwrap_or_default();
    all.push(binary_array(25, text));
    all.push(binary_array(17, text));
    all.push(binary_array(3802, &[b"\x01".as_slice(), &json].concat()));
    all.push(binary_row(&[
        (25, text),
        (1009, &binary_array(25, text)),
        (70_000, text),
    ]));
    let row = all.last().cloned().unwrap_or_default();
    all.push(binary_array(70_001, &row));
    all
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn key() -> (tempfile::TempDir, MaskAction) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("key");
    std::fs::write(&path, [7; 32]).unwrap();
    let file = HashKey::in_file(path.to_str().unwrap());
    (place, MaskAction::Hash(file))
}

fn nothing_passes(value: &[u8], shapes: &Shapes, actions: &[MaskAction]) {
    let mut scratch = Scratch::default();
    for action in actions {
        let kept = Kept::of(*action);
        for kind in KINDS {
            for format in [Format::Text, Format::Binary] {
                let treatment = Treatment {
                    shapes,
                    action: Some(kept.action()),
                    detection: None,
                };
                let mut out = b"before".to_vec();
                let done = mask(treatment, *kind, format, value, &mut out, &mut scratch);
                let about = || format!("{action} {kind:?} {format:?} {}", value.escape_ascii());
                assert!(done != Done::Kept, "{}", about());
                assert!(out.starts_with(b"before"), "{}", about());
                assert!(done == Done::Value || out == b"before", "{}", about());
                assert!(!holds(&out, MARK), "{}: {}", about(), out.escape_ascii());
            }
        }
    }
}

/// Whatever stands around it and wherever it is cut, a masked value doesn't come out.
#[test]
fn nothing_masked_comes_out() {
    let (_place, hash) = key();
    let actions = [
        MaskAction::KeepLast(4),
        hash,
        MaskAction::Redact,
        MaskAction::Null,
    ];
    let shapes = shapes();
    for value in around(MARK) {
        for end in 0..=value.len() {
            nothing_passes(&value[..end], &shapes, &actions);
            nothing_passes(&value[end..], &shapes, &actions);
        }
    }
}

/// The same is found on its own, and in whatever it stands in as a part.
#[test]
fn what_is_found_is_found_inside() {
    let found = b"ann@corp.example";
    let detection = Detection::default().with(
        Detector::Email,
        Found {
            action: MaskAction::Redact,
            whole: false,
        },
    );
    let shapes = shapes();
    let mut scratch = Scratch::default();
    for value in around(found) {
        for kind in KINDS {
            // What these can't hold they don't: a text that stands in them isn't what the server writes.
            if matches!(
                kind,
                Kind::Plain | Kind::Uuid | Kind::Integer { .. } | Kind::Numeric
            ) {
                continue;
            }
            for format in [Format::Text, Format::Binary] {
                let treatment = Treatment {
                    shapes: &shapes,
                    action: None,
                    detection: Some(&detection),
                };
                let mut out = Vec::new();
                let done = mask(treatment, *kind, format, &value, &mut out, &mut scratch);
                let about = || format!("{kind:?} {format:?} {}", value.escape_ascii());
                assert!(done != Done::Kept, "{}", about());
                assert!(!holds(&out, b"corp"), "{}: {}", about(), out.escape_ascii());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_around_it_let_it_out(
        before in proptest::collection::vec(any::<u8>(), 0..24),
        after in proptest::collection::vec(any::<u8>(), 0..24),
    ) {
        let value = [before.as_slice(), MARK, &after].concat();
        nothing_passes(&value, &shapes(), &[MaskAction::KeepLast(4), MaskAction::Redact, MaskAction::Null]);
    }

    /// Of a text at least as much is hidden as is kept.
    #[test]
    fn half_of_a_text_is_hidden(text in "\\PC{0,40}", kept in 1..=16_u8) {
        let mut out = Vec::new();
        keep_last(kept, text.as_bytes(), &mut out);
        let shown = std::str::from_utf8(&out).unwrap().strip_prefix("****").unwrap();
        prop_assert!(text.ends_with(shown) && shown.chars().count() * 2 <= text.chars().count());
        prop_assert!(shown.is_empty() || shown.chars().count() == usize::from(kept));
    }
}
