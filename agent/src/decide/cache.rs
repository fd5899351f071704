//! Classifications by statement text, one cache a worker, so that no lock is taken.
//!
//! Two halves: what is used stays in the newer one, and when that is full the older one is dropped. So memory is bounded
//! and a lookup costs one or two hash lookups, without the bookkeeping of an exact LRU.

use std::sync::Arc;

use bailiff_policy::Classified;
use foldhash::HashMap;

/// Entries in each half.
const HALF: usize = 4096;

/// Bytes of keys in each half.
const HALF_BYTES: usize = 8 << 20;

/// What is known of a text: `None` where it can't be told what it does.
pub(crate) type Meaning = Option<Arc<Classified>>;

/// The cache.
#[derive(Debug, Default)]
pub struct ClassificationCache {
    newer: HashMap<Box<[u8]>, Meaning>,
    older: HashMap<Box<[u8]>, Meaning>,
    newer_bytes: usize,
}

impl ClassificationCache {
    /// What is known of a key.
    pub(crate) fn get(&mut self, key: &[u8]) -> Option<Meaning> {
        if let Some(found) = self.newer.get(key) {
            return Some(found.clone());
        }
        let (key, found) = self.older.remove_entry(key)?;
        self.insert(key, found.clone());
        Some(found)
    }

    /// Notes what a key means.
    pub(crate) fn insert(&mut self, key: Box<[u8]>, meaning: Meaning) {
        if self.newer.len() >= HALF || self.newer_bytes + key.len() > HALF_BYTES {
            self.older = std::mem::take(&mut self.newer);
            self.newer_bytes = 0;
        }
        self.newer_bytes += key.len();
        self.newer.insert(key, meaning);
    }

    /// How many texts are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.newer.len() + self.older.len()
    }

    /// Whether no text is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.newer.is_empty() && self.older.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let mut cache = ClassificationCache::default();
        cache.insert(Box::from(&b"kept"[..]), None);
        for number in 0..10 * HALF {
            cache.insert(number.to_string().into_bytes().into_boxed_slice(), None);
            assert!(cache.get(b"kept").is_some());
        }
        assert!(cache.len() <= 2 * HALF);
        assert!(cache.get(b"1").is_none());
    }

    #[test]
    fn long_texts_count_by_their_length() {
        let mut cache = ClassificationCache::default();
        for number in 0..64u8 {
            cache.insert(vec![number; 1 << 20].into_boxed_slice(), None);
        }
        assert!(cache.len() <= 2 * (HALF_BYTES >> 20));
    }
}
