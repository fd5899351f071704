//! The agent authenticates, and the pod never has what it does so by.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use anyhow::{Result, ensure};
use bailiff_tests::{
    ALLOW_ALL, Authority, Client, Enforced, Postgres, Running, can_be_root, policy, say, target,
};

/// Nobody else says this.
const PASSWORD: &str = "correct-horse-battery";

struct Lab {
    server: Postgres,
    authority: Authority,
    password: PathBuf,
}

impl Lab {
    fn new() -> Result<Option<Self>> {
        if !can_be_root()? {
            return Ok(None);
        }
        let (server, authority) = (Postgres::start_anywhere()?, Authority::new("the database's")?);
        server.offer_tls(&authority, &[server.address()])?;
        let password = authority.directory().join("password");
        std::fs::write(&password, format!("{PASSWORD}\n"))?;
        server.sql("create database shop")?;
        Ok(Some(Self {
            server,
            authority,
            password,
        }))
    }

    fn verified(&self) -> String {
        format!(
            "  tls: {{ upstream: {{ mode: Verify, caFile: {} }} }}\n",
            self.authority.certificate().display()
        )
    }

    fn enforced(&self, more: &str, rules: &str) -> Result<Enforced> {
        Enforced::with(&[
            ("target.yaml", &target(self.server.address(), more)),
            ("policy.yaml", &policy(rules)),
        ])
    }

    /// The role `app`, stored and asked for so.
    fn role(&self, stored: &str, method: &str) -> Result<()> {
        self.server.sql(&format!(
            "set password_encryption = '{stored}'; drop role if exists app; create role app login password '{PASSWORD}'"
        ))?;
        self.server.let_in(&format!("host all app all {method}"))
    }

    /// What comes of a startup without a password: an SQLSTATE, or nothing.
    fn begin(&self, agent: &Running, parameters: &[(&str, &str)]) -> Result<(Client, Option<String>)> {
        let mut client = Client::new(agent.dial(self.server.address(), Postgres::PORT)?)?;
        client.send(&say::startup(parameters))?;
        let answer = client.until_ready()?;
        let asked = answer
            .iter()
            .any(|message| message.tag == b'R' && message.body != [0; 4]);
        ensure!(!asked, "the client is asked for something: {answer:?}");
        Ok((client, answer.iter().find_map(bailiff_tests::Message::sqlstate)))
    }
}

const APP: [(&str, &str); 2] = [("user", "app"), ("database", "postgres")];

#[test]
fn by_every_method_that_takes_a_password() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let credential = format!(
        "  credential: {{ user: app, passwordFile: {} }}\n",
        lab.password.display()
    );
    for (encrypted, stored, method, works) in [
        (true, "scram-sha-256", "scram-sha-256", true),
        (true, "scram-sha-256", "password", true),
        (true, "md5", "md5", true),
        (true, "scram-sha-256", "trust", true),
        (false, "scram-sha-256", "scram-sha-256", true),
        (false, "md5", "md5", true),
        // In plain text it would be everybody's between here and there.
        (false, "scram-sha-256", "password", false),
    ] {
        lab.role(stored, method)?;
        let tls = if encrypted { lab.verified() } else { String::new() };
        let enforced = lab.enforced(&(tls + &credential), ALLOW_ALL)?;
        let agent = enforced.start()?;
        let (mut client, refused) = lab.begin(&agent, &APP)?;
        let about = format!("{encrypted} {stored} {method}: {refused:?} {}", agent.log());
        if works {
            ensure!(refused.is_none(), "{about}");
            ensure!(client.value("select current_user")? == "app", "{about}");
            let ssl = client.value("select ssl from pg_stat_ssl where pid = pg_backend_pid()")?;
            ensure!((ssl == "t") == encrypted, "{about}");
        } else {
            ensure!(refused.as_deref() == Some("28000"), "{about}");
            agent.wait_for("the log says why", || Ok(agent.log().contains("in plain text")))?;
        }
        drop(client);
        let (_, log) = agent.stop()?;
        let record = format!("{:?}", enforced.events()?);
        ensure!(!record.contains(PASSWORD) && !log.contains(PASSWORD), "{about}");
    }
    Ok(())
}

#[test]
fn by_a_certificate() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.server.sql("create role app login")?;
    lab.server.let_in("hostssl all app all cert")?;
    let (certificate, key) = lab.authority.leaf(&[], Some("app"))?;
    let credential = format!(
        "  credential: {{ user: app, certificateFile: {}, keyFile: {} }}\n",
        certificate.display(),
        key.display()
    );
    let enforced = lab.enforced(&(lab.verified() + &credential), ALLOW_ALL)?;
    let agent = enforced.start()?;
    let (mut client, refused) = lab.begin(&agent, &APP)?;
    ensure!(refused.is_none(), "{refused:?} {}", agent.log());
    ensure!(client.value("select current_user")? == "app");
    Ok(())
}

#[test]
fn a_password_that_is_changed_or_wrong() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.role("scram-sha-256", "scram-sha-256")?;
    let credential = format!(
        "  credential: {{ user: app, passwordFile: {} }}\n",
        lab.password.display()
    );
    let enforced = lab.enforced(&(lab.verified() + &credential), ALLOW_ALL)?;
    let agent = enforced.start()?;
    ensure!(lab.begin(&agent, &APP)?.1.is_none());
    lab.server.sql("alter role app password 'another'")?;
    let (_, refused) = lab.begin(&agent, &APP)?;
    ensure!(refused.as_deref() == Some("28000"), "{refused:?}");
    agent.wait_for("the log says why", || {
        Ok(agent.log().contains("the server refuses the agent's credential"))
    })?;
    std::fs::write(&lab.password, "another\n")?;
    agent.wait_for("the new password", || Ok(lab.begin(&agent, &APP)?.1.is_none()))?;
    // A file that is gone leaves what was read, and is told.
    std::fs::remove_file(&lab.password)?;
    agent.wait_for("the missing file is told", || {
        Ok(agent.metric("bailiff_tls_files_refused")? == 1)
    })?;
    ensure!(lab.begin(&agent, &APP)?.1.is_none());
    ensure!(agent.get("/readyz")?.contains("[!]tls"));
    Ok(())
}

#[test]
fn user_and_database_are_what_policy_says() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.role("scram-sha-256", "scram-sha-256")?;
    lab.server.sql("create role boss; grant boss to app")?;
    let mapped = format!(
        "{ALLOW_ALL}  connectAs: {{ user: app, database: shop, passwordFile: {} }}\n",
        lab.password.display()
    );
    let enforced = lab.enforced(&lab.verified(), &mapped)?;
    let agent = enforced.start()?;
    let asked = [
        ("user", "postgres"),
        ("database", "postgres"),
        ("application_name", "mine"),
    ];
    let (mut client, refused) = lab.begin(&agent, &asked)?;
    ensure!(refused.is_none(), "{refused:?} {}", agent.log());
    ensure!(client.value("select current_user || session_user || current_database()")? == "appappshop");
    ensure!(client.value("show application_name")? == "mine", "the rest stays");
    // The role isn't changed on the way in.
    for (name, value) in [
        ("options", "-c role=boss"),
        ("options", "-crole=boss"),
        ("options", "--ROLE=boss"),
        ("options", "-c session_authorization=boss"),
        ("options", "-c r\\ole=boss"),
        ("role", "boss"),
        ("Session_Authorization", "boss"),
    ] {
        let (_, refused) = lab.begin(&agent, &[("user", "postgres"), (name, value)])?;
        ensure!(refused.as_deref() == Some("0A000"), "{name} {value}: {refused:?}");
    }
    // Nor by saying the user or the database twice.
    let twice = [
        ("user", "x"),
        ("database", "a"),
        ("user", "postgres"),
        ("database", "postgres"),
    ];
    let (mut client, _) = lab.begin(&agent, &twice)?;
    ensure!(client.value("select current_user || current_database()")? == "appshop");
    drop(client);
    agent.stop()?;
    let events = enforced.events()?;
    let begun = events
        .iter()
        .find(|event| event.pointer("/unmapped/connected_as").is_some());
    let told = begun.map(|event| {
        [
            "/actor/user/name",
            "/unmapped/connected_as/user",
            "/unmapped/connected_as/database",
        ]
        .map(|place| {
            event
                .pointer(place)
                .and_then(serde_json::Value::as_str)
                .unwrap_or_default()
                .to_owned()
        })
    });
    let expected = ["postgres", "app", "shop"].map(str::to_owned);
    ensure!(told.as_ref() == Some(&expected), "{told:?}");
    Ok(())
}

#[test]
fn policies_that_disagree_on_the_user() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let files = |user: &str| {
        policy(&format!(
            "{ALLOW_ALL}  connectAs: {{ user: {user}, passwordFile: {} }}\n",
            lab.password.display()
        ))
    };
    let enforced = Enforced::with(&[
        ("target.yaml", &target(lab.server.address(), "")),
        ("one.yaml", &files("app").replace("tested", "one")),
        ("two.yaml", &files("boss").replace("tested", "two")),
    ])?;
    let agent = enforced.start()?;
    let (_, refused) = lab.begin(&agent, &APP)?;
    ensure!(refused.as_deref() == Some("42501"), "{refused:?}");
    Ok(())
}

/// A server that asks for SCRAM and lets in whatever comes doesn't know the password.
#[test]
fn a_server_that_proves_nothing() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let more = format!(
        "  sourceAddress: Node\n  credential: {{ user: app, passwordFile: {} }}\n",
        lab.password.display()
    );
    let target = target("127.0.0.1", &more).replace(":5432", &format!(":{port}"));
    let enforced = Enforced::with(&[("target.yaml", &target), ("policy.yaml", &policy(ALLOW_ALL))])?;
    let agent = enforced.start()?;
    let server = std::thread::spawn(move || -> Result<Vec<u8>> {
        let (mut connection, _) = listener.accept()?;
        let mut heard = vec![0; 4096];
        let _ = connection.read(&mut heard)?;
        let mut sasl = 10_u32.to_be_bytes().to_vec();
        sasl.extend(b"SCRAM-SHA-256\0\0");
        connection.write_all(&bailiff_tests::message(b'R', &sasl))?;
        let _ = connection.read(&mut heard)?;
        connection.write_all(&bailiff_tests::message(b'R', &[0; 4]))?;
        connection.write_all(&bailiff_tests::message(b'Z', b"I"))?;
        let mut rest = Vec::new();
        let _ = connection.read_to_end(&mut rest);
        Ok(rest)
    });
    let mut client = Client::new(agent.dial("127.0.0.1", port)?)?;
    client.send(&say::startup(&APP))?;
    let answer = client.rest()?;
    ensure!(
        answer
            .iter()
            .find_map(bailiff_tests::Message::sqlstate)
            .as_deref()
            == Some("28000"),
        "{answer:?}"
    );
    let heard = server
        .join()
        .map_err(|_| anyhow::anyhow!("the server failed"))??;
    ensure!(heard.is_empty(), "{heard:?}");
    Ok(())
}
