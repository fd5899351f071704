//! Messages as a tag, a length and a body: section "Message Formats".

use super::DecodeError;

/// A tag and a length.
pub(crate) const HEADER: usize = 5;

/// One whole message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its tag.
    pub tag: u8,
    /// All of it, as it arrived.
    pub raw: &'a [u8],
    /// What follows the length.
    pub body: &'a [u8],
}

/// The beginning of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Its tag.
    pub tag: u8,
    /// The length that it declares: of itself and the body.
    length: i32,
}

impl FrameHeader {
    /// Reads a header, if there are enough bytes.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (&[tag, a, b, c, d], _) = bytes.split_first_chunk::<HEADER>()?;
        Some(Self {
            tag,
            length: i32::from_be_bytes([a, b, c, d]),
        })
    }

    /// Length of the whole message in bytes, tag included. An impossible length gives the header's own.
    #[must_use]
    pub fn total_len(&self) -> usize {
        usize::try_from(self.length).unwrap_or(0).max(HEADER - 1) + 1
    }
}

/// How long a message of each kind may be, in bytes without the tag.
#[derive(Debug, Clone)]
pub struct Limits {
    caps: [u32; 256],
}

/// PostgreSQL's own caps for what can be long: `PQ_LARGE_MESSAGE_LIMIT`.
const LARGE: u32 = 0x3fff_ffff;
/// And for what can't: `PQ_SMALL_MESSAGE_LIMIT`.
const SMALL: u32 = 10_000;
/// Names and numbers of fields: RowDescription and its kind.
const DESCRIPTION: u32 = 1 << 20;
/// Errors and notices quote values; more than this nobody reads.
const TEXTS: u32 = 1 << 20;

impl Limits {
    /// What a client may send; `decided` caps what has to be read whole before it is decided.
    #[must_use]
    pub fn frontend(decided: usize) -> Self {
        let decided = u32::try_from(decided).unwrap_or(LARGE).min(LARGE);
        Self::of(&[
            (b"QPF", decided),
            (b"Bd", LARGE),
            (b"DECSHXcf", SMALL),
            // Passwords and tokens: PG_MAX_AUTH_TOKEN_LENGTH.
            (b"p", 65_535),
        ])
    }

    /// What a server may send.
    #[must_use]
    pub fn backend() -> Self {
        Self::of(&[
            (b"DdV", LARGE),
            (b"TtGHWv", DESCRIPTION),
            (b"ENSA", TEXTS),
            (b"R", 65_535),
            (b"CKZ123nsIc", SMALL),
        ])
    }

    fn of(kinds: &[(&[u8], u32)]) -> Self {
        let mut caps = [0; 256];
        for (tags, cap) in kinds {
            for tag in *tags {
                if let Some(slot) = caps.get_mut(usize::from(*tag)) {
                    *slot = *cap;
                }
            }
        }
        Self { caps }
    }

    fn cap(&self, tag: u8) -> usize {
        self.caps.get(usize::from(tag)).copied().unwrap_or(0) as usize
    }
}

/// Takes the next message off the front. `None`: more bytes are needed.
///
/// The declared length is checked against the kind's cap as soon as the header is there, before anything waits for it.
pub fn next_frame<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Option<Frame<'a>>, DecodeError> {
    let Some(header) = FrameHeader::parse(bytes) else {
        // A tag alone already tells whether it can be one.
        return match bytes.first() {
            Some(tag) if limits.cap(*tag) == 0 => Err(DecodeError::UnknownTag(*tag)),
            _ => Ok(None),
        };
    };
    let tag = char::from(header.tag);
    let cap = limits.cap(header.tag);
    if cap == 0 {
        return Err(DecodeError::UnknownTag(header.tag));
    }
    let length = usize::try_from(header.length)
        .ok()
        .filter(|length| *length >= HEADER - 1)
        .ok_or(DecodeError::BadLength {
            tag,
            length: header.length,
        })?;
    if length > cap {
        return Err(DecodeError::Oversized { tag, length, cap });
    }
    let Some(raw) = bytes.get(..=length) else {
        return Ok(None);
    };
    let body = raw.get(HEADER..).unwrap_or_default();
    Ok(Some(Frame {
        tag: header.tag,
        raw,
        body,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_whole_or_not_at_all() {
        let limits = Limits::frontend(1 << 20);
        let bytes = b"Q\0\0\0\x0dselect 1\0S\0\0\0\x04";
        for cut in 0..14 {
            assert_eq!(next_frame(&bytes[..cut], &limits), Ok(None), "at {cut}");
        }
        let frame = next_frame(bytes, &limits).unwrap().unwrap();
        assert_eq!(
            (frame.tag, frame.body, frame.raw.len()),
            (b'Q', &b"select 1\0"[..], 14)
        );
        assert_eq!(next_frame(&bytes[14..], &limits).unwrap().unwrap().tag, b'S');
    }

    #[test]
    fn impossible_lengths_and_tags_are_told_at_once() {
        let limits = Limits::frontend(100);
        assert_eq!(
            next_frame(b"Q\0\0\0\x03", &limits),
            Err(DecodeError::BadLength { tag: 'Q', length: 3 })
        );
        assert_eq!(
            next_frame(b"Q\xff\xff\xff\xff", &limits),
            Err(DecodeError::BadLength { tag: 'Q', length: -1 })
        );
        assert_eq!(
            next_frame(b"Q\0\0\0\x65", &limits),
            Err(DecodeError::Oversized {
                tag: 'Q',
                length: 101,
                cap: 100
            })
        );
        assert_eq!(next_frame(b"\x16", &limits), Err(DecodeError::UnknownTag(0x16)));
    }
}
