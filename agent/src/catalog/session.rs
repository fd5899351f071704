//! A session's view of its database's catalog.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bailiff_model::{OriginalDst, RelationRef, SqlEffect};
use bailiff_policy::catalog::{Name, Names, Temporary, path_of, path_of_text};
use bailiff_policy::{Classified, PathMove, Ruling, Target, Touch};
use bailiff_wire::postgres::startup::Startup;

use super::{Catalogs, InCatalog, Place};

/// How long a statement that a mask may concern waits for a catalog to be read. Then masks go by names.
const WAIT: Duration = Duration::from_secs(2);

/// The search_path that a session's startup packet asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AskedPath {
    /// None: settings of the role, the database and the server decide.
    None,
    /// This one.
    Written(String),
    /// One that can't be told.
    Untold,
}

impl AskedPath {
    /// That of a startup packet.
    pub(crate) fn of(startup: &Startup<'_>) -> Self {
        let named = startup.may_set("search_path");
        // Whoever is somebody else at once has another `$user`.
        let untold = startup.options_may_set("search_path")
            || startup.may_set("role")
            || startup.may_set("session_authorization");
        match startup.parameter("search_path").map(std::str::from_utf8) {
            _ if untold => Self::Untold,
            Some(Ok(path)) => Self::Written(path.to_owned()),
            // In another encoding, or under a name in capitals.
            Some(Err(_)) => Self::Untold,
            None if named => Self::Untold,
            None => Self::None,
        }
    }
}

/// As whom a session is in which database.
#[derive(Debug, Clone)]
pub(crate) struct SessionPlace {
    /// Where the session is connected to.
    pub(crate) address: OriginalDst,
    /// The user as the server knows it.
    pub(crate) user: String,
    /// The database.
    pub(crate) database: String,
    /// The search_path in the startup packet.
    pub(crate) asked: AskedPath,
}

/// What a session knows of its database, and what it did to change that.
pub(crate) struct SessionCatalog {
    place: InCatalog,
    user: String,
    asked: AskedPath,
    /// The search_path at the session's start, once a catalog told it.
    start: Option<Option<Vec<Name>>>,
    path: Option<Vec<Name>>,
    /// The role may be another than the session's, so that `$user` is, too.
    role_moved: bool,
    temporary: Temporary,
    /// What it read and wrote while there was no catalog. Relations may run code that changes the session.
    unseen: HashSet<(RelationRef, Touch)>,
    /// It made or changed something, and its transaction isn't over.
    pending: bool,
    generation: u64,
    behind: bool,
    /// It waited for what it is behind, in vain.
    gave_up: bool,
    waiting: Option<Pin<Box<dyn Future<Output = bool>>>>,
    names: Option<Names>,
}

impl SessionCatalog {
    /// Of a session; `None` where the target's catalogs aren't read.
    pub(crate) fn new(catalogs: &Catalogs, target: &Target, session: SessionPlace) -> Option<Self> {
        target.catalog_access()?;
        let place = catalogs.of(Place {
            target: target.name.clone(),
            address: session.address,
            database: session.database,
        })?;
        Some(Self {
            place,
            user: session.user,
            asked: session.asked,
            start: None,
            path: None,
            role_moved: false,
            temporary: Temporary::default(),
            unseen: HashSet::new(),
            pending: false,
            generation: 0,
            behind: true,
            gave_up: false,
            waiting: None,
            names: None,
        })
    }

    /// What names stand for, where the catalog tells.
    pub(crate) fn names(&self) -> Option<&Names> {
        self.names.as_ref()
    }

    /// Takes up what is new. True where decisions may differ from then on.
    pub(crate) fn refresh(&mut self) -> bool {
        let generation = self.place.generation();
        if generation == self.generation {
            return false;
        }
        self.generation = generation;
        self.behind = self.place.is_behind();
        self.gave_up &= self.behind;
        self.renew()
    }

    /// Whether a statement that a mask may concern has to wait for the catalog.
    pub(crate) fn must_wait(&self) -> bool {
        self.behind && !self.gave_up && !self.pending
    }

    /// Whether what the session sent before may have changed what names stand for.
    pub(crate) fn is_pending(&self) -> bool {
        self.pending
    }

    /// Waits until the catalog isn't behind, or for as long as is waited at most.
    pub(crate) fn poll_caught_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let waiting = self.waiting.get_or_insert_with(|| {
            let caught_up = tokio::time::timeout(WAIT, self.place.caught_up());
            Box::pin(async move { caught_up.await.is_ok() })
        });
        let Poll::Ready(caught_up) = waiting.as_mut().poll(cx) else {
            return Poll::Pending;
        };
        self.waiting = None;
        self.gave_up = !caught_up;
        Poll::Ready(())
    }

    /// Notes a statement that is passed on. True where decisions may differ from then on.
    pub(crate) fn passes(&mut self, meaning: Option<&Classified>, ruling: &Ruling, text: &[u8]) -> bool {
        let before = (self.path.clone(), self.temporary.clone(), self.pending);
        let has = |effect| ruling.effects().contains(effect);
        let moves = meaning.map_or(&PathMove::Anywhere, Classified::moves);
        // Uncertainty denies: code that can't be seen may do all of it.
        if meaning.is_none()
            || *moves == PathMove::Anywhere && (has(SqlEffect::Execute) || has(SqlEffect::Unknown))
        {
            self.pending = true;
            self.may_be_anything();
        }
        if ruling.changes_session() {
            self.may_be_anything();
        }
        if let (None, Some(meaning)) = (&self.names, meaning) {
            self.look_up_later(meaning);
        }
        let mentions = |word: &[u8]| {
            text.windows(word.len())
                .any(|part| part.eq_ignore_ascii_case(word))
        };
        if has(SqlEffect::Set) && (mentions(b"role") || mentions(b"authorization") || mentions(b"\\")) {
            self.role_moved = true;
            if self.path.iter().flatten().any(|schema| **schema == *self.user) {
                self.path = None;
            }
        }
        match moves {
            PathMove::Stays => {}
            PathMove::To(schemas) => {
                let moved = self.path_of(schemas);
                self.path = join(self.path.take(), moved);
            }
            PathMove::Anywhere => self.path = None,
        }
        if [SqlEffect::Create, SqlEffect::Alter, SqlEffect::Drop]
            .into_iter()
            .any(has)
        {
            self.pending = true;
            self.temporary = match meaning {
                Some(meaning) => self.temporary.after(meaning, self.path.is_none()),
                None => Temporary::Any,
            };
        }
        // COMMIT PREPARED makes changes of any earlier transaction, of whichever session.
        self.pending |= has(SqlEffect::Transaction) && mentions(b"prepared");
        before != (self.path.clone(), self.temporary.clone(), self.pending) && self.renew()
    }

    /// Notes that code may have run which can do anything to the session.
    fn may_be_anything(&mut self) {
        (self.path, self.temporary) = (None, Temporary::Any);
        self.role_moved = true;
    }

    /// Notes what a statement reads and writes, to be looked up when there is a catalog.
    fn look_up_later(&mut self, meaning: &Classified) {
        let touched = meaning.touched();
        self.unseen
            .extend(touched.map(|(relation, touch)| (relation.clone(), touch)));
        if self.unseen.len() > MOST_UNSEEN {
            self.unseen.clear();
            self.may_be_anything();
        }
    }

    /// Takes a search_path that the server reports, as newer ones do.
    pub(crate) fn reported(&mut self, value: &[u8]) -> bool {
        let written = std::str::from_utf8(value).ok();
        let told = written.and_then(|written| path_of_text(written, &self.user));
        let path = told.filter(|path| !self.role_moved || !path.iter().any(|schema| **schema == *self.user));
        // By now it is in force, whatever was asked for before.
        let changed = self.path != path || self.start.is_none();
        self.path = path;
        self.start.get_or_insert(None);
        changed && self.renew()
    }

    /// Notes that an answer came which may mean that what the session changed is there for everybody.
    pub(crate) fn may_have_committed(&self) {
        if self.pending {
            self.place.changed();
        }
    }

    /// Says that the session's transaction is over and nothing is outstanding. True where decisions may differ from then on.
    pub(crate) fn transaction_ended(&mut self) -> bool {
        std::mem::take(&mut self.pending) && self.renew()
    }

    fn path_of(&self, schemas: &[String]) -> Option<Vec<Name>> {
        // Whose schema `$user` is can't be told then.
        if self.role_moved && schemas.iter().any(|schema| schema == "$user") {
            return None;
        }
        path_of(schemas, &self.user)
    }

    /// Makes the names anew. True where there are others than before.
    fn renew(&mut self) -> bool {
        let catalog = if self.pending { None } else { self.place.catalog() };
        let Some(catalog) = catalog else {
            return self.names.take().is_some();
        };
        let asked = match &self.asked {
            AskedPath::None => Some(None),
            AskedPath::Written(path) => Some(Some(path.as_str())),
            AskedPath::Untold => None,
        };
        let start = asked.and_then(|asked| catalog.search_path_at_start(&self.user, asked));
        match &self.start {
            None => self.path = start.clone(),
            // The server's files may have changed, for sessions that are open, too.
            Some(before) if *before != start => self.path = join(self.path.take(), start.clone()),
            Some(_) => {}
        }
        self.start = Some(start);
        let mut names = Names::new(catalog, self.path.clone(), self.temporary.clone());
        let unseen = std::mem::take(&mut self.unseen);
        if unseen
            .iter()
            .any(|(relation, touch)| names.may_change_session(relation, *touch))
        {
            self.may_be_anything();
            names = Names::new(
                Arc::clone(names.catalog()),
                self.path.clone(),
                self.temporary.clone(),
            );
        }
        let same = self.names.as_ref().is_some_and(|before| {
            before.catalog().version() == names.catalog().version()
                && before.path() == names.path()
                && before.temporary() == names.temporary()
        });
        self.names = Some(names);
        !same
    }
}

impl Drop for SessionCatalog {
    fn drop(&mut self) {
        // The server may have done what nobody waited for.
        self.may_have_committed();
    }
}

/// Relations that are looked up later.
const MOST_UNSEEN: usize = 64;

/// A search_path that may be either: what is found in several of its schemas is any of them.
fn join(one: Option<Vec<Name>>, other: Option<Vec<Name>>) -> Option<Vec<Name>> {
    let (mut one, other) = (one?, other?);
    for schema in other {
        if !one.contains(&schema) {
            one.push(schema);
        }
    }
    // Where one of them names pg_catalog and the other doesn't, it may come first or not; naming it says that.
    Some(one)
}
