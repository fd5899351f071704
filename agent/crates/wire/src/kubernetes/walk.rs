//! The walk over an object's fields, in whatever format it is written.
//!
//! Values are replaced where they stand: what lies between them is copied as it came.

mod kinds;
mod told;

use std::borrow::Cow;
use std::ops::Range;

use super::schema::{Single, Type};
use super::{Fields, LAST_APPLIED, MAX_DEPTH, Malformed, Replacement, Value, json};

pub(super) use kinds::{Columns, Part, QUOTE_NOTHING, WITHHELD};
use told::Member;
pub(super) use told::{Index, Told};

/// So many members an object's root and its metadata may have. The largest of the built-in types have some ten.
const MAX_MEMBERS: usize = 1024;

/// Objects that were applied last, and hold one that was applied last: so many of them lie in each other.
const MAX_APPLIED: usize = 3;

/// How a format is read and written.
///
/// A reader goes forward over one value, which [`begin`](Self::begin) opens and [`skip`](Self::skip) leaves behind.
pub(super) trait Syntax<'s> {
    /// Where a value begins.
    type Mark: Copy;

    /// Where the reader is.
    fn mark(&self) -> Self::Mark;

    /// Goes where it was.
    fn go(&mut self, mark: Self::Mark);

    /// Begins the value that comes next. A leaf is left behind by that; of the others, members and elements are what comes next.
    fn begin(&mut self) -> Result<Begin<'s>, Malformed>;

    /// The next key in what was opened; its value comes next. `None` where there are no more, which leaves the object behind.
    fn key(&mut self, open: &mut Open) -> Result<Option<Cow<'s, str>>, Malformed>;

    /// Whether there is another element in what was opened, which comes next then. Otherwise the list is left behind.
    fn more(&mut self, open: &mut Open) -> Result<bool, Malformed>;

    /// Leaves the value that comes next behind.
    fn skip(&mut self) -> Result<(), Malformed>;

    /// From where a value began to the end of what was left behind last.
    fn span(&self, from: Self::Mark) -> Range<usize>;

    /// How much of what a value spans is replaced with it.
    fn trimmed(source: &[u8]) -> usize {
        source.len()
    }

    /// Writes a text.
    fn text(out: &mut Vec<u8>, text: &str);

    /// Writes bytes, in a field that holds bytes.
    fn bytes(out: &mut Vec<u8>, bytes: &[u8]);

    /// Writes a number, a boolean or null.
    fn literal(out: &mut Vec<u8>, literal: Literal<'_>);
}

/// What has been opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Open {
    /// How many members or elements are left, where that is told in advance.
    pub(super) left: Option<u64>,
    /// Whether none was read yet.
    pub(super) first: bool,
}

impl Open {
    pub(super) const fn new(left: Option<u64>) -> Self {
        Self { left, first: true }
    }
}

/// What a value is.
pub(super) enum Begin<'s> {
    Object(Open),
    List(Open),
    Leaf(Leaf<'s>),
}

/// A value that has none below it.
pub(super) enum Leaf<'s> {
    Null,
    Text(Cow<'s, str>),
    /// What is written as bytes, whatever field it is.
    Bytes(Cow<'s, [u8]>),
    /// A number, `true` or `false`, as in JSON.
    Scalar(Cow<'s, str>),
}

/// A number, a boolean or null, as JSON has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Literal<'a>(&'a str);

impl<'a> Literal<'a> {
    pub(super) const NULL: Literal<'static> = Literal("null");

    /// `None` for what isn't one.
    pub(super) fn new(text: &'a str) -> Option<Self> {
        (matches!(text, "null" | "true" | "false") || is_number(text.as_bytes())).then_some(Self(text))
    }

    pub(super) fn text(self) -> &'a str {
        self.0
    }
}

/// RFC 8259, section 6.
fn is_number(text: &[u8]) -> bool {
    fn digits(text: &[u8]) -> Option<&[u8]> {
        let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        text.get(count..).filter(|_| count > 0)
    }
    let unsigned = text.strip_prefix(b"-").unwrap_or(text);
    let Some(mut rest) = (match unsigned {
        [b'0', rest @ ..] => Some(rest),
        _ => digits(unsigned),
    }) else {
        return false;
    };
    if let [b'.', fraction @ ..] = rest {
        let Some(after) = digits(fraction) else {
            return false;
        };
        rest = after;
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = match exponent {
            [b'+' | b'-', unsigned @ ..] => unsigned,
            unsigned => unsigned,
        };
        let Some(after) = digits(exponent) else {
            return false;
        };
        rest = after;
    }
    rest.is_empty()
}

/// What an object is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Is {
    /// This, whatever it says.
    Known(Type),
    /// What it says; this where it says nothing.
    Told(Type),
}

/// A walk over one object.
pub(super) struct Walk<'w, 's, S, F> {
    syntax: S,
    source: &'s [u8],
    fields: &'w mut F,
    out: &'w mut Vec<u8>,
    /// So much of the source is in `out`, or was replaced there.
    copied: usize,
    /// How many values were replaced.
    replaced: usize,
    /// How many objects that were applied last this one lies in.
    applied: usize,
}

impl<'w, 's, S: Syntax<'s>, F: Fields> Walk<'w, 's, S, F> {
    pub(super) fn new(syntax: S, source: &'s [u8], fields: &'w mut F, out: &'w mut Vec<u8>) -> Self {
        Self {
            syntax,
            source,
            fields,
            out,
            copied: 0,
            replaced: 0,
            applied: 0,
        }
    }

    /// The same for an object that lies in this many that were applied last.
    pub(super) fn applied(mut self, applied: usize) -> Self {
        self.applied = applied;
        self
    }

    /// Goes over an object. Its root is `at`, or what `fields` says it is.
    pub(super) fn object(&mut self, at: Option<F::At>, of: Is) -> Result<(), Malformed> {
        let index = self.index()?;
        self.indexed(&index, at, of, false)
    }

    /// Learns what an object has; `None` where it isn't there as a whole, or can't be read.
    pub(super) fn whole_index(&mut self) -> Option<Index<'s, S::Mark>> {
        self.index().ok()
    }

    /// The source ends here.
    pub(super) fn ends_at(&mut self, length: usize) {
        self.source = self.source.get(..length).unwrap_or(self.source);
    }

    /// Goes over an item by its index; it is of this type where it doesn't say it.
    pub(super) fn item(&mut self, index: &Index<'s, S::Mark>, of: Type) -> Result<(), Malformed> {
        self.indexed(index, None, Is::Told(of), false)
    }

    /// Goes over a value that is no object of its own.
    pub(super) fn inner(&mut self, at: F::At, of: Type) -> Result<(), Malformed> {
        self.value(at, of, 0)
    }

    /// Writes what is left. Says whether anything was replaced; where nothing was, nothing was written.
    pub(super) fn finish(self) -> bool {
        if self.replaced > 0 {
            self.out
                .extend_from_slice(self.source.get(self.copied..).unwrap_or_default());
        }
        self.replaced > 0
    }

    /// How many values were replaced.
    pub(super) fn replaced(&self) -> usize {
        self.replaced
    }

    pub(super) fn syntax(&mut self) -> &mut S {
        &mut self.syntax
    }

    fn index(&mut self) -> Result<Index<'s, S::Mark>, Malformed> {
        let Begin::Object(open) = self.syntax.begin()? else {
            return Err(Malformed::Form);
        };
        let mut index = Index::default();
        index.members = self.members(open, |walk, key| {
            match key {
                "apiVersion" => index.version.tell(text(&mut walk.syntax)?),
                "kind" => index.kind.tell(text(&mut walk.syntax)?),
                "metadata" => {
                    let mark = walk.syntax.mark();
                    if let Begin::Object(open) = walk.syntax.begin()? {
                        let members = walk.members(open, |walk, key| {
                            match key {
                                "namespace" => index.namespace.tell(text(&mut walk.syntax)?),
                                "name" => index.name.tell(text(&mut walk.syntax)?),
                                _ => walk.syntax.skip()?,
                            }
                            Ok(None)
                        });
                        return members.map(Some);
                    }
                    walk.syntax.go(mark);
                    walk.syntax.skip()?;
                }
                _ => walk.syntax.skip()?,
            }
            Ok(None)
        })?;
        Ok(index)
    }

    /// The members of what was opened. `read` leaves each value behind, and returns the members that it has itself.
    fn members(
        &mut self,
        mut open: Open,
        mut read: impl FnMut(&mut Self, &str) -> Result<Option<Vec<Member<'s, S::Mark>>>, Malformed>,
    ) -> Result<Vec<Member<'s, S::Mark>>, Malformed> {
        let mut members = Vec::with_capacity(8);
        while let Some(key) = self.syntax.key(&mut open)? {
            if members.len() == MAX_MEMBERS {
                return Err(Malformed::Long);
            }
            let mark = self.syntax.mark();
            let inner = read(self, &key)?;
            members.push(Member { key, mark, inner });
        }
        Ok(members)
    }

    /// Goes over an object by its index. With `lists` it may be a list, whose items are objects.
    fn indexed(
        &mut self,
        index: &Index<'s, S::Mark>,
        at: Option<F::At>,
        of: Is,
        lists: bool,
    ) -> Result<(), Malformed> {
        let root = at.unwrap_or_else(|| self.fields.object(index.namespace.once(), index.name.once()));
        let passes = self.fields.passes(root);
        if passes && !lists {
            return Ok(());
        }
        let (of, items) = match of {
            Is::Known(of) => (of, of),
            Is::Told(otherwise) => (index.of().unwrap_or(otherwise), otherwise),
        };
        let end = self.syntax.mark();
        for member in &index.members {
            let (at, holds) = (self.fields.member(root, &member.key), of.member(&member.key));
            if lists && member.key == "items" {
                self.syntax.go(member.mark);
                if let Begin::List(mut open) = self.syntax.begin()? {
                    while self.syntax.more(&mut open)? {
                        let own = holds.element();
                        let of = if own.is_unknown() { items } else { own };
                        self.object(None, Is::Told(of))?;
                    }
                    continue;
                }
            }
            if passes {
                continue;
            }
            let Some(inner) = &member.inner else {
                self.at_mark(member.mark, at, holds, 1)?;
                continue;
            };
            // Metadata. Whatever is looked at in it, annotations may hold the object once more.
            for member in inner {
                let (at, holds) = (self.fields.member(at, &member.key), holds.member(&member.key));
                if member.key == "annotations" {
                    self.syntax.go(member.mark);
                    self.annotations(at, holds, root, of)?;
                } else {
                    self.at_mark(member.mark, at, holds, 2)?;
                }
            }
        }
        self.syntax.go(end);
        Ok(())
    }

    fn at_mark(&mut self, mark: S::Mark, at: F::At, of: Type, depth: usize) -> Result<(), Malformed> {
        if self.fields.passes(at) {
            return Ok(());
        }
        self.syntax.go(mark);
        self.value(at, of, depth)
    }

    fn annotations(&mut self, at: F::At, holds: Type, root: F::At, of: Type) -> Result<(), Malformed> {
        let mark = self.syntax.mark();
        let Begin::Object(mut open) = self.syntax.begin()? else {
            self.syntax.go(mark);
            return self.value(at, holds, 2);
        };
        while let Some(key) = self.syntax.key(&mut open)? {
            let (at, holds) = (self.fields.member(at, &key), holds.member(&key));
            if key != LAST_APPLIED {
                self.value(at, holds, 3)?;
                continue;
            }
            let mark = self.syntax.mark();
            let Begin::Leaf(leaf) = self.syntax.begin()? else {
                self.syntax.go(mark);
                self.value(at, holds, 3)?;
                continue;
            };
            let replaced = !self.fields.passes(at) && self.leaf(mark, &leaf, at, holds)?;
            if let (false, Leaf::Text(text)) = (replaced, &leaf) {
                let inner = self.fields.applied(root);
                let mut out = Vec::new();
                // What can't be read isn't passed on, since what is masked may stand in it.
                let changed = if self.applied < MAX_APPLIED {
                    json::applied(text, inner, of, self.fields, &mut out, self.applied + 1)
                } else {
                    Err(Malformed::Deep)
                };
                match changed.map(|changed| changed.then_some(&out).map(|out| std::str::from_utf8(out))) {
                    Ok(None) => {}
                    Ok(Some(Ok(text))) => self.put(mark, |out| S::text(out, text)),
                    Ok(Some(Err(_))) | Err(_) => self.put(mark, |out| S::text(out, "{}")),
                }
            }
        }
        Ok(())
    }

    fn value(&mut self, at: F::At, of: Type, depth: usize) -> Result<(), Malformed> {
        if self.fields.passes(at) {
            return self.syntax.skip();
        }
        let mark = self.syntax.mark();
        match self.syntax.begin()? {
            Begin::Leaf(leaf) => {
                self.leaf(mark, &leaf, at, of)?;
            }
            _ if depth >= MAX_DEPTH => return Err(Malformed::Deep),
            Begin::Object(mut open) => {
                while let Some(key) = self.syntax.key(&mut open)? {
                    let at = self.fields.member(at, &key);
                    if self.fields.passes(at) {
                        self.syntax.skip()?;
                    } else {
                        self.value(at, of.member(&key), depth + 1)?;
                    }
                }
            }
            Begin::List(mut open) => {
                let holds = of.element();
                let mut index = 0;
                while self.syntax.more(&mut open)? {
                    let name = if F::NAMED { self.name()? } else { None };
                    let at = self.fields.element(at, index, name.as_deref());
                    self.value(at, holds, depth + 1)?;
                    index += 1;
                }
            }
        }
        Ok(())
    }

    /// The text of the member `name` of the object that comes next. As decoders do it, the last one counts.
    fn name(&mut self) -> Result<Option<Cow<'s, str>>, Malformed> {
        let mark = self.syntax.mark();
        let mut name = None;
        if let Begin::Object(mut open) = self.syntax.begin()? {
            while let Some(key) = self.syntax.key(&mut open)? {
                if key == "name" {
                    name = text(&mut self.syntax)?;
                } else {
                    self.syntax.skip()?;
                }
            }
        }
        self.syntax.go(mark);
        Ok(name)
    }

    /// Asks about a leaf, which was left behind; `mark` is where it began. Says whether it was replaced.
    fn leaf(&mut self, mark: S::Mark, leaf: &Leaf<'s>, at: F::At, of: Type) -> Result<bool, Malformed> {
        let replacement = match leaf {
            Leaf::Null => None,
            Leaf::Bytes(bytes) => return Ok(self.bytes(mark, bytes, at)),
            Leaf::Text(text) if of.is_bytes() => match json::from_base64(text) {
                Some(bytes) => return Ok(self.bytes(mark, &bytes, at)),
                None => self.fields.replace(at, Value::Text(text)),
            },
            Leaf::Text(text) if empty(of).is_some() => self.fields.replace(at, Value::Scalar(text)),
            Leaf::Text(text) => self.fields.replace(at, Value::Text(text)),
            Leaf::Scalar(scalar) => self.fields.replace(at, Value::Scalar(scalar)),
        };
        let Some(replacement) = replacement else {
            return Ok(false);
        };
        let value = match &replacement {
            Replacement::Value(value) => Some(std::str::from_utf8(value).map_err(|_| Malformed::Room)?),
            Replacement::Empty => None,
        };
        if let Leaf::Scalar(old) = leaf {
            let least = match &**old {
                "true" | "false" => "false",
                _ => "0",
            };
            let literal = Literal::new(value.unwrap_or(least)).ok_or(Malformed::Room)?;
            self.put(mark, |out| S::literal(out, literal));
        } else {
            let text = value.unwrap_or_else(|| empty(of).unwrap_or_default());
            self.put(mark, |out| S::text(out, text));
        }
        Ok(true)
    }

    fn bytes(&mut self, mark: S::Mark, bytes: &[u8], at: F::At) -> bool {
        let bytes = match self.fields.replace(at, Value::Bytes(bytes)) {
            None => return false,
            Some(Replacement::Value(bytes)) => bytes,
            Some(Replacement::Empty) => Vec::new(),
        };
        self.put(mark, |out| S::bytes(out, &bytes));
        true
    }

    /// Replaces what was left behind last; `mark` is where it began.
    fn put(&mut self, mark: S::Mark, write: impl FnOnce(&mut Vec<u8>)) {
        let span = self.syntax.span(mark);
        self.out
            .extend_from_slice(self.source.get(self.copied..span.start).unwrap_or_default());
        write(self.out);
        let spanned = self.source.get(span.clone()).unwrap_or_default();
        self.copied = span.start + S::trimmed(spanned);
        self.replaced += 1;
    }
}

/// The text that comes next. Anything else is left behind, too.
pub(super) fn text<'s, S: Syntax<'s>>(syntax: &mut S) -> Result<Option<Cow<'s, str>>, Malformed> {
    let mark = syntax.mark();
    if let Begin::Leaf(leaf) = syntax.begin()? {
        return Ok(match leaf {
            Leaf::Text(text) => Some(text),
            _ => None,
        });
    }
    syntax.go(mark);
    syntax.skip()?;
    Ok(None)
}

/// The least value of a type that is a text in JSON, but isn't any text.
fn empty(of: Type) -> Option<&'static str> {
    if of.is_list() || of.is_map() {
        return None;
    }
    match of.single() {
        Single::Quantity => Some("0"),
        Single::Time => Some("1970-01-01T00:00:00Z"),
        Single::MicroTime => Some("1970-01-01T00:00:00.000000Z"),
        Single::Duration => Some("0s"),
        _ => None,
    }
}
