//! What is done to values: every type, action and format, and that what comes out is a value of the type to a real server.

use std::net::TcpStream;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{
    ALLOW_ALL, Client, Enforced, Message, Postgres, can_be_root, message, policy, say, target, types,
};

const KEY: &[u8; 32] = b"0123456789abcdef0123456789abcdef";

/// Bind without parameters or with one, in a format, for results in a format.
fn bind(parameter: Option<(u16, &[u8])>, result: u16) -> Vec<u8> {
    let mut body = b"\0\0".to_vec();
    match parameter {
        None => body.extend_from_slice(&[0; 4]),
        Some((format, value)) => {
            body.extend_from_slice(&1_u16.to_be_bytes());
            body.extend_from_slice(&format.to_be_bytes());
            body.extend_from_slice(&1_u16.to_be_bytes());
            body.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
            body.extend_from_slice(value);
        }
    }
    body.extend_from_slice(&1_u16.to_be_bytes());
    body.extend_from_slice(&result.to_be_bytes());
    message(b'B', &body)
}

fn ask(client: &mut Client, sql: &str, parameter: Option<(u16, &[u8])>, result: u16) -> Result<Vec<Message>> {
    client.send(
        &[
            say::parse("", sql),
            bind(parameter, result),
            say::execute("", 0),
            say::sync(),
        ]
        .concat(),
    )?;
    client.until_ready()
}

/// The first columns of the rows, as bytes.
fn column(messages: &[Message]) -> Result<Vec<Option<Vec<u8>>>> {
    messages
        .iter()
        .filter(|message| message.tag == b'D')
        .map(|row| {
            let length = row.body.get(2..6).context("no length")?;
            let length = i32::from_be_bytes(length.try_into()?);
            match usize::try_from(length) {
                Err(_) => Ok(None),
                Ok(length) => Ok(Some(row.body.get(6..6 + length).context("cut")?.to_vec())),
            }
        })
        .collect()
}

fn lab(server: &Postgres, more: &str, policies: &str) -> Result<Enforced> {
    Enforced::with(&[
        ("target.yaml", &target(server.address(), more)),
        ("policy.yaml", &policy(&format!("{ALLOW_ALL}{policies}"))),
    ])
}

#[test]
fn each_type_stays_a_value_of_its_type() -> Result<()> {
    stay(types::TYPES, "  plainRelations: [\"public.*\"]\n")
}

#[test]
fn the_catalog_takes_types_apart() -> Result<()> {
    stay(types::BY_CATALOG, "  catalog: { user: postgres }\n")
}

fn stay(types: &[types::Masked], more: &str) -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let server = Postgres::start_anywhere()?;
    server.sql(types::MADE)?;
    let (sql, masks) = types::tables(types);
    server.sql(&sql)?;
    let keys = tempfile::tempdir()?;
    let key = keys.path().join("key");
    std::fs::write(&key, KEY)?;
    let enforced = lab(&server, more, &masks.replace("KEY", &key.display().to_string()))?;
    let agent = enforced.start()?;
    let mut masked = Client::started(agent.dial(server.address(), Postgres::PORT)?)?;
    if more.contains("catalog") {
        masked.value("select 1")?;
        agent.wait_for("the catalog", || Ok(agent.metric("bailiff_catalogs")? == 1))?;
    }
    let mut direct = Client::started(TcpStream::connect((server.address(), Postgres::PORT))?)?;
    let mut hashes = Vec::new();
    for (place, (name, value, kept, hashed, redacted)) in types.iter().enumerate() {
        for (table, expected) in [
            ("keep", kept),
            ("hash", hashed),
            ("redact", redacted),
            ("nothing", &"-"),
        ] {
            let about = format!("{name} {value} in {table}");
            let sql = format!("select c{place} from {table}");
            let mut shown = Vec::new();
            for format in [0_u16, 1] {
                let answer = ask(&mut masked, &sql, None, format)?;
                let rows = column(&answer).with_context(|| format!("{about}: {answer:?}"))?;
                ensure!(
                    rows.len() == 2 && rows.get(1) == Some(&None),
                    "{about}: {answer:?}"
                );
                // The server takes it for a value of the type, and writes it in the same way.
                let text = match rows.into_iter().next().flatten() {
                    None => None,
                    Some(value) => {
                        let cast = format!("select ($1::{name})::text");
                        let back = ask(&mut direct, &cast, Some((format, &value)), 0)?;
                        let text = column(&back)?.into_iter().next().flatten();
                        let text = text.with_context(|| format!("{about}, format {format}: {back:?}"))?;
                        Some(String::from_utf8(text)?)
                    }
                };
                shown.push(text);
            }
            // And by a simple query.
            let simple = masked.ask(&sql)?;
            let simple = column(&simple)?.into_iter().next().flatten();
            let direct_cast = match &simple {
                None => None,
                Some(value) => {
                    let back = ask(
                        &mut direct,
                        &format!("select ($1::{name})::text"),
                        Some((0, value)),
                        0,
                    )?;
                    column(&back)?.into_iter().next().flatten()
                }
            };
            shown.push(direct_cast.map(String::from_utf8).transpose()?);
            ensure!(
                shown.windows(2).all(|pair| pair.first() == pair.last()),
                "{about}: {shown:?}"
            );
            let shown = shown.into_iter().next().flatten();
            match *expected {
                "-" => ensure!(shown.is_none(), "{about}: {shown:?}"),
                "*" => {
                    let shown = shown.with_context(|| format!("{about}: null"))?;
                    ensure!(shown != *value, "{about}: {shown}");
                    hashes.push((*name, *value, shown));
                }
                expected => {
                    let expected = server.sql(&format!("select ($v${expected}$v$::{name})::text"))?;
                    ensure!(
                        shown.as_deref().map(str::trim_end) == Some(expected.as_str()),
                        "{about}: {shown:?}"
                    );
                }
            }
        }
    }
    ensure!(hashes.len() > 6, "{hashes:?}");
    Ok(())
}

#[test]
fn the_same_value_has_the_same_hash_everywhere() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let server = Postgres::start_anywhere()?;
    server.sql(
        "create table a (t text, v varchar, c char(10), i2 int2, i4 int4, i8 int8, n numeric, u uuid, b bytea, j jsonb, l text[]);
         insert into a values ('42', '42', '42', 42, 42, 42, 42.00, '550e8400-e29b-41d4-a716-446655440000', '42', '\"42\"', '{42}');
         create table b (t text); insert into b values ('42'), ('43'), (null)",
    )?;
    let keys = tempfile::tempdir()?;
    let key = keys.path().join("key");
    std::fs::write(&key, KEY)?;
    let columns: Vec<String> = [
        "a.t", "a.v", "a.c", "a.i2", "a.i4", "a.i8", "a.n", "a.u", "a.b", "a.j", "a.l", "b.t",
    ]
    .iter()
    .map(|column| format!("public.{column}"))
    .collect();
    let masks = format!(
        "  masks:\n  - columns: [{}]\n    with: {{Hash: {{keyFile: {}}}}}\n",
        columns.join(", "),
        key.display()
    );
    let enforced = lab(&server, "  plainRelations: [\"public.*\"]\n", &masks)?;
    let agent = enforced.start()?;
    let mut client = Client::started(agent.dial(server.address(), Postgres::PORT)?)?;
    let rows = |client: &mut Client, sql: &str| -> Result<Vec<Vec<Option<String>>>> {
        let answer = client.ask(sql)?;
        Ok(answer
            .iter()
            .filter(|message| message.tag == b'D')
            .map(Message::values)
            .collect())
    };
    // HMAC-SHA-256 of 42 under the key, by another implementation: `printf 42 | openssl dgst -sha256 -hmac …`.
    let openssl = std::process::Command::new("sh")
        .args([
            "-c",
            "printf 42 | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef",
        ])
        .output()?;
    let openssl = String::from_utf8(openssl.stdout)?;
    let mac = openssl
        .trim()
        .rsplit(' ')
        .next()
        .context("openssl says nothing")?
        .to_owned();
    let half = mac.get(..32).context("no hash")?.to_owned();
    let number = u64::from_str_radix(mac.get(..16).context("no hash")?, 16)? >> 1;
    let first = rows(&mut client, "select t, v, c, i2, i4, i8, n, b, j, l from a")?;
    let expected = [
        half.clone(),
        half.clone(),
        half.clone(),
        (number & 0x7fff).to_string(),
        (number & 0x7fff_ffff).to_string(),
        number.to_string(),
        number.to_string(),
        format!("\\x{half}"),
        format!("\"{half}\""),
        format!("{{{half}}}"),
    ]
    .map(Some);
    ensure!(
        first.first().is_some_and(|row| *row == expected),
        "{first:?}, {expected:?}"
    );
    let second = rows(&mut client, "select t from b")?;
    let [[Some(same)], [Some(other)], [None]] = [second.first(), second.get(1), second.get(2)]
        .map(|row| [row.and_then(|row| row.first().cloned().flatten())])
    else {
        anyhow::bail!("{second:?}");
    };
    ensure!(same == half && other != half, "{second:?}");

    // Another key, and the same session.
    std::fs::write(&key, b"another key, of more than 32 bytes, for what comes")?;
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let anew = rows(&mut client, "select t from b")?;
    ensure!(anew != second && anew.get(2) == second.get(2), "{anew:?}");
    // A file that is gone leaves the key as it was.
    std::fs::remove_file(&key)?;
    std::thread::sleep(std::time::Duration::from_millis(1100));
    ensure!(rows(&mut client, "select t from b")? == anew);
    drop(client);
    agent.stop()?;
    let record = format!("{:?}", enforced.events()?);
    ensure!(!record.contains("another key"), "{record}");
    Ok(())
}
