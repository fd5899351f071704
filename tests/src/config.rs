//! Targets and policies as most tests use them.

/// A target named `db` at an address. `more` are further lines of its spec, each indented by two spaces.
#[must_use]
pub fn target(address: &str, more: &str) -> String {
    format!(
        "apiVersion: bailiff.dev/v1alpha1\nkind: Target\nmetadata: {{ name: db }}\nspec:\n  protocol: postgres\n  \
         endpoints: [\"{address}:5432\"]\n{more}"
    )
}

/// A policy for that target. `rules` are the rules, each indented by four spaces; whatever follows them may follow here.
#[must_use]
pub fn policy(rules: &str) -> String {
    format!(
        "apiVersion: bailiff.dev/v1alpha1\nkind: Policy\nmetadata: {{ name: tested }}\nspec:\n  targets: [db]\n  rules:\n{rules}"
    )
}

/// A rule that allows everything that can be told.
pub const ALLOW_ALL: &str = "    - name: everything
      effects: [read, insert, update, delete, truncate, create, alter, drop, grant, execute, copy, set, transaction]
      action: Allow
";
