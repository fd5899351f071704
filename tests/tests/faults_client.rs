//! Clients that go away in the middle of something: nothing of it stays, on the server or in the agent.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{ALLOW_ALL, Client, Lab, Running, say};
use serde_json::Value;

/// A server with an empty table, whose client does something and is gone.
fn gone(does: impl Fn(&mut Client) -> Result<()>) -> Result<Option<(Lab, Vec<Value>)>> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(None);
    };
    lab.server.sql("create table t (a int, b text); create table big as select repeat('x', 1000) b from generate_series(1, 100000)")?;
    let agent = lab.start()?;
    let mut client = lab.session(&agent)?;
    does(&mut client)?;
    drop(client);
    nothing_stays(&lab, &agent)?;
    drop(agent);
    let events = lab.enforced.events()?;
    let ends: Vec<&Value> = events
        .iter()
        .filter(|event| event.pointer("/unmapped/event").and_then(Value::as_str) == Some("session_end"))
        .collect();
    ensure!(ends.len() == 1, "{ends:#?}");
    let operations = lab.enforced.operations()?;
    let counted = ends
        .first()
        .and_then(|end| end.pointer("/unmapped/operations")?.as_u64());
    ensure!(
        counted == Some(operations.len() as u64),
        "{counted:?} counted, {} recorded",
        operations.len()
    );
    Ok(Some((lab, operations)))
}

fn nothing_stays(lab: &Lab, agent: &Running) -> Result<()> {
    agent.wait_for("the session to end", || {
        Ok(agent.metric("bailiff_sessions_open")? == 0)
    })?;
    let others = "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()";
    agent.wait_for("the backend to end", || Ok(lab.server.sql(others)? == "0"))?;
    ensure!(lab.server.sql("select count(*) from t")? == "0");
    ensure!(
        lab.server
            .sql("select count(*) from pg_locks where relation = 't'::regclass")?
            == "0"
    );
    Ok(())
}

fn unanswered(operations: &[Value]) -> usize {
    let detail = |operation: &&Value| {
        operation
            .pointer("/status_detail")
            .and_then(Value::as_str)
            .is_some_and(|detail| detail.contains("before the answer"))
    };
    operations.iter().filter(detail).count()
}

#[test]
fn in_copy_in_between_messages_and_inside_one() -> Result<()> {
    for cut in [0, 3, 2_000] {
        let done = gone(|client| {
            client.send(&say::query("copy t from stdin"))?;
            ensure!(client.message()?.context("closed")?.tag == b'G');
            client.send(&say::copy_data(b"1\tone\n2\ttwo\n"))?;
            let more = say::copy_data(&b"3\tthree\n".repeat(1_000));
            client.send(more.get(..cut).context("short")?)
        })?;
        let Some((_, operations)) = done else {
            return Ok(());
        };
        ensure!(unanswered(&operations) == 1, "{operations:#?}");
    }
    Ok(())
}

#[test]
fn in_copy_out() -> Result<()> {
    let done = gone(|client| {
        client.send(&say::query("copy big to stdout"))?;
        while client.message()?.context("closed")?.tag != b'd' {}
        Ok(())
    })?;
    let Some((_, operations)) = done else {
        return Ok(());
    };
    ensure!(unanswered(&operations) == 1, "{operations:#?}");
    Ok(())
}

#[test]
fn in_a_pipeline_without_its_sync() -> Result<()> {
    let done = gone(|client| {
        let inserts: Vec<u8> = (0..300)
            .flat_map(|n| say::run(&format!("insert into t values ({n}, 'x')")))
            .collect();
        client.send(&inserts)?;
        client.send(&say::flush())?;
        while client.message()?.context("closed")?.tag != b'C' {}
        client.send(&say::run("select pg_sleep(0.2)"))
    })?;
    let Some((_, operations)) = done else {
        return Ok(());
    };
    ensure!(operations.len() >= 300, "{}", operations.len());
    Ok(())
}

#[test]
fn inside_a_statement_that_is_not_whole() -> Result<()> {
    let done = gone(|client| {
        let statement = say::query("insert into t values (1, 'never')");
        client.send(statement.get(..statement.len() - 1).context("short")?)
    })?;
    let Some((_, operations)) = done else {
        return Ok(());
    };
    ensure!(operations.is_empty(), "{operations:#?}");
    Ok(())
}

#[test]
fn inside_a_large_row_on_its_way_out_and_in() -> Result<()> {
    let done = gone(|client| {
        client.send(&say::query("select repeat('x', 300000000)"))?;
        while client.message()?.context("closed")?.tag != b'T' {}
        std::thread::sleep(Duration::from_millis(200));
        Ok(())
    })?;
    let Some((_, operations)) = done else {
        return Ok(());
    };
    ensure!(unanswered(&operations) == 1, "{operations:#?}");
    let done = gone(|client| {
        client.send(&say::parse("", "insert into t values (1, $1)"))?;
        let bind = say::bind_values("", "", &[&vec![b'x'; 5 << 20]]);
        client.send(bind.get(..3 << 20).context("short")?)
    })?;
    ensure!(done.is_some());
    Ok(())
}

#[test]
fn in_a_transaction_that_waits_for_a_lock() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    lab.server.sql("create table t (a int)")?;
    let agent = lab.start()?;
    let (mut holds, mut waits) = (lab.session(&agent)?, lab.session(&agent)?);
    holds.send(&say::query("begin; lock table t"))?;
    holds.until_ready()?;
    waits.send(&say::query("insert into t values (1)"))?;
    let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'";
    agent.wait_for("the lock", || Ok(lab.server.sql(waiting)? == "1"))?;
    // Its transaction ends with it, so that the one that waits goes on.
    drop(holds);
    let answer = waits.until_ready()?;
    ensure!(answer.iter().any(|message| message.tag == b'C'), "{answer:?}");
    Ok(())
}
