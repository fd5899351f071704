//! PgBouncer behind the agent and in the pod before it.

use anyhow::{Result, ensure};
use bailiff_tests::{
    ALLOW_ALL, Client, Compared, Enforced, Lab, PgBouncer, Postgres, client_program, policy, say, target,
};

const PASSWORD: &str = "staple-battery-horse";

#[test]
fn pgbouncer_between_the_agent_and_the_server() -> Result<()> {
    let Some(Lab { server, .. }) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    let pool = PgBouncer::start(&server, "session")?;
    let enforced = Enforced::with(&[
        ("target.yaml", &target(pool.address(), "  unknown: Allow\n")),
        ("policy.yaml", &policy(ALLOW_ALL)),
    ])?;
    let compared = Compared::at(Lab { server, enforced }, "").env("PGHOST", pool.address());
    for program in ["with_psycopg.py", "with_asyncpg.py"] {
        let path = client_program(program).display().to_string();
        let same = compared.same(&["/usr/bin/python3", &path])?;
        ensure!(same.operations().len() > 100, "{}", same.operations().len());
    }
    Ok(())
}

#[test]
fn pgbouncer_in_the_pod_before_the_agent() -> Result<()> {
    let Some(compared) = Compared::new("")? else {
        return Ok(());
    };
    // Anybody but root, as which it doesn't run.
    let compared = compared
        .env("SUDO_UID", "65534")
        .env("SUDO_GID", "65534")
        .env("SUDO_USER", "nobody");
    let configuration = PgBouncer::configuration(&compared.lab().server, "127.0.0.1", 6432, "transaction");
    let run = "d=$(mktemp -d); printf '%s' \"$1\" > $d/ini; \
               if [ $(id -u) = 0 ]; then chown -R nobody $d; s='setpriv --reuid 65534 --clear-groups'; fi; \
               timeout 60 $s pgbouncer -q $d/ini 2>$d/log & pool=$!; export PGHOST=127.0.0.1 PGPORT=6432; \
               for n in $(seq 100); do pg_isready -q && break; sleep 0.1; done; \
               psql -XAtq -c 'create table t (a int, b text)' -c \"copy t from program 'seq 3 | sed s/$/,x/' with (format csv)\" -c 'table t'; \
               for n in 1 2 3 4; do psql -XAtq -c 'begin; insert into t values (9); rollback' -c 'select count(*) from t' & wait $!; done; \
               pgbench -n -i -I dtgp -q >/dev/null 2>&1; pgbench -n -c 6 -t 30 -M extended 2>&1 | grep processed; \
               psql -XAtq -c 'select sum(tbalance) = sum(delta) from pgbench_tellers, (select sum(delta) delta from pgbench_history) h group by delta'; \
               psql -XAtq -c 'select 1/0' -c 'select nothing'; kill $pool; cat $d/log >&2; rm -r $d";
    let same = compared.same_but(&["sh", "-c", run, "sh", &configuration], |said| said)?;
    ensure!(
        same.said.contains("180/180") && same.said.contains("division by zero"),
        "{}",
        same.said
    );
    ensure!(same.operations().len() > 500, "{}", same.operations().len());
    ensure!(Postgres::PORT == 5432);
    Ok(())
}

/// The pool asks for a password that the pod doesn't have, and hands the server's sessions on from one client to the next.
#[test]
fn pgbouncer_behind_with_a_credential() -> Result<()> {
    let Some(Lab { server, .. }) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    server.sql("create role app login; create table t (a int); grant all on t to app")?;
    for mode in ["session", "transaction"] {
        let pool = PgBouncer::start_with_password(&server, mode, "app", PASSWORD)?;
        let files = tempfile::tempdir()?;
        let password = files.path().join("password");
        std::fs::write(&password, format!("{PASSWORD}\n"))?;
        let more = format!(
            "  credential: {{ user: app, passwordFile: {} }}\n",
            password.display()
        );
        let enforced = Enforced::with(&[
            ("target.yaml", &target(pool.address(), &more)),
            ("policy.yaml", &policy(ALLOW_ALL)),
        ])?;
        let agent = enforced.start()?;
        for round in 0..3 {
            let mut clients = Vec::new();
            for _ in 0..4 {
                let mut client = Client::new(agent.dial(pool.address(), Postgres::PORT)?)?;
                client.send(&say::startup(&[("user", "nobody"), ("database", "postgres")]))?;
                let answer = client.until_ready()?;
                ensure!(
                    answer.last().is_some_and(|message| message.tag == b'Z')
                        && answer
                            .iter()
                            .all(|message| message.tag != b'R' || message.body == [0; 4]),
                    "{mode}: {answer:?} {}",
                    agent.log()
                );
                clients.push(client);
            }
            for client in &mut clients {
                client.ask("begin; insert into t values (1); commit")?;
                ensure!(
                    client.value("select current_user")? == "postgres",
                    "{mode} {round}"
                );
            }
        }
        ensure!(server.sql("with d as (delete from t returning 1) select count(*) from d")? == "12");
        // Past the agent nobody is let in without it.
        let mut past = Client::new(std::net::TcpStream::connect((pool.address(), Postgres::PORT))?)?;
        past.send(&say::startup(&[("user", "app"), ("database", "postgres")]))?;
        let asked = past
            .message()?
            .is_some_and(|message| message.tag == b'R' && message.body != [0; 4]);
        ensure!(asked, "{mode}");
        drop(agent);
        let told = format!("{:?}", enforced.events()?);
        ensure!(!told.contains(PASSWORD), "{told}");
    }
    Ok(())
}
