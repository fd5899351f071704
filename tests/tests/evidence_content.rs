//! What the record has of values and answers where policy asks for them: each type in both formats, digests that can be computed
//! again from what the client got, rows as the client saw them, and what is left out is told.

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{
    ALLOW_ALL, Client, Enforced, Message, Postgres, can_be_root, message, policy, say, target,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// An agent in front of a server, with a policy that allows everything and records as told.
fn recording(server: &Postgres, more: &str) -> Result<Enforced> {
    Enforced::with(&[
        ("target.yaml", &target(server.address(), "")),
        ("policy.yaml", &policy(&format!("{ALLOW_ALL}{more}"))),
    ])
}

/// A session's messages, what the record has of its operations, in order.
fn recorded(
    server: &Postgres,
    enforced: &Enforced,
    work: impl FnOnce(&mut Client) -> Result<()>,
) -> Result<Vec<Value>> {
    let agent = enforced.start()?;
    let mut client = Client::started(agent.dial(server.address(), Postgres::PORT)?)?;
    work(&mut client)?;
    drop(client);
    agent.stop()?;
    enforced.operations()
}

fn of<'a>(operations: &'a [Value], text: &str) -> Result<Vec<&'a Value>> {
    let found: Vec<_> = operations
        .iter()
        .filter(|operation| at(operation, "/query_info/query_string") == Some(&json!(text)))
        .collect();
    ensure!(!found.is_empty(), "no {text:?} in {operations:#?}");
    Ok(found)
}

fn one<'a>(operations: &'a [Value], text: &str) -> Result<&'a Value> {
    of(operations, text)?.into_iter().next().context("none")
}

fn at<'a>(event: &'a Value, place: &str) -> Option<&'a Value> {
    event.pointer(place)
}

/// Bind with formats, values and formats of the result.
fn bind(format: u16, values: &[Option<&[u8]>], result_format: u16) -> Vec<u8> {
    let mut body = b"\0\0\0\x01".to_vec();
    body.extend_from_slice(&format.to_be_bytes());
    body.extend_from_slice(&u16::try_from(values.len()).unwrap_or(u16::MAX).to_be_bytes());
    for value in values {
        match value {
            None => body.extend_from_slice(&(-1_i32).to_be_bytes()),
            Some(value) => {
                body.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
                body.extend_from_slice(value);
            }
        }
    }
    body.extend_from_slice(&1_u16.to_be_bytes());
    body.extend_from_slice(&result_format.to_be_bytes());
    message(b'B', &body)
}

/// The first value of the first row, as bytes.
fn first_value(messages: &[Message]) -> Result<Vec<u8>> {
    let row = messages
        .iter()
        .find(|message| message.tag == b'D')
        .with_context(|| format!("{messages:?}"))?;
    Ok(row.body.get(6..).context("no value")?.to_vec())
}

/// Types with values that are odd in their own ways.
const VALUES: [(&str, &[&str]); 42] = [
    ("bool", &["true", "false"]),
    ("int2", &["0", "-32768"]),
    ("int4", &["2147483647", "-1"]),
    ("int8", &["-9223372036854775808", "5"]),
    ("oid", &["4294967295"]),
    (
        "float4",
        &["1.5", "1e-07", "-0", "NaN", "1234567", "0.1", "Infinity"],
    ),
    (
        "float8",
        &[
            "0.1",
            "1e15",
            "123456789012345",
            "-1.25e-300",
            "-Infinity",
            "100",
            "0.00001234",
        ],
    ),
    (
        "numeric",
        &[
            "0",
            "-0.001",
            "12345678901234567890.123400",
            "NaN",
            "1e30",
            "10000",
            "0.00010",
            "-Infinity",
            "99999999.5",
        ],
    ),
    ("text", &["it's", "", "ünïcode \u{1f600}", "two\nlines"]),
    ("varchar", &["x"]),
    ("char(5)", &["ab"]),
    ("\"char\"", &["x"]),
    ("name", &["a_name"]),
    ("bytea", &["\\x00ff10", ""]),
    ("uuid", &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
    ("json", &["{\"a\": [1, null]}"]),
    ("jsonb", &["{\"b\": 1, \"a\": \"x\"}"]),
    (
        "date",
        &[
            "2024-02-29",
            "0044-03-15 BC",
            "infinity",
            "1999-12-31",
            "10000-01-01",
        ],
    ),
    ("time", &["23:59:59.999999", "00:00:00", "24:00:00", "04:05:06.7"]),
    (
        "timetz",
        &["04:05:06.789-08:30", "12:00:00+00", "01:02:03+05:30:15"],
    ),
    (
        "timestamp",
        &[
            "2024-02-29 12:34:56.5",
            "0001-01-01 00:00:00 BC",
            "-infinity",
            "1970-01-01 00:00:00",
        ],
    ),
    ("timestamptz", &["2024-06-30 23:59:59+02", "infinity"]),
    (
        "interval",
        &[
            "1 year 2 mons 3 days 04:05:06.789",
            "-1 day",
            "0",
            "-1 years 3 days -00:00:01",
            "1 mon -2 days 3:00",
        ],
    ),
    (
        "inet",
        &[
            "192.168.0.1",
            "10.0.0.0/8",
            "fd00::1",
            "fd00::/64",
            "::ffff:1.2.3.4",
        ],
    ),
    ("cidr", &["10.0.0.0/8", "192.168.1.1/32"]),
    ("macaddr", &["08:00:2b:01:02:03"]),
    ("macaddr8", &["08:00:2b:01:02:03:04:05"]),
    ("bit(5)", &["10101"]),
    ("varbit", &["1", "101010101", ""]),
    ("pg_lsn", &["16/B374D848"]),
    ("tid", &["(42,7)"]),
    ("xid8", &["18446744073709551615"]),
    ("point", &["(1.5,-2)"]),
    ("int4[]", &["{1,NULL,3}", "{}", "{{1,2},{3,4}}", "[0:1]={5,6}"]),
    (
        "text[]",
        &["{a,\"b c\",\"\",NULL,\"NULL\",\"x,y\",\"q\\\"z\",\"b\\\\s\",\"{}\"}"],
    ),
    ("timestamptz[]", &["{\"2024-01-01 00:00:00+00\"}"]),
    ("uuid[]", &["{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}"]),
    ("int4range", &["[1,10)", "empty", "(,5)", "(,)"]),
    ("numrange", &["[1.5,2.5]"]),
    (
        "tstzrange",
        &["[\"2024-01-01 00:00:00+00\",\"2024-01-02 00:00:00+00\")"],
    ),
    ("daterange", &["[2024-01-01,2024-02-01)"]),
    ("int8range", &["[1,3)"]),
];

#[test]
fn values_of_each_type_read_the_same_in_both_formats() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let server = Postgres::start_anywhere()?;
    let enforced = recording(&server, "  recording: Values\n")?;
    let mut expected: Vec<(String, String, Value)> = Vec::new();
    let operations = recorded(&server, &enforced, |client| {
        client.ask("set timezone to 'UTC'")?;
        for (r#type, texts) in VALUES {
            for (place, text) in texts.iter().enumerate() {
                let quoted = text.replace('\'', "''");
                let read = format!("select '{quoted}'::{type}");
                let written = client.value(&read)?;
                let answer = [
                    say::parse("", &read),
                    bind(0, &[], 1),
                    say::execute("", 0),
                    say::sync(),
                ]
                .concat();
                client.send(&answer)?;
                let binary = first_value(&client.until_ready()?)?;
                let run = format!("select $1::{type} /* {place} */");
                client.send(
                    &[
                        say::parse("", &run),
                        say::describe('S', ""),
                        bind(0, &[Some(text.as_bytes())], 0),
                        say::execute("", 0),
                        bind(1, &[Some(&binary)], 0),
                        say::execute("", 0),
                        bind(0, &[None], 0),
                        say::execute("", 0),
                        say::sync(),
                    ]
                    .concat(),
                )?;
                let messages = client.until_ready()?;
                ensure!(
                    messages.iter().all(|message| message.tag != b'E'),
                    "{run}: {messages:?}"
                );
                expected.push((run, (*text).to_owned(), json!(written)));
            }
        }
        Ok(())
    })?;
    ensure!(expected.len() > 90, "{}", expected.len());
    let mut wrong = Vec::new();
    for (run, sent, written) in expected {
        let found = of(&operations, &run)?;
        let values: Vec<_> = found
            .iter()
            .filter_map(|operation| at(operation, "/unmapped/values/0/value"))
            .collect();
        // Blanks that pad a char(n) are the server's; its binary format has them too.
        let trimmed = |value: &Value| value.as_str().map(|text| text.trim_end_matches(' ').to_owned());
        let same = values.len() == 3
            && values.first() == Some(&&json!(sent))
            && values.get(1).and_then(|value| trimmed(value)) == trimmed(&written)
            && values.get(2) == Some(&&Value::Null);
        if !same {
            wrong.push(format!("{run}: {values:?} instead of {written:?}"));
        }
        for operation in &found {
            let name = at(operation, "/unmapped/values/0/type").and_then(Value::as_str);
            ensure!(
                name.is_some_and(|name| name.parse::<u32>().is_err()),
                "{run}: {name:?}"
            );
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

#[test]
fn what_a_detector_finds_does_not_stand_in_the_record() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let server = Postgres::start_anywhere()?;
    let enforced = recording(&server, "  recording: Values\n")?;
    let sql = "select $1::text, $2::int8, $3::timestamptz";
    let operations = recorded(&server, &enforced, |client| {
        client.send(
            &[
                say::parse("", sql),
                say::describe('S', ""),
                say::bind_values(
                    "",
                    "",
                    &[
                        b"mail to eve@example.com",
                        b"4111111111111111",
                        b"2024-02-29 12:34:56.5+00",
                    ],
                ),
                say::execute("", 0),
                say::sync(),
            ]
            .concat(),
        )?;
        client.until_ready()?;
        client.ask("select 'eve@example.com'")?;
        Ok(())
    })?;
    let values = at(one(&operations, sql)?, "/unmapped/values").context("none")?;
    ensure!(
        *values
            == json!([
                {"type": "text", "value": "mail to [masked]", "masked": true},
                {"type": "int8", "value": "[masked]", "masked": true},
                {"type": "timestamptz", "value": "2024-02-29 12:34:56.5+00"}
            ]),
        "{values:#}"
    );
    let whole = serde_json::to_string(&enforced.events()?)?;
    ensure!(!whole.contains("eve@") && !whole.contains("41111111"), "{whole}");
    Ok(())
}

/// The digest as docs/record.md defines it, of what a client got.
fn digest(messages: &[Message]) -> String {
    let mut digest = Sha256::new();
    for message in messages
        .iter()
        .filter(|message| matches!(message.tag, b'D' | b'd'))
    {
        let length = u32::try_from(message.body.len() + 4).unwrap_or(u32::MAX);
        digest.update(length.to_be_bytes());
        digest.update(&message.body);
    }
    let bytes = digest.finalize();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

const MASK: &str = "  masks:\n    - columns: [public.people.ssn]\n      with: Redact\n";

#[test]
fn digests_can_be_computed_again_from_what_the_client_got() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let server = Postgres::start_anywhere()?;
    server.sql("create table people(id int, ssn text); insert into people select i, 'secret' || i from generate_series(1, 5) i")?;
    server.sql("create table plain(id int, long text); insert into plain values (1, repeat('x', 300000)), (2, 'y'), (3, null)")?;
    let more = format!("{MASK}  recording: {{ digest: true }}\n");
    let enforced = Enforced::with(&[
        (
            "target.yaml",
            &target(server.address(), "  plainRelations: [public.plain]\n"),
        ),
        ("policy.yaml", &policy(&format!("{ALLOW_ALL}{more}"))),
    ])?;
    let mut expected: Vec<(&str, String, usize)> = Vec::new();
    let operations = recorded(&server, &enforced, |client| {
        for sql in [
            "select 1, null::int, 'x'",
            "select 1 where false",
            "select 1; select 2 union all select 3",
            "select id, ssn from people",
            "table plain",
            "copy plain to stdout",
            "select * from generate_series(1, 20000)",
            "select 1 / (3 - i) from generate_series(1, 5) i",
        ] {
            let answer = client.ask(sql)?;
            let rows = answer
                .iter()
                .filter(|message| matches!(message.tag, b'D' | b'd'))
                .count();
            expected.push((sql, digest(&answer), rows));
            ensure!(sql != "select id, ssn from people" || format!("{answer:?}").contains("[masked]"));
        }
        // Two parts of one portal are two operations.
        let sql = "select i from generate_series(1, 7) i";
        client.send(
            &[
                say::parse("", sql),
                say::bind("", ""),
                say::execute("", 4),
                say::execute("", 0),
                say::sync(),
            ]
            .concat(),
        )?;
        let answer = client.until_ready()?;
        let suspended = answer
            .iter()
            .position(|message| message.tag == b's')
            .context("not suspended")?;
        let (first, second) = answer.split_at(suspended);
        expected.push((sql, digest(first), 4));
        expected.push((sql, digest(second), 3));
        Ok(())
    })?;
    for (sql, digest, messages) in expected {
        let found = of(&operations, sql)?;
        ensure!(
            found.iter().any(
                |operation| at(operation, "/unmapped/result/digest") == Some(&json!(digest))
                    && at(operation, "/unmapped/result/messages") == Some(&json!(messages))
            ),
            "{sql}: {digest} of {messages} isn't in {found:#?}"
        );
        // Nothing else was asked for.
        ensure!(
            found
                .iter()
                .all(|operation| at(operation, "/unmapped/result/sets").is_none())
        );
    }
    Ok(())
}

#[test]
fn rows_are_kept_as_the_client_saw_them() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let server = Postgres::start_anywhere()?;
    server
        .sql("create table people(id int, ssn text); insert into people values (1, 'secret1'), (2, null)")?;
    server.sql("create table plain(id int, t text); insert into plain values (1, 'x'), (2, null)")?;
    let more = format!("{MASK}  recording: Results\n");
    let enforced = Enforced::with(&[
        (
            "target.yaml",
            &target(server.address(), "  plainRelations: [public.plain]\n"),
        ),
        ("policy.yaml", &policy(&format!("{ALLOW_ALL}{more}"))),
    ])?;
    let operations = recorded(&server, &enforced, |client| {
        client.ask("select id, ssn as number from people order by id")?;
        client.ask("select 1 as a; select 'x' as b, null as c")?;
        client.ask("copy plain to stdout")?;
        let sql = "select id, t, 1.5::float8 as f from plain where id = $1";
        let two = 2_i32.to_be_bytes();
        client.send(
            &[
                say::parse("", sql),
                say::describe('S', ""),
                bind(1, &[Some(&two)], 1),
                say::execute("", 0),
                say::sync(),
            ]
            .concat(),
        )?;
        client.until_ready()?;
        // A value that is compared with a masked column isn't recorded.
        let sql = "select id from people where id = $1";
        client.send(
            &[
                say::parse("", sql),
                bind(0, &[Some(b"2")], 0),
                say::execute("", 0),
                say::sync(),
            ]
            .concat(),
        )?;
        client.until_ready()?;
        Ok(())
    })?;
    let sets =
        |sql: &str| Ok::<_, anyhow::Error>(at(one(&operations, sql)?, "/unmapped/result/sets").cloned());
    let masked = sets("select id, ssn as number from people order by id")?;
    ensure!(
        masked
            == Some(json!([{
                "columns": [{"name": "id", "type": "int4"}, {"name": "number", "type": "text"}],
                "rows": [["1", "[masked]"], ["2", null]]
            }])),
        "{masked:?}"
    );
    let two = sets("select 1 as a; select 'x' as b, null as c")?;
    ensure!(
        two == Some(json!([
            {"columns": [{"name": "a", "type": "int4"}], "rows": [["1"]]},
            {"columns": [{"name": "b", "type": "text"}, {"name": "c", "type": "text"}], "rows": [["x", null]]}
        ])),
        "{two:?}"
    );
    let copied = sets("copy plain to stdout")?;
    ensure!(
        copied == Some(json!([{"copy": ["1\tx\n", "2\t\\N\n"]}])),
        "{copied:?}"
    );
    let extended = one(
        &operations,
        "select id, t, 1.5::float8 as f from plain where id = $1",
    )?;
    ensure!(
        at(extended, "/unmapped/result/sets/0/rows") == Some(&json!([["2", null, "1.5"]]))
            && at(extended, "/unmapped/values") == Some(&json!([{"type": "int4", "value": "2"}])),
        "{extended:#}"
    );
    let withheld = one(&operations, "select id from people where id = $1")?;
    ensure!(
        at(withheld, "/unmapped/values").is_none()
            && at(withheld, "/unmapped/values_withheld")
                == Some(&json!("the statement may touch masked columns")),
        "{withheld:#}"
    );
    let whole = serde_json::to_string(&enforced.events()?)?;
    ensure!(!whole.contains("secret1"), "a masked value is in the record");
    Ok(())
}

#[test]
fn what_is_left_out_is_told() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let server = Postgres::start_anywhere()?;
    let enforced = recording(
        &server,
        "  recording: { level: Results, maxRows: 3, maxBytes: 1000 }\n",
    )?;
    let (long, longer) = ("l".repeat(2000), "m".repeat(300_000));
    let operations = recorded(&server, &enforced, |client| {
        client.ask("select * from generate_series(1, 3)")?;
        client.ask("select * from generate_series(1, 50)")?;
        client.ask("select repeat('r', 600) from generate_series(1, 3)")?;
        let sql = "select $1::text, $2::text, $3::text";
        for middle in [&long, &longer] {
            client.send(
                &[
                    say::parse("", sql),
                    say::bind_values("", "", &[b"a", middle.as_bytes(), b"c"]),
                    say::execute("", 0),
                    say::sync(),
                ]
                .concat(),
            )?;
            client.until_ready()?;
        }
        Ok(())
    })?;
    let truncated = |operation: &Value| at(operation, "/unmapped/truncated").cloned();
    let whole = one(&operations, "select * from generate_series(1, 3)")?;
    ensure!(truncated(whole).is_none(), "{whole:#}");
    let many = one(&operations, "select * from generate_series(1, 50)")?;
    ensure!(
        truncated(many) == Some(json!([{"field": "rows", "kept": 3, "of": 50}])),
        "{many:#}"
    );
    let wide = one(&operations, "select repeat('r', 600) from generate_series(1, 3)")?;
    ensure!(
        truncated(wide) == Some(json!([{"field": "rows", "kept": 1, "of": 3}])),
        "{wide:#}"
    );
    let bound = of(&operations, "select $1::text, $2::text, $3::text")?;
    let first = bound.first().context("none")?;
    ensure!(
        at(first, "/unmapped/values")
            == Some(&json!([{"value": "a"}, {"left_out_bytes": 2000}, {"value": "c"}])),
        "{first:#}"
    );
    let second = bound.get(1).context("one alone")?;
    for operation in [first, second] {
        let values = at(operation, "/unmapped/truncated/0").context("nothing told")?;
        ensure!(
            at(values, "/field") == Some(&json!("values")) && at(values, "/of") == Some(&json!(3)),
            "{operation:#}"
        );
    }
    let text = serde_json::to_string(&enforced.events()?)?;
    ensure!(
        !text.contains("mmmm") && !text.contains("llll"),
        "more than may be kept"
    );
    Ok(())
}
