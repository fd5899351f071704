//! Clients other than kubectl work unchanged before masked objects: they see what they see directly but for the masked values, and what
//! they write back is whole.

use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::masked::{CANARIES, is_whole, lab, no_canary, said};
use bailiff_tests::{ApiLab, harness_program};

/// The values of the lab's objects as they are, and as they are shown, in the forms in which clients print them.
const SHOWN: [(&str, &str); 7] = [
    ("canary-written-77", "[masked]"),
    ("Y2FuYXJ5LXdyaXR0ZW4tNzc=", "W21hc2tlZF0="),
    ("Y2FuYXJ5LWh1bnRlcjIteDc=", "W21hc2tlZF0="),
    ("YWRtaW4=", "W21hc2tlZF0="),
    ("canary-hunter2-x7", "****2-x7"),
    ("canary-env-51b2", "[masked]"),
    ("canary-annotation-99", "[masked]"),
];

fn same(lab: &ApiLab, what: &str, command: &[&str]) -> Result<()> {
    let direct = |command: &[&str]| -> Result<Output> {
        let (program, args) = command.split_first().context("no program")?;
        Ok(Command::new(program).args(args).output()?)
    };
    let mut expected = said(&direct(command)?, &format!("{what}, direct"))?;
    ensure!(
        CANARIES.iter().any(|canary| expected.contains(canary)),
        "{what} reads nothing: {expected}"
    );
    for (value, shown) in SHOWN {
        expected = expected.replace(value, shown);
    }
    let enforced = said(
        &lab.enforced.run_with(&["--pod", "agent"], command)?.output()?,
        what,
    )?;
    no_canary(&enforced, what)?;
    ensure!(
        enforced == expected,
        "{what}:\n{enforced}\n--- expected\n{expected}"
    );
    is_whole(lab)
}

fn kubeconfig(lab: &ApiLab) -> String {
    lab.path("agent.kubeconfig").display().to_string()
}

#[test]
fn client_gos_informers_updates_and_leases() -> Result<()> {
    let Some(lab) = lab("with-client-go")? else {
        return Ok(());
    };
    let program = lab.cluster.programs()?.join("cluster");
    let program = program.to_str().context("a path that isn't UTF-8")?;
    for format in ["json", "protobuf"] {
        let command = [program, "client", &kubeconfig(&lab), &lab.namespace, format];
        same(&lab, &format!("client-go with {format}"), &command)?;
    }
    // WatchList is what began the informers.
    let streamed = lab.audited()?.iter().any(|event| {
        let uri = event.pointer("/requestURI").and_then(serde_json::Value::as_str);
        uri.is_some_and(|uri| uri.contains("sendInitialEvents=true"))
    });
    ensure!(streamed, "no informer asked for a streamed list");
    Ok(())
}

#[test]
fn the_python_client() -> Result<()> {
    let Some(lab) = lab("with-python")? else {
        return Ok(());
    };
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/with_kubernetes.py");
    same(
        &lab,
        "the Python client",
        &["/usr/bin/python3", program, &kubeconfig(&lab), &lab.namespace],
    )
}

#[test]
fn kube_rs() -> Result<()> {
    let Some(lab) = lab("with-kube-rs")? else {
        return Ok(());
    };
    let program = harness_program("kube-client")?;
    let program = program.to_str().context("a path that isn't UTF-8")?;
    same(&lab, "kube-rs", &[program, &kubeconfig(&lab), &lab.namespace])
}
