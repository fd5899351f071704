//! Who else stands between pods and what they dial, by the names that their workloads usually have.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use kube::{Api, Client};

use super::super::Finding;
use super::ask::names;
use super::told_by;

pub(super) async fn check(client: &Client) -> Vec<Finding> {
    let daemon_sets = names(&Api::<DaemonSet>::all(client.clone()), "daemonsets").await;
    let deployments = names(&Api::<Deployment>::all(client.clone()), "deployments").await;
    let both = daemon_sets.and_then(|daemon_sets| Ok((daemon_sets, deployments?)));
    told_by("network", both, |(daemon_sets, deployments)| {
        of(&daemon_sets, &deployments)
    })
}

fn of(daemon_sets: &[String], deployments: &[String]) -> Vec<Finding> {
    let runs = |all: &[String], name: &str| all.iter().any(|one| one == name);
    let proxy = runs(daemon_sets, "kube-proxy");
    let mut findings = Vec::new();
    if runs(daemon_sets, "cilium") && !proxy {
        findings.push(Finding::note(
            "network",
            "Cilium, and no DaemonSet kube-proxy",
            "in place of kube-proxy its socket load balancing may rewrite a Service's address before Bailiff's program sees it",
            "name databases by Services or by their pods' addresses, both of which Bailiff then has, and try it first in a namespace of its own",
        ));
    }
    let meshes: Vec<&str> = [
        (daemon_sets, "ztunnel"),
        (daemon_sets, "istio-cni-node"),
        (deployments, "istiod"),
        (daemon_sets, "linkerd-cni"),
        (deployments, "linkerd-destination"),
        (daemon_sets, "kuma-cni-node"),
        (deployments, "kuma-control-plane"),
    ]
    .into_iter()
    .filter(|(all, name)| runs(all, name))
    .map(|(_, name)| name)
    .collect();
    if !meshes.is_empty() {
        findings.push(Finding::note(
            "network",
            format!("a service mesh ({})", meshes.join(", ")),
            "what diverts connections in pods also meets those that agents make there",
            "exclude Targets' ports from the mesh, such as by traffic.sidecar.istio.io/excludeOutboundPorts or config.linkerd.io/skip-outbound-ports",
        ));
    }
    if findings.is_empty() {
        let found = if proxy {
            "kube-proxy, and nobody known who rewrites connections before it"
        } else {
            "nobody known who rewrites connections"
        };
        findings.push(Finding::ok("network", found));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::super::Outcome;
    use super::*;

    #[test]
    fn who_rewrites_connections_is_told() {
        let all = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (daemon_sets, deployments, expected) in [
            (&["kube-proxy"][..], &[][..], None),
            (&[], &["shop"], None),
            (&["kube-proxy", "cilium"], &[], None),
            (&["cilium"], &[], Some("Cilium, and no DaemonSet kube-proxy")),
            (
                &["kube-proxy", "ztunnel"],
                &["istiod"],
                Some("a service mesh (ztunnel, istiod)"),
            ),
        ] {
            let told = of(&all(daemon_sets), &all(deployments));
            match expected {
                None => assert!(told.iter().all(|one| one.outcome == Outcome::Ok), "{told:?}"),
                Some(found) => assert_eq!(told.first().unwrap().found, found),
            }
        }
    }
}
