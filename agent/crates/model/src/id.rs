//! Identifiers, each wrapped by what it identifies.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number_id! {
    /// A cgroup v2 id: the inode number of the cgroup's directory, as `bpf_get_current_cgroup_id` gives it.
    CgroupId
}
number_id! {
    /// A network namespace's cookie (`SO_NETNS_COOKIE`). Never reused while the machine runs.
    NetnsCookie
}
number_id! {
    /// A socket's cookie (`SO_COOKIE`). Never reused while the machine runs.
    SocketCookie
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Arc<str>);

        impl $name {
            /// Wraps a text.
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id! {
    /// A pod's uid: Kubernetes' own in a cluster, one that the agent made in standalone mode.
    PodUid
}
text_id! {
    /// The name of a `Target`.
    TargetName
}
text_id! {
    /// A session's id: unique over nodes and restarts.
    SessionId
}

/// A process, told apart from a later one with the same number by when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// Thread group id in the init PID namespace: what user space calls the pid.
    pub tgid: u32,
    /// Start in nanoseconds of the boot-time clock; 0 where no event told it.
    pub start_ns: u64,
}
