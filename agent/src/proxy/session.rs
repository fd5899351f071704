//! From an accepted connection to the protocol of its target.

use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;

use bailiff_model::{Chain, OriginalDst, Protocol};
use bailiff_policy::{ChainPolicy, Target};

use super::end::{End, Side};
use super::tls::Snapshot;
use super::worker::{Accepted, WorkerShared};
use super::{kubernetes, postgres};
use crate::attribution::PodEntry;

/// A connection of which is known who is behind it and what it asks for. Nothing of it was read yet.
pub(crate) struct Admitted {
    pub(super) shared: Rc<WorkerShared>,
    pub(super) files: Arc<Snapshot>,
    pub(super) pod: Arc<PodEntry>,
    pub(super) chain: Arc<Chain>,
    pub(super) target: Arc<Target>,
    pub(super) policy: ChainPolicy,
    pub(super) original: OriginalDst,
}

/// Carries one connection from accept to its end.
pub(crate) async fn serve(shared: Rc<WorkerShared>, accepted: Accepted) {
    let metrics = Arc::clone(&shared.options.metrics);
    let (pod, chain) = match shared.options.attribution.chain(&accepted.origin) {
        Ok(found) => found,
        Err(unattributed) => {
            // Uncertainty denies: who can't be told is not served.
            tracing::warn!(%unattributed, destination = %accepted.origin.original, "closed a connection");
            metrics.refused(unattributed.reason());
            return;
        }
    };
    let set = shared.options.in_force.load();
    let Some(target) = set.target_for(accepted.origin.original).map(Arc::clone) else {
        // The kernel side diverts what the policy names; between two policies the two may differ for a moment.
        metrics.refused("no_target");
        return;
    };
    let chain = Arc::new(chain);
    let policy = set.for_chain(&target, &chain);
    metrics.connections.inc();
    metrics.sessions_open.inc();
    let protocol = target.protocol;
    let admitted = Admitted {
        files: shared.options.materials.load(),
        shared,
        pod,
        chain,
        target,
        policy,
        original: accepted.origin.original,
    };
    let end = carry(protocol, admitted, accepted.client).await;
    metrics.sessions_open.dec();
    metrics.ended(end.offender().map(Side::as_str).unwrap_or("none"), end.reason());
    if let Some(limit) = end.limit() {
        metrics.limit(limit);
    }
    match end.is_trouble() {
        true => tracing::warn!(end = %end, reason = end.reason(), "closed a session"),
        false => tracing::debug!(end = %end, reason = end.reason(), "a session ended"),
    }
    drop(accepted.slot);
}

async fn carry(protocol: Protocol, admitted: Admitted, client: TcpStream) -> End {
    match protocol {
        Protocol::Postgres => postgres::serve(admitted, client).await,
        // In a box of its own, so that a session with a database doesn't take the room of another protocol's.
        Protocol::Kubernetes => Box::pin(kubernetes::serve(admitted, client)).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<F>(_: impl FnOnce(Rc<WorkerShared>, Accepted) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_session_keeps_no_memory_of_its_handshake() {
        let size = size_of_future(serve);
        assert!(size < 8 * 1024, "{size} bytes");
    }
}
