//! What of a statement outlives its answer.

use serde_json::{Map, Value};

/// What a statement leaves behind by a name, or draws from what another left behind. Who decides such a one anew after a change of
/// policy has to know which: FETCH and EXECUTE don't say what they read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lasting {
    /// It may leave a cursor: DECLARE, or code that can't be seen.
    pub cursor: bool,
    /// It may leave a prepared statement: PREPARE, or code that can't be seen.
    pub prepared: bool,
    /// What it leaves may outlive the transaction.
    pub beyond_transaction: bool,
    /// It runs what another one left: FETCH, MOVE, EXECUTE.
    pub draws: bool,
}

impl Lasting {
    /// Of what can't be told.
    pub(crate) const ANYTHING: Self = Self {
        draws: true,
        ..Self::CODE
    };

    /// Of code that can't be seen. What it draws itself, a rule allowed that names it.
    pub(super) const CODE: Self = Self {
        cursor: true,
        prepared: true,
        beyond_transaction: true,
        draws: false,
    };

    /// Whether it may leave anything.
    #[must_use]
    pub fn leaves(self) -> bool {
        self.cursor || self.prepared
    }

    #[must_use]
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            cursor: self.cursor || other.cursor,
            prepared: self.prepared || other.prepared,
            beyond_transaction: self.beyond_transaction || other.beyond_transaction,
            draws: self.draws || other.draws,
        }
    }

    /// Of one kind of statement, by itself.
    pub(super) fn of(kind: &str, fields: &Map<String, Value>) -> Self {
        match kind {
            "DeclareCursorStmt" => Self {
                cursor: true,
                beyond_transaction: holds(fields),
                ..Self::default()
            },
            "PrepareStmt" => Self {
                prepared: true,
                beyond_transaction: true,
                ..Self::default()
            },
            "FetchStmt" => Self {
                draws: true,
                ..Self::default()
            },
            "ExecuteStmt" => Self::ANYTHING,
            "DoStmt" | "CallStmt" | "LoadStmt" => Self::CODE,
            _ => Self::default(),
        }
    }
}

/// `WITH HOLD`: a bit of the grammar's `CursorOption`.
fn holds(declaration: &Map<String, Value>) -> bool {
    const HOLD: i64 = 0x20;
    declaration
        .get("options")
        .and_then(Value::as_i64)
        .is_none_or(|options| options & HOLD != 0)
}
