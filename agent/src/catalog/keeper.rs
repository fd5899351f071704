//! The thread's work: each database's catalog kept fresh for as long as there are sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bailiff_policy::Target;
use bailiff_policy::catalog::CatalogLimits;
use tokio::sync::mpsc;

use super::reader::{Look, Reader};
use super::{CatalogError, Catalogs, Slot, connect};
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

/// After how long a failure is followed by another attempt, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// How often estimates of rows are read.
const ESTIMATES: Duration = Duration::from_secs(60);

/// A database in which no session is any more is forgotten after this.
const UNUSED: Duration = Duration::from_secs(60);

/// What the thread works with.
pub(super) struct Keeper {
    pub(super) in_force: Arc<InForce>,
    pub(super) materials: Arc<Materials>,
    pub(super) budget: Arc<Budget>,
    pub(super) metrics: Arc<Metrics>,
}

impl Keeper {
    /// Keeps catalogs for as long as it is polled.
    pub(super) async fn run(
        self,
        mut arrivals: mpsc::UnboundedReceiver<Arc<Slot>>,
        catalogs: &Arc<Catalogs>,
    ) {
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

/// Memory for all catalogs together.
#[derive(Debug)]
pub(super) struct Budget {
    limits: CatalogLimits,
    taken: AtomicUsize,
}

impl Budget {
    pub(super) fn new(limits: CatalogLimits) -> Self {
        Self {
            limits,
            taken: AtomicUsize::new(0),
        }
    }
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
