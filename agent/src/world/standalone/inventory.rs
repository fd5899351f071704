//! Which pods there are, from a small file.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use bailiff_model::{Mode, PodInfo, PodUid};
use serde::Deserialize;

/// A pod as the file describes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InventoryPod {
    /// Its name.
    pub name: String,
    /// Its namespace.
    #[serde(default = "default_name")]
    pub namespace: String,
    /// Its service account.
    #[serde(default = "default_name")]
    pub service_account: String,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its container.
    #[serde(default)]
    pub container: Option<String>,
    /// The uid of the Pod object that it stands for; one of its own where it stands for none.
    #[serde(default)]
    pub uid: Option<String>,
    /// Whether its connections go past the agent. Of pods of a node alone: a sandbox is there to be enforced on.
    #[serde(default)]
    pub exempt: bool,
}

fn default_name() -> String {
    "default".to_owned()
}

/// The file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    kind: String,
    #[serde(rename = "metadata", default)]
    _metadata: BTreeMap<String, String>,
    spec: Inventory,
}

/// All of them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Inventory {
    /// The pods.
    pub pods: Vec<InventoryPod>,
}

impl Inventory {
    /// Reads `inventory.yaml` of a directory; none is an empty one.
    pub fn load(directory: &Path) -> Result<Self> {
        let path = directory.join("inventory.yaml");
        if !path.exists() {
            return Ok(Self::default());
        }
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let document: Document = serde_saphyr::from_str(&text)
            .with_context(|| format!("{} is no inventory; see examples/", path.display()))?;
        if document.kind != "Inventory" {
            bail!(
                "{} is of kind {:?}; it must be an Inventory",
                path.display(),
                document.kind
            );
        }
        for pod in &document.spec.pods {
            if !is_name(&pod.name) {
                bail!(
                    "{}: {:?} is no name of a pod: letters, digits, `-` and `.`, at most 253 of them",
                    path.display(),
                    pod.name
                );
            }
        }
        Ok(document.spec)
    }

    /// The pod of a name; without a name the only one, or one made up for the command.
    pub fn pod(&self, name: Option<&str>, command: &OsStr) -> Result<InventoryPod> {
        let names = || {
            self.pods
                .iter()
                .map(|pod| pod.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        match (name, self.pods.as_slice()) {
            (Some(name), pods) => match pods.iter().find(|pod| pod.name == name) {
                Some(pod) if pod.exempt => {
                    bail!("the pod {name:?} is exempt: there is nothing to enforce on it")
                }
                Some(pod) => Ok(pod.clone()),
                None if pods.is_empty() => {
                    bail!("there is no pod {name:?}: the directory has no inventory.yaml")
                }
                None => bail!("there is no pod {name:?}; inventory.yaml has: {}", names()),
            },
            (None, [pod]) => self.pod(Some(&pod.name), command),
            (None, []) => Ok(InventoryPod {
                name: Path::new(command).file_name().map_or_else(
                    || "command".to_owned(),
                    |name| name.to_string_lossy().into_owned(),
                ),
                namespace: default_name(),
                service_account: default_name(),
                labels: BTreeMap::new(),
                container: None,
                uid: None,
                exempt: false,
            }),
            (None, _) => bail!(
                "inventory.yaml has several pods; choose one with --pod: {}",
                names()
            ),
        }
    }
}

/// As in Kubernetes, but for capital letters.
fn is_name(text: &str) -> bool {
    let of_names = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    (1..=253).contains(&text.len()) && text.bytes().all(of_names) && !text.starts_with('.')
}

impl InventoryPod {
    /// The pod as policy sees it.
    #[must_use]
    pub fn info(&self) -> PodInfo {
        PodInfo {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: PodUid::new(self.uid.clone().unwrap_or_else(crate::random_hex)),
            service_account: self.service_account.clone(),
            labels: self.labels.clone(),
            mode: Mode::Enforce,
        }
    }
}
