//! The first packets of a connection, which have no tag: section "Start-up".

use super::DecodeError;
use super::cursor::Cursor;

/// PostgreSQL's own cap of a startup packet: `MAX_STARTUP_PACKET_LENGTH`.
pub const MAX_STARTUP: usize = 10_000;

/// Settings in one startup packet. The cap on its length bounds them anyway; this bounds the work.
const MAX_PARAMETERS: usize = 512;

const SSL: u32 = 80_877_103;
const GSSENC: u32 = 80_877_104;
pub(super) const CANCEL: u32 = 80_877_102;

/// A first packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum First<'a> {
    /// SSLRequest.
    Ssl,
    /// GSSENCRequest.
    GssEnc,
    /// CancelRequest.
    Cancel(Cancel<'a>),
    /// A TLS handshake without an SSLRequest before it.
    DirectTls,
    /// StartupMessage.
    Startup(Startup<'a>),
}

/// Which session's operation is to be cancelled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cancel<'a> {
    /// The process id of the session's server process, as the client was told.
    pub process: u32,
    /// The key, of 4 to 256 bytes.
    pub key: &'a [u8],
}

impl std::fmt::Debug for Cancel<'_> {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cancel {{ process: {}, .. }}", self.process)
    }
}

/// StartupMessage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup<'a> {
    /// Minor version of protocol 3.
    pub minor: u16,
    /// Names and values, as they came.
    pub parameters: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Startup<'a> {
    /// A setting by its name.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&'a [u8]> {
        self.parameters
            .iter()
            .rev()
            .find(|(found, _)| *found == name.as_bytes())
            .map(|(_, value)| *value)
    }

    /// Whether the packet may give this setting a value: as a parameter, or in `options`.
    #[must_use]
    pub fn may_set(&self, setting: &str) -> bool {
        let named = |(name, _): &(&[u8], &[u8])| name.eq_ignore_ascii_case(setting.as_bytes());
        self.parameters.iter().any(named) || self.options_may_set(setting)
    }

    /// Whether `options` may give this setting a value. They are the server's command line: `-c name=value`, `--name=value`,
    /// with dashes for underscores, capitals and backslashes as one likes. So the name counts wherever it may be meant.
    #[must_use]
    pub fn options_may_set(&self, setting: &str) -> bool {
        self.parameters
            .iter()
            .filter(|(name, _)| *name == b"options")
            .any(|(_, options)| {
                let plain: Vec<u8> = options
                    .iter()
                    .filter(|byte| **byte != b'\\')
                    .map(|byte| {
                        if *byte == b'-' {
                            b'_'
                        } else {
                            byte.to_ascii_lowercase()
                        }
                    })
                    .collect();
                memchr::memmem::find(&plain, setting.as_bytes()).is_some()
            })
    }
}

/// Whether a connection asks for replication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// It doesn't.
    No,
    /// It does.
    Yes,
    /// What it asks for isn't clear, and the server refuses it.
    Unclear,
}

impl Startup<'_> {
    /// Whether the connection asks for replication, in the words that the server takes: `database`, or a Boolean, which may
    /// be abbreviated. The last of several counts there; here they are unclear.
    #[must_use]
    pub fn replication(&self) -> Replication {
        let mut asked = self.parameters.iter().filter(|(name, _)| *name == b"replication");
        let Some((_, value)) = asked.next() else {
            return Replication::No;
        };
        if asked.next().is_some() {
            return Replication::Unclear;
        }
        let value = value.to_ascii_lowercase();
        let begins = |word: &[u8], least: usize| value.len() >= least && word.starts_with(&value);
        if value == b"database"
            || value == b"1"
            || begins(b"true", 1)
            || begins(b"yes", 1)
            || begins(b"on", 2)
        {
            Replication::Yes
        } else if value == b"0" || begins(b"false", 1) || begins(b"no", 1) || begins(b"off", 2) {
            Replication::No
        } else {
            Replication::Unclear
        }
    }
}

/// Takes the first packet off the front, and how long it is. `None`: more bytes are needed.
pub fn next_first(bytes: &[u8]) -> Result<Option<(First<'_>, usize)>, DecodeError> {
    // A TLS record of type handshake. As a length it would be 369 million.
    if bytes.first() == Some(&0x16) {
        return Ok(Some((First::DirectTls, bytes.len())));
    }
    let Some((declared, _)) = bytes.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let declared = i32::from_be_bytes(*declared);
    let length = usize::try_from(declared)
        .ok()
        .filter(|length| *length >= 8)
        .ok_or(DecodeError::BadLength {
            tag: '\0',
            length: declared,
        })?;
    if length > MAX_STARTUP {
        return Err(DecodeError::Oversized {
            tag: '\0',
            length,
            cap: MAX_STARTUP,
        });
    }
    let Some(body) = bytes.get(4..length) else {
        return Ok(None);
    };
    let mut cursor = Cursor::new(0, body);
    let first = match cursor.u32()? {
        SSL => {
            cursor.finish()?;
            First::Ssl
        }
        GSSENC => {
            cursor.finish()?;
            First::GssEnc
        }
        CANCEL => {
            let process = cursor.u32()?;
            let key = cursor.rest();
            if !(4..=256).contains(&key.len()) {
                return Err(cursor.bad("cancel key"));
            }
            First::Cancel(Cancel { process, key })
        }
        version if version >> 16 == 3 => First::Startup(startup(version, cursor)?),
        _ => return Err(cursor.bad("protocol version")),
    };
    Ok(Some((first, length)))
}

fn startup(version: u32, mut cursor: Cursor<'_>) -> Result<Startup<'_>, DecodeError> {
    let mut parameters = Vec::new();
    loop {
        let name = cursor.text()?;
        if name.is_empty() {
            break;
        }
        if parameters.len() >= MAX_PARAMETERS {
            return Err(cursor.bad("number of parameters"));
        }
        parameters.push((name, cursor.text()?));
    }
    if !cursor.is_empty() {
        return Err(DecodeError::Trailing { tag: '\0' });
    }
    Ok(Startup {
        minor: u16::try_from(version & 0xffff).unwrap_or(u16::MAX),
        parameters,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each of these was seen to set it on a real server, but for the last ones.
    #[test]
    fn settings_are_found_however_they_are_written() {
        let sets = |name, value| {
            let startup = Startup {
                minor: 0,
                parameters: vec![(b"user".as_slice(), b"a".as_slice()), (name, value)],
            };
            startup.may_set("search_path")
        };
        for (name, value) in [
            (b"search_path".as_slice(), b"x".as_slice()),
            (b"Search_Path", b"x"),
            (b"options", b"-c search_path=x"),
            (b"options", b"-csearch_path=x"),
            (b"options", b"-c search-path=x"),
            (b"options", b"--Search-Path=x"),
            (b"options", b"-c sear\\ch_path=x"),
            (b"options", b"-c application_name=\xff -c search_path=x"),
        ] {
            assert!(sets(name, value), "{}", value.escape_ascii());
        }
        assert!(!sets(b"options", b"-c statement_timeout=5s"));
        assert!(!sets(b"application_name", b"search_path"));
    }

    /// As `parse_bool` of the server reads them.
    #[test]
    fn replication_is_asked_for_in_the_servers_words() {
        let asks = |values: &[&'static str]| {
            let parameters = values
                .iter()
                .map(|value| (b"replication".as_slice(), value.as_bytes()));
            Startup {
                minor: 0,
                parameters: parameters.collect(),
            }
            .replication()
        };
        assert_eq!(asks(&[]), Replication::No);
        for value in ["database", "true", "TRUE", "t", "y", "Yes", "on", "1"] {
            assert_eq!(asks(&[value]), Replication::Yes, "{value}");
        }
        for value in ["false", "F", "n", "no", "off", "of", "0"] {
            assert_eq!(asks(&[value]), Replication::No, "{value}");
        }
        for value in ["", "o", "2", "databases", "truely", "true "] {
            assert_eq!(asks(&[value]), Replication::Unclear, "{value}");
        }
        assert_eq!(asks(&["true", "false"]), Replication::Unclear);
    }
}
