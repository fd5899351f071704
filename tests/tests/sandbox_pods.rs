//! Several pods of one inventory at once: names, namespaces, labels and service accounts, each with what is theirs.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{Enforced, Postgres, can_be_root, target};
use serde_json::Value;

const INVENTORY: &str = "apiVersion: bailiff.dev/v1alpha1
kind: Inventory
metadata: { name: tested }
spec:
  pods:
    - { name: reader, namespace: build, serviceAccount: ci }
    - { name: writer, namespace: build, serviceAccount: batch, labels: { tier: writing } }
    - { name: cleaner-7, namespace: night }
    - { name: stranger, namespace: night, serviceAccount: ci-2, labels: { tier: other } }
";

/// One policy each by service account, label, name, and namespace.
const POLICIES: &str = "apiVersion: bailiff.dev/v1alpha1
kind: Policy
metadata: { name: by-service-account }
spec:
  targets: [db]
  subjects: [{ serviceAccounts: [ci, batch] }]
  rules: [{ name: read, effects: [read], action: Allow }]
---
apiVersion: bailiff.dev/v1alpha1
kind: Policy
metadata: { name: by-label }
spec:
  targets: [db]
  subjects: [{ podLabels: { tier: writing } }]
  rules: [{ name: write, effects: [insert], action: Allow }]
---
apiVersion: bailiff.dev/v1alpha1
kind: Policy
metadata: { name: by-name }
spec:
  targets: [db]
  subjects: [{ pods: [\"cleaner-*\"] }]
  rules: [{ name: clean, effects: [truncate], action: Allow }]
---
apiVersion: bailiff.dev/v1alpha1
kind: Policy
metadata: { name: by-namespace }
spec:
  targets: [db]
  subjects: [{ namespaces: [night] }]
  rules: [{ name: comments, effects: [set], action: Allow }]
";

const STATEMENTS: [&str; 4] = [
    "select 'read' from t",
    "insert into t values (2) returning 'inserted'",
    "truncate t",
    "set application_name to 'x'",
];

#[test]
fn each_pod_has_what_is_its_own() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let server = Postgres::start_anywhere()?;
    server.sql("create table t (a int); insert into t values (1)")?;
    let enforced = Enforced::with(&[
        ("target.yaml", &target(server.address(), "")),
        ("policies.yaml", POLICIES),
        ("inventory.yaml", INVENTORY),
    ])?;
    // What each may, by the statement's place.
    let pods = [
        ("reader", "build", "ci", [true, false, false, false]),
        ("writer", "build", "batch", [true, true, false, false]),
        ("cleaner-7", "night", "default", [false, false, true, true]),
        ("stranger", "night", "ci-2", [false, false, false, true]),
    ];
    let mut running = Vec::new();
    for (name, ..) in pods {
        let words = [
            "psql",
            "-h",
            server.address(),
            "-U",
            "postgres",
            "-XAtq",
            "-v",
            "VERBOSITY=verbose",
            "-f",
            "-",
        ];
        let mut child = enforced
            .run_with(&["--pod", name], &words)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut input = child.stdin.take().context("no input")?;
        let mut output = BufReader::new(child.stdout.take().context("no output")?);
        writeln!(input, "\\echo ready")?;
        let mut line = String::new();
        output.read_line(&mut line)?;
        ensure!(line == "ready\n", "{name}: {line}");
        running.push((child, input, output));
    }
    // All of them are there now.
    for ((mut child, mut input, mut output), (name, _, _, may)) in running.into_iter().zip(pods) {
        for (place, statement) in STATEMENTS.iter().enumerate() {
            writeln!(input, "{statement};\n\\echo {place} :LAST_ERROR_SQLSTATE")?;
            writeln!(input, "\\set LAST_ERROR_SQLSTATE 00000")?;
        }
        drop(input);
        let mut said = String::new();
        output.read_to_string(&mut said)?;
        ensure!(child.wait()?.success(), "{name}: {said}");
        for (place, may) in may.iter().enumerate() {
            let blocked = said.lines().any(|line| line == format!("{place} 42501"));
            ensure!(blocked != *may, "{name}, {:?}: {said}", STATEMENTS.get(place));
        }
    }
    let events = enforced.events()?;
    for (name, namespace, service_account, _) in pods {
        let text =
            |event: &Value, place: &str| event.pointer(place).and_then(Value::as_str).map(str::to_owned);
        let full = format!("{namespace}/{name}");
        let of_it: Vec<_> = events
            .iter()
            .filter(|event| text(event, "/src_endpoint/name").as_deref() == Some(&full))
            .collect();
        let operations = of_it
            .iter()
            .filter(|event| text(event, "/unmapped/event").as_deref() == Some("operation"))
            .count();
        ensure!(operations == STATEMENTS.len(), "{full}: {operations} operations");
        let start = of_it.first().context("no start")?;
        let account = text(start, "/unmapped/chain/0/kind/pod/pod/serviceAccount");
        ensure!(account.as_deref() == Some(service_account), "{full}: {start}");
    }
    Ok(())
}
