//! Chains that have beginnings in common, as one tree.

use std::fmt::Write as _;

use bailiff_model::{Ancestor, Chain, Evidence, HopKind, PodInfo, ProcessId, ProcessInfo};

use super::arguments;
use crate::cli::sessions::{Out, Paint, folded, plain};

/// Letters of a process's arguments that are shown.
const LETTERS: usize = 160;

/// Hops and processes, each below whoever led to it.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) nodes: Vec<Node>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Node {
    key: Key,
    /// In one line, safe for a terminal.
    pub(super) text: String,
    /// How it is known.
    pub(super) grade: &'static str,
    pub(super) below: Vec<Node>,
}

#[derive(Debug, PartialEq, Eq)]
enum Key {
    Pod(String),
    Process(ProcessId),
    Gap,
    Other(String),
}

impl Tree {
    pub(super) fn of(chains: &[Chain]) -> Self {
        let mut tree = Self::default();
        for chain in chains {
            tree.add(chain);
        }
        tree
    }

    /// Nothing is ever `None` here: what was placed is there.
    fn add(&mut self, chain: &Chain) -> Option<()> {
        let mut level = &mut self.nodes;
        for hop in chain.hops() {
            let grade = match hop.evidence {
                Evidence::Observed => "observed",
                Evidence::Owned => "owned",
                Evidence::Unobserved => "unobserved",
            };
            match &hop.kind {
                HopKind::Pod { pod, process } => {
                    level = place(level, Key::Pod(pod.uid.to_string()), || told_of_pod(pod), grade)?;
                    if let Some(process) = process {
                        level = descend(level, process)?;
                    }
                }
                HopKind::Unknown { why } => {
                    let told = || format!("somebody unknown: {}", plain(why));
                    level = place(level, Key::Other(why.clone()), told, grade)?;
                }
            }
        }
        Some(())
    }

    pub(super) fn print(&self, out: &mut Out) {
        for node in &self.nodes {
            node.print(out, "", "");
        }
    }
}

impl Node {
    fn print(&self, out: &mut Out, first: &str, rest: &str) {
        let paint = match self.grade {
            "observed" => Paint::Dim,
            _ => Paint::Yellow,
        };
        let grade = out.paint(paint, &format!("[{}]", self.grade));
        out.line(&format!("{first}{} {grade}", self.text));
        let last = self.below.len().saturating_sub(1);
        for (place, node) in self.below.iter().enumerate() {
            let (branch, next) = if place == last {
                ("└─ ", "   ")
            } else {
                ("├─ ", "│  ")
            };
            node.print(out, &format!("{rest}{branch}"), &format!("{rest}{next}"));
        }
    }
}

/// What is below one, which is added where it isn't there yet.
fn place<'a>(
    level: &'a mut Vec<Node>,
    key: Key,
    told: impl FnOnce() -> String,
    grade: &'static str,
) -> Option<&'a mut Vec<Node>> {
    let found = level.iter().position(|node| node.key == key);
    let found = found.unwrap_or_else(|| {
        level.push(Node {
            key,
            text: told(),
            grade,
            below: Vec::new(),
        });
        level.len() - 1
    });
    level.get_mut(found).map(|node| &mut node.below)
}

/// A process below its ancestors.
fn descend<'a>(mut level: &'a mut Vec<Node>, process: &ProcessInfo) -> Option<&'a mut Vec<Node>> {
    let ancestry = &process.ancestry;
    if !ancestry.complete {
        let told = || "whoever came before: nobody saw it".to_owned();
        level = place(level, Key::Gap, told, "unobserved")?;
    }
    for ancestor in ancestry.processes.iter().rev() {
        let told = || told_of_ancestor(ancestor);
        level = place(level, Key::Process(ancestor.id), told, graded(ancestor.found))?;
    }
    let told = || told_of_process(process);
    place(level, Key::Process(process.id), told, graded(false))
}

/// How a process is known whose start was seen, or not.
fn graded(found: bool) -> &'static str {
    if found { "found running" } else { "observed" }
}

fn told_of_pod(pod: &PodInfo) -> String {
    format!(
        "pod {}/{} as service account {}",
        plain(&pod.namespace),
        plain(&pod.name),
        plain(&pod.service_account)
    )
}

fn told_of_ancestor(ancestor: &Ancestor) -> String {
    let program = ancestor.executable.as_deref().unwrap_or("?");
    let mut told = format!("{} {}", ancestor.id.tgid, plain(program));
    if ancestor.ended {
        told.push_str(" (ended)");
    } else {
        add_arguments(&mut told, ancestor.id);
    }
    told
}

fn told_of_process(process: &ProcessInfo) -> String {
    let program = process.executable.as_deref().unwrap_or(&process.comm);
    let mut told = format!("{} {}", process.id.tgid, plain(program));
    let mut facts = Vec::new();
    if let Some(container) = &process.container {
        facts.push(format!("container {}", plain(container)));
    }
    if process.uid != u32::MAX {
        facts.push(format!("uid {}", process.uid));
    }
    if !facts.is_empty() {
        // Writing into a text can't fail.
        let _ = write!(told, " ({})", facts.join(", "));
    }
    add_arguments(&mut told, process.id);
    told
}

fn add_arguments(told: &mut String, id: ProcessId) {
    if let Some(arguments) = arguments::of(id) {
        let _ = write!(told, ": {}", folded(&plain(&arguments), LETTERS));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bailiff_model::{Ancestry, CgroupId, Hop, Mode, PodUid};

    use super::*;

    /// No process of this machine has such a number.
    fn id(number: u32) -> ProcessId {
        ProcessId {
            tgid: number + 1_000_000_000,
            start_ns: u64::from(number),
        }
    }

    fn chain(number: u32, ancestors: &[u32], complete: bool) -> Chain {
        let ancestor = |number: &u32| Ancestor {
            id: id(*number),
            executable: Some(format!("/bin/p{number}")),
            ended: *number == 1,
            found: false,
        };
        let pod = PodInfo {
            namespace: "ci".to_owned(),
            name: "runner".to_owned(),
            uid: PodUid::new("u"),
            service_account: "sa".to_owned(),
            labels: Default::default(),
            mode: Mode::Enforce,
        };
        Chain::of_caller(Hop {
            kind: HopKind::Pod {
                pod: Arc::new(pod),
                process: Some(ProcessInfo {
                    id: id(number),
                    uid: 0,
                    gid: 0,
                    comm: format!("p{number}"),
                    executable: None,
                    cgroup: CgroupId(1),
                    container: None,
                    ancestry: Ancestry {
                        processes: ancestors.iter().map(ancestor).collect(),
                        complete,
                    },
                }),
            },
            evidence: Evidence::Observed,
        })
    }

    fn lines(nodes: &[Node], depth: usize, all: &mut Vec<String>) {
        for node in nodes {
            all.push(format!("{}{} [{}]", " ".repeat(depth), node.text, node.grade));
            lines(&node.below, depth + 1, all);
        }
    }

    #[test]
    fn what_chains_have_in_common_stands_once() {
        let chains = [
            chain(1, &[], true),
            chain(3, &[2, 1], true),
            chain(4, &[2, 1], true),
            chain(9, &[8], false),
        ];
        let mut told = Vec::new();
        lines(&Tree::of(&chains).nodes, 0, &mut told);
        assert_eq!(
            told,
            [
                "pod ci/runner as service account sa [observed]",
                " 1000000001 p1 (uid 0) [observed]",
                "  1000000002 /bin/p2 [observed]",
                "   1000000003 p3 (uid 0) [observed]",
                "   1000000004 p4 (uid 0) [observed]",
                " whoever came before: nobody saw it [unobserved]",
                "  1000000008 /bin/p8 [observed]",
                "   1000000009 p9 (uid 0) [observed]",
            ]
        );
    }
}
