//! Names of prepared statements and portals: whatever a client does to them, rows are masked as those of the statement that the
//! server really runs. Each attack is first shown to work on the server itself.

use anyhow::{Result, ensure};
use bailiff_tests::{ALLOW_ALL, Client, Lab, Message, say};

const SECRET: &str = "123-45-6789";

fn lab(rules: &str) -> Result<Option<Lab>> {
    let Some(lab) = Lab::new(rules, "")? else {
        return Ok(None);
    };
    lab.server.sql(&format!(
        "create table people(id int, name text, ssn text); insert into people values (1, 'Ada', '{SECRET}');
         create table t(it text); insert into t values ('plain');
         create schema hidden; create table hidden.t(it text); insert into hidden.t values ('{SECRET}')"
    ))?;
    Ok(Some(lab))
}

/// Sends the parts one after the other, each when the last one is answered, or all at once.
fn carry_out(client: &mut Client, parts: &[Vec<u8>], at_once: bool) -> Result<Vec<Message>> {
    let mut heard = Vec::new();
    if at_once {
        client.send(&parts.concat())?;
    }
    for part in parts {
        if !at_once {
            client.send(part)?;
        }
        heard.extend(client.until_ready()?);
    }
    Ok(heard)
}

fn tells(messages: &[Message]) -> bool {
    messages.iter().any(|message| {
        message
            .body
            .windows(SECRET.len())
            .any(|part| part == SECRET.as_bytes())
    })
}

fn part(messages: &[Vec<u8>]) -> Vec<u8> {
    [messages.concat(), say::sync()].concat()
}

fn run(portal: &str, statement: &str) -> Vec<u8> {
    part(&[say::bind(portal, statement), say::execute(portal, 0)])
}

const MASKED: &str = "select ssn from people";
const STAR: &str = "select * from people";
const HARMLESS: &str = "select 'harmless'";

fn attacks() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    vec![
        (
            "a second Parse of a name fails",
            vec![
                part(&[say::parse("s", MASKED)]),
                part(&[say::parse("s", HARMLESS)]),
                run("", "s"),
            ],
        ),
        (
            "a second Bind of a name fails",
            vec![
                say::query("begin"),
                part(&[
                    say::parse("s", MASKED),
                    say::parse("t", HARMLESS),
                    say::bind("p", "s"),
                ]),
                say::query("savepoint here"),
                part(&[say::bind("p", "t")]),
                say::query("rollback to here"),
                part(&[say::execute("p", 0)]),
            ],
        ),
        (
            "a Parse without a name is skipped",
            vec![
                part(&[say::parse("", MASKED)]),
                part(&[say::bind("", "missing"), say::parse("", HARMLESS)]),
                run("", ""),
            ],
        ),
        (
            "a Close is skipped, and so is the Parse after it",
            vec![
                part(&[say::parse("s", MASKED)]),
                part(&[
                    say::bind("", "missing"),
                    say::close('S', "s"),
                    say::parse("s", HARMLESS),
                ]),
                run("", "s"),
            ],
        ),
        (
            "SQL gives a statement's name to one with other columns, and they are asked for",
            vec![
                say::query("begin"),
                part(&[say::parse("s", STAR), say::bind("p", "s")]),
                say::query("deallocate s"),
                say::query("prepare s as select name, id, name from people"),
                part(&[say::describe('S', "s")]),
                part(&[say::execute("p", 0)]),
            ],
        ),
        (
            "SQL gives a portal's name to a cursor with other columns, and they are asked for",
            vec![
                say::query("begin"),
                part(&[say::parse("s", STAR), say::bind("p", "s")]),
                say::query("close p"),
                say::query("declare p cursor for select name, id, name from people"),
                part(&[say::describe('P', "p")]),
                run("", "s"),
            ],
        ),
    ]
}

#[test]
fn rows_are_masked_by_what_the_server_runs() -> Result<()> {
    let masks = format!("{ALLOW_ALL}  masks:\n    - columns: [public.people.ssn]\n      with: Redact\n");
    let Some(lab) = lab(&masks)? else {
        return Ok(());
    };
    let agent = lab.start()?;
    for (name, parts) in attacks() {
        for at_once in [false, true] {
            let heard = carry_out(&mut lab.direct()?, &parts, at_once)?;
            ensure!(tells(&heard), "{name}: no attack: {heard:?}");
            let mut client = lab.session(&agent)?;
            let heard = carry_out(&mut client, &parts, at_once)?;
            ensure!(!tells(&heard), "{name}, at once: {at_once}: {heard:?}");
            client.ask("rollback")?;
            ensure!(client.value("select 41 + 1")? == "42", "{name}");
        }
    }
    Ok(())
}

#[test]
fn a_name_that_fails_to_be_given_again_still_stands_for_the_first() -> Result<()> {
    let Some(lab) = lab(ALLOW_ALL)? else {
        return Ok(());
    };
    let agent = lab.start()?;
    for at_once in [false, true] {
        let parts = [
            part(&[say::parse("s", "select 'first'")]),
            part(&[say::parse("s", "select 'second'")]),
            run("", "s"),
            part(&[say::close('S', "s"), say::parse("s", "select 'third'")]),
            run("", "s"),
        ];
        let expected = carry_out(&mut lab.direct()?, &parts, at_once)?;
        let heard = carry_out(&mut lab.session(&agent)?, &parts, at_once)?;
        ensure!(heard == expected, "{heard:?} {expected:?}");
    }
    agent.wait_for("the record", || Ok(lab.enforced.operations()?.len() == 4))?;
    let texts: Vec<_> = lab
        .enforced
        .operations()?
        .iter()
        .map(|operation| {
            operation
                .pointer("/query_info/query_string")
                .and_then(|text| text.as_str())
                .unwrap_or_default()
                .to_owned()
        })
        .collect();
    // What ran stands in the record, and not what was to have the name.
    ensure!(
        texts
            == [
                "select 'first'",
                "select 'third'",
                "select 'first'",
                "select 'third'"
            ],
        "{texts:?}"
    );
    Ok(())
}

#[test]
fn a_moved_search_path_is_felt_by_what_was_prepared_before() -> Result<()> {
    let rules = "    - name: public
      effects: [read, transaction, set]
      relations: [public.*]
      action: Allow
";
    let Some(lab) = lab(rules)? else {
        return Ok(());
    };
    let parts = [
        part(&[
            say::parse("s", "select it from t"),
            say::bind("", "s"),
            say::execute("", 0),
        ]),
        say::query("set search_path = hidden"),
        run("", "s"),
    ];
    let heard = carry_out(&mut lab.direct()?, &parts, false)?;
    ensure!(tells(&heard), "no attack: {heard:?}");
    let agent = lab.start()?;
    let heard = carry_out(&mut lab.session(&agent)?, &parts, false)?;
    ensure!(!tells(&heard), "{heard:?}");
    ensure!(
        heard
            .iter()
            .any(|message| message.body.windows(5).any(|part| part == b"plain"))
            && heard.iter().filter_map(Message::sqlstate).collect::<Vec<_>>() == ["42501"],
        "{heard:?}"
    );
    Ok(())
}
