//! The kernel side's user space: programs, maps, namespaces, cgroups and sockets.
//!
//! The only home of `unsafe` in user space: it is in `sys` and `spawn`, under safe functions.

pub mod cgroup;
mod connections;
mod error;
pub mod net;
pub mod netns;
mod object;
pub mod probe;
mod redirect;
pub mod spawn;
mod stat;
mod sys;
pub mod veth;

pub use connections::Sweep;
pub use error::KernelError;
pub use redirect::{
    Creator, FourTuple, GuardBy, Heartbeat, Options, Origin, Origins, Pulse, Redirect, SeenProcess,
    TargetEntry,
};
pub use stat::ProcessStat;
