//! Attaching: each program behind a pinned link, so that it outlives the agent, and is replaced in one step.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions};
use aya::programs::{
    CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, LinkOrder, Program,
    ProgramError, SchedClassifier, SockOps, TcAttachType, TracePoint, tc,
};

use super::Options;
use crate::{KernelError, sys};

const PROGRAMS: [&str; 8] = [
    "bailiff_sock_create",
    "bailiff_sock_release",
    "bailiff_sockops",
    "bailiff_getpeername4",
    "bailiff_getpeername6",
    "bailiff_egress",
    "bailiff_connect4",
    "bailiff_connect6",
];

const TRACEPOINTS: [(&str, &str); 3] = [
    ("bailiff_fork", "sched_process_fork"),
    ("bailiff_exec", "sched_process_exec"),
    ("bailiff_exit", "sched_process_exit"),
];

const HOST_GUARD: &str = "bailiff_host_guard";

/// Links of this agent, and the program for links to come.
pub(super) struct Links {
    ebpf: Ebpf,
    pinned: Vec<PathBuf>,
    guards: Vec<SchedClassifierLink>,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links")
            .field("pinned", &self.pinned)
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
    let mut pinned = Vec::new();
    for (name, event) in TRACEPOINTS {
        let path = directory.join(name);
        let attached = (|| {
            let program: &mut TracePoint = program(&mut ebpf, name)?.try_into()?;
            program.load()?;
            let id = program.attach("sched", event)?;
            FdLink::try_from(program.take_link(id)?)
                .map_err(|error| ProgramError::IOError(io::Error::other(error)))
        })();
        // Both the old and the new one may run for a moment: they write the same.
        let link = attached.map_err(KernelError::bpf(format!("cannot attach {name}")))?;
        let _ = std::fs::remove_file(&path);
        link.pin(&path)
            .map_err(KernelError::bpf(format!("cannot pin {}", path.display())))?;
        pinned.push(path);
    }
    for name in PROGRAMS {
        let path = directory.join(name);
        let program =
            program(&mut ebpf, name).map_err(KernelError::bpf(format!("there is no program {name}")))?;
        load(program).map_err(KernelError::bpf(format!("the kernel refuses {name}")))?;
        if path.exists() {
            let link = sys::object_get(&path)
                .map_err(KernelError::system(format!("cannot open {}", path.display())))?;
            let fd = program
                .fd()
                .map_err(KernelError::bpf(format!("{name} isn't loaded")))?;
            sys::link_update(link.as_fd(), fd.as_fd()).map_err(KernelError::system(format!(
                "cannot replace the program behind {}",
                path.display()
            )))?;
        } else {
            let link =
                attach_cgroup(program, &cgroup).map_err(KernelError::bpf(format!("cannot attach {name}")))?;
            link.pin(&path)
                .map_err(KernelError::bpf(format!("cannot pin {}", path.display())))?;
        }
        pinned.push(path);
    }
    let guard: &mut SchedClassifier = program(&mut ebpf, HOST_GUARD)
        .and_then(TryInto::try_into)
        .map_err(KernelError::bpf("there is no host-side guard"))?;
    guard
        .load()
        .map_err(KernelError::bpf(format!("the kernel refuses {HOST_GUARD}")))?;
    Ok(Links {
        ebpf,
        pinned,
        guards: Vec::new(),
    })
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program, ProgramError> {
    ebpf.program_mut(name)
        .ok_or_else(|| ProgramError::IOError(io::Error::other(format!("no program {name}"))))
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
    let foreign = |error| ProgramError::IOError(io::Error::other(error));
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
    /// Attaches the host-side guard to an interface: by tcx where the kernel has it, else by a clsact filter.
    pub(super) fn guard_link(&mut self, interface: &str) -> Result<(), KernelError> {
        let attached = (|| {
            let guard: &mut SchedClassifier = program(&mut self.ebpf, HOST_GUARD)?.try_into()?;
            let tcx = TcAttachOptions::TcxOrder(LinkOrder::first());
            let id = match guard.attach_with_options(interface, TcAttachType::Ingress, tcx) {
                Ok(id) => id,
                Err(_) => {
                    let _ = tc::qdisc_add_clsact(interface); // It may be there already.
                    guard.attach_with_options(
                        interface,
                        TcAttachType::Ingress,
                        TcAttachOptions::Netlink(NlOptions::default()),
                    )?
                }
            };
            guard.take_link(id)
        })();
        self.guards
            .push(attached.map_err(KernelError::bpf(format!("cannot guard {interface}")))?);
        Ok(())
    }

    pub(super) fn remove(self) {
        for path in &self.pinned {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Mounts a bpf file system above the directory for pins, where there is none. The place, if it was mounted here.
pub(super) fn mount_bpffs(pins: &Path) -> Result<Option<PathBuf>, KernelError> {
    const MAGIC: i64 = 0xcafe_4a11;
    let is_bpffs =
        |path: &Path| nix::sys::statfs::statfs(path).is_ok_and(|about| about.filesystem_type().0 == MAGIC);
    let existing = pins
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    if is_bpffs(existing) {
        return Ok(None);
    }
    let place = pins.parent().unwrap_or(pins);
    let place = if pins.starts_with("/sys/fs/bpf") {
        Path::new("/sys/fs/bpf")
    } else {
        place
    };
    std::fs::create_dir_all(place)
        .map_err(KernelError::system(format!("cannot make {}", place.display())))?;
    nix::mount::mount(
        Some("bpf"),
        place,
        Some("bpf"),
        nix::mount::MsFlags::empty(),
        Some("mode=0700"),
    )
    .map_err(|error| {
        KernelError::system(format!("cannot mount a bpf file system on {}", place.display()))(error.into())
    })?;
    Ok(Some(place.to_owned()))
}

/// Mounts tracefs where it isn't, since attaching to a tracepoint asks it for the tracepoint's number. True if it was mounted.
pub(super) fn mount_tracefs() -> Result<bool, KernelError> {
    let place = Path::new("/sys/kernel/tracing");
    if place.join("events").exists() || Path::new("/sys/kernel/debug/tracing/events").exists() {
        return Ok(false);
    }
    nix::mount::mount(
        Some("tracefs"),
        place,
        Some("tracefs"),
        nix::mount::MsFlags::empty(),
        None::<&str>,
    )
    .map_err(|error| KernelError::system("cannot mount tracefs on /sys/kernel/tracing")(error.into()))?;
    Ok(true)
}

/// Where the fields stand that the tracepoints' programs read, by tracefs; what kernels up to 6.12 have where it can't be read.
pub(super) fn tracepoint_offsets() -> (u32, u32) {
    let offset = |event: &str, field: &str| {
        ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
            .iter()
            .find_map(|root| {
                let text = std::fs::read_to_string(format!("{root}/events/sched/{event}/format")).ok()?;
                let line = text.lines().find(|line| {
                    line.contains(&format!(" {field};")) || line.contains(&format!(" {field}["))
                })?;
                line.split("offset:").nth(1)?.split(';').next()?.parse().ok()
            })
    };
    (
        offset("sched_process_fork", "child_pid").unwrap_or(44),
        offset("sched_process_exec", "filename").unwrap_or(8),
    )
}
