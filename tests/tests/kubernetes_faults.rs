//! API servers that fail or mean harm: what can't be masked is withheld, what breaks off is told, and memory stays bounded.
//!
//! A server that does this can't be had of a real one, so one stands in: it answers each connection's request by given bytes.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{ApiLab, Running};
use flate2::Compression;
use flate2::write::GzEncoder;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

const RULES: &str = r#"    - name: look
      requests: [{verbs: [get, list, watch], groups: [""], resources: [secrets, configmaps]}]
      action: Allow
  masks:
  - {groups: [""], resources: [secrets], fields: ["data.*"], with: Redact}
"#;

/// The lab, an agent before a server of the test's own, and how to trust the agent.
struct Faulty {
    lab: ApiLab,
    agent: Running,
    listener: TcpListener,
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
}

impl Faulty {
    fn new(namespace: &str) -> Result<Option<Self>> {
        let Some(lab) = ApiLab::new(namespace, "view", RULES)? else {
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
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(lab.cluster.ca()?)?)?;
        let mut client = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Some(Self {
            agent: lab.enforced.start_with(&["--pod", "agent"])?,
            lab,
            listener,
            server: Arc::new(server),
            client: Arc::new(client),
        }))
    }

    /// Asks for a path on a connection of its own, which the server answers by these bytes before it closes; returns what comes back.
    fn ask(&self, path: &str, answer: &[u8]) -> Result<String> {
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

    fn serve(&self, answer: &[u8]) -> Result<()> {
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
        stream.write_all(answer)?;
        stream.flush()?;
        stream.conn.send_close_notify();
        stream.flush()?;
        Ok(())
    }

    fn client_says(&self, path: &str) -> Result<String> {
        let to = self.listener.local_addr()?;
        let socket = self.agent.dial(&to.ip().to_string(), to.port())?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        let session = rustls::ClientConnection::new(
            Arc::clone(&self.client),
            ServerName::try_from(to.ip().to_string())?,
        )?;
        let mut stream = rustls::StreamOwned::new(session, socket);
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n"
        )?;
        stream.flush()?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
                ) => {}
            Err(error) => return Err(error).context(String::from_utf8_lossy(&answer).into_owned()),
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

fn answer(code: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {code}\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

const JSON: &str = "Content-Type: application/json\r\n";
const OBJECT: &[u8] =
    br#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"a","namespace":"n"},"data":{"k":"Y2FuYXJ5"}}"#;

#[test]
fn what_cannot_be_masked_is_withheld() -> Result<()> {
    let Some(faulty) = Faulty::new("withheld")? else {
        return Ok(());
    };
    let one = format!("/api/v1/namespaces/{}/secrets/a", faulty.lab.namespace);
    let good = faulty.ask(&one, &answer("200 OK", JSON, OBJECT))?;
    ensure!(
        good.starts_with("HTTP/1.1 200 ") && good.contains("W21hc2tlZF0="),
        "{good}"
    );
    let half = OBJECT.get(..80).context("short")?;
    let mut cut = answer("200 OK", JSON, OBJECT);
    cut.truncate(cut.len() - 20);
    let deep = [
        b"{\"kind\":\"Secret\",\"x\":".as_slice(),
        &b"[".repeat(5000),
        &b"]".repeat(5000),
        b"}",
    ]
    .concat();
    for (what, said, code) in [
        ("nothing", Vec::new(), "502"),
        ("half a head", b"HTTP/1.1 200 O".to_vec(), "502"),
        ("no HTTP", b"SSH-2.0-server\r\n\r\n".to_vec(), "502"),
        ("less than announced", cut, "502"),
        ("half an object", answer("200 OK", JSON, half), "502"),
        (
            "more than an object",
            answer("200 OK", JSON, &[OBJECT, b"{}"].concat()),
            "502",
        ),
        ("no JSON", answer("200 OK", JSON, b"canary Y2FuYXJ5"), "502"),
        ("an object too deep", answer("200 OK", JSON, &deep), "502"),
        (
            "protobuf that is none",
            answer(
                "200 OK",
                "Content-Type: application/vnd.kubernetes.protobuf\r\n",
                OBJECT,
            ),
            "502",
        ),
        (
            "gzip that is none",
            answer("200 OK", &format!("{JSON}Content-Encoding: gzip\r\n"), OBJECT),
            "502",
        ),
        (
            "another compression",
            answer("200 OK", &format!("{JSON}Content-Encoding: br\r\n"), OBJECT),
            "406",
        ),
        (
            "a page",
            answer("200 OK", "Content-Type: text/html\r\n", OBJECT),
            "406",
        ),
        ("no type", answer("200 OK", "", OBJECT), "406"),
        (
            "an error's page",
            answer("500 Oops", "Content-Type: text/plain\r\n", OBJECT),
            "500",
        ),
    ] {
        let came = faulty.ask(&one, &said)?;
        ensure!(came.starts_with(&format!("HTTP/1.1 {code} ")), "{what}: {came}");
        ensure!(!came.contains("Y2FuYXJ5"), "{what}: {came}");
        ensure!(came.contains("\"kind\":\"Status\""), "{what}: {came}");
    }
    ensure!(!faulty.agent.log().contains("Y2FuYXJ5"), "{}", faulty.agent.log());
    let good = faulty.ask(&one, &answer("200 OK", JSON, OBJECT))?;
    ensure!(good.starts_with("HTTP/1.1 200 "), "{good}");
    Ok(())
}

#[test]
fn a_list_that_breaks_off_ends_where_it_broke() -> Result<()> {
    let Some(faulty) = Faulty::new("broken-lists")? else {
        return Ok(());
    };
    let all = format!("/api/v1/namespaces/{}/secrets", faulty.lab.namespace);
    let item = String::from_utf8_lossy(OBJECT).into_owned();
    let begin =
        format!("{{\"kind\":\"SecretList\",\"apiVersion\":\"v1\",\"metadata\":{{}},\"items\":[{item},{item}");
    let broken = answer("200 OK", JSON, format!("{begin}],,]}}").as_bytes());
    for said in [broken, answer("200 OK", JSON, begin.as_bytes())] {
        let came = faulty.ask(&all, &said)?;
        ensure!(!came.contains("Y2FuYXJ5"), "{came}");
        // Neither its last chunk nor a length says that it were whole.
        ensure!(
            !came.starts_with("HTTP/1.1 200 ") || !came.ends_with("0\r\n\r\n"),
            "{came}"
        );
    }
    Ok(())
}

#[test]
fn a_decompression_bomb_takes_no_memory() -> Result<()> {
    let Some(faulty) = Faulty::new("bombs")? else {
        return Ok(());
    };
    let headers = format!("{JSON}Content-Encoding: gzip\r\n");
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(br#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"a"},"data":{"k":""#)?;
    let zeros = vec![b'A'; 1 << 20];
    for _ in 0..512 {
        packed.write_all(&zeros)?;
    }
    let bomb = answer("200 OK", &headers, &packed.finish()?);
    ensure!(bomb.len() < 1 << 20, "{} bytes", bomb.len());
    let one = format!("/api/v1/namespaces/{}/secrets/a", faulty.lab.namespace);
    let before = faulty.agent.resident_kib()?;
    let came = faulty.ask(&one, &bomb)?;
    ensure!(came.starts_with("HTTP/1.1 502 "), "{came}");
    let took = faulty.agent.resident_kib()?.saturating_sub(before);
    // One object may be held: 16 MiB, and what it grew by on the way.
    ensure!(took < 96 << 10, "{took} KiB");
    Ok(())
}
