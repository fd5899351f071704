//! Programs of somebody else on the same hooks.

use std::path::Path;

use anyhow::{Result, ensure};
use bailiff_kernel::probe;
use bailiff_model::FailureMode;
use bailiff_tests::{KernelLab, Neighbour};

fn dialed(lab: &KernelLab, address: &str, port: u16) -> Result<String> {
    KernelLab::answer(lab.python("pods/a/main", &format!("print(dial('{address}', {port}))"))?)
}

fn on_connect4(cgroup: &Path) -> Result<usize> {
    let attached = probe::attached(cgroup)?;
    Ok(attached
        .iter()
        .filter(|program| program.hook == "connect4" && program.program == "neighbour")
        .count())
}

#[test]
fn neighbours_that_were_there_before_stay_and_work() -> Result<()> {
    let Some(mut lab) = KernelLab::without_redirect("neighbour-before", FailureMode::Closed)? else {
        return Ok(());
    };
    let neighbour = Neighbour::attach(&lab.root().join("pods"))?;
    ensure!(dialed(&lab, "127.0.0.1", 9999)? == "EPERM");
    lab.enforce()?;
    both_work(&lab)?;
    if let Some(redirect) = lab.swap_redirect(None) {
        redirect.remove()?;
    }
    ensure!(dialed(&lab, "127.0.0.1", 9999)? == "EPERM", "after removal");
    ensure!(on_connect4(&lab.root().join("pods"))? == 1);
    neighbour.detach()?;
    ensure!(
        dialed(&lab, "127.0.0.1", 9999)? == "ECONNREFUSED",
        "nobody listens there"
    );
    Ok(())
}

#[test]
fn neighbours_come_and_go_above_and_below_while_connections_are_diverted() -> Result<()> {
    let Some(lab) = KernelLab::new("neighbour-after", FailureMode::Closed)? else {
        return Ok(());
    };
    for place in ["", "pods", "pods/a"] {
        let neighbour = Neighbour::attach(&lab.root().join(place))?;
        both_work(&lab)?;
        ensure!(on_connect4(lab.root())? == 1, "at {place:?}");
        neighbour.detach()?;
        ensure!(dialed(&lab, "127.0.0.1", 9999)? == "ECONNREFUSED");
        let child = lab.python("pods/a/main", "print(dial('10.9.8.7'))")?;
        ensure!(lab.accept(0)?.is_some(), "after the one at {place:?} went");
        ensure!(KernelLab::answer(child)? == "('10.9.8.7', 5432)");
    }
    Ok(())
}

/// The neighbour refuses its port, and Bailiff diverts what it protects.
fn both_work(lab: &KernelLab) -> Result<()> {
    ensure!(dialed(lab, "127.0.0.1", 9999)? == "EPERM");
    let child = lab.python("pods/a/main", "print(dial('10.9.8.7'))")?;
    ensure!(lab.accept(0)?.is_some());
    ensure!(KernelLab::answer(child)? == "('10.9.8.7', 5432)");
    Ok(())
}
