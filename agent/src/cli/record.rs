//! `bailiff record`: whether the record is as it was written.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;

use crate::record::{State, Verified, files, verify};

/// Check the record
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Verify(VerifyArgs),
}

/// Tell whether the record is as it was written
///
/// Each write is chained to the one before it by its hash, over the files of an agent, and a file that is complete ends with a
/// seal. Whoever may write the record could compute all hashes anew; keep the last hash elsewhere, and give it later with --has.
///
/// The exit status is 0 when nothing was changed, 1 otherwise.
#[derive(Debug, clap::Args)]
struct VerifyArgs {
    /// Where the record is
    #[arg(long, value_name = "DIR", default_value = "/var/lib/bailiff/record")]
    dir: PathBuf,
    /// A hash that was told earlier, which must still be in the chain
    #[arg(long, value_name = "HASH")]
    has: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let Command::Verify(args) = &args.command;
    let directory = &args.dir;
    let paths = files(directory).with_context(|| {
        format!(
            "there is no record in {}; give its directory with --dir",
            directory.display()
        )
    })?;
    let (mut seen, mut last, mut changed) = (HashSet::new(), HashMap::new(), false);
    for path in paths {
        let name = path
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            // An agent that needed room has just removed it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let found = verify(&bytes, &mut seen);
        let break_before = follows(&name, &found, &mut last);
        let told = match &found.state {
            State::Sealed => "sealed".to_owned(),
            State::Open => "open: as it was written, without a seal".to_owned(),
            State::Cut(bytes) => {
                format!("open: as it was written, but for {bytes} bytes at its end that aren't whole")
            }
            State::Changed(at, what) => format!("CHANGED at byte {at}: {what}"),
            State::Unchained => "of an agent that chained nothing".to_owned(),
        };
        changed |= matches!(found.state, State::Changed(..)) || break_before.is_some();
        if let Some(break_before) = break_before {
            println!("{name}: CHANGED: {break_before}");
        }
        println!("{name}: {told}; {} lines, hash {}", found.lines, hex(&found.head));
    }
    for wanted in &args.has {
        if wanted.len() != 64 {
            bail!("{wanted:?} is no hash; it has 64 hexadecimal digits");
        }
        if !seen.iter().any(|head| hex(head).eq_ignore_ascii_case(wanted)) {
            println!("hash {wanted} is not in the record: CHANGED, or its file went to make room");
            changed = true;
        }
    }
    Ok(ExitCode::from(u8::from(changed)))
}

fn hex(head: &[u8; 32]) -> String {
    crate::record::hex(head)
}

/// Holds a file against the one before it of the same agent. What made room for newer files are the oldest alone.
fn follows(
    name: &str,
    found: &Verified,
    last: &mut HashMap<String, (u64, [u8; 32], bool)>,
) -> Option<String> {
    if found.state == State::Unchained {
        return None;
    }
    let (agent, number) = Path::new(name.strip_suffix(".jsonl.zst")?)
        .to_str()?
        .rsplit_once('-')?;
    let number: u64 = number.parse().ok()?;
    let before = last.insert(
        agent.to_owned(),
        (
            number,
            found.head,
            found.lines > 0 || found.state == State::Sealed,
        ),
    );
    match before {
        Some((before, ..)) if before + 1 != number => {
            Some(format!("{} files before it are missing", number - before - 1))
        }
        Some((_, head, true)) if found.lines > 0 && head != found.follows => {
            Some("it doesn't follow the file before it".to_owned())
        }
        _ => None,
    }
}
