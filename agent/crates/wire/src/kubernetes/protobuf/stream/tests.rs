use proptest::prelude::*;
use serde_json::{Value as Tree, json};

use super::super::reader::put_delimited;
use super::super::testing::{Chance, disclose, enclose, enclose_raw};
use super::super::tests::some_paths;
use super::super::{body, testing};
use super::*;
use crate::kubernetes::LAST_APPLIED;
use crate::kubernetes::schema::lookup;
use crate::kubernetes::testing::{MASK, Paths};

/// Feeds a body in pieces that end at these places.
fn fed(mut stream: Stream, body: &[u8], cuts: &[usize], fields: &mut Paths) -> Result<Vec<u8>, Malformed> {
    let whole = Bytes::copy_from_slice(body);
    let (mut out, mut from) = (Vec::new(), 0);
    for end in cuts.iter().copied().chain([whole.len()]) {
        let end = end.max(from);
        stream.feed(&whole.slice(from..end), fields, &mut out)?;
        from = end;
    }
    stream.finish(fields, &mut out)?;
    Ok(out.concat())
}

fn whole(shape: Shape, body: &[u8], fields: &mut Paths) -> Result<Vec<u8>, Malformed> {
    fed(Stream::new(shape), body, &[], fields)
}

/// One that passes on even short lists as they come.
fn flowing() -> Stream {
    Stream::new(Shape::List).holding(0)
}

fn secret(name: &str, value: &str) -> Tree {
    json!({"metadata": {"name": name}, "data": {"k": base64(value)}})
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn list(values: &[&str]) -> Vec<u8> {
    let items: Vec<Tree> = values.iter().map(|value| secret("n", value)).collect();
    enclose(
        &json!({"apiVersion": "v1", "kind": "SecretList", "metadata": {"resourceVersion": "1"}, "items": items}),
    )
}

fn events(events: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut all = Vec::new();
    for (kind, object) in events {
        let (mut raw, mut event) = (Vec::new(), Vec::new());
        put_delimited(&mut raw, 1, object);
        put_delimited(&mut event, 1, kind.as_bytes());
        put_delimited(&mut event, 2, &raw);
        all.extend(u32::try_from(event.len()).unwrap().to_be_bytes());
        all.extend(event);
    }
    all
}

/// The events of a watch: what they are, and their objects.
fn told(mut bytes: &[u8]) -> Vec<(String, Tree)> {
    let mut all = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let (event, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        let tree = testing::decode(event, lookup("v1", "WatchEvent").unwrap());
        all.push((tree["type"].as_str().unwrap().to_owned(), tree["object"].clone()));
        bytes = rest;
    }
    all
}

fn typed(mut tree: Tree) -> Vec<u8> {
    tree["apiVersion"] = "v1".into();
    tree["kind"] = "Secret".into();
    enclose(&tree)
}

fn failure() -> Vec<u8> {
    enclose(
        &json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "message": "quotes", "reason": "Invalid"}),
    )
}

fn fields() -> Paths {
    Paths {
        texts: true,
        ..Paths::new(&["data.*"])
    }
}

#[test]
fn a_body_that_is_held_whole_is_as_the_body() {
    for bytes in [typed(secret("n", "secret")), list(&["secret", "x"]), failure()] {
        let mut expected = Vec::new();
        assert_eq!(
            body(&bytes, Type::UNKNOWN, &mut fields(), &mut expected),
            Ok(true)
        );
        assert_eq!(whole(Shape::Object, &bytes, &mut fields()).unwrap(), expected);
        assert_eq!(whole(Shape::List, &bytes, &mut fields()).unwrap(), expected);
        assert_eq!(
            whole(Shape::List, &bytes, &mut Paths::new(&[])).unwrap(),
            bytes,
            "nothing is asked for"
        );
    }
    assert_eq!(whole(Shape::Object, b"", &mut fields()), Ok(Vec::new()));
}

#[test]
fn any_pieces_give_the_same() {
    let watch = events(&[
        ("ADDED", typed(secret("n", "secret"))),
        ("BOOKMARK", typed(secret("n", ""))),
        ("MODIFIED", typed(secret("n", "other"))),
    ]);
    for (shape, held, bytes) in [
        (Shape::Object, HELD, typed(secret("n", "secret"))),
        (
            Shape::List,
            HELD,
            list(&["secret", "x", "a value that is longer than the mask is"]),
        ),
        (
            Shape::List,
            0,
            list(&["a value that is longer than the mask is", "x", "secret"]),
        ),
        (Shape::Watch, HELD, watch),
        (Shape::Watch, HELD, failure()),
    ] {
        let stream = || Stream::new(shape).holding(held);
        let expected = fed(stream(), &bytes, &[], &mut fields()).unwrap();
        assert_ne!(expected, bytes);
        for cut in 0..bytes.len() {
            assert_eq!(
                fed(stream(), &bytes, &[cut], &mut fields()).as_ref(),
                Ok(&expected),
                "{cut}"
            );
            let mut cut_off = stream();
            let (piece, mut out) = (Bytes::copy_from_slice(&bytes[..cut]), Vec::new());
            assert_eq!(cut_off.feed(&piece, &mut fields(), &mut out), Ok(()));
        }
        let each: Vec<usize> = (0..bytes.len()).collect();
        assert_eq!(
            fed(stream(), &bytes, &each, &mut fields()).as_ref(),
            Ok(&expected)
        );
    }
}

#[test]
fn a_body_that_ends_too_early_is_refused() {
    let bytes = list(&["secret", "x"]);
    let end = bytes.len() - 4;
    for cut in 1..end {
        let mut stream = flowing();
        let (piece, mut out) = (Bytes::copy_from_slice(&bytes[..cut]), Vec::new());
        stream.feed(&piece, &mut fields(), &mut out).unwrap();
        // Behind the prefix and behind what it is, there may be nothing in it.
        let empty = cut == 4 || cut == 4 + 2 + 16;
        assert_eq!(stream.finish(&mut fields(), &mut out).is_ok(), empty, "{cut}");
    }
}

#[test]
fn events_are_masked_but_not_bookmarks() {
    let bookmark = typed(
        json!({"metadata": {"annotations": {"k8s.io/initial-events-end": "true"}}, "data": {"k": base64("x")}}),
    );
    let watch = events(&[
        ("ADDED", typed(secret("n", "secret"))),
        ("BOOKMARK", bookmark.clone()),
        ("ERROR", failure()),
        ("DELETED", typed(secret("m", "secret"))),
    ]);
    let out = told(&whole(Shape::Watch, &watch, &mut fields()).unwrap());
    let kinds: Vec<&str> = out.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["ADDED", "BOOKMARK", "ERROR", "DELETED"]);
    assert_eq!(out[0].1["data"]["k"], base64(MASK));
    assert_eq!(out[1].1, disclose(&bookmark));
    assert_eq!(out[2].1["message"], "withheld: it may quote a masked value");
    assert_eq!(out[3].1["data"]["k"], base64(MASK));
    // Nothing is asked for.
    assert_eq!(whole(Shape::Watch, &watch, &mut Paths::new(&[])).unwrap(), watch);
}

#[test]
fn an_event_is_passed_on_when_it_is_there() {
    let watch = events(&[("ADDED", typed(secret("n", "secret")))]);
    let mut stream = Stream::new(Shape::Watch);
    let mut out = Vec::new();
    let twice = Bytes::from([watch.clone(), watch[..9].to_vec()].concat());
    stream.feed(&twice, &mut fields(), &mut out).unwrap();
    assert_eq!(told(&out.concat()).len(), 1);
    stream
        .feed(&Bytes::copy_from_slice(&watch[9..]), &mut fields(), &mut out)
        .unwrap();
    assert_eq!(told(&out.concat()).len(), 2);
    stream.finish(&mut fields(), &mut Vec::new()).unwrap();
}

#[test]
fn a_long_list_keeps_its_length_and_its_items_are_passed_on_as_they_come() {
    let bytes = list(&[
        "x",
        "secret",
        "a value that is longer than the mask is by far, so that there is room",
        "y",
        "secret",
    ]);
    let out = fed(flowing(), &bytes, &[], &mut fields()).unwrap();
    assert_eq!(out.len(), bytes.len());
    let after = disclose(&out);
    // There is no room for more than was there, until there is.
    let values: Vec<&str> = (0..5)
        .map(|item| after["items"][item]["data"]["k"].as_str().unwrap())
        .collect();
    let first = |bytes: usize| base64(&MASK[..bytes]);
    assert_eq!(
        values,
        [first(1), first(6), base64(MASK), base64(MASK), base64(MASK)]
    );
    assert_eq!(after["metadata"]["resourceVersion"], "1");

    // The first item is passed on before the second is there.
    let mut stream = flowing();
    let mut pieces = Vec::new();
    stream
        .feed(&Bytes::copy_from_slice(&bytes[..60]), &mut fields(), &mut pieces)
        .unwrap();
    assert!(pieces.concat().len() > 40);
}

#[test]
fn where_there_is_no_room_what_was_applied_last_is_cut_inside() {
    let applied = json!({"data": {"k": base64("x"), "l": "no base64!"}}).to_string();
    let item = json!({"metadata": {"annotations": {LAST_APPLIED: applied}}, "data": {"k": base64("x")}});
    let bytes = enclose(&json!({"apiVersion": "v1", "kind": "SecretList", "items": [item]}));
    let out = fed(flowing(), &bytes, &[], &mut fields()).unwrap();
    assert_eq!(out.len(), bytes.len());
    let after = disclose(&out);
    let applied = after["items"][0]["metadata"]["annotations"][LAST_APPLIED]
        .as_str()
        .unwrap();
    // There are characters in the mask that JSON escapes, for which there is no room either.
    assert_eq!(applied, "{}");

    let applied = json!({"data": {"k": base64("secret"), "l": "x"}}).to_string();
    let item = json!({"metadata": {"annotations": {LAST_APPLIED: applied}}});
    let bytes = enclose(&json!({"apiVersion": "v1", "kind": "SecretList", "items": [item]}));
    let after = disclose(&fed(flowing(), &bytes, &[], &mut fields()).unwrap());
    let applied = after["items"][0]["metadata"]["annotations"][LAST_APPLIED]
        .as_str()
        .unwrap();
    let applied: Tree = serde_json::from_str(applied).unwrap();
    assert_eq!(applied["data"], json!({"k": base64("[maske"), "l": "["}));
}

#[test]
fn what_a_list_becomes_shorter_by_is_filled() {
    // A secret by so many bytes longer than its mask. Lengths of 128 bytes and more take two.
    for longer in (0..300).chain([16_380, 16_400, 70_000, 200_000]) {
        let long = "v".repeat(MASK.len() + longer);
        for values in [&[long.as_str()][..], &[long.as_str(), "x"]] {
            let bytes = list(values);
            let out = fed(flowing(), &bytes, &[], &mut fields()).unwrap();
            assert_eq!(out.len(), bytes.len(), "{longer}");
            let after = disclose(&out);
            assert_eq!(after["items"][0]["data"]["k"], base64(MASK), "{longer}");
            assert_eq!(after["items"].as_array().unwrap().len(), values.len());
            // Whoever masks it once more still reads it.
            assert_eq!(
                fed(flowing(), &out, &[], &mut Paths::new(&["x"])).as_ref(),
                Ok(&out)
            );
        }
    }
}

#[test]
fn unchanged_pieces_are_not_copied() {
    let bytes = Bytes::from(list(&["secret"; 1000]));
    let (mut stream, mut out) = (flowing(), Vec::new());
    stream
        .feed(&bytes, &mut Paths::new(&["metadata.labels.x"]), &mut out)
        .unwrap();
    stream.finish(&mut fields(), &mut Vec::new()).unwrap();
    assert_eq!(out.concat(), bytes);
    // But for what the envelope begins with.
    let last = out.last().unwrap();
    assert_eq!(last.as_ptr_range().end, bytes.as_ptr_range().end);
    assert!(last.len() + 30 > bytes.len());
}

#[test]
fn nothing_is_said_before_it_is_known_whether_it_can_be() {
    let unknown = enclose_raw("example.com/v1", "Thing", &[0; 100]);
    let (mut stream, mut out) = (Stream::new(Shape::Object), Vec::new());
    for byte in &unknown[..unknown.len() - 5] {
        stream
            .feed(&Bytes::copy_from_slice(&[*byte]), &mut fields(), &mut out)
            .unwrap();
    }
    let last = Bytes::copy_from_slice(&[0]);
    assert_eq!(stream.feed(&last, &mut fields(), &mut out), Err(Malformed::Kind));
    assert!(out.iter().all(Bytes::is_empty));

    // An envelope without content is one.
    let body = &list(&[])[..4 + 2 + 16];
    assert_eq!(whole(Shape::List, body, &mut fields()).unwrap(), body);
}

#[test]
fn no_more_than_an_item_is_held() {
    let item = "v".repeat(10_000);
    let bytes = list(&vec![item.as_str(); 500]);
    assert!(bytes.len() as u64 > HELD);
    let (mut stream, mut held, mut seen, mut passed) = (Stream::new(Shape::List), 0, 0, 0);
    for piece in bytes.chunks(4096) {
        let mut out = Vec::new();
        stream
            .feed(&Bytes::copy_from_slice(piece), &mut fields(), &mut out)
            .unwrap();
        seen += piece.len();
        // What goes is made shorter, so what is passed on can only be counted up to the last item that was masked.
        passed = passed.max(out.iter().map(Bytes::len).sum());
        held = held.max(stream.unit.left.unwrap_or_default());
    }
    stream.finish(&mut fields(), &mut Vec::new()).unwrap();
    assert!(held < 11_000 && seen == bytes.len());
}

#[test]
fn hostile_bodies_are_refused() {
    let many = |content: &[u8]| {
        let mut bytes = PREFIX.to_vec();
        bytes.extend(content);
        bytes
    };
    let secrets = {
        let mut meta = Vec::new();
        let mut field = Vec::new();
        put_delimited(&mut meta, 1, b"v1");
        put_delimited(&mut meta, 2, b"SecretList");
        put_delimited(&mut field, 1, &meta);
        field
    };
    let with = |rest: &[u8]| many(&[&secrets, rest].concat());
    for (bytes, expected, why) in [
        (b"{\"kind\":".to_vec(), Malformed::Form, "JSON"),
        (
            with(&[0x12, 3, 0x12, 9, 0]),
            Malformed::Form,
            "an item longer than its list",
        ),
        (with(&[0x12, 0, 0x12, 0]), Malformed::Kind, "two contents"),
        (
            with(&[0x12, 0, 0x0a, 0]),
            Malformed::Kind,
            "what it is, after what it holds",
        ),
        (with(&[0x0a, 0]), Malformed::Kind, "what it is twice"),
        (with(&[0x1a, 1, b'x']), Malformed::Kind, "compressed"),
        (with(&[0x2a, 0]), Malformed::Kind, "a field that isn't known"),
        (with(&[0x10, 0]), Malformed::Form, "a number as content"),
        (
            with(&[
                0x12, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x12, 0xff, 0xff, 0xff, 0xff, 0x07,
            ]),
            Malformed::Long,
            "an item of 2 GiB",
        ),
        (
            many(&[0x12, 0xff, 0xff, 0xff, 0xff, 0x0f]),
            Malformed::Long,
            "an object of 4 GiB",
        ),
        (
            many(&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
            Malformed::Long,
            "the longest length",
        ),
    ] {
        assert_eq!(fed(flowing(), &bytes, &[], &mut fields()), Err(expected), "{why}");
    }
    for (bytes, expected) in [
        (vec![0xff, 0xff, 0xff, 0xff], Malformed::Long),
        (vec![0, 0, 0, 2, 0x12, 9], Malformed::Form),
        (vec![0, 0, 0, 4, 0x0a, 0, 0x0a, 0], Malformed::Form),
        (vec![0, 0, 0, 2, 0x1a, 0], Malformed::Kind),
        (vec![0, 0, 0, 2, 0x10, 0], Malformed::Form),
    ] {
        assert_eq!(whole(Shape::Watch, &bytes, &mut fields()), Err(expected));
    }
    let unknown = enclose_raw("example.com/v1", "ThingList", b"");
    assert_eq!(whole(Shape::List, &unknown, &mut fields()), Err(Malformed::Kind));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A list that is passed on as it comes holds what one that is held whole holds, but for what had to be cut.
    #[test]
    fn a_flowing_list_is_as_a_held_one(seed in any::<u64>(), cuts in proptest::collection::vec(any::<u16>(), 0..4)) {
        let mut chance = Chance::new(seed);
        let lists = ["PodList", "SecretList", "ConfigMapList", "NodeList", "EventList", "ServiceList"];
        let kind = lists[chance.below(lists.len() as u64) as usize];
        let mut tree = chance.object("v1", kind);
        let items: Vec<Tree> = (0..chance.below(4)).map(|_| {
            let mut item = chance.object("v1", kind.strip_suffix("List").unwrap());
            item.as_object_mut().unwrap().retain(|name, _| name != "kind" && name != "apiVersion");
            item
        }).collect();
        let paths = items.first().map(|item| some_paths(item, &mut chance, false)).unwrap_or_default();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        tree["items"] = items.into();
        let bytes = enclose(&tree);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| usize::from(*cut) % bytes.len()).collect();
        cuts.sort_unstable();
        // What is empty is never longer.
        let fields = || Paths { empty: true, ..Paths::new(&paths) };
        let flowed = fed(flowing(), &bytes, &cuts, &mut fields()).unwrap();
        let held = whole(Shape::List, &bytes, &mut fields()).unwrap();
        prop_assert_eq!(disclose(&flowed), disclose(&held));
        prop_assert_eq!(flowed.len(), bytes.len());
        // And what is longer is cut, but never passed by.
        let mut asked = Paths::new(&paths);
        if let Ok(flowed) = fed(flowing(), &bytes, &cuts, &mut asked) {
            prop_assert_eq!(flowed.len(), bytes.len());
            let mut left = Vec::new();
            texts_of(&disclose(&flowed), &mut left);
            for asked in asked.asked.iter().filter_map(|asked| asked.strip_prefix("text ")) {
                prop_assert!(!left.iter().any(|text| text == asked), "{}", asked);
            }
        }
    }

    #[test]
    fn any_bytes_are_borne(bytes in proptest::collection::vec(any::<u8>(), 0..200), flow in any::<bool>(), watch in any::<bool>()) {
        for prefix in [&b""[..], PREFIX, &list(&["secret"])] {
            let bytes = [prefix, &bytes].concat();
            let stream = Stream::new(if watch { Shape::Watch } else { Shape::List });
            let stream = stream.holding(if flow { 0 } else { HELD });
            let _answer = fed(stream, &bytes, &[], &mut fields());
        }
    }
}

/// All texts of a tree.
fn texts_of(tree: &Tree, all: &mut Vec<String>) {
    match tree {
        Tree::String(text) => all.push(text.clone()),
        Tree::Array(elements) => elements.iter().for_each(|tree| texts_of(tree, all)),
        Tree::Object(members) => members.values().for_each(|tree| texts_of(tree, all)),
        _ => {}
    }
}
