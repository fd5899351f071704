//! How a session begins: negotiation, authentication, the end of it.

use std::io::Read as _;
use std::process::Command;

use anyhow::{Result, ensure};
use bailiff_tests::{ALLOW_ALL, Client, Lab, Postgres, say};

/// psql's own words under the agent, and past it.
fn both(lab: &Lab, environment: &[(&str, &str)], user: &str) -> Result<(String, String)> {
    let psql = [
        "psql",
        "-h",
        lab.server.address(),
        "-U",
        user,
        "-d",
        "postgres",
        "-XAtqwc",
        "select current_user",
    ];
    let said = |command: &mut Command| -> Result<String> {
        let output = command.envs(environment.iter().copied()).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    };
    let mut direct = Command::new("psql");
    direct.args(psql.iter().skip(1));
    Ok((said(&mut lab.enforced.run(&psql)?)?, said(&mut direct)?))
}

#[test]
fn every_method_by_password_passes_through() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    for (method, stored) in [
        ("trust", "scram-sha-256"),
        ("reject", "scram-sha-256"),
        ("password", "scram-sha-256"),
        ("md5", "md5"),
        ("md5", "scram-sha-256"),
        ("scram-sha-256", "scram-sha-256"),
    ] {
        let role = format!("{method}_{stored}").replace('-', "_");
        lab.server.sql(&format!(
            "set password_encryption = '{stored}'; create role {role} login password 'right'"
        ))?;
        lab.server.authenticate(&role, method)?;
        for password in ["right", "wrong"] {
            let (enforced, direct) = both(&lab, &[("PGPASSWORD", password)], &role)?;
            let passes = method == "trust" || (method != "reject" && password == "right");
            ensure!(
                direct.trim() == role || !passes,
                "{method} for {stored}, {password}: {direct}"
            );
            // The addresses differ: the server sees the pod's.
            let same = |text: &str| {
                text.split('"')
                    .enumerate()
                    .filter(|(place, part)| place % 2 == 1 && part.parse::<std::net::IpAddr>().is_err())
                    .map(|(_, part)| part.to_owned())
                    .collect::<Vec<_>>()
            };
            ensure!(
                if passes {
                    enforced == direct
                } else {
                    same(&enforced) == same(&direct)
                },
                "{method} for {stored}, {password}: {enforced}, past the agent {direct}"
            );
        }
    }
    let record = format!("{:?}", lab.enforced.events()?);
    ensure!(!record.contains("right") && !record.contains("wrong"), "{record}");
    Ok(())
}

#[test]
fn encryption_is_declined_and_the_session_goes_on() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    let agent = lab.start()?;
    let mut client = Client::new(agent.dial(lab.server.address(), Postgres::PORT)?)?;
    // GSSENCRequest, SSLRequest.
    for code in [80_877_104_u32, 80_877_103] {
        let mut request = 8_u32.to_be_bytes().to_vec();
        request.extend(code.to_be_bytes());
        client.send(&request)?;
        let mut answer = [0];
        let mut stream = client.stream();
        stream.read_exact(&mut answer)?;
        ensure!(answer == *b"N", "{answer:?}");
    }
    client.send(&say::startup(&[("user", "postgres"), ("database", "postgres")]))?;
    client.until_ready()?;
    ensure!(client.value("select 1")? == "1");
    drop(client);
    drop(agent);

    let (enforced, _) = both(&lab, &[("PGSSLMODE", "require")], "postgres")?;
    ensure!(enforced.contains("server does not support SSL"), "{enforced}");
    Ok(())
}

#[test]
fn a_newer_minor_version_and_unknown_options_are_the_servers_to_answer() -> Result<()> {
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    let agent = lab.start()?;
    let mut startup = say::startup(&[
        ("user", "postgres"),
        ("database", "postgres"),
        ("_pq_.unheard_of", "1"),
    ]);
    // Protocol 3.99 in place of 3.0.
    if let Some(minor) = startup.get_mut(7) {
        *minor = 99;
    }
    let mut tags = Vec::new();
    let mut through = Client::new(agent.dial(lab.server.address(), Postgres::PORT)?)?;
    let mut past = Client::new(std::net::TcpStream::connect((
        lab.server.address(),
        Postgres::PORT,
    ))?)?;
    for client in [&mut through, &mut past] {
        client.send(&startup)?;
        let answer = client.until_ready()?;
        ensure!(client.value("select 1")? == "1", "{answer:?}");
        tags.push(
            answer
                .into_iter()
                .filter(|message| message.tag != b'K')
                .collect::<Vec<_>>(),
        );
    }
    ensure!(
        tags.first() == tags.last() && tags.iter().flatten().any(|message| message.tag == b'v'),
        "{tags:?}"
    );
    Ok(())
}
