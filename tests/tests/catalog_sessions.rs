//! Sessions and the catalog of their database: when it is read, when it is read anew, and what is said where it can't be.

use anyhow::{Result, ensure};
use bailiff_tests::{ALLOW_ALL, Lab, Running};

const CATALOG: &str = "  catalog: { user: postgres }\n";

fn masks() -> String {
    format!("{ALLOW_ALL}  masks:\n    - columns: [public.people.ssn]\n      with: Redact\n")
}

fn lab(rules: &str, more: &str) -> Result<Option<Lab>> {
    let Some(lab) = Lab::new(rules, more)? else {
        return Ok(None);
    };
    lab.server
        .sql("create table people(id int, ssn text); insert into people values (1, '123-45-6789')")?;
    Ok(Some(lab))
}

fn is_read(agent: &Running) -> Result<bool> {
    Ok(agent.metric("bailiff_catalogs")? == 1 && agent.metric("bailiff_catalogs_missing")? == 0)
}

/// What others change past the agent is found by looking; what is temporary doesn't count.
#[test]
fn changes_past_the_agent_are_found_and_temporary_tables_are_none() -> Result<()> {
    let Some(lab) = lab(&masks(), CATALOG)? else {
        return Ok(());
    };
    let agent = lab.start()?;
    let mut session = lab.session(&agent)?;
    session.value("select 1")?;
    let refreshes = || agent.metric("bailiff_catalog_refreshes_total");
    let before = refreshes()?;
    let mut passing = lab.direct()?;
    passing.ask("create temp table passing (id int)")?;
    passing.ask("insert into people values (2, null)")?;
    // Longer than it takes to look several times.
    std::thread::sleep(std::time::Duration::from_secs(4));
    ensure!(
        refreshes()? == before,
        "rows and temporary tables change no catalog"
    );
    lab.server.sql("alter table people rename column id to number")?;
    agent.wait_for("a look at what was changed", || Ok(refreshes()? > before))
}

#[test]
fn a_catalog_that_cannot_be_read_is_said_with_its_reason() -> Result<()> {
    for (more, limit, prepare, reason, words) in [
        (
            "  catalog: { user: nobody_such }\n",
            "catalog=1GiB",
            "select 1",
            "credential",
            "doesn't accept",
        ),
        (
            "  catalog: { user: reader }\n",
            "catalog=1GiB",
            "revoke select on pg_proc from public",
            "permission",
            "may not read",
        ),
        (
            CATALOG,
            "catalog=100KiB",
            "select 1",
            "too_large",
            "more than 102400 bytes",
        ),
        (
            CATALOG,
            "catalog-relations=50",
            "select 1",
            "too_large",
            "more than 50 relations",
        ),
    ] {
        let Some(lab) = lab(&masks(), more)? else {
            return Ok(());
        };
        lab.server.sql("create role reader login")?;
        lab.server.sql(prepare)?;
        let lab = lab.options(&["--limit", limit]);
        let agent = lab.start()?;
        let mut session = lab.session(&agent)?;
        // Masks go by names then.
        ensure!(session.value("select ssn from people")? != "123-45-6789");
        ensure!(agent.metric("bailiff_catalogs")? == 0, "{reason}");
        agent.wait_for("the failure's count", || {
            let failures = format!("bailiff_catalog_failures_total{{reason=\"{reason}\"}}");
            Ok(agent.metric(&failures)? > 0 && agent.metric("bailiff_catalogs_missing")? == 1)
        })?;
        let ready = agent.get("/readyz")?;
        ensure!(
            ready.contains("[!]masks: database \"postgres\" of target db") && ready.contains(words),
            "{reason}: {ready}"
        );
    }
    Ok(())
}

/// A name that is wrong masks nothing, so it is said.
#[test]
fn a_mask_that_matches_no_column_is_said() -> Result<()> {
    let rules = masks().replace("[public.people.ssn]", "[public.people.ssn, public.people.snn]");
    let Some(lab) = lab(&rules, CATALOG)? else {
        return Ok(());
    };
    let agent = lab.start()?;
    let mut session = lab.session(&agent)?;
    ensure!(session.value("select ssn from people")? == "[masked]");
    let ready = agent.get("/readyz")?;
    ensure!(
        ready.contains("policy tested masks public.people.snn, which it doesn't have")
            && !ready.contains("public.people.ssn"),
        "{ready}"
    );
    Ok(())
}

/// What a configuration's doctor says of masks.
fn diagnosis(lab: &Lab) -> Result<String> {
    let mut doctor = std::process::Command::new(bailiff_tests::bailiff()?);
    let said = doctor
        .args(["doctor", "--config"])
        .arg(lab.enforced.config())
        .output()?;
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

/// Without a way to read it nothing is tried, and that masks are coarser for it is said everywhere.
#[test]
fn without_a_credential_no_catalog_is_read_and_that_is_said() -> Result<()> {
    const LINE: &str = "[!]masks: target db: by names (coarser)";
    const FINDING: &str = "target db has masks, and no role to read catalogs with";
    for (rules, more, told) in [
        (masks(), "", true),
        (masks(), CATALOG, false),
        (ALLOW_ALL.to_owned(), "", false),
    ] {
        let Some(lab) = lab(&rules, more)? else {
            return Ok(());
        };
        let agent = lab.start()?;
        let mut session = lab.session(&agent)?;
        if rules != ALLOW_ALL {
            ensure!(session.value("select ssn from people")? != "123-45-6789");
        }
        agent.wait_for("the gauges", || {
            Ok(
                agent.metric("bailiff_targets_masked_by_names")? == u64::from(told)
                    && agent.metric("bailiff_catalogs")? == u64::from(!more.is_empty()),
            )
        })?;
        ensure!(agent.metric("bailiff_catalogs_missing")? == 0);
        let ready = agent.get("/readyz")?;
        ensure!(
            ready.contains(LINE) == told && ready.contains("200 OK"),
            "{ready}"
        );
        let found = diagnosis(&lab)?;
        ensure!(found.contains(FINDING) == told, "{found}");
    }
    Ok(())
}

/// Estimates of rows decide where a rule asks for them, also for those of whom nothing is masked.
#[test]
fn rows_are_estimated() -> Result<()> {
    let rules = format!(
        "{ALLOW_ALL}    - name: large\n      effects: [read, delete]\n      rows: {{ above: 1000 }}\n      action: Deny\n"
    );
    let Some(lab) = lab(&rules, CATALOG)? else {
        return Ok(());
    };
    lab.server.sql(
        "create table small as select generate_series(1, 1000) a; create table large as select generate_series(1, 1001) a; analyze",
    )?;
    let agent = lab.start()?;
    for (sql, denied) in [
        ("select count(*) from small", false),
        ("select count(*) from large", true),
        ("select count(*) from large where a = 1", false),
        ("delete from large", true),
        ("select count(*) from small, large", true),
    ] {
        // Each is a session's first statement: it waits for the catalog.
        let answer = lab.session(&agent)?.ask(sql)?;
        let refused = answer.iter().find_map(bailiff_tests::Message::sqlstate);
        ensure!(
            refused.as_deref() == denied.then_some("42501"),
            "{sql}: {answer:?}"
        );
    }
    Ok(())
}

/// A call by number is decided by the name that the catalog has for it.
#[test]
fn functions_are_called_by_number() -> Result<()> {
    let rules = ALLOW_ALL.replace(", execute", "")
        + "    - name: some\n      effects: [execute]\n      functions: [public.free, public.told]\n      action: Allow\n";
    let masked = format!("{rules}  masks:\n    - columns: [public.people.ssn]\n      with: Redact\n");
    for (rules, more, expected) in [
        (&rules, CATALOG, ["free", "denied", "123-45-6789"]),
        // What it gives has no columns, so that nothing of it could be masked.
        (&masked, CATALOG, ["denied", "denied", "denied"]),
        (&rules, "", ["denied", "denied", "denied"]),
    ] {
        let Some(lab) = lab(rules, more)? else {
            return Ok(());
        };
        lab.server.sql(
            "create function free(int) returns text language sql as $$ select 'free' $$;
             create function other(int) returns text language sql as $$ select 'other' $$;
             create function told(int) returns text language sql as $$ select ssn from people where id = $1 $$",
        )?;
        let agent = lab.start()?;
        let mut session = lab.session(&agent)?;
        for (name, expected) in ["free", "other", "told"].into_iter().zip(expected) {
            let number: u32 = lab
                .server
                .sql(&format!("select '{name}'::regproc::oid"))?
                .parse()?;
            let mut body = number.to_be_bytes().to_vec();
            // One value as text, and the result as text.
            for part in [
                &0_u16.to_be_bytes()[..],
                &1_u16.to_be_bytes(),
                &1_u32.to_be_bytes(),
                b"1",
                &0_u16.to_be_bytes(),
            ] {
                body.extend_from_slice(part);
            }
            session.send(&bailiff_tests::message(b'F', &body))?;
            let answer = session.until_ready()?;
            let gave = answer.iter().find(|message| message.tag == b'V');
            let gave = gave.map(|message| {
                String::from_utf8_lossy(message.body.get(4..).unwrap_or_default()).into_owned()
            });
            ensure!(
                gave.as_deref() == (expected != "denied").then_some(expected),
                "{more} {name}: {answer:?}"
            );
        }
        drop(session);
        drop(agent);
        let operations = lab.enforced.operations()?;
        let named = operations.iter().any(|operation| {
            let text = operation.pointer("/query_info/query_string");
            text.and_then(serde_json::Value::as_str) == Some(r#"SELECT "public"."free"($1)"#)
        });
        ensure!(named != more.is_empty(), "{operations:#?}");
    }
    Ok(())
}

#[test]
fn a_server_that_was_started_anew_is_read_again() -> Result<()> {
    let Some(lab) = lab(&masks(), CATALOG)? else {
        return Ok(());
    };
    let agent = lab.start()?;
    lab.session(&agent)?.value("select 1")?;
    agent.wait_for("the gauges", || is_read(&agent))?;
    let before = agent.metric("bailiff_catalog_refreshes_total")?;
    lab.server.listen_also(&[], &[])?;
    let mut session = lab.session(&agent)?;
    agent.wait_for("another reading", || {
        Ok(agent.metric("bailiff_catalog_refreshes_total")? > before && is_read(&agent)?)
    })?;
    ensure!(session.value("select ssn from people")? != "123-45-6789");
    Ok(())
}
