//! The walk over a message's fields by its type.

mod inner;
mod leaf;

use std::borrow::Cow;
use std::ops::Range;

use self::inner::{Fitted, Inner};
use super::envelope::{Content, Envelope};
use super::patch::Patch;
use super::reader::{Part, Reader, Wire};
use super::{PREFIX, status};
use crate::kubernetes::schema::{Field, Single, Type};
use crate::kubernetes::{Fields, LAST_APPLIED, MAX_DEPTH, Malformed};

/// A walk over objects that lie in one source.
pub(super) struct Walk<'w, 's, F> {
    source: &'s [u8],
    fields: &'w mut F,
    patch: Patch<'w, 's>,
}

/// Where the annotation with what was applied last may be: it is looked at wherever else nothing is.
#[derive(Debug, Clone, Copy)]
enum Near<At> {
    /// In no object's root, metadata or annotations.
    Nothing,
    /// In the root, with its place and type.
    Root(At, Type),
    Metadata(At, Type),
    Annotations(At, Type),
}

/// A place, what JSON has there, and how deep it lies.
struct Place<At> {
    at: At,
    /// The type whose members are this place's, where the message at hand is only a part of it.
    of: Type,
    near: Near<At>,
    depth: usize,
}

impl<'w, 's, F: Fields> Walk<'w, 's, F> {
    pub(super) fn new(source: &'s [u8], fields: &'w mut F, patch: Patch<'w, 's>) -> Self {
        Self {
            source,
            fields,
            patch,
        }
    }

    pub(super) fn source(&self) -> &'s [u8] {
        self.source
    }

    pub(super) fn hides_texts(&self) -> bool {
        self.fields.hides_texts()
    }

    /// Puts a content in place of a field's.
    pub(super) fn put(&mut self, part: &Part, content: &[u8]) {
        self.patch.put(part, content);
    }

    /// What was written.
    pub(super) fn patch(self) -> Patch<'w, 's> {
        self.patch
    }

    /// Goes over an object.
    pub(super) fn object(&mut self, message: Range<usize>, of: Type) -> Result<(), Malformed> {
        let names = self.names(message.clone(), of)?;
        let [namespace, name] = names.each_ref().map(Option::as_deref);
        let root = self.fields.object(namespace, name);
        self.root(message, of, root, 0)
    }

    /// Goes over the object that a field holds, or the envelope of one, in whatever format it is.
    pub(super) fn raw_object(&mut self, message: Range<usize>) -> Result<(), Malformed> {
        self.raw(message, None)
    }

    /// Goes over the items of a list, which have this field. The rest of a list is nobody's object.
    pub(super) fn list(&mut self, message: Range<usize>, items: &Field) -> Result<(), Malformed> {
        let mut reader = Reader::new(self.source, message);
        while let Some(part) = reader.next()? {
            if part.number == items.number {
                self.item(&part, items)?;
            }
        }
        Ok(())
    }

    /// Goes over an item of a list.
    pub(super) fn item(&mut self, part: &Part, items: &Field) -> Result<(), Malformed> {
        self.inside(part, |walk| match items.holds.single() {
            Single::Raw => walk.raw_object(part.content.clone()),
            _ => walk.object(part.content.clone(), items.holds.element()),
        })
    }

    /// Goes over the object in an envelope's field `raw`, of a type that the envelope tells.
    pub(super) fn inside(
        &mut self,
        part: &Part,
        go: impl FnOnce(&mut Self) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        expect(part, Wire::Delimited)?;
        self.patch.open(part);
        go(self)?;
        self.patch.close(part.content.end);
        Ok(())
    }

    /// Goes over a message whose root is here. What has no known fields can only pass.
    pub(super) fn root(
        &mut self,
        message: Range<usize>,
        of: Type,
        root: F::At,
        depth: usize,
    ) -> Result<(), Malformed> {
        if self.fields.passes(root) {
            return Ok(());
        }
        let Single::Message(_) = of.single() else {
            // Uncertainty denies: what is looked for may be in any of its fields.
            return Err(Malformed::Kind);
        };
        let place = Place {
            at: root,
            of,
            near: Near::Root(root, of),
            depth,
        };
        self.message(message, of, &place)
    }

    /// The namespace and the name in an object's metadata. What is empty isn't there in JSON.
    fn names(&self, message: Range<usize>, of: Type) -> Result<[Option<Cow<'s, str>>; 2], Malformed> {
        let mut found = [None, None];
        let Some(metadata) = of.fields().iter().find(|field| field.name == "metadata") else {
            return Ok(found);
        };
        let (mut reader, mut seen) = (Reader::new(self.source, message), false);
        while let Some(part) = reader.next()? {
            if part.number > metadata.number {
                break;
            }
            if part.number < metadata.number {
                continue;
            }
            // Of two that are merged, nobody says here which one names it.
            if std::mem::replace(&mut seen, true) {
                return Err(Malformed::Form);
            }
            expect(&part, Wire::Delimited)?;
            let mut inner = Reader::new(self.source, part.content);
            while let Some(part) = inner.next()? {
                let slot = match metadata.holds.field(part.number).map(|field| field.name) {
                    Some("namespace") => 0,
                    Some("name") => 1,
                    _ => continue,
                };
                let text = self.text(&part)?;
                if found
                    .get_mut(slot)
                    .is_some_and(|slot| slot.replace(text).is_some())
                {
                    return Err(Malformed::Form);
                }
            }
        }
        Ok(found.map(|text| text.filter(|text: &Cow<'_, str>| !text.is_empty())))
    }

    fn message(&mut self, message: Range<usize>, of: Type, place: &Place<F::At>) -> Result<(), Malformed> {
        if place.depth >= MAX_DEPTH {
            return Err(Malformed::Deep);
        }
        let mut reader = Reader::new(self.source, message);
        let (mut last, mut index, mut wire) = (0, 0, Wire::Varint);
        while let Some(part) = reader.next()? {
            let again = part.number == last;
            index = if again { index + 1 } else { 0 };
            let mixed = again && part.wire != wire;
            (last, wire) = (part.number, part.wire);
            let Some(field) = of.field(part.number) else {
                // A field of a newer server. Its name isn't known: where somebody may ask for it, uncertainty denies. Where nobody
                // can, it isn't one of those that are asked for, since those have numbers here, which are never given again.
                if self.fields.unnamed(place.at, place.of) {
                    return Err(Malformed::Kind);
                }
                continue;
            };
            let several = field.holds.is_list() || field.holds.is_map();
            if mixed || again && !several {
                // Decoders take the last, or merge them: what is then meant doesn't stand at one place.
                return Err(Malformed::Form);
            }
            let at = match field.name {
                "" => place.at,
                name => self.fields.member(place.at, name),
            };
            let near = place.near.member(field.name);
            if self.fields.passes(at) && matches!(near, Near::Nothing) {
                continue;
            }
            let inner = Place {
                at,
                of: if field.name.is_empty() {
                    place.of
                } else {
                    field.holds
                },
                near,
                depth: place.depth + 1,
            };
            if field.holds.is_list() {
                self.element(&part, field.holds, index, &inner)?;
            } else if field.holds.is_map() {
                self.inside(&part, |walk| walk.entry(&part, field.holds, &inner))?;
            } else {
                self.value(&part, field.holds, &inner, true)?;
            }
        }
        Ok(())
    }

    fn element(
        &mut self,
        part: &Part,
        list: Type,
        index: usize,
        place: &Place<F::At>,
    ) -> Result<(), Malformed> {
        let of = list.element();
        let numbers = matches!(of.single(), Single::Int | Single::Bool | Single::Double);
        if numbers && part.wire == Wire::Delimited {
            return self.packed(part, of, index, place);
        }
        let name = if F::NAMED && matches!(of.single(), Single::Message(_)) {
            self.name(part.content.clone(), of, 0)?
        } else {
            None
        };
        let at = self.fields.element(place.at, index, name.as_deref());
        if self.fields.passes(at) {
            return Ok(());
        }
        let place = Place {
            at,
            of,
            near: Near::Nothing,
            depth: place.depth,
        };
        self.value(part, of, &place, false)
    }

    /// The member `name` of an element, also where protobuf has it in a message of its own.
    fn name(&self, message: Range<usize>, of: Type, depth: usize) -> Result<Option<Cow<'s, str>>, Malformed> {
        let mut found = None;
        let mut reader = Reader::new(self.source, message);
        while let Some(part) = reader.next()? {
            match of.field(part.number) {
                Some(field) if field.name == "name" && field.holds.single() == Single::Text => {
                    found = Some(self.text(&part)?);
                }
                Some(field) if field.name.is_empty() && !field.holds.is_list() && depth < 8 => {
                    found = self.name(part.content, field.holds, depth + 1)?.or(found);
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// An entry of a map: a message with the key as 1 and the value as 2. What is missing is empty.
    fn entry(&mut self, part: &Part, map: Type, place: &Place<F::At>) -> Result<(), Malformed> {
        let mut reader = Reader::new(self.source, part.content.clone());
        let (mut key, mut value) = (None, None);
        while let Some(part) = reader.next()? {
            let slot = match part.number {
                1 => &mut key,
                2 => &mut value,
                // No map of any server has more.
                _ => return Err(Malformed::Form),
            };
            if slot.replace(part).is_some() {
                return Err(Malformed::Form);
            }
        }
        let key = key.map_or(Ok(Cow::Borrowed("")), |part| self.text(&part))?;
        let of = map.member(&key);
        let at = self.fields.member(place.at, &key);
        let Some(value) = value else {
            return Ok(());
        };
        let passes = self.fields.passes(at);
        if let (Near::Annotations(root, of), LAST_APPLIED) = (place.near, &*key) {
            expect(&value, Wire::Delimited)?;
            let asked = !passes && self.leaf(&value, Single::Text, at, false)?;
            return if asked {
                Ok(())
            } else {
                self.put_json(&value, Inner::Applied(root, of))
            };
        }
        if passes {
            return Ok(());
        }
        let place = Place {
            at,
            of,
            near: Near::Nothing,
            depth: place.depth,
        };
        self.value(&value, of, &place, false)
    }

    /// One value. `may_miss` is whether JSON leaves it out when it is empty.
    fn value(
        &mut self,
        part: &Part,
        of: Type,
        place: &Place<F::At>,
        may_miss: bool,
    ) -> Result<(), Malformed> {
        match of.single() {
            Single::Message(_) => self.inside(part, |walk| walk.message(part.content.clone(), of, place)),
            Single::Raw => self.inside(part, |walk| {
                walk.raw(part.content.clone(), Some((place.at, place.depth)))
            }),
            Single::Json => self.inside(part, |walk| walk.json(part.content.clone(), place.at)),
            single => self.leaf(part, single, place.at, may_miss).map(|_| ()),
        }
    }

    /// An object of any kind: in an envelope, or JSON, which is then the content of field 1. Without a place it is an object of its
    /// own.
    fn raw(&mut self, message: Range<usize>, place: Option<(F::At, usize)>) -> Result<(), Malformed> {
        let Some(part) = self.only(message)? else {
            return Ok(());
        };
        let content = self.source.get(part.content.clone()).unwrap_or_default();
        if content.starts_with(PREFIX) {
            let depth = place.map_or(0, |(_, depth)| depth);
            if depth >= MAX_DEPTH {
                return Err(Malformed::Deep);
            }
            let within = part.content.start + PREFIX.len()..part.content.end;
            let envelope = Envelope::read(self.source, within, Type::UNKNOWN)?;
            let Some(raw) = &envelope.raw else {
                return Ok(());
            };
            return self.inside(&part, |walk| match (place, envelope.content) {
                (None, Content::Status) => status::withhold(walk, raw),
                (_, Content::Object(of)) => walk.inside(raw, |walk| match place {
                    None => walk.object(raw.content.clone(), of),
                    Some((at, depth)) => walk.root(raw.content.clone(), of, at, depth + 1),
                }),
                (Some((at, _)), _) if walk.fields.passes(at) => Ok(()),
                // A list in a list has no end.
                _ => Err(Malformed::Kind),
            });
        }
        match place {
            Some((at, _)) => self.put_json(&part, Inner::Value(at)),
            None => self.put_json(&part, Inner::Object),
        }
    }

    /// JSON in a message's field 1.
    fn json(&mut self, message: Range<usize>, at: F::At) -> Result<(), Malformed> {
        let Some(part) = self.only(message)? else {
            return Ok(());
        };
        self.put_json(&part, Inner::Value(at))
    }

    /// The field of a message that has no other than 1.
    fn only(&self, message: Range<usize>) -> Result<Option<Part>, Malformed> {
        let mut reader = Reader::new(self.source, message);
        let Some(part) = reader.next()? else {
            return Ok(None);
        };
        expect(&part, Wire::Delimited)?;
        if part.number != 1 || reader.next()?.is_some() {
            return Err(Malformed::Form);
        }
        Ok(Some(part).filter(|part| !part.content.is_empty()))
    }

    fn put_json(&mut self, part: &Part, inner: Inner<F::At>) -> Result<(), Malformed> {
        let content = self.source.get(part.content.clone()).unwrap_or_default();
        let mut out = Vec::new();
        if !inner.go(content, self.fields, &mut out)? {
            return Ok(());
        }
        if !self.patch.has_room(part, out.len()) {
            out.clear();
            inner.go(content, &mut Fitted(self.fields), &mut out)?;
        }
        // Escapes may make it longer all the same. What then has no room for an empty object wasn't one.
        for least in [&b"{}"[..], b""] {
            if !self.patch.has_room(part, out.len()) {
                out = least.to_vec();
            }
        }
        self.patch.put(part, &out);
        Ok(())
    }

    /// A text, as JSON would show it: decoders in Go don't mind what isn't UTF-8.
    fn text(&self, part: &Part) -> Result<Cow<'s, str>, Malformed> {
        expect(part, Wire::Delimited)?;
        let bytes = self.source.get(part.content.clone()).unwrap_or_default();
        Ok(String::from_utf8_lossy(bytes))
    }
}

impl<At: Copy> Near<At> {
    fn member(self, name: &str) -> Self {
        match (self, name) {
            (Self::Root(root, of), "metadata") => Self::Metadata(root, of),
            (Self::Metadata(root, of), "annotations") => Self::Annotations(root, of),
            _ => Self::Nothing,
        }
    }
}

pub(super) fn expect(part: &Part, wire: Wire) -> Result<(), Malformed> {
    if part.wire == wire {
        Ok(())
    } else {
        Err(Malformed::Form)
    }
}
