//! Expressions of rules, in CEL: what `when` says of a request and its body.
//!
//! The interpreter has no types. So what an expression names is looked at when it is loaded, and an error when it runs gives the strict
//! answer. What it can cost is bounded by what it is made of and how large the body is, before it runs.

mod check;
mod values;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bailiff_model::ApiRequest;
use cel::{Program, Value};

use super::body::ApiBody;
pub(crate) use check::Fault;
use check::{Cost, check};
pub(crate) use values::Bound;

/// An expression has at most so many characters.
const MAX_LENGTH: usize = 4096;

/// Brackets lie at most so deep in each other.
const MAX_NESTING: usize = 32;

/// Steps that an evaluation may take: some tenths of a second at most.
const MAX_STEPS: u64 = 2_000_000;

/// An expression that was looked at.
#[derive(Clone)]
pub(crate) struct Expression {
    source: Arc<str>,
    program: Arc<Program>,
    cost: Cost,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({:?})", self.source)
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Expression {}

impl Expression {
    /// Reads an expression.
    ///
    /// # Errors
    /// When it isn't one, names what there isn't, or could cost too much whatever it looks at. The operator is at fault.
    pub(crate) fn compile(source: &str) -> Result<Self, Fault> {
        if source.len() > MAX_LENGTH {
            return Err(Fault::new(
                format!("it is longer than {MAX_LENGTH} characters"),
                "write several rules",
            ));
        }
        if nesting(source) > MAX_NESTING {
            return Err(Fault::new(
                format!("its brackets lie more than {MAX_NESTING} deep in each other"),
                "write several rules",
            ));
        }
        // A parser that fails in an unforeseen way has read nothing.
        let parsed = catch_unwind(|| Program::compile(source)).ok();
        let program = match parsed {
            Some(Ok(program)) => program,
            Some(Err(errors)) => {
                let first = errors.errors.first();
                let why = first.map_or_else(String::new, |error| {
                    format!(" (column {}: {})", error.pos.1, error.msg)
                });
                return Err(Fault::new(
                    format!("it is no expression in CEL{why}"),
                    "see https://cel.dev for how they are written",
                ));
            }
            None => {
                return Err(Fault::new(
                    "it is no expression in CEL".to_owned(),
                    "see https://cel.dev for how they are written",
                ));
            }
        };
        let cost = check(program.expression())?;
        Ok(Self {
            source: Arc::from(source),
            program: Arc::new(program),
            cost,
        })
    }

    /// Whether it looks at bodies.
    pub(crate) fn is_about_object(&self) -> bool {
        self.cost.object
    }

    /// Whether it holds; `None` where that can't be told: an error, a body that isn't told, one that is too large for it.
    pub(crate) fn holds(&self, request: &ApiRequest, body: &ApiBody) -> Option<bool> {
        let run = |bound: &Bound| {
            if self.cost.steps(bound.size) > MAX_STEPS {
                return None;
            }
            // Uncertainty denies: whatever goes wrong, it isn't known whether it holds.
            let value = catch_unwind(AssertUnwindSafe(|| self.program.execute(&bound.context))).ok()?;
            match value {
                Ok(Value::Bool(holds)) => Some(holds),
                _ => None,
            }
        };
        match body {
            ApiBody::Untold(_) if self.cost.object => None,
            ApiBody::Told(facts) => run(facts.bound(request, body)),
            ApiBody::Untold(_) | ApiBody::Absent => run(&Bound::of(request, body, None)),
        }
    }
}

/// How deep brackets lie in each other. Those in texts count, too.
fn nesting(source: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in source.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

#[cfg(test)]
mod tests;
