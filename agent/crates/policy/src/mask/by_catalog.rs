//! Plans with the server's catalog: the data is followed through the statement.

use std::sync::{Arc, Mutex, PoisonError};

use bailiff_model::{SqlEffect, Statement};

use super::flow::{self, Found, MaskedUse, Output, Source, Stop, Used};
use super::{Known, MaskAction, MaskPlan, MaskedColumn, Planned, Refusal, Secrets, Unresolved, ValueType};
use crate::catalog::{Catalog, Names};
use crate::classify::{Classified, Compact, CopyOut};

/// How a statement's result is masked, by what its columns come from.
#[derive(Debug, Clone)]
pub(super) struct Followed {
    /// The result's columns; `None` where there is no result, or there are several, none of which depends on what is masked.
    outputs: Option<Vec<Output>>,
    /// Whether the statement touches anything masked.
    touches: bool,
    /// Whether it runs code that can't be seen.
    runs: bool,
    secrets: Arc<Secrets>,
}

/// A use of a masked column that a rule has to allow.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) kind: MaskedUse,
    /// The column's schema and table, where one is known.
    pub(crate) relation: Option<(&'a str, &'a str)>,
    /// The statement.
    pub(crate) statement: &'a Statement,
}

impl Followed {
    pub(super) fn touches(&self) -> bool {
        self.touches
    }

    pub(super) fn runs_unseen(&self) -> bool {
        self.runs
    }

    pub(super) fn masks_rows(&self) -> bool {
        self.outputs.is_some()
    }

    pub(super) fn resolve(
        &self,
        fields: &[(&[u8], u32, i16)],
    ) -> Result<Vec<Option<MaskAction>>, Unresolved> {
        let outputs = self.outputs.as_deref().ok_or(Unresolved)?;
        let planned = placed(outputs, fields.len())?;
        let both = planned.into_iter().zip(fields);
        // What comes straight from a masked column is masked, too, whatever the plan says.
        let with_own = both.map(|(planned, (_, table, number))| {
            let own = self.secrets.by_number(*table, *number);
            planned.action.max(own)
        });
        Ok(with_own.collect())
    }

    pub(super) fn resolve_copy(
        &self,
        columns: usize,
    ) -> Result<Vec<Option<(MaskAction, ValueType)>>, Unresolved> {
        let outputs = self.outputs.as_deref().ok_or(Unresolved)?;
        let with_type = |output: Output| Some((output.action?, self.value_type(output.type_oid)));
        Ok(placed(outputs, columns)?.into_iter().map(with_type).collect())
    }

    pub(super) fn value_type(&self, oid: u32) -> ValueType {
        ValueType::of(self.secrets.catalog(), oid)
    }
}

/// What is done to each of so many columns.
fn placed(outputs: &[Output], count: usize) -> Result<Vec<Output>, Unresolved> {
    let first = outputs.iter().position(|output| output.many);
    let last = outputs.iter().rposition(|output| output.many);
    let (Some(first), Some(last)) = (first, last) else {
        if outputs.len() != count {
            // Uncertainty denies: what stands in which place isn't known.
            return Err(Unresolved);
        }
        return Ok(outputs.to_vec());
    };
    let (head, rest) = outputs.split_at(first);
    let (between, tail) = rest.split_at(last + 1 - first);
    let middle = count.checked_sub(head.len() + tail.len()).ok_or(Unresolved)?;
    let strictest = Output {
        action: between.iter().filter_map(|output| output.action).max(),
        many: false,
        type_oid: 0,
    };
    Ok([head, &vec![strictest; middle], tail].concat())
}

/// Whether a statement gives rows of what an earlier one left behind.
fn draws(compact: Option<&Compact>) -> bool {
    let node = compact.and_then(|compact| compact.root.node());
    node.is_some_and(|node| node.kind == "FetchStmt")
}

/// Depth of a tree, in nodes, from which on it is followed on a larger stack.
const DEEP: usize = 96;

pub(super) fn plan(
    classified: &Classified,
    masked: &Arc<[MaskedColumn]>,
    known: &Known<'_>,
    names: &Names,
    cache: &SecretsCache,
    permits: &dyn Fn(&Asked<'_>) -> bool,
) -> Result<Option<MaskPlan>, Refusal> {
    let Some(first) = masked.first() else {
        return Ok(None);
    };
    let secrets = cache.get(names.catalog(), masked);
    if secrets.is_empty() {
        return Ok(None); // The database has no such column.
    }
    let mut touches = false;
    let mut runs = false;
    let mut result = None;
    for (place, statement) in classified.statements().iter().enumerate() {
        let compact = classified.compact(place);
        let found = follow(statement, compact, &secrets, names, known).map_err(|Stop(why)| Refusal {
            why,
            policy: Arc::clone(&first.policy),
        })?;
        let denied = found
            .uses
            .iter()
            .filter(|used| !is_permitted(used, statement, &secrets, permits));
        let denied: Vec<&Used> = denied.collect();
        // What no rule can allow is said first.
        let worst = denied.iter().find(|used| !used.kind.may_be_allowed());
        if let Some(used) = worst.or(denied.first()) {
            let mut kinds: Vec<&str> = denied.iter().map(|used| used.kind.as_str()).collect();
            kinds.sort_unstable();
            kinds.dedup();
            return Err(refused(used, &kinds.join(", "), &secrets, first));
        }
        touches |= found.touches;
        runs |= found.runs;
        let Some(outputs) = found.outputs else { continue };
        let alone = classified.statements().len() == 1;
        if outputs.iter().any(|output| output.action.is_some()) {
            touches = true;
            if !alone {
                return Err(Refusal {
                    why: "it is one of several statements in one text; send it alone".to_owned(),
                    policy: Arc::clone(&first.policy),
                });
            }
            if *classified.copy_out() == CopyOut::Unknown {
                return Err(Refusal {
                    why: "how its COPY writes rows can't be told: an option or encoding of it can't be read past"
                        .to_owned(),
                    policy: Arc::clone(&first.policy),
                });
            }
            result = Some(outputs);
        } else if alone && found.touches {
            result = Some(outputs);
        } else if alone && (!statement.reads.is_empty() || draws(compact)) {
            // The server says where columns come from; that is looked at, whatever the catalog says.
            result = Some(vec![Output {
                action: None,
                many: true,
                type_oid: 0,
            }]);
        }
    }
    Ok((touches || result.is_some()).then_some({
        MaskPlan(Planned::Catalog(Followed {
            outputs: result,
            touches,
            runs,
            secrets,
        }))
    }))
}

fn follow(
    statement: &Statement,
    compact: Option<&Compact>,
    secrets: &Secrets,
    names: &Names,
    known: &Known<'_>,
) -> Result<Found, Stop> {
    let followed = match compact {
        None => Err(Stop("it can't be told what it does".to_owned())),
        Some(compact) if compact.depth > DEEP => {
            flow::large_stack(|| flow::follow(&compact.root, secrets, names, known))
                .unwrap_or_else(|| Err(Stop("there is no room to follow it".to_owned())))
        }
        Some(compact) => flow::follow(&compact.root, secrets, names, known),
    };
    let Err(why) = followed else { return followed };
    // What can't be followed, but surely has nothing to do with anything masked, passes.
    let blind = [
        SqlEffect::Alter,
        SqlEffect::Create,
        SqlEffect::Execute,
        SqlEffect::Unknown,
    ];
    if !blind.iter().any(|effect| statement.effects.contains(*effect))
        && flow::touches_nothing(statement, secrets, names, known)
    {
        return Ok(Found::default());
    }
    Err(why)
}

fn is_permitted(
    used: &Used,
    statement: &Statement,
    secrets: &Secrets,
    permits: &dyn Fn(&Asked<'_>) -> bool,
) -> bool {
    let secret = secrets.get(used.source).filter(|_| used.source != Source::ANY);
    used.kind.may_be_allowed()
        && permits(&Asked {
            kind: used.kind,
            relation: secret.map(|secret| (&*secret.schema, &*secret.table)),
            statement,
        })
}

fn refused(used: &Used, kinds: &str, secrets: &Secrets, first: &MaskedColumn) -> Refusal {
    let secret = secrets.get(used.source).filter(|_| used.source != Source::ANY);
    let column = secret.map_or_else(|| first.to_string(), |secret| secret.name());
    let why = match used.kind {
        MaskedUse::Predicate => format!("which rows there are depends on {column}"),
        MaskedUse::Sort => format!("the order of rows depends on {column}"),
        MaskedUse::Group => format!("rows are compared by {column}"),
        MaskedUse::Write => format!("{column} is written"),
        MaskedUse::Move => format!("values of {column} are written to where they aren't masked"),
        MaskedUse::Compute => format!("something is computed from {column} that fails for some values"),
        MaskedUse::Function => format!(
            "{} may read {column} unseen",
            used.what.as_deref().unwrap_or("what it runs")
        ),
        MaskedUse::Keep => format!("a cursor or prepared statement would show {column}"),
        MaskedUse::Copy => format!("COPY would write {column} as it is to where the server runs"),
        MaskedUse::Measure => format!("it tells the size of what {column} holds"),
        MaskedUse::Define => format!(
            "what it makes or changes ({}) may show {column}",
            used.what.as_deref().unwrap_or("an object")
        ),
    };
    Refusal {
        why: if !used.kind.may_be_allowed() {
            format!("{why}, and no rule can allow that")
        } else {
            format!("{why}; a rule may allow it by `masked: [{kinds}]`")
        },
        policy: secret.map_or_else(|| Arc::clone(&first.policy), |secret| Arc::clone(&secret.policy)),
    }
}

/// Databases and sets of masks for which what is masked is kept.
const KEPT: usize = 64;

type Kept = (Arc<[MaskedColumn]>, Arc<Secrets>);

/// What was worked out for a catalog and a set of masks, shared by the sessions of a target.
#[derive(Debug, Default)]
pub(crate) struct SecretsCache {
    kept: Mutex<Vec<Kept>>,
}

impl SecretsCache {
    fn get(&self, catalog: &Arc<Catalog>, masked: &Arc<[MaskedColumn]>) -> Arc<Secrets> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |(masks, _): &&(Arc<[MaskedColumn]>, Arc<Secrets>)| {
            Arc::ptr_eq(masks, masked) || **masks == **masked
        };
        let found = kept
            .iter()
            .filter(same)
            .find(|(_, secrets)| secrets.catalog().has_same_definitions(catalog));
        if let Some((_, secrets)) = found {
            return Arc::clone(secrets);
        }
        let secrets = Arc::new(Secrets::new(Arc::clone(catalog), Arc::clone(masked)));
        // What was known of the database before isn't needed any more.
        kept.retain(|(masks, old)| **masks != **masked || old.catalog().database() != catalog.database());
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push((Arc::clone(masked), Arc::clone(&secrets)));
        secrets
    }
}
