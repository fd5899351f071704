//! Python's clients, with and without the agent.

use anyhow::{Result, ensure};
use bailiff_tests::{Compared, client_program};

fn same(name: &str, least: usize) -> Result<()> {
    let Some(compared) = Compared::new("")? else {
        return Ok(());
    };
    let program = client_program(name).display().to_string();
    let same = compared.same(&["/usr/bin/python3", &program])?;
    let operations = same.operations().len();
    ensure!(
        operations >= least,
        "{operations} operations recorded:\n{}",
        same.said
    );
    Ok(())
}

#[test]
fn psycopg_in_text_binary_and_pipelines() -> Result<()> {
    same("with_psycopg.py", 400)
}

#[test]
fn asyncpg_alone_and_in_a_pool() -> Result<()> {
    same("with_asyncpg.py", 100)
}
