//! The programs of a cluster, and helm, built from their own modules by Go.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::shell;

/// Builds them, unless they are there and of these sources. They are then called by [`program`].
///
/// # Errors
/// When there is no Go that is new enough, modules can't be fetched, or the build fails.
pub(crate) fn build() -> Result<()> {
    let go = super::go::ensure()?;
    let stamp = stamp(&go)?;
    if is_built(&stamp) {
        return Ok(());
    }
    let version = version()?;
    shell::heading(&format!("Building Kubernetes {version}"));
    println!(
        "the first time this fetches modules that take 650 MB on disk, and takes minutes; Go keeps what it compiled for the next time"
    );
    let begun = Instant::now();
    fs::create_dir_all(folder()).with_context(|| format!("{} can't be made", folder().display()))?;
    let _none = fs::remove_file(stamp_file());
    let mut command = go_command(&go);
    command.args(["list", "-deps", "."]);
    // Fetches the modules, too.
    let all = shell::capture(&mut command)
        .context("the modules can't be fetched: is there a network, and what does `go env GOPROXY` say?")?
        .lines()
        .count();
    compile(&go, &version, all)?;
    compile_helm(&go)?;
    for name in NAMES {
        let link = program(name);
        let _none = fs::remove_file(&link);
        std::os::unix::fs::symlink(BINARY, &link)
            .with_context(|| format!("{} can't be made", link.display()))?;
    }
    fs::write(stamp_file(), stamp).with_context(|| format!("{} can't be written", stamp_file().display()))?;
    println!(
        "built {} in {}",
        folder().join(BINARY).display(),
        shell::human(begun.elapsed())
    );
    Ok(())
}

/// Fails, with the mend, where [`build`] hasn't built them.
///
/// # Errors
/// When one is missing.
pub(crate) fn ensure_built() -> Result<()> {
    ensure!(
        NAMES.iter().chain(&[HELM]).all(|name| program(name).exists()),
        "the cluster's programs aren't built: `cargo xtask cluster build`"
    );
    Ok(())
}

/// Where a component is, such as `kubectl`.
pub(crate) fn program(name: &str) -> PathBuf {
    folder().join(name)
}

/// Calls the binary by a name that no component has; returns what it prints.
///
/// # Errors
/// When it isn't built of these sources, or fails.
pub(crate) fn call(name: &str) -> Result<String> {
    // Building it here would mix what the build says with what is asked for.
    ensure!(
        is_built(&stamp(&super::go::ensure()?)?),
        "the cluster's programs are missing or old: `cargo xtask cluster build`"
    );
    shell::capture(Command::new(program(BINARY)).arg(name))
}

/// Where the links to the one binary are.
pub(crate) fn folder() -> PathBuf {
    shell::root().join("target/cluster/bin")
}

/// The release that is pinned, such as `v1.34.4`.
///
/// # Errors
/// When go.mod names none.
pub(crate) fn version() -> Result<String> {
    let text = fs::read_to_string(module().join("go.mod")).context("tests/cluster/go.mod can't be read")?;
    text.lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "))
        .map(str::to_owned)
        .context("tests/cluster/go.mod requires no k8s.io/kubernetes")
}

/// What the binary can be called.
const NAMES: &[&str] = &[
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
];

const BINARY: &str = "cluster";

/// A client of its own module, which asks for other releases of what it has in common with the cluster.
const HELM: &str = "helm";

fn module() -> PathBuf {
    shell::root().join("tests/cluster")
}

fn helm_module() -> PathBuf {
    shell::root().join("tests/helm")
}

fn stamp_file() -> PathBuf {
    folder().join("built-from")
}

fn is_built(stamp: &str) -> bool {
    fs::read_to_string(stamp_file()).is_ok_and(|text| text == stamp) && ensure_built().is_ok()
}

/// Everything that the binary is made of, as text.
fn stamp(go: &Path) -> Result<String> {
    let mut stamp = shell::capture(go_command(go).arg("version"))?;
    for module in [module(), helm_module()] {
        let listed = fs::read_dir(&module).with_context(|| format!("{} can't be read", module.display()))?;
        let mut files = listed
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<PathBuf>>>()?;
        files.sort();
        for path in files {
            stamp +=
                &fs::read_to_string(&path).with_context(|| format!("{} can't be read", path.display()))?;
        }
    }
    Ok(stamp)
}

fn go_command(go: &Path) -> Command {
    let mut command = Command::new(go);
    command
        .current_dir(module())
        // The toolchain and the modules that are pinned, no others, and static programs.
        .envs([
            ("GOTOOLCHAIN", "local"),
            ("GOFLAGS", "-mod=readonly"),
            ("GOWORK", "off"),
            ("CGO_ENABLED", "0"),
        ])
        // Two compilers at a time with at most so much each, since Rust may be compiled beside.
        .env("GOMEMLIMIT", "2GiB");
    command
}

/// Compiles and links, and tells now and then how far it is: `all` is the number of packages.
fn compile(go: &Path, version: &str, all: usize) -> Result<()> {
    let mut command = go_command(go);
    command
        .args([
            "build",
            "-v",
            "-p",
            "2",
            "-trimpath",
            "-buildvcs=false",
            "-ldflags",
        ])
        .arg(flags(version))
        .arg("-o")
        .arg(folder().join(BINARY))
        .arg(".");
    println!("\x1b[2m+ {}\x1b[0m", shell::without_environment(&command));
    let mut child = command
        .stderr(Stdio::piped())
        .spawn()
        .context("go can't be started")?;
    let said = child.stderr.take().context("standard error was asked for")?;
    let (mut done, mut other, mut told) = (0, Vec::new(), Instant::now());
    for line in BufReader::new(said).lines() {
        let line = line?;
        // With -v each package that is compiled is a line of one word with its path.
        if !line.contains(' ') && !line.starts_with('#') {
            done += 1;
            if told.elapsed() > Duration::from_secs(10) {
                told = Instant::now();
                println!("  {done} of at most {all} packages");
            }
        } else if !line.starts_with("go: downloading") {
            other.push(line);
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("go build failed ({status}):\n{}", other.join("\n"));
    }
    Ok(())
}

/// Compiles and links helm. Most of what it is made of was compiled for the cluster just before.
fn compile_helm(go: &Path) -> Result<()> {
    shell::heading("Building helm");
    let mut command = go_command(go);
    command.current_dir(helm_module());
    command.args(["build", "-p", "2", "-trimpath", "-buildvcs=false"]);
    command.args(["-ldflags", "-s -w", "-o"]).arg(program(HELM));
    command.arg("helm.sh/helm/v3/cmd/helm");
    shell::run(
        &mut command,
        "Go says above what is wrong; it fetches the modules, too.",
    )
}

/// Leaves symbols out, and says which release this is: a module's build doesn't know.
fn flags(version: &str) -> String {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    );
    let mut flags = "-s -w".to_owned();
    for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
        for (name, value) in [
            ("gitVersion", version),
            ("gitMajor", major),
            ("gitMinor", minor),
            ("gitTreeState", "clean"),
        ] {
            flags += &format!(" -X {package}.{name}={value}");
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_release_is_pinned_with_its_staging_modules() {
        let version = version().unwrap();
        let (_, rest) = version.split_once("v1.").unwrap();
        let staging = format!(" v0.{rest}");
        let text = fs::read_to_string(module().join("go.mod")).unwrap();
        let replaced: Vec<&str> = text.lines().filter(|line| line.contains(" => ")).collect();
        assert!(replaced.len() > 20);
        assert!(replaced.iter().all(|line| line.ends_with(&staging)), "{staging}");
        let helm = fs::read_to_string(helm_module().join("go.mod")).unwrap();
        let replaced: Vec<&str> = helm.lines().filter(|line| line.contains(" => ")).collect();
        assert!(replaced.len() > 5);
        assert!(replaced.iter().all(|line| line.ends_with(&staging)), "{staging}");
    }

    #[test]
    fn the_release_is_told_to_the_linker() {
        let flags = flags("v1.34.4");
        for expected in [
            "-X k8s.io/component-base/version.gitVersion=v1.34.4",
            "-X k8s.io/component-base/version.gitMinor=34",
        ] {
            assert!(flags.contains(expected), "{flags}");
        }
    }
}
