//! Rules, and whether each can ever decide.

use std::sync::Arc;

use bailiff_model::{Condition, Effect, EffectSet, Protocol, SqlEffect};

use super::super::schema::{RuleSpec, Spanned};
use super::recording::compile_recording;
use super::{Report, relation_globs};
use crate::compiled::{Rule, Scope};
use crate::glob::Glob;
use crate::mask::MaskedUse;

pub(super) fn compile_rule(
    spec: &RuleSpec,
    written: &Spanned<Vec<SqlEffect>>,
    report: &mut Report<'_>,
) -> Rule {
    let never = |what: &str| format!("rule {:?} can never match: {what}", spec.name.value);
    if written.value.is_empty() {
        report.add(
            written.referenced.line(),
            never("it names no effect"),
            format!("effects are: {}", all_effects()),
        );
    }
    let effects: EffectSet = written.value.iter().copied().collect();
    if effects.contains(SqlEffect::Unknown) && spec.action == Effect::Allow {
        let mend = "what can't be told is answered by the target's `unknown`";
        report.add(
            written.referenced.line(),
            never("no rule can allow `unknown`"),
            mend,
        );
    }
    let relations = spec
        .relations
        .as_ref()
        .map(|written| relation_globs(written, || never("`relations` is empty"), report));
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
            written.referenced.line(),
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
            written.referenced.line(),
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
        scope: compile_scope(spec, effects, report),
        masked: compile_masked(spec, report),
        action: spec.action,
        message: spec.message.as_deref().map(Arc::from),
        recording: spec.recording.as_ref().map(|recording| {
            compile_recording(recording, Protocol::Postgres, spec.name.referenced.line(), report)
        }),
    }
}

/// What narrows a rule to statements that touch much.
fn compile_scope(spec: &RuleSpec, effects: EffectSet, report: &mut Report<'_>) -> Scope {
    let never = |what: &str| format!("rule {:?} can never match: {what}", spec.name.value);
    let row_effects = [
        SqlEffect::Read,
        SqlEffect::Update,
        SqlEffect::Delete,
        SqlEffect::Truncate,
    ];
    let about_rows = row_effects.iter().any(|effect| effects.contains(*effect));
    let fields = [
        (
            "where",
            spec.conditions.as_ref().map(|written| written.referenced.line()),
        ),
        (
            "rows",
            spec.rows.as_ref().map(|written| written.referenced.line()),
        ),
        (
            "limit",
            spec.limit.as_ref().map(|written| written.referenced.line()),
        ),
        (
            "statements",
            spec.statements.as_ref().map(|written| written.referenced.line()),
        ),
    ];
    for (field, line) in fields {
        let Some(line) = line else { continue };
        if spec.action == Effect::Allow {
            report.add(
                line,
                format!(
                    "rule {:?} allows, and `{field}` only narrows what is forbidden",
                    spec.name.value
                ),
                format!("leave `{field}` out, and forbid the rest by a rule with `action: Deny` that has it"),
            );
        }
        if matches!(field, "where" | "rows") && !about_rows {
            report.add(
                line,
                never(&format!(
                    "`{field}` is about read, update, delete and truncate, none of which it names"
                )),
                "add one of them to its effects",
            );
        }
        if field == "limit" && !effects.contains(SqlEffect::Read) {
            report.add(
                line,
                never("`limit` is about read, which isn't among its effects"),
                "add the effect `read`",
            );
        }
    }
    if let Some(written) = &spec.conditions {
        if written.value.is_empty() {
            report.add(
                written.referenced.line(),
                never("`where` is empty"),
                "name Missing, ConstantTrue or both",
            );
        }
        let only_truncate = about_rows
            && row_effects
                .iter()
                .take(3)
                .all(|effect| !effects.contains(*effect));
        if only_truncate && !written.value.contains(&Condition::Missing) {
            report.add(
                written.referenced.line(),
                never("a TRUNCATE has no condition that could be true"),
                "name Missing",
            );
        }
    }
    if let Some(written) = spec
        .statements
        .as_ref()
        .filter(|written| written.value.above == 0)
    {
        report.add(
            written.referenced.line(),
            format!(
                "rule {:?} narrows nothing: every text has more than 0 statements",
                spec.name.value
            ),
            "leave `statements` out, or write 1 for texts of several",
        );
    }
    Scope {
        conditions: spec.conditions.as_ref().map(|written| written.value.clone()),
        rows_above: spec.rows.as_ref().map(|written| written.value.above),
        without_limit: spec.limit.is_some(),
        statements_above: spec.statements.as_ref().map(|written| written.value.above),
    }
}

fn compile_masked(spec: &RuleSpec, report: &mut Report<'_>) -> Vec<MaskedUse> {
    let Some(masked) = &spec.masked else {
        return Vec::new();
    };
    let line = masked.referenced.line();
    if spec.action != Effect::Allow {
        report.add(
            line,
            format!(
                "rule {:?} has `masked`, which only widens what is allowed",
                spec.name.value
            ),
            "leave `masked` out: without a rule that allows it every such use is denied",
        );
    }
    if masked.value.is_empty() {
        report.add(
            line,
            format!(
                "rule {:?}: `masked` is empty, so that it allows nothing",
                spec.name.value
            ),
            format!(
                "uses are: {}",
                MaskedUse::ALL
                    .into_iter()
                    .filter(|kind| kind.may_be_allowed())
                    .map(MaskedUse::as_str)
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        );
    }
    if let Some(kind) = masked.value.iter().find(|kind| !kind.may_be_allowed()) {
        let (why, mend) = if *kind == MaskedUse::Copy {
            (
                "what COPY writes to a file or program isn't masked",
                "select what is needed instead",
            )
        } else {
            (
                "rows of FETCH and EXECUTE can't be masked",
                "leave it out, and run the query itself, whose rows are masked",
            )
        };
        report.add(
            line,
            format!(
                "rule {:?} can never allow `masked: [{kind}]`: {why}",
                spec.name.value
            ),
            mend,
        );
    }
    let unseen = [MaskedUse::Function, MaskedUse::Define];
    if spec.relations.is_some()
        && let Some(kind) = masked.value.iter().find(|kind| unseen.contains(kind))
    {
        report.add(
            line,
            format!(
                "rule {:?} can never allow `masked: [{kind}]`: what is read so isn't known, so `relations` can't bound it",
                spec.name.value
            ),
            "allow it in a rule without `relations`",
        );
    }
    masked.value.clone()
}

/// Rules of one policy that others leave nothing to do.
pub(super) fn check_reach(rules: &[(Rule, u64)], report: &mut Report<'_>) {
    for (place, (rule, line)) in rules.iter().enumerate() {
        let line = *line;
        if rules
            .iter()
            .take(place)
            .any(|(earlier, _)| earlier.name == rule.name)
        {
            report.add(
                line,
                format!("rule {:?} is defined twice", rule.name),
                "give one another name",
            );
        }
        let hidden = rules.iter().enumerate().find(|(other, (stricter, _))| {
            *other != place
                && stricter.action < rule.action
                && rule
                    .effects
                    .iter()
                    .all(|effect| stricter.effects.contains(effect))
                && covers_names(stricter.relations.as_deref(), rule.relations.as_deref())
                && stricter.functions.is_none()
                && stricter.scope == Scope::default()
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
