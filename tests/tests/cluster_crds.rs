//! The CRDs at a real API server: what it takes, what it refuses and why, and what people see of them.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::Cluster;
use serde_json::{Value, json};

/// Every field of both kinds.
const WHOLE: &str = include_str!("cluster_crds/whole.yaml");

/// What is refused, each after a line that begins with `### ` and says why.
const REFUSED: &str = include_str!("cluster_crds/refused.yaml");

#[test]
fn what_is_written_is_taken_as_it_is() -> Result<()> {
    let Some(cluster) = with_crds()? else {
        return Ok(());
    };
    let mut objects = examples()?;
    objects.extend(in_docs()?);
    ensure!(objects.len() >= 12, "{} objects", objects.len());
    for (place, text) in &objects {
        taken(cluster, text).with_context(|| place.clone())?;
    }
    Ok(())
}

#[test]
fn no_field_is_dropped() -> Result<()> {
    let Some(cluster) = with_crds()? else {
        return Ok(());
    };
    let mut written = BTreeSet::new();
    for text in documents(WHOLE) {
        let object = taken(cluster, text)?;
        let kind = object.get("kind").and_then(Value::as_str).context("no kind")?;
        fields(object.get("spec").context("no spec")?, kind, &mut written);
    }
    let mut known = BTreeSet::new();
    for (kind, name) in [
        ("Target", "targets.bailiff.dev"),
        ("Policy", "policies.bailiff.dev"),
    ] {
        let crd: Value = serde_json::from_str(&cluster.kubectl(&["get", "crd", name, "-o", "json"])?)?;
        let spec = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec");
        of_schema(spec.context("no schema")?, kind, &mut known);
    }
    let missing: Vec<_> = known.difference(&written).collect();
    ensure!(missing.is_empty(), "not tried: {missing:?}");
    ensure!(known.len() > 100, "{known:?}");
    Ok(())
}

#[test]
fn what_is_wrong_is_refused_and_told() -> Result<()> {
    let Some(cluster) = with_crds()? else {
        return Ok(());
    };
    let cases: Vec<&str> = REFUSED.split("### ").skip(1).collect();
    ensure!(cases.len() >= 30, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let (told, object) = case.split_once('\n').context("no object")?;
        let output = create(cluster, object, &["--validate=strict", "--dry-run=server"])?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() || !said.contains(told.trim()) {
            wrong.push(format!("{}: {object}{said}", told.trim()));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn people_see_what_it_is_about_and_what_became_of_it() -> Result<()> {
    let Some(cluster) = with_crds()? else {
        return Ok(());
    };
    cluster.apply(COLUMNS)?;
    let status = json!({ "status": {
        "observedGeneration": 1,
        "conditions": [{
            "type": "Accepted",
            "status": "False",
            "reason": "Refused",
            "message": "1 of 3 nodes refuses it",
            "lastTransitionTime": "2030-01-01T00:00:00Z",
        }],
        "nodes": { "accepted": 2, "refused": 1, "total": 3, "ratio": "2/3" },
        "refusals": [{ "nodes": ["n1"], "count": 1, "reason": "there is no target \"x\"", "mend": "define a Target" }],
    }});
    let status = status.to_string();
    let patch = [
        "patch",
        "bpol",
        "columns",
        "--subresource=status",
        "--type=merge",
        "-p",
        &status,
    ];
    cluster.kubectl(&patch)?;
    let printed = |args: &[&str]| -> Result<Vec<Vec<String>>> {
        let text = cluster.kubectl(args)?;
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        Ok(text.lines().map(words).collect())
    };
    let targets = printed(&["get", "targets", "columns"])?;
    let policies = printed(&["get", "policies.bailiff.dev", "columns", "-o", "wide"])?;
    for (lines, expected) in [
        (
            &targets,
            [
                "NAME PROTOCOL ENDPOINTS DEFAULT ACCEPTED AGE",
                "columns postgres 10.0.0.5:5432 Deny",
            ],
        ),
        (
            &policies,
            [
                "NAME MODE TARGETS ACCEPTED REASON REFUSED AGE",
                "columns Enforce [\"columns\"] 2/3 Refused 1",
            ],
        ),
    ] {
        for (line, expected) in lines.iter().zip(expected) {
            ensure!(line.join(" ").starts_with(expected), "{lines:?}");
        }
        ensure!(lines.len() == 2, "{lines:?}");
    }
    let all = cluster.kubectl(&["get", "bailiff", "-o", "name"])?;
    for name in ["target.bailiff.dev/columns", "policy.bailiff.dev/columns"] {
        ensure!(all.lines().any(|line| line == name), "{all}");
    }
    cluster.kubectl(&["get", "btgt,bpol"])?;

    // Who may write the status alone changes nothing of the spec, and who writes the spec nothing of the status.
    let patch = |args: &[&str], what: &Value| -> Result<Value> {
        let what = what.to_string();
        let mut all = vec![
            "patch",
            "bpol",
            "columns",
            "--type=merge",
            "-o",
            "json",
            "-p",
            &what,
        ];
        all.extend(args);
        Ok(serde_json::from_str(&cluster.kubectl(&all)?)?)
    };
    let mode = |object: &Value| object.pointer("/spec/mode").cloned();
    let total = |object: &Value| object.pointer("/status/nodes/total").cloned();
    let by_status = patch(
        &["--subresource=status"],
        &json!({ "spec": { "mode": "Observe" }, "status": { "nodes": { "total": 4 } } }),
    )?;
    ensure!(
        mode(&by_status) == Some(json!("Enforce")) && total(&by_status) == Some(json!(4)),
        "{by_status}"
    );
    let by_spec = patch(
        &[],
        &json!({ "spec": { "mode": "Observe" }, "status": { "nodes": { "total": 5 } } }),
    )?;
    ensure!(
        mode(&by_spec) == Some(json!("Observe")) && total(&by_spec) == Some(json!(4)),
        "{by_spec}"
    );
    Ok(())
}

#[test]
fn each_field_is_explained() -> Result<()> {
    let Some(cluster) = with_crds()? else {
        return Ok(());
    };
    for (field, told) in [
        ("target", "What is protected"),
        ("target.spec.endpoints", "The longest prefix wins"),
        (
            "policy.spec.rules",
            "Of all rules of all policies the strictest counts",
        ),
        ("policy.spec.rules", "What the caller reads when it is refused."),
        ("policy.spec.rules.requests.verbs", "Denying `get` denies `list`"),
        ("policy.spec.masks.with", "`Redact`: `[masked]`"),
        ("policy.status.refusals.mend", "What to do about it."),
        ("nodereport.status.notCovered", "The pods that aren't covered"),
        (
            "nodereport.status.policies.state",
            "`HeldBack`: It is not at fault",
        ),
    ] {
        let explained = cluster.kubectl(&["explain", field, EXPLAINED])?;
        let one_line = explained.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(one_line.contains(told), "{field}: {explained}");
    }
    Ok(())
}

const COLUMNS: &str = r#"
apiVersion: bailiff.dev/v1alpha1
kind: Target
metadata: { name: columns }
spec: { protocol: postgres, endpoints: ["10.0.0.5:5432", "10.0.0.6:5432"] }
---
apiVersion: bailiff.dev/v1alpha1
kind: Policy
metadata: { name: columns }
spec: { targets: [columns], rules: [{ name: read, effects: [read], action: Allow }] }
"#;

/// The control plane with the CRDs in it.
fn with_crds() -> Result<Option<&'static Cluster>> {
    let Some(cluster) = Cluster::shared()? else {
        return Ok(None);
    };
    let warned = cluster.install_crds()?;
    // The server warns of what it doesn't understand.
    ensure!(warned.is_empty(), "{warned}");
    // What is explained is published a while later.
    let until = Instant::now() + Duration::from_secs(60);
    for kind in ["target", "policy", "nodereport"] {
        while let Err(error) = cluster.kubectl(&["explain", kind, EXPLAINED]) {
            ensure!(Instant::now() < until, "{error}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(Some(cluster))
}

/// Of which group, since others may have a kind of the same name.
const EXPLAINED: &str = "--api-version=bailiff.dev/v1alpha1";

/// Creates an object, and returns what the server has then, which is what was written.
fn taken(cluster: &Cluster, text: &str) -> Result<Value> {
    // kubectl reads the YAML, and nothing else.
    let plain = create(
        cluster,
        text,
        &["--dry-run=client", "--validate=ignore", "-o", "json"],
    )?;
    let written: Value = serde_json::from_slice(&plain.stdout).with_context(|| told(&plain))?;
    let created = create(cluster, text, &["--validate=strict", "-o", "json"])?;
    ensure!(
        created.status.success() && created.stderr.is_empty(),
        "{}",
        told(&created)
    );
    let created: Value = serde_json::from_slice(&created.stdout)?;
    let text = |path: &str| created.pointer(path).and_then(Value::as_str).context("no name");
    let name = format!(
        "{}.bailiff.dev/{}",
        text("/kind")?.to_lowercase(),
        text("/metadata/name")?
    );
    let kept: Value = serde_json::from_str(&cluster.kubectl(&["get", &name, "-o", "json"])?)?;
    cluster.kubectl(&["delete", &name])?;
    let (Some(written), Some(spec)) = (written.get("spec"), kept.get("spec")) else {
        anyhow::bail!("{written}");
    };
    let mut spec = spec.clone();
    // Of words that were left out the server has the default.
    for field in ["mode", "default", "unknown", "failureMode", "sourceAddress"] {
        if let (None, Some(spec)) = (written.get(field), spec.as_object_mut()) {
            spec.remove(field);
        }
    }
    ensure!(*written == spec, "written: {written}\nkept: {spec}");
    Ok(kept)
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn create(cluster: &Cluster, text: &str, args: &[&str]) -> Result<Output> {
    let mut child = cluster
        .kubectl_command(&["create", "-f", "-"])?
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("no input")?;
    stdin.write_all(text.as_bytes())?;
    drop(stdin);
    Ok(child.wait_with_output()?)
}

fn documents(text: &str) -> impl Iterator<Item = &str> {
    let of_kind = |document: &&str| {
        let is = |line: &str| line == "kind: Target" || line == "kind: Policy";
        document.lines().any(is)
    };
    text.split("\n---\n").filter(of_kind)
}

/// All Targets and Policies in examples/.
fn examples() -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                let text = std::fs::read_to_string(&path)?;
                found.extend(documents(&text).map(|text| (path.display().to_string(), text.to_owned())));
            }
        }
    }
    Ok(found)
}

/// Parts of Policies in docs/ and examples/README.md, as whole ones.
fn in_docs() -> Result<Vec<(String, String)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = vec![root.join("examples/README.md")];
    for entry in std::fs::read_dir(root.join("docs"))? {
        files.push(entry?.path());
    }
    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        for (number, block) in text.split("```yaml\n").skip(1).enumerate() {
            let part = block.split("```").next().unwrap_or_default();
            let indented: String = match part.split(':').next() {
                Some("rules" | "masks" | "detect") => {
                    part.lines().map(|line| format!("  {line}\n")).collect()
                }
                Some("- name") => format!(
                    "  rules:\n{}",
                    part.lines().map(|line| format!("  {line}\n")).collect::<String>()
                ),
                _ => continue,
            };
            let policy = format!(
                "apiVersion: bailiff.dev/v1alpha1\nkind: Policy\nmetadata: {{ name: doc }}\nspec:\n  targets: [\"*\"]\n{indented}"
            );
            found.push((format!("{}, block {}", file.display(), number + 1), policy));
        }
    }
    Ok(found)
}

/// The fields of an object, without places in lists; keys of maps that anybody may choose are left out.
fn fields(value: &Value, place: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, inner) in object {
                let place = format!("{place}.{name}");
                fields(inner, &place, found);
                found.insert(place);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| fields(item, place, found)),
        _ => {}
    }
}

fn of_schema(schema: &Value, place: &str, found: &mut BTreeSet<String>) {
    if let Some(items) = schema.get("items") {
        of_schema(items, place, found);
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, inner) in properties.into_iter().flatten() {
        let place = format!("{place}.{name}");
        of_schema(inner, &place, found);
        found.insert(place);
    }
}
