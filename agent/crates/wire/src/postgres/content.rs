//! What messages carry for the record: bound values and types. Read only where somebody asked for it.

use super::DecodeError;
use super::cursor::Cursor;

/// A value with whether it is in binary format; `None` is null.
pub type Formatted<'a> = (bool, Option<&'a [u8]>);

/// The values of a Bind, in order. The message may end early: then what is there is read.
#[derive(Debug, Clone, Copy)]
pub struct BindValues<'a> {
    formats: &'a [u8],
    count: usize,
    read: usize,
    cursor: Cursor<'a>,
}

impl<'a> BindValues<'a> {
    /// Begins to read a Bind's body, or as much of it as has come.
    pub fn begin(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(b'B', body);
        let _portal = cursor.text()?;
        let _statement = cursor.text()?;
        let formats = formats(&mut cursor)?;
        let count = cursor.wide_count()?;
        Ok(Self {
            formats,
            count,
            read: 0,
            cursor,
        })
    }

    /// How many values the message says that it has.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The next value with whether it is in binary format; `None` is null. An error where it isn't there as a whole.
    #[expect(clippy::should_implement_trait, reason = "what is read last are no values")]
    pub fn next(&mut self) -> Option<Result<Formatted<'a>, DecodeError>> {
        if self.read >= self.count {
            return None;
        }
        let binary = is_binary(self.formats, self.read);
        self.read += 1;
        Some(self.cursor.value().map(|value| (binary, value)))
    }

    /// The formats of the result's columns, once all values were read: two bytes each, to be asked with [`is_binary`].
    pub fn result_formats(mut self) -> Result<&'a [u8], DecodeError> {
        formats(&mut self.cursor)
    }
}

fn formats<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], DecodeError> {
    let count = cursor.wide_count()?;
    cursor.bytes(count * 2)
}

/// Whether a value is in binary format: no code means text for all, one code counts for all.
#[must_use]
pub fn is_binary(formats: &[u8], place: usize) -> bool {
    let (codes, _) = formats.as_chunks::<2>();
    let code = if codes.len() == 1 {
        codes.first()
    } else {
        codes.get(place)
    };
    code.is_some_and(|code| i16::from_be_bytes(*code) == 1)
}

/// The types that a Parse gives its parameters, by their numbers in `pg_type`; 0 where it leaves one open.
pub fn parse_types(body: &[u8]) -> Result<Vec<u32>, DecodeError> {
    let mut cursor = Cursor::new(b'P', body);
    cursor.text()?;
    cursor.text()?;
    types(cursor)
}

/// The types that a ParameterDescription tells.
pub fn parameter_types(body: &[u8]) -> Result<Vec<u32>, DecodeError> {
    types(Cursor::new(b't', body))
}

fn types(mut cursor: Cursor<'_>) -> Result<Vec<u32>, DecodeError> {
    let count = cursor.wide_count()?;
    let types = (0..count).map(|_| cursor.u32()).collect::<Result<_, _>>()?;
    cursor.finish()?;
    Ok(types)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two values, the first as text and the second null in binary; results in binary.
    const BIND: &[u8] = b"p\0s\0\0\x02\0\0\0\x01\0\x02\0\0\0\x02hi\xff\xff\xff\xff\0\x01\0\x01";

    #[test]
    fn values_come_with_their_formats() {
        let mut values = BindValues::begin(BIND).unwrap();
        assert_eq!(values.count(), 2);
        assert_eq!(values.next(), Some(Ok((false, Some(&b"hi"[..])))));
        assert_eq!(values.next(), Some(Ok((true, None))));
        assert_eq!(values.next(), None);
        let formats = values.result_formats().unwrap();
        assert!(is_binary(formats, 0) && is_binary(formats, 7));
        assert!(!is_binary(&[], 0));
    }

    #[test]
    fn cut_anywhere_it_is_an_error_and_no_more() {
        for end in 0..BIND.len() {
            let Ok(mut values) = BindValues::begin(&BIND[..end]) else {
                continue;
            };
            let whole = std::iter::from_fn(|| values.next())
                .take_while(Result::is_ok)
                .count();
            assert!(
                whole == 2 && values.result_formats().is_err() || whole < 2,
                "{end}"
            );
        }
    }

    #[test]
    fn types_are_read_from_both_messages() {
        assert_eq!(parse_types(b"s\0select $1\0\0\x01\0\0\0\x17").unwrap(), [23]);
        assert_eq!(parameter_types(b"\0\x02\0\0\0\x17\0\0\0\x19").unwrap(), [23, 25]);
        assert!(parameter_types(b"\0\x02\0\0\0\x17\0\0\0").is_err());
        assert!(parameter_types(b"\0\x01\0\0\0\x17\0").is_err());
    }
}
