//! An API server that goes away: killed in the middle of a list, of a watch and of a request, away for a while, and back. And clients that
//! are there and don't read.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{ApiLab, ApiServer, Cluster, ClusterOptions, Running, can_be_root};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio_rustls::TlsConnector;

const RULES: &str = r#"    - name: look
      requests: [{verbs: [get, list, watch], groups: [""], resources: [configmaps, secrets]}]
      action: Allow
  masks:
  - {groups: [""], resources: [secrets], fields: ["data.*"], with: Redact}
"#;

/// Nothing here may take longer, whoever is away. Far more than it takes: a machine may be busy.
const BOUND: Duration = Duration::from_secs(30);

/// One client's connection.
enum Client {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    async fn connect(lab: &ApiLab, agent: &Running, protocol: &str) -> Result<Self> {
        let service = lab.cluster.service()?;
        let socket = agent.dial(&service.ip().to_string(), service.port())?;
        socket.set_nonblocking(true)?;
        let socket = tokio::net::TcpStream::from_std(socket)?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(lab.cluster.ca()?)?)?;
        let mut config = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let name = ServerName::try_from(service.ip().to_string())?;
        let wire = TlsConnector::from(Arc::new(config)).connect(name, socket).await?;
        if protocol == "h2" {
            let (sender, http) = http2::handshake(TokioExecutor::new(), TokioIo::new(wire)).await?;
            tokio::spawn(http);
            Ok(Self::Http2(sender))
        } else {
            let (sender, http) = http1::handshake(TokioIo::new(wire)).await?;
            tokio::spawn(http);
            Ok(Self::Http1(sender))
        }
    }

    async fn ask(&mut self, lab: &ApiLab, path: &str) -> Result<Response<Incoming>> {
        let uri = format!("https://kubernetes.default.svc{path}");
        let request = Request::get(match self {
            Self::Http1(_) => path,
            Self::Http2(_) => &uri,
        })
        .header("authorization", format!("Bearer {}", lab.token("agent")?))
        .header("accept", "application/json");
        let request = match self {
            Self::Http1(_) => request.header("host", "kubernetes.default.svc"),
            Self::Http2(_) => request,
        };
        let request = request.body(Full::default())?;
        let response = match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                tokio::time::timeout(BOUND, sender.send_request(request)).await
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                tokio::time::timeout(BOUND, sender.send_request(request)).await
            }
        };
        response.context("no answer in time")?.context(path.to_owned())
    }

    /// The whole answer, as its code and its body.
    async fn whole(&mut self, lab: &ApiLab, path: &str) -> Result<(u16, Value)> {
        let response = self.ask(lab, path).await?;
        let code = response.status().as_u16();
        let body = tokio::time::timeout(BOUND, response.into_body().collect())
            .await
            .context("the answer has no end")??
            .to_bytes();
        Ok((code, serde_json::from_slice(&body)?))
    }
}

/// What is left of a body, and whether it ended as it should.
async fn rest(mut body: Incoming) -> Result<(usize, bool)> {
    let mut bytes = 0;
    loop {
        match tokio::time::timeout(BOUND, body.frame())
            .await
            .context("it neither goes on nor ends")?
        {
            Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, Bytes::len),
            Some(Err(_)) => return Ok((bytes, false)),
            None => return Ok((bytes, true)),
        }
    }
}

/// What one client has under way when the API server goes.
struct Underway {
    protocol: &'static str,
    plain: Client,
    _watcher: Client,
    watch: Option<Incoming>,
    _lister: Client,
    list: Option<Incoming>,
    waiting: Client,
}

impl Underway {
    async fn begin(lab: &ApiLab, agent: &Running, protocol: &'static str, resource: &str) -> Result<Self> {
        let base = format!("/api/v1/namespaces/{}/{resource}", lab.namespace);
        let mut plain = Client::connect(lab, agent, protocol).await?;
        let (code, _) = plain.whole(lab, &format!("{base}/small")).await?;
        ensure!(code == 200, "{protocol}: {code}");
        let mut watcher = Client::connect(lab, agent, protocol).await?;
        let mut watch = watcher
            .ask(
                lab,
                &format!("{base}?watch=1&fieldSelector=metadata.name%3Dsmall"),
            )
            .await?
            .into_body();
        let first = tokio::time::timeout(BOUND, watch.frame())
            .await?
            .context("no event")??;
        ensure!(first.data_ref().is_some_and(|bytes| !bytes.is_empty()));
        let mut lister = Client::connect(lab, agent, protocol).await?;
        let mut list = lister.ask(lab, &base).await?.into_body();
        list.frame().await.context("an empty list")??;
        let waiting = Client::connect(lab, agent, protocol).await?;
        Ok(Self {
            protocol,
            plain,
            _watcher: watcher,
            watch: Some(watch),
            _lister: lister,
            list: Some(list),
            waiting,
        })
    }
}

fn fill(lab: &ApiLab) -> Result<usize> {
    let filler = "A".repeat(700_000);
    let mut items = Vec::new();
    for kind in ["ConfigMap", "Secret"] {
        let of = |name: &str, value: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": lab.namespace}, "data": {"k": value}});
        items.push(of("small", "QUFB"));
        items.extend((0..40).map(|number| of(&format!("large-{number}"), &filler)));
    }
    for item in items {
        let path = lab.path("object.json");
        std::fs::write(&path, item.to_string())?;
        let path = path.to_str().context("a path that isn't UTF-8")?;
        lab.cluster.kubectl(&["create", "-f", path])?;
    }
    Ok(40 * filler.len())
}

#[test]
fn what_an_api_server_leaves_behind_ends_in_time_and_goes_on_with_the_next() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    // It lives as long as this process, and its next API server in its cgroup.
    let options = ClusterOptions {
        components_may_end: true,
        ..ClusterOptions::default()
    };
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::start(&options)?));
    let lab = ApiLab::on(cluster, "away", "admin", RULES)?;
    let size = fill(&lab)?;
    let mut server = ApiServer::of(cluster)?;
    let agent = lab.enforced.start_with(&["--pod", "agent"])?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut all = Vec::new();
        // Config maps pass as they come; secrets are masked on their way.
        for (protocol, resource) in [
            ("http/1.1", "configmaps"),
            ("h2", "configmaps"),
            ("http/1.1", "secrets"),
            ("h2", "secrets"),
        ] {
            let under = Underway::begin(&lab, &agent, protocol, resource)
                .await
                .with_context(|| format!("{protocol} {resource}"))?;
            all.push((under, resource));
        }

        // It takes a request and dies before it has answered.
        server.pause()?;
        let mut clients = Vec::new();
        let lab = &lab;
        for (under, resource) in &mut all {
            let path = format!("/api/v1/namespaces/away/{resource}/small");
            clients.push(async move {
                let answer = under.waiting.whole(lab, &path).await;
                (under.protocol, answer)
            });
        }
        let killed = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            server.kill()
        };
        let (answers, killed) = tokio::join!(futures_util::future::join_all(clients), killed);
        killed?;
        for (protocol, answer) in answers {
            let (code, status) = answer.with_context(|| protocol.to_owned())?;
            ensure!(
                (code == 502 || code == 503) && status.get("kind") == Some(&json!("Status")),
                "{protocol}: {code} {status}"
            );
        }

        for (under, resource) in &mut all {
            let what = format!("{} {resource}", under.protocol);
            // What was on its way may come; then it ends, and not as if it were whole.
            let (came, whole) = rest(under.list.take().context("no list")?).await?;
            ensure!(
                !whole && came < size,
                "{what}: a list of {came} bytes ended as if it were whole"
            );
            rest(under.watch.take().context("no watch")?).await?;
            let path = format!("/api/v1/namespaces/away/{resource}/small");
            let (code, status) = under.plain.whole(lab, &path).await.context(what.clone())?;
            ensure!(
                code == 503 && status.get("kind") == Some(&json!("Status")),
                "{what}: {code} {status}"
            );
        }

        server.start(cluster)?;
        for (under, resource) in &mut all {
            let what = format!("{} {resource}", under.protocol);
            let path = format!("/api/v1/namespaces/away/{resource}/small");
            let (code, object) = under.plain.whole(lab, &path).await.context(what.clone())?;
            ensure!(
                code == 200 && object.pointer("/metadata/name") == Some(&json!("small")),
                "{what}: {code} {object}"
            );
            let (code, list) = under
                .waiting
                .whole(lab, &format!("/api/v1/namespaces/away/{resource}"))
                .await
                .context(what.clone())?;
            let items = list.pointer("/items").and_then(Value::as_array).map(Vec::len);
            ensure!(
                code == 200 && items.is_some_and(|items| items >= 41),
                "{what}: {code} {items:?}"
            );
        }
        Ok(())
    })?;
    let events = lab.audited()?;
    let ended = |how: &str| {
        events
            .iter()
            .filter(|event| event.pointer("/annotations/bailiff.dev~1ended") == Some(&json!(how)))
            .count()
    };
    ensure!(ended("before the answer was whole") >= 4, "{events:#?}");
    Ok(())
}

#[test]
fn streams_that_nobody_reads_take_neither_memory_nor_others_turn() -> Result<()> {
    let Some(lab) = ApiLab::new("unread", "admin", RULES)? else {
        return Ok(());
    };
    fill(&lab)?;
    let agent = lab.enforced.start_with(&["--pod", "agent", "--workers", "1"])?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let lab = &lab;
        for (resource, most) in [("configmaps", 48 << 10), ("secrets", 96 << 10)] {
            let base = format!("/api/v1/namespaces/unread/{resource}");
            let before = agent.resident_kib()?;
            let mut idle = Client::connect(lab, &agent, "h2").await?;
            // 28 MB each. Whether it has begun or not: nobody takes it.
            let mut unread = Vec::new();
            for _ in 0..20 {
                let Client::Http2(sender) = &mut idle else {
                    continue;
                };
                sender.ready().await?;
                let uri = format!("https://kubernetes.default.svc{base}");
                let request = Request::get(uri)
                    .header("authorization", format!("Bearer {}", lab.token("agent")?))
                    .header("accept", "application/json")
                    .body(Full::default())?;
                unread.push(tokio::spawn(sender.send_request(request)));
            }
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_millis(500)).await;
                let mut other = Client::connect(lab, &agent, "h2").await?;
                let (code, _) = other.whole(lab, &format!("{base}/small")).await?;
                ensure!(code == 200, "{resource}: {code}");
            }
            let took = agent.resident_kib()?.saturating_sub(before);
            ensure!(took < most, "{resource}: {took} KiB for 20 times 28 MB");
            let begun = unread.iter().filter(|answer| answer.is_finished()).count();
            ensure!(begun > 0, "{resource}: no answer has begun");
            unread.iter().for_each(tokio::task::JoinHandle::abort);
        }
        Ok(())
    })
}
