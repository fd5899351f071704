//! International bank account numbers: ISO 13616, with each country's length and the check digits of ISO 7064, MOD 97-10.

use std::ops::Range;

use super::text::{at, before, is_word};

/// Lengths by country, from the registry that SWIFT keeps.
const COUNTRIES: &[(&[u8; 2], usize)] = &[
    (b"AD", 24),
    (b"AE", 23),
    (b"AL", 28),
    (b"AT", 20),
    (b"AZ", 28),
    (b"BA", 20),
    (b"BE", 16),
    (b"BG", 22),
    (b"BH", 22),
    (b"BI", 27),
    (b"BR", 29),
    (b"BY", 28),
    (b"CH", 21),
    (b"CR", 22),
    (b"CY", 28),
    (b"CZ", 24),
    (b"DE", 22),
    (b"DJ", 27),
    (b"DK", 18),
    (b"DO", 28),
    (b"EE", 20),
    (b"EG", 29),
    (b"ES", 24),
    (b"FI", 18),
    (b"FK", 18),
    (b"FO", 18),
    (b"FR", 27),
    (b"GB", 22),
    (b"GE", 22),
    (b"GI", 23),
    (b"GL", 18),
    (b"GR", 27),
    (b"GT", 28),
    (b"HN", 28),
    (b"HR", 21),
    (b"HU", 28),
    (b"IE", 22),
    (b"IL", 23),
    (b"IQ", 23),
    (b"IS", 26),
    (b"IT", 27),
    (b"JO", 30),
    (b"KW", 30),
    (b"KZ", 20),
    (b"LB", 28),
    (b"LC", 32),
    (b"LI", 21),
    (b"LT", 20),
    (b"LU", 20),
    (b"LV", 21),
    (b"LY", 25),
    (b"MC", 27),
    (b"MD", 24),
    (b"ME", 22),
    (b"MK", 19),
    (b"MN", 20),
    (b"MR", 27),
    (b"MT", 31),
    (b"MU", 30),
    (b"NI", 28),
    (b"NL", 18),
    (b"NO", 15),
    (b"OM", 23),
    (b"PK", 24),
    (b"PL", 28),
    (b"PS", 29),
    (b"PT", 25),
    (b"QA", 29),
    (b"RO", 24),
    (b"RS", 22),
    (b"RU", 33),
    (b"SA", 24),
    (b"SC", 31),
    (b"SD", 18),
    (b"SE", 24),
    (b"SI", 19),
    (b"SK", 24),
    (b"SM", 27),
    (b"SO", 23),
    (b"ST", 25),
    (b"SV", 28),
    (b"TL", 23),
    (b"TN", 24),
    (b"TR", 26),
    (b"UA", 29),
    (b"VA", 22),
    (b"VG", 24),
    (b"XK", 20),
    (b"YE", 30),
];

pub(super) fn find(text: &[u8], found: &mut impl FnMut(Range<usize>)) {
    let mut done = 0;
    for (from, pair) in text.windows(4).enumerate() {
        let [a, b, c, d] = pair else { continue };
        if !(a.is_ascii_alphabetic() && b.is_ascii_alphabetic() && (c.is_ascii_digit() && d.is_ascii_digit()))
        {
            continue;
        }
        if from < done || is_word(before(text, from)) {
            continue;
        }
        if let Some(end) = iban(text, from) {
            found(from..end);
            done = end;
        }
    }
}

fn iban(text: &[u8], from: usize) -> Option<usize> {
    let country = [
        at(text, from).to_ascii_uppercase(),
        at(text, from + 1).to_ascii_uppercase(),
    ];
    let length = COUNTRIES
        .iter()
        .find_map(|(name, length)| (**name == country).then_some(*length))?;
    let mut number = [0_u8; 34];
    let mut count = 0;
    let mut place = from;
    while count < length {
        let byte = at(text, place);
        if byte.is_ascii_alphanumeric() {
            *number.get_mut(count)? = byte.to_ascii_uppercase();
            count += 1;
        } else if !(matches!(byte, b' ' | b'-')
            && count % 4 == 0
            && before(text, place).is_ascii_alphanumeric())
        {
            // Only groups of four are parted.
            return None;
        }
        place += 1;
    }
    if is_word(at(text, place)) {
        return None;
    }
    let number = number.get(..length)?;
    let (head, rest) = number.split_at_checked(4)?;
    let remainder = rest.iter().chain(head).fold(0_u32, |sum, byte| match byte {
        b'0'..=b'9' => (sum * 10 + u32::from(byte - b'0')) % 97,
        _ => (sum * 100 + u32::from(byte - b'A') + 10) % 97,
    });
    (remainder == 1).then_some(place)
}
