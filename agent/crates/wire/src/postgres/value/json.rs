//! JSON texts: RFC 8259, as the server's `json` and `jsonb` write them.

use super::{Malformed, Part};

/// What stands in a JSON text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    /// The name of an object's member.
    Name,
    /// A string.
    String,
    /// A number.
    Number,
    /// `true` or `false`.
    Boolean,
}

/// Objects and arrays inside of each other. The server's own limit is its stack; what is deeper is no value here.
const MOST_DEPTH: usize = 8192;

/// Writes a JSON text with its scalars replaced by strings, or null.
///
/// The closure sees strings without quotes and escapes, and writes what stands in their place in the same way; `None` leaves it as it
/// came. A name can't be null: it then becomes empty. `null` stays.
pub fn rewrite(
    json: &[u8],
    out: &mut Vec<u8>,
    mut scalar: impl FnMut(Scalar, &[u8], &mut Vec<u8>) -> Option<Part>,
) -> Result<(), Malformed> {
    let mut reader = Reader { json, place: 0 };
    // Whether each of the objects and arrays around is an object.
    let mut around: Vec<bool> = Vec::new();
    let (mut plain, mut changed) = (Vec::new(), Vec::new());
    loop {
        // A value.
        reader.blanks(out);
        let begin = reader.place;
        let kind = match reader.peek()? {
            b'{' | b'[' => {
                let object = reader.peek()? == b'{';
                reader.copy_one(out)?;
                reader.blanks(out);
                if reader.peek()? == if object { b'}' } else { b']' } {
                    reader.copy_one(out)?;
                    None
                } else {
                    if around.len() >= MOST_DEPTH {
                        return Err(Malformed);
                    }
                    around.push(object);
                    if object {
                        reader.name(out, &mut plain, &mut changed, &mut scalar)?;
                    }
                    continue;
                }
            }
            b'"' => {
                plain.clear();
                reader.string(&mut plain)?;
                Some(Scalar::String)
            }
            b'-' | b'0'..=b'9' => {
                reader.run(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
                plain.clear();
                plain.extend_from_slice(reader.since(begin));
                if !is_number(&plain) {
                    return Err(Malformed);
                }
                Some(Scalar::Number)
            }
            b't' | b'f' | b'n' => {
                reader.run(|byte| byte.is_ascii_lowercase());
                plain.clear();
                plain.extend_from_slice(reader.since(begin));
                match &*plain {
                    b"true" | b"false" => Some(Scalar::Boolean),
                    b"null" => {
                        out.extend_from_slice(b"null");
                        None
                    }
                    _ => return Err(Malformed),
                }
            }
            _ => return Err(Malformed),
        };
        if let Some(kind) = kind {
            changed.clear();
            match scalar(kind, &plain, &mut changed) {
                None => out.extend_from_slice(reader.since(begin)),
                Some(Part::Null) => out.extend_from_slice(b"null"),
                Some(Part::Value) => put_string(out, &changed),
            }
        }
        // What follows a value.
        loop {
            reader.blanks(out);
            let Some(object) = around.last().copied() else {
                return if reader.place == json.len() {
                    Ok(())
                } else {
                    Err(Malformed)
                };
            };
            match reader.peek()? {
                b',' => {
                    reader.copy_one(out)?;
                    if object {
                        reader.blanks(out);
                        reader.name(out, &mut plain, &mut changed, &mut scalar)?;
                    }
                    break;
                }
                b'}' if object => {
                    reader.copy_one(out)?;
                    around.pop();
                }
                b']' if !object => {
                    reader.copy_one(out)?;
                    around.pop();
                }
                _ => return Err(Malformed),
            }
        }
    }
}

/// Writes a string with quotes and escapes.
pub fn put_string(out: &mut Vec<u8>, plain: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for byte in plain {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\r' => out.extend_from_slice(b"\\r"),
            0..0x20 => {
                let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
            }
            _ => out.push(*byte),
        }
    }
    out.push(b'"');
}

fn is_number(text: &[u8]) -> bool {
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let whole = digits(text);
    if whole == 0 || whole > 1 && text.first() == Some(&b'0') {
        return false;
    }
    let mut rest = text.get(whole..).unwrap_or_default();
    if let Some(after) = rest.strip_prefix(b".") {
        let places = digits(after);
        if places == 0 {
            return false;
        }
        rest = after.get(places..).unwrap_or_default();
    }
    if let [b'e' | b'E', after @ ..] = rest {
        let after = after
            .strip_prefix(b"+")
            .or_else(|| after.strip_prefix(b"-"))
            .unwrap_or(after);
        return !after.is_empty() && digits(after) == after.len();
    }
    rest.is_empty()
}

struct Reader<'a> {
    json: &'a [u8],
    place: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Result<u8, Malformed> {
        self.json.get(self.place).copied().ok_or(Malformed)
    }

    fn since(&self, begin: usize) -> &'a [u8] {
        self.json.get(begin..self.place).unwrap_or_default()
    }

    fn copy_one(&mut self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        out.push(self.peek()?);
        self.place += 1;
        Ok(())
    }

    fn blanks(&mut self, out: &mut Vec<u8>) {
        let begin = self.place;
        self.run(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
        out.extend_from_slice(self.since(begin));
    }

    fn run(&mut self, of: impl Fn(u8) -> bool) {
        let rest = self.json.get(self.place..).unwrap_or_default();
        self.place += rest.iter().position(|byte| !of(*byte)).unwrap_or(rest.len());
    }

    /// A member's name and its colon.
    fn name(
        &mut self,
        out: &mut Vec<u8>,
        plain: &mut Vec<u8>,
        changed: &mut Vec<u8>,
        scalar: &mut impl FnMut(Scalar, &[u8], &mut Vec<u8>) -> Option<Part>,
    ) -> Result<(), Malformed> {
        let begin = self.place;
        plain.clear();
        self.string(plain)?;
        changed.clear();
        match scalar(Scalar::Name, plain, changed) {
            None => out.extend_from_slice(self.since(begin)),
            Some(Part::Null) => out.extend_from_slice(b"\"\""),
            Some(Part::Value) => put_string(out, changed),
        }
        self.blanks(out);
        if self.peek()? != b':' {
            return Err(Malformed);
        }
        self.copy_one(out)
    }

    /// A string, whose content is added without escapes.
    fn string(&mut self, plain: &mut Vec<u8>) -> Result<(), Malformed> {
        if self.peek()? != b'"' {
            return Err(Malformed);
        }
        self.place += 1;
        loop {
            let rest = self.json.get(self.place..).ok_or(Malformed)?;
            let stop = memchr::memchr2(b'"', b'\\', rest).ok_or(Malformed)?;
            let run = rest.get(..stop).ok_or(Malformed)?;
            if run.iter().any(|byte| *byte < 0x20) {
                return Err(Malformed);
            }
            plain.extend_from_slice(run);
            self.place += stop + 1;
            if rest.get(stop) == Some(&b'"') {
                return Ok(());
            }
            let escaped = self.peek()?;
            self.place += 1;
            match escaped {
                b'"' | b'\\' | b'/' => plain.push(escaped),
                b'b' => plain.push(8),
                b'f' => plain.push(12),
                b'n' => plain.push(b'\n'),
                b'r' => plain.push(b'\r'),
                b't' => plain.push(b'\t'),
                b'u' => self.character(plain)?,
                _ => return Err(Malformed),
            }
        }
    }

    /// What stands behind `\u`.
    fn character(&mut self, plain: &mut Vec<u8>) -> Result<(), Malformed> {
        let first = self.four()?;
        let code = match first {
            0xd800..0xdc00 => {
                let rest = self.json.get(self.place..).ok_or(Malformed)?;
                if !rest.starts_with(b"\\u") {
                    return Err(Malformed);
                }
                self.place += 2;
                let second = self.four()?;
                if !(0xdc00..0xe000).contains(&second) {
                    return Err(Malformed);
                }
                0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
            }
            _ => first,
        };
        let character = char::from_u32(code).ok_or(Malformed)?;
        plain.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }

    fn four(&mut self) -> Result<u32, Malformed> {
        let digits = self.json.get(self.place..self.place + 4).ok_or(Malformed)?;
        self.place += 4;
        digits.iter().try_fold(0, |sum, byte| {
            let digit = char::from(*byte).to_digit(16).ok_or(Malformed)?;
            Ok(sum * 16 + digit)
        })
    }
}
