use serde_json::json;

use super::*;

fn pod() -> Option<Type> {
    lookup("v1", "Pod")
}

#[test]
fn what_can_be_read_in_one_way_alone_is_read() {
    for (format, text, of, value) in [
        (
            Format::Json,
            r#"{"kind":"Pod","apiVersion":"v1","spec":{"a":[1,2.5,-3,true,null,"x"],"b":{},"c":[]}}"#,
            pod(),
            json!({"kind": "Pod", "apiVersion": "v1", "spec": {"a": [1, 2.5, -3, true, null, "x"], "b": {}, "c": []}}),
        ),
        (
            Format::Json,
            r#"{"spec":{"n":18446744073709551615}}"#,
            pod(),
            json!({"spec": {"n": u64::MAX}}),
        ),
        (
            Format::Json,
            r#"{"kind":"Any","apiVersion":"x/v1"}"#,
            None,
            json!({"kind": "Any", "apiVersion": "x/v1"}),
        ),
        (
            Format::Json,
            r#"[{"op":"remove","path":"/a"}]"#,
            None,
            json!([{"op": "remove", "path": "/a"}]),
        ),
        (
            Format::Yaml,
            "spec:\n  host: 10.0.0.1\n  port: 80\n  size: 1Gi\n  yes: on\n  hex: '0x10'\n  block: |\n    0x10\n  map: 80:8080\n",
            None,
            json!({"spec": {
                "host": "10.0.0.1", "port": 80, "size": "1Gi", "true": true, "hex": "0x10", "block": "0x10\n", "map": "80:8080",
            }}),
        ),
        (Format::Cbor, "\u{2}", None, json!(2)),
    ] {
        assert_eq!(read(format, of, text.as_bytes()).unwrap(), value, "{text}");
    }
    // Texts are byte strings where the server writes them.
    assert_eq!(
        read(Format::Cbor, None, b"\xa1\x41a\x41b").unwrap(),
        json!({"a": "b"})
    );
}

#[test]
fn what_others_may_read_otherwise_is_not() {
    for (format, text, of) in [
        // Twice, also by an escape.
        (Format::Json, &br#"{"a":1,"a":2}"#[..], None),
        (Format::Json, br#"{"a":1,"\u0061":2}"#, None),
        (Format::Yaml, b"a: 1\na: 2\n", None),
        (Format::Yaml, b"a: 1\n\"a\": 2\n", None),
        (Format::Cbor, b"\xa2\x61a\x01\x61a\x02", None),
        (Format::Cbor, b"\xa2\x61a\x01\x41a\x02", None),
        // More after it.
        (Format::Json, b"{}{}", None),
        (Format::Cbor, b"\xa0\xa0", None),
        (Format::Yaml, b"a: 1\n---\nb: 1\n", None),
        // Another kind, or one that readers differ about.
        (
            Format::Json,
            br#"{"kind":"Deployment","apiVersion":"apps/v1"}"#,
            pod(),
        ),
        (Format::Json, br#"{"kind":"PodList","apiVersion":"v1"}"#, pod()),
        (Format::Json, br#"{"kind":"Pod"}"#, pod()),
        (Format::Json, br#"{"KIND":"Pod"}"#, pod()),
        (Format::Json, br#"{"ApiVersion":"v1"}"#, None),
        ("\u{212a}ind", pod()).into_json(),
        ("apiVer\u{17f}ion", None).into_json(),
        (Format::Json, br#"{"kind":7}"#, None),
        // Of YAML what 1.1 and 1.2 differ about, and what needs a second look.
        (Format::Yaml, b"a: 0x10\n", None),
        (Format::Yaml, b"a: 010\n", None),
        (Format::Yaml, b"a: +1\n", None),
        (Format::Yaml, b"a: 1_000\n", None),
        (Format::Yaml, b"a: .5\n", None),
        (Format::Yaml, b"a: 2026-01-01\n", None),
        (Format::Yaml, b"0x10: a\n", None),
        (Format::Yaml, b"a: &x b\nc: *x\n", None),
        (Format::Yaml, b"<<: {a: 1}\n", None),
        (Format::Yaml, b"a: !!binary aGk=\n", None),
        // Bytes of which the field's type makes a text.
        (Format::Cbor, b"\xa1\x61a\xd6\x41b", None),
        (Format::Cbor, b"\xa1\x61a\xd7\x41\xad", None),
        (Format::Json, b"\xff", None),
        (Format::Json, br#"{"a":1e999}"#, None),
    ] {
        assert!(
            read(format, of, text).is_err(),
            "{}",
            String::from_utf8_lossy(text)
        );
    }
}

trait IntoJson {
    fn into_json(self) -> (Format, &'static [u8], Option<Type>);
}

impl IntoJson for (&str, Option<Type>) {
    fn into_json(self) -> (Format, &'static [u8], Option<Type>) {
        let text = format!("{{\"{}\":\"v1\"}}", self.0);
        (Format::Json, text.into_bytes().leak(), self.1)
    }
}

#[test]
fn there_is_an_end_to_it() {
    let many = format!("[{}0]", "0,".repeat(MAX_VALUES));
    assert_eq!(read(Format::Json, None, many.as_bytes()), Err(Malformed::Long));
    let fits = format!("[{}0]", "0,".repeat(MAX_VALUES - 2));
    assert!(read(Format::Json, None, fits.as_bytes()).is_ok());
    let deep = "[".repeat(100_000);
    assert_eq!(read(Format::Json, None, deep.as_bytes()), Err(Malformed::Deep));
    let deep = vec![0x81; 100_000];
    assert_eq!(read(Format::Cbor, None, &deep), Err(Malformed::Deep));
}
