//! Which value a mask stands for: the one in the same place of the object as it is.
//!
//! Places are told by the names of members, and elements of lists by their own `name`; by their number only where the list is as
//! long as it was.

mod originals;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bailiff_model::{ApiRequest, ApiSubject};
use bailiff_policy::{FieldMasks, FieldPlace, FieldTreatment, PLACEHOLDER};
use bailiff_wire::kubernetes::schema::Type;
use bailiff_wire::kubernetes::{Fields, Replacement, Value, protobuf};
use bytes::Bytes;
use memchr::memmem;
use serde_json::value::RawValue;

pub(super) use self::originals::Originals;
use self::originals::{APPLIED, Hidden, OBJECT, Role};
use crate::proxy::kubernetes::status::Status;

/// The placeholder as it stands in a field of bytes whose type isn't known.
const ENCODED: &[u8] = b"W21hc2tlZF0";

/// Puts what masks stand for in their place, in what a client writes.
pub(super) struct Restorer<'a> {
    masks: Arc<FieldMasks>,
    root: FieldPlace,
    /// As the request's path has them.
    namespace: Option<&'a str>,
    name: Option<&'a str>,
    originals: Option<&'a Originals>,
    /// The way to each place, for what is said of it.
    steps: Vec<(u32, Box<str>)>,
    /// Lists as long as they are written, and those of which an element was told by its number.
    lengths: BTreeMap<u32, usize>,
    by_number: HashSet<u32>,
    touches: bool,
    restored: u64,
    /// Where a placeholder is that stands for nothing: in a masked field, and elsewhere.
    unknown: Option<u32>,
    elsewhere: Option<u32>,
    uid: Option<String>,
    resource_version: Option<String>,
}

#[derive(Clone, Copy)]
pub(super) struct Written {
    /// The same place in the object as it is.
    node: Option<u32>,
    place: FieldPlace,
    role: Role,
    step: u32,
}

impl<'a> Restorer<'a> {
    /// Over an object as it is; without one nothing is restored, and only looked at.
    pub(super) fn over(
        masks: &Arc<FieldMasks>,
        asked: &'a ApiRequest,
        originals: Option<&'a Originals>,
    ) -> Self {
        let resource = match &asked.subject {
            ApiSubject::Resource(resource) => Some(resource),
            ApiSubject::Path(_) | ApiSubject::Unknown => None,
        };
        Self {
            namespace: resource.and_then(|resource| resource.namespace.as_deref()),
            name: resource.and_then(|resource| resource.name.as_deref()),
            root: masks.root(None, None),
            masks: Arc::clone(masks),
            originals,
            steps: Vec::new(),
            lengths: BTreeMap::new(),
            by_number: HashSet::new(),
            touches: false,
            restored: 0,
            unknown: None,
            elsewhere: None,
            uid: None,
            resource_version: None,
        }
    }

    /// Whether anything is written in a masked field.
    pub(super) fn touches_masked(&self) -> bool {
        self.touches
    }

    /// How many values were restored.
    pub(super) fn restored(&self) -> u64 {
        self.restored
    }

    /// Refuses placeholders that stand for nothing.
    pub(super) fn check_placeholders(&self, creates: bool) -> Result<(), Status> {
        if let Some(step) = self.elsewhere {
            return Err(Status::invalid(&format!(
                "{} holds a placeholder that stands for a masked value, and that field isn't masked: write the value itself",
                self.way(step)
            )));
        }
        let Some(step) = self.unknown else {
            return Ok(());
        };
        let why = if creates {
            "a new object has no value that it could stand for"
        } else {
            "it can't be told which value it stands for"
        };
        Err(Status::invalid(&format!(
            "{} holds a placeholder that stands for a masked value, and {why}: write the value itself, or leave the field out",
            self.way(step)
        )))
    }

    /// Elements that are told by their number count only in lists that are as long as they were.
    pub(super) fn check_lists(&self) -> Result<(), Status> {
        let moved = |list: &&u32| {
            let was = self.originals.and_then(|originals| originals.node(**list));
            was.map(|node| node.length) != self.lengths.get(list).copied()
        };
        match self.by_number.iter().find(moved) {
            None => Ok(()),
            Some(_) => Err(Status::invalid(
                "a list with masked values isn't as long as it was, and its elements have no names, so that it can't be told which value each stands for: write the values themselves",
            )),
        }
    }

    /// Whether it says of which object in which state it was made. Another one than it is now is a conflict.
    pub(super) fn is_pinned(&self, originals: &Originals) -> Result<bool, Status> {
        let differs = |told: &Option<String>, is: &Option<String>| told.is_some() && told != is;
        if differs(&self.uid, &originals.uid) || differs(&self.resource_version, &originals.resource_version)
        {
            return Err(Status::conflict(
                "the object has been changed since its masked values were read; read it again, and write what you change in that",
            ));
        }
        Ok(self.resource_version.is_some())
    }

    fn way(&self, step: u32) -> String {
        let mut parts: Vec<&str> = Vec::new();
        let mut at = step;
        while let Some((parent, name)) = at.checked_sub(1).and_then(|at| self.steps.get(at as usize)) {
            parts.push(name);
            at = *parent;
        }
        parts.reverse();
        let mut way: String = parts.concat();
        // Names come from the client, which may make them as long as it likes.
        if way.len() > 256 {
            way = way.chars().take(256).collect();
        }
        way.trim_start_matches('.').to_owned()
    }

    fn go(&mut self, from: u32, name: String) -> u32 {
        self.steps.push((from, name.into()));
        self.steps.len() as u32
    }
}

impl Fields for Restorer<'_> {
    type At = Written;
    const NAMED: bool = true;

    fn object(&mut self, namespace: Option<&str>, name: Option<&str>) -> Written {
        // In what is written they may be left out: then the path has them. The server takes nothing where the two differ.
        self.root = self.masks.root(self.namespace.or(namespace), self.name.or(name));
        Written {
            node: self.originals.map(|_| OBJECT),
            place: self.root,
            role: Role::Root,
            step: 0,
        }
    }

    fn applied(&mut self, _: Written) -> Written {
        let step = self.go(0, "what was last applied: ".to_owned());
        // Where nothing was applied yet it is made from the object as it was read.
        let applied = self.originals.and_then(|originals| originals.node(APPLIED));
        let has = applied.is_some_and(|node| !node.members.is_empty());
        Written {
            node: self.originals.map(|_| if has { APPLIED } else { OBJECT }),
            place: self.root,
            role: Role::Other,
            step,
        }
    }

    fn member(&mut self, at: Written, key: &str) -> Written {
        let known = at.node.and_then(|node| self.originals?.node(node));
        let node = known.and_then(|node| node.members.get(key).copied());
        Written {
            node,
            place: self.masks.member(at.place, key),
            role: at.role.member(key),
            step: self.go(at.step, format!(".{key}")),
        }
    }

    fn element(&mut self, at: Written, index: usize, name: Option<&str>) -> Written {
        let known = at.node.and_then(|node| self.originals?.node(node));
        let node = match (name, known) {
            (_, None) => None,
            (Some(name), Some(list)) => list.named.get(name).copied(),
            (None, Some(list)) => list.numbered.get(&index).copied(),
        };
        if let Some(list) = at.node {
            let length = self.lengths.entry(list).or_default();
            *length = (*length).max(index + 1);
            if name.is_none() && node.is_some() {
                self.by_number.insert(list);
            }
        }
        let step = self.go(
            at.step,
            name.map_or_else(|| format!("[{index}]"), |name| format!("[{name}]")),
        );
        Written {
            node,
            role: Role::Other,
            step,
            ..at
        }
    }

    fn unnamed(&mut self, at: Written, of: Type) -> bool {
        // A field that only a newer server knows isn't masked either, and nothing is restored there.
        self.masks.unnamed(at.place, |name| !of.member(name).is_unknown())
    }

    fn passes(&self, _: Written) -> bool {
        // A placeholder may be anywhere.
        false
    }

    fn replace(&mut self, at: Written, value: Value<'_>) -> Option<Replacement> {
        match (at.role, value) {
            (Role::Uid, Value::Text(text)) => self.uid = Some(text.to_owned()),
            (Role::ResourceVersion, Value::Text(text)) => self.resource_version = Some(text.to_owned()),
            _ => {}
        }
        let bytes = bytes_of(value);
        let holds = memmem::find(bytes, PLACEHOLDER).is_some() || memmem::find(bytes, ENCODED).is_some();
        if self.masks.treatment(at.place) == FieldTreatment::Pass {
            if holds && at.role != Role::Applied {
                self.elsewhere.get_or_insert(at.step);
            }
            return None;
        }
        self.touches = true;
        let node = at.node.and_then(|node| self.originals?.node(node));
        let hidden = node
            .filter(|node| !node.ambiguous)
            .and_then(|node| node.value.as_ref());
        match hidden {
            Some(hidden) if is_shown(hidden, value) => {
                self.restored += 1;
                Some(Replacement::Value(hidden.original.to_vec()))
            }
            _ => {
                // In a long list in protobuf a placeholder may be cut.
                let cut = !bytes.is_empty() && PLACEHOLDER.starts_with(bytes);
                if holds || cut {
                    self.unknown.get_or_insert(at.step);
                }
                None
            }
        }
    }

    fn hides_texts(&self) -> bool {
        false
    }

    fn hides_cells(&self) -> bool {
        false
    }
}

/// Whether a value is what stands in place of a hidden one.
fn is_shown(hidden: &Hidden, value: Value<'_>) -> bool {
    match (&hidden.shown, value) {
        (Replacement::Value(shown), Value::Text(_) | Value::Bytes(_)) => {
            let value = bytes_of(value);
            // A long list in protobuf has no room for what is longer than what it stands for: it is cut there.
            shown == value
                || !value.is_empty()
                    && shown.get(..protobuf::cut(shown, hidden.original.len())) == Some(value)
        }
        (Replacement::Empty, Value::Scalar(text)) => {
            let known = matches!(text, "0" | "false" | "1970-01-01T00:00:00Z" | "0s" | "");
            known || text.parse() == Ok(0.0)
        }
        _ => false,
    }
}

fn bytes_of(value: Value<'_>) -> &[u8] {
    match value {
        Value::Text(text) | Value::Scalar(text) => text.as_bytes(),
        Value::Bytes(bytes) => bytes,
    }
}

/// A patch as JSON with the `resourceVersion` of the object that its values were restored from. All else stays as it is.
pub(super) fn pin(patch: &[u8], originals: &Originals) -> Result<Bytes, Status> {
    type Members<'a> = BTreeMap<String, &'a RawValue>;
    let unreadable = |_| Status::bad_request("the patch can't be read");
    let mut root: Members<'_> = serde_json::from_slice(patch).map_err(unreadable)?;
    let mut metadata: Members<'_> = match root.get("metadata") {
        Some(metadata) => serde_json::from_str(metadata.get()).map_err(unreadable)?,
        None => Members::new(),
    };
    let version = serde_json::value::to_raw_value(&originals.resource_version).map_err(unreadable)?;
    metadata.insert("resourceVersion".to_owned(), &version);
    let metadata = serde_json::value::to_raw_value(&metadata).map_err(unreadable)?;
    root.insert("metadata".to_owned(), &metadata);
    serde_json::to_vec(&root).map(Bytes::from).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shown_is_known_again_also_where_it_was_cut() {
        let hidden = |original: &[u8], shown| Hidden {
            original: original.into(),
            shown,
        };
        let short = hidden(b"abc", Replacement::Value(PLACEHOLDER.to_vec()));
        for (written, known) in [
            ("[masked]", true),
            ("[ma", true),
            ("[m", false),
            ("[mask", false),
            ("", false),
        ] {
            assert_eq!(is_shown(&short, Value::Text(written)), known, "{written}");
            assert_eq!(
                is_shown(&short, Value::Bytes(written.as_bytes())),
                known,
                "{written}"
            );
        }
        let long = hidden(b"longer than that", Replacement::Value(PLACEHOLDER.to_vec()));
        assert!(is_shown(&long, Value::Text("[masked]")));
        assert!(!is_shown(&long, Value::Text("[maske")));
        assert!(is_shown(&hidden(b"7", Replacement::Empty), Value::Scalar("0")));
    }
}
