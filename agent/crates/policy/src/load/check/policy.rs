//! Policies: whom they are about, what they mask.

use std::sync::Arc;

use bailiff_model::{Protocol, TargetName};

use super::super::schema::{MaskSpec, PolicySpec, Resource, Spanned, SubjectSpec};
use super::action::{compile_action, compile_detect};
use super::connection::{check_masks, compile_connect_as};
use super::fields::{compile_fields, line_of_api};
use super::recording::compile_recording;
use super::request::{check_api_reach, compile_api_rule};
use super::rule::{check_reach, compile_rule};
use super::{Report, check_name};
use crate::api::fields::AllMasks;
use crate::api::rule::ApiRule;
use crate::compiled::{Policy, Rule, Subject, Target};
use crate::glob::Glob;
use crate::mask::MaskedColumn;

pub(super) fn compile_policy(
    resource: &Resource<PolicySpec>,
    targets: &[Target],
    report: &mut Report<'_>,
) -> Policy {
    let spec = &resource.spec;
    let name = &resource.metadata.name;
    let line = name.referenced.line();
    check_name(name, report);
    if spec.targets.is_empty() {
        report.add(
            line,
            "the policy names no target, so that it never applies",
            "list targets by name, or \"*\"",
        );
    }
    for target in &spec.targets {
        if target.value != "*" && !targets.iter().any(|known| known.name.as_str() == target.value) {
            let known: Vec<_> = targets.iter().map(|known| known.name.as_str()).collect();
            let mend = if known.is_empty() {
                "define a Target".to_owned()
            } else {
                format!("there are: {}", known.join(", "))
            };
            report.add(
                target.referenced.line(),
                format!("there is no target {:?}", target.value),
                mend,
            );
        }
    }
    if spec.rules.is_empty() && spec.masks.is_empty() && spec.detect.is_empty() && spec.connect_as.is_none() {
        report.add(
            line,
            "the policy has neither rules nor masks nor detectors nor connectAs, so that it says nothing",
            "add a rule, or remove the policy",
        );
    }
    for subject in &spec.subjects {
        check_subject(subject, report);
    }
    let Rules { sql, api } = compile_rules(spec, report);
    check_reach(&sql, report);
    check_api_reach(&api, report);
    let protocol = protocol_of(spec, report);
    // Of a rule that is about neither there's told enough.
    if spec
        .rules
        .iter()
        .all(|rule| rule.requests.is_some() || rule.effects.is_some())
    {
        check_protocol(spec, protocol, targets, report);
        check_tokens(spec, targets, report);
    }
    let recording = compile_recording(&spec.recording, protocol, line, report);
    let of_sql = sql.iter().map(|(rule, line)| (&rule.name, rule.recording, *line));
    let of_api = api.iter().map(|(rule, line)| (&rule.name, rule.recording, *line));
    for (rule, more, line) in of_sql.chain(of_api) {
        if more.is_some_and(|more| recording.join(more) == recording) {
            report.add(
                line,
                format!("rule {rule:?} records no more than the policy does already"),
                "leave its `recording` out, or ask for more",
            );
        }
    }
    let is_sql = protocol == Protocol::Postgres;
    let fields = if is_sql {
        AllMasks::default()
    } else {
        compile_fields(spec, report)
    };
    let (sql_masks, sql_detect) = if is_sql {
        (spec.masks.as_slice(), spec.detect.as_slice())
    } else {
        Default::default()
    };
    let masks: Vec<(MaskedColumn, u64)> = sql_masks
        .iter()
        .flat_map(|mask| compile_mask(mask, &name.value, report))
        .collect();
    let mut seen: Vec<&MaskedColumn> = Vec::new();
    for (column, line) in &masks {
        let same = |other: &&MaskedColumn| {
            (&other.schema, &other.table, &other.column, &other.of_type)
                == (&column.schema, &column.table, &column.column, &column.of_type)
        };
        if seen.iter().any(same) {
            report.add(*line, format!("{column} is masked twice"), "remove one of them");
        }
        seen.push(column);
    }
    let masks = masks.into_iter().map(|(column, _)| column).collect();
    let connect_as = compile_connect_as(spec, targets, report);
    check_masks(resource, targets, report);
    Policy {
        name: Arc::from(name.value.as_str()),
        protocol,
        mode: spec.mode,
        targets: (!spec.targets.iter().any(|target| target.value == "*")).then(|| {
            spec.targets
                .iter()
                .map(|target| TargetName::new(target.value.as_str()))
                .collect()
        }),
        subjects: spec
            .subjects
            .iter()
            .map(|subject| compile_subject(&subject.value))
            .collect(),
        rules: sql.into_iter().map(|(rule, _)| rule).collect(),
        requests: api.into_iter().map(|(rule, _)| rule).collect(),
        masks,
        detect: sql_detect
            .iter()
            .filter_map(|detect| compile_detect(detect, report))
            .collect(),
        fields,
        recording,
        connect_as,
    }
}

/// The rules of a policy, with the lines at which they stand.
#[derive(Default)]
struct Rules {
    sql: Vec<(Rule, u64)>,
    api: Vec<(ApiRule, u64)>,
}

fn compile_rules(spec: &PolicySpec, report: &mut Report<'_>) -> Rules {
    let mut rules = Rules::default();
    for rule in &spec.rules {
        let line = rule.name.referenced.line();
        match (&rule.requests, &rule.effects) {
            (Some(requests), _) => rules.api.push((compile_api_rule(rule, requests, report), line)),
            (None, Some(effects)) => rules.sql.push((compile_rule(rule, effects, report), line)),
            (None, None) => report.add(
                line,
                format!(
                    "rule {:?} can never match: it names neither `effects` nor `requests`",
                    rule.name.value
                ),
                "name `effects` of SQL, or `requests` to the Kubernetes API",
            ),
        }
    }
    rules
}

/// What a policy is about: the Kubernetes API where a rule of it has `requests`, or a mask or detector `resources`; else SQL.
fn protocol_of(spec: &PolicySpec, report: &mut Report<'_>) -> Protocol {
    let rule = spec.rules.iter().find(|rule| rule.requests.is_some());
    let of_api = match rule {
        Some(rule) => format!("rule {:?} with `requests`", rule.name.value),
        None if line_of_api(spec).is_some() => "`fields` of `resources`".to_owned(),
        None => return Protocol::Postgres,
    };
    let sql = spec
        .rules
        .iter()
        .find(|rule| rule.requests.is_none() && rule.effects.is_some())
        .map(|rule| ("a rule with `effects`", rule.name.referenced.line()));
    let columns = |mask: &MaskSpec| {
        let column = mask.columns.first().or_else(|| mask.types.first())?;
        Some(("`masks` of columns", column.referenced.line()))
    };
    let masks = spec.masks.iter().find_map(columns);
    let connect_as = spec
        .connect_as
        .as_ref()
        .map(|written| ("`connectAs`", written.referenced.line()));
    for (what, line) in [sql, masks, connect_as].into_iter().flatten() {
        report.add(
            line,
            format!(
                "the policy has {what}, which is about SQL, and {of_api}, which is about the Kubernetes API"
            ),
            "write two policies, one for each",
        );
    }
    Protocol::Kubernetes
}

/// A policy at targets of which no rule of it can match anything.
fn check_protocol(spec: &PolicySpec, protocol: Protocol, targets: &[Target], report: &mut Report<'_>) {
    let (about, instead) = match protocol {
        Protocol::Postgres => (
            "SQL",
            "write rules with `requests` for it, in a policy of their own",
        ),
        Protocol::Kubernetes => (
            "the Kubernetes API",
            "write rules with `effects` for it, in a policy of their own",
        ),
    };
    for written in &spec.targets {
        let mut named = targets
            .iter()
            .filter(|target| written.value == "*" || target.name.as_str() == written.value)
            .peekable();
        let any = named.peek().is_some();
        if any && named.all(|target| target.protocol != protocol) {
            let what = if written.value == "*" {
                "no target speaks that".to_owned()
            } else {
                format!("target {:?} doesn't speak that", written.value)
            };
            report.add(
                written.referenced.line(),
                format!("the policy is about {about}, and {what}, so that it never applies there"),
                instead,
            );
        }
    }
}

/// Rules about tokens at targets where none is read: all tokens are unverified there.
fn check_tokens(spec: &PolicySpec, targets: &[Target], report: &mut Report<'_>) {
    let named = |target: &&Target| {
        let is_named = |name: &str| name == "*" || target.name.as_str() == name;
        spec.targets.iter().any(|written| is_named(&written.value))
    };
    let Some(unread) = targets
        .iter()
        .filter(named)
        .find(|target| target.protocol == Protocol::Kubernetes && target.identity.is_none())
    else {
        return;
    };
    let entries = spec.rules.iter().filter_map(|rule| rule.requests.as_ref());
    for entry in entries.flat_map(|entries| &entries.value) {
        let fields = [
            (
                "tokens",
                entry.value.tokens.as_ref().map(|tokens| tokens.referenced.line()),
            ),
            (
                "identity",
                entry
                    .value
                    .identity
                    .as_ref()
                    .map(|identity| identity.referenced.line()),
            ),
        ];
        for (field, line) in fields {
            let Some(line) = line else { continue };
            report.add(
                line,
                format!(
                    "`{field}` can't be told apart at target {:?}, which doesn't say who makes them",
                    unread.name.as_str()
                ),
                "give the target `identity`: {tokenReview: true}, or {issuer, audiences, keySetFile}",
            );
        }
    }
}

fn check_subject(subject: &Spanned<SubjectSpec>, report: &mut Report<'_>) {
    let spec = &subject.value;
    let lists = [
        ("namespaces", &spec.namespaces),
        ("serviceAccounts", &spec.service_accounts),
        ("pods", &spec.pods),
    ];
    for (name, list) in lists {
        let Some(list) = list else { continue };
        if list.value.is_empty() || list.value.iter().any(String::is_empty) {
            report.add(
                list.referenced.line(),
                format!("the subject can never match: `{name}` is empty or holds an empty name"),
                format!("leave `{name}` out to mean any, or say whom you mean"),
            );
        }
    }
    let labels = spec.pod_labels.as_ref();
    if labels.is_some_and(|labels| labels.value.is_empty())
        || (labels.is_none() && lists.iter().all(|(_, list)| list.is_none()))
    {
        report.add(
            subject.referenced.line(),
            "a subject asks for nothing, so that it is everybody",
            "leave `subjects` out to mean everybody, or say whom you mean",
        );
    }
}

fn compile_subject(spec: &SubjectSpec) -> Subject {
    let globs = |names: &Option<Spanned<Vec<String>>>| {
        names
            .iter()
            .flat_map(|names| &names.value)
            .map(|name| Glob::new(name))
            .collect()
    };
    Subject {
        namespaces: globs(&spec.namespaces),
        service_accounts: globs(&spec.service_accounts),
        pods: globs(&spec.pods),
        pod_labels: spec
            .pod_labels
            .iter()
            .flat_map(|labels| &labels.value)
            .map(|(key, value)| (key.clone(), Glob::new(value)))
            .collect(),
    }
}

fn compile_mask(spec: &MaskSpec, policy: &str, report: &mut Report<'_>) -> Vec<(MaskedColumn, u64)> {
    if spec.columns.is_empty() && spec.types.is_empty() {
        report.add(
            spec.action.referenced.line(),
            "the mask names no column, so that it hides nothing",
            "list `columns` as schema.table.column, or `types`",
        );
    }
    let Some(action) = compile_action(&spec.action, report) else {
        return Vec::new();
    };
    let of = |[schema, table, column]: [&str; 3], of_type| MaskedColumn {
        schema: Glob::new(schema),
        table: Glob::new(table),
        column: Glob::new(column),
        of_type,
        action,
        policy: Arc::from(policy),
    };
    let mut columns = Vec::new();
    for written in &spec.columns {
        let parts: Vec<&str> = written.value.split('.').collect();
        match parts.as_slice() {
            [schema, table, column] if parts.iter().all(|part| !part.is_empty()) => {
                columns.push((of([schema, table, column], None), written.referenced.line()));
            }
            _ => report.add(
                written.referenced.line(),
                format!("{:?} is no column", written.value),
                "write schema.table.column in full, with * for any run of characters",
            ),
        }
    }
    for written in &spec.types {
        let parts: Vec<&str> = written.value.split('.').collect();
        let (schema, name) = match parts.as_slice() {
            [name] => ("pg_catalog", *name),
            [schema, name] => (*schema, *name),
            _ => ("", ""),
        };
        if schema.is_empty() || name.is_empty() {
            report.add(
                written.referenced.line(),
                format!("{:?} is no type", written.value),
                "write a built-in type's name as pg_type has it (int4, inet), or schema.type",
            );
            continue;
        }
        let of_type = Some((Glob::new(schema), Glob::new(name)));
        columns.push((of(["*", "*", "*"], of_type), written.referenced.line()));
    }
    columns
}
