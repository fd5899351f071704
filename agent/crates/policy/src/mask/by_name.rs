//! Plans without the server's catalog: by names, and by the stricter answer wherever names don't tell.

use std::sync::Arc;

use bailiff_model::{EffectSet, RelationRef, SqlEffect};

use super::{Known, MaskAction, MaskPlan, MaskedColumn, Planned, Refusal, Unresolved};
use crate::classify::{Classified, Output, Shape, any_relation, is_catalog};
use crate::glob::Glob;

/// How a statement's result is masked, by names.
#[derive(Debug, Clone)]
pub(super) struct Named {
    /// For each entry of the select list: a star, or what is done to the column. `None` where the result is proven to be
    /// independent of what is masked, so that only texts are hidden.
    pub(super) entries: Option<Vec<Entry>>,
    /// Names of masked columns, for what a star stands for.
    pub(super) by_name: Vec<(Glob, MaskAction)>,
}

impl Named {
    /// Matches the plan with the columns that the server told: name, table and number in the table.
    pub(super) fn resolve(
        &self,
        fields: &[(&[u8], u32, i16)],
    ) -> Result<Vec<Option<MaskAction>>, Unresolved> {
        let Some(entries) = &self.entries else {
            return Ok(fields.iter().map(|(name, _, _)| self.named(name)).collect());
        };
        let stars = entries.iter().filter(|entry| **entry == Entry::Star).count();
        if stars == 0 && fields.len() != entries.len() {
            return Err(Unresolved);
        }
        // Entries before the first star and after the last are told by their place, what is between by its name.
        let head: Vec<_> = entries.iter().map_while(Entry::placed).collect();
        let tail: Vec<_> = if stars == 0 {
            Vec::new()
        } else {
            entries.iter().rev().map_while(Entry::placed).collect()
        };
        if fields.len() < head.len() + tail.len() {
            return Err(Unresolved);
        }
        let between = fields.len() - tail.len();
        let strictest = self.by_name.iter().map(|(_, action)| *action).max();
        Ok(fields
            .iter()
            .enumerate()
            .map(|(place, (name, table_oid, _))| {
                let entry = match head.get(place) {
                    Some(entry) => *entry,
                    None if place >= between => {
                        tail.get(fields.len() - 1 - place).copied().unwrap_or(Entry::Star)
                    }
                    None => Entry::Star,
                };
                let placed = match entry {
                    Entry::Column(Some(action)) => Some(action),
                    // What comes from no table is no column.
                    Entry::MaybeRow if *table_oid == 0 => strictest,
                    Entry::MaybeRow | Entry::Column(None) | Entry::Expression | Entry::Star => None,
                };
                // By name as well, wherever it stands: masking more than must be is safe.
                placed.or_else(|| self.named(name))
            })
            .collect())
    }

    /// Whether values of its result may have to be masked. Where not, the result is proven to be independent of what is masked.
    pub(super) fn masks_rows(&self) -> bool {
        self.entries.as_ref().is_some_and(|entries| {
            entries
                .iter()
                .any(|entry| matches!(entry, Entry::Star | Entry::MaybeRow | Entry::Column(Some(_))))
        })
    }

    fn named(&self, name: &[u8]) -> Option<MaskAction> {
        self.by_name
            .iter()
            .filter(|(masked, _)| std::str::from_utf8(name).is_ok_and(|name| masked.matches(name)))
            .map(|(_, action)| *action)
            .max()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Star,
    Column(Option<MaskAction>),
    /// A column that isn't masked, or a function of the whole row: `p.f` may be f(p).
    MaybeRow,
    Expression,
}

impl Entry {
    /// The entry, where its place in the result is its place in the list.
    fn placed(&self) -> Option<Self> {
        (*self != Self::Star).then_some(*self)
    }
}

/// Relations of the catalog that hold values of tables or texts of statements.
pub(super) const TELLING: &[&str] = &[
    "pg_authid",
    "pg_cursors",
    "pg_largeobject",
    "pg_prepared_statements",
    "pg_shadow",
    "pg_stat_activity",
    "pg_stat_statements",
    "pg_statistic",
    "pg_statistic_ext_data",
    "pg_stats",
    "pg_stats_ext",
    "pg_stats_ext_exprs",
    "pg_user_mapping",
    "pg_user_mappings",
    "pg_replication_slots",
];

/// Plans the masks of a text, or says why it may read a masked column in a way that can't be masked. `None` where no masked
/// table is touched.
pub(super) fn plan(
    classified: &Classified,
    masked: &[MaskedColumn],
    known: &Known<'_>,
) -> Result<Option<MaskPlan>, Refusal> {
    let Some(first) = masked.first() else {
        return Ok(None);
    };
    let refuse = |column: &MaskedColumn, why: String| Refusal {
        why,
        policy: Arc::clone(&column.policy),
    };
    let opaque: EffectSet = [
        SqlEffect::Execute,
        SqlEffect::Unknown,
        SqlEffect::Create,
        SqlEffect::Alter,
    ]
    .into_iter()
    .collect();
    let mut plan: Option<Named> = None;
    for (statement, shape) in classified.statements().iter().zip(classified.shapes()) {
        if let Some(effect) = statement.effects.iter().find(|effect| opaque.contains(*effect)) {
            return Err(refuse(
                first,
                format!("what it does ({effect}) may read masked columns unseen"),
            ));
        }
        let touched: Vec<&RelationRef> = statement.reads.iter().chain(&statement.writes).collect();
        for relation in &touched {
            let is_masked = masked.iter().any(|column| names(relation, column));
            if !is_masked && !is_vouched(relation, known) {
                return Err(refuse(
                    first,
                    format!(
                        "{relation} may be a view of masked columns; if it isn't, list it in the target's plainRelations"
                    ),
                ));
            }
        }
        let here: Vec<&MaskedColumn> = masked
            .iter()
            .filter(|column| touched.iter().any(|relation| names(relation, column)))
            .collect();
        let Some(about) = here.first() else {
            continue;
        };
        let found = plan_one(shape, &here).map_err(|why| refuse(about, why))?;
        if classified.statements().len() > 1 && found.entries.is_some() {
            return Err(refuse(
                about,
                "it is one of several statements in one text; send it alone".to_owned(),
            ));
        }
        match &mut plan {
            Some(plan) => plan.by_name.extend(found.by_name),
            None => plan = Some(found),
        }
    }
    Ok(plan.map(|plan| MaskPlan(Planned::Names(plan))))
}

fn plan_one(shape: &Shape, here: &[&MaskedColumn]) -> Result<Named, String> {
    let by_name = here
        .iter()
        .map(|column| (column.column.clone(), column.action))
        .collect();
    for column in here {
        if shape.used.iter().any(|name| column.column.matches(name)) {
            return Err(format!(
                "{} is used other than as a plain column of the result",
                column
            ));
        }
    }
    let Some(first) = here.first() else {
        return Ok(Named {
            entries: None,
            by_name,
        });
    };
    if shape.unnamed_use {
        return Err(format!(
            "{} may be used by a *, a NATURAL JOIN or a renamed column",
            first
        ));
    }
    if shape.used.iter().any(|name| shape.row_names.contains(name)) {
        return Err(format!("a whole row that holds {} may be used", first));
    }
    let Some(outputs) = &shape.outputs else {
        // No result with plain columns: an UPDATE, or a UNION of other columns only.
        return Ok(Named {
            entries: None,
            by_name,
        });
    };
    let action = |name: &str| {
        here.iter()
            .filter(|column| column.column.matches(name))
            .map(|column| column.action)
            .max()
    };
    let mut entries = Vec::with_capacity(outputs.len());
    for output in outputs {
        entries.push(match output {
            Output::Star => Entry::Star,
            Output::Expression => Entry::Expression,
            Output::Column {
                name,
                alias,
                qualified,
            } => {
                if shape.row_names.contains(name) && action(name).is_none() {
                    return Err(format!("{name} may be a whole row that holds {}", first));
                }
                let found = action(name);
                if found.is_some() && alias.as_ref().is_some_and(|alias| shape.used.contains(alias)) {
                    return Err(format!("{} is used under another name", first));
                }
                if found.is_none() && *qualified {
                    Entry::MaybeRow
                } else {
                    Entry::Column(found)
                }
            }
        });
    }
    let masks_something = entries
        .iter()
        .any(|entry| matches!(entry, Entry::Star | Entry::Column(Some(_))));
    if shape.positions && masks_something {
        return Err(format!("{} may be used by its position", first));
    }
    // Only stars before, between or behind which nothing masked stands by place alone can be told apart.
    let first_star = entries.iter().position(|entry| *entry == Entry::Star);
    let last_star = entries.iter().rposition(|entry| *entry == Entry::Star);
    if let (Some(from), Some(to)) = (first_star, last_star) {
        let hidden = entries
            .get(from..to)
            .unwrap_or_default()
            .iter()
            .zip(outputs.get(from..to).unwrap_or_default());
        if hidden.into_iter().any(|(entry, output)| {
            matches!(entry, Entry::Column(Some(_))) && matches!(output, Output::Column { alias: Some(_), .. })
        }) {
            return Err(format!("{} stands between two * under another name", first));
        }
    }
    let only_expressions = entries.iter().all(|entry| *entry == Entry::Expression);
    Ok(Named {
        entries: (!only_expressions).then_some(entries),
        by_name,
    })
}

/// Whether a relation may be a masked column's table. Without a schema it may be in any.
fn names(relation: &RelationRef, column: &MaskedColumn) -> bool {
    *relation == any_relation()
        || column.table.matches(&relation.name)
            && relation
                .schema
                .as_ref()
                .is_none_or(|schema| column.schema.matches(schema))
}

pub(super) fn is_vouched(relation: &RelationRef, known: &Known<'_>) -> bool {
    let name = relation.name.as_str();
    let vouched_in = |schema: &str| {
        known
            .plain
            .iter()
            .any(|(s, n)| s.matches(schema) && n.matches(name))
    };
    match relation.schema.as_deref() {
        Some("pg_catalog") => !TELLING.contains(&name),
        Some("information_schema") => true,
        Some(schema) => vouched_in(schema),
        // Only where the search_path is known is pg_catalog sure to come first.
        None if is_catalog(name) && !known.search_path.is_empty() => !TELLING.contains(&name),
        None => !known.search_path.is_empty() && known.search_path.iter().all(|schema| vouched_in(schema)),
    }
}
