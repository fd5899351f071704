//! Columns of what FROM names.

use std::sync::Arc;

use super::Flow;

/// A column, or several.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// Its name; `None` where it may be any.
    pub(super) name: Option<Arc<str>>,
    pub(super) flow: Flow,
    /// Whether it stands for any number of columns.
    pub(super) many: bool,
    /// Of a view's column: whether computing it may fail for some masked values and not for others. It is only computed where it
    /// is used.
    pub(super) fails: bool,
    /// Of a row: its columns.
    pub(super) row: Option<Arc<[Entry]>>,
}

/// A relation, subquery or function by the name that FROM gives it.
#[derive(Debug, Clone)]
pub(super) struct Rte {
    pub(super) name: Arc<str>,
    pub(super) entries: Vec<Entry>,
}

/// A value of an expression.
#[derive(Debug, Clone)]
pub(super) struct Value {
    pub(super) flow: Flow,
    pub(super) row: Option<Arc<[Entry]>>,
}

impl From<Flow> for Value {
    fn from(flow: Flow) -> Self {
        Self { flow, row: None }
    }
}

impl Entry {
    pub(super) fn column(name: &str, flow: Flow) -> Self {
        Self {
            name: Some(Arc::from(name)),
            flow,
            many: false,
            fails: false,
            row: None,
        }
    }

    /// Any number of columns of any name.
    pub(super) fn several(flow: Flow) -> Self {
        Self {
            name: None,
            flow,
            many: true,
            fails: false,
            row: None,
        }
    }

    pub(super) fn is_named(&self, name: &str) -> bool {
        self.name.as_deref() == Some(name)
    }

    pub(super) fn value(&self) -> Value {
        Value {
            flow: self.flow,
            row: self.row.clone(),
        }
    }
}

/// What all of them together have to do with masked columns.
pub(super) fn all(entries: &[Entry]) -> Flow {
    entries
        .iter()
        .fold(Flow::Clean, |flow, entry| flow.join(entry.flow))
}

/// The row that several columns make.
pub(super) fn row_of(entries: &[Entry]) -> Value {
    Value {
        flow: all(entries).derived(),
        row: Some(entries.into()),
    }
}

/// Gives the first of them other names.
pub(super) fn renamed(mut entries: Vec<Entry>, names: &[&str]) -> Vec<Entry> {
    let first = entries.iter().position(|entry| entry.many);
    if first.is_some_and(|first| first < names.len()) {
        // Which of them the names are for can't be told.
        let flow = all(&entries);
        let mut all: Vec<Entry> = names.iter().map(|name| Entry::column(name, flow)).collect();
        all.push(Entry::several(flow));
        return all;
    }
    for (entry, name) in entries.iter_mut().zip(names) {
        entry.name = Some(Arc::from(*name));
    }
    entries
}
