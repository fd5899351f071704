//! An answer's body as it comes.

use bytes::Bytes;

use super::{Json, Scan, is_of_scalar, is_space, item, unescape, walk};
use crate::kubernetes::outlet::Outlet;
use crate::kubernetes::schema::{Type, lookup};
use crate::kubernetes::walk::{Begin, Columns, Part, Syntax as _, Told, text};
use crate::kubernetes::{Fields, Malformed, Shape};

/// Keys of a list's own members are no longer than this.
const MAX_KEY: usize = 1024;

/// Finds the objects in a body in JSON, and passes it on piece by piece.
///
/// A list is passed on as it comes, but for the item that isn't whole yet. After an error nothing more may be passed on.
#[derive(Debug)]
pub struct Stream {
    shape: Shape,
    state: State,
    outlet: Outlet,
    columns: Columns,
    /// What the items of the list are, where they don't say it themselves.
    items: Type,
    /// What goes in place of an object.
    made: Vec<u8>,
}

#[derive(Debug)]
enum State {
    /// Before an object, or the next event.
    Before,
    /// In an object that is held whole.
    Object(Scan),
    /// In a list. What comes before its items is held until they begin: it may be something else.
    List(List),
    /// Nothing but spaces may come.
    End,
}

#[derive(Debug, Default)]
struct List {
    at: At,
    /// The key that was read last, as it is written.
    key: Vec<u8>,
    /// Whether items or rows have begun.
    begun: bool,
}

/// Where in a list the stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before a key. The list may end here before the first one.
    Key {
        first: bool,
    },
    /// In a key, maybe right behind a backslash.
    InKey {
        escape: bool,
    },
    Colon,
    Value,
    InValue(Scan),
    InScalar,
    AfterValue,
    /// Before an item. They may end here before the first one.
    Item {
        row: bool,
        first: bool,
    },
    InItem {
        row: bool,
        scan: Scan,
    },
    AfterItem {
        row: bool,
    },
}

impl Default for At {
    fn default() -> Self {
        Self::Key { first: true }
    }
}

/// What became of a step.
enum Step {
    /// It goes on behind so many bytes.
    To(usize),
    /// The rest of the piece belongs to what the stream is in.
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
    /// When the body isn't JSON of that shape, or an object in it is too large or too deep.
    pub fn feed<F: Fields>(
        &mut self,
        chunk: &Bytes,
        fields: &mut F,
        out: &mut Vec<Bytes>,
    ) -> Result<(), Malformed> {
        // Of a text that begins or ends within a character, items are put together first.
        let text = match std::str::from_utf8(chunk) {
            Ok(text) => text,
            Err(error) => {
                let valid = chunk.get(..error.valid_up_to()).unwrap_or_default();
                std::str::from_utf8(valid).unwrap_or_default()
            }
        };
        let mut at = 0;
        while let Some(rest) = chunk.get(at..).filter(|rest| !rest.is_empty()) {
            if let Some(item) = text.get(at..)
                && let Some(length) = self.whole_item(chunk, at, item, fields, out)?
            {
                at += length;
                continue;
            }
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

    /// The body ended. In JSON nothing is left then; the arguments are those of other formats.
    ///
    /// # Errors
    /// When it ended in the middle of something.
    pub fn finish<F: Fields>(&mut self, _fields: &mut F, _out: &mut Vec<Bytes>) -> Result<(), Malformed> {
        match self.state {
            State::Before | State::End => Ok(()),
            State::Object(_) | State::List(_) => Err(Malformed::Form),
        }
    }

    /// Goes over an item, if one begins here and is there as a whole: returns how long it is. This saves looking for its end first.
    fn whole_item<F: Fields>(
        &mut self,
        chunk: &Bytes,
        at: usize,
        text: &str,
        fields: &mut F,
        out: &mut Vec<Bytes>,
    ) -> Result<Option<usize>, Malformed> {
        let State::List(list) = &mut self.state else {
            return Ok(None);
        };
        if !matches!(list.at, At::Item { row: false, .. }) || !text.starts_with('{') {
            return Ok(None);
        }
        self.made.clear();
        let Some((length, changed)) = item(text, self.items, fields, &mut self.made)? else {
            return Ok(None);
        };
        list.at = At::AfterItem { row: false };
        if changed {
            self.outlet.begin(at);
            self.outlet.replace(chunk, at + length, &self.made, out);
        }
        Ok(Some(length))
    }

    fn step<F: Fields>(
        &mut self,
        chunk: &Bytes,
        at: usize,
        rest: &[u8],
        fields: &mut F,
        out: &mut Vec<Bytes>,
    ) -> Result<Step, Malformed> {
        match (&mut self.state, rest.first().copied()) {
            (State::Before | State::End, Some(byte)) if is_space(byte) => Ok(Step::To(at + 1)),
            (State::Before, Some(b'{')) => {
                self.outlet.begin(at);
                if self.shape == Shape::List {
                    self.state = State::List(List::default());
                    return Ok(Step::To(at + 1));
                }
                self.state = State::Object(Scan::default());
                Ok(Step::To(at))
            }
            (State::Object(scan), _) => {
                let Some(length) = scan.advance(rest)? else {
                    return Ok(Step::More);
                };
                if self.shape == Shape::Watch {
                    self.state = State::Before;
                    self.whole(chunk, at + length, fields, out, Part::Event(self.items))?;
                } else {
                    self.state = State::End;
                    self.whole(chunk, at + length, fields, out, Part::Answer(self.items))?;
                }
                Ok(Step::To(at + length))
            }
            (State::List(list), Some(byte)) => {
                let spaces = matches!(
                    list.at,
                    At::Key { .. }
                        | At::Colon
                        | At::Value
                        | At::AfterValue
                        | At::Item { .. }
                        | At::AfterItem { .. }
                );
                if spaces && is_space(byte) {
                    return Ok(Step::To(at + 1));
                }
                match &mut list.at {
                    At::InItem { row, scan } => {
                        let (row, Some(length)) = (*row, scan.advance(rest)?) else {
                            return Ok(Step::More);
                        };
                        list.at = At::AfterItem { row };
                        let part = if row { Part::Row } else { Part::Item(self.items) };
                        self.whole(chunk, at + length, fields, out, part)?;
                        Ok(Step::To(at + length))
                    }
                    At::Value => self.value(chunk, at, byte, fields),
                    _ => self.between(chunk, at, byte, rest, fields, out),
                }
            }
            _ => Err(Malformed::Form),
        }
    }

    /// Goes over an object that ends here, and passes it on.
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

    /// A value of the list's own begins.
    fn value<F: Fields>(
        &mut self,
        chunk: &Bytes,
        at: usize,
        byte: u8,
        fields: &F,
    ) -> Result<Step, Malformed> {
        let State::List(list) = &mut self.state else {
            return Err(Malformed::Form);
        };
        let raw = std::str::from_utf8(&list.key).map_err(|_| Malformed::Form)?;
        let key = unescape(raw)?;
        match (key.as_str(), byte) {
            ("items" | "rows", b'[') => {
                list.at = At::Item {
                    row: key == "rows",
                    first: true,
                };
                if !list.begun {
                    list.begun = true;
                    let head = self.outlet.whole(chunk, at + 1)?;
                    read_head(head, &mut self.items, &mut self.columns)?;
                    self.outlet.keep(at + 1);
                }
                return Ok(Step::To(at + 1));
            }
            // There may be none.
            ("items" | "rows", byte) if byte != b'n' => return Err(Malformed::Form),
            // What has these is no list, and should have told so before.
            ("message" | "details", _) if list.begun && fields.hides_texts() => return Err(Malformed::Form),
            (_, b'{' | b'[' | b'"') => list.at = At::InValue(Scan::default()),
            (_, byte) if is_of_scalar(byte) => list.at = At::InScalar,
            _ => return Err(Malformed::Form),
        }
        Ok(Step::To(at))
    }

    /// What is neither an item nor the beginning of a value.
    fn between<F: Fields>(
        &mut self,
        chunk: &Bytes,
        at: usize,
        byte: u8,
        rest: &[u8],
        fields: &mut F,
        out: &mut Vec<Bytes>,
    ) -> Result<Step, Malformed> {
        let State::List(list) = &mut self.state else {
            return Err(Malformed::Form);
        };
        match (&mut list.at, byte) {
            (At::Key { .. }, b'"') => {
                list.key.clear();
                list.at = At::InKey { escape: false };
            }
            (At::Key { first: true } | At::AfterValue, b'}') => {
                let begun = list.begun;
                self.state = State::End;
                if !begun {
                    // Without items it is no list, or an empty one.
                    self.whole(chunk, at + 1, fields, out, Part::Answer(self.items))?;
                }
            }
            (At::AfterValue, b',') => list.at = At::Key { first: false },
            (At::InKey { escape: false }, b'"') => list.at = At::Colon,
            (At::InKey { escape }, byte) => {
                *escape = !*escape && byte == b'\\';
                if byte < b' ' {
                    return Err(Malformed::Form);
                }
                if list.key.len() == MAX_KEY {
                    return Err(Malformed::Long);
                }
                list.key.push(byte);
            }
            (At::Colon, b':') => list.at = At::Value,
            (At::InValue(scan), _) => {
                let Some(length) = scan.advance(rest)? else {
                    return Ok(Step::More);
                };
                list.at = At::AfterValue;
                return Ok(Step::To(at + length));
            }
            (At::InScalar, byte) if is_of_scalar(byte) => {}
            (At::InScalar, _) => {
                list.at = At::AfterValue;
                return Ok(Step::To(at));
            }
            (At::Item { first: true, .. } | At::AfterItem { .. }, b']') => list.at = At::AfterValue,
            (At::AfterItem { row }, b',') => {
                list.at = At::Item {
                    row: *row,
                    first: false,
                };
            }
            (At::Item { row, .. }, b'{') => {
                list.at = At::InItem {
                    row: *row,
                    scan: Scan::default(),
                };
                self.outlet.begin(at);
                return Ok(Step::To(at));
            }
            _ => return Err(Malformed::Form),
        }
        Ok(Step::To(at + 1))
    }
}

/// Reads what comes before the items, up to the bracket: of what type they are, where that is told, and a table's columns.
fn read_head(head: &[u8], items: &mut Type, columns: &mut Columns) -> Result<(), Malformed> {
    let mut json = Json::new(head)?;
    let (mut version, mut kind) = (Told::default(), Told::default());
    let Begin::Object(mut open) = json.begin()? else {
        return Err(Malformed::Form);
    };
    let mut defined = false;
    while let Some(key) = json.key(&mut open)? {
        match &*key {
            // The last one, of which nothing is there yet.
            "items" | "rows" if json.rest().trim_ascii() == b"[" => break,
            "apiVersion" => version.tell(text(&mut json)?),
            "kind" => kind.tell(text(&mut json)?),
            "columnDefinitions" => {
                let found = Columns::read(&mut json)?;
                *columns = if std::mem::replace(&mut defined, true) {
                    Columns::default()
                } else {
                    found.unwrap_or_default()
                };
            }
            _ => json.skip()?,
        }
    }
    let told = version.once().zip(kind.once());
    if let Some(of) = told.and_then(|(version, kind)| lookup(version, kind)) {
        *items = of.member("items").element();
    }
    Ok(())
}

#[cfg(test)]
mod tests;
