//! Databases' catalogs, read under the agent's own credential and kept fresh.
//!
//! A thread of its own reads; workers only look at what is there. For each address and database that sessions are in, there is one
//! [`Slot`]: it holds the last catalog as long as nothing says that it is out of date, and none otherwise.

mod connect;
mod keeper;
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

use keeper::{Budget, Keeper};
pub use reader::CatalogError;
use reader::Reader;
pub(crate) use session::{AskedPath, SessionCatalog, SessionPlace};

use crate::decide::InForce;
use crate::metrics::Metrics;
use crate::proxy::Materials;

/// A catalog of which nobody could tell for so long that it is fresh isn't used any more.
const STALE: Duration = Duration::from_secs(5);

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
            budget: Arc::new(Budget::new(limits)),
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
