//! Files with policies.

use bailiff_policy::PolicySet;

/// Loads a file. It is refused with lines that it has and with mends, or it works; either way, twice the same.
pub fn load(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    // For YAML a carriage return alone ends a line, too.
    let lines = text.matches(['\n', '\r']).count() as u64 + 1;
    let sources = [("x.yaml", text.as_ref())];
    match (
        PolicySet::from_sources_in_cluster(&sources),
        PolicySet::from_sources_in_cluster(&sources),
    ) {
        (Ok(one), Ok(other)) => {
            assert_eq!(one.policies(), other.policies());
            assert_eq!(one.targets(), other.targets());
        }
        (Err(one), Err(other)) => {
            assert_eq!(one, other);
            assert!(!one.0.is_empty());
            for problem in &one.0 {
                assert_eq!(problem.file, "x.yaml");
                // The end of the file is where what is missing would stand.
                assert!(problem.line <= lines + 1, "{problem} of {lines} lines");
                assert!(
                    !problem.reason.is_empty() && !problem.mend.is_empty(),
                    "{problem}"
                );
            }
        }
        (one, other) => assert_eq!(one.is_ok(), other.is_ok()),
    }
}
