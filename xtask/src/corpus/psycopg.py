import psycopg

with psycopg.connect(autocommit=True) as db:
    # Prepared at once, by name, with values as text and as binary.
    for binary in (False, True):
        with db.cursor(binary=binary) as cursor:
            for n in (1, 2, None):
                cursor.execute("SELECT id, name, score, face FROM people WHERE id = %s", (n,), prepare=True)
                cursor.fetchall()
            cursor.execute("SELECT %s::text, %s::bytea, %b::int8", ("it's", b"\x00\xff", 7))
    with db.pipeline() as pipeline, db.cursor() as cursor:
        for n in range(4):
            cursor.execute("SELECT name FROM people WHERE id = %s", (n,))
        pipeline.sync()
        cursor.execute("UPDATE people SET score = 1 WHERE id = %s", (1,))
    try:
        with db.pipeline(), db.cursor() as cursor:
            cursor.execute("UPDATE people SET score = 2 WHERE id = %s", (1,))
            cursor.execute("SELECT 1 / %s", (0,))
            cursor.execute("SELECT 3")
    except psycopg.Error:
        pass
    with db.transaction(), db.cursor("by_name") as cursor:
        cursor.execute("SELECT id FROM people ORDER BY id")
        cursor.fetchone()
        cursor.scroll(1)
        cursor.fetchall()
    with db.cursor() as cursor:
        cursor.executemany("INSERT INTO people (id) VALUES (%s)", [(20,), (21,), (22,)])
        cursor.execute("DELETE FROM people WHERE id = ANY(%s)", ([20, 21, 22],))
        with cursor.copy("COPY people TO STDOUT (FORMAT binary)") as copy:
            list(copy)
        cursor.execute("CREATE TEMP TABLE c (a int, b text)")
        with cursor.copy("COPY c FROM STDIN") as copy:
            copy.write_row((1, "a\tb"))
        try:
            with cursor.copy("COPY c FROM STDIN") as copy:
                copy.write_row((2, "x"))
                raise ValueError("the client gives up")
        except (ValueError, psycopg.Error):
            pass
        cursor.execute("DEALLOCATE ALL")
