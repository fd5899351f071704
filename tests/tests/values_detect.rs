//! Detectors in force: what they find is masked wherever values come out, in each format.

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{ALLOW_ALL, Client, Lab, Message, Running, message, say};

const DETECT: &str = "  detect:
    - find: [Email, Phone]
      with: Redact
    - find: [PaymentCard]
      with: {KeepLast: 4}
    - find: [UsSsn]
      with: Redact
      whole: true
    - find: [Iban]
      with: \"Null\"
    - find: [Jwt, PrivateKey, CloudKey]
      with: {Hash: {keyFile: KEY}}
";

/// A type, a value of it and what is shown of that; `-` is null.
type Shown = (&'static str, &'static str, &'static str);

const VALUES: &[Shown] = &[
    ("text", "mail ann@corp.example now", "mail [masked] now"),
    (
        "varchar(40)",
        "ann@corp.example, bob@corp.example",
        "[masked], [masked]",
    ),
    ("char(30)", "ann@corp.example", "[masked]"),
    ("name", "ann@corp.example", "[masked]"),
    ("text", "card 4111 1111 1111 1111.", "card ****1111."),
    (
        "text",
        "ann@corp.example has 4111111111111111",
        "[masked] has ****1111",
    ),
    ("text", "her ssn is 536-22-8726, see ann@corp.example", "[masked]"),
    ("text", "pay to DE89370400440532013000", "-"),
    ("text", "call +49 30 901820", "call [masked]"),
    ("text", "nothing of it", "nothing of it"),
    (
        "xml",
        "<m a=\"1\">ann@corp.example</m>",
        "<m a=\"1\">[masked]</m>",
    ),
    (
        "json",
        r#"{"m": "ann@corp.example", "c":4111111111111111, "bob@corp.example": [1, true,null]}"#,
        r#"{"m": "[masked]", "c":"****1111", "[masked]": [1, true,null]}"#,
    ),
    ("json", r#"{ "a" : 1 }"#, r#"{ "a" : 1 }"#),
    (
        "jsonb",
        r#"{"m": "ann\u0040corp.example"}"#,
        r#"{"m": "[masked]"}"#,
    ),
    ("jsonb", r#"["DE89370400440532013000"]"#, "-"),
    ("text[]", "{ann@corp.example,x,NULL}", "{[masked],x,NULL}"),
    ("text[]", "{{a,b},{c,4111111111111111}}", "{{a,b},{c,****1111}}"),
    (
        "jsonb[]",
        r#"{"{\"m\": \"ann@corp.example\"}"}"#,
        r#"{"{\"m\": \"[masked]\"}"}"#,
    ),
    (
        "bytea",
        "\\x616e6e40636f72702e6578616d706c65",
        "\\x5b6d61736b65645d",
    ),
    ("bytea", "\\x00ff", "\\x00ff"),
    ("int8", "4111111111111111", "-"),
    ("int8", "4111111111111112", "4111111111111112"),
    ("int8[]", "{4111111111111111,7}", "{NULL,7}"),
    ("numeric", "4111111111111111", "-"),
    ("numeric", "12.50", "12.50"),
    ("int4", "1234567890", "1234567890"),
    (
        "uuid",
        "550e8400-e29b-41d4-a716-446655440000",
        "550e8400-e29b-41d4-a716-446655440000",
    ),
    ("date", "2024-02-29", "2024-02-29"),
    ("tsvector", "'ann@corp.example':1", "-"),
    ("tsvector", "'ann':1", "'ann':1"),
    // Of what isn't the server's own nothing is known without a catalog.
    ("pair", "(1,ann@corp.example)", "-"),
    ("pair", "(1,ann)", "(1,ann)"),
    ("label", "ann@corp.example", "[masked]"),
    ("words", "[ann@corp.example,b@corp.example]", "-"),
];

const MADE: &str = "create type pair as (a int, b text); create domain label as text; create type words as range (subtype = text);";

struct Started {
    lab: Lab,
    agent: Running,
    _keys: tempfile::TempDir,
}

fn started(sql: &str, detect: &str) -> Result<Option<Started>> {
    let keys = tempfile::tempdir()?;
    let key = keys.path().join("key");
    std::fs::write(&key, b"0123456789abcdef0123456789abcdef")?;
    let rules = format!("{ALLOW_ALL}{detect}").replace("KEY", &key.display().to_string());
    let Some(lab) = Lab::new(&rules, "  plainRelations: [\"public.*\"]\n")? else {
        return Ok(None);
    };
    lab.server.sql(sql)?;
    let agent = lab.start()?;
    Ok(Some(Started {
        lab,
        agent,
        _keys: keys,
    }))
}

/// Runs a query whose results come in a format, with a parameter in that format.
fn ask(client: &mut Client, sql: &str, parameter: Option<&[u8]>, format: u16) -> Result<Vec<Message>> {
    let mut bind = b"\0\0\0\x01".to_vec();
    bind.extend_from_slice(&format.to_be_bytes());
    bind.extend_from_slice(&u16::from(parameter.is_some()).to_be_bytes());
    if let Some(value) = parameter {
        bind.extend_from_slice(&u32::try_from(value.len())?.to_be_bytes());
        bind.extend_from_slice(value);
    }
    let result = if parameter.is_some() { 0 } else { format };
    bind.extend_from_slice(b"\0\x01");
    bind.extend_from_slice(&result.to_be_bytes());
    let all = [
        say::parse("", sql),
        message(b'B', &bind),
        say::execute("", 0),
        say::sync(),
    ];
    client.send(&all.concat())?;
    client.until_ready()
}

/// The first column of the first row, as bytes.
fn first(answer: &[Message]) -> Result<Option<Vec<u8>>> {
    let row = answer.iter().find(|message| message.tag == b'D');
    let row = row.with_context(|| format!("{answer:?}"))?;
    let (length, value) = row
        .body
        .get(2..)
        .and_then(|rest| rest.split_first_chunk())
        .context("cut")?;
    let length = usize::try_from(i32::from_be_bytes(*length)).ok();
    Ok(length.and_then(|length| value.get(..length)).map(<[u8]>::to_vec))
}

fn copied(answer: &[Message]) -> Result<Vec<Vec<u8>>> {
    ensure!(answer.iter().any(|message| message.tag == b'c'), "{answer:?}");
    let data = answer.iter().filter(|message| message.tag == b'd');
    Ok(data.map(|message| message.body.clone()).collect())
}

#[test]
fn what_is_found_is_masked_in_each_type_and_format() -> Result<()> {
    let columns = |write: &dyn Fn(usize, &Shown) -> String| {
        let written: Vec<String> = VALUES
            .iter()
            .enumerate()
            .map(|(place, value)| write(place, value))
            .collect();
        written.join(", ")
    };
    let definitions = columns(&|place, (name, ..)| format!("c{place} {name}"));
    let values = columns(&|_, (name, value, _)| format!("$v${value}$v$::{name}"));
    let sql = format!("{MADE} create table t ({definitions}); insert into t values ({values})");
    let Some(Started { lab, agent, _keys }) = &started(&sql, DETECT)? else {
        return Ok(());
    };
    let (mut client, mut direct) = (lab.session(agent)?, lab.direct()?);
    let mut failed = Vec::new();
    for (place, (name, value, expected)) in VALUES.iter().enumerate() {
        let sql = format!("select c{place} from t");
        for format in [0, 1] {
            let shown = match first(&ask(&mut client, &sql, None, format)?)? {
                None => "-".to_owned(),
                // The server takes it for a value of the type.
                Some(value) => {
                    let cast = format!("select ($1::{name})::text");
                    let text = first(&ask(&mut direct, &cast, Some(&value), format)?)?;
                    String::from_utf8(text.context("null")?)?
                }
            };
            if shown.trim_end() != *expected {
                failed.push(format!("{name} {value}, format {format}: {shown}"));
            }
        }
        let simple = client.ask(&sql)?;
        let simple = first(&simple)?.map_or_else(
            || "-".to_owned(),
            |value| String::from_utf8_lossy(&value).into_owned(),
        );
        if simple.trim_end() != *expected {
            failed.push(format!("{name} {value}, simple: {simple}"));
        }
        // COPY tells no types: in text all are texts, in binary what is found makes the value null.
        for options in ["", "csv", "binary"] {
            let data = copied(&client.ask(&format!("copy (select c{place} from t) to stdout {options}"))?)?;
            let own = copied(&direct.ask(&format!("copy (select c{place} from t) to stdout {options}"))?)?;
            let shown = format!("{:?}", data.concat().escape_ascii().to_string());
            let finds = *value != *expected;
            if (data != own) != finds
                || ["corp", "4111111111111111", "536-22", "DE89", "901820"]
                    .iter()
                    .any(|part| finds && shown.contains(part))
            {
                failed.push(format!("{name} {value}, copy {options}: {shown}"));
            }
        }
    }
    ensure!(failed.is_empty(), "{failed:#?}");
    Ok(())
}

/// All ways on which a text comes out show the same of it, over the whole labelled set.
#[test]
fn all_ways_agree_over_the_labelled_set() -> Result<()> {
    let mut values = Vec::new();
    let mut labelled = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/detectors"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        for line in std::fs::read_to_string(&path)?.lines() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            labelled += usize::from(line.contains('«'));
            values.push(line.replace(['«', '»'], "").replace("\\n", "\n"));
        }
    }
    ensure!(values.len() > 500 && labelled > 200, "{} values", values.len());
    let detect = "  detect:
    - find: [Email, PaymentCard, UsSsn, Iban, Phone, Jwt, PrivateKey, CloudKey]
      with: Redact
";
    let Some(Started { lab, agent, _keys }) =
        &started("create table t(id serial primary key, v text)", detect)?
    else {
        return Ok(());
    };
    let (mut client, mut direct) = (lab.session(agent)?, lab.direct()?);
    for value in &values {
        let insert = ask(
            &mut direct,
            "insert into t(v) values ($1)",
            Some(value.as_bytes()),
            0,
        )?;
        ensure!(insert.iter().all(|message| message.tag != b'E'), "{insert:?}");
    }
    direct.ask("create table again(v text)")?;
    let column = |answer: &[Message]| -> Vec<Option<String>> {
        let rows = answer.iter().filter(|message| message.tag == b'D');
        rows.map(|row| row.values().into_iter().next().flatten())
            .collect()
    };
    let own = column(&direct.ask("select v from t order by id")?);
    let shown = column(&client.ask("select v from t order by id")?);
    ensure!(own.len() == values.len() && shown.len() == own.len());
    let masked = shown.iter().zip(&own).filter(|(shown, own)| shown != own).count();
    println!("{masked} of {} are masked, {labelled} labelled", own.len());
    ensure!(masked * 10 > labelled * 9, "{masked} of {labelled}");
    let binary = ask(&mut client, "select v from t order by id", None, 1)?;
    ensure!(column(&binary) == shown, "in binary");
    client.ask("begin")?;
    client.ask("declare c cursor for select v from t order by id")?;
    ensure!(column(&client.ask("fetch all c")?) == shown, "by a cursor");
    client.ask("commit")?;
    for options in ["", "(delimiter '@')", "csv", "csv delimiter '4' quote '-'"] {
        let data = copied(&client.ask(&format!("copy (select v from t order by id) to stdout {options}"))?)?;
        direct.send(&say::query(&format!("copy again from stdin {options}")))?;
        for row in &data {
            direct.send(&say::copy_data(row))?;
        }
        direct.send(&say::copy_done())?;
        let read = direct.until_ready()?;
        ensure!(
            read.iter().all(|message| message.tag != b'E'),
            "{options}: {read:?}"
        );
        ensure!(
            column(&direct.ask("select v from again order by ctid")?) == shown,
            "copy {options}"
        );
        direct.ask("truncate again")?;
    }
    // In an array and in JSON a value is its own.
    let array = first(&client.ask("select array_agg(v order by id) from t")?)?.context("null")?;
    let apart = ask(&mut direct, "select unnest($1::text[])", Some(&array), 0)?;
    ensure!(column(&apart) == shown, "in an array");
    let json = first(&client.ask("select json_agg(v order by id) from t")?)?.context("null")?;
    let apart = ask(
        &mut direct,
        "select json_array_elements_text($1::json)",
        Some(&json),
        0,
    )?;
    ensure!(column(&apart) == shown, "in JSON");
    Ok(())
}

#[test]
fn other_ways_out_are_looked_at_or_closed() -> Result<()> {
    let sql = "create table t(id int primary key, v text unique); insert into t values (1, 'ann@corp.example'), (2, 'x');
        create function noticed() returns int language plpgsql as
            'begin raise notice ''saw %'', (select v from t where id = 1); return 1; end'";
    let Some(Started { lab, agent, _keys }) = &started(sql, DETECT)? else {
        return Ok(());
    };
    let mut client = lab.session(agent)?;
    for (sql, expected) in [
        ("select v::int from t where id = 1", "[masked]"),
        ("insert into t values (3, 'ann@corp.example')", "[masked]"),
        ("select noticed()", "saw [masked]"),
        ("select row(1, v) from t where id = 1", "(1,[masked])"),
        ("select t from t where id = 1", ""),
        ("update t set id = 1 where id = 1 returning v", "[masked]"),
        ("select 'ann@corp.example' from generate_series(1, 2)", "[masked]"),
        ("explain (verbose) select 'ann@corp.example'::text", "[masked]"),
    ] {
        let answer = client.ask(sql)?;
        let told = answer
            .iter()
            .map(|message| String::from_utf8_lossy(&message.body))
            .collect::<String>();
        ensure!(
            told.contains(expected) && !told.contains("corp"),
            "{sql}: {answer:?}"
        );
    }
    // What the server says of settings, and other sessions of themselves.
    client.ask("listen c")?;
    for sql in [
        "select set_config('application_name', v, false) from t where id = 1",
        "select pg_notify('c', 'of ' || v) from t where id = 1",
    ] {
        let answer = client.ask(sql)?;
        let told = answer
            .iter()
            .map(|message| String::from_utf8_lossy(&message.body))
            .collect::<String>();
        let reports = answer.iter().any(|message| matches!(message.tag, b'S' | b'A'));
        ensure!(
            reports && told.contains("[masked]") && !told.contains("corp"),
            "{sql}: {answer:?}"
        );
    }
    // The answer of a function call by its number tells no type.
    let oid: u32 = lab
        .server
        .sql("select 'upper(text)'::regprocedure::oid::int")?
        .trim()
        .parse()?;
    client.send(&say::function_call_with(oid, &[b"ann@corp.example"]))?;
    let told = format!("{:?}", client.until_ready()?);
    ensure!(!told.contains("CORP"), "{told}");
    let masked = agent.metric("bailiff_masked_values_total")?;
    ensure!(masked >= 4, "{masked}");
    Ok(())
}

#[test]
fn relations_say_where_to_look() -> Result<()> {
    let sql = "create schema crm; create table crm.t(v text); insert into crm.t values ('ann@corp.example'); create table plain(v text);
        insert into plain values ('ann@corp.example'); create view seen as select v from crm.t";
    let detect = "  detect:\n    - find: [Email]\n      with: Redact\n      relations: [\"crm.*\"]\n";
    let Some(Started { lab, agent, _keys }) = &started(sql, detect)? else {
        return Ok(());
    };
    let mut client = lab.session(agent)?;
    for (sql, expected) in [
        ("select v from crm.t", "[masked]"),
        ("select p.v from public.plain p", "ann@corp.example"),
        ("select p.v from public.plain p, crm.t", "[masked]"),
        ("select crm.t.v from crm.t", "[masked]"),
        // It names no schema, and a name may be any schema's.
        ("select v from plain", "[masked]"),
    ] {
        let shown = client.value(sql)?;
        ensure!(shown == expected, "{sql}: {shown}");
    }
    let copied = copied(&client.ask("copy public.plain to stdout")?)?.concat();
    ensure!(copied == b"ann@corp.example\n", "{copied:?}");
    Ok(())
}
