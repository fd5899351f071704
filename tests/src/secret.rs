//! A Secret by which it is told what a pod was shown, and the node's agent that takes what it knows from the API server.

use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::masked::{said, text};
use crate::{NodeAgent, NodeLab};

/// The real value, as it stands in the object.
pub const CANARY: &str = "Y2FuYXJ5LXdvcmxkLTQy";
/// What stands there masked.
pub const MASKED: &str = "W21hc2tlZF0=";
/// How kubectl asks for it.
pub const GET: [&str; 5] = ["get", "secret", "db", "-o", "json"];

/// Rules by which it can be read, masked, and no more.
pub const RULES: &str = r#"    - name: discover
      requests: [{verbs: [get], paths: ["*"]}]
      action: Allow
    - name: look
      requests: [{verbs: [get, list, watch], groups: [""], resources: [secrets, configmaps]}]
      action: Allow
  masks:
  - {groups: [""], resources: [secrets], fields: ["data.*"], with: Redact}
"#;

impl NodeLab {
    /// Makes the Secret in the lab's namespace.
    pub fn secret(&self) -> Result<()> {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "data": {"password": CANARY},
            "metadata": {"name": "db", "namespace": self.namespace}});
        self.cluster.apply(&secret.to_string()).map(drop)
    }

    /// The options of an agent that asks the API server at `server`, or the real one, for the node's pods. What it was told is kept below `state` of the
    /// lab's folder.
    pub fn by_cluster(&self, server: Option<&str>) -> Result<Vec<String>> {
        let path = |path: std::path::PathBuf| {
            path.into_os_string()
                .into_string()
                .ok()
                .context("a path that isn't UTF-8")
        };
        let (kubeconfig, state) = (path(self.credential(server)?)?, path(self.path("state"))?);
        let node = self.cluster.node().context("no node")?.to_owned();
        let [of, at, kept] = ["--kubeconfig", "--node", "--state-dir"].map(str::to_owned);
        Ok(vec![of, kubeconfig, at, node, kept, state])
    }
}

impl NodeAgent {
    /// Waits until it is so; if that takes longer than a minute, what it logged is the failure.
    pub fn until(&self, what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(60);
        while !is_so()? {
            ensure!(Instant::now() < end, "not {what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// That it was shown masked.
pub fn masked(output: &Output) -> Result<()> {
    let shown = said(output, "masked")?;
    ensure!(shown.contains(MASKED) && !shown.contains(CANARY), "{shown}");
    Ok(())
}

/// That it was shown as it is.
pub fn unmasked(output: &Output) -> Result<()> {
    let shown = said(output, "unmasked")?;
    ensure!(shown.contains(CANARY) && !shown.contains(MASKED), "{shown}");
    Ok(())
}

/// That the connection was refused.
pub fn refused(output: &Output) -> Result<()> {
    let told = text(&output.stderr);
    ensure!(
        !output.status.success() && told.contains("refused"),
        "{told}{}",
        text(&output.stdout)
    );
    Ok(())
}
