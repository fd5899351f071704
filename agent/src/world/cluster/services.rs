//! The addresses of the Services that Targets name: watched by a thread of its own, these Services and their EndpointSlices and no others,
//! and kept on the disk, so that an agent that starts while the API server is away protects what it knew last.

mod kept;
mod resolve;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bailiff_policy::{AddressSource, PolicySet, ServiceAddress, ServiceAddresses, ServiceRef};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{ClusterAccess, Following};
use resolve::{Known, resolve};

/// For how long an address stays protected that a Service doesn't have any more. Services and slices that are made anew have the same pods
/// behind them, which nobody is to reach directly meanwhile; after it another pod may have the address.
const LINGER: Duration = Duration::from_secs(10);

/// How long changes are gathered before they are written to the disk.
const GATHERED: Duration = Duration::from_secs(1);

/// What a Service is called.
type Name = (String, String);

/// The addresses of Services, kept up to date. Dropping it ends the thread.
#[derive(Debug)]
pub struct ClusterServices {
    shared: Arc<Shared>,
    _following: Following,
}

#[derive(Debug, Default)]
struct Shared {
    file: PathBuf,
    state: Mutex<State>,
    /// Something of the state has changed, which the thread has to look at.
    changed: Notify,
    /// Counts what was published.
    version: AtomicU64,
    told: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// `None` before anybody asked: until then what was known last holds.
    wanted: Option<BTreeSet<ServiceRef>>,
    known: BTreeMap<Name, Known>,
    /// What is published.
    addresses: Arc<ServiceAddresses>,
    problems: Arc<BTreeMap<ServiceRef, Vec<String>>>,
}

impl State {
    /// Whether something is known of each Service that is wanted, be it from before.
    fn is_known(&self) -> bool {
        let wanted = self.wanted.as_ref();
        wanted.is_some_and(|wanted| wanted.iter().all(|service| self.addresses.contains_key(service)))
    }
}

impl ClusterServices {
    /// Begins with the addresses that the file has. Blocks on the disk.
    ///
    /// # Errors
    /// When the file can't be used, or the thread can't be started. That the API server is away is none: it is asked again.
    pub(crate) fn start(access: ClusterAccess, file: PathBuf) -> Result<Self> {
        let addresses = kept::read(&file)
            .with_context(|| format!("{}: remove it to go on without it", file.display()))?;
        let shared = Arc::new(Shared {
            file,
            state: Mutex::new(State {
                addresses: Arc::new(addresses),
                ..State::default()
            }),
            ..Shared::default()
        });
        let follows = Arc::clone(&shared);
        let following = Following::start("services", move || async move { follow(&access, &follows).await })?;
        Ok(Self {
            shared,
            _following: following,
        })
    }

    /// Follows the Services that these Targets name, and no others.
    pub(crate) fn follow(&self, set: &PolicySet) {
        self.shared.lock().wanted = Some(set.services().cloned().collect());
        self.shared.changed.notify_one();
    }

    /// Waits until something is known of all of them, or so long. Blocks.
    pub(crate) fn wait(&self, at_most: Duration) {
        let waited = self
            .shared
            .told
            .wait_timeout_while(self.shared.lock(), at_most, |state| !state.is_known());
        if waited.is_ok_and(|(_, waited)| waited.timed_out()) {
            tracing::warn!(
                "the API server hasn't told of Services that Targets name; only the addresses that are known are protected"
            );
        }
    }

    /// Another number after each change of what is below.
    pub(crate) fn version(&self) -> u64 {
        self.shared.version.load(Ordering::Acquire)
    }

    /// The addresses now.
    pub(crate) fn addresses(&self) -> Arc<ServiceAddresses> {
        Arc::clone(&self.shared.lock().addresses)
    }

    /// What is wrong with Services, if something is.
    pub(crate) fn problems(&self) -> Arc<BTreeMap<ServiceRef, Vec<String>>> {
        Arc::clone(&self.shared.lock().problems)
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn know(&self, of: &Name, change: impl FnOnce(&mut Known)) {
        if let Some(known) = self.lock().known.get_mut(of) {
            change(known);
        }
        self.changed.notify_one();
    }
}

fn name(service: &ServiceRef) -> Name {
    (service.namespace.clone(), service.name.clone())
}

/// A Service that is followed. Dropping it ends that.
struct Followed(JoinHandle<()>);

impl Drop for Followed {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Follows what is wanted for ever.
async fn follow(access: &ClusterAccess, shared: &Arc<Shared>) {
    let mut followed: BTreeMap<Name, Followed> = BTreeMap::new();
    let mut client: Option<Client> = None;
    let mut lingering = Lingering::default();
    let mut write_at: Option<Instant> = None;
    loop {
        let wanted: BTreeSet<Name> = shared.lock().wanted.iter().flatten().map(name).collect();
        followed.retain(|name, _| wanted.contains(name));
        shared.lock().known.retain(|name, _| wanted.contains(name));
        for name in wanted {
            if followed.contains_key(&name) {
                continue;
            }
            let client = match &client {
                Some(client) => client.clone(),
                // Only now: most agents have no use for it.
                None => client
                    .insert(access.patient_client("Services that Targets name").await)
                    .clone(),
            };
            shared.lock().known.insert(name.clone(), Known::default());
            let task = tokio::spawn(follow_one(client, name.clone(), Arc::clone(shared)));
            followed.insert(name, Followed(task));
        }
        if publish(shared, &mut lingering, Instant::now()) {
            write_at = write_at.or_else(|| Some(Instant::now() + GATHERED));
        }
        let due = [write_at, lingering.next()].into_iter().flatten().min();
        let sleeps = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.changed.notified() => {}
            () = sleeps => {}
        }
        if write_at.is_some_and(|at| at <= Instant::now()) {
            write_at = None;
            let addresses = Arc::clone(&shared.lock().addresses);
            if let Err(error) = kept::write(&shared.file, &addresses) {
                tracing::error!(file = %shared.file.display(), %error, "the addresses of Services can't be kept for the next start");
            }
        }
    }
}

/// Addresses that have gone, and until when they stay.
#[derive(Default)]
struct Lingering(BTreeMap<(ServiceRef, ServiceAddress), Instant>);

impl Lingering {
    fn next(&self) -> Option<Instant> {
        self.0.values().min().copied()
    }

    /// Puts what has gone a moment ago to what is there.
    fn put(
        &mut self,
        service: &ServiceRef,
        before: &[ServiceAddress],
        now: &mut Vec<ServiceAddress>,
        at: Instant,
    ) {
        for address in before {
            if now.iter().any(|there| there.at == address.at) {
                continue;
            }
            let gone = ServiceAddress {
                source: AddressSource::Gone,
                ..*address
            };
            let until = self
                .0
                .entry((service.clone(), gone))
                .or_insert_with(|| at + LINGER);
            if *until > at {
                now.push(gone);
            }
        }
    }

    /// Forgets those that came back, and those whose time is over.
    fn tidy(&mut self, addresses: &ServiceAddresses, at: Instant) {
        self.0.retain(|(service, gone), until| {
            let is_there = addresses.get(service).is_some_and(|all| all.contains(gone));
            is_there && *until > at
        });
    }
}

/// Puts what is known in place of what was. Returns whether the addresses have changed.
fn publish(shared: &Shared, lingering: &mut Lingering, at: Instant) -> bool {
    let mut state = shared.lock();
    let Some(wanted) = &state.wanted else {
        return false;
    };
    let (mut addresses, mut problems) = (ServiceAddresses::new(), BTreeMap::new());
    let before = Arc::clone(&state.addresses);
    let nothing = Vec::new();
    for service in wanted {
        let known_before = before.get(service).unwrap_or(&nothing);
        let known = state.known.get(&name(service));
        let mut wrong: Vec<String> = known
            .iter()
            .flat_map(|known| &known.away)
            .map(|(kind, error)| {
                format!("its {kind} can't be followed now, and only addresses that are known are protected: {error}")
            })
            .collect();
        let known = known.filter(|known| known.is_told());
        // Of which nothing was told yet, what was known last holds.
        let Some(known) = known else {
            if before.contains_key(service) {
                addresses.insert(service.clone(), known_before.clone());
            }
            if !wrong.is_empty() {
                problems.insert(service.clone(), wrong);
            }
            continue;
        };
        let resolved = resolve(service, known);
        let mut now = resolved.addresses;
        lingering.put(service, known_before, &mut now, at);
        now.sort_unstable();
        addresses.insert(service.clone(), now);
        wrong.extend(resolved.problems);
        if !wrong.is_empty() {
            problems.insert(service.clone(), wrong);
        }
    }
    lingering.tidy(&addresses, at);
    let has_changed = *state.addresses != addresses;
    if has_changed || *state.problems != problems {
        state.addresses = Arc::new(addresses);
        state.problems = Arc::new(problems);
        shared.version.fetch_add(1, Ordering::AcqRel);
    }
    if state.is_known() {
        shared.told.notify_all();
    }
    has_changed
}

/// Follows a Service and its slices for ever.
async fn follow_one(client: Client, of: Name, shared: Arc<Shared>) {
    let (namespace, name) = &of;
    let by_name = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let services = Api::<Service>::namespaced(client.clone(), namespace);
    let services = watched(services, by_name, &shared, &of, |known, all| {
        known.service = all.into_values().next();
        known.service_told = true;
    });
    let by_service = watcher::Config::default().labels(&format!("kubernetes.io/service-name={name}"));
    let slices = Api::<EndpointSlice>::namespaced(client, namespace);
    let slices = watched(slices, by_service, &shared, &of, |known, all| {
        known.slices = all.into_values().collect();
        known.slices_told = true;
    });
    tokio::join!(services, slices);
}

/// Tells all objects of a watch, by their names, whenever one has changed.
async fn watched<K>(
    api: Api<K>,
    which: watcher::Config,
    shared: &Shared,
    of: &Name,
    tell: impl Fn(&mut Known, BTreeMap<String, K>),
) where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let mut events = pin!(watcher(api, which).default_backoff());
    let (mut all, mut list) = (BTreeMap::new(), BTreeMap::new());
    let kind = K::kind(&()).into_owned();
    let mut is_away = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => {
                list.clear();
                continue;
            }
            Ok(Event::InitApply(object)) => {
                list.insert(object.name_any(), object);
                continue;
            }
            Ok(Event::InitDone) => all = std::mem::take(&mut list),
            Ok(Event::Apply(object)) => drop(all.insert(object.name_any(), object)),
            Ok(Event::Delete(object)) => drop(all.remove(&object.name_any())),
            Err(error) => {
                // Told once, by the first: the next attempts may fail otherwise.
                if !std::mem::replace(&mut is_away, true) {
                    let error = super::watch_told(&error);
                    shared.know(of, |known| drop(known.away.insert(kind.clone(), error)));
                }
                continue;
            }
        }
        is_away = false;
        shared.know(of, |known| {
            known.away.remove(&kind);
            tell(known, all.clone());
        });
    }
}

#[cfg(test)]
mod tests;
