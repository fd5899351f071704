//! What containerd, the CNI plugins, kubelet and kube-proxy of a node are told.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::Options;
use crate::cluster::images;
use crate::cluster::keys::{Keys, User};
use crate::cluster::place::Site;

/// Whose kernel a node runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// This machine's: what is set for all of it stays as it is, and its cgroups are hybrid.
    Shared,
    /// Its own machine's.
    Own,
}

/// Writes it into the node's folder, with the certificate of its kubelet.
///
/// # Errors
/// When a file can't be written.
pub(super) fn write(site: Site, folder: &Path, keys: &Keys, options: &Options, kernel: Kernel) -> Result<()> {
    let (slot, name) = (site.slot(), site.name());
    keys.server(&name, &[name.clone(), site.address().to_string()])?;
    let user = User {
        file: format!("{name}-kube-proxy"),
        name: "system:kube-proxy".to_owned(),
        group: None,
    };
    let proxy = keys.kubeconfig(&user, slot)?;
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("{} can't be written", path.display()))
    };
    let cni = folder.join("cni-conf");
    for made in [&cni, &folder.join(STATIC)] {
        fs::create_dir_all(made).with_context(|| format!("{} can't be made", made.display()))?;
    }
    write("resolv.conf", "nameserver 127.0.0.1\n")?;
    write("containerd.toml", &containerd(&cni, kernel))?;
    write("cni-conf/10-bailiff.conflist", &network(site).to_string())?;
    write(
        "kubelet.json",
        &kubelet(&name, folder, keys, options, kernel).to_string(),
    )?;
    write("kube-proxy.json", &kube_proxy(site, &proxy).to_string())
}

/// `restrict_oom_score_adj`: where the kernel is shared, there may be no right to lower a score below the own.
fn containerd(networks: &Path, kernel: Kernel) -> String {
    let restricted = kernel == Kernel::Shared;
    format!(
        r#"version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{}"
  restrict_oom_score_adj = {restricted}
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

fn network(site: Site) -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "bailiff",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": site.pods()}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

/// The folder of pods that kubelet starts by itself.
const STATIC: &str = "static";

fn kubelet(name: &str, folder: &Path, keys: &Keys, options: &Options, kernel: Kernel) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": keys.file("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": keys.file(&format!("{name}.crt")),
        "tlsPrivateKeyFile": keys.file(&format!("{name}.key")),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": kernel == Kernel::Own,
        "enforceNodeAllocatable": [],
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%"},
        "failSwapOn": false,
        "oomScoreAdj": 0,
        "clusterDomain": "cluster.local",
        "resolvConf": folder.join("resolv.conf"),
        "nodeStatusUpdateFrequency": "1s",
        "maxPods": options.max_pods,
        // Pods of kubelet's own, one a file.
        "staticPodPath": folder.join(STATIC),
    })
}

fn kube_proxy(site: Site, kubeconfig: &Path) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": site.slot().pods(),
        "hostnameOverride": site.name(),
        "clientConnection": {"kubeconfig": kubeconfig},
        // The machine's limits stay as they are.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "oomScoreAdj": 0,
    })
}
