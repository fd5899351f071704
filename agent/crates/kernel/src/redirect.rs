//! The kernel programs and their maps: loading, taking over, steering, reading, removing.

mod entries;
mod links;
mod maps;
mod mounts;
mod processes;
mod told;

use std::net::SocketAddr;
use std::path::PathBuf;

use bailiff_common::{Config, Counter, Enrolment};
use bailiff_model::{Ancestry, CgroupId, FailureMode, NetnsCookie, OriginalDst, ProcessId};

use crate::{KernelError, Sweep};

pub use entries::TargetEntry;
pub(crate) use links::PROGRAMS;
pub use maps::{Heartbeat, Origins, Pulse};

/// How the kernel side is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// A directory on a bpf file system that is this instance's own.
    pub pins: PathBuf,
    /// The cgroup above all pods: the programs hang there.
    pub pods_cgroup: PathBuf,
    /// The agent's own cgroup.
    pub agent_cgroup: CgroupId,
    /// What is protected from the first moment on, where there were no maps of this version before; [`set_targets`](Redirect::set_targets) says
    /// what is then.
    pub targets: Vec<TargetEntry>,
    /// A heartbeat older than this counts as none.
    pub heartbeat_max_age: std::time::Duration,
    /// How pods' links are guarded on the host's side.
    pub guard_by: GuardBy,
    /// How many diverted connections there may be at once, if not as many as the programs say. Maps that are taken over keep
    /// their size.
    pub max_origins: Option<u32>,
}

/// How the host-side guard hangs on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GuardBy {
    /// By tcx, where the kernel has it (6.6 on), else by a clsact filter.
    #[default]
    Either,
    /// By tcx alone: whoever replaces the interface's qdiscs doesn't touch it.
    Tcx,
    /// By a clsact filter.
    Clsact,
}

/// A connection, as the accepting side sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FourTuple {
    /// The namespace of the listener, and so of the client.
    pub netns: NetnsCookie,
    /// The client's end.
    pub client: SocketAddr,
    /// The listener's end.
    pub listener: SocketAddr,
}

/// What the kernel noted about a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The namespace in which it was made.
    pub netns: NetnsCookie,
    /// The connecting pod's cgroup.
    pub pod_cgroup: CgroupId,
    /// The connecting task's own cgroup.
    pub cgroup: CgroupId,
    /// The connecting process.
    pub process: ProcessId,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its name.
    pub comm: String,
    /// What it executed, where that was seen.
    pub executable: Option<String>,
    /// From whom it descends.
    pub ancestry: Ancestry,
    /// Who made the socket, where that is known and was somebody else.
    pub creator: Option<Creator>,
    /// What was asked for.
    pub original: OriginalDst,
}

/// What was noted about a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenProcess {
    /// Which process.
    pub id: ProcessId,
    /// What it executed last, where that was seen.
    pub executable: Option<String>,
    /// From whom it descends.
    pub ancestry: Ancestry,
}

/// Who made a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creator {
    /// The cgroup of its pod; its own cgroup where it belongs to none.
    pub pod_cgroup: CgroupId,
    /// The process.
    pub tgid: u32,
}

/// The kernel side, in force. Dropping it leaves everything in place, so that a crash fails closed; [`Redirect::remove`] takes
/// it down.
pub struct Redirect {
    maps: maps::Maps,
    told: Option<told::Told>,
    links: links::Links,
    options: Options,
    /// The cgroup of an agent before this one.
    agent_before: Option<CgroupId>,
    bpffs: mounts::BpfFs,
    traced_here: bool,
    took_over: bool,
}

impl std::fmt::Debug for Redirect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redirect")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Redirect {
    /// Puts the programs in force, or takes over those of an agent before: maps are kept, and the program behind each link is
    /// replaced in one step.
    pub fn load(options: Options) -> Result<Self, KernelError> {
        let bpffs = mounts::BpfFs::with(&options.pins)?;
        let took_over = options.pins.join("links").join(links::PROGRAMS[0].0).exists();
        let tracefs = mounts::TraceFs::mounted()?;
        let (mut ebpf, mut maps, were_there) = maps::load(&options)?;
        let agent_before = maps.agent();
        maps.set_config(&Config {
            agent_cgroup: options.agent_cgroup.0,
            agent_before: agent_before.map_or(0, |agent| agent.0),
            root_cgroup: crate::cgroup::id(&crate::cgroup::mount_of(&options.pods_cgroup)?)
                .map_err(KernelError::system("cannot read the cgroup root"))?
                .0,
            pods_cgroup: crate::cgroup::id(&options.pods_cgroup)
                .map_err(KernelError::system("cannot read the pods' cgroup"))?
                .0,
            heartbeat_max_age_ns: u64::try_from(options.heartbeat_max_age.as_nanos()).unwrap_or(u64::MAX),
            flags: 0,
            _pad: 0,
        })?;
        if let Some(heartbeat) = &mut maps.heartbeat {
            heartbeat.beat();
        }
        // In place of programs that go by another version's maps, those that go by these must know at once what is protected.
        if !were_there {
            maps.set_targets(&options.targets)?;
        }
        let told = told::Told::of(&mut ebpf);
        let this = Self {
            agent_before,
            maps,
            told,
            links: links::attach(ebpf, &options)?,
            options,
            bpffs,
            traced_here: tracefs.mounted,
            took_over,
        };
        maps::forget_others(&this.options.pins);
        // By now whoever forks is told of.
        maps::scan_processes(&this.options)?;
        Ok(this)
    }

    /// Diverts a pod's connections to listeners on a port of its namespace. Where it was enrolled before, its old listeners stay
    /// known, so that nobody can dial them directly while they empty their queues.
    pub fn enroll(&mut self, pod: CgroupId, netns: NetnsCookie, port: u16) -> Result<(), KernelError> {
        let old_port = self.maps.enrolment(pod)?.map_or(0, |before| before.port);
        self.maps.enroll(
            pod,
            Enrolment {
                netns: netns.0,
                port,
                old_port,
                flags: 0,
            },
        )
    }

    /// Lets a cgroup's connections go where they want.
    pub fn exempt(&mut self, cgroup: CgroupId) -> Result<(), KernelError> {
        self.maps.enroll(
            cgroup,
            Enrolment {
                flags: bailiff_common::EXEMPT,
                ..Enrolment::default()
            },
        )
    }

    /// Forgets a pod: its connections to protected addresses are refused from then on.
    pub fn unenroll(&mut self, pod: CgroupId) -> Result<(), KernelError> {
        self.maps.unenroll(pod)
    }

    /// Protects these addresses and no others. What was protected before and is again is so all the while.
    pub fn set_targets(&mut self, targets: &[TargetEntry]) -> Result<(), KernelError> {
        self.maps.set_targets(targets)
    }

    /// What shows the kernel side that the agent lives: once, for the thread that is to do so. Loading has done so already.
    pub fn heartbeat(&mut self) -> Option<Heartbeat> {
        self.maps.heartbeat.take()
    }

    /// A reader of what was noted about connections.
    #[must_use]
    pub fn origins(&self) -> Origins {
        self.maps.origins()
    }

    /// Passes on to the log what the programs told since the last time: refusals, and why. To be called now and then.
    pub fn pass_on_told(&mut self) {
        if let Some(told) = &mut self.told {
            told.pass_on();
        }
    }

    /// The programs that the kernel doesn't run where this agent attached them, because somebody took them off, or because
    /// another agent has taken over.
    #[must_use]
    pub fn detached(&self) -> Vec<String> {
        self.links.detached()
    }

    /// Whether there were programs of an agent before this one, which may still run.
    #[must_use]
    pub fn took_over(&self) -> bool {
        self.took_over
    }

    /// Whether another agent has taken over from this one. From then on it steers what is in the kernel, and this one must not.
    #[must_use]
    pub fn is_taken_over(&self) -> bool {
        self.links.are_taken_over()
    }

    /// When an agent was seen alive last: this one or the next.
    pub fn pulse(&self) -> Result<Pulse, KernelError> {
        Pulse::of(&self.options.pins)
    }

    /// What finds connections older than their protection.
    pub fn sweep(&self) -> Result<Sweep, KernelError> {
        let mount = crate::cgroup::mount_of(&self.options.pods_cgroup)?;
        let own = crate::cgroup::current_below(&mount).and_then(|own| {
            crate::cgroup::id(&own).map_err(KernelError::system("cannot read the agent's own cgroup"))
        })?;
        Sweep::new(
            [own, self.options.agent_cgroup]
                .into_iter()
                .chain(self.agent_before),
        )
        .map_err(KernelError::system(
            "cannot read the agent's own network namespace",
        ))
    }

    /// What the programs counted.
    pub fn counters(&self) -> Vec<(Counter, u64)> {
        self.maps.counters()
    }

    /// Guards the host's side of a pod's link: an interface of the caller's namespace.
    pub fn guard_link(&mut self, interface: &str) -> Result<(), KernelError> {
        self.links.guard_link(interface)
    }

    /// Ends the guarding of a link.
    pub fn unguard_link(&mut self, interface: &str) {
        self.links.unguard_link(interface);
    }

    /// Removes what is left of guards whose links went with their pods. To be called now and then.
    pub fn tidy(&mut self) {
        self.links.tidy();
    }

    /// Takes everything down: links, maps, pins, and the bpf file system if it was mounted for this.
    pub fn remove(self) -> Result<(), KernelError> {
        self.links.remove();
        drop(self.maps);
        std::fs::remove_dir_all(&self.options.pins).map_err(KernelError::system(format!(
            "cannot remove {}",
            self.options.pins.display()
        )))?;
        if self.traced_here {
            mounts::TraceFs::unmount()?;
        }
        self.bpffs.leave()
    }
}

/// Whether connections go direct while the agent doesn't answer.
pub(crate) fn is_open(mode: FailureMode) -> u32 {
    u32::from(mode == FailureMode::Open)
}
