//! Pods that are only observed.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bailiff_model::{Chain, Effect, Hop, HopKind, Mode};
use bailiff_policy::Settings;

use super::{chain_policy, check, pod, policy, rule, target};

/// A pod that is only observed.
fn observed(namespace: &str) -> Hop {
    let mut hop = pod(namespace);
    if let HopKind::Pod { pod, .. } = &mut hop.kind {
        Arc::make_mut(pod).mode = Mode::Observe;
    }
    hop
}

#[test]
fn a_pod_that_is_only_observed_may_do_all_and_is_told_of_what_it_would_be() -> Result<()> {
    let documents = [
        target(""),
        policy(
            "p",
            "  subjects: [{namespaces: [a]}]\n  rules:\n  - {name: read, effects: [read], action: Allow}\n  \
             masks: [{columns: [public.p.ssn], with: Redact}]\n  connectAs: {user: reader, passwordFile: /p}\n",
        ),
    ];
    let alone = chain_policy(&documents, &Chain::of_caller(observed("a")))?;
    ensure!(!alone.masks_in_force() && alone.connect().is_ok());
    ensure!(
        alone
            .connect_as()
            .map_err(|denial| anyhow::anyhow!("{denial:?}"))?
            .user
            .is_none()
    );
    check(&alone, &["SELECT ssn FROM p", "DROP TABLE p", "SELECT 1"], &[])?;
    let ruling = rule(&alone, "DROP TABLE p")?;
    let (effect, reason) = ruling.observed().context("nothing is told")?;
    ensure!(
        *effect == Effect::Deny && reason.message.contains("no rule allows drop"),
        "{reason:?}"
    );
    ensure!(rule(&alone, "SELECT 1")?.observed().is_none());
    let unknown = alone.decide_unknown(&Settings::default());
    ensure!(unknown.permit().is_some(), "{:?}", unknown.reason());

    // Of a chain it is one hop: what others may not, nobody below them may.
    let below = Chain::of_caller(observed("a")).with_origin(pod("b"));
    let below = chain_policy(&documents, &below)?;
    ensure!(below.connect().is_err());
    check(&below, &[], &["SELECT ssn FROM p", "DROP TABLE p"])?;
    ensure!(below.decide_unknown(&Settings::default()).permit().is_none());
    let above = Chain::of_caller(pod("a")).with_origin(observed("b"));
    let above = chain_policy(&documents, &above)?;
    ensure!(above.masks_in_force() && rule(&above, "SELECT ssn FROM p")?.mask_plan().is_some());
    check(&above, &["SELECT ssn FROM p"], &["DROP TABLE p"])
}
