//! Verdicts: rules, hops, names, masks.

#[path = "deciding/observed.rs"]
mod observed;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bailiff_model::{Chain, Effect, Evidence, Hop, HopKind, Mode, OriginalDst, PodInfo, PodUid};
use bailiff_policy::{ChainPolicy, MaskAction, PolicySet, Ruling, Settings, classify};

const HEAD: &str = "apiVersion: bailiff.dev/v1alpha1\n";

fn target(more: &str) -> String {
    format!(
        "{HEAD}kind: Target\nmetadata: {{name: db}}\nspec:\n  protocol: postgres\n  endpoints: ['10.0.0.5:5432']\n{more}"
    )
}

fn policy(name: &str, spec: &str) -> String {
    format!("{HEAD}kind: Policy\nmetadata: {{name: {name}}}\nspec:\n  targets: [db]\n{spec}")
}

fn pod(namespace: &str) -> Hop {
    Hop {
        kind: HopKind::Pod {
            pod: Arc::new(PodInfo {
                namespace: namespace.to_owned(),
                name: format!("{namespace}-0"),
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

fn nobody() -> Hop {
    Hop {
        kind: HopKind::Unknown {
            why: "an event was lost".to_owned(),
        },
        evidence: Evidence::Unobserved,
    }
}

fn chain_policy(documents: &[String], chain: &Chain) -> Result<ChainPolicy> {
    let sources: Vec<(&str, &str)> = documents.iter().map(|text| ("x.yaml", text.as_str())).collect();
    let set = PolicySet::from_sources(&sources)?;
    let target = set
        .target_for(OriginalDst::new("10.0.0.5:5432".parse()?))
        .context("no target")?;
    Ok(set.for_chain(target, chain))
}

fn rule(policy: &ChainPolicy, sql: &str) -> Result<Arc<Ruling>> {
    rule_in(policy, sql, &Settings::default())
}

fn rule_in(policy: &ChainPolicy, sql: &str, settings: &Settings) -> Result<Arc<Ruling>> {
    Ok(policy.decide_sql(
        &classify(sql, settings).with_context(|| sql.to_owned())?,
        settings,
    ))
}

fn check(policy: &ChainPolicy, allowed: &[&str], denied: &[&str]) -> Result<()> {
    for sql in allowed {
        let ruling = rule(policy, sql)?;
        ensure!(
            ruling.permit().is_some() && ruling.denial().is_none(),
            "{sql}: {:?}",
            ruling.reason()
        );
    }
    for sql in denied {
        let ruling = rule(policy, sql)?;
        ensure!(
            ruling.permit().is_none() && ruling.denial().is_some(),
            "allowed: {sql}"
        );
    }
    Ok(())
}

#[test]
fn allow_rules_together_cover_all_that_a_statement_does() -> Result<()> {
    let rules = "  rules:
  - {name: read, effects: [read], relations: ['public.*', 'app.notes'], action: Allow}
  - {name: write, effects: [insert, update, delete, truncate], relations: ['public.notes'], action: Allow}
  - {name: make, effects: [create, drop, grant], relations: ['scratch.*'], action: Allow}
  - {name: run, effects: [execute], functions: ['app.refresh', 'nextval'], action: Allow}
  - {name: session, effects: [set, transaction], action: Allow}
";
    let policy = chain_policy(&[target(""), policy("p", rules)], &Chain::of_caller(pod("a")))?;
    check(
        &policy,
        &[
            "SELECT 1",
            "SELECT * FROM patients",
            "SELECT * FROM public.patients p JOIN app.notes n ON true",
            "INSERT INTO notes SELECT * FROM patients",
            "UPDATE notes SET x = p.x FROM patients p",
            "WITH x AS (DELETE FROM notes RETURNING *) SELECT * FROM x",
            "CREATE TABLE scratch.t AS SELECT * FROM patients",
            "DROP TABLE scratch.t",
            "SELECT app.refresh(), upper('x'), nextval('q')",
            "BEGIN; SELECT 1; COMMIT",
            "TRUNCATE notes",
            "GRANT SELECT ON ALL TABLES IN SCHEMA scratch TO r",
            "",
        ],
        &[
            "SELECT * FROM app.secrets",
            "SELECT * FROM pg_class",
            "SELECT * FROM pg_catalog.pg_authid",
            "INSERT INTO patients SELECT * FROM notes",
            "INSERT INTO notes SELECT * FROM app.secrets",
            "UPDATE notes SET x = s.x FROM app.secrets s",
            "DELETE FROM notes USING app.secrets s WHERE true",
            "WITH x AS (DELETE FROM patients RETURNING *) SELECT * FROM x",
            "SELECT * FROM patients FOR UPDATE",
            "CREATE TABLE t AS SELECT 1",
            "CREATE FUNCTION scratch.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE SCHEMA scratch",
            "CREATE ROLE r",
            "GRANT SELECT ON ALL TABLES IN SCHEMA public TO r",
            "CREATE SCHEMA scratch CREATE TABLE t (i int)",
            "ALTER SCHEMA scratch RENAME TO public",
            "DROP TABLE scratch.t CASCADE",
            "TRUNCATE notes CASCADE",
            "SELECT other.refresh()",
            "SELECT refresh()",
            "DO $$ BEGIN PERFORM app.refresh(); END $$",
            "EXECUTE q",
            "COPY notes TO STDOUT",
            "SELECT 1; DROP TABLE notes",
            "EXPLAIN ANALYZE DELETE FROM patients",
        ],
    )
}

#[test]
fn deny_rules_match_any_of_what_a_statement_does() -> Result<()> {
    let rules = "  rules:
  - {name: secrets, effects: [read, copy], relations: ['app.secrets'], action: Deny, message: hands off}
  - {name: outward, effects: [execute], functions: ['dblink*'], action: Deny}
  - {name: drops, effects: [drop], action: RequireApproval}
";
    let policy = chain_policy(
        &[target("  default: Allow\n"), policy("p", rules)],
        &Chain::of_caller(pod("a")),
    )?;
    check(
        &policy,
        &[
            "SELECT * FROM app.notes",
            "SELECT * FROM public.secrets",
            "SELECT f()",
            "DELETE FROM app.notes",
        ],
        &[
            "SELECT * FROM app.secrets",
            "SELECT * FROM secrets", // May be in any schema.
            "INSERT INTO x SELECT * FROM app.secrets",
            "UPDATE x SET y = 1 FROM app.secrets",
            "SELECT 1 FROM a WHERE EXISTS (SELECT FROM app.secrets)",
            "COPY app.secrets TO STDOUT",
            "SELECT dblink_exec('x')",
            "SELECT s.dblink('x')",
            "DO $$ BEGIN END $$", // May call it.
            "DROP TABLE x",
        ],
    )?;
    let ruling = rule(&policy, "SELECT * FROM app.secrets")?;
    let denial = ruling.denial().context("allowed")?;
    ensure!(&*denial.message == "hands off" && denial.reason.to_string() == "policy p, rule secrets");
    let ruling = rule(&policy, "DROP TABLE x")?;
    ensure!(ruling.effect() == Effect::RequireApproval);
    ensure!(
        ruling
            .denial()
            .is_some_and(|denial| denial.message.contains("approval"))
    );
    Ok(())
}

#[test]
fn a_chain_may_do_what_each_of_its_hops_may() -> Result<()> {
    let documents = [
        target(""),
        policy(
            "a",
            "  subjects: [{namespaces: [a]}]\n  rules: [{name: r, effects: [read, insert], action: Allow}]\n",
        ),
        policy(
            "b",
            "  subjects: [{namespaces: [b]}]\n  rules: [{name: r, effects: [read], action: Allow}]\n",
        ),
    ];
    let alone = chain_policy(&documents, &Chain::of_caller(pod("a")))?;
    check(
        &alone,
        &["SELECT * FROM x", "INSERT INTO x VALUES (1)"],
        &["DELETE FROM x"],
    )?;
    let both = chain_policy(&documents, &Chain::of_caller(pod("a")).with_origin(pod("b")))?;
    check(&both, &["SELECT * FROM x"], &["INSERT INTO x VALUES (1)"])?;
    ensure!(rule(&both, "INSERT INTO x VALUES (1)")?.reason().hop == 0);
    ensure!(both.connect().is_ok());
    let stranger = chain_policy(&documents, &Chain::of_caller(pod("a")).with_origin(pod("c")))?;
    ensure!(stranger.connect().is_err());
    check(&stranger, &[], &["SELECT * FROM x"])
}

#[test]
fn somebody_unknown_may_be_anybody() -> Result<()> {
    let documents = [
        target("  default: Allow\n"),
        policy(
            "a",
            "  subjects: [{namespaces: [a]}]\n  rules: [{name: r, effects: [drop], action: Deny}]\n  masks: [{columns: [public.p.ssn], with: Null}]\n",
        ),
    ];
    let known = chain_policy(&documents, &Chain::of_caller(pod("b")))?;
    check(&known, &["DROP TABLE x"], &[])?;
    let gap = chain_policy(&documents, &Chain::of_caller(pod("b")).with_origin(nobody()))?;
    ensure!(gap.masks_in_force());
    check(&gap, &[], &["DROP TABLE x"])?;
    let allowing = [
        target(""),
        policy(
            "a",
            "  subjects: [{namespaces: ['*']}]\n  rules: [{name: r, effects: [read], action: Allow}]\n",
        ),
    ];
    let gap = chain_policy(&allowing, &Chain::of_caller(pod("b")).with_origin(nobody()))?;
    ensure!(gap.connect().is_err());
    check(&gap, &[], &["SELECT 1"])
}

#[test]
fn observing_reports_and_never_blocks() -> Result<()> {
    let documents = [
        target("  default: Allow\n"),
        policy(
            "watch",
            "  mode: Observe\n  rules: [{name: r, effects: [drop], action: Deny}]\n",
        ),
    ];
    let policy = chain_policy(&documents, &Chain::of_caller(pod("a")))?;
    let ruling = rule(&policy, "DROP TABLE x")?;
    ensure!(ruling.permit().is_some());
    let (effect, reason) = ruling.observed().context("nothing observed")?;
    ensure!(*effect == Effect::Deny && reason.policy.as_deref() == Some("watch"));
    ensure!(rule(&policy, "SELECT 1")?.observed().is_none());
    Ok(())
}

#[test]
fn names_mean_anything_once_the_search_path_moved() -> Result<()> {
    let rules = "  rules: [{name: r, effects: [read], relations: ['public.*'], action: Allow}, {name: s, effects: [set], action: Allow}]\n";
    let policy = chain_policy(&[target(""), policy("p", rules)], &Chain::of_caller(pod("a")))?;
    let moved = Settings {
        search_path_trusted: false,
        ..Settings::default()
    };
    for (sql, before, after) in [
        ("SELECT * FROM patients", true, false),
        ("SELECT * FROM public.patients", true, true),
        ("SELECT count(*) FROM public.patients", true, false),
        ("SELECT pg_catalog.count(*) FROM public.patients", true, true),
    ] {
        ensure!(rule(&policy, sql)?.permit().is_some() == before, "before: {sql}");
        ensure!(
            rule_in(&policy, sql, &moved)?.permit().is_some() == after,
            "after: {sql}"
        );
    }
    for (sql, moves) in [
        ("SELECT 1", false),
        ("SET work_mem = '1MB'", false),
        ("SET search_path TO public", false),
        ("SET search_path = \"public\"", false),
        ("SET search_path TO public, x", true),
        ("SET SCHEMA 'x'", true),
        ("SET LOCAL search_path = x", true),
        ("SET \"Search_Path\" = x", true),
        ("RESET ALL", false),
        ("DISCARD ALL", false),
        ("SELECT set_config('search_path', 'x', false)", true),
        ("SELECT nextval('q')", false),
        ("SELECT f()", true),
        ("DO $$ BEGIN END $$", true),
        ("SET search_path TO x; SET search_path TO public", true),
    ] {
        ensure!(rule(&policy, sql)?.moves_search_path() == moves, "{sql}");
    }
    // As newer servers report it.
    for (value, trusted) in [
        (b"public".as_slice(), true),
        (b"\"$user\", public", true),
        (b"public, x", false),
        (b"\"\"\"public\"\"\"", false),
        (b"\xff", false),
        (b"", false),
    ] {
        ensure!(
            policy.trusts_search_path(value) == trusted,
            "{}",
            value.escape_ascii()
        );
    }
    Ok(())
}

#[test]
fn what_cannot_be_told_gets_the_targets_answer() -> Result<()> {
    let rules = policy("p", "  rules: [{name: r, effects: [read], action: Allow}]\n");
    let strict = chain_policy(
        &[target("  default: Allow\n"), rules.clone()],
        &Chain::of_caller(pod("a")),
    )?;
    ensure!(strict.decide_unknown(&Settings::default()).permit().is_none());
    let lax = chain_policy(
        &[target("  unknown: Allow\n"), rules],
        &Chain::of_caller(pod("a")),
    )?;
    ensure!(lax.decide_unknown(&Settings::default()).permit().is_some());
    let masked = policy("p", "  masks: [{columns: [public.p.ssn], with: Null}]\n");
    let masked = chain_policy(
        &[target("  unknown: Allow\n"), masked],
        &Chain::of_caller(pod("a")),
    )?;
    ensure!(masked.decide_unknown(&Settings::default()).permit().is_none());
    Ok(())
}

fn masking() -> Result<ChainPolicy> {
    let target = target("  default: Allow\n  plainRelations: [public.visits, 'public.plain_*']\n");
    let masks = "  masks:\n  - {columns: [public.patients.ssn], with: Redact}\n  - {columns: [public.patients.phone], with: 'Null'}\n";
    chain_policy(&[target, policy("p", masks)], &Chain::of_caller(pod("a")))
}

const REDACT: Option<MaskAction> = Some(MaskAction::Redact);
const NULL: Option<MaskAction> = Some(MaskAction::Null);

#[test]
fn plain_columns_are_masked_where_they_stand() -> Result<()> {
    let policy = masking()?;
    type Case = (
        &'static str,
        &'static [&'static str],
        &'static [Option<MaskAction>],
    );
    let cases: [Case; 9] = [
        ("SELECT ssn FROM patients", &["ssn"], &[REDACT]),
        (
            "SELECT ssn AS x, name FROM patients",
            &["x", "name"],
            &[REDACT, None],
        ),
        (
            "SELECT name, p.ssn x, phone FROM public.patients p",
            &["name", "x", "phone"],
            &[None, REDACT, NULL],
        ),
        (
            "SELECT * FROM patients",
            &["id", "ssn", "phone"],
            &[None, REDACT, NULL],
        ),
        ("TABLE patients", &["id", "ssn"], &[None, REDACT]),
        (
            "SELECT ssn AS a, *, phone AS b FROM patients",
            &["a", "id", "ssn", "b"],
            &[REDACT, None, REDACT, NULL],
        ),
        (
            "SELECT p.*, v.day FROM patients p JOIN visits v ON v.id = p.id",
            &["id", "ssn", "day"],
            &[None, REDACT, None],
        ),
        (
            "SELECT ssn FROM patients WHERE name = 'x' ORDER BY name LIMIT 3",
            &["ssn"],
            &[REDACT],
        ),
        (
            "SELECT ssn, count(*) OVER () FROM patients",
            &["ssn", "count"],
            &[REDACT, None],
        ),
    ];
    for (sql, fields, expected) in cases {
        let ruling = rule(&policy, sql)?;
        let plan = ruling
            .mask_plan()
            .with_context(|| format!("{sql}: {:?}", ruling.reason()))?;
        let found = plan.resolve(fields.iter().map(|name| (name.as_bytes(), 1, 1)))?;
        ensure!(found == expected, "{sql}: {found:?}");
        ensure!(ruling.hides_error_text() && plan.hides_error_text());
    }
    let ruling = rule(&policy, "SELECT ssn, name FROM patients")?;
    let plan = ruling.mask_plan().context("no plan")?;
    ensure!(
        plan.resolve([(&b"ssn"[..], 1, 1)]).is_err(),
        "a column less than the statement names"
    );
    Ok(())
}

#[test]
fn what_may_be_a_function_of_the_row_is_masked() -> Result<()> {
    let policy = masking()?;
    let ruling = rule(&policy, "SELECT p.everything FROM patients p")?;
    let plan = ruling.mask_plan().context("no plan")?;
    ensure!(
        plan.resolve([(&b"everything"[..], 0, 0)])? == [NULL],
        "a function"
    );
    ensure!(plan.resolve([(&b"everything"[..], 77, 3)])? == [None], "a column");
    Ok(())
}

#[test]
fn what_uses_no_masked_column_is_left_alone() -> Result<()> {
    let policy = masking()?;
    for sql in [
        "SELECT * FROM visits",
        "SELECT 1",
        "SELECT count(*) FROM patients",
        "SELECT name FROM patients GROUP BY name",
        "SELECT DISTINCT name FROM patients p WHERE p.age > 3",
        "SELECT name FROM patients UNION SELECT day FROM visits",
        "WITH x AS (SELECT name FROM patients) SELECT name FROM x",
        "UPDATE patients SET name = 'x' WHERE id = 3",
        "DELETE FROM patients WHERE id = 3",
        "SELECT name FROM plain_one ORDER BY 1",
        "SELECT relname FROM pg_class",
        "SELECT relname FROM pg_catalog.pg_class",
        "BEGIN; UPDATE patients SET name = 'y' WHERE id = 1; COMMIT",
    ] {
        let ruling = rule(&policy, sql)?;
        ensure!(
            ruling.permit().is_some() && ruling.mask_plan().is_none(),
            "{sql}: {:?}",
            ruling.reason()
        );
        ensure!(ruling.hides_error_text() == sql.contains("patients"), "{sql}");
    }
    Ok(())
}

#[test]
fn what_may_carry_a_masked_column_out_is_refused() -> Result<()> {
    let policy = masking()?;
    for sql in [
        "SELECT upper(ssn) FROM patients",
        "SELECT ssn || '' FROM patients",
        "SELECT ssn::int FROM patients",
        "SELECT (ssn) COLLATE \"C\" FROM patients",
        "SELECT name FROM patients WHERE ssn LIKE '1%'",
        "SELECT name FROM patients ORDER BY ssn",
        "SELECT name, ssn FROM patients ORDER BY 2",
        "SELECT ssn AS x FROM patients ORDER BY x",
        "SELECT count(*) FROM patients GROUP BY ssn",
        "SELECT name, ssn FROM patients GROUP BY (1, 2)",
        "SELECT DISTINCT ssn FROM patients",
        "SELECT DISTINCT ON (ssn) name FROM patients",
        "SELECT ssn FROM patients UNION ALL SELECT 'x'",
        "WITH x AS (SELECT ssn FROM patients) SELECT * FROM x",
        "WITH x AS (SELECT * FROM patients) SELECT name FROM x",
        "SELECT * FROM (SELECT ssn AS a FROM patients) x",
        "SELECT * FROM (TABLE patients) x(a, b)",
        "SELECT a FROM patients AS x(a, b)",
        "SELECT (SELECT ssn FROM patients LIMIT 1)",
        "SELECT p FROM patients p",
        "SELECT patients FROM patients",
        "SELECT (p).ssn FROM patients p",
        "SELECT (p.*)::text FROM patients p",
        "SELECT row_to_json(p) FROM patients p",
        "SELECT row_to_json(patients) FROM public.patients",
        "SELECT to_jsonb(p)->>'ssn' FROM patients p",
        "SELECT array_agg(p) FROM patients p",
        "SELECT ROW(p.*) FROM patients p",
        "SELECT 1 FROM patients p WHERE p.row_to_json IS NULL",
        "SELECT string_agg(ssn, ',') FROM patients",
        "SELECT max(ssn) FROM patients",
        "SELECT lag(ssn) OVER () FROM patients",
        "SELECT name FROM patients JOIN visits USING (ssn)",
        "SELECT name FROM patients NATURAL JOIN visits",
        "SELECT v.day FROM visits v JOIN patients p ON p.ssn = v.day",
        "SELECT x FROM patients, LATERAL (SELECT patients.ssn AS x) y",
        "INSERT INTO visits (day) SELECT ssn FROM patients",
        "INSERT INTO visits SELECT * FROM patients",
        "INSERT INTO patients VALUES (1, 'x')",
        "INSERT INTO patients (ssn) VALUES ('x')",
        "UPDATE visits SET day = p.ssn FROM patients p",
        "UPDATE patients SET name = ssn",
        "UPDATE patients SET ssn = 'x'",
        "UPDATE patients SET name = 'x' RETURNING ssn",
        "UPDATE patients SET name = 'x' RETURNING *",
        "DELETE FROM patients RETURNING patients",
        "COPY patients TO STDOUT",
        "COPY patients (ssn) TO STDOUT",
        "COPY (SELECT ssn FROM patients) TO STDOUT",
        "COPY (SELECT * FROM patients) TO STDOUT",
        "CREATE VIEW v AS SELECT name FROM patients",
        "CREATE TABLE x AS SELECT ssn FROM patients",
        "SELECT ssn INTO x FROM patients",
        "ALTER TABLE patients RENAME COLUMN ssn TO x",
        "CREATE INDEX ON patients (ssn)",
        "DECLARE c CURSOR FOR SELECT * FROM patients",
        "PREPARE q AS SELECT ssn FROM patients",
        "EXECUTE q",
        "EXPLAIN ANALYZE SELECT name FROM patients WHERE ssn = 'x'",
        "DO $$ BEGIN END $$",
        "SELECT query_to_xml('SELECT ssn FROM patients', true, true, '')",
        "SELECT f()",
        "NOTIFY c, 'x'",
        "SELECT * FROM patient_view",
        "SELECT * FROM app.visits",
        "SELECT * FROM pg_stats",
        "SELECT * FROM pg_catalog.pg_statistic",
        "SELECT * FROM pg_secret_view",
        "SELECT 1; SELECT ssn FROM patients",
        "SELECT ssn FROM patients; SELECT ssn FROM patients",
        "SELECT * FROM other.visits JOIN patients ON true",
    ] {
        let ruling = rule(&policy, sql)?;
        ensure!(ruling.permit().is_none(), "allowed: {sql}");
        let reason = ruling.reason();
        ensure!(reason.policy.as_deref() == Some("p"), "{sql}: {reason:?}");
        ensure!(!reason.message.is_empty() && ruling.mask_plan().is_none());
    }
    Ok(())
}

#[test]
fn positions_make_literals_matter() -> Result<()> {
    for (sql, sensitive) in [
        ("SELECT a FROM x WHERE b = 3 LIMIT 5", false),
        ("SELECT a FROM x ORDER BY 1", true),
        ("SELECT a FROM x GROUP BY 1", true),
        ("SELECT a FROM x GROUP BY GROUPING SETS ((1))", true),
        ("SELECT a, b FROM x GROUP BY (1, 2)", true),
        ("SELECT a::float(30) FROM x", true),
    ] {
        ensure!(
            classify(sql, &Settings::default())?.literal_sensitive() == sensitive,
            "{sql}"
        );
    }
    Ok(())
}

mod laws {
    use proptest::prelude::*;

    use super::*;

    const STATEMENTS: [&str; 7] = [
        "SELECT * FROM a",
        "SELECT ssn FROM b",
        "INSERT INTO a SELECT * FROM b",
        "DELETE FROM s.b",
        "SELECT f()",
        "DROP TABLE a CASCADE",
        "BEGIN",
    ];

    fn one_rule() -> impl Strategy<Value = String> {
        let effects = prop::sample::subsequence(
            vec!["read", "insert", "delete", "drop", "set", "transaction"],
            1..=4,
        );
        let relations = prop::option::of(prop::sample::subsequence(
            vec!["public.a", "public.*", "'*.b'", "s.*"],
            1..=2,
        ));
        let action = prop::sample::select(vec!["Allow", "RequireApproval", "Deny"]);
        (effects, relations, action).prop_map(|(effects, relations, action)| {
            let relations =
                relations.map_or_else(String::new, |all| format!(", relations: [{}]", all.join(", ")));
            format!(
                "{{name: r, effects: [{}]{relations}, action: {action}}}",
                effects.join(", ")
            )
        })
    }

    /// Policies of one rule each, so that none hides another's.
    fn one_policy(name: usize, (namespace, rule, masks): &(&str, String, bool)) -> String {
        let masks = if *masks {
            "  masks: [{columns: [public.b.ssn], with: Redact}]\n"
        } else {
            ""
        };
        policy(
            &format!("p{name}"),
            &format!("  subjects: [{{namespaces: [{namespace}]}}]\n  rules: [{rule}]\n{masks}"),
        )
    }

    fn judge(documents: &[String], namespaces: &[&str]) -> Result<Vec<(Effect, bool)>> {
        let hops = namespaces.iter().map(|namespace| {
            if *namespace == "?" {
                nobody()
            } else {
                pod(namespace)
            }
        });
        let chain = hops.fold(Chain::of_caller(pod("a")), Chain::with_origin);
        let policy = chain_policy(documents, &chain)?;
        STATEMENTS
            .iter()
            .map(|sql| {
                let ruling = rule(&policy, sql)?;
                Ok((ruling.effect(), ruling.mask_plan().is_some()))
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn a_hop_or_a_forbidding_rule_more_never_loosens(
            default in prop::sample::select(vec!["Allow", "Deny", "RequireApproval"]),
            policies in prop::collection::vec((prop::sample::select(vec!["a", "b", "'*'"]), one_rule(), any::<bool>()), 0..5),
            hops in prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "?"]), 0..3),
            more in prop::sample::select(vec!["a", "b", "c", "?"]),
            forbidden in one_rule(),
        ) {
            let mut documents = vec![target(&format!("  default: {default}\n  plainRelations: [public.a]\n"))];
            documents.extend(policies.iter().enumerate().map(|(place, spec)| one_policy(place, spec)));
            let judge = |documents: &[String], hops: &[&str]| {
                judge(documents, hops).map_err(|error| TestCaseError::fail(error.to_string()))
            };
            let before = judge(&documents, &hops)?;
            let mut longer = hops.clone();
            longer.push(more);
            let mut stricter = documents.clone();
            let deny = forbidden.replace("RequireApproval", "Deny").replace("Allow", "Deny");
            stricter.push(one_policy(99, &("a", deny, true)));
            for after in [judge(&documents, &longer)?, judge(&stricter, &hops)?] {
                for (sql, (before, after)) in STATEMENTS.iter().zip(before.iter().zip(&after)) {
                    prop_assert!(after.0 <= before.0, "{} {:?} {:?}", sql, before, after);
                    // What was masked and goes on being allowed goes on being masked.
                    prop_assert!(after.0 != Effect::Allow || !before.1 || after.1, "{} is masked no more", sql);
                }
            }
        }
    }
}
