//! Measures what a proxy between a client and the API server costs, for `cargo xtask bench kubernetes`: prints a line of JSON for
//! each measurement.
//!
//! A client for each way to the server (direct, through HAProxy, through the agent) takes its turn in every round. All speak HTTP/2
//! over TLS, as Go's clients do, and trust the cluster's CA.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use bailiff_tests::{ALLOW_ALL, ApiLab, Enforced, harness_program, policy, target};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};

/// What the pods' certificate and HAProxy's say.
const NAME: &str = "kubernetes.default.svc";

/// The namespace that everything is in.
const NAMESPACE: &str = "bench";

/// HAProxy, beside the API server: where it listens, by what it goes on, and whether clients share its connections to the server.
const HAPROXY: [(&str, u16, &str, &str); 3] = [
    ("haproxy", 7443, "h2,http/1.1", "safe"),
    ("haproxy 1.1", 7444, "http/1.1", "safe"),
    // As the agent, whose connections to the server are the pods' own.
    ("haproxy apart", 7445, "http/1.1", "never"),
];

/// What the policy has besides, in the runs with masks: in 5,000 pods, 5,000 values of the environment.
const MASKS: &str =
    "  masks:\n  - {groups: [\"\"], resources: [pods], fields: [spec.containers.env.value], with: Redact}\n";
const RULES: &str = "    - name: all\n      requests: [{verbs: [get, list, watch], groups: [\"\"], resources: [pods, configmaps]}]\n      action: Allow\n";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["client", address, ca, token] => {
            runtime()?.block_on(client(address.parse()?, ca.as_ref(), token.as_ref()))
        }
        [rounds, seconds, pods, cells @ ..] => {
            measure(rounds.parse()?, seconds.parse()?, pods.parse()?, cells)
        }
        _ => bail!(
            "usage: api-cost ROUNDS SECONDS PODS [CELL...], where a CELL is get-1, get-16, list-json, list-protobuf or watch"
        ),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

/// Where and as whom a client speaks.
struct Way {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    token: String,
}

impl Way {
    fn new(address: SocketAddr, ca: &Path, token: &Path) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca)? {
            roots.add(certificate?)?;
        }
        let mut tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            address,
            tls: Arc::new(tls),
            token: std::fs::read_to_string(token)?.trim().to_owned(),
        })
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>> {
        let stream = tokio::net::TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(ServerName::try_from(NAME)?, stream).await?;
        let mut http = http2::Builder::new(TokioExecutor::new());
        // As Go's client has them.
        http.initial_stream_window_size(4 << 20)
            .initial_connection_window_size(1 << 30);
        let (sender, connection) = http.handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }

    fn request(&self, method: &str, path: &str, accept: &str, body: String) -> Result<Request<Full<Bytes>>> {
        Ok(Request::builder()
            .method(method)
            .uri(format!("https://{NAME}{path}"))
            .header("authorization", format!("Bearer {}", self.token))
            .header("accept", accept)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?)
    }
}

/// Answers each line of JSON, which says what to measure, by one with what was measured.
async fn client(address: SocketAddr, ca: &Path, token: &Path) -> Result<()> {
    let way = Way::new(address, ca, token)?;
    for line in std::io::stdin().lines() {
        let asked: Value = serde_json::from_str(&line?)?;
        let text = |key: &str| {
            asked
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let number = |key: &str| asked.get(key).and_then(Value::as_u64).unwrap_or_default();
        let path = text("path");
        let said = match text("do").as_str() {
            "get" => {
                get(
                    &way,
                    &path,
                    number("clients"),
                    Duration::from_secs(number("seconds")),
                )
                .await?
            }
            "list" => list(&way, &path, &text("accept")).await?,
            "watch" => watch(&way, &path, number("events")).await?,
            other => bail!("{other:?} can't be measured"),
        };
        println!("{said}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

async fn get(way: &Way, path: &str, clients: u64, time: Duration) -> Result<Value> {
    let local = tokio::task::LocalSet::new();
    let mut took = local
        .run_until(async {
            let mut all = Vec::new();
            for _ in 0..clients {
                let mut sender = way.connect().await?;
                let request = way.request("GET", path, "application/json", String::new())?;
                all.push(async move {
                    let (mut took, begin) = (Vec::new(), Instant::now());
                    while begin.elapsed() < time {
                        let began = Instant::now();
                        sender.ready().await?;
                        let answer = sender.send_request(request.clone()).await?;
                        ensure!(answer.status() == 200, "{}", answer.status());
                        answer.into_body().collect().await?;
                        took.push(began.elapsed().as_micros() as u64);
                    }
                    Ok::<_, anyhow::Error>(took)
                });
            }
            let mut took = Vec::new();
            for one in futures_util::future::join_all(all).await {
                took.extend(one?);
            }
            Ok::<_, anyhow::Error>(took)
        })
        .await?;
    took.sort_unstable();
    let at = |share: usize| took.get(took.len() * share / 100).copied().unwrap_or_default();
    Ok(json!({"requests": took.len(), "p50_us": at(50), "p99_us": at(99)}))
}

async fn list(way: &Way, path: &str, accept: &str) -> Result<Value> {
    let mut sender = way.connect().await?;
    let request = way.request("GET", path, accept, String::new())?;
    let began = Instant::now();
    let answer = sender.send_request(request).await?;
    ensure!(answer.status() == 200, "{}", answer.status());
    let (mut body, mut bytes, mut first) = (answer.into_body(), 0, None);
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            first.get_or_insert_with(|| began.elapsed());
            bytes += data.len();
        }
    }
    let first = first.context("an empty list")?.as_micros() as u64;
    Ok(json!({"us": began.elapsed().as_micros() as u64, "first_us": first, "bytes": bytes}))
}

/// How long after its making an event comes: each object says when it was written.
async fn watch(way: &Way, path: &str, events: u64) -> Result<Value> {
    let mut sender = way.connect().await?;
    let answer = sender
        .send_request(way.request("GET", path, "application/json", String::new())?)
        .await?;
    ensure!(answer.status() == 200, "{}", answer.status());
    println!("{}", json!({"watching": true}));
    std::io::stdout().flush()?;
    let (mut body, mut held, mut took) = (answer.into_body(), Vec::new(), Vec::new());
    while (took.len() as u64) < events {
        let frame = body.frame().await.context("the watch ended")??;
        let now = now();
        held.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        while let Some(end) = held.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = held.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line)?;
            let written = event.pointer("/object/data/written").and_then(Value::as_str);
            if let Some(written) = written.and_then(|written| written.parse::<u64>().ok()) {
                took.push(now.saturating_sub(written));
            }
        }
    }
    took.sort_unstable();
    let at = |share: usize| took.get(took.len() * share / 100).copied().unwrap_or_default();
    Ok(json!({"events": took.len(), "p50_us": at(50), "p99_us": at(99)}))
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_micros() as u64)
}

/// A client in a process of its own.
struct Client {
    child: Child,
    asks: ChildStdin,
    says: BufReader<ChildStdout>,
}

impl Client {
    fn start(mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        Ok(Self {
            asks: child.stdin.take().context("no input")?,
            says: BufReader::new(child.stdout.take().context("no output")?),
            child,
        })
    }

    fn say(&mut self, what: &Value) -> Result<()> {
        writeln!(self.asks, "{what}")?;
        Ok(self.asks.flush()?)
    }

    fn hear(&mut self) -> Result<Value> {
        let mut line = String::new();
        ensure!(self.says.read_line(&mut line)? > 0, "a client ended");
        Ok(serde_json::from_str(&line)?)
    }

    fn ask(&mut self, what: &Value) -> Result<Value> {
        self.say(what)?;
        self.hear()
    }

    fn end(mut self) -> Result<()> {
        drop(self.asks);
        self.child.wait()?;
        Ok(())
    }
}

/// What stays of HAProxy while it runs.
struct Haproxy(Child);

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_haproxy(lab: &ApiLab) -> Result<Haproxy> {
    let server = lab.cluster.api_server()?;
    let (certificate, key) = lab.cluster.certificate(NAME)?;
    let pem = lab.path("haproxy.pem");
    std::fs::write(&pem, certificate.pem() + &key.serialize_pem())?;
    let mut text = "global\n    maxconn 400\ndefaults\n    mode http\n    timeout connect 10s\n    timeout client 1h\n    timeout server 1h\n".to_owned();
    for (_, port, alpn, reuse) in HAPROXY {
        text += &format!(
            "listen api-{port}\n    bind {}:{port} ssl crt {} alpn h2,http/1.1\n    http-reuse {reuse}\n    \
             server api {server} ssl verify required ca-file {} sni str({NAME}) alpn {alpn}\n",
            server.ip(),
            pem.display(),
            lab.cluster.ca()?.display(),
        );
    }
    let config = lab.path("haproxy.cfg");
    std::fs::write(&config, text)?;
    let log = std::fs::File::create(lab.path("haproxy.log"))?;
    let child = Command::new("haproxy")
        .args(["-db", "-f"])
        .arg(&config)
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("haproxy can't be started")?;
    let proxy = Haproxy(child);
    let until = Instant::now() + Duration::from_secs(20);
    while HAPROXY
        .iter()
        .any(|(_, port, ..)| std::net::TcpStream::connect((server.ip(), *port)).is_err())
    {
        ensure!(
            Instant::now() < until,
            "haproxy does not listen: {}",
            std::fs::read_to_string(lab.path("haproxy.log"))?
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(proxy)
}

/// Makes the pods, by many requests at once.
fn fill(way: &Way, pods: u64) -> Result<()> {
    runtime()?.block_on(async {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
        let sender = way.connect().await?;
        let one = |number: u64| {
            let mut sender = sender.clone();
            let body = json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": format!("web-{number}"), "labels": {"app": "web", "number": number.to_string()},
                    "annotations": {"example.com/owner": "team-web", "example.com/note": "made to be listed"}},
                "spec": {"serviceAccountName": "agent", "containers": [{"name": "main", "image": "registry.example/web:1.2.3",
                    "args": ["serve", "--port=8080"],
                    "env": [{"name": "DATABASE_PASSWORD", "value": format!("a-secret-value-{number}")},
                            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                    "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
                    "ports": [{"containerPort": 8080}]}]}});
            let request = way.request("POST", &path, "application/json", body.to_string());
            async move {
                let answer = sender.send_request(request?).await?;
                let status = answer.status();
                let said = answer.into_body().collect().await?.to_bytes();
                ensure!(status == 201, "{}", String::from_utf8_lossy(&said));
                Ok::<_, anyhow::Error>(())
            }
        };
        let mut made = 0;
        while made < pods {
            let until = (made + 32).min(pods);
            for outcome in futures_util::future::join_all((made..until).map(one)).await {
                outcome?;
            }
            made = until;
        }
        Ok(())
    })
}

/// Writes an object again and again, each time with the time in it.
fn write(way: &Way, events: u64) -> Result<()> {
    runtime()?.block_on(async {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps/clock");
        let mut sender = way.connect().await?;
        for _ in 0..events {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let body = json!({"data": {"written": now().to_string()}}).to_string();
            let mut request = way.request("PATCH", &path, "application/json", body)?;
            request
                .headers_mut()
                .insert("content-type", "application/merge-patch+json".parse()?);
            let answer = sender.send_request(request).await?;
            ensure!(answer.status() == 200, "{}", answer.status());
            answer.into_body().collect().await?;
        }
        Ok(())
    })
}

/// The processor time that a process's threads took so far, in microseconds. As the scheduler has it: what `stat` says is sampled by the
/// clock that also wakes idle threads.
fn cpu_time(pid: u32) -> Result<u64> {
    let mut all = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread that ends meanwhile was a short one.
        let Ok(text) = std::fs::read_to_string(thread?.path().join("schedstat")) else {
            continue;
        };
        let nanos: u64 = text.split_whitespace().next().context("no time")?.parse()?;
        all += nanos / 1000;
    }
    Ok(all)
}

/// The most memory that a process had since [`forget`], in bytes.
fn most_memory(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .context("no VmHWM")?;
    let kilobytes: u64 = line.split_whitespace().next().context("no number")?.parse()?;
    Ok(kilobytes * 1024)
}

fn forget(pid: u32) -> Result<()> {
    // 5: the high-water mark. (`man 5 proc_pid_clear_refs`.)
    Ok(std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

fn measure(rounds: u64, seconds: u64, pods: u64, cells: &[&str]) -> Result<()> {
    let is_asked = |cell: &str| cells.is_empty() || cells.contains(&cell);
    let plain = ApiLab::new(NAMESPACE, "edit", RULES)?.context("measuring needs root")?;
    let masked =
        ApiLab::new("bench-masked", "view", &format!("{RULES}{MASKS}"))?.context("measuring needs root")?;
    // The masked lab's pod reads the first one's namespace.
    plain.cluster.kubectl(&[
        "create",
        "rolebinding",
        "-n",
        NAMESPACE,
        "reads",
        "--clusterrole=view",
        "--serviceaccount=bench-masked:agent",
    ])?;
    for name in ["small", "clock"] {
        plain
            .cluster
            .kubectl(&["create", "configmap", "-n", NAMESPACE, name, "--from-literal=a=1"])?;
    }
    let (ca, token) = (plain.cluster.ca()?.to_owned(), plain.path("agent.token"));
    let haproxy = start_haproxy(&plain)?;
    let direct = Way::new(plain.cluster.api_server()?, &ca, &token)?;
    fill(&direct, pods)?;
    let program = harness_program("api-cost")?;
    let words = |address: SocketAddr, token: &Path| -> Vec<PathBuf> {
        vec![
            program.clone(),
            "client".into(),
            address.to_string().into(),
            ca.clone(),
            token.into(),
        ]
    };
    // All clients are in sandboxes, since pods have network namespaces, too: in those of direct ones nothing that they dial is a target.
    let outside = Enforced::with(&[
        (
            "target.yaml",
            &target(&plain.cluster.api_server()?.ip().to_string(), ""),
        ),
        ("policy.yaml", &policy(ALLOW_ALL)),
    ])?;
    // A pod that the inventory has; outside there is none.
    let of_lab = ["--pod", "agent"].as_slice();
    let client = |(enforced, options): (&Enforced, &[&str]),
                  address: SocketAddr,
                  token: &Path,
                  log: &str|
     -> Result<Client> {
        let all = words(address, token);
        let all: Vec<&str> = all.iter().filter_map(|word| word.to_str()).collect();
        let mut command = enforced.run_with(options, &all)?;
        command.stderr(std::fs::File::create(plain.path(log))?);
        Client::start(command)
    };
    let (server, service) = (plain.cluster.api_server()?, plain.cluster.service()?);
    let mut clients = vec![
        ("direct", client((&outside, &[]), server, &token, "direct.log")?),
        (
            "bailiff",
            client((&plain.enforced, of_lab), service, &token, "plain.log")?,
        ),
        (
            "bailiff masked",
            client(
                (&masked.enforced, of_lab),
                service,
                &masked.path("agent.token"),
                "masked.log",
            )?,
        ),
    ];
    for (subject, port, ..) in HAPROXY {
        let through = SocketAddr::new(server.ip(), port);
        let log = format!("through-{port}.log");
        clients.push((subject, client((&outside, &[]), through, &token, &log)?));
    }
    let small = format!("/api/v1/namespaces/{NAMESPACE}/configmaps/small");
    let all = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let clock =
        format!("/api/v1/namespaces/{NAMESPACE}/configmaps?watch=1&fieldSelector=metadata.name%3Dclock");
    for _ in 0..rounds {
        // Who goes first finds the server as the last measurement left it.
        clients.rotate_left(1);
        for count in [1, 16] {
            if !is_asked(&format!("get-{count}")) {
                continue;
            }
            for (subject, client) in &mut clients {
                // The agent is the client's own parent.
                let proxy = match *subject {
                    "direct" => None,
                    subject if subject.starts_with("haproxy") => Some(haproxy.0.id()),
                    _ => Some(client.child.id()),
                };
                let before = proxy.map(cpu_time).transpose()?;
                let mut said =
                    client.ask(&json!({"do": "get", "path": small, "clients": count, "seconds": seconds}))?;
                let after = proxy.map(cpu_time).transpose()?;
                if let (Some(before), Some(after), Some(members)) = (before, after, said.as_object_mut()) {
                    let requests = members
                        .get("requests")
                        .and_then(Value::as_u64)
                        .unwrap_or_default();
                    members.insert("cpu_us".to_owned(), ((after - before) / requests.max(1)).into());
                }
                told(subject, &format!("get {count}"), &said);
            }
        }
        for (form, accept) in [
            ("json", "application/json"),
            ("protobuf", "application/vnd.kubernetes.protobuf"),
        ] {
            if !is_asked(&format!("list-{form}")) {
                continue;
            }
            for (subject, client) in &mut clients {
                let pid = client.child.id();
                let is_agent = subject.starts_with("bailiff");
                let before = if is_agent {
                    forget(pid)?;
                    most_memory(pid)?
                } else {
                    0
                };
                let mut said = client.ask(&json!({"do": "list", "path": all, "accept": accept}))?;
                if is_agent && let Some(members) = said.as_object_mut() {
                    members.insert(
                        "memory".to_owned(),
                        (most_memory(pid)?.saturating_sub(before)).into(),
                    );
                }
                told(subject, &format!("list {form}"), &said);
            }
        }
        for (subject, client) in clients.iter_mut().filter(|_| is_asked("watch")) {
            let watching = client.ask(&json!({"do": "watch", "path": clock, "events": 200}))?;
            ensure!(watching.get("watching").is_some(), "{watching}");
            write(&direct, 201)?;
            told(subject, "watch", &client.hear()?);
        }
    }
    for (_, client) in clients {
        client.end()?;
    }
    Ok(())
}

fn told(subject: &str, cell: &str, said: &Value) {
    let mut line = said.clone();
    if let Some(members) = line.as_object_mut() {
        members.insert("subject".to_owned(), subject.into());
        members.insert("cell".to_owned(), cell.into());
    }
    println!("{line}");
}
