//! What the client's names stand for: prepared statements and portals.
//!
//! A name is noted when the message that gives it is passed on, before the server has answered. Three things could make it stand
//! for something else than the server takes it for, and so have a statement masked or recorded as another:
//!
//! - The message fails, or is skipped after an error. Then what it did here is [taken back](Names::undo). Until that is known,
//!   which is at the ReadyForQuery of the part of the pipeline that it stood in, a name is [unsettled](Found::Unsettled) for
//!   messages of later parts, and they wait. Messages of the same part are skipped along with it.
//! - SQL gave the name away: PREPARE and DECLARE share their names with Parse and Bind. Such a name isn't [sure](Entry::sure).
//! - The transaction ended, and its portals with it.

use std::rc::Rc;
use std::sync::Arc;

use foldhash::HashMap;

use super::operation::Prepared;
use crate::mask::Formats;
use crate::record::Bound;

/// Of which kind a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A prepared statement's.
    Statement,
    /// A portal's.
    Portal,
}

/// What a name stands for.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) prepared: Rc<Prepared>,
    /// The values bound to a portal, where policy asks for them.
    pub(crate) bound: Option<Arc<Bound>>,
    /// In which formats a portal's columns come.
    pub(crate) formats: Formats,
    /// In which part of the pipeline it was named.
    part: u64,
    /// How many statements of SQL may have named something of this kind before.
    by_sql: u64,
    /// Whether what it was made from was sure.
    from_sure: bool,
}

/// What is known of a name.
pub(crate) enum Found<'a> {
    /// Nothing.
    Nothing,
    /// It was named in an earlier part of the pipeline, which may yet fail: wait until that part is over.
    Unsettled(u64),
    /// What it stands for, and whether that is sure: not where SQL may have given the name to something else.
    Known(&'a mut Entry, bool),
}

/// What a message did to a name, so that it can be taken back.
#[derive(Debug)]
pub(crate) struct Change {
    kind: Kind,
    name: Box<[u8]>,
    part: u64,
    before: Option<Entry>,
}

/// How far a pipeline has come. Its parts end with Sync, or are a simple query each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The part that the client is sending.
    pub(crate) current: u64,
    /// The first part that isn't over.
    pub(crate) unsettled: u64,
}

/// All names of a session.
#[derive(Debug, Default)]
pub(crate) struct Names {
    statements: Space,
    portals: Space,
}

#[derive(Debug, Default)]
struct Space {
    entries: HashMap<Vec<u8>, Entry>,
    /// How many statements of SQL may have named something here.
    by_sql: u64,
    /// Memory that the entries take, in bytes.
    held: usize,
}

impl Entry {
    /// Roughly the memory that it takes, in bytes. A text that several names stand for counts for each.
    fn size(&self, name: &[u8]) -> usize {
        let bound = self.bound.as_ref().map_or(0, |bound| bound.held());
        256 + name.len() + self.prepared.text.len() + bound
    }
}

impl Names {
    /// What a name stands for.
    pub(crate) fn find(&mut self, kind: Kind, name: &[u8], progress: Progress) -> Found<'_> {
        let space = self.space(kind);
        match space.entries.get_mut(name) {
            None => Found::Nothing,
            Some(entry) if entry.part != progress.current && entry.part >= progress.unsettled => {
                Found::Unsettled(entry.part)
            }
            Some(entry) => {
                let sure = entry.from_sure && (name.is_empty() || entry.by_sql == space.by_sql);
                Found::Known(entry, sure)
            }
        }
    }

    /// The part that must be over before a name may be given or taken away. The unnamed ones needn't wait: they may always be
    /// named anew, and are forgotten where that is taken back.
    pub(crate) fn unsettled(&self, kind: Kind, name: &[u8], progress: Progress) -> Option<u64> {
        if name.is_empty() {
            return None;
        }
        let space = match kind {
            Kind::Statement => &self.statements,
            Kind::Portal => &self.portals,
        };
        let part = space.entries.get(name)?.part;
        (part != progress.current && part >= progress.unsettled).then_some(part)
    }

    /// Whether there are as many of a kind as there may be, and none of this name.
    pub(crate) fn is_full(&self, kind: Kind, name: &[u8], most: usize) -> bool {
        let entries = match kind {
            Kind::Statement => &self.statements.entries,
            Kind::Portal => &self.portals.entries,
        };
        entries.len() >= most && !entries.contains_key(name)
    }

    /// Roughly the memory that they take, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.statements.held + self.portals.held
    }

    /// Gives a name. `from_sure` is false where it is made from something that isn't sure.
    pub(crate) fn set(
        &mut self,
        kind: Kind,
        name: &[u8],
        prepared: Rc<Prepared>,
        from_sure: bool,
        progress: Progress,
    ) -> Change {
        let space = self.space(kind);
        let entry = Entry {
            prepared,
            bound: None,
            formats: Formats::AsTold,
            part: progress.current,
            by_sql: space.by_sql,
            from_sure,
        };
        let before = space.set(name, entry);
        Change::new(kind, name, before, progress)
    }

    /// Notes the formats in which a portal's columns come.
    pub(crate) fn formats(&mut self, portal: &[u8], formats: Formats) {
        if let Some(entry) = self.portals.entries.get_mut(portal) {
            entry.formats = formats;
        }
    }

    /// Notes the values that were bound to a portal.
    pub(crate) fn bind(&mut self, portal: &[u8], bound: Bound) {
        let Space { entries, held, .. } = &mut self.portals;
        if let Some(entry) = entries.get_mut(portal) {
            *held -= entry.size(portal);
            entry.bound = Some(Arc::new(bound));
            *held += entry.size(portal);
        }
    }

    /// Takes a name away.
    pub(crate) fn remove(&mut self, kind: Kind, name: &[u8], progress: Progress) -> Change {
        let before = self.space(kind).remove(name);
        Change::new(kind, name, before, progress)
    }

    /// Takes back what a message did that failed or was skipped. Of several, the last one first.
    pub(crate) fn undo(&mut self, change: Change) {
        let Change {
            kind,
            name,
            part,
            before,
        } = change;
        let space = self.space(kind);
        if !name.is_empty() {
            match before {
                Some(before) => space.set(&name, before),
                None => space.remove(&name),
            };
        } else if space.entries.get(&*name).is_some_and(|entry| entry.part == part) {
            // Uncertainty denies: whether the server still has the one before depends on where it failed.
            space.remove(&name);
        }
    }

    /// Says that SQL may have given any name of a kind to something else.
    pub(crate) fn may_be_renamed(&mut self, kind: Kind) {
        self.space(kind).by_sql += 1;
    }

    /// Forgets portals at a transaction's end. The unnamed one's place stays, since it is used again at once.
    pub(crate) fn transaction_ended(&mut self) {
        let Space { entries, held, .. } = &mut self.portals;
        if entries.len() > 1 {
            entries.retain(|name, _| name.is_empty());
            *held = entries.iter().map(|(name, entry)| entry.size(name)).sum();
        }
    }

    fn space(&mut self, kind: Kind) -> &mut Space {
        match kind {
            Kind::Statement => &mut self.statements,
            Kind::Portal => &mut self.portals,
        }
    }
}

impl Space {
    fn set(&mut self, name: &[u8], entry: Entry) -> Option<Entry> {
        self.held += entry.size(name);
        // No allocation for the same name again.
        let before = match self.entries.get_mut(name) {
            Some(place) => Some(std::mem::replace(place, entry)),
            None => self.entries.insert(name.to_vec(), entry),
        };
        self.held -= before.as_ref().map_or(0, |before| before.size(name));
        before
    }

    fn remove(&mut self, name: &[u8]) -> Option<Entry> {
        let before = self.entries.remove(name);
        self.held -= before.as_ref().map_or(0, |before| before.size(name));
        before
    }
}

impl Change {
    fn new(kind: Kind, name: &[u8], before: Option<Entry>, progress: Progress) -> Self {
        Self {
            kind,
            name: Box::from(name),
            part: progress.current,
            before: before.filter(|_| !name.is_empty()),
        }
    }
}
