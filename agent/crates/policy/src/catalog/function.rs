//! Functions, operators and casts.

use std::sync::Arc;

use super::{Name, Oid};

/// A function, procedure, aggregate or window function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its number.
    pub oid: Oid,
    /// Its schema's name.
    pub schema: Name,
    /// Its name.
    pub name: Name,
    /// What it is.
    pub kind: FunctionKind,
    /// Types of what it takes (IN, INOUT and VARIADIC).
    pub arguments: Vec<Oid>,
    /// Names of all parameters, those that it only gives included; empty where it has none.
    pub parameters: Vec<Name>,
    /// For each parameter its `proargmodes` letter (i, o, b, v, t) and type; empty where all are plain arguments.
    pub modes: Vec<(u8, Oid)>,
    /// How many of its last arguments may be left out.
    pub defaults: usize,
    /// Whether its last argument takes any number of values.
    pub variadic: bool,
    /// The type of what it gives.
    pub returns: Oid,
    /// Whether it gives rows.
    pub returns_set: bool,
    /// Its language: `internal`, `c`, `sql`, `plpgsql`, …
    pub language: Name,
    /// What it may depend on.
    pub volatility: Volatility,
    /// Whether it runs with its owner's rights.
    pub security_definer: bool,
    /// Whether it has settings of its own, and of them its search_path as written.
    pub settings: bool,
    /// Its own search_path, as written.
    pub search_path: Option<Name>,
    /// Of language `sql`, its body, and of a trigger's function in `plpgsql`. Names in it mean what they mean to its caller, or by [`search_path`](Self::search_path),
    /// unless [`body_is_bound`](Self::body_is_bound).
    pub body: Option<Arc<str>>,
    /// Whether the body was parsed when it was made (`BEGIN ATOMIC`, `RETURN`): then its names outside of `pg_catalog` are
    /// qualified.
    pub body_is_bound: bool,
}

impl Function {
    /// Whether it can be called with a number of arguments.
    #[must_use]
    pub fn takes(&self, arguments: usize) -> bool {
        let all = self.arguments.len();
        if self.variadic {
            arguments + 1 + self.defaults >= all
        } else {
            arguments <= all && arguments + self.defaults >= all
        }
    }

    /// Whether it came with the server, in `pg_catalog`, and is compiled code.
    #[must_use]
    pub fn is_built_in(&self) -> bool {
        self.oid.came_with_server()
            && *self.schema == *"pg_catalog"
            && matches!(&*self.language, "internal" | "c")
    }
}

/// Kinds of functions (`pg_proc.prokind`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FunctionKind {
    /// A plain function.
    Function,
    /// A procedure, for CALL.
    Procedure,
    /// An aggregate.
    Aggregate,
    /// A window function.
    Window,
}

impl FunctionKind {
    /// By the letter in the server's table; what this program doesn't know is a procedure, of which least can be said.
    #[must_use]
    pub fn from_letter(letter: u8) -> Self {
        match letter {
            b'f' => Self::Function,
            b'a' => Self::Aggregate,
            b'w' => Self::Window,
            _ => Self::Procedure,
        }
    }
}

/// What a function's result may depend on, as its maker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Volatility {
    /// On its arguments alone.
    Immutable,
    /// On tables and settings, too.
    Stable,
    /// On anything, and it may change things.
    Volatile,
}

impl Volatility {
    /// By the letter in the server's table; what this program doesn't know is volatile.
    #[must_use]
    pub fn from_letter(letter: u8) -> Self {
        match letter {
            b'i' => Self::Immutable,
            b's' => Self::Stable,
            _ => Self::Volatile,
        }
    }
}

/// An operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// Its number.
    pub oid: Oid,
    /// Its schema's name.
    pub schema: Name,
    /// Its name, such as `=`.
    pub name: Name,
    /// The type on its left; `None` for a prefix operator.
    pub left: Option<Oid>,
    /// The type on its right; `None` for a postfix operator, which servers before 14 have.
    pub right: Option<Oid>,
    /// The type of its result.
    pub result: Oid,
    /// The function that computes it.
    pub function: Oid,
}

/// A cast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cast {
    /// Its number.
    pub oid: Oid,
    /// The type that is cast.
    pub from: Oid,
    /// The type that it is cast to.
    pub to: Oid,
    /// The function that computes it; `None` where the types' own texts or bytes do.
    pub function: Option<Oid>,
}
