//! `bailiff doctor` tells what a node has.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{bailiff, can_be_root, check};
use serde_json::Value;

#[test]
fn a_node_that_can_run_the_tests_lacks_nothing() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let output = check(Command::new(bailiff()?).args(["doctor", "-o", "json"]))?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(report.get("ok") == Some(&Value::Bool(true)), "{report:#}");
    let rows = report
        .get("findings")
        .and_then(Value::as_array)
        .context("no findings")?;
    for wanted in [
        "kernel",
        "capabilities",
        "BTF",
        "cgroup2",
        "bpf file system",
        "other programs",
    ] {
        let row = rows
            .iter()
            .find(|row| row.get("check").and_then(Value::as_str) == Some(wanted))
            .context(wanted)?;
        ensure!(row.get("state").and_then(Value::as_str) != Some("fails"), "{row}");
    }
    Ok(())
}

#[test]
fn without_capabilities_it_says_so_and_fails() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let output = Command::new("setpriv")
        .args([
            "--bounding-set=-all",
            "--inh-caps=-all",
            "--no-new-privs",
            "--reuid=65534",
            "--clear-groups",
        ])
        .arg(bailiff()?)
        .arg("doctor")
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.code() == Some(1), "{:?} {said}", output.status);
    ensure!(
        said.contains("not held: CAP_SYS_ADMIN") || said.contains("not held:"),
        "{said}"
    );
    Ok(())
}
