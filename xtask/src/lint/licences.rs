//! Which licences a dependency may have.

use std::collections::BTreeSet;

use spdx::{Expression, ParseMode};

use super::{Metadata, Package};

/// Licences that go with Apache-2.0 in one binary and ask for no more than to be named.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// A line for each package in the build whose licence isn't allowed.
pub(super) fn check(metadata: &Metadata) -> Vec<String> {
    let built: BTreeSet<&str> = metadata
        .resolve
        .nodes
        .iter()
        .map(|node| node.id.as_str())
        .collect();
    metadata
        .packages
        .iter()
        .filter(|package| built.contains(package.id.as_str()))
        .filter_map(|package| {
            offence(package).map(|why| format!("{} {}: {why}", package.name, package.version))
        })
        .collect()
}

fn offence(package: &Package) -> Option<String> {
    let Some(text) = &package.license else {
        return Some(match &package.license_file {
            Some(file) => {
                format!("only a file ({file}) says its licence; read it, then name it here or drop the crate")
            }
            None => "says nothing of its licence; drop it or ask its authors".to_owned(),
        });
    };
    // Lax, since old crates write `MIT/Apache-2.0`.
    let expression = match Expression::parse_mode(text, ParseMode::LAX) {
        Ok(expression) => expression,
        Err(error) => return Some(format!("its licence `{text}` can't be read: {}", error.reason)),
    };
    let allowed = expression.evaluate(|requirement| {
        requirement
            .license
            .id()
            .is_some_and(|id| ALLOWED.contains(&id.name))
    });
    (!allowed).then(|| {
        format!("its licence `{text}` isn't on the list in xtask/src/lint/licences.rs; take another crate, or argue for it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(license: Option<&str>) -> Package {
        Package {
            id: "x".to_owned(),
            name: "x".to_owned(),
            version: "1.0.0".to_owned(),
            license: license.map(str::to_owned),
            license_file: None,
            manifest_path: "Cargo.toml".into(),
        }
    }

    #[test]
    fn an_alternative_that_is_allowed_suffices() {
        for good in [
            "MIT",
            "MIT OR GPL-3.0-only",
            "MIT/Apache-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert_eq!(offence(&with(Some(good))), None, "{good}");
        }
    }

    #[test]
    fn what_obliges_more_is_named_with_the_mend() {
        for bad in [
            "AGPL-3.0-only",
            "MIT AND GPL-3.0-only",
            "LicenseRef-ours",
            "no licence at all",
        ] {
            let why = offence(&with(Some(bad))).unwrap();
            assert!(why.contains(bad), "{why}");
        }
        assert!(offence(&with(None)).unwrap().contains("drop it"));
    }
}
