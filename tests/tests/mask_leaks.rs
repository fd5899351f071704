//! Ways on which a masked value has left elsewhere, each tried against a real server whose catalog the agent reads.
//!
//! Every one is tried past the agent first, where it has to show the value: otherwise it would be no leak. Through the agent nothing
//! of it may be told, whether the statement is refused or its result is masked.

use anyhow::{Result, ensure};
use bailiff_tests::{ALLOW_ALL, Client, Lab, Message, say};

const CATALOG: &str = "  catalog: { user: postgres }\n";

const MASKS: &str = "  masks:
    - columns: [public.people.ssn, public.parted.secret, public.wide.ssn]
      with: Redact
    - columns: [public.people.salary]
      with: \"Null\"
";

/// What no answer may hold.
const SECRETS: [&str; 6] = [
    "123-45-6789",
    "771234",
    "771235",
    "3132332d34352d36373839",
    "part-secret",
    "wide-secret",
];

const SCHEMA: &str = "
    create table people(id int primary key, name text, ssn text unique, salary int, check (salary > 0));
    insert into people values (1, 'ann', '123-45-6789', 771234);
    create table notes(person int, body text, ssn text);
    insert into notes values (1, 'n1', 'plain');
    create table parted(id int, secret text) partition by list (id);
    create table part1 partition of parted for values in (1);
    insert into parted values (1, 'part-secret');
    create table wide(ssn text, twice text generated always as (ssn || '!') stored, plain text);
    insert into wide values ('wide-secret', default, 'w');
    create view v as select id, ssn as shown, salary + 1 as more from people;
    create view vv as select shown as again from v;
    create view whole as select row_to_json(people) as it from people;
    create materialized view kept as select ssn as old from people;
    create function told(int) returns text language sql stable as 'select ssn from people where id = $1';
    create function all_of() returns setof people language sql stable as 'select * from people';
    create function unseen() returns text language plpgsql as 'begin return (select ssn from people limit 1); end';
    create function noticed() returns int language plpgsql as
        'begin raise notice ''%'', (select ssn from people limit 1); return 1; end';
    create function opened() returns refcursor language plpgsql as
        'declare c refcursor := ''c''; begin open c for select ssn from people; return c; end';
    create function after_note() returns trigger language plpgsql as
        'begin new.body := (select ssn from people limit 1); return new; end';
    create aggregate whole_of(text) (sfunc = textcat, stype = text);
    create function minus(text, int) returns text language sql as 'select ssn from people where id = $2';
    create operator <<! (leftarg = text, rightarg = int, function = minus);
    analyze people;
";

/// A name for each leak, and the statements of a session that shows it.
const LEAKS: &[(&str, &[&str])] = &[
    // Those that are known from elsewhere.
    ("whole row", &["select people from people"]),
    ("whole row as text", &["select people::text from people"]),
    ("field of a whole row", &["select (people).ssn from people"]),
    ("star of a whole row", &["select (p).* from people p"]),
    ("row_to_json", &["select row_to_json(p) from people p"]),
    (
        "union",
        &["select name from people union all select ssn from people"],
    ),
    ("an expression", &["select ssn || '' from people"]),
    ("a view", &["select shown from v"]),
    ("a view over a view", &["select * from vv"]),
    ("a view's expression", &["select more from v"]),
    ("a view's whole row", &["select it from whole"]),
    ("a materialised view", &["select old from kept"]),
    ("COPY TO STDOUT", &["copy people to stdout"]),
    ("COPY of a query", &["copy (select shown from v) to stdout"]),
    ("COPY of columns", &["copy people (salary, ssn) to stdout"]),
    ("COPY of a partition", &["copy part1 to stdout"]),
    (
        "COPY of a table with a generated column",
        &["copy wide to stdout csv"],
    ),
    (
        "COPY of what a CTE gives",
        &["copy (with c(x) as (select ssn from people) select x from c) to stdout"],
    ),
    (
        "COPY of RETURNING",
        &["copy (update people set name = name returning *) to stdout"],
    ),
    (
        "COPY of a whole row",
        &["copy (select p from people p) to stdout"],
    ),
    (
        "COPY of JSON",
        &["copy (select row_to_json(p) from people p) to stdout csv"],
    ),
    (
        "COPY of a scalar subquery",
        &["copy (values ((select ssn from people))) to stdout"],
    ),
    ("COPY in CSV", &["copy people to stdout csv header force quote *"]),
    (
        "COPY with an odd delimiter",
        &["copy people (name, ssn) to stdout csv delimiter '-' quote '!' escape '?'"],
    ),
    (
        "COPY with a delimiter that is escaped",
        &["copy people (id, name, salary) to stdout (delimiter '!')"],
    ),
    (
        "COPY with a null like the value",
        &["copy people (ssn) to stdout (null '123-45-6789')"],
    ),
    (
        "COPY with a null like the mask",
        &["copy people (ssn, salary) to stdout (null '[masked]')"],
    ),
    (
        "COPY with a null like the value in CSV",
        &["copy people (ssn) to stdout csv null '123-45-6789'"],
    ),
    (
        "COPY with names first where there are none",
        &["copy people (ssn) to stdout (format csv, header 0)"],
    ),
    (
        "COPY in another encoding",
        &["copy people to stdout (encoding 'latin1')"],
    ),
    (
        "COPY in an encoding that hides delimiters",
        &["copy people (ssn) to stdout (encoding 'SJIS')"],
    ),
    ("COPY in binary", &["copy people to stdout binary"]),
    ("COPY in the old form", &["copy binary people to stdout"]),
    (
        "COPY in two ways",
        &["copy notes to stdout; copy people to stdout csv"],
    ),
    (
        "COPY of a table that changed",
        &["alter table people drop column name", "copy people to stdout"],
    ),
    (
        "COPY of a view that changed",
        &[
            "create or replace view v as select id, ssn || '' as shown, salary + 1 as more from people",
            "copy (select * from v) to stdout",
        ],
    ),
    ("a failed cast", &["select ssn::int from people"]),
    (
        "a failed cast of a hidden value",
        &["select 1 from people where ssn::int = 1"],
    ),
    (
        "DETAIL of a unique violation",
        &["insert into people select 2, 'b', p.ssn, 1 from people p"],
    ),
    (
        "DETAIL of a failed check",
        &["update people set salary = -1 where id = 1"],
    ),
    (
        "DETAIL of a failed check of another column",
        &["update people set id = null where id = 1"],
    ),
    ("a notice", &["select noticed()"]),
    (
        "a notice of a block",
        &["do $$ begin raise notice '%', (select ssn from people limit 1); end $$"],
    ),
    (
        "NOTIFY",
        &["listen x", "select pg_notify('x', ssn) from people", "commit"],
    ),
    (
        "pg_stats",
        &[
            "select most_common_vals, histogram_bounds from pg_stats where attname = 'old'",
            "select ssn from people",
        ],
    ),
    (
        "query_to_xml",
        &["select query_to_xml('select ssn from people', true, false, '')"],
    ),
    (
        "table_to_xml",
        &["select table_to_xml('people', true, false, '')"],
    ),
    (
        "RENAME COLUMN",
        &[
            "alter table people rename ssn to harmless",
            "select harmless from people",
        ],
    ),
    // Others.
    (
        "RENAME of the table",
        &["alter table people rename to persons", "select ssn from persons"],
    ),
    (
        "another schema",
        &[
            "create schema s",
            "alter table people set schema s",
            "select ssn from s.people",
        ],
    ),
    (
        "a dropped column that hid another",
        &[
            "alter table notes drop column ssn",
            "select (select ssn from notes) from people",
        ],
    ),
    (
        "a dropped column in one text",
        &["alter table notes drop column ssn; select (select ssn from notes) from people"],
    ),
    (
        "a renamed column that hid another",
        &[
            "alter table notes rename ssn to x",
            "select (select ssn from notes) from people",
        ],
    ),
    (
        "a temporary table that hides another",
        &[
            "create temp table notes (body text)",
            "insert into notes values ('')",
            "select (select ssn from notes) from people",
        ],
    ),
    ("a scalar subquery", &["select (select ssn from people limit 1)"]),
    ("an outer column", &["select (select p.ssn) from people p"]),
    (
        "a lateral subquery",
        &["select q.x from people p, lateral (select p.ssn) q(x)"],
    ),
    (
        "a CTE",
        &["with c(x) as (select ssn from people) select x from c"],
    ),
    (
        "a recursive CTE",
        &[
            "with recursive c(n, x) as (select 1, ssn from people union all select n + 1, x from c where n < 2) select x from c",
        ],
    ),
    (
        "a CTE that writes",
        &["with c as (update people set name = name returning ssn) select * from c"],
    ),
    ("RETURNING", &["update people set name = 'x' returning *"]),
    ("RETURNING of DELETE", &["delete from people returning ssn || ''"]),
    (
        "aliases of a join",
        &["select b from (people join notes on true) as j(a, n, b)"],
    ),
    ("aliases of a table", &["select x from people as p(a, b, x)"]),
    ("TABLE", &["table people"]),
    ("an aggregate", &["select max(ssn) from people"]),
    ("an own aggregate", &["select whole_of(ssn) from people"]),
    ("string_agg", &["select string_agg(ssn, ',') from people"]),
    ("array_agg of rows", &["select array_agg(p) from people p"]),
    ("a window", &["select first_value(ssn) over () from people"]),
    (
        "an array of a subquery",
        &["select array(select ssn from people)"],
    ),
    ("CASE", &["select case when true then ssn end from people"]),
    ("coalesce", &["select coalesce(null, ssn) from people"]),
    ("VALUES", &["values ((select ssn from people))"]),
    (
        "to_jsonb and a path",
        &["select to_jsonb(p) -> 'ssn' from people p"],
    ),
    (
        "json_each",
        &["select value from people p, json_each_text(row_to_json(p))"],
    ),
    ("unnest", &["select unnest(array[ssn]) from people"]),
    ("encode", &["select encode(ssn::bytea, 'hex') from people"]),
    ("a function of SQL", &["select told(1)"]),
    ("a function that gives rows", &["select ssn from all_of()"]),
    ("a function nobody can see into", &["select unseen()"]),
    ("an own operator", &["select 'x' <<! 1"]),
    ("a function's cursor", &["select opened()", "fetch all c"]),
    (
        "a cursor",
        &["declare c cursor for select ssn from people", "fetch all c"],
    ),
    ("PREPARE", &["prepare p as select ssn from people", "execute p"]),
    (
        "EXECUTE of an EXPLAIN",
        &["explain (analyze, verbose) select * from people where ssn <> '123-45-6789'"],
    ),
    (
        "CREATE TABLE AS",
        &[
            "create table t1 as select ssn as x from people",
            "select x from t1",
        ],
    ),
    (
        "SELECT INTO",
        &["select ssn as x into t1 from people", "select x from t1"],
    ),
    (
        "INSERT … SELECT",
        &[
            "insert into notes (body) select ssn from people",
            "select body from notes",
        ],
    ),
    (
        "UPDATE … FROM",
        &[
            "update notes set body = p.ssn from people p",
            "select body from notes",
        ],
    ),
    (
        "UPDATE into a column that is shown",
        &["update people set name = ssn", "select name from people"],
    ),
    (
        "MERGE",
        &[
            "merge into notes n using people p on p.id = n.person when matched then update set body = p.ssn",
            "select body from notes",
        ],
    ),
    (
        "ON CONFLICT",
        &["insert into people values (1) on conflict (id) do update set name = people.ssn returning name"],
    ),
    (
        "a view made for it",
        &[
            "create view mine as select ssn as x from people",
            "select x from mine",
        ],
    ),
    (
        "a rule made for it",
        &[
            "create rule r as on update to notes do instead select ssn from people",
            "update notes set body = ''",
        ],
    ),
    (
        "a trigger made for it",
        &[
            "create trigger t before update on notes for each row execute function after_note()",
            "update notes set body = '' returning body",
        ],
    ),
    (
        "a default made for it",
        &[
            "alter table notes alter body set default told(1)",
            "insert into notes default values returning body",
        ],
    ),
    ("a partition", &["select secret from part1"]),
    ("a partitioned table", &["select * from parted"]),
    (
        "a child made for it",
        &[
            "create table child () inherits (people)",
            "insert into child select * from people",
            "select ssn from child",
        ],
    ),
    (
        "set_config",
        &["select set_config('a.b', ssn, false) from people"],
    ),
    (
        "a large object",
        &[
            "select lo_from_bytea(4711, ssn::bytea) from people",
            "select convert_from(lo_get(4711), 'utf8')",
        ],
    ),
    ("XMLELEMENT", &["select xmlelement(name x, ssn) from people"]),
    ("XMLFOREST", &["select xmlforest(ssn) from people"]),
    ("GROUP BY", &["select ssn from people group by ssn"]),
    ("DISTINCT", &["select distinct ssn from people"]),
    (
        "USING",
        &["select ssn from people join (values ('123-45-6789')) o(ssn) using (ssn)"],
    ),
    (
        "NATURAL",
        &["select * from people natural join (values (1, 2)) o(id, z)"],
    ),
    (
        "INTERSECT",
        &["select ssn from people intersect select ssn from people"],
    ),
    ("a quoted name", &["select \"ssn\" from \"public\".\"people\""]),
    ("an escaped name", &["select U&\"\\0073sn\" from people"]),
    ("a function's notation", &["select ssn(people) from people"]),
    ("a row's constructor", &["select row(p.*) from people p"]),
    (
        "a comparison's witness",
        &["select coalesce(nullif(ssn, 'x'), 'y') from people"],
    ),
    ("a statement after another", &["select 1; select ssn from people"]),
];

/// Ordinary statements, and what they show: what isn't masked as it is, what is as a mask, and `-` for null.
const PASSING: &[(&str, &str)] = &[
    ("select * from people", "1,ann,[masked],-"),
    (
        "select p.* from people p where p.id = 1 order by p.name",
        "1,ann,[masked],-",
    ),
    ("select ssn as x, name from people", "[masked],ann"),
    ("select id, shown from v", "1,[masked]"),
    ("select again from vv", "[masked]"),
    ("select q.ssn from (select * from people) q", "[masked]"),
    (
        "with c as (select * from people) select name, ssn from c",
        "ann,[masked]",
    ),
    (
        "select n.body, p.ssn from notes n join people p on p.id = n.person",
        "n1,[masked]",
    ),
    (
        "select ssn from people union all select ssn from people",
        "[masked];[masked]",
    ),
    ("select (select ssn from people limit 1)", "[masked]"),
    ("select count(*), max(id) from people", "1,1"),
    ("select max(ssn), max(name) from people", "-,ann"),
    ("select upper(name), upper(ssn) from people", "ANN,-"),
    ("select row_to_json(p) from people p", "-"),
    (
        "select name from people where id in (select person from notes)",
        "ann",
    ),
    ("select ssn from notes", "plain"),
    ("select id, secret from parted", "1,[masked]"),
    ("update people set name = 'ann' returning id, ssn", "1,[masked]"),
    ("table people", "1,ann,[masked],-"),
];

fn lab(rules: &str) -> Result<Option<Lab>> {
    let Some(lab) = Lab::new(rules, CATALOG)? else {
        return Ok(None);
    };
    lab.server.sql(SCHEMA)?;
    Ok(Some(lab))
}

/// What a session is told, until one of its statements fails.
fn told(client: &mut Client, statements: &[&str]) -> Result<Vec<Message>> {
    let mut answers = client.ask("begin")?;
    for sql in statements {
        answers.extend(client.ask(sql)?);
    }
    answers.extend(client.ask("rollback")?);
    Ok(answers)
}

fn shows(answers: &[Message]) -> Option<&'static str> {
    let holds = |message: &Message, secret: &str| {
        message
            .body
            .windows(secret.len())
            .any(|part| part == secret.as_bytes())
    };
    SECRETS
        .into_iter()
        .find(|secret| answers.iter().any(|message| holds(message, secret)))
}

fn leaks_nothing(rules: &str) -> Result<()> {
    let Some(lab) = lab(rules)? else {
        return Ok(());
    };
    let agent = lab.start()?;
    // A session that stays: a database's catalog is kept as long as somebody is in it.
    let mut stays = lab.session(&agent)?;
    stays.value("select 1")?;
    let is_read = || -> Result<bool> { Ok(agent.metric("bailiff_catalogs")? == 1) };
    agent.wait_for("the catalog", is_read)?;
    let mut failed = Vec::new();
    for (name, statements) in LEAKS {
        if shows(&told(&mut lab.direct()?, statements)?).is_none() {
            failed.push(format!("{name} is no leak"));
            continue;
        }
        let mut session = lab.session(&agent)?;
        match told(&mut session, statements) {
            Ok(answers) => {
                if let Some(secret) = shows(&answers) {
                    failed.push(format!("{name} tells {secret}"));
                }
            }
            // What can't be masked ends the session.
            Err(why) => println!("{name}: the session ended: {why}"),
        }
    }
    agent.wait_for("the catalog again", is_read)?;
    ensure!(failed.is_empty(), "{failed:#?}");
    println!("{} leaks", LEAKS.len());
    Ok(())
}

#[test]
fn nothing_that_is_masked_leaks() -> Result<()> {
    leaks_nothing(&format!("{ALLOW_ALL}{MASKS}"))
}

/// Where a session may define objects, what names stand for changes under it, before anybody else can see that.
#[test]
fn nothing_leaks_to_sessions_that_define_objects() -> Result<()> {
    let Some(lab) = lab(&format!("{}      masked: [Define]\n{MASKS}", ALLOW_ALL))? else {
        return Ok(());
    };
    let agent = lab.start()?;
    for statements in [
        [
            "alter table notes drop column ssn",
            "select (select ssn from notes) from people",
        ],
        [
            "alter table notes rename ssn to x",
            "select (select ssn from notes) from people",
        ],
        [
            "create temp table notes (body text); insert into notes values ('')",
            "select (select ssn from notes) from people",
        ],
        [
            "drop table notes",
            "select (select ssn from (select 1) notes) from people",
        ],
        [
            "alter table notes drop column ssn; select (select ssn from notes) from people",
            "select 1",
        ],
    ] {
        ensure!(
            shows(&told(&mut lab.direct()?, &statements)?).is_some(),
            "{statements:?} is no leak"
        );
        let mut session = lab.session(&agent)?;
        session.value("select 1")?;
        if let Ok(answers) = told(&mut session, &statements) {
            ensure!(shows(&answers).is_none(), "{statements:?}: {answers:?}");
        }
    }
    Ok(())
}

#[test]
fn ordinary_statements_pass_and_are_masked() -> Result<()> {
    let Some(lab) = lab(&format!("{ALLOW_ALL}{MASKS}"))? else {
        return Ok(());
    };
    let agent = lab.start()?;
    let mut session = lab.session(&agent)?;
    let mut failed = Vec::new();
    for (sql, expected) in PASSING {
        let answer = session.ask(sql)?;
        let rows = answer.iter().filter(|message| message.tag == b'D');
        let shown = rows.map(|row| {
            let values = row.values();
            let values = values.iter().map(|value| value.as_deref().unwrap_or("-"));
            values.collect::<Vec<_>>().join(",")
        });
        let shown = shown.collect::<Vec<_>>().join(";");
        if shown != *expected {
            let why = answer
                .iter()
                .find_map(|message| message.sqlstate().and(message.field(b'M')));
            failed.push(format!("{sql}: {shown} {why:?}, not {expected}"));
        }
    }
    ensure!(failed.is_empty(), "{failed:#?}");
    Ok(())
}

/// What is put off until a transaction's end is told about another statement than the one that it is about.
#[test]
fn what_is_checked_later_tells_nothing() -> Result<()> {
    let Some(lab) = lab(&format!("{ALLOW_ALL}{MASKS}"))? else {
        return Ok(());
    };
    lab.server.sql(
        "create table refs(code text references people(ssn) deferrable initially deferred);
         insert into refs values ('123-45-6789');
         create function late() returns trigger language plpgsql as
             'begin raise notice ''saw %'', old.ssn; return null; end';
         create constraint trigger says after update on people deferrable initially deferred
             for each row execute function late()",
    )?;
    let agent = lab.start()?;
    let mut stays = lab.session(&agent)?;
    stays.value("select 1")?;
    agent.wait_for("the catalog", || Ok(agent.metric("bailiff_catalogs")? == 1))?;
    let deletes = "delete from people where id = 1";
    let updates = "update people set name = 'x' where id = 1";
    let simple = |statements: &[&str]| {
        statements
            .iter()
            .flat_map(|sql| say::query(sql))
            .collect::<Vec<u8>>()
    };
    let pipeline = |sql: &str| [say::run(sql), say::sync()].concat();
    for (name, sent, ends) in [
        ("COMMIT", simple(&["begin", deletes, "commit"]), 3),
        (
            "SET CONSTRAINTS",
            simple(&["begin", deletes, "set constraints all immediate", "rollback"]),
            4,
        ),
        ("Sync", pipeline(deletes), 1),
        ("a notice at COMMIT", simple(&["begin", updates, "commit"]), 3),
        ("a notice at Sync", pipeline(updates), 1),
    ] {
        let answers = |mut client: Client| -> Result<Vec<Message>> {
            client.send(&sent)?;
            let mut all = Vec::new();
            for _ in 0..ends {
                all.extend(client.until_ready()?);
            }
            Ok(all)
        };
        ensure!(shows(&answers(lab.direct()?)?).is_some(), "{name} is no leak");
        let told = answers(lab.session(&agent)?)?;
        ensure!(shows(&told).is_none(), "{name}: {told:?}");
        ensure!(
            told.iter().any(|message| matches!(message.tag, b'E' | b'N')),
            "{name}: {told:?}"
        );
    }
    // The next transaction's errors have their own words.
    let mut session = lab.session(&agent)?;
    session.ask(updates)?;
    let answer = session.ask("begin; commit; rollback to savepoint s")?;
    ensure!(
        format!("{answer:?}").contains("can only be used in transaction blocks"),
        "{answer:?}"
    );
    Ok(())
}
