# asyncpg at work, with its own implementation of the protocol: binary formats, prepared statements, pipelined Parse and Describe.
import asyncio, datetime, decimal, io, uuid
import asyncpg

VALUES = {
    "int2": -3, "int4": 7, "int8": 2**62, "numeric": decimal.Decimal("1.230"), "float4": 1.5, "float8": -2.5, "bool": False, "text": "häß漢\U0001f600",
    "bytea": bytes(range(256)), "date": datetime.date(2000, 2, 29), "time": datetime.time(1, 2, 3, 4), "timestamp": datetime.datetime(1999, 12, 31, 23, 59, 59),
    "timestamptz": datetime.datetime(1999, 12, 31, tzinfo=datetime.timezone.utc), "interval": datetime.timedelta(days=1, seconds=2, microseconds=3),
    "uuid": uuid.UUID(int=77), "json": '{"a": 1}', "jsonb": '[1, 2]', "int4[]": [1, None, 2], "text[]": ["a", None, "\"{}"], "point": asyncpg.Point(1, 2),
    "int4range": asyncpg.Range(1, 9), "bit(9)": asyncpg.BitString("101010101"), "inet": __import__("ipaddress").ip_interface("10.0.0.1/8"), "tsvector": None, "oid": 4000000000,
}

async def main():
    conn = await asyncpg.connect()
    conn.add_log_listener(lambda _, log: print("log", log.severity, log.sqlstate, log.message))
    for kind, value in VALUES.items():
        print("type", kind, repr(await conn.fetchval(f"select $1::{kind}", value)))
    await conn.execute("create type mood as enum ('sad', 'glad'); create type pair as (a int, b text); create domain positive as int check (value > 0);")
    print(await conn.fetchrow("select 'glad'::mood, row(1, 'x')::pair, array[row(2, null)::pair], 5::positive, '{sad,glad}'::mood[]"))
    await conn.execute("create table t (id int primary key, name text, at timestamptz)")
    await conn.executemany("insert into t values ($1, $2, $3)", [(n, None if n % 5 == 0 else f"n{n}", VALUES["timestamptz"]) for n in range(500)])
    print(await conn.fetchval("select count(*) from t"), await conn.fetchval("select count(name) from t"))
    statement = await conn.prepare("select id, name from t where id between $1 and $2 order by id")
    print([a.name for a in statement.get_attributes()], [p.name for p in statement.get_parameters()], statement.get_statusmsg())
    print(await statement.fetch(3, 8), statement.get_statusmsg())
    print((await statement.explain(1, 2))[0]["Plan"]["Node Type"] != "")
    async with conn.transaction():
        cursor = await conn.cursor("select id from t order by id")
        print(await cursor.fetch(3), await cursor.forward(10), await cursor.fetchrow())
        print(sum([row["id"] async for row in conn.cursor("select id from t order by id", prefetch=33)]))
    try:
        async with conn.transaction(isolation="serializable"):
            await conn.execute("delete from t where id < 100")
            await conn.fetch("select 1/0")
    except asyncpg.DivisionByZeroError as error:
        print("error", error.sqlstate, await conn.fetchval("select count(*) from t"))
    async with conn.transaction():
        await conn.execute("insert into t values (9000)")
        try:
            async with conn.transaction():
                await conn.execute("insert into t values (9000)")
        except asyncpg.UniqueViolationError as error:
            print("error", error.sqlstate, error.detail, error.constraint_name)
    for text in ("select 1 +", "select * from nowhere", "select 'x'::int", "select $1::int + $2"):
        try:
            await conn.fetch(text)
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            print("error", type(error).__name__, error)
    out = io.BytesIO()
    for how in ({}, {"format": "csv", "header": True}, {"format": "binary"}):
        out = io.BytesIO()
        print(await conn.copy_from_query("select id, name from t where id < $1 order by id", 20, output=out, **how), out.getvalue().hex())
    print(await conn.copy_to_table("t", source=io.BytesIO(b"10000\tcopied\t\\N\n10001\t\\N\t\\N\n")))
    print(await conn.copy_records_to_table("t", records=[(n, f"r{n}", None) for n in range(20000, 21000)]))
    try:
        await conn.copy_to_table("t", source=io.BytesIO(b"x\ty\t\\N\n"))
    except asyncpg.PostgresError as error:
        print("error", error.sqlstate)
    print(await conn.fetchval("select count(*) from t"))
    got = asyncio.get_event_loop().create_future()
    await conn.add_listener("news", lambda *told: got.done() or got.set_result(told[2:]))
    await conn.execute("notify news, 'payload'")
    print("notify", await asyncio.wait_for(got, 20))
    await conn.execute("do $$ begin raise notice 'n'; raise warning 'w'; end $$")
    big = "z" * (4 << 20)
    print("large", await conn.fetchval("select $1 || $1", big) == big + big)
    try:
        await conn.fetch("select pg_sleep(60)", timeout=0.5)
    except asyncio.TimeoutError:
        print("timed out, and cancelled", await conn.fetchval("select 1"))
    task = asyncio.ensure_future(conn.fetch("select pg_sleep(60)"))
    await asyncio.sleep(0.4)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        print("cancelled", await conn.fetchval("select 2"))
    await conn.execute("set search_path = pg_catalog")
    print(await conn.fetchval("show search_path"))
    await conn.reset()
    print(await conn.fetchval("show search_path"))
    await conn.close()
    async with asyncpg.create_pool(min_size=4, max_size=4) as pool:
        print("pool", sorted(await asyncio.gather(*[pool.fetchval("select $1::int", n) for n in range(40)])))
    # One ends another's session while that one waits.
    one, other = await asyncpg.connect(), await asyncpg.connect()
    # Asked of the server: what get_server_pid() tells is a pooler's invention where one stands between.
    pid = await one.fetchval("select pg_backend_pid()")
    waiting = asyncio.ensure_future(one.fetch("select pg_sleep(20)"))
    await asyncio.sleep(0.3)
    await other.fetch("select pg_terminate_backend($1)", pid)
    try:
        await waiting
    except (asyncpg.PostgresError, OSError):
        print("ended", one.is_closed())
    await other.close()

asyncio.run(main())
