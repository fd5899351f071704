//! A body as a value.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value as Tree};

use super::envelope::{Content, Envelope};
use super::patch::{Patch, Room};
use super::reader::Reader;
use super::walk::Walk;
use super::{MAX_OBJECT, PREFIX};
use crate::kubernetes::read::{MAX_VALUES, scalar};
use crate::kubernetes::schema::{Single, Type, lookup};
use crate::kubernetes::{Fields, MAX_DEPTH, Malformed, Replacement, Value};

/// Reads a body as JSON would have it. Fields that hold nothing may be there all the same: `false`, `0`.
///
/// # Errors
/// As [`super::body`], and when it isn't one object, is of another type than `of` or of none that is known, or has a key twice.
pub(in super::super) fn value(bytes: &[u8], of: Option<Type>) -> Result<Tree, Malformed> {
    if bytes.len() > MAX_OBJECT {
        return Err(Malformed::Long);
    }
    if !bytes.starts_with(PREFIX) {
        return Err(Malformed::Form);
    }
    let whole = PREFIX.len()..bytes.len();
    let otherwise = of.unwrap_or(Type::UNKNOWN);
    let envelope = Envelope::read(bytes, whole.clone(), otherwise)?;
    let Content::Object(is) = envelope.content else {
        return Err(Malformed::Kind);
    };
    if is.is_unknown() || of.is_some_and(|of| of != is) {
        return Err(Malformed::Kind);
    }
    let said = said(bytes, whole)?;
    // Some messages stand in the table once for several kinds.
    if let [Some(version), Some(kind)] = &said
        && lookup(version, kind) != Some(is)
    {
        return Err(Malformed::Kind);
    }
    let mut builder = Builder::new(is);
    let mut out = Vec::new();
    Walk::new(bytes, &mut builder, Patch::new(bytes, 0, Room::Any, &mut out)).body(&envelope)?;
    let mut tree = builder.finish()?;
    for (key, said) in ["apiVersion", "kind"].into_iter().zip(said) {
        if let Some(said) = said {
            tree.insert(key.to_owned(), Tree::String(said));
        }
    }
    Ok(Tree::Object(tree))
}

/// What an envelope says that it holds: a version and a kind, both or none.
fn said(bytes: &[u8], message: std::ops::Range<usize>) -> Result<[Option<String>; 2], Malformed> {
    let mut said = [None, None];
    let mut reader = Reader::new(bytes, message);
    while let Some(part) = reader.next()? {
        if part.number != 1 {
            continue;
        }
        let mut inner = Reader::new(bytes, part.content);
        while let Some(part) = inner.next()? {
            let text = bytes.get(part.content).unwrap_or_default();
            let text = std::str::from_utf8(text).map_err(|_| Malformed::Form)?;
            let slot = usize::try_from(part.number)
                .ok()
                .and_then(|number| said.get_mut(number.checked_sub(1)?))
                .ok_or(Malformed::Kind)?;
            *slot = Some(text.to_owned()).filter(|text| !text.is_empty());
        }
    }
    match said {
        [Some(_), None] | [None, Some(_)] => Err(Malformed::Kind),
        said => Ok(said),
    }
}

/// Collects the fields that a walk goes over.
struct Builder {
    nodes: Vec<Node>,
    of: Type,
    failed: Option<Malformed>,
}

#[derive(Default)]
enum Node {
    #[default]
    Nothing,
    Members(BTreeMap<String, Entry>),
    Elements(Vec<Entry>),
    Leaf(Tree),
}

#[derive(Clone, Copy)]
struct Entry {
    node: u32,
    of: Type,
}

/// A place in what is read; `None` for what isn't a part of it.
#[derive(Clone, Copy)]
struct At(Option<Entry>);

impl Builder {
    fn new(of: Type) -> Self {
        Self {
            nodes: Vec::new(),
            of,
            failed: None,
        }
    }

    fn add(&mut self, of: Type) -> Entry {
        if self.nodes.len() >= MAX_VALUES {
            self.failed.get_or_insert(Malformed::Long);
            // What is read is thrown away.
            return Entry { node: 0, of };
        }
        self.nodes.push(Node::Nothing);
        Entry {
            node: u32::try_from(self.nodes.len() - 1).unwrap_or(0),
            of,
        }
    }

    fn node(&mut self, entry: Entry) -> Option<&mut Node> {
        self.nodes.get_mut(entry.node as usize)
    }

    fn fail(&mut self) {
        self.failed.get_or_insert(Malformed::Form);
    }

    fn finish(mut self) -> Result<Map<String, Tree>, Malformed> {
        if let Some(why) = self.failed {
            return Err(why);
        }
        let root = Entry { node: 0, of: self.of };
        match self.take(root, 0)? {
            Some(Tree::Object(members)) => Ok(members),
            Some(_) => Err(Malformed::Form),
            None => Ok(Map::new()),
        }
    }

    /// What was collected there. A text that is empty isn't there in JSON.
    fn take(&mut self, at: Entry, depth: usize) -> Result<Option<Tree>, Malformed> {
        if depth > 2 * MAX_DEPTH {
            return Err(Malformed::Deep);
        }
        let node = self.node(at).map(std::mem::take).unwrap_or_default();
        Ok(match node {
            Node::Leaf(leaf) => Some(leaf),
            Node::Nothing if at.of.is_list() || at.of.is_map() => None,
            Node::Nothing => match at.of.single() {
                Single::Message(_) => Some(Tree::Object(Map::new())),
                // Null, or nothing at all.
                Single::Unknown => Some(Tree::Null),
                _ => None,
            },
            Node::Members(members) => {
                let mut all = Map::new();
                for (key, entry) in members {
                    if let Some(held) = self.take(entry, depth + 1)? {
                        all.insert(key, held);
                    } else if at.of.is_map() {
                        all.insert(key, Tree::String(String::new()));
                    }
                }
                Some(Tree::Object(all))
            }
            Node::Elements(elements) => {
                let mut all = Vec::with_capacity(elements.len());
                for entry in elements {
                    let held = self.take(entry, depth + 1)?;
                    all.push(held.unwrap_or_else(|| Tree::String(String::new())));
                }
                Some(Tree::Array(all))
            }
        })
    }
}

impl Fields for Builder {
    type At = At;

    fn object(&mut self, _: Option<&str>, _: Option<&str>) -> At {
        if !self.nodes.is_empty() {
            // An object of its own within one: what it is stands elsewhere than its fields.
            self.fail();
        }
        let of = self.of;
        At(Some(self.add(of)))
    }

    fn applied(&mut self, _: At) -> At {
        // It is a text here.
        At(None)
    }

    fn member(&mut self, at: At, key: &str) -> At {
        let Some(at) = at.0 else { return At(None) };
        let of = at.of.member(key);
        let found = match self.node(at) {
            Some(Node::Members(members)) => members.get(key).copied(),
            Some(Node::Nothing) => None,
            _ => {
                self.fail();
                return At(None);
            }
        };
        if let Some(found) = found {
            // An element of a list each; everything else is there once.
            if !of.is_list() && !of.is_map() || at.of.is_map() {
                self.fail();
            }
            return At(Some(found));
        }
        let entry = self.add(of);
        if let Some(node) = self.node(at) {
            if let Node::Nothing = node {
                *node = Node::Members(BTreeMap::new());
            }
            if let Node::Members(members) = node {
                members.insert(key.to_owned(), entry);
            }
        }
        At(Some(entry))
    }

    fn element(&mut self, at: At, index: usize, _: Option<&str>) -> At {
        let Some(at) = at.0 else { return At(None) };
        let entry = self.add(at.of.element());
        let fits = match self.node(at) {
            Some(node @ Node::Nothing) => {
                *node = Node::Elements(vec![entry]);
                index == 0
            }
            Some(Node::Elements(elements)) => {
                elements.push(entry);
                index + 1 == elements.len()
            }
            _ => false,
        };
        if !fits {
            self.fail();
        }
        At(Some(entry))
    }

    fn unnamed(&mut self, _: At, _: Type) -> bool {
        // Uncertainty denies: what only a newer server knows may be what is asked for.
        true
    }

    fn passes(&self, at: At) -> bool {
        at.0.is_none()
    }

    fn replace(&mut self, at: At, value: Value<'_>) -> Option<Replacement> {
        let entry = at.0?;
        let of = entry.of;
        let leaf = match value {
            Value::Text(text) => Ok(Tree::String(text.to_owned())),
            Value::Bytes(bytes) => Ok(Tree::String(STANDARD.encode(bytes))),
            Value::Scalar(text) if of.is_quantity() || of.is_time() || of.is_duration() => {
                Ok(Tree::String(text.to_owned()))
            }
            Value::Scalar(text) => scalar(text),
        };
        match (leaf, self.node(entry)) {
            (Ok(leaf), Some(node @ Node::Nothing)) => *node = Node::Leaf(leaf),
            _ => self.fail(),
        }
        None
    }

    fn hides_texts(&self) -> bool {
        false
    }

    fn hides_cells(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{enclose, enclose_raw};
    use super::*;

    fn pod() -> Tree {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "web", "labels": {"a": "b", "empty": ""},
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{\"spec\":{}}"},
            },
            "spec": {
                "serviceAccountName": "builder",
                "containers": [
                    {"name": "a", "image": "one", "args": ["x", ""], "resources": {"limits": {"cpu": "500m"}},
                     "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                     "livenessProbe": {"httpGet": {"port": 8080}}},
                    {"name": "b", "image": "two", "livenessProbe": {"httpGet": {"port": "web"}}, "resources": {}},
                ],
                "volumes": [{"name": "v", "secret": {"secretName": "s"}}, {"name": "e", "emptyDir": {}}],
            },
        })
    }

    #[test]
    fn it_is_what_json_would_have() {
        let bytes = enclose(&pod());
        for of in [lookup("v1", "Pod"), None] {
            assert_eq!(value(&bytes, of).unwrap(), pod());
        }
    }

    #[test]
    fn other_kinds_and_lists_are_not_read() {
        let bytes = enclose(&pod());
        assert_eq!(value(&bytes, lookup("v1", "Secret")), Err(Malformed::Kind));
        for (version, kind) in [("v1", "PodList"), ("v1", "Status"), ("x/v1", "Pod"), ("v1", "")] {
            let bytes = enclose_raw(version, kind, &[]);
            assert!(value(&bytes, lookup("v1", "Pod")).is_err(), "{version} {kind}");
            assert!(value(&bytes, None).is_err(), "{version} {kind}");
        }
        assert!(value(b"k8s", None).is_err());
        assert!(value(&enclose_raw("", "", &[]), None).is_err());
        assert_eq!(
            value(&enclose_raw("", "", &[]), lookup("v1", "Pod")),
            Ok(json!({}))
        );
    }

    #[test]
    fn what_stands_twice_is_not_read() {
        // `metadata` (1) with `labels` (11), whose key `a` leads to `b`, and to `c`.
        let label = |value: u8| [0x5a, 6, 0x0a, 1, b'a', 0x12, 1, value];
        let once = [&[0x0a, 8][..], &label(b'b')].concat();
        let twice = [&[0x0a, 16][..], &label(b'b'), &label(b'c')].concat();
        let of = lookup("v1", "Pod");
        assert_eq!(
            value(&enclose_raw("v1", "Pod", &once), of),
            Ok(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"a": "b"}}}))
        );
        assert!(value(&enclose_raw("v1", "Pod", &twice), of).is_err());
        // Metadata twice, and a field that is not known.
        assert!(value(&enclose_raw("v1", "Pod", &[once.as_slice(), &once].concat()), of).is_err());
        assert_eq!(
            value(&enclose_raw("v1", "Pod", &[0xfa, 7, 1, b'x']), of),
            Err(Malformed::Kind)
        );
    }
}
