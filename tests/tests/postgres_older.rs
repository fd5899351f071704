//! A session that was open before its server became a target.

use anyhow::{Result, ensure};
use bailiff_tests::{ALLOW_ALL, Client, Enforced, Postgres, can_be_root, policy, target};

#[test]
fn a_session_past_the_agent_ends_when_its_server_is_protected() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let server = Postgres::start_anywhere()?;
    let enforced = Enforced::with(&[
        // Another port of it, so that the sandbox has a route to the server.
        (
            "target.yaml",
            &target(server.address(), "").replace(":5432", ":5433"),
        ),
        ("policy.yaml", &policy(ALLOW_ALL)),
    ])?;
    let agent = enforced.start()?;
    let mut past = Client::started(agent.dial(server.address(), Postgres::PORT)?)?;
    ensure!(past.value("select 1")? == "1");
    ensure!(
        agent.metric("bailiff_connections_total")? == 0,
        "nothing protects it yet"
    );

    std::fs::write(
        enforced.config().join("target.yaml"),
        target(server.address(), ""),
    )?;
    agent.wait_for("the session is destroyed", || {
        Ok(agent.metric("bailiff_connections_destroyed_total")? == 1)
    })?;
    ensure!(
        past.value("select 1").is_err(),
        "the session goes on past the agent"
    );
    let mut client = Client::started(agent.dial(server.address(), Postgres::PORT)?)?;
    ensure!(client.value("select 1")? == "1");
    ensure!(agent.metric("bailiff_connections_total")? == 1);
    // Its upstream connection goes to the same address, and is the agent's own.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    ensure!(client.value("select 1")? == "1");
    ensure!(agent.metric("bailiff_connections_destroyed_total")? == 1);
    Ok(())
}
