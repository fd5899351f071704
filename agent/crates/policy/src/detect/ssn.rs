//! US social security numbers: area, group and serial, none of which is zero; no area of 666 or above 899.

use std::ops::Range;

use super::text::{at, before, is_word, numbers, run};

/// How far before nine bare digits the word stands that makes them a number of this kind, in bytes.
const REACH: usize = 24;

pub(super) fn find(text: &[u8], found: &mut impl FnMut(Range<usize>)) {
    let mut done = 0;
    for from in numbers(text) {
        if from < done {
            continue;
        }
        let previous = before(text, from);
        let part_of_more = is_word(previous)
            || matches!(previous, b'-' | b'.' | b'+') && before(text, from - 1).is_ascii_digit();
        if part_of_more || previous == b'+' {
            continue;
        }
        if let Some(end) = separated(text, from).or_else(|| bare(text, from)) {
            found(from..end);
            done = end;
        }
    }
}

/// Where 3-2-4 digits end.
fn separated(text: &[u8], from: usize) -> Option<usize> {
    let separator = at(text, from + 3);
    if !matches!(separator, b'-' | b' ' | b'.') || at(text, from + 6) != separator {
        return None;
    }
    let area = digits(text, from, 3)?;
    let group = digits(text, from + 4, 2)?;
    let serial = digits(text, from + 7, 4)?;
    let end = from + 11;
    let goes_on = is_word(at(text, end)) || at(text, end) == separator && at(text, end + 1).is_ascii_digit();
    (!goes_on && is_given(area, group, serial)).then_some(end)
}

/// Where nine digits end, behind the word.
fn bare(text: &[u8], from: usize) -> Option<usize> {
    let end = run(text, from, |byte| byte.is_ascii_digit());
    if end != from + 9 || is_word(at(text, end)) {
        return None;
    }
    let lead = text.get(from.saturating_sub(REACH)..from)?;
    let says = |word: &[u8]| {
        lead.windows(word.len())
            .any(|part| part.eq_ignore_ascii_case(word))
    };
    if !says(b"ssn") && !says(b"social sec") && !says(b"social_sec") {
        return None;
    }
    let given = is_given(
        digits(text, from, 3)?,
        digits(text, from + 3, 2)?,
        digits(text, from + 5, 4)?,
    );
    given.then_some(end)
}

fn is_given(area: u32, group: u32, serial: u32) -> bool {
    (1..=899).contains(&area) && area != 666 && group != 0 && serial != 0
}

fn digits(text: &[u8], from: usize, count: usize) -> Option<u32> {
    text.get(from..from + count)?.iter().try_fold(0, |sum, byte| {
        byte.is_ascii_digit().then(|| sum * 10 + u32::from(byte - b'0'))
    })
}
