//! What a name stands for depends on the session: every way of changing that, with a mask in force.
//!
//! `notes` has a column `ssn` that isn't masked. Where the name stands for another relation, which has none, the subquery below
//! shows the masked column around it. Each way is tried past the agent first, where it has to show that.

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{ALLOW_ALL, Client, Lab, Message, Postgres, Running, say};

const CATALOG: &str = "  catalog: { user: postgres }\n  unknown: Deny\n";
const SECRET: &str = "123-45-6789";

/// Harmless by the catalog: the column is that of `notes`.
const HARMLESS: &str = "select (select ssn from notes limit 1) from people";

const SCHEMA: &str = "
    create table people(id int, ssn text); insert into people values (1, '123-45-6789');
    create table notes(body text, ssn text); insert into notes values ('b', 'plain');
    create schema other; create table other.notes(body text); insert into other.notes values ('o');
    create role ann login superuser; create role bob login superuser; grant bob to ann;
    create schema bob; create table bob.notes(body text); insert into bob.notes values ('x');
    create function moves() returns void language plpgsql as 'begin perform set_config(''search_path'', ''other,public'', false); end';
    create function temporary() returns void language plpgsql as
        'begin create temp table notes(body text); insert into notes values (''t''); end';
";

fn lab() -> Result<Option<Lab>> {
    lab_with(ALLOW_ALL)
}

fn lab_with(rules: &str) -> Result<Option<Lab>> {
    let rules = format!("{rules}  masks:\n    - columns: [public.people.ssn]\n      with: Redact\n");
    let Some(lab) = Lab::new(&rules, CATALOG)? else {
        return Ok(None);
    };
    lab.server.sql(SCHEMA)?;
    Ok(Some(lab))
}

fn shows(answers: &[Message]) -> bool {
    answers.iter().any(|message| {
        let mut parts = message.body.windows(SECRET.len());
        parts.any(|part| part == SECRET.as_bytes())
    })
}

/// What a session is told. One that is ended has been told nothing.
fn told(client: &mut Client, statements: &[&str]) -> Vec<Message> {
    let mut answers = Vec::new();
    for sql in statements {
        match client.ask(sql) {
            Ok(answer) => answers.extend(answer),
            Err(_) => break,
        }
    }
    answers
}

/// Holds that the statements show the value past the agent and not through it.
fn hold(
    lab: &Lab,
    agent: &Running,
    ways: &[(&str, &[&str])],
    begin: impl Fn(Option<&Running>) -> Result<Client>,
) -> Result<()> {
    let mut failed = Vec::new();
    for (name, statements) in ways {
        let statements = [*statements, &[HARMLESS]].concat();
        if !shows(&told(&mut begin(None)?, &statements)) {
            failed.push(format!("{name}: no leak"));
        }
        let mut session = begin(Some(agent))?;
        // As the catalog says, before the name stands for something else.
        let plain = session.value(HARMLESS);
        ensure!(
            matches!(plain.as_deref(), Ok("plain")),
            "{name}: {plain:?} {}",
            agent.get("/readyz")?
        );
        if shows(&told(&mut session, &statements)) {
            failed.push(format!("{name}: it leaks"));
        }
    }
    ensure!(
        lab.server.sql("select ssn from people")? == SECRET && failed.is_empty(),
        "{failed:#?}"
    );
    Ok(())
}

/// Who may define objects and run functions sees no more for it.
const FREE: [&str; 2] = ["", "      masked: [Define, Function]\n"];

#[test]
fn temporary_relations_that_shadow_others() -> Result<()> {
    for may in FREE {
        let Some(lab) = lab_with(&format!("{ALLOW_ALL}{may}"))? else {
            return Ok(());
        };
        temporary(&lab)?;
    }
    Ok(())
}

fn temporary(lab: &Lab) -> Result<()> {
    let agent = lab.start()?;
    let ways: &[(&str, &[&str])] = &[
        (
            "a table",
            &[
                "create temp table notes(body text)",
                "insert into notes values ('')",
            ],
        ),
        (
            "LOCAL TEMPORARY",
            &[
                "create local temporary table notes(body text)",
                "insert into notes values ('')",
            ],
        ),
        (
            "by its schema",
            &[
                "create table pg_temp.notes(body text)",
                "insert into notes values ('')",
            ],
        ),
        (
            "by its schema in other letters",
            &[
                "create table U&\"pg_t\\0065mp\".notes(body text)",
                "insert into notes values ('')",
            ],
        ),
        ("AS", &["create temp table notes as select 1 as body"]),
        ("INTO", &["select 1 as body into temp notes"]),
        (
            "INTO its schema in other letters",
            &["select 1 as body into U&\"pg_t\\0065mp\".notes"],
        ),
        ("a view", &["create temp view notes as select 1 as body"]),
        (
            "a view of its schema in other letters",
            &["create view U&\"pg_t\\0065mp\".notes as select 1 as body"],
        ),
        (
            "a view over a temporary table",
            &[
                "create temp table t as select 1 as body",
                "create view notes as select body from t",
            ],
        ),
        (
            "a view over a view over one",
            &[
                "create temp table t as select 1 as body",
                "create view u as select body from t",
                "create view notes as select body from u",
            ],
        ),
        (
            "a view over what a transaction made",
            &[
                "begin; create temp table t as select 1 as body; commit",
                "create view notes as select body from t",
            ],
        ),
        (
            "renamed to it",
            &[
                "create temp table t as select 1 as body",
                "alter table t rename to notes",
            ],
        ),
        (
            "renamed to it by its schema",
            &[
                "create table U&\"pg_t\\0065mp\".t as select 1 as body",
                "alter table pg_temp.t rename to notes",
            ],
        ),
        ("a sequence", &["create temp sequence notes"]),
        (
            "a sequence that is renamed",
            &["create temp sequence s", "alter sequence s rename to notes"],
        ),
        (
            "the sequence of an identity column",
            &["create temp table t(a int generated always as identity (sequence name notes))"],
        ),
        (
            "the sequence of a column made later",
            &[
                "create temp table t(a int not null)",
                "alter table t alter a add generated always as identity (sequence name notes)",
            ],
        ),
        (
            "a view over the sequence of a column",
            &[
                "create temp table t(a serial)",
                "create view notes as select last_value from t_a_seq",
            ],
        ),
        ("a function that makes one", &["select temporary()"]),
        (
            "a block that makes one",
            &["do 'begin create temp table notes(body text); insert into notes values (null); end'"],
        ),
        (
            "EXECUTE",
            &[
                "prepare p as select 1 as body",
                "create temp table notes as execute p",
            ],
        ),
        (
            "one of several in a text",
            &["begin; create temp table notes as select 1 as body; commit"],
        ),
        (
            "one that comes back",
            &[
                "create temp table notes as select 1 as body",
                "begin; drop table notes; rollback",
            ],
        ),
        (
            "a name in quotes",
            &["create temp table \"notes\"(body text); insert into notes values ('')"],
        ),
        (
            "first in the search_path",
            &[
                "set search_path = pg_temp, public",
                "create table notes as select 1 as body",
            ],
        ),
    ];
    hold(lab, &agent, ways, |agent| match agent {
        Some(agent) => lab.session(agent),
        None => lab.direct(),
    })
}

#[test]
fn search_paths_that_move() -> Result<()> {
    for may in FREE {
        let Some(lab) = lab_with(&format!("{ALLOW_ALL}{may}"))? else {
            return Ok(());
        };
        moves(&lab)?;
    }
    Ok(())
}

fn moves(lab: &Lab) -> Result<()> {
    let agent = lab.start()?;
    let ways: &[(&str, &[&str])] = &[
        ("SET", &["set search_path to 'other', public"]),
        ("SET SESSION", &["set session search_path = other, public"]),
        ("SET LOCAL", &["begin", "set local search_path = other, public"]),
        ("in quotes", &["set \"search_path\" = other, public"]),
        ("in capitals", &["SET \"SEARCH_PATH\" TO other, public"]),
        (
            "SET SCHEMA",
            &["set schema 'other'; set search_path = other, public"],
        ),
        (
            "set_config",
            &["select set_config('search_path', 'other,public', false)"],
        ),
        (
            "set_config by pg_catalog",
            &["select pg_catalog.set_config('search_path', 'other, public', false)"],
        ),
        (
            "set_config of a column",
            &["select set_config(name, 'other,public', false) from pg_settings where name = 'search_path'"],
        ),
        (
            "pg_settings",
            &["update pg_settings set setting = 'other, public' where name = 'search_path'"],
        ),
        (
            "a function",
            &["select moves(), set_config('a.b', 'c', false)", "select 1"],
        ),
        (
            "a block",
            &["do 'begin perform set_config(''search_path'', ''other,public'', false); end'"],
        ),
        (
            "EXECUTE",
            &[
                "prepare p as select set_config('search_path', 'other,public', false)",
                "execute p",
            ],
        ),
        (
            "a block's own SET",
            &["do $$ begin execute 'set search_path = other, public'; end $$"],
        ),
        (
            "a rollback that brings it back",
            &[
                "set search_path = other, public",
                "begin",
                "set search_path = public",
                "rollback",
            ],
        ),
        (
            "a savepoint that brings it back",
            &[
                "set search_path = other, public",
                "begin",
                "savepoint s",
                "set search_path = public",
                "rollback to s",
            ],
        ),
        (
            "one of several in a text",
            &["select 1; set search_path = other, public; select 2"],
        ),
        ("SET ROLE", &["set role bob"]),
        ("SET SESSION AUTHORIZATION", &["set session authorization bob"]),
        ("SET of the role", &["set \"role\" = 'bob'"]),
        (
            "set_config of the role",
            &["select set_config('role', 'bob', false)"],
        ),
        (
            "set_config of the role in other letters",
            &["select set_config(U&'r\\006fle', 'bob', false)"],
        ),
        (
            "a path that names the role's own schema",
            &["set search_path = \"$user\", public", "set role bob"],
        ),
        (
            "the path after the role",
            &["set role bob", "set search_path = \"$user\", public"],
        ),
        (
            "RESET of it after the role",
            &["set role bob", "reset search_path"],
        ),
        (
            "a schema of the user's name",
            &["begin", "alter schema bob rename to ann"],
        ),
    ];
    hold(lab, &agent, ways, |agent| {
        // A schema that was renamed is so only until its session ends.
        match agent {
            Some(agent) => lab.session_as(agent, "ann"),
            None => lab.direct_as("ann"),
        }
    })
}

/// Objects that run code by themselves.
const ACTING: &str = "
    create view seen as select set_config('search_path', 'other, public', false) as a;
    create view over_it as select a from seen;
    create view settings as select * from pg_settings;
    create table defaults(a text default set_config('search_path', 'other, public', false), b int);
    create view shows_it as select a, b from defaults;
    create table checked(a int check (set_config('search_path', 'other, public', false) is not null));
    create table ruled(a int);
    create rule r as on insert to ruled do instead select set_config('search_path', 'other, public', false);
    create domain told as text check (set_config('search_path', 'other, public', false) is not null);
    create table typed(a told);
    create table triggered(a int);
    create function touch() returns trigger language plpgsql as
        'begin perform set_config(''search_path'', ''other, public'', false); return new; end';
    create trigger touches before insert or update on triggered for each row execute function touch();
    create function makes() returns trigger language plpgsql as
        'begin create temp table notes(body text); insert into notes values (null); return new; end';
    create table making(a int);
    create trigger makes before insert on making for each row execute function makes();
    create function passes() returns trigger language plpgsql as 'begin insert into triggered values (1); return new; end';
    create table passing(a int);
    create trigger passes before insert on passing for each row execute function passes();
    create function made_id() returns uuid language internal as 'gen_random_uuid';
    create table stamped(a int, changed timestamptz, id uuid default made_id());
    create function stamp() returns trigger language plpgsql as 'begin new.changed := now(); return new; end';
    create trigger stamps before insert or update on stamped for each row execute function stamp();
";

#[test]
fn code_that_relations_run_by_themselves() -> Result<()> {
    for may in FREE {
        let Some(lab) = lab_with(&format!("{ALLOW_ALL}{may}"))? else {
            return Ok(());
        };
        by_themselves(&lab)?;
    }
    Ok(())
}

fn by_themselves(lab: &Lab) -> Result<()> {
    lab.server.sql(ACTING)?;
    let agent = lab.start()?;
    let ways: &[(&str, &[&str])] = &[
        ("a view", &["select a from seen"]),
        ("a view over a view", &["select a from over_it"]),
        (
            "a view of settings",
            &["update settings set setting = 'other, public' where name = 'search_path'"],
        ),
        ("a default", &["insert into defaults (b) values (1)"]),
        (
            "a default by name",
            &["update defaults set b = 2", "insert into defaults default values"],
        ),
        (
            "a default behind a view",
            &["insert into shows_it (b) values (1)"],
        ),
        ("a check", &["insert into checked values (1)"]),
        ("a rule", &["insert into ruled values (1)"]),
        ("a domain's check", &["select 'x'::told"]),
        ("a domain's check in an array", &["select '{x}'::told[]"]),
        ("a column of a domain", &["insert into typed values ('x')"]),
        ("a trigger", &["insert into triggered values (1)"]),
        ("a trigger that makes a table", &["insert into making values (1)"]),
        ("a trigger behind a trigger", &["insert into passing values (1)"]),
        (
            "a trigger by MERGE",
            &[
                "merge into triggered t using (select 1 as b) s on false when not matched then insert values (1)",
            ],
        ),
        (
            "in a CTE",
            &["with w as (insert into triggered values (1) returning a) select a from w"],
        ),
        (
            "in a transaction",
            &["begin", "insert into triggered values (1)", "commit"],
        ),
        (
            "one of several in a text",
            &["insert into triggered values (1); select 1"],
        ),
        (
            "made in a transaction",
            &[
                "begin; create table own(a text default set_config('search_path', 'other, public', false), b int); insert into own (b) values (1); commit",
            ],
        ),
        (
            "made in a transaction, statement by statement",
            &[
                "begin",
                "create view own as select set_config('search_path', 'other, public', false) as a",
                "select a from own",
                "commit",
            ],
        ),
    ];
    let begin = |agent: Option<&Running>| match agent {
        Some(agent) => lab.session(agent),
        None => {
            // What the last one made is in the way.
            lab.server.sql("drop table if exists own cascade").ok();
            lab.server.sql("drop view if exists own").ok();
            lab.direct()
        }
    };
    hold(lab, &agent, ways, begin)?;
    // One text is decided as a whole, before any of it has run.
    let mut session = lab.session(&agent)?;
    let both = format!("insert into triggered values (1); {HARMLESS}");
    ensure!(!shows(&told(&mut session, &[&both])), "it leaks");
    // What triggers mostly do changes nothing for the session.
    let mut session = lab.session(&agent)?;
    session.ask("insert into stamped values (1)")?;
    let value = session.value(HARMLESS);
    ensure!(matches!(value.as_deref(), Ok("plain")), "{value:?}");
    Ok(())
}

fn begun(lab: &Lab, agent: Option<&Running>, parameters: &[(&str, &str)]) -> Result<Client> {
    let stream = match agent {
        Some(agent) => agent.dial(lab.server.address(), Postgres::PORT)?,
        None => std::net::TcpStream::connect((lab.server.address(), Postgres::PORT))?,
    };
    let mut client = Client::new(stream)?;
    client.send(&say::startup(parameters))?;
    let answer = client.until_ready()?;
    ensure!(
        answer.last().context("no answer")?.tag == b'Z',
        "{parameters:?}: {answer:?}"
    );
    Ok(client)
}

#[test]
fn search_paths_that_sessions_begin_with() -> Result<()> {
    let Some(lab) = lab()? else { return Ok(()) };
    let agent = lab.start()?;
    let mut stays = lab.session(&agent)?;
    stays.value(HARMLESS)?;
    let who = |user: &'static str| [("user", user), ("database", "postgres")];
    let mut failed = Vec::new();
    let mut holds = |name: &str, parameters: &[(&str, &str)]| -> Result<()> {
        if !shows(&begun(&lab, None, parameters)?.ask(HARMLESS)?) {
            failed.push(format!("{name}: no leak"));
        }
        // Before the catalog has changed with what was altered, the session's first statement waits for it.
        if shows(&told(&mut begun(&lab, Some(&agent), parameters)?, &[HARMLESS])) {
            failed.push(format!("{name}: it leaks"));
        }
        Ok(())
    };
    for (name, value) in [
        ("search_path", "other, public"),
        ("SEARCH_PATH", "other, public"),
        ("options", "-c search_path=other,public"),
        ("options", "-csearch_path=other,public"),
        ("options", "--search_path=other,public"),
        ("options", "--search-path=other,public"),
        ("options", "--SEARCH-path=other,public"),
        ("options", "-c sear\\ch_path=other,public"),
        ("options", "-c application_name=x -c search_path=other,public"),
        ("options", "-c role=bob"),
        ("role", "bob"),
    ] {
        let parameters = [&who("ann")[..], &[(name, value)]].concat();
        holds(&format!("{name}={value}"), &parameters)?;
    }
    holds("the user's own schema", &who("bob"))?;
    let caught_up = |sql: &str| -> Result<()> {
        let before = agent.metric("bailiff_catalog_refreshes_total")?;
        lab.server.sql(sql)?;
        agent.wait_for("a look at the setting", || {
            Ok(agent.metric("bailiff_catalog_refreshes_total")? > before)
        })
    };
    for (sql, back) in [
        (
            "alter role ann set search_path = other, public",
            "alter role ann reset search_path",
        ),
        (
            "alter role ann in database postgres set search_path = other, public",
            "alter role ann in database postgres reset search_path",
        ),
        (
            "alter database postgres set search_path = other, public",
            "alter database postgres reset search_path",
        ),
        (
            "alter role all set search_path = other, public",
            "alter role all reset search_path",
        ),
    ] {
        caught_up(sql)?;
        holds(sql, &who("ann"))?;
        caught_up(back)?;
    }
    lab.server.sql("alter system set search_path = other, public")?;
    caught_up("select pg_reload_conf()")?;
    holds("the server's own", &who("ann"))?;
    ensure!(failed.is_empty(), "{failed:#?}");
    Ok(())
}

/// What isn't harmful goes on: a path that is told, a temporary table of another name, and all that comes after them.
#[test]
fn ordinary_work_goes_on() -> Result<()> {
    let defines = format!("{ALLOW_ALL}      masked: [Define]\n");
    let Some(lab) = lab_with(&defines)? else {
        return Ok(());
    };
    let agent = lab.start()?;
    let mut session = lab.session(&agent)?;
    for (before, sql, expected) in [
        ("select 1", "select ssn from people", "[masked]"),
        ("create temp table passing(a int, ssn text)", HARMLESS, "plain"),
        ("create index on passing(ssn)", HARMLESS, "plain"),
        (
            "create view over_it as select ssn from passing",
            HARMLESS,
            "plain",
        ),
        ("alter table passing rename to gone", HARMLESS, "plain"),
        ("alter table gone add column more int", HARMLESS, "plain"),
        ("drop table gone cascade", HARMLESS, "plain"),
        ("select 1", "select ssn from people", "[masked]"),
    ] {
        let answer = session.ask(before)?;
        ensure!(
            answer.iter().all(|message| message.tag != b'E'),
            "{before}: {answer:?}"
        );
        let value = session.value(sql);
        ensure!(
            matches!(value.as_deref(), Ok(value) if value == expected),
            "after {before}: {sql}: {value:?}"
        );
    }
    Ok(())
}
