//! What this kernel can do, and who else has programs in it. Nothing here attaches, pins or stays.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use aya::EbpfLoader;
use aya::programs::{Program, ProgramType, SchedClassifier, TcAttachType, loaded_programs};
use aya::sys::is_program_supported;

use crate::netns::NetnsFd;
use crate::redirect::PROGRAMS;
use crate::{KernelError, object, sys};

/// Cgroups that are looked at; a node of 250 pods has some 1,500.
const MOST_CGROUPS: usize = 8192;

/// Has the kernel verify every program of the object, and lets them go again. The number of programs.
///
/// Takes some hundred milliseconds and the rights that enforcing takes.
pub fn verify_programs() -> Result<usize, KernelError> {
    let object = object::find()?;
    let mut ebpf = EbpfLoader::new()
        .load(&object)
        .map_err(KernelError::bpf("the kernel refuses the maps"))?;
    let mut verified = 0;
    for (name, program) in ebpf.programs_mut() {
        let outcome = match program {
            Program::CgroupSock(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            Program::CgroupSkb(program) => program.load(),
            Program::SockOps(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            Program::TracePoint(program) => program.load(),
            _ => continue,
        };
        outcome.map_err(KernelError::bpf(format!("the kernel refuses {name}")))?;
        verified += 1;
    }
    Ok(verified)
}

/// The kinds of program that Bailiff takes and this kernel has not.
pub fn missing_program_types() -> Result<Vec<&'static str>, KernelError> {
    let mut missing = Vec::new();
    for (name, kind) in [
        ("cgroup_sock", ProgramType::CgroupSock),
        ("cgroup_sock_addr", ProgramType::CgroupSockAddr),
        ("cgroup_skb", ProgramType::CgroupSkb),
        ("sock_ops", ProgramType::SockOps),
        ("sched_cls", ProgramType::SchedClassifier),
        ("tracepoint", ProgramType::TracePoint),
    ] {
        let supported = is_program_supported(kind)
            .map_err(KernelError::bpf(format!("cannot ask the kernel for {name}")))?;
        if !supported {
            missing.push(name);
        }
    }
    Ok(missing)
}

/// Whether programs can hang on an interface by tcx; else a clsact filter does.
#[must_use]
pub fn has_tcx() -> bool {
    SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok()
}

/// Whether connections can be destroyed from outside (CONFIG_INET_DIAG_DESTROY). Takes CAP_NET_ADMIN.
pub fn can_destroy_connections() -> std::io::Result<bool> {
    crate::connections::is_supported()
}

/// Whether this process may do to pods what an agent of a node does, by trying it where it changes nothing: open the namespaces of
/// others' processes, enter a network namespace, and destroy a connection, which there isn't.
///
/// # Errors
/// The first that it may not, with the capability that it takes.
pub fn may_serve_pods() -> Result<(), KernelError> {
    let lacks = |what, capability| {
        move |error| KernelError::Privilege {
            what,
            capability,
            error,
        }
    };
    // The kernel's own second process has all capabilities, and so this takes what the pods' processes take. It isn't there for whoever
    // has a process namespace of its own.
    match File::open("/proc/2/ns/net") {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(lacks(
                "open the namespaces of other processes (/proc/2/ns/net)",
                "CAP_SYS_PTRACE",
            )(error));
        }
        Ok(_) | Err(_) => {}
    }
    NetnsFd::open(Path::new("/proc/thread-self/ns/net"))
        .map_err(lacks("enter network namespaces", "CAP_SYS_ADMIN"))?;
    match can_destroy_connections() {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(lacks(
            "destroy connections that are older than their protection",
            "CAP_NET_ADMIN",
        )(error)),
        // What the kernel doesn't have at all is told by `doctor`.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A program on one of the hooks that Bailiff uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The cgroup that it hangs on.
    pub cgroup: PathBuf,
    /// The hook.
    pub hook: &'static str,
    /// The program's name, as far as the kernel keeps it: 15 bytes.
    pub program: String,
}

/// The programs on the hooks that Bailiff uses, at a cgroup and all below it.
pub fn attached(root: &Path) -> Result<Vec<Attached>, KernelError> {
    let names: HashMap<u32, String> = loaded_programs()
        .flatten()
        .map(|program| {
            let name = String::from_utf8_lossy(program.name()).into_owned();
            (program.id(), name)
        })
        .collect();
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    let mut seen = 0;
    while let Some(cgroup) = waiting.pop() {
        seen += 1;
        if seen > MOST_CGROUPS {
            break;
        }
        // A cgroup may go while its parent is read; only the first one has to be there.
        let Ok(directory) = File::open(&cgroup) else {
            continue;
        };
        for (_, hook, number) in PROGRAMS {
            let ids = match sys::programs_on(directory.as_fd(), number) {
                Ok(ids) => ids,
                Err(_) if cgroup != root => continue,
                Err(error) => {
                    return Err(KernelError::system(format!(
                        "cannot ask for the programs on {hook} of {}",
                        root.display()
                    ))(error));
                }
            };
            found.extend(ids.into_iter().map(|id| Attached {
                cgroup: cgroup.clone(),
                hook,
                program: names.get(&id).cloned().unwrap_or_else(|| format!("#{id}")),
            }));
        }
        let below = std::fs::read_dir(&cgroup).into_iter().flatten().flatten();
        waiting.extend(
            below
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    Ok(found)
}
