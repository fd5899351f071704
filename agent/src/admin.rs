//! The quiet side's HTTP: `/metrics`, `/healthz`, `/readyz`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;

use crate::addresses::Addresses;
use crate::catalog::Catalogs;
use crate::certificates::{Certificates, Supply};
use crate::metrics::Metrics;
use crate::proxy::Workers;

/// A scrape reads its headers within this, or is closed.
const HEADER_TIME: Duration = Duration::from_secs(5);

/// Scrapes at once; more wait.
const SCRAPES: usize = 16;

/// Bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;

/// How long accepting waits after it failed, so that running out of descriptors doesn't spin.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// A worker silent for longer makes the agent unready.
const SILENT: Duration = Duration::from_secs(2);

/// For how long the quietest worker has been silent.
type Silence = dyn Fn() -> Duration + Send + Sync;

/// What else there is to say.
type Warnings = dyn Fn() -> Told + Send + Sync;

#[derive(Debug, Default)]
struct Told {
    /// Lines about databases that are masked by names.
    masks: Vec<String>,
    /// How certificates that the cluster signs are doing, by their target's name.
    certificates: Vec<(String, Supply)>,
    /// Lines about Services that Targets name.
    addresses: Arc<Vec<String>>,
}

/// Of those, so many are told.
const WARNINGS: usize = 20;

/// What is served.
pub(crate) trait Pages: Send + Sync {
    /// In Prometheus' text format.
    fn metrics(&self) -> Result<Vec<u8>, prometheus::Error>;

    /// Whether it is ready, with a line for each condition.
    fn readiness(&self) -> (bool, String);
}

/// The agent's.
struct OfAgent {
    metrics: Arc<Metrics>,
    silence: Arc<Silence>,
    warnings: Arc<Warnings>,
}

impl Pages for OfAgent {
    fn metrics(&self) -> Result<Vec<u8>, prometheus::Error> {
        self.metrics.text()
    }

    fn readiness(&self) -> (bool, String) {
        readiness(&self.metrics, (self.silence)(), &(self.warnings)())
    }
}

/// What an agent tells.
pub(crate) fn of_agent(
    metrics: Arc<Metrics>,
    workers: Arc<Workers>,
    catalogs: Arc<Catalogs>,
    certificates: Arc<Certificates>,
    addresses: Arc<Addresses>,
) -> Arc<dyn Pages> {
    Arc::new(OfAgent {
        metrics,
        silence: Arc::new(move || workers.silence()),
        warnings: Arc::new(move || Told {
            masks: catalogs.missing(),
            certificates: certificates.supplies(),
            addresses: addresses.lines(),
        }),
    })
}

/// The server, on a thread of its own.
pub struct Admin {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// Where and how health and metrics are served.
#[derive(Debug, Clone)]
pub(crate) struct Serve {
    /// The address; port 0 for any.
    pub(crate) address: SocketAddr,
    /// Whose health it is, where it is asked for by `?revision=`. While an agent is replaced by another, both are asked at one address.
    pub(crate) revision: Option<String>,
    /// For how long the address is tried again while another has it.
    pub(crate) patience: Duration,
}

impl From<SocketAddr> for Serve {
    fn from(address: SocketAddr) -> Self {
        Self {
            address,
            revision: None,
            patience: Duration::ZERO,
        }
    }
}

/// How long passes between two such tries.
const BIND_AGAIN: Duration = Duration::from_millis(50);

fn bind(serve: &Serve) -> Result<std::net::TcpListener> {
    let until = Instant::now() + serve.patience;
    loop {
        match std::net::TcpListener::bind(serve.address) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(BIND_AGAIN);
            }
            bound => {
                return bound.with_context(|| {
                    let address = serve.address;
                    format!("cannot serve metrics on {address}; choose another with --admin")
                });
            }
        }
    }
}

impl Admin {
    /// Listens and serves.
    pub(crate) fn serving(how: &Serve, pages: Arc<dyn Pages>) -> Result<Self> {
        let listener = bind(how)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let revision: Arc<Option<String>> = Arc::new(how.revision.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || runtime.block_on(serve(listener, pages, revision, stopped)))?;
        Ok(Self {
            address,
            stop,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it.
    pub fn stop(mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(
    listener: std::net::TcpListener,
    pages: Arc<dyn Pages>,
    revision: Arc<Option<String>>,
    stop: CancellationToken,
) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "metrics can't be served"),
    };
    let slots = Arc::new(tokio::sync::Semaphore::new(SCRAPES));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_AGAIN).await;
            continue;
        };
        let (pages, revision) = (Arc::clone(&pages), Arc::clone(&revision));
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let answer = answer(&request, &*pages, revision.as_deref());
                async move { Ok::<_, Infallible>(answer) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIME)
                .max_buf_size(HEAD_BYTES)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(slot);
        });
    }
}

fn answer(request: &Request<Incoming>, pages: &dyn Pages, revision: Option<&str>) -> Response<Full<Bytes>> {
    let asked = request
        .uri()
        .query()
        .and_then(|query| query.strip_prefix("revision="));
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/healthz" | "/readyz") if asked.is_some() && asked != revision => (
            StatusCode::SERVICE_UNAVAILABLE,
            Bytes::from_static(b"another revision of the agent serves here\n"),
        ),
        (&Method::GET, "/metrics") => match pages.metrics() {
            Ok(text) => (StatusCode::OK, Bytes::from(text)),
            Err(error) => {
                tracing::error!(%error, "metrics can't be written");
                (StatusCode::INTERNAL_SERVER_ERROR, Bytes::new())
            }
        },
        (&Method::GET, "/healthz") => (StatusCode::OK, Bytes::from_static(b"ok\n")),
        (&Method::GET, "/readyz") => match pages.readiness() {
            (true, text) => (StatusCode::OK, Bytes::from(text)),
            (false, text) => (StatusCode::SERVICE_UNAVAILABLE, Bytes::from(text)),
        },
        _ => (
            StatusCode::NOT_FOUND,
            Bytes::from_static(b"there are /metrics, /healthz and /readyz\n"),
        ),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
}

/// A line for each condition, as Kubernetes' own components write them. One that only warns begins with `[!]`.
fn readiness(metrics: &Metrics, silence: Duration, told: &Told) -> (bool, String) {
    let mut text = String::new();
    let mut ready = true;
    let mut condition = |name: &str, holds: bool, otherwise: &str| {
        ready &= holds;
        text.push_str(&if holds {
            format!("[+]{name} ok\n")
        } else {
            format!("[-]{name} failed: {otherwise}\n")
        });
    };
    let detached = metrics.kernel_detached.get();
    condition(
        "workers",
        silence < SILENT,
        &format!("one has been silent for {} ms", silence.as_millis()),
    );
    condition(
        "kernel",
        detached == 0,
        &format!("{detached} programs are no longer where they were attached; the log names them"),
    );
    condition(
        "record",
        metrics.recorder_failing.get() == 0,
        "it can't be written; the log says why",
    );
    let expired = metrics.certificates_expired.get();
    condition(
        "certificates",
        expired == 0,
        &format!("{expired} have ended; bailiff doctor --config names them"),
    );
    condition(
        "serving",
        metrics.draining.get() == 0,
        "the agent drains and takes no new connections",
    );
    // Whoever replaces an agent by another ends the one before as soon as the next is ready.
    condition(
        "pods",
        !metrics.awaits_pods.load(Ordering::Acquire),
        "those that run here are being enrolled",
    );
    for (target, supply) in &told.certificates {
        let missing = match supply {
            Supply::Missing(why) | Supply::Untrusted(why) => Some(why.as_str()),
            Supply::Good | Supply::Ending(_) => None,
        };
        condition(
            &format!("certificate:{target}"),
            missing.is_none(),
            missing.unwrap_or_default(),
        );
    }
    for (target, supply) in &told.certificates {
        if let Supply::Ending(why) = supply {
            text.push_str(&format!("[!]certificate:{target}: {why}\n"));
        }
    }
    if metrics.tls_files_refused.get() != 0 {
        text.push_str("[!]tls: files of certificates or credentials can't be used, and earlier ones are in force; the log says why\n");
    }
    if metrics.policies_refused.get() != 0 {
        text.push_str(match metrics.partly_in_force.load(Ordering::Acquire) {
            false => "[!]policies: the files are refused, and older ones are in force; the log says why\n",
            true => "[!]policies: some are refused, and everything is denied at the targets that these are about; the log says why\n",
        });
    }
    if metrics.cluster_away.get() != 0 {
        text.push_str("[!]cluster: the API server can't be asked; the pods and policies that were known stay in force\n");
    }
    let unknown = metrics.unknown_pods();
    if unknown != 0 {
        text.push_str(&format!(
            "[!]pods: {unknown} run here of which nobody says who they are; what they ask of targets is refused\n"
        ));
    }
    for (name, lines, more) in [
        ("services", told.addresses.as_slice(), "lines, which the log has"),
        ("masks", told.masks.as_slice(), "databases"),
    ] {
        for line in lines.iter().take(WARNINGS) {
            text.push_str(&format!("[!]{name}: {line}\n"));
        }
        if lines.len() > WARNINGS {
            text.push_str(&format!(
                "[!]{name}: and {} more {more}\n",
                lines.len() - WARNINGS
            ));
        }
    }
    (ready, text)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::sync::atomic::AtomicU64;

    use bailiff_model::{Effect, Protocol, SqlEffect};

    use super::*;
    use crate::metrics::PodState;

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        // A server that refuses a long head may reset; what it said before counts.
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    #[test]
    fn metrics_health_and_readiness_are_served_over_http() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let seconds = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&seconds);
        let admin = Admin::serving(
            &SocketAddr::from(([127, 0, 0, 1], 0)).into(),
            Arc::new(OfAgent {
                metrics: Arc::clone(&metrics),
                silence: Arc::new(move || Duration::from_secs(told.load(Ordering::Relaxed))),
                warnings: Arc::new(|| Told {
                    masks: vec!["database \"a\": by names (coarser): so".to_owned()],
                    certificates: vec![
                        ("api".to_owned(), Supply::Good),
                        ("east".to_owned(), Supply::Ending("it ends in 9 s".to_owned())),
                    ],
                    addresses: Arc::new(vec!["target db, service shop/pg: so".to_owned(); WARNINGS + 2]),
                }),
            }),
        )
        .unwrap();
        let get = |path: &str| {
            ask(
                admin.address(),
                &format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"),
            )
        };

        let denied = metrics
            .operation(Protocol::Postgres, SqlEffect::Drop, Effect::Deny)
            .unwrap();
        denied.inc();
        metrics.kernel("redirected", 5);
        metrics.kernel("redirected", 7);
        let text = get("/metrics");
        for line in [
            "bailiff_operations_total{effect=\"drop\",protocol=\"postgres\",verdict=\"deny\"} 1\n",
            "bailiff_operations_total{effect=\"drop\",protocol=\"postgres\",verdict=\"allow\"} 0\n",
            "bailiff_kernel_events_total{event=\"redirected\"} 7\n",
            "bailiff_recorder_queue_bytes 0\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }

        assert!(get("/healthz").starts_with("HTTP/1.1 200"));
        let warned = get("/readyz");
        assert!(
            warned.starts_with("HTTP/1.1 200") && warned.contains("[!]masks: database \"a\": by names"),
            "{warned}"
        );
        assert!(
            warned.contains(
                "[+]certificate:api ok\n[+]certificate:east ok\n[!]certificate:east: it ends in 9 s\n"
            ),
            "{warned}"
        );
        assert!(
            warned.contains("[!]services: target db, service shop/pg: so\n[!]services: and 2 more lines"),
            "{warned}"
        );
        for (gauge, told) in [
            (&metrics.kernel_detached, "[-]kernel failed: 1 programs"),
            (&metrics.recorder_failing, "[-]record failed"),
            (&metrics.draining, "[-]serving failed"),
        ] {
            gauge.set(1);
            let unready = get("/readyz");
            assert!(
                unready.starts_with("HTTP/1.1 503") && unready.contains(told),
                "{unready}"
            );
            gauge.set(0);
        }
        metrics.policies_refused.set(1);
        let warned = get("/readyz");
        assert!(
            warned.starts_with("HTTP/1.1 200") && warned.contains("[!]policies"),
            "{warned}"
        );
        metrics.cluster_away.set(1);
        metrics.pods(&[PodState::Enforced, PodState::Unknown, PodState::Unknown]);
        let warned = get("/readyz");
        assert!(
            warned.starts_with("HTTP/1.1 200")
                && warned.contains("[!]cluster")
                && warned.contains("[!]pods: 2 run"),
            "{warned}"
        );
        seconds.store(3, Ordering::Relaxed);
        let unready = get("/readyz");
        assert!(unready.starts_with("HTTP/1.1 503"), "{unready}");
        assert!(unready.contains("silent for 3000 ms"), "{unready}");
        assert!(get("/healthz").starts_with("HTTP/1.1 200"));
        assert!(get("/other").starts_with("HTTP/1.1 404"));
        assert!(
            ask(admin.address(), "POST /metrics HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("HTTP/1.1 404")
        );
        let long = ask(
            admin.address(),
            &format!("GET /healthz HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(64 * 1024)),
        );
        assert!(!long.starts_with("HTTP/1.1 200"), "{long}");
        admin.stop();
    }

    #[test]
    fn scrapes_that_say_nothing_are_closed_and_others_wait_for_them() {
        let silence: Arc<Silence> = Arc::new(|| Duration::ZERO);
        let metrics = Arc::new(Metrics::new().unwrap());
        let admin = Admin::serving(
            &SocketAddr::from(([127, 0, 0, 1], 0)).into(),
            Arc::new(OfAgent {
                metrics,
                silence,
                warnings: Arc::new(Told::default),
            }),
        )
        .unwrap();
        let mut silent: Vec<_> = (0..SCRAPES)
            .map(|_| std::net::TcpStream::connect(admin.address()).unwrap())
            .collect();
        // Each of them got its place, since places are given in order; none is left.
        let mut next = std::net::TcpStream::connect(admin.address()).unwrap();
        next.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        next.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        assert!(next.read(&mut [0]).is_err(), "there were more places than said");
        next.set_read_timeout(None).unwrap();
        let mut answer = String::new();
        next.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        for stream in &mut silent {
            let mut told = Vec::new();
            let _ = stream.read_to_end(&mut told); // To the end: it was closed.
        }
        admin.stop();
    }

    #[test]
    fn an_address_is_tried_again_and_health_of_another_revision_is_not_told() {
        let pages = || -> Arc<dyn Pages> {
            Arc::new(OfAgent {
                metrics: Arc::new(Metrics::new().unwrap()),
                silence: Arc::new(|| Duration::ZERO),
                warnings: Arc::new(Told::default),
            })
        };
        let serve = |address, revision: &str| Serve {
            address,
            revision: Some(revision.to_owned()),
            patience: Duration::from_secs(60),
        };
        let first = Admin::serving(&serve(([127, 0, 0, 1], 0).into(), "1"), pages()).unwrap();
        let address = first.address();
        let healthy =
            |path: &str| ask(address, &format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).contains(" 200 ");
        assert!(healthy("/readyz?revision=1") && healthy("/healthz") && !healthy("/healthz?revision=2"));
        let next = std::thread::spawn(move || Admin::serving(&serve(address, "2"), pages()));
        std::thread::sleep(Duration::from_millis(200));
        first.stop();
        let next = next.join().unwrap().unwrap();
        assert_eq!(next.address(), address);
        assert!(healthy("/healthz?revision=2") && !healthy("/readyz?revision=1"));
        next.stop();
    }
}
