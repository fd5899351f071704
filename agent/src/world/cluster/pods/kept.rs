//! What is kept of a pod, in memory and on the disk.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use crate::world::cluster::{read_kept, write_whole};
use crate::world::node::is_container_id;

/// What kubelet says of a static pod: the uid that it has on the node. The object that stands for it has another.
/// Source: `k8s.io/kubernetes/pkg/kubelet/types`, `ConfigHashAnnotationKey` and `ConfigMirrorAnnotationKey`.
const HASH: &str = "kubernetes.io/config.hash";
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A file of more bytes is none of ours: a node has some hundred pods, of some hundred bytes each.
const MAX_FILE: u64 = 16 << 20;

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Kept {
    pub(super) uid: String,
    /// What its cgroup is named by.
    pub(super) key: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) service_account: String,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) host_network: bool,
    /// Names by ids: containers', init containers' and ephemeral ones'.
    #[serde(default)]
    pub(super) containers: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    node: String,
    pods: Vec<Kept>,
}

impl Kept {
    /// `None` for a pod of another node, and for what isn't whole.
    pub(super) fn of(pod: &Pod, node: &str) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        if spec.node_name.as_deref() != Some(node) {
            return None;
        }
        let uid = pod.metadata.uid.clone()?;
        Some(Self {
            key: static_uid(pod).unwrap_or_else(|| uid.clone()),
            uid,
            namespace: pod.metadata.namespace.clone()?,
            name: pod.metadata.name.clone()?,
            service_account: spec
                .service_account_name
                .clone()
                .unwrap_or_else(|| "default".to_owned()),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            host_network: spec.host_network.unwrap_or_default(),
            containers: containers(pod),
        })
    }
}

/// What kubelet says of its containers: `containerd://ID`, and the name.
fn containers(pod: &Pod) -> BTreeMap<String, String> {
    let Some(status) = &pod.status else {
        return BTreeMap::new();
    };
    let all = [
        &status.init_container_statuses,
        &status.container_statuses,
        &status.ephemeral_container_statuses,
    ];
    all.into_iter()
        .flatten()
        .flatten()
        .filter_map(|container| {
            let (_, id) = container.container_id.as_deref()?.split_once("://")?;
            is_container_id(id).then(|| (id.to_owned(), container.name.clone()))
        })
        .collect()
}

/// The uid that a static pod has on its node. Anybody who may create pods can write these annotations, so only what can be no other
/// pod's uid counts: uids of objects have dashes, kubelet's hashes have none.
fn static_uid(pod: &Pod) -> Option<String> {
    let annotations = pod.metadata.annotations.as_ref()?;
    let hash = annotations.get(HASH)?;
    let is_hash = hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_mirror = annotations.get(MIRROR) == Some(hash);
    (is_hash && is_mirror).then(|| hash.clone())
}

/// The pods of this node that the file has; none where there is no file, or it is another node's.
pub(super) fn read(file: &Path, node: &str) -> io::Result<Vec<Kept>> {
    let Some(document) = read_kept::<Document>(file, MAX_FILE)? else {
        return Ok(Vec::new());
    };
    Ok(if document.node == node {
        document.pods
    } else {
        Vec::new()
    })
}

/// Puts these in place of what the file has.
pub(super) fn write(file: &Path, node: &str, pods: Vec<Kept>) -> io::Result<()> {
    let document = Document {
        node: node.to_owned(),
        pods,
    };
    write_whole(file, &serde_json::to_vec(&document).map_err(io::Error::other)?)
}
