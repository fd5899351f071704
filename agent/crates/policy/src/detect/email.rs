//! Email addresses: RFC 5322's dot-atoms and quoted local parts, at a domain with a top level. Letters of any script (RFC 6531).

use std::ops::Range;

use super::text::{at, before, run};

/// Octets of a local part and of a domain: RFC 5321, section 4.5.3.1.
const MOST_LOCAL: usize = 64;
const MOST_DOMAIN: usize = 255;

/// Endings of file names that stand behind an @ (`icon@2x.png`) and are no top-level domains.
const FILES: &[&[u8]] = &[
    b"avif", b"bmp", b"css", b"gif", b"htm", b"html", b"ico", b"jpeg", b"jpg", b"js", b"json", b"jsx",
    b"pdf", b"png", b"svg", b"tgz", b"ts", b"tsx", b"txt", b"webp", b"woff", b"xml", b"yaml", b"yml",
];

pub(super) fn find(text: &[u8], found: &mut impl FnMut(Range<usize>)) {
    let mut done = 0;
    for sign in memchr::memchr_iter(b'@', text) {
        if sign < done {
            continue;
        }
        let (Some(from), Some(to)) = (local(text, done, sign), domain(text, sign + 1)) else {
            continue;
        };
        found(from..to);
        done = to;
    }
}

/// Where the local part before the sign begins.
fn local(text: &[u8], done: usize, sign: usize) -> Option<usize> {
    let least = done.max(sign.saturating_sub(MOST_LOCAL));
    let reach = text.get(least..sign)?;
    if before(text, sign) == b'"' {
        let inner = reach.get(..reach.len() - 1)?;
        return memchr::memrchr(b'"', inner)
            .filter(|quote| quote + 1 < inner.len())
            .map(|quote| least + quote);
    }
    let mut from = reach
        .iter()
        .rposition(|byte| !is_local(*byte))
        .map_or(least, |stop| least + stop + 1);
    // Where it was cut: to the beginning of a character.
    while from < sign && at(text, from) & 0xc0 == 0x80 {
        from += 1;
    }
    while matches!(at(text, from), b'.' | b'\'' | b'-') && from < sign {
        from += 1;
    }
    (from < sign && before(text, sign) != b'.').then_some(from)
}

fn is_local(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80 || b".!#$%&'*+-?^_~".contains(&byte)
}

/// Where the domain that begins at a place ends.
fn domain(text: &[u8], from: usize) -> Option<usize> {
    let reach = text.get(..text.len().min(from + MOST_DOMAIN))?;
    let mut place = from;
    let mut labels = 0;
    let mut good = None;
    loop {
        let end = run(reach, place, |byte| {
            byte.is_ascii_alphanumeric() || byte == b'-' || byte >= 0x80
        });
        let label = reach.get(place..end)?;
        if label.is_empty() || label.len() > 63 && !label.iter().any(|byte| *byte >= 0x80) {
            break;
        }
        labels += 1;
        if label.first() == Some(&b'-') {
            break;
        }
        // A sentence may go on behind it: «a@b.example-», «a@b.example.»
        let trimmed = label
            .iter()
            .rposition(|byte| *byte != b'-')
            .map_or(0, |last| last + 1);
        if labels >= 2 && is_top_level(label.get(..trimmed)?) {
            good = Some(place + trimmed);
        } else if labels >= 2 {
            // A last label that is no top level takes the ones before it away, too: `pkg@host.example.1`.
            good = None;
        }
        if at(reach, end) != b'.' || trimmed < label.len() {
            break;
        }
        // Only if another label follows does the dot belong to it.
        let next = at(reach, end + 1);
        if !(next.is_ascii_alphanumeric() || next >= 0x80) {
            break;
        }
        place = end + 1;
    }
    let end = good?;
    // Never inside of a character.
    (at(text, end) & 0xc0 != 0x80).then_some(end)
}

fn is_top_level(label: &[u8]) -> bool {
    let letters = label.len() >= 2
        && label
            .iter()
            .all(|byte| byte.is_ascii_alphabetic() || *byte >= 0x80);
    let encoded = label.len() > 4
        && label
            .get(..4)
            .is_some_and(|start| start.eq_ignore_ascii_case(b"xn--"));
    (letters || encoded) && !FILES.iter().any(|file| file.eq_ignore_ascii_case(label))
}
