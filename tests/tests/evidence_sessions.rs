//! `bailiff sessions` beside real agents: what is open is listed, ended on request, and told as a story.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{
    ALLOW_ALL, Client, Enforced, Message, Postgres, Running, bailiff, can_be_root, check, policy, say, target,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A server, and what is enforced on it.
struct Stage {
    server: Postgres,
    enforced: Enforced,
}

impl Stage {
    fn new(more: &str) -> Result<Option<Self>> {
        if !can_be_root()? {
            return Ok(None);
        }
        let server = Postgres::start_anywhere()?;
        server.sql("create table kept(it int); create table locked(it int)")?;
        let enforced = Enforced::with(&[
            ("target.yaml", &target(server.address(), "")),
            ("policy.yaml", &policy(&format!("{ALLOW_ALL}{more}"))),
        ])?;
        Ok(Some(Self { server, enforced }))
    }

    fn session(&self, agent: &Running, name: &str) -> Result<Client> {
        let mut client = Client::new(agent.dial(self.server.address(), Postgres::PORT)?)?;
        client.send(&say::startup(&[
            ("user", "postgres"),
            ("database", "postgres"),
            ("application_name", name),
        ]))?;
        client.until_ready()?;
        Ok(client)
    }

    fn sessions(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(bailiff()?);
        command
            .arg("sessions")
            .args(arguments)
            .arg("--dir")
            .arg(self.enforced.record());
        Ok(command.output()?)
    }

    fn list(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let all = [&["list", "-o", "json"], arguments].concat();
        let output = self.sessions(&all)?;
        ensure!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout)?
            .lines()
            .map(|line| Ok(serde_json::from_str(line)?))
            .collect()
    }

    /// The id of the open session of an application, once it is in this state.
    fn open(&self, application: &str, state: &str) -> Result<String> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let open = self.list(&["--open"])?;
            let found = open.iter().find(|session| {
                session.get("application") == Some(&application.into())
                    && session.get("state") == Some(&state.into())
            });
            if let Some(id) = found
                .and_then(|session| session.get("session"))
                .and_then(Value::as_str)
            {
                return Ok(id.to_owned());
            }
            ensure!(Instant::now() < until, "{application} isn't {state}: {open:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn kill(&self, id: &str) -> Result<()> {
        let killed = self.sessions(&["kill", id, "--reason", "it \"misbehaves\""])?;
        ensure!(killed.status.success(), "{killed:?}");
        ensure!(text(&killed.stdout).contains(id), "{killed:?}");
        Ok(())
    }

    /// Waits until the server has no session of an application.
    fn gone(&self, application: &str) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(60);
        let count = format!("select count(*) from pg_stat_activity where application_name = '{application}'");
        while self.server.sql(&count)? != "0" {
            ensure!(Instant::now() < until, "the server still has {application}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn events(&self, id: &str, kind: &str) -> Result<Vec<Value>> {
        let mut events = self.enforced.events()?;
        events.retain(|event| {
            let text = |place: &str| event.pointer(place).and_then(Value::as_str);
            text("/metadata/correlation_uid") == Some(id) && text("/unmapped/event") == Some(kind)
        });
        Ok(events)
    }

    /// Who ended a session, as the record says, once it does.
    fn ended(&self, id: &str) -> Result<Value> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(end) = self.events(id, "session_end")?.pop() {
                return Ok(end);
            }
            ensure!(Instant::now() < until, "no end of {id}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a client got at its end: the farewell, and nothing after it.
fn farewell(messages: &[Message]) -> Result<()> {
    let last = messages.last().context("closed without a word")?;
    ensure!(
        last.sqlstate().as_deref() == Some("57P01")
            && last.field(b'S').as_deref() == Some("FATAL")
            && last
                .field(b'M')
                .is_some_and(|told| told.contains("it \"misbehaves\"")),
        "{messages:?}"
    );
    Ok(())
}

#[test]
fn a_session_is_ended_whatever_it_does() -> Result<()> {
    let Some(stage) = Stage::new("")? else {
        return Ok(());
    };
    let agent = stage.enforced.start()?;

    let mut idle = stage.session(&agent, "idle")?;
    ensure!(idle.value("select 1")? == "1");

    let mut running = stage.session(&agent, "running")?;
    running.send(&say::query("select pg_sleep(3600)"))?;

    let mut transaction = stage.session(&agent, "transaction")?;
    transaction.ask("begin")?;
    transaction.ask("insert into kept values (1)")?;

    let mut copying_in = stage.session(&agent, "copying-in")?;
    copying_in.send(&say::query("copy kept from stdin"))?;
    copying_in.until(b'G')?;
    copying_in.send(&say::copy_data(b"2\n"))?;

    // It never reads, so that all buffers on the way are full.
    let mut copying_out = stage.session(&agent, "copying-out")?;
    copying_out.send(&say::query(
        "copy (select repeat('x', 10000) from generate_series(1, 100000)) to stdout",
    ))?;

    // Somebody else holds what its second statement waits for.
    let mut holder = Client::started(TcpStream::connect((stage.server.address(), Postgres::PORT))?)?;
    holder.ask("begin; lock table locked")?;
    let mut pipeline = stage.session(&agent, "pipeline")?;
    pipeline.send(
        &[
            say::run("insert into kept values (3)"),
            say::run("insert into locked values (3)"),
            say::run("insert into kept values (4)"),
            say::sync(),
        ]
        .concat(),
    )?;

    // Asked for its password, which it doesn't give.
    stage.server.sql("create role asked login password 'x'")?;
    stage.server.ask_for_passwords("asked")?;
    let mut entering = Client::new(agent.dial(stage.server.address(), Postgres::PORT)?)?;
    entering.send(&say::startup(&[
        ("user", "asked"),
        ("database", "postgres"),
        ("application_name", "entering"),
    ]))?;
    ensure!(entering.message()?.is_some_and(|message| message.tag == b'R'));

    for (application, state) in [
        ("entering", "handshake"),
        ("idle", "idle"),
        ("running", "running"),
        ("transaction", "in transaction"),
        ("copying-in", "running"),
        ("copying-out", "running"),
        ("pipeline", "running"),
    ] {
        let id = stage.open(application, state)?;
        stage.kill(&id)?;
        let end = stage.ended(&id)?;
        let of = |place: &str| end.pointer(place);
        ensure!(of("/unmapped/why") == Some(&"killed".into()), "{end:#}");
        ensure!(of("/unmapped/killed_by/uid") == Some(&0.into()), "{end:#}");
        ensure!(
            of("/unmapped/killed_by/reason") == Some(&"it \"misbehaves\"".into()),
            "{end:#}"
        );
        ensure!(
            of("/unmapped/killed_by/pid").is_some_and(Value::is_u64),
            "{end:#}"
        );
        stage.gone(application)?;
        let again = stage.sessions(&["kill", &id])?;
        ensure!(again.status.code() == Some(4), "{again:?}");
        ensure!(
            text(&again.stderr).contains("ended already (killed)"),
            "{again:?}"
        );
    }
    farewell(&entering.rest()?)?;
    farewell(&idle.rest()?)?;
    farewell(&running.rest()?)?;
    farewell(&transaction.rest()?)?;
    farewell(&copying_in.rest()?)?;
    farewell(&pipeline.rest()?)?;
    drop((copying_out, holder));
    ensure!(
        stage.server.sql("select count(*) from kept")? == "0",
        "something was kept"
    );

    // What was outstanding is in the record, told as such.
    let pipelined: Vec<_> = stage
        .enforced
        .operations()?
        .into_iter()
        .filter(|operation| operation.to_string().contains("insert into kept values (4)"))
        .collect();
    let [last] = pipelined.as_slice() else {
        anyhow::bail!("{pipelined:#?}")
    };
    ensure!(
        last.pointer("/status_detail") == Some(&"the session ended before the answer".into()),
        "{last:#}"
    );
    Ok(())
}

#[test]
fn what_cannot_be_ended_is_told_apart() -> Result<()> {
    let Some(stage) = Stage::new("")? else {
        return Ok(());
    };
    let agent = stage.enforced.start()?;
    let (one, two) = (stage.session(&agent, "one")?, stage.session(&agent, "two")?);
    let id = stage.open("one", "idle")?;
    let unknown = stage.sessions(&["kill", "no-such-id"])?;
    ensure!(unknown.status.code() == Some(3), "{unknown:?}");
    let several = stage.sessions(&["kill", ""])?;
    ensure!(several.status.code() == Some(5), "{several:?}");
    // Somebody who isn't root doesn't even find the socket.
    let mut other = Command::new("setpriv");
    other
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(bailiff()?);
    other
        .args(["sessions", "kill", &id, "--dir"])
        .arg(stage.enforced.record());
    let other = other.output()?;
    ensure!(!other.status.success(), "{other:?}");
    ensure!(stage.open("one", "idle")? == id);
    drop((one, two));
    Ok(())
}

#[test]
fn two_agents_share_a_record_and_one_that_was_killed_leaves_unfinished_sessions() -> Result<()> {
    let Some(stage) = Stage::new("")? else {
        return Ok(());
    };
    let (first, second) = (stage.enforced.start()?, stage.enforced.start()?);
    let mut one = stage.session(&first, "one")?;
    let mut two = stage.session(&second, "two")?;
    ensure!(one.value("select 11")? == "11" && two.value("select 22")? == "22");
    let (one_id, two_id) = (stage.open("one", "idle")?, stage.open("two", "idle")?);
    second.wait_for("the statements in the record", || {
        Ok(stage.enforced.operations()?.len() == 2)
    })?;

    kill(Pid::from_raw(i32::try_from(first.pid())?), Signal::SIGKILL)?;
    first.wait()?;
    let all = stage.list(&[])?;
    let state = |id: &str| {
        let session = all
            .iter()
            .find(|session| session.get("session") == Some(&id.into()));
        session
            .and_then(|session| session.get("state"))
            .and_then(Value::as_str)
    };
    ensure!(
        state(&one_id) == Some("unfinished") && state(&two_id) == Some("idle"),
        "{all:#?}"
    );
    let shown = text(&stage.sessions(&["show", &one_id])?.stdout);
    ensure!(
        shown.contains("select 11") && shown.contains("unfinished") && !shown.contains("select 22"),
        "{shown}"
    );
    let gone = stage.sessions(&["kill", &one_id])?;
    ensure!(gone.status.code() == Some(4), "{gone:?}");
    stage.kill(&two_id)?;
    farewell(&two.rest()?)?;
    second.stop()?;
    // The next agent takes away what the killed one left.
    let third = stage.enforced.start()?;
    let sockets = || -> Result<usize> {
        Ok(std::fs::read_dir(stage.enforced.record())?
            .flatten()
            .filter(|entry| {
                entry
                    .path()
                    .extension()
                    .is_some_and(|extension| extension == "sock")
            })
            .count())
    };
    ensure!(sockets()? == 1);
    third.stop()?;
    ensure!(sockets()? == 0);
    Ok(())
}

#[test]
fn a_record_that_was_changed_is_told() -> Result<()> {
    let Some(stage) = Stage::new("")? else {
        return Ok(());
    };
    let verify = |more: &[&str]| -> Result<(Option<i32>, String)> {
        let mut command = Command::new(bailiff()?);
        command
            .args(["record", "verify"])
            .args(more)
            .arg("--dir")
            .arg(stage.enforced.record());
        let output = command.output()?;
        Ok((output.status.code(), text(&output.stdout)))
    };
    let agent = stage.enforced.start()?;
    let mut client = stage.session(&agent, "kept")?;
    ensure!(client.value("select 1")? == "1");
    agent.wait_for("the statement in the record", || {
        Ok(stage.enforced.operations()?.len() == 1)
    })?;
    let (code, told) = verify(&[])?;
    ensure!(code == Some(0) && told.contains("without a seal"), "{told}");
    let hash = told.trim_end().rsplit(' ').next().context("no hash")?.to_owned();
    drop(client);
    agent.stop()?;
    let (code, told) = verify(&["--has", &hash])?;
    ensure!(
        code == Some(0) && told.contains(": sealed; 3 lines, hash "),
        "{told}"
    );
    let (code, told) = verify(&["--has", &"0".repeat(64)])?;
    ensure!(code == Some(1) && told.contains("is not in the record"), "{told}");

    let file = std::fs::read_dir(stage.enforced.record())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "zst"))
        .context("no file")?;
    let mut bytes = std::fs::read(&file)?;
    let middle = bytes.len() / 2;
    *bytes.get_mut(middle).context("short")? ^= 1;
    std::fs::write(&file, bytes)?;
    let (code, told) = verify(&[])?;
    ensure!(code == Some(1) && told.contains("CHANGED at byte"), "{told}");
    Ok(())
}

const DENY: &str = "    - name: keep
      effects: [drop]
      action: Deny
      message: nothing is dropped here
  recording: { level: Results, digest: true, maxRows: 2 }
";

#[test]
fn a_session_is_shown_as_a_story() -> Result<()> {
    let Some(stage) = Stage::new(DENY)? else {
        return Ok(());
    };
    let agent = stage.enforced.start()?;
    let mut client = stage.session(&agent, "story\u{1b}[31m")?;
    client.send(
        &[
            say::parse("", "select $1::int + 1 as next"),
            say::describe('S', ""),
            say::bind_values("", "", &[b"41"]),
            say::execute("", 0),
            say::sync(),
        ]
        .concat(),
    )?;
    client.until_ready()?;
    client.ask("drop table kept")?;
    client.ask("select i from generate_series(1, 5) i")?;
    client.ask("select 1/0")?;
    client.ask(&format!("select '{}'", "long".repeat(100)))?;
    let id = stage.open("story\u{1b}[31m", "idle")?;
    agent.wait_for("the statements in the record", || {
        Ok(stage.enforced.operations()?.len() == 5)
    })?;

    let list = text(
        &stage
            .sessions(&["list", "--verdict", "deny", "-o", "wide"])?
            .stdout,
    );
    ensure!(list.contains(&id) && list.contains("open, idle"), "{list}");
    ensure!(stage.list(&["--target", "other"])?.is_empty() && stage.list(&["--target", "d*"])?.len() == 1);
    ensure!(stage.list(&["--until", "1h"])?.is_empty() && stage.list(&["--since", "1h"])?.len() == 1);
    let wrong = stage.sessions(&["list", "--since", "yesterday"])?;
    ensure!(
        !wrong.status.success() && text(&wrong.stderr).contains("is no time"),
        "{wrong:?}"
    );

    // Followed to its end.
    let mut follow = Command::new(bailiff()?);
    follow
        .args(["sessions", "show", "--follow", &id, "--dir"])
        .arg(stage.enforced.record());
    let follow = follow.stdout(std::process::Stdio::piped()).spawn()?;
    client.ask("select 'told while it is followed'")?;
    drop(client);
    let followed = text(&follow.wait_with_output()?.stdout);
    ensure!(
        followed.contains("told while it is followed") && followed.contains("the client closed it"),
        "{followed}"
    );

    let shown = text(&stage.sessions(&["show", &id])?.stdout);
    for part in [
        "caller",
        "pod ",
        "to       db at ",
        "$1 = '41' (int4)",
        "│ next",
        "│ 42",
        "DENY     drop table kept",
        "nothing is dropped here",
        "by policy tested, rule keep",
        "2 of 5 rows are recorded",
        "failed with SQLSTATE 22012",
        "digest of 1 message: sha256:",
        "letters)",
        "6 operations, 1 denied",
    ] {
        ensure!(shown.contains(part), "{part:?} isn't in\n{shown}");
    }
    ensure!(!shown.contains('\u{1b}'), "colours or worse in a pipe: {shown}");
    let full = text(&stage.sessions(&["show", "--full", &id])?.stdout);
    ensure!(full.contains(&"long".repeat(100)), "{full}");
    let denied = text(&stage.sessions(&["show", "--denied", &id])?.stdout);
    ensure!(
        denied.contains("drop table") && !denied.contains("generate_series"),
        "{denied}"
    );
    let events = text(&stage.sessions(&["show", "--json", &id])?.stdout);
    ensure!(events.lines().count() == 8, "{events}");

    // Whoever stops reading ends it without a complaint.
    let pipe = format!(
        "set -o pipefail; {} sessions show --json {id} --dir {} | head -n1 >/dev/null",
        bailiff()?.display(),
        stage.enforced.record().display()
    );
    let piped = Command::new("bash").args(["-c", &pipe]).output()?;
    ensure!(piped.status.success() && piped.stderr.is_empty(), "{piped:?}");
    Ok(())
}

#[test]
fn the_story_tells_who_started_the_client() -> Result<()> {
    let Some(stage) = Stage::new("")? else {
        return Ok(());
    };
    // A shell that starts another in the background, and has ended when that starts psql.
    let place = format!(
        "host={} port={} user=postgres",
        stage.server.address(),
        Postgres::PORT
    );
    let script = "sh -c 'sh -c \"sleep 0.5; psql -XAtqc \\\"select 1\\\" \\\"$1\\\"; :\" sh \"$1\" & :' sh \"$1\"; sleep 3; :";
    check(&mut stage.enforced.run(&["sh", "-c", script, "sh", &place])?)?;
    let shown = text(&stage.sessions(&["show", "last"])?.stdout);
    let line = shown
        .lines()
        .find(|line| line.contains("started by"))
        .context(shown.clone())?;
    let by: Vec<&str> = line
        .trim()
        .trim_start_matches("started by ")
        .split(", by ")
        .collect();
    // Before them come the sandbox's own first processes.
    let [inner, middle, first, ..] = by.as_slice() else {
        anyhow::bail!("{shown}")
    };
    ensure!(
        [inner, middle, first]
            .iter()
            .all(|process| process.contains("/sh (")),
        "{shown}"
    );
    ensure!(
        !inner.contains("ended") && middle.contains(", ended)") && !first.contains("ended"),
        "{shown}"
    );
    ensure!(shown.contains("psql of uid"), "{shown}");
    Ok(())
}

#[test]
fn the_chain_of_a_process_a_pod_and_a_session_is_told() -> Result<()> {
    let Some(stage) = Stage::new("")? else {
        return Ok(());
    };
    let place = format!(
        "host={} port={} user=postgres password=hunter2",
        stage.server.address(),
        Postgres::PORT
    );
    let script = "echo begun; sh -c 'psql -XAtqc \"select pg_sleep(600)\" \"$1\"; :' sh \"$1\"; :";
    let mut run = stage.enforced.run(&["sh", "-c", script, "sh", &place])?;
    let mut run = Ended(
        run.process_group(0)
            .stdout(std::process::Stdio::piped())
            .spawn()?,
    );
    let mut begun = String::new();
    let said = run.0.stdout.take().context("no output")?;
    BufReader::new(said).read_line(&mut begun)?;
    ensure!(begun == "begun\n", "{begun}");
    let chain = |of: &str, format: &str| -> Result<String> {
        let mut command = Command::new(bailiff()?);
        command
            .args(["chain", of, "-o", format, "--dir"])
            .arg(stage.enforced.record());
        Ok(text(&check(&mut command)?.stdout))
    };
    let until = Instant::now() + Duration::from_secs(60);
    let open = loop {
        if let [open] = stage.list(&["--open"])?.as_slice() {
            break open.clone();
        }
        ensure!(Instant::now() < until, "no session");
        std::thread::sleep(Duration::from_millis(50));
    };
    let id = open.get("session").and_then(Value::as_str).context("no id")?;

    let of_session = chain(id, "tree")?;
    let psql = of_session.lines().last().context("nothing")?;
    ensure!(
        psql.contains("/psql (container main, uid 0): ") && psql.contains("password=[masked]"),
        "{of_session}"
    );
    ensure!(psql.contains("[observed]") && psql.contains("└─"), "{of_session}");
    ensure!(
        of_session.starts_with("pod default/sh as service account default [observed]"),
        "{of_session}"
    );
    ensure!(
        of_session.matches("/usr/bin/sh: sh -c").count() == 2,
        "{of_session}"
    );
    ensure!(!of_session.contains("hunter2"), "{of_session}");
    ensure!(chain("last", "tree")? == of_session);

    // The same of the process itself, and as one leaf of the pod.
    let number: Vec<char> = psql
        .chars()
        .skip_while(|letter| !letter.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect();
    let number: String = number.into_iter().collect();
    ensure!(chain(&number, "tree")? == of_session, "{number}: {of_session}");
    let of_pod = chain("default/sh", "tree")?;
    for line in of_session.lines().skip(1) {
        let process: Vec<&str> = line
            .split_whitespace()
            .skip_while(|word| *word == "└─")
            .take(2)
            .collect();
        let process = process.join(" ");
        let process = process.trim_end_matches(':');
        ensure!(of_pod.matches(process).count() == 1, "{process} in\n{of_pod}");
    }

    let chains: Value = serde_json::from_str(&chain(&number, "json")?)?;
    let ancestry = chains
        .pointer("/0/0/kind/pod/process/ancestry")
        .context("no ancestry")?;
    ensure!(ancestry.get("complete") == Some(&Value::Bool(true)), "{chains}");
    let dot = chain(&number, "dot")?;
    ensure!(
        dot.starts_with("digraph chain {") && dot.contains("n0 -> n1") && !dot.contains("hunter2"),
        "{dot}"
    );
    let mermaid = chain(&number, "mermaid")?;
    ensure!(
        mermaid.starts_with("flowchart LR") && mermaid.contains("n0 --> n1"),
        "{mermaid}"
    );

    for (of, why) in [("1", "is in no pod"), ("nobody", "no pod nobody")] {
        let mut command = Command::new(bailiff()?);
        let output = command
            .args(["chain", of, "--dir"])
            .arg(stage.enforced.record())
            .output()?;
        ensure!(
            !output.status.success() && text(&output.stderr).contains(why),
            "{output:?}"
        );
    }
    run.end()
}

/// A command with all that it has started. Dropping it ends it.
struct Ended(std::process::Child);

impl Ended {
    fn end(&mut self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.0.id())?);
        kill(pid, Signal::SIGTERM)?;
        // Once more, so that it doesn't wait for the statement.
        std::thread::sleep(Duration::from_millis(500));
        let _ended = kill(pid, Signal::SIGTERM);
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.end();
        }
    }
}
