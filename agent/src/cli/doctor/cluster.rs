//! A whole cluster, as whoever administers it sees it from anywhere: what will work there, what won't, and what to change.
//!
//! Nothing secret is read, and nothing is written: versions, definitions, nodes, names of workloads, labels of one namespace, and reviews of who
//! may do what.

mod ask;
mod installed;
mod network;
mod nodes;
mod rights;

use anyhow::{Result, anyhow};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::{Api, Client};

use super::Finding;
use crate::cli::status;
use crate::world::cluster::told;
use ask::{Asked, list};

/// The oldest release that this is for, and the one whose tokens name their nodes, by its minor number.
const OLDEST: u32 = 30;
const NAMES_NODES: u32 = 32;

/// Looks at the cluster, with Bailiff in this namespace or about to be.
///
/// # Errors
/// When the API server can't be asked at all. What the caller may not see is a finding.
pub(super) async fn check(client: &Client, namespace: &str) -> Result<Vec<Finding>> {
    let version = client
        .apiserver_version()
        .await
        .map_err(|error| anyhow!("the cluster can't be asked: {}", told(&error)))?;
    let mut findings = vec![release(&version.git_version, &version.minor)];
    findings.push(admission(client).await);
    findings.extend(installed::check(client, namespace).await);
    findings.extend(told_by(
        "nodes",
        list(&Api::<Node>::all(client.clone()), "nodes").await,
        |all| nodes::check(&all),
    ));
    let classes = list(&Api::<RuntimeClass>::all(client.clone()), "runtimeclasses").await;
    findings.extend(told_by("runtimes", classes, |all| vec![nodes::sandboxed(&all)]));
    findings.extend(network::check(client).await);
    findings.extend(rights::side_doors(client).await);
    findings.push(Finding::note(
        "not seen",
        "kubelets' own settings (anonymous clients, the port 10255), and what kernels were built with",
        "a kubelet that takes anybody's requests is a way into pods past the API server, and so past Bailiff",
        "run `bailiff doctor` on a node; have kubelets authenticate (authentication.anonymous.enabled: false, authorization.mode: Webhook)",
    ));
    Ok(findings)
}

/// What follows from something that was asked for, or that it couldn't be.
fn told_by<T>(check: &'static str, asked: Asked<T>, follows: impl FnOnce(T) -> Vec<Finding>) -> Vec<Finding> {
    match asked {
        Ok(told) => follows(told),
        Err(unasked) => vec![unasked.finding(check)],
    }
}

/// Of the API server. Its `minor` may have a `+` behind it.
fn release(git: &str, minor: &str) -> Finding {
    match minor.trim_end_matches('+').parse::<u32>() {
        Ok(minor) if minor < OLDEST => Finding::fails(
            "Kubernetes",
            git,
            "admission policies and fields that the chart has aren't there",
            "use Kubernetes 1.30 or newer",
        ),
        Ok(minor) if minor < NAMES_NODES => Finding::note(
            "Kubernetes",
            git,
            "agents' tokens don't name their nodes, so that the policy which holds each agent to its own node's report can't be in force",
            "use Kubernetes 1.32 or newer; what is enforced on pods isn't touched by it",
        ),
        Ok(_) => Finding::ok("Kubernetes", git),
        Err(_) => Finding::note(
            "Kubernetes",
            format!("{git:?}, which can't be read"),
            "whether it is supported isn't known",
            "use a release of Kubernetes 1.30 or newer",
        ),
    }
}

async fn admission(client: &Client) -> Finding {
    const CHECK: &str = "admission";
    let served = client
        .list_api_group_resources("admissionregistration.k8s.io/v1")
        .await;
    match served {
        Ok(served)
            if served
                .resources
                .iter()
                .any(|resource| resource.name == "validatingadmissionpolicies") =>
        {
            Finding::ok(CHECK, "ValidatingAdmissionPolicy is served")
        }
        Ok(_) => Finding::fails(
            CHECK,
            "ValidatingAdmissionPolicy isn't served",
            "an agent could write the report of another node; the chart can't be installed",
            "serve admissionregistration.k8s.io/v1 whole, as Kubernetes 1.30 does by itself",
        ),
        Err(error) => ask::Unasked::of("what admissionregistration.k8s.io serves", &error).finding(CHECK),
    }
}

/// How the nodes' agents say that it goes.
async fn reports(client: &Client) -> Finding {
    const CHECK: &str = "reports";
    match status::in_a_line(client).await {
        Ok((true, said)) => Finding::ok(CHECK, said),
        Ok((false, said)) => Finding::fails(
            CHECK,
            said,
            "not all is in force, or not everywhere",
            "see `bailiff status`",
        ),
        Err(error) => Finding::unknown(CHECK, format!("{error:#}"), "ask for that right"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    #[test]
    fn releases_are_told_by_their_number() {
        for (minor, outcome) in [
            ("34", Outcome::Ok),
            ("33+", Outcome::Ok),
            ("31", Outcome::Note),
            ("29", Outcome::Fails),
            ("", Outcome::Note),
        ] {
            assert_eq!(release("v1", minor).outcome, outcome, "{minor}");
        }
    }
}
