//! Reading fields with bounds checked at every step.

use super::DecodeError;

/// What is left of a message's body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    tag: char,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(tag: u8, body: &'a [u8]) -> Self {
        Self {
            rest: body,
            tag: char::from(tag),
        }
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(DecodeError::Truncated { tag: self.tag })?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Truncated { tag: self.tag })?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(super) fn i16(&mut self) -> Result<i16, DecodeError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    pub(super) fn i32(&mut self) -> Result<i32, DecodeError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// A count of things that follow.
    pub(super) fn count(&mut self, field: &'static str) -> Result<usize, DecodeError> {
        usize::try_from(self.i16()?).map_err(|_| self.bad(field))
    }

    /// A count that uses all 16 bits, as Bind's and DataRow's do.
    pub(super) fn wide_count(&mut self) -> Result<usize, DecodeError> {
        Ok(usize::from(u16::from_be_bytes(self.array()?)))
    }

    /// A string up to its terminator, which is taken too.
    pub(super) fn text(&mut self) -> Result<&'a [u8], DecodeError> {
        let end = memchr::memchr(0, self.rest).ok_or(DecodeError::Truncated { tag: self.tag })?;
        let text = self.bytes(end)?;
        self.u8()?;
        Ok(text)
    }

    /// A value with its length before it; -1 is null.
    pub(super) fn value(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        match self.i32()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| self.bad("value length"))?;
                self.bytes(length).map(Some)
            }
        }
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn bad(&self, field: &'static str) -> DecodeError {
        DecodeError::BadField { tag: self.tag, field }
    }

    /// Leftovers are an error.
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Trailing { tag: self.tag })
        }
    }
}
