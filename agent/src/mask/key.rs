//! Keys of hashes, from their files.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bailiff_policy::HashKey;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// How often a file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Length of a key in bytes, as the policy's loading says it.
const LENGTH: std::ops::RangeInclusive<u64> = 32..=4096;

/// A key that is read again when its file changes, within [`LOOK`]. A file that can't be read leaves the key as it was.
pub(crate) struct Key {
    file: HashKey,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    looked: Option<Instant>,
    seen: Option<Seen>,
    mac: Option<Hmac<Sha256>>,
}

/// What tells one content of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?})", self.file.path())
    }
}

impl Key {
    /// The key in a file, one for the whole process.
    pub(crate) fn of(file: HashKey) -> Arc<Self> {
        static KEYS: Mutex<BTreeMap<HashKey, Arc<Key>>> = Mutex::new(BTreeMap::new());
        let mut keys = KEYS.lock().unwrap_or_else(PoisonError::into_inner);
        let key = keys.entry(file).or_insert_with(|| {
            Arc::new(Self {
                file,
                state: Mutex::default(),
            })
        });
        Arc::clone(key)
    }

    /// HMAC-SHA-256 over a value. `None` where there was never a key to read.
    pub(crate) fn mac(&self, value: &[u8]) -> Option<[u8; 32]> {
        let mut mac = self.current()?;
        mac.update(value);
        Some(mac.finalize().into_bytes().into())
    }

    fn current(&self) -> Option<Hmac<Sha256>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            state.looked = Some(Instant::now());
            match read(self.file.path(), state.seen) {
                Ok(None) => {}
                Ok(Some((seen, mac))) => {
                    if state.seen.is_some() {
                        tracing::info!(file = self.file.path(), "the key of hashes changed");
                    }
                    state.seen = Some(seen);
                    state.mac = Some(mac);
                }
                // Uncertainty denies: without any key values become null; a later one replaces what is there.
                Err(error) => {
                    tracing::warn!(file = self.file.path(), %error, "the key of hashes can't be read")
                }
            }
        }
        state.mac.clone()
    }
}

/// Reads a key where its file isn't the one that was seen.
fn read(path: &str, seen: Option<Seen>) -> std::io::Result<Option<(Seen, Hmac<Sha256>)>> {
    let mut file = fs::File::open(path)?;
    let about = Seen::of(&file.metadata()?);
    if Some(about) == seen {
        return Ok(None);
    }
    let mut key = Vec::new();
    file.by_ref().take(LENGTH.end() + 1).read_to_end(&mut key)?;
    if !LENGTH.contains(&(key.len() as u64)) {
        return Err(std::io::Error::other("it isn't 32 to 4096 bytes long"));
    }
    let mac = Hmac::new_from_slice(&key).map_err(|_| std::io::Error::other("it is no key"))?;
    Ok(Some((about, mac)))
}

impl Seen {
    fn of(about: &Metadata) -> Self {
        Self {
            device: about.dev(),
            inode: about.ino(),
            length: about.len(),
            modified: (about.mtime(), about.mtime_nsec()),
        }
    }
}
