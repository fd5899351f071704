//! Programs on a terminal.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{check, python};

const DRIVER: &str = include_str!("terminal.py");

/// What is done at the terminal.
#[derive(Debug, Clone)]
pub enum Step<'a> {
    /// Waits until a text is printed after those before.
    Expect(&'a str),
    /// Types.
    Send(&'a str),
    /// Makes the terminal this many lines high and columns wide.
    Resize(u16, u16),
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Transcript {
    /// All that was printed.
    pub text: String,
    /// The status; negative for a signal.
    pub status: i64,
}

/// Runs a command on a terminal of its own until it ends.
pub fn on_terminal(command: &Command, directory: &Path, steps: &[Step<'_>]) -> Result<Transcript> {
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let steps: Vec<Value> = steps
        .iter()
        .map(|step| match step {
            Step::Expect(text) => json!(["expect", text]),
            Step::Send(text) => json!(["send", text]),
            Step::Resize(lines, columns) => json!(["resize", lines, columns]),
        })
        .collect();
    let asked = json!({ "command": words, "directory": directory, "steps": steps });
    let mut driver = Command::new(python());
    driver.args(["-c", DRIVER, &asked.to_string()]);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => driver.env(name, value),
            None => driver.env_remove(name),
        };
    }
    let told: Value = serde_json::from_slice(&check(&mut driver)?.stdout)?;
    let text = told
        .get("text")
        .and_then(Value::as_str)
        .context("no text")?
        .to_owned();
    let missing = told.get("missing").and_then(Value::as_str);
    ensure!(missing.is_none(), "{missing:?} was never printed:\n{text}");
    Ok(Transcript {
        text,
        status: told.get("status").and_then(Value::as_i64).context("no status")?,
    })
}
