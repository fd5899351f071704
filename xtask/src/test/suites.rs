//! Which test programs there are, and to which suite each belongs.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::shell;

/// A built test program.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Binary {
    /// The suite it belongs to.
    pub(super) suite: String,
    /// What it is called on the terminal and on the command line: the package and target for unit tests, the file's
    /// name for integration tests.
    pub(super) name: String,
    pub(super) executable: PathBuf,
    /// The folder that it runs in, as under `cargo test`.
    pub(super) folder: PathBuf,
    /// True where tests share the machine's namespaces, ports and pins, and so run one at a time.
    pub(super) serial: bool,
}

impl Binary {
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.suite == name || self.name == name
    }

    /// True for the suites that start a Kubernetes.
    pub(super) fn needs_cluster(&self) -> bool {
        self.serial && matches!(self.suite.as_str(), "api" | "cluster" | "deploy" | "kubernetes")
    }

    /// True for what runs before the others, with nothing beside it: what uses all processors by itself, and what compares the machine with how it was.
    pub(super) fn has_machine_alone(&self) -> bool {
        !self.serial
            || self.suite == "kernel"
            || matches!(self.name.as_str(), "cluster_command" | "sandbox_leftovers")
    }

    /// True for the crate of tests that make namespaces and cgroups and start servers.
    pub(super) fn needs_root(&self) -> bool {
        self.serial
    }
}

/// Builds the agent and all tests once, and lists the test programs in the order in which they are to run.
///
/// # Errors
/// When something doesn't compile.
pub(super) fn build(fast: bool) -> Result<Vec<Binary>> {
    // `build` and not `test --no-run`, so that the agent's binary, which integration tests run, is made along with the
    // tests, with the same selection of packages and so of features: nothing is built twice.
    let mut targets = vec!["--tests"];
    if fast {
        targets.extend(["--exclude", INTEGRATION]);
    }
    build_targets(&targets)
}

/// Builds the agent and these files of integration tests, as [`build`] does it.
///
/// # Errors
/// When something doesn't compile.
pub(super) fn build_only(files: &[String]) -> Result<Vec<Binary>> {
    let targets: Vec<&str> = files.iter().flat_map(|file| ["--test", file.as_str()]).collect();
    build_targets(&targets)
}

/// The files of integration tests, by their names.
///
/// # Errors
/// When their folder can't be read.
pub(super) fn files() -> Result<Vec<String>> {
    let folder = shell::root().join("tests/tests");
    let mut files: Vec<String> = std::fs::read_dir(&folder)
        .with_context(|| format!("{} can't be read", folder.display()))?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".rs").map(str::to_owned))
        .collect();
    files.sort();
    Ok(files)
}

fn build_targets(targets: &[&str]) -> Result<Vec<Binary>> {
    let mut binaries = Vec::new();
    let mut cargo = shell::cargo();
    cargo.args(["build", "--workspace", "--lib", "--bins"]);
    cargo.args(targets);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    shell::stream(&mut cargo, |line| {
        binaries.extend(parse(line)?);
        Ok(())
    })?;
    binaries.sort_by_key(|binary| (rank(&binary.suite), binary.suite.clone(), binary.name.clone()));
    Ok(binaries)
}

const INTEGRATION: &str = "bailiff-tests";

/// Cheap and telling first.
fn rank(suite: &str) -> u8 {
    match suite {
        "unit" => 0,
        "wire" => 1,
        "cli" => 2,
        "kernel" => 3,
        _ => 4,
    }
}

/// The test program that a line of cargo's messages tells of, if it does.
fn parse(line: &str) -> Result<Option<Binary>> {
    let message: Message =
        serde_json::from_str(line).with_context(|| format!("cargo printed what isn't a message: {line}"))?;
    let (Some(target), Some(executable), Some(profile)) =
        (message.target, message.executable, message.profile)
    else {
        return Ok(None);
    };
    if message.reason != "compiler-artifact" || !profile.test {
        return Ok(None);
    }
    let manifest = message.manifest_path.context("an artifact without a manifest")?;
    let folder = manifest
        .parent()
        .context("a manifest without a folder")?
        .to_path_buf();
    let package = message
        .package_id
        .as_deref()
        .map(package_name)
        .unwrap_or_default();
    let integration = target.kind.iter().any(|kind| kind == "test");
    let serial = integration && package == INTEGRATION;
    let suite = match (integration, package.as_str()) {
        (false, _) => "unit".to_owned(),
        (true, INTEGRATION) => target.name.split('_').next().unwrap_or_default().to_owned(),
        (true, "bailiff") => "cli".to_owned(),
        (true, "bailiff-wire" | "bailiff-wire-fuzz" | "bailiff-policy-fuzz") => "wire".to_owned(),
        (true, _) => "unit".to_owned(),
    };
    let kind = target.kind.first().map(String::as_str).unwrap_or_default();
    let name = match (integration, kind) {
        (true, _) => target.name,
        (false, "bin") => format!("{package} (bin {})", target.name),
        (false, _) => package,
    };
    Ok(Some(Binary {
        suite,
        name,
        executable,
        folder,
        serial,
    }))
}

/// The name in `path+file:///somewhere/folder#name@version`, or in `…/name#version`.
fn package_name(id: &str) -> String {
    let (path, fragment) = id.rsplit_once('#').unwrap_or((id, ""));
    match fragment.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => path.rsplit('/').next().unwrap_or_default().to_owned(),
    }
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    package_id: Option<String>,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(package: &str, kind: &str, target: &str) -> String {
        format!(
            r#"{{"reason":"compiler-artifact","package_id":"{package}","manifest_path":"/w/tests/Cargo.toml",
            "target":{{"kind":["{kind}"],"crate_types":["bin"],"name":"{target}"}},"profile":{{"test":true}},
            "executable":"/w/target/debug/deps/{target}-1"}}"#
        )
    }

    #[test]
    fn integration_tests_fall_into_suites_by_the_first_word() {
        let line = artifact(
            "path+file:///w/tests#bailiff-tests@0.1.0",
            "test",
            "kernel_connect",
        );
        let binary = parse(&line).unwrap().unwrap();
        assert_eq!(
            (binary.suite.as_str(), binary.name.as_str()),
            ("kernel", "kernel_connect")
        );
        assert!(binary.needs_root() && binary.serial && !binary.needs_cluster());
        assert!(
            binary.is_called("kernel") && binary.is_called("kernel_connect") && !binary.is_called("postgres")
        );
        assert_eq!(binary.folder, PathBuf::from("/w/tests"));
    }

    #[test]
    fn the_cluster_is_built_for_its_suites_alone() {
        for (target, needs) in [
            ("cluster_command", true),
            ("kubernetes_clients", true),
            ("postgres_tls", false),
        ] {
            let line = artifact("path+file:///w/tests#bailiff-tests@0.1.0", "test", target);
            assert_eq!(parse(&line).unwrap().unwrap().needs_cluster(), needs, "{target}");
        }
    }

    #[test]
    fn what_looks_at_the_whole_machine_has_it_alone() {
        for (target, alone) in [
            ("kernel_removal", true),
            ("sandbox_leftovers", true),
            ("sandbox_pods", false),
            ("cluster_command", true),
            ("kubernetes_clients", false),
        ] {
            let line = artifact("path+file:///w/tests#bailiff-tests@0.1.0", "test", target);
            assert_eq!(
                parse(&line).unwrap().unwrap().has_machine_alone(),
                alone,
                "{target}"
            );
        }
    }

    #[test]
    fn tests_beside_the_code_are_units() {
        let line = artifact(
            "path+file:///w/agent/crates/wire#bailiff-wire@0.1.0",
            "lib",
            "bailiff_wire",
        );
        let binary = parse(&line).unwrap().unwrap();
        assert_eq!(
            (binary.suite.as_str(), binary.name.as_str()),
            ("unit", "bailiff-wire")
        );
        assert!(!binary.needs_root());
        let line = artifact("path+file:///w/xtask#0.1.0", "bin", "xtask");
        assert_eq!(parse(&line).unwrap().unwrap().name, "xtask (bin xtask)");
    }

    #[test]
    fn the_agents_and_the_codecs_integration_tests_have_their_own() {
        let agent = artifact("path+file:///w/agent#bailiff@0.1.0", "test", "doctor");
        assert_eq!(parse(&agent).unwrap().unwrap().suite, "cli");
        let wire = artifact(
            "path+file:///w/agent/crates/wire#bailiff-wire@0.1.0",
            "test",
            "corpus",
        );
        assert_eq!(parse(&wire).unwrap().unwrap().suite, "wire");
    }

    #[test]
    fn other_messages_are_passed_over_and_other_text_is_an_error() {
        assert_eq!(
            parse(r#"{"reason":"build-finished","success":true}"#).unwrap(),
            None
        );
        assert!(parse("hello").is_err());
    }
}
