//! Agents whose serving certificates a real cluster signs, and the approver.

use std::io::Read as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};

use crate::running::get;
use crate::{ApiLab, Cluster, Running, bailiff, can_be_root, is_root};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection with TLS.
pub type Encrypted = rustls::StreamOwned<rustls::ClientConnection, std::net::TcpStream>;

/// A namespace whose service account `bailiff-agent` has the rights that `deploy/kustomize/base` gives an agent, and pods behind an agent
/// whose target asks the cluster for its certificate.
#[derive(Debug)]
pub struct Certified {
    /// The pods, the target and the policy.
    pub lab: ApiLab,
    /// The cluster.
    pub cluster: &'static Cluster,
    namespace: String,
}

impl Certified {
    /// In the cluster that all tests share. `None` where the test can't be root.
    pub fn new(namespace: &str, rules: &str) -> Result<Option<Self>> {
        if !can_be_root()? {
            return Ok(None);
        }
        Cluster::shared()?
            .map(|cluster| Self::on(cluster, namespace, rules))
            .transpose()
    }

    /// In a cluster that has what another test would not.
    pub fn on(cluster: &'static Cluster, namespace: &str, rules: &str) -> Result<Self> {
        ensure!(is_root()?, "no cluster without root");
        let lab = ApiLab::on(cluster, namespace, "view", rules)?;
        cluster.apply_base(&["namespace.yaml", "agent-rbac.yaml", "approver-rbac.yaml"])?;
        cluster.kubectl(&["create", "serviceaccount", "-n", namespace, "bailiff-agent"])?;
        let account = format!("--serviceaccount={namespace}:bailiff-agent");
        let binding = format!("bailiff-agent-{namespace}");
        let role = "--clusterrole=bailiff-agent";
        cluster.kubectl(&["create", "clusterrolebinding", &binding, role, &account])?;
        let this = Self {
            lab,
            cluster,
            namespace: namespace.to_owned(),
        };
        this.asks("{}")?;
        Ok(this)
    }

    /// Writes what the target's `csr` holds.
    pub fn asks(&self, csr: &str) -> Result<()> {
        self.target(
            "    client:",
            &format!("    client: {{ mode: Require, csr: {csr} }}"),
        )
    }

    /// Writes another line in place of the target's that begins with this.
    pub fn target(&self, beginning: &str, line: &str) -> Result<()> {
        let target = self.lab.enforced.config().join("target.yaml");
        let text = std::fs::read_to_string(&target)?;
        ensure!(text.contains(beginning), "no {beginning:?} in {text}");
        let text: Vec<&str> = text
            .lines()
            .map(|there| if there.starts_with(beginning) { line } else { there })
            .collect();
        Ok(std::fs::write(target, text.join("\n") + "\n")?)
    }

    /// The service account that asks, as the approver is told.
    #[must_use]
    pub fn requester(&self) -> String {
        format!("{}/bailiff-agent", self.namespace)
    }

    /// A kubeconfig of the agent of a node. Node and pod are objects that no machine stands behind; the token is as kubelet mounts it.
    pub fn agent_of(&self, node: &str) -> Result<PathBuf> {
        self.cluster.apply(
            &json!({
                "apiVersion": "v1", "kind": "List", "items": [
                    {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}},
                    {
                        "apiVersion": "v1", "kind": "Pod",
                        "metadata": {"name": node, "namespace": self.namespace},
                        "spec": {
                            "serviceAccountName": "bailiff-agent", "nodeName": node,
                            "tolerations": [{"operator": "Exists"}],
                            "containers": [{"name": "agent", "image": "none.invalid/none", "imagePullPolicy": "Never"}],
                        },
                    },
                ],
            })
            .to_string(),
        )?;
        let token = self.cluster.token(&self.namespace, "bailiff-agent", Some(node))?;
        self.kubeconfig(node, &token)
    }

    /// A kubeconfig with a token, for a component that speaks with the API server past all agents.
    pub fn kubeconfig(&self, name: &str, token: &str) -> Result<PathBuf> {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "own",
            "clusters": [{"name": "own", "cluster": {
                "server": format!("https://{}", self.cluster.api_server()?), "certificate-authority": self.cluster.ca()?,
            }}],
            "users": [{"name": "own", "user": {"token": token}}],
            "contexts": [{"name": "own", "context": {"cluster": "own", "user": "own"}}],
        });
        let path = self.lab.path(&format!("{name}.own.kubeconfig"));
        std::fs::write(&path, config.to_string())?;
        Ok(path)
    }

    /// The agent of a node, with the sandbox of the pod `agent`.
    pub fn start(&self, node: &str) -> Result<Running> {
        let kubeconfig = self.agent_of(node)?;
        let kubeconfig = kubeconfig.to_str().context("a path that isn't UTF-8")?;
        let options = ["--kubeconfig", kubeconfig, "--pod", "agent"];
        self.lab.enforced.start_with(&options)
    }

    /// Waits until `/readyz` says something; returns the whole answer.
    pub fn until_told(&self, agent: &Running, what: &str) -> Result<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let told = agent.get("/readyz")?;
            if told.contains(what) {
                return Ok(told);
            }
            ensure!(
                Instant::now() < until,
                "never {what:?}, but {told}\n{}",
                agent.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The requests that the agent of a node made, by name.
    pub fn requests(&self, node: &str) -> Result<Vec<String>> {
        let prefix = format!("bailiff-{node}-api-");
        let all = self
            .cluster
            .kubectl(&["get", "csr", "-o", "jsonpath={.items[*].metadata.name}"])?;
        Ok(all
            .split_whitespace()
            .filter(|name| name.starts_with(&prefix))
            .map(str::to_owned)
            .collect())
    }

    /// A CertificateSigningRequest as it stands.
    pub fn request(&self, name: &str) -> Result<Value> {
        let text = self.cluster.kubectl(&["get", "csr", name, "-o", "json"])?;
        Ok(serde_json::from_str(&text)?)
    }

    /// A client in the pod `agent` that dials the Service's address and trusts the cluster's CA. `None` where the handshake fails.
    pub fn connect(&self, agent: &Running, name: &str) -> Result<Option<Encrypted>> {
        let service = self.cluster.service()?;
        let mut socket = agent.dial(&service.ip().to_string(), service.port())?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.cluster.ca()?)?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned())?;
        let mut tls = rustls::ClientConnection::new(Arc::new(config), name)?;
        while tls.is_handshaking() {
            if tls.complete_io(&mut socket).is_err() {
                return Ok(None);
            }
        }
        Ok(Some(rustls::StreamOwned::new(tls, socket)))
    }

    /// The certificate that such a client is shown, in DER. `None` where the handshake fails.
    pub fn shown(&self, agent: &Running, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(connected) = self.connect(agent, name)? else {
            return Ok(None);
        };
        let chain = connected.conn.peer_certificates().context("no certificate")?;
        Ok(chain.first().map(|leaf| leaf.as_ref().to_vec()))
    }

    /// The approver, with the rights that `deploy/kustomize/base` gives it, for this namespace's agents and the addresses of this cluster.
    pub fn approver(&self, options: &[&str]) -> Result<Approver> {
        let token = self.cluster.token("bailiff", "bailiff-approver", None)?;
        let kubeconfig = self.kubeconfig("approver", &token)?;
        let san = self.cluster.api_server()?.ip().to_string();
        Approver::start(&kubeconfig, &self.requester(), &san, options)
    }
}

/// `bailiff approver`. Dropping it ends it.
#[derive(Debug)]
pub struct Approver {
    child: Child,
    admin: std::net::SocketAddr,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Approver {
    /// Starts it for these agents, `NAMESPACE/NAME`, and a further name of the API server; waits until it is ready.
    pub fn start(kubeconfig: &Path, requester: &str, san: &str, options: &[&str]) -> Result<Self> {
        let admin = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut child = Command::new(bailiff()?)
            .arg("approver")
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["--requester", requester, "--san", san])
            .args(["--admin", &admin.to_string()])
            .args(options)
            .stderr(Stdio::piped())
            .spawn()?;
        let mut said = child.stderr.take().context("no log")?;
        let log = Arc::<Mutex<String>>::default();
        let kept = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = said.read(&mut buffer) {
                if let Ok(mut kept) = kept.lock() {
                    kept.push_str(&String::from_utf8_lossy(buffer.get(..read).unwrap_or_default()));
                }
            }
        });
        let this = Self {
            child,
            admin,
            log,
            reader: Some(reader),
        };
        this.wait_for("readiness", || {
            Ok(this
                .get("/readyz")
                .is_ok_and(|told| told.starts_with("HTTP/1.1 200")))
        })?;
        Ok(this)
    }

    /// What its admin server answers, with status and headers.
    pub fn get(&self, path: &str) -> Result<String> {
        get(self.admin, path)
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(mut self) -> Result<ExitStatus> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        Ok(self.child.wait()?)
    }

    /// What it logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().map(|log| log.clone()).unwrap_or_default()
    }

    /// Waits until something holds.
    pub fn wait_for(&self, what: &str, condition: impl Fn() -> Result<bool>) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while !condition()? {
            ensure!(
                Instant::now() < until,
                "the approver, never: {what}\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Approver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
