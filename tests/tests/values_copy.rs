//! COPY TO STDOUT of masked columns: in each format, with each option, what SELECT shows, and what the server reads again.

use anyhow::{Context as _, Result, bail, ensure};
use bailiff_tests::{ALLOW_ALL, Client, Lab, Message, Running, policy, say, types};

const KEY: &[u8; 32] = b"0123456789abcdef0123456789abcdef";

const CATALOG: &str = "  catalog: { user: postgres }\n";

/// Options of COPY TO STDOUT, and of COPY FROM STDIN that reads it again.
const OPTIONS: &[(&str, &str)] = &[
    ("", ""),
    ("delimiter '|'", "delimiter '|'"),
    ("(delimiter '*', null '\\N')", "(delimiter '*', null '\\N')"),
    ("(format text, encoding 'UTF8')", "(encoding 'UTF8')"),
    ("(format csv)", "(format csv)"),
    ("csv header", "csv header"),
    (
        "(format csv, header on, force_quote *)",
        "(format csv, header true)",
    ),
    (
        "(format csv, header false, null 'nothing')",
        "(format csv, null 'nothing')",
    ),
    ("csv null '[masked]'", "csv null '[masked]'"),
    (
        "csv delimiter ';' quote '''' escape '\\' force quote c0, c1",
        "csv delimiter ';' quote '''' escape '\\'",
    ),
    ("csv delimiter '*' quote '4'", "csv delimiter '*' quote '4'"),
    (
        "(format csv, delimiter E'\\t', escape '*')",
        "(format csv, delimiter E'\\t', escape '*')",
    ),
    ("(format binary)", "(format binary)"),
    ("binary", "binary"),
];

struct Started {
    lab: Lab,
    agent: Running,
    /// A database's catalog is kept as long as somebody is in it.
    _stays: Client,
    _keys: tempfile::TempDir,
}

/// A server with some tables, masks over them and the catalog read.
fn started(sql: &str, rules: &str) -> Result<Option<Started>> {
    started_with(sql, rules, &[])
}

fn started_with(sql: &str, rules: &str, options: &[&str]) -> Result<Option<Started>> {
    let keys = tempfile::tempdir()?;
    let key = keys.path().join("key");
    std::fs::write(&key, KEY)?;
    let rules = format!("{ALLOW_ALL}{rules}").replace("KEY", &key.display().to_string());
    let Some(lab) = Lab::new(&rules, CATALOG)? else {
        return Ok(None);
    };
    lab.server.sql(sql)?;
    let lab = lab.options(options);
    let agent = lab.start()?;
    let mut stays = lab.session(&agent)?;
    stays.value("select 1")?;
    agent.wait_for("the catalog", || Ok(agent.metric("bailiff_catalogs")? == 1))?;
    Ok(Some(Started {
        lab,
        agent,
        _stays: stays,
        _keys: keys,
    }))
}

/// What COPY gives: the contents of its messages.
fn copied(answer: &[Message]) -> Result<Vec<Vec<u8>>> {
    ensure!(answer.iter().any(|message| message.tag == b'c'), "{answer:?}");
    let data = answer.iter().filter(|message| message.tag == b'd');
    Ok(data.map(|message| message.body.clone()).collect())
}

/// Runs a statement by the extended protocol.
fn run(client: &mut Client, sql: &str) -> Result<Vec<Message>> {
    client.send(
        &[
            say::parse("", sql),
            say::bind("", ""),
            say::execute("", 0),
            say::sync(),
        ]
        .concat(),
    )?;
    client.until_ready()
}

/// Has the server read rows again.
fn read_again(direct: &mut Client, table: &str, options: &str, rows: &[Vec<u8>]) -> Result<()> {
    direct.send(&say::query(&format!("copy {table} from stdin {options}")))?;
    for row in rows {
        direct.send(&say::copy_data(row))?;
    }
    direct.send(&say::copy_done())?;
    let answer = direct.until_ready()?;
    ensure!(
        answer.iter().all(|message| message.tag != b'E'),
        "{table} {options}: {answer:?}"
    );
    Ok(())
}

fn rows(answer: &[Message]) -> Result<Vec<Vec<Option<String>>>> {
    ensure!(answer.iter().all(|message| message.tag != b'E'), "{answer:?}");
    let rows = answer.iter().filter(|message| message.tag == b'D');
    Ok(rows.map(Message::values).collect())
}

/// Blanks at the end of `char(n)` come back when it is read again.
fn trimmed(rows: Vec<Vec<Option<String>>>) -> Vec<Vec<Option<String>>> {
    let trim = |value: Option<String>| value.map(|value| value.trim_end().to_owned());
    rows.into_iter()
        .map(|row| row.into_iter().map(trim).collect())
        .collect()
}

#[test]
fn each_format_shows_what_select_shows() -> Result<()> {
    let (mut sql, masks) = types::tables(types::TYPES);
    sql.insert_str(0, types::MADE);
    let Some(started) = started(&sql, &masks)? else {
        return Ok(());
    };
    same(&started, types::TYPES)
}

#[test]
fn each_format_takes_types_apart_by_the_catalog() -> Result<()> {
    let (mut sql, masks) = types::tables(types::BY_CATALOG);
    sql.insert_str(0, types::MADE);
    let Some(started) = started(&sql, &masks)? else {
        return Ok(());
    };
    same(&started, types::BY_CATALOG)
}

fn same(started: &Started, types: &[types::Masked]) -> Result<()> {
    let Started { lab, agent, .. } = started;
    let (mut masked, mut direct) = (lab.session(agent)?, lab.direct()?);
    let mut compared = 0;
    for (table, _) in types::ACTIONS {
        let shown = trimmed(rows(&masked.ask(&format!("select * from {table}"))?)?);
        let own = trimmed(rows(&direct.ask(&format!("select * from {table}"))?)?);
        ensure!(shown.len() == 2 && shown != own, "{table}: {shown:?}");
        direct.ask(&format!("create table again (like {table})"))?;
        // A hash is as long as it is.
        for (place, (name, ..)) in types
            .iter()
            .enumerate()
            .filter(|(_, (name, ..))| name.contains("char("))
        {
            let without = if name.starts_with("var") {
                "varchar"
            } else {
                "bpchar"
            };
            direct.ask(&format!("alter table again alter c{place} type {without}"))?;
        }
        for (options, reading) in OPTIONS {
            for (from, extended) in [
                (table.to_owned(), false),
                (format!("(select * from {table})"), true),
            ] {
                let sql = format!("copy {from} to stdout {options}");
                let answer = if extended {
                    run(&mut masked, &sql)?
                } else {
                    masked.ask(&sql)?
                };
                let data = copied(&answer).with_context(|| sql.clone())?;
                let tag = answer.iter().find(|message| message.tag == b'C');
                ensure!(
                    tag.is_some_and(|tag| tag.body == b"COPY 2\0"),
                    "{sql}: {answer:?}"
                );
                read_again(&mut direct, "again", reading, &data)?;
                let again = trimmed(rows(&direct.ask("select * from again")?)?);
                ensure!(again == shown, "{sql}: {again:?}, not {shown:?}");
                direct.ask("truncate again")?;
                compared += 1;
            }
        }
        direct.ask("drop table again")?;
    }
    println!("{compared} compared");
    Ok(())
}

const PEOPLE: &str = "
    create table people(id int, ssn text, note text, twice text generated always as (ssn || ssn) stored);
    insert into people values (1, '123-45-6789', 'a@b.example'), (2, E'9,8\"7\\t6\\n5\\\\4', null), (3, null, 'x'), (4, '', ''),
        (5, '[masked]', '\\N'), (6, '\\N', 'y');
    alter table people drop column note; alter table people add note text default 'n';
    create view v as select id, ssn as shown, note from people;";

const REDACTED: &str = "  masks:\n    - columns: [public.people.ssn]\n      with: Redact\n";

/// What of a row doesn't depend on the masked value: nothing may tell more of it than that it is null, and that only where it is sure.
#[test]
fn how_a_row_is_written_tells_nothing() -> Result<()> {
    let Some(Started { lab, agent, .. }) = &started(PEOPLE, REDACTED)? else {
        return Ok(());
    };
    let mut client = lab.session(agent)?;
    let mut direct = lab.direct()?;
    for (options, null_shows) in [
        ("", true),
        ("(delimiter '-')", true),
        ("(null '123-45-6789')", false),
        ("(null '')", false),
        ("(null '[masked]')", false),
        ("(format csv)", true),
        ("(format csv, delimiter '9')", true),
        ("(format csv, delimiter '-', quote '4', escape '5')", true),
        ("(format csv, null '123-45-6789')", true),
        ("(format csv, null '[masked]', force_quote (ssn))", true),
        ("(format binary)", true),
    ] {
        let mut told = Vec::new();
        for from in ["people", "v"] {
            let column = if from == "v" { "shown" } else { "ssn" };
            for id in 1..=6 {
                let sql = format!("copy (select {column} from {from} where id = {id}) to stdout {options}");
                let sql = sql.replace("(ssn)", &format!("({column})"));
                let written = copied(&client.ask(&sql)?).with_context(|| sql.clone())?.concat();
                let own = copied(&direct.ask(&sql)?)?.concat();
                ensure!(id == 3 || own != written || id == 5, "{sql}: {own:?}");
                told.push((id, written));
            }
        }
        let sure: Vec<_> = told.iter().filter(|(id, _)| *id != 3 || !null_shows).collect();
        let first = sure.first().context("no row")?;
        ensure!(
            sure.iter().all(|(_, written)| *written == first.1),
            "{options}: {told:?}"
        );
        let null = told.iter().find(|(id, _)| *id == 3).context("no null")?;
        ensure!((null.1 != first.1) == null_shows, "{options}: {told:?}");
    }
    Ok(())
}

#[test]
fn columns_are_told_from_each_other() -> Result<()> {
    let Some(Started { lab, agent, .. }) = &started(PEOPLE, REDACTED)? else {
        return Ok(());
    };
    let mut client = lab.session(agent)?;
    for (sql, expected) in [
        // Generated columns aren't copied; what was dropped has no place.
        ("copy people to stdout", "1\t[masked]\tn\n"),
        ("copy people (note, ssn, id) to stdout", "n\t[masked]\t1\n"),
        ("copy people (id) to stdout", "1\n"),
        (
            "copy (select twice, id from people order by id) to stdout",
            "\\N\t1\n",
        ),
        (
            "copy (select *, 1 from people order by id) to stdout csv",
            "1,\"[masked]\",,n,1\n",
        ),
        (
            "copy (table v order by id) to stdout csv header",
            "id,shown,note\n",
        ),
        (
            "copy (select upper(ssn), ssn::text from people) to stdout (delimiter ',')",
            "\\N,[masked]\n",
        ),
        (
            "copy (select shown from v union all select 'x') to stdout csv",
            "\"[masked]\"\n",
        ),
        (
            "copy (update people set id = id returning ssn, id) to stdout",
            "[masked]\t1\n",
        ),
        ("copy (select from people) to stdout", "\n"),
    ] {
        let answer = client.ask(sql)?;
        let data = copied(&answer).with_context(|| sql.to_owned())?;
        let first = data.first().cloned().unwrap_or_default();
        ensure!(first == expected.as_bytes(), "{sql}: {}", first.escape_ascii());
    }
    // Each of them by itself, and what can't be told not at all.
    for sql in [
        "copy people to stdout; copy people to stdout csv",
        "copy people to stdout (encoding 'SJIS')",
        "copy people to program 'cat'",
        "copy people to '/tmp/never'",
        "copy (select ssn from people where ssn = '') to stdout",
    ] {
        let answer = client.ask(sql)?;
        let code = answer.iter().find_map(Message::sqlstate);
        ensure!(code.as_deref() == Some("42501"), "{sql}: {answer:?}");
    }
    // An error in the middle of it, and the session goes on.
    let sql = "copy (select ssn, 1 / (id - 3) from people) to stdout";
    let answer = client.ask(sql)?;
    ensure!(
        answer.iter().filter(|message| message.tag == b'd').count() == 2
            && answer
                .iter()
                .any(|message| message.sqlstate().as_deref() == Some("22012")),
        "{answer:?}"
    );
    ensure!(client.value("select count(*) from people")? == "6");
    Ok(())
}

/// Rows are kept until they are whole, up to the limit: a longer one ends the session.
#[test]
fn long_rows_are_masked_up_to_the_limit() -> Result<()> {
    let sql = "create table people(id int, ssn text, rest text);
        insert into people values (1, repeat('1', 300000), repeat('r', 300000)), (2, repeat('2', 3000000), 's')";
    let Some(Started { lab, agent, .. }) = &started_with(sql, REDACTED, &["--limit", "masked-row=1MiB"])?
    else {
        return Ok(());
    };
    for options in ["", "csv", "binary"] {
        let mut client = lab.session(agent)?;
        let answer = client.ask(&format!(
            "copy (select * from people where id = 1) to stdout {options}"
        ))?;
        let data = copied(&answer)?.concat();
        let digits = data.iter().filter(|byte| **byte == b'r').count();
        ensure!(
            digits == 300_000 && data.len() < 300_100,
            "{options}: {}",
            data.len()
        );
    }
    for options in ["", "csv", "binary"] {
        let mut client = lab.session(agent)?;
        client.send(&say::query(&format!("copy people to stdout {options}")))?;
        let told = client.rest()?;
        ensure!(
            told.iter().all(|message| message.tag != b'Z'),
            "{options}: {told:?}"
        );
        let data: Vec<u8> = told
            .iter()
            .filter(|message| message.tag == b'd')
            .flat_map(|message| message.body.clone())
            .collect();
        ensure!(
            data.len() > 300_000 && !data.contains(&b'2'),
            "{options}: {}",
            data.len()
        );
    }
    Ok(())
}

/// The record has the rows as the client saw them.
#[test]
fn the_record_shows_masked_rows() -> Result<()> {
    let rules = format!("{REDACTED}  recording: Results\n");
    let Some(Started {
        lab,
        agent,
        _stays,
        _keys,
    }) = started(PEOPLE, &rules)?
    else {
        return Ok(());
    };
    let sql = "copy (select id, ssn from people where id < 4 order by id) to stdout";
    let mut client = lab.session(&agent)?;
    copied(&client.ask(sql)?)?;
    drop((client, _stays));
    agent.stop()?;
    let operations = lab.enforced.operations()?;
    let told = operations.iter().map(ToString::to_string).collect::<String>();
    ensure!(
        told.contains(r#"{"copy":["1\t[masked]\n","2\t[masked]\n","3\t\\N\n"]}"#),
        "{told}"
    );
    ensure!(!told.contains("123-45") && !told.contains("9,8"), "{told}");
    Ok(())
}

/// Without a catalog nothing tells the columns.
#[test]
fn without_a_catalog_it_is_refused() -> Result<()> {
    let Some(lab) = Lab::new(
        &format!("{ALLOW_ALL}{REDACTED}"),
        "  plainRelations: [\"public.*\"]\n",
    )?
    else {
        return Ok(());
    };
    lab.server.sql(PEOPLE)?;
    let agent = lab.start()?;
    let mut client = lab.session(&agent)?;
    let answer = client.ask("copy people to stdout")?;
    ensure!(
        answer
            .iter()
            .any(|message| message.sqlstate().as_deref() == Some("42501")),
        "{answer:?}"
    );
    let answer = client.ask("copy (select 1) to stdout")?;
    ensure!(copied(&answer)? == [b"1\n"], "{answer:?}");
    // With the masks gone the same session copies all.
    lab.change(&agent, "policy.yaml", &policy(ALLOW_ALL))?;
    let answer = client.ask("copy (select ssn from people where id = 1) to stdout")?;
    match copied(&answer)?.as_slice() {
        [row] if row == b"123-45-6789\n" => Ok(()),
        other => bail!("{other:?}"),
    }
}
