//! `cargo xtask test`: builds, runs every suite, prints what each took.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::packages::{self, Purpose};
use crate::vm::Choice;
use crate::{build, cluster, servers, shell};

mod execute;
mod fuzz;
mod suites;
mod vm;

use execute::Counts;
use suites::Binary;

/// Run the tests: all of them, or the suites that are named.
///
/// Installs what is missing, builds the kernel programs, the agent and the tests, and runs:
///
///   unit    what lies beside the code, and what runs in one process
///   wire    captured bytes and hostile bytes, for every decoder
///   cli     the binary's commands
///   kernel, postgres, sandbox, cluster, …
///           the integration tests of the crate `tests`, by the first word of their file's
///           name: real sockets, real servers, network namespaces and cgroups. They need
///           root. One with a Kubernetes runs beside one of the others
///   doc     the examples in the documentation, and those that must not compile
///   fuzz    libFuzzer over every decoder, for a few seconds each; not with --fast
///
/// A suite can also be one file (kernel_connect) or one target (fuzz_sql). What follows `--`
/// goes to each test program: `cargo xtask test kernel -- burst` runs the kernel tests with
/// "burst" in their name, `cargo xtask test fuzz_sql -- FILE` tries one input.
///
/// With --vm, suites run on other kernels: each is booted in an emulated machine, with cgroups of
/// the second version alone; deploy_node and cluster_node run here, with a cluster whose node is in
/// the machine. Emulation is slow, so without names these are few; see CONTRIBUTING.md.
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
    /// Run one test program at a time, where otherwise those with a cluster run beside the others. --verbose does so, too.
    #[arg(long)]
    one_at_a_time: bool,
    /// How long each fuzz target runs.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    fuzz_seconds: u32,
    /// Run on other kernels, in an emulated machine.
    #[arg(long, conflicts_with = "fast")]
    vm: bool,
    /// Which kernels, Debian 12's or Debian 13's; both if none is given.
    #[arg(long, value_name = "KERNEL", requires = "vm", value_enum)]
    kernel: Vec<Choice>,
    /// Names of suites or of single test files; all if none is given.
    #[arg(value_name = "SUITE")]
    suites: Vec<String>,
    /// Goes to each test program.
    #[arg(last = true)]
    rest: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.vm {
        return vm::run(args);
    }
    let started = Instant::now();
    let ci = is_ci();
    let named = |called: fn(&str) -> bool| args.suites.iter().any(|name| called(name));
    let all = args.suites.is_empty();
    let only_fuzz = !all && args.suites.iter().all(|name| fuzz::is_called(name));
    // Words for libtest mean nothing to libFuzzer, so with them it has to be asked for by name.
    let with_fuzz = named(fuzz::is_called) || all && !args.fast && args.rest.is_empty();
    let with_doc = all || named(|name| name == DOC);
    if !args.fast && !only_fuzz && !shell::is_root() {
        bail!("the kernel and server tests need root; `cargo xtask test --fast` runs the others");
    }
    if args.fast || only_fuzz {
        packages::ensure(&[Purpose::Build])?;
    } else {
        packages::ensure(&[Purpose::Build, Purpose::Test])?;
        servers::ensure()?;
        build::object(None)?;
    }

    let built = Instant::now();
    let mut binaries = Vec::new();
    if !only_fuzz {
        shell::heading("Building the agent and the tests");
        binaries = suites::build(args.fast)?;
    }
    let building = built.elapsed();
    binaries.retain(|binary| !(args.fast && binary.needs_root()));
    if !all {
        for name in &args.suites {
            let known =
                name == DOC || fuzz::is_called(name) || binaries.iter().any(|binary| binary.is_called(name));
            ensure!(
                known,
                "there is no suite `{name}`; there are: {}",
                names(&binaries)
            );
        }
        binaries.retain(|binary| args.suites.iter().any(|name| binary.is_called(name)));
    }

    if binaries.iter().any(Binary::needs_cluster) {
        cluster::build(true)?;
    }

    let logs = shell::root().join("target/test-logs");
    std::fs::create_dir_all(&logs).with_context(|| format!("{} can't be made", logs.display()))?;
    let plan = execute::Plan {
        logs,
        rest: args.rest.clone(),
        verbose: args.verbose,
        fuzz_seconds: args.fuzz_seconds,
    };

    let mut last: Vec<Whole<'_>> = Vec::new();
    if with_doc {
        last.push((DOC, Box::new(|| execute::doc_tests(&plan, args.fast))));
    }
    if with_fuzz {
        last.push((fuzz::SUITE, Box::new(|| fuzz::run(&plan, &args.suites))));
    }
    let (first, rest): (Vec<_>, Vec<_>) = binaries.into_iter().partition(Binary::has_machine_alone);
    let (with_cluster, without) = match args.one_at_a_time || args.verbose {
        true => (Vec::new(), rest),
        false => rest.into_iter().partition(Binary::needs_cluster),
    };
    let mut table = lane(&plan, &first, Vec::new())?;
    if !with_cluster.is_empty() && (!without.is_empty() || !last.is_empty()) {
        shell::heading("Two at a time: one with a cluster, and one of the others");
    }
    // Those with a cluster mostly wait for it.
    let (beside, rest) = std::thread::scope(|scope| {
        let beside = scope.spawn(|| lane(&plan, &with_cluster, Vec::new()));
        let rest = lane(&plan, &without, last);
        (beside.join(), rest)
    });
    let beside = beside.map_err(|_| anyhow::anyhow!("what ran beside has failed"))??;
    for row in beside.into_iter().chain(rest?) {
        match table.iter_mut().find(|one| one.suite == row.suite) {
            Some(one) => one.add(row.counts, row.took),
            None => table.push(row),
        }
    }
    report(&table, building, started.elapsed(), ci, &plan.logs)
}

/// A suite that is no test program, and how it is run.
type Whole<'a> = (&'static str, Box<dyn Fn() -> Result<Counts> + 'a>);

/// Runs these one after another.
fn lane(plan: &execute::Plan, binaries: &[Binary], last: Vec<Whole<'_>>) -> Result<Vec<Row>> {
    let mut table: Vec<Row> = Vec::new();
    for binary in binaries {
        if table.last().is_none_or(|row| row.suite != binary.suite) {
            table.push(Row {
                suite: binary.suite.clone(),
                ..Row::default()
            });
        }
        let begun = Instant::now();
        let counts = execute::binary(plan, binary)?;
        if let Some(row) = table.last_mut() {
            row.add(counts, begun.elapsed());
        }
    }
    for (suite, run) in last {
        let begun = Instant::now();
        let counts = run()?;
        let mut row = Row {
            suite: suite.to_owned(),
            ..Row::default()
        };
        row.add(counts, begun.elapsed());
        table.push(row);
    }
    Ok(table)
}

/// Under CI what is skipped has failed.
fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
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
    names.extend([DOC, fuzz::SUITE]);
    names.dedup();
    names.join(", ")
}
