//! From an operation to a verdict.
//!
//! For one hop: the strictest of the rules that match, or the target's default for what no rule allows. A Deny or
//! RequireApproval rule matches a statement that does *any* of what it names; an Allow rule only covers what it names, and
//! a statement is allowed if Allow rules together cover every effect on every relation. For the chain: the strictest hop.

use std::sync::Arc;

use bailiff_model::{
    Chain, Effect, EffectSet, Mode, Reason, RecordingLevel, RelationRef, SqlEffect, Statement,
};

use crate::algebra::{Judged, strictest};
use crate::classify::{Classified, Settings};
use crate::compiled::{Policy, PolicySet, Rule, Target};
use crate::glob::Glob;
use crate::mask::{self, Known, MaskPlan, MaskedColumn};
use crate::permit::{DialPermit, Permit};

/// Why something isn't allowed, for the client and the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// What the client may read.
    pub message: Arc<str>,
    /// Which policy, rule and hop.
    pub reason: Reason,
}

/// A decision. Made only by a [`ChainPolicy`].
#[derive(Debug)]
pub struct Ruling {
    effect: Effect,
    reason: Reason,
    denial: Option<Denial>,
    observed: Option<(Effect, Reason)>,
    effects: EffectSet,
    mask_plan: Option<Arc<MaskPlan>>,
    recording: RecordingLevel,
    moves_search_path: bool,
    generation: u64,
}

impl Ruling {
    /// Leave to pass one such operation on, where it's allowed.
    pub fn permit(&self) -> Option<Permit> {
        // RequireApproval: nobody can approve yet, and uncertainty denies.
        (self.effect == Effect::Allow).then(Permit::grant)
    }

    /// Why it isn't allowed, where it isn't.
    #[must_use]
    pub fn denial(&self) -> Option<&Denial> {
        self.denial.as_ref()
    }

    /// What was decided.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.effect
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> &Reason {
        &self.reason
    }

    /// What policies in Observe mode would have decided, where that is stricter.
    #[must_use]
    pub fn observed(&self) -> Option<&(Effect, Reason)> {
        self.observed.as_ref()
    }

    /// What the operation does.
    #[must_use]
    pub fn effects(&self) -> EffectSet {
        self.effects
    }

    /// How its result is masked.
    #[must_use]
    pub fn mask_plan(&self) -> Option<&Arc<MaskPlan>> {
        self.mask_plan.as_ref()
    }

    /// How much of it is recorded.
    #[must_use]
    pub fn recording(&self) -> RecordingLevel {
        self.recording
    }

    /// Whether unqualified names may mean something else after it.
    #[must_use]
    pub fn moves_search_path(&self) -> bool {
        self.moves_search_path
    }

    /// The load of policies that it rests on.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

/// The policies that are about one chain at one target.
#[derive(Debug, Clone)]
pub struct ChainPolicy {
    target: Arc<Target>,
    generation: u64,
    /// For each hop, from the origin to the caller.
    hops: Vec<Vec<Arc<Policy>>>,
    masked: Vec<MaskedColumn>,
    recording: RecordingLevel,
}

impl PolicySet {
    /// Picks the policies that are about a chain at a target. Done once a connection and again after a reload.
    #[must_use]
    pub fn for_chain(&self, target: &Arc<Target>, chain: &Chain) -> ChainPolicy {
        let hops: Vec<Vec<Arc<Policy>>> = chain
            .hops()
            .iter()
            .map(|hop| {
                self.policies
                    .iter()
                    .filter(|policy| policy.is_about(&target.name, hop))
                    .cloned()
                    .collect()
            })
            .collect();
        let all = || {
            hops.iter()
                .flatten()
                .filter(|policy| policy.mode == Mode::Enforce)
        };
        let mut masked: Vec<MaskedColumn> = all().flat_map(|policy| policy.masks.iter().cloned()).collect();
        masked.sort_by(|a, b| (&a.schema, &a.table, &a.column).cmp(&(&b.schema, &b.table, &b.column)));
        masked.dedup();
        let recording = all().map(|policy| policy.recording).max().unwrap_or_default();
        ChainPolicy {
            target: Arc::clone(target),
            generation: self.generation,
            hops,
            masked,
            recording,
        }
    }
}

impl ChainPolicy {
    /// The load of policies that it rests on.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether any column is masked for this chain.
    #[must_use]
    pub fn masks_in_force(&self) -> bool {
        !self.masked.is_empty()
    }

    /// Whether the target may be dialed at all: not where no rule could allow anything to some hop.
    pub fn connect(&self) -> Result<DialPermit, Denial> {
        for (hop, policies) in self.hops.iter().enumerate() {
            let may = self.target.default == Effect::Allow
                || policies.iter().any(|policy| {
                    policy.mode == Mode::Enforce
                        && policy.rules.iter().any(|rule| rule.action != Effect::Deny)
                });
            if !may {
                let reason = Reason {
                    policy: None,
                    rule: None,
                    hop,
                    message: Arc::from("no policy allows anything here"),
                };
                return Err(Denial {
                    message: Arc::from("access to this database is denied by policy"),
                    reason,
                });
            }
        }
        Ok(DialPermit::grant(self.target.name.clone()))
    }

    /// Decides a text's statements together: all must be allowed, and masks must hold for each.
    #[must_use]
    pub fn decide_sql(&self, classified: &Classified, settings: &Settings) -> Arc<Ruling> {
        let judge = |mode: Mode| {
            strictest(classified.statements().iter().flat_map(|statement| {
                self.hops
                    .iter()
                    .enumerate()
                    .map(move |(hop, policies)| self.judge_hop(statement, hop, policies, mode, settings))
            }))
        };
        let nothing = || Judged {
            effect: Effect::Allow,
            because: self.by_default(0, "nothing is done"),
        };
        let mut judged = judge(Mode::Enforce).unwrap_or_else(nothing);
        let watched = judge(Mode::Observe);
        let mut mask_plan = None;
        if judged.effect == Effect::Allow {
            // Where the session may have moved its search_path, no name is vouched for.
            let search_path = if settings.search_path_trusted {
                self.target.search_path.as_slice()
            } else {
                &[]
            };
            let known = Known {
                plain: &self.target.plain_relations,
                search_path,
            };
            match mask::plan(classified, &self.masked, &known) {
                Ok(plan) => mask_plan = plan.map(Arc::new),
                Err(why) => {
                    let message = format!("the statement may read a masked column: {why}");
                    judged = Judged {
                        effect: Effect::Deny,
                        because: self.by_default(0, &message),
                    };
                }
            }
        }
        Arc::new(self.ruling(
            judged,
            watched,
            classified.effects(),
            mask_plan,
            classified.moves_search_path(),
        ))
    }

    /// Decides an operation of which can't be told what it does.
    #[must_use]
    pub fn decide_unknown(&self, settings: &Settings) -> Arc<Ruling> {
        let statement = Statement {
            effects: EffectSet::EMPTY.with(SqlEffect::Unknown),
            ..Statement::default()
        };
        let strict = Judged {
            effect: if self.masked.is_empty() {
                self.target.unknown
            } else {
                Effect::Deny
            },
            because: self.by_default(
                0,
                "it can't be told what this does, and the target's answer to that is strict",
            ),
        };
        // Only what forbids counts: no rule can allow what isn't known.
        let forbidden = self.hops.iter().enumerate().filter_map(|(hop, policies)| {
            let judged = self.judge_hop(&statement, hop, policies, Mode::Enforce, settings);
            (judged.because.rule.is_some() && judged.effect != Effect::Allow).then_some(judged)
        });
        let judged = strictest(std::iter::once(strict.clone()).chain(forbidden)).unwrap_or(strict);
        Arc::new(self.ruling(judged, None, statement.effects, None, true))
    }

    fn ruling(
        &self,
        judged: Judged<Reason>,
        watched: Option<Judged<Reason>>,
        effects: EffectSet,
        mask_plan: Option<Arc<MaskPlan>>,
        moves_search_path: bool,
    ) -> Ruling {
        let Judged {
            effect,
            because: reason,
        } = judged;
        let message = match effect {
            Effect::Allow => None,
            Effect::Deny => Some(Arc::clone(&reason.message)),
            Effect::RequireApproval => Some(Arc::from(format!(
                "{} (it needs an approval, and none can be given yet)",
                reason.message
            ))),
        };
        let observed = watched.filter(|watched| watched.effect < effect && watched.because.rule.is_some());
        Ruling {
            effect,
            denial: message.map(|message| Denial {
                message,
                reason: reason.clone(),
            }),
            reason,
            observed: observed.map(|watched| (watched.effect, watched.because)),
            effects,
            mask_plan,
            recording: self.recording,
            moves_search_path,
            generation: self.generation,
        }
    }

    fn by_default(&self, hop: usize, message: &str) -> Reason {
        Reason {
            policy: None,
            rule: None,
            hop,
            message: Arc::from(message),
        }
    }

    fn judge_hop(
        &self,
        statement: &Statement,
        hop: usize,
        policies: &[Arc<Policy>],
        mode: Mode,
        settings: &Settings,
    ) -> Judged<Reason> {
        let rules = || {
            policies
                .iter()
                .filter(|policy| policy.mode == mode)
                .flat_map(|policy| policy.rules.iter().map(move |rule| (policy, rule)))
        };
        let because = |policy: &Policy, rule: &Rule| Reason {
            policy: Some(Arc::clone(&policy.name)),
            rule: Some(Arc::clone(&rule.name)),
            hop,
            message: rule
                .message
                .clone()
                .unwrap_or_else(|| Arc::from(format!("denied by policy {}", policy.name))),
        };
        let forbidding = strictest(
            rules()
                .filter(|(_, rule)| rule.action != Effect::Allow && rule.touches(statement))
                .map(|(policy, rule)| Judged {
                    effect: rule.action,
                    because: because(policy, rule),
                }),
        );
        if let Some(judged) = forbidding {
            return judged;
        }
        let path: &[String] = if settings.search_path_trusted {
            &self.target.search_path
        } else {
            &[]
        };
        let allowing: Vec<_> = rules().filter(|(_, rule)| rule.action == Effect::Allow).collect();
        let mut by = None;
        for (effect, relation) in parts(statement) {
            match allowing
                .iter()
                .find(|(_, rule)| rule.covers(statement, effect, relation, path))
            {
                Some((policy, rule)) => by = Some(because(policy, rule)),
                None => {
                    let what = match relation {
                        Some(relation) => format!("no rule allows {effect} of {relation}"),
                        None => format!("no rule allows {effect}"),
                    };
                    let message = if self.target.default == Effect::Allow {
                        "allowed by default"
                    } else {
                        what.as_str()
                    };
                    return Judged {
                        effect: self.target.default,
                        because: self.by_default(hop, message),
                    };
                }
            }
        }
        Judged {
            effect: Effect::Allow,
            because: by.unwrap_or_else(|| self.by_default(hop, "nothing is done")),
        }
    }
}

/// What a statement does, each effect with each relation that it may be about.
fn parts(statement: &Statement) -> impl Iterator<Item = (SqlEffect, Option<&RelationRef>)> {
    statement.effects.iter().flat_map(move |effect| {
        let relations: &[RelationRef] = match effect {
            SqlEffect::Read => &statement.reads,
            SqlEffect::Insert
            | SqlEffect::Update
            | SqlEffect::Delete
            | SqlEffect::Truncate
            | SqlEffect::Create
            | SqlEffect::Alter
            | SqlEffect::Drop => &statement.writes,
            SqlEffect::Grant
            | SqlEffect::Execute
            | SqlEffect::Copy
            | SqlEffect::Set
            | SqlEffect::Transaction
            | SqlEffect::Unknown => &[],
        };
        let none = relations.is_empty().then_some((effect, None));
        relations
            .iter()
            .map(move |relation| (effect, Some(relation)))
            .chain(none)
    })
}

impl Rule {
    /// Whether a statement does any of what the rule names. A name without a schema may be in any.
    fn touches(&self, statement: &Statement) -> bool {
        let effects = parts(statement).any(|(effect, relation)| {
            self.effects.contains(effect)
                && match (&self.relations, relation) {
                    (None, _) => true,
                    (Some(globs), Some(relation)) => globs.iter().any(|glob| may_match(glob, relation)),
                    // An effect without relations, in a rule about relations: any relation of the statement counts.
                    (Some(globs), None) => statement
                        .reads
                        .iter()
                        .chain(&statement.writes)
                        .any(|r| globs.iter().any(|glob| may_match(glob, r))),
                }
        });
        effects
            && self.functions.as_ref().is_none_or(|globs| {
                statement
                    .functions
                    .iter()
                    .any(|function| globs.iter().any(|glob| glob.matches(&function.name)))
            })
    }

    /// Whether the rule allows this effect on this relation. A name without a schema is looked for in `path`, and must be
    /// allowed in every schema there.
    fn covers(
        &self,
        statement: &Statement,
        effect: SqlEffect,
        relation: Option<&RelationRef>,
        path: &[String],
    ) -> bool {
        self.effects.contains(effect)
            && match (&self.relations, relation) {
                (None, _) | (Some(_), None) => true,
                (Some(globs), Some(relation)) => surely_matches(globs, relation, path),
            }
            && self.functions.as_ref().is_none_or(|globs| {
                effect != SqlEffect::Execute
                    || statement
                        .functions
                        .iter()
                        .all(|function| globs.iter().any(|glob| glob.matches(&function.name)))
            })
    }
}

fn may_match((schema, name): &(Glob, Glob), relation: &RelationRef) -> bool {
    name.matches(&relation.name) && relation.schema.as_ref().is_none_or(|found| schema.matches(found))
}

fn surely_matches(globs: &[(Glob, Glob)], relation: &RelationRef, path: &[String]) -> bool {
    let in_schema = |schema: &str| {
        globs
            .iter()
            .any(|(s, name)| s.matches(schema) && name.matches(&relation.name))
    };
    match relation.schema.as_deref() {
        Some(schema) => in_schema(schema),
        // pg_catalog is searched before anything else.
        None if relation.name.starts_with("pg_") => in_schema("pg_catalog"),
        None => {
            globs
                .iter()
                .any(|(schema, name)| schema.is_any() && name.matches(&relation.name))
                || (!path.is_empty() && path.iter().all(|schema| in_schema(schema)))
        }
    }
}
