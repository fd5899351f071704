//! A client of PostgreSQL's protocol that sends what it is told to, right or wrong.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// How long an answer may take before a test counts as hung.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
    /// The process id and key by which its operation can be cancelled.
    pub key: Vec<u8>,
}

/// A message of the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Its tag.
    pub tag: u8,
    /// What follows its length.
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = self.body.get(..self.body.len().min(200)).unwrap_or_default();
        write!(f, "{} {}", char::from(self.tag), shown.escape_ascii())
    }
}

impl Message {
    /// A field of an ErrorResponse or NoticeResponse.
    #[must_use]
    pub fn field(&self, code: u8) -> Option<String> {
        self.body
            .split(|byte| *byte == 0)
            .find_map(|field| field.split_first().filter(|(found, _)| **found == code))
            .map(|(_, text)| String::from_utf8_lossy(text).into_owned())
    }

    /// The SQLSTATE, where it is an error.
    #[must_use]
    pub fn sqlstate(&self) -> Option<String> {
        (self.tag == b'E').then(|| self.field(b'C')).flatten()
    }

    /// The values of a DataRow, as texts; null is `None`.
    #[must_use]
    pub fn values(&self) -> Vec<Option<String>> {
        let mut values = Vec::new();
        let mut rest = self.body.get(2..).unwrap_or_default();
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
                values.push(None);
                rest = after;
                continue;
            };
            let (value, after) = after.split_at(length.min(after.len()));
            values.push(Some(String::from_utf8_lossy(value).into_owned()));
            rest = after;
        }
        values
    }
}

impl Client {
    /// Wraps a connection on which nothing was said yet.
    pub fn new(stream: TcpStream) -> Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            unread: Vec::new(),
            key: Vec::new(),
        })
    }

    /// Begins a session as `postgres`.
    pub fn started(stream: TcpStream) -> Result<Self> {
        Self::started_as(stream, "postgres")
    }

    /// Begins a session as a user who isn't asked for a password.
    pub fn started_as(stream: TcpStream, user: &str) -> Result<Self> {
        let mut this = Self::new(stream)?;
        this.send(&say::startup(&[("user", user), ("database", "postgres")]))?;
        for message in this.until_ready()? {
            match message.tag {
                b'K' => this.key = message.body,
                b'E' => bail!("not let in: {message:?}"),
                _ => {}
            }
        }
        Ok(this)
    }

    /// The socket.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream
            .write_all(bytes)
            .context("the connection takes no more")
    }

    /// The next message; `None` when the connection has ended.
    pub fn message(&mut self) -> Result<Option<Message>> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            if let Some(message) = self.take() {
                return Ok(Some(message));
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(read) => self
                    .unread
                    .extend_from_slice(buffer.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(None),
                // One with a time limit isn't read again by itself after a signal.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("no answer"),
            }
        }
    }

    fn take(&mut self) -> Option<Message> {
        let (&[tag, a, b, c, d], _) = self.unread.split_first_chunk::<5>()?;
        let whole = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()? + 1;
        let body = self.unread.get(5..whole)?.to_vec();
        self.unread.drain(..whole);
        Some(Message { tag, body })
    }

    /// Everything up to the next ReadyForQuery, that included, or to the end.
    pub fn until_ready(&mut self) -> Result<Vec<Message>> {
        self.until(b'Z')
    }

    /// Everything up to the next message of a tag, that included, or to the end.
    pub fn until(&mut self, tag: u8) -> Result<Vec<Message>> {
        let mut messages = Vec::new();
        while let Some(message) = self.message()? {
            let last = message.tag == tag;
            messages.push(message);
            if last {
                break;
            }
        }
        Ok(messages)
    }

    /// Everything up to the connection's end.
    pub fn rest(&mut self) -> Result<Vec<Message>> {
        let mut messages = Vec::new();
        while let Some(message) = self.message()? {
            messages.push(message);
        }
        Ok(messages)
    }

    /// Asks by a simple query and returns the whole answer.
    pub fn ask(&mut self, sql: &str) -> Result<Vec<Message>> {
        self.send(&say::query(sql))?;
        self.until_ready()
    }

    /// Asks for one value.
    pub fn value(&mut self, sql: &str) -> Result<String> {
        let answer = self.ask(sql)?;
        answer
            .iter()
            .find(|message| message.tag == b'D')
            .and_then(|row| row.values().into_iter().next().flatten())
            .with_context(|| format!("{sql}: {answer:?}"))
    }
}

/// One message with a tag.
#[must_use]
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend_from_slice(&(u32::try_from(body.len()).unwrap_or(u32::MAX) + 4).to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// The client's messages.
pub mod say {
    use super::message;

    fn texts(parts: &[&str]) -> Vec<u8> {
        parts
            .iter()
            .flat_map(|part| part.bytes().chain(std::iter::once(0)))
            .collect()
    }

    /// StartupMessage.
    #[must_use]
    pub fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
        let mut body = 196_608_u32.to_be_bytes().to_vec();
        for (name, value) in parameters {
            body.extend(texts(&[name, value]));
        }
        body.push(0);
        let mut bytes = (u32::try_from(body.len()).unwrap_or(u32::MAX) + 4)
            .to_be_bytes()
            .to_vec();
        bytes.extend(body);
        bytes
    }

    /// CancelRequest with the body of a BackendKeyData.
    #[must_use]
    pub fn cancel(key: &[u8]) -> Vec<u8> {
        let mut bytes = (u32::try_from(key.len()).unwrap_or(u32::MAX) + 8)
            .to_be_bytes()
            .to_vec();
        bytes.extend_from_slice(&80_877_102_u32.to_be_bytes());
        bytes.extend_from_slice(key);
        bytes
    }

    /// Query.
    #[must_use]
    pub fn query(sql: &str) -> Vec<u8> {
        message(b'Q', &texts(&[sql]))
    }

    /// Parse, without types.
    #[must_use]
    pub fn parse(name: &str, sql: &str) -> Vec<u8> {
        let mut body = texts(&[name, sql]);
        body.extend_from_slice(&[0; 2]);
        message(b'P', &body)
    }

    /// Bind, without parameters.
    #[must_use]
    pub fn bind(portal: &str, statement: &str) -> Vec<u8> {
        bind_values(portal, statement, &[])
    }

    /// Bind with parameters as texts.
    #[must_use]
    pub fn bind_values(portal: &str, statement: &str, values: &[&[u8]]) -> Vec<u8> {
        let mut body = texts(&[portal, statement]);
        body.extend_from_slice(&[0; 2]);
        body.extend_from_slice(&u16::try_from(values.len()).unwrap_or(u16::MAX).to_be_bytes());
        for value in values {
            body.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
            body.extend_from_slice(value);
        }
        body.extend_from_slice(&[0; 2]);
        message(b'B', &body)
    }

    /// Describe of a portal (`P`) or statement (`S`).
    #[must_use]
    pub fn describe(kind: char, name: &str) -> Vec<u8> {
        message(b'D', &texts(&[&format!("{kind}{name}")]))
    }

    /// Close of a portal (`P`) or statement (`S`).
    #[must_use]
    pub fn close(kind: char, name: &str) -> Vec<u8> {
        message(b'C', &texts(&[&format!("{kind}{name}")]))
    }

    /// Execute; 0 rows are all.
    #[must_use]
    pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
        let mut body = texts(&[portal]);
        body.extend_from_slice(&rows.to_be_bytes());
        message(b'E', &body)
    }

    /// Parse, Bind and Execute of the unnamed statement and portal.
    #[must_use]
    pub fn run(sql: &str) -> Vec<u8> {
        [parse("", sql), bind("", ""), execute("", 0)].concat()
    }

    /// Sync.
    #[must_use]
    pub fn sync() -> Vec<u8> {
        message(b'S', &[])
    }

    /// Flush.
    #[must_use]
    pub fn flush() -> Vec<u8> {
        message(b'H', &[])
    }

    /// CopyData.
    #[must_use]
    pub fn copy_data(data: &[u8]) -> Vec<u8> {
        message(b'd', data)
    }

    /// CopyDone.
    #[must_use]
    pub fn copy_done() -> Vec<u8> {
        message(b'c', &[])
    }

    /// CopyFail.
    #[must_use]
    pub fn copy_fail(why: &str) -> Vec<u8> {
        message(b'f', &texts(&[why]))
    }

    /// FunctionCall of a function by its number, with arguments and a result in binary.
    #[must_use]
    pub fn function_call_with(function: u32, arguments: &[&[u8]]) -> Vec<u8> {
        let mut body = function.to_be_bytes().to_vec();
        body.extend_from_slice(&[0, 1, 0, 1]);
        body.extend_from_slice(&u16::try_from(arguments.len()).unwrap_or(u16::MAX).to_be_bytes());
        for argument in arguments {
            body.extend_from_slice(&u32::try_from(argument.len()).unwrap_or(u32::MAX).to_be_bytes());
            body.extend_from_slice(argument);
        }
        body.extend_from_slice(&[0, 1]);
        message(b'F', &body)
    }

    /// FunctionCall of a function without arguments, by its number.
    #[must_use]
    pub fn function_call(function: u32) -> Vec<u8> {
        let mut body = function.to_be_bytes().to_vec();
        body.extend_from_slice(&[0; 6]);
        message(b'F', &body)
    }
}
