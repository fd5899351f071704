//! Bodies of messages: what is read is what stands there, and nothing else passes for it.

use bailiff_wire::postgres::authentication::{Authentication, BackendKeyData, SaslInitial};
use bailiff_wire::postgres::backend::{
    CommandComplete, CopyOutResponse, DataRow, ErrorFields, NotificationResponse, ParameterStatus,
    ReadyForQuery, RowDescription,
};
use bailiff_wire::postgres::build::{DataRowWriter, ErrorText, error_response};
use bailiff_wire::postgres::frontend::{
    Bind, Close, Describe, Execute, FunctionCall, Parse, Query, bind_names,
};
use bailiff_wire::postgres::{DecodeError, Frame, Limits, build, next_frame};

use crate::{cuts, stream};

/// A client's messages.
pub fn frontend(bytes: &[u8]) {
    // Of a Bind that is cut, the names are read wherever they are whole.
    let _ = bind_names(bytes);
    each(bytes, &Limits::frontend(1 << 20), decode_frontend);
}

/// A server's messages.
pub fn backend(bytes: &[u8]) {
    each(bytes, &Limits::backend(), decode_backend);
}

fn each(bytes: &[u8], limits: &Limits, decode: fn(&Frame<'_>) -> Result<(), DecodeError>) {
    let mut rest = bytes;
    while let Ok(Some(frame)) = next_frame(rest, limits) {
        stream::sound(&frame, rest);
        // What isn't told is an error of its own kind, and no more.
        if let Err(error) = decode(&frame) {
            assert!(!error.reason().is_empty() && !error.to_string().is_empty());
        }
        rest = rest.get(frame.raw.len()..).unwrap_or_default();
    }
}

/// Decodes a client's message, and checks what it gives. A kind without a decoder passes.
pub fn decode_frontend(frame: &Frame<'_>) -> Result<(), DecodeError> {
    let body = frame.body;
    match frame.tag {
        b'Q' => {
            let query = Query::decode(body)?;
            let mut again = Vec::new();
            build::query(&mut again, query.text);
            assert_eq!(again, frame.raw);
            only_whole(body, |body| Query::decode(body).map(drop));
        }
        b'P' => {
            let parse = Parse::decode(body)?;
            let again = [parse.statement, b"\0", parse.query, b"\0"].concat();
            assert!(body.starts_with(&again));
            assert_eq!(body.len(), again.len() + 2 + 4 * parse.typed_parameters);
            only_whole(body, |body| Parse::decode(body).map(drop));
        }
        b'B' => {
            let bind = Bind::decode(body)?;
            let names = [bind.portal, b"\0", bind.statement, b"\0"].concat();
            assert!(body.starts_with(&names));
            only_whole(body, |body| Bind::decode(body).map(drop));
            for cut in cuts(frame.raw.len()) {
                let begun = frame.raw.get(..cut).unwrap_or_default();
                let expected = (cut >= 5 + names.len()).then_some((bind.portal, bind.statement));
                assert_eq!(bind_names(begun), expected, "cut at {cut}");
            }
        }
        b'D' => {
            let describe = Describe::decode(body)?;
            check_named(body, describe.is_statement(), describe.name);
            only_whole(body, |body| Describe::decode(body).map(drop));
        }
        b'C' => {
            let close = Close::decode(body)?;
            check_named(body, close.is_statement(), close.name);
            only_whole(body, |body| Close::decode(body).map(drop));
        }
        b'E' => {
            let execute = Execute::decode(body)?;
            assert_eq!(
                [execute.portal, b"\0", &execute.max_rows.to_be_bytes()].concat(),
                body
            );
            only_whole(body, |body| Execute::decode(body).map(drop));
        }
        b'p' => {
            // Other answers to authentication requests have no form.
            let Ok(initial) = SaslInitial::decode(body) else {
                return Ok(());
            };
            let begun = [initial.mechanism, b"\0"].concat();
            assert!(body.starts_with(&begun) && body.ends_with(initial.data));
            assert_eq!(body.len(), begun.len() + 4 + initial.data.len());
            only_whole(body, |body| SaslInitial::decode(body).map(drop));
        }
        b'F' => {
            let call = FunctionCall::decode(body)?;
            assert!(body.starts_with(&call.function.to_be_bytes()));
            only_whole(body, |body| FunctionCall::decode(body).map(drop));
        }
        _ => {}
    }
    Ok(())
}

fn check_named(body: &[u8], is_statement: bool, name: &[u8]) {
    let kind: &[u8] = if is_statement { b"S" } else { b"P" };
    assert_eq!([kind, name, b"\0"].concat(), body);
}

/// Decodes a server's message, and checks what it gives. A kind without a decoder passes.
pub fn decode_backend(frame: &Frame<'_>) -> Result<(), DecodeError> {
    let body = frame.body;
    match frame.tag {
        b'R' => {
            let asked = Authentication::decode(body)?;
            assert_eq!(asked == Authentication::Ok, body == [0; 4]);
        }
        b'K' => {
            let told = BackendKeyData::decode(body)?;
            assert!((4..=256).contains(&told.key.len()));
            assert_eq!([&told.process.to_be_bytes(), told.key].concat(), body);
        }
        b'S' => {
            let status = ParameterStatus::decode(body)?;
            assert_eq!([status.name, b"\0", status.value, b"\0"].concat(), body);
            only_whole(body, |body| ParameterStatus::decode(body).map(drop));
        }
        b'A' => {
            let said = NotificationResponse::decode(body)?;
            let process = said.process.to_be_bytes();
            assert_eq!(
                [&process[..], said.channel, b"\0", said.payload, b"\0"].concat(),
                body
            );
            only_whole(body, |body| NotificationResponse::decode(body).map(drop));
        }
        b'T' => {
            let row = RowDescription::decode(body)?;
            let mut length = 2;
            for field in row.fields() {
                let field = field?;
                assert!(!field.name.contains(&0));
                length += field.name.len() + 1 + 18;
            }
            assert_eq!(length, body.len());
            only_whole(body, |body| RowDescription::decode(body).map(drop));
        }
        b'H' => {
            let copy = CopyOutResponse::decode(body)?;
            let columns = u16::try_from(copy.columns).unwrap_or(u16::MAX);
            let mut again = vec![u8::from(copy.binary)];
            again.extend_from_slice(&columns.to_be_bytes());
            let format = u16::from(copy.binary).to_be_bytes();
            (0..columns).for_each(|_| again.extend_from_slice(&format));
            assert_eq!(again, body);
            only_whole(body, |body| CopyOutResponse::decode(body).map(drop));
        }
        b'D' => {
            let row = DataRow::decode(body)?;
            let mut again = Vec::new();
            let mut writer = DataRowWriter::new(&mut again, row.columns());
            for value in row.values() {
                writer.value(value?);
            }
            writer.finish();
            assert_eq!(again, frame.raw);
            only_whole(body, |body| DataRow::decode(body).map(drop));
        }
        b'C' => {
            let done = CommandComplete::decode(body)?;
            assert_eq!([done.tag, b"\0"].concat(), body);
            if let Some(rows) = done.rows() {
                assert!(done.tag.ends_with(&[b'0' + u8::try_from(rows % 10).unwrap_or(0)]));
            }
            only_whole(body, |body| CommandComplete::decode(body).map(drop));
        }
        b'E' | b'N' => {
            let error = ErrorFields::decode(body)?;
            check_withheld(&error);
            only_whole(body, |body| ErrorFields::decode(body).map(drop));
        }
        b'Z' => {
            let ready = ReadyForQuery::decode(body)?;
            assert_eq!(ready.is_idle(), body == b"I");
            only_whole(body, |body| ReadyForQuery::decode(body).map(drop));
        }
        _ => {}
    }
    Ok(())
}

/// What is left of an error whose text is withheld: as fatal as before, the same code, and none of its words.
fn check_withheld(error: &ErrorFields<'_>) {
    let mut bytes = Vec::new();
    error_response(&mut bytes, &ErrorText::withheld(error));
    let frame = next_frame(&bytes, &Limits::backend());
    let Ok(Some(frame)) = frame else {
        // The severity alone may be as long as an error may be; with the agent's own words it is longer.
        assert!(matches!(frame, Err(DecodeError::Oversized { .. })), "{frame:?}");
        return;
    };
    let again = ErrorFields::decode(frame.body);
    let told = again.map(|again| (again.is_fatal(), again.sqlstate(), again.field(b'D')));
    assert_eq!(told, Ok((error.is_fatal(), error.sqlstate(), None)));
}

/// A body that is read is read no longer where its end is missing or something follows it.
fn only_whole(body: &[u8], decode: impl Fn(&[u8]) -> Result<(), DecodeError>) {
    for cut in cuts(body.len()) {
        let shorter = decode(body.get(..cut).unwrap_or_default());
        assert!(
            matches!(shorter, Err(DecodeError::Truncated { .. })),
            "cut at {cut}: {shorter:?}"
        );
    }
    let longer = decode(&[body, b"\0"].concat());
    assert!(matches!(longer, Err(DecodeError::Trailing { .. })), "{longer:?}");
}
