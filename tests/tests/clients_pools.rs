//! PgBouncer behind the agent and in the pod before it.

use anyhow::{Result, ensure};
use bailiff_tests::{
    ALLOW_ALL, Compared, Enforced, Lab, PgBouncer, Postgres, client_program, policy, target,
};

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
