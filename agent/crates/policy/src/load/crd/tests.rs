use std::path::Path;

use serde_json::{Map, Value};

use super::*;

/// Each node of a schema with its place, the alternatives of a choice left out: those only bound what stands beside them.
fn walk(schema: &Value, place: &str, visit: &mut dyn FnMut(&Map<String, Value>, &str)) {
    let node = schema.as_object().unwrap();
    visit(node, place);
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = node.get(key) {
            walk(inner, &format!("{place}[]"), visit);
        }
    }
    for (name, inner) in node
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        walk(inner, &format!("{place}.{name}"), visit);
    }
}

fn schemas() -> Vec<(&'static str, Value)> {
    [&TARGET, &POLICY, &REPORT]
        .into_iter()
        .map(|kind| {
            let crd = crd(kind).unwrap();
            (
                kind.kind,
                crd.pointer("/spec/versions/0/schema/openAPIV3Schema")
                    .unwrap()
                    .clone(),
            )
        })
        .collect()
}

#[test]
fn they_are_what_deploy_has() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../deploy/chart/files/crds");
    for (manifest, (_, definition)) in manifests().unwrap().iter().zip(definitions().unwrap()) {
        let there = std::fs::read_to_string(folder.join(manifest.file)).unwrap();
        assert!(
            there == manifest.yaml,
            "{}: run `cargo xtask crds`",
            manifest.file
        );
        let read: Value = serde_saphyr::from_str(&there).unwrap();
        assert!(
            read == definition,
            "{} is read as something else than was written",
            manifest.file
        );
    }
}

#[test]
fn each_node_is_structural() {
    const KNOWN: [&str; 25] = [
        "additionalProperties",
        "anyOf",
        "default",
        "description",
        "enum",
        "format",
        "items",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "pattern",
        "properties",
        "required",
        "type",
        "x-kubernetes-int-or-string",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-list-type",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-validations",
        "nullable",
    ];
    let mut nodes = 0;
    for (kind, schema) in schemas() {
        walk(&schema, kind, &mut |node, place| {
            nodes += 1;
            let of_any_type = [
                "x-kubernetes-preserve-unknown-fields",
                "x-kubernetes-int-or-string",
            ]
            .iter()
            .any(|any| node.get(*any) == Some(&Value::Bool(true)));
            let types = ["array", "boolean", "integer", "object", "string"];
            let has_type = node
                .get("type")
                .is_some_and(|one| types.iter().any(|known| one == known));
            assert!(has_type != of_any_type, "{place}: {node:?}");
            for key in node.keys() {
                assert!(KNOWN.contains(&key.as_str()), "{place} has {key}");
            }
            assert!(
                node.get("additionalProperties").is_none_or(Value::is_object),
                "{place}"
            );
            assert!(node.get("default").is_none_or(Value::is_string), "{place}");
            assert!(
                node.get("type").is_none_or(|of| of != "array") || node.contains_key("items"),
                "{place}"
            );
            let formats = ["int32", "int64", "date-time"];
            assert!(
                node.get("format")
                    .is_none_or(|format| formats.iter().any(|known| format == known)),
                "{place}: {node:?}"
            );
        });
    }
    assert!(nodes > 150, "{nodes}");
}

#[test]
fn each_field_says_what_it_is_in_plain_words() {
    for (kind, schema) in schemas() {
        walk(&schema, kind, &mut |node, place| {
            // The server has words for it.
            if place.ends_with("[]") || place.ends_with(".metadata") {
                return;
            }
            let about = node
                .get("description")
                .and_then(Value::as_str)
                .unwrap_or_default();
            assert!(about.ends_with('.') && about.len() > 5, "{place}: {about:?}");
            assert!(
                !about.contains("[`") && !about.contains("](") && !about.contains('\n'),
                "{place}: {about}"
            );
        });
    }
}

#[test]
fn limits_are_about_types_that_are_there() {
    let mut generator = SchemaGenerator::default();
    (TARGET.types)(&mut generator);
    (POLICY.types)(&mut generator);
    for name in limits::names() {
        assert!(generator.definitions().contains_key(name), "{name}");
    }
}

#[test]
fn a_limit_of_a_field_that_is_not_there_is_told() {
    let mut types = Map::new();
    types.insert("HashSpec".to_owned(), json!({ "properties": { "file": {} } }));
    let told = limits::put(&mut types).unwrap_err().to_string();
    assert_eq!(told, "HashSpec.properties.keyFile has a limit, and isn't there");
}

#[test]
fn what_no_structural_schema_says_is_told() {
    for (schema, told) in [
        (json!(true), "T: a schema that says nothing"),
        (json!({}), "T: no type"),
        (json!({ "type": ["string", "integer"] }), "T: several types"),
        (
            json!({ "$ref": "#/$defs/Gone" }),
            "T: a type that nothing is known of",
        ),
        (
            json!({ "type": "object", "properties": { "a": { "anyOf": [{ "type": "string" }] } } }),
            "T.a: several types",
        ),
        (
            json!({ "oneOf": [{ "type": "integer" }] }),
            "T: a choice of something else than words and plain objects",
        ),
    ] {
        let types = Map::from_iter([("T".to_owned(), schema)]);
        assert_eq!(structural::of("T", &types).unwrap_err().to_string(), told);
    }
}

#[test]
fn a_word_or_an_object_is_one_of_these_alone() {
    let (_, schema) = schemas().remove(1);
    let with = schema
        .pointer("/properties/spec/properties/masks/items/properties/with")
        .unwrap();
    assert_eq!(
        with.pointer("/anyOf/0/enum"),
        Some(&json!(["Redact", "Null"])),
        "{with}"
    );
    assert_eq!(
        with.pointer("/properties/KeepLast/maximum"),
        Some(&json!(16)),
        "{with}"
    );
    assert_eq!(
        with.pointer("/anyOf/1/required"),
        Some(&json!(["KeepLast"])),
        "{with}"
    );
    assert_eq!(with.pointer("/anyOf/2/maxProperties"), Some(&json!(1)), "{with}");
}
