//! A real Prometheus.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::running::{get, metric_of};

/// A metric as it is served at an address; 0 where it isn't there yet.
pub fn metric_at(address: &str, name: &str) -> Result<u64> {
    metric_of(&get(address.parse()?, "/metrics")?, name)
}

/// All metrics, as they are served at an address.
pub fn metrics_at(address: &str) -> Result<String> {
    get(address.parse()?, "/metrics")
}

/// What a Prometheus that scrapes `address` answers to a query: the sum over all series. Waits until it has scraped.
pub fn scraped(address: &str, query: &str) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let config = json!({
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "bailiff", "static_configs": [{"targets": [address]}]}],
    });
    let file = folder.path().join("prometheus.yaml");
    std::fs::write(&file, config.to_string())?;
    let own = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let _prometheus = Ended(
        Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={own}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start prometheus: apt-get install prometheus")?,
    );
    let query: String = format!("sum({query})")
        .bytes()
        .map(|byte| format!("%{byte:02X}"))
        .collect();
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = get(own, &format!("/api/v1/query?query={query}")).unwrap_or_default();
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let found = serde_json::from_str::<Value>(body).ok().and_then(|body| {
            body.pointer("/data/result/0/value/1")?
                .as_str()?
                .parse::<f64>()
                .ok()
        });
        if let Some(found) = found {
            return Ok(found);
        }
        ensure!(Instant::now() < end, "Prometheus has nothing: {answer}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A process that ends with this.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
