//! Other kernels than this machine's: those of distributions, in a machine that QEMU emulates.
//!
//! The guest's files are this machine's own, read over 9p, with an overlay in memory above them: so whatever was built here runs there, and
//! nothing that is done there stays. QEMU and the kernels are packages that are unpacked under `target/vm`; none is installed.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::packages::{self, Purpose};
use crate::shell;

mod archive;
pub(crate) mod guest;
mod initramfs;
mod kernel;
mod machine;
mod qemu;

pub(crate) use guest::{Job, Program, Report};
pub(crate) use kernel::Choice;
pub(crate) use machine::Machine;

use kernel::Kernel;
use qemu::Qemu;

/// What it takes to boot one kernel.
pub(crate) struct Parts {
    qemu: Qemu,
    kernel: Kernel,
}

impl Parts {
    /// Gets what isn't there yet.
    ///
    /// # Errors
    /// When this isn't Debian 12 or 13 on x86-64, packages can't be had, or the disk is full.
    pub(crate) fn get(choice: Choice) -> Result<Self> {
        ensure!(
            cfg!(target_arch = "x86_64"),
            "other kernels are booted on x86-64 alone"
        );
        packages::ensure(&[Purpose::Machine])?;
        Ok(Self {
            qemu: Qemu::get()?,
            kernel: Kernel::get(choice)?,
        })
    }

    /// The kernel's version, such as `6.1.0-50-amd64`.
    pub(crate) fn version(&self) -> &str {
        &self.kernel.version
    }
}

/// Where all of it is kept. It may be removed at any time; the next run gets it again, and the newest then.
fn folder() -> PathBuf {
    shell::root().join("target/vm")
}
