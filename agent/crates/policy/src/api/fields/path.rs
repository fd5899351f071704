//! Paths to fields, as policies write them.

use std::fmt;

use crate::glob::Glob;

/// `data.*`, `spec.template.**.env.value`, `metadata.annotations["example.com/token"]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldPath {
    written: String,
    steps: Vec<Step>,
}

/// A step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// To a member.
    Key(Glob),
    /// To any member, and so on, or to none.
    AnyDepth,
}

/// Why a text is no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathProblem {
    #[error("has an empty step")]
    Empty,
    #[error("names an element of a list by its place, which anybody can change")]
    Index,
    #[error("has a bracket or quote that isn't closed")]
    Open,
    #[error("masks everything, what objects are called by included")]
    Everything,
    #[error("names what says which object it is, which is never masked")]
    Identity,
}

impl FieldPath {
    pub(crate) fn parse(text: &str) -> Result<Self, PathProblem> {
        let mut steps = Vec::new();
        let mut rest = text.strip_prefix('.').unwrap_or(text);
        loop {
            rest = match rest.strip_prefix('[') {
                Some(bracket) => after_bracket(bracket, &mut steps)?,
                None => {
                    let end = rest.find(['.', '[']).unwrap_or(rest.len());
                    let (key, after) = rest.split_at(end);
                    match key {
                        "" => return Err(PathProblem::Empty),
                        "**" => {
                            // Two of them say no more than one.
                            if steps.last() != Some(&Step::AnyDepth) {
                                steps.push(Step::AnyDepth);
                            }
                        }
                        key if key.contains(['"', '\'', ']']) => return Err(PathProblem::Open),
                        key => steps.push(Step::Key(Glob::new(key))),
                    }
                    after
                }
            };
            if rest.is_empty() {
                break;
            }
            if let Some(next) = rest.strip_prefix('.') {
                rest = next;
            } else if !rest.starts_with('[') {
                return Err(PathProblem::Open);
            }
        }
        let named = |step: &Step| match step {
            Step::Key(glob) => !glob.is_any(),
            Step::AnyDepth => false,
        };
        if !steps.iter().any(named) {
            return Err(PathProblem::Everything);
        }
        let path = Self {
            written: text.to_owned(),
            steps,
        };
        if path.is_identity() {
            return Err(PathProblem::Identity);
        }
        Ok(path)
    }

    pub(crate) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether it begins with this member, and perhaps with others.
    pub(super) fn begins_at(&self, key: &str) -> bool {
        matches!(self.steps.first(), Some(Step::Key(glob)) if glob.matches(key))
    }

    /// Whether it only names what is never masked, so that it would hide nothing.
    fn is_identity(&self) -> bool {
        match self.steps.as_slice() {
            [Step::Key(root)] => super::IDENTITY.contains(&root.as_str()),
            [Step::Key(metadata), Step::Key(key), ..] => {
                metadata.as_str() == "metadata" && super::METADATA_IDENTITY.contains(&key.as_str())
            }
            _ => false,
        }
    }

    /// Whether no column of a built-in kind's table shows it.
    pub(super) fn is_never_printed(&self) -> bool {
        let literal = |at: usize| match self.steps.get(at) {
            Some(Step::Key(glob)) => glob.as_str(),
            _ => "",
        };
        matches!(literal(0), "data" | "stringData" | "binaryData")
            || literal(0) == "metadata" && literal(1) == "annotations"
            || (0..self.steps.len()).any(|at| literal(at) == "env")
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

/// `*]` is the elements of a list, which paths pass through anyway; `"key"]` is a member, whatever its name has in it.
fn after_bracket<'a>(text: &'a str, steps: &mut Vec<Step>) -> Result<&'a str, PathProblem> {
    if let Some(after) = text.strip_prefix("*]") {
        return Ok(after);
    }
    let Some(quote) = text.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
        return Err(match text.split_once(']') {
            Some((index, _)) if index.bytes().all(|byte| byte.is_ascii_digit()) => PathProblem::Index,
            _ => PathProblem::Open,
        });
    };
    let quoted = text.get(1..).unwrap_or_default();
    let (key, after) = quoted.split_once(quote).ok_or(PathProblem::Open)?;
    if key.is_empty() {
        return Err(PathProblem::Empty);
    }
    steps.push(Step::Key(Glob::new(key)));
    after.strip_prefix(']').ok_or(PathProblem::Open)
}
