//! A node without a machine and its agent, for pods by the hundreds that no kubelet starts.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{
    Cluster, ClusterOptions, Reporting, Start, api_policy, api_target, harness_program, metrics_at, sum_of,
};

/// A control plane, a node's agent that enforces by the cluster's objects, and a ConfigMap that its pods may read.
#[derive(Debug)]
pub struct Burst {
    /// The agent.
    pub agent: Reporting,
    /// The cluster.
    pub cluster: Cluster,
    admin: String,
    token: PathBuf,
}

const RULES: &str = "    - name: look
      requests: [{verbs: [get], groups: [\"\"], resources: [configmaps]}]
      action: Allow
";

impl Burst {
    /// The namespace of the pods, and the node's name.
    pub const NAME: &str = "burst";

    /// Starts both. The test has asked [`crate::can_be_root`] before.
    pub fn start() -> Result<Self> {
        let cluster = Cluster::start(&ClusterOptions::default())?;
        cluster.namespace(Self::NAME)?;
        cluster.service_account(Self::NAME, "agent", Some("view"))?;
        cluster.kubectl(&[
            "create",
            "configmap",
            "-n",
            Self::NAME,
            "wanted",
            "--from-literal=a=b",
        ])?;
        cluster.install_crds()?;
        cluster.apply_base(&["namespace.yaml", "agent-rbac.yaml", "nodereports.yaml"])?;
        let keys = cluster.folder().join("jwks.json");
        std::fs::write(&keys, cluster.kubectl(&["get", "--raw", "/openid/v1/jwks"])?)?;
        cluster.apply(&api_target(&cluster, &keys)?)?;
        cluster.apply(&api_policy(RULES))?;
        let token = cluster.folder().join("token");
        std::fs::write(&token, cluster.token(Self::NAME, "agent", None)?)?;
        let admin = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let options = ["--mode", "enforce", "--admin", &admin];
        let agent = Reporting::start_with(&cluster, Self::NAME, None, &options)?;
        let this = Self {
            agent,
            cluster,
            admin,
            token,
        };
        this.until("served", || Ok(metrics_at(&this.admin).is_ok()))?;
        Ok(this)
    }

    /// Makes Pod objects of the node as the scheduler would have left them, by these names; returns their uids by them.
    pub fn pods(&self, names: &[String]) -> Result<BTreeMap<String, String>> {
        let items: Vec<Value> = names
            .iter()
            .map(|name| {
                json!({
                    "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": Self::NAME},
                    "spec": {
                        "serviceAccountName": "agent", "automountServiceAccountToken": false,
                        "nodeName": Self::NAME, "tolerations": [{"operator": "Exists"}],
                        "containers": [{"name": "main", "image": "none.invalid/none", "imagePullPolicy": "Never"}],
                    },
                })
            })
            .collect();
        let list = self.cluster.folder().join("pods.json");
        std::fs::write(
            &list,
            json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string(),
        )?;
        let list = list.to_str().context("a path that isn't UTF-8")?;
        // Each object is printed as it is made.
        let path = "jsonpath={.metadata.name} {.metadata.uid}{'\\n'}";
        let made = self.cluster.kubectl(&["create", "-f", list, "-o", path])?;
        let made: BTreeMap<String, String> = made
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, uid)| (name.to_owned(), uid.to_owned()))
            .collect();
        ensure!(made.len() == names.len(), "{} pods", made.len());
        Ok(made)
    }

    /// What a pod's first process does: it asks for the ConfigMap at once, as the client `start/UID`.
    pub fn command(&self, pod: &Start) -> Result<Command> {
        let mut command = Command::new(harness_program("starter")?);
        command
            .arg(self.cluster.service()?.to_string())
            .arg(format!("start/{}", pod.uid))
            .arg(format!("/api/v1/namespaces/{}/configmaps/wanted", Self::NAME))
            .arg(self.cluster.ca()?)
            .arg(&self.token);
        Ok(command)
    }

    /// All metrics of the agent.
    pub fn metrics(&self) -> Result<String> {
        metrics_at(&self.admin)
    }

    /// The sum over all series of a metric, or one of them by its labels.
    pub fn metric(&self, name: &str) -> Result<u64> {
        sum_of(&self.metrics()?, name)
    }

    /// Waits until something is so.
    pub fn until(&self, what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(300);
        while !is_so()? {
            ensure!(Instant::now() < end, "never {what}: {}", self.agent.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Ends both.
    pub fn stop(self) -> Result<()> {
        ensure!(self.agent.stop()?.success(), "the agent didn't end well");
        self.cluster.stop()
    }
}
