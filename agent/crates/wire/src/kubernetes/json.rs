//! JSON, as the API server and its clients write it.

mod scan;
mod stream;

use std::borrow::Cow;
use std::ops::Range;

use base64::Engine as _;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};

use super::schema::Type;
use super::walk::{Begin, Is, Leaf, Literal, Open, Syntax, Walk};
use super::{Fields, MAX_OBJECT, Malformed};

pub(super) use scan::Scan;
pub use stream::Stream;

/// Goes over one object, which may be a part of one, such as a merge patch. Its type is `of` where that is known, and otherwise what
/// it says of itself: that tells which texts are base64.
///
/// Returns whether anything is replaced. Then `out` got the object with that, its other bytes as they came. Otherwise, and on an error,
/// nothing is added to `out`.
///
/// # Errors
/// When it isn't an object in JSON, has more after it, is too large or too deep, or a replacement doesn't fit.
pub fn object<F: Fields>(
    bytes: &[u8],
    of: Option<Type>,
    fields: &mut F,
    out: &mut Vec<u8>,
) -> Result<bool, Malformed> {
    let of = of.map_or(Is::Told(Type::UNKNOWN), Is::Known);
    walk(bytes, fields, out, |walk| walk.object(None, of))
}

/// Goes over the JSON that stands in an object's field, at this place. The rest is as with [`object`].
///
/// # Errors
/// As with [`object`].
pub fn value<F: Fields>(
    bytes: &[u8],
    at: F::At,
    fields: &mut F,
    out: &mut Vec<u8>,
) -> Result<bool, Malformed> {
    walk(bytes, fields, out, |walk| walk.inner(at, Type::UNKNOWN))
}

/// Goes over the text of the annotation [`LAST_APPLIED`](super::LAST_APPLIED) of an object of type `of` with this root. Returns what
/// stands in its place: `{}` where it can't be read.
pub fn last_applied<F: Fields>(text: &str, root: F::At, of: Type, fields: &mut F) -> Option<String> {
    let root = fields.applied(root);
    let mut out = Vec::new();
    match applied(text, root, of, fields, &mut out, 1) {
        Ok(false) => None,
        Ok(true) => Some(String::from_utf8(out).unwrap_or_else(|_| "{}".to_owned())),
        Err(_) => Some("{}".to_owned()),
    }
}

/// Goes over the object that was applied last, which lies in so many of those.
pub(super) fn applied<F: Fields>(
    text: &str,
    root: F::At,
    of: Type,
    fields: &mut F,
    out: &mut Vec<u8>,
    applied: usize,
) -> Result<bool, Malformed> {
    walk_applied(text.as_bytes(), fields, out, applied, |walk| {
        walk.object(Some(root), Is::Told(of))
    })
}

/// Goes over the item that a text begins with, if it is there as a whole: returns how long it is, and whether anything is replaced.
/// Otherwise nothing was asked for, and `None` says so.
fn item<F: Fields>(
    text: &str,
    of: Type,
    fields: &mut F,
    out: &mut Vec<u8>,
) -> Result<Option<(usize, bool)>, Malformed> {
    let mut walk = Walk::new(Json { text, at: 0 }, text.as_bytes(), fields, out);
    let Some(index) = walk.whole_index() else {
        return Ok(None);
    };
    let length = walk.syntax().at;
    if length > MAX_OBJECT {
        return Err(Malformed::Long);
    }
    walk.ends_at(length);
    walk.item(&index, of)?;
    Ok(Some((length, walk.finish())))
}

/// Goes over one value, and nothing after it.
pub(super) fn walk<'s, F: Fields>(
    bytes: &'s [u8],
    fields: &mut F,
    out: &mut Vec<u8>,
    go: impl FnOnce(&mut Walk<'_, 's, Json<'s>, F>) -> Result<(), Malformed>,
) -> Result<bool, Malformed> {
    walk_applied(bytes, fields, out, 0, go)
}

fn walk_applied<'s, F: Fields>(
    bytes: &'s [u8],
    fields: &mut F,
    out: &mut Vec<u8>,
    applied: usize,
    go: impl FnOnce(&mut Walk<'_, 's, Json<'s>, F>) -> Result<(), Malformed>,
) -> Result<bool, Malformed> {
    let before = out.len();
    let walked = Json::new(bytes).and_then(|json| {
        let mut walk = Walk::new(json, bytes, fields, out).applied(applied);
        go(&mut walk)?;
        walk.syntax().end()?;
        Ok(walk.finish())
    });
    if walked.is_err() {
        out.truncate(before);
    }
    walked
}

/// A reader of JSON that is there as a whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Json<'s> {
    text: &'s str,
    at: usize,
}

impl<'s> Json<'s> {
    pub(super) fn new(bytes: &'s [u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_OBJECT {
            return Err(Malformed::Long);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed::Form)?;
        Ok(Self { text, at: 0 })
    }

    /// What was not read.
    fn rest(&self) -> &'s [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    /// Nothing comes after what was read.
    pub(super) fn end(&mut self) -> Result<(), Malformed> {
        match self.next() {
            None => Ok(()),
            Some(_) => Err(Malformed::Form),
        }
    }

    /// The next byte that is no space, which stays.
    fn next(&mut self) -> Option<u8> {
        loop {
            let byte = self.text.as_bytes().get(self.at).copied()?;
            if !is_space(byte) {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// The next byte that is no space, which is left behind.
    fn take(&mut self) -> Option<u8> {
        let byte = self.next()?;
        self.at += 1;
        Some(byte)
    }

    /// The rest of a string whose quote was read.
    fn string(&mut self) -> Result<Cow<'s, str>, Malformed> {
        let bytes = self.text.as_bytes();
        let (from, mut escaped) = (self.at, false);
        let mut at = from;
        loop {
            at = scan::special::<true>(bytes, at).ok_or(Malformed::Form)?;
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    at += 2;
                }
                // A control character.
                _ => return Err(Malformed::Form),
            }
        }
        self.at = at + 1;
        let raw = self.text.get(from..at).ok_or(Malformed::Form)?;
        if escaped {
            unescape(raw).map(Cow::Owned)
        } else {
            Ok(Cow::Borrowed(raw))
        }
    }

    /// A number, a boolean or null.
    fn scalar(&mut self) -> Result<Leaf<'s>, Malformed> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let length = rest.bytes().take_while(|byte| is_of_scalar(*byte)).count();
        let text = rest.get(..length).unwrap_or_default();
        Literal::new(text).ok_or(Malformed::Form)?;
        self.at += length;
        Ok(match text {
            "null" => Leaf::Null,
            text => Leaf::Scalar(Cow::Borrowed(text)),
        })
    }

    /// What separates members or elements: whether there is another one before what closes.
    fn another(&mut self, open: &mut Open, closing: u8) -> Result<bool, Malformed> {
        if std::mem::take(&mut open.first) {
            if self.next() == Some(closing) {
                self.at += 1;
                return Ok(false);
            }
            return Ok(true);
        }
        match self.take() {
            Some(b',') => Ok(true),
            Some(byte) if byte == closing => Ok(false),
            _ => Err(Malformed::Form),
        }
    }
}

impl<'s> Syntax<'s> for Json<'s> {
    type Mark = usize;

    fn mark(&self) -> usize {
        self.at
    }

    fn go(&mut self, mark: usize) {
        self.at = mark;
    }

    fn begin(&mut self) -> Result<Begin<'s>, Malformed> {
        Ok(match self.next().ok_or(Malformed::Form)? {
            b'{' => {
                self.at += 1;
                Begin::Object(Open::new(None))
            }
            b'[' => {
                self.at += 1;
                Begin::List(Open::new(None))
            }
            b'"' => {
                self.at += 1;
                Begin::Leaf(Leaf::Text(self.string()?))
            }
            _ => Begin::Leaf(self.scalar()?),
        })
    }

    fn key(&mut self, open: &mut Open) -> Result<Option<Cow<'s, str>>, Malformed> {
        if !self.another(open, b'}')? {
            return Ok(None);
        }
        if self.take() != Some(b'"') {
            return Err(Malformed::Form);
        }
        let key = self.string()?;
        if self.take() != Some(b':') {
            return Err(Malformed::Form);
        }
        Ok(Some(key))
    }

    fn more(&mut self, open: &mut Open) -> Result<bool, Malformed> {
        self.another(open, b']')
    }

    fn skip(&mut self) -> Result<(), Malformed> {
        match self.next().ok_or(Malformed::Form)? {
            b'{' | b'[' | b'"' => {
                let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
                self.at += Scan::default().advance(rest)?.ok_or(Malformed::Form)?;
            }
            _ => {
                self.scalar()?;
            }
        }
        Ok(())
    }

    fn span(&self, from: usize) -> Range<usize> {
        let spaces = self.text.as_bytes().iter().skip(from);
        let spaces = spaces.take_while(|byte| is_space(**byte)).count();
        from + spaces..self.at
    }

    fn text(out: &mut Vec<u8>, text: &str) {
        quote(out, text);
    }

    fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
        out.push(b'"');
        out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
        out.push(b'"');
    }

    fn literal(out: &mut Vec<u8>, literal: Literal<'_>) {
        out.extend_from_slice(literal.text().as_bytes());
    }
}

/// RFC 8259, section 2.
pub(super) const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

pub(super) const fn is_of_scalar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
}

/// Writes a string.
pub(super) fn quote(out: &mut Vec<u8>, text: &str) {
    const HEX: [u8; 16] = *b"0123456789abcdef";
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => {
                let digit = |value: u8| HEX.get(usize::from(value)).copied().unwrap_or(b'0');
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// The text of a string: RFC 8259, section 7. A half of a surrogate pair is U+FFFD, as Go's decoder has it.
pub(super) fn unescape(raw: &str) -> Result<String, Malformed> {
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((plain, escape)) = rest.split_once('\\') {
        text.push_str(plain);
        let mut chars = escape.chars();
        text.push(match chars.next() {
            Some(same @ ('"' | '\\' | '/')) => same,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => {
                let (unit, after) = hex(chars.as_str())?;
                chars = after.chars();
                match unit {
                    0xd800..0xdc00 => match after.strip_prefix("\\u").map(hex) {
                        Some(Ok((low @ 0xdc00..0xe000, after))) => {
                            chars = after.chars();
                            let code = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                            char::from_u32(code).ok_or(Malformed::Form)?
                        }
                        _ => char::REPLACEMENT_CHARACTER,
                    },
                    unit => char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER),
                }
            }
            _ => return Err(Malformed::Form),
        });
        rest = chars.as_str();
    }
    text.push_str(rest);
    Ok(text)
}

/// Four digits, and what comes after them.
fn hex(text: &str) -> Result<(u32, &str), Malformed> {
    let (digits, rest) = text.split_at_checked(4).ok_or(Malformed::Form)?;
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Malformed::Form);
    }
    let unit = u32::from_str_radix(digits, 16).map_err(|_| Malformed::Form)?;
    Ok((unit, rest))
}

/// What base64 stands for, as Go's decoder has it: it takes line breaks, and bits at the end that say nothing.
pub(super) fn from_base64(text: &str) -> Option<Vec<u8>> {
    const LIKE_GO: GeneralPurpose = GeneralPurpose::new(
        &ALPHABET,
        GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
    );
    if memchr::memchr2(b'\r', b'\n', text.as_bytes()).is_some() {
        let whole: String = text.chars().filter(|char| !matches!(char, '\r' | '\n')).collect();
        return LIKE_GO.decode(whole).ok();
    }
    LIKE_GO.decode(text).ok()
}

#[cfg(test)]
mod tests;
