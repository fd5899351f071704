//! A real Kubernetes API behind an agent: pods of a namespace that speak with it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::masked::said;
use crate::{Cluster, Enforced};

/// Who makes the cluster's tokens.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A namespace with pods `agent` and `other`, both of the service account `agent`, and a policy for what they ask the API server.
#[derive(Debug)]
pub struct ApiLab {
    /// The cluster.
    pub cluster: &'static Cluster,
    /// The configuration.
    pub enforced: Enforced,
    /// The namespace, which no other test has.
    pub namespace: String,
    folder: tempfile::TempDir,
}

impl ApiLab {
    /// Makes the namespace. `role` is what the cluster itself lets the service account do; `rules` are the policy's, each indented by
    /// four spaces. `None` where the test can't be root.
    pub fn new(namespace: &str, role: &str, rules: &str) -> Result<Option<Self>> {
        match Cluster::shared()? {
            Some(cluster) => Self::on(cluster, namespace, role, rules).map(Some),
            None => Ok(None),
        }
    }

    /// The same in a cluster with a node, on which pods run.
    pub fn with_node(namespace: &str, role: &str, rules: &str) -> Result<Option<Self>> {
        match Cluster::shared_with_node()? {
            Some(cluster) => Self::on(cluster, namespace, role, rules).map(Some),
            None => Ok(None),
        }
    }

    /// The same in a cluster that has what another test would not.
    pub fn on(cluster: &'static Cluster, namespace: &str, role: &str, rules: &str) -> Result<Self> {
        cluster.namespace(namespace)?;
        cluster.service_account(namespace, "agent", Some(role))?;
        let folder = tempfile::Builder::new()
            .prefix("api-")
            // A sandbox has a /tmp of its own.
            .tempdir_in(cluster.folder())?;
        let keys = folder.path().join("jwks.json");
        std::fs::write(&keys, cluster.kubectl(&["get", "--raw", "/openid/v1/jwks"])?)?;
        let mut pods = String::new();
        for pod in ["agent", "other"] {
            let uid = cluster.pod(namespace, pod, "agent")?;
            pods.push_str(&format!(
                "    - {{ name: {pod}, namespace: {namespace}, serviceAccount: agent, uid: {uid} }}\n"
            ));
        }
        let inventory = format!(
            "apiVersion: bailiff.dev/v1alpha1\nkind: Inventory\nmetadata: {{ name: api }}\nspec:\n  pods:\n{pods}"
        );
        let target = target(cluster, &keys)?;
        let policy = policy(rules);
        let enforced = Enforced::with(&[
            ("inventory.yaml", &inventory),
            ("target.yaml", &target),
            ("policy.yaml", &policy),
        ])?;
        let lab = Self {
            cluster,
            enforced,
            namespace: namespace.to_owned(),
            folder,
        };
        lab.write_kubeconfig("agent", "agent")?;
        Ok(lab)
    }

    /// Writes a kubeconfig with a token that is made for a pod; returns where. The address is the one that pods dial.
    pub fn write_kubeconfig(&self, name: &str, pod: &str) -> Result<PathBuf> {
        let token = self.cluster.token(&self.namespace, "agent", Some(pod))?;
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "pod",
            "clusters": [{"name": "pod", "cluster": {
                "server": format!("https://{}", self.cluster.service()?), "certificate-authority": self.cluster.ca()?,
            }}],
            "users": [{"name": "pod", "user": {"token": token}}],
            "contexts": [{"name": "pod", "context": {"cluster": "pod", "user": "pod", "namespace": self.namespace}}],
        });
        let path = self.path(&format!("{name}.kubeconfig"));
        std::fs::write(&path, config.to_string())?;
        std::fs::write(self.path(&format!("{name}.token")), token)?;
        Ok(path)
    }

    /// A file beside the kubeconfigs.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The pod's token, where its kubeconfig has one of this name.
    pub fn token(&self, name: &str) -> Result<String> {
        Ok(std::fs::read_to_string(self.path(&format!("{name}.token")))?)
    }

    /// kubectl in a pod, with the kubeconfig of a name.
    pub fn kubectl_in(&self, pod: &str, kubeconfig: &str, args: &[&str]) -> Result<Command> {
        let kubectl = self.cluster.programs()?.join("kubectl");
        let kubectl = kubectl.to_str().context("a path that isn't UTF-8")?;
        // By options: a sandbox's command gets little of the environment.
        let config = format!(
            "--kubeconfig={}",
            self.path(&format!("{kubeconfig}.kubeconfig")).display()
        );
        let cache = format!("--cache-dir={}", self.path("cache-enforced").display());
        let command = [&[kubectl, &config, &cache], args].concat();
        self.enforced.run_with(&["--pod", pod], &command)
    }

    /// kubectl in the pod `agent`.
    pub fn kubectl(&self, args: &[&str]) -> Result<Output> {
        Ok(self.kubectl_in("agent", "agent", args)?.output()?)
    }

    /// The same past the agent.
    pub fn kubectl_direct(&self, args: &[&str]) -> Result<Output> {
        let mut run = Command::new(self.cluster.programs()?.join("kubectl"));
        run.args(args);
        run.env("KUBECONFIG", self.path("agent.kubeconfig"));
        run.env("KUBECACHEDIR", self.path("cache-direct"));
        Ok(run.output()?)
    }

    /// curl's options for a path of the API server, as the pod has them.
    pub fn curl(&self, options: &[&str], path: &str) -> Result<Vec<String>> {
        let mut all: Vec<String> = ["curl", "-sS", "--path-as-is", "--max-time", "60", "--cacert"]
            .map(str::to_owned)
            .to_vec();
        all.push(self.cluster.ca()?.display().to_string());
        all.push("-H".to_owned());
        all.push(format!("Authorization: Bearer {}", self.token("agent")?));
        all.extend(options.iter().map(|option| (*option).to_owned()));
        all.push(format!("https://{}{path}", self.cluster.service()?));
        Ok(all)
    }

    /// curl in a pod, with the token of the pod `agent`.
    pub fn curl_in(&self, pod: &str, options: &[&str], path: &str) -> Result<Output> {
        let command = self.curl(options, path)?;
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        Ok(self.enforced.run_with(&["--pod", pod], &command)?.output()?)
    }

    /// Sends a file as a body out of the pod `agent`; returns the answer with its code on a line behind it.
    pub fn send(&self, method: &str, media: &str, body: &Path, path: &str) -> Result<String> {
        let data = format!("@{}", body.display());
        let media = format!("Content-Type: {media}");
        let words = [
            "--http1.1",
            "-X",
            method,
            "-H",
            &media,
            "--data-binary",
            &data,
            "-w",
            "\n%{http_code}",
        ];
        said(&self.curl_in("agent", &words, path)?, path)
    }

    /// The same past the agent.
    pub fn curl_direct(&self, options: &[&str], path: &str) -> Result<Output> {
        let command = self.curl(options, path)?;
        let (program, args) = command.split_first().context("no program")?;
        Ok(Command::new(program).args(args).output()?)
    }

    /// The audit events that the agent recorded, in order.
    pub fn audited(&self) -> Result<Vec<Value>> {
        let mut events = self.enforced.events()?;
        events.retain(|event| event.get("apiVersion").and_then(Value::as_str) == Some("audit.k8s.io/v1"));
        ensure!(
            events
                .iter()
                .all(|event| event.get("kind").and_then(Value::as_str) == Some("Event")),
            "{events:#?}"
        );
        Ok(events)
    }
}

/// The API server as a Target `api`, with certificates of the cluster's CA.
pub fn target(cluster: &Cluster, keys: &std::path::Path) -> Result<String> {
    Ok(format!(
        "apiVersion: bailiff.dev/v1alpha1\nkind: Target\nmetadata: {{ name: api }}\nspec:\n  protocol: kubernetes\n  \
         endpoints: [\"{}\", \"{}\"]\n  tls:\n    client: {{ mode: Require, caCertificateFile: {ca}, caKeyFile: {} }}\n    \
         upstream: {{ mode: Verify, caFile: {ca}, serverName: kubernetes.default.svc }}\n  identity:\n    issuer: {ISSUER}\n    \
         audiences: [{ISSUER}]\n    keySetFile: {}\n",
        cluster.service()?,
        cluster.api_server()?,
        cluster.ca_key()?.display(),
        keys.display(),
        ca = cluster.ca()?.display(),
    ))
}

/// A Policy for it with these rules, each indented by four spaces.
pub fn policy(rules: &str) -> String {
    format!(
        "apiVersion: bailiff.dev/v1alpha1\nkind: Policy\nmetadata: {{ name: agents }}\nspec:\n  targets: [api]\n  rules:\n{rules}"
    )
}
