//! Cutting what passed into packets, messages and pieces.
//!
//! Written apart from the agent's decoders, which are what the pieces are for.

use anyhow::{Result, bail};

/// Longer messages and pieces aren't kept: what they have more than shorter ones is length.
pub(super) const LONGEST: usize = 4096;

const SSL: u32 = 80_877_103;
const GSSENC: u32 = 80_877_104;

/// First packets, and the messages that follow them.
type ClientStream<'a> = (Vec<&'a [u8]>, Vec<&'a [u8]>);

/// A client's bytes.
///
/// # Errors
/// When they end within a packet or message.
pub(super) fn client_stream(mut bytes: &[u8]) -> Result<ClientStream<'_>> {
    let mut packets = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let packet = take(&mut bytes, u32::from_be_bytes(*length))?;
        packets.push(packet);
        let code = rest.first_chunk::<4>().map(|code| u32::from_be_bytes(*code));
        if !matches!(code, Some(SSL | GSSENC)) {
            break;
        }
    }
    Ok((packets, messages(bytes)?))
}

/// A server's bytes; `requests` is how many one-byte answers come first.
///
/// # Errors
/// When they end within a message.
pub(super) fn server_stream(bytes: &[u8], requests: usize) -> Result<Vec<&[u8]>> {
    messages(bytes.get(requests..).unwrap_or_default())
}

fn messages(mut bytes: &[u8]) -> Result<Vec<&[u8]>> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let Some(length) = bytes.get(1..).and_then(<[u8]>::first_chunk::<4>) else {
            bail!("the last message is cut");
        };
        let length = u32::from_be_bytes(*length);
        messages.push(take(&mut bytes, length + 1)?);
    }
    Ok(messages)
}

fn take<'a>(bytes: &mut &'a [u8], length: u32) -> Result<&'a [u8]> {
    let Some((taken, rest)) = bytes.split_at_checked(length as usize) else {
        bail!("{length} bytes are declared, {} are there", bytes.len());
    };
    *bytes = rest;
    Ok(taken)
}

/// The SQL of a Query or Parse.
pub(super) fn statement(message: &[u8]) -> Option<&[u8]> {
    let mut texts = message.get(5..)?.split(|byte| *byte == 0);
    let text = match message.first()? {
        b'Q' => texts.next(),
        b'P' => texts.nth(1),
        _ => None,
    };
    text.filter(|text| !text.is_empty())
}

/// A stream in pieces, each with the kinds of its messages.
#[derive(Default)]
pub(super) struct Pieces {
    done: Vec<(Vec<u8>, Vec<u8>)>,
    kinds: Vec<u8>,
    piece: Vec<u8>,
}

impl Pieces {
    /// Cuts after what ends an exchange, and before it gets long. Of several rows or data in a row, three are kept.
    pub(super) fn of(messages: &[&[u8]]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut pieces = Self::default();
        for message in messages {
            let kind = message.first().copied().unwrap_or(0);
            let alike = pieces.kinds.ends_with(&[kind; 3]) && matches!(kind, b'D' | b'd');
            if alike || message.len() > LONGEST {
                continue;
            }
            if pieces.piece.len() + message.len() > LONGEST / 2 {
                pieces.end();
            }
            pieces.kinds.push(kind);
            if kind == b'R' {
                // Authentication… differ by what they ask for.
                pieces.kinds.extend(message.get(8));
            }
            pieces.piece.extend_from_slice(message);
            // ReadyForQuery, Query and Sync.
            if matches!(kind, b'Z' | b'Q' | b'S') && pieces.kinds.len() > 12 {
                pieces.end();
            }
        }
        pieces.end();
        pieces.done
    }

    fn end(&mut self) {
        if !self.piece.is_empty() {
            self.done
                .push((std::mem::take(&mut self.kinds), std::mem::take(&mut self.piece)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_begins_with_packets_and_goes_on_with_messages() {
        let bytes = b"\0\0\0\x08\x04\xd2\x16\x2f\0\0\0\x09\0\x03\0\0\0Q\0\0\0\x06a\0X\0\0\0\x04";
        let (packets, messages) = client_stream(bytes).unwrap();
        assert_eq!(packets.iter().map(|one| one.len()).collect::<Vec<_>>(), [8, 9]);
        assert_eq!(messages, [&b"Q\0\0\0\x06a\0"[..], b"X\0\0\0\x04"]);
        assert!(client_stream(&bytes[..20]).is_err());
        assert_eq!(statement(messages[0]), Some(&b"a"[..]));
    }

    #[test]
    fn long_runs_of_rows_are_shortened() {
        let row = b"D\0\0\0\x06\0\0".as_slice();
        let pieces = Pieces::of(&[row; 9]);
        assert_eq!(pieces, [(b"DDD".to_vec(), row.repeat(3))]);
    }
}
