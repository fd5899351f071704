//! What is recorded: how it is written, what is refused, and how many wishes join.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bailiff_model::{
    Chain, Evidence, Hop, HopKind, Mode, OriginalDst, PodInfo, PodUid, Recording, RecordingLevel,
};
use bailiff_policy::{ChainPolicy, PolicySet, Settings, classify, type_request};
use proptest::prelude::*;

const TARGET: &str = "apiVersion: bailiff.dev/v1alpha1
kind: Target
metadata: {name: db}
spec:
  protocol: postgres
  endpoints: ['10.0.0.5:5432']
";

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: bailiff.dev/v1alpha1\nkind: Policy\nmetadata: {{name: {name}}}\nspec:\n  targets: [db]\n{spec}"
    )
}

const RULES: &str = "  rules:\n  - name: reads\n    effects: [read]\n    action: Allow\n";

fn hop(namespace: &str) -> Hop {
    Hop {
        kind: HopKind::Pod {
            pod: Arc::new(PodInfo {
                namespace: namespace.to_owned(),
                name: "p".to_owned(),
                uid: PodUid::new(namespace),
                service_account: "default".to_owned(),
                labels: BTreeMap::new(),
                mode: Mode::Enforce,
            }),
            process: None,
        },
        evidence: Evidence::Observed,
    }
}

fn for_chain(policies: &[String], chain: &Chain) -> Result<ChainPolicy> {
    let mut sources = vec![("t.yaml", TARGET)];
    sources.extend(policies.iter().map(|text| ("p.yaml", text.as_str())));
    let set = PolicySet::from_sources(&sources)?;
    let target = set
        .target_for(OriginalDst::new("10.0.0.5:5432".parse()?))
        .context("no target")?;
    Ok(set.for_chain(target, chain))
}

fn recorded(policy: &ChainPolicy, sql: &str) -> Result<Recording> {
    let settings = Settings::default();
    let classified = classify(sql, &settings).map_err(|why| anyhow::anyhow!("{sql}: {why:?}"))?;
    Ok(policy.decide_sql(&classified, &settings).recording())
}

fn of(spec: &str) -> Result<Recording> {
    let policy = for_chain(
        &[policy("a", &format!("{RULES}{spec}"))],
        &Chain::of_caller(hop("a")),
    )?;
    recorded(&policy, "select 1 from t")
}

#[test]
fn a_levels_name_is_enough_and_fields_say_more() -> Result<()> {
    ensure!(of("")? == Recording::default());
    for (name, level) in [
        ("Metadata", RecordingLevel::Metadata),
        ("Statement", RecordingLevel::Statement),
        ("Values", RecordingLevel::Values),
        ("Results", RecordingLevel::Results),
    ] {
        ensure!(of(&format!("  recording: {name}\n"))? == Recording::of_level(level));
        ensure!(of(&format!("  recording: {{level: {name}}}\n"))? == Recording::of_level(level));
    }
    let digest = of("  recording: {digest: true}\n")?;
    ensure!(digest.digest() && digest.level() == RecordingLevel::Statement);
    let rows = of("  recording:\n    level: Results\n    maxRows: 7\n    maxBytes: 4096\n")?;
    ensure!((rows.max_rows(), rows.max_bytes()) == (7, 4096), "{rows:?}");
    Ok(())
}

#[test]
fn what_would_say_nothing_is_refused() -> Result<()> {
    for (spec, expected) in [
        (
            "  recording: Everything\n",
            "p.yaml:10: unknown variant `Everything`",
        ),
        ("  recording: {levels: Values}\n", "p.yaml:10: unknown field"),
        (
            "  recording: {level: Values, maxRows: 3}\n",
            "p.yaml:10: `maxRows` says nothing at level Values",
        ),
        (
            "  recording: {maxBytes: 3}\n",
            "p.yaml:10: `maxBytes` says nothing at level Statement",
        ),
        (
            "  recording: {level: Results, maxRows: 0}\n",
            "p.yaml:10: `maxRows` can't be 0",
        ),
        (
            "  recording: {level: Values, maxBytes: 99999999}\n",
            "p.yaml:10: `maxBytes` can't be 99999999",
        ),
        ("  recording: [Values]\n", "p.yaml:10: "),
    ] {
        let text = policy("a", &format!("{RULES}{spec}"));
        let Err(errors) = PolicySet::from_sources(&[("t.yaml", TARGET), ("p.yaml", &text)]) else {
            anyhow::bail!("loaded: {spec}");
        };
        let told: Vec<String> = errors
            .0
            .iter()
            .map(|problem| format!("{}:{}: {}", problem.file, problem.line, problem.reason))
            .collect();
        ensure!(
            told.len() == 1 && told.iter().all(|told| told.starts_with(expected)),
            "{spec}: {told:#?}"
        );
    }
    let rule =
        "  rules:\n  - name: reads\n    effects: [read]\n    action: Allow\n    recording: Statement\n";
    let text = policy("a", rule);
    let errors = PolicySet::from_sources(&[("t.yaml", TARGET), ("p.yaml", &text)])
        .err()
        .context("loaded")?;
    ensure!(
        errors
            .to_string()
            .contains("records no more than the policy does"),
        "{errors}"
    );
    Ok(())
}

#[test]
fn policies_and_hops_join_to_the_strictest() -> Result<()> {
    let everybody = policy("all", &format!("{RULES}  recording: Values\n"));
    let origins = policy(
        "origins",
        &format!(
            "  subjects: [{{namespaces: [origin]}}]\n{RULES}  recording: {{level: Results, maxRows: 3}}\n"
        ),
    );
    let watched = policy(
        "watched",
        &format!("  mode: Observe\n{RULES}  recording: {{digest: true}}\n"),
    );
    let policies = [everybody, origins, watched];
    let alone = recorded(&for_chain(&policies, &Chain::of_caller(hop("a")))?, "select 1")?;
    ensure!(alone == Recording::of_level(RecordingLevel::Values), "{alone:?}");
    let nested = Chain::of_caller(hop("a")).with_origin(hop("origin"));
    let nested = recorded(&for_chain(&policies, &nested)?, "select 1")?;
    ensure!(
        (nested.level(), nested.max_rows(), nested.digest()) == (RecordingLevel::Results, 3, false),
        "{nested:?}"
    );
    Ok(())
}

#[test]
fn a_rule_asks_for_more_of_what_it_touches() -> Result<()> {
    let text = policy(
        "a",
        "  rules:\n  - name: all\n    effects: [read]\n    action: Allow\n  - name: pay\n    effects: [read]\n    \
         relations: [public.payments]\n    action: Allow\n    recording: {level: Results, digest: true}\n",
    );
    let policy = for_chain(&[text], &Chain::of_caller(hop("a")))?;
    ensure!(recorded(&policy, "select * from orders")? == Recording::default());
    for sql in [
        "select * from payments",
        "select * from orders join public.payments using (id)",
        "select 1; select 2 from payments",
    ] {
        let found = recorded(&policy, sql)?;
        ensure!(found.digest() && found.keeps_rows(), "{sql}: {found:?}");
    }
    // What can't be told may be about payments.
    ensure!(policy.decide_unknown(&Settings::default()).recording().digest());
    Ok(())
}

fn recording() -> impl Strategy<Value = Recording> {
    let level = prop_oneof![
        Just(RecordingLevel::Metadata),
        Just(RecordingLevel::Statement),
        Just(RecordingLevel::Values),
        Just(RecordingLevel::Results)
    ];
    (level, any::<bool>(), 0..9_u32, 0..9_u32)
        .prop_map(|(level, digest, rows, bytes)| Recording::new(level, digest, rows, bytes))
}

/// Whether the first keeps all that the second keeps.
fn keeps_all_of(one: Recording, other: Recording) -> bool {
    one.level() >= other.level()
        && one.digest() >= other.digest()
        && one.max_rows() >= other.max_rows()
        && one.max_bytes() >= other.max_bytes()
}

proptest! {
    #[test]
    fn joining_is_a_semilattice(a in recording(), b in recording(), c in recording()) {
        prop_assert_eq!(a.join(b).join(c), a.join(b.join(c)));
        prop_assert_eq!(a.join(b), b.join(a));
        prop_assert_eq!(a.join(a), a);
    }

    #[test]
    fn joining_keeps_all_of_both_and_nothing_else(a in recording(), b in recording(), c in recording()) {
        let joined = a.join(b);
        prop_assert!(keeps_all_of(joined, a) && keeps_all_of(joined, b));
        // The least that does: whatever keeps all of both keeps all of it.
        if keeps_all_of(c, a) && keeps_all_of(c, b) {
            prop_assert!(keeps_all_of(c, joined));
        }
    }
}

const API: &str = "apiVersion: bailiff.dev/v1alpha1\nkind: Target\nmetadata: { name: api }\nspec:\n  protocol: kubernetes\n  endpoints: [\"10.96.0.1:443\"]\n  \
                   tls:\n    client: { mode: Require, csr: {} }\n    upstream: { mode: Verify, caFile: /ca.crt }\n";

/// Levels of a policy about the API, and of its rule about secrets.
fn of_api(of_policy: &str, of_rule: &str) -> Result<Vec<Recording>> {
    let text = format!(
        "apiVersion: bailiff.dev/v1alpha1\nkind: Policy\nmetadata: {{ name: a }}\nspec:\n  targets: [api]\n{of_policy}  rules:\n  \
         - name: secrets\n    requests: [{{groups: [\"\"], resources: [secrets]}}]\n    action: Allow\n{of_rule}"
    );
    let set = PolicySet::from_sources(&[("t.yaml", API), ("p.yaml", &text)]).map_err(|errors| {
        let told: Vec<String> = errors
            .0
            .iter()
            .map(|problem| format!("{}; {}", problem.reason, problem.mend))
            .collect();
        anyhow::anyhow!(told.join("\n"))
    })?;
    let target = set.targets().first().context("no target")?;
    let policy = set.for_chain(target, &Chain::of_caller(hop("a")));
    Ok(["/api/v1/secrets", "/api/v1/pods"]
        .map(|path| {
            policy
                .decide_request(&type_request("GET", path, false).request)
                .recording()
        })
        .to_vec())
}

#[test]
fn of_the_api_levels_have_the_words_of_its_audit() -> Result<()> {
    ensure!(of_api("", "")? == [Recording::default(), Recording::default()]);
    let request = of_api(
        "  recording: Metadata\n",
        "    recording: {level: Request, maxBytes: 4096}\n",
    )?;
    ensure!(
        request
            .iter()
            .map(|recording| recording.level())
            .collect::<Vec<_>>()
            == [RecordingLevel::Values, RecordingLevel::Metadata],
        "{request:?}"
    );
    ensure!(
        request.first().map(|recording| recording.max_bytes()) == Some(4096),
        "{request:?}"
    );
    let whole = of_api("  recording: RequestResponse\n", "")?;
    ensure!(
        whole == [Recording::of_level(RecordingLevel::Results); 2],
        "{whole:?}"
    );
    for (spec, told) in [
        ("Values", "write Metadata, Request or RequestResponse"),
        ("{level: Request, maxRows: 3}", "leave `maxRows` out"),
        ("{level: Request, digest: true}", "leave `digest` out"),
        ("{maxBytes: 3}", "set `level: Request`"),
    ] {
        let refused = of_api(&format!("  recording: {spec}\n"), "")
            .err()
            .context("it was loaded")?;
        ensure!(refused.to_string().contains(told), "{spec}: {refused}");
    }
    let of_sql = of("  recording: RequestResponse\n")
        .err()
        .context("it was loaded")?;
    ensure!(of_sql.to_string().contains("not one of SQL"), "{of_sql}");
    Ok(())
}
