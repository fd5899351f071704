//! What detectors share.

/// Which bytes a text has.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) length: usize,
    pub(super) digits: usize,
    pub(super) at: bool,
    pub(super) dot: bool,
    pub(super) dash: bool,
}

const DIGIT: u32 = 1;
const AT: u32 = 1 << 8;
const DOT: u32 = 1 << 16;
const DASH: u32 = 1 << 24;

#[expect(
    clippy::indexing_slicing,
    reason = "a constant: out of bounds would be an error at compile time"
)]
const CLASSES: [u32; 256] = {
    let mut classes = [0; 256];
    let mut digit = b'0';
    while digit <= b'9' {
        classes[digit as usize] = DIGIT;
        digit += 1;
    }
    classes[b'@' as usize] = AT;
    classes[b'.' as usize] = DOT;
    classes[b'-' as usize] = DASH;
    classes
};

impl Seen {
    /// Looks at each byte once.
    pub(super) fn of(text: &[u8]) -> Self {
        let mut seen = Self {
            length: text.len(),
            ..Self::default()
        };
        // So few bytes at a time that no count of a class reaches that of the next.
        for part in text.chunks(255) {
            let sum: u32 = part
                .iter()
                .map(|byte| CLASSES.get(usize::from(*byte)).copied().unwrap_or_default())
                .fold(0, u32::wrapping_add);
            seen.digits += (sum & 0xff) as usize;
            seen.at |= sum >> 8 & 0xff != 0;
            seen.dot |= sum >> 16 & 0xff != 0;
            seen.dash |= sum >> 24 != 0;
        }
        seen
    }
}

/// The byte at a place; 0, which no detector takes, where the text has ended.
pub(super) fn at(text: &[u8], place: usize) -> u8 {
    text.get(place).copied().unwrap_or(0)
}

/// The byte before a place; 0 at the beginning.
pub(super) fn before(text: &[u8], place: usize) -> u8 {
    place.checked_sub(1).map_or(0, |place| at(text, place))
}

/// The end of the run that begins at a place.
pub(super) fn run(text: &[u8], from: usize, of: impl Fn(u8) -> bool) -> usize {
    text.get(from..)
        .unwrap_or_default()
        .iter()
        .position(|byte| !of(*byte))
        .map_or(text.len(), |length| from + length)
}

/// Where runs of digits begin, in order.
pub(super) fn numbers(text: &[u8]) -> impl Iterator<Item = usize> + '_ {
    let mut in_run = false;
    text.iter().enumerate().filter_map(move |(place, byte)| {
        let begins = byte.is_ascii_digit() && !in_run;
        in_run = byte.is_ascii_digit();
        begins.then_some(place)
    })
}

/// What makes a word go on. Not letters of other scripts: not all of those put blanks between words.
pub(super) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Places of a needle, in order.
pub(super) fn places<'a>(text: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    memchr::memmem::find_iter(text, needle)
}
