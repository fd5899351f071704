//! Replication: PostgreSQL's own programs that take a server's log or files, and what policy says of them.

use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{ALLOW_ALL, Compared, Lab, Message, say};
use serde_json::Value;

const REPLICATION: &str = "    - name: stream
      effects: [replication]
      action: Allow
";

/// A server that lets itself be replicated, and what clients say to it.
fn replicated(rules: &str) -> Result<Option<Compared>> {
    let Some(lab) = Lab::new(rules, "")? else {
        return Ok(None);
    };
    lab.server.let_replicate()?;
    Ok(Some(Compared::at(lab, "")))
}

fn said(output: &Output) -> Result<String> {
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {errors}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn effects(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .filter_map(|event| event.pointer("/unmapped/effects")?.get(0)?.as_str())
        .collect()
}

#[test]
fn logical_replication_by_pg_recvlogical() -> Result<()> {
    let Some(compared) = replicated(&format!("{ALLOW_ALL}{REPLICATION}"))? else {
        return Ok(());
    };
    compared.afresh()?;
    let sql = |text: &str| compared.lab().server.sql_in("work", text);
    let slot = |name: &str, what: &'static str| {
        vec![
            "pg_recvlogical".to_owned(),
            "-d".into(),
            "work".into(),
            "--slot".into(),
            name.into(),
            what.into(),
        ]
    };
    let run = |arguments: &[String], through: bool| -> Result<String> {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        said(&match through {
            true => compared.through(&arguments)?,
            false => compared.directly(&arguments)?,
        })
    };
    for (name, through) in [("past", false), ("agent", true)] {
        run(&slot(name, "--create-slot"), through)?;
    }
    sql("create table people (id int primary key, name text, face bytea)")?;
    sql(
        "insert into people select g, 'n' || g, decode(md5(g::text), 'hex') from generate_series(1, 3000) g",
    )?;
    sql("update people set name = repeat('long ', 200000) where id = 7")?;
    sql("begin; delete from people where id < 10; rollback; delete from people where id = 11")?;
    sql("truncate people")?;
    let end = sql("select pg_current_wal_lsn()")?;
    let stream = |name: &str, through: bool| {
        let mut arguments = slot(name, "--start");
        arguments.extend(["--no-loop", "-f", "-", "--endpos", &end].map(str::to_owned));
        run(&arguments, through)
    };
    let (past, agent) = (stream("past", false)?, stream("agent", true)?);
    ensure!(
        past.lines().count() > 3000 && past.len() > 1_000_000,
        "{}",
        past.len()
    );
    ensure!(
        past == agent,
        "what pg_recvlogical got differs: {} and {} bytes",
        past.len(),
        agent.len()
    );
    run(&slot("agent", "--drop-slot"), true)?;
    ensure!(sql("select string_agg(slot_name, ',') from pg_replication_slots")? == "past");
    let operations = compared.lab().enforced.operations()?;
    let texts = serde_json::to_string(&operations)?;
    for command in [
        "CREATE_REPLICATION_SLOT",
        "START_REPLICATION SLOT",
        "DROP_REPLICATION_SLOT",
        "IDENTIFY_SYSTEM",
    ] {
        ensure!(texts.contains(command), "{command} isn't recorded: {texts}");
    }
    ensure!(effects(&operations).contains(&"replication"));
    Ok(())
}

#[test]
fn files_by_pg_basebackup_and_the_log_by_pg_receivewal() -> Result<()> {
    let Some(compared) = replicated(REPLICATION)? else {
        return Ok(());
    };
    compared.afresh()?;
    compared.lab().server.sql_in(
        "work",
        "create table t as select g, md5(g::text) from generate_series(1, 20000) g",
    )?;
    // Its manifest has a digest of each file.
    let backup = "pg_basebackup -D /tmp/copy -X stream --checkpoint=fast --no-sync >/dev/null && \
                  /usr/lib/postgresql/*/bin/pg_verifybackup /tmp/copy";
    let verified = said(&compared.through(&["sh", "-c", backup])?)?;
    ensure!(verified.contains("successfully verified"), "{verified}");
    let end = compared
        .lab()
        .server
        .sql("select pg_switch_wal(); select pg_current_wal_lsn()")?;
    let end = end.lines().last().context("no position")?;
    compared
        .lab()
        .server
        .sql_in("work", "insert into t select * from t")?;
    let end2 = compared.lab().server.sql("select pg_current_wal_lsn()")?;
    ensure!(end != end2);
    let (_, low) = end2.split_once('/').context("no position")?;
    let bytes = u64::from_str_radix(low, 16)? % (16 << 20);
    let receive = format!(
        "d=$(mktemp -d); pg_receivewal -D $d --no-loop --no-sync --endpos {end2} 2>&1 && cat $d/0* | head -c {bytes} | sha256sum && rm -r $d"
    );
    let (past, agent) = (
        said(&compared.directly(&["sh", "-c", &receive])?)?,
        said(&compared.through(&["sh", "-c", &receive])?)?,
    );
    ensure!(past == agent && past.contains('-'), "{past}\n{agent}");
    Ok(())
}

#[test]
fn replication_is_refused_where_no_rule_allows_it_or_masks_are_in_force() -> Result<()> {
    let masks = "  masks:\n    - columns: [public.people.ssn]\n      with: Redact\n";
    for (rules, why) in [
        (ALLOW_ALL.to_owned(), "no rule allows replication"),
        (format!("{ALLOW_ALL}{REPLICATION}{masks}"), "past any mask"),
        (
            format!(
                "{ALLOW_ALL}    - name: never\n      effects: [replication]\n      action: Deny\n      message: not from here\n"
            ),
            "not from here",
        ),
    ] {
        let Some(compared) = replicated(&rules)? else {
            return Ok(());
        };
        let lab = compared.lab();
        let agent = lab.start()?;
        for value in ["database", "true", "On"] {
            let first = opened(lab, &agent, &[("replication", value)])?;
            ensure!(first.sqlstate().as_deref() == Some("42501"), "{value}: {first:?}");
            ensure!(
                first.field(b'M').is_some_and(|text| text.contains(why)),
                "{value}: {first:?}"
            );
        }
        // Neither is replication, and what isn't clear is refused rather than guessed.
        ensure!(opened(lab, &agent, &[("replication", "false")])?.tag == b'R');
        for unclear in [
            &[("replication", "databases")][..],
            &[("replication", "true"), ("replication", "false")],
        ] {
            ensure!(opened(lab, &agent, unclear)?.sqlstate().as_deref() == Some("0A000"));
        }
        drop(agent);
        let denied = lab.enforced.operations()?;
        ensure!(denied.len() == 3, "{denied:#?}");
    }
    Ok(())
}

/// The first answer to a startup packet with further settings.
fn opened(lab: &Lab, agent: &bailiff_tests::Running, more: &[(&str, &str)]) -> Result<Message> {
    let stream = agent.dial(lab.server.address(), bailiff_tests::Postgres::PORT)?;
    let mut client = bailiff_tests::Client::new(stream)?;
    let settings = [&[("user", "postgres"), ("database", "postgres")], more].concat();
    client.send(&say::startup(&settings))?;
    client.message()?.context("closed without a word")
}

#[test]
fn a_stream_ends_when_policy_no_longer_allows_it() -> Result<()> {
    let Some(compared) = replicated(REPLICATION)? else {
        return Ok(());
    };
    let lab = compared.lab();
    lab.server
        .sql("select pg_create_logical_replication_slot('s', 'test_decoding'); create table t (a int)")?;
    let agent = lab.start()?;
    let stream = agent.dial(lab.server.address(), bailiff_tests::Postgres::PORT)?;
    let mut client = bailiff_tests::Client::new(stream)?;
    let settings = [
        ("user", "postgres"),
        ("database", "postgres"),
        ("replication", "database"),
    ];
    client.send(&say::startup(&settings))?;
    client.until_ready()?;
    client.send(&say::query("START_REPLICATION SLOT s LOGICAL 0/0"))?;
    let until = |client: &mut bailiff_tests::Client, tag: u8| -> Result<Message> {
        loop {
            let message = client.message()?.context("closed")?;
            if message.tag == tag {
                return Ok(message);
            }
        }
    };
    until(&mut client, b'W')?;
    lab.server.sql("insert into t values (1)")?;
    until(&mut client, b'd')?;
    lab.change_rules(&agent, ALLOW_ALL)?;
    lab.server.sql("insert into t values (2)")?;
    let said = until(&mut client, b'E')?;
    ensure!(said.sqlstate().as_deref() == Some("42501"), "{said:?}");
    ensure!(client.message()?.is_none());
    Ok(())
}

#[test]
fn sql_in_a_replication_connection_is_decided_as_sql() -> Result<()> {
    let rules = format!("{REPLICATION}    - name: read\n      effects: [read]\n      action: Allow\n");
    let Some(compared) = replicated(&rules)? else {
        return Ok(());
    };
    let lab = compared.lab();
    lab.server.sql("create table t (a int)")?;
    let agent = lab.start()?;
    let stream = agent.dial(lab.server.address(), bailiff_tests::Postgres::PORT)?;
    let mut client = bailiff_tests::Client::new(stream)?;
    client.send(&say::startup(&[
        ("user", "postgres"),
        ("database", "postgres"),
        ("replication", "database"),
    ]))?;
    client.until_ready()?;
    let mut asked = |sql: &str| -> Result<Vec<Message>> {
        client.send(&say::query(sql))?;
        client.until_ready()
    };
    let state = |answer: &[Message]| answer.iter().find_map(Message::sqlstate);
    ensure!(state(&asked("IDENTIFY_SYSTEM")?).is_none());
    ensure!(state(&asked("SHOW wal_level")?).is_none());
    ensure!(state(&asked("select count(*) from t")?).is_none());
    // What looks like a command and isn't one is the server's syntax error; what is SQL is the policy's.
    ensure!(state(&asked("SHOW wal_level; drop table t")?).as_deref() == Some("42601"));
    ensure!(state(&asked("drop table t")?).as_deref() == Some("42501"));
    ensure!(state(&asked("identify_system; drop table t")?).as_deref() == Some("42501"));
    ensure!(state(&asked("select 1; drop table t")?).as_deref() == Some("42501"));
    ensure!(state(&asked("BASE_BACKUP_; drop table t")?).as_deref() == Some("42501"));
    ensure!(
        lab.server
            .sql("select count(*) from pg_class where relname = 't'")?
            == "1"
    );
    Ok(())
}
