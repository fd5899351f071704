//! Fields of a message, one after another.

use std::ops::Range;

use crate::kubernetes::Malformed;

/// Goes over the fields of a message. Ranges are those of the whole source, of which the message may be a part.
pub(super) struct Reader<'s> {
    source: &'s [u8],
    at: usize,
    end: usize,
    last: u32,
}

/// A field as it stands there.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) number: u32,
    pub(super) wire: Wire,
    /// Where its length begins; where it has none, its content.
    pub(super) length: usize,
    pub(super) content: Range<usize>,
}

/// How a field is written. Groups are refused: the API has none, and its decoders don't agree on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    Varint,
    Fixed64,
    Delimited,
    Fixed32,
}

/// A tag with what follows it up to the content.
pub(super) struct Head {
    pub(super) number: u32,
    pub(super) wire: Wire,
    /// Bytes of the tag.
    pub(super) tag: usize,
    /// Bytes of the tag and the length.
    pub(super) head: usize,
    /// Bytes of the content.
    pub(super) content: u64,
}

impl<'s> Reader<'s> {
    /// Over a part of the source. What lies beyond its end isn't there.
    pub(super) fn new(source: &'s [u8], message: Range<usize>) -> Self {
        Self {
            source,
            at: message.start,
            end: message.end.min(source.len()),
            last: 0,
        }
    }

    /// The next field.
    ///
    /// Fields come by rising numbers, as all of the API's encoders write them, and so does this ask for them: what is taken apart
    /// decoders merge, or take the last of it, and what is then meant isn't what stands at one place.
    ///
    /// # Errors
    /// When no field can be read, or its number is less than that of the one before.
    pub(super) fn next(&mut self) -> Result<Option<Part>, Malformed> {
        let rest = self.source.get(self.at..self.end).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        let head = Head::read(rest)?.ok_or(Malformed::Form)?;
        let content = usize::try_from(head.content).map_err(|_| Malformed::Form)?;
        if content > rest.len().saturating_sub(head.head) || head.number < self.last {
            return Err(Malformed::Form);
        }
        let start = self.at;
        let content = start + head.head..start + head.head + content;
        self.at = content.end;
        self.last = head.number;
        Ok(Some(Part {
            number: head.number,
            wire: head.wire,
            length: start + head.tag,
            content,
        }))
    }
}

impl Head {
    /// The longest there is: a tag of five bytes, a length of ten.
    pub(super) const MAX: usize = 15;

    /// `None` where more bytes are needed to tell.
    ///
    /// # Errors
    /// For groups, numbers that no field can have, and varints that are too long.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let Some((key, tag)) = varint(bytes)? else {
            return Ok(None);
        };
        // Some decoders look at the lower 32 bits alone.
        let key = u32::try_from(key).map_err(|_| Malformed::Form)?;
        let (number, rest) = (key >> 3, bytes.get(tag..).unwrap_or_default());
        if number == 0 {
            return Err(Malformed::Form);
        }
        let (wire, length, content) = match key & 7 {
            0 => match varint(rest)? {
                Some((_, length)) => (Wire::Varint, 0, length as u64),
                None => return Ok(None),
            },
            1 => (Wire::Fixed64, 0, 8),
            2 => match varint(rest)? {
                Some((content, length)) => (Wire::Delimited, length, content),
                None => return Ok(None),
            },
            5 => (Wire::Fixed32, 0, 4),
            _ => return Err(Malformed::Form),
        };
        Ok(Some(Self {
            number,
            wire,
            tag,
            head: tag + length,
            content,
        }))
    }
}

/// A number and how many bytes it takes; `None` where it goes on after the end.
///
/// # Errors
/// When it is longer than ten bytes or doesn't fit 64 bits.
pub(super) fn varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, Malformed> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        if index == 9 && *byte > 1 {
            return Err(Malformed::Form);
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() >= 10 {
        return Err(Malformed::Form);
    }
    Ok(None)
}

/// Writes a number.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// How many bytes a number takes.
pub(super) fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Writes a field with a length.
pub(super) fn put_delimited(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for value in [0, 1, 127, 128, 300, 1 << 21, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            assert_eq!(bytes.len(), varint_len(value));
            for cut in 0..bytes.len() {
                assert_eq!(varint(&bytes[..cut]), Ok(None));
            }
            assert_eq!(varint(&bytes), Ok(Some((value, bytes.len()))));
        }
        assert_eq!(varint(&[0x80; 10]), Err(Malformed::Form));
        assert_eq!(varint(&[0xff; 11]), Err(Malformed::Form));
        let too_large = [&[0xff_u8; 9][..], &[2]].concat();
        assert_eq!(varint(&too_large), Err(Malformed::Form));
    }

    fn fields(bytes: &[u8]) -> Result<Vec<u32>, Malformed> {
        let mut reader = Reader::new(bytes, 0..bytes.len());
        let mut all = Vec::new();
        while let Some(part) = reader.next()? {
            all.push(part.number);
        }
        Ok(all)
    }

    #[test]
    fn fields_are_read_and_what_is_none_is_refused() {
        assert_eq!(fields(&[0x0a, 1, b'x', 0x10, 5, 0x12, 0]), Ok(vec![1, 2, 2]));
        assert_eq!(
            fields(&[0x09, 0, 0, 0, 0, 0, 0, 0, 0, 0x15, 0, 0, 0, 0]),
            Ok(vec![1, 2])
        );
        for (wrong, why) in [
            (&[0x0a][..], "no length"),
            (&[0x0a, 2, 0], "past the end"),
            (
                &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
                "a huge length",
            ),
            (&[0x10, 0x80], "a number without end"),
            (&[0x09, 0, 0, 0, 0, 0, 0, 0], "half a fixed"),
            (&[0x0b, 0x0c], "a group"),
            (&[0x0e, 0], "no such wire type"),
            (&[0x02, 0], "field 0"),
            (&[0x12, 0, 0x0a, 0], "out of order"),
            (&[0x8a, 0x80, 0x80, 0x80, 0x80, 0x01, 0], "field 1, and 2^35"),
        ] {
            assert_eq!(fields(wrong), Err(Malformed::Form), "{why}");
        }
    }
}
