//! PostgreSQL's own programs, with and without the agent.

use anyhow::{Result, ensure};
use bailiff_tests::{Compared, client_program};

/// Takes numbers out of what is printed: those of objects, which grow from run to run, and those of processes.
fn without_numbers(text: String) -> String {
    text.lines()
        .filter(|line| !line.contains("lo_import ") && !line.contains("lo_unlink "))
        .map(|line| match line.split_once(" with PID ") {
            Some((before, _)) => format!("{before}\n"),
            None => format!("{line}\n"),
        })
        .collect()
}

#[test]
fn psql_with_all_that_a_person_types() -> Result<()> {
    let Some(compared) = Compared::new("")? else {
        return Ok(());
    };
    let script = client_program("with_psql.sql").display().to_string();
    let same = compared.same_but(&["psql", "-X", "-f", &script], without_numbers)?;
    ensure!(same.said.contains("terminating connection"), "{}", same.said);
    ensure!(same.operations().len() > 100, "{}", same.operations().len());
    Ok(())
}
