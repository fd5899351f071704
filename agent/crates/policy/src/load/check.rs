//! From what is written to what is used. A control that can't fire is refused.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use bailiff_model::{Effect, EffectSet, SqlEffect, TargetName};

use serde_saphyr::Spanned;

use super::Problem;
use super::schema::{Document, MaskSpec, PolicySpec, Resource, RuleSpec, SubjectSpec, TargetSpec};
use crate::compiled::{Endpoint, Policy, PolicySet, Rule, Subject, Target};
use crate::glob::Glob;
use crate::mask::MaskedColumn;

/// Collects the problems of one file.
struct Report<'a> {
    file: &'a str,
    problems: &'a mut Vec<Problem>,
}

impl Report<'_> {
    fn add(&mut self, line: u64, reason: impl Into<String>, mend: impl Into<String>) {
        self.problems.push(Problem {
            file: self.file.to_owned(),
            line,
            reason: reason.into(),
            mend: mend.into(),
        });
    }
}

pub(super) fn compile(documents: &[(String, Document)], problems: &mut Vec<Problem>) -> PolicySet {
    let mut targets: Vec<Target> = Vec::new();
    let mut endpoints: HashSet<Endpoint> = HashSet::new();
    for (file, document) in documents {
        let Document::Target(resource) = document else {
            continue;
        };
        let mut report = Report { file, problems };
        let target = compile_target(resource, &mut report);
        let name = &resource.metadata.name;
        if targets.iter().any(|other| other.name == target.name) {
            report.add(
                name.referenced.line(),
                format!("target {:?} is defined twice", name.value),
                "give one another name",
            );
        }
        for (endpoint, written) in target.endpoints.iter().zip(&resource.spec.endpoints) {
            if !endpoints.insert(*endpoint) {
                let reason = format!("endpoint {:?} belongs to another target already", written.value);
                report.add(
                    written.referenced.line(),
                    reason,
                    "an address has one target; remove it from one of them",
                );
            }
        }
        targets.push(target);
    }
    let mut policies: Vec<Policy> = Vec::new();
    for (file, document) in documents {
        let Document::Policy(resource) = document else {
            continue;
        };
        let mut report = Report { file, problems };
        let policy = compile_policy(resource, &targets, &mut report);
        if policies.iter().any(|other| other.name == policy.name) {
            let name = &resource.metadata.name;
            report.add(
                name.referenced.line(),
                format!("policy {:?} is defined twice", name.value),
                "give one another name",
            );
        }
        policies.push(policy);
    }
    PolicySet::new(targets, policies)
}

fn compile_target(resource: &Resource<TargetSpec>, report: &mut Report<'_>) -> Target {
    let spec = &resource.spec;
    let name = &resource.metadata.name;
    check_name(name, report);
    let mut endpoints = Vec::new();
    if spec.search_path.value.is_empty() {
        report.add(
            spec.search_path.referenced.line(),
            "`searchPath` is empty, so that no rule allows a name without a schema",
            "leave it out for [public], or list the schemas of the database's search_path",
        );
    }
    if spec.endpoints.is_empty() {
        report.add(
            name.referenced.line(),
            "the target has no endpoints, so that nothing is ever diverted",
            "list its addresses as host:port",
        );
    }
    for written in &spec.endpoints {
        match parse_endpoint(&written.value) {
            Ok(endpoint) => endpoints.push(endpoint),
            Err(reason) => {
                let mend = "write 10.0.0.5:5432, 10.0.0.0/24:5432, [fd00::5]:5432 or [fd00::/64]:*; names are not resolved yet";
                report.add(
                    written.referenced.line(),
                    format!("endpoint {:?}: {reason}", written.value),
                    mend,
                );
            }
        }
    }
    let plain_relations = spec
        .plain_relations
        .iter()
        .filter_map(|written| relation_glob(&written.value, written.referenced.line(), report))
        .collect();
    Target {
        name: TargetName::new(name.value.as_str()),
        protocol: spec.protocol,
        endpoints,
        failure_mode: spec.failure_mode,
        source_address: spec.source_address,
        default: spec.default,
        unknown: spec.unknown,
        when_full: spec.recording.when_full,
        search_path: spec.search_path.value.clone(),
        plain_relations,
    }
}

fn parse_endpoint(text: &str) -> Result<Endpoint, String> {
    let (host, port) = text.rsplit_once(':').ok_or("has no port")?;
    let port = match port {
        "*" => 0,
        port => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| format!("{port:?} is no port"))?,
    };
    let bracketed = host.starts_with('[');
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').ok_or("has [ without ]")?,
        None => host,
    };
    let (address, prefix) = host
        .split_once('/')
        .map_or((host, None), |(address, prefix)| (address, Some(prefix)));
    let address: IpAddr = address
        .parse()
        .map_err(|_| format!("{address:?} is no IP address"))?;
    if let IpAddr::V6(v6) = address
        && v6.to_ipv4_mapped().is_some()
    {
        return Err("is an IPv4 address in IPv6's clothes, and those are read as IPv4".to_owned());
    }
    if address.is_ipv6() != bracketed {
        return Err("an IPv6 address, and no other, stands in brackets".to_owned());
    }
    let whole = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => whole,
        Some(prefix) => prefix
            .parse()
            .ok()
            .filter(|bits| *bits <= whole)
            .ok_or_else(|| format!("/{prefix} is no prefix length"))?,
    };
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let host_bits = if prefix == 0 {
        u128::MAX
    } else {
        (!0_u128).checked_shr(u32::from(prefix)).unwrap_or(0)
    };
    let width = if address.is_ipv4() { !0_u128 << 96 } else { !0 };
    if bits(address) & host_bits & width != 0 {
        return Err(format!("has bits set behind its prefix of {prefix}"));
    }
    Ok(Endpoint {
        address,
        prefix,
        port,
    })
}

fn compile_policy(resource: &Resource<PolicySpec>, targets: &[Target], report: &mut Report<'_>) -> Policy {
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
    if spec.rules.is_empty() && spec.masks.is_empty() {
        report.add(
            line,
            "the policy has neither rules nor masks, so that it says nothing",
            "add a rule, or remove the policy",
        );
    }
    for subject in &spec.subjects {
        check_subject(subject, report);
    }
    let rules: Vec<Rule> = spec.rules.iter().map(|rule| compile_rule(rule, report)).collect();
    check_reach(&rules, &spec.rules, report);
    let masks: Vec<(MaskedColumn, u64)> = spec
        .masks
        .iter()
        .flat_map(|mask| compile_mask(mask, &name.value, report))
        .collect();
    let mut seen: Vec<&MaskedColumn> = Vec::new();
    for (column, line) in &masks {
        let same = |other: &&MaskedColumn| {
            (&other.schema, &other.table, &other.column) == (&column.schema, &column.table, &column.column)
        };
        if seen.iter().any(same) {
            report.add(
                *line,
                format!(
                    "{}.{}.{} is masked twice",
                    column.schema, column.table, column.column
                ),
                "remove one of them",
            );
        }
        seen.push(column);
    }
    let masks = masks.into_iter().map(|(column, _)| column).collect();
    Policy {
        name: Arc::from(name.value.as_str()),
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
        rules,
        masks,
        recording: spec.recording,
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

/// Names stand in metrics, records and messages: as in Kubernetes, lower case letters, digits, `-` and `.`.
fn check_name(name: &Spanned<String>, report: &mut Report<'_>) {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let ends =
        |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = name.value.as_bytes();
    if bytes.len() > 253
        || !bytes.iter().all(|byte| plain(*byte))
        || !ends(bytes.first())
        || !ends(bytes.last())
    {
        report.add(
            name.referenced.line(),
            format!("{:?} is no name", name.value),
            "use lower case letters, digits, - and ., with a letter or digit at both ends",
        );
    }
}

fn compile_rule(spec: &RuleSpec, report: &mut Report<'_>) -> Rule {
    let never = |what: &str| format!("rule {:?} can never match: {what}", spec.name.value);
    if spec.effects.value.is_empty() {
        report.add(
            spec.effects.referenced.line(),
            never("it names no effect"),
            format!("effects are: {}", all_effects()),
        );
    }
    let effects: EffectSet = spec.effects.value.iter().copied().collect();
    if effects.contains(SqlEffect::Unknown) && spec.action == Effect::Allow {
        let mend = "what can't be told is answered by the target's `unknown`";
        report.add(
            spec.effects.referenced.line(),
            never("no rule can allow `unknown`"),
            mend,
        );
    }
    let relations = spec.relations.as_ref().map(|written| {
        let line = written.referenced.line();
        if written.value.is_empty() {
            report.add(
                line,
                never("`relations` is empty"),
                "leave it out to mean any relation",
            );
        }
        written
            .value
            .iter()
            .filter_map(|name| relation_glob(name, line, report))
            .collect()
    });
    let functions = spec.functions.as_ref().map(|written| {
        let line = written.referenced.line();
        if written.value.is_empty() {
            report.add(
                line,
                never("`functions` is empty"),
                "leave it out to mean any function",
            );
        }
        if !effects.contains(SqlEffect::Execute) && spec.action == Effect::Allow {
            report.add(
                line,
                never("`functions` is about `execute`, which isn't among its effects"),
                "add the effect `execute`",
            );
        }
        written
            .value
            .iter()
            .map(|name| match name.split_once('.') {
                Some((schema, name)) => (Glob::new(schema), Glob::new(name)),
                None => (Glob::new("*"), Glob::new(name)),
            })
            .collect()
    });
    if spec.action == Effect::Allow
        && effects.contains(SqlEffect::Execute)
        && relations.is_some()
        && functions.is_none()
    {
        report.add(
            spec.effects.referenced.line(),
            format!(
                "rule {:?} can never allow `execute`: what a function touches isn't known, so `relations` can't bound it",
                spec.name.value
            ),
            "name the functions in `functions`, or allow `execute` in a rule of its own",
        );
    }
    Rule {
        name: Arc::from(spec.name.value.as_str()),
        effects,
        relations,
        functions,
        action: spec.action,
        message: spec.message.as_deref().map(Arc::from),
    }
}

/// Rules of one policy that others leave nothing to do.
fn check_reach(rules: &[Rule], specs: &[RuleSpec], report: &mut Report<'_>) {
    for (place, (rule, spec)) in rules.iter().zip(specs).enumerate() {
        let line = spec.name.referenced.line();
        if rules.iter().take(place).any(|earlier| earlier.name == rule.name) {
            report.add(
                line,
                format!("rule {:?} is defined twice", rule.name),
                "give one another name",
            );
        }
        let hidden = rules
            .iter()
            .zip(specs)
            .enumerate()
            .find(|(other, (stricter, _))| {
                *other != place
                    && stricter.action < rule.action
                    && rule
                        .effects
                        .iter()
                        .all(|effect| stricter.effects.contains(effect))
                    && covers_names(stricter.relations.as_deref(), rule.relations.as_deref())
                    && stricter.functions.is_none()
            });
        if let Some((_, (stricter, _))) = hidden {
            let reason = format!(
                "rule {:?} can never take effect: rule {:?} is stricter and matches all that it matches",
                rule.name, stricter.name
            );
            report.add(line, reason, "narrow the stricter rule, or remove this one");
        }
    }
}

fn covers_names(outer: Option<&[(Glob, Glob)]>, inner: Option<&[(Glob, Glob)]>) -> bool {
    match (outer, inner) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(outer), Some(inner)) => inner.iter().all(|(schema, name)| {
            outer
                .iter()
                .any(|(s, n)| s.matches(schema.as_str()) && n.matches(name.as_str()))
        }),
    }
}

fn compile_mask(spec: &MaskSpec, policy: &str, report: &mut Report<'_>) -> Vec<(MaskedColumn, u64)> {
    if spec.columns.value.is_empty() {
        report.add(
            spec.columns.referenced.line(),
            "the mask names no column, so that it hides nothing",
            "list columns as schema.table.column",
        );
    }
    let mut columns = Vec::new();
    for written in &spec.columns.value {
        let parts: Vec<&str> = written.value.split('.').collect();
        match parts.as_slice() {
            [schema, table, column] if parts.iter().all(|part| !part.is_empty() && !part.contains('*')) => {
                let column = MaskedColumn {
                    schema: (*schema).to_owned(),
                    table: (*table).to_owned(),
                    column: (*column).to_owned(),
                    action: spec.action,
                    policy: Arc::from(policy),
                };
                columns.push((column, written.referenced.line()));
            }
            _ => report.add(
                written.referenced.line(),
                format!("{:?} is no column", written.value),
                "write schema.table.column in full; wildcards are not supported yet",
            ),
        }
    }
    columns
}

fn relation_glob(text: &str, line: u64, report: &mut Report<'_>) -> Option<(Glob, Glob)> {
    let parts: Vec<&str> = text.split('.').collect();
    match parts.as_slice() {
        ["*"] => Some((Glob::new("*"), Glob::new("*"))),
        [schema, name] if !schema.is_empty() && !name.is_empty() => {
            Some((Glob::new(schema), Glob::new(name)))
        }
        _ => {
            report.add(
                line,
                format!("{text:?} is no relation"),
                "write schema.name, with * where you mean any",
            );
            None
        }
    }
}

fn all_effects() -> String {
    SqlEffect::ALL.map(SqlEffect::as_str).join(", ")
}
