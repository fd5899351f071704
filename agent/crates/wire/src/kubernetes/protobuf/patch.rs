//! What is written in place of a source: its bytes but for what was replaced, with the lengths of all that it lies in.

use super::reader::{Part, Wire, put_varint};

/// Writes nothing until something is replaced.
pub(super) struct Patch<'w, 's> {
    source: &'s [u8],
    out: &'w mut Vec<u8>,
    /// So much of the source is written, or was replaced.
    copied: usize,
    /// The fields in which the walk is, from the outermost.
    open: Vec<Open>,
    /// So many of them are begun in `out`.
    begun: usize,
    room: Room,
    changed: bool,
}

/// How much longer what is written may become than the source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// As it must.
    Any,
    /// By so many bytes at most.
    Of(usize),
}

struct Open {
    /// Where the length begins in the source, and where the content does.
    length: usize,
    content: usize,
    /// Where the length begins in `out`, once it is begun.
    written: usize,
}

/// A length grows by so many bytes at most: what is held has less than 2^28.
const LENGTH_GROWS: usize = 4;

impl<'w, 's> Patch<'w, 's> {
    /// Begins at an offset of the source.
    pub(super) fn new(source: &'s [u8], from: usize, room: Room, out: &'w mut Vec<u8>) -> Self {
        Self {
            source,
            out,
            copied: from,
            open: Vec::with_capacity(16),
            begun: 0,
            room,
            changed: false,
        }
    }

    /// Goes into a field.
    pub(super) fn open(&mut self, part: &Part) {
        self.open.push(Open {
            length: part.length,
            content: part.content.start,
            written: 0,
        });
    }

    /// Leaves the field that was opened last, whose content ends here.
    pub(super) fn close(&mut self, end: usize) {
        let Some(open) = self.open.pop() else {
            return;
        };
        if self.begun <= self.open.len() {
            return;
        }
        self.begun = self.open.len();
        self.copy(end);
        let content = open.written + (open.content - open.length);
        let length = self.out.len().saturating_sub(content);
        let mut bytes = Vec::with_capacity(10);
        put_varint(&mut bytes, length as u64);
        self.out.splice(open.written..content, bytes);
    }

    /// Whether there is room for a content of this length in place of a field's. What is longer takes from it, with what the lengths
    /// of all that it lies in may grow by.
    pub(super) fn has_room(&self, part: &Part, length: usize) -> bool {
        match self.room {
            Room::Any => true,
            Room::Of(room) => self.grows(part, length) <= room,
        }
    }

    fn grows(&self, part: &Part, length: usize) -> usize {
        match length.checked_sub(part.content.len()) {
            None | Some(0) => 0,
            Some(more) => more + LENGTH_GROWS * (self.open.len() + 1),
        }
    }

    /// Puts a content in place of a field's.
    pub(super) fn put(&mut self, part: &Part, content: &[u8]) {
        if self.source.get(part.content.clone()) == Some(content) {
            return;
        }
        let grows = self.grows(part, content.len());
        if let Room::Of(room) = &mut self.room {
            let shrinks = part.content.len().saturating_sub(content.len());
            *room = room.saturating_sub(grows).saturating_add(shrinks);
        }
        self.changed = true;
        let pending = self.open.len();
        for index in self.begun..pending {
            let Some((length, content)) = self.open.get(index).map(|open| (open.length, open.content)) else {
                break;
            };
            self.copy(length);
            let written = self.out.len();
            self.copy(content);
            if let Some(open) = self.open.get_mut(index) {
                open.written = written;
            }
        }
        self.begun = pending;
        self.copy(part.length);
        if part.wire == Wire::Delimited {
            put_varint(self.out, content.len() as u64);
        }
        self.out.extend_from_slice(content);
        self.copied = part.content.end;
    }

    /// Writes what is left up to here. Says whether anything was replaced; where nothing was, nothing was written.
    pub(super) fn finish(mut self, end: usize) -> bool {
        if self.changed {
            self.copy(end);
        }
        self.changed
    }

    fn copy(&mut self, end: usize) {
        let bytes = self.source.get(self.copied..end).unwrap_or_default();
        self.out.extend_from_slice(bytes);
        self.copied = self.copied.max(end);
    }
}
