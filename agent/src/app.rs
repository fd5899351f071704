//! Wiring: what runs on which thread, how it starts, drains and stops.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bailiff_kernel::netns::NetnsFd;
use bailiff_kernel::{GuardBy, Options as RedirectOptions, Pulse, Redirect, TargetEntry, cgroup, net};
use bailiff_model::{CgroupId, PodInfo};
use bailiff_policy::catalog::CatalogLimits;
use bailiff_policy::report::{NotCovered, PodCounts};
use bailiff_policy::{ParserPool, PolicySet};
use tokio_util::sync::CancellationToken;

use crate::addresses::Addresses;
use crate::admin::{self, Admin, Serve};
use crate::attribution::{Attribution, PodEntry};
use crate::catalog::{CatalogThread, Catalogs};
use crate::certificates::Certificates;
use crate::control::{Chains, Control};
use crate::decide::{InForce, Watcher};
use crate::identity::{ReviewThread, Reviews};
use crate::metrics::{Metrics, PodState};
use crate::older::Older;
use crate::proxy::{Acceptor, Cancels, FileError, Limits, Materials, PodListeners, Workers, WorkersOptions};
use crate::record::{Recorder, Store, StoreOptions};
use crate::reports::Findings;
use crate::world::cluster::ClusterAccess;
use crate::world::cluster::services::ClusterServices;

mod first;
mod quiet;

use first::{First, State};
use quiet::Quiet;

/// How long an agent before this one may take to leave the address of metrics and health.
const HANDED_OVER: Duration = Duration::from_secs(20);

/// Who is told of changed targets.
type Followers = Mutex<Vec<Box<dyn Fn(&PolicySet) -> Result<()> + Send>>>;

/// How an agent is set up.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// Where Targets and Policies are.
    pub config: PathBuf,
    /// The cgroup above all pods.
    pub pods_cgroup: PathBuf,
    /// The agent's own cgroup.
    pub agent_cgroup: PathBuf,
    /// This instance's directory on a bpf file system.
    pub pins: PathBuf,
    /// Where the record goes.
    pub record: PathBuf,
    /// Bytes that the record may take on disk.
    pub record_bytes: u64,
    /// Where metrics and health are served; port 0 for any.
    pub admin: Option<SocketAddr>,
    /// Whether somebody tells it of pods that run already, before which it isn't ready.
    pub awaits_pods: bool,
    /// Which revision it is, where health is asked for by one.
    pub revision: Option<String>,
    /// Threads that carry connections.
    pub workers: usize,
    /// For how long a worker that was busy looks for more before it sleeps, at most; zero: not at all.
    pub busy_poll: Duration,
    /// The data path's limits.
    pub limits: Limits,
    /// How the agent itself reaches the cluster, where it needs to.
    pub cluster: ClusterAccess,
    /// Who knows the addresses of Services that Targets name; nobody where policies come from files.
    pub services: Option<Arc<ClusterServices>>,
    /// The file that keeps what is in force, where an agent that finds it refused is to start all the same.
    pub last_in_force: Option<PathBuf>,
    /// Where it tells what became of objects and pods.
    pub findings: Arc<Findings>,
}

/// A pod to be enforced on.
#[derive(Debug)]
pub struct PodSpec {
    /// The pod as policy sees it.
    pub info: PodInfo,
    /// Its container, where there is only one.
    pub container: Option<String>,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// Its network namespace.
    pub netns: OwnedFd,
    /// The host's sides of its links, in the agent's namespace.
    pub host_links: Vec<String>,
}

/// An agent in force.
pub struct Agent {
    redirect: KernelSide,
    pulse: Pulse,
    attribution: Arc<Attribution>,
    in_force: Arc<InForce>,
    metrics: Arc<Metrics>,
    older: Arc<Older>,
    acceptor: Acceptor,
    workers: Arc<Workers>,
    recorder: Recorder,
    catalogs: CatalogThread,
    certificates: Arc<Certificates>,
    reviews: ReviewThread,
    admin: Option<Admin>,
    control: Option<Control>,
    listening: Mutex<HashMap<CgroupId, Listening>>,
    quiet: Option<JoinHandle<()>>,
    followers: Arc<Followers>,
    findings: Arc<Findings>,
    stop: Arc<AtomicBool>,
}

/// What goes with a pod.
struct Listening {
    stop: CancellationToken,
    host_links: Vec<String>,
}

/// The kernel side, steered by whichever thread adds pods or brings new targets; none once it was taken down, or another agent has taken over.
type KernelSide = Arc<Mutex<Option<Redirect>>>;

fn steer<T>(kernel: &KernelSide, work: impl FnOnce(&mut Redirect) -> T) -> Option<T> {
    let mut held = kernel.lock().ok()?;
    if held.as_ref().is_some_and(Redirect::is_taken_over) {
        // Two that steer would undo each other's work. Dropped, it leaves everything in place.
        *held = None;
        tracing::info!("another agent has taken over; this one ends what it has begun");
    }
    held.as_mut().map(work)
}

fn entries(set: &PolicySet) -> Vec<TargetEntry> {
    set.protected()
        .map(|(target, endpoint)| TargetEntry {
            address: endpoint.address,
            prefix: endpoint.prefix,
            port: endpoint.port,
            failure_mode: target.failure_mode,
        })
        .collect()
}

impl Agent {
    /// Loads the policies, puts the kernel side in force and starts all threads.
    pub fn start(options: AgentOptions) -> Result<Self> {
        let load = Addresses::load(options.services.as_ref());
        let findings = Arc::clone(&options.findings);
        // From before they are read, so that no change of them falls between.
        let watcher = Watcher::new(&options.config, load);
        let First {
            set: base,
            files,
            state,
            tell,
        } = First::read(&options, load)?;
        let metrics = Arc::new(Metrics::new()?);
        metrics.awaits_pods.store(options.awaits_pods, Ordering::Release);
        metrics.policies_refused.set(i64::from(state != State::Whole));
        metrics
            .partly_in_force
            .store(state == State::Part, Ordering::Release);
        let addresses = Arc::new(Addresses::new(options.services.clone(), Arc::clone(&metrics)));
        let set = addresses.first(&base);
        metrics.certificates(files.expiries());
        let certificates = Certificates::start(options.cluster.clone(), Arc::clone(&metrics))?;
        certificates.follow(&files);
        let materials = Arc::new(Materials::new(files));
        let mut redirect = Redirect::load(RedirectOptions {
            pins: options.pins.clone(),
            pods_cgroup: options.pods_cgroup.clone(),
            agent_cgroup: cgroup::id(&options.agent_cgroup).context("cannot read the agent's cgroup")?,
            heartbeat_max_age: Duration::from_secs(3),
            guard_by: GuardBy::default(),
            max_origins: None,
            targets: entries(&set),
        })?;
        // Its own pod may lie among those that it enforces on.
        if options.agent_cgroup.starts_with(&options.pods_cgroup) {
            let own = cgroup::id(&options.agent_cgroup).context("cannot read the agent's cgroup")?;
            redirect.exempt(own)?;
        }
        redirect.set_targets(&entries(&set))?;
        let heartbeat = redirect.heartbeat().context("the heartbeat was taken")?;
        let (origins, sweep) = (redirect.origins(), redirect.sweep()?);
        let (pulse, took_over) = (redirect.pulse()?, redirect.took_over());
        let redirect = Arc::new(Mutex::new(Some(redirect)));
        let in_force = Arc::new(InForce::new(set));
        let attribution = Arc::new(Attribution::default());
        let chains = Chains::new(Arc::clone(&attribution), origins.clone());
        let older = Arc::new(Older::new(sweep, Arc::clone(&attribution), Arc::clone(&metrics)));
        let store = Store::open(StoreOptions {
            directory: options.record.clone(),
            file_bytes: (options.record_bytes / 16).max(1 << 20),
            total_bytes: options.record_bytes,
        })
        .with_context(|| format!("cannot write the record into {}", options.record.display()))?;
        let recorder = Recorder::start(store, options.limits.record_queue, Arc::clone(&metrics))?;
        let limits = Arc::new(options.limits.clone());
        let (catalogs, catalog_thread) = Catalogs::start(
            Arc::clone(&in_force),
            Arc::clone(&materials),
            CatalogLimits {
                bytes: limits.catalog,
                relations: limits.catalog_relations,
            },
            Arc::clone(&metrics),
        )?;
        let (reviews, review_thread) = Reviews::start(options.cluster.clone(), Arc::clone(&metrics))?;
        let workers = Arc::new(Workers::start(
            &WorkersOptions {
                threads: options.workers,
                busy_poll: options.busy_poll,
                limits: Arc::clone(&limits),
                in_force: Arc::clone(&in_force),
                attribution: Arc::clone(&attribution),
                parsers: Arc::new(ParserPool::new(1, limits.grammar_queue)?),
                materials: Arc::clone(&materials),
                cancels: Arc::<Cancels>::default(),
                catalogs: Arc::clone(&catalogs),
                reviews,
                metrics: Arc::clone(&metrics),
            },
            &recorder,
        )?);
        let acceptor = Acceptor::start(
            origins,
            heartbeat,
            Arc::clone(&workers),
            limits,
            Arc::clone(&metrics),
        )?;
        let pages = admin::of_agent(
            Arc::clone(&metrics),
            Arc::clone(&workers),
            Arc::clone(&catalogs),
            Arc::clone(&certificates),
            Arc::clone(&addresses),
        );
        let admin = options
            .admin
            .map(|address| {
                let serve = Serve {
                    address,
                    revision: options.revision.clone(),
                    // The agent before may serve there until it sees that this one is there.
                    patience: if took_over { HANDED_OVER } else { Duration::ZERO },
                };
                Admin::serving(&serve, Arc::clone(&pages))
            })
            .transpose()?;
        let control = Control::start(&options.record, Arc::clone(&workers), chains)?;
        let stop = Arc::new(AtomicBool::new(false));
        let followers = Arc::<Followers>::default();
        let quiet = Quiet {
            watcher,
            base,
            addresses,
            in_force: Arc::clone(&in_force),
            materials,
            redirect: Arc::clone(&redirect),
            older: Arc::clone(&older),
            followers: Arc::clone(&followers),
            certificates: Arc::clone(&certificates),
            metrics: Arc::clone(&metrics),
            pages,
            findings: Arc::clone(&findings),
            last_in_force: options.last_in_force.clone(),
            stop: Arc::clone(&stop),
        };
        tell(&findings);
        let quiet = std::thread::Builder::new()
            .name("quiet".to_owned())
            .spawn(move || quiet.run())?;
        Ok(Self {
            redirect,
            pulse,
            attribution,
            in_force,
            metrics,
            older,
            acceptor,
            workers,
            recorder,
            catalogs: catalog_thread,
            certificates,
            reviews: review_thread,
            admin,
            control: Some(control),
            listening: Mutex::default(),
            quiet: Some(quiet),
            followers,
            findings,
            stop,
        })
    }

    /// Waits until the cluster has signed what pods are to be shown, or so long. Blocks.
    pub fn wait_for_certificates(&self, at_most: Duration) {
        self.certificates.wait(at_most);
    }

    /// Where metrics and health are served.
    #[must_use]
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    /// Tells of the targets, now and whenever they have changed, before the policies on them are in force.
    pub fn on_targets(&self, follow: impl Fn(&PolicySet) -> Result<()> + Send + 'static) -> Result<()> {
        // Held over the call, so that no change falls between it and the next.
        let Ok(mut followers) = self.followers.lock() else {
            anyhow::bail!("a follower of the targets has failed")
        };
        follow(&self.in_force.load())?;
        followers.push(Box::new(follow));
        Ok(())
    }

    /// Enforces on a pod: listeners in its namespace first, then its enrolment, so that nothing is diverted to nowhere.
    pub fn add_pod(&self, spec: PodSpec) -> Result<()> {
        let netns = NetnsFd::from_fd(spec.netns).context("cannot enter the pod's network namespace")?;
        let cookie = netns.cookie();
        let (port, listeners) =
            net::listeners_in(&netns).context("cannot listen in the pod's network namespace")?;
        let id =
            cgroup::id(&spec.cgroup).with_context(|| format!("cannot read {}", spec.cgroup.display()))?;
        let pod = Arc::new(PodEntry {
            info: Arc::new(spec.info),
            cgroup: id,
            cgroup_path: spec.cgroup,
            netns: Arc::new(netns),
            container: spec.container,
            containers: Arc::default(),
        });
        self.attribution.add(Arc::clone(&pod));
        let stop = CancellationToken::new();
        self.acceptor.listen(PodListeners {
            netns: cookie,
            listeners,
            stop: stop.clone(),
        });
        let host_links = spec.host_links.clone();
        if let Ok(mut listening) = self.listening.lock() {
            listening.insert(id, Listening { stop, host_links });
        }
        steer(&self.redirect, |redirect| -> Result<()> {
            for link in &spec.host_links {
                redirect.guard_link(link)?;
            }
            Ok(redirect.enroll(id, cookie, port)?)
        })
        .context("the kernel side is gone")??;
        self.older.of_pod(id);
        Ok(())
    }

    /// Tells what is said of a pod now, such as its labels. Connections that are open go on as they were attributed.
    pub fn update_pod(&self, cgroup: CgroupId, info: &PodInfo) {
        let info = Arc::new(info.clone());
        self.attribution
            .update(cgroup, |pod| pod.info = Arc::clone(&info));
    }

    /// Tells a pod's containers, by their cgroups and those below: names, or ids where no name is known.
    pub fn tell_containers(&self, cgroup: CgroupId, containers: HashMap<CgroupId, String>) {
        let containers = Arc::new(containers);
        self.attribution
            .update(cgroup, |pod| pod.containers = Arc::clone(&containers));
    }

    /// Tells what becomes of the node's pods, and whether whoever knows them can be asked. The report has them without those that came just now.
    pub(crate) fn tell_pods(
        &self,
        states: &[PodState],
        is_current: bool,
        counts: PodCounts,
        not_covered: Vec<NotCovered>,
    ) {
        self.metrics.pods(states);
        self.findings.pods(counts, not_covered);
        self.metrics.cluster_away.set(i64::from(!is_current));
    }

    /// Lets what the processes of a cgroup do go past the agent.
    pub fn exempt(&self, cgroup: CgroupId) -> Result<()> {
        steer(&self.redirect, |redirect| redirect.exempt(cgroup)).context("the kernel side is gone")??;
        Ok(())
    }

    /// Forgets a pod, or an exempt cgroup. Connections that are open go on; new ones of its processes are refused.
    pub fn remove_pod(&self, cgroup: CgroupId) -> Result<()> {
        let listening = self.listening.lock().ok().and_then(|mut all| all.remove(&cgroup));
        let links = listening.map(|listening| {
            listening.stop.cancel();
            listening.host_links
        });
        steer(&self.redirect, |redirect| {
            links
                .iter()
                .flatten()
                .for_each(|link| redirect.unguard_link(link));
            redirect.unenroll(cgroup)
        })
        .context("the kernel side is gone")??;
        self.attribution.remove(cgroup);
        Ok(())
    }

    /// Ends accepting, so that new connections are refused, ends idle sessions, and lets the others go on for up to `grace`.
    /// Blocks until all sessions have ended; [`hurry`](Self::hurry) from another thread cuts the grace short.
    pub fn drain(&self, grace: Duration) {
        self.metrics.draining.set(1);
        if let Ok(listening) = self.listening.lock() {
            listening.values().for_each(|pod| pod.stop.cancel());
        }
        self.workers.drain(grace);
    }

    /// Ends all sessions of an agent that drains.
    pub fn hurry(&self) {
        self.workers.hurry();
    }

    /// Whether another agent has taken over from this one, and steers the kernel side now. Connections that are open here go on, as do those that
    /// come by way of listeners which the other hasn't replaced yet.
    #[must_use]
    pub fn is_taken_over(&self) -> bool {
        steer(&self.redirect, |_| ()).is_none()
    }

    /// Leaves to an agent that has taken over what only one can have: the address of metrics and health, and to show that the agent lives.
    pub fn stand_back(&mut self) {
        self.acceptor.silence();
        if let Some(admin) = self.admin.take() {
            admin.stop();
        }
    }

    /// How long ago an agent was seen alive: this one, or the one that has taken over.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.pulse.age()
    }

    /// Drains for up to `grace`, writes what is left to record, and takes the kernel side down, unless another agent has it.
    pub fn shutdown(self, grace: Duration) -> Result<()> {
        if let Some(redirect) = self.end(grace) {
            redirect.remove()?;
        }
        Ok(())
    }

    /// Drains for up to `grace` and writes what is left to record. The kernel side stays for the next agent: until that comes, connections to targets
    /// are refused, or go direct, by the targets' failure mode.
    pub fn leave(self, grace: Duration) {
        drop(self.end(grace));
    }

    fn end(mut self, grace: Duration) -> Option<Redirect> {
        self.drain(grace);
        self.stop.store(true, Ordering::Release);
        self.acceptor.stop();
        self.recorder.stop();
        self.catalogs.stop();
        self.certificates.stop();
        self.reviews.stop();
        if let Some(quiet) = self.quiet.take() {
            let _ = quiet.join();
        }
        if let Some(admin) = self.admin.take() {
            admin.stop();
        }
        if let Some(control) = self.control.take() {
            control.stop();
        }
        self.redirect.lock().ok().and_then(|mut held| held.take())
    }
}

/// What is wrong with the files that targets and policies name, as a whole.
fn told(errors: &[FileError]) -> anyhow::Error {
    let told: Vec<_> = errors.iter().map(|error| format!("\n  {error}")).collect();
    anyhow::anyhow!("{} problem(s) with files:{}", errors.len(), told.concat())
}
