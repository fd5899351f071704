//! Every crate of the workspace inherits its lints.

use std::path::Path;

use anyhow::{Context, Result};

use super::Metadata;

/// A line for each member whose manifest doesn't say `[lints] workspace = true`.
///
/// # Errors
/// When a manifest can't be read.
pub(super) fn check(metadata: &Metadata) -> Result<Vec<String>> {
    let mut offences = Vec::new();
    for package in metadata
        .packages
        .iter()
        .filter(|package| metadata.workspace_members.contains(&package.id))
    {
        let path: &Path = &package.manifest_path;
        let manifest =
            std::fs::read_to_string(path).with_context(|| format!("{} can't be read", path.display()))?;
        if !inherits_lints(&manifest) {
            offences.push(format!(
                "{}: add `[lints]` with `workspace = true`",
                path.display()
            ));
        }
    }
    Ok(offences)
}

fn inherits_lints(manifest: &str) -> bool {
    let mut section = "";
    for line in manifest
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
    {
        if line.starts_with('[') {
            section = line;
        }
        let squeezed: String = line.chars().filter(|c| !c.is_whitespace()).collect();
        if section == "[lints]" && squeezed == "workspace=true" || squeezed == "lints.workspace=true" {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_must_be_the_right_one() {
        assert!(inherits_lints(
            "[package]\nname = \"x\"\n\n[lints]\nworkspace = true # all of them\n"
        ));
        assert!(inherits_lints("lints.workspace = true\n[package]\n"));
        assert!(!inherits_lints("[package]\nname = \"x\"\n"));
        assert!(!inherits_lints(
            "[lints]\n# workspace = true\n[dependencies]\nworkspace = true\n"
        ));
    }
}
