//! Databases' catalogs, read under the agent's own credential and kept fresh.
//!
//! A thread of its own reads; workers only look at what is there. For each address and database that sessions are in, there is one
//! [`Slot`]: it holds the last catalog as long as nothing says that it is out of date, and none otherwise.

mod connect;
mod query;
mod reader;
mod session;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use bailiff_model::{OriginalDst, TargetName};
use bailiff_policy::Target;
use bailiff_policy::catalog::{Catalog, CatalogLimits};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use reader::CatalogError;
use reader::{Look, Reader};
pub(crate) use session::{AskedPath, SessionCatalog, SessionPlace};

use crate::decide::InForce;
use crate::metrics::Metrics;
use crate::proxy::Materials;

/// How often changes are looked for at least: what other ways than this agent changed is known after so long. Where looking
/// itself takes long, it is done less often.
const INTERVAL: Duration = Duration::from_secs(1);

/// The share of a connection's time that looking may take: one in so many, unless that made it rarer than [`RAREST`].
const SHARE: u32 = 20;

/// How rarely changes are looked for at most.
const RAREST: Duration = Duration::from_secs(3);

/// A catalog of which nobody could tell for so long that it is fresh isn't used any more.
const STALE: Duration = Duration::from_secs(5);

/// After how long a failure is followed by another attempt, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// How often estimates of rows are read.
const ESTIMATES: Duration = Duration::from_secs(60);

/// A database in which no session is any more is forgotten after this.
const UNUSED: Duration = Duration::from_secs(60);

/// Databases of which catalogs are kept at once.
const DATABASES: usize = 256;

/// What a catalog is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    /// The target, whose definition says how it is read.
    pub(crate) target: TargetName,
    /// Where sessions are connected to.
    pub(crate) address: OriginalDst,
    /// The database in which they are.
    pub(crate) database: String,
}

/// Everything that is known of databases' catalogs.
#[derive(Debug)]
pub struct Catalogs {
    slots: Mutex<HashMap<Place, Weak<Slot>>>,
    new: mpsc::UnboundedSender<Arc<Slot>>,
    in_force: Arc<InForce>,
    metrics: Arc<Metrics>,
}

/// The thread that reads them.
#[derive(Debug)]
pub struct CatalogThread {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// One database's catalog, as sessions see it.
#[derive(Debug)]
pub(crate) struct Slot {
    place: Place,
    catalog: ArcSwapOption<Catalog>,
    /// Grows with every change of what is here.
    generation: AtomicU64,
    /// How often somebody said that it may be out of date.
    wanted: AtomicU64,
    /// Up to which of those it was looked at since.
    looked: watch::Sender<u64>,
    wake: Notify,
    sessions: AtomicUsize,
    state: ArcSwap<State>,
}

/// How one database's catalog is doing.
#[derive(Debug, Clone)]
struct State {
    /// Why there is none; `None` where there is one.
    missing: Option<(&'static str, String)>,
    /// When it was last known to be fresh.
    fresh: Option<Instant>,
}

/// Reads a database's catalog once, over a connection of its own.
pub async fn read(
    target: &Target,
    materials: &Materials,
    address: OriginalDst,
    database: &str,
    limits: CatalogLimits,
) -> Result<Catalog, CatalogError> {
    let local = tokio::task::LocalSet::new();
    let reading = async {
        let client = connect::connect(target, &materials.load(), address, database).await?;
        Reader::new(client).read(limits).await
    };
    local.run_until(reading).await
}

/// A session's hold on a database's catalog.
#[derive(Debug)]
pub(crate) struct InCatalog(Arc<Slot>);

impl Catalogs {
    /// Starts the thread.
    pub fn start(
        in_force: Arc<InForce>,
        materials: Arc<Materials>,
        limits: CatalogLimits,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<(Arc<Self>, CatalogThread)> {
        let (new, arrivals) = mpsc::unbounded_channel();
        let this = Arc::new(Self {
            slots: Mutex::default(),
            new,
            in_force: Arc::clone(&in_force),
            metrics: Arc::clone(&metrics),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let stop = CancellationToken::new();
        let keeper = Keeper {
            in_force,
            materials,
            budget: Arc::new(Budget {
                limits,
                taken: AtomicUsize::new(0),
            }),
            metrics,
        };
        let (stopped, catalogs) = (stop.clone(), Arc::clone(&this));
        let thread = std::thread::Builder::new()
            .name("catalog".to_owned())
            .spawn(move || {
                let local = tokio::task::LocalSet::new();
                runtime.block_on(local.run_until(async {
                    tokio::select! {
                        () = stopped.cancelled() => {}
                        () = keeper.run(arrivals, &catalogs) => {}
                    }
                }));
            })?;
        Ok((
            this,
            CatalogThread {
                stop,
                thread: Some(thread),
            },
        ))
    }

    /// The catalog of a place, for a session in it. `None` where so many databases are in use that it has no place.
    pub(crate) fn of(&self, place: Place) -> Option<InCatalog> {
        let mut slots = self.slots.lock().ok()?;
        if let Some(slot) = slots.get(&place).and_then(Weak::upgrade) {
            slot.sessions.fetch_add(1, Ordering::Relaxed);
            return Some(InCatalog(slot));
        }
        if slots.len() >= DATABASES {
            slots.retain(|_, slot| slot.strong_count() > 0);
            if slots.len() >= DATABASES {
                self.metrics.limit("catalogs");
                return None;
            }
        }
        let slot = Arc::new(Slot {
            place: place.clone(),
            catalog: ArcSwapOption::empty(),
            generation: AtomicU64::new(1),
            // As if somebody had asked already: the first session waits for the first reading.
            wanted: AtomicU64::new(1),
            looked: watch::Sender::new(0),
            wake: Notify::new(),
            sessions: AtomicUsize::new(1),
            state: ArcSwap::from_pointee(State {
                missing: Some(("reading", "it is being read".to_owned())),
                fresh: None,
            }),
        });
        slots.insert(place, Arc::downgrade(&slot));
        let _ = self.new.send(Arc::clone(&slot)); // The agent may be ending.
        Some(InCatalog(slot))
    }

    /// Forgets a place in which no session is. False where there is one again.
    fn retire(&self, slot: &Slot) -> bool {
        let Ok(mut slots) = self.slots.lock() else {
            return false;
        };
        let unused = slot.sessions.load(Ordering::Relaxed) == 0;
        if unused {
            slots.remove(&slot.place);
        }
        unused
    }

    fn all(&self) -> Vec<Arc<Slot>> {
        let Ok(slots) = self.slots.lock() else {
            return Vec::new();
        };
        slots.values().filter_map(Weak::upgrade).collect()
    }

    /// A line for each database in use that isn't masked by its catalog, and why, for each target of which none is read though
    /// there are masks, and for each mask that matches nothing in a database.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .all()
            .iter()
            .filter_map(|slot| {
                let state = slot.state.load();
                let (_, why) = state.missing.as_ref()?;
                let place = &slot.place;
                Some(format!(
                    "database {:?} of target {} at {}: by names (coarser): {why}",
                    place.database, place.target, place.address
                ))
            })
            .collect();
        let policies = self.in_force.load();
        for target in policies.masked_by_names() {
            lines.push(format!(
                "target {}: by names (coarser): it names no role to read catalogs with, by `catalog` or `credential`",
                target.name
            ));
        }
        for slot in self.all() {
            let Some(catalog) = slot.catalog.load_full() else {
                continue;
            };
            let place = &slot.place;
            for (policy, column) in policies.masks_of_nothing(&place.target, &catalog) {
                lines.push(format!(
                    "database {:?} of target {} at {}: policy {policy} masks {column}, which it doesn't have",
                    place.database, place.target, place.address
                ));
            }
        }
        lines.sort();
        lines.dedup();
        lines
    }

    /// Takes away what is too old, and brings the gauges up to date.
    fn measure(&self) {
        let slots = self.all();
        for slot in &slots {
            slot.expire();
        }
        let (mut with, mut relations, mut bytes, mut age) = (0, 0, 0, Duration::ZERO);
        for slot in &slots {
            if let Some(catalog) = slot.catalog.load().as_deref() {
                with += 1;
                relations += catalog.relations().len();
                bytes += catalog.bytes();
            }
            if let Some(fresh) = slot.state.load().fresh {
                age = age.max(fresh.elapsed());
            }
        }
        let set = |gauge: &prometheus::IntGauge, value: usize| {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        let by_names = self.in_force.load().masked_by_names().count();
        set(&self.metrics.targets_masked_by_names, by_names);
        set(&self.metrics.catalogs, with);
        set(&self.metrics.catalogs_missing, slots.len() - with);
        set(&self.metrics.catalog_relations, relations);
        set(&self.metrics.catalog_bytes, bytes);
        self.metrics.catalog_age.set(age.as_secs_f64());
    }
}

impl CatalogThread {
    /// Ends it, and its connections.
    pub fn stop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl InCatalog {
    /// The catalog, if there is one that isn't known to be out of date.
    pub(crate) fn catalog(&self) -> Option<Arc<Catalog>> {
        (!self.is_behind()).then(|| self.0.catalog.load_full()).flatten()
    }

    /// Grows with every change of what [`catalog`](Self::catalog) gives.
    pub(crate) fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// Says that the database may have changed. Until it was looked at, nobody uses the catalog.
    pub(crate) fn changed(&self) {
        self.0.want();
        self.0.wake.notify_one();
    }

    /// Whether somebody said that it may have changed, and it wasn't looked at since.
    pub(crate) fn is_behind(&self) -> bool {
        *self.0.looked.borrow() < self.0.wanted.load(Ordering::Acquire)
    }

    /// Waits until it isn't behind what was asked for so far.
    pub(crate) fn caught_up(&self) -> impl Future<Output = ()> + use<> {
        let wanted = self.0.wanted.load(Ordering::Acquire);
        let mut looked = self.0.looked.subscribe();
        async move {
            // An error says that nobody will look any more; then there is nothing to wait for.
            let _ = looked.wait_for(|looked| *looked >= wanted).await;
        }
    }
}

impl Drop for InCatalog {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Slot {
    fn want(&self) {
        self.wanted.fetch_add(1, Ordering::AcqRel);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn put(&self, catalog: Option<Arc<Catalog>>) {
        self.catalog.store(catalog);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn looked(&self, wanted: u64) {
        let later = self.looked.send_if_modified(|looked| {
            let later = *looked < wanted;
            *looked = wanted.max(*looked);
            later
        });
        if later {
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// There is a fresh one.
    fn fresh(&self, wanted: u64) {
        if self.state.load().missing.is_some() {
            tracing::info!(target = %self.place.target, address = %self.place.address, database = %self.place.database,
                "masks go by the database's catalog");
        }
        self.state.store(Arc::new(State {
            missing: None,
            fresh: Some(Instant::now()),
        }));
        self.looked(wanted);
    }

    /// Takes it away where nobody could tell for too long that it is as it was.
    fn expire(&self) {
        let state = self.state.load_full();
        if self.catalog.load().is_some() && state.fresh.is_none_or(|fresh| fresh.elapsed() > STALE) {
            tracing::warn!(target = %self.place.target, address = %self.place.address, database = %self.place.database,
                reason = "stale", "masks go by names, which refuses more: the server doesn't answer");
            self.put(None);
            self.state.store(Arc::new(State {
                missing: Some(("stale", "the server doesn't answer".to_owned())),
                fresh: state.fresh,
            }));
        }
    }

    /// There can't be one now.
    fn failed(&self, wanted: u64, error: &CatalogError) {
        let before = self.state.load_full();
        let stale = before.fresh.is_none_or(|fresh| fresh.elapsed() > STALE);
        let asked = *self.looked.borrow() < wanted;
        // Uncertainty denies: nobody can tell whether it is still so.
        if stale || asked || before.missing.is_some() {
            let reason = error.reason();
            if before.missing.as_ref().is_none_or(|(known, _)| *known != reason) {
                tracing::warn!(target = %self.place.target, address = %self.place.address, database = %self.place.database,
                    reason, "masks go by names, which refuses more: {error}");
            }
            self.put(None);
            self.state.store(Arc::new(State {
                missing: Some((reason, error.to_string())),
                fresh: before.fresh,
            }));
        }
        if asked {
            self.looked(wanted);
        }
    }
}

/// Memory for all catalogs together.
#[derive(Debug)]
struct Budget {
    limits: CatalogLimits,
    taken: AtomicUsize,
}

/// What one catalog takes of it; given back when dropped.
struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    fn none(budget: &Arc<Budget>) -> Self {
        Self {
            budget: Arc::clone(budget),
            bytes: 0,
        }
    }

    /// What a reading may take in place of what is held.
    fn limits(&self) -> CatalogLimits {
        let others = self
            .budget
            .taken
            .load(Ordering::Relaxed)
            .saturating_sub(self.bytes);
        CatalogLimits {
            bytes: self.budget.limits.bytes.saturating_sub(others),
            ..self.budget.limits
        }
    }

    fn set(&mut self, bytes: usize) {
        self.budget.taken.fetch_add(bytes, Ordering::Relaxed);
        self.budget.taken.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// What the thread works with.
struct Keeper {
    in_force: Arc<InForce>,
    materials: Arc<Materials>,
    budget: Arc<Budget>,
    metrics: Arc<Metrics>,
}

impl Keeper {
    async fn run(self, mut arrivals: mpsc::UnboundedReceiver<Arc<Slot>>, catalogs: &Arc<Catalogs>) {
        let this = Arc::new(self);
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                slot = arrivals.recv() => {
                    let Some(slot) = slot else { return };
                    tokio::task::spawn_local(Arc::clone(&this).keep(slot, Arc::clone(catalogs)));
                }
                _ = tick.tick() => {}
            }
            catalogs.measure();
        }
    }

    /// Keeps one catalog for as long as there are sessions.
    async fn keep(self: Arc<Self>, slot: Arc<Slot>, catalogs: Arc<Catalogs>) {
        let mut following = Following {
            keeper: &self,
            slot: &slot,
            share: Share::none(&self.budget),
            pause: AGAIN.0,
            unused: Instant::now(),
        };
        loop {
            following.connection().await;
            if following.is_unused() && catalogs.retire(&slot) {
                return;
            }
            if slot.catalog.load().is_none() {
                following.share.set(0);
            }
            following.rest().await;
        }
    }

    fn target(&self, slot: &Slot) -> Option<Arc<Target>> {
        let set = self.in_force.load();
        let mut targets = set.targets().iter();
        targets.find(|target| target.name == slot.place.target).cloned()
    }
}

/// One catalog that is kept.
struct Following<'a> {
    keeper: &'a Keeper,
    slot: &'a Slot,
    share: Share,
    pause: Duration,
    /// Since when no session needs it.
    unused: Instant,
}

impl Following<'_> {
    /// Follows changes over one connection, up to its end or until nobody needs it any more.
    async fn connection(&mut self) {
        let target = self.keeper.target(self.slot);
        let mut reader = match self.connect(target.as_deref()).await {
            Ok(client) => Reader::new(client),
            Err(error) => return self.failed(&error),
        };
        let mut generation = self.keeper.in_force.generation();
        let mut estimated = Instant::now();
        loop {
            let began = Instant::now();
            let took = match self.look(&mut reader).await {
                Ok(read) => {
                    if read {
                        Duration::ZERO
                    } else {
                        began.elapsed()
                    }
                }
                Err(error) => {
                    self.failed(&error);
                    if reader.is_closed() || !error.keeps_connection() {
                        return;
                    }
                    self.rest().await;
                    Duration::ZERO
                }
            };
            if estimated.elapsed() > ESTIMATES {
                estimated = Instant::now();
                if let (Ok(estimates), Some(catalog)) =
                    (reader.estimates().await, self.slot.catalog.load_full())
                {
                    self.slot.put(Some(Arc::new(catalog.with_estimates(estimates))));
                }
            }
            if self.is_unused() {
                return;
            }
            if self.keeper.in_force.generation() != generation {
                generation = self.keeper.in_force.generation();
                if self.keeper.target(self.slot) != target {
                    return;
                }
            }
            tokio::select! {
                () = tokio::time::sleep((took * SHARE).clamp(INTERVAL, RAREST)) => {}
                () = self.slot.wake.notified() => {}
            }
        }
    }

    async fn connect(&self, target: Option<&Target>) -> Result<tokio_postgres::Client, CatalogError> {
        let target = target.ok_or_else(|| CatalogError::Credential("the target is gone".to_owned()))?;
        let place = &self.slot.place;
        connect::connect(
            target,
            &self.keeper.materials.load(),
            place.address,
            &place.database,
        )
        .await
    }

    /// Looks for changes, and reads the catalog where there are any. True where it was read.
    async fn look(&mut self, reader: &mut Reader) -> Result<bool, CatalogError> {
        let slot = self.slot;
        let mut wanted = slot.wanted.load(Ordering::Acquire);
        let changed = reader.look().await? == Look::Changed;
        if changed {
            // Sessions wait for it from here on.
            slot.want();
            wanted = slot.wanted.load(Ordering::Acquire);
            let began = Instant::now();
            let catalog = reader.read(self.share.limits()).await?;
            self.share.set(catalog.bytes());
            self.keeper.metrics.catalog_refreshes.inc();
            tracing::debug!(target = %slot.place.target, database = %slot.place.database,
                relations = catalog.relations().len(), bytes = catalog.bytes(), took = ?began.elapsed(), "catalog read");
            slot.put(Some(Arc::new(catalog)));
        }
        if slot.catalog.load().is_some() {
            slot.fresh(wanted);
            self.pause = AGAIN.0;
        } else {
            // What made it impossible is as it was.
            slot.looked(wanted);
        }
        Ok(changed)
    }

    fn failed(&self, error: &CatalogError) {
        self.keeper.metrics.catalog_failed(error.reason());
        self.slot.failed(self.slot.wanted.load(Ordering::Acquire), error);
    }

    async fn rest(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(AGAIN.1);
    }

    fn is_unused(&mut self) -> bool {
        if self.slot.sessions.load(Ordering::Relaxed) > 0 {
            self.unused = Instant::now();
        }
        self.unused.elapsed() > UNUSED
    }
}
