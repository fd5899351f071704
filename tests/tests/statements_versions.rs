//! The servers of all supported versions that other suites hold statements against.

use anyhow::{Result, ensure};
use bailiff_tests::{Postgres, can_be_root};

#[test]
fn every_supported_version_has_a_server() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    for version in Postgres::versions()? {
        let server = Postgres::start_version(version)?;
        let number: u32 = server.sql("show server_version_num")?.parse()?;
        ensure!(number / 10_000 == version, "{version}: {number}");
        // What they bring besides: languages and extensions that suites need.
        server.sql("create extension dblink; create extension postgres_fdw; create extension hstore")?;
        ensure!(server.sql("show server_encoding")? == "UTF8", "{version}");
    }
    Ok(())
}
