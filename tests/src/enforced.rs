//! Configurations, and commands that run under them.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::{Postgres, Running, bailiff};

/// A configuration in a directory, and commands run under it.
#[derive(Debug)]
pub struct Enforced {
    directory: tempfile::TempDir,
    options: Vec<String>,
}

impl Enforced {
    /// Writes a configuration: names of files and their texts.
    pub fn with(files: &[(&str, &str)]) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("bailiff-config-").tempdir()?;
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text)?;
        }
        Ok(Self {
            directory,
            options: Vec::new(),
        })
    }

    /// The same with further options of `bailiff run`.
    #[must_use]
    pub fn options(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(ToString::to_string));
        self
    }

    /// Where the record goes.
    #[must_use]
    pub fn record(&self) -> PathBuf {
        self.directory.path().join("record")
    }

    /// Where the configuration is.
    #[must_use]
    pub fn config(&self) -> &Path {
        self.directory.path()
    }

    /// `bailiff run` with a command.
    pub fn run(&self, command: &[&str]) -> Result<Command> {
        self.run_with(&[], command)
    }

    /// `bailiff run` with further options and a command.
    pub fn run_with(&self, options: &[&str], command: &[&str]) -> Result<Command> {
        let mut run = Command::new(bailiff()?);
        run.arg("run")
            .arg("--config")
            .arg(self.config())
            .arg("--record-dir")
            .arg(self.record())
            .args(&self.options)
            .args(options)
            .arg("--")
            .args(command);
        Ok(run)
    }

    /// psql under enforcement: unaligned output, standard error after standard output.
    pub fn psql(&self, server: &Postgres, script: &str) -> Result<String> {
        let path = self.directory.path().join("script.sql");
        std::fs::write(&path, script)?;
        let output = self
            .run(&[
                "psql",
                "-h",
                server.address(),
                "-U",
                "postgres",
                "-XAtq",
                "-f",
                "-",
            ])?
            .stdin(std::fs::File::open(path)?)
            .output()?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok(text)
    }

    /// The agent with a sandbox out of which the test itself speaks.
    pub fn start(&self) -> Result<Running> {
        Running::start(self, &[])
    }

    /// The same with further options of `bailiff run`.
    pub fn start_with(&self, options: &[&str]) -> Result<Running> {
        Running::start(self, options)
    }

    /// The events recorded so far, in the order in which they were written.
    pub fn events(&self) -> Result<Vec<Value>> {
        events_in(&self.record())
    }

    /// The recorded operations, in order.
    pub fn operations(&self) -> Result<Vec<Value>> {
        let mut events = self.events()?;
        events.retain(|event| event.pointer("/unmapped/event").and_then(Value::as_str) == Some("operation"));
        Ok(events)
    }
}

/// The events of a record, in the order in which they were written.
pub fn events_in(record: &Path) -> Result<Vec<Value>> {
    let mut files: Vec<_> = std::fs::read_dir(record)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "zst"))
        .collect();
    files.sort();
    let mut events = Vec::new();
    for file in files {
        let mut text = Vec::new();
        // The agent may be writing.
        if let Err(error) = zstd::Decoder::new(std::fs::File::open(file)?)?.read_to_end(&mut text) {
            ensure!(error.kind() == std::io::ErrorKind::UnexpectedEof, "{error}");
            text.truncate(
                text.iter()
                    .rposition(|byte| *byte == b'\n')
                    .map_or(0, |end| end + 1),
            );
        }
        for line in std::str::from_utf8(&text)?.lines() {
            events.push(serde_json::from_str(line)?);
        }
    }
    Ok(events)
}
