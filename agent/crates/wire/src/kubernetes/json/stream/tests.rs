use proptest::prelude::*;
use serde_json::{Value as Tree, json};

use super::super::super::testing::{MASK, Paths};
use super::super::super::{LAST_APPLIED, MAX_OBJECT, schema};
use super::*;

/// Feeds a body in pieces that end at these places.
fn fed(shape: Shape, body: &str, cuts: &[usize], fields: &mut Paths) -> Result<String, Malformed> {
    let mut stream = Stream::new(shape);
    let whole = Bytes::copy_from_slice(body.as_bytes());
    let mut out = Vec::new();
    let mut from = 0;
    for end in cuts.iter().copied().chain([whole.len()]) {
        stream.feed(&whole.slice(from..end.max(from)), fields, &mut out)?;
        from = end.max(from);
    }
    stream.finish(fields, &mut out)?;
    Ok(String::from_utf8(out.concat()).unwrap())
}

fn whole(shape: Shape, body: &str, fields: &mut Paths) -> Result<String, Malformed> {
    fed(shape, body, &[], fields)
}

fn tree(text: &str) -> Tree {
    serde_json::from_str(text).unwrap()
}

fn fields() -> Paths {
    Paths {
        texts: true,
        cells: true,
        ..Paths::new(&["data.*", "spec.env.*.value"])
    }
}

fn secret(name: &str, value: &str) -> Tree {
    let applied = json!({"data": {"k": value}}).to_string();
    json!({"metadata": {"name": name, "annotations": {LAST_APPLIED: applied}}, "data": {"k": value}, "x": "]}\"\\{["})
}

const CELLS: &str = r#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{},"columnDefinitions":[{"name":"Name","type":"string","format":"name"},{"name":"Data","type":"integer"},{"name":"Host","type":"string","format":""}],"rows":[{"cells":["n",3,"secret"],"object":{"kind":"PartialObjectMetadata","metadata":{"name":"n"}}},{"cells":["m",null,null,"more",[1]],"object":null}]}"#;

const FAILURE: &str = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Secret \"n\" is invalid: data[k]: Invalid value: \"secret\"","reason":"Invalid","details":{"name":"n","kind":"Secret","causes":[{"reason":"FieldValueInvalid","message":"Invalid value: \"secret\"","field":"data[k]"}]},"code":422}"#;

/// One of each thing that is streamed, and what is hidden in it.
fn bodies() -> Vec<(Shape, String)> {
    let items = json!([secret("a", "c2VjcmV0"), {"metadata": {}}, secret("b", "c2VjcmV0")]);
    let typed = |items: &str| {
        format!(
            r#"{{"kind":"SecretList","apiVersion":"v1","metadata":{{"resourceVersion":"1"}},"items":{items}}}"#
        )
    };
    let untyped = json!({"apiVersion": "example.com/v1", "items": [{"apiVersion": "example.com/v1", "kind": "Thing",
        "spec": {"env": [{"name": "A", "value": "secret"}]}}], "kind": "ThingList", "metadata": {"continue": "x"}});
    let event = |kind: &str, object: &Tree| json!({"type": kind, "object": object}).to_string();
    let mut own = secret("a", "c2VjcmV0");
    own["kind"] = json!("Secret");
    own["apiVersion"] = json!("v1");
    let mut later = tree(CELLS);
    later["columnDefinitions"] = Tree::Null;
    let watch = [
        event("ADDED", &own),
        "\n".to_owned(),
        event(
            "BOOKMARK",
            &json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"resourceVersion": "12"}, "data": null}),
        ),
        event("MODIFIED", &own),
        " \r\n\n".to_owned(),
        event("ERROR", &tree(FAILURE)),
    ];
    let tables = [event("ADDED", &tree(CELLS)), event("MODIFIED", &later)];
    vec![
        (Shape::List, format!("{}\n", typed(&items.to_string()))),
        (Shape::List, typed(&serde_json::to_string_pretty(&items).unwrap())),
        (Shape::List, untyped.to_string()),
        (Shape::List, CELLS.to_owned()),
        (Shape::List, FAILURE.to_owned()),
        (
            Shape::List,
            r#"{"kind":"SecretList","apiVersion":"v1","metadata":{},"items":null}"#.to_owned(),
        ),
        (
            Shape::List,
            r#"{"kind":"SecretList","it\u0065ms":[],"apiVersion":"v1"}"#.to_owned(),
        ),
        (Shape::Object, format!("{own}\n")),
        (Shape::Object, CELLS.to_owned()),
        (Shape::Object, FAILURE.to_owned()),
        (Shape::Watch, watch.concat()),
        (Shape::Watch, tables.concat()),
        (Shape::Watch, String::new()),
        (Shape::Object, String::new()),
    ]
}

#[test]
fn nothing_hidden_comes_through() {
    for (shape, body) in bodies() {
        let out = whole(shape, &body, &mut fields()).unwrap();
        assert!(!out.contains("secret") && !out.contains("c2VjcmV0"), "{out}");
        if shape != Shape::Watch && !body.is_empty() {
            tree(&out);
        }
    }
}

#[test]
fn what_nobody_looks_at_comes_through_as_it_came() {
    for (shape, body) in bodies() {
        let mut out = Vec::new();
        let whole = Bytes::from(body.clone());
        let mut stream = Stream::new(shape);
        stream
            .feed(&whole, &mut Paths::new(&["nothing.*"]), &mut out)
            .unwrap();
        stream.finish(&mut fields(), &mut out).unwrap();
        assert_eq!(out.concat(), body.as_bytes());
        // Not so much as copied.
        for piece in &out {
            assert!(whole.as_ptr_range().contains(&piece.as_ptr()));
        }
        assert!(out.len() <= 1, "{} pieces", out.len());
    }
}

#[test]
fn it_does_not_matter_where_a_body_is_cut() {
    for (shape, body) in bodies() {
        let expected = whole(shape, &body, &mut fields()).unwrap();
        for cut in 0..body.len() {
            assert_eq!(
                fed(shape, &body, &[cut], &mut fields()).as_deref(),
                Ok(expected.as_str()),
                "{cut}"
            );
        }
        let everywhere: Vec<usize> = (0..body.len()).collect();
        assert_eq!(fed(shape, &body, &everywhere, &mut fields()), Ok(expected));
    }
}

#[test]
fn a_body_that_ends_early_is_told() {
    for (shape, body) in bodies() {
        let ends = body.trim_end().len();
        for end in 1..ends {
            let early = whole(shape, &body[..end], &mut fields());
            // Watches may end behind any event.
            assert!(
                early == Err(Malformed::Form) || shape == Shape::Watch,
                "{end} of {body}: {early:?}"
            );
        }
    }
}

#[test]
fn items_are_of_the_type_that_the_list_tells() {
    let (shape, body) = bodies().swap_remove(0);
    let mut fields = fields();
    let out = whole(shape, &body, &mut fields).unwrap();
    assert!(
        fields.asked.iter().all(|asked| asked == "bytes secret"),
        "{:?}",
        fields.asked
    );
    assert_eq!(fields.asked.len(), 4);
    let names: Vec<_> = fields.objects.iter().map(|(_, name)| name.as_deref()).collect();
    assert_eq!(names, [Some("a"), None, Some("b")]);
    let mut expected = tree(&body);
    let mask = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, MASK);
    for item in [0, 2] {
        expected["items"][item] = secret(["a", "", "b"][item], &mask);
    }
    assert_eq!(tree(&out), expected);
}

#[test]
fn a_list_that_is_not_expected_is_one_all_the_same() {
    let (_, body) = bodies().swap_remove(0);
    let mut known = fields();
    let out = whole(Shape::Object, &body, &mut known).unwrap();
    assert!(!out.contains("c2VjcmV0"), "{out}");
    assert!(known.asked.iter().all(|asked| asked == "bytes secret"));
    let body = "{\"items\":[{\"data\":{\"k\":\"secret\"}}],\"data\":{\"k\":\"secret\"}}";
    assert!(
        !whole(Shape::Object, body, &mut fields())
            .unwrap()
            .contains("secret")
    );
}

#[test]
fn what_says_no_kind_comes_through_where_nobody_looks_at_it() {
    let body = json!({"metadata": {"annotations": {LAST_APPLIED: "{"}}, "items": 1}).to_string();
    assert_eq!(
        whole(Shape::Object, &body, &mut Paths::new(&[])).as_deref(),
        Ok(body.as_str())
    );
    assert!(
        whole(Shape::Object, &body, &mut fields())
            .unwrap()
            .contains("\"{}\"")
    );
}

#[test]
fn what_items_are_can_be_known_before() {
    let body = "{\"apiVersion\":\"v1\",\"items\":[{\"data\":{\"k\":\"c2VjcmV0\"}}],\"kind\":\"SecretList\"}";
    let mut fields = fields();
    let of = schema::of_resource("v1", "secrets").unwrap();
    let mut stream = Stream::new(Shape::List).of(of);
    stream
        .feed(&Bytes::from(body), &mut fields, &mut Vec::new())
        .unwrap();
    assert_eq!(fields.asked, ["bytes secret"]);
}

#[test]
fn a_list_is_passed_on_as_it_comes() {
    let body = bodies().swap_remove(0).1;
    let first = body
        .find("{\"metadata\":{},")
        .unwrap_or_else(|| body.find("\"items\":[").unwrap() + 9);
    let mut stream = Stream::new(Shape::List);
    let mut out = Vec::new();
    stream
        .feed(
            &Bytes::copy_from_slice(&body.as_bytes()[..first]),
            &mut fields(),
            &mut out,
        )
        .unwrap();
    assert_eq!(out.concat(), &body.as_bytes()[..first]);
}

#[test]
fn rows_and_cells() {
    let out = tree(&whole(Shape::List, CELLS, &mut fields()).unwrap());
    assert_eq!(out["rows"][0]["cells"], json!(["n", null, "[masked]"]));
    assert_eq!(
        out["rows"][1]["cells"],
        json!(["m", null, null, "[masked]", null])
    );
    assert_eq!(out["columnDefinitions"], tree(CELLS)["columnDefinitions"]);
    // Without columns even names are hidden, and with two definitions of them, too.
    let without = CELLS.replacen("columnDefinitions", "elsewhere", 1);
    let twice = CELLS.replacen(
        "\"metadata\":{}",
        "\"columnDefinitions\":[{\"type\":\"string\",\"format\":\"name\"}]",
        1,
    );
    for body in [without, twice] {
        for shape in [Shape::List, Shape::Object] {
            let out = tree(&whole(shape, &body, &mut fields()).unwrap());
            assert_eq!(out["rows"][0]["cells"], json!(["[masked]", null, "[masked]"]));
        }
    }
    let shown = whole(
        Shape::List,
        CELLS,
        &mut Paths {
            cells: false,
            ..fields()
        },
    )
    .unwrap();
    assert_eq!(shown, CELLS);
}

#[test]
fn watches_remember_the_columns() {
    let tables = &bodies()[11];
    let out = whole(tables.0, &tables.1, &mut fields()).unwrap();
    let events: Vec<Tree> = serde_json::Deserializer::from_str(&out)
        .into_iter::<Tree>()
        .map(Result::unwrap)
        .collect();
    assert_eq!(events.len(), 2);
    for event in &events {
        assert_eq!(
            event["object"]["rows"][0]["cells"],
            json!(["n", null, "[masked]"])
        );
    }
    // From a bookmark, too; and where none came, nothing is shown.
    let mut events = serde_json::Deserializer::from_str(&tables.1).into_iter::<Tree>();
    let later = events.nth(1).unwrap().unwrap().to_string();
    let bookmark = json!({"type": "BOOKMARK", "object": tree(CELLS)}).to_string();
    for (body, name) in [(format!("{bookmark}{later}"), "n"), (later.clone(), "[masked]")] {
        let out = whole(Shape::Watch, &body, &mut fields()).unwrap();
        let last: Tree = serde_json::Deserializer::from_str(&out)
            .into_iter::<Tree>()
            .map(Result::unwrap)
            .last()
            .unwrap();
        assert_eq!(last["object"]["rows"][0]["cells"][0], name);
    }
}

#[test]
fn texts_of_failures_are_withheld_where_they_may_quote() {
    for shape in [Shape::Object, Shape::List] {
        let out = tree(&whole(shape, FAILURE, &mut fields()).unwrap());
        assert_eq!(out["message"], "withheld: it may quote a masked value");
        assert_eq!(
            out["details"]["causes"][0]["message"],
            "withheld: it may quote a masked value"
        );
        assert_eq!(out["details"]["causes"][0]["field"], "data[k]");
        let shown = FAILURE.replace("\"reason\":\"Invalid\"", "\"reason\":\"NotFound\"");
        assert_eq!(whole(shape, &shown, &mut fields()).as_deref(), Ok(shown.as_str()));
        let fine = FAILURE.replace("\"Failure\"", "\"Success\"");
        assert_eq!(whole(shape, &fine, &mut fields()).as_deref(), Ok(fine.as_str()));
        assert_eq!(
            whole(
                shape,
                FAILURE,
                &mut Paths {
                    texts: false,
                    ..fields()
                }
            )
            .as_deref(),
            Ok(FAILURE)
        );
        // What says two things says nothing.
        for (from, to) in [
            (
                "\"reason\":\"Invalid\"",
                "\"reason\":\"NotFound\",\"reason\":\"Invalid\"",
            ),
            (
                "\"status\":\"Failure\"",
                "\"status\":\"Success\",\"status\":\"Failure\"",
            ),
            ("\"status\":\"Failure\",", ""),
            ("\"reason\":\"Invalid\"", "\"reason\":null"),
        ] {
            let out = whole(shape, &FAILURE.replace(from, to), &mut fields()).unwrap();
            assert!(!out.contains("secret"), "{out}");
        }
    }
}

#[test]
fn names_of_kinds_are_not_taken_from_custom_resources() {
    let status =
        r#"{"apiVersion":"example.com/v1","kind":"Status","status":"Success","data":{"k":"secret"}}"#;
    let table = r#"{"apiVersion":"example.com/v1","kind":"Table","data":{"k":"secret"},"rows":[]}"#;
    for text in [status, table] {
        let event = format!("{{\"type\":\"ADDED\",\"object\":{text}}}");
        for (shape, body) in [(Shape::Object, text), (Shape::Watch, event.as_str())] {
            assert!(!whole(shape, body, &mut fields()).unwrap().contains("secret"));
        }
        let items = format!("{{\"kind\":\"List\",\"apiVersion\":\"v1\",\"items\":[{text}]}}");
        assert!(
            !whole(Shape::List, &items, &mut fields())
                .unwrap()
                .contains("secret")
        );
    }
}

#[test]
fn bookmarks_come_through_whatever_is_masked() {
    let body = "{\"type\":\"BOOKMARK\",\"object\":{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"metadata\":{\"resourceVersion\":\"5\",\"annotations\":{\"k8s.io/initial-events-end\":\"true\"}}}}\n";
    let mut all = Paths::new(&["metadata.*", "metadata.annotations.*"]);
    assert_eq!(whole(Shape::Watch, body, &mut all).as_deref(), Ok(body));
    // One that says two things is no bookmark.
    let two = body.replacen("\"type\"", "\"type\":\"ADDED\",\"type\"", 1);
    assert_ne!(whole(Shape::Watch, &two, &mut all).as_deref(), Ok(two.as_str()));
}

#[test]
fn what_is_not_of_its_shape_is_refused() {
    for (shape, body) in [
        (Shape::List, "[]"),
        (Shape::List, "null"),
        (Shape::List, "{}{}"),
        (Shape::List, "{\"items\":{}}"),
        (Shape::List, "{\"items\":[1]}"),
        (Shape::List, "{\"items\":[null]}"),
        (Shape::List, "{\"items\":[{},]}"),
        (Shape::List, "{\"items\":[,{}]}"),
        (Shape::List, "{\"items\":[{}{}]}"),
        (Shape::List, "{\"items\":[{}"),
        (Shape::List, "{\"items\":[]]}"),
        (Shape::List, "{\"items\":[]"),
        (Shape::List, "{\"items\":[],}"),
        (Shape::List, "{\"items\":[],\"message\":\"secret\"}"),
        (Shape::List, "{\"items\":[],\"a\":'}"),
        (Shape::List, "{\"items\":[],\"\\x\":1}"),
        (Shape::List, "{\"items\":\"x\",\"items\":[]}"),
        (Shape::List, "{x}"),
        (Shape::Object, "{}{}"),
        (Shape::Object, "1"),
        (Shape::Watch, "{\"type\":\"ADDED\",\"object\":1}"),
        (Shape::Watch, "[]"),
        (Shape::Watch, "{},{}"),
    ] {
        assert_eq!(whole(shape, body, &mut fields()), Err(Malformed::Form), "{body}");
    }
    // A second list is a list as well.
    let twice = "{\"items\":[{\"data\":{\"a\":\"secret\"}}],\"items\":[{\"data\":{\"a\":\"secret\"}}]}";
    assert!(
        !whole(Shape::List, twice, &mut fields())
            .unwrap()
            .contains("secret")
    );
}

#[test]
fn an_object_is_held_no_longer_than_allowed() {
    for (shape, before) in [
        (Shape::Object, "{\"a\":\""),
        (Shape::List, "{\"a\":\""),
        (Shape::List, "{\"items\":[{\"a\":\""),
        (Shape::Watch, "{\"a\":\""),
    ] {
        let mut stream = Stream::new(shape);
        let mut out = Vec::new();
        stream
            .feed(&Bytes::from(before), &mut fields(), &mut out)
            .unwrap();
        let piece = Bytes::from("x".repeat(1 << 20));
        let told = (0..17).find_map(|number| {
            stream
                .feed(&piece, &mut fields(), &mut out)
                .err()
                .map(|error| (number, error))
        });
        assert_eq!(told, Some((15, Malformed::Long)), "{before}");
        let at_once = format!("{before}{}\"}}", "x".repeat(MAX_OBJECT));
        assert_eq!(whole(shape, &at_once, &mut fields()), Err(Malformed::Long));
    }
    // A list may be as long as it likes.
    let mut stream = Stream::new(Shape::List);
    let (mut out, mut length) = (Vec::new(), 0);
    stream
        .feed(&Bytes::from("{\"items\":[{}"), &mut fields(), &mut out)
        .unwrap();
    let item = Bytes::from(format!(",{{\"data\":{{\"a\":\"{}\"}}}}", "x".repeat(1 << 20)));
    for _ in 0..40 {
        out.clear();
        stream.feed(&item, &mut fields(), &mut out).unwrap();
        length += out.iter().map(Bytes::len).sum::<usize>();
    }
    assert!(length < 1 << 12);
}

proptest! {
    #[test]
    fn pieces_of_any_size_give_the_same(
        number in 0..14_usize,
        cuts in prop::collection::vec(0..4000_usize, 0..12),
        junk in prop::option::of((0..4000_usize, any::<u8>())),
    ) {
        let (shape, mut body) = bodies().swap_remove(number);
        if let Some((at, byte)) = junk
            && at < body.len()
        {
            let mut bytes = body.into_bytes();
            bytes[at] = byte % 128;
            body = String::from_utf8_lossy(&bytes).into_owned();
        }
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < body.len()).collect();
        cuts.sort_unstable();
        prop_assert_eq!(fed(shape, &body, &cuts, &mut fields()), whole(shape, &body, &mut fields()));
    }
}
