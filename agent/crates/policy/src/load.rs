//! Reading policies from YAML, and refusing what can't work: each problem with its file, line and mend.

mod check;
mod crd;
mod partial;
mod schema;

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use crate::compiled::PolicySet;

pub use crd::{Manifest, SchemaError, manifests};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// The line, from 1; 0 where it's the file as a whole.
    pub line: u64,
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub mend: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}: {}\n    mend: {}",
            self.file, self.line, self.reason, self.mend
        )
    }
}

/// Everything that is wrong. Nothing was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadErrors(pub Vec<Problem>);

impl fmt::Display for LoadErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} problem(s) in the configuration:", self.0.len())?;
        for problem in &self.0 {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for LoadErrors {}

/// The group and version that is read.
pub(crate) const API_VERSION: &str = "bailiff.dev/v1alpha1";

/// Where what is loaded is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum World {
    /// Files alone say what there is.
    Files,
    /// A cluster can be asked for the addresses of its Services.
    Cluster,
}

/// A file larger than this is no policy.
const MAX_FILE: u64 = 4 << 20;

/// The texts of a directory, read at one moment: what is loaded of them is told of these and no later ones.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    texts: Vec<(String, String)>,
    problems: Vec<Problem>,
}

impl Sources {
    /// Reads the directory's `*.yaml` files. What can't be read is told by [`load`](Self::load). Blocks on the disk.
    #[must_use]
    pub fn read(directory: &Path) -> Self {
        read(directory).unwrap_or_else(|problem| Self {
            texts: Vec::new(),
            problems: vec![problem],
        })
    }

    /// What they say.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn load(&self) -> Result<PolicySet, LoadErrors> {
        self.load_into(World::Files)
    }

    /// The same where Targets may name Services, since the caller asks the cluster for their addresses
    /// ([`with_addresses`](PolicySet::with_addresses)); elsewhere that is a problem.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn load_in_cluster(&self) -> Result<PolicySet, LoadErrors> {
        self.load_into(World::Cluster)
    }

    /// What can be in force of a cluster's objects of which some are refused, by [`load_in_cluster`](Self::load_in_cluster) or for what that doesn't
    /// see (`also`, by files): for an agent that knows no earlier ones. A Target that is refused isn't protected. Where a policy is,
    /// everything is denied at the Targets that it is about, whatever others say: what it would have forbidden there isn't known.
    ///
    /// # Errors
    /// When nothing can be in force.
    pub fn load_what_can_be(&self, also: &HashSet<String>) -> Result<Partial, LoadErrors> {
        if self.texts.is_empty() {
            return Err(LoadErrors(self.problems.clone()));
        }
        let texts: Vec<(&str, &str)> = self.texts().collect();
        partial::load(&texts, World::Cluster, also, !self.problems.is_empty())
    }

    /// Texts that were read before, with their files' paths.
    #[must_use]
    pub fn of(texts: Vec<(String, String)>) -> Self {
        Self {
            texts,
            problems: Vec::new(),
        }
    }

    fn load_into(&self, world: World) -> Result<PolicySet, LoadErrors> {
        let texts: Vec<(&str, &str)> = self.texts().collect();
        finish(&texts, world, self.problems.clone())
    }

    /// The files by their paths, and what stands in them.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
    }
}

/// What is in force of objects of which some are refused.
#[derive(Debug)]
pub struct Partial {
    /// The policies.
    pub set: PolicySet,
    /// The files of which they are.
    pub files: HashSet<String>,
}

pub(crate) fn directory(directory: &Path) -> Result<PolicySet, LoadErrors> {
    Sources::read(directory).load()
}

/// The problem is one of the directory as a whole.
fn read(directory: &Path) -> Result<Sources, Problem> {
    let whole = |reason: String, mend: &str| Problem {
        file: directory.display().to_string(),
        line: 0,
        reason,
        mend: mend.to_owned(),
    };
    let entries = std::fs::read_dir(directory).map_err(|error| {
        whole(
            format!("cannot be read: {error}"),
            "give a directory that holds *.yaml files",
        )
    })?;
    let mut files: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml" || extension == "yml")
        })
        .collect();
    files.sort();
    if files.is_empty() {
        return Err(whole(
            "holds no *.yaml file".to_owned(),
            "write Targets and Policies into it; see examples/",
        ));
    }
    let mut sources = Sources::default();
    for path in files {
        let name = path.display().to_string();
        let size = std::fs::metadata(&path).map(|about| about.len());
        let text = match size {
            Ok(size) if size > MAX_FILE => Err(format!("is {size} bytes long, more than {MAX_FILE}")),
            _ => std::fs::read_to_string(&path).map_err(|error| format!("cannot be read: {error}")),
        };
        match text {
            Ok(text) => sources.texts.push((name, text)),
            Err(reason) => sources.problems.push(Problem {
                file: name,
                line: 0,
                reason,
                mend: "mend or remove the file".to_owned(),
            }),
        }
    }
    Ok(sources)
}

pub(crate) fn sources(sources: &[(&str, &str)], world: World) -> Result<PolicySet, LoadErrors> {
    finish(sources, world, Vec::new())
}

fn finish(
    sources: &[(&str, &str)],
    world: World,
    mut problems: Vec<Problem>,
) -> Result<PolicySet, LoadErrors> {
    let mut documents = Vec::new();
    for (file, text) in sources {
        for document in split(text) {
            if let Some(parsed) = parse(file, &document, &mut problems) {
                documents.push(((*file).to_owned(), parsed));
            }
        }
    }
    let set = check::compile(&documents, world, &mut problems);
    if problems.is_empty() {
        Ok(set)
    } else {
        Err(LoadErrors(problems))
    }
}

/// The documents of a file, each with as many empty lines before it as put its own lines at their numbers.
fn split(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for (number, line) in text.lines().enumerate() {
        if line.trim_end() == "---" {
            documents.push("\n".repeat(number + 1));
        } else if let Some(document) = documents.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    let says_nothing = |text: &str| {
        text.lines()
            .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
    };
    documents.retain(|document| !says_nothing(document));
    documents
}

fn parse(file: &str, document: &str, problems: &mut Vec<Problem>) -> Option<schema::Document> {
    let first = document
        .lines()
        .position(|line| !line.trim().is_empty())
        .unwrap_or(0) as u64
        + 1;
    let mut wrong = |line: u64, reason: String, mend: &str| {
        problems.push(Problem {
            file: file.to_owned(),
            line,
            reason,
            mend: mend.to_owned(),
        });
        None
    };
    let head: schema::Head = match serde_saphyr::from_str(document) {
        Ok(head) => head,
        Err(error) => {
            let line = error.location().map_or(first, |at| at.line());
            return wrong(
                line,
                short(&error),
                "every document begins with apiVersion and kind",
            );
        }
    };
    if head.api_version != API_VERSION {
        let reason = format!("apiVersion is {:?}", head.api_version);
        return wrong(first, reason, &format!("write apiVersion: {API_VERSION}"));
    }
    let parsed = match head.kind.as_str() {
        "Target" => serde_saphyr::from_str(document).map(|target| schema::Document::Target(Box::new(target))),
        "Policy" => serde_saphyr::from_str(document).map(|policy| schema::Document::Policy(Box::new(policy))),
        "Inventory" => return None, // The standalone world reads it.
        other => {
            return wrong(
                first,
                format!("kind {other:?} is not known"),
                "kinds are Target, Policy and Inventory",
            );
        }
    };
    match parsed {
        Ok(parsed) => Some(parsed),
        Err(error) => {
            let line = error.location().map_or(first, |at| at.line());
            wrong(
                line,
                short(&error),
                "see examples/ for every field; names are spelled in camelCase",
            )
        }
    }
}

/// The error without the excerpt of the file that the library draws under it.
fn short(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let text = text
        .lines()
        .next()
        .unwrap_or_default()
        .trim_start_matches("error: ");
    // The place stands before it already.
    match text.split_once(": ") {
        Some((place, reason)) if place.starts_with("line ") && place.contains(" column ") => {
            reason.to_owned()
        }
        _ => text.to_owned(),
    }
}
