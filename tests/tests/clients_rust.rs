//! Rust's clients, with and without the agent.

use anyhow::{Result, ensure};
use bailiff_tests::{Compared, harness_program};

/// `told` is what has to be among what is printed, so that the same failure both ways isn't taken for success.
fn same(client: &str, least: usize, told: &[&str]) -> Result<()> {
    let Some(compared) = Compared::new("")? else {
        return Ok(());
    };
    let program = harness_program("rust-clients")?.display().to_string();
    let same = compared.same(&[&program, client])?;
    for line in told {
        ensure!(same.said.contains(line), "`{line}` is missing:\n{}", same.said);
    }
    let operations = same.operations().len();
    ensure!(
        operations >= least,
        "{operations} operations recorded:\n{}",
        same.said
    );
    Ok(())
}

#[test]
fn tokio_postgres_with_statements_without_waiting() -> Result<()> {
    same(
        "tokio-postgres",
        320,
        &[
            "put 300",
            "portal 293 Some(299)",
            "notice WARNING w",
            "note news payload",
            "large 6291456",
            "57014 canceling statement due to user request",
            "usable",
            "57P01 terminating connection",
        ],
    )
}

#[test]
fn sqlx_with_its_pool() -> Result<()> {
    same(
        "sqlx",
        115,
        &[
            "(60, 45)",
            "in 2",
            "[1, 2, 3]",
            "news payload",
            "6291456",
            "57P01",
        ],
    )
}
