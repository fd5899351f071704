//! An answer's body as it comes.

use bytes::Bytes;

use super::{Yaml, walk};
use crate::kubernetes::outlet::Outlet;
use crate::kubernetes::schema::{Type, lookup};
use crate::kubernetes::walk::{Begin, Columns, Part, Syntax as _, Told, text};
use crate::kubernetes::{Fields, Malformed, Shape};

/// The line of a list's own that matters is short; of others the beginning is enough.
const MAX_LINE: usize = 16;

/// Finds the objects in a body in YAML, and passes it on piece by piece.
///
/// The server writes a list's items below `items:`, each from a dash at the line's beginning to the next one. After an error nothing
/// more may be passed on.
#[derive(Debug)]
pub struct Stream {
    shape: Shape,
    state: State,
    outlet: Outlet,
    columns: Columns,
    items: Type,
    /// The line of the list's own that came last.
    line: Vec<u8>,
    /// Whether the next byte begins a line.
    begins: bool,
    made: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Before,
    /// What may be a list, of which no item has come.
    Head,
    Item,
    Row,
    /// Behind items.
    Tail,
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
            line: Vec::new(),
            begins: true,
            made: Vec::new(),
        }
    }

    /// The same, where it is known of what type the items of a list are. In YAML a list's kind stands behind its items.
    #[must_use]
    pub fn of(mut self, items: Type) -> Self {
        self.items = items;
        self
    }

    /// Takes the next piece of the body. What can be passed on of it, and of those before it, is added to `out`.
    ///
    /// # Errors
    /// When the body isn't YAML of that shape, or an object in it is too large or too deep.
    pub fn feed<F: Fields>(
        &mut self,
        chunk: &Bytes,
        fields: &mut F,
        out: &mut Vec<Bytes>,
    ) -> Result<(), Malformed> {
        if self.shape == Shape::Watch {
            // There are none in YAML.
            return Err(Malformed::Kind);
        }
        for (at, byte) in chunk.iter().enumerate() {
            if self.state == State::Before {
                self.outlet.begin(at);
                self.state = State::Head;
            }
            if std::mem::replace(&mut self.begins, *byte == b'\n') && self.shape == Shape::List {
                self.begin_line(chunk, at, *byte, fields, out)?;
            }
            if matches!(self.state, State::Head | State::Tail) && self.line.len() < MAX_LINE {
                self.line.push(*byte);
                // What has these is no list, and should have told so before.
                let quotes = matches!(self.line.as_slice(), b"message:" | b"details:");
                if quotes && self.state == State::Tail && fields.hides_texts() {
                    return Err(Malformed::Form);
                }
            }
        }
        self.outlet.end(chunk, out)
    }

    /// Memory that it keeps between two pieces, in bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.outlet.held() + self.made.capacity() + self.line.capacity()
    }

    /// The body ended: passes on what is left.
    ///
    /// # Errors
    /// As with [`feed`](Self::feed).
    pub fn finish<F: Fields>(&mut self, fields: &mut F, out: &mut Vec<Bytes>) -> Result<(), Malformed> {
        let nothing = Bytes::new();
        match self.state {
            State::Before | State::Tail => {}
            State::Head => self.whole(&nothing, 0, fields, out, Part::Answer(self.items))?,
            State::Item | State::Row => self.end_item(&nothing, 0, fields, out)?,
        }
        self.outlet.end(&nothing, out)
    }

    fn begin_line<F: Fields>(
        &mut self,
        chunk: &Bytes,
        at: usize,
        byte: u8,
        fields: &mut F,
        out: &mut Vec<Bytes>,
    ) -> Result<(), Malformed> {
        match (byte, self.state) {
            // It goes on with what came before.
            (b' ' | b'\n' | b'\r' | b'#', _) => return Ok(()),
            (b'-', State::Head | State::Tail) => {
                let state = match self.line.trim_ascii_end() {
                    b"items:" => State::Item,
                    b"rows:" => State::Row,
                    // Another list, which is none of items.
                    _ => return Ok(()),
                };
                if self.state == State::Head {
                    let head = self.outlet.whole(chunk, at)?;
                    read_head(head, &mut self.items, &mut self.columns)?;
                    self.outlet.keep(at);
                }
                self.outlet.begin(at);
                self.state = state;
            }
            (b'-', State::Item | State::Row) => {
                self.end_item(chunk, at, fields, out)?;
                self.outlet.begin(at);
            }
            (_, State::Item | State::Row) => {
                self.end_item(chunk, at, fields, out)?;
                self.state = State::Tail;
            }
            _ => {}
        }
        self.line.clear();
        Ok(())
    }

    fn end_item<F: Fields>(
        &mut self,
        chunk: &Bytes,
        end: usize,
        fields: &mut F,
        out: &mut Vec<Bytes>,
    ) -> Result<(), Malformed> {
        let part = if self.state == State::Row {
            Part::Row
        } else {
            Part::Item(self.items)
        };
        self.whole(chunk, end, fields, out, part)
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
        let changed = walk(whole, fields, &mut self.made, |walk| {
            if matches!(part, Part::Answer(_)) {
                return walk.part(part, columns);
            }
            // A list of one.
            let Begin::List(mut open) = walk.syntax().begin()? else {
                return Err(Malformed::Form);
            };
            while walk.syntax().more(&mut open)? {
                walk.part(part, columns)?;
            }
            Ok(())
        })?;
        if changed {
            self.outlet.replace(chunk, end, &self.made, out);
        } else {
            self.outlet.keep(end);
        }
        Ok(())
    }
}

/// Reads what comes before the items: of what type they are, where that is told, and a table's columns.
fn read_head(head: &[u8], items: &mut Type, columns: &mut Columns) -> Result<(), Malformed> {
    let mut yaml = Yaml::new(head)?;
    let (mut version, mut kind) = (Told::default(), Told::default());
    let Begin::Object(mut open) = yaml.begin()? else {
        return Err(Malformed::Form);
    };
    let mut defined = false;
    while let Some(key) = yaml.key(&mut open)? {
        match &*key {
            "apiVersion" => version.tell(text(&mut yaml)?),
            "kind" => kind.tell(text(&mut yaml)?),
            "columnDefinitions" => {
                let found = Columns::read(&mut yaml)?;
                *columns = if std::mem::replace(&mut defined, true) {
                    Columns::default()
                } else {
                    found.unwrap_or_default()
                };
            }
            _ => yaml.skip()?,
        }
    }
    let told = version.once().zip(kind.once());
    if let Some(of) = told.and_then(|(version, kind)| lookup(version, kind)) {
        *items = of.member("items").element();
    }
    Ok(())
}
