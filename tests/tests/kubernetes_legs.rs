//! What becomes of the requests of a client's HTTP/2 on both legs: reads go by a connection of their own, all else beside it; trailers
//! come through; an agent that ends says so, and finishes what it has begun.
//!
//! Which version a connection speaks can't be asked of a real server, and none closes one at a given moment, so one stands in.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bailiff_tests::{Running, StandIn};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::header::{HeaderMap, HeaderName, HeaderValue, TE, TRAILER};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const RULES: &str = r#"    - name: look
      requests: [{verbs: [get, list, watch, create], groups: [""], resources: [configmaps]}]
      action: Allow
"#;

const CONFIGMAPS: &str = "/api/v1/namespaces/legs/configmaps";

/// A trailer.
const CHECKED: HeaderName = HeaderName::from_static("x-checked");

/// What came to the server: by which connection, in which version, what.
type Came = (usize, Version, String);

#[derive(Default)]
struct Server {
    came: Mutex<Vec<Came>>,
    /// Lets the slow answer begin.
    go: Notify,
}

impl Server {
    async fn serve(
        self: Arc<Self>,
        listener: std::net::TcpListener,
        tls: Arc<rustls::ServerConfig>,
    ) -> Result<()> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        for connection in 0.. {
            let (socket, _) = listener.accept().await?;
            let acceptor = TlsAcceptor::from(Arc::clone(&tls));
            let server = Arc::clone(&self);
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(socket).await else {
                    return;
                };
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let service = service_fn(move |request| {
                    let server = Arc::clone(&server);
                    async move { server.answer(connection, &request).await }
                });
                let stream = TokioIo::new(stream);
                // What ends it is the test's own doing.
                if is_http2 {
                    let _ = http2::Builder::new(TokioExecutor::new())
                        .serve_connection(stream, service)
                        .await;
                } else {
                    let _ = http1::Builder::new().serve_connection(stream, service).await;
                }
            });
        }
        Ok(())
    }

    async fn answer(&self, connection: usize, request: &Request<Incoming>) -> Result<Response<Pieces>> {
        let name = request
            .uri()
            .to_string()
            .rsplit(['/', '?'])
            .next()
            .unwrap_or_default()
            .to_owned();
        self.lock().push((connection, request.version(), name.clone()));
        ensure!(
            request
                .headers()
                .get("host")
                .is_none_or(|host| host == "kubernetes"),
            "another host"
        );
        ensure!(
            name != "left" || request.version() == Version::HTTP_2,
            "closes in the middle of it"
        );
        if name == "slow" {
            self.go.notified().await;
        }
        let mut answer = Response::new(Pieces {
            left: vec!["}", "{"],
            trailers: (name == "trailed")
                .then(|| [(CHECKED, HeaderValue::from_static("yes"))].into_iter().collect()),
            ends: name != "watch=1",
        });
        if name == "trailed" {
            answer.headers_mut().insert(TRAILER, CHECKED.into());
        }
        Ok(answer)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Came>> {
        self.came.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What came since the last look.
    fn came(&self) -> Vec<Came> {
        std::mem::take(&mut *self.lock())
    }

    async fn until_came(&self, name: &str) -> Result<()> {
        for _ in 0..1000 {
            if self.lock().iter().any(|(_, _, came)| came == name) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("{name} did not come: {:?}", self.lock())
    }
}

/// An answer whose length isn't told.
struct Pieces {
    left: Vec<&'static str>,
    trailers: Option<HeaderMap>,
    ends: bool,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.left.pop() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(piece.as_bytes()))))),
            None if !self.ends => Poll::Pending,
            None => Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
        }
    }
}

/// A client's connection.
async fn client(stand_in: &StandIn) -> Result<SendRequest<Full<Bytes>>> {
    let to = stand_in.listener.local_addr()?;
    let socket = stand_in.agent.dial(&to.ip().to_string(), to.port())?;
    socket.set_nonblocking(true)?;
    let mut tls = (*stand_in.client).clone();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TlsConnector::from(Arc::new(tls))
        .connect(
            ServerName::try_from(to.ip().to_string())?,
            TcpStream::from_std(socket)?,
        )
        .await?;
    let (sender, http) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(http);
    Ok(sender)
}

async fn ask(mut sender: SendRequest<Full<Bytes>>, method: &str, name: &str) -> Result<Response<Incoming>> {
    let request = Request::builder()
        .method(method)
        .uri(format!("https://kubernetes{CONFIGMAPS}{name}"))
        .header(TE, "trailers")
        .body(Full::default())?;
    let answer = tokio::time::timeout(Duration::from_secs(30), sender.send_request(request)).await??;
    ensure!(answer.status() == 200, "{method} {name}: {answer:?}");
    ensure!(answer.headers().get("transfer-encoding").is_none(), "{answer:?}");
    Ok(answer)
}

async fn read(sender: &SendRequest<Full<Bytes>>, name: &str) -> Result<()> {
    let said = ask(sender.clone(), "GET", name)
        .await?
        .into_body()
        .collect()
        .await?;
    ensure!(said.to_bytes() == "{}", "another answer");
    Ok(())
}

/// Runs a test against a server that speaks these versions.
fn against(
    namespace: &str,
    versions: &[&[u8]],
    test: impl AsyncFnOnce(&Server, &Running, SendRequest<Full<Bytes>>) -> Result<()>,
) -> Result<()> {
    let Some(stand_in) = StandIn::new(namespace, RULES, &[])? else {
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut tls = (*stand_in.server).clone();
        tls.alpn_protocols = versions.iter().map(|version| version.to_vec()).collect();
        let server = Arc::new(Server::default());
        tokio::spawn(Arc::clone(&server).serve(stand_in.listener.try_clone()?, Arc::new(tls)));
        test(&server, &stand_in.agent, client(&stand_in).await?).await
    })
}

#[test]
fn reads_have_a_connection_of_their_own_and_all_else_goes_beside_it() -> Result<()> {
    against("legs", &[b"h2", b"http/1.1"], legs)
}

#[test]
fn a_server_that_speaks_http2_alone_is_served_by_it() -> Result<()> {
    against("one-leg", &[b"h2"], async |server, _, sender| {
        for name in ["/a", "/b"] {
            read(&sender, name).await?;
        }
        let all = server.came();
        ensure!(
            all.iter().all(|(_, version, _)| *version == Version::HTTP_2),
            "{all:?}"
        );
        ensure!(all.len() == 2, "{all:?}");
        Ok(())
    })
}

async fn legs(server: &Server, _: &Running, sender: SendRequest<Full<Bytes>>) -> Result<()> {
    let came = |connection, version, name: &str| (connection, version, name.to_owned());

    // One read after another: one connection.
    for name in ["/a", "/b"] {
        read(&sender, name).await?;
    }
    let all = [came(0, Version::HTTP_11, "a"), came(0, Version::HTTP_11, "b")];
    assert_eq!(server.came(), all);

    // What stays open, and what writes.
    let mut watch = ask(sender.clone(), "GET", "?watch=1").await?.into_body();
    let first = watch.frame().await.context("no event")??;
    assert_eq!(first.data_ref().map(Bytes::as_ref), Some(b"{".as_slice()));
    ask(sender.clone(), "POST", "").await?;
    read(&sender, "/c").await?;
    let all = [
        came(1, Version::HTTP_2, "watch=1"),
        came(1, Version::HTTP_2, "configmaps"),
        came(0, Version::HTTP_11, "c"),
    ];
    assert_eq!(server.came(), all);

    // What comes while another read has the connection isn't kept waiting.
    let slow = tokio::spawn(ask(sender.clone(), "GET", "/slow"));
    server.until_came("slow").await?;
    for name in ["/d", "/e"] {
        read(&sender, name).await?;
    }
    server.go.notify_one();
    slow.await??.into_body().collect().await?;
    let all = [
        came(0, Version::HTTP_11, "slow"),
        came(1, Version::HTTP_2, "d"),
        came(1, Version::HTTP_2, "e"),
    ];
    assert_eq!(server.came(), all);

    // A server that closes as the read comes: it is said again, and the client sees nothing of it.
    read(&sender, "/left").await?;
    read(&sender, "/f").await?;
    let all = [
        came(0, Version::HTTP_11, "left"),
        came(1, Version::HTTP_2, "left"),
        came(2, Version::HTTP_11, "f"),
    ];
    assert_eq!(server.came(), all);

    // One that the client gives up ends at the server, too, and the next has another connection.
    let given_up = tokio::spawn(ask(sender.clone(), "GET", "/slow"));
    server.until_came("slow").await?;
    given_up.abort();
    let _ = given_up.await;
    server.came();
    let mut tries = 0;
    while !server.came().contains(&came(3, Version::HTTP_11, "g")) {
        ensure!(tries < 1000, "the connection of what was given up is still taken");
        tries += 1;
        read(&sender, "/g").await?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

#[test]
fn trailers_come_through_and_what_has_begun_is_finished_by_an_agent_that_ends() -> Result<()> {
    against(
        "trailed-leg",
        &[b"h2", b"http/1.1"],
        async |server, agent, sender| {
            let trailed = async |version| -> Result<()> {
                server.came();
                let answer = ask(sender.clone(), "GET", "/trailed")
                    .await?
                    .into_body()
                    .collect()
                    .await?;
                let checked = answer.trailers().and_then(|trailers| trailers.get(CHECKED));
                ensure!(
                    checked.is_some_and(|checked| checked == "yes"),
                    "{version:?}: {answer:?}"
                );
                ensure!(
                    server.came().iter().all(|came| came.1 == version),
                    "by another connection"
                );
                Ok(())
            };
            trailed(Version::HTTP_11).await?;
            let slow = tokio::spawn(ask(sender.clone(), "GET", "/slow"));
            server.until_came("slow").await?;
            trailed(Version::HTTP_2).await?;

            agent.terminate()?;
            let mut tries = 0;
            // By a GOAWAY, which the client heeds when it has another request.
            while ask(sender.clone(), "GET", "/late").await.is_ok() {
                ensure!(tries < 1000, "the client isn't told that the agent ends");
                tries += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            ensure!(!slow.is_finished(), "what had begun is over");
            server.go.notify_one();
            let said = slow.await??.into_body().collect().await?;
            ensure!(said.to_bytes() == "{}", "what had begun was cut");
            Ok(())
        },
    )
}
