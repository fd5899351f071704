//! Whatever goes wrong with a session, nothing of it is left in the agent after many rounds.

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{ALLOW_ALL, Client, Lab, Postgres, Running, say};
use serde_json::Value;

/// Rounds where the environment doesn't say how many: `BAILIFF_ROUNDS=10000` takes some minutes.
const ROUNDS: usize = 1_500;

/// What may stay, in bytes a round: less than the least that a session could lose.
const LEAST: u64 = 256;

fn round(lab: &Lab, agent: &Running, number: usize) -> Result<()> {
    let dial = || agent.dial(lab.server.address(), Postgres::PORT);
    let mut client = match number % 10 {
        0 => {
            // Gone inside its first packet.
            let mut client = Client::new(dial()?)?;
            let startup = say::startup(&[("user", "postgres")]);
            return client.send(startup.get(..startup.len() / 2).context("short")?);
        }
        1 => {
            // Let in by nobody: the server's own refusal.
            let mut client = Client::new(dial()?)?;
            client.send(&say::startup(&[("user", "nobody")]))?;
            while client.message()?.is_some() {}
            return Ok(());
        }
        _ => lab.session(agent)?,
    };
    match number % 10 {
        2 => {
            client.send(&[say::query("copy t from stdin"), say::copy_data(b"1\n2\n")].concat())?;
            while client.message()?.context("closed")?.tag != b'G' {}
            client.send(b"d\0\0\x10\0half")?;
        }
        3 => {
            client.send(&say::query(
                "copy (select repeat('x', 1000) from generate_series(1, 2000)) to stdout",
            ))?;
            while client.message()?.context("closed")?.tag != b'd' {}
        }
        4 => client.send(
            &[
                say::run("insert into t values (1)"),
                say::run("select 1"),
                say::flush(),
            ]
            .concat(),
        )?,
        5 => client.send(&say::query("select repeat('x', 3000000)"))?,
        6 => {
            client.send(&say::query("select pg_terminate_backend(pg_backend_pid())"))?;
            while client.message()?.is_some() {}
        }
        7 => {
            // Out of step: the agent ends it.
            client.send(b"q\0\0\0\x04")?;
            while client.message()?.is_some() {}
        }
        8 => {
            client.send(
                &[
                    say::parse("s", "select $1::text"),
                    say::bind_values("p", "s", &[&[b'v'; 5_000]]),
                    say::execute("p", 0),
                    say::sync(),
                ]
                .concat(),
            )?;
            client.until_ready()?;
            client.send(b"B\0\x7f\0\0half")?;
        }
        _ => {
            client.send(&say::query("begin; insert into t values (1); select 1/0"))?;
            client.until_ready()?;
        }
    }
    Ok(())
}

fn descriptors(agent: &Running) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", agent.pid()))?.count())
}

#[test]
fn no_descriptor_and_no_memory_is_left_over() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    let rounds = std::env::var("BAILIFF_ROUNDS").map_or(Ok(ROUNDS), |rounds| rounds.parse())?;
    lab.server.sql("create table t (a int)")?;
    let agent = lab.start()?;
    let settle = || {
        agent.wait_for("all sessions to end", || {
            Ok(agent.metric("bailiff_sessions_open")? == 0)
        })
    };
    // Allocators, caches and the record's queue first take what they keep.
    let warm = (rounds / 3).max(200);
    for number in 0..warm {
        round(&lab, &agent, number).with_context(|| format!("round {number}"))?;
    }
    settle()?;
    let before = (descriptors(&agent)?, agent.resident_kib()?);
    for number in 0..rounds {
        round(&lab, &agent, number).with_context(|| format!("round {number}"))?;
    }
    settle()?;
    agent.wait_for("the descriptors of the last sessions to close", || {
        Ok(descriptors(&agent)? <= before.0)
    })?;
    let grown = agent.resident_kib()?.saturating_sub(before.1) * 1024;
    println!(
        "{rounds} rounds: {} descriptors before and after, {grown} bytes more in use",
        before.0
    );
    // A few pages come and go by themselves; what counts is what grows with each round.
    ensure!(
        grown <= LEAST * rounds as u64 + (1 << 20),
        "{grown} bytes more after {rounds} rounds"
    );
    ensure!(lab.server.sql("select count(*) from t")? == "0");
    drop(agent);
    accounted(&lab, warm + rounds)
}

/// Whether all that the sessions began and did stands in the record. The first of ten rounds is over before there is a session.
fn accounted(lab: &Lab, rounds: usize) -> Result<()> {
    let events = lab.enforced.events()?;
    let of = |kind: &str| {
        let is_it = |event: &&Value| event.pointer("/unmapped/event").and_then(Value::as_str) == Some(kind);
        events.iter().filter(is_it).collect::<Vec<_>>()
    };
    let (starts, ends, operations) = (of("session_start"), of("session_end"), of("operation"));
    let counted: u64 = ends
        .iter()
        .filter_map(|end| end.pointer("/unmapped/operations")?.as_u64())
        .sum();
    println!(
        "{} sessions and {counted} operations in {rounds} rounds",
        ends.len()
    );
    ensure!(
        starts.len() == ends.len() && counted == operations.len() as u64,
        "{} starts, {} ends; {counted} operations counted, {} recorded",
        starts.len(),
        ends.len(),
        operations.len()
    );
    ensure!(
        ends.len() >= rounds / 10 * 8,
        "{} sessions in {rounds} rounds",
        ends.len()
    );
    Ok(())
}
