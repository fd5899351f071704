//! Who is listened to, and what they do.

/// One client at work.
#[derive(Debug)]
pub(super) struct Scenario {
    /// The client and its subject; files are named for it.
    pub(super) name: &'static str,
    pub(super) program: &'static str,
    pub(super) arguments: &'static [&'static str],
    pub(super) environment: &'static [(&'static str, &'static str)],
    pub(super) input: &'static str,
    /// Whether it ends with a failure.
    pub(super) fails: bool,
}

/// How names of captured files begin.
pub(super) const CLIENTS: &[&str] = &["psql", "pgbench", "psycopg", "asyncpg"];

/// The password of all roles.
pub(super) const PASSWORD: &str = "for-the-corpus";

/// What the clients work on.
pub(super) const SCHEMA: &str = "
    CREATE ROLE app LOGIN;
    CREATE ROLE by_scram LOGIN PASSWORD 'for-the-corpus';
    CREATE ROLE by_password LOGIN PASSWORD 'for-the-corpus';
    SET password_encryption = 'md5';
    CREATE ROLE by_md5 LOGIN PASSWORD 'for-the-corpus';
    GRANT CREATE ON DATABASE corpus TO app;
    GRANT CREATE ON SCHEMA public TO app;
    SET ROLE app;
    CREATE TABLE people (id int PRIMARY KEY, name text, ssn text, score numeric, born date, face bytea);
    INSERT INTO people VALUES
        (1, 'Ada', '078-05-1120', 1.5, '1815-12-10', 'x'),
        (2, U&'\\00C9dith', '219-09-9999', -2, NULL, '\\x00ff'),
        (3, '', NULL, 'NaN', 'infinity', NULL);
    CREATE VIEW names AS SELECT id, upper(name) AS name FROM people;
    CREATE FUNCTION tell(text) RETURNS int LANGUAGE plpgsql AS
        'BEGIN RAISE NOTICE ''told %'', $1 USING HINT = ''h'', DETAIL = ''d''; RETURN 1; END';";

const PSQL: Scenario = Scenario {
    name: "psql",
    program: "psql",
    arguments: &["--no-psqlrc"],
    environment: &[],
    input: "",
    fails: false,
};

const PGBENCH: Scenario = Scenario {
    name: "pgbench",
    program: "pgbench",
    ..PSQL
};

const PYTHON: Scenario = Scenario {
    name: "psycopg",
    program: "python3",
    arguments: &["-"],
    ..PSQL
};

/// In this order: later ones keep only what earlier ones had nothing like.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "psql-statements",
        input: STATEMENTS,
        ..PSQL
    },
    Scenario {
        name: "psql-errors",
        input: ERRORS,
        // The last of them ends the connection.
        fails: true,
        ..PSQL
    },
    Scenario {
        name: "psql-copy",
        input: COPY,
        ..PSQL
    },
    Scenario {
        name: "psql-catalog",
        input: "\\d people\n\\d+ names\n\\df tell\n\\du\n\\l\n\\dn\n\\dt+\n\\sf tell\n\\dp people\n\\dT text\n",
        ..PSQL
    },
    Scenario {
        name: "psql-large-object",
        // psql does this with the fastpath call.
        input: "\\lo_import input\n\\lo_list\n",
        ..PSQL
    },
    Scenario {
        name: "psql-cancel",
        program: "timeout",
        arguments: &[
            "--foreground",
            "--signal=INT",
            "1",
            "psql",
            "--no-psqlrc",
            "--command=SELECT pg_sleep(30)",
        ],
        fails: true,
        ..PSQL
    },
    Scenario {
        name: "psql-scram",
        arguments: &["--no-psqlrc", "--username=by_scram", "--command=SELECT 1"],
        ..PSQL
    },
    Scenario {
        name: "psql-md5",
        arguments: &["--no-psqlrc", "--username=by_md5", "--command=SELECT 1"],
        ..PSQL
    },
    Scenario {
        name: "psql-password",
        arguments: &["--no-psqlrc", "--username=by_password", "--command=SELECT 1"],
        ..PSQL
    },
    Scenario {
        name: "psql-wrong-password",
        arguments: &["--no-psqlrc", "--username=by_scram"],
        environment: &[("PGPASSWORD", "another")],
        fails: true,
        ..PSQL
    },
    Scenario {
        name: "psql-no-database",
        arguments: &["--no-psqlrc", "--dbname=nowhere"],
        fails: true,
        ..PSQL
    },
    Scenario {
        name: "psql-options",
        arguments: &["--no-psqlrc", "--command=SHOW search_path"],
        environment: &[
            ("PGOPTIONS", "-c search_path=a,\\ b -c statement_timeout=5s"),
            ("PGAPPNAME", "caf\u{e9} 'x' \"y\""),
            ("PGCLIENTENCODING", "LATIN1"),
            ("PGDATESTYLE", "SQL, DMY"),
            ("PGTZ", "Europe/Berlin"),
        ],
        ..PSQL
    },
    Scenario {
        name: "pgbench-simple",
        arguments: &["-n", "-t", "2", "-M", "simple", "-f", "input"],
        input: TRANSACTION,
        ..PGBENCH
    },
    Scenario {
        name: "pgbench-extended",
        arguments: &["-n", "-t", "2", "-M", "extended", "-f", "input"],
        input: TRANSACTION,
        ..PGBENCH
    },
    Scenario {
        name: "pgbench-prepared",
        arguments: &["-n", "-t", "2", "-M", "prepared", "-f", "input"],
        input: TRANSACTION,
        ..PGBENCH
    },
    Scenario {
        name: "pgbench-pipeline",
        arguments: &["-n", "-t", "2", "-M", "prepared", "-f", "input"],
        input: "\\set n random(1, 3)\n\\startpipeline\nSELECT name FROM people WHERE id = :n;\nSELECT :n + 1;\n\
                UPDATE people SET score = score + :n WHERE id = 1;\n\\endpipeline\n",
        ..PGBENCH
    },
    Scenario {
        name: "pgbench-tables",
        arguments: &["-i", "-I", "dtGvp", "-s", "1", "-q"],
        ..PGBENCH
    },
    Scenario {
        name: "psycopg-work",
        input: include_str!("psycopg.py"),
        ..PYTHON
    },
    Scenario {
        name: "asyncpg-work",
        input: include_str!("asyncpg.py"),
        ..PYTHON
    },
];

const STATEMENTS: &str = r#"SELECT 1;
SELECT id, name, ssn, score, born, face FROM people ORDER BY id;
INSERT INTO people VALUES (4, 'O''Neill', E'a\\b\n', 1e5, '2001-02-03', '\x00');
UPDATE people SET name = upper(name) WHERE id = 4 RETURNING *;
DELETE FROM people WHERE id = 4 AND name LIKE '%1%';
SELECT 1 \; SELECT 'two' AS "Two" \; CREATE TEMP TABLE t (a int) \; INSERT INTO t VALUES (1), (2), (3);
;
SELECT NULL, '', 'a''b', $$dollar 1$$, $q$x$q$, 0x1F, 1.5, .5, 1e-5, -2, U&'\0041', B'101', X'1F' /* a 1 */ -- b 1
;
WITH gone AS (DELETE FROM t WHERE a = 1 RETURNING a) SELECT count(*) FROM gone;
SELECT p.id, q.id FROM people p JOIN people q ON p.id = q.id + 1 UNION ALL SELECT 1, 2 LIMIT 5 OFFSET 1;
SELECT a[1], a[1:2], (ARRAY[1,2,3])[2]::int8, row(1,2), '{"a": 1}'::json -> 'a' FROM (SELECT ARRAY[4,5] AS a) x;
SELECT set_config('a.b', '1', false), extract(year FROM now()) > 2000, interval '1' day, 'x' ~ '^\d{1,3}$';
SET client_encoding = 'LATIN1';
SET DateStyle = 'SQL, DMY';
SET TIME ZONE 'UTC';
RESET ALL;
SHOW search_path;
PREPARE p (int) AS SELECT $1 + 1;
EXECUTE p (41);
DEALLOCATE p;
EXPLAIN SELECT 1;
SELECT 1 AS a, 'x' AS b \gdesc
BEGIN;
SAVEPOINT s;
SELECT 1/0;
ROLLBACK TO s;
COMMIT;
BEGIN;
SELECT 1/0;
SELECT 1;
ROLLBACK;
LISTEN news;
NOTIFY news, 'a payload';
SELECT 1;
\set FETCH_COUNT 1
SELECT id FROM people ORDER BY id;
\unset FETCH_COUNT
DO 'BEGIN PERFORM 1; END';
TRUNCATE t;
VACUUM t;
SELECT FROM people;
SELECT repeat('x', 3000);
"#;

const ERRORS: &str = r"SELECT tell('a notice');
SELECT 1 +;
SELECT nothing FROM people;
SELECT ssn::int FROM people;
INSERT INTO people VALUES (1, 'twice');
SELECT * FROM nowhere;
DO $$ BEGIN RAISE WARNING 'a warning'; RAISE EXCEPTION 'an exception' USING ERRCODE = '22012', HINT = 'a hint'; END $$;
DO $$ BEGIN RAISE INFO 'an info'; RAISE LOG 'a log'; END $$;
CREATE TABLE IF NOT EXISTS people (a int);
SET client_min_messages = debug5;
SELECT 1;
RESET client_min_messages;
ALTER TABLE people ADD CHECK (id < 2);
SET LOCAL x.y = 1;
EXECUTE undeclared;
SET statement_timeout = '10ms';
SELECT pg_sleep(5);
SELECT pg_terminate_backend(pg_backend_pid());
";

const COPY: &str = r"COPY people TO STDOUT;
COPY people TO STDOUT (FORMAT csv, HEADER true);
COPY (SELECT id, face FROM people) TO STDOUT (FORMAT binary);
CREATE TEMP TABLE c (a int, b text);
COPY c FROM STDIN;
1	one
2	\N
\.
COPY c FROM STDIN (FORMAT csv);
3,three
\.
COPY c FROM STDIN;
not a number	x
\.
COPY people TO PROGRAM 'true';
COPY (SELECT 1/(id - 2) FROM people ORDER BY id) TO STDOUT;
";

const TRANSACTION: &str = "\\set n random(1, 100000)
BEGIN;
UPDATE people SET score = score + :n WHERE id = 1;
SELECT score FROM people WHERE id = 1;
SELECT name FROM names WHERE id IN (1, :n);
INSERT INTO people (id, name) VALUES (:n + 10, 'new') ON CONFLICT DO NOTHING;
DELETE FROM people WHERE id > 3;
END;
";
