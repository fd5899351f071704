//! Statements.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;
use std::sync::{Arc, LazyLock};

use bailiff_model::{
    Chain, Effect, EffectSet, Evidence, Hop, HopKind, Mode, PodInfo, PodUid, SqlEffect, Statement,
};
use bailiff_policy::{ChainPolicy, Classified, ParserPool, PolicySet, Settings, Unclassified};
use bailiff_wire::sql::{Normal, normalise};

/// Classifies a text and decides it: nothing in a text hides what stands after it, what stands around it hides nothing of it,
/// and only what the policy allows is allowed.
pub fn classify(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return; // It has no such text: the agent takes it for unknown.
    };
    for standard_conforming_strings in [true, false] {
        let settings = Settings {
            standard_conforming_strings,
            ..Settings::default()
        };
        if let Ok(found) = ask(text, &settings) {
            what_follows_is_seen(text, &found, &settings);
            what_is_inside_is_seen(text, &found, &settings);
            integers_are_all_the_same(text, &found, &settings);
            decide(&found, &settings);
        }
    }
}

/// Classifies on a thread with the stack that it needs, as the agent does.
fn ask(text: &str, settings: &Settings) -> Result<Classified, Unclassified> {
    static POOL: LazyLock<Option<ParserPool>> = LazyLock::new(|| ParserPool::new(1, 64).ok());
    let (done, answer) = channel();
    let submitted = POOL.as_ref().map(|pool| {
        let done = Box::new(move |found| drop(done.send(found)));
        pool.submit(text.to_owned(), settings.clone(), done)
    });
    assert_eq!(submitted, Some(Ok(())));
    let found = answer.recv().unwrap_or(Err(Unclassified::Failed));
    assert_ne!(found.as_ref().err(), Some(&Unclassified::Failed), "{text:?}");
    found
}

/// One statement more is exactly that.
fn what_follows_is_seen(text: &str, found: &Classified, settings: &Settings) {
    let longer = format!("{text}\n;DROP TABLE fuzzed");
    match ask(&longer, settings) {
        Ok(both) => {
            let dropped = both.statements().split_last().map(|(last, before)| {
                assert_eq!(before, found.statements(), "{text:?}");
                (last.effects, last.writes.iter().any(|name| name.name == "fuzzed"))
            });
            assert_eq!(
                dropped,
                Some((EffectSet::EMPTY.with(SqlEffect::Drop), true)),
                "{text:?}"
            );
        }
        Err(error) => assert_eq!(error, Unclassified::TooDeep, "{text:?}"),
    }
}

/// Where one statement may stand in another, and is run or would be.
const AROUND: &[(&str, &str)] = &[
    ("EXPLAIN ANALYZE ", ""),
    ("PREPARE fuzzed AS ", ""),
    ("COPY (", ") TO STDOUT"),
    ("WITH fuzzed AS (", ") SELECT 1"),
    ("WITH fuzzed AS MATERIALIZED (SELECT 1) SELECT EXISTS (", ")"),
    ("SELECT * FROM (", ") fuzzed"),
    ("SELECT ARRAY(", ")"),
    ("CREATE TABLE fuzzed AS ", ""),
    ("INSERT INTO fuzzed ", ""),
    (
        "CREATE FUNCTION fuzzed() RETURNS int LANGUAGE sql BEGIN ATOMIC ",
        "; END",
    ),
];

/// What a statement does is a part of what does the one around it.
fn what_is_inside_is_seen(text: &str, found: &Classified, settings: &Settings) {
    let [inner] = found.statements() else { return };
    for (before, after) in AROUND {
        let around = format!("{before}{text}\n{after}");
        // In most places most statements can't stand.
        let Ok(outer) = ask(&around, settings) else {
            continue;
        };
        let [outer] = outer.statements() else { continue };
        let missing = missing(inner, outer);
        assert!(missing.is_empty(), "{around:?} hides {missing}: {outer:?}");
    }
}

/// What of the first isn't in the second.
fn missing(inner: &Statement, outer: &Statement) -> String {
    // Rows that come from no relation aren't read where they are put into one.
    let of_nothing = |one| one == SqlEffect::Read && inner.reads.is_empty();
    let effects = inner.effects.iter();
    let effects = effects.filter(|one| !outer.effects.contains(*one) && !of_nothing(*one));
    let reads = inner.reads.iter().filter(|one| !outer.reads.contains(one));
    let writes = inner.writes.iter().filter(|one| !outer.writes.contains(one));
    let functions = inner
        .functions
        .iter()
        .filter(|one| !outer.functions.contains(one));
    effects
        .map(|one| format!("{one} "))
        .chain(reads.map(|one| format!("a read of {one} ")))
        .chain(writes.map(|one| format!("a write of {one} ")))
        .chain(functions.map(|one| format!("a call of {one:?} ")))
        .collect()
}

/// A text of the same key, by which classifications are kept, has the same one.
fn integers_are_all_the_same(text: &str, found: &Classified, settings: &Settings) {
    let mut key = Vec::new();
    if found.literal_sensitive() || normalise(text.as_bytes(), &mut key) == Normal::Exact {
        return;
    }
    let other: Vec<u8> = key
        .iter()
        .map(|byte| if *byte == 0 { b'7' } else { *byte })
        .collect();
    let other = String::from_utf8_lossy(&other);
    // An integer may be out of range for its place; then the server fails, too.
    if let Ok(again) = ask(&other, settings) {
        assert_eq!(meaning(&again), meaning(found), "{text:?} and {other:?}");
    }
}

/// All of a classification but how long its text was.
fn meaning(classified: &Classified) -> String {
    let length = format!("length: {}", classified.length());
    format!("{classified:?}").replace(&length, "")
}

const POLICY: &str = "apiVersion: bailiff.dev/v1alpha1
kind: Target
metadata: {name: db}
spec: {protocol: postgres, endpoints: ['10.0.0.5:5432'], plainRelations: [public.a, public.b]}
---
apiVersion: bailiff.dev/v1alpha1
kind: Policy
metadata: {name: reads}
spec:
  targets: [db]
  rules:
  - {name: read, effects: [read], relations: [public.*], action: Allow}
  - {name: session, effects: [set, transaction], action: Allow}
  masks:
  - {columns: [public.people.ssn], with: Redact}
";

fn policy() -> Option<ChainPolicy> {
    let set = PolicySet::from_sources(&[("x.yaml", POLICY)]).ok()?;
    let pod = PodInfo {
        namespace: "n".to_owned(),
        name: "p".to_owned(),
        uid: PodUid::new("u"),
        service_account: "s".to_owned(),
        labels: BTreeMap::new(),
        mode: Mode::Enforce,
    };
    let hop = Hop {
        kind: HopKind::Pod {
            pod: Arc::new(pod),
            process: None,
        },
        evidence: Evidence::Observed,
    };
    let target = set.targets().first()?;
    Some(set.for_chain(target, &Chain::of_caller(hop)))
}

/// Only what the policy allows, without the texts of errors about what is masked, and less where names may mean anything.
fn decide(found: &Classified, settings: &Settings) {
    static POLICY: LazyLock<Option<ChainPolicy>> = LazyLock::new(policy);
    let Some(policy) = POLICY.as_ref() else {
        return assert!(POLICY.is_some(), "the policy doesn't load");
    };
    let ruling = policy.decide_sql(found, settings);
    let distrusting = Settings {
        search_path_trusted: false,
        ..settings.clone()
    };
    let distrusted = policy.decide_sql(found, &distrusting);
    let allowed = ruling.effect() == Effect::Allow;
    assert_eq!(allowed, ruling.permit().is_some());
    assert!(
        allowed || distrusted.effect() != Effect::Allow,
        "distrust allows {found:?}"
    );
    if !allowed {
        return;
    }
    let may = [SqlEffect::Read, SqlEffect::Set, SqlEffect::Transaction];
    for statement in found.statements() {
        assert!(
            statement.effects.iter().all(|effect| may.contains(&effect)),
            "{statement:?}"
        );
        let foreign = |schema: Option<&str>| schema.is_some_and(|schema| schema != "public");
        assert!(
            !statement.reads.iter().any(|name| foreign(name.schema.as_deref())),
            "{statement:?}"
        );
        if statement.reads.iter().any(|name| name.name == "people") {
            // A masked table's rows are quoted by errors.
            assert!(ruling.hides_error_text(), "{statement:?}");
        }
    }
}
