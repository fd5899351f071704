//! An agent whose programs somebody takes off says so.

use anyhow::{Result, ensure};
use bailiff_tests::{ALLOW_ALL, Lab};

#[test]
fn readiness_ends_when_a_program_is_taken_off() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    let agent = lab.start()?;
    let ready = agent.get("/readyz")?;
    ensure!(
        ready.starts_with("HTTP/1.1 200") && ready.contains("[+]kernel ok"),
        "{ready}"
    );
    std::fs::remove_file(agent.pins()?.join("links/bailiff_connect4"))?;
    agent.wait_for("the agent sees it", || {
        Ok(agent.get("/readyz")?.starts_with("HTTP/1.1 503"))
    })?;
    let unready = agent.get("/readyz")?;
    ensure!(unready.contains("[-]kernel failed: 1 programs"), "{unready}");
    ensure!(agent.metric("bailiff_kernel_programs_detached")? == 1);
    ensure!(agent.log().contains("bailiff_connect4"), "{}", agent.log());
    Ok(())
}
