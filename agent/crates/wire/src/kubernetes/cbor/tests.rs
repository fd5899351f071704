use proptest::prelude::*;
use serde_json::{Value as Tree, json};

use super::super::testing::{MASK, Paths};
use super::super::{LAST_APPLIED, MAX_DEPTH, Shape, json as text_json, schema};
use super::*;

/// How a writer writes.
#[derive(Debug, Clone, Copy, Default)]
struct Style {
    /// As the server does: texts as byte strings.
    bytes: bool,
    indefinite: bool,
    tagged: bool,
}

fn put_text(out: &mut Vec<u8>, text: &str, style: Style, major: u8) {
    let pieces = if style.indefinite && text.len() > 2 && text.is_ascii() {
        out.push(major << 5 | 31);
        vec![&text[..2], "", &text[2..]]
    } else {
        vec![text]
    };
    let ends = pieces.len() > 1;
    for piece in pieces {
        Head::write(out, major, piece.len() as u64);
        out.extend_from_slice(piece.as_bytes());
    }
    if ends {
        out.push(0xff);
    }
}

fn put(out: &mut Vec<u8>, tree: &Tree, style: Style) {
    let major = if style.bytes { major::BYTES } else { major::TEXT };
    let open = |out: &mut Vec<u8>, major: u8, length: usize| {
        if style.indefinite {
            out.push(major << 5 | 31);
        } else {
            Head::write(out, major, length as u64);
        }
    };
    let keys = Style {
        indefinite: false,
        ..style
    };
    match tree {
        Tree::Object(members) => {
            open(out, major::MAP, members.len());
            for (key, value) in members {
                put_text(out, key, keys, major);
                put(out, value, style);
            }
        }
        Tree::Array(elements) => {
            open(out, major::LIST, elements.len());
            elements.iter().for_each(|element| put(out, element, style));
        }
        Tree::String(text) => match text.strip_prefix("raw:") {
            Some(bytes) => {
                Head::write(out, major::TAG, 22);
                put_text(out, bytes, style, major::BYTES);
            }
            None => put_text(out, text, style, major),
        },
        leaf => Cbor::literal(out, Literal::new(&leaf.to_string()).unwrap()),
    }
    if style.indefinite && matches!(tree, Tree::Object(_) | Tree::Array(_)) {
        out.push(0xff);
    }
}

fn written(tree: &Tree, style: Style) -> Vec<u8> {
    let mut out = if style.tagged {
        vec![0xd9, 0xd9, 0xf7]
    } else {
        Vec::new()
    };
    put(&mut out, tree, style);
    out
}

fn next(cbor: &mut Cbor<'_>) -> Tree {
    match cbor.begin().unwrap() {
        Begin::Object(mut open) => {
            let mut members = serde_json::Map::new();
            while let Some(key) = cbor.key(&mut open).unwrap() {
                members.insert(key.into_owned(), next(cbor));
            }
            Tree::Object(members)
        }
        Begin::List(mut open) => {
            let mut elements = Vec::new();
            while cbor.more(&mut open).unwrap() {
                elements.push(next(cbor));
            }
            Tree::Array(elements)
        }
        Begin::Leaf(Leaf::Text(text)) => Tree::from(text.into_owned()),
        Begin::Leaf(Leaf::Bytes(bytes)) => Tree::from(format!("raw:{}", String::from_utf8_lossy(&bytes))),
        Begin::Leaf(Leaf::Scalar(text)) => serde_json::from_str(&text).unwrap(),
        Begin::Leaf(Leaf::Null) => Tree::Null,
    }
}

fn read(bytes: &[u8]) -> Tree {
    let mut cbor = Cbor { bytes, at: 0 };
    let tree = next(&mut cbor);
    assert_eq!(cbor.at, bytes.len());
    tree
}

fn styles() -> impl Iterator<Item = Style> {
    (0..8).map(|bits| Style {
        bytes: bits & 1 != 0,
        indefinite: bits & 2 != 0,
        tagged: bits & 4 != 0,
    })
}

fn masked(bytes: &[u8], fields: &mut Paths) -> Result<Option<Vec<u8>>, Malformed> {
    let mut out = b"before".to_vec();
    let changed = object(bytes, None, fields, &mut out)?;
    let out = out.strip_prefix(b"before").unwrap();
    assert!(changed || out.is_empty());
    Ok(changed.then(|| out.to_vec()))
}

/// RFC 8949, appendix A.
#[test]
fn numbers_are_read_and_written() {
    for (bytes, number) in [
        (&[0x00][..], "0"),
        (&[0x17], "23"),
        (&[0x18, 0x18], "24"),
        (&[0x19, 0x03, 0xe8], "1000"),
        (
            &[0x1b, 255, 255, 255, 255, 255, 255, 255, 255],
            "18446744073709551615",
        ),
        (&[0x20], "-1"),
        (&[0x38, 0x63], "-100"),
        (
            &[0x3b, 0x7f, 255, 255, 255, 255, 255, 255, 255],
            "-9223372036854775808",
        ),
        (&[0xf9, 0x3e, 0x00], "1.5"),
        (&[0xf9, 0x00, 0x01], "0.000000059604644775390625"),
        (&[0xf9, 0xc4, 0x00], "-4"),
        (&[0xf9, 0x7b, 0xff], "65504"),
        (&[0xfa, 0x47, 0xc3, 0x50, 0x00], "100000"),
        (&[0xfb, 0xc0, 0x10, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66], "-4.1"),
        (&[0xf4], "false"),
        (&[0xf5], "true"),
    ] {
        let begun = Cbor { bytes, at: 0 }.begin().unwrap();
        let Begin::Leaf(Leaf::Scalar(found)) = begun else {
            panic!("{number} isn't one");
        };
        assert_eq!(found.parse::<f64>().ok(), number.parse::<f64>().ok());
        assert!(found.len() <= 30);
        let mut out = Vec::new();
        Cbor::literal(&mut out, Literal::new(number).unwrap());
        if bytes[0] < 0xf9 {
            assert_eq!((found.as_ref(), out.as_slice()), (number, bytes));
        } else {
            let Begin::Leaf(Leaf::Scalar(again)) = (Cbor { bytes: &out, at: 0 }).begin().unwrap() else {
                panic!("{number} isn't one");
            };
            assert_eq!(again, found);
        }
    }
    let mut out = Vec::new();
    Cbor::literal(&mut out, Literal::new("1e999").unwrap());
    assert_eq!(out, [&[0xfb][..], &f64::MAX.to_be_bytes()].concat());
}

#[test]
fn values_are_replaced_and_all_other_bytes_stay() {
    let applied = json!({"data": {"k": "c2VjcmV0"}}).to_string();
    for style in styles() {
        let before = json!({"apiVersion": "v1", "kind": "Secret", "data": {"k": "raw:secret", "l": "c2VjcmV0"}, "x": [1, -2.5, null, true],
            "metadata": {"name": "n", "namespace": "s", "annotations": {LAST_APPLIED: applied, "a": "b"}}});
        let bytes = written(&before, style);
        let mut fields = Paths::new(&["data.*", "x.*"]);
        let out = masked(&bytes, &mut fields).unwrap().unwrap();
        let mut asked = fields.asked.clone();
        asked.sort();
        assert_eq!(
            asked,
            [
                "bytes secret",
                "bytes secret",
                "bytes secret",
                "scalar -2.5",
                "scalar 1",
                "scalar true"
            ],
            "{style:?}"
        );
        assert_eq!(fields.objects, [(Some("s".to_owned()), Some("n".to_owned()))]);
        let mut after = before.clone();
        after["data"] = json!({"k": format!("raw:{MASK}"), "l": format!("raw:{MASK}")});
        after["x"] = json!([7, 7, null, 7]);
        let found = read(&out)["metadata"]["annotations"][LAST_APPLIED].clone();
        assert!(!found.to_string().contains("c2VjcmV0"));
        after["metadata"]["annotations"][LAST_APPLIED] = found;
        assert_eq!(read(&out), after);
        assert_eq!(out.starts_with(&[0xd9, 0xd9, 0xf7]), style.tagged);
        assert_eq!(masked(&bytes, &mut Paths::new(&["spec"])), Ok(None));
    }
}

#[test]
fn strings_need_not_be_texts() {
    let mut bytes = vec![0xa1, 0x41, b'a', 0x42, 0xff, b'x'];
    let mut fields = Paths::new(&["a"]);
    assert!(masked(&bytes, &mut fields).unwrap().is_some());
    assert_eq!(fields.asked, ["text \u{fffd}x"]);
    bytes[3] = 0x62;
    assert_eq!(masked(&bytes, &mut Paths::new(&["a"])), Err(Malformed::Form));
}

#[test]
fn what_is_not_cbor_is_refused() {
    let all = ["*", "*.*"];
    for bytes in [
        &[][..],
        &[0xf6],
        &[0x80],
        &[0xa0, 0xa0],
        &[0xa0, 0x00],
        &[0xa1],
        &[0xa1, 0x61, b'a'],
        &[0xa1, 0x61],
        &[0xa1, 0x01, 0x01],
        &[0xa1, 0xf6, 0x01],
        &[0xa1, 0x80, 0x01],
        &[0xa1, 0x61, b'a', 0xff],
        &[0xa1, 0x61, b'a', 0x1c],
        &[0xa1, 0x61, b'a', 0x1f],
        &[0xa1, 0x61, b'a', 0xf7],
        &[0xa1, 0x61, b'a', 0xf0],
        &[0xa1, 0x61, b'a', 0xf8, 0x14],
        &[0xa1, 0x61, b'a', 0xf9, 0x7c, 0x00],
        &[0xa1, 0x61, b'a', 0xfa, 0x7f, 0xc0, 0, 0],
        &[0xa1, 0x61, b'a', 0xc2, 0x41, 0x01],
        &[0xa1, 0x61, b'a', 0xd6, 0x61, b'a'],
        &[0xa1, 0x61, b'a', 0xd6, 0xd6, 0xc0, 0x41, b'a'],
        &[0xa1, 0x61, b'a', 0xc1, 0xc1, 0xc1, 0xc1, 0xc1, 0x01],
        &[0xa1, 0x61, b'a', 0x5b, 255, 255, 255, 255, 255, 255, 255, 255],
        &[0xbb, 255, 255, 255, 255, 255, 255, 255, 255],
        &[0xbf],
        &[0xbf, 0x61, b'a', 0xff],
        &[0xbf, 0x61, b'a', 0x7f, 0x41, b'a', 0xff, 0xff],
        &[0xbf, 0x61, b'a', 0x7f, 0x7f, 0xff, 0xff, 0xff],
        &[0xa1, 0x61, b'a', 0x9f, 0x01],
    ] {
        assert_eq!(
            masked(bytes, &mut Paths::new(&all)),
            Err(Malformed::Form),
            "{bytes:x?}"
        );
    }
    let deep = [&[0xa1, 0x61, b'a'][..], &[0x81; 1000]].concat();
    assert_eq!(masked(&deep, &mut Paths::new(&[])), Err(Malformed::Deep));
    let nested = [&[0xa1, 0x61, b'a'][..], &[0x81; MAX_DEPTH - 1], &[0x01]].concat();
    let path = format!("a{}", ".*".repeat(50));
    assert_eq!(masked(&nested, &mut Paths::new(&[])), Ok(None));
    assert_eq!(masked(&nested, &mut Paths::new(&[&path])), Ok(None));
}

fn fields() -> Paths {
    Paths {
        texts: true,
        cells: true,
        ..Paths::new(&["data.*"])
    }
}

fn fed(shape: Shape, body: &[u8], cuts: &[usize], fields: &mut Paths) -> Result<Vec<u8>, Malformed> {
    let mut stream = Stream::new(shape).of(schema::of_resource("v1", "secrets").unwrap());
    let whole = bytes::Bytes::copy_from_slice(body);
    let mut out = Vec::new();
    let mut from = 0;
    for end in cuts.iter().copied().chain([whole.len()]) {
        stream.feed(&whole.slice(from..end.max(from)), fields, &mut out)?;
        from = end.max(from);
    }
    stream.finish(fields, &mut out)?;
    Ok(out.concat())
}

fn bodies(style: Style) -> Vec<(Shape, Vec<u8>)> {
    let secret = |name: &str| json!({"metadata": {"name": name}, "data": {"k": "raw:secret", "l": "c2VjcmV0"}, "x": "ab"});
    let list = json!({"apiVersion": "v1", "items": [secret("a"), {}, secret("b")], "kind": "SecretList", "metadata": {"a": [1]}});
    let empty = json!({"apiVersion": "v1", "items": null, "kind": "SecretList"});
    let none = json!({"apiVersion": "v1", "items": [], "kind": "SecretList"});
    let table = json!({"apiVersion": "meta.k8s.io/v1", "kind": "Table", "rows": [{"cells": ["n", "secret", 3], "object": {"data": {"k": "secret"}}},
        {"cells": [], "object": null}], "columnDefinitions": [{"type": "string", "format": "name"}, {"type": "string"}, {"type": "integer"}]});
    let behind = json!({"acells": 1, "kind": "Table", "apiVersion": "meta.k8s.io/v1", "rows": [{"cells": ["secret"]}], "zcolumns": []});
    let failure = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Invalid", "message": "a secret",
        "details": {"causes": [{"message": "a secret", "field": "x"}]}});
    let mut own = secret("c");
    own["kind"] = json!("Secret");
    own["apiVersion"] = json!("v1");
    let event = |kind: &str, object: &Tree| written(&json!({"type": kind, "object": object}), style);
    let watch = [
        event("ADDED", &own),
        event(
            "BOOKMARK",
            &json!({"kind": "Secret", "metadata": {"resourceVersion": "1"}}),
        ),
        event("ERROR", &failure),
        event("MODIFIED", &table),
    ];
    let written = |tree: &Tree| written(tree, style);
    vec![
        (Shape::List, written(&list)),
        (Shape::List, written(&empty)),
        (Shape::List, written(&none)),
        (Shape::List, written(&table)),
        (Shape::List, written(&behind)),
        (Shape::List, written(&failure)),
        (Shape::List, written(&json!({}))),
        (Shape::Object, written(&own)),
        (Shape::Object, written(&failure)),
        (Shape::Object, written(&table)),
        (Shape::Object, written(&list)),
        (Shape::Watch, watch.concat()),
        (Shape::Watch, Vec::new()),
    ]
}

fn hides(bytes: &[u8]) -> bool {
    !["secret", "c2VjcmV0"]
        .iter()
        .any(|secret| memchr::memmem::find(bytes, secret.as_bytes()).is_some())
}

#[test]
fn bodies_are_streamed_wherever_they_are_cut() {
    for style in styles() {
        for (shape, body) in bodies(style) {
            assert_eq!(
                fed(shape, &body, &[], &mut Paths::new(&["x.y"])).as_deref(),
                Ok(body.as_slice())
            );
            let out = fed(shape, &body, &[], &mut fields()).unwrap();
            // Cut in two it isn't found by its bytes, but then it isn't masked by them either.
            assert!(hides(&out), "{style:?} {}", String::from_utf8_lossy(&out));
            for cut in 0..body.len() {
                assert_eq!(
                    fed(shape, &body, &[cut], &mut fields()).as_deref(),
                    Ok(out.as_slice()),
                    "{cut}"
                );
            }
            let everywhere: Vec<usize> = (0..body.len()).collect();
            assert_eq!(
                fed(shape, &body, &everywhere, &mut fields()).as_deref(),
                Ok(out.as_slice())
            );
            for end in 1..body.len() {
                let early = fed(shape, &body[..end], &[], &mut fields());
                assert!(
                    early == Err(Malformed::Form) || shape == Shape::Watch,
                    "{end} {early:?}"
                );
            }
            assert_eq!(
                fed(shape, &[body.as_slice(), &[0x01]].concat(), &[], &mut fields()),
                Err(Malformed::Form)
            );
        }
    }
}

#[test]
fn what_comes_out_is_what_should() {
    let style = Style {
        bytes: true,
        tagged: true,
        indefinite: false,
    };
    let all = bodies(style);
    let out = |number: usize| {
        let (shape, body): &(Shape, Vec<u8>) = &all[number];
        read(&fed(*shape, body, &[], &mut fields()).unwrap())
    };
    let mask = format!("raw:{MASK}");
    assert_eq!(
        out(0)["items"][2],
        json!({"metadata": {"name": "b"}, "data": {"k": mask, "l": mask}, "x": "ab"})
    );
    assert_eq!(out(3)["rows"][0]["cells"], json!(["n", "[masked]", null]));
    assert_eq!(out(3)["rows"][0]["object"], json!({"data": {"k": MASK}}));
    assert_eq!(out(5)["message"], "withheld: it may quote a masked value");
    // What comes before the item that isn't whole is passed on.
    let body = &all[0].1;
    let first = memchr::memmem::find(body, b"items").unwrap() + 10;
    let mut stream = Stream::new(Shape::List);
    let mut passed = Vec::new();
    stream
        .feed(
            &bytes::Bytes::copy_from_slice(&body[..first]),
            &mut fields(),
            &mut passed,
        )
        .unwrap();
    assert_eq!(passed.concat(), &body[..first - 4]);
}

#[test]
fn what_is_not_of_its_shape_is_refused() {
    for (shape, tree) in [
        (Shape::List, json!([])),
        (Shape::List, json!({"items": 1})),
        (Shape::List, json!({"items": {"data": {"k": "secret"}}})),
        (Shape::List, json!({"items": [1]})),
        (Shape::List, json!({"items": [], "message": "secret"})),
        (Shape::List, json!({"items": [], "rows": []})),
        (Shape::Object, json!([])),
        (Shape::Watch, json!(1)),
        (Shape::Watch, json!({"object": 1})),
    ] {
        for style in styles() {
            let read = fed(shape, &written(&tree, style), &[], &mut fields());
            assert_eq!(read, Err(Malformed::Form), "{tree}");
        }
    }
}

fn any_tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        Just(Tree::Null),
        any::<bool>().prop_map(Tree::from),
        any::<i64>().prop_map(Tree::from),
        any::<i32>().prop_map(|number| Tree::from(f64::from(number) + 0.5)),
        "[^r].{0,12}".prop_map(Tree::from),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Tree::from),
            prop::collection::btree_map("a|b|metadata|name|.{0,30}", inner, 0..5)
                .prop_map(|members| Tree::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn the_walk_is_the_same_as_in_json(tree in any_tree(), paths in prop::collection::vec("(a|b|\\*)(\\.(a|name|\\*)){0,3}", 0..4), style in 0..8_usize) {
        let tree = json!({"a": tree});
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let bytes = written(&tree, styles().nth(style).unwrap());
        prop_assert_eq!(&read(&bytes), &tree);
        let out = masked(&bytes, &mut Paths::new(&paths)).unwrap();
        let mut in_json = Vec::new();
        let changed = text_json::object(tree.to_string().as_bytes(), None, &mut Paths::new(&paths), &mut in_json).unwrap();
        prop_assert_eq!(out.is_some(), changed);
        if let Some(out) = out {
            prop_assert_eq!(read(&out), serde_json::from_slice::<Tree>(&in_json).unwrap());
        }
    }

    #[test]
    fn pieces_of_any_size_give_the_same(
        number in 0..13_usize,
        style in 0..8_usize,
        cuts in prop::collection::vec(0..400_usize, 0..8),
        junk in prop::collection::vec((0..400_usize, any::<u8>()), 0..3),
    ) {
        let (shape, mut body) = bodies(styles().nth(style).unwrap()).swap_remove(number);
        for (at, byte) in junk {
            if let Some(old) = body.get_mut(at) {
                *old = byte;
            }
        }
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < body.len()).collect();
        cuts.sort_unstable();
        let whole = fed(shape, &body, &[], &mut fields());
        prop_assert_eq!(fed(shape, &body, &cuts, &mut fields()).is_ok(), whole.is_ok());
        if whole.is_ok() {
            prop_assert_eq!(fed(shape, &body, &cuts, &mut fields()), whole);
        }
    }
}
