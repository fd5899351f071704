//! TLS on both sides of a session.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use anyhow::{Result, ensure};
use bailiff_tests::{
    ALLOW_ALL, Authority, Client, Enforced, Message, Postgres, can_be_root, policy, say, target,
};

/// A server that offers TLS, and the CAs of its certificate and of what clients are shown.
struct Both {
    server: Postgres,
    database: Authority,
    clients: Authority,
}

impl Both {
    fn new() -> Result<Option<Self>> {
        if !can_be_root()? {
            return Ok(None);
        }
        let (server, database) = (Postgres::start_anywhere()?, Authority::new("the database's")?);
        server.offer_tls(&database, &["db.example", server.address()])?;
        Ok(Some(Self {
            server,
            database,
            clients: Authority::new("the clients'")?,
        }))
    }

    /// Lines of a target that terminates TLS with minted certificates.
    fn minted(&self, mode: &str) -> String {
        format!(
            "  tls:\n    client:\n      mode: {mode}\n      caCertificateFile: {}\n      caKeyFile: {}\n      names: [db.example]\n",
            self.clients.certificate().display(),
            self.clients.key().display()
        )
    }

    /// The further lines with which the server is verified.
    fn verified(&self) -> String {
        format!(
            "    upstream: {{ mode: Verify, caFile: {} }}\n",
            self.database.certificate().display()
        )
    }

    fn enforced(&self, more: &str) -> Result<Enforced> {
        Enforced::with(&[
            ("target.yaml", &target(self.server.address(), more)),
            ("policy.yaml", &policy(ALLOW_ALL)),
        ])
    }

    /// What psql says with these connection options.
    fn psql(&self, enforced: &Enforced, options: &str, sql: &str) -> Result<String> {
        let address = self.server.address();
        let options = format!("hostaddr={address} host=db.example user=postgres dbname=postgres {options}");
        let output = enforced.run(&["psql", &options, "-XAtqwc", sql])?.output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    }
}

/// Whether the server's side of the connection is encrypted.
const ENCRYPTED: &str = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";

#[test]
fn both_sides_are_encrypted_and_verified() -> Result<()> {
    let Some(both) = Both::new()? else {
        return Ok(());
    };
    let root = format!("sslrootcert={}", both.clients.certificate().display());
    let enforced = both.enforced(&(both.minted("Prefer") + &both.verified()))?;
    for mode in [
        "disable",
        "allow",
        "prefer",
        "require",
        "verify-ca",
        "verify-full",
    ] {
        let said = both.psql(&enforced, &format!("sslmode={mode} {root}"), ENCRYPTED)?;
        ensure!(said.trim() == "t", "{mode}: {said}");
    }
    // More rows than any buffer holds, through both.
    let rows = "select sum(length(v)) from (select repeat('x', 1000) v from generate_series(1, 3)) a; select repeat('y', 3000000)";
    let said = both.psql(&enforced, &format!("sslmode=verify-full {root}"), rows)?;
    ensure!(
        said.len() > 3_000_000 && said.starts_with("3000\n"),
        "{}",
        said.len()
    );
    Ok(())
}

/// A target at this address of the node's own, with further lines.
fn impostor(listener: &TcpListener, more: &str) -> Result<Enforced> {
    let port = listener.local_addr()?.port();
    let target =
        target("127.0.0.1", &format!("  sourceAddress: Node\n{more}")).replace(":5432", &format!(":{port}"));
    Enforced::with(&[("target.yaml", &target), ("policy.yaml", &policy(ALLOW_ALL))])
}

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// CVE-2021-23222, on both sides.
#[test]
fn plain_text_before_the_handshake_is_not_believed() -> Result<()> {
    let Some(both) = Both::new()? else {
        return Ok(());
    };
    let enforced = both.enforced(&both.minted("Prefer"))?;
    let agent = enforced.start()?;
    let mut client = Client::new(agent.dial(both.server.address(), Postgres::PORT)?)?;
    let startup = say::startup(&[("user", "postgres"), ("database", "postgres")]);
    client.send(&[&SSL_REQUEST[..], &startup].concat())?;
    let answer = client.rest()?;
    ensure!(
        answer
            .iter()
            .any(|message| message.sqlstate().as_deref() == Some("08P01")),
        "{answer:?}"
    );
    drop(agent);

    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let enforced = impostor(&listener, &("  tls:\n".to_owned() + &both.verified()))?;
    let agent = enforced.start()?;
    let server = std::thread::spawn(move || -> Result<Vec<u8>> {
        let (mut connection, _) = listener.accept()?;
        let mut asked = [0; 8];
        connection.read_exact(&mut asked)?;
        // AuthenticationOk and ReadyForQuery in plain text, in one packet with the yes.
        connection.write_all(b"SR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I")?;
        let mut rest = Vec::new();
        let _ = connection.read_to_end(&mut rest);
        Ok(rest)
    });
    let mut client = Client::new(agent.dial("127.0.0.1", port)?)?;
    client.send(&startup)?;
    let answer = client.rest()?;
    let told = answer
        .iter()
        .any(|message| message.sqlstate().as_deref() == Some("08006"));
    ensure!(told && answer.len() == 1, "{answer:?}");
    let heard = server
        .join()
        .map_err(|_| anyhow::anyhow!("the server failed"))??;
    ensure!(
        heard.first() == Some(&0x16),
        "the startup never left in plain text: {heard:?}"
    );
    Ok(())
}

#[test]
fn a_database_that_cannot_be_verified() -> Result<()> {
    let Some(both) = Both::new()? else {
        return Ok(());
    };
    let with = |upstream: &str| {
        both.enforced(&format!(
            "  tls: {{ upstream: {{ mode: Verify, {upstream} }} }}\n"
        ))
    };
    let (own, other) = (both.database.certificate(), both.clients.certificate());
    for (upstream, code, log) in [
        (
            format!("caFile: {}", other.display()),
            "08006",
            "give the CA that signed",
        ),
        (
            format!("caFile: {}, serverName: other.example", own.display()),
            "08006",
            "give a name of its subjectAltName",
        ),
        (
            format!("caFile: {}, serverName: db.example", own.display()),
            "",
            "",
        ),
    ] {
        let enforced = with(&upstream)?;
        let agent = enforced.start()?;
        let mut client = Client::new(agent.dial(both.server.address(), Postgres::PORT)?)?;
        client.send(&say::startup(&[("user", "postgres"), ("database", "postgres")]))?;
        let answer = client.until_ready()?;
        let refused = answer.iter().find_map(Message::sqlstate).unwrap_or_default();
        ensure!(refused == code, "{upstream}: {refused} {}", agent.log());
        agent.wait_for("the log says what to do", || Ok(agent.log().contains(log)))?;
        let counted =
            agent.metric("bailiff_sessions_ended_total{offender=\"none\",reason=\"target_tls\"}")?;
        ensure!((counted == 1) != code.is_empty());
    }
    // One that offers none.
    let plain = Postgres::start_anywhere()?;
    let enforced = Enforced::with(&[
        (
            "target.yaml",
            &target(plain.address(), &("  tls:\n".to_owned() + &both.verified())),
        ),
        ("policy.yaml", &policy(ALLOW_ALL)),
    ])?;
    let agent = enforced.start()?;
    let mut client = Client::new(agent.dial(plain.address(), Postgres::PORT)?)?;
    client.send(&say::startup(&[("user", "postgres"), ("database", "postgres")]))?;
    let answer = client.until_ready()?;
    ensure!(
        format!("{answer:?}").contains("the database offers no TLS"),
        "{answer:?}"
    );
    Ok(())
}

#[test]
fn a_certificate_of_files_is_taken_up_when_it_changes() -> Result<()> {
    let Some(both) = Both::new()? else {
        return Ok(());
    };
    let (certificate, key) = both.clients.leaf(&["old.example"], None)?;
    let more = format!(
        "  tls: {{ client: {{ mode: Require, certificateFile: {}, keyFile: {} }} }}\n",
        certificate.display(),
        key.display()
    );
    let enforced = both.enforced(&more)?;
    let agent = enforced.start()?;
    let expiry =
        || agent.metric("bailiff_certificate_expiry_timestamp_seconds{role=\"client\",target=\"db\"}");
    let before = expiry()?;
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(96 * 3600);
    let (new_certificate, new_key) = both.clients.leaf_until(&["db.example"], None, later)?;
    std::fs::rename(new_key, &key)?;
    std::fs::rename(new_certificate, &certificate)?;
    agent.wait_for("the new certificate", || Ok(expiry()? > before))?;
    // One that has ended is told where it is looked at.
    let past = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    let (new_certificate, new_key) = both.clients.leaf_until(&["db.example"], None, past)?;
    std::fs::rename(new_key, &key)?;
    std::fs::rename(new_certificate, &certificate)?;
    agent.wait_for("the ended certificate", || {
        Ok(agent.metric("bailiff_certificates_expired")? == 1)
    })?;
    ensure!(agent.get("/readyz")?.contains("[-]certificates failed"));
    Ok(())
}

/// A TLS handshake without a request before it, by Python's own TLS.
const DIRECT: &str = "
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[2])
if sys.argv[3]: context.set_alpn_protocols([sys.argv[3]])
try:
    tls = context.wrap_socket(socket.create_connection((sys.argv[1], 5432)), server_hostname='db.example')
    body = b'\\0\\3\\0\\0user\\0postgres\\0database\\0postgres\\0\\0'
    tls.sendall((len(body) + 4).to_bytes(4, 'big') + body)
    print('said', tls.recv(1), tls.selected_alpn_protocol())
except OSError: print('refused')
";

#[test]
fn direct_tls_names_the_protocol() -> Result<()> {
    let Some(both) = Both::new()? else {
        return Ok(());
    };
    let enforced = both.enforced(&(both.minted("Prefer") + &both.verified()))?;
    let root = both.clients.certificate().display().to_string();
    for (protocol, expected) in [
        ("postgresql", "said b'R' postgresql"),
        ("", "refused"),
        ("h2", "refused"),
    ] {
        let command = ["python3", "-c", DIRECT, both.server.address(), &root, protocol];
        let output = enforced.run(&command)?.output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            said.trim() == expected,
            "{protocol}: {said} {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// Towards servers that know it, without a request before the handshake; those that don't end the connection.
#[test]
fn direct_tls_towards_the_database() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    for version in Postgres::versions()? {
        let (server, database) = (
            Postgres::start_version(version)?,
            Authority::new("the database's")?,
        );
        server.offer_tls(&database, &[server.address()])?;
        let more = format!(
            "  tls: {{ upstream: {{ mode: Verify, caFile: {}, direct: true }} }}\n",
            database.certificate().display()
        );
        let enforced = Enforced::with(&[
            ("target.yaml", &target(server.address(), &more)),
            ("policy.yaml", &policy(ALLOW_ALL)),
        ])?;
        let agent = enforced.start()?;
        let mut client = Client::new(agent.dial(server.address(), Postgres::PORT)?)?;
        client.send(&say::startup(&[("user", "postgres"), ("database", "postgres")]))?;
        let answer = client.until_ready()?;
        if version >= 17 {
            ensure!(
                answer.last().is_some_and(|message| message.tag == b'Z'),
                "{version}: {answer:?} {}",
                agent.log()
            );
            ensure!(client.value(ENCRYPTED)? == "t", "{version}");
        } else {
            let told = answer.iter().find_map(Message::sqlstate);
            ensure!(told.as_deref() == Some("08006"), "{version}: {answer:?}");
        }
    }
    Ok(())
}
