//! What the API server answers with beside objects: `Status`, `Table` and the events of watches.

use super::told::{Index, Member, Told};
use super::{Begin, Fields, Is, Leaf, Literal, Malformed, Syntax, Type, Walk, text};

/// What stands in place of a message that may quote a value.
pub(in super::super) const WITHHELD: &str = "withheld: it may quote a masked value";

/// What stands in place of a cell that holds text.
pub(in super::super) const CELL: &str = "[masked]";

/// Reasons of failures whose messages name objects and fields, but quote no values.
pub(in super::super) const QUOTE_NOTHING: &[&str] = &[
    "AlreadyExists",
    "Conflict",
    "Expired",
    "Gone",
    "MethodNotAllowed",
    "NotAcceptable",
    "NotFound",
    "ServerTimeout",
    "Timeout",
    "TooManyRequests",
    "Unauthorized",
    "UnsupportedMediaType",
];

/// What is there as a whole.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Part {
    /// An answer. Objects in it are of this type, where they don't say it themselves.
    Answer(Type),
    /// An event of a watch, with the same.
    Event(Type),
    /// An item of a list, with the same.
    Item(Type),
    /// A row of a table.
    Row,
}

/// The columns of a table, as far as they are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Columns(Option<Vec<Column>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    /// Names of objects, which are shown.
    Name,
    Text,
    Other,
}

/// More columns than this no table has.
const MAX_COLUMNS: usize = 1024;

impl Columns {
    /// Reads the definitions that come next. `None` where there are none, as in all events of a watch but the first.
    pub(in super::super) fn read<'s, S: Syntax<'s>>(syntax: &mut S) -> Result<Option<Self>, Malformed> {
        let mark = syntax.mark();
        let Begin::List(mut open) = syntax.begin()? else {
            syntax.go(mark);
            syntax.skip()?;
            return Ok(None);
        };
        let mut all = Vec::new();
        while syntax.more(&mut open)? {
            if all.len() == MAX_COLUMNS {
                return Err(Malformed::Long);
            }
            let Begin::Object(mut open) = syntax.begin()? else {
                return Err(Malformed::Form);
            };
            let (mut kind, mut format) = (Told::default(), Told::default());
            while let Some(key) = syntax.key(&mut open)? {
                match &*key {
                    "type" => kind.tell(text(syntax)?),
                    "format" => format.tell(text(syntax)?),
                    _ => syntax.skip()?,
                }
            }
            all.push(match (kind.once(), format.once()) {
                (Some("string"), Some("name")) => Column::Name,
                (Some("string"), _) => Column::Text,
                _ => Column::Other,
            });
        }
        Ok(Some(all).filter(|all| !all.is_empty()).map(|all| Self(Some(all))))
    }

    fn get(&self, index: usize) -> Option<Column> {
        self.0.as_ref()?.get(index).copied()
    }
}

impl<'s, S: Syntax<'s>, F: Fields> Walk<'_, 's, S, F> {
    /// Goes over what is there.
    pub(in super::super) fn part(&mut self, part: Part, columns: &mut Columns) -> Result<(), Malformed> {
        match part {
            Part::Answer(of) => self.answer(of, columns),
            Part::Event(of) => self.event(of, columns),
            Part::Item(of) => self.object(None, Is::Told(of)),
            Part::Row => self.row(columns),
        }
    }

    /// Goes over an answer: an object, a `Status` or a `Table`. These two are told by their versions, too: a custom resource may have
    /// their names.
    fn answer(&mut self, of: Type, columns: &mut Columns) -> Result<(), Malformed> {
        let index = self.index()?;
        match (index.version.once(), index.kind.once()) {
            (Some("v1"), Some("Status")) => self.status(&index),
            (Some("meta.k8s.io/v1" | "meta.k8s.io/v1beta1"), Some("Table")) => self.table(&index, columns),
            (_, kind) => {
                let lists = kind.is_none_or(|kind| kind.ends_with("List"));
                self.indexed(&index, None, Is::Told(of), lists)
            }
        }
    }

    /// Goes over an event of a watch.
    fn event(&mut self, of: Type, columns: &mut Columns) -> Result<(), Malformed> {
        let Begin::Object(open) = self.syntax.begin()? else {
            return Err(Malformed::Form);
        };
        let mut kind = Told::default();
        let members = self.members(open, |walk, key| {
            match key {
                "type" => kind.tell(text(&mut walk.syntax)?),
                _ => walk.syntax.skip()?,
            }
            Ok(None)
        })?;
        let end = self.syntax.mark();
        for member in members.iter().filter(|member| member.key == "object") {
            self.syntax.go(member.mark);
            if kind.once() == Some("BOOKMARK") {
                // It has a version, and nothing of an object. A table's columns may stand in it.
                let index = self.index()?;
                self.columns(&index.members, columns)?;
            } else {
                self.answer(of, columns)?;
            }
        }
        self.syntax.go(end);
        Ok(())
    }

    /// Goes over a row of a table.
    fn row(&mut self, columns: &Columns) -> Result<(), Malformed> {
        let Begin::Object(mut open) = self.syntax.begin()? else {
            return Err(Malformed::Form);
        };
        while let Some(key) = self.syntax.key(&mut open)? {
            match &*key {
                "cells" if self.fields.hides_cells() => self.cells(columns)?,
                "object" => {
                    let mark = self.syntax.mark();
                    if !matches!(self.syntax.begin()?, Begin::Leaf(Leaf::Null)) {
                        self.syntax.go(mark);
                        self.object(None, Is::Told(Type::UNKNOWN))?;
                    }
                }
                _ => self.syntax.skip()?,
            }
        }
        Ok(())
    }

    /// Learns what columns a table has, from its members. Where they say nothing, what was known stays.
    fn columns(&mut self, members: &[Member<'s, S::Mark>], columns: &mut Columns) -> Result<(), Malformed> {
        let mut found = members.iter().filter(|member| member.key == "columnDefinitions");
        let Some(member) = found.next() else {
            return Ok(());
        };
        if found.next().is_some() {
            *columns = Columns::default();
            return Ok(());
        }
        let end = self.syntax.mark();
        self.syntax.go(member.mark);
        if let Some(found) = Columns::read(&mut self.syntax)? {
            *columns = found;
        }
        self.syntax.go(end);
        Ok(())
    }

    fn cells(&mut self, columns: &Columns) -> Result<(), Malformed> {
        let mark = self.syntax.mark();
        let Begin::List(mut open) = self.syntax.begin()? else {
            self.syntax.go(mark);
            return self.syntax.skip();
        };
        let mut index = 0;
        while self.syntax.more(&mut open)? {
            let column = columns.get(index);
            index += 1;
            let mark = self.syntax.mark();
            let begun = self.syntax.begin()?;
            let shown = match (column, &begun) {
                (Some(Column::Name), _) | (_, Begin::Leaf(Leaf::Null)) => true,
                (Some(Column::Text) | None, Begin::Leaf(Leaf::Text(_))) => {
                    self.put(mark, |out| S::text(out, CELL));
                    continue;
                }
                _ => false,
            };
            if let Begin::Object(_) | Begin::List(_) = begun {
                self.syntax.go(mark);
                self.syntax.skip()?;
            }
            if !shown {
                self.put(mark, |out| S::literal(out, Literal::NULL));
            }
        }
        Ok(())
    }

    fn table(&mut self, index: &Index<'s, S::Mark>, columns: &mut Columns) -> Result<(), Malformed> {
        self.columns(&index.members, columns)?;
        let end = self.syntax.mark();
        for member in index.members.iter().filter(|member| member.key == "rows") {
            self.syntax.go(member.mark);
            if let Begin::List(mut open) = self.syntax.begin()? {
                while self.syntax.more(&mut open)? {
                    self.row(columns)?;
                }
            }
        }
        self.syntax.go(end);
        Ok(())
    }

    fn status(&mut self, index: &Index<'s, S::Mark>) -> Result<(), Malformed> {
        if !self.fields.hides_texts() {
            return Ok(());
        }
        let end = self.syntax.mark();
        let (mut status, mut reason) = (Told::default(), Told::default());
        for member in &index.members {
            self.syntax.go(member.mark);
            match &*member.key {
                "status" => status.tell(text(&mut self.syntax)?),
                "reason" => reason.tell(text(&mut self.syntax)?),
                _ => {}
            }
        }
        let harmless = status.once() == Some("Success")
            || reason
                .once()
                .is_some_and(|reason| QUOTE_NOTHING.contains(&reason));
        for member in index.members.iter().filter(|_| !harmless) {
            self.syntax.go(member.mark);
            match &*member.key {
                "message" => self.withhold()?,
                "details" => self.causes()?,
                _ => {}
            }
        }
        self.syntax.go(end);
        Ok(())
    }

    fn causes(&mut self) -> Result<(), Malformed> {
        let Begin::Object(mut details) = self.syntax.begin()? else {
            return Ok(());
        };
        while let Some(key) = self.syntax.key(&mut details)? {
            if key != "causes" {
                self.syntax.skip()?;
                continue;
            }
            let mark = self.syntax.mark();
            let Begin::List(mut causes) = self.syntax.begin()? else {
                self.syntax.go(mark);
                self.syntax.skip()?;
                continue;
            };
            while self.syntax.more(&mut causes)? {
                let Begin::Object(mut cause) = self.syntax.begin()? else {
                    return Err(Malformed::Form);
                };
                while let Some(key) = self.syntax.key(&mut cause)? {
                    if key == "message" {
                        self.withhold()?;
                    } else {
                        self.syntax.skip()?;
                    }
                }
            }
        }
        Ok(())
    }

    fn withhold(&mut self) -> Result<(), Malformed> {
        let mark = self.syntax.mark();
        match self.syntax.begin()? {
            Begin::Leaf(Leaf::Null) => {}
            Begin::Leaf(_) => self.put(mark, |out| S::text(out, WITHHELD)),
            // A message is a text. What else might be here may quote as well.
            Begin::Object(_) | Begin::List(_) => return Err(Malformed::Form),
        }
        Ok(())
    }
}
