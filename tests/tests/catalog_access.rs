//! The agent's own way to a catalog: by TLS, with a credential that changes, from a server that isn't trusted.

use std::io::{Read as _, Write as _};

use anyhow::{Result, ensure};
use bailiff_tests::{
    ALLOW_ALL, Authority, Client, Enforced, Message, Postgres, Running, can_be_root, message, policy, say,
    target,
};

const MASKED: &str = "  masks:\n    - columns: [public.people.ssn]\n      with: Redact\n";
const VIEW: &str = "select shown from seen";

/// A server with a masked column behind a view, which only the catalog tells.
fn server() -> Result<Postgres> {
    let server = Postgres::start_anywhere()?;
    server.sql(
        "create table people(id int, ssn text); insert into people values (1, '123-45-6789');
         create view seen as select ssn as shown from people;
         create role reader login password 'first'",
    )?;
    Ok(server)
}

fn session(agent: &Running, server: &Postgres) -> Result<Client> {
    Client::started(agent.dial(server.address(), Postgres::PORT)?)
}

fn is_read(agent: &Running) -> Result<bool> {
    Ok(agent.metric("bailiff_catalogs")? == 1 && agent.metric("bailiff_catalogs_missing")? == 0)
}

/// The password is changed on the server and in its file, and the connection is lost: as where a Secret is rotated.
#[test]
fn by_tls_with_a_password_that_changes() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let (server, authority) = (server()?, Authority::new("the database's")?);
    server.offer_tls(&authority, &[server.address()])?;
    server.let_in("hostssl all reader all scram-sha-256\nhost all reader all reject")?;
    let password = authority.directory().join("password");
    std::fs::write(&password, "first\n")?;
    let more = format!(
        "  tls: {{ upstream: {{ mode: Verify, caFile: {} }} }}\n  catalog: {{ user: reader, passwordFile: {} }}\n",
        authority.certificate().display(),
        password.display()
    );
    let enforced = Enforced::with(&[
        ("target.yaml", &target(server.address(), &more)),
        ("policy.yaml", &policy(&format!("{ALLOW_ALL}{MASKED}"))),
    ])?;
    let agent = enforced.start()?;
    let mut client = session(&agent, &server)?;
    ensure!(client.value(VIEW)? == "[masked]");
    let readers = "select count(*) filter (where ssl) || '/' || count(*) from pg_stat_ssl s join pg_stat_activity a using (pid) where usename = 'reader'";
    ensure!(server.sql(readers)? == "1/1");

    // The old one doesn't work any more, and names decide: the view is refused.
    let lose = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'reader'";
    server.sql("alter role reader password 'second'")?;
    server.sql(lose)?;
    agent.wait_for("the failure", || {
        let failed = agent.metric("bailiff_catalog_failures_total{reason=\"credential\"}")?;
        Ok(failed > 0 && agent.metric("bailiff_catalogs_missing")? == 1)
    })?;
    let refused = client.ask(VIEW)?.iter().find_map(Message::sqlstate);
    ensure!(refused.as_deref() == Some("42501"), "{refused:?}");
    agent.wait_for("its reason", || {
        Ok(agent
            .get("/readyz")?
            .contains("doesn't accept the agent's credential"))
    })?;

    std::fs::write(password.with_extension("new"), "second\n")?;
    std::fs::rename(password.with_extension("new"), &password)?;
    agent.wait_for("the catalog again", || is_read(&agent))?;
    ensure!(client.value(VIEW)? == "[masked]");
    ensure!(server.sql(readers)? == "1/1");
    ensure!(!agent.get("/readyz")?.contains("[!]masks"));
    let log = agent.log();
    ensure!(!log.contains("first") && !log.contains("second"), "{log}");
    Ok(())
}

/// A certificate that another CA signed: no catalog is read over such a connection, and no session is either.
#[test]
fn a_server_that_cannot_be_verified_is_not_asked() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let server = server()?;
    let (own, other) = (Authority::new("the database's")?, Authority::new("another")?);
    server.offer_tls(&own, &[server.address()])?;
    let upstream = |authority: &Authority| {
        let tls = format!(
            "  tls: {{ upstream: {{ mode: Verify, caFile: {} }} }}\n",
            authority.certificate().display()
        );
        target(server.address(), &(tls + "  catalog: { user: reader }\n"))
    };
    let rules = policy(&format!("{ALLOW_ALL}{MASKED}"));
    let enforced = Enforced::with(&[("target.yaml", &upstream(&own)), ("policy.yaml", &rules)])?;
    let agent = enforced.start()?;
    let mut client = session(&agent, &server)?;
    ensure!(client.value(VIEW)? == "[masked]");
    // The session stays as it was verified; the catalog's next connection isn't.
    std::fs::write(enforced.config().join("new"), upstream(&other))?;
    std::fs::rename(
        enforced.config().join("new"),
        enforced.config().join("target.yaml"),
    )?;
    server.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'reader'")?;
    agent.wait_for("the failure", || {
        let failed = agent.metric("bailiff_catalog_failures_total{reason=\"unreachable\"}")?;
        Ok(failed > 0 && agent.metric("bailiff_catalogs_missing")? == 1)
    })?;
    let refused = client.ask(VIEW)?.iter().find_map(Message::sqlstate);
    ensure!(refused.as_deref() == Some("42501"), "{refused:?}");
    ensure!(server.sql("select count(*) from pg_stat_activity where usename = 'reader'")? == "0");
    Ok(())
}

/// A server that says of a message that it has a gibibyte, and begins to send it.
#[test]
fn a_server_that_sends_more_than_is_bearable() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let more = "  sourceAddress: Node\n  catalog: { user: reader }\n";
    let target = target("127.0.0.1", more).replace(":5432", &format!(":{port}"));
    let enforced = Enforced::with(&[
        ("target.yaml", &target),
        ("policy.yaml", &policy(&format!("{ALLOW_ALL}{MASKED}"))),
    ])?;
    let agent = enforced.start()?;
    let (taken, sent) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || -> Result<()> {
        let welcome = [message(b'R', &[0; 4]), message(b'Z', b"I")].concat();
        let mut sessions = Vec::new();
        for connection in listener.incoming() {
            let mut connection = connection?;
            let mut heard = [0; 4096];
            let length = connection.read(&mut heard)?;
            connection.write_all(&welcome)?;
            let said = heard.get(..length).unwrap_or_default();
            if !said.windows(6).any(|part| part == b"reader") {
                sessions.push(connection);
                continue;
            }
            // The agent asks something, and is told more and more.
            let _ = connection.read(&mut heard)?;
            connection.write_all(b"D\x40\0\0\0")?;
            let mut written = 0_usize;
            while written < 1 << 30 {
                match connection.write(&[b'x'; 65_536]) {
                    Ok(more) => written += more,
                    Err(_) => break,
                }
            }
            taken.send(written)?;
            break;
        }
        Ok(())
    });
    let mut client = Client::new(agent.dial("127.0.0.1", port)?)?;
    client.send(&say::startup(&[("user", "postgres"), ("database", "postgres")]))?;
    client.until_ready()?;
    let taken = sent.recv_timeout(std::time::Duration::from_secs(60))?;
    // What the two sockets hold, and nothing beyond.
    ensure!(taken < 64 << 20, "{taken}");
    agent.wait_for("the failure's count", || {
        Ok(agent
            .metrics()?
            .contains("bailiff_catalog_failures_total{reason="))
    })?;
    drop(client);
    server.join().map_err(|_| anyhow::anyhow!("the server failed"))?
}
