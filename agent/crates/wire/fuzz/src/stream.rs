//! Streams of messages come apart the same way however they are cut.

use bailiff_wire::postgres::{DecodeError, Frame, FrameHeader, Limits, next_frame};

use crate::cuts;

/// How long a message of a kind may declare itself to be: the limits of ARCHITECTURE.md, said a second time.
type Caps = fn(u8) -> usize;

/// Takes messages off a stream: as a client's with two caps, and as a server's.
pub fn frame(bytes: &[u8]) {
    let sides: [(Limits, Caps); 3] = [
        (Limits::frontend(1 << 20), |tag| client_cap(tag, 1 << 20)),
        (Limits::frontend(64), |tag| client_cap(tag, 64)),
        (Limits::backend(), server_cap),
    ];
    for (limits, cap) in &sides {
        let (whole, end) = take_all(bytes, limits, *cap);
        for cut in cuts(bytes.len()) {
            let (first, second) = bytes.split_at(cut);
            let (mut taken, mut left) = take_all(first, limits, *cap);
            if let Ok(rest) = left {
                let more = [rest, second].concat();
                let (again, end) = take_all(&more, limits, *cap);
                taken.extend(again.iter().map(|(tag, raw)| (*tag, raw.clone())));
                // Compared by length: they lie in different places.
                left = end.map(|rest| bytes.get(bytes.len() - rest.len()..).unwrap_or_default());
            }
            assert_eq!(taken, whole, "cut at {cut}");
            assert_eq!(left, end, "cut at {cut}");
        }
    }
}

fn client_cap(tag: u8, decided: usize) -> usize {
    match tag {
        b'Q' | b'P' | b'F' => decided,
        b'B' | b'd' => 0x3fff_ffff,
        b'p' => 65_535,
        b'D' | b'E' | b'C' | b'S' | b'H' | b'X' | b'c' | b'f' => 10_000,
        _ => 0,
    }
}

fn server_cap(tag: u8) -> usize {
    match tag {
        b'D' | b'd' | b'V' => 0x3fff_ffff,
        b'T' | b't' | b'G' | b'H' | b'W' | b'v' | b'E' | b'N' | b'S' | b'A' => 1 << 20,
        b'R' => 65_535,
        b'C' | b'K' | b'Z' | b'1' | b'2' | b'3' | b'n' | b's' | b'I' | b'c' => 10_000,
        _ => 0,
    }
}

type Taken = Vec<(u8, Vec<u8>)>;

/// All messages at the front, and what is left.
fn take_all<'a>(bytes: &'a [u8], limits: &Limits, cap: Caps) -> (Taken, Result<&'a [u8], DecodeError>) {
    let (mut rest, mut taken) = (bytes, Vec::new());
    loop {
        match next_frame(rest, limits) {
            Ok(Some(frame)) => {
                sound(&frame, rest);
                assert!(frame.raw.len() - 1 <= cap(frame.tag));
                taken.push((frame.tag, frame.raw.to_vec()));
                rest = rest.get(frame.raw.len()..).unwrap_or_default();
            }
            Ok(None) => {
                // What is waited for, and so buffered, is of a kind that there is, and within its cap.
                if let Some(tag) = rest.first() {
                    assert!(rest.len() <= cap(*tag), "{} bytes of {tag}", rest.len());
                }
                if let Some(header) = FrameHeader::parse(rest) {
                    assert!(header.total_len() - 1 <= cap(header.tag), "{header:?}");
                }
                return (taken, Ok(rest));
            }
            Err(error) => {
                if let DecodeError::UnknownTag(tag) = error {
                    assert_eq!(cap(tag), 0);
                }
                return (taken, Err(error));
            }
        }
    }
}

/// A message is what stands at the front, no more and no less than it declares.
pub(crate) fn sound(frame: &Frame<'_>, rest: &[u8]) {
    assert!(rest.starts_with(frame.raw) && frame.raw.len() >= 5);
    assert_eq!(frame.raw.first(), Some(&frame.tag));
    assert_eq!(frame.raw.get(5..), Some(frame.body));
    let header = FrameHeader::parse(frame.raw).map(|header| (header.tag, header.total_len()));
    assert_eq!(header, Some((frame.tag, frame.raw.len())));
}
