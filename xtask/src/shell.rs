//! Running other programs, visibly, with errors that say how to mend.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Folders of this machine, and what programs call them that are used elsewhere.
pub(crate) fn renamed() -> Vec<(PathBuf, &'static str)> {
    let cargo = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cargo")));
    let mut renamed = vec![(root(), "/bailiff")];
    renamed.extend(cargo.map(|cargo| (cargo, "/cargo")));
    renamed
}

/// Runs a command with its output on the terminal, after printing it.
///
/// # Errors
/// When it can't be started or exits with a failure; the error ends with `mend`.
pub(crate) fn run(command: &mut Command, mend: &str) -> Result<()> {
    println!("\x1b[2m+ {}\x1b[0m", describe(command));
    let status = command
        .status()
        .with_context(|| format!("{} can't be started", name(command)))?;
    check(command, status, mend)
}

/// Runs a command and returns what it printed on standard output; its standard error goes to the terminal.
///
/// # Errors
/// When it can't be started, exits with a failure or prints what isn't UTF-8.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{} can't be started", name(command)))?;
    check(command, output.status, "")?;
    String::from_utf8(output.stdout).with_context(|| format!("the output of {} isn't text", name(command)))
}

/// Like [`capture`], but hands over each line as it comes.
///
/// # Errors
/// As [`capture`], and whatever `line` returns.
pub(crate) fn stream(command: &mut Command, mut line: impl FnMut(&str) -> Result<()>) -> Result<()> {
    println!("\x1b[2m+ {}\x1b[0m", describe(command));
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} can't be started", name(command)))?;
    let stdout = child.stdout.take().context("standard output was asked for")?;
    for text in BufReader::new(stdout).lines() {
        line(&text?)?;
    }
    let status = child.wait()?;
    check(command, status, "")
}

/// The text of a command as it could be typed.
pub(crate) fn describe(command: &Command) -> String {
    let mut words: Vec<String> = command
        .get_envs()
        .filter_map(|(key, value)| {
            value.map(|value| format!("{}={}", key.display(), quote(&value.display().to_string())))
        })
        .collect();
    words.push(without_environment(command));
    words.join(" ")
}

/// The same without what it adds to the environment, for commands that are given a secret there.
pub(crate) fn without_environment(command: &Command) -> String {
    let mut words = vec![name(command)];
    words.extend(command.get_args().map(|arg| quote(&arg.display().to_string())));
    words.join(" ")
}

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// The cargo that runs this program, in the workspace's folder.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// A command without what rustup and cargo put into this program's environment, so that another toolchain can be chosen.
pub(crate) fn outside_cargo(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    for (key, _) in std::env::vars_os() {
        let key_text = key.to_string_lossy();
        let kept = matches!(key_text.as_ref(), "CARGO_HOME" | "CARGO_BUILD_JOBS")
            || key_text.starts_with("CARGO_REGISTR")
            || key_text.starts_with("CARGO_HTTP_")
            || key_text.starts_with("CARGO_NET_")
            || key_text.starts_with("CARGO_SOURCE_");
        if !kept
            && (key_text.starts_with("CARGO")
                || matches!(
                    key_text.as_ref(),
                    "RUSTUP_TOOLCHAIN"
                        | "RUSTC"
                        | "RUSTDOC"
                        | "RUSTFLAGS"
                        | "LD_LIBRARY_PATH"
                        | "RUST_RECURSION_COUNT"
                ))
        {
            command.env_remove(&key);
        }
    }
    command
}

/// Where a program is found: on `PATH`, or in the folders for administrators that a user's `PATH` leaves out.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// True if this process is root, which the kernel and server tests, the demo and installing packages need.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A duration for people: `0.4 s`, `12.3 s`, `3 min 05 s`.
pub(crate) fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 100 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    }
}

/// A heading above what comes next.
pub(crate) fn heading(text: &str) {
    println!("\x1b[1m== {text}\x1b[0m");
}

fn check(command: &Command, status: ExitStatus, mend: &str) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let mend = if mend.is_empty() {
        String::new()
    } else {
        format!("\n{mend}")
    };
    bail!("`{}` failed ({status}){mend}", describe(command))
}

fn name(command: &Command) -> String {
    let program = Path::new(command.get_program());
    match program.file_name() {
        Some(file) if file == "cargo" => "cargo".to_owned(),
        _ => program
            .strip_prefix(root())
            .unwrap_or(program)
            .display()
            .to_string(),
    }
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A line for each of these generated files that isn't in a folder with its text. `shown` is what the folder is called, `other` what is said of a file with
/// another text, `mend` the command that writes them.
///
/// # Errors
/// When one can't be read.
pub(crate) fn stale(
    folder: &Path,
    files: &BTreeMap<String, String>,
    shown: &str,
    other: &str,
    mend: &str,
) -> Result<Vec<String>> {
    let mut stale = Vec::new();
    for (name, text) in files {
        let is = match std::fs::read_to_string(folder.join(name)) {
            Ok(there) if there == *text => continue,
            Ok(_) => other,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => "is missing",
            Err(error) => return Err(error).with_context(|| format!("{shown}/{name} can't be read")),
        };
        stale.push(format!("{shown}/{name} {is}: run `{mend}`"));
    }
    Ok(stale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_described_as_it_could_be_typed() {
        let mut command = Command::new("psql");
        command.env("PGUSER", "app").args(["-c", "SELECT 'it''s'"]);
        assert_eq!(
            describe(&command),
            r"PGUSER=app psql -c 'SELECT '\''it'\'''\''s'\'''"
        );
    }

    #[test]
    fn a_failing_command_is_an_error_with_the_mend() {
        let error = run(&mut Command::new("false"), "mend: try `true`").unwrap_err();
        assert!(error.to_string().contains("mend: try `true`"), "{error}");
        assert!(run(&mut Command::new("true"), "").is_ok());
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(human(Duration::from_millis(420)), "0.4 s");
        assert_eq!(human(Duration::from_secs(185)), "3 min 05 s");
    }
}
