//! `cargo xtask bench costs`: streams, connections, memory, and how all of it grows with rules.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::numbers::median;
use super::rig::{Lab, SERVER, Sandbox, Subject, parse_tps};
use crate::packages::{self, Purpose};
use crate::{build, lab, shell};

/// Measure streams, connections, memory and rules.
///
/// Four questions, each answered side by side in one run: what share of direct a stream of
/// 100 MiB of rows reaches, unmasked and with a masked column; how many connections a second
/// can be made, next to PgBouncer; how much memory of the agent an idle connection takes; and
/// what 1, 100 and 1,000 rules do to statements a second.
///
/// A quick look: `cargo xtask bench costs --rounds 1`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// How often each is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long pgbench runs each time, where it runs for a time.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// How many connections are idle at once.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=400))]
    idle: u32,
}

/// Rows of 200 bytes on the wire, and as many as make 100 MiB.
const ROWS: u32 = 524_288;
const RULES: [u32; 3] = [1, 100, 1_000];

pub(super) fn run(args: &Args) -> Result<()> {
    packages::ensure(&[Purpose::Build, Purpose::Test, Purpose::Bench])?;
    ensure!(shell::is_root(), "network namespaces need root");
    build::object(None)?;
    build::agent(true)?;
    lab::catch_signals()?;
    shell::heading("Setting up the server, PgBouncer and the sandboxes");
    let rig = Lab::set_up(&[Subject::Direct, Subject::Pgbouncer, Subject::Bailiff])?;
    for table in ["stream_plain", "stream_masked"] {
        rig.server().execute(
            SERVER,
            "bench",
            &format!(
                "CREATE TABLE {table} AS SELECT id::int, 'person ' || id AS name, lpad(id::text, 9, '0') AS ssn, \
                 repeat('x', 145) AS note FROM generate_series(1, {ROWS}) AS id; \
                 GRANT SELECT ON {table} TO bench; ANALYZE {table}"
            ),
        )?;
    }
    // Not in /tmp, of which a sandbox has its own.
    let target = shell::root().join("target");
    let scripts = tempfile::Builder::new().prefix("bench-").tempdir_in(target)?;
    streams(args, &rig, scripts.path())?;
    connections(args, &rig, scripts.path())?;
    idle(args, &rig, scripts.path())?;
    rules(args, &rig, scripts.path())
}

/// A configuration with so many rules, the last of which allows what the benches do.
fn config(directory: &Path, rules: u32) -> Result<std::path::PathBuf> {
    let path = directory.join(format!("rules-{rules}"));
    std::fs::create_dir_all(&path)?;
    for file in ["inventory.yaml", "target.yaml"] {
        let text = std::fs::read_to_string(shell::root().join("examples/bench").join(file))?;
        let text = text.replace("\"public.pgbench_*\"", "\"public.*\"");
        std::fs::write(path.join(file), text)?;
    }
    let mut text = String::from(
        "apiVersion: bailiff.dev/v1alpha1\nkind: Policy\nmetadata:\n  name: bench\nspec:\n  targets: [bench]\n  rules:\n",
    );
    for number in 1..rules {
        writeln!(
            text,
            "    - {{ name: deny-{number}, effects: [read, update, delete], relations: [\"public.app{number}_*\"], action: Deny }}"
        )?;
    }
    text.push_str("    - { name: rest, effects: [read, set, transaction], action: Allow }\n");
    text.push_str("  masks:\n    - columns: [public.stream_masked.ssn]\n      with: Redact\n");
    std::fs::write(path.join("policy.yaml"), text)?;
    Ok(path)
}

fn script(directory: &Path, name: &str, sql: &str) -> Result<String> {
    let path = directory.join(name);
    std::fs::write(&path, format!("{sql};\n"))?;
    Ok(format!("--file={}", path.display()))
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

const LONG: Duration = Duration::from_secs(120);

fn streams(args: &Args, rig: &Lab, scripts: &Path) -> Result<()> {
    shell::heading("Streaming 100 MiB of rows");
    let mut sandbox = Sandbox::start(rig, &config(scripts, 1)?, &[])?;
    let plain = script(scripts, "plain.sql", "SELECT * FROM stream_plain")?;
    let masked = script(scripts, "masked.sql", "SELECT * FROM stream_masked")?;
    let (mut direct, mut unmasked, mut hidden) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..args.rounds {
        let of = |file: &str| words(&format!("--no-vacuum --client=1 --transactions=4 {file}"));
        let tps = |text: &str| parse_tps(text).with_context(|| format!("pgbench named no tps:\n{text}"));
        direct.push(tps(&rig.pgbench(Subject::Direct, &of(&plain))?)? * 100.0);
        unmasked.push(tps(&sandbox.pgbench(&of(&plain), LONG)?)? * 100.0);
        hidden.push(tps(&sandbox.pgbench(&of(&masked), LONG)?)? * 100.0);
    }
    sandbox.finish()?;
    let base = median(&direct).context("nothing was measured")?;
    for (name, values) in [
        ("direct", &direct),
        ("bailiff", &unmasked),
        ("bailiff, masked", &hidden),
    ] {
        let middle = median(values).context("nothing was measured")?;
        println!("{name:<18} {middle:>8.0} MiB/s ({:.2} of direct)", middle / base);
    }
    Ok(())
}

fn connections(args: &Args, rig: &Lab, scripts: &Path) -> Result<()> {
    shell::heading("Connections a second, four clients");
    let mut sandbox = Sandbox::start(rig, &config(scripts, 1)?, &[])?;
    let file = script(scripts, "one.sql", "SELECT 1")?;
    let options = words(&format!(
        "--no-vacuum --connect --client=4 --jobs=2 --time={} {file}",
        args.seconds
    ));
    let mut measured = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..args.rounds {
        for (values, subject) in
            measured
                .iter_mut()
                .zip([Subject::Direct, Subject::Pgbouncer, Subject::Bailiff])
        {
            let text = match subject {
                Subject::Bailiff => sandbox.pgbench(&options, LONG)?,
                _ => rig.pgbench(subject, &options)?,
            };
            values.push(parse_tps(&text).with_context(|| format!("pgbench named no tps:\n{text}"))?);
        }
    }
    sandbox.finish()?;
    for (name, values) in ["direct", "pgbouncer (keeps its server connections)", "bailiff"]
        .iter()
        .zip(&measured)
    {
        println!(
            "{name:<42} {:>8.0} a second",
            median(values).context("nothing was measured")?
        );
    }
    Ok(())
}

/// The memory of the agent that idle connections take, each after some statements.
fn idle(args: &Args, rig: &Lab, scripts: &Path) -> Result<()> {
    shell::heading("Memory of idle connections");
    let mut sandbox = Sandbox::start(rig, &config(scripts, 1)?, &[])?;
    let file = script(
        scripts,
        "idle.sql",
        "SELECT abalance FROM pgbench_accounts WHERE aid = 1;\n\\sleep 20 s\nSELECT 1",
    )?;
    // What the first connections leave (caches, threads' arenas) is no cost of a connection.
    let first = words("--no-vacuum --client=16 --jobs=1 --time=2 --select-only");
    sandbox.pgbench(&first, LONG)?;
    let before = private_kib(sandbox.pid())?;
    let options = words(&format!(
        "--no-vacuum --client={} --jobs=1 --transactions=1 --protocol=prepared {file}",
        args.idle
    ));
    let pid = sandbox.pid();
    let watch = std::thread::spawn(move || -> Result<f64> {
        std::thread::sleep(Duration::from_secs(14));
        private_kib(pid)
    });
    sandbox.pgbench(&options, LONG)?;
    let after = watch
        .join()
        .map_err(|_| anyhow::anyhow!("the watching thread failed"))??;
    sandbox.finish()?;
    println!(
        "{:.1} KiB of the agent's memory for each of {} idle connections (from {before:.0} to {after:.0} KiB)",
        (after - before) / f64::from(args.idle),
        args.idle
    );
    Ok(())
}

/// Memory that a process has for itself, in KiB.
fn private_kib(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .with_context(|| format!("process {pid} can't be looked at"))?;
    let kib = |name: &str| -> Option<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    };
    Ok(kib("Private_Dirty:").context("the kernel doesn't say")? + kib("Private_Clean:").unwrap_or(0.0))
}

fn rules(args: &Args, rig: &Lab, scripts: &Path) -> Result<()> {
    shell::heading("Statements a second with more rules, eight clients, prepared");
    let mut sandboxes = Vec::new();
    for rules in RULES {
        sandboxes.push((
            rules,
            Sandbox::start(rig, &config(scripts, rules)?, &[])?,
            Vec::new(),
        ));
    }
    let options = words(&format!(
        "--no-vacuum --select-only --protocol=prepared --client=8 --jobs=2 --time={}",
        args.seconds
    ));
    for _ in 0..args.rounds {
        for (_, sandbox, values) in &mut sandboxes {
            let text = sandbox.pgbench(&options, LONG)?;
            values.push(parse_tps(&text).with_context(|| format!("pgbench named no tps:\n{text}"))?);
        }
    }
    let mut base = None;
    for (rules, sandbox, values) in sandboxes {
        sandbox.finish()?;
        let middle = median(&values).context("nothing was measured")?;
        let base = *base.get_or_insert(middle);
        println!(
            "{rules:>6} rules {middle:>10.0} tps ({:.2} of one rule's)",
            middle / base
        );
    }
    Ok(())
}
