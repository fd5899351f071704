//! The suite `fuzz`: libFuzzer over each decoder, for a few seconds.
//!
//! cargo-fuzz does the same with a nightly compiler and sanitizers. Coverage alone, which is what finds things in code without
//! `unsafe`, needs neither: the pass that counts it is LLVM's own, and stable takes its name with `-C passes`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::execute::{Counts, Plan};
use crate::shell;

/// What the suite is called on the command line; one target is called `fuzz_<target>`.
pub(super) const SUITE: &str = "fuzz";

/// What libFuzzer is told where the command line says nothing else. A later word wins.
const DEFAULTS: &[&str] = &[
    "-seed=1",
    "-max_len=8192",
    "-timeout=120",
    "-rss_limit_mb=1024",
    "-print_final_stats=1",
];

/// What cargo-fuzz gives to the compiler, but for the sanitizer.
const FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "--cfg",
    "fuzzing",
];

/// Whether a name on the command line means all targets or one of them.
pub(super) fn is_called(name: &str) -> bool {
    name == SUITE
        || name
            .strip_prefix("fuzz_")
            .is_some_and(|target| folder(target).is_dir())
}

/// The crates with targets: where they lie, and their names.
const CRATES: &[(&str, &str)] = &[
    ("agent/crates/policy/fuzz", "bailiff-policy-fuzz"),
    ("agent/crates/wire/fuzz", "bailiff-wire-fuzz"),
];

/// The corpus of a target, kept in the repository, in one of the crates. An empty path if there is none.
fn folder(target: &str) -> PathBuf {
    CRATES
        .iter()
        .map(|(home, _)| shell::root().join(home).join("corpus").join(target))
        .find(|folder| folder.is_dir())
        .unwrap_or_default()
}

/// A built target.
struct Target {
    name: String,
    executable: PathBuf,
}

/// Builds the targets that are named, or all, and runs each.
///
/// # Errors
/// When they can't be built or started. What they find is counted as failed.
pub(super) fn run(plan: &Plan, names: &[String]) -> Result<Counts> {
    let mut targets = build()?;
    // `cargo xtask test unit fuzz_sql` names other suites, too.
    if !names.is_empty() && !names.iter().any(|name| name == SUITE) {
        targets.retain(|target| {
            names
                .iter()
                .any(|name| name.strip_prefix("fuzz_") == Some(&target.name))
        });
    }
    let mut counts = Counts::default();
    for target in &targets {
        let begun = Instant::now();
        let found = fuzz(plan, target)?;
        report(target, &found, begun.elapsed());
        if plan.verbose || found.trouble.is_some() {
            found.tail.iter().for_each(|line| println!("     | {line}"));
        }
        match found.trouble {
            None => counts.passed += 1,
            Some(_) => counts.failed += 1,
        }
    }
    Ok(counts)
}

fn build() -> Result<Vec<Target>> {
    let version = shell::capture(Command::new("rustc").arg("-vV").current_dir(shell::root()))?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("`rustc -vV` names no host")?;
    let mut cargo = shell::cargo();
    // With a target, the flags don't reach build scripts; in a folder of its own, other builds aren't made anew.
    cargo.env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.env("RUSTFLAGS", FLAGS.join(" "));
    cargo.arg("build");
    for (_, package) in CRATES {
        cargo.args([
            "--package",
            *package,
            "--features",
            &format!("{package}/libfuzzer"),
        ]);
    }
    cargo.arg("--bins");
    cargo.args([
        "--profile",
        "fuzz",
        "--target",
        host,
        "--target-dir",
        "target/fuzz",
    ]);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    let mut targets = Vec::new();
    shell::stream(&mut cargo, |line| {
        let message: Message = serde_json::from_str(line)
            .with_context(|| format!("cargo printed what isn't a message: {line}"))?;
        if let (Some(target), Some(executable)) = (message.target, message.executable) {
            targets.push(Target {
                name: target.name,
                executable,
            });
        }
        Ok(())
    })?;
    targets.sort_by(|a, b| a.name.cmp(&b.name));
    ensure!(!targets.is_empty(), "bailiff-wire-fuzz has no targets");
    Ok(targets)
}

#[derive(Deserialize)]
struct Message {
    target: Option<Named>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// What libFuzzer said at the end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    runs: u64,
    /// Places in the code that were reached.
    covered: u64,
    trouble: Option<String>,
    tail: Vec<String>,
}

fn fuzz(plan: &Plan, target: &Target) -> Result<Found> {
    let out = shell::root().join("target/fuzz");
    // What it makes up is kept here from run to run, and never written among what was captured.
    let kept = out.join("kept").join(&target.name);
    let crashes = out.join("crashes");
    for folder in [&kept, &crashes] {
        std::fs::create_dir_all(folder).with_context(|| format!("{} can't be made", folder.display()))?;
    }
    let log = plan.logs.join(format!("fuzz_{}.log", target.name));
    let sink = File::create(&log).with_context(|| format!("{} can't be written", log.display()))?;
    let mut command = Command::new(&target.executable);
    command.current_dir(shell::root()).args(DEFAULTS);
    command.arg(format!("-max_total_time={}", plan.fuzz_seconds));
    command.arg(format!("-artifact_prefix={}/{}-", crashes.display(), target.name));
    if let Some(words) = dictionary(&target.name) {
        command.arg(format!("-dict={}", words.display()));
    }
    command.args(&plan.rest);
    // A file on the command line is tried alone.
    if plan.rest.iter().all(|word| word.starts_with('-')) {
        command.arg(&kept);
        command.args(corpora(&target.name));
    }
    let status = command
        .stdin(Stdio::null())
        .stdout(sink.try_clone()?)
        .stderr(sink)
        .status()
        .with_context(|| format!("{} can't be started", target.executable.display()))?;
    let said = std::fs::read(&log).with_context(|| format!("{} can't be read", log.display()))?;
    let mut found = read(&String::from_utf8_lossy(&said));
    if found.trouble.is_none() && !status.success() {
        found.trouble = Some(format!("ended before its time ({status})"));
    }
    Ok(found)
}

/// Where a target's first inputs lie: in its own folder, and where others have what it reads, too.
fn corpora(target: &str) -> Vec<PathBuf> {
    let others: &[&str] = match target {
        "frame" => &["frontend", "backend"],
        "classify" | "writing" => &["sql"],
        _ => &[],
    };
    let mut folders: Vec<PathBuf> = std::iter::once(&target)
        .chain(others)
        .map(|name| folder(name))
        .collect();
    if target == "load" {
        folders.extend(["demo", "bench", "kubernetes"].map(|name| shell::root().join("examples").join(name)));
    }
    folders
}

/// Words that a target's inputs are made of, where they are words.
fn dictionary(target: &str) -> Option<PathBuf> {
    let name = match target {
        "classify" | "sql" => "sql",
        "load" => "yaml",
        "api_request" => "request",
        _ => return None,
    };
    Some(
        shell::root()
            .join("agent/crates/policy/fuzz")
            .join(name)
            .with_extension("dict"),
    )
}

/// Reads libFuzzer's words.
fn read(said: &str) -> Found {
    let mut found = Found::default();
    let mut counters = 0_u64;
    let mut one_input = false;
    for line in said.lines() {
        let after = |word: &str| {
            let (_, rest) = line.split_once(word)?;
            rest.split_whitespace().next()?.parse::<u64>().ok()
        };
        if line.starts_with("INFO: Loaded") {
            counters += line
                .split_once('(')
                .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok())
                .unwrap_or(0);
        }
        one_input |= line.starts_with("Running: ");
        found.runs = after("stat::number_of_executed_units:").unwrap_or(found.runs);
        found.covered = after("cov: ").unwrap_or(found.covered);
        if let Some((_, path)) = line.split_once("Test unit written to ") {
            let root = format!("{}/", shell::root().display());
            found.trouble = Some(path.trim().trim_start_matches(&root).to_owned());
        }
    }
    // Without feedback it would only throw dice, and nobody would notice.
    if found.trouble.is_none() && !one_input && (counters == 0 || found.covered < 10) {
        found.trouble = Some("it has no feedback of what the code does with its inputs".to_owned());
    }
    found.tail = said
        .lines()
        .filter(|line| !line.starts_with('#') && !line.starts_with("WARNING: Failed to find function"))
        .map(str::to_owned)
        .collect();
    let first = found.tail.len().saturating_sub(60);
    found.tail.drain(..first);
    found
}

fn report(target: &Target, found: &Found, took: Duration) {
    let mark = if found.trouble.is_some() {
        "\x1b[31mFAIL\x1b[0m"
    } else {
        "\x1b[32m ok \x1b[0m"
    };
    println!(
        "{mark} {:<34} {:>9} inputs, {:>4} places reached  {:>10}",
        format!("fuzz_{}", target.name),
        found.runs,
        found.covered,
        shell::human(took)
    );
    match &found.trouble {
        Some(file) if Path::new(file).is_file() => {
            println!(
                "     the input is in {file}; again: cargo xtask test fuzz_{} -- {file}",
                target.name
            );
            let home = folder(&target.name);
            let home = home.strip_prefix(shell::root()).unwrap_or(&home);
            println!("     once mended, it belongs into {}/", home.display());
        }
        Some(trouble) => println!("     {trouble}"),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "INFO: Seed: 1\nINFO: Loaded 1 modules   (150 inline 8-bit counters): 150 [0x1, 0x2), \n\
        #2\tINITED cov: 6 ft: 6 corp: 1/1b\n#99\tDONE   cov: 80 ft: 173 corp: 77/7940b lim: 4096 exec/s: 4 rss: 27Mb\n\
        stat::number_of_executed_units: 2903297\n";

    #[test]
    fn the_end_of_a_run_is_read() {
        let found = read(GOOD);
        assert_eq!((found.runs, found.covered, found.trouble), (2_903_297, 80, None));
    }

    #[test]
    fn a_crash_names_its_input() {
        let said = format!(
            "{GOOD}thread panicked\nartifact_prefix='x'; Test unit written to {}/target/fuzz/crashes/sql-crash-1\n",
            shell::root().display()
        );
        assert_eq!(read(&said).trouble.unwrap(), "target/fuzz/crashes/sql-crash-1");
    }

    #[test]
    fn a_run_without_feedback_does_not_pass() {
        assert!(read("#99\tDONE exec/s: 4 rss: 27Mb\n").trouble.is_some());
        assert!(read(&GOOD.replace("cov: 80", "cov: 2")).trouble.is_some());
        // One input that is tried alone has none, and needs none.
        assert!(read("Running: x\nExecuted x in 0 ms\n").trouble.is_none());
    }

    #[test]
    fn each_target_has_a_corpus() {
        for target in [
            "api_request",
            "backend",
            "classify",
            "frame",
            "frontend",
            "load",
            "sql",
            "startup",
            "writing",
        ] {
            assert!(is_called(&format!("fuzz_{target}")), "{target}");
            assert!(corpora(target).iter().all(|folder| folder.is_dir()), "{target}");
            assert!(dictionary(target).is_none_or(|file| file.is_file()), "{target}");
        }
        assert!(is_called("fuzz") && !is_called("fuzz_other") && !is_called("sql"));
    }
}
