//! What must hold of values taken apart and put together again.

use bailiff_wire::postgres::value::copy::{CopyError, CopyRows, Layout};
use bailiff_wire::postgres::value::{Malformed, Part, array, json, number, row};

use crate::cuts;

type Parts = Vec<Vec<u8>>;

/// Arrays, rows, JSON and numbers. The first byte says what the others are.
///
/// What is put together from its own parts is read again as those parts, and written again as the same bytes.
pub fn value(bytes: &[u8]) {
    let Some((kind, value)) = bytes.split_first() else {
        return;
    };
    match kind % 6 {
        0 => again(value, |value, out, parts| {
            array::rewrite_text(value, b',', out, |part, out| keep(part, out, parts))
        }),
        1 => again(value, |value, out, parts| {
            array::rewrite_binary(value, out, |_, part, out| keep(part, out, parts))
        }),
        2 => again(value, |value, out, parts| {
            row::rewrite_text(value, out, |_, part, out| keep(part, out, parts))
        }),
        3 => again(value, |value, out, parts| {
            row::rewrite_binary(value, out, |_, _, part, out| keep(part, out, parts))
        }),
        4 => {
            let mut same = Vec::new();
            let read = json::rewrite(value, &mut same, |_, _, _| None);
            assert!(read.is_err() || same == value, "untouched JSON changed");
            again(value, |value, out, parts| {
                json::rewrite(value, out, |_, part, out| Some(keep(part, out, parts)))
            });
        }
        _ => {
            let mut text = Vec::new();
            let _ = number::integer_text(value, &mut text);
            let _ = number::uuid_text(value, &mut text);
            let _ = number::bytea_bytes(value, &mut text);
            text.clear();
            if number::numeric_text(value, &mut text).is_ok() {
                assert!(
                    text.iter()
                        .all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'.'))
                );
            }
            if let Some((first, _)) = value.split_first_chunk::<8>() {
                let number = u64::from_be_bytes(*first);
                let (mut binary, mut text) = (Vec::new(), Vec::new());
                number::put_numeric(&mut binary, number);
                assert!(number::numeric_text(&binary, &mut text).is_ok());
                assert_eq!(text, number.to_string().into_bytes());
            }
        }
    }
}

fn keep(part: &[u8], out: &mut Vec<u8>, parts: &mut Parts) -> Part {
    parts.push(part.to_vec());
    out.extend_from_slice(part);
    Part::Value
}

fn again(value: &[u8], read: impl Fn(&[u8], &mut Vec<u8>, &mut Parts) -> Result<(), Malformed>) {
    let (mut first, mut parts) = (Vec::new(), Vec::new());
    if read(value, &mut first, &mut parts).is_err() {
        return;
    }
    let (mut second, mut same) = (Vec::new(), Vec::new());
    assert!(
        read(&first, &mut second, &mut same).is_ok(),
        "what was written isn't read"
    );
    assert_eq!(first, second);
    assert_eq!(parts, same);
}

/// Rows of COPY. The first byte says in which layout, and whether names come first.
///
/// They come apart the same wherever they are cut in two; what is left untouched is what came.
pub fn copy(bytes: &[u8]) {
    let Some((kind, data)) = bytes.split_first() else {
        return;
    };
    let layout = match kind % 4 {
        0 if kind & 8 != 0 => Layout::Text {
            delimiter: b'|',
            null: b"N".to_vec(),
        },
        0 => Layout::text(),
        1 => Layout::Csv {
            delimiter: b',',
            null: Vec::new(),
            quote: b'"',
            escape: b'"',
        },
        2 => Layout::Csv {
            delimiter: b';',
            null: b"N".to_vec(),
            quote: b'\'',
            escape: b'\\',
        },
        _ => Layout::Binary,
    };
    let head = kind & 4 != 0;
    for columns in 0..5 {
        copied(&layout, head, columns, data);
    }
}

fn copied(layout: &Layout, head: bool, columns: usize, data: &[u8]) {
    let rows = |pieces: &[&[u8]], anew| rows(layout, head, columns, pieces, anew);
    let whole = rows(&[data], false);
    if let Ok((written, _)) = &whole {
        assert!(data.starts_with(written), "untouched rows changed");
    }
    for cut in cuts(data.len()) {
        let (first, second) = data.split_at(cut);
        assert_eq!(rows(&[first, second], false), whole, "cut at {cut}");
    }
    // Values written anew are the values that were read.
    if let Ok((written, values)) = rows(&[data], true) {
        assert_eq!(rows(&[&written], false).map(|(_, again)| again), Ok(values));
    }
}

fn rows(
    layout: &Layout,
    head: bool,
    columns: usize,
    pieces: &[&[u8]],
    anew: bool,
) -> Result<(Vec<u8>, Parts), CopyError> {
    let mut rows = CopyRows::new(layout.clone(), head, columns, 1 << 20);
    let (mut written, mut values) = (Vec::new(), Vec::new());
    for piece in pieces {
        rows.data(piece, &mut written, |_, value, out| {
            values.push(value.to_vec());
            anew.then(|| {
                out.extend_from_slice(value);
                Part::Value
            })
        })?;
    }
    Ok((written, values))
}
