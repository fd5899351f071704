//! Runs one test program and reads libtest's words.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::ops::AddAssign;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::suites::Binary;
use crate::shell;

/// What is the same for all test programs of a run.
pub(super) struct Plan {
    pub(super) logs: PathBuf,
    pub(super) rest: Vec<String>,
    pub(super) verbose: bool,
    pub(super) fuzz_seconds: u32,
}

/// How many tests came out how.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) skipped: usize,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// Runs a test program to its end.
///
/// # Errors
/// When it can't be started. Failing tests are counted, not errors; so is a program that dies or hangs.
pub(super) fn binary(plan: &Plan, binary: &Binary) -> Result<Counts> {
    binary_with(plan, binary, &[])
}

/// The same with variables of the environment.
///
/// # Errors
/// As [`binary`].
pub(super) fn binary_with(plan: &Plan, binary: &Binary, environment: &[(&str, &str)]) -> Result<Counts> {
    let mut command = Command::new(&binary.executable);
    // The output of passing tests carries the reasons for which others were skipped.
    command.current_dir(&binary.folder).arg("--show-output");
    if binary.serial {
        command.arg("--test-threads=1");
    }
    command.args(&plan.rest);
    // As under `cargo test`, for what looks up its own files.
    command.env("CARGO_MANIFEST_DIR", &binary.folder);
    command.envs(environment.iter().copied());
    execute(plan, &binary.name, &mut command)
}

/// Runs the examples in the documentation of all libraries.
///
/// # Errors
/// When cargo can't be started.
pub(super) fn doc_tests(plan: &Plan, fast: bool) -> Result<Counts> {
    let mut command = shell::cargo();
    command.args(["test", "--doc", "--workspace"]);
    if fast {
        command.args(["--exclude", "bailiff-tests"]);
    }
    command.arg("--").args(&plan.rest);
    execute(plan, "doc", &mut command)
}

/// A test program that is silent for so long hangs: it is ended, and counts as failed. Far above what any test takes.
const SILENCE: Duration = Duration::from_secs(15 * 60);

fn execute(plan: &Plan, name: &str, command: &mut Command) -> Result<Counts> {
    let file = name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_', "_");
    let log = plan.logs.join(format!("{file}.log"));
    let mut sink = File::create(&log).with_context(|| format!("{} can't be written", log.display()))?;
    let begun = Instant::now();
    // In a process group of its own, so that a program that hangs is ended with all its children. Both outputs go to one
    // pipe, in the order in which they were written.
    let (reader, writer) = std::io::pipe()?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0);
    let mut child = command
        .spawn()
        .with_context(|| format!("{} can't be started", shell::describe(command)))?;
    let group = Pid::from_raw(i32::try_from(child.id()).context("a process id beyond i32")?);
    // The command holds the writing end, too.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            if sender.send(text).is_err() {
                break;
            }
            line.clear();
        }
    });

    let mut transcript = Transcript::default();
    let mut hung = false;
    let mut last = Instant::now();
    loop {
        match lines.recv_timeout(Duration::from_millis(500)) {
            Ok(line) => {
                last = Instant::now();
                writeln!(sink, "{line}")?;
                if plan.verbose {
                    println!("{line}");
                }
                transcript.push(&line);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                // A child that was left behind may hold the pipe; the program's own end is what counts.
                if child.try_wait()?.is_some() && last.elapsed() > Duration::from_secs(5) {
                    break;
                }
                if last.elapsed() > SILENCE && !hung {
                    hung = true;
                    last = Instant::now();
                    // Gone already is as good.
                    let _gone = killpg(group, Signal::SIGKILL);
                }
            }
        }
    }
    let status = child.wait()?;
    // Servers that a failed test left running would disturb the next program.
    let _gone = killpg(group, Signal::SIGKILL);

    let ending = if hung {
        Ending::Hung(SILENCE)
    } else {
        Ending::Ended {
            well: status.success(),
            how: status.to_string(),
        }
    };
    Ok(conclude(
        plan.verbose,
        name,
        &transcript,
        &ending,
        begun.elapsed(),
    ))
}

/// How a test program came to its end.
pub(super) enum Ending {
    /// It was silent for so long, and was ended.
    Hung(Duration),
    Ended {
        /// With the code that libtest has when all passed.
        well: bool,
        /// In words.
        how: String,
    },
}

/// Prints how a test program came out, and returns the counts: one more that failed if it didn't end as it should.
pub(super) fn conclude(
    verbose: bool,
    name: &str,
    transcript: &Transcript,
    ending: &Ending,
    took: Duration,
) -> Counts {
    let mut counts = transcript.finish();
    let trouble = match ending {
        Ending::Hung(silence) => Some(format!("silent for {}, ended", shell::human(*silence))),
        Ending::Ended { well: false, how } if counts.failed == 0 => {
            Some(format!("ended before its tests did ({how})"))
        }
        Ending::Ended { well: true, .. } if !transcript.summed_up => Some("printed no summary".to_owned()),
        Ending::Ended { .. } => None,
    };
    if trouble.is_some() {
        counts.failed += 1;
    }
    let mark = if counts.failed > 0 {
        "\x1b[31mFAIL\x1b[0m"
    } else {
        "\x1b[32m ok \x1b[0m"
    };
    // In one go: another program may be running beside this one.
    let mut said = format!(
        "{mark} {name:<34} {:>4} passed {:>3} failed {:>3} skipped  {:>10}\n",
        counts.passed,
        counts.failed,
        counts.skipped,
        shell::human(took)
    );
    for reason in &transcript.reasons {
        said.push_str(&format!("     {reason}\n"));
    }
    if let Some(trouble) = trouble {
        said.push_str(&format!(
            "     {trouble}; the last test that it named: {}\n",
            transcript.last_test
        ));
        if !verbose {
            quote(&mut said, transcript.tail.iter());
        }
    }
    if !verbose {
        quote(&mut said, transcript.failures.iter());
    }
    print!("{said}");
    counts
}

fn quote<'a>(said: &mut String, lines: impl Iterator<Item = &'a String>) {
    lines.for_each(|line| said.push_str(&format!("     | {line}\n")));
}

/// What is kept of a program's output while it runs.
#[derive(Default)]
pub(super) struct Transcript {
    counts: Counts,
    summed_up: bool,
    reasons: Vec<String>,
    last_test: String,
    failures: Vec<String>,
    tail: std::collections::VecDeque<String>,
    in_failures: bool,
}

const SKIPPED: &str = "SKIPPED: ";

impl Transcript {
    /// Takes a line of its output.
    pub(super) fn push(&mut self, line: &str) {
        if self.tail.len() == 40 {
            self.tail.pop_front();
        }
        self.tail.push_back(line.to_owned());
        if let Some(test) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split(" ... ").next())
        {
            self.last_test = test.to_owned();
        }
        if let Some(counts) = summary(line) {
            self.summed_up = true;
            self.in_failures = false;
            self.counts += counts;
        } else if line == "failures:" {
            self.in_failures = true;
        } else if line == "successes:" {
            self.in_failures = false;
        }
        // The frames of backtraces stay in the log; on the terminal they hide what they belong to.
        if self.in_failures && self.failures.len() < 400 && !is_frame(line) {
            self.failures.push(line.to_owned());
        }
        if line.starts_with(SKIPPED) {
            self.reasons.push(line.to_owned());
        }
    }

    /// The counts at the end: libtest takes a test that said that it was skipped for one that passed.
    fn finish(&self) -> Counts {
        let said = self.reasons.len();
        Counts {
            passed: self.counts.passed.saturating_sub(said),
            failed: self.counts.failed,
            skipped: self.counts.skipped + said,
        }
    }
}

/// `   7: core::ops::…` or `             at /…/function.rs:250:5`.
fn is_frame(line: &str) -> bool {
    let text = line.trim_start();
    let numbered = text
        .split_once(": ")
        .is_some_and(|(number, _)| number.parse::<u32>().is_ok());
    line.starts_with("  ") && (numbered || text.starts_with("at "))
}

/// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s`.
fn summary(line: &str) -> Option<Counts> {
    let rest = line.strip_prefix("test result: ")?;
    let number = |word: &str| {
        rest.split([';', '.'])
            .find_map(|part| part.trim().strip_suffix(word)?.trim().parse::<usize>().ok())
    };
    Some(Counts {
        passed: number("passed")?,
        failed: number("failed")?,
        skipped: number("ignored")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(folder: &tempfile::TempDir) -> Plan {
        Plan {
            logs: folder.path().to_path_buf(),
            rest: Vec::new(),
            verbose: false,
            fuzz_seconds: 1,
        }
    }

    fn shell_script(text: &str) -> Counts {
        let folder = tempfile::tempdir().unwrap();
        let counts = execute(&plan(&folder), "a script", Command::new("sh").args(["-c", text])).unwrap();
        assert!(folder.path().join("a_script.log").is_file());
        counts
    }

    #[test]
    fn the_summary_is_read() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 7 filtered out; finished in 1.50s";
        assert_eq!(
            summary(line),
            Some(Counts {
                passed: 12,
                failed: 3,
                skipped: 1
            })
        );
        assert_eq!(summary("test result: of an examination"), None);
        assert_eq!(summary("running 3 tests"), None);
    }

    #[test]
    fn frames_are_told_from_words() {
        assert!(
            is_frame("   1: core::ops::function")
                && is_frame("             at /rustc/library/function.rs:250:5")
        );
        assert!(!is_frame("psql:<stdin>:1: ERROR:  no") && !is_frame("at last") && !is_frame("    left: 1"));
    }

    #[test]
    fn a_test_that_says_that_it_was_skipped_did_not_pass() {
        let counts = shell_script(
            "echo 'test a ... ok'; echo 'SKIPPED: no root'; \
             echo 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out'",
        );
        assert_eq!(
            counts,
            Counts {
                passed: 1,
                failed: 0,
                skipped: 1
            }
        );
    }

    #[test]
    fn failing_dying_and_silent_programs_all_fail() {
        let failing =
            "echo 'test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out'; exit 101";
        assert_eq!(
            shell_script(failing),
            Counts {
                passed: 1,
                failed: 2,
                skipped: 0
            }
        );
        assert_eq!(
            shell_script("echo 'test a ... '; kill -ABRT $$"),
            Counts {
                passed: 0,
                failed: 1,
                skipped: 0
            }
        );
        assert_eq!(
            shell_script("true"),
            Counts {
                passed: 0,
                failed: 1,
                skipped: 0
            }
        );
    }

    #[test]
    fn what_a_program_leaves_running_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let script = format!(
            "sleep 1000 >/dev/null 2>&1 & echo $! > {}; \
             echo 'test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out'",
            pid.display()
        );
        assert_eq!(shell_script(&script).passed, 1);
        let pid = std::fs::read_to_string(&pid).unwrap();
        for _ in 0..100 {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            // Gone, or a zombie that nobody has collected yet.
            if stat.is_empty() || stat.contains(") Z ") {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the left-over is still running");
    }
}
