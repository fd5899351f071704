//! An answer's body as it comes.

use bytes::Bytes;

use super::{Argument, Cbor, Head, MAX_TAGS, Scan, major, walk};
use crate::kubernetes::outlet::Outlet;
use crate::kubernetes::schema::{Type, lookup};
use crate::kubernetes::walk::{Begin, Columns, Part, Syntax as _, Told, text};
use crate::kubernetes::{Fields, Malformed, Shape};

/// Keys of a list's own members are no longer than this.
const MAX_KEY: usize = 1024;

/// Finds the objects in a body in CBOR, and passes it on piece by piece.
///
/// A list is passed on as it comes, but for the item that isn't whole yet. A table is held whole: its columns may come behind its
/// rows. After an error nothing more may be passed on.
#[derive(Debug)]
pub struct Stream {
    shape: Shape,
    state: State,
    outlet: Outlet,
    columns: Columns,
    items: Type,
    made: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Before,
    /// In something that is held whole.
    Object(Scan),
    /// In a list, where what comes first is held until its items begin.
    List(List),
    End,
}

#[derive(Debug)]
struct List {
    at: At,
    /// How many members are left.
    left: Option<u64>,
    /// What came of a head or a key.
    small: Vec<u8>,
    /// Whether items have begun.
    begun: bool,
}

#[derive(Debug)]
enum At {
    /// Before the map.
    Map,
    Key,
    /// Before a value that may be items.
    Items,
    Value(Scan),
    /// Before an item; so many are left.
    Item(Option<u64>),
    InItem(Option<u64>, Scan),
}

enum Step {
    To(usize),
    More,
}

impl Stream {
    /// Begins a body of this shape.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        Self {
            shape,
            state: State::Before,
            outlet: Outlet::default(),
            columns: Columns::default(),
            items: Type::UNKNOWN,
            made: Vec::new(),
        }
    }

    /// The same, where it is known of what type the items of a list are. A list may tell it behind them.
    #[must_use]
    pub fn of(mut self, items: Type) -> Self {
        self.items = items;
        self
    }

    /// Takes the next piece of the body. What can be passed on of it, and of those before it, is added to `out`.
    ///
    /// # Errors
    /// When the body isn't CBOR of that shape, or an object in it is too large or too deep.
    pub fn feed<F: Fields>(
        &mut self,
        chunk: &Bytes,
        fields: &mut F,
        out: &mut Vec<Bytes>,
    ) -> Result<(), Malformed> {
        let mut at = 0;
        while let Some(rest) = chunk.get(at..).filter(|rest| !rest.is_empty()) {
            match self.step(chunk, at, rest, fields, out)? {
                Step::To(next) => at = next,
                Step::More => break,
            }
        }
        self.outlet.end(chunk, out)
    }

    /// Memory that it keeps between two pieces, in bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.outlet.held() + self.made.capacity()
    }

    /// The body ended. In CBOR nothing is left then; the arguments are those of other formats.
    ///
    /// # Errors
    /// When it ended in the middle of something.
    pub fn finish<F: Fields>(&mut self, _fields: &mut F, _out: &mut Vec<Bytes>) -> Result<(), Malformed> {
        match self.state {
            State::Before | State::End => Ok(()),
            State::Object(_) | State::List(_) => Err(Malformed::Form),
        }
    }

    fn step<F: Fields>(
        &mut self,
        chunk: &Bytes,
        at: usize,
        rest: &[u8],
        fields: &mut F,
        out: &mut Vec<Bytes>,
    ) -> Result<Step, Malformed> {
        match &mut self.state {
            State::Before => {
                self.outlet.begin(at);
                self.state = match self.shape {
                    Shape::List => State::List(List::default()),
                    Shape::Object | Shape::Watch => State::Object(Scan::default()),
                };
                Ok(Step::To(at))
            }
            State::Object(scan) => {
                let Some(length) = scan.advance(rest)? else {
                    return Ok(Step::More);
                };
                let (state, part) = match self.shape {
                    Shape::Watch => (State::Before, Part::Event(self.items)),
                    Shape::Object | Shape::List => (State::End, Part::Answer(self.items)),
                };
                self.state = state;
                self.whole(chunk, at + length, fields, out, part)?;
                Ok(Step::To(at + length))
            }
            State::List(_) => self.list(chunk, at, rest, fields, out),
            State::End => Err(Malformed::Form),
        }
    }

    fn list<F: Fields>(
        &mut self,
        chunk: &Bytes,
        at: usize,
        rest: &[u8],
        fields: &mut F,
        out: &mut Vec<Bytes>,
    ) -> Result<Step, Malformed> {
        let State::List(list) = &mut self.state else {
            return Err(Malformed::Form);
        };
        let first = rest.first().copied().unwrap_or_default();
        match &mut list.at {
            At::Map => {
                list.small.push(first);
                if let Some(head) = list.untagged()? {
                    if head.major != major::MAP {
                        return Err(Malformed::Form);
                    }
                    list.left = head.argument.is();
                    return self.member(chunk, at + 1, fields, out);
                }
            }
            At::Key => {
                list.small.push(first);
                let Some(head) = Head::read(&list.small)? else {
                    return Ok(Step::To(at + 1));
                };
                if list.left.is_none() && head.is_break() {
                    return self.end(chunk, at + 1, fields, out);
                }
                // A break, a number: no key. In pieces it's none that matters, and none that anybody writes.
                let (major::BYTES | major::TEXT, Argument::Is(length)) = (head.major, head.argument) else {
                    return Err(Malformed::Form);
                };
                if length > MAX_KEY as u64 {
                    return Err(Malformed::Long);
                }
                let key = list.small.get(head.length..).unwrap_or_default();
                if key.len() as u64 == length {
                    let quotes = matches!(key, b"message" | b"details");
                    list.at = match key {
                        b"items" => At::Items,
                        // Its columns may come behind them.
                        b"rows" if !list.begun => {
                            let mut scan = Scan::default();
                            scan.advance(self.outlet.whole(chunk, at + 1)?)?;
                            self.state = State::Object(scan);
                            return Ok(Step::To(at + 1));
                        }
                        // What has these is no list, and should have told so before.
                        b"rows" => return Err(Malformed::Form),
                        _ if quotes && list.begun && fields.hides_texts() => return Err(Malformed::Form),
                        _ => At::Value(Scan::default()),
                    };
                    list.small.clear();
                }
            }
            At::Items => {
                list.small.push(first);
                let Some(head) = Head::read(&list.small)? else {
                    return Ok(Step::To(at + 1));
                };
                list.small.clear();
                match (head.major, head.argument) {
                    (major::LIST, argument) => {
                        if !list.begun {
                            list.begun = true;
                            let before = self.outlet.whole(chunk, at + 1)?;
                            read_head(before, &mut self.items)?;
                            self.outlet.keep(at + 1);
                        }
                        return self.items(chunk, at + 1, argument.is(), fields, out);
                    }
                    // There may be none.
                    (major::SIMPLE, Argument::Is(22)) => return self.member(chunk, at + 1, fields, out),
                    _ => return Err(Malformed::Form),
                }
            }
            At::Value(scan) => {
                let Some(length) = scan.advance(rest)? else {
                    return Ok(Step::More);
                };
                return self.member(chunk, at + length, fields, out);
            }
            // A break.
            At::Item(None) if first == 0xff => return self.member(chunk, at + 1, fields, out),
            At::Item(left) => {
                list.at = At::InItem(left.map(|left| left.saturating_sub(1)), Scan::default());
                self.outlet.begin(at);
                return Ok(Step::To(at));
            }
            At::InItem(left, scan) => {
                let (left, Some(length)) = (*left, scan.advance(rest)?) else {
                    return Ok(Step::More);
                };
                self.whole(chunk, at + length, fields, out, Part::Item(self.items))?;
                return self.items(chunk, at + length, left, fields, out);
            }
        }
        Ok(Step::To(at + 1))
    }

    /// So many items come next.
    fn items<F: Fields>(
        &mut self,
        chunk: &Bytes,
        at: usize,
        left: Option<u64>,
        fields: &mut F,
        out: &mut Vec<Bytes>,
    ) -> Result<Step, Malformed> {
        if left == Some(0) {
            return self.member(chunk, at, fields, out);
        }
        if let State::List(list) = &mut self.state {
            list.at = At::Item(left);
        }
        Ok(Step::To(at))
    }

    /// A member of the list comes next, or it ends.
    fn member<F: Fields>(
        &mut self,
        chunk: &Bytes,
        at: usize,
        fields: &mut F,
        out: &mut Vec<Bytes>,
    ) -> Result<Step, Malformed> {
        let State::List(list) = &mut self.state else {
            return Err(Malformed::Form);
        };
        list.small.clear();
        list.at = At::Key;
        match &mut list.left {
            Some(0) => return self.end(chunk, at, fields, out),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(Step::To(at))
    }

    fn end<F: Fields>(
        &mut self,
        chunk: &Bytes,
        at: usize,
        fields: &mut F,
        out: &mut Vec<Bytes>,
    ) -> Result<Step, Malformed> {
        let state = std::mem::replace(&mut self.state, State::End);
        if matches!(state, State::List(List { begun: false, .. })) {
            // Without items it is no list, or an empty one.
            self.whole(chunk, at, fields, out, Part::Answer(self.items))?;
        }
        Ok(Step::To(at))
    }

    /// Goes over what ends here, and passes it on.
    fn whole<F: Fields>(
        &mut self,
        chunk: &Bytes,
        end: usize,
        fields: &mut F,
        out: &mut Vec<Bytes>,
        part: Part,
    ) -> Result<(), Malformed> {
        let columns = &mut self.columns;
        self.made.clear();
        let whole = self.outlet.whole(chunk, end)?;
        if walk(whole, fields, &mut self.made, |walk| walk.part(part, columns))? {
            self.outlet.replace(chunk, end, &self.made, out);
        } else {
            self.outlet.keep(end);
        }
        Ok(())
    }
}

impl Default for List {
    fn default() -> Self {
        Self {
            at: At::Map,
            left: None,
            small: Vec::new(),
            begun: false,
        }
    }
}

impl List {
    /// The head behind the tags that came, once it is there.
    fn untagged(&self) -> Result<Option<Head>, Malformed> {
        let mut rest = self.small.as_slice();
        for _ in 0..=MAX_TAGS {
            match Head::read(rest)? {
                Some(head) if head.major == major::TAG => rest = rest.get(head.length..).unwrap_or_default(),
                head => return Ok(head),
            }
        }
        Err(Malformed::Form)
    }
}

/// Reads what comes before the items: of what type they are, where that is told.
fn read_head(head: &[u8], items: &mut Type) -> Result<(), Malformed> {
    let mut cbor = Cbor { bytes: head, at: 0 };
    let (mut version, mut kind) = (Told::default(), Told::default());
    let Begin::Object(mut open) = cbor.begin()? else {
        return Err(Malformed::Form);
    };
    while let Some(key) = cbor.key(&mut open)? {
        match &*key {
            // The last one, of which nothing but its head is there.
            "items" if cbor.is_head() => break,
            "apiVersion" => version.tell(text(&mut cbor)?),
            "kind" => kind.tell(text(&mut cbor)?),
            _ => cbor.skip()?,
        }
    }
    let told = version.once().zip(kind.once());
    if let Some(of) = told.and_then(|(version, kind)| lookup(version, kind)) {
        *items = of.member("items").element();
    }
    Ok(())
}
