//! Bailiff's words as types: ids, addresses by role, chains, operations and verdicts.
//!
//! Pure: nothing here does I/O, and nothing here decides. See `ARCHITECTURE.md` for what each word means.

mod address;
mod api;
mod chain;
mod id;
mod identity;
mod operation;
mod recording;
mod verdict;

pub use address::{ClientAddr, ListenerAddr, OriginalDst};
pub use api::{ApiRequest, ApiResource, ApiSession, ApiSubject, ApiVerb};
pub use chain::{Ancestor, Ancestry, Chain, Evidence, Hop, HopKind, PodInfo, ProcessInfo};
pub use id::{CgroupId, NetnsCookie, PodUid, ProcessId, SessionId, SocketCookie, TargetName};
pub use identity::{
    ANONYMOUS, AUTHENTICATED, BoundPod, Identity, Impersonation, TokenState, UNAUTHENTICATED,
};
pub use operation::{Condition, EffectSet, FunctionRef, Protocol, RelationRef, SqlEffect, Statement, Whole};
pub use recording::{Recording, RecordingLevel};
pub use verdict::{Decision, Effect, FailureMode, Mode, Reason, SourceAddress, WhenFull};
