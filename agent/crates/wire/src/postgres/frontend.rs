//! What clients send once they are connected: section "Message Formats", those marked (F).

use super::DecodeError;
use super::cursor::Cursor;
use super::frame::HEADER;

/// Query (F): a simple query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<'a> {
    /// The text: any number of statements.
    pub text: &'a [u8],
}

impl<'a> Query<'a> {
    /// Reads the body.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(b'Q', body);
        let text = cursor.text()?;
        cursor.finish()?;
        Ok(Self { text })
    }
}

/// Parse (F): makes a prepared statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parse<'a> {
    /// The statement's name; empty for the unnamed one.
    pub statement: &'a [u8],
    /// The text: one statement.
    pub query: &'a [u8],
    /// How many parameters have their type given.
    pub typed_parameters: usize,
}

impl<'a> Parse<'a> {
    /// Reads the body.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(b'P', body);
        let statement = cursor.text()?;
        let query = cursor.text()?;
        let typed_parameters = cursor.wide_count()?;
        cursor.bytes(typed_parameters * 4)?;
        cursor.finish()?;
        Ok(Self {
            statement,
            query,
            typed_parameters,
        })
    }
}

/// Bind (F): makes a portal of a prepared statement. Its values are not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind<'a> {
    /// The portal's name; empty for the unnamed one.
    pub portal: &'a [u8],
    /// The statement's name.
    pub statement: &'a [u8],
    /// Formats of the result's columns, two bytes each: see [`is_binary`](super::content::is_binary).
    pub result_formats: &'a [u8],
}

impl<'a> Bind<'a> {
    /// Reads the body.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(b'B', body);
        let portal = cursor.text()?;
        let statement = cursor.text()?;
        let formats = cursor.wide_count()?;
        cursor.bytes(formats * 2)?;
        for _ in 0..cursor.wide_count()? {
            cursor.value()?;
        }
        let results = cursor.wide_count()?;
        let result_formats = cursor.bytes(results * 2)?;
        cursor.finish()?;
        Ok(Self {
            portal,
            statement,
            result_formats,
        })
    }
}

/// The names at the beginning of a Bind of which the end is still missing, from its tag on: portal and statement.
#[must_use]
pub fn bind_names(begun: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut cursor = Cursor::new(b'B', begun.get(HEADER..)?);
    let portal = cursor.text().ok()?;
    let statement = cursor.text().ok()?;
    Some((portal, statement))
}

macro_rules! named {
    ($(#[$doc:meta])* $name:ident, $tag:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name<'a> {
            kind: u8,
            /// The statement's or portal's name.
            pub name: &'a [u8],
        }

        impl<'a> $name<'a> {
            /// Reads the body.
            pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
                let mut cursor = Cursor::new($tag, body);
                let kind = cursor.u8()?;
                if !matches!(kind, b'S' | b'P') {
                    return Err(cursor.bad("kind"));
                }
                let name = cursor.text()?;
                cursor.finish()?;
                Ok(Self { kind, name })
            }

            /// Whether a statement is meant, not a portal.
            #[must_use]
            pub fn is_statement(&self) -> bool {
                self.kind == b'S'
            }
        }
    };
}

named! {
    /// Describe (F).
    Describe, b'D'
}
named! {
    /// Close (F).
    Close, b'C'
}

/// FunctionCall (F): calls a function by its number. Its arguments are not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FunctionCall {
    /// The function's oid.
    pub function: u32,
}

impl FunctionCall {
    /// Reads the body, whole.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(b'F', body);
        let function = cursor.u32()?;
        let formats = cursor.wide_count()?;
        cursor.bytes(formats * 2)?;
        for _ in 0..cursor.wide_count()? {
            cursor.value()?;
        }
        cursor.i16()?;
        cursor.finish()?;
        Ok(Self { function })
    }
}

/// Execute (F): runs a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Execute<'a> {
    /// The portal's name.
    pub portal: &'a [u8],
    /// How many rows at the most; 0 for all.
    pub max_rows: i32,
}

impl<'a> Execute<'a> {
    /// Reads the body.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(b'E', body);
        let portal = cursor.text()?;
        let max_rows = cursor.i32()?;
        cursor.finish()?;
        Ok(Self { portal, max_rows })
    }
}
