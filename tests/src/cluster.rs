//! A real Kubernetes: etcd, the API server and the controllers, as `cargo xtask cluster` starts them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{can_be_root, check, harness_program};

/// A cluster of its own, on addresses that no other one has. Dropping it ends it, and so does the end of this process.
#[derive(Debug)]
pub struct Cluster {
    child: Child,
    folder: PathBuf,
    told: Value,
}

/// What a cluster is started with.
#[derive(Debug, Clone, Default)]
pub struct ClusterOptions {
    /// How many nodes it has, on which pods run: containerd, kubelet and kube-proxy.
    pub nodes: u8,
    /// Archives of images to put on each.
    pub images: Vec<PathBuf>,
    /// How many pods kubelet runs on each; its own default if none is given.
    pub max_pods: Option<u16>,
    /// Whether the test ends some of its components, and so no harm is told by that.
    pub components_may_end: bool,
    /// Further flags of the API server.
    pub api_server_flags: Vec<String>,
    /// Further flags of the controllers.
    pub controllers_flags: Vec<String>,
}

/// Where this is set, a cluster's only node is in an emulated machine with this kernel: `cargo xtask test --vm` sets it.
const NODE_KERNEL: &str = "BAILIFF_TEST_NODE_KERNEL";

impl Cluster {
    /// A control plane that all tests of this process share; started at the first call. `None` where the test can't be root.
    /// Tests use namespaces of their own, so as not to see each other's objects.
    pub fn shared() -> Result<Option<&'static Self>> {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        Self::shared_as(&SHARED, &ClusterOptions::default())
    }

    /// The same with a node, on which pods run.
    pub fn shared_with_node() -> Result<Option<&'static Self>> {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        let options = ClusterOptions {
            nodes: 1,
            ..ClusterOptions::default()
        };
        Self::shared_as(&SHARED, &options)
    }

    fn shared_as(shared: &'static OnceLock<Self>, options: &ClusterOptions) -> Result<Option<&'static Self>> {
        static STARTING: Mutex<()> = Mutex::new(());
        if !can_be_root()? {
            return Ok(None);
        }
        let _one_at_a_time = STARTING.lock();
        if shared.get().is_none() {
            let _ = shared.set(Self::start(options)?);
        }
        Ok(shared.get())
    }

    /// One for this test alone. The test has asked [`can_be_root`] before.
    pub fn start(options: &ClusterOptions) -> Result<Self> {
        static STARTED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = STARTED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../target/cluster")
            .join(format!("test-{}-{number}", std::process::id()));
        let mut command = Command::new(harness_program("xtask")?);
        command.args(["cluster", "serve", "--until-end-of-input", "--state"]);
        command.arg(&folder);
        // Whoever asks for one node may get one in a machine of its own.
        let kernel = std::env::var(NODE_KERNEL).ok().filter(|_| options.nodes == 1);
        match &kernel {
            Some(kernel) => command.arg(format!("--vm={kernel}")),
            None => command.arg(format!("--nodes={}", options.nodes)),
        };
        for image in &options.images {
            command.arg("--image").arg(image);
        }
        command.args(options.max_pods.map(|most| format!("--max-pods={most}")));
        if options.components_may_end {
            command.arg("--components-may-end");
        }
        for (name, values) in [
            ("--api-server-flag", &options.api_server_flags),
            ("--controllers-flag", &options.controllers_flags),
        ] {
            command.args(values.iter().map(|value| format!("{name}={value}")));
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // It ends by itself when this process does, in order; not with this process's group.
            .process_group(0)
            .spawn()?;
        let stdout = child.stdout.take().context("no output")?;
        let ready = BufReader::new(stdout)
            .lines()
            .map_while(std::result::Result::ok)
            .any(|line| line == "ready");
        if !ready {
            let mut said = String::new();
            if let Some(mut stderr) = child.stderr.take() {
                stderr.read_to_string(&mut said)?;
            }
            child.wait()?;
            bail!("no cluster: {}", said.trim());
        }
        let told = std::fs::read_to_string(folder.join("cluster.json"))?;
        let this = Self {
            child,
            folder: folder.canonicalize()?,
            told: serde_json::from_str(&told)?,
        };
        if kernel.is_some() {
            this.open_door()?;
        }
        Ok(this)
    }

    pub(crate) fn about(&self, name: &str) -> Result<&Value> {
        self.told
            .get(name)
            .with_context(|| format!("cluster.json says no {name}"))
    }

    fn told(&self, name: &str) -> Result<&str> {
        self.told
            .get(name)
            .and_then(Value::as_str)
            .with_context(|| format!("cluster.json says no {name}"))
    }

    /// Where the API server listens. It is on this machine's loopback interface, and sandboxes reach it.
    pub fn api_server(&self) -> Result<SocketAddr> {
        Ok(self.told("apiServer")?.parse()?)
    }

    /// The address of `kubernetes.default.svc`, as pods dial it. It leads to the API server.
    pub fn service(&self) -> Result<SocketAddr> {
        Ok(self.told("service")?.parse()?)
    }

    /// The release, such as `v1.34.4`.
    pub fn version(&self) -> Result<&str> {
        self.told("version")
    }

    /// A kubeconfig of an administrator.
    pub fn kubeconfig(&self) -> Result<&Path> {
        self.told("kubeconfig").map(Path::new)
    }

    /// The certificate of the CA that signed everything, as PEM: the one in each namespace's `kube-root-ca.crt`.
    pub fn ca(&self) -> Result<&Path> {
        self.told("ca").map(Path::new)
    }

    /// The CA's key, as PEM.
    pub fn ca_key(&self) -> Result<&Path> {
        self.told("caKey").map(Path::new)
    }

    /// The folder with `kubectl`.
    pub fn programs(&self) -> Result<&Path> {
        self.told("programs").map(Path::new)
    }

    /// The first node's name, where there is one.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.told.pointer("/nodes/0/name").and_then(Value::as_str)
    }

    /// Where its files and logs are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// kubectl as an administrator.
    pub fn kubectl_command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(self.programs()?.join("kubectl"));
        command.env("KUBECONFIG", self.kubeconfig()?);
        // Another cluster may have been at this address.
        command.env("KUBECACHEDIR", self.folder.join("kubectl-cache"));
        command.args(args);
        Ok(command)
    }

    /// Runs kubectl as an administrator, and returns what it printed.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        let output = check(&mut self.kubectl_command(args)?)?;
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    }

    /// Creates or changes what these manifests say.
    pub fn apply(&self, manifests: &str) -> Result<String> {
        let mut child = self
            .kubectl_command(&["apply", "-f", "-"])?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child
            .stdin
            .take()
            .context("no input")?
            .write_all(manifests.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success(),
            "kubectl apply: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Puts the CRDs of `deploy/chart/files/crds` there and waits until they are served. Returns what kubectl had to warn of.
    pub fn install_crds(&self) -> Result<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/chart/files/crds");
        let mut apply = self.kubectl_command(&["apply", "--validate=strict", "-f"])?;
        let applied = apply.arg(folder).output()?;
        let warned = String::from_utf8_lossy(&applied.stderr).into_owned();
        ensure!(applied.status.success(), "{warned}");
        self.kubectl(&[
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "crd/targets.bailiff.dev",
            "crd/policies.bailiff.dev",
            "crd/nodereports.bailiff.dev",
        ])?;
        Ok(warned)
    }

    /// Creates or changes what these files of `deploy/kustomize/base` say.
    pub fn apply_base(&self, files: &[&str]) -> Result<()> {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kustomize/base");
        for file in files {
            self.apply(&std::fs::read_to_string(base.join(file))?)?;
        }
        Ok(())
    }

    /// helm as an administrator.
    pub fn helm_command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(self.programs()?.join("helm"));
        command.env("KUBECONFIG", self.kubeconfig()?);
        for (variable, folder) in [
            ("HELM_CACHE_HOME", "helm-cache"),
            ("HELM_CONFIG_HOME", "helm-config"),
            ("HELM_DATA_HOME", "helm-data"),
        ] {
            command.env(variable, self.folder.join(folder));
        }
        command.args(args);
        Ok(command)
    }

    /// Makes a namespace, and waits until it has its service account and the CA's certificate.
    pub fn namespace(&self, name: &str) -> Result<()> {
        self.kubectl(&["create", "namespace", name])?;
        for made in ["serviceaccount/default", "configmap/kube-root-ca.crt"] {
            self.kubectl(&["wait", "--for=create", "--timeout=60s", "-n", name, made])?;
        }
        Ok(())
    }

    /// Makes a service account that may do what a cluster role says, in its own namespace: `view`, `edit`, `admin`.
    pub fn service_account(&self, namespace: &str, name: &str, role: Option<&str>) -> Result<()> {
        self.kubectl(&["create", "serviceaccount", "-n", namespace, name])?;
        if let Some(role) = role {
            let (role, account) = (
                format!("--clusterrole={role}"),
                format!("--serviceaccount={namespace}:{name}"),
            );
            self.kubectl(&["create", "rolebinding", "-n", namespace, name, &role, &account])?;
        }
        Ok(())
    }

    /// A serving certificate of the cluster's CA for a name, with its key.
    pub fn certificate(&self, name: &str) -> Result<(rcgen::Certificate, rcgen::KeyPair)> {
        let signer = rcgen::Issuer::from_ca_cert_pem(
            &std::fs::read_to_string(self.ca()?)?,
            rcgen::KeyPair::from_pem(&std::fs::read_to_string(self.ca_key()?)?)?,
        )?;
        let key = rcgen::KeyPair::generate()?;
        let certificate = rcgen::CertificateParams::new([name.to_owned()])?.signed_by(&key, &signer)?;
        Ok((certificate, key))
    }

    /// A Pod object, which stays pending where there is no node; returns its uid. A sandbox can stand for it.
    pub fn pod(&self, namespace: &str, name: &str, service_account: &str) -> Result<String> {
        let manifest = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name},
            "spec": {
                "serviceAccountName": service_account,
                "containers": [{"name": "main", "image": "none.invalid/none", "imagePullPolicy": "Never"}],
            },
        });
        self.apply(&manifest.to_string())?;
        let path = "jsonpath={.metadata.uid}";
        self.kubectl(&["get", "pod", "-n", namespace, name, "-o", path])
    }

    /// A token of a service account, bound to a pod where one is named.
    pub fn token(&self, namespace: &str, name: &str, pod: Option<&str>) -> Result<String> {
        let mut args = vec!["create", "token", "-n", namespace, name];
        if let Some(pod) = pod {
            args.extend(["--bound-object-kind=Pod", "--bound-object-name", pod]);
        }
        self.kubectl(&args)
    }

    /// What the API server audited so far: an `audit.k8s.io/v1` Event for each stage but RequestReceived, level Metadata.
    pub fn audit(&self) -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(self.told("auditLog")?)?;
        // The last line may be on its way.
        let whole = text
            .rfind('\n')
            .map_or("", |end| text.get(..end).unwrap_or_default());
        Ok(whole
            .lines()
            .map(serde_json::from_str)
            .collect::<std::result::Result<_, _>>()?)
    }

    /// Waits for an audited event; it comes just after the response.
    pub fn audited(&self, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(event) = self.audit()?.into_iter().find(&is) {
                return Ok(event);
            }
            ensure!(Instant::now() < until, "never audited: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The server's own event of a request that the agent recorded: they have the same id.
    pub fn audited_too(&self, event: &Value) -> Result<Value> {
        let id = event.get("auditID").and_then(Value::as_str).context("no id")?;
        self.audited(id, |other| {
            other.get("auditID").and_then(Value::as_str) == Some(id)
                && other.get("stage").and_then(Value::as_str) == Some("ResponseComplete")
        })
    }

    /// Ends it, and waits until nothing of it is left; fails if a component had ended before.
    pub fn stop(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        let mut said = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut said)?;
        }
        ensure!(
            status.success() && said.is_empty(),
            "the cluster: {status}: {said}"
        );
        ensure!(!self.folder.exists(), "{} is left", self.folder.display());
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
