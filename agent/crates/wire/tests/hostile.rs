//! Every decoder under hostile bytes: messages cut at every byte, and mutations of all of them for a while.
//!
//! BAILIFF_FUZZ_SECONDS sets how long; 3 by default.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a failure is the test's"
)]

use std::time::{Duration, Instant};

use bailiff_wire::postgres::authentication::Authentication;
use bailiff_wire::postgres::backend::{
    CommandComplete, DataRow, ErrorFields, ParameterStatus, ReadyForQuery, RowDescription,
};
use bailiff_wire::postgres::frontend::{Bind, Close, Describe, Execute, Parse, Query, bind_names};
use bailiff_wire::postgres::startup::next_first;
use bailiff_wire::postgres::{FrameHeader, Limits, build, next_frame};
use bailiff_wire::sql::normalise;

/// Messages of clients: tags and bodies.
const CLIENT: &[(u8, &[u8])] = &[
    (b'Q', b"select 1\0"),
    (b'P', b"stmt\0select $1\0\0\x01\0\0\0\x17"),
    (b'B', b"portal\0stmt\0\0\0\0\x01\0\0\0\x011\0\0"),
    (b'D', b"Sstmt\0"),
    (b'C', b"Pportal\0"),
    (b'E', b"portal\0\0\0\0\0"),
    (b'S', b""),
];

/// Messages of servers.
const SERVER: &[(u8, &[u8])] = &[
    (b'R', b"\0\0\0\0"),
    (b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0"),
    (b'S', b"client_encoding\0UTF8\0"),
    (
        b'T',
        b"\0\x01ssn\0\0\0\x40\0\0\x03\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0",
    ),
    (b'D', b"\0\x02\0\0\0\x03abc\xff\xff\xff\xff"),
    (b'C', b"SELECT 1\0"),
    (b'E', b"SERROR\0C42501\0Mno\0\0"),
    (b'Z', b"I"),
];

/// The messages as they are on the wire.
fn on_the_wire(messages: &[(u8, &[u8])]) -> Vec<Vec<u8>> {
    let one = |(tag, body): &(u8, &[u8])| {
        let length = i32::try_from(body.len()).unwrap() + 4;
        [&[*tag], &length.to_be_bytes()[..], body].concat()
    };
    messages.iter().map(one).collect()
}

/// First packets.
const FIRST: &[&[u8]] = &[
    b"\0\0\0\x08\x04\xd2\x16\x2f",
    b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01\0\0\0\x02",
    b"\0\0\0\x14\0\x03\0\0user\0alice\0\0",
    b"\x16\x03\x01\0\x05",
];

/// Everything that is read of a client's bytes. Returns how many whole messages were decoded.
fn frontend(bytes: &[u8]) -> usize {
    let limits = Limits::frontend(1 << 20);
    let (mut rest, mut decoded) = (bytes, 0);
    let _ = bind_names(rest);
    let _ = FrameHeader::parse(rest).map(|header| header.total_len());
    while let Ok(Some(frame)) = next_frame(rest, &limits) {
        assert!(frame.raw.len() <= rest.len() && frame.raw.ends_with(frame.body));
        let fine = match frame.tag {
            b'Q' => Query::decode(frame.body)
                .map(|query| assert!(query.text.len() < frame.raw.len()))
                .is_ok(),
            b'P' => Parse::decode(frame.body).is_ok(),
            b'B' => Bind::decode(frame.body).is_ok(),
            b'D' => Describe::decode(frame.body).is_ok(),
            b'C' => Close::decode(frame.body).is_ok(),
            b'E' => Execute::decode(frame.body).is_ok(),
            _ => true,
        };
        decoded += usize::from(fine);
        rest = &rest[frame.raw.len()..];
    }
    decoded
}

/// Everything that is read of a server's bytes.
fn backend(bytes: &[u8]) -> usize {
    let limits = Limits::backend();
    let (mut rest, mut decoded) = (bytes, 0);
    while let Ok(Some(frame)) = next_frame(rest, &limits) {
        let fine = match frame.tag {
            b'R' => Authentication::decode(frame.body).is_ok(),
            b'S' => ParameterStatus::decode(frame.body).is_ok(),
            b'T' => RowDescription::decode(frame.body)
                .map(|all| assert!(all.fields().all(|field| field.is_ok())))
                .is_ok(),
            b'D' => DataRow::decode(frame.body)
                .map(|row| {
                    // What is read and written again is the same.
                    let mut again = Vec::new();
                    let mut writer = build::DataRowWriter::new(&mut again, row.columns());
                    row.values().for_each(|value| writer.value(value.unwrap()));
                    writer.finish();
                    assert_eq!(again, frame.raw);
                })
                .is_ok(),
            b'C' => CommandComplete::decode(frame.body)
                .map(|done| done.rows())
                .is_ok(),
            b'E' | b'N' => ErrorFields::decode(frame.body)
                .map(|error| {
                    (
                        error.sqlstate(),
                        error.is_fatal(),
                        error.field(b'M').map(<[u8]>::len),
                    )
                })
                .is_ok(),
            b'Z' => ReadyForQuery::decode(frame.body)
                .map(ReadyForQuery::is_idle)
                .is_ok(),
            _ => true,
        };
        decoded += usize::from(fine);
        rest = &rest[frame.raw.len()..];
    }
    decoded
}

fn first(bytes: &[u8]) -> usize {
    match next_first(bytes) {
        Ok(Some((_, length))) => {
            assert!(length <= bytes.len());
            1
        }
        Ok(None) | Err(_) => 0,
    }
}

fn sql(bytes: &[u8]) -> usize {
    let mut scratch = Vec::new();
    normalise(bytes, &mut scratch);
    assert!(scratch.len() <= bytes.len());
    1
}

#[test]
fn whole_messages_are_decoded_and_those_cut_short_never_are() {
    let packets: Vec<Vec<u8>> = FIRST[..3].iter().map(|packet| packet.to_vec()).collect();
    for (decode, messages) in [
        (frontend as fn(&[u8]) -> usize, on_the_wire(CLIENT)),
        (backend, on_the_wire(SERVER)),
        (first, packets),
    ] {
        for message in &messages {
            assert_eq!(decode(message), 1, "{}", message.escape_ascii());
            for cut in 0..message.len() {
                assert_eq!(
                    decode(&message[..cut]),
                    0,
                    "{} cut at {cut}",
                    message.escape_ascii()
                );
            }
        }
        // A stream of all of them comes apart where it was put together, wherever it is cut.
        let stream = messages.concat();
        if messages.len() > 3 {
            assert_eq!(decode(&stream), messages.len());
        }
    }
}

#[test]
fn a_body_that_ends_early_is_truncated_and_one_that_goes_on_is_told() {
    for message in on_the_wire(CLIENT).iter().chain(&on_the_wire(SERVER)) {
        let body = &message[5..];
        for cut in 0..body.len() {
            let mut shorter = vec![message[0]];
            shorter.extend_from_slice(&(4 + i32::try_from(cut).unwrap()).to_be_bytes());
            shorter.extend_from_slice(&body[..cut]);
            // Nothing panics, and no shorter body passes for the whole one.
            let decoded = frontend(&shorter) + backend(&shorter);
            assert!(decoded <= 2);
        }
    }
    assert!(Query::decode(b"select 1\0 ").is_err() && Query::decode(b"select 1").is_err());
    assert!(ReadyForQuery::decode(b"X").is_err() && Describe::decode(b"Xa\0").is_err());
}

/// A small generator with a fixed seed: a failure can be had again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound.max(1) as u64)).unwrap()
    }
}

#[test]
fn mutated_messages_never_break_a_decoder() {
    let seconds = std::env::var("BAILIFF_FUZZ_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(3);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut corpus = [on_the_wire(CLIENT), on_the_wire(SERVER)].concat();
    corpus.extend(FIRST.iter().map(|packet| packet.to_vec()));
    corpus.push(b"SELECT 'it''s', 1 FROM t WHERE a = $1 -- x".to_vec());
    let mut runs = 0_u64;
    while Instant::now() < until {
        let mut bytes = Vec::new();
        for _ in 0..=random.below(3) {
            bytes.extend_from_slice(&corpus[random.below(corpus.len())]);
        }
        for _ in 0..random.below(8) {
            let place = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[place] = u8::try_from(random.next() & 0xff).unwrap(),
                1 => bytes[place] ^= 1 << random.below(8),
                2 => bytes.truncate(place.max(1)),
                _ => bytes.insert(place, [0, 0xff, 0x7f, 0x80, b'\'', b'"'][random.below(6)]),
            }
        }
        for decode in [frontend, backend, first, sql] {
            decode(&bytes);
        }
        runs += 1;
    }
    assert!(runs > 1000, "{runs}");
}
