//! What is made or moved first, and used afterwards.

use super::{Evasion, evasion, then, with};

/// What is made or moved first, and used afterwards.
#[must_use]
pub fn in_two_steps() -> Vec<Evasion> {
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
