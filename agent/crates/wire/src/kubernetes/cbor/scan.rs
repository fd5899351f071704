//! The heads of data items, and where items end.

use super::{MAX_TAGS, major};
use crate::kubernetes::{MAX_DEPTH, Malformed};

/// How a data item begins: RFC 8949, section 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) major: u8,
    pub(super) argument: Argument,
    /// How many bytes it takes itself.
    pub(super) length: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Argument {
    Is(u64),
    /// It goes on to a break, or is one.
    Indefinite,
}

impl Argument {
    pub(super) const fn is(self) -> Option<u64> {
        match self {
            Self::Is(value) => Some(value),
            Self::Indefinite => None,
        }
    }
}

impl Head {
    /// Reads one; `None` where it isn't there as a whole.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let Some((first, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        let (major, info) = (first >> 5, first & 0x1f);
        let further = match info {
            0..24 => 0,
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            31 if !matches!(major, major::UNSIGNED | major::NEGATIVE | major::TAG) => 0,
            _ => return Err(Malformed::Form),
        };
        let argument = match info {
            0..24 => Argument::Is(u64::from(info)),
            31 => Argument::Indefinite,
            _ => {
                let Some(bytes) = rest.get(..further) else {
                    return Ok(None);
                };
                Argument::Is(bytes.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)))
            }
        };
        Ok(Some(Self {
            major,
            argument,
            length: 1 + further,
        }))
    }

    pub(super) const fn is_break(self) -> bool {
        matches!((self.major, self.argument), (major::SIMPLE, Argument::Indefinite))
    }

    /// Writes one, as short as it gets.
    pub(super) fn write(out: &mut Vec<u8>, major: u8, argument: u64) {
        let first = major << 5;
        let bytes = argument.to_be_bytes();
        let (info, further) = match argument {
            0..24 => (bytes[7], 0),
            24..0x100 => (24, 1),
            0x100..0x1_0000 => (25, 2),
            0x1_0000..0x1_0000_0000 => (26, 4),
            _ => (27, 8),
        };
        out.push(first | info);
        out.extend_from_slice(bytes.get(8 - further..).unwrap_or_default());
    }
}

/// Looks for the end of a data item that comes in pieces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Scan {
    open: Vec<Open>,
    /// How many bytes of a string are left.
    string: u64,
    /// What came of a head.
    head: Vec<u8>,
    tags: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    /// So many items are left.
    Items(u64),
    /// Items go on to a break.
    Indefinite,
    /// Pieces of a string of this major type go on to a break.
    Pieces(u8),
}

impl Scan {
    /// Goes on with the next piece. Returns how many bytes of it belong to the item where it ends.
    ///
    /// # Errors
    /// When it is no data item, or is too deep.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        let mut at = 0;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            if self.string > 0 {
                let taken = u64::try_from(rest.len())
                    .map_err(|_| Malformed::Form)?
                    .min(self.string);
                self.string -= taken;
                at += usize::try_from(taken).map_err(|_| Malformed::Form)?;
                if self.string > 0 {
                    return Ok(None);
                }
                if self.ended() {
                    return Ok(Some(at));
                }
                continue;
            }
            let (head, length) = if self.head.is_empty() {
                match Head::read(rest)? {
                    Some(head) => (head, head.length),
                    None => {
                        self.head.extend_from_slice(rest);
                        return Ok(None);
                    }
                }
            } else {
                let Some(byte) = rest.first() else {
                    return Ok(None);
                };
                self.head.push(*byte);
                let Some(head) = Head::read(&self.head)? else {
                    at += 1;
                    continue;
                };
                self.head.clear();
                (head, 1)
            };
            at += length;
            if self.item(head)? {
                return Ok(Some(at));
            }
        }
    }

    /// Begins an item. Says whether everything ended with it.
    fn item(&mut self, head: Head) -> Result<bool, Malformed> {
        if let Some(Open::Pieces(major)) = self.open.last()
            && !head.is_break()
            && (head.major != *major || head.argument == Argument::Indefinite)
        {
            return Err(Malformed::Form);
        }
        let tags = std::mem::take(&mut self.tags);
        match (head.major, head.argument) {
            (major::TAG, _) if tags < MAX_TAGS => {
                self.tags = tags + 1;
                return Ok(false);
            }
            (major::TAG, _) => return Err(Malformed::Form),
            (major::SIMPLE, Argument::Indefinite) => {
                let opened = self.open.pop();
                if tags > 0 || !matches!(opened, Some(Open::Indefinite | Open::Pieces(_))) {
                    return Err(Malformed::Form);
                }
            }
            (major::BYTES | major::TEXT, Argument::Is(length)) if length > 0 => {
                self.string = length;
                return Ok(false);
            }
            (major::BYTES | major::TEXT, Argument::Indefinite) => {
                return self.begin(Open::Pieces(head.major));
            }
            (major::LIST | major::MAP, Argument::Indefinite) => return self.begin(Open::Indefinite),
            (major::LIST, Argument::Is(items)) if items > 0 => return self.begin(Open::Items(items)),
            (major::MAP, Argument::Is(pairs)) if pairs > 0 => {
                let items = pairs.checked_mul(2).ok_or(Malformed::Form)?;
                return self.begin(Open::Items(items));
            }
            _ => {}
        }
        Ok(self.ended())
    }

    fn begin(&mut self, open: Open) -> Result<bool, Malformed> {
        if self.open.len() == MAX_DEPTH {
            return Err(Malformed::Deep);
        }
        self.open.push(open);
        Ok(false)
    }

    /// An item ended, and with it maybe those that it was the last one of.
    fn ended(&mut self) -> bool {
        while let Some(open) = self.open.last_mut() {
            let Open::Items(left) = open else {
                return false;
            };
            *left = left.saturating_sub(1);
            if *left > 0 {
                return false;
            }
            self.open.pop();
        }
        true
    }
}
