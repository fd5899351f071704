//! From what is written to what is used. A control that can't fire is refused.

mod action;
mod connection;
mod fields;
mod kubernetes;
mod policy;
mod recording;
mod request;
mod rule;
mod services;
mod target;
mod tokens;

use std::collections::HashSet;

use super::schema::{Document, Spanned};
use super::{Problem, World};
use crate::addresses::ServiceRef;
use crate::compiled::{Endpoint, Policy, PolicySet, Target};
use crate::glob::Glob;
use fields::check_steps;
use policy::compile_policy;
use target::compile_target;

/// Collects the problems of one file.
struct Report<'a> {
    file: &'a str,
    problems: &'a mut Vec<Problem>,
}

impl Report<'_> {
    fn add(&mut self, line: u64, reason: impl Into<String>, mend: impl Into<String>) {
        self.problems.push(Problem {
            file: self.file.to_owned(),
            line,
            reason: reason.into(),
            mend: mend.into(),
        });
    }
}

pub(super) fn compile(
    documents: &[(String, Document)],
    world: World,
    problems: &mut Vec<Problem>,
) -> PolicySet {
    let mut targets: Vec<Target> = Vec::new();
    let mut endpoints: HashSet<Endpoint> = HashSet::new();
    let mut services: HashSet<ServiceRef> = HashSet::new();
    for (file, document) in documents {
        let Document::Target(resource) = document else {
            continue;
        };
        let mut report = Report { file, problems };
        let target = compile_target(resource, &mut report);
        let name = &resource.metadata.name;
        if targets.iter().any(|other| other.name == target.name) {
            report.add(
                name.referenced.line(),
                format!("target {:?} is defined twice", name.value),
                "give one another name",
            );
        }
        for (endpoint, written) in target.endpoints.iter().zip(&resource.spec.endpoints) {
            if !endpoints.insert(*endpoint) {
                let reason = format!("endpoint {:?} belongs to another target already", written.value);
                report.add(
                    written.referenced.line(),
                    reason,
                    "an address has one target; remove it from one of them",
                );
            }
        }
        services::check(resource, &target, world, &mut services, &mut report);
        targets.push(target);
    }
    let mut policies: Vec<Policy> = Vec::new();
    let mut steps = 0;
    for (file, document) in documents {
        let Document::Policy(resource) = document else {
            continue;
        };
        let mut report = Report { file, problems };
        let policy = compile_policy(resource, &targets, &mut report);
        if policies.iter().any(|other| other.name == policy.name) {
            let name = &resource.metadata.name;
            report.add(
                name.referenced.line(),
                format!("policy {:?} is defined twice", name.value),
                "give one another name",
            );
        }
        steps += policy.fields.steps();
        check_steps(steps, resource.metadata.name.referenced.line(), &mut report);
        policies.push(policy);
    }
    PolicySet::new(targets, policies)
}

/// Names stand in metrics, records and messages: as in Kubernetes, lower case letters, digits, `-` and `.`.
fn check_name(name: &Spanned<String>, report: &mut Report<'_>) {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let ends =
        |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = name.value.as_bytes();
    if bytes.len() > 253
        || !bytes.iter().all(|byte| plain(*byte))
        || !ends(bytes.first())
        || !ends(bytes.last())
    {
        report.add(
            name.referenced.line(),
            format!("{:?} is no name", name.value),
            "use lower case letters, digits, - and ., with a letter or digit at both ends",
        );
    }
}

/// Bytes of a name that the server keeps (`NAMEDATALEN` without its end).
const LONGEST_NAME: usize = 63;

/// Whether no server has a name that this matches. A letter takes a byte at least, in whichever encoding.
fn is_cut(pattern: &str) -> bool {
    !pattern.contains('*') && pattern.chars().count() > LONGEST_NAME
}

/// The relations that are written. `empty` says what it means that there are none.
fn relation_globs(
    written: &Spanned<Vec<String>>,
    empty: impl FnOnce() -> String,
    report: &mut Report<'_>,
) -> Vec<(Glob, Glob)> {
    let line = written.referenced.line();
    if written.value.is_empty() {
        report.add(line, empty(), "leave it out to mean any relation");
    }
    written
        .value
        .iter()
        .filter_map(|name| relation_glob(name, line, report))
        .collect()
}

fn relation_glob(text: &str, line: u64, report: &mut Report<'_>) -> Option<(Glob, Glob)> {
    let parts: Vec<&str> = text.split('.').collect();
    match parts.as_slice() {
        ["*"] => Some((Glob::new("*"), Glob::new("*"))),
        [schema, name] if !schema.is_empty() && !name.is_empty() => {
            if [schema, name].into_iter().any(|part| is_cut(part)) {
                report.add(
                    line,
                    format!("{text:?} can never match: the server cuts names after {LONGEST_NAME} bytes"),
                    "write the name as the server has it",
                );
            }
            Some((Glob::new(schema), Glob::new(name)))
        }
        _ => {
            report.add(
                line,
                format!("{text:?} is no relation"),
                "write schema.name, with * where you mean any",
            );
            None
        }
    }
}
