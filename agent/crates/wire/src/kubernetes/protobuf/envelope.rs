//! `runtime.Unknown`, in which an object says what it is.

use std::borrow::Cow;
use std::ops::Range;

use super::reader::{Part, Reader, Wire};
use super::status;
use super::walk::{Walk, expect};
use crate::kubernetes::schema::{self, Field, Single, Type};
use crate::kubernetes::{Fields, Malformed};

/// What it says, and where what it holds is.
///
/// `TypeMeta typeMeta = 1; bytes raw = 2; string contentEncoding = 3; string contentType = 4`
pub(super) struct Envelope {
    pub(super) content: Content,
    pub(super) raw: Option<Part>,
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// An answer that isn't an object, such as an error.
    Status,
    /// A list of objects, with the field that has them.
    List(&'static Field),
    Object(Type),
}

impl Envelope {
    /// Reads one without its prefix.
    ///
    /// # Errors
    /// When it has other fields than these, one twice, or says that it is compressed or in another format.
    pub(super) fn read(source: &[u8], message: Range<usize>, otherwise: Type) -> Result<Self, Malformed> {
        let mut reader = Reader::new(source, message);
        let (mut content, mut raw, mut last) = (Content::of(otherwise), None, 0);
        while let Some(part) = reader.next()? {
            expect(&part, Wire::Delimited)?;
            if part.number == last {
                return Err(Malformed::Form);
            }
            last = part.number;
            match part.number {
                1 => content = Content::read(source, part.content, otherwise)?,
                2 => raw = Some(part),
                _ => is_end(&part)?,
            }
        }
        Ok(Self { content, raw })
    }
}

/// Whether this may follow `raw`.
///
/// # Errors
/// When it says that it is compressed or in another format, or is no field that is known here.
pub(super) fn is_end(part: &Part) -> Result<(), Malformed> {
    if matches!(part.number, 3 | 4) && part.content.is_empty() {
        Ok(())
    } else {
        Err(Malformed::Kind)
    }
}

impl Content {
    /// Reads `string apiVersion = 1; string kind = 2`.
    ///
    /// # Errors
    /// When it has other fields, or one twice.
    pub(super) fn read(source: &[u8], message: Range<usize>, otherwise: Type) -> Result<Self, Malformed> {
        let mut reader = Reader::new(source, message);
        let [mut version, mut kind] = [Cow::Borrowed(""), Cow::Borrowed("")];
        let mut last = 0;
        while let Some(part) = reader.next()? {
            expect(&part, Wire::Delimited)?;
            let text = String::from_utf8_lossy(source.get(part.content).unwrap_or_default());
            match part.number {
                number if number == last => return Err(Malformed::Form),
                1 => version = text,
                2 => kind = text,
                _ => return Err(Malformed::Kind),
            }
            last = part.number;
        }
        Ok(match (&*version, &*kind) {
            ("v1", "Status") => Self::Status,
            ("", _) | (_, "") => Self::of(otherwise),
            (version, kind) => Self::of(schema::lookup(version, kind).unwrap_or(Type::UNKNOWN)),
        })
    }

    fn of(of: Type) -> Self {
        let items = of.fields().iter().find(|field| field.name == "items");
        match items {
            Some(items)
                if items.holds.is_list()
                    && matches!(items.holds.single(), Single::Message(_) | Single::Raw) =>
            {
                Self::List(items)
            }
            _ => Self::Object(of),
        }
    }
}

impl<F: Fields> Walk<'_, '_, F> {
    /// Goes over what is in an envelope.
    pub(super) fn body(&mut self, envelope: &Envelope) -> Result<(), Malformed> {
        let Some(raw) = &envelope.raw else {
            return Ok(());
        };
        if envelope.content == Content::Status {
            return status::withhold(self, raw);
        }
        self.inside(raw, |walk| match envelope.content {
            Content::List(items) => walk.list(raw.content.clone(), items),
            Content::Object(of) => walk.object(raw.content.clone(), of),
            Content::Status => Ok(()),
        })
    }
}
