//! What a stream passes on: slices of the pieces that came, where nothing in them changes.

use bytes::Bytes;

use super::{MAX_OBJECT, Malformed};

/// So much is rather copied behind something than passed on as a piece of its own.
const SMALL: usize = 4096;

/// Passes on what comes, and holds what can't be passed on before it's whole.
#[derive(Debug, Default)]
pub(super) struct Outlet {
    /// What came of the object at hand in earlier pieces.
    held: Vec<u8>,
    /// Where the object at hand begins in the piece at hand, if there is one.
    begun: Option<usize>,
    /// What is passed on next, and isn't a slice of the piece at hand.
    made: Vec<u8>,
    /// From here on nothing of the piece at hand was passed on.
    from: usize,
}

impl Outlet {
    /// An object begins here in the piece at hand.
    pub(super) fn begin(&mut self, at: usize) {
        self.begun = Some(at);
    }

    /// The object that ends here, as a whole; or what came of it up to here.
    ///
    /// # Errors
    /// When it is too large.
    pub(super) fn whole<'a>(&'a mut self, piece: &'a [u8], end: usize) -> Result<&'a [u8], Malformed> {
        let begun = self.begun.unwrap_or(end);
        let new = piece.get(begun..end).unwrap_or_default();
        if self.held.len() + new.len() > MAX_OBJECT {
            return Err(Malformed::Long);
        }
        if self.held.is_empty() {
            return Ok(new);
        }
        self.held.extend_from_slice(new);
        (self.begun, self.from) = (Some(end), end);
        Ok(&self.held)
    }

    /// Passes the object on that [`whole`](Self::whole) returned.
    pub(super) fn keep(&mut self, end: usize) {
        self.begun = None;
        if self.held.is_empty() {
            // It is a part of the piece, and goes with what surrounds it.
            return;
        }
        self.made.append(&mut self.held);
        self.from = end;
    }

    /// Passes this on in place of the object that [`whole`](Self::whole) returned.
    pub(super) fn replace(&mut self, piece: &Bytes, end: usize, with: &[u8], out: &mut Vec<Bytes>) {
        if let Some(begun) = self.begun.take() {
            self.pass(piece, begun, out);
        }
        self.held.clear();
        self.made.extend_from_slice(with);
        self.from = end;
    }

    /// Passes this on before the object at hand. All that came before it was replaced.
    pub(super) fn lead(&mut self, with: &[u8]) {
        self.made.extend_from_slice(with);
    }

    /// Passes this on in between, where no object is at hand.
    pub(super) fn insert(&mut self, piece: &Bytes, at: usize, bytes: Bytes, out: &mut Vec<Bytes>) {
        self.pass(piece, at, out);
        if !self.made.is_empty() {
            out.push(Bytes::from(std::mem::take(&mut self.made)));
        }
        out.push(bytes);
    }

    /// The piece at hand ended. What belongs to no object is passed on.
    ///
    /// # Errors
    /// When the object that it ended in is too large.
    pub(super) fn end(&mut self, piece: &Bytes, out: &mut Vec<Bytes>) -> Result<(), Malformed> {
        self.pass(piece, self.begun.unwrap_or(piece.len()), out);
        if !self.made.is_empty() {
            out.push(Bytes::from(std::mem::take(&mut self.made)));
        }
        if let Some(begun) = self.begun {
            let rest = piece.get(begun..).unwrap_or_default();
            if self.held.len() + rest.len() > MAX_OBJECT {
                return Err(Malformed::Long);
            }
            self.held.extend_from_slice(rest);
            self.begun = Some(0);
        }
        self.from = 0;
        Ok(())
    }

    /// Memory that it keeps between two pieces, in bytes.
    pub(super) fn held(&self) -> usize {
        self.held.capacity() + self.made.capacity()
    }

    fn pass(&mut self, piece: &Bytes, end: usize, out: &mut Vec<Bytes>) {
        let span = self.from..end;
        if span.is_empty() {
            return;
        }
        self.from = end;
        if !self.made.is_empty() {
            if span.len() < SMALL {
                self.made.extend_from_slice(piece.get(span).unwrap_or_default());
                return;
            }
            out.push(Bytes::from(std::mem::take(&mut self.made)));
        }
        out.push(piece.slice(span));
    }
}
