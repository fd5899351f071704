//! What can go wrong with the kernel.

use std::io;
use std::path::PathBuf;

/// Why something of the kernel's couldn't be had. All of these are the operator's or ours, never a peer's.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel programs are neither embedded nor where they are looked for.
    #[error(
        "the kernel programs are missing: this binary was built without them, and {} does not exist. \
         Run `cargo xtask build`, or set BAILIFF_EBPF_OBJECT to bailiff-ebpf.o",
        looked_for.display()
    )]
    NoObject {
        /// The last place that was looked at.
        looked_for: PathBuf,
    },
    /// A system call failed.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        error: io::Error,
    },
    /// Loading or attaching a program failed.
    #[error("{what}: {reason}. `bailiff doctor` says what this kernel lacks")]
    Bpf {
        /// What was tried.
        what: String,
        /// What the library or the verifier said.
        reason: String,
    },
    /// The kernel doesn't let this process do what it has to.
    #[error(
        "cannot {what}: {error}. It takes {capability}: name it in the container's securityContext.capabilities.add"
    )]
    Privilege {
        /// What was tried.
        what: &'static str,
        /// What lets a process do that.
        capability: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// There is no cgroup2 file system.
    #[error("no cgroup2 file system is mounted; mount one, or boot with systemd.unified_cgroup_hierarchy=1")]
    NoCgroup2,
}

impl KernelError {
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| Self::System { what, error }
    }

    pub(crate) fn bpf<E: std::error::Error>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |error| {
            let mut reason = error.to_string();
            let mut source = error.source();
            while let Some(inner) = source {
                reason = format!("{reason}: {inner}");
                source = inner.source();
            }
            Self::Bpf { what, reason }
        }
    }
}
