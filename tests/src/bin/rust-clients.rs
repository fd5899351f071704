//! tokio-postgres and sqlx at work: everything that they print is the same with and without something in between.

use std::pin::pin;

use anyhow::{Context as _, Result, bail};
use futures_util::{SinkExt as _, StreamExt as _, TryStreamExt as _, future};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolCopyExt as _, PgPoolOptions, PgRow, PgSslMode};
use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};
use tokio_postgres::{AsyncMessage, NoTls, SimpleQueryMessage};

fn main() -> Result<()> {
    let host = std::env::var("PGHOST").context("PGHOST is missing")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match std::env::args().nth(1).as_deref() {
        Some("tokio-postgres") => runtime.block_on(tokio_postgres_works(&host)),
        Some("sqlx") => runtime.block_on(sqlx_works(&host)),
        Some("tls-table") => {
            runtime.block_on(tls_table(&host));
            Ok(())
        }
        _ => bail!("rust-clients tokio-postgres|sqlx|tls-table CA PASSWORD USER…"),
    }
}

/// Connects once for each user and sslmode, and says what came of it.
async fn tls_table(host: &str) {
    let mut arguments = std::env::args().skip(2);
    let (root, password) = (
        arguments.next().unwrap_or_default(),
        arguments.next().unwrap_or_default(),
    );
    let modes = [
        ("disable", PgSslMode::Disable),
        ("allow", PgSslMode::Allow),
        ("prefer", PgSslMode::Prefer),
        ("require", PgSslMode::Require),
        ("verify-ca", PgSslMode::VerifyCa),
        ("verify-full", PgSslMode::VerifyFull),
    ];
    for user in arguments {
        for (name, mode) in modes {
            let options = PgConnectOptions::new_without_pgpass()
                .host(host)
                .username(&user)
                .password(&password)
                .database("postgres")
                .ssl_mode(mode)
                .ssl_root_cert(&root);
            let said = match PgConnection::connect_with(&options).await {
                Ok(_) => "yes".to_owned(),
                Err(error) => error.to_string().replace('\n', " "),
            };
            println!("sqlx|{user}|{name}|{said}");
        }
    }
}

fn told(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(
        || error.to_string(),
        |error| format!("{} {} {:?}", error.code().code(), error.message(), error.detail()),
    )
}

async fn tokio_postgres_works(host: &str) -> Result<()> {
    let config = format!("host={host} user=postgres dbname=work");
    let (mut client, mut connection) = tokio_postgres::connect(&config, NoTls).await?;
    tokio::spawn(async move {
        let mut messages = futures_util::stream::poll_fn(move |cx| connection.poll_message(cx));
        while let Some(Ok(message)) = messages.next().await {
            match message {
                AsyncMessage::Notice(notice) => println!("notice {} {}", notice.severity(), notice.message()),
                AsyncMessage::Notification(note) => println!("note {} {}", note.channel(), note.payload()),
                _ => {}
            }
        }
    });
    let row = client
        .query_one(
            "select $1::int4, $2::int8, $3::text, $4::bytea, $5::bool, $6::float8, null::text, $7::int4[], $8::text[]",
            &[&7_i32, &(1_i64 << 60), &"h\u{e4}\u{df}\u{6f22}\u{1f600}", &&[0_u8, 1, 255][..], &true, &1.5_f64, &vec![Some(1), None], &vec![Some("a"), None, Some("\"{}")]],
        )
        .await?;
    println!(
        "{} {} {} {:?} {} {} {:?} {:?} {:?}",
        row.get::<_, i32>(0),
        row.get::<_, i64>(1),
        row.get::<_, &str>(2),
        row.get::<_, &[u8]>(3),
        row.get::<_, bool>(4),
        row.get::<_, f64>(5),
        row.get::<_, Option<&str>>(6),
        row.get::<_, Vec<Option<i32>>>(7),
        row.get::<_, Vec<Option<&str>>>(8)
    );
    client.batch_execute("create type mood as enum ('sad', 'glad'); create table t (id int primary key, name text, mood mood)").await?;
    let put = client.prepare("insert into t values ($1, $2, 'glad')").await?;
    println!("{:?}", put.params());
    // Without waiting for one another's answers.
    let names: Vec<Option<String>> = (0..300).map(|n| (n % 5 != 0).then(|| format!("n{n}"))).collect();
    let numbers: Vec<i32> = (0..300).collect();
    let puts = numbers.iter().zip(&names).map(|(number, name)| {
        let (client, put) = (&client, &put);
        async move { client.execute(put, &[number, name]).await }
    });
    println!("put {}", future::try_join_all(puts).await?.iter().sum::<u64>());
    let transaction = client.transaction().await?;
    let portal = transaction.bind("select id from t order by id", &[]).await?;
    for limit in [3, 4, 0] {
        let rows = transaction.query_portal(&portal, limit).await?;
        println!(
            "portal {} {:?}",
            rows.len(),
            rows.last().map(|row| row.get::<_, i32>(0))
        );
    }
    transaction.execute("delete from t where id < 100", &[]).await?;
    transaction.rollback().await?;
    let mut transaction = client.transaction().await?;
    let point = transaction.savepoint("s").await?;
    let error = point
        .execute("insert into t values (1)", &[])
        .await
        .err()
        .context("no error")?;
    println!("{}", told(&error));
    point.rollback().await?;
    println!(
        "{:?}",
        transaction
            .query_one("select count(*) from t", &[])
            .await?
            .get::<_, i64>(0)
    );
    transaction.commit().await?;
    for text in [
        "select 1 +",
        "select nothing",
        "select * from nowhere",
        "select 1/0",
        "select 'x'::int",
    ] {
        println!(
            "{}",
            client
                .query(text, &[])
                .await
                .err()
                .map(|error| told(&error))
                .unwrap_or_default()
        );
    }
    let mut sink = pin!(client.copy_in::<_, &[u8]>("copy t (id, name) from stdin").await?);
    for part in [&b"1000\tone\n10"[..], b"01\t\\N\n"] {
        sink.send(part).await?;
    }
    println!("in {}", sink.finish().await?);
    let sink = client.copy_in::<_, &[u8]>("copy t (id) from stdin").await?;
    let mut sink = pin!(sink);
    sink.send(&b"x\n"[..]).await?;
    println!(
        "{}",
        sink.finish()
            .await
            .err()
            .map(|error| told(&error))
            .unwrap_or_default()
    );
    for text in [
        "copy (select id, name from t where id > 290 order by id) to stdout",
        "copy t (id, name) to stdout (format binary)",
    ] {
        let parts: Vec<_> = client.copy_out(text).await?.try_collect().await?;
        println!(
            "out {:?}",
            parts
                .iter()
                .flat_map(|part| part.iter().copied())
                .map(u64::from)
                .sum::<u64>()
        );
    }
    for message in client
        .simple_query("select 1 as a, null as b; update t set name = 'x' where id < 3; select 'two'")
        .await?
    {
        match message {
            SimpleQueryMessage::Row(row) => {
                println!("row {:?}", (0..row.len()).map(|n| row.get(n)).collect::<Vec<_>>())
            }
            SimpleQueryMessage::CommandComplete(rows) => println!("rows {rows}"),
            _ => {}
        }
    }
    client
        .batch_execute(
            "do $$ begin raise notice 'n'; raise warning 'w'; end $$; listen news; notify news, 'payload'",
        )
        .await?;
    let big = "z".repeat(3 << 20);
    println!(
        "large {}",
        client
            .query_one("select $1::text || $1", &[&big])
            .await?
            .get::<_, &str>(0)
            .len()
    );
    let rows: Vec<_> = client
        .query_raw("select g from generate_series(1, 20000) g", Vec::<i32>::new())
        .await?
        .try_collect()
        .await?;
    println!(
        "{}",
        rows.iter()
            .map(|row| i64::from(row.get::<_, i32>(0)))
            .sum::<i64>()
    );
    let cancel = client.cancel_token();
    let (slept, _) = tokio::join!(client.execute("select pg_sleep(30)", &[]), async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        cancel.cancel_query(NoTls).await
    });
    println!("{}", slept.err().map(|error| told(&error)).unwrap_or_default());
    println!(
        "{}",
        client.query_one("select 'usable'", &[]).await?.get::<_, &str>(0)
    );
    let ended = client
        .execute("select pg_terminate_backend(pg_backend_pid())", &[])
        .await;
    println!("{}", ended.err().map(|error| told(&error)).unwrap_or_default());
    Ok(())
}

fn code(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(
        || error.to_string(),
        |error| format!("{:?} {}", error.code(), error.message()),
    )
}

async fn sqlx_works(host: &str) -> Result<()> {
    let options = PgConnectOptions::new_without_pgpass()
        .host(host)
        .port(5432)
        .username("postgres")
        .database("work")
        .ssl_mode(sqlx::postgres::PgSslMode::Prefer);
    let pool = PgPoolOptions::new()
        .max_connections(3)
        .connect_with(options.clone())
        .await?;
    let row: PgRow = sqlx::query(
        "select $1::int4, $2::text, $3::bytea, $4::bool, $5::float8, null::text, $6::int4[], $7::text[]",
    )
    .bind(7_i32)
    .bind("h\u{e4}\u{df}\u{1f600}")
    .bind(vec![0_u8, 1, 255])
    .bind(true)
    .bind(1.5_f64)
    .bind(vec![Some(1_i32), None])
    .bind(vec!["a", "\"{}"])
    .fetch_one(&pool)
    .await?;
    println!(
        "{} {} {:?} {} {} {:?} {:?} {:?}",
        row.try_get::<i32, _>(0)?,
        row.try_get::<String, _>(1)?,
        row.try_get::<Vec<u8>, _>(2)?,
        row.try_get::<bool, _>(3)?,
        row.try_get::<f64, _>(4)?,
        row.try_get::<Option<String>, _>(5)?,
        row.try_get::<Vec<Option<i32>>, _>(6)?,
        row.try_get::<Vec<String>, _>(7)?
    );
    pool.execute("create table t (id int primary key, name text)")
        .await?;
    for n in 0..60 {
        sqlx::query("insert into t values ($1, $2)")
            .bind(n)
            .bind((n % 4 != 0).then(|| format!("n{n}")))
            .execute(&pool)
            .await?;
    }
    let sum: (i64, i64) = sqlx::query_as("select count(*), count(name) from t")
        .fetch_one(&pool)
        .await?;
    println!("{sum:?}");
    let mut rows = sqlx::query("select id, name from t where id > $1 order by id")
        .bind(50)
        .fetch(&pool);
    while let Some(row) = rows.try_next().await? {
        println!(
            "{} {:?}",
            row.try_get::<i32, _>(0)?,
            row.try_get::<Option<String>, _>(1)?
        );
    }
    drop(rows);
    let mut transaction = pool.begin().await?;
    sqlx::query("delete from t").execute(&mut *transaction).await?;
    let mut inner = transaction.begin().await?;
    let error = sqlx::query("select 1/0")
        .execute(&mut *inner)
        .await
        .err()
        .context("no error")?;
    println!("{}", code(&error));
    inner.rollback().await?;
    println!(
        "{:?}",
        sqlx::query_scalar::<_, i64>("select count(*) from t")
            .fetch_one(&mut *transaction)
            .await?
    );
    transaction.rollback().await?;
    for text in [
        "select 1 +",
        "select nothing",
        "select * from nowhere",
        "insert into t values (1)",
    ] {
        println!(
            "{}",
            sqlx::query(text)
                .execute(&pool)
                .await
                .err()
                .map(|error| code(&error))
                .unwrap_or_default()
        );
    }
    let mut copy = pool.copy_in_raw("copy t (id, name) from stdin").await?;
    copy.send(&b"1000\tone\n10"[..]).await?;
    copy.send(&b"01\t\\N\n"[..]).await?;
    println!("in {}", copy.finish().await?);
    let copy = pool.copy_in_raw("copy t (id) from stdin").await?;
    println!("{:?}", copy.abort("changed my mind").await.is_ok());
    let parts: Vec<_> = pool
        .copy_out_raw("copy (select * from t where id > 55 order by id) to stdout (format csv)")
        .await?
        .try_collect()
        .await?;
    println!(
        "out {:?}",
        parts
            .iter()
            .map(|part| String::from_utf8_lossy(part).into_owned())
            .collect::<String>()
    );
    let several: Vec<i32> = sqlx::raw_sql("select 1; select 2; select 3")
        .fetch_all(&pool)
        .await?
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?;
    println!("{several:?}");
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen("news").await?;
    sqlx::query("select pg_notify('news', 'payload')")
        .execute(&pool)
        .await?;
    let note = listener.recv().await?;
    println!("{} {}", note.channel(), note.payload());
    drop(listener);
    let big = "z".repeat(3 << 20);
    println!(
        "{:?}",
        sqlx::query_scalar::<_, i32>("select length($1 || $1)")
            .bind(&big)
            .fetch_one(&pool)
            .await?
    );
    let many = (0..40).map(|n| {
        sqlx::query_scalar::<_, i32>("select $1::int * 2")
            .bind(n)
            .fetch_one(&pool)
    });
    println!("{:?}", future::try_join_all(many).await?);
    let mut one = sqlx::PgConnection::connect_with(&options).await?;
    println!(
        "{}",
        sqlx::query("select pg_terminate_backend(pg_backend_pid())")
            .execute(&mut one)
            .await
            .err()
            .map(|error| code(&error))
            .unwrap_or_default()
    );
    pool.close().await;
    Ok(())
}
