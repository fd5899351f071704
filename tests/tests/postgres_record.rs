//! A record that can't be written: a disk that is really full. What then happens is each target's own choice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{
    ALLOW_ALL, Client, Disk, Enforced, Postgres, Running, can_be_root, noise, policy, say, target,
};
use serde_json::Value;

/// Two databases of one agent: `waiting` with `whenFull: Block`, and `going` with `whenFull: Drop`.
struct Full {
    waiting: Postgres,
    going: Postgres,
    enforced: Enforced,
    disk: Disk,
}

impl Full {
    fn new(options: &[&str]) -> Result<Option<Self>> {
        if !can_be_root()? {
            return Ok(None);
        }
        let (waiting, going) = (Postgres::start_anywhere()?, Postgres::start_anywhere()?);
        waiting.sql("create table kept(it int, text text)")?;
        let of = |name: &str, server: &Postgres, when: &str| {
            target(
                server.address(),
                &format!("  recording: {{ whenFull: {when} }}\n"),
            )
            .replace("name: db", &format!("name: {name}"))
        };
        let targets = format!(
            "{}---\n{}",
            of("waiting", &waiting, "Block"),
            of("going", &going, "Drop")
        );
        let enforced = Enforced::with(&[
            ("target.yaml", &targets),
            (
                "policy.yaml",
                &policy(ALLOW_ALL).replace("[db]", "[waiting, going]"),
            ),
        ])?
        .options(&["--limit", "record-queue=16KiB"])
        .options(options);
        let disk = Disk::mount(enforced.record())?;
        Ok(Some(Self {
            waiting,
            going,
            enforced,
            disk,
        }))
    }

    fn session(&self, agent: &Running, server: &Postgres) -> Result<Client> {
        Client::started(agent.dial(server.address(), Postgres::PORT)?)
    }

    /// Rows that the waiting target has.
    fn rows(&self) -> Result<usize> {
        Ok(self.waiting.sql("select count(*) from kept")?.parse()?)
    }

    /// Waits until the disk is full and the client of the waiting target stands still.
    fn fill(&self, agent: &Running) -> Result<()> {
        agent.wait_for("a full disk", || {
            Ok(agent.metric("bailiff_recorder_errors_total")? > 0)
        })?;
        agent.wait_for("the client waits", || {
            let rows = self.rows()?;
            std::thread::sleep(Duration::from_millis(300));
            Ok(self.rows()? == rows)
        })?;
        ensure!(agent.reached("record_queue")? > 0);
        Ok(())
    }

    fn of(&self, kind: &str, target: &str) -> Result<Vec<Value>> {
        let mut events = self.enforced.events()?;
        events.retain(|event| {
            let text = |place: &str| event.pointer(place).and_then(Value::as_str);
            text("/unmapped/event") == Some(kind) && event.to_string().contains(&format!("\"{target}\""))
        });
        Ok(events)
    }
}

/// Statements of a client, each longer than a page, so that the disk is soon full.
fn inserts(mut client: Client, number: usize, done: &AtomicUsize) -> Result<Client> {
    for it in 0..number {
        let sql = format!(
            "insert into kept values ({it}, '{}')",
            noise(u64::try_from(it)?, 4000)
        );
        let answer = client.ask(&sql)?;
        ensure!(
            answer.iter().any(|message| message.body == b"INSERT 0 1\0"),
            "{it}: {answer:?}"
        );
        done.fetch_add(1, Ordering::SeqCst);
    }
    Ok(client)
}

#[test]
fn a_client_waits_or_goes_on_unrecorded_as_its_target_says() -> Result<()> {
    const INSERTS: usize = 200;
    let Some(full) = Full::new(&[])? else {
        return Ok(());
    };
    let agent = full.enforced.start()?;
    let (client, mut going) = (
        full.session(&agent, &full.waiting)?,
        full.session(&agent, &full.going)?,
    );
    let done = Arc::<AtomicUsize>::default();
    let seen = Arc::clone(&done);
    let inserting = std::thread::spawn(move || inserts(client, INSERTS, &seen));
    full.fill(&agent)?;
    agent.wait_for("a line in the log", || {
        Ok(agent.log().contains("cannot write the record"))
    })?;

    // The statement that waits hasn't reached the server, and doesn't as long as the disk is full; the other target's clients go on.
    let rows = full.rows()?;
    ensure!(rows == done.load(Ordering::SeqCst) && rows < INSERTS, "{rows}");
    for it in 0..50 {
        ensure!(going.value(&format!("select {it}"))? == it.to_string());
    }
    std::thread::sleep(Duration::from_millis(300));
    ensure!(full.rows()? == rows, "a statement ran unrecorded");
    let dropped = agent.metric("bailiff_recorder_dropped_total")?;
    ensure!((1..=50).contains(&dropped), "{dropped}");
    let reached = agent.reached("record_queue")?;
    ensure!(reached > dropped, "{reached} {dropped}");

    // A session that begins now waits, too, or goes on without; and those that come and go don't fill the memory.
    let mut late = Client::new(agent.dial(full.waiting.address(), Postgres::PORT)?)?;
    late.send(&say::startup(&[("user", "postgres"), ("database", "postgres")]))?;
    for _ in 0..100 {
        ensure!(full.session(&agent, &full.going)?.value("select 7")? == "7");
    }
    let queued = agent.metric("bailiff_recorder_queue_bytes")?;
    ensure!(queued < 32 << 10, "{queued} bytes");
    late.stream().set_nonblocking(true)?;
    ensure!(late.message().is_err(), "a session that can't be recorded began");
    late.stream().set_nonblocking(false)?;

    full.disk.grow()?;
    ensure!(
        late.until_ready()?
            .last()
            .is_some_and(|message| message.tag == b'Z')
    );
    drop(late);
    let inserted = inserting.join().ok().context("the client's thread failed")??;
    ensure!(full.rows()? == INSERTS);
    drop((inserted, going));
    agent.wait_for("the ends in the record", || {
        Ok(full.of("session_end", "waiting")?.len() == 2 && full.of("session_end", "going")?.len() == 1)
    })?;

    // Of the one that waited everything is there, once; of the other one what is missing is told.
    let number = |event: &Value, place: &str| event.pointer(place).and_then(Value::as_u64);
    let numbers: Vec<_> = full
        .of("operation", "waiting")?
        .iter()
        .filter_map(|event| number(event, "/unmapped/number"))
        .collect();
    ensure!(numbers == (1..=INSERTS as u64).collect::<Vec<_>>(), "{numbers:?}");
    let ends = full.of("session_end", "waiting")?;
    ensure!(
        ends.iter()
            .all(|end| number(end, "/unmapped/unrecorded") == Some(0)),
        "{ends:?}"
    );
    let recorded = full.of("operation", "going")?.len() as u64;
    let ends = full.of("session_end", "going")?;
    ensure!(
        ends.iter()
            .all(|end| number(end, "/unmapped/unrecorded") == Some(dropped)
                && number(end, "/unmapped/operations") == Some(50)),
        "{dropped}: {ends:?}"
    );
    ensure!(recorded + dropped == 50, "{recorded} {dropped}");
    // Of those that came and went: the beginning, the statement and the end.
    ensure!(agent.metric("bailiff_recorder_dropped_total")? == dropped + 300);
    ensure!(agent.metric("bailiff_recorder_queue_bytes")? == 0);
    Ok(())
}

/// The agent ends although the disk is full: what waits is not run, and what can't be written is told in the log.
#[test]
fn a_full_disk_does_not_keep_the_agent_from_ending() -> Result<()> {
    let Some(full) = Full::new(&["--limit", "drain=1s"])? else {
        return Ok(());
    };
    let agent = full.enforced.start()?;
    let client = full.session(&agent, &full.waiting)?;
    let done = Arc::<AtomicUsize>::default();
    let seen = Arc::clone(&done);
    let inserting = std::thread::spawn(move || inserts(client, usize::MAX, &seen));
    full.fill(&agent)?;
    let rows = full.rows()?;
    agent.terminate()?;
    let (status, log) = agent.wait()?;
    ensure!(status.code() == Some(143), "{status:?} {log}");
    ensure!(log.contains("these events are lost"), "{log}");
    let said = inserting.join().ok().context("the client's thread failed")?;
    ensure!(
        said.as_ref()
            .is_err_and(|error| error.to_string().contains("57P01")),
        "{:?}",
        said.err()
    );
    ensure!(
        full.rows()? == rows && done.load(Ordering::SeqCst) == rows,
        "what waited ran"
    );
    // What could be written is whole.
    let recorded = full.of("operation", "waiting")?.len();
    ensure!(recorded > 0 && recorded < rows, "{recorded} {rows}");
    Ok(())
}
