//! What servers send: section "Message Formats", those marked (B).

use super::DecodeError;
use super::cursor::Cursor;

/// ParameterStatus (B).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterStatus<'a> {
    /// The setting's name.
    pub name: &'a [u8],
    /// Its value now.
    pub value: &'a [u8],
}

impl<'a> ParameterStatus<'a> {
    /// Reads the body.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(b'S', body);
        let name = cursor.text()?;
        let value = cursor.text()?;
        cursor.finish()?;
        Ok(Self { name, value })
    }
}

/// NotificationResponse (B). Debug shows no payload, since it may hold values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NotificationResponse<'a> {
    /// The process that notifies.
    pub process: u32,
    /// The channel.
    pub channel: &'a [u8],
    /// What it says.
    pub payload: &'a [u8],
}

impl std::fmt::Debug for NotificationResponse<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NotificationResponse({})", self.process)
    }
}

impl<'a> NotificationResponse<'a> {
    /// Reads the body, whole.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(b'A', body);
        let process = cursor.u32()?;
        let channel = cursor.text()?;
        let payload = cursor.text()?;
        cursor.finish()?;
        Ok(Self {
            process,
            channel,
            payload,
        })
    }
}

/// ReadyForQuery (B).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadyForQuery {
    status: u8,
}

impl ReadyForQuery {
    /// Reads the body.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(b'Z', body);
        let status = cursor.u8()?;
        if !matches!(status, b'I' | b'T' | b'E') {
            return Err(cursor.bad("transaction status"));
        }
        cursor.finish()?;
        Ok(Self { status })
    }

    /// Whether no transaction is open.
    #[must_use]
    pub fn is_idle(self) -> bool {
        self.status == b'I'
    }
}

/// CommandComplete (B).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandComplete<'a> {
    /// The command's tag, such as `SELECT 3`.
    pub tag: &'a [u8],
}

impl<'a> CommandComplete<'a> {
    /// Reads the body.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(b'C', body);
        let tag = cursor.text()?;
        cursor.finish()?;
        Ok(Self { tag })
    }

    /// The number of rows, where the command has one.
    #[must_use]
    pub fn rows(&self) -> Option<u64> {
        let last = self.tag.rsplit(|byte| *byte == b' ').next()?;
        std::str::from_utf8(last).ok()?.parse().ok()
    }
}

/// RowDescription (B).
#[derive(Debug, Clone, Copy)]
pub struct RowDescription<'a> {
    count: usize,
    cursor: Cursor<'a>,
}

/// One column of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its name, which an alias may have given it.
    pub name: &'a [u8],
    /// The table that it comes from; 0 where it is computed.
    pub table_oid: u32,
    /// Its number in that table; 0 where it is computed.
    pub attnum: i16,
    /// Its type.
    pub type_oid: u32,
    /// 0 for text, 1 for binary.
    pub format: i16,
}

impl<'a> RowDescription<'a> {
    /// Reads the body, whole.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(b'T', body);
        let count = cursor.count("field count")?;
        let description = Self { count, cursor };
        for _ in 0..count {
            Self::field(&mut cursor)?;
        }
        cursor.finish()?;
        Ok(description)
    }

    /// The columns, in order.
    pub fn fields(&self) -> impl Iterator<Item = Result<Field<'a>, DecodeError>> + use<'a> {
        let mut cursor = self.cursor;
        (0..self.count).map(move |_| Self::field(&mut cursor))
    }

    fn field(cursor: &mut Cursor<'a>) -> Result<Field<'a>, DecodeError> {
        let name = cursor.text()?;
        let table_oid = cursor.u32()?;
        let attnum = cursor.i16()?;
        let type_oid = cursor.u32()?;
        let _size = cursor.i16()?;
        let _modifier = cursor.i32()?;
        let format = cursor.i16()?;
        Ok(Field {
            name,
            table_oid,
            attnum,
            type_oid,
            format,
        })
    }
}

/// CopyOutResponse (B).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyOutResponse {
    /// Whether rows come in binary format.
    pub binary: bool,
    /// How many columns a row has.
    pub columns: usize,
}

impl CopyOutResponse {
    /// Reads the body, whole. All columns are of the rows' format.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(b'H', body);
        let format = cursor.u8()?;
        let columns = cursor.count("column count")?;
        for _ in 0..columns {
            if cursor.i16()? != i16::from(format) {
                return Err(cursor.bad("column format"));
            }
        }
        let binary = match format {
            0 => false,
            1 => true,
            _ => return Err(cursor.bad("format")),
        };
        cursor.finish()?;
        Ok(Self { binary, columns })
    }
}

/// DataRow (B).
#[derive(Debug, Clone, Copy)]
pub struct DataRow<'a> {
    count: usize,
    cursor: Cursor<'a>,
}

impl<'a> DataRow<'a> {
    /// Reads the body, whole.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(b'D', body);
        let count = cursor.wide_count()?;
        let row = Self { count, cursor };
        for _ in 0..count {
            cursor.value()?;
        }
        cursor.finish()?;
        Ok(row)
    }

    /// How many values there are.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.count
    }

    /// The values, in order; `None` is null.
    pub fn values(&self) -> impl Iterator<Item = Result<Option<&'a [u8]>, DecodeError>> + use<'a> {
        let mut cursor = self.cursor;
        (0..self.count).map(move |_| cursor.value())
    }
}

/// ErrorResponse or NoticeResponse (B). Debug shows no text, since texts quote values.
#[derive(Clone, Copy)]
pub struct ErrorFields<'a> {
    body: &'a [u8],
}

impl std::fmt::Debug for ErrorFields<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ErrorFields({})", String::from_utf8_lossy(&self.sqlstate()))
    }
}

impl<'a> ErrorFields<'a> {
    /// Reads the body, whole.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(b'E', body);
        while cursor.u8()? != 0 {
            cursor.text()?;
        }
        cursor.finish()?;
        Ok(Self { body })
    }

    /// A field by its code: section "Error and Notice Message Fields".
    #[must_use]
    pub fn field(&self, code: u8) -> Option<&'a [u8]> {
        let mut cursor = Cursor::new(b'E', self.body);
        loop {
            match cursor.u8() {
                Ok(0) | Err(_) => return None,
                Ok(found) => {
                    let text = cursor.text().ok()?;
                    if found == code {
                        return Some(text);
                    }
                }
            }
        }
    }

    /// All fields with their codes, in order.
    pub fn all(&self) -> impl Iterator<Item = (u8, &'a [u8])> + use<'a> {
        let mut cursor = Cursor::new(b'E', self.body);
        std::iter::from_fn(move || match cursor.u8() {
            Ok(0) | Err(_) => None,
            Ok(code) => Some((code, cursor.text().ok()?)),
        })
    }

    /// The SQLSTATE; `XX000` where there is none.
    #[must_use]
    pub fn sqlstate(&self) -> [u8; 5] {
        self.field(b'C')
            .and_then(|code| code.try_into().ok())
            .unwrap_or(*b"XX000")
    }

    /// The severity, in English where the server gives that.
    #[must_use]
    pub fn severity(&self) -> &'a [u8] {
        self.field(b'V').or_else(|| self.field(b'S')).unwrap_or(b"ERROR")
    }

    /// Whether the server closes the connection after it.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity(), b"FATAL" | b"PANIC")
    }
}
