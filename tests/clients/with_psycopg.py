# psycopg 3 at work: everything that it prints is the same with and without something in between.
import datetime, decimal, ipaddress, logging, threading, time, uuid
import psycopg
from psycopg import errors
from psycopg.types.json import Jsonb

# What it says of errors in a pipeline depends on how fast the answers come.
logging.getLogger("psycopg").setLevel(logging.CRITICAL)
conn = psycopg.connect(autocommit=True)
conn.add_notice_handler(lambda notice: print("notice", notice.severity, notice.sqlstate, notice.message_primary, notice.message_detail))

VALUES = {
    "smallint": -7, "integer": 2**31 - 1, "bigint": -(2**63), "numeric": decimal.Decimal("12345678901234567890.0123456789"),
    "real": 1.5, "float8": 2.5e-300, "boolean": True, "text": "häßlich 漢字 \U0001f600 '\"\\\n\t", "varchar": "", "bytea": bytes(range(256)),
    "date": datetime.date(1815, 12, 10), "time": datetime.time(23, 59, 59, 999999), "timestamp": datetime.datetime(2000, 2, 29, 1, 2, 3),
    "timestamptz": datetime.datetime(2000, 2, 29, 1, 2, 3, tzinfo=datetime.timezone.utc), "interval": datetime.timedelta(days=3, seconds=5),
    "uuid": uuid.UUID(int=2**127 + 5), "inet": ipaddress.ip_address("10.1.2.3"), "cidr": ipaddress.ip_network("2001:db8::/32"),
    "jsonb": Jsonb({"a": [1, None, "x"], "b": {"c": True}}), "int4[]": [1, None, 3], "text[]": ["a", None, "", "{,}\"\\"], "int4[][]": [[1, 2], [3, 4]],
}

for binary in (False, True):
    for kind, value in VALUES.items():
        cast = kind.replace("[][]", "[]")
        cur = conn.cursor(binary=binary)
        got = cur.execute(f"select %{'b' if binary else 't'}::{cast}, null::{cast}" if kind != "interval" else "select %s::interval, null::interval", (value,)).fetchone()
        print("type", binary, kind, repr(got), cur.description[0].type_code, cur.pgresult.fformat(0))

conn.execute("create table people (id int primary key, name text, score numeric, face bytea, tags text[])")
with conn.transaction():
    conn.cursor().executemany("insert into people values (%s, %s, %s, %s, %s)", [(n, f"n{n}", n / 4, bytes([n]) * n, ["t", str(n)]) for n in range(50)])
print("count", conn.execute("select count(*), sum(score) from people").fetchone())

# Prepared: the sixth time psycopg prepares by itself.
for n in range(12):
    row = conn.execute("select name, score, face from people where id = %s", (n,)).fetchone()
    print("prepared", n, row)
for n in range(3):
    print("named", conn.execute("select tags from people where id = %s", (n,), prepare=True).fetchone())

# COPY each way, text and binary.
with conn.cursor() as cur:
    with cur.copy("copy people (id, name) from stdin") as copy:
        for n in range(100, 140):
            copy.write_row((n, None if n % 3 == 0 else f"c\t{n}\n"))
    with cur.copy("copy people (id, score) from stdin (format binary)") as copy:
        copy.set_types(["int4", "numeric"])
        for n in range(200, 220):
            copy.write_row((n, decimal.Decimal(n) / 8))
    for how in ("", " (format csv, header)", " (format binary)"):
        with cur.copy("copy (select id, name, score from people order by id) to stdout" + how) as copy:
            data = b"".join(bytes(part) for part in copy)
        print("copy", how, len(data), data.hex())
    try:
        with cur.copy("copy people (id) from stdin") as copy:
            copy.write("not a number\n")
    except errors.InvalidTextRepresentation as error:
        print("copy error", error.sqlstate, error.diag.message_primary, error.diag.context)
    try:
        with cur.copy("copy people (id, name) from stdin") as copy:
            copy.write_row((900, "half"))
            raise RuntimeError("changed my mind")
    except (RuntimeError, errors.QueryCanceled) as error:
        print("copy given up", str(error).splitlines()[0], conn.execute("select count(*) from people where id = 900").fetchone())
    try:
        with cur.copy("copy (select 1 / (3 - g) from generate_series(1, 5) g) to stdout") as copy:
            for part in copy:
                print("part", bytes(part))
    except errors.DivisionByZero as error:
        print("copy out error", error.sqlstate)

# Errors.
for text in ("select 1 +", "select nothing", "select * from nowhere", "select 1/0", "insert into people values (1)", "select 'x'::int",
             "do $$ begin raise exception 'mine' using errcode = 'ZZ001', detail = 'd', hint = 'h', table = 't'; end $$"):
    try:
        conn.execute(text)
    except psycopg.Error as error:
        diag = error.diag
        print("error", type(error).__name__, diag.sqlstate, diag.message_primary, diag.message_detail, diag.message_hint, diag.statement_position, diag.table_name, diag.constraint_name)

# Notices and notifications.
conn.execute("do $$ begin raise notice 'n1' using detail = 'd1'; raise warning 'w1'; raise info 'i1'; end $$")
conn.add_notify_handler(lambda note: print("notify", note.channel, note.payload))
conn.execute("listen news")
conn.execute("notify news, 'a payload'")
conn.execute("select 1")

# Transactions.
conn.autocommit = False
with conn.transaction():
    conn.execute("update people set name = 'kept' where id = 1")
    try:
        with conn.transaction():
            conn.execute("update people set name = 'lost' where id = 2")
            conn.execute("select 1/0")
    except errors.DivisionByZero:
        print("savepoint", conn.info.transaction_status.name)
print(conn.execute("select name from people where id in (1, 2) order by id").fetchall())
try:
    conn.execute("select nothing")
except psycopg.Error:
    try:
        conn.execute("select 1")
    except errors.InFailedSqlTransaction as error:
        print("failed", error.sqlstate)
conn.rollback()
conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
with conn.transaction():
    print(conn.execute("show transaction_isolation").fetchone())
conn.rollback()
conn.autocommit = True

# Server-side cursors: portals with limits.
with conn.transaction():
    with conn.cursor(name="c") as cur:
        cur.itersize = 7
        cur.execute("select id from people order by id")
        print("cursor", [row[0] for row in cur][:60])
    with conn.cursor(name="s", scrollable=True) as cur:
        cur.execute("select g from generate_series(1, 20) g")
        cur.scroll(5)
        print(cur.fetchmany(3))
        cur.scroll(2, mode="absolute")
        print(cur.fetchone())
with psycopg.connect() as other:
    print("stream", sum(row[0] for row in other.cursor().stream("select g from generate_series(1, 5000) g")))

# Pipelines.
with conn.pipeline():
    cursors = [conn.execute("select %s::int * 2", (n,)) for n in range(300)]
    conn.execute("insert into people (id, name) values (1000, 'piped')")
print("pipeline", [cur.fetchone()[0] for cur in cursors][:5], len(cursors))
try:
    with conn.pipeline():
        conn.execute("insert into people (id) values (1001)")
        conn.execute("select 1/0")
        conn.execute("insert into people (id) values (1002)")
except psycopg.Error as error:
    print("pipeline error", error.sqlstate)
print(conn.execute("select id from people where id > 999 order by 1").fetchall())
with conn.pipeline() as pipe:
    a = conn.execute("select 'a'")
    pipe.sync()
    b = conn.execute("select 'b'")
    print(a.fetchone(), b.fetchone())

# Large rows, many columns, no columns, no rows.
big = "x" * (3 << 20)
got = conn.execute("select %s::text, length(%s::text), repeat('y', 5 << 20)", (big, big)).fetchone()
print("large", got[0] == big, got[1], len(got[2]), set(got[2]))
print("wide", len(conn.execute("select " + ", ".join(f"{n}" for n in range(1600))).fetchone()))
print("none", conn.execute("select from people where id < 3").rowcount, conn.execute("select 1 where false").fetchall())
print("several", conn.execute("select 1; select 2; select 'three'").fetchall())
print("empty", conn.execute("").statusmessage, conn.execute("--").pgresult.status)

# Cancelling.
def soon():
    time.sleep(0.4)
    conn.cancel()
thread = threading.Thread(target=soon)
thread.start()
try:
    conn.execute("select pg_sleep(30)")
except errors.QueryCanceled as error:
    print("cancelled", error.sqlstate)
thread.join()

# Parameters that the server tells at any time.
for text in ("set datestyle = 'SQL, DMY'", "set timezone = 'Europe/Berlin'", "set application_name = 'other'", "set client_encoding = 'LATIN1'"):
    conn.execute(text)
print([conn.info.parameter_status(name) for name in ("DateStyle", "TimeZone", "application_name", "client_encoding", "standard_conforming_strings", "server_encoding")])
print(conn.execute("select 'é', length('é')").fetchone())
conn.execute("reset all")

# Two phases need a setting that servers don't have by default; so only the refusal is seen.
try:
    conn.tpc_begin(conn.xid(1, "g", "b"))
    conn.tpc_prepare()
except psycopg.Error as error:
    print("two phases", error.sqlstate)
    conn.rollback()

# The server ends the session by itself.
try:
    conn.execute("select pg_terminate_backend(pg_backend_pid())")
except psycopg.OperationalError as error:
    print("ended", error.diag.sqlstate, error.diag.message_primary, conn.broken)
