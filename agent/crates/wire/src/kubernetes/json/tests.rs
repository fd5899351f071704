use proptest::prelude::*;
use serde_json::{Value as Tree, json};

use super::super::testing::{MASK, Paths};
use super::super::{LAST_APPLIED, MAX_DEPTH};
use super::*;

/// What becomes of an object; `None` where it stays as it is.
fn masked(text: &str, fields: &mut Paths) -> Result<Option<String>, Malformed> {
    let mut out = b"before".to_vec();
    let changed = object(text.as_bytes(), None, fields, &mut out)?;
    let out = String::from_utf8(out).unwrap();
    let out = out.strip_prefix("before").unwrap();
    assert!(changed || out.is_empty());
    Ok(changed.then(|| out.to_owned()))
}

fn quoted() -> String {
    serde_json::to_string(MASK).unwrap()
}

#[test]
fn values_are_replaced_and_all_other_bytes_stay() {
    let text = " { \"a\" : [ 1.50 ,\t{\"b\":\"x\" , \"c\" : null}\r\n] ,\"d\":\"\\u0041\", \"e\":1e3} \n";
    let mut fields = Paths::new(&["a.*.b", "a.*.c", "e"]);
    let masked = masked(text, &mut fields).unwrap().unwrap();
    let expected = text.replace("\"x\"", &quoted()).replace("1e3", "7");
    assert_eq!(masked, expected);
    assert_eq!(fields.asked, ["text x", "scalar 1e3"]);
}

#[test]
fn what_nobody_asks_for_is_no_change() {
    let text = r#"{"a":{"b":"x"},"c":[[],{}]}"#;
    for paths in [&[][..], &["b"], &["a.c"], &["a.b.c"], &["a"], &["c.*.*"]] {
        assert_eq!(masked(text, &mut Paths::new(paths)), Ok(None), "{paths:?}");
    }
}

#[test]
fn secrets_hold_bytes() {
    let text = r#"{"data":{"k":"c2VjcmV0","l":"no base64!","m":"c2\nVjcmV0"},"kind":"Secret","apiVersion":"v1","stringData":{"k":"c2VjcmV0"}}"#;
    let mut fields = Paths::new(&["data.*", "stringData.*"]);
    let masked = masked(text, &mut fields).unwrap().unwrap();
    assert_eq!(
        fields.asked,
        ["bytes secret", "text no base64!", "bytes secret", "text c2VjcmV0"]
    );
    let masked: Tree = serde_json::from_str(&masked).unwrap();
    let bytes = STANDARD.decode(masked["data"]["k"].as_str().unwrap()).unwrap();
    assert_eq!(bytes, MASK.as_bytes());
    assert_eq!(masked["data"]["l"], MASK);
    assert_eq!(masked["stringData"]["k"], MASK);
}

#[test]
fn what_the_request_says_counts_more_than_what_a_body_says() {
    let secret = super::super::schema::lookup("v1", "Secret");
    for text in [
        r#"{"data":{"k":"c2VjcmV0"}}"#,
        r#"{"kind":"Pod","apiVersion":"v1","data":{"k":"c2VjcmV0"}}"#,
        r#"{"kind":"Secret","kind":"Pod","data":{"k":"c2VjcmV0"}}"#,
    ] {
        let mut fields = Paths::new(&["data.*"]);
        object(text.as_bytes(), secret, &mut fields, &mut Vec::new()).unwrap();
        assert_eq!(fields.asked, ["bytes secret"], "{text}");
        let mut fields = Paths::new(&["data.*"]);
        object(text.as_bytes(), None, &mut fields, &mut Vec::new()).unwrap();
        assert_eq!(fields.asked, ["text c2VjcmV0"], "{text}");
    }
}

#[test]
fn keys_are_what_they_say_and_each_of_them_is_looked_at() {
    let text = r#"{"d\u0061ta":{"\u006b":"1"},"data":{"k":"2","k":"3"},"\ud83d\ude00":{"k":"4"}}"#;
    let mut fields = Paths::new(&["data.k", "\u{1f600}.k"]);
    masked(text, &mut fields).unwrap();
    assert_eq!(fields.asked, ["text 1", "text 2", "text 3", "text 4"]);
}

#[test]
fn texts_are_unescaped() {
    let text = r#"{"a":"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00\ud800x\udc00\ud800\u0041"}"#;
    let mut fields = Paths::new(&["a"]);
    masked(text, &mut fields).unwrap();
    let expected = "text \"\\/\u{8}\u{c}\n\r\t\u{e9}\u{1f600}\u{fffd}x\u{fffd}\u{fffd}A";
    assert_eq!(fields.asked, [expected]);
}

#[test]
fn objects_tell_what_they_are_called() {
    for (text, namespace, name) in [
        (
            r#"{"metadata":{"name":"n","namespace":"s"}}"#,
            Some("s"),
            Some("n"),
        ),
        (
            r#"{"data":{},"metadata":{"labels":{"name":"x"},"n\u0061me":"n"}}"#,
            None,
            Some("n"),
        ),
        (
            r#"{"metadata":{"name":"n","name":"m","namespace":"s"}}"#,
            Some("s"),
            None,
        ),
        (
            r#"{"metadata":{"name":"n"},"metadata":{"name":"m","namespace":"s"}}"#,
            Some("s"),
            None,
        ),
        (r#"{"metadata":{"name":1,"namespace":null}}"#, None, None),
        (
            r#"{"metadata":[{"name":"n"}],"spec":{"metadata":{"name":"m"}}}"#,
            None,
            None,
        ),
        ("{}", None, None),
    ] {
        let mut fields = Paths::new(&[]);
        masked(text, &mut fields).unwrap();
        let expected = (namespace.map(str::to_owned), name.map(str::to_owned));
        assert_eq!(fields.objects, [expected], "{text}");
    }
}

#[test]
fn the_least_values_are_valid_for_their_types() {
    let text = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","generation":3},
        "spec":{"hostNetwork":true,"nodeName":"n","containers":[{"name":"c","resources":{"limits":{"cpu":"100m","memory":1}}}]}}"#;
    let mut fields = Paths::new(&[
        "metadata.*",
        "spec.hostNetwork",
        "spec.nodeName",
        "spec.containers.c.resources.limits.*",
    ]);
    fields.empty = true;
    let masked: Tree = serde_json::from_str(&masked(text, &mut fields).unwrap().unwrap()).unwrap();
    assert_eq!(
        masked,
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"creationTimestamp": "1970-01-01T00:00:00Z", "generation": 0},
            "spec": {"hostNetwork": false, "nodeName": "", "containers": [{"name": "c", "resources": {"limits": {"cpu": "0", "memory": 0}}}]}})
    );
    let asked = [
        "scalar 2026-01-01T00:00:00Z",
        "scalar 3",
        "scalar true",
        "text n",
        "scalar 100m",
        "scalar 1",
    ];
    assert_eq!(fields.asked, asked);
}

#[test]
fn elements_tell_their_names() {
    let text = r#"{"env":[{"value":"1","name":"A"},{"name":"B","value":"2"},{"name":"B","value":"3","n\u0061me":"A"},{"value":"4"}, 5]}"#;
    let mut fields = Paths::new(&["env.A.value"]);
    masked(text, &mut fields).unwrap();
    assert_eq!(fields.asked, ["text 1", "text 3"]);
}

fn with_applied(applied: &str) -> String {
    json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "n", "annotations": {LAST_APPLIED: applied, "other": "x"}}})
        .to_string()
}

fn applied_in(text: &str) -> String {
    let json: Tree = serde_json::from_str(text).unwrap();
    json["metadata"]["annotations"][LAST_APPLIED]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn what_was_applied_last_is_the_object_once_more() {
    let text = with_applied("{\"data\": {\"k\":\"c2VjcmV0\"} ,\"x\":1}\n");
    let mut fields = Paths::new(&["data.*"]);
    let out = masked(&text, &mut fields).unwrap().unwrap();
    assert_eq!(fields.asked, ["bytes secret"]);
    let mask = STANDARD.encode(MASK);
    assert_eq!(
        applied_in(&out),
        format!("{{\"data\": {{\"k\":\"{mask}\"}} ,\"x\":1}}\n")
    );

    let text = with_applied("{\"nothing\": {\"k\":\"c2VjcmV0\"}}");
    assert_eq!(masked(&text, &mut Paths::new(&["data.*"])), Ok(None));
    assert_eq!(masked(&text, &mut Paths::new(&[])), Ok(None));
}

#[test]
fn what_was_applied_last_and_cannot_be_read_does_not_pass() {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(300), "]".repeat(300));
    for applied in [
        "",
        "{",
        "[]",
        "{\"data\":{\"k\":\"x\"}} {}",
        "null",
        deep.as_str(),
    ] {
        let text = with_applied(applied);
        let out = masked(&text, &mut Paths::new(&["data.*"])).unwrap().unwrap();
        assert_eq!(applied_in(&out), "{}", "{applied}");
    }
}

#[test]
fn what_is_applied_within_what_was_applied_is_looked_at_too() {
    let mut text = "{\"data\":{\"k\":\"c2VjcmV0\"}}".to_owned();
    for depth in 0..6 {
        text = with_applied(&text);
        let out = masked(&text, &mut Paths::new(&["data.*"])).unwrap().unwrap();
        assert!(!out.contains("c2VjcmV0"), "{depth}");
        serde_json::from_str::<Tree>(&out).unwrap();
    }
}

#[test]
fn the_annotation_itself_can_be_replaced() {
    let text = with_applied("{\"data\":{\"k\":\"c2VjcmV0\"}}");
    let mut fields = Paths::new(&["metadata.annotations.*", "data.*"]);
    let out = masked(&text, &mut fields).unwrap().unwrap();
    assert_eq!(applied_in(&out), MASK);
    let root = fields.object(None, None);
    assert_eq!(
        last_applied("{\"a\":1", root, Type::UNKNOWN, &mut fields).unwrap(),
        "{}"
    );
}

#[test]
fn what_is_not_json_is_refused() {
    for text in [
        "",
        " ",
        "null",
        "[]",
        "\"a\"",
        "{",
        "{}}",
        "{} {}",
        "{}x",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{\"a\" 1}",
        "{a:1}",
        "{'a':1}",
        "{\"a\":01}",
        "{\"a\":.5}",
        "{\"a\":1.}",
        "{\"a\":+1}",
        "{\"a\":1e}",
        "{\"a\":-}",
        "{\"a\":nul}",
        "{\"a\":True}",
        "{\"a\":NaN}",
        "{\"a\":[1,]}",
        "{\"a\":[1 2]}",
        "{\"a\":[}",
        "{\"a\":\"\n\"}",
        "{\"a\":\"\u{1f}\"}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12\"}",
        "{\"a\":\"\\u+123\"}",
        "{\"a\":\"\\",
        "{\"a\":\"",
        "{\"a\":\"\\\"}",
        "\u{feff}{}",
        "{\"a\":1}/**/",
    ] {
        assert_eq!(
            masked(text, &mut Paths::new(&["*", "*.*", "*.*.*"])),
            Err(Malformed::Form),
            "{text}"
        );
        assert!(
            serde_json::from_str::<serde_json::Map<String, Tree>>(text).is_err(),
            "{text}"
        );
    }
    let mut out = Vec::new();
    let broken = b"{\"a\":\"\xff\"}";
    assert_eq!(
        object(broken, None, &mut Paths::new(&[]), &mut out),
        Err(Malformed::Form)
    );
}

#[test]
fn depth_and_length_have_an_end() {
    let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    let path = vec!["a"]
        .into_iter()
        .chain(std::iter::repeat_n("*", 30))
        .collect::<Vec<_>>()
        .join(".");
    for paths in [&[][..], &[path.as_str()]] {
        assert_eq!(masked(&nested(MAX_DEPTH - 2), &mut Paths::new(paths)), Ok(None));
        for depth in [MAX_DEPTH + 1, 1_000_000] {
            assert_eq!(
                masked(&nested(depth), &mut Paths::new(paths)),
                Err(Malformed::Deep)
            );
        }
    }
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_OBJECT));
    assert_eq!(masked(&long, &mut Paths::new(&[])), Err(Malformed::Long));
    let wide: String = (0..2000).map(|number| format!("\"{number}\":1,")).collect();
    assert_eq!(
        masked(&format!("{{{wide}\"a\":1}}"), &mut Paths::new(&[])),
        Err(Malformed::Long)
    );
}

#[test]
fn a_cut_at_any_byte_is_refused() {
    let text = with_applied("{\"data\":{\"k\":\"c2VjcmV0\"}}");
    for end in 0..text.len() {
        let cut = masked(&text[..end], &mut Paths::new(&["*", "data.*", "metadata.*"]));
        assert_eq!(cut, Err(Malformed::Form), "{end}");
    }
}

#[test]
fn what_fails_adds_nothing() {
    let mut out = b"before".to_vec();
    let mut fields = Paths::new(&["a"]);
    assert_eq!(
        object(br#"{"a":"x","b"}"#, None, &mut fields, &mut out),
        Err(Malformed::Form)
    );
    assert_eq!(out, b"before");
}

#[test]
fn values_in_fields_have_a_place_already() {
    let mut fields = Paths::new(&["data.a.b"]);
    let root = fields.object(None, None);
    let at = fields.member(root, "data");
    let mut out = Vec::new();
    assert_eq!(value(br#"{"a":{"b":"x"}}"#, at, &mut fields, &mut out), Ok(true));
    assert_eq!(fields.asked, ["text x"]);
    let at = fields.member(root, "elsewhere");
    assert_eq!(value(b"[1]", at, &mut fields, &mut out), Ok(false));
    assert_eq!(value(b"[1", at, &mut fields, &mut out), Err(Malformed::Form));
}

/// What the walk should do, done on what serde_json read.
fn expected(json: &mut Tree, path: &[&str], fields: &[Vec<String>]) {
    match json {
        Tree::Object(members) => {
            for (key, value) in members {
                expected(value, &[path, &[key]].concat(), fields);
            }
        }
        Tree::Array(elements) => {
            for value in elements {
                let name = value
                    .get("name")
                    .and_then(Tree::as_str)
                    .unwrap_or_default()
                    .to_owned();
                expected(value, &[path, &[&name]].concat(), fields);
            }
        }
        Tree::Null => {}
        leaf => {
            let is = |field: &Vec<String>| {
                field.len() == path.len() && field.iter().zip(path).all(|(a, b)| a == "*" || a == b)
            };
            if fields.iter().any(is) {
                *leaf = match leaf {
                    Tree::String(_) => json!(MASK),
                    _ => json!(7),
                };
            }
        }
    }
}

fn any_json() -> impl Strategy<Value = Tree> {
    let key = prop_oneof![
        Just("a".to_owned()),
        Just("name".to_owned()),
        Just("metadata".to_owned()),
        Just("annotations".to_owned()),
        Just("d\u{e9}\"\\".to_owned()),
        "\\PC{0,3}",
    ];
    let leaf = prop_oneof![
        Just(Tree::Null),
        any::<bool>().prop_map(Tree::from),
        any::<i64>().prop_map(Tree::from),
        any::<i32>().prop_map(|number| Tree::from(f64::from(number) / 8.0)),
        ".{0,12}".prop_map(Tree::from),
        "[a-c]".prop_map(Tree::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Tree::from),
            prop::collection::btree_map(key.clone(), inner, 0..6)
                .prop_map(|members| Tree::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn the_walk_does_what_decoding_would(
        json in any_json(),
        pretty: bool,
        paths in prop::collection::vec(prop::collection::vec(
            prop_oneof![Just("*"), Just("a"), Just("name"), Just("metadata"), Just("annotations")], 1..5), 0..4),
    ) {
        let json = json!({"a": json, "metadata": {"annotations": {"name": "x"}}});
        let paths: Vec<Vec<String>> = paths.iter().map(|path| path.iter().map(|part| (*part).to_owned()).collect()).collect();
        let joined: Vec<String> = paths.iter().map(|path| path.join(".")).collect();
        let joined: Vec<&str> = joined.iter().map(String::as_str).collect();
        let text = if pretty { serde_json::to_string_pretty(&json) } else { serde_json::to_string(&json) }.unwrap();
        let out = masked(&text, &mut Paths::new(&joined)).unwrap();
        let mut wanted = json.clone();
        expected(&mut wanted, &[], &paths);
        if let Some(out) = out {
            prop_assert_eq!(serde_json::from_str::<Tree>(&out).unwrap(), wanted);
        } else {
            prop_assert_eq!(json, wanted);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(text in "[\\[\\]{}\":,\\\\ua0-9 .\n-]{0,40}") {
        // What is taken here, others take as well, and understand in the same way.
        let text = format!("{{\"a\":{text}}}");
        let mut fields = Paths::new(&["*", "*.*", "*.*.*", "*.*.*.*", "*.*.*.*.*"]);
        if masked(&text, &mut fields).is_ok() {
            let read: Result<Tree, _> = serde_json::from_str(&text);
            prop_assert!(read.is_ok() || text.contains("\\u") || text.matches(['[', '{']).count() > 4, "{text}");
        }
    }
}
