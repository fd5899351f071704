//! Nodes, by what their kubelets say of them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSystemInfo};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::ResourceExt as _;

use super::super::{Finding, Outcome, system};

/// As many names as a line has room for.
const NAMED: usize = 5;

/// Labels of nodes that no machine stands behind, on which no DaemonSet runs.
const VIRTUAL: [(&str, &str); 2] = [
    ("type", "virtual-kubelet"),
    ("eks.amazonaws.com/compute-type", "fargate"),
];

/// Parts of the names of runtimes whose pods have a network stack of their own, or a kernel.
const SANDBOXES: [&str; 5] = ["gvisor", "runsc", "kata", "firecracker", "wasm"];

pub(super) fn check(nodes: &[Node]) -> Vec<Finding> {
    if nodes.is_empty() {
        return vec![Finding::note(
            "nodes",
            "none",
            "no agent can run",
            "join a node to the cluster",
        )];
    }
    // By what is said of them, in the order of its gravity.
    let mut problems: BTreeMap<(std::cmp::Reverse<Outcome>, Problem), Vec<String>> = BTreeMap::new();
    let mut sound: BTreeMap<String, usize> = BTreeMap::new();
    for node in nodes {
        let found = problems_of(node);
        if found.is_empty() {
            *sound.entry(told(node)).or_default() += 1;
        }
        for problem in found {
            problems
                .entry((std::cmp::Reverse(problem.outcome), problem))
                .or_default()
                .push(node.name_any());
        }
    }
    let mut findings: Vec<Finding> = sound
        .into_iter()
        .map(|(kind, count)| Finding::ok("nodes", format!("{count}: {kind}")))
        .collect();
    findings.extend(problems.into_iter().map(|((_, problem), names)| {
        let found = format!("{}: {}", listed(&names), problem.found);
        let finding = Finding::note("nodes", found, problem.cost, problem.mend);
        Finding {
            outcome: problem.outcome,
            ..finding
        }
    }));
    findings
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Problem {
    outcome: Outcome,
    found: String,
    cost: &'static str,
    mend: &'static str,
}

fn problems_of(node: &Node) -> Vec<Problem> {
    let empty = NodeSystemInfo::default();
    let about = node
        .status
        .as_ref()
        .and_then(|status| status.node_info.as_ref())
        .unwrap_or(&empty);
    let mut problems = Vec::new();
    let mut add = |outcome, found: String, cost, mend| {
        problems.push(Problem {
            outcome,
            found,
            cost,
            mend,
        });
    };
    if VIRTUAL
        .iter()
        .any(|(label, value)| node.labels().get(*label).is_some_and(|is| is == value))
    {
        add(
            Outcome::Note,
            "virtual".to_owned(),
            "no agent can run there: its pods aren't covered",
            "keep pods that are to be held on nodes of your own",
        );
        return problems;
    }
    if about.operating_system == "windows" {
        add(
            Outcome::Note,
            "Windows".to_owned(),
            "no agent can run there: its pods aren't covered",
            "keep pods that are to be held on Linux nodes",
        );
        return problems;
    }
    if !is_ready(node) {
        add(
            Outcome::Note,
            "not ready".to_owned(),
            "what holds there isn't known",
            "see `kubectl describe node`",
        );
    }
    match system::kernel_of(&about.kernel_version) {
        Some(kernel) if kernel >= system::FLOOR => {}
        Some(_) => add(
            Outcome::Fails,
            format!("Linux {}", about.kernel_version),
            "agents end at their start: connections can't be refused as clients expect",
            "run Linux 6.1 or newer on them",
        ),
        None => add(
            Outcome::Note,
            format!("a kernel that can't be read ({:?})", about.kernel_version),
            "whether agents can run there isn't known",
            "run `bailiff doctor` on the node",
        ),
    }
    if !matches!(about.architecture.as_str(), "amd64" | "arm64") {
        add(
            Outcome::Fails,
            format!("architecture {}", about.architecture),
            "there is no agent for it",
            "keep agents away (agent.nodeSelector), and pods that are to be held on other nodes",
        );
    }
    let runtime = about.container_runtime_version.split("://").next();
    if !matches!(runtime, Some("containerd" | "cri-o")) {
        add(
            Outcome::Note,
            format!("runtime {}", about.container_runtime_version),
            "how it names containers' cgroups isn't known: requests may be told by their pod alone",
            "use containerd or CRI-O",
        );
    }
    problems
}

fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// What a node is, in a few words.
fn told(node: &Node) -> String {
    match node.status.as_ref().and_then(|status| status.node_info.as_ref()) {
        Some(about) => format!(
            "Linux {}, {}, {}, {}",
            about.kernel_version, about.architecture, about.container_runtime_version, about.os_image
        ),
        None => "unknown".to_owned(),
    }
}

fn listed(names: &[String]) -> String {
    let mut text = names
        .iter()
        .take(NAMED)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > NAMED {
        text.push_str(&format!(" and {} more", names.len() - NAMED));
    }
    text
}

/// Runtimes that pods may choose.
pub(super) fn sandboxed(classes: &[RuntimeClass]) -> Finding {
    let known: Vec<String> = classes
        .iter()
        .filter(|class| {
            let (name, handler) = (class.name_any().to_lowercase(), class.handler.to_lowercase());
            SANDBOXES
                .iter()
                .any(|part| name.contains(part) || handler.contains(part))
        })
        .map(|class| format!("{} ({})", class.name_any(), class.handler))
        .collect();
    if known.is_empty() {
        return Finding::ok("runtimes", "no RuntimeClass of a sandbox that is known");
    }
    Finding::note(
        "runtimes",
        format!("RuntimeClass {}", listed(&known)),
        "pods with a kernel or a network stack of their own aren't seen connecting: they reach no Target, where the node's side of their links is held",
        "give pods that need Targets another runtime; docs/threat-model.md says why",
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, about: &serde_json::Value, labels: &serde_json::Value) -> Node {
        let mut info = json!({
            "architecture": "amd64", "bootID": "", "containerRuntimeVersion": "containerd://2.0.0", "kernelVersion": "6.12.0",
            "kubeProxyVersion": "", "kubeletVersion": "v1.34.0", "machineID": "", "operatingSystem": "linux", "osImage": "Debian", "systemUUID": "",
        });
        if let (Some(info), Some(about)) = (info.as_object_mut(), about.as_object()) {
            info.extend(about.clone());
        }
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": labels},
            "status": {"nodeInfo": info, "conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .unwrap()
    }

    #[test]
    fn nodes_alike_are_one_line_and_each_problem_is_another() {
        let same = json!({});
        let all = [
            node("a", &same, &same),
            node("b", &same, &same),
            node("old-1", &json!({"kernelVersion": "5.15.0-1"}), &same),
            node("old-2", &json!({"kernelVersion": "5.15.0-1"}), &same),
            node("win", &json!({"operatingSystem": "windows"}), &same),
            node("far", &same, &json!({"type": "virtual-kubelet"})),
            node("big", &json!({"architecture": "s390x"}), &same),
            node(
                "docker",
                &json!({"containerRuntimeVersion": "docker://20.10"}),
                &same,
            ),
        ];
        let findings = check(&all);
        let told: Vec<_> = findings
            .iter()
            .map(|finding| (finding.outcome, finding.found.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                (Outcome::Ok, "2: Linux 6.12.0, amd64, containerd://2.0.0, Debian"),
                (Outcome::Fails, "old-1, old-2: Linux 5.15.0-1"),
                (Outcome::Fails, "big: architecture s390x"),
                (Outcome::Note, "win: Windows"),
                (Outcome::Note, "docker: runtime docker://20.10"),
                (Outcome::Note, "far: virtual"),
            ]
        );
        assert_eq!(check(&[]).first().unwrap().outcome, Outcome::Note);
    }

    #[test]
    fn sandboxes_are_told_by_name_or_handler() {
        let class = |name: &str, handler: &str| -> RuntimeClass {
            serde_json::from_value(json!({"metadata": {"name": name}, "handler": handler})).unwrap()
        };
        assert_eq!(sandboxed(&[class("nvidia", "nvidia")]).outcome, Outcome::Ok);
        let told = sandboxed(&[class("safe", "runsc"), class("kata-qemu", "q")]);
        assert_eq!(told.outcome, Outcome::Note);
        assert_eq!(told.found, "RuntimeClass safe (runsc), kata-qemu (q)");
    }

    #[test]
    fn many_names_are_cut() {
        let names: Vec<String> = (0..7).map(|number| format!("n{number}")).collect();
        assert_eq!(listed(&names), "n0, n1, n2, n3, n4 and 2 more");
    }
}
