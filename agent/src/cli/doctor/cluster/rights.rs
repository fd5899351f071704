//! Who may do what: Bailiff's own service accounts what they need, and everybody what leads past Bailiff.

use anyhow::{Context as _, Result};
use k8s_openapi::api::authorization::v1::ResourceAttributes;
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::Client;
use serde_json::Value;

use super::super::Finding;
use super::ask::{Asked, may};

/// What agents need, and the approver, as the chart gives it to them.
const AGENT: &str = include_str!("../../../../../deploy/kustomize/base/agent-rbac.yaml");
const APPROVER: &str = include_str!("../../../../../deploy/kustomize/base/approver-rbac.yaml");

/// The namespace in those files.
const THEIRS: &str = "bailiff";

/// Whose rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Component {
    Agent,
    Approver,
}

impl Component {
    fn manifest(self) -> &'static str {
        match self {
            Self::Agent => AGENT,
            Self::Approver => APPROVER,
        }
    }

    /// The name of its service account, where the installation doesn't say another.
    pub(super) fn account(self) -> &'static str {
        match self {
            Self::Agent => "bailiff-agent",
            Self::Approver => "bailiff-approver",
        }
    }

    fn check(self) -> &'static str {
        match self {
            Self::Agent => "agents' rights",
            Self::Approver => "approver's rights",
        }
    }
}

/// What an installation calls what the manifests call otherwise.
#[derive(Debug, Clone)]
pub(super) struct Called {
    /// The component's service account.
    pub(super) account: String,
    /// The agents' DaemonSet.
    pub(super) daemon_set: Option<String>,
    /// The signer of agents' certificates.
    pub(super) signer: Option<String>,
}

/// Whether a component's service account may do what it needs.
pub(super) async fn of(client: &Client, component: Component, namespace: &str, called: &Called) -> Finding {
    let check = component.check();
    let needed = match needed(component.manifest(), namespace) {
        Ok(needed) => needed,
        Err(error) => return Finding::unknown(check, format!("{error:#}"), "report this as a bug"),
    };
    let user = format!("system:serviceaccount:{namespace}:{}", called.account);
    let mut lacking = Vec::new();
    let total = needed.len();
    for mut asked in needed {
        let name = match asked.resource.as_deref() {
            Some("daemonsets") => &called.daemon_set,
            Some("signers") => &called.signer,
            _ => &None,
        };
        if name.is_some() {
            asked.name.clone_from(name);
        }
        let text = told(&asked);
        match is_allowed(client, &user, namespace, asked).await {
            Ok(true) => {}
            Ok(false) => lacking.push(text),
            Err(unasked) => return unasked.finding(check),
        }
    }
    if lacking.is_empty() {
        return Finding::ok(check, format!("{user}: all {total} that it needs"));
    }
    let (cost, mend) = match component {
        Component::Agent => (
            "what the agents can't ask they don't know: pods reach no Target, or certificates, Services and reports are missing",
            "apply the chart's ClusterRole, Role and their bindings again (`helm upgrade`), and see who took them away",
        ),
        Component::Approver => (
            "agents' certificates aren't approved, or objects' status isn't written",
            "apply the chart's ClusterRole, Role and their bindings again (`helm upgrade`), and see who took them away",
        ),
    };
    Finding::fails(
        check,
        format!("{user} may not: {}", lacking.join(", ")),
        cost,
        mend,
    )
}

async fn is_allowed(client: &Client, user: &str, namespace: &str, asked: ResourceAttributes) -> Asked<bool> {
    let own = format!("system:serviceaccounts:{namespace}");
    let groups = ["system:serviceaccounts", &own, "system:authenticated"];
    may(client, user, &groups, asked).await
}

/// Each right that the roles in a manifest give, for an installation in this namespace.
fn needed(manifest: &str, namespace: &str) -> Result<Vec<ResourceAttributes>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(manifest)?;
    let mut all = Vec::new();
    for document in documents {
        let within = match document.get("kind").and_then(Value::as_str) {
            Some("ClusterRole") => None,
            Some("Role") => {
                let within = document.pointer("/metadata/namespace").and_then(Value::as_str);
                let within = within.context("a Role without a namespace")?;
                Some(if within == THEIRS { namespace } else { within }.to_owned())
            }
            _ => continue,
        };
        let rules = document.get("rules").cloned().context("a role without rules")?;
        let rules: Vec<PolicyRule> = serde_json::from_value(rules)?;
        for rule in rules {
            let names: Vec<Option<String>> = match rule.resource_names {
                Some(names) if !names.is_empty() => names.into_iter().map(Some).collect(),
                _ => vec![None],
            };
            for group in rule.api_groups.iter().flatten() {
                for resource in rule.resources.iter().flatten() {
                    for verb in &rule.verbs {
                        all.extend(
                            names
                                .iter()
                                .map(|name| right(group, resource, verb, name.as_deref(), within.as_deref())),
                        );
                    }
                }
            }
        }
    }
    Ok(all)
}

fn right(
    group: &str,
    resource: &str,
    verb: &str,
    name: Option<&str>,
    namespace: Option<&str>,
) -> ResourceAttributes {
    let (resource, subresource) = match resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource)),
        None => (resource, None),
    };
    ResourceAttributes {
        group: Some(group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource: subresource.map(str::to_owned),
        verb: Some(verb.to_owned()),
        name: name.map(str::to_owned),
        namespace: namespace.map(str::to_owned),
        ..ResourceAttributes::default()
    }
}

/// `patch certificatesigningrequests/approval.certificates.k8s.io`.
fn told(right: &ResourceAttributes) -> String {
    let part = |part: &Option<String>, before: &str| match part.as_deref() {
        None | Some("") => String::new(),
        Some(part) => format!("{before}{part}"),
    };
    format!(
        "{}{}{}{}{}",
        part(&right.verb, ""),
        part(&right.resource, " "),
        part(&right.subresource, "/"),
        part(&right.group, "."),
        part(&right.name, " ")
    )
}

/// What leads past Bailiff, and who may do it by being nobody, or any pod.
pub(super) async fn side_doors(client: &Client) -> Vec<Finding> {
    const ANYBODY: &str = "anybody";
    const ANY_POD: &str = "any pod";
    let doors = || {
        [
            right("", "nodes/proxy", "get", None, None),
            right("", "nodes/proxy", "create", None, None),
            right("", "pods/exec", "create", None, None),
            right("", "pods", "list", None, None),
        ]
    };
    let nobody = open(client, "system:anonymous", &["system:unauthenticated"], &doors()).await;
    let anybody = match nobody {
        Err(unasked) => unasked.finding(ANYBODY),
        Ok(open) if open.is_empty() => Finding::ok(
            ANYBODY,
            "who shows no credential may neither list pods nor reach into them",
        ),
        Ok(open) => Finding::fails(
            ANYBODY,
            format!("system:anonymous may: {}", open.join(", ")),
            "the API server does so for whoever reaches it: what a pod's own token may not, it may without one",
            "delete the bindings of system:anonymous and system:unauthenticated, or start the API server with --anonymous-auth=false",
        ),
    };
    // An account that need not be there: what it may is what all accounts may.
    let account = "system:serviceaccount:default:bailiff-doctor-asks";
    let groups = [
        "system:serviceaccounts",
        "system:serviceaccounts:default",
        "system:authenticated",
    ];
    let any_pod = match open(client, account, &groups, &doors()).await {
        Err(unasked) => unasked.finding(ANY_POD),
        Ok(open) if open.is_empty() => Finding::ok(
            ANY_POD,
            "an account without bindings may neither list pods nor reach into them",
        ),
        Ok(open) => Finding::note(
            ANY_POD,
            format!("every service account may: {}", open.join(", ")),
            "a pod may reach into others, by kubelets (nodes/proxy) without the API server deciding which; as another pod it is held by that one's policies",
            "bind these rights to single accounts, and deny `nodes/proxy` and `pods/exec` by policy at the API server's Target",
        ),
    };
    vec![anybody, any_pod]
}

async fn open(
    client: &Client,
    user: &str,
    groups: &[&str],
    doors: &[ResourceAttributes],
) -> Asked<Vec<String>> {
    let mut open = Vec::new();
    for door in doors {
        if may(client, user, groups, door.clone()).await? {
            open.push(told(door));
        }
    }
    Ok(open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_what_the_chart_gives() {
        for (component, some) in [
            (Component::Agent, "create tokenreviews.authentication.k8s.io"),
            (
                Component::Approver,
                "patch certificatesigningrequests/approval.certificates.k8s.io",
            ),
        ] {
            let needed = needed(component.manifest(), "security").unwrap();
            let told: Vec<String> = needed.iter().map(told).collect();
            assert!(told.len() > 5 && told.iter().any(|one| one == some), "{told:?}");
            assert!(
                needed
                    .iter()
                    .all(|right| right.namespace.as_deref() != Some(THEIRS)),
                "{needed:?}"
            );
            assert!(component.manifest().contains(component.account()));
        }
        let agent = needed(AGENT, "security").unwrap();
        assert!(agent.iter().any(|right| {
            right.namespace.as_deref() == Some("security")
                && told(right).ends_with("daemonsets.apps bailiff-agent")
        }));
    }
}
