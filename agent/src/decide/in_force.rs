//! The policy in force, and how a change of its files gets there.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bailiff_policy::{LoadErrors, PolicySet, Sources};

/// The policy in force. Sessions look at the generation before each operation, which is one atomic load.
#[derive(Debug)]
pub struct InForce {
    set: ArcSwap<PolicySet>,
    generation: AtomicU64,
}

impl InForce {
    /// Puts a first policy in force.
    #[must_use]
    pub fn new(set: PolicySet) -> Self {
        Self {
            generation: AtomicU64::new(set.generation()),
            set: ArcSwap::from_pointee(set),
        }
    }

    /// The generation in force.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The policy in force.
    pub fn load(&self) -> Arc<PolicySet> {
        self.set.load_full()
    }

    /// Puts another policy in force. Open sessions feel it at their next operation.
    pub fn replace(&self, set: PolicySet) {
        let generation = set.generation();
        self.set.store(Arc::new(set));
        self.generation.store(generation, Ordering::Release);
    }
}

/// How the files of a directory are read.
pub(crate) type Load = fn(&Sources) -> Result<PolicySet, LoadErrors>;

/// Watches a directory of policy files by their names, sizes and times of change.
///
/// It looks once a second rather than listening to inotify: Kubernetes swaps a ConfigMap's files by a symbolic link two
/// levels up, which file watches miss, and a missed change would be a policy that isn't in force.
#[derive(Debug)]
pub struct Watcher {
    directory: PathBuf,
    load: Load,
    seen: Vec<(PathBuf, u64, Option<std::time::SystemTime>)>,
}

impl Watcher {
    /// How often the directory is looked at.
    pub const INTERVAL: Duration = Duration::from_secs(1);

    /// Starts from what is there now.
    #[must_use]
    pub fn new(directory: &Path, load: Load) -> Self {
        Self {
            load,
            directory: directory.to_owned(),
            seen: Self::look(directory),
        }
    }

    /// Loads the files anew where they changed since the last call, and returns what was read, too. An error leaves the policy in
    /// force as it was.
    pub fn changed(&mut self) -> Option<(Sources, Result<PolicySet, LoadErrors>)> {
        let now = Self::look(&self.directory);
        if now == self.seen {
            return None;
        }
        self.seen = now;
        let sources = Sources::read(&self.directory);
        let loaded = (self.load)(&sources);
        Some((sources, loaded))
    }

    fn look(directory: &Path) -> Vec<(PathBuf, u64, Option<std::time::SystemTime>)> {
        let mut seen: Vec<_> = std::fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter_map(|path| {
                let about = std::fs::metadata(&path).ok()?;
                Some((path, about.len(), about.modified().ok()))
            })
            .collect();
        seen.sort();
        seen
    }
}
