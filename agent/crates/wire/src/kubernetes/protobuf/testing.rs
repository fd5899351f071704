//! Objects of the table's types, in protobuf and as JSON has them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value as Tree, json};

use super::PREFIX;
use super::reader::{Reader, Wire, put_delimited, put_varint, varint};
use super::scalars;
use crate::kubernetes::schema::{Single, Type, lookup};

/// The body of an object in its envelope.
pub(super) fn enclose(tree: &Tree) -> Vec<u8> {
    let [version, kind] = ["apiVersion", "kind"].map(|name| tree[name].as_str().unwrap());
    let raw = encode(tree, lookup(version, kind).unwrap());
    enclose_raw(version, kind, &raw)
}

pub(super) fn enclose_raw(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let (mut meta, mut body) = (Vec::new(), PREFIX.to_vec());
    put_delimited(&mut meta, 1, version.as_bytes());
    put_delimited(&mut meta, 2, kind.as_bytes());
    put_delimited(&mut body, 1, &meta);
    put_delimited(&mut body, 2, raw);
    body.extend([0x1a, 0, 0x22, 0]);
    body
}

/// What a decoder makes of a body.
pub(super) fn disclose(body: &[u8]) -> Tree {
    let [mut version, mut kind] = ["", ""];
    let mut raw = 0..0;
    let mut reader = Reader::new(body, PREFIX.len()..body.len());
    while let Some(part) = reader.next().unwrap() {
        if part.number == 1 {
            let mut reader = Reader::new(body, part.content.clone());
            while let Some(part) = reader.next().unwrap() {
                let text = std::str::from_utf8(&body[part.content]).unwrap();
                *[&mut version, &mut kind][part.number as usize - 1] = text;
            }
        } else if part.number == 2 {
            raw = part.content;
        }
    }
    let mut tree = decode(&body[raw], lookup(version, kind).unwrap());
    tree["apiVersion"] = version.into();
    tree["kind"] = kind.into();
    tree
}

/// A message as JSON has it.
pub(super) fn encode(tree: &Tree, of: Type) -> Vec<u8> {
    let mut out = Vec::new();
    for field in of.fields() {
        let here = match field.name {
            "" => Some(tree),
            name => tree.get(name),
        };
        let Some(tree) = here.filter(|tree| !field.name.is_empty() || shows(tree, field.holds)) else {
            continue;
        };
        if field.holds.is_list() {
            for tree in tree.as_array().unwrap() {
                value(
                    &mut out,
                    field.number,
                    tree,
                    field.holds.single(),
                    field.holds.element(),
                );
            }
        } else if field.holds.is_map() {
            for (key, tree) in tree.as_object().unwrap() {
                let mut entry = Vec::new();
                put_delimited(&mut entry, 1, key.as_bytes());
                value(&mut entry, 2, tree, field.holds.single(), field.holds.member(key));
                put_delimited(&mut out, field.number, &entry);
            }
        } else {
            value(&mut out, field.number, tree, field.holds.single(), field.holds);
        }
    }
    out
}

/// Whether a field without a name is what JSON has in its message's place.
fn shows(tree: &Tree, of: Type) -> bool {
    match of.single() {
        _ if of.is_list() => tree.is_array(),
        Single::Bool => tree.is_boolean(),
        _ => tree.is_object(),
    }
}

fn value(out: &mut Vec<u8>, number: u32, tree: &Tree, single: Single, of: Type) {
    let key = u64::from(number) << 3;
    let content = match single {
        Single::Int | Single::Bool => {
            put_varint(out, key);
            let number = tree.as_i64().unwrap_or(i64::from(tree == &Tree::Bool(true)));
            return put_varint(out, number.cast_unsigned());
        }
        Single::Double => {
            put_varint(out, key | 1);
            return out.extend(tree.as_f64().unwrap().to_le_bytes());
        }
        Single::Text => tree.as_str().unwrap().as_bytes().to_vec(),
        Single::Bytes => STANDARD.decode(tree.as_str().unwrap()).unwrap(),
        Single::Raw | Single::Json => {
            let raw = match tree.get("kind") {
                Some(_) => enclose(tree),
                None => tree.to_string().into_bytes(),
            };
            let mut message = Vec::new();
            put_delimited(&mut message, 1, &raw);
            message
        }
        Single::Message(_) => encode(tree, of),
        Single::Duration => vec![0x08, 1],
        single => {
            let shown = tree.as_str().map_or_else(|| tree.to_string(), str::to_owned);
            scalars::hide(single, Some(&shown), tree.is_string()).unwrap()
        }
    };
    put_delimited(out, number, &content);
}

/// What a decoder makes of a message.
pub(super) fn decode(bytes: &[u8], of: Type) -> Tree {
    let mut tree = Tree::Object(Map::new());
    let mut reader = Reader::new(bytes, 0..bytes.len());
    while let Some(part) = reader.next().unwrap() {
        let Some(field) = of.field(part.number) else {
            continue;
        };
        let content = &bytes[part.content.clone()];
        if field.holds.is_map() {
            let mut entry = Reader::new(content, 0..content.len());
            let (mut key, mut value) = (String::new(), Tree::Null);
            while let Some(part) = entry.next().unwrap() {
                let content = &content[part.content];
                match part.number {
                    1 => key = String::from_utf8(content.to_vec()).unwrap(),
                    _ => value = value_of(content, part.wire, field.holds.single(), field.holds.member(&key)),
                }
            }
            tree[field.name][key] = value;
            continue;
        }
        let single = field.holds.single();
        let value = if field.holds.is_list() {
            let element = value_of(content, part.wire, single, field.holds.element());
            let slot = match field.name {
                "" => &mut tree,
                name => &mut tree[name],
            };
            if !slot.is_array() {
                *slot = json!([]);
            }
            slot.as_array_mut().unwrap().push(element);
            continue;
        } else {
            value_of(content, part.wire, single, field.holds)
        };
        match (field.name, value) {
            ("", Tree::Object(inner)) => tree.as_object_mut().unwrap().extend(inner),
            ("", value) => tree = value,
            (name, value) => tree[name] = value,
        }
    }
    tree
}

fn value_of(content: &[u8], wire: Wire, single: Single, of: Type) -> Tree {
    let text = || String::from_utf8(content.to_vec()).unwrap();
    match single {
        Single::Int => varint(content).unwrap().unwrap().0.cast_signed().into(),
        Single::Bool => (content != [0]).into(),
        Single::Double => f64::from_le_bytes(content.try_into().unwrap()).into(),
        Single::Text => text().into(),
        Single::Bytes => STANDARD.encode(content).into(),
        Single::Raw | Single::Json => {
            let raw = content.get(2..).map_or(content, |_| {
                let mut reader = Reader::new(content, 0..content.len());
                let part = reader.next().unwrap().unwrap();
                &content[part.content]
            });
            if raw.starts_with(PREFIX) {
                disclose(raw)
            } else {
                serde_json::from_slice(raw).unwrap()
            }
        }
        Single::Message(_) => decode(content, of),
        Single::Unknown => panic!("{wire:?}"),
        single => {
            let mut field = Vec::new();
            put_delimited(&mut field, 1, content);
            let part = Reader::new(&field, 0..field.len()).next().unwrap().unwrap();
            match scalars::show(single, &field, &part).unwrap() {
                Some(scalars::Shown::Scalar(shown)) if single == Single::IntOrString => {
                    shown.parse::<i64>().unwrap().into()
                }
                Some(scalars::Shown::Scalar(shown) | scalars::Shown::Text(shown)) => shown.into(),
                None => "".into(),
            }
        }
    }
}

/// Objects by chance: the same for the same seed.
pub(super) struct Chance {
    state: u64,
    /// So many values at most, but for those that a list or a map begins with.
    left: usize,
}

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            state: seed,
            left: 300,
        }
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        // Knuth's multiplier, of which the upper bits are by chance.
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % end
    }

    /// An object of this kind. Each of its values is one that nothing else has.
    pub(super) fn object(&mut self, version: &str, kind: &str) -> Tree {
        let mut tree = self.message(lookup(version, kind).unwrap(), 0);
        tree["apiVersion"] = version.into();
        tree["kind"] = kind.into();
        tree
    }

    fn message(&mut self, of: Type, depth: u64) -> Tree {
        let mut tree = Tree::Object(Map::new());
        let several = of.fields().iter().filter(|field| field.name.is_empty()).count() > 1;
        let chosen = self.below(of.fields().len().max(1) as u64) as usize;
        for (index, field) in of.fields().iter().enumerate() {
            // Of a choice, one.
            if self.left == 0 && !field.name.is_empty()
                || several && index != chosen
                || !field.name.is_empty() && self.below(2 + depth) > 1
            {
                continue;
            }
            let value = if field.holds.is_list() {
                let count = 1 + self.below(3);
                (0..count)
                    .map(|_| self.value(field.holds.single(), field.holds.element(), depth))
                    .collect()
            } else if field.holds.is_map() {
                let mut map = Map::new();
                for _ in 0..=self.below(3) {
                    let key = format!("k{}", self.below(1000));
                    let value = self.value(field.holds.single(), field.holds.member(&key), depth);
                    map.insert(key, value);
                }
                Tree::Object(map)
            } else {
                self.value(field.holds.single(), field.holds, depth)
            };
            match (field.name, value) {
                ("", Tree::Object(inner)) => tree.as_object_mut().unwrap().extend(inner),
                ("", value) => return value,
                (name, value) => tree[name] = value,
            }
        }
        tree
    }

    fn value(&mut self, single: Single, of: Type, depth: u64) -> Tree {
        self.left = self.left.saturating_sub(1);
        let number = self.below(1 << 31);
        match single {
            Single::Int => (number as i64 - (1 << 20)).into(),
            Single::Bool => true.into(),
            Single::Double => (number as f64 / 4.0).into(),
            Single::Text => format!("secret-{number}").into(),
            Single::Bytes => STANDARD.encode(format!("secret-{number}")).into(),
            Single::Quantity => format!("{number}Mi").into(),
            Single::Time => time(number, ""),
            Single::MicroTime => time(number, ".000000"),
            Single::Duration => "1ns".into(),
            Single::IntOrString if number.is_multiple_of(2) => number.into(),
            Single::IntOrString => format!("secret-{number}").into(),
            Single::Raw | Single::Json => json!({"inner": {"deep": format!("secret-{number}")}}),
            Single::Message(_) if depth < 12 => self.message(of, depth + 1),
            Single::Message(_) => json!({}),
            Single::Unknown => panic!("the table has none"),
        }
    }
}

fn time(number: u64, fraction: &str) -> Tree {
    let (day, second) = (1 + number % 28, number % 60);
    format!("2026-03-{day:02}T10:20:{second:02}{fraction}Z").into()
}

/// The paths of all values of an object, with `*` for elements; and whether it is a text or bytes.
pub(super) fn paths(tree: &Tree, prefix: &str, all: &mut Vec<(String, bool)>) {
    let below = |key: &str| {
        if prefix.is_empty() {
            key.to_owned()
        } else {
            format!("{prefix}.{key}")
        }
    };
    match tree {
        Tree::Object(members) => members
            .iter()
            .for_each(|(key, tree)| paths(tree, &below(key), all)),
        Tree::Array(elements) => elements.iter().for_each(|tree| paths(tree, &below("*"), all)),
        Tree::Null => {}
        leaf => all.push((
            prefix.to_owned(),
            leaf.as_str().is_some_and(|text| text.starts_with("sec")),
        )),
    }
}
