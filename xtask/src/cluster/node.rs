//! A node: containerd, runc and CNI plugins of the distribution, kubelet and kube-proxy, in namespaces of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::components::program;
use super::control_plane::Component;
use super::hierarchies::Hierarchies;
use super::images;
use super::keys::{Keys, User};
use super::place::{Place, Slot, ip};
use super::state::Files;
use crate::lab::{Beside, wait_for};

/// The only node's name.
pub(crate) const NAME: &str = "node-1";

/// A node that is ready for pods. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Node {
    // Dropped in this order; the first process, which holds the namespaces, is the last of the components.
    pub(crate) components: Vec<Component>,
    _link: Link,
    cgroups: Hierarchies,
    process: u32,
}

impl Node {
    /// Makes the namespaces, starts what a node runs, imports the images, and waits until the API server calls it ready.
    ///
    /// # Errors
    /// When the kernel refuses, a component ends, or the node isn't ready in time.
    pub(crate) fn start(place: &Place, files: &Files, keys: &Keys) -> Result<Self> {
        let slot = place.slot();
        let folder = files.folder().join("node");
        fs::create_dir_all(&folder).with_context(|| format!("{} can't be made", folder.display()))?;
        let cgroups = Hierarchies::make(&slot.name(), place.cgroup())?;
        let mut first = joining(&cgroups.doors());
        // The namespace of cgroups begins where the process is that makes it; its own processes are then beside the pods'.
        first.args([
            "unshare",
            "--cgroup",
            "sh",
            "-c",
            "echo 0 >\"$INIT\"; exec \"$@\"",
            "sh",
        ]);
        first.args(["unshare", "--mount", "--net", "--uts", "--ipc", "sh", "-c", FIRST]);
        first.env("INIT", cgroups.init()).env("STATE", &folder);
        first.env("NAME", NAME).env("CONTROLLERS", cgroups.names());
        let mut this = Self {
            components: Vec::new(),
            _link: Link(slot),
            cgroups,
            process: 0,
        };
        this.add(files, "node", first)?;
        this.wait(files, "the node's file systems", || {
            Ok(folder.join("ready").exists())
        })?;
        let pid = this.components.first().context("no process")?.process.pid();
        this.process = pid;
        let mut doors = this.cgroups.doors();
        doors.pop();
        doors.push(this.cgroups.init());
        let inside = Inside { pid, doors };
        link(slot, &inside)?;
        write_configuration(slot, &folder, keys)?;

        let mut containerd = inside.command("containerd");
        containerd.arg("--config").arg(folder.join("containerd.toml"));
        this.add(files, "containerd", containerd)?;
        this.wait(files, "containerd", || {
            Ok(inside.command("ctr").arg("version").output()?.status.success())
        })?;
        for archive in images::make(&folder)? {
            let archive = archive.display().to_string();
            inside.run(&["ctr", "-n", "k8s.io", "images", "import", &archive])?;
        }
        let user = User {
            file: "kubelet",
            name: format!("system:node:{NAME}"),
            group: Some("system:nodes"),
        };
        let kubeconfig = keys.kubeconfig(&user, slot)?;
        let mut kubelet = inside.command(program("kubelet"));
        kubelet.arg(format!("--config={}", folder.join("kubelet.json").display()));
        kubelet.arg(format!("--kubeconfig={}", kubeconfig.display()));
        kubelet.arg(format!("--hostname-override={NAME}"));
        kubelet.arg(format!("--node-ip={}", slot.node()));
        this.add(files, "kubelet", kubelet)?;
        let mut proxy = inside.command(program("kube-proxy"));
        proxy.arg(format!("--config={}", folder.join("kube-proxy.json").display()));
        this.add(files, "kube-proxy", proxy)?;
        this.wait(files, "the node's readiness", || {
            let said = files
                .kubectl()
                .args(["get", "node", NAME, "-o", READY])
                .output()?;
            Ok(said.stdout == b"True")
        })?;
        Ok(this)
    }

    /// The process that holds its namespaces.
    pub(crate) fn process(&self) -> u32 {
        self.process
    }

    /// Its cgroup of the second version.
    pub(crate) fn cgroup(&self) -> &Path {
        self.cgroups.unified()
    }

    fn add(&mut self, files: &Files, name: &'static str, mut command: Command) -> Result<()> {
        let process = Beside::start(name, &mut command, &files.log(name), Signal::SIGTERM)?;
        self.components.insert(0, Component { name, process });
        Ok(())
    }

    fn wait(&mut self, files: &Files, what: &str, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
        wait_for(what, LIMIT, || {
            self.still_runs(files)?;
            ready()
        })
    }

    /// Fails if a component has ended, with the end of its log.
    ///
    /// # Errors
    /// When one no longer runs.
    pub(crate) fn still_runs(&mut self, files: &Files) -> Result<()> {
        for component in &mut self.components {
            component.process.still_runs(&files.log(component.name))?;
        }
        Ok(())
    }
}

const FIRST: &str = include_str!("node-first.sh");
const READY: &str = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
const LIMIT: Duration = Duration::from_secs(180);

/// A program that enters these cgroups before it begins: a shell does it, since nothing can be done between fork and exec
/// without unsafe code.
fn joining(doors: &[PathBuf]) -> Command {
    let mut command = Command::new("sh");
    let script = "while [ \"$1\" != -- ]; do echo 0 >\"$1\" || exit 1; shift; done; shift; exec \"$@\"";
    command.args(["-c", script, "sh"]).args(doors).arg("--");
    command
}

/// The node's namespaces and cgroups.
struct Inside {
    pid: u32,
    doors: Vec<PathBuf>,
}

impl Inside {
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = joining(&self.doors);
        command.args(["nsenter", "--target", &self.pid.to_string()]);
        command.args(["--mount", "--net", "--uts", "--ipc", "--cgroup", "--wd=/"]);
        command.arg(program).stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Result<()> {
        let (name, rest) = words.split_first().context("no program")?;
        let output = self.command(name).args(rest).output()?;
        ensure!(
            output.status.success(),
            "`{}` in the node: {}",
            words.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}

/// The wire between the machine and the node. The machine reaches pods through it; pods reach the machine, and nothing beyond.
fn link(slot: Slot, inside: &Inside) -> Result<()> {
    let (host, node, link) = (
        slot.node_gateway().to_string(),
        slot.node().to_string(),
        link_name(slot),
    );
    let pid = inside.pid.to_string();
    ip(&[
        "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &pid,
    ])?;
    ip(&["addr", "add", &format!("{host}/30"), "dev", &link])?;
    ip(&["link", "set", &link, "up"])?;
    ip(&["route", "add", &slot.pods(), "via", &node])?;
    inside.run(&["ip", "addr", "add", &format!("{node}/30"), "dev", "eth0"])?;
    inside.run(&["ip", "link", "set", "eth0", "up"])?;
    inside.run(&["ip", "route", "add", "default", "via", &host])
}

fn link_name(slot: Slot) -> String {
    format!("bcluster{}", slot.number())
}

/// Removes the machine's end of the wire of a cluster that was killed.
pub(crate) fn clear(slot: Slot) {
    drop(Link(slot));
}

#[derive(Debug)]
struct Link(Slot);

impl Drop for Link {
    fn drop(&mut self) {
        // It goes with the node's namespace as well, only later.
        let _gone = ip(&["link", "del", &link_name(self.0)]);
    }
}

fn write_configuration(slot: Slot, folder: &Path, keys: &Keys) -> Result<()> {
    keys.server(NAME, &[NAME.to_owned(), slot.node().to_string()])?;
    let user = User {
        file: "kube-proxy",
        name: "system:kube-proxy".to_owned(),
        group: None,
    };
    let proxy = keys.kubeconfig(&user, slot)?;
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("{} can't be written", path.display()))
    };
    let cni = folder.join("cni-conf");
    fs::create_dir_all(&cni).with_context(|| format!("{} can't be made", cni.display()))?;
    write("resolv.conf", "nameserver 127.0.0.1\n")?;
    write("containerd.toml", &containerd(&cni))?;
    write("cni-conf/10-bailiff.conflist", &network(slot).to_string())?;
    write("kubelet.json", &kubelet(folder, keys).to_string())?;
    write("kube-proxy.json", &kube_proxy(slot, &proxy).to_string())
}

/// `restrict_oom_score_adj`: there may be no right to lower a score below the own.
fn containerd(networks: &Path) -> String {
    format!(
        r#"version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"#,
        images::PAUSE,
        networks.display()
    )
}

fn network(slot: Slot) -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "bailiff",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": slot.node_pods()}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

fn kubelet(folder: &Path, keys: &Keys) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": keys.file("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": keys.file(&format!("{NAME}.crt")),
        "tlsPrivateKeyFile": keys.file(&format!("{NAME}.key")),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        // The machine's cgroups are hybrid.
        "failCgroupV1": false,
        "enforceNodeAllocatable": [],
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%"},
        "failSwapOn": false,
        "oomScoreAdj": 0,
        "clusterDomain": "cluster.local",
        "resolvConf": folder.join("resolv.conf"),
        "nodeStatusUpdateFrequency": "1s",
    })
}

fn kube_proxy(slot: Slot, kubeconfig: &Path) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": slot.pods(),
        "hostnameOverride": NAME,
        "clientConnection": {"kubeconfig": kubeconfig},
        // The machine's limits stay as they are.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "oomScoreAdj": 0,
    })
}
