//! Operations under way: what was decided about them, and what has been seen of their answers.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bailiff_model::SqlEffect;
use bailiff_policy::{Classified, Ruling};

use crate::mask::{Columns, Formats};
use crate::record::{Bound, Outcome};

/// A statement's text as it came. Shared, since a prepared statement runs many times and the recorder's thread reads it too.
pub(crate) type Text = Arc<[u8]>;

/// A statement that was prepared and allowed.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// Its text.
    pub(crate) text: Text,
    /// What it does; `None` where that can't be told.
    pub(crate) classified: Option<Arc<Classified>>,
    /// What was decided about it. Where that has changed, it is [replaced](Self::decided_anew).
    pub(crate) ruling: Arc<Ruling>,
    /// The decider's epoch at that time.
    pub(crate) epoch: u64,
    /// Its result's columns, once the server has told them and where some are masked.
    pub(crate) columns: RefCell<Option<Rc<Columns>>>,
    /// What the record needs to read its values and rows.
    pub(crate) told: RefCell<Told>,
}

/// What clients and server have told of a statement's parameters and columns; kept only where policy asks for values or rows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    /// Types of its parameters, by number; 0 where one isn't known.
    pub(crate) types: Option<Arc<[u32]>>,
    /// The body of its RowDescription.
    pub(crate) columns: Option<Arc<[u8]>>,
}

impl Prepared {
    /// A statement that was just decided.
    pub(crate) fn new(
        text: Text,
        classified: Option<Arc<Classified>>,
        ruling: Arc<Ruling>,
        epoch: u64,
    ) -> Rc<Self> {
        Rc::new(Self {
            text,
            classified,
            ruling,
            epoch,
            columns: RefCell::default(),
            told: RefCell::default(),
        })
    }

    /// Whether its columns are those of a description, which it was told before.
    pub(crate) fn has_columns_of(&self, description: &[u8]) -> bool {
        let columns = self.columns.borrow();
        columns
            .as_ref()
            .is_some_and(|columns| columns.are_of(description))
    }

    /// The same statement under another decision. What is under way goes on under the one before.
    pub(crate) fn decided_anew(&self, ruling: Arc<Ruling>, epoch: u64) -> Rc<Self> {
        let anew = Self::new(Arc::clone(&self.text), self.classified.clone(), ruling, epoch);
        *anew.told.borrow_mut() = self.told.borrow().clone();
        anew
    }
}

impl Portal {
    /// Memory that its values take, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.bound.as_ref().map_or(0, |bound| bound.held())
    }
}

/// One operation from its decision to the end of its answer.
#[derive(Debug)]
pub(crate) struct Running {
    /// The statement's text.
    pub(crate) text: Text,
    /// What was decided.
    pub(crate) ruling: Arc<Ruling>,
    /// Whether it came as a simple query, so that ReadyForQuery ends it.
    simple: bool,
    /// When its message had been read.
    pub(crate) began: Instant,
    /// How long the decision took, in nanoseconds.
    pub(crate) decided_ns: u64,
    /// Length of its message.
    pub(crate) bytes_in: u64,
    /// Length of its answer so far.
    pub(crate) bytes_out: u64,
    /// Rows as the server counts them.
    pub(crate) rows: u64,
    /// Rows that came since the server last told a count: all that is known of a result that ends without one.
    pub(crate) uncounted: u64,
    /// Values that were masked.
    pub(crate) masked: u64,
    /// The error that ended it.
    pub(crate) sqlstate: Option<[u8; 5]>,
    /// How it came to its end.
    pub(crate) outcome: Outcome,
    /// Which of its result's columns are masked.
    pub(crate) columns: Option<Rc<Columns>>,
    /// In which formats they come.
    pub(crate) formats: Formats,
    /// Whether its answer is looked at for the record.
    pub(crate) watched: bool,
    /// The portal that it runs, where the record is to have values or rows.
    pub(crate) portal: Option<Box<Portal>>,
}

/// What a portal was made of.
#[derive(Debug)]
pub(crate) struct Portal {
    pub(crate) prepared: Rc<Prepared>,
    pub(crate) bound: Option<Arc<Bound>>,
}

impl Running {
    /// An operation that was just decided.
    pub(crate) fn new(text: Text, ruling: Arc<Ruling>, began: Instant, bytes_in: usize) -> Self {
        let watched = ruling.recording().watches_answer();
        Self {
            text,
            ruling,
            simple: false,
            began,
            decided_ns: u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX),
            bytes_in: bytes_in as u64,
            bytes_out: 0,
            rows: 0,
            uncounted: 0,
            masked: 0,
            sqlstate: None,
            outcome: Outcome::Answered,
            columns: None,
            formats: Formats::AsTold,
            watched,
            portal: None,
        }
    }

    /// Takes the server's count of what was done or came since the last one.
    pub(crate) fn counted(&mut self, rows: u64) {
        self.rows += rows;
        self.uncounted = 0;
    }

    /// The same, with what the record needs of the portal that it runs.
    pub(crate) fn of_portal(mut self, prepared: &Rc<Prepared>, bound: Option<Arc<Bound>>) -> Self {
        if self.ruling.recording().keeps_values() {
            self.portal = Some(Box::new(Portal {
                prepared: Rc::clone(prepared),
                bound,
            }));
        }
        self
    }

    /// The same, as a simple query or function call.
    pub(crate) fn simple(self) -> Self {
        Self { simple: true, ..self }
    }

    /// Whether ReadyForQuery ends it.
    pub(crate) fn is_simple(&self) -> bool {
        self.simple
    }

    /// Whether bulk data may be a part of it.
    pub(crate) fn may_copy(&self) -> bool {
        [SqlEffect::Copy, SqlEffect::Replication, SqlEffect::Unknown]
            .into_iter()
            .any(|effect| self.ruling.effects().contains(effect))
    }
}
