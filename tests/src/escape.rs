//! Ways out of a sandbox: each is tried inside of one, where it must fail, and outside, where the same code must succeed.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
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
        for name in ["SUDO_UID", "SUDO_GID", "PKEXEC_UID", "DOAS_USER"] {
            command.env_remove(name);
        }
        if self == Self::Sudo {
            command.env("SUDO_UID", "65534").env("SUDO_GID", "65534");
        }
    }
}

/// A function of the kit and its arguments.
pub type Attempt<'a> = (&'a str, Value);

/// What an attempt told.
#[derive(Debug, Clone)]
pub struct Told {
    /// What it got.
    pub got: Option<String>,
    /// Why it got nothing.
    pub refused: Option<String>,
}

/// What several attempts told that were made one after another.
#[derive(Debug, Clone)]
pub struct Report {
    /// Each of them.
    pub told: Vec<Told>,
    /// How a blocked statement fared afterwards; only inside.
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
        // Without its rights, root is one among others.
        std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o777))?;
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

    /// The command that makes attempts.
    #[must_use]
    pub fn kit(attempts: &[Attempt<'_>]) -> [String; 4] {
        words(attempts, &Value::Null)
    }

    /// Makes attempts inside a sandbox, and runs a blocked statement after them.
    pub fn inside(&self, invoker: Invoker, attempts: &[Attempt<'_>]) -> Result<Report> {
        self.inside_with(invoker, attempts, &[])
    }

    /// The same with descriptors for the attempts.
    pub fn inside_with(
        &self,
        invoker: Invoker,
        attempts: &[Attempt<'_>],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Report> {
        self.inside_of(&mut self.lab.enforced.run(&[])?, invoker, attempts, descriptors)
    }

    /// The same by a `bailiff run` that lacks only its command.
    pub fn inside_of(
        &self,
        run: &mut Command,
        invoker: Invoker,
        attempts: &[Attempt<'_>],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Report> {
        let then = json!([self.lab.server.address(), Postgres::PORT]);
        invoker.calls(run);
        run.args(words(attempts, &then)).current_dir(self.place());
        report(run, descriptors)
    }

    /// Makes attempts outside, as root.
    pub fn outside(&self, attempts: &[Attempt<'_>]) -> Result<Report> {
        self.outside_with(&[], attempts, &[])
    }

    /// The same by another program, such as `unshare --net`, and with descriptors for the attempts.
    pub fn outside_with(
        &self,
        by: &[&str],
        attempts: &[Attempt<'_>],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Report> {
        let kit = Self::kit(attempts);
        let mut words = by.iter().copied().chain(kit.iter().map(String::as_str));
        let mut command = Command::new(words.next().context("no program")?);
        report(command.args(words).current_dir(self.place()), descriptors)
    }

    /// Asserts that attempts succeed outside, so that they themselves are sound.
    pub fn succeed(&self, attempts: &[Attempt<'_>]) -> Result<Vec<String>> {
        self.succeed_by(&[], attempts, &[])
    }

    /// The same by another program and with descriptors.
    pub fn succeed_by(
        &self,
        by: &[&str],
        attempts: &[Attempt<'_>],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Vec<String>> {
        let report = self.outside_with(by, attempts, descriptors)?;
        let mut got = Vec::new();
        for (attempt, told) in attempts.iter().zip(report.told) {
            let refused = told.refused;
            got.push(
                told.got
                    .with_context(|| format!("{attempt:?} fails outside, too: {refused:?}"))?,
            );
        }
        Ok(got)
    }

    /// Asserts that attempts fail inside, whoever calls, in one of these ways, and that policies stay in force.
    pub fn fail(&self, attempts: &[Attempt<'_>], ways: &[&str]) -> Result<()> {
        self.fail_with(attempts, ways, &[])
    }

    /// The same with descriptors for the attempts.
    pub fn fail_with(
        &self,
        attempts: &[Attempt<'_>],
        ways: &[&str],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<()> {
        for invoker in Invoker::ALL {
            let report = self.inside_with(invoker, attempts, descriptors)?;
            ensure!(report.told.len() == attempts.len(), "{report:?}");
            for (attempt, told) in attempts.iter().zip(&report.told) {
                let refused = told.refused.as_deref().unwrap_or_default();
                ensure!(
                    told.got.is_none() && ways.contains(&refused),
                    "{attempt:?} by {invoker:?}: {told:?}"
                );
            }
            self.in_force(&report)?;
        }
        Ok(())
    }

    /// Asserts that attempts succeed outside and fail inside.
    pub fn are_no_ways(&self, attempts: &[Attempt<'_>], ways: &[&str]) -> Result<()> {
        self.succeed(attempts)?;
        self.fail(attempts, ways)
    }

    /// Asserts that a way to the database leads there outside, where it makes a table, and not inside.
    pub fn leads_nowhere(&self, attempt: Attempt<'_>, ways: &[&str]) -> Result<()> {
        let attempts = [attempt];
        self.succeed(&attempts)?;
        ensure!(self.claimed()?, "{attempts:?} makes no table outside");
        self.fail(&attempts, ways)
    }

    /// Asserts that a blocked statement was blocked after the attempts, and that nothing reached the database.
    pub fn in_force(&self, report: &Report) -> Result<()> {
        ensure!(report.then.as_deref() == Some(BLOCKED), "{report:?}");
        ensure!(!self.claimed()?, "a table was made: {report:?}");
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

/// How the kit is run.
fn words(attempts: &[Attempt<'_>], then: &Value) -> [String; 4] {
    let asked = json!({ "attempts": attempts, "then": then });
    [python(), "-c".to_owned(), KIT.to_owned(), asked.to_string()]
}

fn report(command: &mut Command, descriptors: &[BorrowedFd<'_>]) -> Result<Report> {
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
        let byte = IoSlice::new(b"d");
        sendmsg(control.as_fd(), &[byte], &mut buffer, SendFlags::empty())?;
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said
        .lines()
        .last()
        .with_context(|| format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)))?;
    let report: Value = serde_json::from_str(line)?;
    let text = |of: &Value, name: &str| of.get(name).and_then(Value::as_str).map(str::to_owned);
    Ok(Report {
        told: report
            .get("told")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|told| Told {
                got: text(told, "got"),
                refused: text(told, "refused"),
            })
            .collect(),
        then: text(&report, "then"),
    })
}
