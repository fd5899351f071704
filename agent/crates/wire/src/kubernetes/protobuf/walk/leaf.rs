//! Values that have none below them.

use super::{Place, Walk, expect};
use crate::kubernetes::protobuf::cut;
use crate::kubernetes::protobuf::reader::{Part, Wire, put_varint, varint};
use crate::kubernetes::protobuf::scalars::{self, Shown};
use crate::kubernetes::schema::{Single, Type};
use crate::kubernetes::{Fields, Malformed, Replacement, Value};

impl<F: Fields> Walk<'_, '_, F> {
    /// Asks about a value that has none below it. Says whether it was replaced.
    pub(super) fn leaf(
        &mut self,
        part: &Part,
        of: Single,
        at: F::At,
        may_miss: bool,
    ) -> Result<bool, Malformed> {
        match of {
            Single::Text => {
                let text = self.text(part)?;
                if may_miss && text.is_empty() {
                    return Ok(false);
                }
                let with = self.fields.replace(at, Value::Text(&text));
                with.map_or(Ok(false), |with| self.put_text(part, &with).map(|()| true))
            }
            Single::Bytes => {
                expect(part, Wire::Delimited)?;
                let bytes = self.source.get(part.content.clone()).unwrap_or_default();
                if may_miss && bytes.is_empty() {
                    return Ok(false);
                }
                let with = self.fields.replace(at, Value::Bytes(bytes));
                if let Some(with) = &with {
                    let with = contents(with);
                    self.put_cut(part, with);
                }
                Ok(with.is_some())
            }
            Single::Int | Single::Bool | Single::Double => {
                let shown = number(self.source, part, of)?;
                let with = self.fields.replace(at, Value::Scalar(&shown));
                if let Some(with) = &with {
                    let mut bytes = number_of(of, with)?;
                    if !self.patch.has_room(part, bytes.len()) {
                        bytes = number_of(of, &Replacement::Empty)?;
                    }
                    self.patch.put(part, &bytes);
                }
                Ok(with.is_some())
            }
            of => {
                expect(part, Wire::Delimited)?;
                let Some(shown) = scalars::show(of, self.source, part)? else {
                    return Ok(false);
                };
                let (asked, text) = match &shown {
                    Shown::Scalar(shown) => (self.fields.replace(at, Value::Scalar(shown)), false),
                    Shown::Text(shown) => (self.fields.replace(at, Value::Text(shown)), true),
                };
                if let Some(with) = &asked {
                    let value = match with {
                        Replacement::Value(value) => {
                            Some(std::str::from_utf8(value).map_err(|_| Malformed::Room)?)
                        }
                        Replacement::Empty => None,
                    };
                    let mut message = scalars::hide(of, value, text)?;
                    if !self.patch.has_room(part, message.len()) {
                        message = scalars::hide(of, None, text)?;
                    }
                    self.patch.put(part, &message);
                }
                Ok(asked.is_some())
            }
        }
    }

    /// Numbers of a list in one field, one after another.
    pub(super) fn packed(
        &mut self,
        part: &Part,
        of: Type,
        first: usize,
        place: &Place<F::At>,
    ) -> Result<(), Malformed> {
        // After another pack, indices would be wrong.
        if first > 0 {
            return Err(Malformed::Form);
        }
        let mut content = Vec::with_capacity(part.content.len());
        let (mut start, mut index) = (part.content.start, 0);
        while start < part.content.end {
            let rest = self.source.get(start..part.content.end).unwrap_or_default();
            let (wire, length) = match of.single() {
                Single::Double => (Wire::Fixed64, 8),
                _ => (Wire::Varint, varint(rest)?.ok_or(Malformed::Form)?.1),
            };
            let bytes = rest.get(..length).ok_or(Malformed::Form)?;
            let one = Part {
                number: part.number,
                wire,
                length: start,
                content: start..start + length,
            };
            let at = self.fields.element(place.at, index, None);
            let with = if self.fields.passes(at) {
                None
            } else {
                let shown = number(self.source, &one, of.single())?;
                self.fields.replace(at, Value::Scalar(&shown))
            };
            match with {
                Some(with) => content.extend(number_of(of.single(), &with)?),
                None => content.extend_from_slice(bytes),
            }
            (start, index) = (one.content.end, index + 1);
        }
        if !self.patch.has_room(part, content.len()) {
            return Err(Malformed::Room);
        }
        self.patch.put(part, &content);
        Ok(())
    }

    fn put_text(&mut self, part: &Part, with: &Replacement) -> Result<(), Malformed> {
        let text = std::str::from_utf8(contents(with)).map_err(|_| Malformed::Room)?;
        self.put_cut(part, text.as_bytes());
        Ok(())
    }

    /// Puts what there is room for in place of a text or bytes.
    fn put_cut(&mut self, part: &Part, with: &[u8]) {
        let end = if self.patch.has_room(part, with.len()) {
            with.len()
        } else {
            cut(with, part.content.len())
        };
        self.patch.put(part, with.get(..end).unwrap_or_default());
    }
}

fn contents(with: &Replacement) -> &[u8] {
    match with {
        Replacement::Value(value) => value,
        Replacement::Empty => &[],
    }
}

/// A number or a boolean as JSON has it.
fn number(source: &[u8], part: &Part, of: Single) -> Result<String, Malformed> {
    let content = source.get(part.content.clone()).unwrap_or_default();
    if of == Single::Double {
        expect(part, Wire::Fixed64)?;
        let bytes = content.try_into().map_err(|_| Malformed::Form)?;
        return Ok(f64::from_le_bytes(bytes).to_string());
    }
    expect(part, Wire::Varint)?;
    let (value, _) = varint(content)?.ok_or(Malformed::Form)?;
    Ok(match of {
        Single::Bool => (value != 0).to_string(),
        _ => value.cast_signed().to_string(),
    })
}

/// What stands for a number or a boolean.
fn number_of(of: Single, with: &Replacement) -> Result<Vec<u8>, Malformed> {
    let text = match with {
        Replacement::Value(value) => std::str::from_utf8(value).map_err(|_| Malformed::Room)?,
        Replacement::Empty if of == Single::Bool => "false",
        Replacement::Empty => "0",
    };
    let mut out = Vec::new();
    match of {
        Single::Double => {
            let number: f64 = text.parse().map_err(|_| Malformed::Room)?;
            out.extend(number.to_le_bytes());
        }
        Single::Bool => out.push(u8::from(text.parse::<bool>().map_err(|_| Malformed::Room)?)),
        _ => {
            let number: i64 = text.parse().map_err(|_| Malformed::Room)?;
            put_varint(&mut out, number.cast_unsigned());
        }
    }
    Ok(out)
}
