//! An answer's body as it comes.

use std::ops::Range;

use bytes::Bytes;

use super::PREFIX;
use super::envelope::{Content, Envelope, is_end};
use super::patch::{Patch, Room};
use super::reader::{Head, Part, Reader, Wire, put_varint, varint_len};
use super::walk::{Walk, expect};
use crate::kubernetes::outlet::Outlet;
use crate::kubernetes::schema::{Field, Type};
use crate::kubernetes::{Fields, MAX_OBJECT, Malformed, Shape};

/// A list that is no longer than this is held whole, so that its length can be told exactly.
const HELD: u64 = 1024 * 1024;

/// Finds the objects in a body in protobuf, and passes it on piece by piece. After an error nothing more may be passed on.
///
/// A list's length stands before its items. One that is held whole is passed on with the length that it then has. A longer one keeps the
/// length that it came with: what its items become shorter by is filled at its end, by fields of zeros that no list has and decoders
/// skip. There is never more to pass on than came, so where items would become longer, what replaces a value is cut to its length.
#[derive(Debug)]
pub struct Stream {
    state: State,
    outlet: Outlet,
    unit: Unit,
    /// What an envelope begins with. It isn't passed on before its content was looked at: if that is refused, nothing was said yet.
    lead: Vec<u8>,
    /// What goes in place of a unit.
    made: Vec<u8>,
    /// A list that is no longer than this is held whole.
    held: u64,
}

#[derive(Debug)]
enum State {
    /// At the frame of an event, or at a body that tells why there are none.
    Watch,
    /// At the four bytes that a body begins with.
    Begin,
    /// In an envelope, before its content.
    Before { content: Content },
    /// In a list that isn't held whole.
    List(List),
    /// Behind the content. Nothing may come that says more of it.
    After,
}

#[derive(Debug, Clone, Copy)]
struct List {
    items: &'static Field,
    /// Bytes of the list that are still to come.
    left: u64,
    /// How many bytes less were passed on than came.
    slack: usize,
}

/// What is looked at as a whole: a prefix, a field or a frame.
#[derive(Debug, Default)]
struct Unit {
    /// Its beginning, until that says how long it is.
    head: Vec<u8>,
    /// Bytes that are still to come.
    left: Option<usize>,
}

/// What goes on in place of a unit.
enum With {
    Itself,
    Made,
    /// Nothing yet: it goes with what comes next.
    Later,
}

impl Stream {
    /// Begins a body of this shape. An object and a list tell by themselves which of them they are.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        Self {
            state: match shape {
                Shape::Watch => State::Watch,
                Shape::Object | Shape::List => State::Begin,
            },
            outlet: Outlet::default(),
            unit: Unit::default(),
            lead: Vec::new(),
            made: Vec::new(),
            held: HELD,
        }
    }

    /// The same, with lists of more than so many bytes passed on as they come. It is a mebibyte where this isn't said.
    #[must_use]
    pub fn holding(self, bytes: u64) -> Self {
        Self { held: bytes, ..self }
    }

    /// Takes the next piece of the body. What can be passed on of it, and of those before it, is added to `out`.
    ///
    /// # Errors
    /// As [`body`](super::body); an object may be so long as that says, a list longer.
    pub fn feed<F: Fields>(
        &mut self,
        chunk: &Bytes,
        fields: &mut F,
        out: &mut Vec<Bytes>,
    ) -> Result<(), Malformed> {
        let mut at = 0;
        while let Some(rest) = chunk.get(at..).filter(|rest| !rest.is_empty()) {
            if self.unit.head.is_empty() {
                self.outlet.begin(at);
            }
            let left = match self.unit.left {
                Some(left) => left,
                None => {
                    // One by one: it is only known behind the last of them that there are enough.
                    self.unit.head.extend(rest.first());
                    at += 1;
                    let left = self.head()?;
                    self.unit.left = left;
                    match left {
                        Some(left) => left,
                        None => continue,
                    }
                }
            };
            let here = left.min(chunk.len() - at);
            at += here;
            self.unit.left = Some(left - here);
            if left == here {
                self.unit(chunk, at, fields, out)?;
            }
        }
        self.outlet.end(chunk, out)
    }

    /// Memory that it keeps between two pieces, in bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.outlet.held() + self.made.capacity() + self.lead.capacity() + self.unit.head.capacity()
    }

    /// The body ended. An envelope without content is passed on only here.
    ///
    /// # Errors
    /// When it ended in the middle of something.
    pub fn finish<F: Fields>(&mut self, _fields: &mut F, out: &mut Vec<Bytes>) -> Result<(), Malformed> {
        match self.state {
            State::Watch | State::Begin | State::After if self.unit.head.is_empty() => Ok(()),
            // An envelope without content.
            State::Before { .. } if self.unit.head.is_empty() => {
                out.push(Bytes::from(std::mem::take(&mut self.lead)));
                Ok(())
            }
            _ => Err(Malformed::Form),
        }
    }

    /// How many bytes of the unit are still to come; `None` where it doesn't say that yet.
    fn head(&self) -> Result<Option<usize>, Malformed> {
        let head = self.unit.head.as_slice();
        let all = match &self.state {
            State::Begin => PREFIX.len() as u64,
            State::Watch => match head.first_chunk::<4>() {
                // No frame is that long: this is an answer that isn't a watch, or isn't one yet.
                Some(first) if first == PREFIX => PREFIX.len() as u64,
                Some(length) => 4 + u64::from(u32::from_be_bytes(*length)),
                None => return Ok(None),
            },
            State::Before { .. } | State::List(_) | State::After => {
                let Some(field) = Head::read(head)? else {
                    return Ok(None);
                };
                match &self.state {
                    State::Before {
                        content: Content::List(_),
                    } if field.number == 2 && field.content > self.held => field.head as u64,
                    _ => field.content.saturating_add(field.head as u64),
                }
            }
        };
        if let State::List(list) = &self.state
            && all > list.left
        {
            return Err(Malformed::Form);
        }
        let all = usize::try_from(all).map_err(|_| Malformed::Long)?;
        if all > MAX_OBJECT {
            return Err(Malformed::Long);
        }
        Ok(Some(all.saturating_sub(head.len())))
    }

    /// Looks at a unit, which ends here in the piece, and passes it on.
    fn unit<F: Fields>(
        &mut self,
        chunk: &Bytes,
        end: usize,
        fields: &mut F,
        out: &mut Vec<Bytes>,
    ) -> Result<(), Malformed> {
        let whole = self.outlet.whole(chunk, end)?;
        self.made.clear();
        let mut fill = 0;
        let with = match &mut self.state {
            State::Begin | State::Watch if whole == PREFIX => {
                self.state = State::Before {
                    content: Content::Object(Type::UNKNOWN),
                };
                With::Later
            }
            State::Begin => return Err(Malformed::Form),
            State::Watch => event(whole, fields, &mut self.made)?,
            State::Before { content } => {
                let content = *content;
                let (next, with) = before(whole, content, fields, &mut self.made)?;
                self.state = next;
                with
            }
            State::List(list) => {
                let with = list.unit(whole, fields, &mut self.made)?;
                if list.left == 0 {
                    fill = list.slack;
                    self.state = State::After;
                }
                with
            }
            State::After => {
                is_end(&only(whole)?)?;
                With::Itself
            }
        };
        match with {
            With::Later => {
                self.lead.extend_from_slice(whole);
                self.outlet.replace(chunk, end, &[], out);
            }
            With::Itself => {
                self.outlet.lead(&std::mem::take(&mut self.lead));
                self.outlet.keep(end);
            }
            With::Made => {
                self.outlet.lead(&std::mem::take(&mut self.lead));
                self.outlet.replace(chunk, end, &self.made, out);
            }
        }
        filling(fill, |bytes| self.outlet.insert(chunk, end, bytes, out));
        self.unit = Unit::default();
        Ok(())
    }
}

/// A field of an envelope up to its content.
fn before<F: Fields>(
    whole: &[u8],
    content: Content,
    fields: &mut F,
    made: &mut Vec<u8>,
) -> Result<(State, With), Malformed> {
    if let (Some(head), Content::List(items)) = (Head::read(whole)?, content)
        && head.number == 2
        && head.head == whole.len()
        && head.content > 0
    {
        expect_delimited(head.wire)?;
        let list = List {
            items,
            left: head.content,
            slack: 0,
        };
        return Ok((State::List(list), With::Itself));
    }
    let part = only(whole)?;
    expect(&part, Wire::Delimited)?;
    match part.number {
        1 if matches!(content, Content::Object(of) if of.is_unknown()) => {
            let content = Content::read(whole, part.content, Type::UNKNOWN)?;
            Ok((State::Before { content }, With::Later))
        }
        2 => {
            let envelope = Envelope {
                content,
                raw: Some(part),
            };
            let changed = patched(whole, 0, Room::Any, fields, made, |walk| walk.body(&envelope))?;
            Ok((State::After, changed))
        }
        _ => {
            is_end(&part)?;
            Ok((State::After, With::Itself))
        }
    }
}

/// `string type = 1; RawExtension object = 2`, behind its length.
fn event<F: Fields>(frame: &[u8], fields: &mut F, made: &mut Vec<u8>) -> Result<With, Malformed> {
    const LENGTH: usize = 4;
    let mut reader = Reader::new(frame, LENGTH..frame.len());
    let (mut kind, mut object): (_, Option<Part>) = (None, None);
    while let Some(part) = reader.next()? {
        expect(&part, Wire::Delimited)?;
        let slot = match part.number {
            1 => &mut kind,
            2 => &mut object,
            _ => return Err(Malformed::Kind),
        };
        if slot.replace(part).is_some() {
            return Err(Malformed::Form);
        }
    }
    let kind = kind.and_then(|part| frame.get(part.content));
    let Some(object) = object else {
        return Ok(With::Itself);
    };
    // It tells how far the watch is, and holds nothing of any object.
    if kind == Some(b"BOOKMARK") {
        return Ok(With::Itself);
    }
    made.extend([0; LENGTH]);
    let with = patched(frame, LENGTH, Room::Any, fields, made, |walk| {
        walk.inside(&object, |walk| walk.raw_object(object.content.clone()))
    })?;
    if let (With::Made, Some((length, message))) = (&with, made.split_first_chunk_mut::<LENGTH>()) {
        *length = u32::try_from(message.len())
            .map_err(|_| Malformed::Long)?
            .to_be_bytes();
    }
    Ok(with)
}

impl List {
    fn unit<F: Fields>(
        &mut self,
        whole: &[u8],
        fields: &mut F,
        made: &mut Vec<u8>,
    ) -> Result<With, Malformed> {
        self.left = self.left.saturating_sub(whole.len() as u64);
        let part = only(whole)?;
        if part.number != self.items.number {
            return Ok(With::Itself);
        }
        let items = self.items;
        let with = patched(whole, 0, Room::Of(self.slack), fields, made, |walk| {
            walk.item(&part, items)
        })?;
        if matches!(with, With::Made) {
            self.slack = (self.slack + whole.len())
                .checked_sub(made.len())
                .ok_or(Malformed::Room)?;
        }
        // No field is one byte long. A length may take a byte more than it needs.
        if self.slack == 1 {
            if let With::Itself = with {
                return Err(Malformed::Room);
            }
            stretch(made)?;
            self.slack = 0;
        }
        Ok(with)
    }
}

/// Takes a byte more for the length of a field.
fn stretch(field: &mut Vec<u8>) -> Result<(), Malformed> {
    let head = Head::read(field)?.ok_or(Malformed::Form)?;
    let last = head.head.checked_sub(1).ok_or(Malformed::Form)?;
    if let Some(byte) = field.get_mut(last) {
        *byte |= 0x80;
    }
    field.insert(head.head, 0);
    Ok(())
}

/// Fields of zeros that are so many bytes together, which are none or more than one.
///
/// Their number is one of those that are kept for protobuf's own use, so that no message ever has it; where they are too short for
/// that, it is the last one that takes a byte, which no list has come near.
fn filling(length: usize, mut put: impl FnMut(Bytes)) {
    const RESERVED: u32 = 19_999;
    const SHORT: u32 = 15;
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    let mut left = length;
    while left > 1 {
        let number = if left < 4 { SHORT } else { RESERVED };
        let mut head = Vec::with_capacity(Head::MAX);
        put_varint(&mut head, u64::from(number) << 3 | 2);
        let tag = head.len();
        let all = |content: usize| tag + varint_len(content as u64) + content;
        let mut content = left.saturating_sub(tag + 1);
        while content > 0 && all(content) > left {
            content -= 1;
        }
        // A length may take a byte more for what is then too short by one: this leaves enough for a second field.
        if left.saturating_sub(all(content)) == 1 {
            content = content.saturating_sub(4);
        }
        put_varint(&mut head, content as u64);
        left = left.saturating_sub(head.len() + content);
        put(Bytes::from(head));
        while content > 0 {
            let zeros = ZEROS.get(..content).unwrap_or(&ZEROS);
            put(Bytes::from_static(zeros));
            content -= zeros.len();
        }
    }
}

fn patched<'s, F: Fields>(
    source: &'s [u8],
    from: usize,
    room: Room,
    fields: &mut F,
    made: &mut Vec<u8>,
    go: impl FnOnce(&mut Walk<'_, 's, F>) -> Result<(), Malformed>,
) -> Result<With, Malformed> {
    let mut walk = Walk::new(source, fields, Patch::new(source, from, room, made));
    go(&mut walk)?;
    Ok(if walk.patch().finish(source.len()) {
        With::Made
    } else {
        With::Itself
    })
}

/// The one field that is there.
fn only(whole: &[u8]) -> Result<Part, Malformed> {
    let all: Range<usize> = 0..whole.len();
    let part = Reader::new(whole, all).next()?.ok_or(Malformed::Form)?;
    if part.content.end == whole.len() {
        Ok(part)
    } else {
        Err(Malformed::Form)
    }
}

fn expect_delimited(wire: Wire) -> Result<(), Malformed> {
    if wire == Wire::Delimited {
        Ok(())
    } else {
        Err(Malformed::Form)
    }
}

#[cfg(test)]
mod tests;
