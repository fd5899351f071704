import asyncio
import os

import asyncpg


def connect(**more):
    return asyncpg.connect(
        host=os.environ["PGHOST"], port=int(os.environ["PGPORT"]), user="app", database="corpus", **more
    )


async def work():
    db = await connect()
    await db.fetch("SELECT id, name, score, born, face FROM people WHERE id > $1 ORDER BY id", 0)
    await db.fetchval("SELECT $1::text || $2::text", "a", None)
    prepared = await db.prepare("SELECT name FROM people WHERE id = $1")
    for n in (1, 2):
        await prepared.fetchval(n)
    async with db.transaction():
        # A portal that is left suspended.
        cursor = await db.cursor("SELECT id FROM people ORDER BY id")
        await cursor.fetch(1)
        await cursor.fetch(5)
    try:
        async with db.transaction():
            await db.execute("INSERT INTO people (id) VALUES ($1)", 1)
    except asyncpg.PostgresError:
        pass
    await db.executemany("INSERT INTO people (id, name) VALUES ($1, $2)", [(30, "x"), (31, None)])
    await db.execute("DELETE FROM people WHERE id >= 30")
    await db.execute("CREATE TEMP TABLE c (a int, b text)")
    await db.copy_records_to_table("c", records=[(1, "one"), (2, None)])
    with open(os.devnull, "wb") as nowhere:
        await db.copy_from_query("SELECT * FROM people", output=nowhere, format="binary")
    await db.add_listener("news", lambda *_: None)
    await db.execute("NOTIFY news, 'a payload'")
    try:
        # Cancelled on a connection of its own.
        await db.execute("SELECT pg_sleep(30)", timeout=0.2)
    except asyncio.TimeoutError:
        pass
    await db.reset()
    await db.close()
    # Without a cache it closes what it prepared, before what comes next.
    db = await connect(statement_cache_size=0)
    prepared = await db.prepare("SELECT name FROM people WHERE id = $1")
    await prepared.fetchval(1)
    del prepared
    await db.fetchval("SELECT $1::int", 2)
    await db.close()


asyncio.run(work())
