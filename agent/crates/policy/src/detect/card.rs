//! Payment cards: ISO/IEC 7812's numbers, by the issuers' published ranges and lengths, with Luhn's check digit.

use std::ops::Range;

use super::text::{at, before, is_word, numbers};

const MOST: usize = 19;

pub(super) fn find(text: &[u8], found: &mut impl FnMut(Range<usize>)) {
    let mut done = 0;
    for from in numbers(text) {
        if from < done {
            continue;
        }
        let previous = before(text, from);
        // The rest of a word, or the places behind a point.
        let goes_on = is_word(previous) || previous == b'.' && before(text, from - 1).is_ascii_digit();
        if goes_on {
            continue;
        }
        if let Some(end) = card(text, from) {
            found(from..end);
            done = end;
        }
    }
}

/// Where the card's number that begins at a place ends.
fn card(text: &[u8], from: usize) -> Option<usize> {
    let mut digits = [0_u8; MOST];
    let mut count = 0;
    let mut groups = [0_usize; 6];
    let mut group = 0;
    let mut separator = None;
    let mut place = from;
    let mut end = None;
    loop {
        let byte = at(text, place);
        if byte.is_ascii_digit() {
            // Longer than any card.
            let Some(slot) = digits.get_mut(count) else { break };
            *slot = byte - b'0';
            count += 1;
            *groups.get_mut(group)? += 1;
            place += 1;
            continue;
        }
        // The end of a group, and perhaps of the number.
        let number = digits.get(..count)?;
        if !is_word(byte) && is_grouped(groups.get(..=group)?) && is_issued(number) && luhn(number) {
            end = Some(place);
        }
        let goes_on = matches!(byte, b' ' | b'-')
            && separator.is_none_or(|one| one == byte)
            && at(text, place + 1).is_ascii_digit()
            && group < 4;
        if !goes_on {
            break;
        }
        separator = Some(byte);
        group += 1;
        place += 1;
    }
    end
}

/// Whether it's written in one piece, or in the groups that stand on cards.
fn is_grouped(groups: &[usize]) -> bool {
    matches!(
        groups,
        [_] | [4, 6, 4 | 5] | [4, 4, 5] | [4, 4, 4, 1..=4] | [4, 4, 4, 4, 1..=3] | [6, 10..=13]
    )
}

fn is_issued(number: &[u8]) -> bool {
    let prefix = |length: usize| {
        number
            .iter()
            .take(length)
            .fold(0_u32, |sum, digit| sum * 10 + u32::from(*digit))
    };
    let (two, three, four, six) = (prefix(2), prefix(3), prefix(4), prefix(6));
    match number.len() {
        // Maestro's older ranges.
        12 => matches!(four, 5018 | 5020 | 5038 | 5893 | 6304 | 6759 | 6761..=6763),
        // Visa's oldest.
        13 => two / 10 == 4,
        // Diners Club.
        14 => matches!(three, 300..=305 | 309) || matches!(two, 36 | 38 | 39),
        // American Express.
        15 => matches!(two, 34 | 37),
        16..=19 => {
            let sixteen = number.len() == 16;
            let visa = two / 10 == 4 && (sixteen || number.len() == 19);
            let mastercard = sixteen && (matches!(two, 51..=55) || matches!(four, 2221..=2720));
            let discover = four == 6011 || matches!(three, 644..=649) || two == 65;
            let union_pay = two == 62;
            let jcb = matches!(four, 3528..=3589);
            let diners = matches!(two, 36 | 38 | 39) || matches!(three, 300..=305);
            let mir = matches!(four, 2200..=2204);
            let maestro = matches!(four, 5018 | 5020 | 5038 | 5893 | 6304 | 6759 | 6761..=6763);
            let rupay = sixteen && (matches!(two, 60 | 81 | 82) || three == 508);
            let others = sixteen && four == 9792 || matches!(six, 506_099..=506_198 | 650_002..=650_027);
            visa || mastercard || discover || union_pay || jcb || diners || mir || maestro || rupay || others
        }
        _ => false,
    }
}

/// ISO/IEC 7812-1, annex B. A number of zeros alone passes it and is none.
fn luhn(number: &[u8]) -> bool {
    let sum: u32 = number
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let digit = u32::from(*digit);
            match place % 2 {
                0 => digit,
                _ if digit > 4 => digit * 2 - 9,
                _ => digit * 2,
            }
        })
        .sum();
    sum.is_multiple_of(10) && sum > 0
}
