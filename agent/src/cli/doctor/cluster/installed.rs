//! What is installed of Bailiff: definitions, namespace, agents, approver, and what they say.

use std::collections::BTreeSet;

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Namespace, PodSpec};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, ResourceExt as _};
use serde_json::Value;

use super::super::Finding;
use super::ask::{get, list, list_by};
use super::rights::{self, Called, Component};
use super::{reports, told_by};

/// Who signs agents' certificates unless the chart says another.
const SIGNER: &str = "kubernetes.io/kubelet-serving";

const PLURALS: [&str; 3] = ["targets", "policies", "nodereports"];

/// As many differences as a line has room for.
const NAMED: usize = 5;

pub(super) async fn check(client: &Client, namespace: &str) -> Vec<Finding> {
    let agents = Api::<DaemonSet>::namespaced(client.clone(), namespace);
    let agents = list_by(&agents, "daemonsets", &of("agent")).await;
    let approvers = Api::<Deployment>::namespaced(client.clone(), namespace);
    let approvers = list_by(&approvers, "deployments", &of("approver")).await;
    // Who may not see whether it is installed is told of each part what can be seen.
    let is_installed = agents.as_ref().map_or(true, |agents| !agents.is_empty());
    let mut findings = Vec::new();
    findings.extend(definitions(client, is_installed).await);
    let spaces = Api::<Namespace>::all(client.clone());
    let space = get(&spaces, namespace, "namespace").await;
    findings.extend(told_by("namespace", space, |found| {
        vec![privileged(namespace, found.as_ref())]
    }));
    let agent = match agents {
        Err(unasked) => {
            findings.push(unasked.finding("agents"));
            None
        }
        Ok(agents) if agents.is_empty() => {
            findings.push(Finding::note(
                "agents",
                format!("no DaemonSet in namespace {namespace}"),
                "nothing is enforced, nor observed",
                "install the chart (docs/install.md), or give --namespace where it is",
            ));
            return findings;
        }
        Ok(agents) => agents.into_iter().next(),
    };
    findings.extend(agent.as_ref().map(rollout));
    let pod = |spec: Option<&PodSpec>, component: Component| Called {
        account: spec
            .and_then(|spec| spec.service_account_name.clone())
            .unwrap_or_else(|| component.account().to_owned()),
        daemon_set: agent.as_ref().map(|agent| agent.name_any()),
        signer: None,
    };
    let spec = agent.as_ref().and_then(pod_of_agent);
    if let Some(class) = spec.and_then(|spec| spec.priority_class_name.as_deref()) {
        let classes = Api::<PriorityClass>::all(client.clone());
        findings.extend(told_by(
            "priority",
            get(&classes, class, "priorityclass").await,
            |found| vec![priority(class, found.as_ref())],
        ));
    }
    let called = pod(spec, Component::Agent);
    findings.push(rights::of(client, Component::Agent, namespace, &called).await);
    match approvers {
        Err(unasked) => findings.push(unasked.finding("approver")),
        Ok(approvers) => {
            let approver = approvers.first();
            findings.push(runs(approver));
            if let Some(approver) = approver {
                let spec = pod_of_approver(approver);
                let signer = spec.and_then(signer).unwrap_or(SIGNER);
                let called = Called {
                    signer: Some(signer.to_owned()),
                    ..pod(spec, Component::Approver)
                };
                findings.push(rights::of(client, Component::Approver, namespace, &called).await);
                let requests = Api::<CertificateSigningRequest>::all(client.clone());
                let requests = list(&requests, "certificatesigningrequests").await;
                let user = format!(
                    "system:serviceaccount:{namespace}:{}",
                    pod(agent.as_ref().and_then(pod_of_agent), Component::Agent).account
                );
                findings.extend(told_by("signer", requests, |all| {
                    vec![signed(signer, &user, &all)]
                }));
            }
        }
    }
    let bindings = Api::<ValidatingAdmissionPolicyBinding>::all(client.clone());
    let bindings = list_by(
        &bindings,
        "validatingadmissionpolicybindings",
        "app.kubernetes.io/name=bailiff",
    )
    .await;
    findings.extend(told_by("report policy", bindings, |all| {
        vec![bound(!all.is_empty())]
    }));
    findings.push(reports(client).await);
    findings
}

fn of(component: &str) -> String {
    format!("app.kubernetes.io/name=bailiff,app.kubernetes.io/component={component}")
}

fn pod_of_agent(agent: &DaemonSet) -> Option<&PodSpec> {
    agent.spec.as_ref()?.template.spec.as_ref()
}

fn pod_of_approver(approver: &Deployment) -> Option<&PodSpec> {
    approver.spec.as_ref()?.template.spec.as_ref()
}

/// The approver's `--signer=`.
fn signer(approver: &PodSpec) -> Option<&str> {
    approver
        .containers
        .iter()
        .flat_map(|container| container.args.iter().flatten())
        .find_map(|arg| arg.strip_prefix("--signer="))
}

async fn definitions(client: &Client, is_installed: bool) -> Vec<Finding> {
    const CHECK: &str = "definitions";
    let own = match own_definitions() {
        Ok(own) => own,
        Err(error) => {
            return vec![Finding::unknown(
                CHECK,
                format!("{error:#}"),
                "report this as a bug",
            )];
        }
    };
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    let mut there = Vec::new();
    for plural in PLURALS {
        let name = format!("{plural}.bailiff.dev");
        match get(&api, &name, "customresourcedefinition").await {
            Ok(found) => there.push((name, found)),
            Err(unasked) => return vec![unasked.finding(CHECK)],
        }
    }
    let absent: Vec<&str> = there
        .iter()
        .filter(|(_, found)| found.is_none())
        .map(|(name, _)| name.as_str())
        .collect();
    if !absent.is_empty() {
        let found = format!("not there: {}", absent.join(", "));
        return vec![if is_installed {
            Finding::fails(
                CHECK,
                found,
                "agents have no Targets and Policies to go by: nothing is protected",
                "apply deploy/chart/files/crds, or install the chart with crds.install=true",
            )
        } else {
            Finding::note(
                CHECK,
                found,
                "there can be no Targets and Policies yet",
                "install the chart, which brings them",
            )
        }];
    }
    let mut differing = Vec::new();
    for ((name, found), own) in there.iter().zip(&own) {
        let found = serde_json::to_value(found).unwrap_or_default();
        if !is_established(&found) {
            differing.push(format!("{name} isn't served yet"));
        }
        let (theirs, own) = (fields_of(&found), fields_of(own));
        differing.extend(
            own.difference(&theirs)
                .map(|field| format!("{name} lacks {field}")),
        );
        differing.extend(theirs.difference(&own).map(|field| format!("{name} has {field}")));
    }
    if differing.is_empty() {
        return vec![Finding::ok(CHECK, "all three, of this version")];
    }
    let more = differing.len().saturating_sub(NAMED);
    differing.truncate(NAMED);
    if more > 0 {
        differing.push(format!("and {more} more"));
    }
    vec![Finding::fails(
        CHECK,
        differing.join(", "),
        "they are of another version than this program: fields that one of them doesn't know are refused",
        "install chart and agents of one version (`helm upgrade` brings the definitions), and ask with that version's `bailiff`",
    )]
}

/// As this program writes them, in the order of [`PLURALS`].
fn own_definitions() -> anyhow::Result<Vec<Value>> {
    let manifests = bailiff_policy::manifests()?;
    PLURALS
        .iter()
        .map(|plural| {
            let file = format!("{plural}.yaml");
            let own = manifests.iter().find(|manifest| manifest.file == file);
            let own = own.ok_or_else(|| anyhow::anyhow!("no definition of {plural}"))?;
            Ok(serde_saphyr::from_str(&own.yaml)?)
        })
        .collect()
}

fn is_established(crd: &Value) -> bool {
    let conditions = crd.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        let is = |place: &str, text: &str| condition.get(place).and_then(Value::as_str) == Some(text);
        is("type", "Established") && is("status", "True")
    })
}

/// The ways to all fields of the version `v1alpha1`.
fn fields_of(crd: &Value) -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    let versions = crd.pointer("/spec/versions").and_then(Value::as_array);
    for version in versions.into_iter().flatten() {
        if version.get("name").and_then(Value::as_str) == Some("v1alpha1")
            && let Some(schema) = version.pointer("/schema/openAPIV3Schema")
        {
            walk(schema, "", &mut fields);
        }
    }
    fields
}

fn walk(schema: &Value, place: &str, fields: &mut BTreeSet<String>) {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        for (name, inner) in properties {
            let inner_place = format!("{place}.{name}");
            walk(inner, &inner_place, fields);
            fields.insert(inner_place);
        }
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(inner) {
            walk(inner, place, fields);
        }
    }
}

fn privileged(name: &str, found: Option<&Namespace>) -> Finding {
    const CHECK: &str = "namespace";
    let label = format!("kubectl label namespace {name} pod-security.kubernetes.io/enforce=privileged");
    let Some(found) = found else {
        return Finding::note(
            CHECK,
            format!("{name} isn't there"),
            "there is no place for the agents yet",
            &format!("kubectl create namespace {name}, then {label}"),
        );
    };
    match found
        .labels()
        .get("pod-security.kubernetes.io/enforce")
        .map(String::as_str)
    {
        Some("privileged") => Finding::ok(CHECK, format!("{name}: Pod Security lets privileged pods be")),
        None => Finding::note(
            CHECK,
            format!("{name} doesn't say what Pod Security enforces"),
            "where the API server's default isn't `privileged`, agents' pods are refused",
            &label,
        ),
        Some(level) => Finding::fails(
            CHECK,
            format!("{name}: Pod Security enforces `{level}`"),
            "agents' pods are refused: they use the node's network, processes and files",
            &format!("{label} --overwrite, and keep it to operators"),
        ),
    }
}

fn rollout(agent: &DaemonSet) -> Finding {
    const CHECK: &str = "agents";
    let name = agent.name_any();
    let Some(status) = &agent.status else {
        return Finding::fails(
            CHECK,
            format!("DaemonSet {name} has no status"),
            "nobody starts agents",
            "see whether kube-controller-manager runs",
        );
    };
    let (wanted, ready) = (status.desired_number_scheduled, status.number_ready);
    let updated = status.updated_number_scheduled.unwrap_or_default();
    let found = format!("DaemonSet {name}: {ready} of {wanted} ready, {updated} of this revision");
    if wanted == 0 {
        return Finding::fails(
            CHECK,
            found,
            "no node has an agent",
            "see agent.nodeSelector and agent.affinity, and the nodes' labels",
        );
    }
    if ready < wanted || status.observed_generation != agent.metadata.generation {
        return Finding::fails(
            CHECK,
            found,
            "on nodes without an agent connections to Targets are refused, or nothing is protected where none has run",
            "kubectl describe daemonset and its pods; their logs name what is missing",
        );
    }
    if updated < wanted {
        return Finding::note(
            CHECK,
            found,
            "older agents go on until they are replaced",
            "kubectl rollout status daemonset",
        );
    }
    Finding::ok(CHECK, found)
}

fn priority(name: &str, found: Option<&PriorityClass>) -> Finding {
    const CHECK: &str = "priority";
    match found {
        None => Finding::fails(
            CHECK,
            format!("PriorityClass {name} isn't there"),
            "no further agent can be started",
            "install the chart with priorityClass.create=true, or name one that is there",
        ),
        Some(class) if class.value < 1_000_000 => Finding::note(
            CHECK,
            format!("PriorityClass {name} has {}", class.value),
            "a full node may have no room for its agent",
            "give agents a class above all workloads",
        ),
        Some(class) => Finding::ok(CHECK, format!("PriorityClass {name} has {}", class.value)),
    }
}

fn runs(approver: Option<&Deployment>) -> Finding {
    const CHECK: &str = "approver";
    let Some(approver) = approver else {
        return Finding::note(
            CHECK,
            "none",
            "Targets with `tls.client.csr` get no certificates, and objects no status",
            "install the chart with approver.enabled=true, or approve agents' requests and do without statuses",
        );
    };
    let available = approver
        .status
        .as_ref()
        .and_then(|status| status.available_replicas)
        .unwrap_or_default();
    let found = format!("Deployment {}: {available} available", approver.name_any());
    if available > 0 {
        return Finding::ok(CHECK, found);
    }
    Finding::fails(
        CHECK,
        found,
        "new agents get no certificates, and the ones that are there end",
        "kubectl describe deployment and its pods; see its log",
    )
}

/// What becomes of agents' requests for certificates.
fn signed(signer: &str, agents: &str, all: &[CertificateSigningRequest]) -> Finding {
    const CHECK: &str = "signer";
    let (mut issued, mut denied, mut unsigned, mut waiting) = (0, Vec::new(), 0, 0);
    for request in all.iter().filter(|request| {
        request.spec.signer_name == signer && request.spec.username.as_deref() == Some(agents)
    }) {
        let status = request.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let has = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
        if status.certificate.is_some() {
            issued += 1;
        } else if let Some(condition) = has("Denied").or_else(|| has("Failed")) {
            denied.push(format!(
                "{}: {}",
                condition.reason.as_deref().unwrap_or_default(),
                condition.message.as_deref().unwrap_or_default()
            ));
        } else if has("Approved").is_some() {
            unsigned += 1;
        } else {
            waiting += 1;
        }
    }
    if let Some(why) = denied.last() {
        return Finding::fails(
            CHECK,
            format!("{signer}: {} denied, last with {why}", denied.len()),
            "agents have no certificate to show for these",
            "see who denies them: some clusters have an approver of their own, which has to leave the agents' account alone (docs/kubernetes.md)",
        );
    }
    if issued == 0 && unsigned > 0 {
        return Finding::fails(
            CHECK,
            format!("{signer}: {unsigned} approved and not signed"),
            "agents have no certificate to show",
            "this signer may not be served here: give another (approver.signer, and a Target's `tls.client.csr.signer`), or a certificate of your own",
        );
    }
    if issued == 0 && waiting > 0 {
        return Finding::fails(
            CHECK,
            format!("{signer}: {waiting} wait for their approval"),
            "agents have no certificate to show",
            "see the approver's log",
        );
    }
    // The cluster removes requests an hour after they were decided.
    Finding::ok(
        CHECK,
        format!("{signer}: {issued} of agents' requests signed lately, {waiting} waiting"),
    )
}

fn bound(is_bound: bool) -> Finding {
    const CHECK: &str = "report policy";
    if is_bound {
        return Finding::ok(CHECK, "an agent may write its own node's report alone");
    }
    Finding::note(
        CHECK,
        "no ValidatingAdmissionPolicyBinding of Bailiff's",
        "whoever has an agent's token could say of any node that all is well",
        "install the chart on Kubernetes 1.32 or newer, or apply deploy/kustomize/base/nodereports.yaml",
    )
}

#[cfg(test)]
mod tests;
