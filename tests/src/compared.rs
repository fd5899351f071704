//! The same client with and without the agent.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{ALLOW_ALL, Lab};

/// A server that a client meets twice in the same state: first directly, then through an agent whose policy allows all.
#[derive(Debug)]
pub struct Compared {
    lab: Lab,
    before: String,
    environment: Vec<(String, String)>,
}

/// What a client printed both times, and what was recorded of the second.
#[derive(Debug)]
pub struct Same {
    /// Standard output, then standard error.
    pub said: String,
    /// The events, in order.
    pub events: Vec<Value>,
}

/// The database that a client works in.
const DATABASE: &str = "work";

impl Compared {
    /// A server. `before` is run in the client's database each time before the client; `None` where the test can't be root.
    pub fn new(before: &str) -> Result<Option<Self>> {
        // What the grammar doesn't know is allowed, too, so that the server's own syntax errors are compared.
        Self::with(ALLOW_ALL, "  unknown: Allow\n", before)
    }

    /// The same under other rules and with further lines of the target.
    pub fn with(rules: &str, more: &str, before: &str) -> Result<Option<Self>> {
        Ok(Lab::new(rules, more)?.map(|lab| Self::at(lab, before)))
    }

    /// The same at a server that is there.
    #[must_use]
    pub fn at(lab: Lab, before: &str) -> Self {
        let host = lab.server.address().to_owned();
        let environment = [
            ("PGHOST", host.as_str()),
            ("PGUSER", "postgres"),
            ("PGDATABASE", DATABASE),
            ("LC_ALL", "C.UTF-8"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
        ];
        Self {
            lab,
            before: before.to_owned(),
            environment: environment
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
        }
    }

    /// Sets a variable of the client's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The server and the configuration.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Makes the client's database anew.
    pub fn afresh(&self) -> Result<()> {
        let server = &self.lab.server;
        server.sql(&format!("drop database if exists {DATABASE} with (force)"))?;
        server.sql(&format!("create database {DATABASE}"))?;
        if !self.before.is_empty() {
            server.sql_in(DATABASE, &self.before)?;
        }
        Ok(())
    }

    /// Runs a client past the agent.
    pub fn directly(&self, client: &[&str]) -> Result<Output> {
        let (program, arguments) = client.split_first().context("no program")?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(std::process::Stdio::null());
        self.settle(&mut command)
            .output()
            .context("the client doesn't start")
    }

    /// Runs it through an agent.
    pub fn through(&self, client: &[&str]) -> Result<Output> {
        let mut command = self.lab.enforced.run(client)?;
        command.stdin(std::process::Stdio::null());
        self.settle(&mut command)
            .output()
            .context("the agent doesn't start")
    }

    fn settle<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let variables = self.environment.iter().map(|(name, value)| (name, value));
        command.envs(variables)
    }

    /// Runs a client both ways, each time in a new database, and holds what it prints against each other. It has to end well.
    pub fn same(&self, client: &[&str]) -> Result<Same> {
        let same = self.same_but(client, |text| text)?;
        ensure!(same.said.ends_with("-- exit status: 0\n"), "{}", same.said);
        Ok(same)
    }

    /// The same after what must differ was taken out of what was printed, and however it ends, as long as it is the same.
    pub fn same_but(&self, client: &[&str], taken_out: impl Fn(String) -> String) -> Result<Same> {
        let told = |output: &Output| {
            let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
            said.push_str("\n-- standard error\n");
            said.push_str(&String::from_utf8_lossy(&output.stderr));
            said.push_str(&format!("-- {}\n", output.status));
            taken_out(said)
        };
        self.afresh()?;
        let directly = self.directly(client)?;
        let expected = told(&directly);
        let seen = self.lab.enforced.events().map_or(0, |events| events.len());
        self.afresh()?;
        let through = self.through(client)?;
        let said = told(&through);
        if said != expected {
            bail!("{client:?}: {}", first_difference(&expected, &said));
        }
        let events = self.lab.enforced.events()?.split_off(seen);
        accounted(&events)?;
        Ok(Same { said, events })
    }
}

impl Same {
    /// The recorded operations.
    #[must_use]
    pub fn operations(&self) -> Vec<&Value> {
        of_kind(&self.events, "operation")
    }

    /// The texts of which couldn't be told what they do.
    #[must_use]
    pub fn unknown(&self) -> Vec<String> {
        let mut operations = self.operations();
        operations.retain(|event| {
            event
                .pointer("/unmapped/effects")
                .and_then(Value::as_array)
                .is_some_and(|effects| effects.iter().any(|effect| effect.as_str() == Some("unknown")))
        });
        let text = |event: &&Value| {
            let text = event.pointer("/query_info/query_string").and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        operations.iter().map(text).collect()
    }
}

/// A client's program beside the tests.
#[must_use]
pub fn client_program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

fn of_kind<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    let is_it = |event: &&Value| event.pointer("/unmapped/event").and_then(Value::as_str) == Some(kind);
    events.iter().filter(is_it).collect()
}

/// Each session that began ended, and nothing was refused.
fn accounted(events: &[Value]) -> Result<()> {
    let [started, ended] = ["session_start", "session_end"].map(|kind| of_kind(events, kind).len());
    ensure!(
        started > 0 && started == ended,
        "{started} sessions began, {ended} ended"
    );
    for operation in of_kind(events, "operation") {
        let verdict = operation.pointer("/unmapped/verdict").and_then(Value::as_str);
        ensure!(verdict == Some("allow"), "was refused: {operation:#}");
    }
    Ok(())
}

fn first_difference(expected: &str, said: &str) -> String {
    let at = expected
        .lines()
        .zip(said.lines())
        .position(|(one, other)| one != other)
        .unwrap_or_else(|| expected.lines().count().min(said.lines().count()));
    let shown = |text: &str| {
        let lines: Vec<&str> = text.lines().skip(at).take(12).collect();
        lines.join("\n").chars().take(3000).collect::<String>()
    };
    format!(
        "line {at}, directly:\n{}\n-- through the agent:\n{}",
        shown(expected),
        shown(said)
    )
}
