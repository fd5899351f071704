//! Authentication: section "Start-up", and "SASL Authentication".

use super::DecodeError;
use super::cursor::Cursor;

/// Mechanisms in one message. Servers know two.
const MAX_MECHANISMS: usize = 32;

/// The mechanism whose proof is bound to the TLS connection.
pub const SCRAM_PLUS: &[u8] = b"SCRAM-SHA-256-PLUS";

/// The mechanism whose proof isn't.
pub const SCRAM: &[u8] = b"SCRAM-SHA-256";

/// Authentication… (B), by what it asks for.
#[derive(Clone, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// AuthenticationOk: nothing more.
    Ok,
    /// AuthenticationCleartextPassword.
    Cleartext,
    /// AuthenticationMD5Password, with its salt.
    Md5([u8; 4]),
    /// AuthenticationSASL: the mechanisms that the server offers.
    Sasl(Vec<&'a [u8]>),
    /// AuthenticationSASLContinue: a challenge.
    SaslContinue(&'a [u8]),
    /// AuthenticationSASLFinal: the last word of SASL, which the client doesn't answer.
    SaslFinal(&'a [u8]),
    /// Kerberos V5, GSS, SSPI and their continuations: passed through and not read.
    Other(i32),
}

impl std::fmt::Debug for Authentication<'_> {
    /// Without challenges and salts.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ok => "Ok",
            Self::Cleartext => "Cleartext",
            Self::Md5(_) => "Md5",
            Self::Sasl(_) => "Sasl",
            Self::SaslContinue(_) => "SaslContinue",
            Self::SaslFinal(_) => "SaslFinal",
            Self::Other(_) => "Other",
        })
    }
}

impl<'a> Authentication<'a> {
    /// Reads the body.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(b'R', body);
        match cursor.i32()? {
            0 => cursor.finish().map(|()| Self::Ok),
            3 => cursor.finish().map(|()| Self::Cleartext),
            5 => {
                let salt = cursor.u32()?.to_be_bytes();
                cursor.finish().map(|()| Self::Md5(salt))
            }
            10 => {
                let mut mechanisms = Vec::new();
                loop {
                    let name = cursor.text()?;
                    if name.is_empty() {
                        break;
                    }
                    if mechanisms.len() >= MAX_MECHANISMS {
                        return Err(cursor.bad("number of mechanisms"));
                    }
                    mechanisms.push(name);
                }
                cursor.finish().map(|()| Self::Sasl(mechanisms))
            }
            11 => Ok(Self::SaslContinue(cursor.rest())),
            12 => Ok(Self::SaslFinal(cursor.rest())),
            kind @ (2 | 7 | 8 | 9) => Ok(Self::Other(kind)),
            _ => Err(cursor.bad("authentication method")),
        }
    }
}

/// SASLInitialResponse (F): the mechanism that the client chose, and its first words.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SaslInitial<'a> {
    /// The mechanism.
    pub mechanism: &'a [u8],
    /// What it begins with.
    pub data: &'a [u8],
}

impl<'a> SaslInitial<'a> {
    /// Reads the body of a message with tag `p` that answers AuthenticationSASL.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(b'p', body);
        let mechanism = cursor.text()?;
        let data = cursor.value()?.unwrap_or_default();
        cursor.finish()?;
        Ok(Self { mechanism, data })
    }

    /// Whether the client says that it could bind to the TLS connection, and believes that the server can't. A server that
    /// can refuses that: somebody between the two took the offer away.
    #[must_use]
    pub fn misses_binding(&self) -> bool {
        self.mechanism == SCRAM && self.data.first() == Some(&b'y')
    }
}

/// BackendKeyData (B): by what a session's operation can be cancelled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BackendKeyData<'a> {
    /// The process id of the server process.
    pub process: u32,
    /// The key: 4 bytes in protocol 3.0, up to 256 from 3.2 on.
    pub key: &'a [u8],
}

impl<'a> BackendKeyData<'a> {
    /// Reads the body.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(b'K', body);
        let process = cursor.u32()?;
        let key = cursor.rest();
        if !(4..=256).contains(&key.len()) {
            return Err(cursor.bad("cancel key"));
        }
        Ok(Self { process, key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_asks_is_told_apart() {
        let body = b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
        assert_eq!(
            Authentication::decode(body),
            Ok(Authentication::Sasl(vec![SCRAM_PLUS, SCRAM]))
        );
        for cut in 0..body.len() {
            assert!(Authentication::decode(&body[..cut]).is_err(), "{cut}");
        }
        assert!(Authentication::decode(&[0, 0, 0, 0, 0]).is_err());
        assert_eq!(
            Authentication::decode(&[0, 0, 0, 5, 1, 2, 3, 4]),
            Ok(Authentication::Md5([1, 2, 3, 4]))
        );
        assert!(Authentication::decode(&[0, 0, 0, 5, 1, 2, 3]).is_err());
        let mut many = vec![0, 0, 0, 10];
        many.extend(b"A\0".repeat(40));
        many.push(0);
        assert!(Authentication::decode(&many).is_err());
    }

    #[test]
    fn a_client_that_misses_binding_is_known_by_its_flag() {
        let first = |mechanism: &[u8], data: &[u8]| {
            let mut body = mechanism.to_vec();
            body.push(0);
            body.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
            body.extend(data);
            SaslInitial::decode(&body).map(|initial| initial.misses_binding())
        };
        assert_eq!(first(SCRAM, b"y,,n=,r=abc"), Ok(true));
        assert_eq!(first(SCRAM, b"n,,n=,r=abc"), Ok(false));
        assert_eq!(first(SCRAM_PLUS, b"p=tls-server-end-point,,n=,r=a"), Ok(false));
    }
}
