//! Drivers of other languages, with and without the agent.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{Compared, bailiff, check, client_program};

#[test]
fn pgjdbc_in_all_of_its_query_modes() -> Result<()> {
    let Some(compared) = Compared::new("")? else {
        return Ok(());
    };
    let jar = "/usr/share/java/postgresql.jar";
    ensure!(
        Path::new(jar).is_file(),
        "pgjdbc is missing: apt-get install libpostgresql-jdbc-java"
    );
    let program = client_program("WithPgjdbc.java").display().to_string();
    let same = compared.same(&[
        "java",
        "-Xshare:auto",
        "-XX:TieredStopAtLevel=1",
        "-cp",
        jar,
        &program,
    ])?;
    ensure!(
        same.said.contains("== binary") && same.operations().len() > 600,
        "{}",
        same.operations().len()
    );
    Ok(())
}

/// Where node finds `pg`: the distribution's, or one that npm has brought, by the digests in `package-lock.json`.
fn node_path() -> Result<String> {
    let debian = Path::new("/usr/share/nodejs");
    if debian.join("pg").is_dir() {
        return Ok(debian.display().to_string());
    }
    let place = bailiff()?.with_file_name("clients").join("node");
    if !place.join("node_modules/pg").is_dir() {
        std::fs::create_dir_all(&place)?;
        for file in ["package.json", "package-lock.json"] {
            std::fs::copy(client_program("node").join(file), place.join(file))?;
        }
        let mut npm = Command::new("npm");
        check(
            npm.args(["ci", "--silent", "--no-audit", "--no-fund"])
                .current_dir(&place),
        )
        .context("node-postgres is missing: apt-get install node-pg")?;
    }
    Ok(place.join("node_modules").display().to_string())
}

#[test]
fn node_postgres_alone_and_in_a_pool() -> Result<()> {
    let Some(compared) = Compared::new("")? else {
        return Ok(());
    };
    let program = client_program("with_node_postgres.js").display().to_string();
    let same = compared
        .env("NODE_PATH", &node_path()?)
        .same(&["node", &program])?;
    ensure!(same.operations().len() > 300, "{}", same.operations().len());
    Ok(())
}
