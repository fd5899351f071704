//! Where values end: by brackets and strings alone, as fast as it gets without looking at what they say.

use crate::kubernetes::{MAX_DEPTH, Malformed};

/// Looks for the end of an object, a list or a string that comes in pieces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in super::super) struct Scan {
    depth: usize,
    string: bool,
    /// The piece before ended after a backslash.
    escape: bool,
}

impl Scan {
    /// Goes on with the next piece; the first one starts with the bracket or quote. Returns how many bytes of it belong to the value
    /// where it ends.
    pub(in super::super) fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        let mut at = 0;
        if self.escape && !bytes.is_empty() {
            self.escape = false;
            at = 1;
        }
        loop {
            if self.string {
                let Some(found) = special::<false>(bytes, at) else {
                    return Ok(None);
                };
                if bytes.get(found) == Some(&b'\\') {
                    at = found + 2;
                    if at > bytes.len() {
                        self.escape = true;
                        return Ok(None);
                    }
                    continue;
                }
                self.string = false;
                at = found + 1;
                if self.depth == 0 {
                    return Ok(Some(at));
                }
            }
            let Some(byte) = bytes.get(at) else {
                return Ok(None);
            };
            at += 1;
            match byte {
                b'"' => self.string = true,
                b'{' | b'[' => {
                    self.depth += 1;
                    if self.depth > MAX_DEPTH {
                        return Err(Malformed::Deep);
                    }
                }
                b'}' | b']' => {
                    self.depth = self.depth.checked_sub(1).ok_or(Malformed::Form)?;
                    if self.depth == 0 {
                        return Ok(Some(at));
                    }
                }
                _ => {}
            }
        }
    }
}

/// The next quote or backslash; with `CONTROL`, or control character.
#[inline]
pub(super) fn special<const CONTROL: bool>(bytes: &[u8], from: usize) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    /// Marks bytes that are zero. Of those that aren't, it marks some above one that is.
    const fn zeros(word: u64) -> u64 {
        word.wrapping_sub(ONES) & !word & HIGH
    }
    let rest = bytes.get(from..)?;
    let (words, tail) = rest.as_chunks::<8>();
    for (number, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let mut found = zeros(word ^ (ONES * b'"' as u64)) | zeros(word ^ (ONES * b'\\' as u64));
        if CONTROL {
            found |= word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        }
        if found != 0 {
            let byte = usize::try_from(found.trailing_zeros() / 8).ok()?;
            return Some(from + number * 8 + byte);
        }
    }
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\\') || (CONTROL && *byte < 0x20);
    let found = tail.iter().position(is_special)?;
    Some(from + words.len() * 8 + found)
}
