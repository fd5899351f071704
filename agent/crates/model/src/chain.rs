//! Who is behind a connection: hops, from the origin to the caller.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{CgroupId, Mode, PodUid, ProcessId};

/// How a hop is known. A gap is shown as a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Evidence {
    /// The kernel, or a request that passed this agent, said so.
    Observed,
    /// An ownerReference claims it.
    Owned,
    /// Nothing told it.
    Unobserved,
}

/// A pod as policy sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodInfo {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: PodUid,
    /// The service account that it runs as.
    pub service_account: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether policies decide what it does, or only report. The agent's configuration says so, by namespaces.
    #[serde(default, skip_serializing_if = "is_enforced")]
    pub mode: Mode,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_enforced(mode: &Mode) -> bool {
    *mode == Mode::Enforce
}

/// A process as the kernel described it when it connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessInfo {
    /// Which process.
    pub id: ProcessId,
    /// Real user id, in the init user namespace.
    pub uid: u32,
    /// Real group id, in the init user namespace.
    pub gid: u32,
    /// The kernel's short name of the task: at most 15 bytes.
    pub comm: String,
    /// The program that it executed, where an exec was seen.
    pub executable: Option<String>,
    /// Its own cgroup: the container's, below the pod's.
    pub cgroup: CgroupId,
    /// The container that the cgroup belongs to, where that is known.
    pub container: Option<String>,
    /// From whom it descends.
    #[serde(default)]
    pub ancestry: Ancestry,
}

/// From whom a process descends, by who forked whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ancestry {
    /// Its ancestors in its pod, its parent first.
    pub processes: Vec<Ancestor>,
    /// Whether the last of them, or the process itself where there are none, came into the pod from outside: a container's first process, or that of
    /// an exec session. Otherwise more came before of which nothing is known.
    pub complete: bool,
}

/// A process from which another descends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ancestor {
    /// Which process.
    pub id: ProcessId,
    /// The program that it executed last, where that was seen.
    pub executable: Option<String>,
    /// Whether it has ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
    /// Whether it was found running rather than seen when it was forked: its own parent may be whom it was given to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub found: bool,
}

/// What a hop is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HopKind {
    /// A pod, and the process in it that acted.
    Pod {
        /// The pod; shared by all of its connections.
        pod: Arc<PodInfo>,
        /// The process in it that acted, where one is known.
        process: Option<ProcessInfo>,
    },
    /// Somebody of whom nothing is known but that they are part of the chain.
    Unknown {
        /// Why a hop stands here.
        why: String,
    },
}

/// One link of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hop {
    /// What it is.
    pub kind: HopKind,
    /// How it is known.
    pub evidence: Evidence,
}

/// Hops from the origin to the caller; never empty, since a connection without a caller is closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Chain {
    hops: Vec<Hop>,
}

impl Chain {
    /// A chain of the caller alone.
    #[must_use]
    pub fn of_caller(caller: Hop) -> Self {
        Self { hops: vec![caller] }
    }

    /// The chain with one more hop before all others.
    #[must_use]
    pub fn with_origin(mut self, origin: Hop) -> Self {
        self.hops.insert(0, origin);
        self
    }

    /// The hops, from the origin to the caller.
    #[must_use]
    pub fn hops(&self) -> &[Hop] {
        &self.hops
    }
}
