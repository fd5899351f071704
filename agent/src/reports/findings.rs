//! What an agent finds, as its parts tell it, until it is written into the node's report.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bailiff_policy::report::{
    CertificateReport, DataPath, MAX_CERTIFICATES, MAX_OBJECTS, MAX_PODS, MAX_REASON, MAX_REASONS,
    NotCovered, ObjectCounts, ObjectReport, ObjectState, PodCounts, cut,
};
use bailiff_policy::{Problem, Sources};
use serde::Deserialize;
use serde_json::Value;

use crate::proxy::FileError;

/// What is to be said of this node.
#[derive(Debug, Default)]
pub struct Findings {
    found: Mutex<Found>,
}

/// How often each part has changed; 0: nothing is known yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Revisions {
    /// Objects.
    pub(crate) objects: u64,
    /// Certificates and the data path.
    pub(crate) state: u64,
    /// Pods, which come and go all the time.
    pub(crate) pods: u64,
}

/// All that was found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    pub(crate) revisions: Revisions,
    pub(crate) counts: PodCounts,
    pub(crate) not_covered: Vec<NotCovered>,
    pub(crate) data_path: DataPath,
    pub(crate) certificates: Vec<CertificateReport>,
    objects: Vec<Object>,
    /// Generations in force, by uid.
    in_force: HashMap<String, i64>,
}

/// A file that stands for an object of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Object {
    is_target: bool,
    report: ObjectReport,
}

/// What is wrong with what was read.
#[derive(Debug)]
pub(crate) enum Wrong<'a> {
    /// The loader refuses it.
    Problems(&'a [Problem]),
    /// Files that it names can't be used on this node.
    Files(&'a [FileError]),
    /// The kernel can't take what has changed.
    Kernel(&'a str),
}

impl Findings {
    /// These objects are in force.
    pub(crate) fn loaded(&self, sources: &Sources) {
        self.change(|found| {
            let objects: Vec<Object> = objects(sources).map(|(_, _, object)| object).collect();
            found.in_force = objects
                .iter()
                .map(|object| (object.report.uid.clone(), object.report.generation))
                .collect();
            found.put(objects);
        });
    }

    /// These objects were read, and what was in force before stays.
    pub(crate) fn refused(&self, sources: &Sources, wrong: &Wrong<'_>) {
        self.change(|found| {
            let objects = objects(sources)
                .map(|(file, text, mut object)| {
                    let is_in_force =
                        found.in_force.get(&object.report.uid) == Some(&object.report.generation);
                    if let Some((reason, mend)) = wrong.with(file, text, is_in_force) {
                        object.report.state = ObjectState::Refused;
                        object.report.reason = cut(&reason, MAX_REASON);
                        object.report.mend = cut(&mend, MAX_REASON);
                    } else if !is_in_force {
                        object.report.state = ObjectState::HeldBack;
                    }
                    object
                })
                .collect();
            found.put(objects);
        });
    }

    /// These objects were read, and of these files they are in force.
    pub(crate) fn partly(&self, sources: &Sources, wrong: &Wrong<'_>, files: &HashSet<String>) {
        self.change(|found| {
            found.in_force = objects(sources)
                .filter(|(file, ..)| files.contains(*file))
                .map(|(_, _, object)| (object.report.uid, object.report.generation))
                .collect();
        });
        self.refused(sources, wrong);
    }

    /// What becomes of the pods.
    pub(crate) fn pods(&self, counts: PodCounts, mut not_covered: Vec<NotCovered>) {
        not_covered.sort();
        not_covered.truncate(MAX_PODS);
        self.change(|found| {
            if found.revisions.pods == 0 || found.counts != counts || found.not_covered != not_covered {
                found.counts = counts;
                found.not_covered = not_covered;
                found.revisions.pods += 1;
            }
        });
    }

    /// Whether connections are diverted, and how certificates are doing.
    pub(crate) fn state(&self, data_path: DataPath, mut certificates: Vec<CertificateReport>) {
        certificates.truncate(MAX_CERTIFICATES);
        self.change(|found| {
            if found.revisions.state == 0
                || found.data_path != data_path
                || found.certificates != certificates
            {
                found.data_path = data_path;
                found.certificates = certificates;
                found.revisions.state += 1;
            }
        });
    }

    /// How often what was found has changed.
    pub(crate) fn revisions(&self) -> Revisions {
        self.found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .revisions
    }

    /// All of it.
    pub(crate) fn found(&self) -> Found {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Found)) {
        change(&mut self.found.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Found {
    fn put(&mut self, objects: Vec<Object>) {
        if self.revisions.objects == 0 || self.objects != objects {
            self.objects = objects;
            self.revisions.objects += 1;
        }
    }

    /// How many objects there are, and Targets and Policies as far as a report lists them: those that aren't in force first.
    pub(crate) fn objects(&self) -> (ObjectCounts, Vec<ObjectReport>, Vec<ObjectReport>) {
        let count = |is: &dyn Fn(&Object) -> bool| {
            u32::try_from(self.objects.iter().filter(|object| is(object)).count()).unwrap_or(u32::MAX)
        };
        let in_state = |state, object: &Object| object.report.state == state;
        let counts = ObjectCounts {
            targets: count(&|object| object.is_target && in_state(ObjectState::InForce, object)),
            policies: count(&|object| !object.is_target && in_state(ObjectState::InForce, object)),
            refused: count(&|object| in_state(ObjectState::Refused, object)),
            held_back: count(&|object| in_state(ObjectState::HeldBack, object)),
        };
        let mut reasons = 0;
        let mut of = |is_target| {
            let mut all: Vec<ObjectReport> = self
                .objects
                .iter()
                .filter(|object| object.is_target == is_target)
                .map(|object| object.report.clone())
                .collect();
            let rank = |report: &ObjectReport| match report.state {
                ObjectState::Refused => 0,
                ObjectState::HeldBack => 1,
                ObjectState::InForce => 2,
            };
            all.sort_by(|one, other| (rank(one), &one.name).cmp(&(rank(other), &other.name)));
            all.truncate(MAX_OBJECTS);
            for report in all.iter_mut().filter(|report| !report.reason.is_empty()) {
                reasons += 1;
                if reasons > MAX_REASONS {
                    report.reason.clear();
                    report.mend.clear();
                }
            }
            all
        };
        let (targets, policies) = (of(true), of(false));
        (counts, targets, policies)
    }
}

impl Wrong<'_> {
    /// What is wrong with the object of this file, and what to do about it; `None` where that isn't at fault.
    pub(crate) fn with(&self, file: &str, text: &str, is_in_force: bool) -> Option<(String, String)> {
        match self {
            Self::Problems(problems) => {
                let mut own = problems.iter().filter(|problem| problem.file == file);
                let first = own.next()?;
                let reason = match own.count() {
                    0 => first.reason.clone(),
                    more => format!("{} (and {more} more)", first.reason),
                };
                Some((reason, first.mend.clone()))
            }
            Self::Files(errors) => {
                let object: Value = serde_json::from_str(text).ok()?;
                let error = errors.iter().find(|error| names(&object, &error.file))?;
                let reason = format!("{}: {}", error.file.display(), error.reason);
                Some((reason, error.mend.to_owned()))
            }
            Self::Kernel(_) if is_in_force => None,
            Self::Kernel(error) => Some((
                format!("the kernel doesn't take the targets: {error}"),
                "the agent's log on this node says more".to_owned(),
            )),
        }
    }
}

/// Whether a file's path stands somewhere in an object.
fn names(value: &Value, file: &Path) -> bool {
    match value {
        Value::String(text) => Path::new(text) == file,
        Value::Array(items) => items.iter().any(|item| names(item, file)),
        Value::Object(fields) => fields.values().any(|field| names(field, file)),
        _ => false,
    }
}

/// What stands in the file of an object.
#[derive(Deserialize)]
struct Head {
    kind: String,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    uid: String,
    generation: i64,
}

/// The objects, each in force, with the file's path and text. What people wrote into files is none of the cluster's objects.
fn objects(sources: &Sources) -> impl Iterator<Item = (&str, &str, Object)> {
    sources.texts().filter_map(|(file, text)| {
        let head: Head = serde_json::from_str(text).ok()?;
        let is_target = match head.kind.as_str() {
            "Target" => true,
            "Policy" => false,
            _ => return None,
        };
        let report = ObjectReport {
            name: head.metadata.name,
            uid: head.metadata.uid,
            generation: head.metadata.generation,
            state: ObjectState::InForce,
            reason: String::new(),
            mend: String::new(),
        };
        Some((file, text, Object { is_target, report }))
    })
}

#[cfg(test)]
mod tests;
