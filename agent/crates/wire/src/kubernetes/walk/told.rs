//! What objects say of themselves, and tables of their columns.

use std::borrow::Cow;

use super::super::schema::{Type, lookup};

/// A member of an object.
pub(in super::super) struct Member<'s, M> {
    pub(super) key: Cow<'s, str>,
    /// Where its value begins.
    pub(super) mark: M,
    /// Where it is metadata, and an object: what that has.
    pub(super) inner: Option<Vec<Self>>,
}

/// A text that there should be one of.
#[derive(Default)]
pub(in super::super) enum Told<'s> {
    #[default]
    Not,
    Once(Cow<'s, str>),
    /// It is there more than once, or isn't a text. Decoders differ in what they make of that.
    Unclear,
}

impl<'s> Told<'s> {
    pub(in super::super) fn tell(&mut self, text: Option<Cow<'s, str>>) {
        *self = match (&self, text) {
            (Self::Not, Some(text)) => Self::Once(text),
            _ => Self::Unclear,
        };
    }

    pub(in super::super) fn once(&self) -> Option<&str> {
        match self {
            Self::Once(text) => Some(text),
            _ => None,
        }
    }
}

/// What an object has, and what it says of itself.
pub(in super::super) struct Index<'s, M> {
    pub(super) members: Vec<Member<'s, M>>,
    pub(super) version: Told<'s>,
    pub(super) kind: Told<'s>,
    pub(super) namespace: Told<'s>,
    pub(super) name: Told<'s>,
}

impl<M> Default for Index<'_, M> {
    fn default() -> Self {
        Self {
            members: Vec::new(),
            version: Told::Not,
            kind: Told::Not,
            namespace: Told::Not,
            name: Told::Not,
        }
    }
}

impl<M> Index<'_, M> {
    /// Its type; `None` where it says none.
    pub(super) fn of(&self) -> Option<Type> {
        if let (Told::Not, Told::Not) = (&self.version, &self.kind) {
            return None;
        }
        let known = lookup(self.version.once()?, self.kind.once()?);
        Some(known.unwrap_or(Type::UNKNOWN))
    }
}
