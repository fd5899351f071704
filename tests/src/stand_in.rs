//! A server of the test's own in place of the API server, for what a real one can't be brought to do.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rustls::pki_types::{PrivateKeyDer, ServerName};

use crate::{ApiLab, Running, Said, until_closed};

/// The lab, an agent before a server of the test's own, and how to trust the agent.
#[derive(Debug)]
pub struct StandIn {
    /// The cluster with the pod's namespace.
    pub lab: ApiLab,
    /// The agent, and the pod that is its child.
    pub agent: Running,
    /// Where the server that stands in listens.
    pub listener: TcpListener,
    /// How the server speaks TLS.
    pub server: Arc<rustls::ServerConfig>,
    /// How the pod's clients do: HTTP/1.1 inside.
    pub client: Arc<rustls::ClientConfig>,
}

impl StandIn {
    /// With rules, and further options of `bailiff run`. `None` without root.
    pub fn new(namespace: &str, rules: &str, options: &[&str]) -> Result<Option<Self>> {
        let Some(lab) = ApiLab::new(namespace, "view", rules)? else {
            return Ok(None);
        };
        let real = lab.cluster.api_server()?;
        let listener = TcpListener::bind(SocketAddr::new(real.ip(), 0))?;
        let file = lab.enforced.config().join("target.yaml");
        let text = std::fs::read_to_string(&file)?;
        std::fs::write(
            &file,
            text.replace(&real.to_string(), &listener.local_addr()?.to_string()),
        )?;
        let (certificate, key) = lab.cluster.certificate("kubernetes.default.svc")?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|error| anyhow::anyhow!(error))?;
        let server = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        let client = Said::config(&lab, None)?;
        Ok(Some(Self {
            agent: lab
                .enforced
                .start_with(&[&["--pod", "agent"], options].concat())?,
            lab,
            listener,
            server: Arc::new(server),
            client,
        }))
    }

    /// Asks for a path on a connection of its own, which the server answers by these bytes before it closes; returns what comes back.
    pub fn ask(&self, path: &str, answer: &[u8]) -> Result<String> {
        std::thread::scope(|scope| {
            let served = scope.spawn(|| self.serve(answer));
            let said = self.client_says(path);
            let served = served
                .join()
                .map_err(|_| anyhow::anyhow!("the server panicked"))?;
            // It may be left before all was said.
            let _ = served;
            said
        })
    }

    /// Answers the next request by these bytes, and closes.
    pub fn serve(&self, answer: &[u8]) -> Result<()> {
        let mut stream = self.accept()?;
        stream.write_all(answer)?;
        stream.flush()?;
        stream.conn.send_close_notify();
        stream.flush()?;
        Ok(())
    }

    /// A connection of the agent's, after its request.
    pub fn accept(&self) -> Result<Served> {
        let (socket, _) = self.listener.accept()?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        socket.set_write_timeout(Some(Duration::from_secs(20)))?;
        let session = rustls::ServerConnection::new(Arc::clone(&self.server))?;
        let mut stream = rustls::StreamOwned::new(session, socket);
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.extend_from_slice(&byte);
        }
        Ok(stream)
    }

    /// Asks for a path, and returns what comes back until the other side closes.
    pub fn client_says(&self, path: &str) -> Result<String> {
        until_closed(&mut self.client_asks(path)?)
    }

    /// A client's connection with a request on it.
    pub fn client_asks(&self, path: &str) -> Result<Asked> {
        let headers = "Host: x\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n";
        self.client_sends(format!("GET {path} HTTP/1.1\r\n{headers}").as_bytes())
    }

    /// The same with whatever it sends.
    pub fn client_sends(&self, bytes: &[u8]) -> Result<Asked> {
        let to = self.listener.local_addr()?;
        let socket = self.agent.dial(&to.ip().to_string(), to.port())?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        let session = rustls::ClientConnection::new(
            Arc::clone(&self.client),
            ServerName::try_from(to.ip().to_string())?,
        )?;
        let mut stream = rustls::StreamOwned::new(session, socket);
        stream.write_all(bytes)?;
        stream.flush()?;
        Ok(stream)
    }
}

/// The server's end of a connection of the agent's.
pub type Served = rustls::StreamOwned<rustls::ServerConnection, TcpStream>;
/// A client's end of one to the agent.
pub type Asked = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;
