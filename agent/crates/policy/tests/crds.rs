//! The CRDs and the loader agree: what the API server refuses the loader refuses, too, and it takes a file with every field.
//! `cluster_crds.rs` holds the same files against a real API server.

use anyhow::{Context as _, Result, ensure};
use bailiff_policy::PolicySet;

const WHOLE: &str = include_str!("../../../../tests/tests/cluster_crds/whole.yaml");
const REFUSED: &str = include_str!("../../../../tests/tests/cluster_crds/refused.yaml");

#[test]
fn the_loader_takes_every_field() -> Result<()> {
    // Any file that is long enough for a key.
    let whole = WHOLE.replace(
        "/etc/bailiff/mask.key",
        concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
    );
    PolicySet::from_sources_in_cluster(&[("whole.yaml", &whole)])?;
    Ok(())
}

#[test]
fn the_loader_refuses_what_the_api_server_refuses() -> Result<()> {
    let mut taken = Vec::new();
    for case in REFUSED.split("### ").skip(1) {
        let (told, object) = case.split_once('\n').context("no object")?;
        if PolicySet::from_sources_in_cluster(&[("refused.yaml", object)]).is_ok() {
            taken.push(format!("{told}: {object}"));
        }
    }
    ensure!(taken.is_empty(), "{}", taken.join("\n"));
    Ok(())
}
