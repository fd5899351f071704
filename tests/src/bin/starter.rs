//! What a container does that needs the API server at once: it connects in the first instant of its life, as often as it is refused, and
//! then asks for one object. Arguments: ADDRESS NAME PATH CA TOKEN-FILE. Prints a line of JSON, and stays until its input ends.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};

/// How long it goes on trying. Far above what it takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// Between the first two tries, and the most: each pause is twice the one before, as clients have it.
const PAUSE: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];

fn main() -> Result<()> {
    let begun = Instant::now();
    let mut arguments = std::env::args().skip(1);
    let mut argument = |what: &'static str| arguments.next().context(what);
    let address: SocketAddr = argument("no address")?.parse()?;
    let (mut refused, [mut pause, longest]) = (0, PAUSE);
    let connection = loop {
        match TcpStream::connect(address) {
            Ok(connection) => break connection,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused && begun.elapsed() < PATIENCE => {
                refused += 1;
                std::thread::sleep(pause);
                pause = longest.min(pause * 2);
            }
            Err(error) => bail!("{address}, after {refused} refusals: {error}"),
        }
    };
    let connected = begun.elapsed().as_millis();
    let (name, path) = (argument("no name")?, argument("no path")?);
    let ca = std::fs::read(argument("no CA")?)?;
    let token = std::fs::read_to_string(argument("no token")?)?;

    connection.set_read_timeout(Some(PATIENCE))?;
    let source = connection.local_addr()?.ip();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&ca)?)?;
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
    let server = ServerName::try_from("kubernetes.default.svc")?;
    let session = rustls::ClientConnection::new(Arc::new(config), server)?;
    let mut stream = rustls::StreamOwned::new(session, connection);
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: kubernetes.default.svc\r\nUser-Agent: {name}\r\nAccept: application/json\r\n\
         Authorization: Bearer {}\r\nConnection: close\r\n\r\n",
        token.trim()
    )?;
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        // Servers may leave out the farewell.
        anyhow::ensure!(error.kind() == ErrorKind::UnexpectedEof, "{error}");
    }
    drop(stream);
    let answer = String::from_utf8_lossy(&answer);
    let status: u16 = answer.split_whitespace().nth(1).context("no answer")?.parse()?;
    println!(
        "{}",
        serde_json::json!({
            "name": name, "refused": refused, "connected": connected, "took": begun.elapsed().as_millis(),
            "source": source.to_string(), "status": status,
        })
    );
    let _ended = std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
