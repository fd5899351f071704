//! What runs in pods that a request makes or changes: in pods themselves, and in the templates of the built-in kinds.
//!
//! Source: `k8s.io/api/core/v1`, `PodSpec` and `VolumeSource`, of Kubernetes 1.34. A member that these don't have may be one of a newer
//! server: where it could name a secret, nothing is told.

use bailiff_model::ApiResource;
use serde_json::{Map, Value};

use super::{BodyForm, operations};

type Members = Map<String, Value>;

/// What a body says of pods.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pods {
    /// Whether it says anything of them. A patch of labels doesn't.
    pub(crate) touched: bool,
    /// Secrets that are mounted, or in the environment.
    pub(crate) secrets: Named,
    /// Service accounts under which they run.
    pub(crate) accounts: Named,
    /// Images of containers and of volumes.
    pub(crate) images: Named,
}

/// Names, and whether they are all.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) names: Vec<String>,
    /// There is one at least, named or not.
    pub(crate) some: bool,
    /// There may be others.
    pub(crate) unclear: bool,
}

impl Named {
    fn add(&mut self, name: Option<&Value>) {
        self.some = true;
        match name {
            Some(Value::String(name)) if !name.is_empty() => self.names.push(name.clone()),
            _ => self.unclear = true,
        }
    }
}

/// Where a resource's objects have the spec of pods. `None` for those that have none.
pub(crate) fn way(resource: &ApiResource) -> Option<&'static [&'static str]> {
    let subresource = resource.subresource.as_deref();
    let way: &[&str] = match (resource.group.as_str(), resource.resource.as_str()) {
        ("", "pods") if subresource == Some("ephemeralcontainers") => return Some(&["spec"]),
        ("", "pods") => &["spec"],
        ("", "podtemplates") => &["template", "spec"],
        ("", "replicationcontrollers")
        | ("apps", "deployments" | "statefulsets" | "daemonsets" | "replicasets")
        | ("batch", "jobs") => &["spec", "template", "spec"],
        ("batch", "cronjobs") => &["spec", "jobTemplate", "spec", "template", "spec"],
        // Whatever a stateful or daemon set is rolled back to, as it was serialised.
        ("apps", "controllerrevisions") => &["data"],
        _ => return None,
    };
    subresource.is_none().then_some(way)
}

impl Pods {
    /// Reads what a body says.
    pub(super) fn of(resource: &ApiResource, form: BodyForm, body: &Value) -> Self {
        let Some(way) = way(resource) else {
            return Self::default();
        };
        let mut reader = Reader {
            pods: Self::default(),
            // The server takes nothing else of the pod that it gets, so that its volumes are none that count.
            ephemeral: resource.subresource.is_some(),
            form,
        };
        if form == BodyForm::Operations {
            match operations::parts(body) {
                Some(parts) => parts.iter().for_each(|part| reader.object(way, part)),
                None => reader.unclear(),
            }
        } else {
            reader.object(way, body);
        }
        let (is_part, mut pods) = (reader.is_part(), reader.pods);
        if is_part && pods.touched {
            // What a patch doesn't say stays as it is, and may be anything.
            pods.images.unclear |= !pods.images.some;
            pods.accounts.unclear |= !pods.accounts.some;
        }
        pods
    }
}

struct Reader {
    pods: Pods,
    ephemeral: bool,
    form: BodyForm,
}

/// Volume sources that mount no secret.
const HARMLESS: [&str; 20] = [
    "awsElasticBlockStore",
    "azureDisk",
    "cinder",
    "configMap",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "fc",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "glusterfs",
    "hostPath",
    "nfs",
    "persistentVolumeClaim",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "vsphereVolume",
    "image",
];

/// Volume sources with a reference to a secret, and where.
const REFERRING: [(&str, &str); 7] = [
    ("cephfs", "secretRef"),
    ("csi", "nodePublishSecretRef"),
    ("flexVolume", "secretRef"),
    ("iscsi", "secretRef"),
    ("rbd", "secretRef"),
    ("scaleIO", "secretRef"),
    ("storageos", "secretRef"),
];

impl Reader {
    fn is_part(&self) -> bool {
        self.form != BodyForm::Object || self.ephemeral
    }

    /// Nothing can be told: uncertainty denies.
    fn unclear(&mut self) {
        self.pods.touched = true;
        self.pods.secrets.unclear = true;
        self.pods.accounts.unclear = true;
        self.pods.images.unclear = true;
    }

    fn object(&mut self, way: &[&str], body: &Value) {
        let mut at = body;
        for name in way {
            match at {
                Value::Null => return,
                Value::Object(members) => match members.get(*name) {
                    Some(next) => at = next,
                    None => return,
                },
                _ => return self.unclear(),
            }
        }
        match at {
            Value::Null => {}
            _ if way == ["data"] => self.unclear(),
            Value::Object(spec) => self.spec(spec),
            _ => self.unclear(),
        }
    }

    fn spec(&mut self, spec: &Members) {
        self.pods.touched = true;
        let volumes = if self.ephemeral {
            Vec::new()
        } else {
            self.volumes(spec.get("volumes"))
        };
        let lists: &[&str] = if self.ephemeral {
            &["ephemeralContainers"]
        } else {
            &["containers", "initContainers", "ephemeralContainers"]
        };
        for list in lists {
            for container in self.elements(spec.get(*list)) {
                self.container(container, &volumes);
            }
        }
        self.account(spec);
    }

    /// The server takes the deprecated name where the other is empty.
    fn account(&mut self, spec: &Members) {
        let is_part = self.is_part();
        let accounts = &mut self.pods.accounts;
        for key in ["serviceAccountName", "serviceAccount"] {
            match spec.get(key) {
                None => {}
                // Of a patch: what then counts is the other one, which isn't seen.
                Some(Value::Null) => accounts.unclear |= is_part,
                Some(Value::String(name)) if name.is_empty() => accounts.unclear |= is_part,
                Some(Value::String(name)) => {
                    accounts.names.push(name.clone());
                    // Of a patch the deprecated one alone may change nothing.
                    accounts.some |= !is_part || key == "serviceAccountName";
                    if !is_part {
                        return;
                    }
                }
                Some(_) => accounts.unclear = true,
            }
        }
        if !is_part {
            accounts.names.push("default".to_owned());
            accounts.some = true;
        }
    }

    /// Reads the volumes, and returns the names of those that mount no secret.
    fn volumes<'b>(&mut self, volumes: Option<&'b Value>) -> Vec<&'b str> {
        let mut harmless = Vec::new();
        for volume in self.elements(volumes) {
            if self.is_removed(volume) {
                continue;
            }
            if self.volume(volume)
                && let Some(Value::String(name)) = volume.get("name")
            {
                harmless.push(name.as_str());
            }
        }
        harmless
    }

    /// Whether a volume surely mounts no secret.
    fn volume(&mut self, volume: &Members) -> bool {
        let (mut sources, mut harmless) = (0, true);
        for (key, source) in volume {
            if key == "name" || source.is_null() || self.is_directive(key) {
                continue;
            }
            sources += 1;
            let secrets = &mut self.pods.secrets;
            if matches!(key.as_str(), "secret" | "azureFile") {
                harmless = false;
                secrets.add(source.get("secretName"));
            } else if key == "projected" {
                harmless &= self.projected(source);
            } else if key == "image" {
                self.pods.images.add(source.get("reference"));
            } else if let Some((_, reference)) = REFERRING.iter().find(|(name, _)| name == key) {
                match source.get(*reference) {
                    None | Some(Value::Null) if source.is_object() => {}
                    reference => {
                        harmless = false;
                        secrets.add(reference.and_then(|reference| reference.get("name")));
                    }
                }
            } else if !HARMLESS.contains(&key.as_str()) {
                harmless = false;
                secrets.unclear = true;
            }
        }
        if sources == 0 {
            harmless = false;
            // Of a patch it may be one that is there, under another name. A whole object without any is an empty directory.
            self.pods.secrets.unclear |= self.is_part();
        }
        harmless
    }

    /// Whether a projected volume surely has no secret.
    fn projected(&mut self, source: &Value) -> bool {
        let Value::Object(source) = source else {
            self.pods.secrets.unclear = true;
            return false;
        };
        let mut harmless = true;
        for projection in self.elements(source.get("sources")) {
            for (key, held) in projection.iter().filter(|(_, held)| !held.is_null()) {
                match key.as_str() {
                    "secret" => {
                        harmless = false;
                        self.pods.secrets.add(held.get("name"));
                    }
                    "configMap"
                    | "downwardAPI"
                    | "serviceAccountToken"
                    | "clusterTrustBundle"
                    | "podCertificate" => {}
                    _ => {
                        harmless = false;
                        self.pods.secrets.unclear = true;
                    }
                }
            }
        }
        harmless
    }

    fn container(&mut self, container: &Members, volumes: &[&str]) {
        if self.is_removed(container) {
            return;
        }
        self.pods.images.add(container.get("image"));
        for variable in self.elements(container.get("env")) {
            match variable.get("valueFrom") {
                None | Some(Value::Null) => {}
                Some(Value::Object(from)) => self.reference(
                    from,
                    "secretKeyRef",
                    &["configMapKeyRef", "fieldRef", "fileKeyRef", "resourceFieldRef"],
                ),
                Some(_) => self.pods.secrets.unclear = true,
            }
        }
        for from in self.elements(container.get("envFrom")) {
            self.reference(from, "secretRef", &["configMapRef", "prefix"]);
        }
        if !self.is_part() {
            return;
        }
        // In a part the volume may be one that is there already.
        for list in ["volumeMounts", "volumeDevices"] {
            for mount in self.elements(container.get(list)) {
                let name = mount.get("name").and_then(Value::as_str).unwrap_or_default();
                // Operations can have put another in its place.
                let known = self.form != BodyForm::Operations && volumes.contains(&name);
                if !known && !self.is_removed(mount) {
                    self.pods.secrets.unclear = true;
                }
            }
        }
    }

    /// One of several things that are referred to.
    fn reference(&mut self, from: &Members, secret: &str, others: &[&str]) {
        for (key, held) in from.iter().filter(|(_, held)| !held.is_null()) {
            if key == secret {
                self.pods.secrets.add(held.get("name"));
            } else if !others.contains(&key.as_str()) && !self.is_directive(key) {
                self.pods.secrets.unclear = true;
            }
        }
    }

    /// The objects in a list. What is none isn't taken by the server either, or means something else in a patch.
    fn elements<'b>(&mut self, list: Option<&'b Value>) -> Vec<&'b Members> {
        let elements = match list {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(elements)) => elements,
            Some(_) => {
                self.unclear();
                return Vec::new();
            }
        };
        let objects: Vec<&Members> = elements.iter().filter_map(Value::as_object).collect();
        // What an operation removes is null here.
        let removed = |element: &&Value| element.is_null() && self.form == BodyForm::Operations;
        if objects.len() + elements.iter().filter(removed).count() < elements.len() {
            self.unclear();
        }
        objects
    }

    /// Whether an element is only named to be removed.
    fn is_removed(&self, element: &Members) -> bool {
        self.form == BodyForm::Strategic && element.get("$patch").and_then(Value::as_str) == Some("delete")
    }

    /// Whether a key says how something is merged.
    fn is_directive(&self, key: &str) -> bool {
        self.form == BodyForm::Strategic && key.starts_with('$')
    }
}
