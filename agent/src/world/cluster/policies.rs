//! Targets and Policies as objects of the cluster: watched by a thread of its own and written into a directory, a file each, from which they
//! are loaded as any others. So an agent that starts while the API server is away goes on with those it knew last, and what is wrong
//! with one is told as it is of files.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use kube::api::DynamicObject;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{ClusterAccess, Following, write_whole};

/// The kinds, as the resources are called.
const KINDS: [(&str, &str); 2] = [("Target", "targets"), ("Policy", "policies")];

/// When what couldn't be written is tried again.
const WRITE_AGAIN: Duration = Duration::from_secs(5);

/// Written first, so that a cluster without any is told from a directory that isn't there.
const ABOUT: (&str, &str) = (
    "about.yaml",
    "# The cluster's Targets and Policies, as this node's agent knows them. What is changed here is lost.\n",
);

/// The cluster's Targets and Policies in a directory. Dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct ClusterPolicies {
    shared: Arc<Shared>,
    _following: Following,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    /// Which kinds were told whole.
    listed: Mutex<HashSet<&'static str>>,
    all: Condvar,
}

impl ClusterPolicies {
    /// Follows them into this directory, which is made where it isn't there. Blocks on the disk.
    ///
    /// # Errors
    /// When the directory can't be used, or the thread can't be started. That the API server is away is none: it is asked again.
    pub(crate) fn start(access: ClusterAccess, directory: PathBuf) -> Result<Self> {
        let unusable = || format!("cannot write into {}", directory.display());
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .with_context(unusable)?;
        let about = directory.join(ABOUT.0);
        // A disk that is full is no reason not to start by what is there.
        if !about.exists() {
            write_whole(&about, ABOUT.1.as_bytes()).with_context(unusable)?;
        }
        let shared = Arc::new(Shared {
            directory,
            listed: Mutex::default(),
            all: Condvar::new(),
        });
        let follows = Arc::clone(&shared);
        let following = Following::start("policies", move || async move {
            let client = access.patient_client("the cluster's policies").await;
            let [targets, policies] = KINDS.map(|kind| follow(client.clone(), kind, &follows));
            tokio::join!(targets, policies)
        })?;
        Ok(Self {
            shared,
            _following: following,
        })
    }

    /// Waits until all were told once, or so long. Blocks.
    pub(crate) fn wait(&self, at_most: Duration) {
        let listed = self.shared.listed.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .shared
            .all
            .wait_timeout_while(listed, at_most, |listed| listed.len() < KINDS.len());
        if waited.is_ok_and(|(_, waited)| waited.timed_out()) {
            tracing::warn!(
                "the API server hasn't told the Targets and Policies; those that are known are in force"
            );
        }
    }
}

/// Follows one kind for ever.
async fn follow(client: Client, (kind, plural): (&'static str, &str), shared: &Shared) {
    let resource = crate::reports::resource(kind, plural);
    let api = Api::<DynamicObject>::all_with(client, &resource);
    let mut is_away = false;
    loop {
        follow_once(api.clone(), kind, shared, &mut is_away).await;
    }
}

/// Until something couldn't be written: then all of it has to be told again.
async fn follow_once(api: Api<DynamicObject>, kind: &'static str, shared: &Shared, is_away: &mut bool) {
    let mut watched = pin!(watcher(api, watcher::Config::default()).default_backoff());
    // The files of a list that is being told.
    let mut told = HashSet::new();
    let mut again_at = None;
    loop {
        let event = match again_at {
            None => watched.next().await,
            Some(at) => match tokio::time::timeout_at(at, watched.next()).await {
                Ok(event) => event,
                Err(_) => return,
            },
        };
        let Some(event) = event else { return };
        let done = match &event {
            Ok(Event::Init) => {
                told.clear();
                Ok(())
            }
            Ok(Event::InitApply(object)) => {
                told.extend(file_name(kind, object));
                put(&shared.directory, kind, object)
            }
            Ok(Event::InitDone) => {
                let swept = sweep(&shared.directory, kind, &told);
                shared
                    .listed
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(kind);
                shared.all.notify_all();
                swept
            }
            Ok(Event::Apply(object)) => put(&shared.directory, kind, object),
            Ok(Event::Delete(object)) => take(&shared.directory, kind, object),
            Err(error) => {
                if !std::mem::replace(is_away, true) {
                    let error = super::watch_told(error);
                    tracing::error!(
                        kind,
                        error,
                        "objects can't be followed now; those that are known stay in force"
                    );
                }
                continue;
            }
        };
        if std::mem::take(is_away) {
            tracing::info!(kind, "objects are followed again");
        }
        if let Err(error) = done
            && again_at.is_none()
        {
            tracing::error!(kind, %error, directory = %shared.directory.display(), "what changed can't be written, and isn't in force; it is tried again");
            again_at = Some(Instant::now() + WRITE_AGAIN);
        }
    }
}

/// `policy-NAME.yaml`. `None` for a name that the API server would not have: it would be a path.
fn file_name(kind: &str, object: &DynamicObject) -> Option<String> {
    let name = object.metadata.name.as_deref()?;
    let of_names =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let is_name = (1..=253).contains(&name.len()) && name.bytes().all(of_names) && !name.starts_with('.');
    // A file's name has at most 255 bytes: a longer object's would be no file's, and is told as that.
    is_name.then(|| format!("{}-{name}.yaml", kind.to_ascii_lowercase()))
}

/// Writes an object as a file's document, unless the file says the same.
fn put(directory: &Path, kind: &str, object: &DynamicObject) -> io::Result<()> {
    let Some(file) = file_name(kind, object) else {
        return Ok(());
    };
    let document = json!({
        "apiVersion": "bailiff.dev/v1alpha1",
        "kind": kind,
        // Which object of that name, and as of when, is what the node's report tells of.
        "metadata": {
            "name": object.metadata.name, "uid": object.metadata.uid, "generation": object.metadata.generation,
        },
        "spec": object.data.get("spec").unwrap_or(&Value::Null),
    });
    // JSON is YAML, whatever stands in it.
    let text = serde_json::to_vec_pretty(&document).map_err(io::Error::other)?;
    let file = directory.join(file);
    if fs::read(&file).is_ok_and(|there| there == text) {
        return Ok(());
    }
    write_whole(&file, &text)
}

fn take(directory: &Path, kind: &str, object: &DynamicObject) -> io::Result<()> {
    let Some(file) = file_name(kind, object) else {
        return Ok(());
    };
    match fs::remove_file(directory.join(file)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Removes the files of objects of this kind that aren't there any more.
fn sweep(directory: &Path, kind: &str, told: &HashSet<String>) -> io::Result<()> {
    let prefix = format!("{}-", kind.to_ascii_lowercase());
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let is_gone = name
            .to_str()
            .is_some_and(|name| name.starts_with(&prefix) && !told.contains(name));
        if is_gone {
            fs::remove_file(directory.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, spec: &Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "bailiff.dev/v1alpha1", "kind": "Policy",
            "metadata": {"name": name, "uid": "u", "annotations": {"a": "b"}},
            "spec": spec, "status": {"nodes": {}},
        }))
        .unwrap()
    }

    fn files(directory: &Path) -> Vec<String> {
        let mut all: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        all.sort();
        all
    }

    #[test]
    fn objects_become_files_that_the_loader_takes_and_go_with_them() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        write_whole(&at.join(ABOUT.0), ABOUT.1.as_bytes()).unwrap();
        assert_eq!(bailiff_policy::PolicySet::load(at).unwrap().policies(), 0);
        let target = json!({"protocol": "postgres", "endpoints": ["10.0.0.5:5432"]});
        put(at, "Target", &object("db", &target)).unwrap();
        let spec = json!({"targets": ["db"], "rules": [{"name": "r", "effects": ["read"], "action": "Allow", "message": "a: [b]\n---\nc"}]});
        for name in ["one", "two"] {
            put(at, "Policy", &object(name, &spec)).unwrap();
        }
        assert_eq!(
            files(at),
            [
                "about.yaml",
                "policy-one.yaml",
                "policy-two.yaml",
                "target-db.yaml"
            ]
        );
        assert_eq!(bailiff_policy::PolicySet::load(at).unwrap().policies(), 2);
        take(at, "Policy", &object("one", &spec)).unwrap();
        take(at, "Policy", &object("one", &spec)).unwrap();
        assert_eq!(bailiff_policy::PolicySet::load(at).unwrap().policies(), 1);
        // A list without it.
        sweep(at, "Policy", &HashSet::new()).unwrap();
        assert_eq!(files(at), ["about.yaml", "target-db.yaml"]);
    }

    #[test]
    fn a_file_that_says_the_same_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let spec = json!({"targets": ["db"]});
        put(folder.path(), "Policy", &object("one", &spec)).unwrap();
        let file = folder.path().join("policy-one.yaml");
        let before = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&file).unwrap());
        put(folder.path(), "Policy", &object("one", &spec)).unwrap();
        assert_eq!(
            std::os::unix::fs::MetadataExt::ino(&fs::metadata(&file).unwrap()),
            before
        );
    }

    #[test]
    fn no_name_leads_out_of_the_directory() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("inside");
        fs::create_dir(&inside).unwrap();
        for name in ["../x", "/etc/x", "", ".", "..", "a/b", "A", "x\0", "x y"] {
            put(&inside, "Policy", &object(name, &json!({}))).unwrap();
            take(&inside, "Policy", &object(name, &json!({}))).unwrap();
        }
        assert!(files(&inside).is_empty());
        assert_eq!(files(folder.path()), ["inside"]);
    }
}
