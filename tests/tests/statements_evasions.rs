//! Ways to have a statement do more than it seems to, each tried against a real server.
//!
//! Every one is tried past the agent first, where it has to reach what it is after: otherwise it would be no evasion. Through the agent
//! the server has to be afterwards as it was before, and nothing of what is hidden may have been told.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::TcpStream;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{Client, Lab, Message, Postgres, Running, say};

const SECRET: &str = "out of the vault";

/// What each attack finds: a table that it may use, one that it may not, and code that touches the latter.
const SCHEMA: &str = "
    create table open(i int primary key, x int, y text);
    insert into open select n, n, 'o' || n from generate_series(1, 5) n;
    create table vault(i int primary key, secret text);
    insert into vault values (1, 'out of the vault'), (2, 'out of the vault');
    create table nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn(i int);
    insert into nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn values (1);
    create schema hidden;
    create table hidden.open as select i, secret as y from vault;
    create sequence counter;
    create function wipe() returns int language plpgsql as 'begin delete from vault; return 1; end';
    create function wipe(int, int) returns int language plpgsql as 'begin delete from vault; return 1; end';
    create function wipe(int) returns bool language plpgsql immutable as 'begin perform wipe(); return true; end';
    create function definer() returns int language plpgsql security definer as 'begin delete from vault; return 1; end';
    create function wiping() returns trigger language plpgsql as 'begin delete from vault; return new; end';
    create function harmless() returns trigger language plpgsql as 'begin return new; end';
    create table watched(i int);
    create trigger harmless before insert on watched for each row execute function harmless();
    create procedure wipes() language plpgsql as 'begin delete from vault; end';
    create operator <!! (leftarg = int, rightarg = int, function = wipe);
    create operator hidden.+ (leftarg = int, rightarg = int, function = wipe);
    create function \"json_scalar\"(int) returns int language plpgsql as 'begin delete from vault; return 1; end';
    create function wiped(int, int, int) returns int language plpgsql as 'begin delete from vault; return 1; end';
    create type shape as (i int);
    create extension dblink;
    create extension postgres_fdw;
    select lo_from_bytea(4711, 'kept');
";

/// Everything in the cluster and database that an attack may be after, in one value.
const STATE: &str = "
    select md5(coalesce(string_agg(x, '/' order by x), '')) from (
      select format('relation %s %s %s %s %s %s %s', oid, relname, relkind, relowner, relnamespace, relacl, relrowsecurity) as x
        from pg_class where oid >= 16384 and relnamespace::regnamespace::text !~ '^pg_'
      union all select format('function %s %s %s', oid, proname, prosrc) from pg_proc where oid >= 16384
      union all select format('role %s %s', rolname, rolsuper) from pg_roles
      union all select format('object %s %s', loid, md5(data)) from pg_largeobject
      union all select format('object %s', oid) from pg_largeobject_metadata
      union all select format('publication %s', pubname) from pg_publication
      union all select format('settings %s %s', setrole, setconfig) from pg_db_role_setting
      union all select format('prepared %s', gid) from pg_prepared_xacts
      union all select format('lock %s', objid) from pg_locks where locktype = 'advisory'
      union all select format('session %s', pid) from pg_stat_activity where application_name = 'victim'
      union all select format('file %s', f) from pg_ls_dir('FILES') f
      union all select format('sequence %s %s', sequencename, last_value) from pg_sequences
      union all select format('comment %s %s', objoid, description) from pg_description where objoid >= 16384
      union all select format('rows %s', query_to_xml(format('select * from %s', oid::regclass), true, false, ''))
        from pg_class where oid >= 16384 and relkind = 'r' and relname not in ('open', 'watched')
          and relnamespace::regnamespace::text !~ '^pg_'
      union all select format('open %s', open) from open
    ) all_of_it";

/// The tables that are denied, and where their rows may have got to.
const VAULT: &str = "
    select md5(coalesce(string_agg(x, '/' order by x), '')) from (
      select format('relation %s %s %s %s %s %s', oid, relname, relnamespace::regnamespace, relowner, relacl, obj_description(oid)) as x
        from pg_class where oid in (TABLES)
      union all select format('rows %s', query_to_xml(format('select * from only %s', oid::regclass), true, false, ''))
        from pg_class where oid in (TABLES)
      union all select format('published %s', pubname) from pg_publication where puballtables
      union all select format('stolen %s', oid::regclass) from pg_class
        where oid >= 16384 and relkind in ('r', 'm') and oid not in (TABLES, HIDDEN) and relnamespace::regnamespace::text !~ '^pg_toast'
          and query_to_xml(format('select * from %s', oid::regclass), true, false, '')::text ~ 'out of the vault'
    ) all_of_it";

/// Lets use one table.
const ONE_TABLE: &str = "    - name: open
      effects: [read, insert, update, delete, copy, transaction, set]
      relations: [public.open]
      action: Allow
";

/// Lets do everything but running code, and nothing with one table.
const ALL_BUT_ONE: &str = "    - name: all
      effects: [read, insert, update, delete, truncate, create, alter, drop, grant, copy, set, transaction]
      action: Allow
    - name: not the vault
      effects: [read, insert, update, delete, truncate, create, alter, drop, grant, copy, transaction]
      relations: [public.vault, public.nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn]
      action: Deny
";

/// One attack: what is said, in one session or in several.
struct Evasion {
    name: &'static str,
    /// Each a session: parameters of its start, and what is sent, each part when the last one is answered.
    sessions: Vec<Session>,
    /// Only a policy that names what may be used is to stop it.
    only_listed: bool,
}

struct Session {
    parameters: Vec<(&'static str, &'static str)>,
    parts: Vec<Vec<u8>>,
}

fn evasion(name: &'static str, statements: &[&str]) -> Evasion {
    Evasion {
        name,
        sessions: vec![Session {
            parameters: Vec::new(),
            parts: statements.iter().map(|sql| say::query(sql)).collect(),
        }],
        only_listed: false,
    }
}

/// One that isn't after the vault.
fn other(name: &'static str, statements: &[&str]) -> Evasion {
    Evasion {
        only_listed: true,
        ..evasion(name, statements)
    }
}

fn with(name: &'static str, parameters: &[(&'static str, &'static str)], statements: &[&str]) -> Evasion {
    let mut this = evasion(name, statements);
    for session in &mut this.sessions {
        session.parameters = parameters.to_vec();
    }
    this
}

fn sent(name: &'static str, parts: Vec<Vec<u8>>) -> Evasion {
    Evasion {
        name,
        sessions: vec![Session {
            parameters: Vec::new(),
            parts,
        }],
        only_listed: false,
    }
}

/// A session after another.
fn then(mut first: Evasion, second: Evasion) -> Evasion {
    first.sessions.extend(second.sessions);
    first
}

/// Plain in one reading of backslashes, and a deletion in the other.
const BACKSLASHES: &str = r"select '\'';delete from vault;--'";

/// Statements within statements.
fn hidden_writes() -> Vec<Evasion> {
    vec![
        evasion(
            "a CTE that deletes",
            &["with gone as (delete from vault returning *) select count(*) from gone"],
        ),
        evasion(
            "a CTE of an insert",
            &[
                "with gone as (delete from vault returning *) insert into open select i + 100, i, 'x' from gone",
            ],
        ),
        evasion("EXPLAIN ANALYZE", &["explain analyze delete from vault"]),
        evasion(
            "EXPLAIN with options",
            &["explain (costs off, analyze 1) delete from vault"],
        ),
        evasion(
            "EXPLAIN ANALYZE of CREATE TABLE AS",
            &["explain analyze create table stolen as select * from vault"],
        ),
        evasion("DO", &["do $$ begin delete from vault; end $$"]),
        evasion(
            "DO with dynamic SQL",
            &["do $$ begin execute 'del' || 'ete from va' || 'ult'; end $$"],
        ),
        evasion("a function", &["select wipe()"]),
        evasion("a function in FROM", &["select * from wipe()"]),
        evasion("a function in a condition", &["select 1 from open where wipe(i)"]),
        evasion(
            "a function in ORDER BY",
            &["select 1 from open order by wipe(i, 1)"],
        ),
        evasion("a function in VALUES", &["values (wipe())"]),
        evasion("a function in LIMIT", &["select 1 from open limit wipe()"]),
        evasion("a function in an UPDATE", &["update open set x = wipe()"]),
        evasion(
            "a function in RETURNING",
            &["insert into open values (100, 1, 'x') returning wipe()"],
        ),
        evasion("a function of SECURITY DEFINER", &["select definer()"]),
        evasion("a procedure", &["call wipes()"]),
        evasion("an operator of a schema", &["select 1 operator(hidden.+) 2"]),
        evasion("an operator of one's own", &["select 1 <!! 2"]),
        evasion("what newer servers read as SQL/JSON", &["select json_scalar(1)"]),
        evasion(
            "MERGE",
            &["merge into vault v using open o on v.i = o.i when matched then delete"],
        ),
        evasion(
            "MERGE from it",
            &["merge into open o using vault v on v.i = o.i when matched then update set y = v.secret"],
        ),
        evasion("SELECT INTO", &["select * into stolen from vault"]),
        evasion("CREATE TABLE AS", &["create table stolen as table vault"]),
        evasion(
            "a materialized view",
            &["create materialized view stolen as select * from vault"],
        ),
        evasion(
            "COPY of a query",
            &["copy (delete from vault returning *) to stdout"],
        ),
        evasion("COPY of a table", &["copy vault to stdout"]),
        other("COPY TO PROGRAM", &["copy open to program 'cat > FILES/ran'"]),
        other("COPY TO a file", &["copy open to 'FILES/written'"]),
        evasion(
            "COPY FROM PROGRAM",
            &["copy open (i, y) from program 'echo \"900\tout of the vault\"'"],
        ),
        evasion(
            "PREPARE and EXECUTE",
            &["prepare p as delete from vault", "execute p"],
        ),
        evasion(
            "CREATE TABLE AS EXECUTE",
            &[
                "prepare p as select * from vault",
                "create temp table t as execute p",
                "table t",
            ],
        ),
        evasion(
            "a cursor",
            &[
                "begin",
                "declare c cursor for select * from vault",
                "fetch all from c",
            ],
        ),
        evasion(
            "INSERT of a SELECT",
            &["insert into open select i + 100, i, secret from vault"],
        ),
        evasion(
            "a subselect in SET",
            &["update open set y = (select secret from vault limit 1)"],
        ),
        evasion(
            "ON CONFLICT",
            &["insert into vault values (1, 'x') on conflict (i) do update set secret = excluded.secret"],
        ),
        evasion("TABLE", &["table vault"]),
        evasion("locks of rows", &["select * from open, vault for update"]),
        evasion("TRUNCATE", &["truncate open, vault"]),
        evasion(
            "CASCADE",
            &[
                "create table child (i int references vault)",
                "drop table vault cascade",
            ],
        ),
    ]
}

/// Words that are hidden from who doesn't read as the server does.
fn words() -> Vec<Evasion> {
    let quoted = r"set standard_conforming_strings = off";
    vec![
        evasion("several statements", &["select 1; delete from vault; select 2"]),
        evasion("empty statements", &[";;; ; delete from vault;"]),
        evasion(
            "a nested comment",
            &["select 1 /* '/* */ */ ; delete from vault /* ' */"],
        ),
        evasion(
            "a comment that a carriage return ends",
            &["select 1 -- \r; delete from vault"],
        ),
        evasion("a comment between", &["delete/**/from/*;*/vault"]),
        evasion(
            "dollar quotes",
            &["select $a$ $b$ $a$ ; delete from vault ; select $b$ $a$ $b$"],
        ),
        evasion(
            "dollar quotes in names",
            &["select 1 as a$b$ ; delete from vault ; select 1 as a$b$"],
        ),
        evasion("an E'' string", &[r"select E'\''; delete from vault; --'"]),
        evasion(
            "a continued string",
            &["select 'a'\n'b'; delete from vault; select 'c'"],
        ),
        evasion("a national string", &["select n'a'; delete from vault"]),
        evasion("a bit string", &["select b'1', x'1f'; delete from vault"]),
        evasion("upper case", &["DELETE FROM VAULT"]),
        evasion("quotes", &[r#"delete from "public"."vault""#]),
        evasion("Unicode escapes", &[r#"delete from U&"v\0061ult""#]),
        evasion(
            "Unicode escapes with another escape",
            &[r#"delete from U&"v!0061ult" uescape '!'"#],
        ),
        evasion(
            "the database's name before",
            &["delete from DATABASE.public.vault"],
        ),
        evasion(
            "ONLY and an alias",
            &["delete from only vault as open where open.i > 0"],
        ),
        evasion("a star", &["delete from vault *"]),
        evasion(
            "a name that is cut",
            &["delete from nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnanother"],
        ),
        evasion(
            "a CTE's name that isn't in scope",
            &["with q as (select * from vault), vault as (select 1) select * from q"],
        ),
        evasion(
            "a CTE's name with a schema",
            &["with vault as (select 1) select * from public.vault"],
        ),
        evasion(
            "a CTE's name as a target",
            &["with vault as (select 1) delete from vault"],
        ),
        evasion("SET standard_conforming_strings", &[quoted, BACKSLASHES]),
        evasion(
            "SET LOCAL standard_conforming_strings",
            &[
                "begin",
                "set local standard_conforming_strings = off",
                BACKSLASHES,
                "commit",
            ],
        ),
        evasion(
            "set_config of standard_conforming_strings",
            &[
                "select set_config('standard_conforming_strings', 'off', false)",
                BACKSLASHES,
            ],
        ),
        evasion(
            "set_config in a condition",
            &[
                "select 1 from open where set_config('standard_conforming_' || 'strings', 'off', false) = 'off'",
                BACKSLASHES,
            ],
        ),
        sent(
            "SET standard_conforming_strings, without waiting",
            vec![[say::query(quoted), say::query(BACKSLASHES)].concat(), Vec::new()],
        ),
        sent(
            "SET standard_conforming_strings in a pipeline",
            vec![
                [
                    say::run(quoted),
                    say::run(r"with a as (select '\'') delete from vault where '1' = '1' or '' = '--'"),
                    say::sync(),
                ]
                .concat(),
            ],
        ),
        with(
            "standard_conforming_strings as a parameter",
            &[("standard_conforming_strings", "off")],
            &[BACKSLASHES],
        ),
        with(
            "standard_conforming_strings in options",
            &[("options", "-c standard_conforming_strings=off")],
            &[BACKSLASHES],
        ),
        with(
            "standard_conforming_strings of a role",
            &[("user", "sloppy")],
            &[BACKSLASHES],
        ),
        with(
            "RESET to a role's standard_conforming_strings",
            &[("user", "sloppy")],
            &["set standard_conforming_strings = on", "reset all", BACKSLASHES],
        ),
        with(
            "standard_conforming_strings set back by ROLLBACK",
            &[("user", "sloppy")],
            &[
                "begin",
                "set local standard_conforming_strings = on",
                "rollback",
                BACKSLASHES,
            ],
        ),
    ]
}

/// Encodings in which a byte hides a quote: 0x95 0x5C is one character of SJIS.
fn encodings() -> Vec<Evasion> {
    let hidden = || say_bytes(b"select E'\x95\x5c'; delete from vault; --'");
    let after = |name, sql: &str| sent(name, vec![say::query(sql), hidden()]);
    let mut parameter = sent("client_encoding as a parameter", vec![hidden()]);
    let mut options = sent("client_encoding in options", vec![hidden()]);
    let mut role = sent("client_encoding of a role", vec![hidden()]);
    for (evasion, parameters) in [
        (&mut parameter, ("client_encoding", "SJIS")),
        (&mut options, ("options", "-c client_encoding=SJIS")),
        (&mut role, ("user", "shifted")),
    ] {
        for session in &mut evasion.sessions {
            session.parameters = vec![parameters];
        }
    }
    vec![
        after("SET client_encoding", "set client_encoding = 'SJIS'"),
        after("SET NAMES", "set names 'SJIS'"),
        after(
            "set_config of client_encoding",
            "select set_config('client_encoding', 'SJIS', false)",
        ),
        sent(
            "SET client_encoding, without waiting",
            vec![
                [say::query("set client_encoding = 'SJIS'"), hidden()].concat(),
                Vec::new(),
            ],
        ),
        parameter,
        options,
        role,
    ]
}

fn say_bytes(sql: &[u8]) -> Vec<u8> {
    bailiff_tests::message(b'Q', &[sql, b"\0"].concat())
}

/// What is made or moved first, and used afterwards.
fn in_two_steps() -> Vec<Evasion> {
    vec![
        evasion(
            "a trigger",
            &[
                "create trigger t before insert on watched for each row execute function wiping()",
                "insert into watched values (1)",
            ],
        ),
        evasion(
            "another body for a trigger's function",
            &[
                "create or replace function harmless() returns trigger language plpgsql as 'begin delete from vault; return new; end'",
                "insert into watched values (1)",
            ],
        ),
        evasion(
            "a rule",
            &[
                "create rule r as on insert to watched do also delete from vault",
                "insert into watched values (1)",
            ],
        ),
        evasion(
            "a view",
            &["create view w as select * from vault", "select * from w"],
        ),
        evasion(
            "a view that is written through",
            &["create view w as select * from vault", "delete from w"],
        ),
        evasion(
            "a domain",
            &["create domain d as int check (wipe(value))", "select 1::d"],
        ),
        evasion(
            "a cast",
            &[
                "create function shaped(int) returns shape language plpgsql as 'begin delete from vault; return row($1)::shape; end'",
                "create cast (int as shape) with function shaped(int)",
                "select 1::shape",
            ],
        ),
        evasion(
            "an aggregate",
            &[
                "create aggregate public.max(int, int) (sfunc = wiped, stype = int)",
                "select public.max(i, i) from open",
            ],
        ),
        evasion(
            "an operator",
            &[
                "create operator public.=== (leftarg = int, rightarg = int, function = wipe)",
                "select 1 === 2",
            ],
        ),
        evasion(
            "an operator of a known name",
            &[
                "create operator public.|| (leftarg = int, rightarg = int, function = wipe)",
                "select 1 || 2",
            ],
        ),
        evasion(
            "a column's default",
            &[
                "create table d (i int, x int default wipe())",
                "insert into d values (1)",
            ],
        ),
        evasion(
            "a default that is set",
            &[
                "alter table watched alter i set default wipe()",
                "insert into watched default values",
            ],
        ),
        evasion(
            "a check",
            &[
                "alter table watched add check (wipe(i))",
                "insert into watched values (1)",
            ],
        ),
        evasion("an index's expression", &["create index on open (wipe(i))"]),
        evasion(
            "a generated column",
            &[
                "create table g (i int, b bool generated always as (wipe(i)) stored)",
                "insert into g values (1)",
            ],
        ),
        evasion(
            "row security",
            &[
                "alter table watched enable row level security",
                "alter table watched force row level security",
                "create policy p on watched using (definer() = 1)",
                "grant all on watched to plain",
                "insert into watched values (1)",
                "set role plain",
                "table watched",
            ],
        ),
        evasion(
            "an event trigger",
            &[
                "create function e() returns event_trigger language plpgsql as 'begin delete from vault; end'",
                "create event trigger e on ddl_command_start execute function e()",
                "create table x (i int)",
                "drop event trigger e",
            ],
        ),
        evasion(
            "a SQL function",
            &[
                "create function g() returns void begin atomic delete from vault; end",
                "select g()",
            ],
        ),
        evasion(
            "a table's new parent",
            &[
                "create table above (i int, secret text)",
                "alter table vault inherit above",
                "delete from above",
            ],
        ),
        evasion(
            "a partition",
            &[
                "create table above (i int, secret text) partition by list (i)",
                "alter table above attach partition vault default",
                "delete from above",
            ],
        ),
        evasion(
            "another name",
            &["alter table vault rename to harmless", "delete from harmless"],
        ),
        evasion(
            "another schema",
            &["alter table vault set schema hidden", "delete from hidden.vault"],
        ),
        evasion(
            "another name for its schema",
            &["alter schema public rename to other", "delete from other.vault"],
        ),
        evasion("rights", &["grant all on vault to public"]),
        evasion(
            "rights on all tables",
            &["grant all on all tables in schema public to public"],
        ),
        evasion("a comment", &["comment on table vault is 'x'"]),
        evasion("an owner's tables", &["reassign owned by owner to plain"]),
        evasion("a publication", &["create publication p for all tables"]),
        evasion(
            "a foreign table of the same server",
            &[
                "create server s foreign data wrapper postgres_fdw options (host 'ADDRESS', dbname 'DATABASE')",
                "create user mapping for public server s options (user 'postgres', password_required 'false')",
                "create foreign table f (i int, secret text) server s options (table_name 'vault')",
                "delete from f",
            ],
        ),
        evasion(
            "a foreign schema",
            &[
                "create server s foreign data wrapper postgres_fdw options (host 'ADDRESS', dbname 'DATABASE')",
                "create user mapping for public server s options (user 'postgres', password_required 'false')",
                "create schema far",
                "import foreign schema public from server s into far",
                "delete from far.vault",
            ],
        ),
        evasion(
            "dblink",
            &["select dblink_exec('host=ADDRESS user=postgres dbname=DATABASE', 'delete from vault')"],
        ),
        evasion(
            "SET search_path",
            &["set search_path = hidden", "select y from open"],
        )
        .listed(),
        evasion(
            "SET LOCAL search_path",
            &["begin", "set local search_path = hidden", "select y from open"],
        )
        .listed(),
        evasion(
            "set_config of search_path",
            &[
                "select set_config('search_path', 'hidden', false)",
                "select y from open",
            ],
        )
        .listed(),
        with(
            "search_path as a parameter",
            &[("search_path", "hidden")],
            &["select y from open"],
        )
        .listed(),
        with(
            "search_path in options",
            &[("options", "-csearch_path=hidden")],
            &["select y from open"],
        )
        .listed(),
        then(
            evasion(
                "search_path of a role",
                &["alter role postgres set search_path = hidden"],
            ),
            evasion(
                "",
                &[
                    "select y from public.open",
                    "select y from open",
                    "alter role postgres reset search_path",
                ],
            ),
        )
        .listed(),
        then(
            evasion(
                "search_path of a database",
                &["alter database DATABASE set search_path = hidden"],
            ),
            evasion("", &["select y from open"]),
        )
        .listed(),
    ]
}

/// What isn't a relation's rows.
fn other_things() -> Vec<Evasion> {
    vec![
        other("NOTIFY", &["notify alarm, 'x'"]),
        other("pg_notify", &["select pg_notify('alarm', 'x')"]),
        other("an advisory lock", &["select pg_advisory_lock(5)"]),
        other("a sequence", &["select setval('counter', 99)"]),
        other("a sequence's next value", &["select nextval('counter')"]),
        other(
            "a prepared transaction",
            &["begin", "create table x (i int)", "prepare transaction 'left'"],
        ),
        other(
            "another session's end",
            &[
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'victim'",
                "select pg_sleep(0.2)",
            ],
        ),
        other("a new large object", &["select lo_create(4712)"]),
        other("a large object's end", &["select lo_unlink(4711)"]),
        sent(
            "a large object's end, by number",
            vec![say::function_call_with(964, &[&4711_u32.to_be_bytes()])],
        )
        .listed(),
        other("a large object's bytes", &["select lo_put(4711, 0, 'gone')"]),
        other("lo_export", &["select lo_export(4711, 'FILES/exported')"]),
        other(
            "lo_import",
            &[
                "select lo_import('FILES/../hosts')",
                "select lo_import('/etc/hostname', 4713)",
            ],
        ),
        other("DELETE of large objects", &["delete from pg_largeobject"]),
        other("a file's text", &["select pg_read_file('FILES/../secret.txt')"]),
        other(
            "a file's bytes",
            &["select convert_from(pg_read_binary_file('FILES/../secret.txt'), 'UTF8')"],
        ),
        other(
            "a file's rows",
            &[
                "create temp table lines (l text)",
                "copy lines from 'FILES/../secret.txt'",
                "table lines",
            ],
        ),
        other("a role", &["create role thief superuser"]),
        other("a role's rights", &["alter role plain superuser"]),
        other("a role's settings", &["alter role plain set work_mem = '1MB'"]),
        other(
            "SQL in a text",
            &["select query_to_xml('select * from vault', true, true, '')"],
        ),
        other(
            "a whole schema in XML",
            &["select schema_to_xml('public', true, true, '')"],
        ),
        other(
            "statistics",
            &[
                "analyze vault",
                "select most_common_vals from pg_stats where tablename = 'vault'",
            ],
        ),
        other(
            "the catalog's own rows",
            &["update pg_class set relname = 'gone' where relname = 'vault'"],
        ),
        other(
            "a row through its type",
            &["select (json_populate_record(null::vault, row_to_json(v))).secret from vault v"],
        ),
    ]
}

impl Evasion {
    fn listed(self) -> Self {
        Self {
            only_listed: true,
            ..self
        }
    }
}

/// A server with what attacks are after, each time in a database of its own.
struct Place {
    lab: Lab,
    files: tempfile::TempDir,
    /// Tells everything that is there.
    all: String,
    /// Tells what attacks are after.
    wanted: String,
    /// Databases that are as they were made.
    fresh: RefCell<BTreeSet<&'static str>>,
}

impl Place {
    fn new(rules: &str, all_wanted: bool) -> Result<Option<Self>> {
        use std::os::unix::fs::PermissionsExt as _;
        let Some(lab) = Lab::new(rules, "")? else {
            return Ok(None);
        };
        let files = tempfile::Builder::new().prefix("bailiff-evasions-").tempdir()?;
        let inner = files.path().join("inner");
        std::fs::create_dir(&inner)?;
        std::fs::write(files.path().join("secret.txt"), SECRET)?;
        for path in [files.path(), &inner] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
        }
        lab.server.restart_with("max_prepared_transactions", "5")?;
        for sql in [
            "create role sloppy superuser login",
            "alter role sloppy set standard_conforming_strings = off",
            "create role shifted superuser login",
            "alter role shifted set client_encoding = 'SJIS'",
            "create role plain login",
            "create role owner",
            "create database seeded",
        ] {
            lab.server.sql(sql)?;
        }
        lab.server.sql_in("seeded", SCHEMA)?;
        lab.server.sql_in("seeded", "alter table vault owner to owner")?;
        let oid = |name: &str| {
            lab.server
                .sql_in("seeded", &format!("select '{name}'::regclass::oid"))
        };
        let tables = format!("{}, {}", oid("vault")?, oid(&"n".repeat(63))?);
        let all = STATE.replace("FILES", &inner.display().to_string());
        let wanted = if all_wanted {
            all.clone()
        } else {
            VAULT
                .replace("TABLES", &tables)
                .replace("HIDDEN", &oid("hidden.open")?)
        };
        Ok(Some(Self {
            lab,
            files,
            all,
            wanted,
            fresh: RefCell::default(),
        }))
    }

    fn filled(&self, part: &[u8], database: &str) -> Vec<u8> {
        let Some((&tag, rest)) = part.split_first() else {
            return Vec::new();
        };
        let Ok(text) = std::str::from_utf8(rest.get(4..).unwrap_or_default()) else {
            return part.to_vec();
        };
        if !["FILES", "ADDRESS", "DATABASE"]
            .iter()
            .any(|name| text.contains(name))
        {
            return part.to_vec();
        }
        let files = self.files.path().join("inner");
        let text = text
            .replace("FILES", &files.display().to_string())
            .replace("ADDRESS", self.lab.server.address())
            .replace("DATABASE", database);
        bailiff_tests::message(tag, text.as_bytes())
    }

    /// The same attack with each Query sent as Parse, Bind and Execute.
    fn extended(evasion: &Evasion) -> Evasion {
        let sessions = evasion.sessions.iter().map(|session| Session {
            parameters: session.parameters.clone(),
            parts: session
                .parts
                .iter()
                .map(|part| match part.split_first() {
                    Some((b'Q', rest)) => {
                        let sql = rest.get(4..rest.len() - 1).unwrap_or_default();
                        std::str::from_utf8(sql)
                            .map_or_else(|_| part.clone(), |sql| [say::run(sql), say::sync()].concat())
                    }
                    _ => part.clone(),
                })
                .collect(),
        });
        Evasion {
            sessions: sessions.collect(),
            ..*evasion
        }
    }

    /// Carries an attack out in a fresh database, and tells whether it reached what it is after.
    fn reaches(&self, evasion: &Evasion, agent: Option<&Running>) -> Result<(bool, Vec<Message>)> {
        let server = &self.lab.server;
        let database = if agent.is_some() { "guarded" } else { "direct" };
        if !self.fresh.borrow_mut().remove(database) {
            server.sql(&format!("create database {database} template seeded"))?;
        }
        let mut victim = begin(
            TcpStream::connect((server.address(), Postgres::PORT))?,
            database,
            &[("application_name", "victim")],
        )?
        .context("the victim isn't let in")?;
        victim.ask("listen alarm")?;
        let direct = || TcpStream::connect((server.address(), Postgres::PORT));
        let mut observer = begin(direct()?, database, &[])?.context("the observer isn't let in")?;
        let mut looks = || [&self.wanted, &self.all].map(|look| observer.value(look).ok());
        let before = looks();
        ensure!(
            before.iter().all(Option::is_some),
            "nothing can be seen of {database}"
        );
        let (mut heard, mut open) = (Vec::new(), Vec::new());
        for session in &evasion.sessions {
            let stream = match agent {
                Some(agent) => agent.dial(server.address(), Postgres::PORT)?,
                None => TcpStream::connect((server.address(), Postgres::PORT))?,
            };
            let Some(mut client) = begin(stream, database, &session.parameters)? else {
                continue; // The agent doesn't let such a session begin.
            };
            for part in &session.parts {
                if client.send(&self.filled(part, database)).is_err() {
                    break;
                }
                let Ok(answer) = client.until_ready() else { break };
                if answer.is_empty() {
                    break;
                }
                heard.extend(answer);
            }
            open.push(client);
        }
        // What is left open is looked at, too, for locks; what was never committed is gone by then.
        let held = looks();
        drop(open);
        let after = looks();
        let changed = |place: usize| {
            let before = before.get(place);
            held.get(place) != before || after.get(place) != before
        };
        let notified = victim
            .ask("select 1")
            .is_ok_and(|answer| answer.iter().any(|message| message.tag == b'A'));
        let told = heard.iter().any(|message| {
            matches!(message.tag, b'D' | b'd' | b'V' | b'E' | b'N')
                && message
                    .body
                    .windows(SECRET.len())
                    .any(|part| part == SECRET.as_bytes())
        });
        drop(victim);
        for entry in std::fs::read_dir(self.files.path().join("inner"))?.flatten() {
            std::fs::remove_file(entry.path())?;
        }
        if changed(1) {
            for left in server.sql("select gid from pg_prepared_xacts")?.lines() {
                server.sql_in(database, &format!("rollback prepared '{left}'"))?;
            }
            server.sql(&format!("drop database {database} with (force)"))?;
            server.sql(
                "drop role if exists thief; alter role plain nosuperuser; alter role plain reset all; alter role postgres reset all",
            )?;
        } else {
            self.fresh.borrow_mut().insert(database);
        }
        Ok((changed(0) || notified || told, heard))
    }
}

/// Begins a session as postgres, unless the parameters say who. `None` where it isn't let in.
fn begin(stream: TcpStream, database: &str, parameters: &[(&str, &str)]) -> Result<Option<Client>> {
    let mut client = Client::new(stream)?;
    let mut all = vec![("database", database)];
    if !parameters.iter().any(|(name, _)| *name == "user") {
        all.push(("user", "postgres"));
    }
    all.extend_from_slice(parameters);
    client.send(&say::startup(&all))?;
    let answer = client.until_ready()?;
    let ready = answer.iter().any(|message| message.tag == b'Z');
    Ok(ready.then_some(client))
}

/// Tries each past the agent and through it.
fn none_gets_round(rules: &str, evasions: Vec<Evasion>) -> Result<()> {
    let Some(place) = Place::new(rules, rules == ONE_TABLE)? else {
        return Ok(());
    };
    let agent = place.lab.start()?;
    let mut wrong = Vec::new();
    for evasion in &evasions {
        let tried = |agent| place.reaches(evasion, agent).with_context(|| evasion.name);
        let (reached, heard) = tried(None)?;
        if !reached {
            wrong.push(format!("{}: no evasion: {heard:?}", evasion.name));
        }
        let (reached, heard) = tried(Some(&agent))?;
        if reached {
            wrong.push(format!("{}: gets round: {heard:?}", evasion.name));
        }
        let (reached, heard) = place.reaches(&Place::extended(evasion), Some(&agent))?;
        if reached {
            wrong.push(format!(
                "{}: gets round when it is prepared: {heard:?}",
                evasion.name
            ));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The agent still serves who does what is allowed.
    let mut client = place.lab.session(&agent)?;
    ensure!(client.value("select 41 + 1")? == "42");
    Ok(())
}

/// Those that are after the vault.
fn unlisted(evasions: Vec<Evasion>) -> Vec<Evasion> {
    evasions
        .into_iter()
        .filter(|evasion| !evasion.only_listed)
        .collect()
}

#[test]
fn hidden_writes_reach_nothing_where_one_table_is_allowed() -> Result<()> {
    none_gets_round(ONE_TABLE, hidden_writes())
}

#[test]
fn hidden_writes_dont_reach_a_table_that_is_denied() -> Result<()> {
    none_gets_round(ALL_BUT_ONE, unlisted(hidden_writes()))
}

#[test]
fn hidden_words_reach_nothing_where_one_table_is_allowed() -> Result<()> {
    none_gets_round(ONE_TABLE, [words(), encodings()].into_iter().flatten().collect())
}

#[test]
fn hidden_words_dont_reach_a_table_that_is_denied() -> Result<()> {
    none_gets_round(
        ALL_BUT_ONE,
        unlisted([words(), encodings()].into_iter().flatten().collect()),
    )
}

#[test]
fn what_is_made_first_reaches_nothing_where_one_table_is_allowed() -> Result<()> {
    none_gets_round(ONE_TABLE, in_two_steps())
}

#[test]
fn what_is_made_first_doesnt_reach_a_table_that_is_denied() -> Result<()> {
    none_gets_round(ALL_BUT_ONE, unlisted(in_two_steps()))
}

#[test]
fn other_things_than_rows_arent_reached() -> Result<()> {
    none_gets_round(ONE_TABLE, other_things())
}

/// A database, parameters of a session's start, and a text in the session's encoding.
type Told<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [u8]);

/// Letters beyond ASCII: what the server makes of a name isn't what its bytes seem to say.
#[test]
fn names_in_other_encodings_arent_mistaken() -> Result<()> {
    let long = "é".repeat(40);
    let rules = format!(
        "    - name: all
      effects: [read, insert, update, delete, copy, set, transaction]
      action: Allow
    - name: not these
      effects: [read, insert, update, delete]
      relations: ['public.{long}', 'public.Ã©']
      action: Deny
"
    );
    let Some(lab) = Lab::new(&rules, "")? else {
        return Ok(());
    };
    lab.server
        .sql("create database latin encoding 'LATIN1' lc_collate 'C' lc_ctype 'C' template template0")?;
    for (database, name) in [("latin", long.as_str()), ("postgres", "Ã©")] {
        let stream = TcpStream::connect((lab.server.address(), Postgres::PORT))?;
        let mut owner = begin(stream, database, &[("client_encoding", "UTF8")])?.context("not let in")?;
        let made = owner.ask(&format!("create table \"{name}\" (i int)"))?;
        ensure!(made.iter().any(|message| message.tag == b'C'), "{made:?}");
    }
    let agent = lab.start()?;
    // In LATIN1 the long name has 40 bytes and isn't cut; and two letters of it are one of UTF-8.
    let long = format!("delete from \"{long}\"");
    let attacks: [Told<'_>; 2] = [
        ("latin", &[("client_encoding", "UTF8")], long.as_bytes()),
        (
            "postgres",
            &[("client_encoding", "LATIN1")],
            b"delete from \"\xc3\xa9\"",
        ),
    ];
    for (database, parameters, sql) in attacks {
        let stream = TcpStream::connect((lab.server.address(), Postgres::PORT))?;
        let mut direct = begin(stream, database, parameters)?.context("not let in")?;
        direct.send(&say_bytes(sql))?;
        let heard = direct.until_ready()?;
        ensure!(
            heard.iter().any(|message| message.tag == b'C'),
            "{database}: no evasion: {heard:?}"
        );
        let stream = agent.dial(lab.server.address(), Postgres::PORT)?;
        let mut client = begin(stream, database, parameters)?.context("not let in by the agent")?;
        client.send(&say_bytes(sql))?;
        let heard = client.until_ready()?;
        ensure!(
            heard.iter().filter_map(Message::sqlstate).eq(["42501"]),
            "{database}: {heard:?}"
        );
        // What has such letters in literals alone is read.
        let told = client.ask("select 1 where 'é' <> 'e'")?;
        ensure!(
            told.iter().any(|message| message.tag == b'D'),
            "{database}: {told:?}"
        );
        if database == "postgres" {
            client.send(&say_bytes(b"select '\xe9'"))?;
            let told = client.until_ready()?;
            ensure!(
                told.iter()
                    .any(|message| message.tag == b'D' && message.body.ends_with(b"\xe9")),
                "{told:?}"
            );
        }
    }
    Ok(())
}

/// Who a session is for the server is a setting: without leave for `set` it stays.
#[test]
fn nobody_becomes_somebody_else_without_leave_to_set() -> Result<()> {
    let rules = "    - name: read
      effects: [read, transaction]
      action: Allow
";
    let Some(lab) = Lab::new(rules, "")? else {
        return Ok(());
    };
    lab.server.sql("create role other login")?;
    let agent = lab.start()?;
    for sql in [
        "set role other",
        "set local role other",
        "set session role other",
        "set session authorization other",
        "select set_config('role', 'other', false)",
        "select 1 where set_config('session_authorization', 'other', false) <> ''",
        "set \"role\" to 'other'",
        "select pg_catalog.set_config('ro' || 'le', 'other', false)",
    ] {
        let who = |client: &mut Client| -> Result<String> {
            client.ask("begin")?;
            client.ask(sql)?;
            let who = client.value("select current_user");
            // A denied statement leaves the transaction failed.
            client.ask("rollback")?;
            Ok(who.unwrap_or_default())
        };
        ensure!(who(&mut lab.direct()?)? == "other", "{sql}: no evasion");
        let mut client = lab.session(&agent)?;
        ensure!(who(&mut client)? != "other", "{sql}");
        client.ask(sql)?;
        ensure!(client.value("select current_user")? == "postgres", "{sql}");
    }
    Ok(())
}
