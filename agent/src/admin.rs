//! The quiet side's HTTP: `/metrics`, `/healthz`, `/readyz`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::proxy::Workers;

/// A scrape reads its headers within this, or is closed.
const HEADER_TIME: Duration = Duration::from_secs(5);

/// Scrapes at once; more wait.
const SCRAPES: usize = 16;

/// A worker silent for longer makes the agent unready.
const SILENT: Duration = Duration::from_secs(2);

/// The server, on a thread of its own.
pub struct Admin {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Listens and serves.
    pub fn start(address: SocketAddr, metrics: Arc<Metrics>, workers: Arc<Workers>) -> Result<Self> {
        let listener = std::net::TcpListener::bind(address)
            .with_context(|| format!("cannot serve metrics on {address}; choose another with --admin"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || runtime.block_on(serve(listener, metrics, workers, stopped)))?;
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
    metrics: Arc<Metrics>,
    workers: Arc<Workers>,
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
        let Ok((stream, _)) = accepted else { continue };
        let (metrics, workers) = (Arc::clone(&metrics), Arc::clone(&workers));
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let answer = answer(&request, &metrics, &workers);
                async move { Ok::<_, Infallible>(answer) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIME)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(slot);
        });
    }
}

fn answer(request: &Request<Incoming>, metrics: &Metrics, workers: &Workers) -> Response<Full<Bytes>> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match metrics.text() {
            Ok(text) => (StatusCode::OK, Bytes::from(text)),
            Err(error) => {
                tracing::error!(%error, "metrics can't be written");
                (StatusCode::INTERNAL_SERVER_ERROR, Bytes::new())
            }
        },
        (&Method::GET, "/healthz") => (StatusCode::OK, Bytes::from_static(b"ok\n")),
        (&Method::GET, "/readyz") => {
            let silence = workers.silence();
            if silence < SILENT {
                (StatusCode::OK, Bytes::from_static(b"ok workers\n"))
            } else {
                let text = format!(
                    "not ready: a worker has been silent for {} ms\n",
                    silence.as_millis()
                );
                (StatusCode::SERVICE_UNAVAILABLE, Bytes::from(text))
            }
        }
        _ => (
            StatusCode::NOT_FOUND,
            Bytes::from_static(b"there are /metrics, /healthz and /readyz\n"),
        ),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
}
