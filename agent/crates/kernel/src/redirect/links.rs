//! Attaching: each program behind a pinned link, so that it outlives the agent, and is replaced in one step.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::Link as _;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{
    CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, LinkOrder, Program,
    ProgramError, SchedClassifier, SockOps, TcAttachType, TracePoint, tc,
};

use super::{GuardBy, Options};
use crate::{KernelError, sys};

/// Programs on the pods' cgroup: each one's name, its hook, and the hook's number in `enum bpf_attach_type`. In the order in
/// which they are attached: connects last, when all that they rest on is there.
pub(crate) const PROGRAMS: [(&str, &str, u32); 8] = [
    ("bailiff_sock_create", "sock_create", 2),
    ("bailiff_sock_release", "sock_release", 34),
    ("bailiff_sockops", "sock_ops", 3),
    ("bailiff_getpeername4", "getpeername4", 29),
    ("bailiff_getpeername6", "getpeername6", 30),
    ("bailiff_egress", "egress", 1),
    ("bailiff_connect4", "connect4", 10),
    ("bailiff_connect6", "connect6", 11),
];

const TRACEPOINTS: [(&str, &str, &str); 3] = [
    ("bailiff_fork", "task", "task_newtask"),
    ("bailiff_exec", "sched", "sched_process_exec"),
    ("bailiff_exit", "sched", "sched_process_exit"),
];

const HOST_GUARD: &str = "bailiff_host_guard";

/// Where the guard stands among an interface's clsact filters, on kernels without tcx: a place of its own, so that whoever
/// comes next finds it again.
const FILTER_PRIORITY: u16 = 0xba11;
const FILTER_HANDLE: TcHandle = TcHandle::new(0, 1);

/// Links of this agent, and the program for links to come.
pub(super) struct Links {
    ebpf: Ebpf,
    cgroup: File,
    attached: Vec<Attached>,
    directory: PathBuf,
    guard_by: GuardBy,
    /// Interfaces with a guard.
    guarded: Vec<String>,
    /// Whether guards have come or gone since interfaces were last looked at; true at first, for what an agent before left.
    untidy: bool,
}

/// A program of this agent on the pods' cgroup.
struct Attached {
    name: &'static str,
    hook: u32,
    id: u32,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

/// Attaches everything that hangs on the pods' cgroup, and the tracepoints.
pub(super) fn attach(mut ebpf: Ebpf, options: &Options) -> Result<Links, KernelError> {
    let directory = options.pins.join("links");
    std::fs::create_dir_all(&directory).map_err(KernelError::system(format!(
        "cannot make {}",
        directory.display()
    )))?;
    let cgroup = File::open(&options.pods_cgroup).map_err(KernelError::system(format!(
        "cannot open {}",
        options.pods_cgroup.display()
    )))?;
    for (name, category, event) in TRACEPOINTS {
        let path = directory.join(name);
        let attached = (|| {
            let program: &mut TracePoint = program(&mut ebpf, name)?.try_into()?;
            program.load()?;
            let id = program.attach(category, event)?;
            FdLink::try_from(program.take_link(id)?)
                .map_err(|error| ProgramError::IOError(io::Error::other(error)))
        })();
        // Both the old and the new one may run for a moment. They write the same, but for the number of a process's threads,
        // which then may be off: that process is forgotten too early or too late.
        let link = attached.map_err(KernelError::bpf(format!("cannot attach {name}")))?;
        let _ = std::fs::remove_file(&path);
        link.pin(&path)
            .map_err(KernelError::bpf(format!("cannot pin {}", path.display())))?;
    }
    for (name, ..) in PROGRAMS {
        let program =
            program(&mut ebpf, name).map_err(KernelError::bpf(format!("there is no program {name}")))?;
        load(program).map_err(KernelError::bpf(format!("the kernel refuses {name}")))?;
    }
    // One right after the other: where those before go by other maps, what one has noted the next doesn't find.
    let mut attached = Vec::new();
    for (name, _, hook) in PROGRAMS {
        let path = directory.join(name);
        let program =
            program(&mut ebpf, name).map_err(KernelError::bpf(format!("there is no program {name}")))?;
        if !replaced(program, name, &path)? {
            let link =
                attach_cgroup(program, &cgroup).map_err(KernelError::bpf(format!("cannot attach {name}")))?;
            link.pin(&path)
                .map_err(KernelError::bpf(format!("cannot pin {}", path.display())))?;
        }
        let id = id_of(program).map_err(KernelError::bpf(format!("{name} isn't loaded")))?;
        attached.push(Attached { name, hook, id });
    }
    let guard: &mut SchedClassifier = program(&mut ebpf, HOST_GUARD)
        .and_then(TryInto::try_into)
        .map_err(KernelError::bpf("there is no host-side guard"))?;
    guard
        .load()
        .map_err(KernelError::bpf(format!("the kernel refuses {HOST_GUARD}")))?;
    Ok(Links {
        ebpf,
        cgroup,
        attached,
        directory,
        guard_by: options.guard_by,
        guarded: Vec::new(),
        untidy: true,
    })
}

/// Replaces the program behind a pinned link, where there is one that is good for anything.
fn replaced(program: &mut Program, name: &str, path: &Path) -> Result<bool, KernelError> {
    if !path.exists() {
        return Ok(false);
    }
    let link =
        sys::object_get(path).map_err(KernelError::system(format!("cannot open {}", path.display())))?;
    let fd = program
        .fd()
        .map_err(KernelError::bpf(format!("{name} isn't loaded")))?;
    match sys::link_update(link.as_fd(), fd.as_fd()) {
        Ok(()) => Ok(true),
        // It was on a cgroup that is gone, in whose place there is another.
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
            std::fs::remove_file(path)
                .map_err(KernelError::system(format!("cannot remove {}", path.display())))?;
            Ok(false)
        }
        Err(error) => Err(KernelError::system(format!(
            "cannot replace the program behind {}",
            path.display()
        ))(error)),
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program, ProgramError> {
    ebpf.program_mut(name)
        .ok_or_else(|| ProgramError::IOError(io::Error::other(format!("no program {name}"))))
}

fn id_of(program: &Program) -> Result<u32, ProgramError> {
    let info = match program {
        Program::CgroupSock(program) => program.info(),
        Program::CgroupSockAddr(program) => program.info(),
        Program::CgroupSkb(program) => program.info(),
        Program::SockOps(program) => program.info(),
        Program::SchedClassifier(program) => program.info(),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    Ok(info?.id())
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSkb(program) => program.load(),
        Program::SockOps(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Links stack with those of others on the same hook, whatever flags they were made with.
fn attach_cgroup(program: &mut Program, cgroup: &File) -> Result<FdLink, ProgramError> {
    let mode = CgroupAttachMode::Single;
    match program {
        Program::CgroupSock(program) => {
            let program: &mut CgroupSock = program;
            let id = program.attach(cgroup, mode)?;
            program.take_link(id)?.try_into().map_err(foreign)
        }
        Program::CgroupSockAddr(program) => {
            let program: &mut CgroupSockAddr = program;
            let id = program.attach(cgroup, mode)?;
            program.take_link(id)?.try_into().map_err(foreign)
        }
        Program::CgroupSkb(program) => {
            let program: &mut CgroupSkb = program;
            let id = program.attach(cgroup, CgroupSkbAttachType::Egress, mode)?;
            program.take_link(id)?.try_into().map_err(foreign)
        }
        Program::SockOps(program) => {
            let program: &mut SockOps = program;
            let id = program.attach(cgroup, mode)?;
            program.take_link(id)?.try_into().map_err(foreign)
        }
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

impl Links {
    /// Attaches the host-side guard to an interface, or replaces the one of an agent before in one step.
    pub(super) fn guard_link(&mut self, interface: &str) -> Result<(), KernelError> {
        let path = self.guard_path(interface)?;
        let guard: &mut SchedClassifier = program(&mut self.ebpf, HOST_GUARD)
            .and_then(TryInto::try_into)
            .map_err(KernelError::bpf("there is no host-side guard"))?;
        let attached = match self.guard_by {
            GuardBy::Clsact => by_filter(guard, interface),
            GuardBy::Tcx => by_tcx(guard, interface, &path),
            GuardBy::Either => by_tcx(guard, interface, &path).or_else(|_| by_filter(guard, interface)),
        };
        attached.map_err(KernelError::bpf(format!("cannot guard {interface}")))?;
        self.untidy = true;
        if !self.guarded.iter().any(|guarded| guarded == interface) {
            self.guarded.push(interface.to_owned());
        }
        Ok(())
    }

    /// Takes the guard off an interface, if that is still there.
    pub(super) fn unguard_link(&mut self, interface: &str) {
        self.guarded.retain(|guarded| guarded != interface);
        self.untidy = true;
        if let Ok(path) = self.guard_path(interface)
            && std::fs::remove_file(path).is_ok()
        {
            return;
        }
        // The qdisc stays: others may use it by now.
        if let Ok(filter) = filter_on(interface) {
            let _ = filter.detach();
        }
    }

    /// The programs that the kernel doesn't run where they were attached. All of them where it can't be asked.
    pub(super) fn detached(&self) -> Vec<String> {
        let mut missing: Vec<String> = self
            .attached
            .iter()
            .filter(|attached| {
                !sys::programs_on(self.cgroup.as_fd(), attached.hook)
                    .is_ok_and(|there| there.contains(&attached.id))
            })
            .map(|attached| attached.name.to_owned())
            .collect();
        let guard = self.ebpf.program(HOST_GUARD).and_then(|guard| id_of(guard).ok());
        for interface in &self.guarded {
            // A filter isn't pinned, and whoever replaces qdiscs is told of by doctor. A pod's link may have gone with it.
            let is_tcx = self.guard_path(interface).is_ok_and(|path| path.exists());
            let there = || SchedClassifier::query_tcx(interface, TcAttachType::Ingress);
            if is_tcx
                && !there().is_ok_and(|(_, there)| there.iter().any(|program| Some(program.id()) == guard))
            {
                missing.push(format!("{HOST_GUARD} on {interface}"));
            }
        }
        missing
    }

    /// Whether another agent's programs stand behind all of the links that this agent has made or taken.
    pub(super) fn are_taken_over(&self) -> bool {
        self.attached.iter().all(|attached| {
            PinnedLink::from_pin(self.directory.join(attached.name))
                .and_then(|link| FdLink::from(link).info())
                .is_ok_and(|link| link.program_id() != attached.id)
        })
    }

    /// Forgets the guards of interfaces that have gone, and their pins, where guards have come or gone since the last time. All interfaces
    /// are asked for at once: one after the other would take hundreds of calls for each pod of a full node.
    pub(super) fn tidy(&mut self) {
        if !std::mem::take(&mut self.untidy) {
            return;
        }
        let Ok(interfaces) = nix::net::if_::if_nameindex() else {
            self.untidy = true;
            return;
        };
        let there: HashMap<String, u32> = interfaces
            .iter()
            .map(|interface| (interface.name().to_string_lossy().into_owned(), interface.index()))
            .collect();
        self.guarded.retain(|guarded| there.contains_key(guarded));
        let numbers: HashSet<u32> = there.into_values().collect();
        for pin in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let name = pin.file_name();
            let index = name.to_str().and_then(|name| {
                name.strip_prefix(HOST_GUARD)?
                    .strip_prefix('_')?
                    .parse::<u32>()
                    .ok()
            });
            if index.is_some_and(|index| !numbers.contains(&index)) {
                let _ = std::fs::remove_file(pin.path());
            }
        }
    }

    /// By the interface's number and not by its name, which another one may get.
    fn guard_path(&self, interface: &str) -> Result<PathBuf, KernelError> {
        let index = nix::net::if_::if_nametoindex(interface).map_err(|error| {
            KernelError::system(format!("there is no interface {interface}"))(error.into())
        })?;
        Ok(self.directory.join(format!("{HOST_GUARD}_{index}")))
    }

    /// Detaches everything, also what an agent before attached.
    pub(super) fn remove(mut self) {
        for interface in std::mem::take(&mut self.guarded) {
            self.unguard_link(&interface);
        }
        for pin in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let _ = std::fs::remove_file(pin.path());
        }
    }
}

fn foreign(error: impl std::error::Error + Send + Sync + 'static) -> ProgramError {
    ProgramError::IOError(io::Error::other(error))
}

/// By a pinned link, which outlives the agent.
fn by_tcx(guard: &mut SchedClassifier, interface: &str, path: &Path) -> Result<(), ProgramError> {
    if path.exists() {
        let link = sys::object_get(path).map_err(ProgramError::IOError)?;
        if sys::link_update(link.as_fd(), guard.fd()?.as_fd()).is_ok() {
            return Ok(());
        }
        // The interface of that link has gone, and another one has its number.
        let _ = std::fs::remove_file(path);
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = guard.attach_with_options(interface, TcAttachType::Ingress, options)?;
    let link: FdLink = guard.take_link(id)?.try_into().map_err(foreign)?;
    link.pin(path).map_err(foreign)?;
    Ok(())
}

/// The guard as a clsact filter, whoever attached it.
fn filter_on(interface: &str) -> io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(
        interface,
        TcAttachType::Ingress,
        FILTER_PRIORITY,
        FILTER_HANDLE,
        None,
    )
}

/// By a clsact filter, which outlives the agent by itself.
fn by_filter(guard: &mut SchedClassifier, interface: &str) -> Result<(), ProgramError> {
    let _ = tc::qdisc_add_clsact(interface); // It may be there already.
    let options = NlOptions {
        priority: FILTER_PRIORITY,
        handle: FILTER_HANDLE,
        ..NlOptions::default()
    };
    let id = match guard.attach_with_options(
        interface,
        TcAttachType::Ingress,
        TcAttachOptions::Netlink(options),
    ) {
        Ok(id) => id,
        // That of an agent before.
        Err(_) => guard.attach_to_link(filter_on(interface).map_err(ProgramError::IOError)?)?,
    };
    // Dropped, it would go.
    let _kept = std::mem::ManuallyDrop::new(guard.take_link(id)?);
    Ok(())
}

/// Where the fields stand that the tracepoints' programs read, by the names of their variables: as tracefs says, or as on kernels
/// up to 6.18 where it can't be read.
pub(super) fn tracepoint_offsets() -> [(&'static str, u32); 3] {
    let offset = |event: &str, field: &str| {
        ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
            .iter()
            .find_map(|root| {
                let text = std::fs::read_to_string(format!("{root}/events/{event}/format")).ok()?;
                let line = text.lines().find(|line| {
                    line.contains(&format!(" {field};")) || line.contains(&format!(" {field}["))
                })?;
                line.split("offset:").nth(1)?.split(';').next()?.parse().ok()
            })
    };
    [
        ("NEWTASK_PID", offset("task/task_newtask", "pid").unwrap_or(8)),
        (
            "NEWTASK_FLAGS",
            offset("task/task_newtask", "clone_flags").unwrap_or(32),
        ),
        (
            "EXEC_FILENAME",
            offset("sched/sched_process_exec", "filename").unwrap_or(8),
        ),
    ]
}
