//! The messages that the agent itself writes.

use super::backend::ErrorFields;
use super::cursor::Cursor;
use super::error::DecodeError;
use super::value::Part;

/// An error's or a notice's texts.
#[derive(Debug, Clone)]
pub struct ErrorText<'a> {
    severity: &'a [u8],
    code: &'a [u8],
    message: &'a str,
    detail: Option<&'a str>,
}

impl<'a> ErrorText<'a> {
    /// An error after which the connection closes.
    #[must_use]
    pub fn fatal(code: &'a str, message: &'a str) -> Self {
        Self {
            severity: b"FATAL",
            code: code.as_bytes(),
            message,
            detail: None,
        }
    }

    /// A policy's refusal: insufficient_privilege, with the policy and rule in the detail.
    #[must_use]
    pub fn denial(message: &'a str, detail: &'a str) -> Self {
        Self {
            severity: b"ERROR",
            code: b"42501",
            message,
            detail: Some(detail),
        }
    }

    /// An error or notice whose own words may quote what is masked: its severity and code stay.
    #[must_use]
    pub fn withheld(original: &ErrorFields<'a>) -> Self {
        Self {
            severity: original.severity(),
            code: original.field(b'C').unwrap_or(b"XX000"),
            message: "the message is withheld, since the statement reads masked columns",
            detail: None,
        }
    }
}

/// ErrorResponse (B).
pub fn error_response(out: &mut Vec<u8>, text: &ErrorText<'_>) {
    error_or_notice(out, b'E', text);
}

/// NoticeResponse (B).
pub fn notice_response(out: &mut Vec<u8>, text: &ErrorText<'_>) {
    error_or_notice(out, b'N', text);
}

fn error_or_notice(out: &mut Vec<u8>, tag: u8, text: &ErrorText<'_>) {
    message(out, tag, |out| {
        let mut field = |code: u8, value: &[u8]| {
            out.push(code);
            push_text(out, value);
        };
        field(b'S', text.severity);
        field(b'V', text.severity);
        field(b'C', text.code);
        field(b'M', text.message.as_bytes());
        if let Some(detail) = text.detail {
            field(b'D', detail.as_bytes());
        }
        out.push(0);
    });
}

/// AuthenticationOk (B).
pub fn authentication_ok(out: &mut Vec<u8>) {
    message(out, b'R', |out| out.extend_from_slice(&0_i32.to_be_bytes()));
}

/// AuthenticationSASL (B).
pub fn authentication_sasl<'a>(out: &mut Vec<u8>, mechanisms: impl Iterator<Item = &'a [u8]>) {
    message(out, b'R', |out| {
        out.extend_from_slice(&10_i32.to_be_bytes());
        mechanisms.for_each(|mechanism| push_text(out, mechanism));
        out.push(0);
    });
}

/// BackendKeyData (B).
pub fn backend_key_data(out: &mut Vec<u8>, process: u32, key: &[u8]) {
    message(out, b'K', |out| {
        out.extend_from_slice(&process.to_be_bytes());
        out.extend_from_slice(key);
    });
}

/// ParameterStatus (B).
pub fn parameter_status(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    message(out, b'S', |out| {
        push_text(out, name);
        push_text(out, value);
    });
}

/// NotificationResponse (B).
pub fn notification_response(out: &mut Vec<u8>, process: u32, channel: &[u8], payload: &[u8]) {
    message(out, b'A', |out| {
        out.extend_from_slice(&process.to_be_bytes());
        push_text(out, channel);
        push_text(out, payload);
    });
}

/// PasswordMessage (F).
pub fn password(out: &mut Vec<u8>, password: &[u8]) {
    message(out, b'p', |out| push_text(out, password));
}

/// SASLInitialResponse (F).
pub fn sasl_initial(out: &mut Vec<u8>, mechanism: &[u8], data: &[u8]) {
    message(out, b'p', |out| {
        push_text(out, mechanism);
        out.extend_from_slice(&i32::try_from(data.len()).unwrap_or(i32::MAX).to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// SASLResponse (F).
pub fn sasl_response(out: &mut Vec<u8>, data: &[u8]) {
    message(out, b'p', |out| out.extend_from_slice(data));
}

/// SSLRequest (F).
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// CancelRequest (F).
pub fn cancel_request(out: &mut Vec<u8>, process: u32, key: &[u8]) {
    let length = u32::try_from(key.len()).unwrap_or(u32::MAX).saturating_add(12);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&super::startup::CANCEL.to_be_bytes());
    out.extend_from_slice(&process.to_be_bytes());
    out.extend_from_slice(key);
}

/// StartupMessage (F) of protocol 3 with this minor version.
pub fn startup<'a>(out: &mut Vec<u8>, minor: u16, parameters: impl Iterator<Item = (&'a [u8], &'a [u8])>) {
    let begin = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(3 << 16 | u32::from(minor)).to_be_bytes());
    for (name, value) in parameters {
        push_text(out, name);
        push_text(out, value);
    }
    out.push(0);
    let length = u32::try_from(out.len() - begin).unwrap_or(u32::MAX);
    if let Some(slot) = out.get_mut(begin..begin + 4) {
        slot.copy_from_slice(&length.to_be_bytes());
    }
}

/// Writes an ErrorResponse (B) or NoticeResponse (B) anew, with the closure's texts in place of those that may quote values: message,
/// detail, hint, context and the internal query. The closure says whether it wrote one; otherwise the text stays.
pub fn error_anew(
    out: &mut Vec<u8>,
    tag: u8,
    body: &[u8],
    mut text: impl FnMut(&[u8], &mut Vec<u8>) -> bool,
) -> Result<(), DecodeError> {
    let fields = ErrorFields::decode(body)?;
    let mut written = Vec::new();
    message(out, tag, |out| {
        for (code, value) in fields.all() {
            out.push(code);
            written.clear();
            if b"MDHWq".contains(&code) && text(value, &mut written) {
                push_text(out, &written);
            } else {
                push_text(out, value);
            }
        }
        out.push(0);
    });
    Ok(())
}

/// Query (F).
pub fn query(out: &mut Vec<u8>, text: &[u8]) {
    message(out, b'Q', |out| push_text(out, text));
}

/// Parse (F), without types of parameters.
pub fn parse(out: &mut Vec<u8>, statement: &[u8], text: &[u8]) {
    message(out, b'P', |out| {
        push_text(out, statement);
        push_text(out, text);
        out.extend_from_slice(&[0; 2]);
    });
}

/// Describe (F) of a portal.
pub fn describe_portal(out: &mut Vec<u8>, portal: &[u8]) {
    message(out, b'D', |out| {
        out.push(b'P');
        push_text(out, portal);
    });
}

/// Flush (F).
pub fn flush(out: &mut Vec<u8>) {
    message(out, b'H', |_| {});
}

/// Writes a DataRow (B) anew, with some of its values replaced. The closure gets each value's place and the value, writes what
/// stands in its place into `scratch` and says what that is; `None` leaves it as it came. Nulls stay, and the closure doesn't see
/// them.
///
/// Returns how many were replaced. Where that is none, nothing was written: the message may pass as it came.
///
/// # Errors
/// When it is no DataRow; what was written by then is of no use.
pub fn data_row(
    out: &mut Vec<u8>,
    body: &[u8],
    scratch: &mut Vec<u8>,
    mut value: impl FnMut(usize, &[u8], &mut Vec<u8>) -> Option<Part>,
) -> Result<u64, DecodeError> {
    let begin = out.len();
    let mut row = Cursor::new(b'D', body);
    let columns = row.wide_count()?;
    // What lies before `copied` is written; the rest is copied when something behind it changes.
    let (mut copied, mut place) = (0, 2);
    let mut changed = 0;
    for column in 0..columns {
        let Some(current) = row.value()? else {
            place += 4;
            continue;
        };
        let end = place + 4 + current.len();
        scratch.clear();
        if let Some(part) = value(column, current, scratch) {
            if changed == 0 {
                out.push(b'D');
                out.extend_from_slice(&[0; 4]);
            }
            changed += 1;
            out.extend_from_slice(body.get(copied..place).unwrap_or_default());
            let length = match part {
                Part::Value => i32::try_from(scratch.len()).unwrap_or(i32::MAX),
                Part::Null => -1,
            };
            out.extend_from_slice(&length.to_be_bytes());
            if part == Part::Value {
                out.extend_from_slice(scratch);
            }
            copied = end;
        }
        place = end;
    }
    row.finish()?;
    if changed > 0 {
        out.extend_from_slice(body.get(copied..).unwrap_or_default());
        write_length(out, begin);
    }
    Ok(changed)
}

/// Writes a CopyData (B) with what the closure writes. Where that is nothing, there is no message.
pub fn copy_data<E>(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
    let begin = out.len();
    out.push(b'd');
    out.extend_from_slice(&[0; 4]);
    write(out)?;
    if out.len() == begin + 5 {
        out.truncate(begin);
    } else {
        write_length(out, begin);
    }
    Ok(())
}

/// Writes a DataRow value by value.
#[derive(Debug)]
pub struct DataRowWriter<'a> {
    out: &'a mut Vec<u8>,
    begin: usize,
}

impl<'a> DataRowWriter<'a> {
    /// Begins a row of so many columns, at the end of `out`.
    pub fn new(out: &'a mut Vec<u8>, columns: usize) -> Self {
        let begin = out.len();
        out.push(b'D');
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&u16::try_from(columns).unwrap_or(u16::MAX).to_be_bytes());
        Self { out, begin }
    }

    /// Adds the next value; `None` is null.
    pub fn value(&mut self, value: Option<&[u8]>) {
        match value {
            None => self.out.extend_from_slice(&(-1_i32).to_be_bytes()),
            Some(value) => {
                self.out
                    .extend_from_slice(&i32::try_from(value.len()).unwrap_or(i32::MAX).to_be_bytes());
                self.out.extend_from_slice(value);
            }
        }
    }

    /// Ends the row.
    pub fn finish(self) {
        write_length(self.out, self.begin);
    }
}

fn message(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    out.push(tag);
    out.extend_from_slice(&[0; 4]);
    body(out);
    write_length(out, begin);
}

fn write_length(out: &mut [u8], begin: usize) {
    let length = i32::try_from(out.len() - begin - 1).unwrap_or(i32::MAX);
    if let Some(slot) = out.get_mut(begin + 1..begin + 5) {
        slot.copy_from_slice(&length.to_be_bytes());
    }
}

/// A string and its terminator. What follows a NUL in it is left out, since the string ends there for every reader.
fn push_text(out: &mut Vec<u8>, text: &[u8]) {
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    out.extend_from_slice(text.get(..end).unwrap_or_default());
    out.push(0);
}
