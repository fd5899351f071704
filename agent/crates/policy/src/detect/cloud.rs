//! Keys of AWS, Google Cloud and Azure, by their fixed beginnings and lengths, or by the name that stands before them.

use std::ops::Range;

use super::text::{at, before, places, run};

/// A known text, the characters that follow it, and how many of them: least, and most.
type Form = (&'static [u8], fn(u8) -> bool, usize, usize);

/// Keys that begin with a fixed text.
const PREFIXED: &[Form] = &[
    // AWS: long-term and temporary access keys, service bearer tokens and context keys.
    (b"AKIA", is_base32, 16, 16),
    (b"ASIA", is_base32, 16, 16),
    (b"ABIA", is_base32, 16, 16),
    (b"ACCA", is_base32, 16, 16),
    // Google Cloud: API keys, OAuth client secrets, access and refresh tokens.
    (b"AIza", is_base64url, 35, 35),
    (b"GOCSPX-", is_base64url, 28, 28),
    (b"ya29.", is_base64url, 20, 4096),
];

/// Values behind a name, which may be written in either case.
const NAMED: &[Form] = &[
    // AWS: secret access keys, however the name is written.
    (b"secret_access_key", is_base64, 40, 40),
    (b"secretaccesskey", is_base64, 40, 40),
    (b"secret-access-key", is_base64, 40, 40),
    (b"session_token", is_base64, 100, 8192),
    (b"sessiontoken", is_base64, 100, 8192),
    // Azure: storage accounts, Service Bus and its kind, shared access signatures.
    (b"accountkey", is_base64, 86, 88),
    (b"sharedaccesskey", is_base64, 43, 44),
    (b"sig", is_signature, 43, 128),
];

pub(super) fn find(text: &[u8], found: &mut impl FnMut(Range<usize>)) {
    for (prefix, follows, least, most) in PREFIXED {
        let mut done = 0;
        for from in places(text, prefix) {
            let begin = from + prefix.len();
            if from < done || is_base64url(before(text, from)) {
                continue;
            }
            let end = run(text, begin, follows);
            done = end;
            if (*least..=*most).contains(&(end - begin)) && !is_base64url(at(text, end)) {
                found(from..end);
            }
        }
    }
    named(text, found);
    entra(text, found);
}

/// Finds values behind names: at each = or :, what stands before and behind.
fn named(text: &[u8], found: &mut impl FnMut(Range<usize>)) {
    let mut done = 0;
    for sign in memchr::memchr2_iter(b'=', b':', text) {
        if sign < done {
            continue;
        }
        let lead = text.get(..sign).unwrap_or_default();
        let name_end = lead
            .iter()
            .rposition(|byte| !b" \"'\\\t".contains(byte))
            .map_or(0, |last| last + 1);
        // Few may be between: blanks without end would be looked at again and again.
        if sign - name_end > 4 {
            continue;
        }
        let name = lead.get(..name_end).unwrap_or_default();
        let Some((_, is_part, least, most)) = NAMED.iter().find(|(known, ..)| {
            let found = name
                .len()
                .checked_sub(known.len())
                .and_then(|from| name.get(from..));
            let apart = *known != b"sig" || {
                let previous = name
                    .len()
                    .checked_sub(known.len())
                    .map_or(0, |from| before(name, from));
                matches!(previous, b'&' | b'?' | b';' | 0)
            };
            apart && found.is_some_and(|found| found.eq_ignore_ascii_case(known))
        }) else {
            continue;
        };
        let reach = text.get(..text.len().min(sign + 8)).unwrap_or_default();
        let begin = run(reach, sign + 1, |byte| b" \"'\\\t>".contains(&byte));
        let end = run(text, begin, is_part);
        if (*least..=*most).contains(&(end - begin)) {
            found(begin..end);
            done = end;
        }
    }
}

/// Client secrets of Entra ID: three characters, a digit, `Q~`, and 31 to 34 more.
fn entra(text: &[u8], found: &mut impl FnMut(Range<usize>)) {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"_~.-".contains(&byte);
    let mut done = 0;
    for mark in places(text, b"Q~") {
        let Some(from) = mark.checked_sub(4).filter(|from| *from >= done) else {
            continue;
        };
        let starts = text.get(from..mark).unwrap_or_default();
        let fits = starts.iter().all(|byte| is_part(*byte)) && before(text, mark).is_ascii_digit();
        if !fits || is_part(before(text, from)) {
            continue;
        }
        let mut end = run(text, mark + 2, is_part);
        done = end;
        // A sentence's end is none of it.
        end -= usize::from(before(text, end) == b'.');
        if (31..=34).contains(&(end - mark - 2)) {
            found(from..end);
        }
    }
}

fn is_base32(byte: u8) -> bool {
    byte.is_ascii_uppercase() || (b'2'..=b'7').contains(&byte)
}

fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}

fn is_signature(byte: u8) -> bool {
    is_base64(byte) || byte == b'%'
}
