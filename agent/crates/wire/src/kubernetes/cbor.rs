//! CBOR (RFC 8949), as the API server and its clients write it.
//!
//! The server writes texts as byte strings, and bytes as byte strings that are to become base64 (tag 22). Members come in any order.

mod scan;
mod stream;

use std::borrow::Cow;
use std::ops::Range;

use super::schema::Type;
use super::walk::{Begin, Is, Leaf, Literal, Open, Syntax, Walk};
use super::{Fields, MAX_OBJECT, Malformed};

use scan::{Argument, Head, Scan};
pub use stream::Stream;

/// Major types: RFC 8949, section 3.1.
mod major {
    pub(super) const UNSIGNED: u8 = 0;
    pub(super) const NEGATIVE: u8 = 1;
    pub(super) const BYTES: u8 = 2;
    pub(super) const TEXT: u8 = 3;
    pub(super) const LIST: u8 = 4;
    pub(super) const MAP: u8 = 5;
    pub(super) const TAG: u8 = 6;
    pub(super) const SIMPLE: u8 = 7;
}

/// Tags before a value: no more than this, of which the server writes one.
const MAX_TAGS: usize = 4;

/// Goes over one object. Everything is as with [`json::object`](super::json::object).
///
/// # Errors
/// When it isn't an object in CBOR, has more after it, is too large or too deep, or a replacement doesn't fit.
pub fn object<F: Fields>(
    bytes: &[u8],
    of: Option<Type>,
    fields: &mut F,
    out: &mut Vec<u8>,
) -> Result<bool, Malformed> {
    let of = of.map_or(Is::Told(Type::UNKNOWN), Is::Known);
    walk(bytes, fields, out, |walk| walk.object(None, of))
}

/// Goes over one data item, and nothing after it.
fn walk<'s, F: Fields>(
    bytes: &'s [u8],
    fields: &mut F,
    out: &mut Vec<u8>,
    go: impl FnOnce(&mut Walk<'_, 's, Cbor<'s>, F>) -> Result<(), Malformed>,
) -> Result<bool, Malformed> {
    if bytes.len() > MAX_OBJECT {
        return Err(Malformed::Long);
    }
    let before = out.len();
    let mut walk = Walk::new(Cbor { bytes, at: 0 }, bytes, fields, out);
    let walked = go(&mut walk);
    let ends = walk.syntax().at == bytes.len();
    if walked.is_ok() && ends {
        return Ok(walk.finish());
    }
    out.truncate(before);
    walked.and(Err(Malformed::Form))
}

/// A reader of CBOR that is there as a whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cbor<'s> {
    bytes: &'s [u8],
    at: usize,
}

impl<'s> Cbor<'s> {
    pub(super) fn new(bytes: &'s [u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_OBJECT {
            return Err(Malformed::Long);
        }
        Ok(Self { bytes, at: 0 })
    }

    /// Nothing comes after what was read.
    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.rest().is_empty() {
            Ok(())
        } else {
            Err(Malformed::Form)
        }
    }

    fn rest(&self) -> &'s [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Whether nothing but a head is left.
    fn is_head(&self) -> bool {
        matches!(Head::read(self.rest()), Ok(Some(head)) if head.length == self.rest().len())
    }

    fn head(&mut self) -> Result<Head, Malformed> {
        let head = Head::read(self.rest())?.ok_or(Malformed::Form)?;
        self.at += head.length;
        Ok(head)
    }

    fn take(&mut self, length: u64) -> Result<&'s [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed::Form)?;
        let taken = self.rest().get(..length).ok_or(Malformed::Form)?;
        self.at += length;
        Ok(taken)
    }

    /// The rest of a byte or text string.
    fn string(&mut self, head: Head) -> Result<Cow<'s, [u8]>, Malformed> {
        if let Argument::Is(length) = head.argument {
            return self.take(length).map(Cow::Borrowed);
        }
        let mut whole = Vec::new();
        loop {
            match self.head()? {
                head if head.is_break() => return Ok(Cow::Owned(whole)),
                Head {
                    major,
                    argument: Argument::Is(length),
                    ..
                } if major == head.major => whole.extend_from_slice(self.take(length)?),
                _ => return Err(Malformed::Form),
            }
        }
    }

    /// The rest of a text. Byte strings are texts, too, and in those the server doesn't look at what they hold.
    fn text(&mut self, head: Head) -> Result<Cow<'s, str>, Malformed> {
        let bytes = self.string(head)?;
        if head.major == major::BYTES {
            return Ok(match bytes {
                Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
                Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
            });
        }
        Ok(match bytes {
            Cow::Borrowed(bytes) => Cow::Borrowed(std::str::from_utf8(bytes).map_err(|_| Malformed::Form)?),
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8(bytes).map_err(|_| Malformed::Form)?),
        })
    }

    fn another(&mut self, open: &mut Open) -> Result<bool, Malformed> {
        if let Some(left) = &mut open.left {
            let any = *left > 0;
            *left = left.saturating_sub(1);
            return Ok(any);
        }
        let ends = Head::read(self.rest())?.ok_or(Malformed::Form)?.is_break();
        self.at += usize::from(ends);
        Ok(!ends)
    }
}

impl<'s> Syntax<'s> for Cbor<'s> {
    type Mark = usize;

    fn mark(&self) -> usize {
        self.at
    }

    fn go(&mut self, mark: usize) {
        self.at = mark;
    }

    fn begin(&mut self) -> Result<Begin<'s>, Malformed> {
        let mut encoded = false;
        for _ in 0..=MAX_TAGS {
            let head = self.head()?;
            let left = head.argument.is();
            let begun = match (head.major, head.argument) {
                // Section 3.4.5.2: what becomes base64 or base16 in JSON.
                (major::TAG, Argument::Is(21..=23)) => {
                    encoded = true;
                    continue;
                }
                // Numbers that the server doesn't take.
                (major::TAG, Argument::Is(2..=5)) => return Err(Malformed::Form),
                (major::TAG, _) if !encoded => continue,
                (major::BYTES, _) if encoded => Begin::Leaf(Leaf::Bytes(self.string(head)?)),
                _ if encoded => return Err(Malformed::Form),
                (major::BYTES | major::TEXT, _) => Begin::Leaf(Leaf::Text(self.text(head)?)),
                (major::LIST, _) => Begin::List(Open::new(left)),
                (major::MAP, _) => Begin::Object(Open::new(left)),
                (major::UNSIGNED, Argument::Is(number)) => scalar(number.to_string()),
                (major::NEGATIVE, Argument::Is(number)) => scalar((-1 - i128::from(number)).to_string()),
                (major::SIMPLE, argument) => simple(argument, head.length)?,
                _ => return Err(Malformed::Form),
            };
            return Ok(begun);
        }
        Err(Malformed::Form)
    }

    fn key(&mut self, open: &mut Open) -> Result<Option<Cow<'s, str>>, Malformed> {
        if !self.another(open)? {
            return Ok(None);
        }
        let head = self.head()?;
        match head.major {
            major::BYTES | major::TEXT => self.text(head).map(Some),
            _ => Err(Malformed::Form),
        }
    }

    fn more(&mut self, open: &mut Open) -> Result<bool, Malformed> {
        self.another(open)
    }

    fn skip(&mut self) -> Result<(), Malformed> {
        let length = Scan::default().advance(self.rest())?;
        self.at += length.ok_or(Malformed::Form)?;
        Ok(())
    }

    fn span(&self, from: usize) -> Range<usize> {
        from..self.at
    }

    fn text(out: &mut Vec<u8>, text: &str) {
        Head::write(out, major::TEXT, text.len() as u64);
        out.extend_from_slice(text.as_bytes());
    }

    fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
        Head::write(out, major::TAG, 22);
        Head::write(out, major::BYTES, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }

    fn literal(out: &mut Vec<u8>, literal: Literal<'_>) {
        let text = literal.text();
        match text {
            "false" => out.push(0xf4),
            "true" => out.push(0xf5),
            "null" => out.push(0xf6),
            _ => {
                if let Ok(number) = text.parse::<u64>() {
                    Head::write(out, major::UNSIGNED, number);
                } else if let Ok(number) = text.parse::<i64>() {
                    Head::write(out, major::NEGATIVE, !number as u64);
                } else {
                    // Too large or with a fraction. What is too large for this, too, is as large as can be.
                    let number: f64 = text.parse().unwrap_or_default();
                    out.push(0xfb);
                    out.extend_from_slice(&number.clamp(f64::MIN, f64::MAX).to_be_bytes());
                }
            }
        }
    }
}

fn scalar<'s>(text: String) -> Begin<'s> {
    Begin::Leaf(Leaf::Scalar(Cow::Owned(text)))
}

/// Booleans, null and numbers with fractions; nothing else that there is, as the server has it: section 3.3.
fn simple<'s>(argument: Argument, length: usize) -> Result<Begin<'s>, Malformed> {
    let Argument::Is(value) = argument else {
        return Err(Malformed::Form);
    };
    let number = match (length, value) {
        (1, 20) => return Ok(Begin::Leaf(Leaf::Scalar(Cow::Borrowed("false")))),
        (1, 21) => return Ok(Begin::Leaf(Leaf::Scalar(Cow::Borrowed("true")))),
        (1, 22) => return Ok(Begin::Leaf(Leaf::Null)),
        (3, bits) => half(u16::try_from(bits).map_err(|_| Malformed::Form)?),
        (5, bits) => f64::from(f32::from_bits(u32::try_from(bits).map_err(|_| Malformed::Form)?)),
        (9, bits) => f64::from_bits(bits),
        _ => return Err(Malformed::Form),
    };
    if number.is_finite() {
        Ok(scalar(number.to_string()))
    } else {
        Err(Malformed::Form)
    }
}

/// A number of 16 bits: RFC 8949, appendix D.
fn half(bits: u16) -> f64 {
    let exponent = i32::from((bits >> 10) & 0x1f);
    let mantissa = f64::from(bits & 0x3ff);
    let size = match exponent {
        0 => mantissa * 2_f64.powi(-24),
        31 => f64::INFINITY,
        exponent => (mantissa + 1024.0) * 2_f64.powi(exponent - 25),
    };
    if bits & 0x8000 == 0 { size } else { -size }
}

#[cfg(test)]
mod tests;
