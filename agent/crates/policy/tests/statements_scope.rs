//! Rules about how much a statement touches: conditions that narrow nothing, rows, LIMIT, several statements in one text.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bailiff_model::{
    Chain, Condition, Effect, Evidence, Hop, HopKind, Mode, OriginalDst, PodInfo, PodUid, SqlEffect,
};
use bailiff_policy::catalog::{
    Builder, CatalogLimits, Names, Oid, Relation, RelationKind, Schema, Temporary,
};
use bailiff_policy::{ChainPolicy, PolicySet, Settings, classify};

const HEAD: &str = "apiVersion: bailiff.dev/v1alpha1\n";

fn documents(rules: &str) -> [String; 2] {
    [
        format!(
            "{HEAD}kind: Target\nmetadata: {{name: db}}\nspec: {{protocol: postgres, endpoints: ['10.0.0.5:5432']}}\n"
        ),
        format!("{HEAD}kind: Policy\nmetadata: {{name: p}}\nspec:\n  targets: [db]\n  rules:\n{rules}"),
    ]
}

/// Beside a rule that allows all that rows are about.
fn policy(rule: &str) -> Result<ChainPolicy> {
    let all = "  - {name: all, effects: [read, insert, update, delete, truncate, copy, create, transaction], action: Allow}\n";
    let [target, policy] = documents(&format!("{all}  - {rule}\n"));
    let set = PolicySet::from_sources(&[("t.yaml", &target), ("p.yaml", &policy)])?;
    let target = set
        .target_for(OriginalDst::new("10.0.0.5:5432".parse()?))
        .context("no target")?;
    Ok(set.for_chain(target, &somebody()))
}

fn somebody() -> Chain {
    Chain::of_caller(Hop {
        kind: HopKind::Pod {
            pod: Arc::new(PodInfo {
                namespace: "a".to_owned(),
                name: "a-0".to_owned(),
                uid: PodUid::new("a"),
                service_account: "default".to_owned(),
                labels: BTreeMap::new(),
                mode: Mode::Enforce,
            }),
            process: None,
        },
        evidence: Evidence::Observed,
    })
}

fn effect(policy: &ChainPolicy, sql: &str, names: Option<&Names>) -> Result<Effect> {
    let settings = Settings::default();
    let classified = classify(sql, &settings).with_context(|| sql.to_owned())?;
    Ok(policy.decide_sql_by(&classified, &settings, names).effect())
}

fn check(policy: &ChainPolicy, names: Option<&Names>, denied: &[&str], allowed: &[&str]) -> Result<()> {
    for sql in denied {
        ensure!(effect(policy, sql, names)? == Effect::Deny, "allowed: {sql}");
    }
    for sql in allowed {
        ensure!(effect(policy, sql, names)? == Effect::Allow, "denied: {sql}");
    }
    Ok(())
}

/// Conditions that hold for every row, or may.
const OPEN: &[&str] = &[
    "true",
    "1 = 1",
    "1=1 OR id = 5",
    "'a' = 'a'",
    "NOT false",
    "1 < 2",
    "2 >= 2 OR x",
    "1 <> 2",
    "5 IS NOT NULL",
    "'x' IS NOT NULL",
    "NULL IS NULL",
    "1 IN (1, 2)",
    "3 NOT IN (1, 2)",
    "'a' IN ('b', 'a')",
    "'t'",
    "'yes'::bool",
    "1::bool",
    "CAST('on' AS boolean)",
    "true IS TRUE",
    "false IS NOT TRUE",
    "(1 = 1) IS TRUE",
    "NOT (1 = 2)",
    "NOT NOT true",
    "true AND 1 = 1",
    "1.5 < 2.5",
    "true = true",
    "id = id",
    "t.id >= t.id",
    "id IS NOT DISTINCT FROM id",
    "1 IS DISTINCT FROM 2",
    "name LIKE '%'",
    "name ILIKE '%%'",
    "EXISTS (SELECT 1)",
    "(SELECT true)",
    "$1",
    "$1 = 1",
    "id = 5 OR $1",
    "$1::text IS NULL OR name = $1",
    "now() > '2000-01-01'",
    "random() >= 0",
    "length('a') = 1",
    "NOT (id = 5 AND $1)",
    "current_user = 'app'",
    "1 + 1 = 2",
    "'b' > 'a'",
    "coalesce(true, false)",
    "1 BETWEEN 0 AND 2",
    "CASE WHEN 1 = 1 THEN true END",
    "true::text::bool",
    "'a'::text = 'a'",
    "'a' <> 'b'",
    "NULL IS NOT DISTINCT FROM NULL",
];

/// Conditions that name a column, or hold for no row.
const NARROW: &[&str] = &[
    "id = 5",
    "id = $1",
    "id = $1 AND 1 = 1",
    "id IN (1, 2)",
    "id > 0",
    "active",
    "NOT active",
    "name LIKE 'a%'",
    "id IS NULL",
    "name IS NOT NULL",
    "EXISTS (SELECT 1 FROM b WHERE b.i = t.id)",
    "id IN (SELECT i FROM b)",
    "id = ANY ($1)",
    "false",
    "1 = 2",
    "NULL",
    "1 = NULL",
    "1 = 2 AND $1",
    "id <> id",
    "upper(name) = 'A'",
    "coalesce(active, true)",
    "1 NOT IN (1)",
    "'a' = 'b'",
    "NOT true",
    "id = 5 OR 1 = 2",
    "id = 5 OR name = 'x'",
    "'no'",
    "0::bool",
    "2 < 1",
    "(id, name) = (1, 'x')",
    "name NOT LIKE '%'",
    "EXISTS (SELECT 1 WHERE false)",
    "active IS TRUE",
    "id IS DISTINCT FROM 4",
    "t.id = other.id",
];

#[test]
fn conditions_are_folded() -> Result<()> {
    for (conditions, expected) in [(OPEN, Some(Condition::ConstantTrue)), (NARROW, None)] {
        for condition in conditions {
            for (sql, effect) in [
                (format!("DELETE FROM t WHERE {condition}"), SqlEffect::Delete),
                (format!("UPDATE t SET x = 1 WHERE {condition}"), SqlEffect::Update),
                (format!("SELECT * FROM t WHERE {condition}"), SqlEffect::Read),
                (
                    format!("MERGE INTO t USING b ON {condition} WHEN MATCHED THEN DELETE"),
                    SqlEffect::Delete,
                ),
            ] {
                let found = classify(&sql, &Settings::default()).with_context(|| sql.clone())?;
                let whole = found.statements().iter().flat_map(|statement| &statement.whole);
                let of_t = whole
                    .filter(|whole| whole.effect == effect && whole.relation.name == "t")
                    .map(|whole| whole.condition)
                    .next();
                ensure!(of_t == expected, "{sql}: {of_t:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_condition_whose_numbers_decide_is_told_apart_from_the_same_with_others() -> Result<()> {
    // Texts that differ in integers alone are else classified once.
    for (sql, sensitive) in [
        ("DELETE FROM t WHERE 1 = 1", true),
        ("DELETE FROM t WHERE 1 IN (2)", true),
        ("DELETE FROM t WHERE id = 5 OR 2 < 1", true),
        ("DELETE FROM t WHERE 0::bool", true),
        ("DELETE FROM t WHERE id = 5", false),
        ("SELECT * FROM t WHERE id = 5 LIMIT 3", false),
    ] {
        let found = classify(sql, &Settings::default())?.literal_sensitive();
        ensure!(found == sensitive, "{sql}: {found}");
    }
    Ok(())
}

#[test]
fn changes_of_everything_can_be_forbidden() -> Result<()> {
    let rule = policy(
        "{name: mass, effects: [update, delete, truncate], where: [Missing, ConstantTrue], action: Deny}",
    )?;
    check(
        &rule,
        None,
        &[
            "DELETE FROM t",
            "UPDATE t SET x = 1",
            "DELETE FROM t WHERE 1 = 1",
            "UPDATE t SET x = b.x FROM b",
            "DELETE FROM t USING b",
            "TRUNCATE t",
            "WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d",
            "WITH d AS (SELECT 1) DELETE FROM t",
            "EXPLAIN ANALYZE DELETE FROM t",
            "PREPARE q AS DELETE FROM t",
            "SELECT * FROM t FOR UPDATE",
            "COPY (DELETE FROM t RETURNING *) TO STDOUT",
            "SELECT 1; DELETE FROM t",
            "MERGE INTO t USING b ON true WHEN MATCHED THEN DELETE",
            "MERGE INTO t USING b ON t.i = b.i WHEN NOT MATCHED BY SOURCE THEN DELETE",
            "MERGE INTO t USING b ON t.i = b.i WHEN NOT MATCHED BY SOURCE AND 1 = 1 THEN UPDATE SET x = 1",
            "CREATE RULE r AS ON INSERT TO a DO ALSO DELETE FROM b",
        ],
        &[
            "DELETE FROM t WHERE id = 5",
            "UPDATE t SET x = 1 WHERE id = $1",
            "SELECT * FROM t",
            "INSERT INTO t SELECT * FROM b",
            "EXPLAIN DELETE FROM t",
            "DELETE FROM t USING b WHERE b.i = t.i",
            "MERGE INTO t USING b ON t.i = b.i WHEN MATCHED THEN DELETE",
            "MERGE INTO t USING b ON t.i = b.i WHEN NOT MATCHED BY SOURCE AND t.x > 3 THEN DELETE",
            "DELETE FROM t WHERE CURRENT OF c",
            "SELECT * FROM t WHERE id = 1 FOR UPDATE",
            "INSERT INTO t VALUES (1) ON CONFLICT (i) DO UPDATE SET x = 1",
        ],
    )?;
    let missing =
        policy("{name: mass, effects: [delete], relations: [public.t], where: [Missing], action: Deny}")?;
    check(
        &missing,
        None,
        &["DELETE FROM t", "DELETE FROM ONLY public.t"],
        &[
            "DELETE FROM other",
            "DELETE FROM t WHERE true",
            "UPDATE t SET x = 1",
            "DELETE FROM app.t",
        ],
    )
}

#[test]
fn an_approval_for_some_statements_lets_none_of_the_others_pass() -> Result<()> {
    let [target, text] = documents(
        "  - {name: read, effects: [read], action: Allow}\n  - {name: mass, effects: [delete], where: [Missing], action: RequireApproval}\n",
    );
    let set = PolicySet::from_sources(&[("t.yaml", &target), ("p.yaml", &text)])?;
    ensure!(set.policies() == 1);
    let rule = policy("{name: mass, effects: [delete], where: [Missing], action: RequireApproval}")?;
    ensure!(effect(&rule, "DELETE FROM t", None)? == Effect::RequireApproval);
    ensure!(effect(&rule, "DELETE FROM t WHERE id = 1", None)? == Effect::Allow);
    let only = PolicySet::from_sources(&[("t.yaml", &target), ("p.yaml", &text)])?;
    let at = only
        .target_for(OriginalDst::new("10.0.0.5:5432".parse()?))
        .context("no target")?;
    let only = only.for_chain(at, &somebody());
    ensure!(effect(&only, "DELETE FROM t WHERE id = 1", None)? == Effect::Deny);
    Ok(())
}

#[test]
fn reads_without_a_limit_and_several_statements_can_be_forbidden() -> Result<()> {
    let rule = policy("{name: limit, effects: [read], relations: [public.t], limit: Missing, action: Deny}")?;
    check(
        &rule,
        None,
        &[
            "SELECT * FROM t",
            "TABLE t",
            "SELECT * FROM t LIMIT ALL",
            "SELECT * FROM t LIMIT NULL",
            "SELECT * FROM (SELECT * FROM t LIMIT 5) x",
            "SELECT * FROM b UNION SELECT * FROM t",
            "COPY t TO STDOUT",
            "DECLARE c CURSOR FOR SELECT * FROM t",
        ],
        &[
            "SELECT * FROM t LIMIT 5",
            "SELECT * FROM t FETCH FIRST 5 ROWS ONLY",
            "SELECT * FROM t LIMIT $1",
            "COPY (SELECT * FROM t LIMIT 5) TO STDOUT",
            "SELECT * FROM b",
            "SELECT 1",
            "INSERT INTO b SELECT * FROM t",
        ],
    )?;
    let rule = policy("{name: one, effects: [read, delete], statements: {above: 1}, action: Deny}")?;
    check(
        &rule,
        None,
        &["SELECT 1; SELECT 2", "BEGIN; DELETE FROM t; COMMIT"],
        &["SELECT 1", "SELECT 1;", "BEGIN; COMMIT"],
    )
}

fn names() -> Result<Names> {
    let limits = CatalogLimits::default();
    let mut catalog = Builder::new(limits, 150_004, "db");
    catalog.schema(Schema {
        oid: Oid(2200),
        name: "public".into(),
    })?;
    for (oid, name, rows) in [
        (1, "small", 10.0),
        (2, "large", 50_000.0),
        (3, "never_counted", -1.0),
    ] {
        let relation = Relation::new(Oid(oid), "public", name, RelationKind::Table);
        catalog.relation(relation, rows)?;
    }
    Ok(Names::new(
        Arc::new(catalog.finish()),
        Some(vec!["public".into()]),
        Temporary::default(),
    ))
}

#[test]
fn rows_are_estimated_by_the_catalog() -> Result<()> {
    let rule =
        policy("{name: rows, effects: [read, update, delete, truncate], rows: {above: 1000}, action: Deny}")?;
    let names = names()?;
    check(
        &rule,
        Some(&names),
        &[
            "DELETE FROM large",
            "SELECT * FROM public.large",
            "TRUNCATE large",
            "SELECT * FROM small, large",
            "UPDATE never_counted SET x = 1",
            "DELETE FROM unheard_of",
        ],
        &[
            "DELETE FROM small",
            "SELECT * FROM small",
            "SELECT * FROM large WHERE id = 1",
            "SELECT * FROM large LIMIT 10",
            "SELECT 1",
        ],
    )?;
    // Without a catalog anything may be large.
    check(
        &rule,
        None,
        &["DELETE FROM small", "SELECT * FROM small"],
        &["SELECT * FROM small WHERE id = 1", "INSERT INTO small VALUES (1)"],
    )
}

#[test]
fn what_can_never_decide_is_refused() -> Result<()> {
    for (rule, expected) in [
        (
            "{name: r, effects: [read], where: [], action: Deny}",
            "`where` is empty",
        ),
        (
            "{name: r, effects: [insert], where: [Missing], action: Deny}",
            "none of which it names",
        ),
        (
            "{name: r, effects: [set], rows: {above: 5}, action: Deny}",
            "none of which it names",
        ),
        (
            "{name: r, effects: [delete], limit: Missing, action: Deny}",
            "`limit` is about read",
        ),
        (
            "{name: r, effects: [delete], where: [Missing], action: Allow}",
            "only narrows what is forbidden",
        ),
        (
            "{name: r, effects: [delete], statements: {above: 1}, action: Allow}",
            "only narrows what is forbidden",
        ),
        (
            "{name: r, effects: [delete], statements: {above: 0}, action: Deny}",
            "narrows nothing",
        ),
        (
            "{name: r, effects: [truncate], where: [ConstantTrue], action: Deny}",
            "no condition that could be true",
        ),
        (
            "{name: r, effects: [delete], where: [Gone], action: Deny}",
            "Gone",
        ),
        (
            "{name: r, effects: [delete], rows: {over: 5}, action: Deny}",
            "over",
        ),
    ] {
        let [target, text] = documents(&format!("  - {rule}\n"));
        let Err(errors) = PolicySet::from_sources(&[("t.yaml", &target), ("p.yaml", &text)]) else {
            anyhow::bail!("loaded: {rule}");
        };
        ensure!(errors.to_string().contains(expected), "{rule}: {errors}");
    }
    Ok(())
}
