//! What is done to a value, and how several answers about one value join.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// What is done to a value.
///
/// Of several actions on one value the strictest is done, by the order `KeepLast < Hash < Redact < Null`: each tells less of the
/// value than the one before it. Of two `KeepLast` the one that keeps less is stricter. Two `Hash` with different keys tell
/// equally much; so that the answer doesn't depend on who asks first, the one whose key's path is later counts as stricter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskAction {
    /// The last characters stay and `****` stands for the rest, however long it is. A value of fewer than twice as many
    /// characters is wholly masked.
    KeepLast(u8),
    /// A keyed hash stands in its place, the same for the same value wherever it stands, so that hashed columns still join.
    Hash(HashKey),
    /// A placeholder stands in its place; null where the type has no room for one.
    Redact,
    /// Null stands in its place.
    Null,
}

impl MaskAction {
    /// The stricter of two.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        self.max(other)
    }

    fn rank(self) -> (u8, u8, Option<HashKey>) {
        match self {
            // Less kept is stricter.
            Self::KeepLast(kept) => (0, u8::MAX - kept, None),
            Self::Hash(key) => (1, 0, Some(key)),
            Self::Redact => (2, 0, None),
            Self::Null => (3, 0, None),
        }
    }
}

impl Ord for MaskAction {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for MaskAction {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for MaskAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeepLast(kept) => write!(f, "KeepLast {kept}"),
            Self::Hash(_) => f.write_str("Hash"),
            Self::Redact => f.write_str("Redact"),
            Self::Null => f.write_str("Null"),
        }
    }
}

/// The file that holds a key. The key itself isn't here: whoever masks reads the file, again when it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HashKey(&'static str);

impl HashKey {
    /// The key in a file. Each path is kept for good, once, so that actions stay small: a configuration names a few.
    #[must_use]
    pub fn in_file(path: &str) -> Self {
        static PATHS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
        let mut paths = PATHS.lock().unwrap_or_else(PoisonError::into_inner);
        let path = paths.get(path).copied().unwrap_or_else(|| {
            let path: &'static str = Box::leak(Box::from(path));
            paths.insert(path);
            path
        });
        Self(path)
    }

    /// The file's path.
    #[must_use]
    pub fn path(self) -> &'static str {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn action() -> impl Strategy<Value = MaskAction> {
        prop_oneof![
            (1..=16_u8).prop_map(MaskAction::KeepLast),
            prop_oneof![Just("/a"), Just("/b"), Just("/c")]
                .prop_map(|path| MaskAction::Hash(HashKey::in_file(path))),
            Just(MaskAction::Redact),
            Just(MaskAction::Null),
        ]
    }

    proptest! {
        #[test]
        fn joining_takes_no_side(a in action(), b in action(), c in action()) {
            prop_assert_eq!(a.join(b), b.join(a));
            prop_assert_eq!(a.join(b).join(c), a.join(b.join(c)));
            prop_assert_eq!(a.join(a), a);
            prop_assert!(a.join(b) >= a && a.join(b) >= b);
        }
    }

    #[test]
    fn what_tells_less_is_stricter() {
        let hash = MaskAction::Hash(HashKey::in_file("/key"));
        let mut actions = [
            MaskAction::Null,
            hash,
            MaskAction::KeepLast(2),
            MaskAction::Redact,
            MaskAction::KeepLast(4),
        ];
        actions.sort();
        let sorted = [
            MaskAction::KeepLast(4),
            MaskAction::KeepLast(2),
            hash,
            MaskAction::Redact,
            MaskAction::Null,
        ];
        assert_eq!(actions, sorted);
    }

    #[test]
    fn a_file_is_one_key() {
        assert_eq!(
            HashKey::in_file("/same"),
            HashKey::in_file(&["/sa", "me"].concat())
        );
        assert_ne!(HashKey::in_file("/same"), HashKey::in_file("/other"));
    }
}
