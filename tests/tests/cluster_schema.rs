//! The table of built-in types is what the pinned release's own types say.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{can_be_root, check, harness_program};

#[test]
fn the_table_is_that_of_the_pinned_release() -> Result<()> {
    // The cluster's programs are built only where tests can be root.
    if !can_be_root()? {
        return Ok(());
    }
    let printed = check(Command::new(harness_program("xtask")?).args(["cluster", "schema"]))?;
    let printed = String::from_utf8(printed.stdout)?;
    let kept = include_str!("../../agent/crates/wire/src/kubernetes/schema.txt");
    let differs = printed.lines().zip(kept.lines()).find(|(now, then)| now != then);
    ensure!(
        printed == kept,
        "`cargo xtask cluster schema` prints another table, first: {differs:?}"
    );
    let first = kept.lines().next().context("an empty table")?;
    ensure!(first.starts_with('#'), "{first}");
    Ok(())
}
