//! `cargo xtask lint`: what the compiler doesn't check.

use anyhow::{Result, bail};

use crate::packages::{self, Purpose};
use crate::{crds, manifests as chart, shell};

mod licences;
mod manifests;
mod sources;

/// Check formatting, clippy, licences, the CRDs and the house rules.
///
///   rustfmt    `cargo fmt --check`
///   clippy     all crates and targets, warnings denied
///   licences   each dependency's is on the list in xtask/src/lint/licences.rs
///   manifests  every crate inherits the workspace's lints
///   CRDs       deploy/chart/files/crds is what the types of policies say
///   chart      its version is the program's
///   sources    no mod.rs, no #[allow(…)], no file of more than 700 lines before its tests
///
/// All of them run, also after one failed.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Let rustfmt format instead of check.
    #[arg(long)]
    fix: bool,
    /// Leave clippy out, which is the slow one.
    #[arg(long)]
    no_clippy: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    packages::ensure(&[Purpose::Build])?;
    let mut offences = Vec::new();
    let mut note = |name: &str, found: Result<Vec<String>>| {
        let found = match found {
            Ok(found) => found,
            Err(error) => vec![format!("{error:#}")],
        };
        println!(
            "{name}: {}",
            if found.is_empty() {
                "ok".to_owned()
            } else {
                format!("{} to mend", found.len())
            }
        );
        found.iter().for_each(|text| println!("  {text}"));
        offences.extend(found);
    };

    shell::heading("House rules");
    note("sources", sources::check(&shell::root()));
    let metadata = metadata()?;
    note("manifests", manifests::check(&metadata));
    note("licences", Ok(licences::check(&metadata)));

    shell::heading("rustfmt");
    let mut fmt = shell::cargo();
    fmt.args(["fmt", "--all"]);
    if !args.fix {
        fmt.arg("--check");
    }
    note(
        "rustfmt",
        shell::run(&mut fmt, "Mend it with `cargo fmt --all`.").map(|()| Vec::new()),
    );

    shell::heading("CRDs");
    note("CRDs", crds::check());
    note("chart", chart::check_version());

    if !args.no_clippy {
        shell::heading("clippy");
        let mut clippy = shell::cargo();
        clippy.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
        note("clippy", shell::run(&mut clippy, "").map(|()| Vec::new()));
    }
    match offences.len() {
        0 => Ok(()),
        count => bail!("{count} to mend; they are listed above"),
    }
}

/// What cargo knows of the workspace and of everything that a build on Linux compiles.
fn metadata() -> Result<Metadata> {
    let mut command = shell::cargo();
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    command.args(["metadata", "--format-version", "1", "--filter-platform", &host]);
    Ok(serde_json::from_str(&shell::capture(&mut command)?)?)
}

#[derive(serde::Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
}

#[derive(serde::Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    license_file: Option<String>,
    manifest_path: std::path::PathBuf,
}

#[derive(serde::Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(serde::Deserialize)]
struct Node {
    id: String,
}
