//! PostgreSQL's own programs, with and without the agent.

use anyhow::{Result, ensure};
use bailiff_tests::{ALLOW_ALL, Compared, Lab, Message, client_program, say};

/// Takes numbers out of what is printed: those of objects, which grow from run to run, and those of processes.
fn without_numbers(text: String) -> String {
    text.lines()
        .filter(|line| !line.contains("lo_import ") && !line.contains("lo_unlink "))
        .map(|line| match line.split_once(" with PID ") {
            Some((before, _)) => format!("{before}\n"),
            None => format!("{line}\n"),
        })
        .collect()
}

#[test]
fn psql_with_all_that_a_person_types() -> Result<()> {
    let Some(compared) = Compared::new("")? else {
        return Ok(());
    };
    let script = client_program("with_psql.sql").display().to_string();
    let same = compared.same_but(&["psql", "-X", "-f", &script], without_numbers)?;
    ensure!(same.said.contains("terminating connection"), "{}", same.said);
    ensure!(same.operations().len() > 100, "{}", same.operations().len());
    Ok(())
}

#[test]
fn large_objects_by_the_function_call_message() -> Result<()> {
    // Not with `unknown: Allow`: the numbers of these functions are known.
    let Some(compared) = Compared::with(ALLOW_ALL, "", "")? else {
        return Ok(());
    };
    let script = "\\lo_import /etc/services 'a comment'\n\\set id :LASTOID\n\\lo_export :id /tmp/bailiff-lo\n\
                  \\! cmp /etc/services /tmp/bailiff-lo && echo equal\nselect count(*) from pg_largeobject_metadata;\n\
                  \\lo_unlink :id\n\\lo_export :id /tmp/bailiff-lo\nselect 'usable';\n";
    let run = "printf '%s' \"$1\" | psql -X -At -f -; rm -f /tmp/bailiff-lo";
    let same = compared.same_but(&["sh", "-c", run, "sh", script], |said| {
        said.lines()
            .filter(|line| {
                !line.contains("lo_unlink ") && !line.contains("lo_import ") && !line.contains("large object")
            })
            .map(|line| format!("{line}\n"))
            .collect()
    })?;
    ensure!(
        same.said.contains("equal\n1\n") && same.said.contains("usable"),
        "{}",
        same.said
    );
    let texts = serde_json::to_string(&same.events)?;
    ensure!(texts.contains("pg_catalog.lowrite") && texts.contains("pg_catalog.loread"));
    ensure!(same.unknown().is_empty());
    Ok(())
}

#[test]
fn function_calls_are_decided_as_calls_of_that_function() -> Result<()> {
    let rules = "    - name: most\n      effects: [read, transaction, execute]\n      functions: [pg_catalog.lo_open, pg_catalog.lo_creat]\n      action: Allow\n";
    let Some(lab) = Lab::new(rules, "")? else {
        return Ok(());
    };
    let agent = lab.start()?;
    let mut client = lab.session(&agent)?;
    let mut call = |function: u32, argument: i32| -> Result<Vec<Message>> {
        client.send(&say::function_call_with(function, &[&argument.to_be_bytes()]))?;
        client.until_ready()
    };
    let made = call(957, -1)?;
    ensure!(
        made.first().is_some_and(|message| message.tag == b'V'),
        "{made:?}"
    );
    let object = made
        .first()
        .and_then(|message| message.body.get(4..8)?.try_into().ok())
        .map(i32::from_be_bytes);
    // lo_unlink is no function that the rule names; pg_sleep's number isn't known, nor is that of a function that nobody has.
    for (function, argument) in [(964, object.unwrap_or_default()), (2626, 1), (4_000_000, 1)] {
        let answer = call(function, argument)?;
        ensure!(
            answer.iter().find_map(Message::sqlstate).as_deref() == Some("42501"),
            "{function}: {answer:?}"
        );
    }
    ensure!(lab.server.sql("select count(*) from pg_largeobject_metadata")? == "1");
    Ok(())
}

#[test]
fn pgbench_in_all_query_modes_and_pipelines() -> Result<()> {
    let Some(compared) = Compared::with(ALLOW_ALL, "", "")? else {
        return Ok(());
    };
    // One client with a fixed seed changes the same rows to the same values each time.
    let run = "set -e; pgbench -i -q -I dtGvpf >/dev/null 2>&1; \
               state() { psql -XAtqc \"select md5(string_agg(x::text, ',' order by x::text)) from (select row(tid, bid, aid, delta) x \
               from pgbench_history union all select row(aid, bid, abalance, filler) from pgbench_accounts where abalance <> 0) y\"; }; \
               for mode in simple extended prepared; do \
               pgbench -n -t 150 -M $mode --random-seed=7 2>&1 | grep processed; state; \
               pgbench -n -t 20 -c 8 -j 2 -M $mode -b simple-update -b select-only 2>&1 | grep -E 'processed|failed tr'; \
               psql -XAtqc 'truncate pgbench_history; update pgbench_accounts set abalance = 0'; done; \
               for mode in extended prepared; do printf '%s' \"$1\" | pgbench -n -t 40 -M $mode --random-seed=9 -f /dev/stdin 2>&1 | \
               grep processed; state; done";
    let pipeline = "\\set n random(1, 100000)\n\\startpipeline\nbegin;\nupdate pgbench_accounts set abalance = abalance + :n where aid = :n;\n\
                    select abalance from pgbench_accounts where aid = :n \\gset\ninsert into pgbench_history (tid, bid, aid, delta) values (1, 1, :n, :n);\n\
                    end;\n\\endpipeline\n\\startpipeline\nselect :n;\nselect count(*) from pgbench_history;\n\\endpipeline\n"
        .replace(" \\gset", ";");
    let same = compared.same(&["sh", "-c", run, "sh", &pipeline])?;
    ensure!(
        same.said.contains("150/150") && same.said.contains("40/40"),
        "{}",
        same.said
    );
    ensure!(same.unknown().is_empty(), "{:?}", same.unknown());
    ensure!(same.operations().len() > 4_000, "{}", same.operations().len());
    Ok(())
}

const TO_BE_DUMPED: &str = "
    create type mood as enum ('sad', 'glad'); create domain positive as int check (value > 0); create type pair as (a int, b text);
    create sequence numbers start 5;
    create table people (id int primary key default nextval('numbers'), name text not null, mood mood, n positive, p pair, tags text[], face bytea,
        upper_name text generated always as (upper(name)) stored, unique (name), check (id < 1000000));
    insert into people (name, mood, n, p, tags, face) select 'n''' || g || E'\\t\\\\' || chr(10), 'glad', g, row(g, 'x'::text)::pair, array['a', null, g::text], decode(md5(g::text), 'hex')
        from generate_series(1, 400) g;
    create table parts (id int, at date) partition by range (at);
    create table parts_1 partition of parts for values from ('2020-01-01') to ('2021-01-01');
    insert into parts values (1, '2020-05-05');
    create table child (extra text) inherits (people);
    create table refers (id int references people on delete cascade);
    insert into refers values (7);
    create view glad as select id, name from people where mood = 'glad';
    create materialized view counted as select mood, count(*) from people group by 1;
    create index on people (lower(name)) where id > 3;
    create function add(a int, b int) returns int language sql immutable as 'select a + b';
    create function touched() returns trigger language plpgsql as $f$ begin return new; end $f$;
    create trigger t before update on people for each row execute function touched();
    create rule r as on delete to refers do also select 1;
    alter table refers enable row level security; create policy mine on refers using (id > 0);
    comment on table people is 'it''s them'; grant select on people to public;
    create operator === (leftarg = int, rightarg = int, function = int4eq);
    create aggregate total (int) (sfunc = add, stype = int, initcond = '0');
    create publication pub for table people; create schema other; create table other.t (x xml, j jsonb, r int4range); insert into other.t values ('<a/>', '{\"a\": 1}', '[1,5)');
    select lo_from_bytea(4242, decode(repeat('00ff', 5000), 'hex'));
    create extension if not exists pgcrypto; create statistics st on id, name from people;
";

#[test]
fn pg_dump_and_pg_restore_in_all_formats() -> Result<()> {
    let Some(compared) = Compared::with(ALLOW_ALL, "", TO_BE_DUMPED)? else {
        return Ok(());
    };
    let run = "set -e; d=$(mktemp -d); \
               plain() { grep -v -e restrict -e 'Started on' -e 'Completed on' -e 'Archive created' -e '^--.*TOC'; }; \
               pg_dump | plain > $d/sql; cat $d/sql; pg_dump --inserts --clean --if-exists --no-owner | plain | sha256sum; \
               pg_dump --schema-only | plain | sha256sum; pg_dump -t people --column-inserts --rows-per-insert=50 | plain | sha256sum; \
               for f in c t d; do pg_dump -F$f -f $d/$f; pg_restore -f - $d/$f | plain | sha256sum; done; \
               pg_dump -Fd -j 3 -f $d/j; pg_restore -f - $d/j | plain | sha256sum; \
               for f in c t d j; do j=2; [ $f = t ] && j=1; dropdb --if-exists again 2>/dev/null; createdb again; \
               pg_restore -d again -j $j $d/$f; pg_dump again | plain | sha256sum; done; \
               dropdb again; createdb again; psql -X -q -d again -v ON_ERROR_STOP=1 -f $d/sql >/dev/null 2>&1; pg_dump again | plain | sha256sum; \
               sha256sum < $d/sql; dropdb again; pg_dumpall --globals-only | plain | sha256sum; \
               vacuumdb -q -z; reindexdb -q; clusterdb -q; createuser someone; dropuser someone; rm -r $d";
    let same = compared.same(&["sh", "-c", run])?;
    ensure!(same.unknown().is_empty(), "{:?}", same.unknown());
    ensure!(
        same.said.contains("COPY public.people") && same.operations().len() > 1_000,
        "{}",
        same.operations().len()
    );
    // All of them restored what was dumped.
    let mut digests: Vec<&str> = same.said.lines().filter(|line| line.ends_with("  -")).collect();
    let total = digests.len();
    digests.sort_unstable();
    digests.dedup();
    ensure!(total >= 13 && digests.len() <= total - 5, "{digests:?}");
    Ok(())
}
