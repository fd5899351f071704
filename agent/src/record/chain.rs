//! Hashes that chain what was written, so that a change of it is told.
//!
//! Behind each frame of lines stands a mark with the SHA-256 of the mark before it and the frame. A file begins with the last
//! hash of the file before, and ends with a seal. Marks are skippable frames of Zstandard, which `zstdcat` passes over. Whoever may
//! write the record could compute all of it anew: a hash that is kept elsewhere shows that, too.

use std::collections::HashSet;

use sha2::{Digest as _, Sha256};

/// One of the sixteen magic numbers of skippable frames.
const MAGIC: [u8; 4] = 0x184d_2a5b_u32.to_le_bytes();

/// What a mark holds: its kind and a hash.
const INSIDE: usize = 33;

/// Length of a mark in bytes.
#[cfg(test)]
pub(super) const MARK: usize = 8 + INSIDE;

/// A hash of all that was written up to a place.
pub(crate) type Head = [u8; 32];

/// What a mark says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A file begins; the last hash of the file before, or zeros.
    Begin = b'B' as isize,
    /// The hash up to here.
    Link = b'L' as isize,
    /// The file is complete.
    Seal = b'S' as isize,
}

/// The writer's side.
#[derive(Debug, Default)]
pub(super) struct Chain {
    head: Head,
}

impl Chain {
    /// Puts a file's first mark before its first frame.
    pub(super) fn begin(&self, out: &mut Vec<u8>) {
        mark(Kind::Begin, &self.head, out);
    }

    /// The hash that stands behind a frame. Nothing has changed until it is [written](Self::written).
    pub(super) fn link(&self, frame: &[u8], out: &mut Vec<u8>) -> Head {
        let head = after(&self.head, frame);
        mark(Kind::Link, &head, out);
        head
    }

    /// Says that a frame and its mark are on the disk.
    pub(super) fn written(&mut self, head: Head) {
        self.head = head;
    }

    /// The mark that ends a file. Nothing has changed until it is [written](Self::written).
    pub(super) fn seal(&self, out: &mut Vec<u8>) -> Head {
        let head = after(&self.head, b"sealed");
        mark(Kind::Seal, &head, out);
        head
    }
}

fn after(head: &Head, what: &[u8]) -> Head {
    Sha256::new()
        .chain_update(head)
        .chain_update(what)
        .finalize()
        .into()
}

fn mark(kind: Kind, head: &Head, out: &mut Vec<u8>) {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&u32::try_from(INSIDE).unwrap_or(0).to_le_bytes());
    out.push(kind as u8);
    out.extend_from_slice(head);
}

/// Whether a frame is a mark, without lines.
pub(super) fn is_mark(frame: &[u8]) -> bool {
    frame.starts_with(&MAGIC)
}

fn read(frame: &[u8]) -> Option<(Kind, Head)> {
    let inside = frame.strip_prefix(&MAGIC)?.get(4..)?;
    let (kind, head) = inside.split_first()?;
    let kind = match kind {
        b'B' => Kind::Begin,
        b'L' => Kind::Link,
        b'S' => Kind::Seal,
        _ => return None,
    };
    Some((kind, head.try_into().ok()?))
}

/// What a file turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// All of it is as it was written.
    Sealed,
    /// What is there is as it was written, and there is no seal: it is being written, or its agent was killed.
    Open,
    /// The same, and so many bytes at its end aren't whole: a crash cut them off, or they are being written.
    Cut(usize),
    /// It was changed: where, in bytes, and what is wrong there.
    Changed(usize, &'static str),
    /// It is of an agent that chained nothing.
    Unchained,
}

/// What was found of a file.
#[derive(Debug)]
pub(crate) struct Verified {
    pub(crate) state: State,
    /// Lines that are as they were written.
    pub(crate) lines: u64,
    /// The last hash of the file before it.
    pub(crate) follows: Head,
    /// The last hash.
    pub(crate) head: Head,
}

/// Holds a file against its hashes, and notes each of them.
pub(crate) fn verify(bytes: &[u8], seen: &mut HashSet<Head>) -> Verified {
    let mut found = Verified {
        state: State::Open,
        lines: 0,
        follows: Head::default(),
        head: Head::default(),
    };
    if bytes.first() == Some(&b'{') {
        found.state = State::Unchained;
        return found;
    }
    found.state = walk(bytes, &mut found, seen);
    found
}

fn walk(bytes: &[u8], found: &mut Verified, seen: &mut HashSet<Head>) -> State {
    let (mut rest, mut begun, mut unlinked) = (bytes, false, None);
    let mut sealed = false;
    while !rest.is_empty() {
        let at = bytes.len() - rest.len();
        if sealed {
            return State::Changed(at, "something stands behind the seal");
        }
        let Some((frame, after_it)) = zstd::zstd_safe::find_frame_compressed_size(rest)
            .ok()
            .and_then(|length| rest.split_at_checked(length))
            .filter(|(frame, _)| !frame.is_empty())
        else {
            break;
        };
        if !is_mark(frame) {
            let Ok(text) = zstd::decode_all(frame) else {
                return State::Changed(at, "a frame can't be read");
            };
            match (begun, unlinked) {
                (false, _) => return State::Changed(at, "the file's beginning is missing"),
                (true, Some(_)) => return State::Changed(at, "a frame's hash is missing"),
                (true, None) => {}
            }
            let lines = text
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .count();
            unlinked = Some((after(&found.head, frame), lines as u64));
            rest = after_it;
            continue;
        }
        match (read(frame), unlinked.take()) {
            (Some((Kind::Begin, head)), None) if !begun => {
                (begun, found.follows, found.head) = (true, head, head);
            }
            (Some((Kind::Link, head)), Some((expected, lines))) if head == expected => {
                found.head = head;
                found.lines += lines;
                seen.insert(head);
            }
            (Some((Kind::Seal, head)), None) if begun && head == after(&found.head, b"sealed") => {
                found.head = head;
                seen.insert(head);
                sealed = true;
            }
            _ => return State::Changed(at, "what stands before it isn't what was written"),
        }
        rest = after_it;
    }
    match (rest.len(), unlinked) {
        (0, None) if sealed => State::Sealed,
        (0, None) => State::Open,
        // A frame whose hash was cut off can't be told from one that was put there.
        (left, _) => State::Cut(left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(chain: &mut Chain, frames: &[&str]) -> Vec<u8> {
        let mut file = Vec::new();
        chain.begin(&mut file);
        for text in frames {
            let frame = zstd::encode_all(text.as_bytes(), 1).unwrap();
            file.extend_from_slice(&frame);
            let head = chain.link(&frame, &mut file);
            chain.written(head);
        }
        file
    }

    fn state(bytes: &[u8]) -> State {
        verify(bytes, &mut HashSet::new()).state
    }

    #[test]
    fn files_follow_each_other_and_end_with_a_seal() {
        let mut chain = Chain::default();
        let mut first = file(&mut chain, &["{1}\n{2}\n", "{3}\n"]);
        assert_eq!(state(&first), State::Open);
        let sealed = chain.seal(&mut first);
        chain.written(sealed);
        let second = file(&mut chain, &["{4}\n"]);
        let mut seen = HashSet::new();
        let (first, second) = (verify(&first, &mut seen), verify(&second, &mut seen));
        assert_eq!(
            (first.state, first.lines, first.follows),
            (State::Sealed, 3, [0; 32])
        );
        assert_eq!(
            (second.state, second.lines, second.follows),
            (State::Open, 1, first.head)
        );
        assert_eq!(seen.len(), 4);
    }

    #[test]
    fn each_change_of_a_byte_is_told() {
        let mut chain = Chain::default();
        let mut whole = file(&mut chain, &["{\"a\":1}\n", "{\"b\":2}\n", "{\"c\":3}\n"]);
        let _ = chain.seal(&mut whole);
        for place in 0..whole.len() {
            let mut changed = whole.clone();
            changed[place] ^= 1;
            let found = verify(&changed, &mut HashSet::new());
            // The first hash is of another file, which is held against it.
            let follows = found.follows != [0; 32];
            assert!(
                follows || found.state != State::Sealed,
                "{place}: {:?}",
                found.state
            );
        }
        for end in 0..whole.len() {
            assert_ne!(state(&whole[..end]), State::Sealed, "{end}");
        }
    }

    #[test]
    fn what_is_taken_out_put_in_or_moved_is_told() {
        let mut chain = Chain::default();
        let begin = file(&mut chain, &[]);
        let mut parts = Vec::new();
        for text in ["{1}\n", "{2}\n", "{3}\n"] {
            let frame = zstd::encode_all(text.as_bytes(), 1).unwrap();
            let mut part = frame.clone();
            let head = chain.link(&frame, &mut part);
            chain.written(head);
            parts.push(part);
        }
        let with = |order: &[usize]| {
            let mut all = begin.clone();
            for place in order {
                all.extend_from_slice(&parts[*place]);
            }
            state(&all)
        };
        assert_eq!(with(&[0, 1, 2]), State::Open);
        for order in [&[0, 2][..], &[1, 0, 2], &[0, 0, 1, 2], &[1, 2]] {
            assert!(matches!(with(order), State::Changed(..)), "{order:?}");
        }
        assert!(matches!(state(&parts[0]), State::Changed(0, _)));
        assert!(matches!(state(b"garbage of some length"), State::Cut(22)));
    }
}
