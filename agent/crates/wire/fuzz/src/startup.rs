//! First packets.

use bailiff_wire::postgres::DecodeError;
use bailiff_wire::postgres::startup::{First, MAX_STARTUP, Startup, next_first};

use crate::cuts;

/// Reads a connection's first packet.
pub fn startup(bytes: &[u8]) {
    let whole = next_first(bytes);
    let mut needed = bytes.len();
    match &whole {
        Ok(Some((first, length))) => {
            assert!(*length <= bytes.len() && *length > 0);
            needed = *length;
            let packet = bytes.get(..*length).unwrap_or_default();
            match first {
                First::Startup(startup) => {
                    assert!(packet.len() <= MAX_STARTUP);
                    let mut again = Vec::new();
                    again.extend_from_slice(packet.get(..4).unwrap_or_default());
                    again.extend_from_slice(&(3 << 16 | u32::from(startup.minor)).to_be_bytes());
                    for (name, value) in &startup.parameters {
                        again.extend([*name, b"\0", *value, b"\0"].concat());
                        let name = std::str::from_utf8(name).ok();
                        assert!(name.is_none_or(|name| startup.parameter(name).is_some()));
                        // Whatever stands before it, a setting's name is found in the options.
                        let longer = [*value, b" --Search-Path=x"].concat();
                        let setting = Startup {
                            minor: startup.minor,
                            parameters: vec![(b"options", &longer)],
                        };
                        assert!(setting.may_set("search_path"));
                    }
                    again.push(0);
                    assert_eq!(again, packet);
                }
                First::Ssl | First::GssEnc => assert_eq!(packet.len(), 8),
                First::Cancel(_) => assert!((16..=268).contains(&packet.len())),
                First::DirectTls => return assert_eq!(packet.first(), Some(&0x16)),
            }
            // What follows changes nothing.
            assert_eq!(next_first(packet), whole);
        }
        // A packet without an end in sight is not waited for longer than the cap.
        Ok(None) => assert!(bytes.len() < MAX_STARTUP),
        Err(_) => {}
    }
    for cut in cuts(needed) {
        let part = next_first(bytes.get(..cut).unwrap_or_default());
        let told = matches!(
            (&part, &whole),
            (Err(early), Err(late)) if early == late
        );
        assert!(part == Ok(None) || told, "cut at {cut}: {part:?}");
    }
    if let Err(DecodeError::BadLength { .. } | DecodeError::Oversized { .. }) = whole {
        // A length that can't be is told as soon as it is there.
        assert_eq!(next_first(bytes.get(..4).unwrap_or_default()), whole);
    }
}
