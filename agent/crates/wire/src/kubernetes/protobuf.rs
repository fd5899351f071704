//! Protobuf, as the API server and its clients write the built-in types.
//!
//! A message doesn't say what its fields are called: the [table](super::schema) of the built-in types does. An answer's body is the
//! four bytes `k8s\0` and a message `runtime.Unknown`, whose field `raw` is the object's own message; a watch has frames with a length
//! of four bytes, each with a `WatchEvent` whose object is such a body again. A `Table` isn't served in protobuf.

mod envelope;
mod patch;
mod reader;
mod scalars;
mod status;
mod stream;
mod value;
mod walk;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use super::schema::Type;
use super::{Fields, MAX_OBJECT, Malformed};
use envelope::Envelope;
use patch::{Patch, Room};
use walk::Walk;

pub use stream::Stream;
pub(super) use value::value;

/// What an object in an envelope begins with.
const PREFIX: &[u8] = b"k8s\0";

/// Goes over a body: an envelope with an object, a list or a `Status`. Where the envelope doesn't say what it holds, it is `otherwise`,
/// as the API server takes it for a request's body.
///
/// Returns whether anything is replaced. Then `out` got the body with that, its other bytes as they came but for the lengths of what it
/// lies in. Otherwise, and on an error, nothing is added to `out`.
///
/// # Errors
/// When it isn't such a body, isn't written as the API's encoders do it (fields by rising numbers, and one that isn't a list once),
/// is too large or too deep, has fields or a kind that the table doesn't know where something is looked for, or a replacement
/// doesn't fit its type.
pub fn body<F: Fields>(
    bytes: &[u8],
    otherwise: Type,
    fields: &mut F,
    out: &mut Vec<u8>,
) -> Result<bool, Malformed> {
    if !bytes.starts_with(PREFIX) {
        return Err(Malformed::Form);
    }
    walk(bytes, fields, out, |walk| {
        walk.body(&Envelope::read(bytes, PREFIX.len()..bytes.len(), otherwise)?)
    })
}

/// Goes over a message of a type, without an envelope. The rest is as with [`body`].
///
/// # Errors
/// As with [`body`].
pub fn object<F: Fields>(
    bytes: &[u8],
    of: Type,
    fields: &mut F,
    out: &mut Vec<u8>,
) -> Result<bool, Malformed> {
    walk(bytes, fields, out, |walk| walk.object(0..bytes.len(), of))
}

/// How much of what stands in a value's place is shown where there is only room for as much as the value itself has, in bytes: no part of
/// a character.
#[must_use]
pub fn cut(with: &[u8], room: usize) -> usize {
    let mut end = room.min(with.len());
    // No byte of a character but its first is one of these.
    while end > 0 && with.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
        end -= 1;
    }
    end
}

fn walk<'s, F: Fields>(
    bytes: &'s [u8],
    fields: &mut F,
    out: &mut Vec<u8>,
    go: impl FnOnce(&mut Walk<'_, 's, F>) -> Result<(), Malformed>,
) -> Result<bool, Malformed> {
    if bytes.len() > MAX_OBJECT {
        return Err(Malformed::Long);
    }
    let before = out.len();
    let mut walk = Walk::new(bytes, fields, Patch::new(bytes, 0, Room::Any, out));
    let went = go(&mut walk);
    let changed = walk.patch().finish(bytes.len());
    if let Err(error) = went {
        out.truncate(before);
        return Err(error);
    }
    Ok(changed)
}
