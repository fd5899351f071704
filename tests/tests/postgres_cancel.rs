//! Cancel requests reach the session that is meant, and no other.

use std::io::Read as _;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{ALLOW_ALL, Authority, Client, Enforced, Lab, Postgres, Running, policy, say, target};

const LONG: &str = "select pg_sleep(60)";

/// How often a session ended for a reason.
fn ended(agent: &Running, reason: &str) -> Result<u64> {
    agent.metric(&format!(
        "bailiff_sessions_ended_total{{offender=\"none\",reason=\"{reason}\"}}"
    ))
}

/// Waits until it has: the connection's end is counted behind what the client sees of it.
fn has_ended(agent: &Running, reason: &str, times: u64) -> Result<()> {
    agent.wait_for(reason, || Ok(ended(agent, reason)? == times))
}

/// Sends a cancel request, and waits for what a server answers: the end of the connection.
fn cancel(agent: &Running, server: &Postgres, key: &[u8]) -> Result<()> {
    let mut request = Client::new(agent.dial(server.address(), Postgres::PORT)?)?;
    request.send(&say::cancel(key))?;
    let mut answer = Vec::new();
    request.stream().read_to_end(&mut answer)?;
    ensure!(answer.is_empty(), "{answer:?}");
    Ok(())
}

fn runs(server: &Postgres, process: u32) -> Result<bool> {
    let text = format!("select count(*) from pg_stat_activity where pid = {process} and state = 'active'");
    Ok(server.sql(&text)? == "1")
}

fn process(client: &Client) -> Result<u32> {
    let bytes = client.key.first_chunk::<4>().context("no key")?;
    Ok(u32::from_be_bytes(*bytes))
}

/// Starts something long.
fn busy(agent: &Running, server: &Postgres) -> Result<Client> {
    let mut client = Client::started(agent.dial(server.address(), Postgres::PORT)?)?;
    client.send(&say::query(LONG))?;
    let process = process(&client)?;
    agent.wait_for("the server works", || runs(server, process))?;
    Ok(client)
}

fn was_cancelled(client: &mut Client) -> Result<bool> {
    let answer = client.until_ready()?;
    Ok(answer
        .iter()
        .any(|message| message.sqlstate().as_deref() == Some("57014")))
}

#[test]
fn the_right_session_and_no_other() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    let agent = lab.start()?;
    let (mut one, mut other) = (busy(&agent, &lab.server)?, busy(&agent, &lab.server)?);
    // A guess, and the first's key with the second's process.
    let mut mixed = other.key.clone();
    mixed.splice(4.., one.key.iter().skip(4).copied());
    for wrong in [&[0, 0, 0, 1, 2, 3, 4, 5][..], &mixed] {
        cancel(&agent, &lab.server, wrong)?;
    }
    has_ended(&agent, "cancel_unknown", 2)?;
    ensure!(ended(&agent, "cancel_passed")? == 0);
    ensure!(runs(&lab.server, process(&one)?)? && runs(&lab.server, process(&other)?)?);

    cancel(&agent, &lab.server, &one.key)?;
    ensure!(was_cancelled(&mut one)?);
    ensure!(runs(&lab.server, process(&other)?)?, "the other one goes on");
    // The process id is the server's own: clients compare it with that of notifications.
    ensure!(one.value("select pg_backend_pid()")? == process(&one)?.to_string());
    cancel(&agent, &lab.server, &other.key)?;
    ensure!(was_cancelled(&mut other)?);

    // The key ends with its session.
    let key = one.key.clone();
    drop(one);
    agent.wait_for("the session's end", || {
        Ok(agent.metric("bailiff_sessions_open")? == 1)
    })?;
    cancel(&agent, &lab.server, &key)?;
    has_ended(&agent, "cancel_unknown", 3)?;
    has_ended(&agent, "cancel_passed", 2)?;
    Ok(())
}

#[test]
fn a_stolen_key_is_of_no_use_to_another_pod_or_past_the_agent() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    let agent = lab.start()?;
    let mut client = busy(&agent, &lab.server)?;
    let another = Enforced::with(&[
        ("target.yaml", &target(lab.server.address(), "")),
        ("policy.yaml", &policy(ALLOW_ALL)),
    ])?
    .start()?;
    cancel(&another, &lab.server, &client.key)?;
    has_ended(&another, "cancel_unknown", 1)?;
    // And it isn't the server's own.
    let mut direct = Client::new(std::net::TcpStream::connect((
        lab.server.address(),
        Postgres::PORT,
    ))?)?;
    direct.send(&say::cancel(&client.key))?;
    let mut answer = Vec::new();
    direct.stream().read_to_end(&mut answer)?;
    ensure!(runs(&lab.server, process(&client)?)?);
    cancel(&agent, &lab.server, &client.key)?;
    ensure!(was_cancelled(&mut client)?);
    Ok(())
}

#[test]
fn by_tls_where_the_session_is() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    let authority = Authority::new("the database's")?;
    lab.server.offer_tls(&authority, &[lab.server.address()])?;
    // Whoever speaks without TLS isn't let in at all.
    lab.server.let_in("hostnossl all all all reject")?;
    let more = format!(
        "  tls: {{ upstream: {{ mode: Verify, caFile: {} }} }}\n",
        authority.certificate().display()
    );
    let enforced = Enforced::with(&[
        ("target.yaml", &target(lab.server.address(), &more)),
        ("policy.yaml", &policy(ALLOW_ALL)),
    ])?;
    let agent = enforced.start()?;
    let mut client = busy(&agent, &lab.server)?;
    cancel(&agent, &lab.server, &client.key)?;
    ensure!(was_cancelled(&mut client)?);
    has_ended(&agent, "cancel_passed", 1)?;
    Ok(())
}

#[test]
fn long_keys_of_protocol_3_2() -> Result<()> {
    if !bailiff_tests::can_be_root()? || !Postgres::versions()?.contains(&18) {
        return Ok(());
    }
    let server = Postgres::start_version(18)?;
    let enforced = Enforced::with(&[
        ("target.yaml", &target(server.address(), "")),
        ("policy.yaml", &policy(ALLOW_ALL)),
    ])?;
    let agent = enforced.start()?;
    let mut client = Client::new(agent.dial(server.address(), Postgres::PORT)?)?;
    let mut startup = say::startup(&[("user", "postgres"), ("database", "postgres")]);
    if let Some(minor) = startup.get_mut(7) {
        *minor = 2;
    }
    client.send(&startup)?;
    for message in client.until_ready()? {
        ensure!(message.tag != b'v', "3.2 isn't agreed on");
        if message.tag == b'K' {
            client.key = message.body;
        }
    }
    ensure!(client.key.len() == 4 + 32, "{}", client.key.len());
    client.send(&say::query(LONG))?;
    let process = process(&client)?;
    agent.wait_for("the server works", || runs(&server, process))?;
    cancel(&agent, &server, &client.key)?;
    ensure!(was_cancelled(&mut client)?);
    // A client of 3.0 gets a key that it can read.
    let old = Client::started(agent.dial(server.address(), Postgres::PORT)?)?;
    ensure!(old.key.len() == 8);
    Ok(())
}
