//! The record is OCSF: every event of real sessions is held against the rules of its class.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{Enforced, Postgres, can_be_root, policy, target};
use jsonschema::Validator;
use serde_json::{Value, json};

const SCHEMA: &str = include_str!("../ocsf/datastore_activity-1.3.0.json");

fn validator() -> Result<Validator> {
    let schema: Value = serde_json::from_str(SCHEMA)?;
    Ok(jsonschema::draft202012::options()
        .should_validate_formats(true)
        .build(&schema)?)
}

/// What an event offends against, a line each.
fn offences(validator: &Validator, event: &Value) -> Vec<String> {
    validator
        .iter_errors(event)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

const RULES: &str = "    - name: use
      effects: [read, insert, update, create, drop, set, transaction, execute, copy]
      action: Allow
    - name: keep
      effects: [delete]
      action: Deny
      message: nothing is deleted here
    - name: ask
      effects: [truncate]
      action: RequireApproval
  recording: { level: Results, digest: true, maxRows: 1 }
";

const OBSERVED: &str = "apiVersion: bailiff.dev/v1alpha1
kind: Policy
metadata: { name: watched }
spec:
  targets: [db]
  mode: Observe
  rules:
    - name: no-updates
      effects: [update]
      action: Deny
";

/// Statements of every activity, with every outcome.
const SCRIPT: &str = "select 1 as \u{e9};
create table t (a int, b text);
insert into t values (1, 'x'), (2, 'y');
update t set b = upper(b);
select * from t;
delete from t;
truncate t;
select a / 0 from t;
select nothing;
select from where;
begin;
set local work_mem = '1MB';
commit;
copy t to stdout;
do 'begin perform 1; end';
vacuum t;
;
drop table t;
";

#[test]
fn every_event_of_real_sessions_is_valid() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let validator = validator()?;
    let server = Postgres::start_anywhere()?;
    let files = [
        ("target.yaml", target(server.address(), "")),
        ("policy.yaml", policy(RULES)),
        ("observed.yaml", OBSERVED.to_owned()),
    ];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let enforced = Enforced::with(&files)?;
    enforced.psql(&server, SCRIPT)?;
    // Two that end before their time: one in the handshake, one that the target ends.
    enforced.psql(&server, "select pg_terminate_backend(pg_backend_pid());")?;
    let agent = enforced.start()?;
    let early = agent.dial(server.address(), Postgres::PORT)?;
    drop(early);
    let mut extended = bailiff_tests::Client::started(agent.dial(server.address(), Postgres::PORT)?)?;
    for value in ["7".to_owned(), "long".repeat(100_000)] {
        extended.send(
            &[
                bailiff_tests::say::parse("", "select $1::text from generate_series(1, 2)"),
                bailiff_tests::say::bind_values("", "", &[value.as_bytes()]),
                bailiff_tests::say::execute("", 0),
                bailiff_tests::say::sync(),
            ]
            .concat(),
        )?;
        extended.until_ready()?;
    }
    drop(extended);
    let mut late = bailiff_tests::Client::started(agent.dial(server.address(), Postgres::PORT)?)?;
    late.send(&bailiff_tests::message(b'Q', b"no terminator"))?;
    late.rest()?;
    drop(agent);

    let events = enforced.events()?;
    for event in &events {
        let offences = offences(&validator, event);
        ensure!(offences.is_empty(), "{event:#}\noffends: {offences:#?}");
    }
    let of = |pointer: &str| -> BTreeSet<String> {
        events
            .iter()
            .filter_map(|event| event.pointer(pointer))
            .map(ToString::to_string)
            .collect()
    };
    let all = |pointer: &str, expected: &[&str]| {
        let found = of(pointer);
        ensure!(
            expected.iter().all(|one| found.contains(*one)),
            "{pointer}: {found:?}"
        );
        Ok(())
    };
    all(
        "/unmapped/event",
        &["\"session_start\"", "\"session_end\"", "\"operation\""],
    )?;
    all("/activity_id", &["1", "2", "3", "4", "5", "6", "7", "99"])?;
    all(
        "/activity_name",
        &["\"Disconnect\"", "\"transaction\"", "\"set\""],
    )?;
    all("/action_id", &["1", "2"])?;
    all("/status_code", &["\"22012\"", "\"42703\""])?;
    all("/metadata/log_version", &["\"2\""])?;
    all("/unmapped/values/0/value", &["\"7\""])?;
    all("/unmapped/result/sets/0/rows/0/0", &["\"7\""])?;
    all("/unmapped/truncated/0/field", &["\"values\"", "\"rows\""])?;
    all("/unmapped/verdict", &["\"allow\"", "\"deny\""])?;
    all("/unmapped/would_be/verdict", &["\"deny\""])?;
    ensure!(of("/query_info/query_string").len() > 10, "{events:#?}");
    Ok(())
}

/// A schema that refuses nothing would prove nothing.
#[test]
fn the_schema_refuses_what_the_class_does_not_allow() -> Result<()> {
    let validator = validator()?;
    let good = json!({
        "class_uid": 6005, "category_uid": 6, "activity_id": 1, "type_uid": 600_501, "time": 1_700_000_000_000_u64,
        "severity_id": 1, "status_id": 1, "action_id": 1, "disposition_id": 1,
        "metadata": {"version": "1.3.0", "product": {"name": "x", "vendor_name": "x"}, "profiles": ["security_control"]},
        "actor": {"user": {"name": "app"}}, "src_endpoint": {"name": "p"},
        "dst_endpoint": {"name": "db", "ip": "10.0.0.1", "port": 5432},
        "database": {"name": "shop", "type_id": 1}, "query_info": {"query_string": "select 1"}, "unmapped": {}
    });
    let none = offences(&validator, &good);
    ensure!(none.is_empty(), "{none:#?}");
    for (pointer, value) in [
        ("/class_uid", Some(json!(6004))),
        ("/activity_id", Some(json!(11))),
        ("/activity_id", Some(json!(2))),
        ("/activity_id", Some(json!(99))),
        ("/type_uid", Some(json!(600_502))),
        ("/time", Some(json!("2023-11-14T22:13:20Z"))),
        ("/time", Some(json!(1_700_000_000))),
        ("/severity_id", Some(json!(7))),
        ("/status_id", Some(json!("1"))),
        ("/action_id", None),
        ("/action_id", Some(json!(99))),
        ("/metadata/profiles", None),
        ("/metadata/product/vendor_name", None),
        ("/metadata/version", None),
        ("/actor", None),
        ("/actor/user", None),
        ("/actor/user/name", None),
        ("/src_endpoint", None),
        ("/src_endpoint/name", None),
        ("/dst_endpoint/ip", Some(json!("db.shop"))),
        ("/dst_endpoint/port", Some(json!(65536))),
        ("/database", None),
        ("/database/name", None),
        ("/database/type_id", None),
        ("/database/type_id", Some(json!(7))),
        ("/query_info/query_string", None),
        ("/verdict", Some(json!("allow"))),
    ] {
        let mut bad = good.clone();
        let (parent, key) = pointer.rsplit_once('/').context("a pointer has a slash")?;
        let parent = bad.pointer_mut(parent).and_then(Value::as_object_mut);
        let parent = parent.context("no such place")?;
        match value {
            Some(value) => parent.insert(key.to_owned(), value),
            None => parent.remove(key),
        };
        ensure!(!validator.is_valid(&bad), "passes: {bad}");
    }
    Ok(())
}
