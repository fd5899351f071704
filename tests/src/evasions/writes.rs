//! Statements within statements, and what isn't rows.

use super::{Evasion, evasion, other, sent};
use crate::say;

/// Statements within statements.
#[must_use]
pub fn hidden_writes() -> Vec<Evasion> {
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

/// What isn't a relation's rows.
#[must_use]
pub fn other_things() -> Vec<Evasion> {
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
