//! Databases that go away, hang or move: what clients are told, and what stands in the record.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{ALLOW_ALL, Client, Lab, Message, Postgres, Running, check, say};
use serde_json::Value;

fn lab() -> Result<Option<Lab>> {
    Lab::new(ALLOW_ALL, "")
}

/// The process of the server that serves this session.
fn backend(client: &mut Client) -> Result<i32> {
    client.send(&say::query("select pg_backend_pid()"))?;
    let answer = client.until_ready()?;
    let row = answer
        .iter()
        .find(|message| message.tag == b'D')
        .context("no row")?;
    Ok(row
        .values()
        .first()
        .cloned()
        .flatten()
        .context("no value")?
        .parse()?)
}

fn signal(pid: i32, signal: nix::sys::signal::Signal) -> Result<()> {
    Ok(nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal)?)
}

/// All that comes up to the connection's end.
fn last_words(client: &mut Client) -> Result<Vec<Message>> {
    let mut said = Vec::new();
    while let Some(message) = client.message()? {
        said.push(message);
    }
    Ok(said)
}

fn fatal(said: &[Message]) -> Vec<String> {
    let errors = said
        .iter()
        .filter(|message| message.field(b'V').as_deref() == Some("FATAL"));
    errors.filter_map(Message::sqlstate).collect()
}

/// Waits until no session is open, and tells how the operations and the sessions ended.
fn accounted(lab: &Lab, agent: Running) -> Result<(Vec<String>, Vec<String>)> {
    agent.wait_for("all sessions to end", || {
        Ok(agent.metric("bailiff_sessions_open")? == 0)
    })?;
    drop(agent);
    let text = |event: &Value, place: &str| {
        event
            .pointer(place)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let events = lab.enforced.events()?;
    let of = |kind: &str| -> Vec<&Value> {
        let is_it = |event: &&Value| event.pointer("/unmapped/event").and_then(Value::as_str) == Some(kind);
        events.iter().filter(is_it).collect()
    };
    ensure!(of("session_start").len() == of("session_end").len());
    let counted: u64 = of("session_end")
        .iter()
        .filter_map(|end| end.pointer("/unmapped/operations")?.as_u64())
        .sum();
    ensure!(
        counted == of("operation").len() as u64,
        "{counted} operations counted, {} recorded",
        of("operation").len()
    );
    let operations = of("operation")
        .iter()
        .map(|event| text(event, "/status_detail"))
        .collect();
    let ends = of("session_end")
        .iter()
        .map(|event| text(event, "/unmapped/why"))
        .collect();
    Ok((operations, ends))
}

/// How many operations ended without their answer, by what [`accounted`] tells of them.
fn unanswered(operations: &[String]) -> usize {
    let told = operations
        .iter()
        .filter(|detail| detail.contains("before the answer"));
    told.count()
}

#[test]
fn a_backend_that_is_killed() -> Result<()> {
    let Some(lab) = lab()? else { return Ok(()) };
    let agent = lab.start()?;
    let (mut busy, mut idle) = (lab.session(&agent)?, lab.session(&agent)?);
    let pid = backend(&mut busy)?;
    busy.send(&say::query("select pg_sleep(60)"))?;
    std::thread::sleep(Duration::from_millis(100));
    signal(pid, nix::sys::signal::Signal::SIGKILL)?;
    // The killed one can't say anything; the agent does. The others are told by the server, which begins anew.
    ensure!(fatal(&last_words(&mut busy)?) == ["08006"]);
    let said = last_words(&mut idle)?;
    ensure!(
        said.iter()
            .any(|message| message.field(b'C').as_deref() == Some("57P02")),
        "{said:?}"
    );
    agent.wait_for("the server to be back", || {
        let Ok(mut client) = lab.session(&agent) else {
            return Ok(false);
        };
        client.send(&say::query("select 1"))?;
        Ok(client.until_ready().is_ok())
    })?;
    let (operations, ends) = accounted(&lab, agent)?;
    ensure!(unanswered(&operations) == 1, "{operations:?}");
    ensure!(
        ends.iter().filter(|why| *why == "target_closed").count() >= 2,
        "{ends:?}"
    );
    Ok(())
}

#[test]
fn a_server_that_is_shut_down_fast_says_so_itself_and_once() -> Result<()> {
    let Some(lab) = lab()? else { return Ok(()) };
    let agent = lab.start()?;
    let (mut through, mut past) = (lab.session(&agent)?, lab.direct()?);
    let mut in_copy = lab.session(&agent)?;
    in_copy.send(&say::query("create table t (a int); copy t from stdin"))?;
    while in_copy.message()?.context("closed")?.tag != b'G' {}
    in_copy.send(&say::copy_data(b"1\n"))?;
    lab.server.stop("fast")?;
    let (through, past) = (last_words(&mut through)?, last_words(&mut past)?);
    ensure!(
        through == past && fatal(&past) == ["57P01"],
        "{through:?}\n{past:?}"
    );
    ensure!(fatal(&last_words(&mut in_copy)?) == ["57P01"]);
    // Nobody listens there: the agent says so, where a client of the server itself would be refused by its kernel.
    let mut refused = Client::new(agent.dial(lab.server.address(), Postgres::PORT)?)?;
    refused.send(&say::startup(&[("user", "postgres")]))?;
    ensure!(fatal(&last_words(&mut refused)?) == ["08001"]);
    lab.server.start_again()?;
    let mut again = lab.session(&agent)?;
    ensure!(backend(&mut again)? > 0);
    drop(again);
    accounted(&lab, agent)?;
    Ok(())
}

#[test]
fn a_server_that_is_shut_down_at_once_in_a_pipeline_and_in_a_large_answer() -> Result<()> {
    let Some(lab) = lab()? else { return Ok(()) };
    let agent = lab.start()?;
    lab.server.sql("create table t (a int)")?;
    let (mut pipeline, mut large) = (lab.session(&agent)?, lab.session(&agent)?);
    pipeline.send(
        &[
            say::run("insert into t values (1)"),
            say::run("select pg_sleep(60)"),
            say::run("insert into t values (2)"),
            say::sync(),
        ]
        .concat(),
    )?;
    large.send(&say::query("select repeat('x', 200000000)"))?;
    // The row's first bytes are there, and nobody reads on: whatever comes now can't be a message of its own.
    agent.wait_for("the row", || {
        let mut first = [0];
        Ok(large.stream().peek(&mut first)? == 1)
    })?;
    std::thread::sleep(Duration::from_millis(300));
    lab.server.stop("immediate")?;
    let said = last_words(&mut pipeline)?;
    ensure!(fatal(&said) == ["08006"], "{said:?}");
    ensure!(fatal(&last_words(&mut large)?).is_empty());
    lab.server.start_again()?;
    ensure!(lab.server.sql("select count(*) from t")? == "0");
    let (operations, _) = accounted(&lab, agent)?;
    ensure!(unanswered(&operations) == 2, "{operations:?}");
    Ok(())
}

#[test]
fn a_server_that_stands_still_is_waited_for() -> Result<()> {
    let Some(lab) = lab()? else { return Ok(()) };
    let agent = lab.start()?;
    let (mut slow, mut other) = (lab.session(&agent)?, lab.session(&agent)?);
    let pid = backend(&mut slow)?;
    signal(pid, nix::sys::signal::Signal::SIGSTOP)?;
    // More than sockets hold, so that the agent's own buffers are met, too.
    let long = format!("select length('{}')", "y".repeat(500_000));
    for _ in 0..8 {
        slow.send(&say::query(&long))?;
    }
    ensure!(backend(&mut other)? > 0);
    slow.stream().set_nonblocking(true)?;
    let mut none = [0];
    let waits = slow
        .stream()
        .peek(&mut none)
        .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    slow.stream().set_nonblocking(false)?;
    signal(pid, nix::sys::signal::Signal::SIGCONT)?;
    ensure!(waits, "answered while the server stood still");
    for _ in 0..8 {
        let answer = slow.until_ready()?;
        ensure!(
            answer
                .iter()
                .any(|message| message.values() == [Some("500000".to_owned())]),
            "{answer:?}"
        );
    }
    drop((slow, other));
    accounted(&lab, agent)?;
    Ok(())
}

#[test]
fn an_address_that_moves_to_another_server() -> Result<()> {
    let Some(lab) = lab()? else { return Ok(()) };
    let agent = lab.start()?;
    lab.server.sql("create table only_here (a int)")?;
    let mut before = lab.session(&agent)?;
    lab.server.stop("immediate")?;
    let said = last_words(&mut before)?;
    ensure!(fatal(&said) == ["08006"], "{said:?}");
    let other = Postgres::start(lab.server.address())?;
    other.sql("create table only_there (a int)")?;
    let mut after = lab.session(&agent)?;
    after.send(&say::query("insert into only_there values (1)"))?;
    let answer = after.until_ready()?;
    ensure!(answer.iter().all(|message| message.tag != b'E'), "{answer:?}");
    ensure!(other.sql("select count(*) from only_there")? == "1");
    drop(after);
    accounted(&lab, agent)?;
    Ok(())
}

/// Packets from and to an address are dropped while it lives.
struct Dropped(String);

impl Dropped {
    fn of(address: &str) -> Result<Self> {
        let this = Self(format!("bailiff_faults_{}", std::process::id()));
        let rules = format!(
            "table inet {} {{\nchain i {{\ntype filter hook prerouting priority -300\nip daddr {address} drop\n}}\n\
             chain o {{\ntype filter hook postrouting priority 300\nip saddr {address} drop\n}}\n}}\n",
            this.0
        );
        check(Command::new("nft").arg(rules))?;
        Ok(this)
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = Command::new("nft")
            .args(["delete", "table", "inet", &self.0])
            .status();
    }
}

#[test]
fn a_server_that_is_gone_without_a_packet() -> Result<()> {
    let Some(lab) = lab()? else { return Ok(()) };
    let lab = lab.options(&["--limit", "dead-peer=4s"]);
    let agent = lab.start()?;
    let (mut idle, mut busy) = (lab.session(&agent)?, lab.session(&agent)?);
    busy.send(&say::query("select pg_sleep(600)"))?;
    std::thread::sleep(Duration::from_millis(300));
    let dropped = Dropped::of(lab.server.address())?;
    for client in [&mut idle, &mut busy] {
        let said = last_words(client)?;
        ensure!(fatal(&said) == ["08006"], "{said:?}");
    }
    drop(dropped);
    let mut again = lab.session(&agent)?;
    ensure!(backend(&mut again)? > 0);
    drop(again);
    let (operations, ends) = accounted(&lab, agent)?;
    ensure!(unanswered(&operations) == 1, "{operations:?}");
    ensure!(
        ends.iter().filter(|why| *why == "target_socket").count() == 2,
        "{ends:?}"
    );
    Ok(())
}
