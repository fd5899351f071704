//! Rules, and whether each can ever decide.

use std::sync::Arc;

use bailiff_model::{Effect, EffectSet, SqlEffect};

use super::super::schema::RuleSpec;
use super::recording::compile_recording;
use super::{Report, relation_glob};
use crate::compiled::Rule;
use crate::glob::Glob;

pub(super) fn compile_rule(spec: &RuleSpec, report: &mut Report<'_>) -> Rule {
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
    if spec.action == Effect::Allow && effects.contains(SqlEffect::Replication) && relations.is_some() {
        report.add(
            spec.effects.referenced.line(),
            never("`replication` takes the changes of all relations, so `relations` can't bound it"),
            "allow `replication` in a rule of its own, without `relations`",
        );
    }
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
        recording: spec
            .recording
            .as_ref()
            .map(|recording| compile_recording(recording, report)),
    }
}

/// Rules of one policy that others leave nothing to do.
pub(super) fn check_reach(rules: &[Rule], specs: &[RuleSpec], report: &mut Report<'_>) {
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

fn all_effects() -> String {
    SqlEffect::ALL.map(SqlEffect::as_str).join(", ")
}
