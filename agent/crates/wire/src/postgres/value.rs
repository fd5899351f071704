//! What values are made of: arrays, rows, JSON and numbers, in text and binary format, each taken apart and put together again
//! with some of their parts replaced.
//!
//! They stand beside the messages because they are codecs like those: bytes in, bytes out, no policy. What is done to a part is the
//! caller's closure: it writes what stands in the part's place and says whether that is a value or null. Whatever isn't exactly
//! what the server writes is [`Malformed`]; what was written by then is of no use.

pub mod array;
pub mod copy;
pub mod json;
pub mod number;
pub mod row;

/// A value that isn't what its type's output function writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a value isn't of its type")]
pub struct Malformed;

/// In which form a value travels: section "Formats and Format Codes".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// As its type's output function writes it.
    Text,
    /// As its type's send function writes it.
    Binary,
}

/// What a closure left in a part's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What it wrote.
    Value,
    /// Null; what it wrote doesn't count.
    Null,
}

/// Big-endian numbers from the beginning of some bytes.
fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (taken, after) = rest.split_first_chunk::<N>().ok_or(Malformed)?;
    *rest = after;
    Ok(*taken)
}

/// A length and so many bytes, or -1 for null.
fn take_value<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Malformed> {
    let length = i32::from_be_bytes(take(rest)?);
    if length == -1 {
        return Ok(None);
    }
    let length = usize::try_from(length).map_err(|_| Malformed)?;
    let (value, after) = rest.split_at_checked(length).ok_or(Malformed)?;
    *rest = after;
    Ok(Some(value))
}

/// Writes a length and what the closure writes, or -1.
fn put_value(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Part) -> Part {
    let begin = out.len();
    out.extend_from_slice(&(-1_i32).to_be_bytes());
    let part = write(out);
    if part == Part::Null {
        out.truncate(begin + 4);
        return part;
    }
    let length = out.len() - begin - 4;
    if let (Some(slot), Ok(length)) = (out.get_mut(begin..begin + 4), i32::try_from(length)) {
        slot.copy_from_slice(&length.to_be_bytes());
    }
    part
}
