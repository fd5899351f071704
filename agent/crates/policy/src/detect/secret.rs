//! Tokens and private keys, by how they begin.

use std::ops::Range;

use super::text::{at, before, places, run};

/// JSON objects begin with `{"`, `{ "` or a line break behind the bracket: so begin their headers in base64url.
const HEADERS: &[&[u8]] = &[b"eyJ", b"eyA", b"ewo", b"ew0", b"ewk"];

/// A header is a few names and values; what is longer isn't read.
const MOST_HEADER: usize = 4096;

/// JSON Web Tokens: RFC 7515, section 7.1, three parts; RFC 7516, section 7.1, five. The header is JSON and has "alg".
pub(super) fn find_tokens(text: &[u8], found: &mut impl FnMut(Range<usize>)) {
    for header in HEADERS {
        let mut done = 0;
        for from in places(text, header) {
            if from < done || is_base64url(before(text, from)) {
                continue;
            }
            if let Some(end) = token(text, from) {
                found(from..end);
                done = end;
            }
        }
    }
}

fn token(text: &[u8], from: usize) -> Option<usize> {
    let end = run(text, from, is_base64url);
    let header = text.get(from..end)?;
    if at(text, end) != b'.' || header.len() > MOST_HEADER || !names_algorithm(header) {
        return None;
    }
    let payload = run(text, end + 1, is_base64url);
    if at(text, payload) != b'.' {
        return None;
    }
    // The signature is empty where there is none ("alg": "none"); in an encrypted one, the second part may be empty instead.
    let mut last = run(text, payload + 1, is_base64url);
    let signed = payload > end + 1;
    let mut parts = 3;
    while parts < 5 && at(text, last) == b'.' {
        let next = run(text, last + 1, is_base64url);
        if next == last + 1 {
            break;
        }
        last = next;
        parts += 1;
    }
    (parts == 5 || signed).then_some(last)
}

fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// Whether base64url text holds `"alg"`. Four characters are three bytes; what is cut off at the end holds no name.
fn names_algorithm(header: &[u8]) -> bool {
    const NAME: &[u8] = b"\"alg\"";
    let mut window = [0_u8; NAME.len()];
    let mut bits = 0_u32;
    let mut held = 0;
    for byte in header {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            _ => 63,
        };
        bits = bits << 6 | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            window.rotate_left(1);
            if let Some(last) = window.last_mut() {
                *last = (bits >> held & 0xff) as u8;
            }
            if window == NAME {
                return true;
            }
        }
    }
    false
}

/// Private keys: RFC 7468's textual encodings and those before it, SSH2's (RFC 4716), PGP's, PuTTY's and age's. One without its
/// end goes to the value's end: a cut key is a key.
pub(super) fn find_keys(text: &[u8], found: &mut impl FnMut(Range<usize>)) {
    let mut done = 0;
    for begin in places(text, b"BEGIN ") {
        if begin < done {
            continue;
        }
        let dashes = text
            .get(..begin)
            .unwrap_or_default()
            .iter()
            .rev()
            .take(8)
            .take_while(|byte| matches!(byte, b'-' | b' '))
            .count();
        let from = begin - dashes;
        // No label is longer than this.
        let reach = text.get(..text.len().min(begin + 64)).unwrap_or_default();
        let label_end = run(reach, begin, |byte| {
            byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b' '
        });
        let label = text.get(begin..label_end).unwrap_or_default();
        let is_key = dashes >= 4
            && at(text, label_end) == b'-'
            && memchr::memmem::find(label, b"PRIVATE KEY").is_some();
        if !is_key {
            continue;
        }
        let from = run(text, from, |byte| byte == b' ');
        let rest = text.get(label_end..).unwrap_or_default();
        let end = memchr::memmem::find(rest, b"END ")
            .map(|end| label_end + end)
            .map(|end| run(text, end, |byte| byte.is_ascii_alphanumeric() || byte == b' '))
            .map_or(text.len(), |end| run(text, end, |byte| byte == b'-'));
        found(from..end);
        done = end;
    }
    if let Some(from) = places(text, b"PuTTY-User-Key-File-").next() {
        found(from..text.len());
    }
    for from in places(text, b"AGE-SECRET-KEY-1") {
        let end = run(text, from, |byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if end - from >= 60 {
            found(from..end);
        }
    }
}
