//! `cargo xtask test`: builds, runs every suite, prints what each took.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::packages::{self, Purpose};
use crate::{build, shell};

mod execute;
mod suites;

use execute::Counts;
use suites::Binary;

/// Run the tests: all of them, or the suites that are named.
///
/// Installs what is missing, builds the kernel programs, the agent and the tests, and runs:
///
///   unit    what lies beside the code, and what runs in one process
///   wire    captured bytes, hostile bytes and a short fuzzing of every decoder
///   cli     the binary's commands
///   kernel, postgres, sandbox, …
///           the integration tests of the crate `tests`, by the first word of their file's
///           name: real sockets, real servers, network namespaces and cgroups. They need
///           root and run one at a time
///   doc     the examples in the documentation, and those that must not compile
///
/// A suite can also be one file (kernel_connect). What follows `--` goes to each test program:
/// `cargo xtask test kernel -- burst` runs the kernel tests with "burst" in their name.
///
/// A test that can't run here prints a line that starts with "SKIPPED: " and says why. With
/// CI=true that is a failure. The whole output of each program is kept in target/test-logs/.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Run only what needs no root and no kernel programs.
    #[arg(long)]
    fast: bool,
    /// Show the output of every test, not only of those that fail.
    #[arg(long, short)]
    verbose: bool,
    /// Names of suites or of single test files; all if none is given.
    #[arg(value_name = "SUITE")]
    suites: Vec<String>,
    /// Goes to each test program.
    #[arg(last = true)]
    rest: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let started = Instant::now();
    let ci = std::env::var("CI").is_ok_and(|value| value == "true" || value == "1");
    if !args.fast && !shell::is_root() {
        bail!("the kernel and server tests need root; `cargo xtask test --fast` runs the others");
    }
    if args.fast {
        packages::ensure(&[Purpose::Build])?;
    } else {
        packages::ensure(&[Purpose::Build, Purpose::Test])?;
        build::object(None)?;
    }

    let built = Instant::now();
    shell::heading("Building the agent and the tests");
    let mut binaries = suites::build(args.fast)?;
    let building = built.elapsed();
    binaries.retain(|binary| !(args.fast && binary.needs_root()));
    if !args.suites.is_empty() {
        for name in &args.suites {
            let known = name == DOC || binaries.iter().any(|binary| binary.is_called(name));
            ensure!(
                known,
                "there is no suite `{name}`; there are: {}",
                names(&binaries)
            );
        }
        binaries.retain(|binary| args.suites.iter().any(|name| binary.is_called(name)));
    }
    let with_doc = args.suites.is_empty() || args.suites.iter().any(|name| name == DOC);

    let logs = shell::root().join("target/test-logs");
    std::fs::create_dir_all(&logs).with_context(|| format!("{} can't be made", logs.display()))?;
    let plan = execute::Plan {
        logs,
        rest: args.rest.clone(),
        verbose: args.verbose,
    };

    let mut table: Vec<Row> = Vec::new();
    for binary in &binaries {
        if table.last().is_none_or(|row| row.suite != binary.suite) {
            shell::heading(&format!("Suite {}", binary.suite));
            table.push(Row {
                suite: binary.suite.clone(),
                ..Row::default()
            });
        }
        let begun = Instant::now();
        let counts = execute::binary(&plan, binary)?;
        if let Some(row) = table.last_mut() {
            row.add(counts, begun.elapsed());
        }
    }
    if with_doc {
        shell::heading("Suite doc");
        let begun = Instant::now();
        let counts = execute::doc_tests(&plan, args.fast)?;
        let mut row = Row {
            suite: DOC.to_owned(),
            ..Row::default()
        };
        row.add(counts, begun.elapsed());
        table.push(row);
    }
    report(&table, building, started.elapsed(), ci, &plan.logs)
}

const DOC: &str = "doc";

/// One line of the table at the end.
#[derive(Default)]
struct Row {
    suite: String,
    counts: Counts,
    took: Duration,
}

impl Row {
    fn add(&mut self, counts: Counts, took: Duration) {
        self.counts += counts;
        self.took += took;
    }
}

fn report(table: &[Row], building: Duration, all: Duration, ci: bool, logs: &Path) -> Result<()> {
    println!();
    println!(
        "{:<12} {:>7} {:>7} {:>8} {:>12}",
        "suite", "passed", "failed", "skipped", "time"
    );
    println!(
        "{:<12} {:>7} {:>7} {:>8} {:>12}",
        "(building)",
        "",
        "",
        "",
        shell::human(building)
    );
    let mut total = Counts::default();
    for row in table {
        let Counts {
            passed,
            failed,
            skipped,
        } = row.counts;
        println!(
            "{:<12} {passed:>7} {failed:>7} {skipped:>8} {:>12}",
            row.suite,
            shell::human(row.took)
        );
        total += row.counts;
    }
    println!(
        "{:<12} {:>7} {:>7} {:>8} {:>12}",
        "",
        "",
        "",
        "",
        shell::human(all)
    );
    println!("the whole output is in {}", logs.display());
    if ci && total.skipped > 0 {
        println!("CI=true: the {} skipped count as failed", total.skipped);
        total.failed += std::mem::take(&mut total.skipped);
    }
    println!("\n{} passed, {} failed", total.passed, total.failed);
    if total.failed > 0 {
        // The line above is the last word on standard output.
        bail!("some tests failed");
    }
    ensure!(
        total.passed > 0,
        "not a single test ran; is there a typing error in the names?"
    );
    Ok(())
}

fn names(binaries: &[Binary]) -> String {
    let mut names: Vec<&str> = binaries.iter().map(|binary| binary.suite.as_str()).collect();
    names.push(DOC);
    names.dedup();
    names.join(", ")
}
