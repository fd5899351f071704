use proptest::prelude::*;
use serde_json::{Value as Tree, json};

use super::super::testing::{MASK, Paths};
use super::super::{LAST_APPLIED, Shape, schema};
use super::*;
use base64::Engine as _;

fn masked(text: &str, fields: &mut Paths) -> Result<Option<String>, Malformed> {
    let mut out = b"before".to_vec();
    let changed = object(text.as_bytes(), None, fields, &mut out)?;
    let out = String::from_utf8(out).unwrap();
    let out = out.strip_prefix("before").unwrap();
    assert!(changed || out.is_empty());
    Ok(changed.then(|| out.to_owned()))
}

/// As this library reads it, which is enough to see that a document is one.
fn tree(yaml: &str) -> Tree {
    fn value(yaml: &mut Yaml<'_>) -> Tree {
        match yaml.begin().unwrap() {
            Begin::Object(mut open) => {
                let mut members = serde_json::Map::new();
                while let Some(key) = yaml.key(&mut open).unwrap() {
                    members.insert(key.into_owned(), value(yaml));
                }
                Tree::Object(members)
            }
            Begin::List(mut open) => {
                let mut elements = Vec::new();
                while yaml.more(&mut open).unwrap() {
                    elements.push(value(yaml));
                }
                Tree::Array(elements)
            }
            Begin::Leaf(Leaf::Text(text)) => Tree::from(text.into_owned()),
            Begin::Leaf(Leaf::Scalar(text)) => serde_json::from_str(&text).unwrap(),
            Begin::Leaf(_) => Tree::Null,
        }
    }
    value(&mut Yaml::new(yaml.as_bytes()).unwrap())
}

const CONFIG: &str = r#"apiVersion: v1
data:
  block: |
    first
      second: "x"

    third
  folded: >-
    one
    two
  kept: |+
    line

  last: # |
    |2-
    - a
      b
  plain: some text
    that goes on
  quoted: "a: \"b\" # c"
  single: 'it''s'
  "true": "0123"
kind: ConfigMap
metadata:
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: |
      {"apiVersion":"v1","data":{"quoted":"secret"}}
  name: one
  namespace: s # a comment
"#;

#[test]
fn values_are_replaced_where_they_stand() {
    for key in [
        "block", "folded", "kept", "last", "plain", "quoted", "single", "true",
    ] {
        let mut fields = Paths::new(&[&format!("data.{key}")]);
        let out = masked(CONFIG, &mut fields).unwrap().unwrap();
        let mut expected = tree(CONFIG);
        expected["data"][key] = json!(MASK);
        if key == "quoted" {
            let applied = json!({"apiVersion": "v1", "data": {"quoted": MASK}});
            let found = tree(&out)["metadata"]["annotations"][LAST_APPLIED]
                .as_str()
                .unwrap()
                .to_owned();
            assert_eq!(serde_json::from_str::<Tree>(&found).unwrap(), applied);
            expected["metadata"]["annotations"][LAST_APPLIED] = json!(found);
        }
        assert_eq!(tree(&out), expected, "{key}:\n{out}");
        assert_eq!(fields.objects, [(Some("s".to_owned()), Some("one".to_owned()))]);
        // Comments and the style of the others are as they were.
        assert!(out.contains("namespace: s # a comment\n"));
    }
    let mut all = Paths::new(&["data.*"]);
    let out = masked(CONFIG, &mut all).unwrap().unwrap();
    assert!(
        tree(&out)["data"]
            .as_object()
            .unwrap()
            .values()
            .all(|value| *value == MASK)
    );
    assert_eq!(all.asked.len(), 9);
}

#[test]
fn what_nobody_asks_for_is_no_change() {
    assert_eq!(masked(CONFIG, &mut Paths::new(&["spec.*"])), Ok(None));
    assert_eq!(masked("---\n{}\n", &mut Paths::new(&["spec.*"])), Ok(None));
}

#[test]
fn values_are_of_the_types_that_the_server_reads() {
    let text = "a: [1, 1.5, -2e3, true, No, ~, null, , yes, '1', \"true\", 0x1F, 1_000, 1:20, .inf, 2026-01-01, text, '']\n".replace(" ,", "");
    let mut fields = Paths::new(&["a.*"]);
    masked(&text, &mut fields).unwrap();
    assert_eq!(
        fields.asked,
        [
            "scalar 1",
            "scalar 1.5",
            "scalar -2e3",
            "scalar true",
            "scalar false",
            "scalar true",
            "text 1",
            "text true",
            "text 0x1F",
            "text 1_000",
            "text 1:20",
            "text .inf",
            "text 2026-01-01",
            "text text",
            "text "
        ]
    );
    let text =
        "apiVersion: v1\nkind: Secret\ndata: {yes: c2VjcmV0, \"k\": c2VjcmV0, 1: c2VjcmV0, ~: c2VjcmV0}\n";
    let mut fields = Paths::new(&["data.true", "data.k", "data.1", "data.null"]);
    masked(text, &mut fields).unwrap();
    assert_eq!(fields.asked, ["bytes secret"; 4]);
}

#[test]
fn texts_stay_texts_whatever_they_are() {
    #[derive(Debug)]
    struct To(&'static str);
    impl Fields for To {
        type At = ();
        fn object(&mut self, _: Option<&str>, _: Option<&str>) {}
        fn member(&mut self, (): (), _: &str) {}
        fn element(&mut self, (): (), _: usize, _: Option<&str>) {}
        fn passes(&self, (): ()) -> bool {
            false
        }
        fn replace(&mut self, (): (), _: super::super::Value<'_>) -> Option<super::super::Replacement> {
            Some(super::super::Replacement::Value(self.0.as_bytes().to_vec()))
        }
        fn hides_texts(&self) -> bool {
            false
        }
        fn hides_cells(&self) -> bool {
            false
        }
    }
    for to in [
        "true",
        "0123",
        "1e3",
        "",
        "~",
        "- a",
        "a: b",
        "# a",
        "\n",
        " x ",
        "\u{85}\u{2028}\u{feff}\u{7f}\u{1}",
        "'",
        "\"\\",
        "*a",
        "|",
    ] {
        let mut out = Vec::new();
        assert_eq!(
            object(b"a:\n- b: x\n  c: z\n", None, &mut To(to), &mut out),
            Ok(true)
        );
        let out = String::from_utf8(out).unwrap();
        assert_eq!(tree(&out), json!({"a": [{"b": to, "c": to}]}), "{out}");
    }
    // A number can't become a text.
    assert_eq!(
        object(b"a: 1\n", None, &mut To("x"), &mut Vec::new()),
        Err(Malformed::Room)
    );
}

#[test]
fn what_is_not_plain_is_refused() {
    for text in [
        "",
        "a",
        "- a\n",
        "a: &x 1\nb: *x\n",
        "a: &x 1\n",
        "a: !!str 1\n",
        "a: !x 1\n",
        "a: !!binary c2VjcmV0\n",
        "<<: {a: b}\n",
        "a: {<<: {b: c}}\n",
        "? [a]\n: b\n",
        "? {a: b}\n: c\n",
        "a: b\n---\na: c\n",
        "%YAML 1.1\n---\na: b\n",
        "a: b\n...\nc: d\n",
        "a: [\n",
        "a: \"b\n",
        "a: b: c\n",
        "a: b\n c: d\n",
        "a: b # c\u{2028}d: e\n",
        "a: b\u{85}c\n",
        "a: |\n  b\u{2029}c: d\n",
    ] {
        assert_eq!(
            masked(text, &mut Paths::new(&["*"])),
            Err(Malformed::Form),
            "{text:?}"
        );
    }
    assert_eq!(
        object(b"a: \xff\n", None, &mut Paths::new(&[]), &mut Vec::new()),
        Err(Malformed::Form)
    );
    let many = format!("a: [{}1]\n", "1,".repeat(600_000));
    assert_eq!(masked(&many, &mut Paths::new(&[])), Err(Malformed::Long));
    assert!(masked("a: \"b\u{2028} c\"\n", &mut Paths::new(&["b"])).is_ok());
    let deep = format!("a: {}{}\n", "[".repeat(250), "]".repeat(250));
    assert_eq!(
        masked(&deep, &mut Paths::new(&[&format!("a{}", ".*".repeat(60))])),
        Ok(None)
    );
    assert!(masked(&format!("a: {}\n", "[".repeat(100_000)), &mut Paths::new(&[])).is_err());
}

fn fed(shape: Shape, body: &str, cuts: &[usize], fields: &mut Paths) -> Result<String, Malformed> {
    let mut stream = Stream::new(shape).of(schema::of_resource("v1", "secrets").unwrap());
    let whole = bytes::Bytes::copy_from_slice(body.as_bytes());
    let mut out = Vec::new();
    let mut from = 0;
    for end in cuts.iter().copied().chain([whole.len()]) {
        stream.feed(&whole.slice(from..end.max(from)), fields, &mut out)?;
        from = end.max(from);
    }
    stream.finish(fields, &mut out)?;
    Ok(String::from_utf8(out.concat()).unwrap())
}

fn fields() -> Paths {
    Paths {
        texts: true,
        cells: true,
        ..Paths::new(&["data.*"])
    }
}

const LIST: &str = r#"apiVersion: v1
items:
- data:
    k: c2VjcmV0
  metadata:
    annotations:
      a: |
        - not an item
      kubectl.kubernetes.io/last-applied-configuration: |
        {"data":{"k":"c2VjcmV0"}}
    name: a
- metadata: {}

- data:
    k: |-
      c2VjcmV0
  metadata:
    name: b
kind: SecretList
metadata:
  resourceVersion: "12"
"#;

const TABLE: &str = r#"apiVersion: meta.k8s.io/v1
columnDefinitions:
- description: Name must be unique
  format: name
  name: Name
  type: string
- format: ""
  name: Host
  type: string
- name: Data
  type: integer
kind: Table
metadata: {}
rows:
- cells:
  - one
  - secret
  - 3
  object:
    apiVersion: meta.k8s.io/v1
    kind: PartialObjectMetadata
    metadata:
      name: one
- cells: [m, secret, 4]
  object: null
"#;

const FAILURE: &str = r#"apiVersion: v1
code: 422
details:
  causes:
  - field: data[k]
    message: 'Invalid value: "secret"'
    reason: FieldValueInvalid
  kind: Secret
kind: Status
message: 'Secret "n" is invalid: data[k]: Invalid value: "secret"'
metadata: {}
reason: Invalid
status: Failure
"#;

const EMPTY: &str = "apiVersion: v1\nitems: []\nkind: SecretList\nmetadata:\n  resourceVersion: \"1\"\n";

#[test]
fn lists_tables_and_failures_are_streamed() {
    for (shape, body) in [
        (Shape::List, LIST),
        (Shape::List, TABLE),
        (Shape::List, FAILURE),
        (Shape::List, EMPTY),
        (Shape::Object, TABLE),
        (Shape::Object, FAILURE),
        (Shape::Object, LIST),
        (Shape::Object, CONFIG),
        (Shape::Object, ""),
    ] {
        assert_eq!(
            fed(shape, body, &[], &mut Paths::new(&["x"])).as_deref(),
            Ok(body)
        );
        let out = fed(shape, body, &[], &mut fields()).unwrap();
        assert!(!out.contains("secret") && !out.contains("c2VjcmV0"), "{out}");
        for cut in 0..body.len() {
            assert_eq!(
                fed(shape, body, &[cut], &mut fields()).as_deref(),
                Ok(out.as_str()),
                "{cut}"
            );
        }
        let everywhere: Vec<usize> = (0..body.len()).collect();
        assert_eq!(
            fed(shape, body, &everywhere, &mut fields()).as_deref(),
            Ok(out.as_str())
        );
        if !body.is_empty() {
            tree(&out);
        }
    }
    let mut seen = fields();
    let out = tree(&fed(Shape::List, LIST, &[], &mut seen).unwrap());
    assert_eq!(seen.asked, ["bytes secret"; 3]);
    assert_eq!(
        out["items"][2]["data"]["k"],
        base64::engine::general_purpose::STANDARD.encode(MASK)
    );
    let out = tree(&fed(Shape::List, TABLE, &[], &mut fields()).unwrap());
    assert_eq!(out["rows"][0]["cells"], json!(["one", "[masked]", null]));
    assert_eq!(out["rows"][1]["cells"], json!(["m", "[masked]", null]));
    let out = tree(&fed(Shape::Object, FAILURE, &[], &mut fields()).unwrap());
    assert_eq!(out["message"], "withheld: it may quote a masked value");
}

#[test]
fn a_list_is_passed_on_as_it_comes() {
    let mut stream = Stream::new(Shape::List);
    let mut out = Vec::new();
    let end = LIST.find("- metadata: {}").unwrap() + 1;
    stream
        .feed(
            &bytes::Bytes::from(LIST[..end].to_owned()),
            &mut Paths::new(&["x"]),
            &mut out,
        )
        .unwrap();
    assert_eq!(out.concat(), LIST.as_bytes()[..end - 1]);
}

#[test]
fn what_is_not_of_its_shape_is_refused() {
    for (shape, body) in [
        (Shape::List, "items:\n-\n"),
        (Shape::List, "items:\n- a\n"),
        (Shape::List, "items:\n- - a\n"),
        (Shape::List, "items:\n- a: b\n---\nb: c\n"),
        (Shape::List, "items:\n- a: b\n c: d\n"),
        (Shape::List, "items:\n- a: b\nmessage: secret\n"),
        (Shape::List, "items:\n- a: \"\n- b: c\n"),
        (Shape::List, "- a: b\n"),
        (Shape::Object, "- a: b\n"),
        (Shape::Object, "a: b\n---\nb: c\n"),
    ] {
        assert_eq!(
            fed(shape, body, &[], &mut fields()),
            Err(Malformed::Form),
            "{body}"
        );
    }
    assert_eq!(
        fed(Shape::Watch, "a: b\n", &[], &mut fields()),
        Err(Malformed::Kind)
    );
    // Even then it is known what they are.
    let mut seen = fields();
    let body = "items:\n # a comment\n- data:\n    k: c2VjcmV0\n";
    assert!(fed(Shape::List, body, &[], &mut seen).is_ok());
    assert_eq!(seen.asked, ["bytes secret"]);
    // Whoever writes items otherwise has them looked at all the same.
    for body in [
        "items:\n # a comment\n- data:\n    k: secret\n",
        "items:\n  - data:\n      k: secret\n",
        "\"items\":\n- data:\n    k: secret\n",
        "{items: [{data: {k: secret}}]}\n",
    ] {
        let out = fed(Shape::List, body, &[], &mut fields());
        assert!(out.is_ok_and(|out| !out.contains("secret")), "{body}");
    }
}

proptest! {
    #[test]
    fn what_is_json_is_yaml(keys in prop::collection::vec(".{0,6}", 1..5), texts in prop::collection::vec(".{0,20}", 5)) {
        let members: serde_json::Map<String, Tree> = keys.into_iter().zip(texts.into_iter().map(Tree::from)).collect();
        let text = json!({"data": members, "z": [1, {}]}).to_string();
        let mut out = Vec::new();
        let of_json = json::object(text.as_bytes(), None, &mut Paths::new(&["data.*"]), &mut out).map(|_| out);
        let mut out = Vec::new();
        // Line breaks of YAML 1.1 are in quotes here. What is refused is refused; what is read is read in the same way.
        if object(text.as_bytes(), None, &mut Paths::new(&["data.*"]), &mut out).is_ok() {
            prop_assert_eq!(Ok(out), of_json);
        }
    }

    #[test]
    fn pieces_of_any_size_give_the_same(
        number in 0..4_usize,
        cuts in prop::collection::vec(0..700_usize, 0..12),
        junk in prop::option::of((0..700_usize, "[-:#'\"\\[{} \n|>&*!x]")),
    ) {
        let mut body = [LIST, TABLE, FAILURE, EMPTY][number].to_owned();
        if let Some((at, junk)) = junk
            && at < body.len()
        {
            body.replace_range(at..=at, &junk);
        }
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < body.len()).collect();
        cuts.sort_unstable();
        prop_assert_eq!(fed(Shape::List, &body, &cuts, &mut fields()), fed(Shape::List, &body, &[], &mut fields()));
    }
}
