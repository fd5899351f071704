//! SIGTERM: what is idle ends, what runs finishes, what doesn't end in time is ended, and the record holds every end.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{ALLOW_ALL, Client, Lab, Message, Postgres, Running, say};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn is_farewell(message: &Message) -> bool {
    message.sqlstate().as_deref() == Some("57P01") && message.field(b'V').as_deref() == Some("FATAL")
}

fn ends_with_farewell(client: &mut Client) -> Result<()> {
    let rest = client.rest()?;
    ensure!(rest.len() == 1 && rest.iter().all(is_farewell), "{rest:?}");
    Ok(())
}

fn refused(lab: &Lab, agent: &Running) -> bool {
    agent
        .dial(lab.server.address(), Postgres::PORT)
        .is_err_and(|error| {
            error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
        })
}

fn ends(lab: &Lab) -> Result<Vec<String>> {
    let events = lab.enforced.events()?;
    let of = |kind: &str| {
        events
            .iter()
            .filter(|event| event.pointer("/unmapped/event").and_then(Value::as_str) == Some(kind))
            .cloned()
            .collect::<Vec<_>>()
    };
    ensure!(
        of("session_start").len() == of("session_end").len(),
        "a session has no end: {events:#?}"
    );
    Ok(of("session_end")
        .iter()
        .filter_map(|event| Some(event.pointer("/unmapped/why")?.as_str()?.to_owned()))
        .collect())
}

#[test]
fn idle_sessions_end_and_busy_ones_finish_first() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    let agent = lab.start()?;
    let (mut idle, mut running, mut open) =
        (lab.session(&agent)?, lab.session(&agent)?, lab.session(&agent)?);
    open.ask("begin; create table kept(it int)")?;
    running.send(&say::query("select pg_sleep(1), repeat('x', 500000)"))?;
    std::thread::sleep(Duration::from_millis(200));
    agent.terminate()?;
    ends_with_farewell(&mut idle)?;
    agent.wait_for("new connections refused", || Ok(refused(&lab, &agent)))?;

    let answer = running.until_ready()?;
    let row = answer
        .iter()
        .find(|message| message.tag == b'D')
        .context("no row")?;
    ensure!(row.values().get(1) == Some(&Some("x".repeat(500_000))));
    ends_with_farewell(&mut running)?;

    // A transaction goes on until its end.
    std::thread::sleep(Duration::from_millis(200));
    let done = open.ask("insert into kept values (1)")?;
    ensure!(
        done.iter().any(|message| message.body == b"INSERT 0 1\0"),
        "{done:?}"
    );
    let done = open.ask("commit")?;
    ensure!(done.iter().any(|message| message.body == b"COMMIT\0"), "{done:?}");
    ends_with_farewell(&mut open)?;
    ensure!(lab.server.sql("select count(*) from kept")? == "1");

    let (status, log) = agent.wait()?;
    ensure!(status.code() == Some(143), "{status:?} {log}");
    ensure!(ends(&lab)? == ["drained"; 3], "{:?}", ends(&lab)?);
    Ok(())
}

#[test]
fn what_does_not_end_in_time_is_ended() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    let lab = lab.options(&["--limit", "drain=1s"]);
    let agent = lab.start()?;
    let (mut open, mut running) = (lab.session(&agent)?, lab.session(&agent)?);
    let mut silent = Client::new(agent.dial(lab.server.address(), Postgres::PORT)?)?;
    open.ask("begin; create table lost(it int)")?;
    running.send(&say::query("select 7, pg_sleep(600)"))?;
    agent.wait_for("the statement runs", || {
        Ok(lab
            .server
            .sql("select count(*) from pg_stat_activity where wait_event = 'PgSleep'")?
            == "1")
    })?;
    let began = Instant::now();
    agent.terminate()?;
    for client in [&mut open, &mut running, &mut silent] {
        ends_with_farewell(client)?;
    }
    ensure!(began.elapsed() >= Duration::from_secs(1));
    let (status, log) = agent.wait()?;
    ensure!(status.code() == Some(143), "{status:?} {log}");
    ensure!(ends(&lab)? == ["drained"; 2], "{:?}", ends(&lab)?);
    ensure!(lab.server.sql("select to_regclass('lost') is null")? == "t");
    // What was running is in the record, too.
    let operations = lab.enforced.operations()?;
    ensure!(
        operations
            .iter()
            .any(|event| event.to_string().contains("pg_sleep(600)")),
        "{operations:#?}"
    );
    Ok(())
}

/// A client that doesn't read can't keep the agent from ending.
#[test]
fn a_client_that_does_not_read_is_not_waited_for() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    let lab = lab.options(&["--limit", "drain=100ms"]);
    let agent = lab.start()?;
    let mut deaf = lab.session(&agent)?;
    deaf.send(&say::query(
        "select repeat('x', 1000) from generate_series(1, 100000)",
    ))?;
    agent.wait_for("its answer is held up", || Ok(agent.reached("unwritten")? > 0))?;
    agent.terminate()?;
    let (status, log) = agent.wait()?;
    ensure!(status.code() == Some(143), "{status:?} {log}");
    ensure!(ends(&lab)? == ["drained"], "{:?}", ends(&lab)?);
    drop(deaf);
    Ok(())
}

/// Where the operator chose that databases are reached without an agent rather than not at all, that holds for one that ends, too.
#[test]
fn new_connections_go_past_an_agent_that_drains_where_the_target_fails_open() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "  failureMode: Open\n")? else {
        return Ok(());
    };
    let lab = lab.options(&["--limit", "drain=1h"]);
    let agent = lab.start()?;
    let mut open = lab.session(&agent)?;
    open.ask("begin")?;
    agent.terminate()?;
    agent.wait_for("a session past the agent", || {
        // One that was accepted just before ends.
        let served = lab.session(&agent).and_then(|mut past| past.value("select 7"));
        Ok(served.is_ok() && agent.metric("bailiff_kernel_events_total{event=\"direct\"}")? > 0)
    })?;
    ensure!(open.value("select 8")? == "8");
    agent.terminate()?;
    ends_with_farewell(&mut open)?;
    let (status, log) = agent.wait()?;
    ensure!(status.code() == Some(143), "{status:?} {log}");
    Ok(())
}

#[test]
fn a_second_sigterm_cuts_the_grace_short() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    let lab = lab.options(&["--limit", "drain=1h"]);
    let agent = lab.start()?;
    let mut open = lab.session(&agent)?;
    open.ask("begin")?;
    agent.terminate()?;
    agent.wait_for("new connections refused", || Ok(refused(&lab, &agent)))?;
    open.ask("select 1")?;
    agent.terminate()?;
    ends_with_farewell(&mut open)?;
    let (status, log) = agent.wait()?;
    ensure!(status.code() == Some(143), "{status:?} {log}");
    ensure!(ends(&lab)? == ["drained"], "{:?}", ends(&lab)?);
    Ok(())
}

#[test]
fn a_command_that_ends_while_draining_gives_its_own_status() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    let script = format!(
        "trap '' TERM; echo begun; psql -h {0} -U postgres -XAtq -c 'select 7 from pg_sleep(1)'; \
         psql -h {0} -U postgres -XAtq -c 'select 8' || exit 3",
        lab.server.address()
    );
    let mut child = lab
        .enforced
        .run(&["sh", "-c", &script])?
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    ensure!(lines.next().transpose()?.as_deref() == Some("begun"));
    while lab
        .server
        .sql("select count(*) from pg_stat_activity where wait_event = 'PgSleep'")?
        != "1"
    {
        std::thread::sleep(Duration::from_millis(20));
    }
    kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
    // The statement that ran ends well; the next psql is refused. The signal that the command gets then doesn't end it.
    let rest: Vec<String> = lines.collect::<Result<_, _>>()?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(rest == ["7"], "{rest:?} {said}");
    ensure!(said.contains("Connection refused"), "{said}");
    ensure!(output.status.code() == Some(3), "{:?} {said}", output.status);
    Ok(())
}
