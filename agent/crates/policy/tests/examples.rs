//! The files in examples/ load, and decide what the demo and the bench rest on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bailiff_model::{Chain, Effect, Evidence, Hop, HopKind, Mode, PodInfo, PodUid};
use bailiff_policy::{ChainPolicy, PolicySet, Ruling, Settings, classify, type_request};

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
        mode: Mode::Enforce,
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

/// Of a target, its default or a rule: what decides on a request of the example's agent.
fn decided(method: &str, target: &str) -> (Effect, String) {
    let policy = example("kubernetes", "helper", "agents", "helper");
    let ruling = policy.decide_request(&type_request(method, target, false).request);
    (ruling.effect(), ruling.reason().to_string())
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

#[test]
fn the_agent_looks_at_pods_and_logs_of_its_team() {
    for (target, rule) in [
        ("/version", "discovery"),
        ("/api", "discovery"),
        ("/apis/apps/v1", "discovery"),
        ("/openapi/v3/api/v1", "discovery"),
        ("/api/v1/namespaces/team-shop-web/pods?limit=500", "look"),
        ("/api/v1/namespaces/team-shop-web/pods?watch=true", "look"),
        ("/api/v1/namespaces/team-shop-web/pods/web-0", "look"),
        (
            "/api/v1/namespaces/team-shop-web/pods/web-0/log?follow=true",
            "look",
        ),
        ("/apis/apps/v1/namespaces/team-shop-web/deployments/web", "look"),
    ] {
        let expected = (Effect::Allow, format!("policy agent-looks, rule {rule}"));
        assert_eq!(decided("GET", target), expected, "{target}");
    }
    let asked = decided("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews");
    assert_eq!(asked, (Effect::Allow, "policy agent-looks, rule ask".to_owned()));
}

#[test]
fn the_agent_reads_no_secrets_enters_nothing_and_deletes_nothing() {
    let shop = "/api/v1/namespaces/team-shop-web";
    for (method, target, rule) in [
        ("GET", format!("{shop}/secrets/db"), Some("no-secrets")),
        ("GET", format!("{shop}/secrets"), Some("no-secrets")),
        ("GET", "/api/v1/secrets?watch=1".to_owned(), Some("no-secrets")),
        ("GET", "/api/v1/watch/secrets".to_owned(), Some("no-secrets")),
        (
            "POST",
            format!("{shop}/serviceaccounts/ci/token"),
            Some("no-secrets"),
        ),
        (
            "POST",
            format!("{shop}/pods/web-0/exec?command=sh"),
            Some("no-exec"),
        ),
        (
            "GET",
            format!("{shop}/pods/web-0/exec?command=sh"),
            Some("no-exec"),
        ),
        ("POST", format!("{shop}/pods/web-0/attach"), Some("no-exec")),
        ("POST", format!("{shop}/pods/web-0/portforward"), Some("no-exec")),
        (
            "PATCH",
            format!("{shop}/pods/web-0/ephemeralcontainers"),
            Some("no-exec"),
        ),
        (
            "GET",
            "/api/v1/nodes/n1/proxy/run/team-shop-web/web-0/app".to_owned(),
            Some("no-exec"),
        ),
        ("DELETE", format!("{shop}/pods/web-0"), Some("no-deletes")),
        ("DELETE", format!("{shop}/pods"), Some("no-deletes")),
        ("POST", format!("{shop}/pods/web-0/eviction"), Some("no-deletes")),
        ("DELETE", shop.to_owned(), Some("no-deletes")),
        // Of a body that can't be read it isn't known what it mounts.
        ("POST", format!("{shop}/pods"), Some("mounts-no-secrets")),
        (
            "PATCH",
            format!("{shop}/pods/web-0?dryRun=All"),
            Some("mounts-no-secrets"),
        ),
        // What no rule names.
        ("GET", "/api/v1/pods".to_owned(), None),
        ("GET", "/api/v1/namespaces/team-bank/pods".to_owned(), None),
        ("GET", "/metrics".to_owned(), None),
    ] {
        let by = match rule {
            Some(rule) => format!("policy agent-looks, rule {rule}"),
            None => "the target's default".to_owned(),
        };
        assert_eq!(decided(method, &target), (Effect::Deny, by), "{method} {target}");
    }
    let (effect, _) = decided("GET", &format!("{shop}%2Fpods"));
    assert_eq!(effect, Effect::Deny);
}
