//! The data path's limits. The table in `ARCHITECTURE.md` says which test reaches which.

use std::time::Duration;

/// How much of each thing there may be.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once, over all pods. More are closed at accept.
    pub connections: usize,
    /// Connections at once of one pod, so that one pod can't take them all.
    pub connections_per_pod: usize,
    /// From accept to the server's first ReadyForQuery.
    pub handshake: Duration,
    /// Dialing the target.
    pub dial: Duration,
    /// Length in bytes of a message that must be read whole before it is decided: Query, Parse, FunctionCall.
    pub decided_message: usize,
    /// Length in bytes of one row that is masked, and so must be read whole.
    pub masked_row: usize,
    /// Requests whose answers are outstanding; past it the client isn't read until answers have come.
    pub outstanding: usize,
    /// Prepared statements of one session, and as many portals.
    pub prepared: usize,
    /// How long a draining session may go on.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_pod: 2_000,
            handshake: Duration::from_secs(60),
            dial: Duration::from_secs(10),
            decided_message: 1 << 20,
            masked_row: 16 << 20,
            outstanding: 16_384,
            prepared: 10_000,
            drain: Duration::from_secs(20),
        }
    }
}
