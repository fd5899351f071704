//! What expressions look at.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use bailiff_model::{ApiRequest, ApiSubject, ApiVerb};
use cel::objects::{Key, Map};
use cel::{Context, Value};
use serde_json::Value as Json;

use crate::api::body::{ApiBody, BodyForm};

/// Members of `request`. One that isn't told isn't there.
pub(super) const REQUEST: [&str; 13] = [
    "verb",
    "group",
    "version",
    "resource",
    "subresource",
    "namespace",
    "name",
    "path",
    "dryRun",
    "patchType",
    "token",
    "user",
    "groups",
];

/// A text counts as a value for so many bytes.
const BYTES_OF_A_VALUE: usize = 64;

/// Variables with their values.
pub(crate) struct Bound {
    pub(super) context: Context<'static, 'static>,
    /// How many values there are.
    pub(super) size: u64,
}

/// Bodies hold secrets, which never print.
impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound")
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl Bound {
    /// Of a request with this body, and what that says.
    pub(crate) fn of(request: &ApiRequest, body: &ApiBody, object: Option<(BodyForm, &Json)>) -> Self {
        let mut size = REQUEST.len() as u64;
        let told = object.map_or(Value::Null, |(_, json)| value(json, &mut size));
        let form = object.map_or("", |(form, _)| form.as_str());
        let mut context = Context::default();
        context.add_variable_from_value("object", told);
        context.add_variable_from_value("request", request_of(request, body, form));
        Self { context, size }
    }
}

fn request_of(request: &ApiRequest, body: &ApiBody, form: &str) -> Value {
    let mut members: HashMap<Key, Value> = HashMap::new();
    let mut add = |name: &str, value: Value| {
        members.insert(Key::String(Arc::new(name.to_owned())), value);
    };
    add("verb", text(request.verb.as_str()));
    add("token", text(request.token.as_str()));
    add("patchType", text(form));
    if let Some(dry_run) = body.dry_run(request) {
        add("dryRun", Value::Bool(dry_run));
    }
    if let Some(identity) = &request.identity {
        add("user", text(&identity.user));
        let groups = identity.groups.iter().map(|group| text(group));
        add("groups", Value::List(Arc::new(groups.collect())));
    }
    match &request.subject {
        ApiSubject::Unknown => {}
        ApiSubject::Path(path) => add("path", text(path)),
        ApiSubject::Resource(resource) => {
            add("group", text(&resource.group));
            add("version", text(&resource.version));
            add("resource", text(&resource.resource));
            add(
                "subresource",
                text(resource.subresource.as_deref().unwrap_or_default()),
            );
            let name = resource.name.as_deref().or_else(|| body.created_name(request));
            if let Some(name) = name.filter(|_| request.verb != ApiVerb::DeleteCollection) {
                add("name", text(name));
            }
            let many = matches!(
                request.verb,
                ApiVerb::List | ApiVerb::Watch | ApiVerb::DeleteCollection | ApiVerb::Unknown
            );
            match &resource.namespace {
                Some(namespace) => add("namespace", text(namespace)),
                // Of all of them, or none.
                None if many && resource.name.is_none() => {}
                None => add("namespace", text("")),
            }
        }
    }
    Value::Map(Map {
        map: Arc::new(members),
    })
}

fn text(text: &str) -> Value {
    Value::String(Arc::new(text.to_owned()))
}

/// Numbers are whole where JSON has them so.
fn value(json: &Json, size: &mut u64) -> Value {
    *size += 1;
    match json {
        Json::Null => Value::Null,
        Json::Bool(bool) => Value::Bool(*bool),
        Json::Number(number) => {
            if let Some(number) = number.as_i64() {
                Value::Int(number)
            } else if let Some(number) = number.as_u64() {
                Value::UInt(number)
            } else {
                number.as_f64().map_or(Value::Null, Value::Float)
            }
        }
        Json::String(string) => {
            *size += (string.len() / BYTES_OF_A_VALUE) as u64;
            text(string)
        }
        Json::Array(elements) => Value::List(Arc::new(
            elements.iter().map(|element| value(element, size)).collect(),
        )),
        Json::Object(members) => {
            let members = members.iter().map(|(key, member)| {
                *size += (key.len() / BYTES_OF_A_VALUE) as u64;
                (Key::String(Arc::new(key.clone())), value(member, size))
            });
            Value::Map(Map {
                map: Arc::new(members.collect()),
            })
        }
    }
}
