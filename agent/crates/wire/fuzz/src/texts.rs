//! SQL texts, and the messages that the agent writes.

use bailiff_wire::postgres::backend::ErrorFields;
use bailiff_wire::postgres::build::{self, ErrorText};
use bailiff_wire::postgres::frontend::{Describe, Parse, Query};
use bailiff_wire::postgres::{Limits, next_frame};
use bailiff_wire::sql::{Normal, normalise};

/// A text's key stands for the text and for those with other integers in it, and for nothing else that can be told here. That
/// the tokens are the same is shown with the grammar, in `tests/shapes.rs` of bailiff-policy.
pub fn sql(text: &[u8]) {
    let mut key = vec![b'x'; 3]; // What was in it doesn't matter.
    if normalise(text, &mut key) == Normal::Exact {
        return;
    }
    assert!(key.contains(&0) && key.len() <= text.len());
    // Put back, the integers make the text again.
    let mut rest = text;
    let mut other = Vec::new();
    for byte in &key {
        let taken = if *byte == 0 {
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            assert!((1..=9).contains(&digits));
            other.extend_from_slice(b"4711");
            digits
        } else {
            assert_eq!(rest.first(), Some(byte));
            other.push(*byte);
            1
        };
        rest = rest.get(taken..).unwrap_or_default();
    }
    assert!(rest.is_empty());
    let mut again = Vec::new();
    assert_eq!(normalise(&other, &mut again), Normal::Lifted);
    assert_eq!(again, key);
}

/// What the agent writes can be read again, whatever texts go into it: none ends a message early.
pub fn writing(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let text = bytes.get(..end).unwrap_or_default();
    let mut out = Vec::new();
    build::query(&mut out, bytes);
    build::parse(&mut out, bytes, bytes);
    build::describe_portal(&mut out, bytes);
    build::flush(&mut out);
    let limits = Limits::frontend(usize::MAX);
    let mut rest = out.as_slice();
    let mut tags = Vec::new();
    while let Ok(Some(frame)) = next_frame(rest, &limits) {
        match frame.tag {
            b'Q' => assert_eq!(Query::decode(frame.body).map(|query| query.text), Ok(text)),
            b'P' => assert_eq!(
                Parse::decode(frame.body).map(|parse| (parse.statement, parse.query)),
                Ok((text, text))
            ),
            b'D' => assert_eq!(Describe::decode(frame.body).map(|portal| portal.name), Ok(text)),
            _ => assert!(frame.body.is_empty()),
        }
        tags.push(frame.tag);
        rest = rest.get(frame.raw.len()..).unwrap_or_default();
    }
    assert!(rest.is_empty() && tags == b"QPDH", "{rest:?}");

    let words = String::from_utf8_lossy(bytes);
    let (message, detail) = words.split_at(words.floor_char_boundary(words.len() / 2));
    out.clear();
    build::error_response(&mut out, &ErrorText::denial(message, detail));
    build::notice_response(&mut out, &ErrorText::fatal("57P01", message));
    let limits = Limits::backend();
    let mut rest = out.as_slice();
    while let Ok(Some(frame)) = next_frame(rest, &limits) {
        let fields = ErrorFields::decode(frame.body);
        let told = fields.map(|fields| (fields.sqlstate(), fields.is_fatal()));
        let expected = if frame.tag == b'E' {
            (*b"42501", false)
        } else {
            (*b"57P01", true)
        };
        assert_eq!(told, Ok(expected));
        rest = rest.get(frame.raw.len()..).unwrap_or_default();
    }
    assert!(rest.is_empty());
}
