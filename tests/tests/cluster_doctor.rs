//! `bailiff doctor --cluster` at a real cluster: before the chart is installed, with all well, and with one thing after the other taken away.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::deploy::released::{IMAGE, objects, release, until};
use bailiff_tests::masked::text;
use bailiff_tests::{Cluster, NodeLab, bailiff, can_be_root, reporting};
use serde_json::{Value, json};

const OPERATIONS: &str = include_str!("../../docs/operations.md");

fn doctor(kubeconfig: &Path, options: &[&str]) -> Result<Output> {
    Ok(Command::new(bailiff()?)
        .args(["doctor", "--cluster", "--kubeconfig"])
        .arg(kubeconfig)
        .args(options)
        .output()?)
}

/// What it found, and its exit status.
struct Found {
    code: Option<i32>,
    findings: Vec<Value>,
    all: String,
}

impl Found {
    fn by(kubeconfig: &Path) -> Result<Self> {
        let output = doctor(kubeconfig, &["-o", "json"])?;
        let report: Value = serde_json::from_slice(&output.stdout).with_context(|| text(&output.stderr))?;
        let code = output.status.code();
        ensure!(
            report.get("ok") == Some(&Value::Bool(code == Some(0))),
            "{code:?} {report:#}"
        );
        let findings = report.get("findings").and_then(Value::as_array).cloned();
        Ok(Self {
            code,
            findings: findings.context("no findings")?,
            all: format!("{report:#}"),
        })
    }

    /// That a check came out so, with these words in what it says.
    fn says(&self, check: &str, state: &str, words: &str) -> Result<()> {
        let is = |finding: &&Value, place: &str, wanted: &str| {
            finding.get(place).and_then(Value::as_str) == Some(wanted)
        };
        let there = self.findings.iter().any(|finding| {
            is(&finding, "check", check)
                && is(&finding, "state", state)
                && finding.to_string().contains(words)
        });
        ensure!(there, "no {check}, {state}, {words:?} in {}", self.all);
        Ok(())
    }

    fn states(&self, state: &str) -> usize {
        self.findings
            .iter()
            .filter(|finding| finding.get("state").and_then(Value::as_str) == Some(state))
            .count()
    }
}

/// A service account with the rights that the documentation says it takes, or none, and its kubeconfig.
fn asker(cluster: &Cluster, name: &str, entitled: bool) -> Result<std::path::PathBuf> {
    cluster.service_account("default", name, None)?;
    if entitled {
        let role = OPERATIONS
            .split("```yaml\n")
            .filter_map(|part| part.split_once("```"))
            .map(|(block, _)| block)
            .find(|block| block.contains("name: bailiff-doctor"))
            .context("no role in docs/operations.md")?;
        cluster.apply(role)?;
        let account = format!("--serviceaccount=default:{name}");
        cluster.kubectl(&[
            "create",
            "clusterrolebinding",
            name,
            "--clusterrole=bailiff-doctor",
            &account,
        ])?;
    }
    let token = cluster.token("default", name, None)?;
    reporting::kubeconfig(cluster, &cluster.folder().join(name), &token)
}

#[test]
fn a_cluster_is_told_before_and_after_and_with_one_thing_after_the_other_taken_away() -> Result<()> {
    let Some(lab) = NodeLab::new("doctored", "view", "    []\n")? else {
        return Ok(());
    };
    let cluster = lab.cluster;
    let administrator = cluster.kubeconfig()?;
    let own = asker(cluster, "doctor", true)?;

    // Before it is installed there is nothing that keeps it from being so.
    let before = Found::by(&own)?;
    ensure!(before.code == Some(0), "{}", before.all);
    before.says("Kubernetes", "ok", "v1.")?;
    before.says("admission", "ok", "is served")?;
    before.says("definitions", "note", "targets.bailiff.dev")?;
    before.says("namespace", "note", "isn't there")?;
    before.says("agents", "note", "install the chart")?;
    before.says("nodes", "ok", "containerd://")?;
    before.says("runtimes", "ok", "no RuntimeClass")?;
    before.says("anybody", "ok", "")?;
    before.says("any pod", "ok", "")?;

    cluster.image_of_agent(IMAGE)?;
    release(cluster, "install", &["--set=mode=enforce"])?;
    cluster.apply(&objects(cluster)?)?;
    let enforced = "--overwrite";
    let label = |level: &str| {
        let label = format!("pod-security.kubernetes.io/enforce={level}");
        cluster.kubectl(&["label", "namespace", "bailiff", &label, enforced])
    };
    label("privileged")?;
    // A certificate takes a moment to be asked for, approved, signed and told of.
    until("well", cluster, || {
        let found = Found::by(&own)?;
        Ok(found.code == Some(0) && found.says("signer", "ok", ": 1 of ").is_ok())
    })?;
    let well = Found::by(&own)?;
    ensure!(well.states("fails") + well.states("unknown") == 0, "{}", well.all);
    for (check, words) in [
        ("definitions", "of this version"),
        ("namespace", "lets privileged pods be"),
        ("agents", "1 of 1 ready"),
        ("priority", "1000000000"),
        ("agents' rights", "all "),
        ("approver", "1 available"),
        ("approver's rights", "all "),
        (
            "signer",
            "kubernetes.io/kubelet-serving: 1 of agents' requests signed",
        ),
        ("report policy", "its own node's"),
        ("reports", "1 of 1 nodes ready, 0 pods not covered"),
    ] {
        well.says(check, "ok", words)?;
    }
    let table = text(&doctor(&own, &[])?.stdout);
    ensure!(table.contains("This cluster can enforce; "), "{table}");

    // What it asked for: nothing secret, and nothing was changed.
    let user = "system:serviceaccount:default:doctor";
    let asked: Vec<Value> = cluster
        .audit()?
        .into_iter()
        .filter(|event| event.pointer("/user/username").and_then(Value::as_str) == Some(user))
        .collect();
    ensure!(asked.len() > 50, "{} requests", asked.len());
    for event in &asked {
        let of = |place: &str| event.pointer(place).and_then(Value::as_str).unwrap_or_default();
        let (verb, resource) = (of("/verb"), of("/objectRef/resource"));
        ensure!(
            !matches!(resource, "secrets" | "configmaps" | "serviceaccounts" | "pods")
                && of("/objectRef/subresource").is_empty()
                && (matches!(verb, "get" | "list") || (verb, resource) == ("create", "subjectaccessreviews")),
            "{event:#}"
        );
    }

    // One thing after the other.
    cluster.apply(&json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "gvisor"}, "handler": "runsc"}).to_string())?;
    cluster.apply(&json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "istiod", "namespace": "doctored"}, "spec": {
        "replicas": 0, "selector": {"matchLabels": {"app": "istiod"}}, "template": {"metadata": {"labels": {"app": "istiod"}},
        "spec": {"containers": [{"name": "main", "image": "none.invalid/none"}]}}}}).to_string())?;
    cluster.apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "panes"}}).to_string())?;
    let noted = Found::by(&own)?;
    noted.says("runtimes", "note", "gvisor (runsc)")?;
    noted.says("network", "note", "istiod")?;
    noted.says("nodes", "note", "panes")?;
    cluster.kubectl(&["delete", "node", "panes"])?;

    label("restricted")?;
    let restricted = Found::by(&own)?;
    ensure!(restricted.code == Some(1), "{}", restricted.all);
    restricted.says("namespace", "fails", "enforces `restricted`")?;
    restricted.says("namespace", "fails", "enforce=privileged --overwrite")?;
    label("privileged")?;

    let anonymous = [
        "create",
        "clusterrolebinding",
        "open",
        "--clusterrole=view",
        "--user=system:anonymous",
    ];
    cluster.kubectl(&anonymous)?;
    Found::by(&own)?.says("anybody", "fails", "list pods")?;
    cluster.kubectl(&["delete", "clusterrolebinding", "open"])?;

    cluster.kubectl(&["delete", "clusterrolebinding", "bailiff-agent"])?;
    let powerless = Found::by(&own)?;
    powerless.says("agents' rights", "fails", "list pods")?;
    powerless.says(
        "agents' rights",
        "fails",
        "create tokenreviews.authentication.k8s.io",
    )?;
    ensure!(powerless.code == Some(1), "{}", powerless.all);

    // The definitions of another version, and none.
    let schema = "/spec/versions/0/schema/openAPIV3Schema/properties";
    for (name, patch) in [
        (
            "targets.bailiff.dev",
            json!([{"op": "add", "path": format!("{schema}/spec/properties/later"), "value": {"type": "string"}}]),
        ),
        (
            "nodereports.bailiff.dev",
            json!([{"op": "remove", "path": format!("{schema}/status/properties/dataPath/properties/reason")}]),
        ),
    ] {
        cluster.kubectl(&["patch", "crd", name, "--type=json", "-p", &patch.to_string()])?;
    }
    let differing = Found::by(&own)?;
    differing.says("definitions", "fails", "targets.bailiff.dev has .spec.later")?;
    differing.says(
        "definitions",
        "fails",
        "nodereports.bailiff.dev lacks .status.dataPath.reason",
    )?;
    cluster.kubectl(&["delete", "crd", "targets.bailiff.dev"])?;
    let undefined = Found::by(administrator)?;
    undefined.says("definitions", "fails", "not there: targets.bailiff.dev")?;
    ensure!(undefined.code == Some(1), "{}", undefined.all);

    // Who may see little is told so, for each part.
    let little = Found::by(&asker(cluster, "little", false)?)?;
    ensure!(little.code == Some(2), "{}", little.all);
    little.says("Kubernetes", "ok", "v1.")?;
    for check in [
        "definitions",
        "namespace",
        "agents",
        "nodes",
        "runtimes",
        "network",
        "anybody",
    ] {
        little.says(check, "unknown", "couldn't be asked: ")?;
    }
    ensure!(little.states("fails") == 0, "{}", little.all);
    Ok(())
}

#[test]
fn a_cluster_that_cant_be_asked_is_no_finding() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("config");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "a", "user": {"token": "canary-token"}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
    });
    std::fs::write(&file, config.to_string())?;
    for output in [doctor(&file, &[])?, doctor(&folder.path().join("none"), &[])?] {
        let told = text(&output.stderr);
        ensure!(
            output.status.code() == Some(2) && output.stdout.is_empty() && told.contains("bailiff: "),
            "{output:?}"
        );
        ensure!(!told.contains("canary"), "{told}");
    }
    Ok(())
}
