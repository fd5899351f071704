//! What masks hide in an object as it is.

use std::collections::HashMap;
use std::sync::Arc;

use bailiff_policy::{FieldMasks, FieldPlace};
use bailiff_wire::kubernetes::schema::Type;
use bailiff_wire::kubernetes::{Fields, Format, LAST_APPLIED, Replacement, Value, object};

use super::bytes_of;
use crate::mask::masked;

/// So many places of one object are remembered.
const MAX_PLACES: usize = 500_000;

/// An object as it is, as far as it's masked.
pub(in super::super) struct Originals {
    nodes: Vec<Node>,
    pub(super) uid: Option<String>,
    pub(super) resource_version: Option<String>,
    overfull: bool,
}

#[derive(Default)]
pub(super) struct Node {
    pub(super) members: HashMap<Box<str>, u32>,
    pub(super) named: HashMap<Box<str>, u32>,
    pub(super) numbered: HashMap<usize, u32>,
    /// How many elements it has, where it's a list.
    pub(super) length: usize,
    pub(super) value: Option<Hidden>,
    /// Several have this place.
    pub(super) ambiguous: bool,
}

/// A value and what stands in its place.
pub(super) struct Hidden {
    pub(super) original: Box<[u8]>,
    pub(super) shown: Replacement,
}

/// Where the walk is in the object's own structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Root,
    Metadata,
    Uid,
    ResourceVersion,
    Annotations,
    /// The annotation in which the object is once more: what is in that is looked at by itself.
    Applied,
    Other,
}

impl Role {
    pub(super) fn member(self, key: &str) -> Self {
        match (self, key) {
            (Self::Root, "metadata") => Self::Metadata,
            (Self::Metadata, "uid") => Self::Uid,
            (Self::Metadata, "resourceVersion") => Self::ResourceVersion,
            (Self::Metadata, "annotations") => Self::Annotations,
            (Self::Annotations, LAST_APPLIED) => Self::Applied,
            _ => Self::Other,
        }
    }
}

/// The object itself, and the one that it was last applied as.
pub(super) const OBJECT: u32 = 0;
pub(super) const APPLIED: u32 = 1;

impl Originals {
    /// What a JSON object hides by masks. `None` where it can't be told.
    pub(in super::super) fn of(body: &[u8], masks: &Arc<FieldMasks>) -> Option<Self> {
        let mut reader = Reader {
            masks: Arc::clone(masks),
            root: masks.root(None, None),
            originals: Self {
                nodes: vec![Node::default(), Node::default()],
                uid: None,
                resource_version: None,
                overfull: false,
            },
        };
        object(Format::Json, None, body, &mut reader, &mut Vec::new()).ok()?;
        let originals = reader.originals;
        (!originals.overfull && originals.uid.is_some() && originals.resource_version.is_some())
            .then_some(originals)
    }

    pub(super) fn node(&self, at: u32) -> Option<&Node> {
        self.nodes.get(at as usize)
    }
}

/// Remembers what is masked in an object.
struct Reader {
    masks: Arc<FieldMasks>,
    root: FieldPlace,
    originals: Originals,
}

#[derive(Clone, Copy)]
struct Read {
    node: u32,
    place: FieldPlace,
    role: Role,
}

impl Reader {
    fn step(&mut self, parent: u32, step: Step<'_>) -> u32 {
        let next = self.originals.nodes.len() as u32;
        let Some(node) = self.originals.nodes.get_mut(parent as usize) else {
            return parent;
        };
        let known = match step {
            Step::Member(key) => *node.members.entry(key.into()).or_insert(next),
            Step::Named(name) => *node.named.entry(name.into()).or_insert(next),
            Step::Numbered(index) => *node.numbered.entry(index).or_insert(next),
        };
        if known != next {
            // A name twice in one list: which of them is meant can't be told.
            if let Some(node) = self.originals.nodes.get_mut(known as usize) {
                node.ambiguous |= matches!(step, Step::Named(_));
            }
            return known;
        }
        if self.originals.nodes.len() >= MAX_PLACES {
            self.originals.overfull = true;
            return parent;
        }
        self.originals.nodes.push(Node::default());
        next
    }
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Member(&'a str),
    Named(&'a str),
    Numbered(usize),
}

impl Fields for Reader {
    type At = Read;
    const NAMED: bool = true;

    fn object(&mut self, namespace: Option<&str>, name: Option<&str>) -> Read {
        self.root = self.masks.root(namespace, name);
        Read {
            node: OBJECT,
            place: self.root,
            role: Role::Root,
        }
    }

    fn applied(&mut self, _: Read) -> Read {
        Read {
            node: APPLIED,
            place: self.root,
            role: Role::Other,
        }
    }

    fn member(&mut self, at: Read, key: &str) -> Read {
        let place = self.masks.member(at.place, key);
        let role = at.role.member(key);
        if role == Role::Other && self.masks.passes(place) {
            return Read { place, role, ..at };
        }
        let node = self.step(at.node, Step::Member(key));
        Read { node, place, role }
    }

    fn element(&mut self, at: Read, index: usize, name: Option<&str>) -> Read {
        if let Some(node) = self.originals.nodes.get_mut(at.node as usize) {
            node.length = node.length.max(index + 1);
        }
        let step = name.map_or(Step::Numbered(index), Step::Named);
        let node = self.step(at.node, step);
        Read {
            node,
            role: Role::Other,
            ..at
        }
    }

    fn unnamed(&mut self, at: Read, of: Type) -> bool {
        self.masks.unnamed(at.place, |name| !of.member(name).is_unknown())
    }

    fn passes(&self, at: Read) -> bool {
        at.role == Role::Other && self.masks.passes(at.place)
    }

    fn replace(&mut self, at: Read, value: Value<'_>) -> Option<Replacement> {
        let text = |value: Value<'_>| match value {
            Value::Text(text) => Some(text.to_owned()),
            Value::Bytes(_) | Value::Scalar(_) => None,
        };
        match at.role {
            Role::Uid => self.originals.uid = text(value),
            Role::ResourceVersion => self.originals.resource_version = text(value),
            _ => {
                let shown = masked(&self.masks.treatment(at.place), value)?;
                let hidden = Hidden {
                    original: bytes_of(value).into(),
                    shown,
                };
                let node = self.originals.nodes.get_mut(at.node as usize)?;
                node.ambiguous |= node.value.is_some();
                node.value = Some(hidden);
            }
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
