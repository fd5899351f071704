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

/// Without a way to read it nothing is tried, and nothing is said of it.
#[test]
fn without_a_credential_no_catalog_is_read() -> Result<()> {
    let Some(lab) = lab(&masks(), "")? else {
        return Ok(());
    };
    let agent = lab.start()?;
    let mut session = lab.session(&agent)?;
    ensure!(session.value("select ssn from people")? != "123-45-6789");
    ensure!(agent.metric("bailiff_catalogs")? == 0 && agent.metric("bailiff_catalogs_missing")? == 0);
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
