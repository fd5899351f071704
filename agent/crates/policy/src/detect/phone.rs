//! Phone numbers: ITU-T E.164 behind a +, or behind 00 with separators; the North American plan's ten digits; and national forms
//! that begin with the trunk prefix 0. Ten or more bare digits are no phone number: too much else is.

use std::ops::Range;

use super::text::{at, before, is_word, numbers, run};

pub(super) fn find(text: &[u8], found: &mut impl FnMut(Range<usize>)) {
    let mut done = 0;
    for digit in numbers(text) {
        if digit < done {
            continue;
        }
        // What belongs to it before its first digit.
        let mut from = digit;
        let bracketed =
            before(text, from) == b'(' && at(text, run(text, from, |byte| byte.is_ascii_digit())) == b')';
        from -= usize::from(bracketed);
        let plus = before(text, from) == b'+';
        from -= usize::from(plus);
        let previous = before(text, from);
        let part_of_more = is_word(previous)
            || matches!(previous, b'.' | b'-' | b'/' | b':') && before(text, from - 1).is_ascii_digit()
            || !plus && previous == b' ' && before(text, from - 1).is_ascii_digit()
            || !plus && matches!(previous, b'/' | b'#' | b'$');
        if part_of_more || from < done {
            continue;
        }
        if let Some(end) = phone(text, digit, plus, bracketed) {
            found(from..end);
            done = end;
        }
    }
}

/// A number as it is written: its digits and how they are grouped.
struct Written {
    digits: [u8; 16],
    count: usize,
    groups: [usize; 8],
    group: usize,
    /// The separators between groups; 0 where there was none yet.
    separators: [u8; 8],
    end: usize,
}

fn phone(text: &[u8], digit: usize, plus: bool, bracketed: bool) -> Option<usize> {
    let written = read(text, digit, bracketed)?;
    let digits = written.digits.get(..written.count)?;
    let groups = written.groups.get(..=written.group)?;
    let separators = written.separators.get(..written.group)?;
    let good = if plus {
        is_international(digits)
    } else if let [b'0', b'0', rest @ ..] = digits {
        written.group > 0 && is_international(rest)
    } else if digits.first() == Some(&b'0') {
        is_national(digits, groups, separators, bracketed)
    } else {
        is_american(digits, groups, separators, bracketed)
    };
    good.then_some(written.end)
}

/// Reads digits with at most two separators between groups. `None` where it is longer than any number, or goes on as something
/// else.
fn read(text: &[u8], from: usize, bracketed: bool) -> Option<Written> {
    let mut written = Written {
        digits: [0; 16],
        count: 0,
        groups: [0; 8],
        group: 0,
        separators: [0; 8],
        end: from,
    };
    let mut place = from;
    let mut open = bracketed;
    loop {
        while at(text, place).is_ascii_digit() {
            *written.digits.get_mut(written.count)? = at(text, place);
            written.count += 1;
            *written.groups.get_mut(written.group)? += 1;
            place += 1;
        }
        written.end = place;
        let mut next = place;
        let mut separator = 0;
        if open && at(text, next) == b')' {
            (open, separator) = (false, b')');
            next += 1;
        }
        if matches!(at(text, next), b' ' | b'-' | b'.' | b'/') {
            separator = if separator == 0 { at(text, next) } else { separator };
            next += 1;
        }
        if !open && at(text, next) == b'(' {
            (open, separator) = (true, b'(');
            next += 1;
        }
        if next == place || !at(text, next).is_ascii_digit() {
            break;
        }
        *written.separators.get_mut(written.group)? = separator;
        written.group += 1;
        place = next;
    }
    let after = at(text, written.end);
    let goes_on = is_word(after) || matches!(after, b':' | b'%') || open;
    (!goes_on).then_some(written)
}

/// Country codes of E.164 and the lengths that follow them.
fn is_international(digits: &[u8]) -> bool {
    let digit = |place: usize| digits.get(place).map_or(99, |digit| digit - b'0');
    let known = match (digit(0), digit(1)) {
        (1, _) => return digits.len() == 11 && is_american_number(digits.get(1..).unwrap_or_default()),
        (7, second) => return digits.len() == 11 && (3..=9).contains(&second),
        (2, 0 | 7) | (3, 0..=4 | 6 | 9) | (4, 0 | 1 | 3..=9) | (5, 1..=8) | (6, 0..=6) => true,
        (8, 1 | 2 | 4 | 6) | (9, 0..=5 | 8) => true,
        // Codes of three digits.
        (2, 1..=6 | 8 | 9)
        | (3, 5 | 7 | 8)
        | (4, 2)
        | (5, 0 | 9)
        | (6, 7..=9)
        | (8, 0 | 5 | 7 | 8)
        | (9, 6 | 7 | 9) => true,
        _ => false,
    };
    known && (8..=15).contains(&digits.len())
}

fn is_american_number(digits: &[u8]) -> bool {
    let digit = |place: usize| digits.get(place).map_or(0, |digit| digit - b'0');
    digits.len() == 10 && digit(0) >= 2 && digit(1) != 9 && digit(3) >= 2 && !(digit(4) == 1 && digit(5) == 1)
}

/// 212-555-0123, (212) 555-0123, 1-212-555-0123.
fn is_american(digits: &[u8], groups: &[usize], separators: &[u8], bracketed: bool) -> bool {
    let (number, groups, separators) = match (digits, groups, separators) {
        ([b'1', number @ ..], [1, groups @ ..], [_, separators @ ..]) => (number, groups, separators),
        _ => (digits, groups, separators),
    };
    let alike = matches!(separators, [b')', _])
        || bracketed
        || separators
            .windows(2)
            .all(|pair| matches!(pair, [a, b] if a == b && *a != b'/'));
    groups == [3, 3, 4] && alike && is_american_number(number)
}

/// 020 7946 0958, 0171/1234567, (030) 123456, 01 23 45 67 89.
fn is_national(digits: &[u8], groups: &[usize], separators: &[u8], bracketed: bool) -> bool {
    let Some((first, rest)) = groups.split_first() else {
        return false;
    };
    let Some((lead, others)) = separators.split_first() else {
        return false;
    };
    let alike = others.iter().all(|one| one == others.first().unwrap_or(one))
        && (matches!(lead, b')' | b'/') || others.first().is_none_or(|one| one == lead) || bracketed);
    // 01-02-2003 and 05.06.2007 12 are dates.
    let dated = matches!(groups, [2, 2, 4 | 2, ..]) && !matches!(groups, [2, 2, 2, 2, 2]);
    let fits =
        (2..=5).contains(first) && rest.iter().all(|length| (2..=8).contains(length)) && rest.len() <= 4;
    (9..=11).contains(&digits.len()) && digits.get(1) != Some(&b'0') && fits && alike && !dated
}
