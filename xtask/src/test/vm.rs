//! `cargo xtask test --vm`: suites on other kernels.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::execute::{self, Counts, Ending, Plan, Transcript, conclude};
use super::suites::{self, Binary};
use super::{Args, is_ci};
use crate::packages::{self, Purpose};
use crate::vm::{Choice, Job, Machine, Parts, Program, Report};
use crate::{build, cluster, servers, shell};

/// What is run without names: the redirect, attribution, what doctor says of the kernel, and the chart on a node.
const SUITES: [&str; 4] = ["kernel", "doctor", "sandbox_pods", "deploy_node"];

/// Those that are run here, beside a cluster whose node is in the emulated machine. All others run in the machine.
const ON_NODE: [&str; 2] = ["cluster_node", "deploy_node"];

/// Says to the tests' harness which kernel a node is to have.
const NODE_KERNEL: &str = "BAILIFF_TEST_NODE_KERNEL";

const KERNELS: [Choice; 2] = [Choice::Debian12, Choice::Debian13];

/// A test program that prints nothing for so long is ended: emulated, and beside compilers, tests take tens of times as long.
const SILENCE: Duration = Duration::from_secs(10 * 60);

pub(super) fn run(args: &Args) -> Result<()> {
    let started = Instant::now();
    if !shell::is_root() {
        bail!("an emulated machine reads this one's files as root; run this as root");
    }
    let files = chosen(&suites::files()?, &args.suites)?;
    packages::ensure(&[Purpose::Build, Purpose::Test])?;
    servers::ensure()?;
    build::object(None)?;
    shell::heading("Building the agent and the tests");
    let binaries = suites::build_only(&files)?;
    if binaries.iter().any(Binary::needs_cluster) {
        cluster::build(true)?;
    }

    let kernels: &[Choice] = if args.kernel.is_empty() {
        &KERNELS
    } else {
        &args.kernel
    };
    let mut table = Table::default();
    for choice in kernels {
        let parts = Parts::get(*choice)?;
        shell::heading(&format!("Kernel {}", parts.version()));
        let logs = shell::root().join("target/test-logs/vm").join(choice.name());
        std::fs::create_dir_all(&logs).with_context(|| format!("{} can't be made", logs.display()))?;
        let counts = on_kernel(args, &parts, *choice, &binaries, &logs)?;
        table.kernels.push((parts.version().to_owned(), counts));
    }
    table.print(&binaries);
    println!("\nthis took {}", shell::human(started.elapsed()));
    println!("the whole output is in target/test-logs/vm");
    table.verdict(is_ci())
}

/// The files of integration tests that are named by these words, which are suites or files, or those of [`SUITES`].
fn chosen(files: &[String], words: &[String]) -> Result<Vec<String>> {
    let words: Vec<&str> = if words.is_empty() {
        SUITES.to_vec()
    } else {
        words.iter().map(String::as_str).collect()
    };
    let is_called = |file: &str, word: &str| file == word || file.split('_').next() == Some(word);
    for word in &words {
        ensure!(
            files.iter().any(|file| is_called(file, word)),
            "there are no integration tests called `{word}`; on another kernel run those of a suite (kernel, sandbox, \
             postgres, …) or of one file in tests/tests"
        );
    }
    let mut chosen: Vec<String> = files.to_vec();
    chosen.retain(|file| words.iter().any(|word| is_called(file, word)));
    Ok(chosen)
}

/// Runs those of [`ON_NODE`] one after another, each with a cluster and a machine of its own, and the others in one machine. Tells how each came out.
fn on_kernel(
    args: &Args,
    parts: &Parts,
    choice: Choice,
    binaries: &[Binary],
    logs: &Path,
) -> Result<Vec<Counts>> {
    let (outside, inside): (Vec<_>, Vec<_>) = binaries
        .iter()
        .enumerate()
        .partition(|(_, binary)| ON_NODE.contains(&binary.name.as_str()));
    let mut told = Vec::new();
    if !inside.is_empty() {
        let (places, inside): (Vec<usize>, Vec<&Binary>) = inside.into_iter().unzip();
        let counts = in_machine(args, parts, choice.name(), &inside, logs)?;
        told.extend(places.into_iter().zip(counts));
    }
    let plan = Plan {
        logs: logs.to_path_buf(),
        rest: args.rest.clone(),
        verbose: args.verbose,
        fuzz_seconds: 0,
    };
    for (place, binary) in outside {
        let counts = execute::binary_with(&plan, binary, &[(NODE_KERNEL, choice.name())])?;
        told.push((place, counts));
    }
    // The table has them in the order in which they were listed.
    told.sort_by_key(|(place, _)| *place);
    Ok(told.into_iter().map(|(_, counts)| counts).collect())
}

/// Runs all of them in one guest, and tells how each came out. When the guest dies, the rest of them have failed.
fn in_machine(
    args: &Args,
    parts: &Parts,
    kernel: &str,
    binaries: &[&Binary],
    logs: &Path,
) -> Result<Vec<Counts>> {
    let job = Job {
        programs: binaries
            .iter()
            .map(|binary| program(binary, &args.rest))
            .collect(),
        silence: Some(SILENCE.as_secs()),
    };
    let begun = Instant::now();
    let mut machine = Machine::boot(parts, &job, logs, None)?;
    let mut all = Vec::new();
    let outcome = machine.ready().and_then(|(version, controllers)| {
        println!("{version} is up after {}", shell::human(begun.elapsed()));
        println!("cgroups of the second version, with {controllers}");
        for binary in binaries {
            all.push(follow(&mut machine, args, kernel, binary, logs)?);
        }
        Ok(())
    });
    match outcome {
        Ok(()) => machine.off(),
        Err(error) => {
            println!("\x1b[31mFAIL\x1b[0m {kernel}: {error:#}");
            let failed = Counts {
                failed: 1,
                ..Counts::default()
            };
            all.resize(binaries.len(), failed);
        }
    }
    Ok(all)
}

/// Takes a program's report to its end.
fn follow(machine: &mut Machine, args: &Args, kernel: &str, binary: &Binary, logs: &Path) -> Result<Counts> {
    let name = format!("{kernel:<7} {}", binary.name);
    let log = logs.join(format!("{}.log", binary.name));
    let mut sink = File::create(&log).with_context(|| format!("{} can't be written", log.display()))?;
    let mut begun = Instant::now();
    let mut transcript = Transcript::default();
    let ending = loop {
        match machine
            .next()
            .with_context(|| format!("{} was running, of which {} tells", binary.name, log.display()))?
        {
            Report::Begun => begun = Instant::now(),
            Report::Line(line) => {
                writeln!(sink, "{line}")?;
                if args.verbose {
                    println!("{line}");
                }
                transcript.push(&line);
            }
            Report::Ended { hung: true, .. } => break Ending::Hung(SILENCE),
            Report::Ended { code, hung: false } => {
                break Ending::Ended {
                    well: code == Some(0),
                    how: code.map_or_else(|| "by a signal".to_owned(), |code| format!("exit code {code}")),
                };
            }
            Report::Failed(why) => {
                break Ending::Ended {
                    well: false,
                    how: why,
                };
            }
            other @ (Report::Ready { .. } | Report::Done) => {
                bail!("the guest told {other:?} out of turn")
            }
        }
    };
    Ok(conclude(
        args.verbose,
        &name,
        &transcript,
        &ending,
        begun.elapsed(),
    ))
}

/// As [`super::execute::binary`] runs it.
fn program(binary: &Binary, rest: &[String]) -> Program {
    let mut arguments = vec!["--show-output".to_owned(), "--test-threads=1".to_owned()];
    arguments.extend_from_slice(rest);
    let mut environment: BTreeMap<String, String> =
        std::env::vars().filter(|(name, _)| is_passed_on(name)).collect();
    environment.insert(
        "CARGO_MANIFEST_DIR".to_owned(),
        binary.folder.display().to_string(),
    );
    Program {
        executable: binary.executable.clone(),
        arguments,
        folder: binary.folder.clone(),
        environment,
    }
}

/// What the programs of the guest see of this environment.
fn is_passed_on(name: &str) -> bool {
    matches!(
        name,
        "PATH" | "HOME" | "USER" | "LANG" | "CI" | "RUST_BACKTRACE" | "CARGO_HOME" | "RUSTUP_HOME"
    ) || name.starts_with("LC_")
        || name.starts_with("BAILIFF_")
}

/// How each suite came out on each kernel.
#[derive(Default)]
struct Table {
    /// Its version, and the counts in the order of the binaries.
    kernels: Vec<(String, Vec<Counts>)>,
}

impl Table {
    fn print(&self, binaries: &[Binary]) {
        let names: Vec<&str> = binaries.iter().map(|binary| binary.name.as_str()).collect();
        println!("\n{}", self.text(&names));
    }

    /// A line for each suite, a column for each kernel.
    fn text(&self, suites: &[&str]) -> String {
        let mut lines = vec![String::new()];
        lines.extend(suites.iter().map(|suite| format!("{suite:<24}")));
        if let Some(first) = lines.first_mut() {
            *first = format!("{:<24}", "");
        }
        for (version, counts) in &self.kernels {
            let cells = std::iter::once(version.clone()).chain(counts.iter().map(|counts| cell(*counts)));
            for (line, text) in lines.iter_mut().zip(cells) {
                line.push_str(&format!("  {text:<28}"));
            }
        }
        let lines: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
        lines.join("\n")
    }

    fn verdict(&self, ci: bool) -> Result<()> {
        let mut total = Counts::default();
        for counts in self.kernels.iter().flat_map(|(_, counts)| counts) {
            total += *counts;
        }
        println!(
            "{} passed, {} failed, {} skipped",
            total.passed, total.failed, total.skipped
        );
        ensure!(total.failed == 0, "some tests failed");
        ensure!(
            !ci || total.skipped == 0,
            "CI=true: those that were skipped count as failed"
        );
        ensure!(
            total.passed > 0,
            "not a single test ran; is there a typing error in the names?"
        );
        Ok(())
    }
}

fn cell(counts: Counts) -> String {
    let parts = [
        (counts.passed, "passed"),
        (counts.failed, "failed"),
        (counts.skipped, "skipped"),
    ];
    let told: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    if told.is_empty() {
        return "-".to_owned();
    }
    told.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Vec<String> {
        [
            "doctor",
            "kernel_guard",
            "kernel_redirect",
            "postgres_tls",
            "sandbox_pods",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    #[test]
    fn suites_are_chosen_by_their_name_or_their_files() {
        let words = |words: &[&str]| -> Vec<String> { words.iter().map(|word| (*word).to_owned()).collect() };
        assert_eq!(
            chosen(&files(), &words(&["kernel", "doctor"])).unwrap(),
            ["doctor", "kernel_guard", "kernel_redirect"]
        );
        assert_eq!(
            chosen(&files(), &words(&["kernel_guard"])).unwrap(),
            ["kernel_guard"]
        );
        let error = chosen(&files(), &words(&["kernal"])).unwrap_err().to_string();
        assert!(error.contains("`kernal`"), "{error}");
    }

    #[test]
    fn what_runs_without_names_is_there() {
        let chosen = chosen(&suites::files().unwrap(), &[]).unwrap();
        for file in ["kernel_redirect", "kernel_origins", "sandbox_pods", "doctor"] {
            assert!(chosen.iter().any(|chosen| chosen == file), "{file}");
        }
        assert!(!chosen.iter().any(|file| file.starts_with("postgres")));
        let all = suites::files().unwrap();
        for file in ON_NODE {
            assert!(all.iter().any(|known| known == file), "{file}");
        }
    }

    #[test]
    fn the_table_has_a_column_for_each_kernel() {
        let counts = |passed, failed, skipped| Counts {
            passed,
            failed,
            skipped,
        };
        let table = Table {
            kernels: vec![
                (
                    "6.1.0-50-amd64".to_owned(),
                    vec![counts(7, 0, 0), counts(1, 1, 0)],
                ),
                ("6.12.117".to_owned(), vec![counts(6, 0, 1), counts(0, 0, 0)]),
            ],
        };
        let text = table.text(&["kernel_redirect", "doctor"]);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| {
                line.split("  ")
                    .map(str::trim)
                    .filter(|cell| !cell.is_empty())
                    .collect()
            })
            .collect();
        assert_eq!(lines[0], ["6.1.0-50-amd64", "6.12.117"]);
        assert_eq!(lines[1], ["kernel_redirect", "7 passed", "6 passed, 1 skipped"]);
        assert_eq!(lines[2], ["doctor", "1 passed, 1 failed", "-"]);
        assert!(table.verdict(false).is_err());
    }

    #[test]
    fn what_was_skipped_fails_under_ci_alone() {
        let skipped = Counts {
            passed: 1,
            failed: 0,
            skipped: 1,
        };
        let table = Table {
            kernels: vec![("6.1".to_owned(), vec![skipped])],
        };
        assert!(table.verdict(false).is_ok());
        assert!(table.verdict(true).is_err());
        assert!(Table::default().verdict(false).is_err());
    }
}
