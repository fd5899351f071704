//! Texts that many events have alike, rendered once.

use std::sync::Arc;

use foldhash::HashMap;

/// Texts by what they were rendered from. An entry holds its source, so that its address stands for no other.
#[derive(Debug)]
pub(super) struct Kept<T>(HashMap<usize, (Arc<T>, Box<[u8]>)>);

/// How many texts are kept of each kind.
const KEPT: usize = 1024;

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<T> Kept<T> {
    pub(super) fn text(&mut self, source: &Arc<T>, render: impl FnOnce(&T) -> Box<[u8]>) -> &[u8] {
        let place = Arc::as_ptr(source).addr();
        if self.0.len() >= KEPT && !self.0.contains_key(&place) {
            self.0.clear();
        }
        let (_, text) = self
            .0
            .entry(place)
            .or_insert_with(|| (Arc::clone(source), render(source)));
        text
    }

    pub(super) fn forget(&mut self, source: &Arc<T>) {
        self.0.remove(&Arc::as_ptr(source).addr());
    }
}
