//! The second act: a coding agent's pod and a real API server.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::{Answer, say};
use crate::cluster::{components, state};
use crate::{lab, shell};

/// Who makes the cluster's tokens.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

pub(super) fn tell(profile: &str) -> Result<()> {
    let play = Play::set_up(profile)?;
    say("A coding agent's pod has kubectl and a token. The cluster itself would let it do anything:");
    play.kubectl("coder", &["auth", "can-i", "*", "*"])?.has("yes")?;

    say(
        "It reads a secret. The value comes masked (examples/demo-kubernetes/policies.yaml), everything else as it is:",
    );
    let answer = play.kubectl(
        "coder",
        &["get", "secret", "db", "-n", "shop", "-o", "jsonpath={.data}"],
    )?;
    // base64 of [masked]
    answer.has("W21hc2tlZF0=")?.lacks(SECRET)?;

    say("It labels the secret, as clients do: read, change, write back. The real value stays:");
    play.kubectl("coder", &["label", "secret", "db", "-n", "shop", "seen-by=coder"])?
        .has("labeled")?;
    play.administrator(&[
        "get",
        "secret",
        "db",
        "-n",
        "shop",
        "-o",
        "jsonpath={.data} {.metadata.labels}",
    ])?
    .has(SECRET)?
    .has("coder")?;

    say("It deletes the namespace. Policy says no, in the API server's own words:");
    play.kubectl("coder", &["delete", "namespace", "shop"])?
        .has("Error from server (Forbidden)")?
        .has("agents delete nothing")?;
    play.administrator(&["get", "namespace", "shop"])?.has("Active")?;

    say("Another pod shows the token that was made for the first. The kernel knows who asks:");
    play.kubectl("other", &["get", "secrets", "-n", "shop"])?
        .has("made for another pod")?
        .has("Forbidden")?;

    Ok(())
}

/// base64 of what the story's secret holds.
const SECRET: &str = "aHVudGVyMg==";

/// What the act needs. Dropped from the top: the files first, the cluster last.
struct Play {
    folder: tempfile::TempDir,
    bailiff: PathBuf,
    cluster: Cluster,
}

/// A control plane in a process of its own, which ends with its input.
struct Cluster {
    child: Child,
    ready: state::Ready,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        lab::end(&mut self.child, Signal::SIGTERM);
    }
}

impl Cluster {
    fn start() -> Result<Self> {
        let folder = shell::root()
            .join("target/cluster")
            .join(format!("demo-{}", std::process::id()));
        let files = state::Files::new(Some(&folder))?;
        let mut child = Command::new(std::env::current_exe()?)
            .args([
                "cluster",
                "serve",
                "--until-end-of-input",
                "--control-plane-only",
                "--state",
            ])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = child.stdout.take().context("no output")?;
        let is_ready = BufReader::new(said)
            .lines()
            .map_while(Result::ok)
            .any(|line| line == "ready");
        let ready = files.ready().filter(|_| is_ready);
        match ready {
            Some(ready) => Ok(Self { child, ready }),
            None => {
                lab::end(&mut child, Signal::SIGTERM);
                anyhow::bail!("the cluster did not start; it says why above")
            }
        }
    }
}

impl Play {
    fn set_up(profile: &str) -> Result<Self> {
        shell::heading("A throw-away control plane");
        let cluster = Cluster::start()?;
        println!(
            "Kubernetes {} at https://{}",
            cluster.ready.version, cluster.ready.service
        );
        // Not in /tmp, of which a sandbox has its own.
        let folder = tempfile::Builder::new()
            .prefix("demo-")
            .tempdir_in(shell::root().join("target"))?;
        let play = Self {
            folder,
            bailiff: shell::root().join("target").join(profile).join("bailiff"),
            cluster,
        };
        for namespace in ["agents", "shop"] {
            play.quietly(&["create", "namespace", namespace])?;
        }
        play.quietly(&["create", "serviceaccount", "-n", "agents", "coder"])?;
        play.quietly(&[
            "create",
            "clusterrolebinding",
            "coder",
            "--clusterrole=cluster-admin",
            "--serviceaccount=agents:coder",
        ])?;
        play.quietly(&[
            "create",
            "secret",
            "generic",
            "db",
            "-n",
            "shop",
            "--from-literal=password=hunter2",
        ])?;
        let mut pods = String::new();
        for pod in ["coder", "other"] {
            let manifest = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod, "namespace": "agents"},
                "spec": {"serviceAccountName": "coder", "containers": [{"name": "main", "image": "none.invalid/none"}]}});
            play.apply(&manifest.to_string())?;
            let uid = play.quietly(&[
                "get",
                "pod",
                pod,
                "-n",
                "agents",
                "-o",
                "jsonpath={.metadata.uid}",
            ])?;
            pods.push_str(&format!(
                "    - {{ name: {pod}, namespace: agents, serviceAccount: coder, uid: {uid} }}\n"
            ));
        }
        play.configure(&pods)?;
        Ok(play)
    }

    fn configure(&self, pods: &str) -> Result<()> {
        let ready = &self.cluster.ready;
        let token = self.quietly(&[
            "create",
            "token",
            "coder",
            "-n",
            "agents",
            "--bound-object-kind=Pod",
            "--bound-object-name=coder",
        ])?;
        let config = self.folder.path().join("config");
        std::fs::create_dir(&config)?;
        let keys = self.folder.path().join("jwks.json");
        std::fs::write(&keys, self.quietly(&["get", "--raw", "/openid/v1/jwks"])?)?;
        let kubeconfig = serde_json::json!({"apiVersion": "v1", "kind": "Config", "current-context": "pod",
            "clusters": [{"name": "pod", "cluster": {"server": format!("https://{}", ready.service), "certificate-authority": ready.ca}}],
            "users": [{"name": "pod", "user": {"token": token}}],
            "contexts": [{"name": "pod", "context": {"cluster": "pod", "user": "pod", "namespace": "shop"}}]});
        std::fs::write(self.folder.path().join("kubeconfig"), kubeconfig.to_string())?;
        let head = "apiVersion: bailiff.dev/v1alpha1\nkind:";
        std::fs::write(
            config.join("inventory.yaml"),
            format!("{head} Inventory\nmetadata: {{ name: demo }}\nspec:\n  pods:\n{pods}"),
        )?;
        let target = format!(
            "{head} Target\nmetadata: {{ name: cluster }}\nspec:\n  protocol: kubernetes\n  endpoints: [\"{}\", \"{}\"]\n  tls:\n    \
             client: {{ mode: Require, caCertificateFile: {ca}, caKeyFile: {} }}\n    upstream: {{ mode: Verify, caFile: {ca}, serverName: kubernetes.default.svc }}\n  \
             identity: {{ issuer: {ISSUER}, audiences: [{ISSUER}], keySetFile: {} }}\n",
            ready.service,
            ready.api_server,
            ready.ca_key.display(),
            keys.display(),
            ca = ready.ca.display(),
        );
        std::fs::write(config.join("target.yaml"), target)?;
        std::fs::copy(
            shell::root().join("examples/demo-kubernetes/policies.yaml"),
            config.join("policies.yaml"),
        )?;
        Ok(())
    }

    /// kubectl in a pod, unchanged.
    fn kubectl(&self, pod: &str, words: &[&str]) -> Result<Answer> {
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let mut command = Command::new(&self.bailiff);
        command.args([
            "run",
            "--config",
            &at("config"),
            "--record-dir",
            &at("record"),
            "--pod",
            pod,
            "--",
        ]);
        command.arg(components::program("kubectl"));
        command.args([
            &format!("--kubeconfig={}", at("kubeconfig")),
            &format!("--cache-dir={}", at("cache")),
            "--request-timeout=30s",
        ]);
        command.args(words);
        println!("\x1b[1m{pod}#\x1b[0m kubectl {}", words.join(" "));
        show(&mut command)
    }

    /// kubectl past the agent, as who may do everything.
    fn administrator(&self, words: &[&str]) -> Result<Answer> {
        println!("\x1b[1m#\x1b[0m kubectl {}", words.join(" "));
        show(
            Command::new(components::program("kubectl"))
                .arg("--kubeconfig")
                .arg(&self.cluster.ready.kubeconfig)
                .args(words),
        )
    }

    fn quietly(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(components::program("kubectl"));
        command
            .arg("--kubeconfig")
            .arg(&self.cluster.ready.kubeconfig)
            .args(words);
        Ok(shell::capture(&mut command)?.trim().to_owned())
    }

    fn apply(&self, manifest: &str) -> Result<()> {
        let mut command = Command::new(components::program("kubectl"));
        command
            .arg("--kubeconfig")
            .arg(&self.cluster.ready.kubeconfig)
            .args(["apply", "-f", "-"]);
        // Every namespace gets its service accounts in a moment, and pods need them.
        lab::wait_for("a pod", std::time::Duration::from_secs(30), || {
            let mut child = command
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            child
                .stdin
                .take()
                .context("no input")?
                .write_all(manifest.as_bytes())?;
            Ok(child.wait()?.success())
        })
    }
}

/// Runs a command that may be refused, and prints what it said.
fn show(command: &mut Command) -> Result<Answer> {
    let output = command.stdin(Stdio::null()).output()?;
    let said = [output.stdout, output.stderr].concat();
    let lines: Vec<String> = String::from_utf8_lossy(&said)
        .lines()
        .map(str::to_owned)
        .collect();
    lines.iter().for_each(|line| println!("{line}"));
    Ok(Answer { lines })
}

/// Builds what the act needs; long the first time.
pub(super) fn prepare() -> Result<()> {
    if components::ensure_built().is_err() {
        say(
            "The second act needs Kubernetes, which is built from its sources: some ten minutes, once. (`--act databases` leaves it out.)",
        );
    }
    crate::cluster::build(false)?;
    ensure!(components::program("kubectl").exists(), "kubectl was not built");
    Ok(())
}
