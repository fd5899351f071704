//! Rules for source files that no compiler knows.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A line for each offence in the workspace's Rust files.
///
/// # Errors
/// When a folder or file can't be read.
pub(super) fn check(root: &Path) -> Result<Vec<String>> {
    let mut offences = Vec::new();
    for path in rust_files(root)? {
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("{} can't be read", path.display()))?;
        let shown = path.strip_prefix(root).unwrap_or(&path).to_path_buf();
        offences.extend(offences_in(&shown, &text));
    }
    Ok(offences)
}

/// Above this a file wants splitting.
const MOST_LINES: usize = 700;

fn offences_in(path: &Path, text: &str) -> Vec<String> {
    let mut offences = Vec::new();
    let shown = path.display();
    if path.file_name().is_some_and(|name| name == "mod.rs") {
        offences.push(format!(
            "{shown}: a module is `foo.rs` beside `foo/`, not `foo/mod.rs`"
        ));
    }
    for (number, line) in (1..).zip(text.lines()) {
        // Written apart, so that this file passes.
        if line.trim_start().starts_with(concat!("#[", "allow("))
            || line.trim_start().starts_with(concat!("#![", "allow("))
        {
            offences.push(format!(
                "{shown}:{number}: a lint is silenced by `#[expect(…, reason = \"…\")]` alone"
            ));
        }
    }
    let code = lines_before_tests(text);
    if code > MOST_LINES && !path.ends_with("tests.rs") {
        offences.push(format!(
            "{shown}: {code} lines of code, more than {MOST_LINES}; split it by subject"
        ));
    }
    offences
}

fn lines_before_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines
        .windows(2)
        .position(
            |pair| matches!(pair, [first, second] if *first == "#[cfg(test)]" && second.starts_with("mod ")),
        )
        .unwrap_or(lines.len())
}

fn rust_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in
            std::fs::read_dir(&folder).with_context(|| format!("{} can't be read", folder.display()))?
        {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if entry.file_type()?.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(entry.path());
                }
            } else if name.ends_with(".rs") {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offences(path: &str, text: &str) -> Vec<String> {
        offences_in(Path::new(path), text)
    }

    #[test]
    fn each_rule_names_its_place_and_mend() {
        assert!(offences("a/mod.rs", "")[0].starts_with("a/mod.rs: a module is `foo.rs`"));
        let allow = format!("fn a() {{}}\n  #[{}(dead_code)]\n", "allow");
        assert!(offences("a.rs", &allow)[0].starts_with("a.rs:2: "));
        let long = "//\n".repeat(701);
        assert!(offences("a.rs", &long)[0].contains("701 lines"));
    }

    #[test]
    fn tests_do_not_count_as_code() {
        let text = format!(
            "{}#[cfg(test)]\nmod tests {{\n{}}}\n",
            "//\n".repeat(700),
            "//\n".repeat(300)
        );
        assert!(offences("a.rs", &text).is_empty());
        assert!(offences("a/tests.rs", &"//\n".repeat(2000)).is_empty());
    }

    #[test]
    fn this_workspace_is_searched_wholly() {
        let files = rust_files(&crate::shell::root()).unwrap();
        assert!(
            files
                .iter()
                .any(|file| file.ends_with("xtask/src/lint/sources.rs"))
        );
        assert!(files.iter().any(|file| file.ends_with("agent-ebpf/src/main.rs")));
        assert!(
            !files
                .iter()
                .any(|file| file.components().any(|part| part.as_os_str() == "target"))
        );
    }
}
