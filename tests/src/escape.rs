//! Ways out of a sandbox: each is tried inside of one, where it must fail, and outside, where the same code must succeed.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use crate::{Lab, Postgres};

/// The attempts.
const KIT: &str = include_str!("escape/kit.py");

/// What every policy here allows; a table is made only past all policies.
const RULES: &str = "    - { name: reading, effects: [read], action: Allow }\n";

/// The SQLSTATE of a statement that policy blocks.
const BLOCKED: &str = "42501";

/// Who calls `bailiff run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invoker {
    /// Root itself.
    Root,
    /// A user without any rights, by sudo.
    Sudo,
}

impl Invoker {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Root, Self::Sudo];

    /// The user as whom the command runs.
    #[must_use]
    pub const fn uid(self) -> u32 {
        match self {
            Self::Root => 0,
            Self::Sudo => 65_534,
        }
    }

    /// Lets a command be called by this one, as sudo would.
    pub fn calls(self, command: &mut Command) {
        command.env_remove("SUDO_UID").env_remove("SUDO_GID");
        if self == Self::Sudo {
            command.env("SUDO_UID", "65534").env("SUDO_GID", "65534");
        }
    }
}

/// What an attempt told.
#[derive(Debug, Clone)]
pub struct Told {
    /// What it got.
    pub got: Option<String>,
    /// Why it got nothing.
    pub refused: Option<String>,
    /// How a blocked statement fared afterwards.
    pub then: Option<String>,
}

/// A database under enforcement, and a directory in which commands may write.
#[derive(Debug)]
pub struct Escape {
    /// The database.
    pub lab: Lab,
    place: tempfile::TempDir,
}

impl Escape {
    /// `None` where the test can't be root.
    pub fn new() -> Result<Option<Self>> {
        let Some(lab) = Lab::new(RULES, "")? else {
            return Ok(None);
        };
        let place = tempfile::Builder::new().prefix("bailiff-place-").tempdir()?;
        std::os::unix::fs::chown(place.path(), Some(Invoker::Sudo.uid()), Some(Invoker::Sudo.uid()))?;
        Ok(Some(Self { lab, place }))
    }

    /// Where commands start and may write.
    #[must_use]
    pub fn place(&self) -> &Path {
        self.place.path()
    }

    /// The target's address as arguments of an attempt.
    #[must_use]
    pub fn target(&self) -> Value {
        json!({ "host": self.lab.server.address(), "port": Postgres::PORT })
    }

    /// Tries something inside a sandbox, and a blocked statement after it.
    pub fn inside(&self, invoker: Invoker, attempt: &str, arguments: &Value) -> Result<Told> {
        self.inside_with(invoker, attempt, arguments, &[], &[])
    }

    /// The same with further options of `bailiff run` and with descriptors for the attempt.
    pub fn inside_with(
        &self,
        invoker: Invoker,
        attempt: &str,
        arguments: &Value,
        options: &[&str],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Told> {
        let mut arguments = arguments.clone();
        let map = arguments.as_object_mut().context("arguments are an object")?;
        map.insert(
            "then".to_owned(),
            json!([self.lab.server.address(), Postgres::PORT]),
        );
        let arguments = arguments.to_string();
        let mut command = self
            .lab
            .enforced
            .run_with(options, &[&python(), "-c", KIT, attempt, &arguments])?;
        invoker.calls(&mut command);
        command.current_dir(self.place());
        told(&mut command, descriptors)
    }

    /// Tries something outside, as root.
    pub fn outside(&self, attempt: &str, arguments: &Value) -> Result<Told> {
        self.outside_with(&[], attempt, arguments, &[])
    }

    /// The same by another program, such as `unshare --net`, and with descriptors for the attempt.
    pub fn outside_with(
        &self,
        by: &[&str],
        attempt: &str,
        arguments: &Value,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Told> {
        let python = python();
        let arguments = arguments.to_string();
        let words: Vec<&str> = by
            .iter()
            .copied()
            .chain([python.as_str(), "-c", KIT, attempt, &arguments])
            .collect();
        let (program, rest) = words.split_first().context("no program")?;
        let mut command = Command::new(program);
        command.args(rest).current_dir(self.place());
        told(&mut command, descriptors)
    }

    /// Asserts that something succeeds outside, so that the attempt itself is sound.
    pub fn succeeds(&self, attempt: &str, arguments: &Value) -> Result<String> {
        self.succeeds_by(&[], attempt, arguments, &[])
    }

    /// The same by another program and with descriptors.
    pub fn succeeds_by(
        &self,
        by: &[&str],
        attempt: &str,
        arguments: &Value,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<String> {
        let told = self.outside_with(by, attempt, arguments, descriptors)?;
        told.got
            .with_context(|| format!("{attempt} {arguments} fails outside, too: {:?}", told.refused))
    }

    /// Asserts that something fails inside, whoever calls, in one of these ways, and that policies stay in force.
    pub fn fails(&self, attempt: &str, arguments: &Value, ways: &[&str]) -> Result<()> {
        self.fails_with(attempt, arguments, ways, &[])
    }

    /// The same with descriptors for the attempt.
    pub fn fails_with(
        &self,
        attempt: &str,
        arguments: &Value,
        ways: &[&str],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<()> {
        for invoker in Invoker::ALL {
            let told = self.inside_with(invoker, attempt, arguments, &[], descriptors)?;
            let refused = told.refused.as_deref().unwrap_or_default();
            ensure!(
                told.got.is_none() && ways.contains(&refused),
                "{attempt} {arguments} by {invoker:?}: {told:?}"
            );
            self.in_force(&told)?;
        }
        Ok(())
    }

    /// Asserts that a blocked statement was blocked after an attempt, and that nothing reached the database.
    pub fn in_force(&self, told: &Told) -> Result<()> {
        ensure!(told.then.as_deref() == Some(BLOCKED), "{told:?}");
        ensure!(!self.claimed()?, "a table was made: {told:?}");
        Ok(())
    }

    /// Whether an attempt has made its table. It is dropped.
    pub fn claimed(&self) -> Result<bool> {
        let count = self
            .lab
            .server
            .sql("select count(*) from pg_class where relname like 'escaped%'")?;
        self.lab
            .server
            .sql("set client_min_messages to error; drop table if exists escaped, escaped_then")?;
        Ok(count != "0")
    }

    /// Asserts that a way to the database works outside and not inside. It must make a table.
    pub fn is_no_way(&self, attempt: &str, arguments: &Value, ways: &[&str]) -> Result<()> {
        self.succeeds(attempt, arguments)?;
        ensure!(self.claimed()?, "{attempt} makes no table outside");
        self.fails(attempt, arguments, ways)
    }
}

/// A Python that all users can run.
#[must_use]
pub fn python() -> String {
    let system = PathBuf::from("/usr/bin/python3");
    if system.exists() {
        system.display().to_string()
    } else {
        "python3".to_owned()
    }
}

fn told(command: &mut Command, descriptors: &[BorrowedFd<'_>]) -> Result<Told> {
    let (control, inside) = UnixStream::pair()?;
    let child = command
        .stdin(OwnedFd::from(inside))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    if !descriptors.is_empty() {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut buffer = SendAncillaryBuffer::new(&mut space);
        ensure!(
            buffer.push(SendAncillaryMessage::ScmRights(descriptors)),
            "too many descriptors"
        );
        sendmsg(
            control.as_fd(),
            &[IoSlice::new(b"d")],
            &mut buffer,
            SendFlags::empty(),
        )?;
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said
        .lines()
        .last()
        .with_context(|| format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)))?;
    let told: Value = serde_json::from_str(line)?;
    let text = |name: &str| told.get(name).and_then(Value::as_str).map(str::to_owned);
    Ok(Told {
        got: text("got"),
        refused: text("refused"),
        then: text("then"),
    })
}
