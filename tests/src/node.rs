//! A real node with an agent of its own, and pods that kubelet started.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::running::metric_of;
use crate::{Cluster, Enforced, api, bailiff, check, harness_program, reporting};

/// The agent's port on the node's address.
const ADMIN: u16 = 9464;

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(90);

/// Agents that this process has started.
static STARTED: AtomicUsize = AtomicUsize::new(0);

/// Images that this process has made.
static IMAGES: AtomicUsize = AtomicUsize::new(0);

/// There is one test on the node at a time.
static ONE: Mutex<()> = Mutex::new(());

/// A namespace of a cluster with a node, its pods, and the configuration of the node's agent.
#[derive(Debug)]
pub struct NodeLab {
    /// The cluster.
    pub cluster: &'static Cluster,
    /// The configuration.
    pub enforced: Enforced,
    /// The namespace, which no other test has.
    pub namespace: String,
    pods: Mutex<Vec<Value>>,
    keys: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl NodeLab {
    /// Makes the namespace, with a service account `agent` that has a cluster role there. `rules` are the policy's, each indented by four spaces.
    /// `None` where the test can't be root.
    pub fn new(namespace: &str, role: &str, rules: &str) -> Result<Option<Self>> {
        let alone = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(cluster) = Cluster::shared_with_node()? else {
            return Ok(None);
        };
        cluster.namespace(namespace)?;
        cluster.service_account(namespace, "agent", Some(role))?;
        let keys = tempfile::Builder::new()
            .prefix("node-")
            .tempdir_in(cluster.folder())?;
        let file = keys.path().join("jwks.json");
        std::fs::write(&file, cluster.kubectl(&["get", "--raw", "/openid/v1/jwks"])?)?;
        let enforced = Enforced::with(&[
            ("target.yaml", &api::target(cluster, &file)?),
            ("policy.yaml", &api::policy(rules)),
        ])?;
        let lab = Self {
            cluster,
            enforced,
            namespace: namespace.to_owned(),
            pods: Mutex::default(),
            keys,
            _alone: alone,
        };
        lab.write_inventory()?;
        Ok(Some(lab))
    }

    /// A pod of the service account `agent` that sleeps, in which clients can be run: busybox, and the cluster's programs in /programs.
    /// `listed` is what the inventory says of it; `None`: nothing. Returns its uid.
    pub fn pod(&self, name: &str, listed: Option<&Value>) -> Result<String> {
        self.pod_that(name, listed, &["sleep", "100000"])
    }

    /// The same with another command.
    pub fn pod_that(&self, name: &str, listed: Option<&Value>, command: &[&str]) -> Result<String> {
        let uid = self.begin_pod(name, command)?;
        if let Some(listed) = listed {
            self.list(name, &uid, listed)?;
        }
        self.ready(name)?;
        Ok(uid)
    }

    /// The same, without waiting for it. Returns its uid.
    pub fn begin_pod(&self, name: &str, command: &[&str]) -> Result<String> {
        self.begin_pod_with(name, command, &json!({}))
    }

    /// The same with more in its spec.
    pub fn begin_pod_with(&self, name: &str, command: &[&str], more: &Value) -> Result<String> {
        self.cluster.begin_pod(&self.namespace, name, command, more)
    }

    /// Waits until a pod is ready.
    pub fn ready(&self, name: &str) -> Result<()> {
        self.cluster.pod_is_ready(&self.namespace, name)
    }

    /// Puts a pod into the inventory.
    pub fn list(&self, name: &str, uid: &str, listed: &Value) -> Result<()> {
        let mut pod =
            json!({"name": name, "namespace": self.namespace, "serviceAccount": "agent", "uid": uid});
        if let (Some(pod), Some(more)) = (pod.as_object_mut(), listed.as_object()) {
            pod.extend(more.clone());
        }
        if let Ok(mut pods) = self.pods.lock() {
            pods.push(pod);
        }
        self.write_inventory()
    }

    fn write_inventory(&self) -> Result<()> {
        let pods = self.pods.lock().map(|pods| pods.clone()).unwrap_or_default();
        let all = json!({"apiVersion": "bailiff.dev/v1alpha1", "kind": "Inventory", "metadata": {"name": "node"}, "spec": {"pods": pods}});
        let new = self.keys.path().join("inventory.new");
        std::fs::write(&new, all.to_string())?;
        // Seen whole or not at all; the configuration may be on another file system.
        let beside = self.enforced.config().join("inventory.new");
        std::fs::copy(&new, &beside)?;
        Ok(std::fs::rename(
            beside,
            self.enforced.config().join("inventory.yaml"),
        )?)
    }

    /// Ends all processes of a pod, its sandbox's too: kubelet makes it another sandbox, as after the machine has started again.
    pub fn restart_sandbox(&self, name: &str) -> Result<()> {
        let path = "jsonpath={.metadata.uid}";
        let uid = self
            .cluster
            .kubectl(&["get", "pod", "-n", &self.namespace, name, "-o", path])?;
        let mut folders = vec![self.cluster.node_cgroup()?.join("kubepods")];
        let mut ended = 0;
        while let Some(folder) = folders.pop() {
            let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            folders.extend(entries.map(|entry| entry.path()).filter(|path| path.is_dir()));
            if !folder.to_string_lossy().contains(&uid) {
                continue;
            }
            for pid in std::fs::read_to_string(folder.join("cgroup.procs"))?.lines() {
                // It may have gone with another.
                let _gone = kill(Pid::from_raw(pid.parse()?), Signal::SIGKILL);
                ended += 1;
            }
        }
        ensure!(ended > 0, "{name} has no processes");
        Ok(())
    }

    /// A command inside a pod, by the administrator's exec, which no agent sees.
    pub fn inside(&self, pod: &str, command: &[&str]) -> Result<Command> {
        self.cluster.in_pod(&self.namespace, pod, command)
    }

    /// What such a command says.
    pub fn run(&self, pod: &str, command: &[&str]) -> Result<Output> {
        Ok(self.inside(pod, command)?.stdin(Stdio::null()).output()?)
    }

    /// kubectl inside a pod, with what kubelet mounted there and no configuration.
    pub fn kubectl(&self, pod: &str, args: &[&str]) -> Result<Output> {
        self.run(pod, &[&["/programs/kubectl"], args].concat())
    }

    /// The same at another address, with the token and the CA that kubelet mounted.
    pub fn kubectl_at(&self, pod: &str, server: &str, args: &[&str]) -> Result<Output> {
        let script = "d=/var/run/secrets/kubernetes.io/serviceaccount; s=$1; shift
            exec /programs/kubectl --kubeconfig=/dev/null --server=$s --certificate-authority=$d/ca.crt --token=$(cat $d/token) \
                --namespace=$(cat $d/namespace) \"$@\"";
        self.run(pod, &[&["sh", "-c", script, "sh", server], args].concat())
    }

    /// A kubeconfig of the agents' service account, with the rights of `deploy/kustomize/base/agent-rbac.yaml`, for the API server at this address; by default where it is.
    pub fn credential(&self, server: Option<&str>) -> Result<PathBuf> {
        self.cluster.apply_base(&["namespace.yaml", "agent-rbac.yaml"])?;
        let token = reporting::token(self.cluster, self.cluster.node().context("no node")?)?;
        let server = match server {
            Some(server) => server.to_owned(),
            None => self.cluster.api_server()?.to_string(),
        };
        self.write_credential(&server, &token)
    }

    /// The same with a token that is bound to a pod of another node, which no machine stands behind: as kubelet mounts it, so that
    /// certificates can be asked for by it.
    pub fn bound_credential(&self, node: &str) -> Result<PathBuf> {
        self.cluster.apply_base(&["namespace.yaml", "agent-rbac.yaml"])?;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": node, "namespace": "bailiff"},
            "spec": {
                "serviceAccountName": "bailiff-agent", "nodeName": node, "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "agent", "image": "none.invalid/none", "imagePullPolicy": "Never"}],
            },
        });
        let node_object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}});
        self.cluster.apply(&node_object.to_string())?;
        self.cluster.apply(&pod.to_string())?;
        let token = self.cluster.token("bailiff", "bailiff-agent", Some(node))?;
        self.write_credential(&self.cluster.api_server()?.to_string(), &token)
    }

    fn write_credential(&self, server: &str, token: &str) -> Result<PathBuf> {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "own",
            "clusters": [{"name": "own", "cluster": {
                "server": format!("https://{server}"), "certificate-authority": self.cluster.ca()?,
            }}],
            "users": [{"name": "own", "user": {"token": token}}],
            "contexts": [{"name": "own", "context": {"cluster": "own", "user": "own"}}],
        });
        let path = self.path(&format!("{}.kubeconfig", server.replace(':', "-")));
        std::fs::write(&path, config.to_string())?;
        Ok(path)
    }

    /// A path that goes with the test.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.keys.path().join(name)
    }

    /// Starts the node's agent: in the node's network namespace, in a cgroup of its own beside the pods'.
    pub fn start(&self, options: &[&str]) -> Result<NodeAgent> {
        let config = self
            .enforced
            .config()
            .to_str()
            .context("a path that isn't UTF-8")?;
        self.start_without_config(&[&["--config", config], options].concat())
    }

    /// The same with no Targets and Policies but the cluster's.
    pub fn start_without_config(&self, options: &[&str]) -> Result<NodeAgent> {
        self.start_in(&self.cluster.node_cgroup()?, &[], options)
    }

    /// The same by a command that runs the one that follows, such as `setpriv`, among the pods' cgroups.
    pub fn start_by(&self, command: &[&str], options: &[&str]) -> Result<NodeAgent> {
        self.start_in(&self.cluster.node_cgroup()?.join("kubepods"), command, options)
    }

    /// The same in a cgroup among the pods' own, as an agent that is a pod.
    pub fn start_among_pods(&self, options: &[&str]) -> Result<NodeAgent> {
        self.start_by(&[], options)
    }

    fn start_in(&self, folder: &Path, before: &[&str], options: &[&str]) -> Result<NodeAgent> {
        // Two may run at once, the second to take over from the first.
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let log = self.keys.path().join(format!("agent-{number}.log"));
        let cgroup = folder.join(format!("agent-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&cgroup)?;
        let said = std::fs::File::create(&log)?;
        let admin = format!("{}:{ADMIN}", self.cluster.node_address()?);
        let pins = pins();
        // A shell enters the cgroup: nothing can be done between fork and exec without unsafe code.
        let child = Command::new("sh")
            .args(["-c", "echo 0 >\"$1\" && shift && exec \"$@\"", "sh"])
            .arg(cgroup.join("cgroup.procs"))
            .args([
                "nsenter",
                &format!("--net=/proc/{}/ns/net", self.cluster.node_process()?),
            ])
            .args(before)
            .arg(bailiff()?)
            .args(["node", "--pins", &pins, "--admin", &admin])
            .args(["--revision", &number.to_string(), "--record-dir"])
            .arg(self.enforced.record())
            .arg("--pods-cgroup")
            .arg(self.cluster.node_cgroup()?.join("kubepods"))
            .args(options)
            .env("BAILIFF_LOG", "info")
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said)
            .spawn()?;
        let mut agent = NodeAgent {
            child,
            admin,
            number,
            log,
            cgroup,
        };
        let until = Instant::now() + PATIENCE;
        while !agent.says("/healthz") {
            if let Some(status) = agent.child.try_wait()? {
                anyhow::bail!("the agent didn't start ({status}): {}", agent.log());
            }
            ensure!(Instant::now() < until, "the agent isn't there: {}", agent.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(agent)
    }

    /// Waits until the agent has enrolled a pod: what it asks comes back decided, whatever the answer.
    pub fn until_enrolled(&self, agent: &NodeAgent, pod: &str) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        let script = "nc -w 5 $KUBERNETES_SERVICE_HOST 443 </dev/null";
        while !self.run(pod, &["sh", "-c", script])?.status.success() {
            ensure!(Instant::now() < until, "{pod} isn't enrolled: {}", agent.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// The audit events that the agent recorded, in order.
    pub fn audited(&self) -> Result<Vec<Value>> {
        let mut events = self.enforced.events()?;
        events.retain(|event| event.get("apiVersion").and_then(Value::as_str) == Some("audit.k8s.io/v1"));
        Ok(events)
    }
}

/// Where this process' agents pin what they put into the kernel.
fn pins() -> String {
    format!("/sys/fs/bpf/bailiff-test-node-{}", std::process::id())
}

impl Drop for NodeLab {
    fn drop(&mut self) {
        // Other tests' pods need the room.
        let args = [
            "delete",
            "pods",
            "--all",
            "--now",
            "--wait=false",
            "-n",
            &self.namespace,
        ];
        let _gone = self.cluster.kubectl(&args);
        // What an agent left for the next one, which doesn't come.
        let _gone = std::fs::remove_dir_all(pins());
    }
}

/// The node's agent. Dropping it ends it.
#[derive(Debug)]
pub struct NodeAgent {
    child: Child,
    admin: String,
    number: usize,
    log: PathBuf,
    cgroup: PathBuf,
}

impl NodeAgent {
    /// What its admin server answers, with status and headers.
    pub fn get(&self, path: &str) -> Result<String> {
        crate::running::get(self.admin.parse()?, path)
    }

    /// Whether it says yes to this question itself, and not one before it.
    #[must_use]
    pub fn says(&self, path: &str) -> bool {
        self.get(&format!("{path}?revision={}", self.number))
            .is_ok_and(|said| said.contains(" 200 "))
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Asks it to end.
    pub fn ask_to_end(&self) -> Result<()> {
        Ok(kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            Signal::SIGTERM,
        )?)
    }

    /// All metrics, as served.
    pub fn metrics(&self) -> Result<String> {
        self.get("/metrics")
    }

    /// A metric by its name and labels; 0 where it isn't there yet.
    pub fn metric(&self, name: &str) -> Result<u64> {
        metric_of(&self.metrics()?, name)
    }

    /// What it logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?;
        Ok(self.child.wait()?)
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.end(Signal::SIGTERM)
    }

    /// Kills it, so that what it put into the kernel stays.
    pub fn kill(mut self) -> Result<ExitStatus> {
        self.end(Signal::SIGKILL)
    }
}

impl Drop for NodeAgent {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.end(Signal::SIGTERM);
        }
        let _ = std::fs::remove_dir(&self.cgroup);
    }
}

impl Cluster {
    /// Makes an image of the agent as it was built for the tests, with the libraries that it needs, and puts it on every node: the static one
    /// takes minutes to build.
    pub fn image_of_agent(&self, tag: &str) -> Result<()> {
        let stripped = self.folder().join("agent-stripped");
        check(
            Command::new("strip")
                .args(["--strip-debug", "-o"])
                .arg(&stripped)
                .arg(bailiff()?),
        )?;
        // Under another name each time: a machine of its own may remember what it has read.
        let archive = self
            .folder()
            .join(format!("made-{}.tar", IMAGES.fetch_add(1, Ordering::Relaxed)));
        image(&stripped, tag, &archive, &["--with-libraries"])?;
        for node in self.nodes()? {
            check(node.ctr(&["images", "import"]).arg(&archive))?;
        }
        Ok(())
    }
}

/// Makes the archive of an image of a program as `cargo xtask image` does, with these further options.
pub fn image(program: &Path, tag: &str, archive: &Path, options: &[&str]) -> Result<()> {
    check(
        Command::new(harness_program("xtask")?)
            .args(["image", "--tag", tag, "--binary"])
            .arg(program)
            .arg("--output")
            .arg(archive)
            .args(options),
    )
    .map(drop)
}
