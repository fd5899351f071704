use proptest::prelude::*;
use serde_json::{Value as Tree, json};

use super::reader::{put_delimited, put_varint};
use super::testing::{Chance, decode, disclose, enclose, enclose_raw, encode, paths};
use super::*;
use crate::kubernetes::schema::{Single, lookup};
use crate::kubernetes::testing::{MASK, Paths};
use crate::kubernetes::{LAST_APPLIED, MAX_DEPTH, json as json_format};

/// What becomes of a body; `None` where it stays as it is.
fn masked(bytes: &[u8], fields: &mut Paths) -> Result<Option<Vec<u8>>, Malformed> {
    let mut out = b"before".to_vec();
    let changed = body(bytes, Type::UNKNOWN, fields, &mut out);
    assert!(out.starts_with(b"before"));
    let out = out.split_off(6);
    assert!(changed == Ok(true) || out.is_empty());
    Ok(changed?.then_some(out))
}

fn masked_tree(tree: &Tree, fields: &mut Paths) -> Tree {
    disclose(&masked(&enclose(tree), fields).unwrap().unwrap())
}

fn secret() -> Tree {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "n", "namespace": "s", "labels": {"a": "b"}},
        "data": {"k": "c2VjcmV0", "l": ""}, "stringData": {"k": "text"}, "type": "Opaque",
    })
}

#[test]
fn values_are_replaced_and_their_objects_are_named() {
    let mut fields = Paths::new(&["data.*", "stringData.k"]);
    let after = masked_tree(&secret(), &mut fields);
    assert_eq!(fields.asked, ["bytes secret", "bytes ", "text text"]);
    assert_eq!(fields.objects, [(Some("s".to_owned()), Some("n".to_owned()))]);
    let mut expected = secret();
    expected["data"] = json!({"k": "W21hc2tlZCAiXAHDqV0=", "l": "W21hc2tlZCAiXAHDqV0="});
    expected["stringData"]["k"] = MASK.into();
    assert_eq!(after, expected);
}

#[test]
fn what_nobody_asks_for_is_no_change() {
    let body = enclose(&secret());
    for paths in [
        &[][..],
        &["b"],
        &["data.x"],
        &["data"],
        &["metadata.labels.a.b"],
        &["type.x"],
    ] {
        assert_eq!(masked(&body, &mut Paths::new(paths)), Ok(None), "{paths:?}");
    }
    // What is replaced by itself is no change either.
    let mut tree = secret();
    tree["stringData"]["k"] = MASK.into();
    assert_eq!(
        masked(&enclose(&tree), &mut Paths::new(&["stringData.k"])),
        Ok(None)
    );
}

#[test]
fn each_item_of_a_list_is_an_object() {
    let mut item = secret();
    for name in ["apiVersion", "kind"] {
        item.as_object_mut().unwrap().remove(name);
    }
    let list = json!({"apiVersion": "v1", "kind": "SecretList", "metadata": {"resourceVersion": "1"}, "items": [item, {}, item]});
    let mut fields = Paths::new(&["data.k", "metadata.resourceVersion"]);
    let after = masked_tree(&list, &mut fields);
    assert_eq!(fields.objects.len(), 3);
    assert_eq!(fields.objects[1], (None, None));
    assert_eq!(after["metadata"]["resourceVersion"], "1");
    assert_eq!(after["items"][2]["data"]["k"], "W21hc2tlZCAiXAHDqV0=");

    // A list of anything has envelopes, or JSON.
    let any = json!({"apiVersion": "v1", "kind": "List", "items": [secret(), {"data": {"k": "x"}}]});
    let mut fields = Paths::new(&["data.k"]);
    let after = masked_tree(&any, &mut fields);
    assert_eq!(fields.asked, ["bytes secret", "text x"]);
    assert_eq!(after["items"][1]["data"]["k"], MASK);
}

#[test]
fn elements_are_told_by_name_where_that_is_asked_for() {
    let env = |name: &str, value: &str| json!({"name": name, "value": value});
    let container = json!({"name": "main", "env": [env("A", "1"), env("B", "2"), {"name": "C"}]});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [container], "ephemeralContainers": [container], "volumes": [{"name": "v", "secret": {"secretName": "x"}}]}});
    let mut fields = Paths::new(&[
        "spec.containers.main.env.B.value",
        "spec.containers.main.env.C.value",
        "spec.ephemeralContainers.main.env.A.value",
        "spec.volumes.v.secret.secretName",
    ]);
    let after = masked_tree(&pod, &mut fields);
    // In the order of numbers.
    assert_eq!(fields.asked, ["text x", "text 2", "text 1"]);
    assert_eq!(after["spec"]["containers"][0]["env"][1]["value"], MASK);
    assert_eq!(after["spec"]["containers"][0]["env"][0]["value"], "1");
    assert_eq!(after["spec"]["ephemeralContainers"][0]["env"][0]["value"], MASK);
    assert_eq!(after["spec"]["volumes"][0]["secret"]["secretName"], MASK);
}

#[test]
fn what_was_applied_last_is_masked_too() {
    let mut tree = secret();
    for (applied, expected) in [(secret().to_string(), None), ("no JSON".to_owned(), Some("{}"))] {
        tree["metadata"]["annotations"] = json!({LAST_APPLIED: applied, "other": "x"});
        let after = masked_tree(&tree, &mut Paths::new(&["data.k"]));
        let annotations = &after["metadata"]["annotations"];
        assert_eq!(annotations["other"], "x");
        let text = annotations[LAST_APPLIED].as_str().unwrap();
        match expected {
            Some(expected) => assert_eq!(text, expected),
            None => {
                let mut inner = secret();
                inner["data"]["k"] = "W21hc2tlZCAiXAHDqV0=".into();
                assert_eq!(serde_json::from_str::<Tree>(text).unwrap(), inner);
            }
        }
    }
    // Nothing is asked for: it isn't read.
    assert_eq!(masked(&enclose(&tree), &mut Paths::new(&[])), Ok(None));
}

#[test]
fn texts_of_failures_are_withheld_where_they_may_quote() {
    let status = |status: &str, reason: &str| {
        json!({"apiVersion": "v1", "kind": "Status", "status": status, "message": "quotes", "reason": reason, "code": 422,
            "details": {"name": "n", "causes": [{"reason": "r", "message": "quotes", "field": "f"}]}})
    };
    let fields = || Paths {
        texts: true,
        ..Paths::new(&["data.*"])
    };
    let after = masked_tree(&status("Failure", "Invalid"), &mut fields());
    let mut expected = status("Failure", "Invalid");
    expected["message"] = "withheld: it may quote a masked value".into();
    expected["details"]["causes"][0]["message"] = expected["message"].clone();
    assert_eq!(after, expected);
    for (told, reason) in [("Failure", "NotFound"), ("Success", "")] {
        let body = enclose(&status(told, reason));
        assert_eq!(masked(&body, &mut fields()), Ok(None));
    }
    let body = enclose(&status("Failure", "Invalid"));
    assert_eq!(masked(&body, &mut Paths::new(&["**"])), Ok(None));
}

#[test]
fn what_is_not_known_is_refused_where_something_is_asked_for() {
    let unknown = enclose_raw("example.com/v1", "Thing", b"\x0a\x00");
    assert_eq!(masked(&unknown, &mut Paths::new(&[])), Ok(None));
    assert_eq!(masked(&unknown, &mut Paths::new(&["a"])), Err(Malformed::Kind));
    let table = enclose_raw("meta.k8s.io/v1", "Table", b"");
    assert_eq!(masked(&table, &mut Paths::new(&["a"])), Err(Malformed::Kind));

    // A field of a newer server.
    let mut raw = encode(&secret(), lookup("v1", "Secret").unwrap());
    put_delimited(&mut raw, 4000, b"new");
    let newer = enclose_raw("v1", "Secret", &raw);
    assert_eq!(masked(&newer, &mut Paths::new(&["data.k"])), Err(Malformed::Kind));
    assert_eq!(masked(&newer, &mut Paths::new(&[])), Ok(None));
    let metadata = {
        let mut inner = Vec::new();
        put_delimited(&mut inner, 4000, b"new");
        let mut raw = Vec::new();
        put_delimited(&mut raw, 1, &inner);
        enclose_raw("v1", "Secret", &raw)
    };
    assert_eq!(masked(&metadata, &mut Paths::new(&["data.k"])), Ok(None));

    for end in [&[0x1a, 1, b'x'][..], &[0x22, 1, b'x'], &[0x2a, 0]] {
        let mut body = enclose(&secret());
        body.truncate(body.len() - 4);
        body.extend(end);
        assert_eq!(masked(&body, &mut Paths::new(&[])), Err(Malformed::Kind));
    }
}

/// `raw` as a Secret, where `data` is looked at.
fn refused(raw: &[u8]) -> Malformed {
    let body = enclose_raw("v1", "Secret", raw);
    masked(&body, &mut Paths::new(&["data.*", "metadata.labels.*"])).unwrap_err()
}

#[test]
fn what_is_not_written_as_by_an_encoder_is_refused() {
    let entry = [0x12, 6, 0x0a, 1, b'k', 0x12, 1, b'v'];
    assert_eq!(
        masked(&enclose_raw("v1", "Secret", &entry), &mut Paths::new(&["data.k"])).map(|out| out.is_some()),
        Ok(true)
    );
    for (raw, why) in [
        (&[0x10, 1][..], "a number where there is a map"),
        (&[0x12, 3, 0x0a, 1][..], "past the end"),
        (&[0x12, 6, 0x12, 1, b'v', 0x0a, 1, b'k'], "the value first"),
        (
            &[0x12, 9, 0x0a, 1, b'k', 0x0a, 1, b'l', 0x12, 1, b'v'],
            "two keys",
        ),
        (
            &[0x12, 9, 0x0a, 1, b'k', 0x12, 1, b'v', 0x12, 1, b'w'],
            "two values",
        ),
        (&[0x12, 4, 0x0a, 0, 0x1a, 0], "more than a key and a value"),
        (&[0x12, 2, 0x08, 0], "a key that is a number"),
        (&[0x12, 4, 0x0a, 0, 0x10, 0], "a value that is a number"),
        (&[0x0a, 0, 0x0a, 0], "metadata twice"),
        (&[0x0a, 6, 0x0a, 1, b'n', 0x0a, 1, b'm'], "a name twice"),
        (&[0x1a, 0, 0x1a, 0], "a type twice"),
        (&[0x12, 0, 0x0a, 0], "out of order"),
        (&[0x13, 0x14], "a group"),
        (&[0x12, 0x80], "half a length"),
    ] {
        assert_eq!(refused(raw), Malformed::Form, "{why}");
    }
    let mut long = PREFIX.to_vec();
    long.resize(MAX_OBJECT + 1, 0);
    assert_eq!(masked(&long, &mut Paths::new(&[])), Err(Malformed::Long));
    assert_eq!(masked(b"k8s", &mut Paths::new(&[])), Err(Malformed::Form));
    // A key that is missing is the empty one.
    let mut fields = Paths::new(&["data.*"]);
    let body = enclose_raw("v1", "Secret", &[0x12, 3, 0x12, 1, b'v']);
    assert!(masked(&body, &mut fields).unwrap().is_some());
    assert_eq!(fields.asked, ["bytes v"]);
}

#[test]
fn what_is_too_deep_is_refused() {
    let of = lookup("apiextensions.k8s.io/v1", "CustomResourceDefinition").unwrap();
    let deep = |levels: usize| {
        let mut schema = json!({"description": "x"});
        for _ in 0..levels {
            schema = json!({"not": schema});
        }
        let tree = json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": schema}}]}});
        encode(&tree, of)
    };
    let asked = |levels: usize| {
        let path = format!(
            "spec.versions.*.schema.openAPIV3Schema{}.description",
            ".not".repeat(levels)
        );
        let mut fields = Paths::new(&[&path]);
        object(&deep(levels), of, &mut fields, &mut Vec::new())
    };
    assert_eq!(asked(MAX_DEPTH - 10), Ok(true));
    assert_eq!(asked(MAX_DEPTH), Err(Malformed::Deep));
    // Where nothing is asked for, it isn't gone into.
    assert_eq!(
        object(&deep(400), of, &mut Paths::new(&["status"]), &mut Vec::new()),
        Ok(false)
    );

    // Objects in objects.
    let mut raw = enclose(&secret());
    for _ in 0..300 {
        let mut inner = Vec::new();
        put_delimited(&mut inner, 1, &raw);
        let mut message = Vec::new();
        put_delimited(&mut message, 2, &inner);
        raw = enclose_raw("apps/v1", "ControllerRevision", &message);
    }
    let path = "data.".repeat(301);
    assert_eq!(
        masked(&raw, &mut Paths::new(&[&format!("{path}k")])),
        Err(Malformed::Deep)
    );
    let mut list = enclose_raw("v1", "List", b"");
    for _ in 0..300 {
        let mut inner = Vec::new();
        put_delimited(&mut inner, 1, &list);
        let mut message = Vec::new();
        put_delimited(&mut message, 2, &inner);
        list = enclose_raw("v1", "List", &message);
    }
    assert_eq!(masked(&list, &mut Paths::new(&["x"])), Err(Malformed::Kind));
}

#[test]
fn json_that_cannot_be_read_is_withheld_or_refused() {
    let mut inner = Vec::new();
    put_delimited(&mut inner, 1, b"{\"k\":");
    let mut message = Vec::new();
    put_delimited(&mut message, 2, &inner);
    // Data of any kind in an object.
    let revision = enclose_raw("apps/v1", "ControllerRevision", &message);
    let out = masked(&revision, &mut Paths::new(&["data.k"])).unwrap().unwrap();
    assert_eq!(disclose(&out)["data"], json!({}));
    assert_eq!(masked(&revision, &mut Paths::new(&["metadata.name"])), Ok(None));
    // An object of its own.
    let list = enclose_raw("v1", "List", &message);
    assert_eq!(masked(&list, &mut Paths::new(&["data.k"])), Err(Malformed::Form));
}

#[test]
fn packed_numbers_are_numbers() {
    let mut raw = Vec::new();
    let mut context = Vec::new();
    let mut packed = Vec::new();
    for number in [1_u64, 300, 70_000] {
        put_varint(&mut packed, number);
    }
    put_delimited(&mut context, 4, &packed);
    let mut spec = Vec::new();
    put_delimited(&mut spec, 14, &context);
    put_delimited(&mut raw, 2, &spec);
    let mut fields = Paths::new(&["spec.securityContext.supplementalGroups.*"]);
    let mut out = Vec::new();
    assert_eq!(
        object(&raw, lookup("v1", "Pod").unwrap(), &mut fields, &mut out),
        Ok(true)
    );
    assert_eq!(fields.asked, ["scalar 1", "scalar 300", "scalar 70000"]);
    assert!(out.ends_with(&[4 << 3 | 2, 3, 7, 7, 7]), "{out:?}");
}

#[test]
fn a_text_that_is_no_utf8_is_shown_as_json_shows_it() {
    let mut fields = Paths::new(&["data.*"]);
    let body = enclose_raw("v1", "ConfigMap", &[0x12, 6, 0x0a, 1, 0xff, 0x12, 1, 0xfe]);
    assert!(masked(&body, &mut fields).unwrap().is_some());
    assert_eq!(fields.asked, ["text \u{fffd}"]);
}

/// All kinds of the table.
pub(super) fn kinds() -> Vec<(&'static str, &'static str)> {
    include_str!("../schema.txt")
        .lines()
        .filter_map(|line| {
            let mut words = line.strip_prefix("= ")?.split(' ');
            Some((words.next()?, words.next()?))
        })
        .filter(|(_, kind)| *kind != "Status")
        .collect()
}

/// Some of the paths in an object.
pub(super) fn some_paths(tree: &Tree, chance: &mut Chance, texts: bool) -> Vec<String> {
    let mut all = Vec::new();
    paths(tree, "", &mut all);
    all.retain(|(path, text)| (*text || !texts) && path != "kind" && path != "apiVersion");
    let count = chance.below(6);
    (0..count)
        .filter(|_| !all.is_empty())
        .map(|_| all[chance.below(all.len() as u64) as usize].0.clone())
        .collect()
}

/// Where two trees differ first, and how.
fn difference(a: &Tree, b: &Tree) -> Option<String> {
    match (a, b) {
        _ if a == b || a.is_number() && a.as_f64() == b.as_f64() => None,
        (Tree::Object(left), Tree::Object(right)) if left.keys().eq(right.keys()) => left
            .iter()
            .find_map(|(key, tree)| Some(format!("{key}.{}", difference(tree, &right[key])?))),
        (Tree::Array(left), Tree::Array(right)) if left.len() == right.len() => left
            .iter()
            .zip(right)
            .find_map(|(a, b)| Some(format!("*.{}", difference(a, b)?))),
        _ => Some(format!("{a} and {b}")),
    }
}

/// What the walk over JSON makes of the same.
fn masked_json(tree: &Tree, of: Type, fields: &mut Paths) -> Tree {
    let text = tree.to_string();
    let mut out = Vec::new();
    match json_format::object(text.as_bytes(), Some(of), fields, &mut out) {
        Ok(true) => serde_json::from_slice(&out).unwrap(),
        Ok(false) => tree.clone(),
        Err(error) => panic!("{error} {text}"),
    }
}

/// What was asked about, in order. A whole number in a field of type double has no fraction as API servers write it; the tests' own writer
/// gives it one.
fn as_served(mut asked: Vec<String>) -> Vec<String> {
    for line in &mut asked {
        if line.starts_with("scalar ") && line.ends_with(".0") {
            line.truncate(line.len() - 2);
        }
    }
    asked.sort();
    asked
}

fn it_is_as_in_json_for(seed: u64, texts: bool) -> Result<(), TestCaseError> {
    let mut chance = Chance::new(seed);
    let kinds = kinds();
    let (version, kind) = kinds[chance.below(kinds.len() as u64) as usize];
    let of = lookup(version, kind).unwrap();
    let tree = chance.object(version, kind);
    let paths = some_paths(&tree, &mut chance, texts);
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let fields = || Paths {
        empty: !texts,
        ..Paths::new(&paths)
    };

    let mut plain = tree.clone();
    plain
        .as_object_mut()
        .unwrap()
        .retain(|name, _| name != "kind" && name != "apiVersion");
    let bytes = encode(&plain, of);
    let before = decode(&bytes, of);
    prop_assert_eq!(difference(&before, &plain), None, "the test's own encoder");
    let (mut ours, mut theirs) = (fields(), fields());
    let mut out = Vec::new();
    let changed = object(&bytes, of, &mut ours, &mut out).unwrap();
    let after = if changed { decode(&out, of) } else { before.clone() };
    let expected = masked_json(&before, of, &mut theirs);
    prop_assert_eq!(difference(&after, &expected), None, "{:?}", paths);
    prop_assert_eq!(as_served(ours.asked), as_served(theirs.asked));
    prop_assert_eq!(ours.objects, theirs.objects);
    Ok(())
}

#[test]
fn a_whole_number_in_a_field_of_type_double_is_as_in_json() {
    it_is_as_in_json_for(5_799_047_982_158_764_235, false).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// A mask in protobuf is the mask in JSON, for all types.
    #[test]
    fn it_is_as_in_json(seed in any::<u64>(), texts in any::<bool>()) {
        it_is_as_in_json_for(seed, texts)?;
    }

    /// Whatever bytes there are, it returns, and what it returns is a message again.
    #[test]
    fn any_bytes_are_borne(seed in any::<u64>(), flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6)) {
        let mut chance = Chance::new(seed);
        let kinds = kinds();
        let (version, kind) = kinds[chance.below(kinds.len() as u64) as usize];
        let tree = chance.object(version, kind);
        let paths = some_paths(&tree, &mut chance, false);
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let mut bytes = enclose(&tree);
        for (at, with) in flips {
            let at = at % bytes.len();
            bytes[at] = with;
        }
        let fields = || Paths { empty: true, texts: true, ..Paths::new(&paths) };
        if let Ok(Some(out)) = masked(&bytes, &mut fields()) {
            prop_assert!(masked(&out, &mut fields()).is_ok());
        }
    }
}

#[test]
fn no_type_is_left_out() {
    for (version, kind) in kinds() {
        let of = lookup(version, kind).unwrap();
        assert!(matches!(of.single(), Single::Message(_)), "{version} {kind}");
    }
}
