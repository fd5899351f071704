//! What a session's statements left behind: cursors and prepared statements of SQL.
//!
//! FETCH and EXECUTE don't say what they read. What they run was decided when it was declared; once the policy has changed, it has to
//! be decided anew, or a cursor from before would go on giving what no longer may be read, or not unmasked.

use std::sync::Arc;

use bailiff_policy::{Classified, Ruling};

use super::cache::Meaning;

/// More texts than that, or longer ones, aren't told apart.
const MOST: usize = 256;
const MOST_BYTES: usize = 1024 * 1024;

/// Statements that left something, by what they do. Which of it is still there isn't followed closely: a cursor that was closed
/// counts until its transaction ends.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    statements: Vec<(Arc<Classified>, bool)>,
    /// Something was left of which it isn't known what.
    unknown: bool,
    /// The epoch for which `denied` holds.
    decided: Option<u64>,
    denied: Option<Arc<Ruling>>,
}

impl Kept {
    /// Notes a statement that was allowed and may leave something behind.
    pub(crate) fn note(&mut self, meaning: &Meaning, epoch: u64, beyond_transaction: bool) {
        if self.is_empty() {
            (self.decided, self.denied) = (Some(epoch), None);
        }
        let Some(classified) = meaning else {
            self.unknown = true;
            return;
        };
        let known = self
            .statements
            .iter()
            .rev()
            .any(|(kept, _)| Arc::ptr_eq(kept, classified));
        if known {
            return;
        }
        let bytes: usize = self.statements.iter().map(|(kept, _)| kept.length()).sum();
        if self.statements.len() < MOST && bytes + classified.length() <= MOST_BYTES {
            self.statements.push((Arc::clone(classified), beyond_transaction));
        } else {
            self.unknown = true;
        }
    }

    /// Why what is left must not be run any more, if it mustn't. `rule` decides by what holds in this epoch.
    pub(crate) fn denied(
        &mut self,
        epoch: u64,
        mut rule: impl FnMut(&Meaning) -> Arc<Ruling>,
    ) -> Option<Arc<Ruling>> {
        if self.is_empty() {
            return None;
        }
        if self.decided != Some(epoch) {
            self.decided = Some(epoch);
            // A result that has to be masked can't be, since nothing says that a FETCH gives it.
            let usable = |ruling: &Ruling| ruling.denial().is_none() && ruling.mask_plan().is_none();
            let (statements, unknown) = (&self.statements, self.unknown);
            self.denied = statements
                .iter()
                .map(|(classified, _)| Some(Arc::clone(classified)))
                .chain(unknown.then_some(None))
                .map(|meaning| rule(&meaning))
                .find(|ruling| !usable(ruling));
        }
        self.denied.clone()
    }

    /// Forgets what went with the transaction.
    pub(crate) fn transaction_ended(&mut self) {
        if !self.statements.is_empty() {
            let before = self.statements.len();
            self.statements.retain(|(_, beyond)| *beyond);
            if self.statements.len() < before && self.denied.is_some() {
                // Whose denial it was isn't known.
                self.decided = None;
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.statements.is_empty() && !self.unknown
    }
}
