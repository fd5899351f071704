//! From what schemars makes of a type to what the API server takes: a structural schema.
//!
//! No references, a type at each node, enums as lists of words. A field that may be left out isn't nullable: who writes `tls:`
//! with nothing behind it is told.
//! Source: `k8s.io/apiextensions-apiserver/pkg/apiserver/schema`, `ValidateStructural`.

use serde_json::{Map, Value, json};

use super::SchemaError;

type Object = Map<String, Value>;

/// The schema of the type of this name.
pub(super) fn of(name: &str, types: &Object) -> Result<Value, SchemaError> {
    let inliner = Inliner { types };
    let mut schema = Value::Object(inliner.named(name, name)?);
    tell(&mut schema);
    Ok(schema)
}

/// Puts what words mean behind what is said of the field that holds them.
fn tell(schema: &mut Value) {
    match schema {
        Value::Object(node) => {
            if let Some(Value::String(told)) = node.remove(TOLD) {
                let about = node.get("description").and_then(Value::as_str);
                let whole = about.map_or_else(|| told.clone(), |about| format!("{about} {told}"));
                node.insert("description".to_owned(), json!(whole));
            }
            node.values_mut().for_each(tell);
        }
        Value::Array(items) => items.iter_mut().for_each(tell),
        _ => {}
    }
}

struct Inliner<'a> {
    types: &'a Object,
}

impl Inliner<'_> {
    fn named(&self, name: &str, place: &str) -> Result<Object, SchemaError> {
        let schema = self
            .types
            .get(name)
            .ok_or_else(|| unforeseen(place, "a type that nothing is known of"))?;
        self.node(schema, place)
    }

    fn node(&self, schema: &Value, place: &str) -> Result<Object, SchemaError> {
        let Value::Object(given) = schema else {
            return Err(unforeseen(place, "a schema that says nothing"));
        };
        let mut node = given.clone();
        if let Some(reference) = node.remove("$ref") {
            let name = reference
                .as_str()
                .and_then(|reference| reference.strip_prefix("#/$defs/"));
            let name = name.ok_or_else(|| unforeseen(place, "a reference to elsewhere"))?;
            return Ok(laid_over(self.named(name, place)?, node));
        }
        if let Some(one_of) = node.remove("oneOf") {
            return Ok(laid_over(self.choice(&one_of, place)?, node));
        }
        if let Some(any_of) = node.remove("anyOf") {
            return match any_of.as_array().map(Vec::as_slice) {
                Some([inner, null]) if null.get("type") == Some(&json!("null")) => {
                    Ok(laid_over(self.node(inner, place)?, node))
                }
                _ => Err(unforeseen(place, "several types")),
            };
        }
        if let Some(word) = node.remove("const") {
            node.insert("type".to_owned(), json!("string"));
            node.insert("enum".to_owned(), json!([word]));
        }
        if let Some(Value::Array(types)) = node.get("type") {
            match types.as_slice() {
                [one, null] if null == "null" => {
                    let one = one.clone();
                    node.insert("type".to_owned(), one);
                }
                _ => return Err(unforeseen(place, "several types")),
            }
        }
        let is_either = node.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
        if !is_either && !node.get("type").is_some_and(Value::is_string) {
            return Err(unforeseen(place, "no type"));
        }
        self.inner(node, place)
    }

    /// What lies in a node whose type is known.
    fn inner(&self, mut node: Object, place: &str) -> Result<Object, SchemaError> {
        node.remove("title");
        // Numbers without a sign have no format there; how small they may be is said beside it.
        match node.get("format").and_then(Value::as_str) {
            Some("uint8" | "uint16") => drop(node.insert("format".to_owned(), json!("int32"))),
            Some("uint32" | "uint64") => drop(node.insert("format".to_owned(), json!("int64"))),
            _ => {}
        }
        // Words are told, since columns show them. What else is left out stays away.
        if node.get("default").is_some_and(|value| !value.is_string()) {
            node.remove("default");
        }
        // Unknown fields are dropped by the API server, or refused, as the client asks for.
        if node.get("additionalProperties") == Some(&Value::Bool(false)) {
            node.remove("additionalProperties");
        }
        for key in ["items", "additionalProperties"] {
            if let Some(inner) = node.get(key) {
                let inner = self.node(inner, &format!("{place}.{key}"))?;
                node.insert(key.to_owned(), Value::Object(inner));
            }
        }
        if let Some(Value::Object(properties)) = node.get_mut("properties") {
            for (name, property) in properties {
                *property = Value::Object(self.node(property, &format!("{place}.{name}"))?);
            }
        }
        if let Some(Value::String(description)) = node.get_mut("description") {
            *description = one_line(description);
        }
        Ok(node)
    }

    /// One of several words, or a word or an object.
    fn choice(&self, one_of: &Value, place: &str) -> Result<Object, SchemaError> {
        let mut words = Words::default();
        let mut objects = Vec::new();
        for alternative in one_of.as_array().into_iter().flatten() {
            let node = self.node(alternative, place)?;
            if let Some(Value::Array(these)) = node.get("enum") {
                words.add(these, &node);
            } else if node.get("type") == Some(&json!("object"))
                && !node.contains_key("x-kubernetes-validations")
            {
                objects.push(node);
            } else {
                return Err(unforeseen(
                    place,
                    "a choice of something else than words and plain objects",
                ));
            }
        }
        let mut node = Object::new();
        if !words.told.is_empty() {
            node.insert(TOLD.to_owned(), json!(words.told.join(" ")));
        }
        if objects.is_empty() {
            node.insert("type".to_owned(), json!("string"));
            node.insert("enum".to_owned(), json!(words.words));
        } else {
            either(&mut node, &words.words, &objects);
        }
        Ok(node)
    }
}

/// The words that may be written, and what each means.
#[derive(Default)]
struct Words {
    words: Vec<Value>,
    told: Vec<String>,
}

impl Words {
    fn add(&mut self, words: &[Value], of: &Object) {
        self.words.extend_from_slice(words);
        let text = |key: &str| of.get(key).and_then(Value::as_str);
        match (words, text("description"), text(TOLD)) {
            (_, _, Some(told)) => self.told.push(told.to_owned()),
            ([Value::String(word)], Some(about), None) => self.told.push(format!("`{word}`: {about}")),
            _ => {}
        }
    }
}

/// Where the meanings of words are kept until they follow the description of the field.
const TOLD: &str = "x-told";

/// No structural schema has two types. So any value is taken, and then held against what it may be.
fn either(node: &mut Object, words: &[Value], objects: &[Object]) {
    let mut properties = Object::new();
    let mut any_of = vec![json!({ "enum": words })];
    for object in objects {
        let mut alternative = Object::new();
        for bound in ["required", "minProperties"] {
            if let Some(value) = object.get(bound) {
                alternative.insert(bound.to_owned(), value.clone());
            }
        }
        let own = object.get("properties").and_then(Value::as_object);
        alternative.insert("maxProperties".to_owned(), json!(own.map_or(0, Map::len)));
        // The type can't be said in here. These hold for nothing but objects: what isn't of a type passes the others' bounds.
        for (bound, value) in [
            ("minLength", 1),
            ("maxLength", 0),
            ("minimum", 1),
            ("maximum", 0),
            ("minItems", 1),
            ("maxItems", 0),
        ] {
            alternative.insert(bound.to_owned(), json!(value));
        }
        any_of.push(Value::Object(alternative));
        for (name, property) in own.into_iter().flatten() {
            let mut property = property.clone();
            if let (Value::Object(property), Some(about)) = (&mut property, object.get("description"))
                && !property.contains_key("description")
            {
                property.insert("description".to_owned(), about.clone());
            }
            properties.insert(name.clone(), property);
        }
    }
    node.insert("x-kubernetes-preserve-unknown-fields".to_owned(), json!(true));
    node.insert("properties".to_owned(), Value::Object(properties));
    node.insert("anyOf".to_owned(), json!(any_of));
}

/// A type with what is said of it at one place, which goes before what is said everywhere.
fn laid_over(mut node: Object, over: Object) -> Object {
    for (key, value) in over {
        if key != "title" && (key != "default" || value.is_string()) {
            node.insert(key, value);
        }
    }
    if let Some(Value::String(description)) = node.get_mut("description") {
        *description = one_line(description);
    }
    node
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn unforeseen(place: &str, what: &'static str) -> SchemaError {
    SchemaError::Unforeseen {
        place: place.to_owned(),
        what,
    }
}
