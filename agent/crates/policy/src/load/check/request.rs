//! Rules about requests to the Kubernetes API, and whether each can ever decide.

mod body;
mod never;
mod who;

use std::sync::Arc;

use bailiff_model::{ApiVerb, Effect, Protocol, TokenState};

use super::super::schema::{RequestSpec, RuleSpec, Spanned};
use super::Report;
use super::recording::compile_recording;
use crate::api::rule::{ApiRule, CommandGlob, RequestMatch, ResourceGlob, VerbSet};
use crate::glob::Glob;

/// What is done to resources.
const OF_RESOURCES: [ApiVerb; 8] = [
    ApiVerb::Get,
    ApiVerb::List,
    ApiVerb::Watch,
    ApiVerb::Create,
    ApiVerb::Update,
    ApiVerb::Patch,
    ApiVerb::Delete,
    ApiVerb::DeleteCollection,
];

/// Methods of other paths.
const OF_PATHS: [ApiVerb; 7] = [
    ApiVerb::Get,
    ApiVerb::Head,
    ApiVerb::Post,
    ApiVerb::Put,
    ApiVerb::Patch,
    ApiVerb::Delete,
    ApiVerb::Options,
];

/// Verbs of RBAC that no request has.
const OF_RBAC_ALONE: [&str; 5] = ["use", "bind", "escalate", "impersonate", "approve"];

/// Kinds in lower case that are easily taken for resources.
pub(super) const KINDS: [&str; 18] = [
    "pod",
    "secret",
    "configmap",
    "service",
    "serviceaccount",
    "node",
    "namespace",
    "event",
    "deployment",
    "statefulset",
    "daemonset",
    "replicaset",
    "job",
    "cronjob",
    "role",
    "rolebinding",
    "clusterrole",
    "clusterrolebinding",
];

pub(super) fn compile_api_rule(
    spec: &RuleSpec,
    requests: &Spanned<Vec<Spanned<RequestSpec>>>,
    report: &mut Report<'_>,
) -> ApiRule {
    let mut entries = Entries {
        rule: &spec.name.value,
        allows: spec.action == Effect::Allow,
        report,
    };
    entries.no_sql(spec);
    if requests.value.is_empty() {
        entries.never(
            requests.referenced.line(),
            "`requests` is empty",
            "name requests: {verbs: [get], resources: [pods]}",
        );
    }
    let compiled = requests
        .value
        .iter()
        .map(|entry| entries.compile(entry))
        .collect();
    ApiRule {
        name: Arc::from(spec.name.value.as_str()),
        requests: compiled,
        action: spec.action,
        message: spec.message.as_deref().map(Arc::from),
        recording: spec.recording.as_ref().map(|recording| {
            compile_recording(
                recording,
                Protocol::Kubernetes,
                spec.name.referenced.line(),
                report,
            )
        }),
    }
}

/// Rules of one policy that others leave nothing to do.
pub(super) fn check_api_reach(rules: &[(ApiRule, u64)], report: &mut Report<'_>) {
    for (place, (rule, line)) in rules.iter().enumerate() {
        if rules
            .iter()
            .take(place)
            .any(|(earlier, _)| earlier.name == rule.name)
        {
            report.add(
                *line,
                format!("rule {:?} is defined twice", rule.name),
                "give one another name",
            );
        }
        let hides = |stricter: &ApiRule| {
            stricter.action < rule.action
                && rule
                    .requests
                    .iter()
                    .all(|inner| stricter.requests.iter().any(|outer| outer.contains(inner)))
        };
        if let Some((stricter, _)) = rules.iter().find(|(stricter, _)| hides(stricter)) {
            let reason = format!(
                "rule {:?} can never take effect: rule {:?} is stricter and matches all that it matches",
                rule.name, stricter.name
            );
            report.add(*line, reason, "narrow the stricter rule, or remove this one");
        }
    }
}

/// Compiles the entries of one rule.
struct Entries<'a, 'b> {
    rule: &'a str,
    allows: bool,
    report: &'a mut Report<'b>,
}

impl Entries<'_, '_> {
    fn never(&mut self, line: u64, what: &str, mend: impl Into<String>) {
        let reason = format!("rule {:?} can never match: {what}", self.rule);
        self.report.add(line, reason, mend);
    }

    /// What is SQL's alone has nothing to fire on.
    fn no_sql(&mut self, spec: &RuleSpec) {
        let fields = [
            ("effects", spec.effects.as_ref().map(|w| w.referenced.line())),
            ("relations", spec.relations.as_ref().map(|w| w.referenced.line())),
            ("functions", spec.functions.as_ref().map(|w| w.referenced.line())),
            ("where", spec.conditions.as_ref().map(|w| w.referenced.line())),
            ("rows", spec.rows.as_ref().map(|w| w.referenced.line())),
            ("limit", spec.limit.as_ref().map(|w| w.referenced.line())),
            (
                "statements",
                spec.statements.as_ref().map(|w| w.referenced.line()),
            ),
            ("masked", spec.masked.as_ref().map(|w| w.referenced.line())),
        ];
        for (field, line) in fields {
            if let Some(line) = line {
                self.never(
                    line,
                    &format!("`{field}` is about SQL, and its `requests` are about the Kubernetes API"),
                    format!("remove `{field}`, or write two rules in two policies"),
                );
            }
        }
    }

    fn compile(&mut self, written: &Spanned<RequestSpec>) -> RequestMatch {
        let (spec, line) = (&written.value, written.referenced.line());
        let paths = self.globs("paths", spec.paths.as_ref());
        let entry = RequestMatch {
            verbs: self.verbs(spec),
            groups: self.groups(spec.groups.as_ref()),
            resources: self.resources(spec),
            namespaces: self.globs("namespaces", spec.namespaces.as_ref()),
            names: self.globs("names", spec.names.as_ref()),
            paths,
            dry_run: spec.dry_run.as_ref().map(|dry| dry.value),
            containers: self.globs("containers", spec.containers.as_ref()),
            commands: self.commands(spec.commands.as_ref()),
            tty: spec.tty.as_ref().map(|tty| tty.value),
            tokens: self.tokens(spec.tokens.as_ref()),
            identity: self.identity(spec.identity.as_ref()),
            impersonates: self.impersonates(spec.impersonates.as_ref()),
            body: self.body(spec),
        };
        if entry == RequestMatch::default() {
            self.report.add(
                line,
                format!(
                    "rule {:?} has a request that asks for nothing, so that it is every one",
                    self.rule
                ),
                "write verbs: [\"*\"] where you mean every request, or say which you mean",
            );
        }
        self.check_paths(spec, &entry);
        self.check_unnamed(spec, &entry);
        self.check_unspaced(spec, &entry);
        self.check_names(spec);
        self.check_dry_run(spec, &entry);
        self.check_session(spec, &entry);
        self.check_side_doors(spec, &entry);
        self.check_body(spec, &entry);
        entry
    }

    fn tokens(&mut self, written: Option<&Spanned<Vec<TokenState>>>) -> Option<Vec<TokenState>> {
        let written = written?;
        if written.value.is_empty() {
            self.never(
                written.referenced.line(),
                "`tokens` is empty",
                "name Missing, Unverified, Unbound, Bound, Stolen or Certificate, or leave it out to mean any",
            );
        }
        Some(written.value.clone())
    }

    fn globs(&mut self, field: &str, written: Option<&Spanned<Vec<String>>>) -> Option<Vec<Glob>> {
        let written = written?;
        if written.value.is_empty() || written.value.iter().any(String::is_empty) {
            self.never(
                written.referenced.line(),
                &format!("`{field}` is empty or holds an empty name"),
                format!("leave `{field}` out to mean any, or say which you mean"),
            );
        }
        Some(written.value.iter().map(|text| Glob::new(text)).collect())
    }

    fn verbs(&mut self, spec: &RequestSpec) -> Option<VerbSet> {
        let written = spec.verbs.as_ref()?;
        let line = written.referenced.line();
        let known: &[ApiVerb] = if spec.paths.is_some() {
            &OF_PATHS
        } else {
            &OF_RESOURCES
        };
        let names = || {
            known
                .iter()
                .map(|verb| verb.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        if written.value.is_empty() {
            self.never(line, "`verbs` is empty", format!("verbs are: {}", names()));
        }
        if written.value.iter().any(|verb| verb == "*") {
            if written.value.len() > 1 {
                self.report.add(
                    line,
                    format!(
                        "rule {:?}: `*` is every verb, so that the others say nothing",
                        self.rule
                    ),
                    "write \"*\" alone, or leave it out",
                );
            }
            // Whatever isn't about paths or resources alone has every verb.
            return (spec.paths.is_none() && !is_about_resources(spec))
                .then(|| ApiVerb::ALL.into_iter().collect())
                .or_else(|| Some(known.iter().copied().collect()));
        }
        let mut verbs = VerbSet::default();
        for text in &written.value {
            match ApiVerb::ALL.into_iter().find(|verb| verb.as_str() == text) {
                Some(ApiVerb::Unknown) if self.allows => self.never(
                    line,
                    "no rule can allow `unknown`",
                    "what can't be told is answered by the target's `unknown`",
                ),
                Some(ApiVerb::Unknown) => self.report.add(
                    line,
                    format!("rule {:?}: what can't be told is matched by every rule that forbids, so that the verb `unknown` says nothing", self.rule),
                    "leave it out; the target's `unknown` says what becomes of the rest",
                ),
                Some(verb) if known.contains(&verb) || spec.paths.is_none() && !is_about_resources(spec) => {
                    verbs = verbs.with(verb);
                }
                Some(verb) => {
                    let of = if spec.paths.is_some() { "a path" } else { "a resource" };
                    self.never(line, &format!("no request does `{verb}` to {of}"), format!("verbs are: {}", names()));
                }
                None if OF_RBAC_ALONE.contains(&text.as_str()) => self.never(
                    line,
                    &format!("{text:?} is a right of RBAC and no verb of a request"),
                    format!("verbs are: {}", names()),
                ),
                None => self.never(
                    line,
                    &format!("{text:?} is no verb"),
                    format!("verbs are, in lower case: {}", names()),
                ),
            }
        }
        Some(verbs)
    }

    fn groups(&mut self, written: Option<&Spanned<Vec<String>>>) -> Option<Vec<Glob>> {
        let written = written?;
        let line = written.referenced.line();
        if written.value.is_empty() {
            self.never(
                line,
                "`groups` is empty",
                "leave it out to mean any group, or write \"\" for the core's",
            );
        }
        for group in &written.value {
            if group == "core" || group == "v1" {
                self.never(
                    line,
                    &format!("{group:?} is no API group"),
                    "the core's group is written \"\"",
                );
            } else if let Some((name, _)) = group.split_once('/') {
                self.never(
                    line,
                    &format!("{group:?} is a group with a version"),
                    format!("write {name:?}: rules hold in every version"),
                );
            } else if group.chars().any(char::is_uppercase) {
                self.never(
                    line,
                    &format!("{group:?} has upper case, which no group has"),
                    "write it in lower case",
                );
            }
        }
        Some(written.value.iter().map(|text| Glob::new(text)).collect())
    }

    fn resources(&mut self, spec: &RequestSpec) -> Option<Vec<ResourceGlob>> {
        let written = spec.resources.as_ref()?;
        let line = written.referenced.line();
        if written.value.is_empty() {
            self.never(line, "`resources` is empty", "leave it out to mean any resource");
        }
        for text in &written.value {
            let (resource, subresource) = text.split_once('/').unwrap_or((text, "*"));
            let plain = |part: &str| {
                !part.is_empty()
                    && part.bytes().all(|byte| {
                        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'*'
                    })
            };
            let mend = if let Some((name, group)) = resource.split_once('.') {
                format!("write resources: [{name}] with groups: [{group}]")
            } else {
                "write a resource as the API's paths have it: pods, pods/exec, pods/*, */scale or *"
                    .to_owned()
            };
            if !plain(resource) || !plain(subresource) {
                self.never(line, &format!("{text:?} is no resource"), mend);
            } else if KINDS.contains(&resource) {
                self.never(
                    line,
                    &format!("{text:?} names a kind, and requests name resources"),
                    format!("write it in the plural: {resource}s"),
                );
            }
        }
        Some(written.value.iter().map(|text| ResourceGlob::new(text)).collect())
    }

    fn commands(&mut self, written: Option<&Spanned<Vec<String>>>) -> Option<Vec<CommandGlob>> {
        let written = written?;
        if written.value.is_empty() || written.value.iter().any(|command| command.trim().is_empty()) {
            self.never(
                written.referenced.line(),
                "`commands` is empty or holds an empty command",
                "leave it out to mean any, or write a pattern for each argument: \"ls *\"",
            );
        }
        Some(written.value.iter().map(|text| CommandGlob::new(text)).collect())
    }
}

fn is_about_resources(spec: &RequestSpec) -> bool {
    spec.groups.is_some()
        || spec.resources.is_some()
        || spec.namespaces.is_some()
        || spec.names.is_some()
        || spec.containers.is_some()
        || spec.commands.is_some()
        || spec.tty.is_some()
        || spec.mounts_secrets.is_some()
        || spec.secrets.is_some()
        || spec.service_accounts.is_some()
        || spec.images.is_some()
}
