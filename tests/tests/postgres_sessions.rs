//! Unchanged psql under `bailiff run`, against a real PostgreSQL.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{Enforced, Lab, can_be_root, check, policy};
use serde_json::Value;

const RULES: &str = "    - name: read
      effects: [read, insert, transaction, set]
      relations: [public.*, pg_catalog.*]
      action: Allow
    - name: keep
      effects: [drop, truncate, delete]
      action: Deny
      message: nothing is destroyed here
";

const MASKS: &str = "  masks:
    - columns: [public.people.ssn]
      with: Redact
";

fn people(rules: &str) -> Result<Option<Lab>> {
    let lab = Lab::new(rules, "")?;
    if let Some(lab) = &lab {
        lab.server.sql(
            "create table people(id int, name text, ssn text); insert into people values (1,'Ada','123-45-6789')",
        )?;
    }
    Ok(lab)
}

#[test]
fn statements_are_decided_masked_and_recorded() -> Result<()> {
    let Some(lab) = people(&format!("{RULES}{MASKS}"))? else {
        return Ok(());
    };
    let Lab { server, enforced } = &lab;
    let said = enforced.psql(
        server,
        "select * from people;\n\
         drop table people;\n\
         with gone as (delete from people returning id) select * from gone;\n\
         select upper(ssn) from people;\n\
         select row_to_json(p) from people p;\n\
         select p.row_to_json from people p;\n\
         select ssn::int from people;\n\
         copy people to stdout;\n\
         select ssn as x, name from people;\n",
    )?;
    ensure!(
        said.contains("1|Ada|[masked]") && said.contains("[masked]|Ada"),
        "{said}"
    );
    ensure!(!said.contains("123-45-6789"), "{said}");
    ensure!(said.matches("nothing is destroyed here").count() == 2, "{said}");
    ensure!(said.contains("policy tested, rule keep"), "{said}");
    ensure!(server.sql("select count(*) from people")? == "1");

    let events = enforced.events()?;
    let of = |kind: &str| -> Vec<&Value> {
        events
            .iter()
            .filter(|event| event.pointer("/unmapped/event").and_then(Value::as_str) == Some(kind))
            .collect()
    };
    ensure!(
        events
            .iter()
            .all(|event| event.get("class_uid").and_then(Value::as_u64) == Some(6005))
    );
    ensure!(
        of("session_start").len() == 1 && of("session_end").len() == 1 && of("operation").len() == 9,
        "{events:#?}"
    );
    let start = of("session_start")
        .first()
        .copied()
        .context("no start")?
        .to_string();
    ensure!(
        start.contains("\"comm\":\"psql\"") && start.contains("\"evidence\":\"observed\""),
        "{start}"
    );
    let text = serde_json::to_string(&events)?;
    ensure!(!text.contains("123-45-6789"), "a masked value is in the record");
    let first = of("operation").first().copied().context("no operation")?;
    ensure!(
        first.pointer("/unmapped/masked_values").and_then(Value::as_u64) == Some(1),
        "{first}"
    );
    ensure!(
        first.pointer("/unmapped/rows").and_then(Value::as_u64) == Some(1),
        "{first}"
    );
    Ok(())
}

#[test]
fn transactions_and_pipelines_go_on_as_after_a_real_error() -> Result<()> {
    let Some(lab) = people(RULES)? else {
        return Ok(());
    };
    let Lab { server, enforced } = &lab;
    // In a transaction: everything after the refused statement fails, and nothing is committed.
    let said = enforced.psql(
        server,
        "begin;\ninsert into people values (2,'Bob','x');\ntruncate people;\nselect 'after';\ncommit;\nselect 'usable', count(*) from people;\n",
    )?;
    ensure!(
        said.contains("nothing is destroyed here") && said.contains("current transaction is aborted"),
        "{said}"
    );
    ensure!(said.contains("usable|1"), "{said}");
    // Several statements in one message are an implicit transaction, of which nothing runs.
    let said = enforced.psql(
        server,
        "insert into people values (3,'Eve','x')\\; drop table people;\nselect count(*) from people;\n",
    )?;
    ensure!(
        said.contains("nothing is destroyed here") && said.lines().any(|line| line == "1"),
        "{said}"
    );
    // A pipeline of the extended protocol, by pgbench: the insert before the refused statement is rolled back.
    let script = enforced.config().join("pipeline.sql");
    std::fs::write(
        &script,
        "\\startpipeline\ninsert into people values (4,'Dan','x');\ndelete from people;\ninsert into people values (5,'Fay','x');\n\\endpipeline\n",
    )?;
    let path = script.display().to_string();
    let output = enforced
        .run(&[
            "pgbench",
            "-h",
            server.address(),
            "-U",
            "postgres",
            "-n",
            "-t",
            "1",
            "-M",
            "extended",
            "-f",
            "/dev/stdin",
            "postgres",
        ])?
        .stdin(std::fs::File::open(&path)?)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(said.contains("nothing is destroyed here"), "{said}");
    ensure!(server.sql("select count(*) from people")? == "1");
    Ok(())
}

#[test]
fn the_server_sees_the_pods_address_or_the_nodes() -> Result<()> {
    let ask = "select client_addr from pg_stat_activity where pid = pg_backend_pid();\n";
    for source in ["Pod", "Node"] {
        let Some(lab) = Lab::new(RULES, &format!("  sourceAddress: {source}\n"))? else {
            return Ok(());
        };
        let said = lab.enforced.psql(&lab.server, ask)?;
        if source == "Pod" {
            ensure!(said.starts_with("10.211."), "{said}");
        } else {
            ensure!(said.trim() == lab.server.address(), "{said}");
        }
    }
    Ok(())
}

#[test]
fn prepared_statements_copy_and_cancel_work() -> Result<()> {
    let rules = RULES.replace("insert, transaction", "insert, update, copy, transaction").replace(
        "    - name: keep",
        "    - name: sleep\n      effects: [execute]\n      functions: [pg_sleep]\n      action: Allow\n    - name: keep",
    );
    let Some(lab) = Lab::new(&rules, "")? else {
        return Ok(());
    };
    let Lab { server, enforced } = &lab;
    check(Command::new("pgbench").args(["-h", server.address(), "-U", "postgres", "-i", "-q", "postgres"]))?;
    for mode in ["simple", "extended", "prepared"] {
        let output = check(
            enforced
                .run(&[
                    "pgbench",
                    "-h",
                    server.address(),
                    "-U",
                    "postgres",
                    "-n",
                    "-t",
                    "50",
                    "-c",
                    "4",
                    "-M",
                    mode,
                    "postgres",
                ])?
                .stdin(std::process::Stdio::null()),
        )?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            said.contains("200/200") && said.contains("failed transactions: 0 "),
            "{mode}: {said}"
        );
    }
    let said = enforced.psql(
        server,
        "create temp table unseen(a int);\ncopy pgbench_history(tid) from stdin;\n7\n8\n\\.\ncopy (select tid from pgbench_history where bid is null order by 1) to stdout;\nset statement_timeout = 50;\nselect pg_sleep(5);\n",
    )?;
    ensure!(said.contains("7\n8\n"), "{said}");
    ensure!(said.contains("statement timeout"), "{said}");
    ensure!(said.contains("no rule allows create"), "{said}");
    Ok(())
}

#[test]
fn a_bad_configuration_is_refused_with_its_place_and_mend() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let enforced = Enforced::with(&[("policy.yaml", &policy(RULES))])?;
    let output = enforced.run(&["true"])?.output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success());
    ensure!(
        said.contains("policy.yaml:5")
            && said.contains("there is no target \"db\"")
            && said.contains("mend:"),
        "{said}"
    );
    Ok(())
}

#[test]
fn an_agent_that_cannot_start_leaves_nothing() -> Result<()> {
    let Some(lab) = Lab::new(RULES, "")? else {
        return Ok(());
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let admin = taken.local_addr()?.to_string();
    // The kernel side stands by the time at which this is found out.
    let child = lab
        .enforced
        .run_with(&["--admin", &admin], &["true"])?
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    let pins = format!("/sys/fs/bpf/bailiff-{:x}", child.id());
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(125) && said.contains("choose another with --admin"),
        "{said}"
    );
    ensure!(!std::path::Path::new(&pins).exists(), "{pins} is left");
    Ok(())
}

#[test]
fn the_command_has_no_privilege_and_its_status_is_passed_on() -> Result<()> {
    let Some(lab) = Lab::new(RULES, "")? else {
        return Ok(());
    };
    let Lab { enforced, .. } = &lab;
    let output = enforced
        .run(&[
            "sh",
            "-c",
            "grep -E '^(CapPrm|CapEff|CapBnd|CapInh|CapAmb|NoNewPrivs)' /proc/self/status; exit 7",
        ])?
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.code() == Some(7), "{:?}", output.status);
    ensure!(
        said.matches("0000000000000000").count() == 5 && said.contains("NoNewPrivs:\t1"),
        "{said}"
    );
    // What an attacker would type.
    for attack in [
        "nsenter -t 1 -n true",
        "nsenter --net=/proc/1/ns/net ip link add x type dummy",
        "mount -t cgroup2 x /mnt",
        "umount /run",
        "ls /sys/fs/cgroup/unified",
        "test -n \"$(ls /sys/fs/bpf)\"",
        "mount -t bpf x /mnt",
        "test -e /run/docker.sock -o -e /run/containerd/containerd.sock -o -e /run/postgresql",
        "ls /tmp | grep bailiff-pg",
        "mknod /dev/shm/mem c 1 1",
        "ip link set eth0 down",
    ] {
        let output = enforced.run(&["sh", "-c", attack])?.output()?;
        ensure!(
            !output.status.success(),
            "{attack}: got out: {}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
    Ok(())
}
