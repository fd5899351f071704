//! Rows of COPY TO STDOUT: section "File Formats" of COPY's page in PostgreSQL's documentation.
//!
//! CopyData messages may part rows anywhere, so rows are put together first. How far a row that isn't whole has been looked at is
//! kept, so that each byte is looked at once, however small the pieces are.

mod csv;

use self::csv::Csv;
use super::{Malformed, Part, take};

/// How rows are written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Lines, in which backslashes escape.
    Text {
        /// Between two columns.
        delimiter: u8,
        /// What stands for null. Where it is another than `\N`, a value may look like it: then nothing is taken for null, since it
        /// would tell which values do.
        null: Vec<u8>,
    },
    /// Comma-separated values.
    Csv {
        /// Between two columns.
        delimiter: u8,
        /// What stands for null, without quotes.
        null: Vec<u8>,
        /// Around a value.
        quote: u8,
        /// Before a quote in a value.
        escape: u8,
    },
    /// The server's own.
    Binary,
}

impl Layout {
    /// The server's default.
    #[must_use]
    pub fn text() -> Self {
        Self::Text {
            delimiter: b'\t',
            null: b"\\N".to_vec(),
        }
    }
}

/// Why rows can't be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// They aren't of their layout.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A row is longer than may be waited for.
    #[error("a row of COPY is longer than may be kept")]
    TooLong,
}

/// What stands at the beginning in binary format.
const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

/// Reads rows and writes them with some of their values replaced.
#[derive(Debug)]
pub struct CopyRows {
    layout: Layout,
    /// Whether a line with the columns' names is still to come. In binary format, whether the signature is.
    head: bool,
    /// The beginning of a row of which the end hasn't come.
    pending: Vec<u8>,
    seen: Seen,
    most: usize,
    /// How many columns a row has.
    columns: usize,
    ended: bool,
    plain: Vec<u8>,
    changed: Vec<u8>,
}

/// How far a row that isn't whole was looked at.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    place: usize,
    quoted: bool,
    escaped: bool,
    /// In binary format, how many columns are left; `None` before the row's count.
    columns: Option<u16>,
}

impl CopyRows {
    /// Before the first row. `head` says whether the columns' names come first; `most` bounds a row's length in bytes.
    #[must_use]
    pub fn new(layout: Layout, head: bool, columns: usize, most: usize) -> Self {
        Self {
            head: head || layout == Layout::Binary,
            layout,
            pending: Vec::new(),
            seen: Seen::default(),
            most,
            columns,
            ended: false,
            plain: Vec::new(),
            changed: Vec::new(),
        }
    }

    /// Memory that it holds, in bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.pending.capacity() + self.plain.capacity() + self.changed.capacity()
    }

    /// Takes the content of a CopyData message and writes the rows that are whole with it. The closure gets each value that
    /// isn't null, without quotes and escapes, and its column; `None` leaves it as it came. What is replaced stands in quotes in CSV:
    /// whether the value did tells of what was in it.
    ///
    /// Returns how many values were replaced.
    ///
    /// # Errors
    /// What isn't of the layout, a row of other columns than were told, or a row that is too long. Rows before it were written.
    pub fn data(
        &mut self,
        data: &[u8],
        out: &mut Vec<u8>,
        mut value: impl FnMut(usize, &[u8], &mut Vec<u8>) -> Option<Part>,
    ) -> Result<u64, CopyError> {
        // Rows mostly come whole: then nothing is kept.
        let mut pending = std::mem::take(&mut self.pending);
        let mut rest = if pending.is_empty() {
            data
        } else {
            pending.extend_from_slice(data);
            &pending
        };
        let mut masked = 0;
        while !rest.is_empty() {
            let Some(end) = self.row_end(rest)? else { break };
            self.seen = Seen::default();
            let (row, after) = rest.split_at_checked(end).ok_or(Malformed)?;
            rest = after;
            if self.head {
                self.head = false;
                out.extend_from_slice(row);
                continue;
            }
            masked += self.row(row, out, &mut value)?;
        }
        let left = rest.len();
        if left > self.most {
            return Err(CopyError::TooLong);
        }
        if pending.is_empty() {
            pending.extend_from_slice(data.get(data.len() - left..).unwrap_or_default());
        } else {
            pending.drain(..pending.len() - left);
        }
        self.pending = pending;
        Ok(masked)
    }

    /// Says that no more comes.
    ///
    /// # Errors
    /// When a row wasn't whole: it may not be written.
    pub fn end(&self) -> Result<(), Malformed> {
        let whole = self.pending.is_empty() && (self.layout != Layout::Binary || self.ended);
        if whole { Ok(()) } else { Err(Malformed) }
    }

    /// Where the first row ends.
    fn row_end(&mut self, rows: &[u8]) -> Result<Option<usize>, Malformed> {
        let rest = rows.get(self.seen.place..).ok_or(Malformed)?;
        match &self.layout {
            Layout::Text { .. } => {
                let end = memchr::memchr(b'\n', rest);
                self.seen.place = rows.len();
                Ok(end.map(|end| rows.len() - rest.len() + end + 1))
            }
            Layout::Csv { quote, escape, .. } => {
                let seen = &mut self.seen;
                for (place, byte) in rest.iter().enumerate() {
                    if seen.escaped {
                        seen.escaped = false;
                    } else if seen.quoted && byte == escape && escape != quote {
                        seen.escaped = true;
                    } else if byte == quote {
                        // A doubled quote ends and begins again.
                        seen.quoted = !seen.quoted;
                    } else if *byte == b'\n' && !seen.quoted {
                        return Ok(Some(seen.place + place + 1));
                    }
                }
                seen.place = rows.len();
                Ok(None)
            }
            Layout::Binary => self.binary_end(rows),
        }
    }

    fn binary_end(&mut self, rows: &[u8]) -> Result<Option<usize>, Malformed> {
        if self.ended {
            return Err(Malformed);
        }
        if self.head {
            let Some(head) = rows.get(..SIGNATURE.len() + 8) else {
                return Ok(None);
            };
            let mut rest = head.strip_prefix(SIGNATURE).ok_or(Malformed)?;
            let flags = u32::from_be_bytes(take(&mut rest)?);
            let extension = u32::from_be_bytes(take(&mut rest)?);
            // Flags in the upper half change what follows.
            if flags >> 16 != 0 || extension != 0 {
                return Err(Malformed);
            }
            return Ok(Some(head.len()));
        }
        let seen = &mut self.seen;
        loop {
            let mut rest = rows.get(seen.place..).ok_or(Malformed)?;
            match seen.columns {
                None => {
                    if rest.len() < 2 {
                        return Ok(None);
                    }
                    let count = i16::from_be_bytes(take(&mut rest)?);
                    seen.place += 2;
                    if count == -1 {
                        self.ended = true;
                        return Ok(Some(seen.place));
                    }
                    seen.columns = Some(u16::try_from(count).map_err(|_| Malformed)?);
                }
                Some(0) => return Ok(Some(seen.place)),
                Some(left) => {
                    if rest.len() < 4 {
                        return Ok(None);
                    }
                    let length = match i32::from_be_bytes(take(&mut rest)?) {
                        -1 => 0,
                        length => usize::try_from(length).map_err(|_| Malformed)?,
                    };
                    if rest.len() < length {
                        return Ok(None);
                    }
                    seen.place += 4 + length;
                    seen.columns = Some(left - 1);
                }
            }
        }
    }

    /// Writes one row.
    fn row(
        &mut self,
        row: &[u8],
        out: &mut Vec<u8>,
        value: &mut impl FnMut(usize, &[u8], &mut Vec<u8>) -> Option<Part>,
    ) -> Result<u64, Malformed> {
        let Self {
            layout,
            plain,
            changed,
            columns,
            ..
        } = self;
        match layout {
            Layout::Binary => binary_row(row, *columns, out, changed, value),
            // A row of no columns is an empty line.
            Layout::Text { .. } | Layout::Csv { .. } if *columns == 0 => {
                out.extend_from_slice(row);
                if row == b"\n" { Ok(0) } else { Err(Malformed) }
            }
            Layout::Text { delimiter, null } => {
                let line = row.strip_suffix(b"\n").ok_or(Malformed)?;
                let mut masked = 0;
                let mut rest = line;
                // No value is written so, since a backslash in one is doubled.
                let null_is_sure = null == b"\\N";
                for column in 1.. {
                    let (field, after) = split_text(rest, *delimiter);
                    if column > *columns || after.is_none() && column < *columns {
                        return Err(Malformed);
                    }
                    let column = column - 1;
                    if null_is_sure && field == null.as_slice() {
                        out.extend_from_slice(field);
                    } else {
                        let plain = unescape(field, plain);
                        changed.clear();
                        match value(column, plain, changed) {
                            None => out.extend_from_slice(field),
                            Some(Part::Null) => {
                                masked += 1;
                                out.extend_from_slice(null);
                            }
                            Some(Part::Value) => {
                                masked += 1;
                                put_text(out, changed, *delimiter);
                            }
                        }
                    }
                    match after {
                        Some(after) => {
                            out.push(*delimiter);
                            rest = after;
                        }
                        None => break,
                    }
                }
                out.push(b'\n');
                Ok(masked)
            }
            Layout::Csv {
                delimiter,
                null,
                quote,
                escape,
            } => {
                let csv = Csv {
                    delimiter: *delimiter,
                    null,
                    quote: *quote,
                    escape: *escape,
                };
                csv.row(row, *columns, out, plain, changed, value)
            }
        }
    }
}

/// The first field, and what follows the delimiter behind it.
fn split_text(line: &[u8], delimiter: u8) -> (&[u8], Option<&[u8]>) {
    let mut place = 0;
    loop {
        let rest = line.get(place..).unwrap_or_default();
        let Some(stop) = memchr::memchr2(delimiter, b'\\', rest) else {
            return (line, None);
        };
        place += stop;
        if line.get(place) == Some(&delimiter) {
            return (line.get(..place).unwrap_or_default(), line.get(place + 1..));
        }
        // What a backslash stands before is no delimiter.
        place = (place + 2).min(line.len());
    }
}

fn unescape<'a>(field: &'a [u8], plain: &'a mut Vec<u8>) -> &'a [u8] {
    if memchr::memchr(b'\\', field).is_none() {
        return field;
    }
    plain.clear();
    let mut bytes = field.iter();
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'b') => 8,
                Some(b'f') => 12,
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'v') => 11,
                Some(other) => *other,
                None => b'\\',
            },
            other => *other,
        });
    }
    plain
}

fn put_text(out: &mut Vec<u8>, value: &[u8], delimiter: u8) {
    for byte in value {
        let escaped = match byte {
            8 => b'b',
            12 => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            11 => b'v',
            b'\\' => b'\\',
            other if *other == delimiter => delimiter,
            other => {
                out.push(*other);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', escaped]);
    }
}

fn binary_row(
    row: &[u8],
    columns: usize,
    out: &mut Vec<u8>,
    changed: &mut Vec<u8>,
    value: &mut impl FnMut(usize, &[u8], &mut Vec<u8>) -> Option<Part>,
) -> Result<u64, Malformed> {
    let mut rest = row;
    let count: [u8; 2] = take(&mut rest)?;
    out.extend_from_slice(&count);
    let mut masked = 0;
    // The trailer has a count of -1 and no columns.
    let told = usize::try_from(i16::from_be_bytes(count));
    if told.is_ok_and(|told| told != columns) {
        return Err(Malformed);
    }
    for column in 0..told.unwrap_or(0) {
        let before = rest;
        let current = super::take_value(&mut rest)?;
        let raw = before.get(..before.len() - rest.len()).unwrap_or_default();
        changed.clear();
        match current.and_then(|current| value(column, current, changed)) {
            None => out.extend_from_slice(raw),
            Some(Part::Null) => {
                masked += 1;
                out.extend_from_slice(&(-1_i32).to_be_bytes());
            }
            Some(Part::Value) => {
                masked += 1;
                let length = i32::try_from(changed.len()).unwrap_or(i32::MAX);
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(changed);
            }
        }
    }
    if rest.is_empty() {
        Ok(masked)
    } else {
        Err(Malformed)
    }
}
