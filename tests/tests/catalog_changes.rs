//! What is changed in a database, and when sessions that are masked feel it.

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{ALLOW_ALL, Client, Lab, Message, Running, say};

const CATALOG: &str = "  catalog: { user: postgres }\n";
const SECRET: &str = "123-45-6789";

/// Who may `Define` changes objects, and what is masked stays so for all.
fn rules() -> String {
    format!(
        "{ALLOW_ALL}      masked: [Define, Function]\n  masks:\n    - columns: [public.people.ssn, public.people.number, public.renamed.ssn]\n      with: Redact\n"
    )
}

const SCHEMA: &str = "
    create table people(id int, name text, ssn text); insert into people values (1, 'ann', '123-45-6789');
    create table notes(body text); insert into notes values ('n');
    create view seen as select name as shown from people;
";

/// Each changes what a name stands for: the statements, what is asked before and after, and what is told then, by the names of
/// the columns' values.
const CHANGES: &[(&str, &[&str], &str)] = &[
    (
        "a view that shows another column",
        &["create or replace view seen as select ssn as shown from people"],
        "select shown from seen",
    ),
    (
        "a view that is made anew",
        &[
            "drop view seen",
            "create view seen as select ssn as shown from people",
        ],
        "select shown from seen",
    ),
    (
        "a view that is renamed to one",
        &[
            "create view other as select ssn as shown from people",
            "drop view seen",
            "alter view other rename to seen",
        ],
        "select shown from seen",
    ),
    (
        "a view behind another",
        &[
            "create view below as select name as shown from people",
            "create or replace view seen as select shown from below",
            "create or replace view below as select ssn as shown from people",
        ],
        "select shown from seen",
    ),
    (
        "a table that a view takes the place of",
        &[
            "drop table notes",
            "create view notes as select ssn as body from people",
        ],
        "select body from notes",
    ),
    (
        "a column that gets a masked name",
        &[
            "alter table people rename ssn to number",
            "alter table people rename name to shown",
        ],
        "select number from people",
    ),
    (
        "a table that gets a masked name",
        &["alter table people rename to renamed"],
        "select ssn from renamed",
    ),
    (
        "after several statements in one text",
        &[
            "begin; select 1; commit",
            "create or replace view seen as select ssn as shown from people",
        ],
        "select shown from seen",
    ),
    (
        "all in one transaction, statement by statement",
        &[
            "begin",
            "create or replace view seen as select ssn as shown from people",
            "select 1",
            "commit",
        ],
        "select shown from seen",
    ),
    (
        "two phases",
        &[
            "begin",
            "create or replace view seen as select ssn as shown from people",
            "prepare transaction 'changed'",
            "commit prepared 'changed'",
        ],
        "select shown from seen",
    ),
    (
        "a block",
        &["do $$ begin execute 'create or replace view seen as select ssn as shown from people'; end $$"],
        "select shown from seen",
    ),
];

fn lab() -> Result<Option<Lab>> {
    Lab::new(&rules(), CATALOG)
}

fn anew(lab: &Lab) -> Result<()> {
    lab.server
        .sql("drop schema public cascade; create schema public")?;
    lab.server.sql(SCHEMA)?;
    Ok(())
}

fn holds_secret(answer: &[Message]) -> bool {
    answer.iter().any(|message| {
        let mut parts = message.body.windows(SECRET.len());
        parts.any(|part| part == SECRET.as_bytes())
    })
}

/// Asks until the value is masked. It may be refused until then, and is never told.
fn masked_in_the_end(agent: &Running, client: &mut Client, sql: &str) -> Result<()> {
    let client = std::cell::RefCell::new(client);
    agent.wait_for("a masked answer", || {
        let answer = client.borrow_mut().ask(sql)?;
        ensure!(!holds_secret(&answer), "{sql}: it leaks: {answer:?}");
        Ok(answer
            .iter()
            .any(|message| message.values().contains(&Some("[masked]".to_owned()))))
    })
}

/// A session that is open, one that has prepared the statement before, and one that begins.
#[test]
fn through_the_agent_nobody_sees_a_moment_between() -> Result<()> {
    let Some(lab) = lab()? else { return Ok(()) };
    lab.server.restart_with("max_prepared_transactions", "4")?;
    anew(&lab)?;
    let agent = lab.start()?;
    let mut stays = lab.session(&agent)?;
    stays.ask("select 1")?;
    for (name, statements, asked) in CHANGES {
        anew(&lab)?;
        let read = || agent.metric("bailiff_catalog_refreshes_total");
        let before = read()?;
        // Something that the look finds, so that what was made anew is known.
        lab.server.sql("create table found()")?;
        agent.wait_for("a look", || Ok(read()? > before))?;
        let (mut makes, mut reads, mut prepared) =
            (lab.session(&agent)?, lab.session(&agent)?, lab.session(&agent)?);
        reads.ask(asked)?;
        prepared.send(&[say::parse("s", asked), say::sync()].concat())?;
        prepared.until_ready()?;
        for sql in *statements {
            let answer = makes.ask(sql)?;
            let refused = answer.iter().find(|message| message.tag == b'E');
            ensure!(refused.is_none(), "{name}: {sql}: {refused:?}");
        }
        let direct = lab.direct()?.ask(asked)?;
        ensure!(holds_secret(&direct), "{name}: {direct:?}");
        for message in [
            say::query(asked),
            [
                say::parse("", asked),
                say::bind("", ""),
                say::describe('P', ""),
                say::execute("", 0),
                say::sync(),
            ]
            .concat(),
        ] {
            reads.send(&message)?;
            let answer = reads.until_ready()?;
            ensure!(!holds_secret(&answer), "{name}: {answer:?}");
        }
        prepared.send(&[say::bind("", "s"), say::execute("", 0), say::sync()].concat())?;
        let answer = prepared.until_ready()?;
        ensure!(!holds_secret(&answer), "{name}, prepared: {answer:?}");
        let mut begins = lab.session(&agent)?;
        for client in [&mut reads, &mut begins] {
            masked_in_the_end(&agent, client, asked).with_context(|| (*name).to_owned())?;
        }
    }
    Ok(())
}

/// What comes past the agent is found by looking, and masked from then on.
#[test]
fn past_the_agent_it_is_found() -> Result<()> {
    let Some(lab) = lab()? else { return Ok(()) };
    anew(&lab)?;
    let agent = lab.start()?;
    let mut stays = lab.session(&agent)?;
    stays.ask("select 1")?;
    for (name, statements, asked) in CHANGES.iter().filter(|(name, ..)| *name != "two phases") {
        anew(&lab)?;
        let mut reads = lab.session(&agent)?;
        reads.ask(asked)?;
        let read = || agent.metric("bailiff_catalog_refreshes_total");
        let mut past = lab.direct()?;
        for sql in *statements {
            past.ask(sql)?;
        }
        // What is read from here on has seen all of it.
        let before = read()?;
        lab.server.sql("create table found()")?;
        agent.wait_for("a look", || Ok(read()? > before))?;
        masked_in_the_end(&agent, &mut reads, asked).with_context(|| (*name).to_owned())?;
    }
    Ok(())
}

/// While nobody can tell what a name stands for, names alone decide, which refuses; what is told is then believed again.
#[test]
fn a_catalog_that_cannot_be_looked_at_is_not_believed() -> Result<()> {
    let Some(lab) = lab()? else { return Ok(()) };
    anew(&lab)?;
    let agent = lab.start()?;
    let (mut makes, mut reads) = (lab.session(&agent)?, lab.session(&agent)?);
    ensure!(reads.value("select shown from seen")? == "ann");
    // Looking waits for this lock.
    let mut locks = lab.direct()?;
    locks.ask("begin; lock table pg_db_role_setting in access exclusive mode")?;
    makes.ask("create or replace view seen as select ssn as shown from people")?;
    let answer = reads.ask("select shown from seen")?;
    let refused = answer.iter().find_map(Message::sqlstate);
    ensure!(refused.as_deref() == Some("42501"), "{answer:?}");
    locks.ask("rollback")?;
    masked_in_the_end(&agent, &mut reads, "select shown from seen")
}
