//! What an expression is made of: names that there are, and a cost that has a bound.

use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, LiteralValue, SelectExpr};
use cel::{IdedExpr, Program};

use super::values::REQUEST;

/// Why an expression isn't taken, and what would mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) reason: String,
    pub(crate) mend: String,
}

impl Fault {
    pub(super) fn new(reason: String, mend: impl Into<String>) -> Self {
        Self {
            reason,
            mend: mend.into(),
        }
    }
}

/// What it costs to evaluate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cost {
    /// Parts of the expression, weighted.
    parts: u64,
    /// How often the whole of a body may be gone over for each of its values.
    degree: u32,
    /// Whether it looks at bodies.
    pub(super) object: bool,
}

impl Cost {
    /// Steps that it may take over so many values.
    pub(super) fn steps(&self, size: u64) -> u64 {
        self.parts.saturating_mul(size.max(1).saturating_pow(self.degree))
    }
}

/// Operators and functions, with their numbers of arguments; of what is called on something that counts as one.
const FUNCTIONS: [(&str, usize); 27] = [
    ("_?_:_", 3),
    ("_&&_", 2),
    ("_||_", 2),
    ("!_", 1),
    ("-_", 1),
    ("_-_", 2),
    ("_+_", 2),
    ("_*_", 2),
    ("_/_", 2),
    ("_%_", 2),
    ("_==_", 2),
    ("_!=_", 2),
    ("_>=_", 2),
    ("_<=_", 2),
    ("_>_", 2),
    ("_<_", 2),
    ("_[_]", 2),
    ("@in", 2),
    ("@not_strictly_false", 1),
    ("size", 1),
    ("int", 1),
    ("double", 1),
    ("string", 1),
    ("contains", 2),
    ("startsWith", 2),
    ("endsWith", 2),
    ("matches", 2),
];

/// Those that are called on a text.
const OF_TEXTS: [&str; 4] = ["contains", "startsWith", "endsWith", "matches"];

/// What a pattern's compilation counts for.
const PATTERN: u64 = 500;

/// A pattern has at most so many characters.
const MAX_PATTERN: usize = 256;

/// Parts that an expression may have.
const MAX_PARTS: u64 = 20_000;

/// What `all`, `exists`, `exists_one` and `filter` collect in.
const ACCUMULATOR: &str = "@result";

/// Looks at a whole expression.
pub(super) fn check(expression: &IdedExpr) -> Result<Cost, Fault> {
    let mut checker = Checker {
        variables: Vec::new(),
        parts: 0,
        object: false,
        request: false,
    };
    let degree = checker.expression(expression)?;
    if !checker.object && !checker.request {
        return Err(Fault::new(
            "it is the same for every request".to_owned(),
            "look at `object` or `request`",
        ));
    }
    if checker.parts > MAX_PARTS {
        return Err(Fault::new(
            "it has too many parts".to_owned(),
            "write several rules",
        ));
    }
    Ok(Cost {
        parts: checker.parts,
        degree,
        object: checker.object,
    })
}

struct Checker<'e> {
    /// Of the loops that this lies in, the innermost last.
    variables: Vec<&'e str>,
    parts: u64,
    object: bool,
    request: bool,
}

impl<'e> Checker<'e> {
    /// Returns the expression's degree.
    fn expression(&mut self, expression: &'e IdedExpr) -> Result<u32, Fault> {
        self.parts += 1;
        match &expression.expr {
            Expr::Literal(_) => Ok(0),
            Expr::Ident(name) => self.ident(name),
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(call),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::List(list) => {
                let collected = |element: &IdedExpr| match &element.expr {
                    Expr::Literal(_) => true,
                    Expr::Ident(name) => self.variables.last() == Some(&name.as_str()),
                    _ => false,
                };
                if !list.optional_indices.is_empty() || !list.elements.iter().all(collected) {
                    return Err(Fault::new(
                        "lists are of plain texts, numbers and booleans, and there is no `map`".to_owned(),
                        "use all, exists, exists_one or filter",
                    ));
                }
                self.parts += list.elements.len() as u64;
                Ok(0)
            }
            Expr::Map(_) | Expr::Struct(_) | Expr::Unspecified => Err(Fault::new(
                "it makes an object, and there is nothing to do with one".to_owned(),
                "look at `object` and `request`",
            )),
        }
    }

    fn ident(&mut self, name: &str) -> Result<u32, Fault> {
        match name {
            "object" => self.object = true,
            "request" => {
                return Err(Fault::new(
                    "`request` stands alone".to_owned(),
                    format!("name what of it you mean: request.{}", REQUEST.join(", request.")),
                ));
            }
            ACCUMULATOR => {}
            name if self.variables.contains(&name) => {}
            name => {
                return Err(Fault::new(
                    format!("there is no {name:?}"),
                    "there are `object`, `request` and the variables of all, exists, exists_one and filter",
                ));
            }
        }
        Ok(0)
    }

    fn select(&mut self, select: &'e SelectExpr) -> Result<u32, Fault> {
        let of_request = matches!(&select.operand.expr, Expr::Ident(name) if name == "request");
        if !of_request || self.variables.contains(&"request") {
            return self.expression(&select.operand);
        }
        self.request = true;
        if REQUEST.contains(&select.field.as_str()) {
            return Ok(0);
        }
        Err(Fault::new(
            format!("there is no `request.{}`", select.field),
            format!("there are request.{}", REQUEST.join(", request.")),
        ))
    }

    fn call(&mut self, call: &'e CallExpr) -> Result<u32, Fault> {
        let name = call.func_name.as_str();
        let count = call.args.len() + usize::from(call.target.is_some());
        let Some((_, needs)) = FUNCTIONS.iter().find(|(known, _)| *known == name) else {
            return Err(Fault::new(
                format!("there is no function {name:?}"),
                "there are has, all, exists, exists_one, filter, size, int, double, string, contains, startsWith, endsWith and matches",
            ));
        };
        let of_text = OF_TEXTS.contains(&name);
        if count != *needs || of_text && call.target.is_none() {
            let form = match name {
                _ if of_text => format!("write text.{name}(\"…\")"),
                _ => format!("write {name}(…)"),
            };
            return Err(Fault::new(
                format!("{name:?} is called with too much or too little"),
                form,
            ));
        }
        if name == "matches" {
            self.pattern(call)?;
        }
        let operands: Vec<&IdedExpr> = call.target.as_deref().into_iter().chain(&call.args).collect();
        let mut degree = 0;
        for operand in &operands {
            degree = degree.max(self.expression(operand)?);
        }
        // These go over what they are given, and that may be all of the body: each time, unless it is another part of it each time.
        let goes_over = of_text
            || matches!(
                name,
                "_==_" | "_!=_" | "_+_" | "@in" | "string" | "int" | "double"
            );
        let compares = matches!(name, "_==_" | "_!=_") && operands.iter().any(|operand| is_literal(operand));
        let listed = name == "@in"
            && call
                .args
                .last()
                .is_some_and(|list| matches!(list.expr, Expr::List(_)));
        if goes_over && !compares && !listed && !operands.iter().all(|operand| self.is_bounded(operand)) {
            degree += 1;
        }
        Ok(degree)
    }

    fn pattern(&mut self, call: &CallExpr) -> Result<(), Fault> {
        let text = match call.args.first().map(|argument| &argument.expr) {
            Some(Expr::Literal(LiteralValue::String(text))) => text.inner().to_owned(),
            _ => {
                return Err(Fault::new(
                    "`matches` takes its pattern from somewhere else".to_owned(),
                    "write the pattern there: text.matches(\"^a+$\")",
                ));
            }
        };
        self.parts += PATTERN;
        let quoted = serde_json::to_string(&text).unwrap_or_default();
        let tried = Program::compile(&format!("''.matches({quoted})"))
            .ok()
            .map(|program| program.execute(&cel::Context::default()));
        if text.len() > MAX_PATTERN || !matches!(tried, Some(Ok(_))) {
            return Err(Fault::new(
                format!("{text:?} is no pattern, or larger than can be looked for"),
                "write a regular expression of at most 256 characters",
            ));
        }
        Ok(())
    }

    fn comprehension(&mut self, comprehension: &'e ComprehensionExpr) -> Result<u32, Fault> {
        if comprehension.iter_var2.is_some() || comprehension.accu_var != ACCUMULATOR {
            return Err(Fault::new(
                "it has a loop of another kind".to_owned(),
                "use all, exists, exists_one or filter with one variable",
            ));
        }
        let name = comprehension.iter_var.as_str();
        if matches!(name, "object" | "request") || self.variables.contains(&name) {
            return Err(Fault::new(
                format!("the variable {name:?} hides another"),
                "give it another name",
            ));
        }
        // What lies in one element is gone over once for all of them.
        let within = !self.variables.is_empty() && self.is_bounded(&comprehension.iter_range);
        let range = self.expression(&comprehension.iter_range)?;
        self.variables.push(name);
        let mut inner = 0;
        for part in [
            &comprehension.accu_init,
            &comprehension.loop_cond,
            &comprehension.loop_step,
            &comprehension.result,
        ] {
            inner = inner.max(self.expression(part)?);
        }
        self.variables.pop();
        Ok(range.max(inner + u32::from(!within)))
    }

    /// Whether it is small, or a part of the element that the innermost loop is at.
    fn is_bounded(&self, expression: &IdedExpr) -> bool {
        match &expression.expr {
            Expr::Literal(_) | Expr::List(_) => true,
            Expr::Ident(name) => self.variables.last() == Some(&name.as_str()) || name == ACCUMULATOR,
            Expr::Select(select) => {
                matches!(&select.operand.expr, Expr::Ident(name) if name == "request")
                    || self.is_bounded(&select.operand)
            }
            Expr::Call(call) if call.func_name == "_[_]" => {
                call.args.first().is_some_and(|operand| self.is_bounded(operand))
            }
            Expr::Call(call) if matches!(call.func_name.as_str(), "size" | "int" | "double") => true,
            _ => false,
        }
    }
}

fn is_literal(expression: &IdedExpr) -> bool {
    matches!(&expression.expr, Expr::Literal(_))
}
