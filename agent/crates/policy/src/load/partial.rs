//! What can be in force of objects of which some are refused: for an agent that knows no earlier ones, on a node where nothing would hold its pods otherwise.

use std::collections::HashSet;

use bailiff_model::{Effect, TargetName};
use serde::Deserialize;

use super::schema::Document;
use super::{LoadErrors, Partial, World, check, parse, split};
use crate::compiled::{Policy, PolicySet, Target};

/// As much of a document as says what is lost with it.
#[derive(Deserialize)]
struct Outline {
    kind: String,
    metadata: Name,
    #[serde(default)]
    spec: About,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

#[derive(Deserialize, Default)]
struct About {
    #[serde(default)]
    targets: Vec<String>,
}

/// Targets at which everything is denied.
#[derive(Debug, Default, PartialEq, Eq)]
struct Closed {
    all: bool,
    names: HashSet<String>,
}

impl Closed {
    /// Those that a policy is about: what it would have forbidden or hidden there isn't known any more.
    fn add(&mut self, targets: impl IntoIterator<Item = String>) {
        for target in targets {
            if target == "*" {
                self.all = true;
            } else {
                self.names.insert(target);
            }
        }
    }

    fn has(&self, target: &TargetName) -> bool {
        self.all || self.names.contains(&*target.0)
    }
}

/// Loads what isn't refused. `also` are files that are refused for what this doesn't see. Where some couldn't even be read (`unread`), they may have been
/// policies about anything.
///
/// # Errors
/// When what is left can't be in force either.
pub(super) fn load(
    texts: &[(&str, &str)],
    world: World,
    also: &HashSet<String>,
    unread: bool,
) -> Result<Partial, LoadErrors> {
    let mut documents = Vec::new();
    let mut closed = Closed {
        all: unread,
        ..Closed::default()
    };
    let mut gone = HashSet::new();
    for (file, text) in texts {
        for document in split(text) {
            match parse(file, &document, &mut Vec::new()) {
                Some(parsed) if !also.contains(*file) => documents.push(((*file).to_owned(), parsed)),
                _ => lose(&document, &mut gone, &mut closed),
            }
        }
    }
    // Each turn loses a document, or is the last.
    loop {
        forget(&mut documents, &gone);
        let mut problems = Vec::new();
        let set = check::compile(&documents, world, &mut problems);
        if problems.is_empty() {
            return Ok(Partial {
                set: close(set, &closed),
                files: documents.into_iter().map(|(file, _)| file).collect(),
            });
        }
        let files: HashSet<&str> = problems.iter().map(|problem| problem.file.as_str()).collect();
        let before = documents.len();
        let (lost, kept) = documents
            .into_iter()
            .partition(|(file, _)| files.contains(file.as_str()));
        documents = kept;
        if documents.len() == before {
            return Err(LoadErrors(problems));
        }
        lose_parsed(lost, &mut gone, &mut closed);
    }
}

/// Notes what a document that can't be read would have said.
fn lose(document: &str, gone: &mut HashSet<String>, closed: &mut Closed) {
    match serde_saphyr::from_str::<Outline>(document) {
        Ok(outline) if outline.kind == "Target" => drop(gone.insert(outline.metadata.name)),
        Ok(outline) if outline.kind == "Policy" && !outline.spec.targets.is_empty() => {
            closed.add(outline.spec.targets);
        }
        Ok(outline) if outline.kind == "Inventory" => {}
        // It may have been a policy about anything.
        _ => closed.all = true,
    }
}

fn lose_parsed(lost: Vec<(String, Document)>, gone: &mut HashSet<String>, closed: &mut Closed) {
    for (_, document) in lost {
        match document {
            Document::Target(target) => drop(gone.insert(target.metadata.name.value.clone())),
            Document::Policy(policy) => {
                closed.add(policy.spec.targets.iter().map(|target| target.value.clone()));
            }
        }
    }
}

/// Takes out of the policies the targets that aren't there for being refused. A policy about none but those is lost with them.
fn forget(documents: &mut Vec<(String, Document)>, gone: &HashSet<String>) {
    documents.retain_mut(|(_, document)| match document {
        Document::Target(_) => true,
        Document::Policy(policy) => {
            let targets = &mut policy.spec.targets;
            let before = targets.len();
            targets.retain(|target| !gone.contains(&target.value));
            // One that names none from the start is wrong for itself.
            !targets.is_empty() || before == 0
        }
    });
}

/// The same with no policy about the closed targets, and their defaults as strict as can be.
fn close(set: PolicySet, closed: &Closed) -> PolicySet {
    if *closed == Closed::default() {
        return set;
    }
    let targets: Vec<Target> = set
        .targets
        .iter()
        .map(|target| Target::clone(target))
        .map(|target| match closed.has(&target.name) {
            true => Target {
                default: Effect::Deny,
                unknown: Effect::Deny,
                ..target
            },
            false => target,
        })
        .collect();
    let open: Vec<TargetName> = targets
        .iter()
        .filter(|target| !closed.has(&target.name))
        .map(|target| target.name.clone())
        .collect();
    let policies = set
        .policies
        .iter()
        .map(|policy| Policy {
            targets: Some(match &policy.targets {
                None => open.clone(),
                Some(named) => named.iter().filter(|name| open.contains(name)).cloned().collect(),
            }),
            ..Policy::clone(policy)
        })
        .collect();
    PolicySet::new(targets, policies)
}
