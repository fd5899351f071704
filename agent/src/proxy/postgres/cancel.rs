//! Which key cancels which session's operation.
//!
//! The client's key is made here and only means something to the pod that got it, at the target that it is for. So a key that was
//! stolen is of no use to another pod, and the server's own keys never leave the agent.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bailiff_model::{CgroupId, TargetName};

use crate::proxy::dial::Way;
use crate::proxy::end::End;

/// Locks, so that workers seldom meet at one.
const SHARDS: usize = 16;

/// Bytes of a key in protocol 3.0, where its length is given.
const SHORT: usize = 4;

/// Bytes of a key in protocol 3.2.
const LONG: usize = 32;

/// Requests with a wrong key that are looked at, for each pod and second. With keys of 32 bits, guessing one takes months.
const GUESSES: u32 = 100;

/// Pods whose wrong keys are counted at once.
const GUESSERS: usize = 4_096;

/// What identifies a session for cancelling: a process id, which isn't secret, and a key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    process: u32,
    secret: Box<[u8]>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key {{ process: {}, .. }}", self.process)
    }
}

impl Key {
    pub(crate) fn new(process: u32, secret: &[u8]) -> Self {
        Self {
            process,
            secret: secret.into(),
        }
    }

    pub(crate) fn process(&self) -> u32 {
        self.process
    }

    pub(crate) fn secret(&self) -> &[u8] {
        &self.secret
    }
}

/// A key as a pod has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Told {
    pod: CgroupId,
    target: TargetName,
    key: Key,
}

/// The keys of all open sessions. There are never more than sessions.
#[derive(Debug, Default)]
pub struct Cancels {
    shards: [Mutex<HashMap<Told, (Way, Key)>>; SHARDS],
    guesses: Mutex<HashMap<CgroupId, (Instant, u32)>>,
}

/// What became of looking a key up.
pub(crate) enum Lookup {
    /// The session: how its server is reached, and the server's own key.
    Found(Way, Key),
    /// No session of this pod at this target has it.
    Unknown,
    /// The pod asked too often with wrong ones, and isn't answered.
    TooMany,
}

impl Cancels {
    fn shard(&self, told: &Told) -> Option<&Mutex<HashMap<Told, (Way, Key)>>> {
        // The process id is as evenly spread as is needed.
        self.shards.get(told.key.process as usize % SHARDS)
    }

    /// Looks a pod's key up.
    pub(crate) fn find(&self, pod: CgroupId, target: &TargetName, key: Key) -> Lookup {
        let told = Told {
            pod,
            target: target.clone(),
            key,
        };
        let found = self
            .shard(&told)
            .and_then(|shard| shard.lock().ok()?.get(&told).cloned());
        match found {
            _ if self.guesses_too_often(pod, found.is_none()) => Lookup::TooMany,
            Some((way, key)) => Lookup::Found(way, key),
            None => Lookup::Unknown,
        }
    }

    /// Counts a wrong key. A right one among too many wrong ones isn't taken either, or it would tell that it is right.
    fn guesses_too_often(&self, pod: CgroupId, wrong: bool) -> bool {
        let Ok(mut guesses) = self.guesses.lock() else {
            return true; // Uncertainty denies.
        };
        let now = Instant::now();
        let over = Duration::from_secs(1);
        if !wrong {
            return guesses
                .get(&pod)
                .is_some_and(|(since, count)| now.duration_since(*since) < over && *count > GUESSES);
        }
        if guesses.len() >= GUESSERS {
            guesses.retain(|_, (since, _)| now.duration_since(*since) < over);
        }
        let (since, count) = guesses.entry(pod).or_insert((now, 0));
        if now.duration_since(*since) >= over {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count > GUESSES
    }
}

/// One session's place among the keys; given back when dropped.
pub(crate) struct Cancellable {
    cancels: Arc<Cancels>,
    pod: CgroupId,
    target: TargetName,
    way: Way,
    told: Option<Told>,
}

impl Cancellable {
    /// Of a session of this pod at this target, whose server is reached so.
    pub(crate) fn new(cancels: &Arc<Cancels>, pod: CgroupId, target: &TargetName, way: Way) -> Self {
        Self {
            cancels: Arc::clone(cancels),
            pod,
            target: target.clone(),
            way,
            told: None,
        }
    }

    /// Takes the server's key, and makes the one that the client is told. The process id stays: clients compare it with that
    /// of notifications.
    pub(crate) fn register(&mut self, real: Key) -> Result<Key, End> {
        self.forget();
        let length = if real.secret.len() == SHORT { SHORT } else { LONG };
        for _ in 0..8 {
            let mut secret = vec![0; length];
            crate::fill_random(&mut secret);
            let told = Told {
                pod: self.pod,
                target: self.target.clone(),
                key: Key::new(real.process, &secret),
            };
            let Some(Ok(mut shard)) = self.cancels.shard(&told).map(Mutex::lock) else {
                break;
            };
            // Behind some poolers many sessions have one process id.
            if shard.contains_key(&told) {
                continue;
            }
            shard.insert(told.clone(), (self.way.clone(), real));
            let key = told.key.clone();
            drop(shard);
            self.told = Some(told);
            return Ok(key);
        }
        Err(End::Limit("cancel_keys"))
    }

    /// How the session's server is reached, and its own key, once it gave one.
    pub(crate) fn real(&self) -> Option<(Way, Key)> {
        let told = self.told.as_ref()?;
        self.cancels.shard(told)?.lock().ok()?.get(told).cloned()
    }

    fn forget(&mut self) {
        if let Some(told) = self.told.take()
            && let Some(Ok(mut shard)) = self.cancels.shard(&told).map(Mutex::lock)
        {
            shard.remove(&told);
        }
    }
}

impl Drop for Cancellable {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::dial::Way;

    fn session(cancels: &Arc<Cancels>, pod: u64, target: &str) -> (Cancellable, Key) {
        let way = Way::plain("10.0.0.5:5432".parse().unwrap());
        let mut session = Cancellable::new(cancels, CgroupId(pod), &TargetName::new(target), way);
        let told = session.register(Key::new(7, &[1, 2, 3, 4])).unwrap();
        (session, told)
    }

    fn finds(cancels: &Cancels, pod: u64, target: &str, key: &Key) -> bool {
        matches!(
            cancels.find(CgroupId(pod), &TargetName::new(target), key.clone()),
            Lookup::Found(..)
        )
    }

    #[test]
    fn a_key_is_its_pods_and_its_targets_for_as_long_as_the_session() {
        let cancels = Arc::<Cancels>::default();
        let (mine, key) = session(&cancels, 1, "db");
        let (_same_process, other) = session(&cancels, 1, "db");
        assert_ne!(key, other);
        assert_eq!((key.process(), key.secret().len()), (7, 4));
        assert!(finds(&cancels, 1, "db", &key));
        assert!(!finds(&cancels, 2, "db", &key), "stolen");
        assert!(!finds(&cancels, 1, "other", &key), "at another target");
        assert!(
            !finds(&cancels, 1, "db", &Key::new(7, &[1, 2, 3, 4])),
            "the server's"
        );
        drop(mine);
        assert!(!finds(&cancels, 1, "db", &key), "after its end");
        assert!(finds(&cancels, 1, "db", &other));
    }

    #[test]
    fn a_long_key_gets_a_long_one() {
        let cancels = Arc::<Cancels>::default();
        let way = Way::plain("10.0.0.5:5432".parse().unwrap());
        let mut session = Cancellable::new(&cancels, CgroupId(1), &TargetName::new("db"), way);
        let told = session.register(Key::new(7, &[9; 256])).unwrap();
        assert_eq!(told.secret().len(), LONG);
        assert!(!format!("{told:?}").contains(&format!("{:?}", told.secret())));
    }

    #[test]
    fn guessing_ends_for_the_pod_that_guesses() {
        let cancels = Arc::<Cancels>::default();
        let (_guesser, key) = session(&cancels, 1, "db");
        let (_other, others) = session(&cancels, 2, "db");
        // As within one second, however long it takes.
        cancels
            .guesses
            .lock()
            .unwrap()
            .insert(CgroupId(1), (Instant::now() + Duration::from_secs(3600), GUESSES));
        let wrong = Key::new(7, &[0; 4]);
        let found = cancels.find(CgroupId(1), &TargetName::new("db"), wrong);
        assert!(matches!(found, Lookup::TooMany));
        assert!(
            !finds(&cancels, 1, "db", &key),
            "or a right key would be told from a wrong one"
        );
        assert!(finds(&cancels, 2, "db", &others));
    }
}
