//! The files in examples/ load, and decide what the demo and the bench rest on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bailiff_model::{Chain, Effect, Evidence, Hop, HopKind, PodInfo, PodUid};
use bailiff_policy::{ChainPolicy, PolicySet, Ruling, Settings, classify};

fn example(name: &str, pod: &str, namespace: &str, app: &str) -> ChainPolicy {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../examples")
        .join(name);
    #[expect(clippy::panic, reason = "a test's helper")]
    let set = PolicySet::load(&folder).unwrap_or_else(|problems| panic!("{problems}"));
    let pod = PodInfo {
        namespace: namespace.to_owned(),
        name: pod.to_owned(),
        uid: PodUid::new(pod),
        service_account: pod.to_owned(),
        labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
    };
    let hop = Hop {
        kind: HopKind::Pod {
            pod: Arc::new(pod),
            process: None,
        },
        evidence: Evidence::Observed,
    };
    #[expect(
        clippy::indexing_slicing,
        reason = "a test's helper; each example has one target"
    )]
    set.for_chain(&set.targets()[0], &Chain::of_caller(hop))
}

fn ruling(policy: &ChainPolicy, sql: &str) -> Arc<Ruling> {
    let settings = Settings::default();
    match classify(sql, &settings) {
        Ok(classified) => policy.decide_sql(&classified, &settings),
        Err(_) => policy.decide_unknown(&settings),
    }
}

#[test]
fn the_demos_ci_runner_reads_and_does_not_write() {
    let policy = example("demo", "ci-runner", "build", "ci");
    let read = ruling(&policy, "SELECT id, name FROM customers ORDER BY id;");
    assert_eq!(read.effect(), Effect::Allow, "{read:?}");
    let masked = ruling(&policy, "SELECT name, ssn FROM customers ORDER BY id;");
    assert_eq!(masked.effect(), Effect::Allow, "{masked:?}");
    assert!(masked.mask_plan().is_some(), "{masked:?}");
    let count = ruling(&policy, "SELECT count(*) FROM orders;");
    assert_eq!(count.effect(), Effect::Allow, "{count:?}");
    for blocked in [
        "DROP TABLE orders;",
        "WITH gone AS (DELETE FROM orders RETURNING id) SELECT count(*) FROM gone;",
        "SELECT upper(ssn) FROM customers;",
    ] {
        let ruling = ruling(&policy, blocked);
        assert_eq!(ruling.effect(), Effect::Deny, "{blocked}");
        assert!(
            ruling.permit().is_none() && ruling.denial().is_some(),
            "{blocked}"
        );
    }
}

#[test]
fn the_demos_migrator_changes_tables_and_sees_them_whole() {
    let policy = example("demo", "migrator", "shop", "migrator");
    for allowed in [
        "DROP TABLE orders;",
        "SELECT name, ssn FROM customers ORDER BY id;",
    ] {
        let ruling = ruling(&policy, allowed);
        assert_eq!(ruling.effect(), Effect::Allow, "{allowed}: {ruling:?}");
        assert!(ruling.mask_plan().is_none(), "{allowed}");
    }
    let grant = ruling(&policy, "GRANT ALL ON customers TO public;");
    assert_eq!(grant.effect(), Effect::Deny);
}

#[test]
fn pgbench_may_do_what_the_bench_needs() {
    let policy = example("bench", "bench", "bench", "bench");
    // What pgbench asks before it measures, and what it measures.
    let partitions = "select o.n, p.partstrat, pg_catalog.count(i.inhparent) from pg_catalog.pg_class as c \
        join pg_catalog.pg_namespace as n on (n.oid = c.relnamespace) \
        cross join lateral (select pg_catalog.array_position(pg_catalog.current_schemas(true), n.nspname)) as o(n) \
        left join pg_catalog.pg_partitioned_table as p on (p.partrelid = c.oid) \
        left join pg_catalog.pg_inherits as i on (c.oid = i.inhparent) \
        where c.relname = 'pgbench_accounts' and o.n is not null group by 1, 2 order by 1 asc limit 1";
    for allowed in [
        "select count(*) from pgbench_branches",
        partitions,
        "SELECT abalance FROM pgbench_accounts WHERE aid = 4711;",
        "SELECT abalance FROM pgbench_accounts WHERE aid = $1;",
    ] {
        let ruling = ruling(&policy, allowed);
        assert_eq!(ruling.effect(), Effect::Allow, "{allowed}: {ruling:?}");
    }
    assert_eq!(
        ruling(&policy, "UPDATE pgbench_accounts SET abalance = 0").effect(),
        Effect::Deny
    );
}
