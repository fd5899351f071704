//! What can't work is refused with its line and a mend.

use anyhow::{Result, ensure};
use bailiff_policy::PolicySet;

const TARGET: &str = "apiVersion: bailiff.dev/v1alpha1
kind: Target
metadata:
  name: db
spec:
  protocol: postgres
  endpoints: [\"10.0.0.5:5432\"]
";

/// A policy whose spec begins in line 6.
fn policy(spec: &str) -> String {
    format!("apiVersion: bailiff.dev/v1alpha1\nkind: Policy\nmetadata:\n  name: p\nspec:\n{spec}\n")
}

/// The problems of these texts, as `file:line: reason`.
fn problems(sources: &[(&str, &str)]) -> Vec<String> {
    match PolicySet::from_sources(sources) {
        Ok(_) => Vec::new(),
        Err(errors) => errors
            .0
            .iter()
            .map(|problem| format!("{}:{}: {}", problem.file, problem.line, problem.reason))
            .collect(),
    }
}

fn expect(sources: &[(&str, &str)], expected: &str) -> Result<()> {
    let found = problems(sources);
    ensure!(
        found.len() == 1 && found.iter().all(|problem| problem.contains(expected)),
        "expected one problem with {expected:?}, found {found:#?}"
    );
    Ok(())
}

fn in_policy(spec: &str, expected: &str) -> Result<()> {
    expect(&[("t.yaml", TARGET), ("p.yaml", &policy(spec))], expected)
}

fn in_target(endpoint: &str, expected: &str) -> Result<()> {
    let text = TARGET.replace("10.0.0.5:5432", endpoint);
    expect(&[("t.yaml", &text)], expected)
}

const RULE: &str = "  rules:\n  - name: r\n    effects: [read]\n    action: Allow";

#[test]
fn what_works_is_loaded() -> Result<()> {
    let spec =
        format!("  targets: [db]\n  subjects:\n  - namespaces: [a*]\n    podLabels: {{app: x}}\n{RULE}");
    let both = format!("# both in one file\n---\n{TARGET}---\n{}", policy(&spec));
    let set = PolicySet::from_sources(&[("x.yaml", &both)])?;
    ensure!(set.targets().len() == 1 && set.policies() == 1);
    let again = PolicySet::from_sources(&[("x.yaml", &both)])?;
    ensure!(set.generation() != again.generation());
    Ok(())
}

#[test]
fn a_problem_reads_as_file_line_reason_and_mend() -> Result<()> {
    let text = policy(&format!("  targets: [nowhere]\n{RULE}"));
    let Err(errors) = PolicySet::from_sources(&[("t.yaml", TARGET), ("p.yaml", &text)]) else {
        anyhow::bail!("loaded");
    };
    let expected = "1 problem(s) in the configuration:\n  p.yaml:6: there is no target \"nowhere\"\n    mend: there are: db";
    ensure!(errors.to_string() == expected, "{errors}");
    Ok(())
}

#[test]
fn all_problems_are_told_together() -> Result<()> {
    let text =
        policy("  targets: [nowhere, elsewhere]\n  rules:\n  - name: r\n    effects: []\n    action: Deny");
    let found = problems(&[("t.yaml", TARGET), ("p.yaml", &text)]);
    ensure!(found.len() == 3, "{found:#?}");
    Ok(())
}

#[test]
fn documents_that_are_no_policies_are_refused() -> Result<()> {
    expect(
        &[("x.yaml", "apiVersion: v1\nkind: Target\n")],
        "x.yaml:1: apiVersion is \"v1\"",
    )?;
    expect(
        &[("x.yaml", "apiVersion: bailiff.dev/v1alpha1\nkind: Pod\n")],
        "x.yaml:1: kind \"Pod\" is not known",
    )?;
    expect(&[("x.yaml", "a: [")], "x.yaml:")?;
    expect(&[("x.yaml", "just text\n")], "x.yaml:1: ")
}

#[test]
fn fields_and_values_that_arent_known_are_refused() -> Result<()> {
    in_policy(
        &format!("  targets: [db]\n  subject: []\n{RULE}"),
        "p.yaml:7: unknown field",
    )?;
    in_policy(
        "  targets: [db]\n  rules:\n  - name: r\n    effects: [reed]\n    action: Allow",
        "p.yaml:9: unknown variant `reed`",
    )?;
    in_policy(
        "  targets: [db]\n  rules:\n  - name: r\n    effects: [read]\n    action: allow",
        "p.yaml:10: unknown variant `allow`",
    )?;
    in_policy(
        &format!("  targets: [db]\n  targets: [db]\n{RULE}"),
        "p.yaml:7: duplicate",
    )
}

#[test]
fn endpoints_that_name_no_address_are_refused() -> Result<()> {
    in_target(
        "db.example:5432",
        "t.yaml:7: endpoint \"db.example:5432\": \"db.example\" is no IP address",
    )?;
    in_target("10.0.0.5", "has no port")?;
    in_target("10.0.0.5:0", "\"0\" is no port")?;
    in_target("10.0.0.5:70000", "\"70000\" is no port")?;
    in_target("10.0.0.5/24:5432", "has bits set behind its prefix of 24")?;
    in_target("10.0.0.0/33:5432", "/33 is no prefix length")?;
    in_target("[fd00::1/64]:5432", "has bits set behind its prefix of 64")?;
    in_target("[::ffff:10.0.0.5]:5432", "is an IPv4 address in IPv6's clothes")?;
    in_target("fd00::5:5432", "stands in brackets")?;
    for good in [
        "10.0.0.0/24:5432",
        "[fd00::/64]:*",
        "[fd00::5]:5432",
        "10.0.0.5:*",
    ] {
        let found = problems(&[("t.yaml", &TARGET.replace("10.0.0.5:5432", good))]);
        ensure!(found.is_empty(), "{good}: {found:?}");
    }
    Ok(())
}

#[test]
fn what_is_there_twice_is_refused() -> Result<()> {
    let other = TARGET.replace("name: db", "name: other");
    expect(
        &[("a.yaml", TARGET), ("b.yaml", &other)],
        "b.yaml:7: endpoint \"10.0.0.5:5432\" belongs to another",
    )?;
    let moved = TARGET.replace("10.0.0.5", "10.0.0.6");
    expect(
        &[("a.yaml", TARGET), ("b.yaml", &moved)],
        "b.yaml:4: target \"db\" is defined twice",
    )?;
    let text = policy(&format!("  targets: [db]\n{RULE}"));
    expect(
        &[("t.yaml", TARGET), ("a.yaml", &text), ("b.yaml", &text)],
        "b.yaml:4: policy \"p\" is defined twice",
    )?;
    in_policy(
        "  targets: [db]\n  rules:\n  - {name: r, effects: [read], action: Allow}\n  - {name: r, effects: [set], action: Allow}",
        "p.yaml:9: rule \"r\" is defined twice",
    )?;
    in_policy(
        "  targets: [db]\n  masks:\n  - columns: [a.b.c]\n    with: Null\n  - columns: [a.b.c]\n    with: Redact",
        "p.yaml:10: a.b.c is masked twice",
    )
}

#[test]
fn controls_that_cannot_fire_are_refused() -> Result<()> {
    in_policy(
        &format!("  targets: []\n{RULE}"),
        "p.yaml:4: the policy names no target",
    )?;
    in_policy(
        "  targets: [db]",
        "p.yaml:4: the policy has neither rules nor masks",
    )?;
    in_policy(
        &format!("  targets: [db]\n  subjects:\n  - {{}}\n{RULE}"),
        "p.yaml:8: a subject asks for nothing",
    )?;
    in_policy(
        &format!("  targets: [db]\n  subjects:\n  - namespaces: []\n{RULE}"),
        "p.yaml:8: the subject can never match: `namespaces` is empty",
    )?;
    in_policy(
        &format!("  targets: [db]\n  subjects:\n  - pods: ['']\n{RULE}"),
        "p.yaml:8: the subject can never match: `pods` is empty",
    )?;
    in_policy(
        "  targets: [db]\n  rules:\n  - name: r\n    effects: []\n    action: Deny",
        "p.yaml:9: rule \"r\" can never match: it names no effect",
    )?;
    in_policy(
        "  targets: [db]\n  rules:\n  - name: r\n    effects: [unknown]\n    action: Allow",
        "p.yaml:9: rule \"r\" can never match: no rule can allow `unknown`",
    )?;
    in_policy(
        "  targets: [db]\n  rules:\n  - name: r\n    effects: [read]\n    relations: []\n    action: Deny",
        "p.yaml:10: rule \"r\" can never match: `relations` is empty",
    )?;
    in_policy(
        "  targets: [db]\n  rules:\n  - name: r\n    effects: [read]\n    functions: [f]\n    action: Allow",
        "p.yaml:10: rule \"r\" can never match: `functions` is about `execute`",
    )?;
    in_policy(
        "  targets: [db]\n  rules:\n  - name: r\n    effects: [read, execute]\n    relations: [public.*]\n    action: Allow",
        "p.yaml:9: rule \"r\" can never allow `execute`",
    )?;
    in_policy(
        "  targets: [db]\n  rules:\n  - name: r\n    effects: [read]\n    relations: [patients]\n    action: Deny",
        "p.yaml:10: \"patients\" is no relation",
    )?;
    in_policy(
        &format!(
            "  targets: [db]\n  rules:\n  - name: r\n    effects: [read]\n    relations: [public.{}]\n    action: Deny",
            "n".repeat(64)
        ),
        "can never match: the server cuts names after 63 bytes",
    )?;
    in_policy(
        "  targets: [db]\n  rules:\n  - name: a\n    effects: [drop]\n    relations: [public.a]\n    action: Allow\n  - name: d\n    effects: [drop]\n    action: Deny",
        "p.yaml:8: rule \"a\" can never take effect: rule \"d\" is stricter",
    )?;
    in_policy(
        "  targets: [db]\n  masks:\n  - columns: []\n    with: Null",
        "p.yaml:9: the mask names no column",
    )?;
    in_policy(
        "  targets: [db]\n  masks:\n  - columns: [patients.ssn]\n    with: Null",
        "p.yaml:8: \"patients.ssn\" is no column",
    )?;
    in_policy(
        "  targets: [db]\n  masks:\n  - types: [a.b.c]\n    with: Null",
        "p.yaml:8: \"a.b.c\" is no type",
    )?;
    in_policy(
        "  targets: [db]\n  rules:\n  - name: r\n    effects: [read]\n    masked: [Sort]\n    action: Deny",
        "p.yaml:10: rule \"r\" has `masked`, which only widens what is allowed",
    )?;
    in_policy(
        "  targets: [db]\n  rules:\n  - name: r\n    effects: [read]\n    relations: [public.a]\n    masked: [Function]\n    action: Allow",
        "p.yaml:11: rule \"r\" can never allow `masked: [Function]`",
    )?;
    in_policy(
        "  targets: [db]\n  rules:\n  - name: r\n    effects: [read]\n    masked: [Sort, Keep]\n    action: Allow",
        "p.yaml:10: rule \"r\" can never allow `masked: [Keep]`: rows of FETCH and EXECUTE",
    )?;
    in_policy(
        "  targets: [db]\n  rules:\n  - name: r\n    effects: [read]\n    masked: [Copy]\n    action: Allow",
        "p.yaml:10: rule \"r\" can never allow `masked: [Copy]`: what COPY writes",
    )?;
    let text = TARGET.replace("[\"10.0.0.5:5432\"]", "[]");
    expect(
        &[("t.yaml", &text)],
        "t.yaml:4: the target has no endpoints and no services",
    )?;
    let text = format!("{TARGET}  searchPath: []\n");
    expect(&[("t.yaml", &text)], "t.yaml:8: `searchPath` is empty")?;
    let text = TARGET.replace("name: db", "name: My DB");
    expect(&[("t.yaml", &text)], "t.yaml:4: \"My DB\" is no name")
}

#[test]
fn a_file_that_is_too_long_is_refused_unread() -> Result<()> {
    let directory = std::env::temp_dir().join(format!("bailiff-loading-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let path = directory.join("target.yaml");
    let mut told = Vec::new();
    for length in [4 << 20, (4 << 20) + 1] {
        let comment = "#".repeat(length - TARGET.len());
        std::fs::write(&path, format!("{TARGET}{comment}"))?;
        told.push(PolicySet::load(&directory));
    }
    std::fs::remove_dir_all(&directory)?;
    let [fits, longer] = told.as_slice() else {
        anyhow::bail!("not both")
    };
    ensure!(fits.is_ok(), "{fits:?}");
    ensure!(
        longer
            .as_ref()
            .is_err_and(|errors| errors.to_string().contains("more than 4194304")),
        "{longer:?}"
    );
    Ok(())
}

#[test]
fn what_is_done_to_values_can_be_done() -> Result<()> {
    let with = |action: &str| format!("  targets: [db]\n  masks:\n  - columns: [a.b.c]\n    with: {action}");
    let key = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    for works in [
        "Redact",
        "Null",
        "\"Null\"",
        "{KeepLast: 4}",
        &format!("{{Hash: {{keyFile: {key}}}}}"),
    ] {
        let found = problems(&[("t.yaml", TARGET), ("p.yaml", &policy(&with(works)))]);
        ensure!(found.is_empty(), "{works}: {found:?}");
    }
    in_policy(&with("{KeepLast: 0}"), "p.yaml:9: KeepLast: 0 keeps nothing")?;
    in_policy(&with("{KeepLast: 17}"), "p.yaml:9: KeepLast: 17 keeps too much")?;
    in_policy(&with("{Hash: {keyFile: key}}"), "\"key\" is no whole path")?;
    in_policy(
        &with("{Hash: {keyFile: /nowhere/key}}"),
        "p.yaml:9: Hash can't be done: keyFile",
    )?;
    in_policy(&with("{Hash: {keyFile: /}}"), "is no file")?;
    in_policy(&with("Blur"), "Blur")
}

#[test]
fn services_are_for_targets_of_a_cluster() -> Result<()> {
    let with = |services: &str| {
        TARGET.replace(
            "endpoints: [\"10.0.0.5:5432\"]",
            &format!("services: [{services}]"),
        )
    };
    let in_cluster = |text: &str| match PolicySet::from_sources_in_cluster(&[("t.yaml", text)]) {
        Ok(set) => Ok(set),
        Err(errors) => Err(errors.to_string()),
    };
    let good = with(
        "{namespace: shop, name: pg, port: 5432}, {namespace: shop, name: pg, port: postgres}, {namespace: shop, name: other}",
    );
    let set = in_cluster(&good).map_err(anyhow::Error::msg)?;
    ensure!(
        set.services().map(ToString::to_string).collect::<Vec<_>>()
            == ["shop/pg:5432", "shop/pg:postgres", "shop/other"]
    );
    // Nobody would ask, and nothing would be protected.
    expect(
        &[("t.yaml", &good)],
        "t.yaml:7: the target names services, and nobody here asks a cluster",
    )?;
    for (services, expected) in [
        ("{namespace: shop, name: PG}", "`name` \"PG\" is no name"),
        ("{namespace: \"\", name: pg}", "`namespace` \"\" is no name"),
        ("{namespace: shop, name: pg, port: 0}", "0 is no port"),
        ("{namespace: shop, name: pg, port: 65536}", "65536 is no port"),
        (
            "{namespace: shop, name: pg, port: \"a b\"}",
            "\"a b\" is no port's name",
        ),
        (
            "{namespace: shop, name: pg}, {namespace: shop, name: pg}",
            "service shop/pg is named already",
        ),
        ("{namespace: shop, service: pg}", "service"),
        (&"{namespace: shop, name: pg},".repeat(17), "`services` holds 17"),
    ] {
        let told = in_cluster(&with(services)).err().unwrap_or_default();
        ensure!(told.contains(expected), "{services}: {told}");
    }
    Ok(())
}
