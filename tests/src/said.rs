//! Requests said byte by byte over HTTP/1.1, out of a pod behind an agent.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use crate::{ApiLab, Running};

/// A connection to the API server, with TLS.
#[derive(Debug)]
pub struct Said {
    stream: rustls::StreamOwned<rustls::ClientConnection, TcpStream>,
}

/// One answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status code.
    pub code: u16,
    /// All of it, with its head.
    pub text: String,
}

impl Said {
    /// Connects to the Service's address out of the agent's pod, and shows a certificate where there is one.
    pub fn connect(lab: &ApiLab, agent: &Running, shown: Option<CertifiedKey>) -> Result<Self> {
        Self::with(lab, agent, Self::config(lab, shown)?)
    }

    /// How such a pod speaks TLS. Whether the key is the certificate's isn't looked at.
    pub fn config(lab: &ApiLab, shown: Option<CertifiedKey>) -> Result<Arc<rustls::ClientConfig>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(lab.cluster.ca()?)?)?;
        let config = rustls::ClientConfig::builder().with_root_certificates(roots);
        let mut config = match shown {
            Some(shown) => config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown))),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// The same with what earlier connections left.
    pub fn with(lab: &ApiLab, agent: &Running, config: Arc<rustls::ClientConfig>) -> Result<Self> {
        let service = lab.cluster.service()?;
        let socket = agent.dial(&service.ip().to_string(), service.port())?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        let name = ServerName::try_from(service.ip().to_string())?;
        let session = rustls::ClientConnection::new(config, name)?;
        Ok(Self {
            stream: rustls::StreamOwned::new(session, socket),
        })
    }

    /// Whether the handshake took up an earlier session's.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        matches!(
            self.stream.conn.handshake_kind(),
            Some(rustls::HandshakeKind::Resumed)
        )
    }

    /// A GET with these header lines, each with its end. The connection stays open.
    pub fn get(&mut self, path: &str, headers: &str) -> Result<Answer> {
        self.say(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n"))
    }

    /// Says a request whose answer has no end; what comes is left unread.
    pub fn begin(&mut self, path: &str, headers: &str) -> Result<()> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        self.stream.write_all(request.as_bytes())?;
        Ok(self.stream.flush()?)
    }

    /// Waits until the other side has closed.
    pub fn until_closed(&mut self) {
        let mut rest = [0; 4096];
        while let Ok(1..) = self.stream.read(&mut rest) {}
    }

    /// Says a whole request, and reads its answer.
    pub fn say(&mut self, request: &str) -> Result<Answer> {
        self.stream.write_all(request.as_bytes())?;
        self.stream.flush()?;
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"\r\n\r\n") {
            self.stream.read_exact(&mut byte)?;
            answer.extend_from_slice(&byte);
        }
        let head = String::from_utf8(answer)?;
        let code = head.split(' ').nth(1).context("no status line")?.parse()?;
        let header = |wanted: &str| {
            head.lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
                .map(|(_, value)| value.trim().to_owned())
        };
        let body = if let Some(length) = header("content-length") {
            self.bytes(length.parse()?)?
        } else {
            ensure!(
                header("transfer-encoding").is_some(),
                "a body without an end: {head}"
            );
            self.chunks()?
        };
        let text = head + &String::from_utf8(body)?;
        Ok(Answer { code, text })
    }

    fn bytes(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }

    fn chunks(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let mut line = String::new();
            while !line.ends_with("\r\n") {
                let mut byte = [0];
                self.stream.read_exact(&mut byte)?;
                line.push(char::from(byte[0]));
            }
            let length = usize::from_str_radix(line.trim(), 16)?;
            let mut chunk = self.bytes(length + 2)?;
            chunk.truncate(length);
            if length == 0 {
                return Ok(body);
            }
            body.extend(chunk);
        }
    }
}
