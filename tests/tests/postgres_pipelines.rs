//! A statement that policy refuses is answered, message by message, as one that the server itself refuses at the same place.
//!
//! Each exchange is carried out twice: directly, by a role that has no right to the schema `closed`, and through the agent, by a
//! role that has, where policy closes it. But for the error's words both sides must read the same, and leave the same behind. The right to a
//! schema is asked for when a statement is parsed, which is where policy refuses it.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{ALLOW_ALL, Client, Lab, Message, check, say};
use serde_json::Value;

const CLOSED: &str = "    - name: closed
      effects: [read, insert, update, delete, copy]
      relations: [closed.*]
      action: Deny
";

const BLOCKED: &str = "delete from closed.t";

fn lab() -> Result<Option<Lab>> {
    let Some(lab) = Lab::new(&format!("{ALLOW_ALL}{CLOSED}"), "")? else {
        return Ok(None);
    };
    lab.server.sql(
        "create table kept(it int);
         create schema closed; create table closed.t(it int); insert into closed.t values (1);
         create role limited login; create role trusted login;
         grant all on kept to limited, trusted; grant usage on schema closed to trusted; grant all on closed.t to trusted",
    )?;
    Ok(Some(lab))
}

/// What is sent, and up to which message of the server is read before the next is.
type Step = (Vec<u8>, u8);

fn ready(messages: &[Vec<u8>]) -> Step {
    (messages.concat(), b'Z')
}

fn keep(it: u32) -> Vec<u8> {
    say::run(&format!("insert into public.kept values ({it})"))
}

fn blocked() -> Vec<u8> {
    say::run(BLOCKED)
}

/// Messages with errors reduced to what programs go by: severity and code.
fn carry_out(client: &mut Client, steps: &[Step]) -> Result<Vec<Message>> {
    let mut heard = Vec::new();
    for (bytes, last) in steps {
        client.send(bytes)?;
        heard.extend(client.until(*last)?);
    }
    for message in &mut heard {
        if message.tag == b'E' {
            let fields = [b'S', b'V', b'C'].map(|code| message.field(code).unwrap_or_default());
            message.body = fields.join(" ").into_bytes();
        }
    }
    Ok(heard)
}

/// The rows that an exchange left behind, which are removed.
fn left(lab: &Lab) -> Result<String> {
    lab.server.sql(
        "with gone as (delete from public.kept returning it) select coalesce(string_agg(it::text, ' ' order by it), '') from gone",
    )
}

fn exchanges() -> Vec<(&'static str, Vec<Step>)> {
    let select = "select n from generate_series(1, 5) n";
    vec![
        (
            "in the middle of a pipeline",
            vec![ready(&[keep(1), blocked(), keep(2), say::sync()])],
        ),
        (
            "several parts in one write",
            vec![
                ready(&[
                    keep(1),
                    say::sync(),
                    blocked(),
                    say::sync(),
                    keep(2),
                    say::sync(),
                    keep(3),
                    blocked(),
                    say::sync(),
                ]),
                ready(&[]),
                ready(&[]),
                ready(&[]),
            ],
        ),
        (
            "with Flush",
            vec![
                ([keep(1), say::flush()].concat(), b'C'),
                ([say::parse("", BLOCKED), say::flush()].concat(), b'E'),
                ready(&[
                    say::bind("", ""),
                    say::flush(),
                    keep(2),
                    say::flush(),
                    say::sync(),
                ]),
            ],
        ),
        (
            "in a transaction",
            vec![
                ready(&[say::query("begin")]),
                ready(&[keep(1), blocked(), keep(2), say::sync()]),
                ready(&[keep(3), say::sync()]),
                ready(&[blocked(), say::sync()]),
                ready(&[say::query(BLOCKED)]),
                ready(&[say::query("select 1")]),
                ready(&[say::query("commit")]),
                ready(&[say::query(BLOCKED)]),
                ready(&[keep(4), say::sync()]),
            ],
        ),
        (
            "after a savepoint",
            vec![
                ready(&[say::query("begin")]),
                ready(&[keep(1), say::run("savepoint here"), say::sync()]),
                ready(&[keep(2), blocked(), say::sync()]),
                ready(&[say::query("rollback to here")]),
                ready(&[keep(3), say::run("commit"), say::sync()]),
            ],
        ),
        (
            "beside Describe and Close, and a portal that is suspended",
            vec![
                ready(&[
                    say::parse("s", select),
                    say::describe('S', "s"),
                    say::bind("p", "s"),
                    say::describe('P', "p"),
                    say::execute("p", 2),
                    say::parse("x", BLOCKED),
                    say::describe('S', "x"),
                    say::close('S', "s"),
                    say::execute("p", 2),
                    say::sync(),
                ]),
                ready(&[say::execute("p", 2), say::sync()]),
                ready(&[say::bind("", "s"), say::execute("", 0), say::sync()]),
                ready(&[say::bind("", "x"), say::sync()]),
                ready(&[say::close('S', "x"), say::close('P', "p"), say::sync()]),
            ],
        ),
        (
            "between two parts of a suspended portal in a transaction",
            vec![
                ready(&[say::query("begin")]),
                ready(&[
                    say::parse("s", select),
                    say::bind("p", "s"),
                    say::execute("p", 2),
                    say::sync(),
                ]),
                ready(&[
                    say::execute("p", 2),
                    say::describe('P', "p"),
                    blocked(),
                    say::execute("p", 2),
                    say::sync(),
                ]),
                ready(&[say::execute("p", 2), say::sync()]),
                ready(&[say::query("rollback")]),
                ready(&[say::execute("p", 2), say::sync()]),
            ],
        ),
        (
            "the statement without a name before it and after it",
            vec![
                ready(&[say::parse("", select), say::sync()]),
                ready(&[say::parse("", BLOCKED), say::sync()]),
                ready(&[
                    say::parse("", select),
                    say::bind("", ""),
                    say::execute("", 0),
                    say::sync(),
                ]),
            ],
        ),
        (
            "simple queries between the messages of the extended protocol",
            vec![
                ready(&[keep(1), say::query(BLOCKED)]),
                ready(&[keep(2), say::query("insert into public.kept values (3)")]),
                ready(&[
                    keep(4),
                    blocked(),
                    say::query("insert into public.kept values (5)"),
                    say::sync(),
                ]),
            ],
        ),
        (
            "COPY from the client",
            vec![
                (say::query("copy public.kept from stdin"), b'G'),
                ready(&[say::copy_data(b"1\n"), say::copy_done()]),
                ready(&[say::query("copy closed.t from stdin")]),
                // Nobody waits for these any more.
                ready(&[
                    say::copy_data(b"2\n"),
                    say::copy_done(),
                    say::query("select 'after'"),
                ]),
                (
                    [say::run("copy public.kept from stdin"), say::sync()].concat(),
                    b'G',
                ),
                ready(&[say::copy_data(b"3\n"), say::copy_done(), say::sync()]),
                (say::query("copy public.kept from stdin"), b'G'),
                ready(&[say::copy_data(b"5\n"), say::copy_fail("no more")]),
            ],
        ),
        (
            "COPY from the client, all in one write",
            vec![
                ready(&[
                    say::run("copy public.kept from stdin"),
                    say::copy_data(b"1\n"),
                    say::sync(), // COPY ignores it.
                    say::copy_data(b"2\n"),
                    say::copy_done(),
                    keep(3),
                    say::sync(),
                    say::run("copy public.kept from stdin"),
                    say::copy_data(b"4\n"),
                    say::copy_done(),
                    blocked(),
                    keep(5),
                    say::sync(),
                    keep(6),
                    say::sync(),
                ]),
                ready(&[]),
                ready(&[]),
            ],
        ),
        (
            "a blocked statement while COPY waits for data",
            vec![
                (say::query("copy public.kept from stdin"), b'G'),
                ready(&[say::copy_data(b"1\n"), say::query(BLOCKED)]),
                ready(&[say::query("select 'after'")]),
            ],
        ),
        (
            "COPY to the client",
            vec![
                ready(&[
                    keep(1),
                    say::run("copy public.kept to stdout"),
                    blocked(),
                    keep(2),
                    say::sync(),
                ]),
                ready(&[say::query("copy closed.t to stdout")]),
                ready(&[say::query("copy (select 7) to stdout")]),
            ],
        ),
    ]
}

#[test]
fn refusals_read_as_the_servers_own() -> Result<()> {
    let Some(lab) = lab()? else {
        return Ok(());
    };
    let agent = lab.start()?;
    for (name, steps) in exchanges() {
        let mut direct = lab.direct_as("limited")?;
        let expected = carry_out(&mut direct, &steps).context(name)?;
        let expected_left = left(&lab)?;
        let mut client = lab.session_as(&agent, "trusted")?;
        let heard = carry_out(&mut client, &steps).with_context(|| format!("{name}: {}", agent.log()))?;
        ensure!(heard == expected, "{name}:\n{heard:?}\nrather than\n{expected:?}");
        let left = left(&lab)?;
        ensure!(
            left == expected_left,
            "{name}: {left} rather than {expected_left}"
        );
        // A query amid COPY data ends a session.
        let goes_on = |client: &mut Client| client.value("select 41 + 1").is_ok();
        ensure!(
            goes_on(&mut client) == goes_on(&mut direct),
            "{name}: {}",
            agent.log()
        );
    }
    ensure!(lab.server.sql("select count(*) from closed.t")? == "1");
    Ok(())
}

/// Of several statements in one text none runs where one is refused, as where one can't be parsed.
#[test]
fn several_statements_in_one_text() -> Result<()> {
    let Some(lab) = lab()? else {
        return Ok(());
    };
    let agent = lab.start()?;
    let mut client = lab.session_as(&agent, "trusted")?;
    let mut direct = lab.direct_as("limited")?;
    let text = |middle: &str| {
        format!("insert into public.kept values (1); {middle}; insert into public.kept values (2)")
    };
    for begin in ["select 1", "begin"] {
        let of = |client: &mut Client, middle: &str| {
            let steps =
                [begin, &text(middle), "select 2", "rollback", "select 3"].map(|sql| (say::query(sql), b'Z'));
            carry_out(client, &steps)
        };
        let mut expected = of(&mut direct, "delete of closed.t")?;
        for error in expected.iter_mut().filter(|message| message.tag == b'E') {
            error.body = String::from_utf8_lossy(&error.body)
                .replace("42601", "42501")
                .into_bytes();
        }
        let heard = of(&mut client, BLOCKED)?;
        ensure!(heard == expected, "{heard:?}\nrather than\n{expected:?}");
        ensure!(left(&lab)?.is_empty());
    }
    Ok(())
}

/// Refused only when it runs, since the policy changed after it was prepared: as where a right was taken away.
#[test]
fn what_was_prepared_before_is_refused_when_it_runs() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    lab.server.sql(
        "create table kept(it int); create schema closed; create table closed.t(it int);
         create role limited login; create role trusted login;
         grant all on kept to limited, trusted; grant usage on schema closed to limited, trusted;
         grant all on closed.t to limited, trusted",
    )?;
    let agent = lab.start()?;
    let mut direct = lab.direct_as("limited")?;
    let mut client = lab.session_as(&agent, "trusted")?;
    let prepare = [ready(&[
        say::parse("x", BLOCKED),
        say::parse("", BLOCKED),
        say::sync(),
    ])];
    let run = [
        ready(&[
            keep(1),
            say::bind("", "x"),
            say::describe('P', ""),
            say::execute("", 0),
            keep(2),
            say::sync(),
        ]),
        ready(&[say::query("begin")]),
        ready(&[
            keep(3),
            say::bind("", "x"),
            say::execute("", 0),
            say::describe('P', ""),
            say::sync(),
        ]),
        ready(&[say::bind("", "x"), say::execute("", 0), say::sync()]),
        ready(&[say::query("rollback")]),
        ready(&[keep(4), say::sync()]),
    ];
    carry_out(&mut direct, &prepare)?;
    carry_out(&mut client, &prepare)?;
    lab.server.sql("revoke all on closed.t from limited")?;
    lab.change_rules(&agent, &format!("{ALLOW_ALL}{CLOSED}"))?;
    let expected = carry_out(&mut direct, &run)?;
    let expected_left = left(&lab)?;
    let heard = carry_out(&mut client, &run)?;
    ensure!(heard == expected, "{heard:?}\nrather than\n{expected:?}");
    ensure!(left(&lab)? == expected_left && expected_left == "4");
    Ok(())
}

/// libpq's own pipeline mode: statuses of results, errors' codes and the state of the transaction.
const LIBPQ: &str = r#"
import ctypes, sys
pq = ctypes.CDLL("libpq.so.5")
for name in ("PQconnectdb", "PQgetResult"): getattr(pq, name).restype = ctypes.c_void_p
for name in ("PQerrorMessage", "PQresultErrorField", "PQcmdTuples"): getattr(pq, name).restype = ctypes.c_char_p
db = ctypes.c_void_p(pq.PQconnectdb(f"host={sys.argv[1]} user={sys.argv[2]} dbname=postgres sslmode=disable".encode()))
assert pq.PQstatus(db) == 0, pq.PQerrorMessage(db)
assert pq.PQenterPipelineMode(db) == 1
def send(sql): assert pq.PQsendQueryParams(db, sql.encode(), 0, None, None, None, None, 0) == 1, pq.PQerrorMessage(db)
def results():
    none = 0
    while True:
        result = pq.PQgetResult(db)
        if not result:
            none += 1
            if none == 2: break
            continue
        none = 0
        result = ctypes.c_void_p(result)
        status = pq.PQresultStatus(result)
        print(status, pq.PQresultErrorField(result, ord("C")), pq.PQcmdTuples(result), pq.PQtransactionStatus(db))
        pq.PQclear(result)
        if status == 10: break
for part in [["insert into public.kept values (1)", "delete from closed.t", "insert into public.kept values (2)"], ["insert into public.kept values (3)"],
        ["begin", "insert into public.kept values (4)", "delete from closed.t", "commit"], ["insert into public.kept values (5)"],
        ["rollback", "insert into public.kept values (6)"]]:
    for sql in part: send(sql)
    assert pq.PQpipelineSync(db) == 1
for part in range(5): results()
print(pq.PQexitPipelineMode(db))
"#;

#[test]
fn libpqs_pipeline_mode() -> Result<()> {
    let Some(lab) = lab()? else {
        return Ok(());
    };
    let address = lab.server.address();
    let direct = check(Command::new("python3").args(["-c", LIBPQ, address, "limited"]))?;
    let expected_left = left(&lab)?;
    let through = check(&mut lab.enforced.run(&["python3", "-c", LIBPQ, address, "trusted"])?)?;
    let (expected, heard) = (
        String::from_utf8_lossy(&direct.stdout).into_owned(),
        String::from_utf8_lossy(&through.stdout).into_owned(),
    );
    ensure!(expected.matches("42501").count() == 2, "{expected}");
    ensure!(heard == expected, "{heard}\nrather than\n{expected}");
    ensure!(
        left(&lab)? == expected_left && expected_left == "3 6",
        "{expected_left}"
    );
    Ok(())
}

/// Every operation stands in the record once, in order, with its own verdict, rows and error.
#[test]
fn the_record_of_a_pipeline() -> Result<()> {
    let Some(lab) = lab()? else {
        return Ok(());
    };
    let agent = lab.start()?;
    let mut client = lab.session_as(&agent, "trusted")?;
    // What fails has to wait, so that what comes behind it is under way by then.
    lab.server
        .sql("create table gate as select 0 as it; grant all on gate to trusted")?;
    let mut gate = lab.direct()?;
    gate.ask("begin; lock table gate")?;
    let messages = [
        say::run("insert into public.kept values (1), (2)"),
        say::run("select it from public.kept"),
        say::parse("s", "select n from generate_series(1, 5) n"),
        say::bind("p", "s"),
        say::execute("p", 2),
        say::execute("p", 0),
        say::sync(),
        say::run("update public.kept set it = 3"),
        blocked(),
        keep(7),
        say::sync(),
        say::run("select 1 / it from public.gate"),
        keep(8),
        say::run("select it from public.kept"),
        say::sync(),
        say::query("delete from public.kept where it = 1"),
        say::query(BLOCKED),
    ];
    client.send(&messages.concat())?;
    agent.wait_for("all decided", || {
        let metrics = agent.metrics()?;
        let decided = metrics
            .lines()
            .filter(|line| line.starts_with("bailiff_operations_total"))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        Ok(decided.sum::<u64>() == 11)
    })?;
    gate.ask("rollback")?;
    for _ in 0..5 {
        client.until_ready()?;
    }
    drop(client);
    let series = "select n from generate_series(1, 5) n";
    // Text, verdict, rows, error, and whether the server skipped it.
    let expected = [
        ("insert into public.kept values (1), (2)", "allow", 2, "", false),
        ("select it from public.kept", "allow", 2, "", false),
        (series, "allow", 2, "", false),
        (series, "allow", 3, "", false),
        ("update public.kept set it = 3", "allow", 2, "", false),
        (BLOCKED, "deny", 0, "42501", false),
        ("select 1 / it from public.gate", "allow", 0, "22012", false),
        ("insert into public.kept values (8)", "allow", 0, "", true),
        ("select it from public.kept", "allow", 0, "", true),
        ("delete from public.kept where it = 1", "allow", 1, "", false),
        (BLOCKED, "deny", 0, "42501", false),
    ];
    agent.wait_for("the session's end in the record", || {
        Ok(lab
            .enforced
            .events()?
            .iter()
            .any(|event| event.pointer("/unmapped/event").and_then(Value::as_str) == Some("session_end")))
    })?;
    let operations = lab.enforced.operations()?;
    let text = |operation: &Value, place: &str| {
        let text = operation.pointer(place).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let number = |operation: &Value, place: &str| operation.pointer(place).and_then(Value::as_u64);
    let found: Vec<_> = operations
        .iter()
        .map(|operation| {
            (
                text(operation, "/query_info/query_string"),
                text(operation, "/unmapped/verdict"),
                number(operation, "/unmapped/rows"),
                text(operation, "/status_code"),
                text(operation, "/status_detail").contains("skipped"),
            )
        })
        .collect();
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(sql, verdict, rows, code, skipped)| {
            (
                sql.to_owned(),
                verdict.to_owned(),
                Some(rows),
                code.to_owned(),
                skipped,
            )
        })
        .collect();
    ensure!(found == expected, "{found:#?}");
    // 1 is success, 2 failure.
    let statuses: Vec<_> = operations
        .iter()
        .filter_map(|operation| number(operation, "/status_id"))
        .collect();
    ensure!(statuses == [1, 1, 1, 1, 1, 2, 2, 2, 2, 1, 2], "{statuses:?}");
    let numbers: Vec<_> = operations
        .iter()
        .filter_map(|operation| number(operation, "/unmapped/number"))
        .collect();
    ensure!(numbers == (1..=11).collect::<Vec<u64>>(), "{numbers:?}");
    Ok(())
}
