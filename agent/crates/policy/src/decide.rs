//! From an operation to a verdict.
//!
//! For one hop: the strictest of the rules that match, or the target's default for what no rule allows. For the chain: the
//! strictest hop.
//!
//! **Deny and RequireApproval** match a statement that does *any* of what the rule names: one of the effects, on a relation
//! that may be one of the relations, with a function among the functions. A name without a schema may be in any schema. Code
//! that can't be seen (`DO`, `EXECUTE`) may call any function. What an approval lets pass is only what its rule covers, as below.
//!
//! **Allow** only covers what the rule names. A statement falls apart into pairs, and is allowed if each is covered by some
//! Allow rule that is about the hop: each row effect with each relation (`read` with those read; insert, update, delete,
//! truncate, create, alter, drop, grant and locks with those written; `copy` with all), and `execute` with each function that
//! isn't known to be pure. A name without a schema is covered where the rule covers it in *every* schema of the target's
//! `searchPath`, as long as the session has not moved its search_path; otherwise only by a rule for any schema (`*.name`).
//! A rule with `relations` doesn't cover a create, alter, drop or grant of something that is no relation (a function, a role), nor
//! `execute` unless the rule names functions too. CASCADE reaches any relation. `unknown` is covered by no rule: the target's
//! `unknown` answers it.

mod ruling;

use std::sync::Arc;

use bailiff_model::{
    Chain, Decision, Effect, EffectSet, Hop, HopKind, Mode, Protocol, Reason, Recording, SqlEffect, Statement,
};

use crate::algebra::{Judged, strictest};
use crate::api::Allowed;
use crate::api::fields::AllMasks;
use crate::api::rule::RequestMatch;
use crate::catalog::Names;
use crate::classify::{Classified, CopyOut, Lasting, PathMove, Settings, any_relation};
use crate::compiled::{About, Policy, PolicySet, Rule, Target};
use crate::connection::ConnectAs;
use crate::cover::{Around, parts};
use crate::detect::{DetectRule, Detection};
use crate::mask::{self, Asked, Known, MaskPlan, MaskedColumn, Refusal, SecretsCache};
use crate::path;
use crate::permit::DialPermit;

pub use ruling::{Denial, Ruling};

/// The policies that are about one chain at one target.
#[derive(Debug, Clone)]
pub struct ChainPolicy {
    pub(crate) target: Arc<Target>,
    generation: u64,
    /// For each hop, from the origin to the caller.
    pub(crate) hops: Vec<Vec<(Arc<Policy>, About)>>,
    /// For each hop, whether it is a pod that is only observed.
    watched: Vec<bool>,
    masked: Arc<[MaskedColumn]>,
    secrets: Arc<SecretsCache>,
    detect: Vec<DetectRule>,
    pub(crate) fields: AllMasks,
    /// Whether a rule has something that may stand in bodies of requests.
    pub(crate) asks_bodies: bool,
    pub(crate) recording: Recording,
    pub(crate) allowed: Allowed,
}

impl PolicySet {
    /// Picks the policies that are about a chain at a target. Done once a connection and again after a reload.
    #[must_use]
    pub fn for_chain(&self, target: &Arc<Target>, chain: &Chain) -> ChainPolicy {
        let mode = |hop: &Hop| match &hop.kind {
            HopKind::Pod { pod, .. } => pod.mode,
            HopKind::Unknown { .. } => Mode::Enforce,
        };
        let hops: Vec<Vec<(Arc<Policy>, About)>> = chain
            .hops()
            .iter()
            .map(|hop| {
                self.policies_in(mode(hop))
                    .iter()
                    .map(|policy| (Arc::clone(policy), policy.about(target, hop)))
                    .filter(|(_, about)| *about != About::Another)
                    .collect()
            })
            .collect();
        let all = || {
            hops.iter()
                .flatten()
                .map(|(policy, _)| policy)
                .filter(|policy| policy.mode == Mode::Enforce)
        };
        let mut masked: Vec<MaskedColumn> = all().flat_map(|policy| policy.masks.iter().cloned()).collect();
        masked.sort_by_cached_key(MaskedColumn::key);
        masked.dedup();
        let mut detect: Vec<DetectRule> = Vec::new();
        for rule in all().flat_map(|policy| &policy.detect) {
            if !detect.contains(rule) {
                detect.push(rule.clone());
            }
        }
        let mut fields = AllMasks::default();
        all().for_each(|policy| fields.extend(&policy.fields));
        let recording = all()
            .map(|policy| policy.recording)
            .reduce(Recording::join)
            .unwrap_or_default();
        let asks_bodies = hops
            .iter()
            .flatten()
            .flat_map(|(policy, _)| &policy.requests)
            .flat_map(|rule| &rule.requests)
            .any(RequestMatch::may_ask_body);
        ChainPolicy {
            target: Arc::clone(target),
            generation: self.generation,
            watched: chain
                .hops()
                .iter()
                .map(|hop| mode(hop) == Mode::Observe)
                .collect(),
            hops,
            masked: masked.into(),
            secrets: Arc::clone(&self.secrets),
            detect,
            fields,
            asks_bodies,
            recording,
            allowed: Allowed::default(),
        }
    }
}

impl ChainPolicy {
    /// The load of policies that it rests on.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether a hop is a pod that is only observed.
    pub(crate) fn is_watched(&self, hop: usize) -> bool {
        self.watched.get(hop).copied().unwrap_or_default()
    }

    /// What happens at a hop to what no rule names.
    pub(crate) fn default_at(&self, hop: usize, mode: Mode) -> Effect {
        match mode {
            Mode::Enforce if self.is_watched(hop) => Effect::Allow,
            Mode::Enforce | Mode::Observe => self.target.default,
        }
    }

    /// What happens at a hop to what can't be told.
    pub(crate) fn unknown_at(&self, hop: usize, mode: Mode) -> Effect {
        match mode {
            Mode::Enforce if self.is_watched(hop) => Effect::Allow,
            Mode::Enforce | Mode::Observe => self.target.unknown,
        }
    }

    /// Whether any column is masked for this chain, or any value looked at.
    #[must_use]
    pub fn masks_in_force(&self) -> bool {
        !self.masked.is_empty() || !self.detect.is_empty()
    }

    /// What detectors do with what can't be told to come from anywhere: all of them.
    #[must_use]
    pub fn detection_anywhere(&self) -> Option<Arc<Detection>> {
        self.detection(|_| true)
    }

    /// What detectors do with results of what is found by a question.
    fn detection(&self, is_about: impl Fn(&DetectRule) -> bool) -> Option<Arc<Detection>> {
        self.detect
            .iter()
            .filter(|rule| is_about(rule))
            .map(|rule| rule.detection)
            .reduce(Detection::join)
            .map(Arc::new)
    }

    /// Whether the database's catalog decides anything for this chain: masks, or how many rows there are.
    #[must_use]
    pub fn asks_catalog(&self) -> bool {
        let counts = |policy: &Policy| policy.rules.iter().any(|rule| rule.scope.rows_above.is_some());
        self.masks_in_force() || self.hops.iter().flatten().any(|(policy, _)| counts(policy))
    }

    /// Whether a search_path that the server reports is the one that the target's definition names. The user's own schema,
    /// which stands in the default, is left out.
    #[must_use]
    pub fn trusts_search_path(&self, value: &[u8]) -> bool {
        // Uncertainty denies: what isn't a list of names is no list that was agreed on.
        let Some(schemas) = std::str::from_utf8(value).ok().and_then(path::schemas) else {
            return false;
        };
        let named = schemas.iter().filter(|schema| *schema != "$user");
        named.eq(&self.target.search_path)
    }

    /// As whom it connects. What several policies say must be the same: one of two users would be a guess.
    pub fn connect_as(&self) -> Result<ConnectAs, Denial> {
        let mut agreed = ConnectAs::default();
        for (hop, policies) in self.hops.iter().enumerate() {
            for (policy, _) in policies {
                if policy.mode == Mode::Enforce && !agreed.join(&policy.connect_as) {
                    let message: Arc<str> =
                        Arc::from("policies disagree on the user or database that this connects as");
                    return Err(Denial {
                        message: Arc::clone(&message),
                        reason: Reason {
                            policy: Some(Arc::clone(&policy.name)),
                            rule: None,
                            hop,
                            message,
                        },
                    });
                }
            }
        }
        Ok(agreed)
    }

    /// Whether the target may be dialed at all: not where no rule could allow anything to some hop.
    pub fn connect(&self) -> Result<DialPermit, Denial> {
        for (hop, policies) in self.hops.iter().enumerate() {
            let may = self.default_at(hop, Mode::Enforce) == Effect::Allow
                || policies.iter().any(|(policy, about)| {
                    policy.mode == Mode::Enforce
                        && *about == About::Hop
                        && (policy.rules.iter().any(|rule| rule.action != Effect::Deny)
                            || policy.requests.iter().any(|rule| rule.action != Effect::Deny))
                });
            if !may {
                let reason = Reason {
                    policy: None,
                    rule: None,
                    hop,
                    message: Arc::from("no policy allows anything here"),
                };
                return Err(Denial {
                    message: Arc::from(match self.target.protocol {
                        Protocol::Postgres => "access to this database is denied by policy",
                        Protocol::Kubernetes => "access to the Kubernetes API is denied by policy",
                    }),
                    reason,
                });
            }
        }
        Ok(DialPermit::grant(self.target.name.clone()))
    }

    /// Decides a text's statements together: all must be allowed, and masks must hold for each.
    #[must_use]
    pub fn decide_sql(&self, classified: &Classified, settings: &Settings) -> Arc<Ruling> {
        self.decide_sql_by(classified, settings, None)
    }

    /// The same by the database's catalog, where it is known. Without it masks rest on names.
    #[must_use]
    pub fn decide_sql_by(
        &self,
        classified: &Classified,
        settings: &Settings,
        names: Option<&Names>,
    ) -> Arc<Ruling> {
        let distrusted;
        let classified = if settings.search_path_trusted {
            classified
        } else {
            distrusted = classified.distrusted();
            &distrusted
        };
        let around = Around {
            statements: classified.statements().len(),
            names,
        };
        let judge = |mode: Mode| {
            strictest(classified.statements().iter().flat_map(|statement| {
                self.hops.iter().enumerate().map(move |(hop, policies)| {
                    self.judge_hop(statement, hop, policies, mode, settings, around)
                })
            }))
        };
        let nothing = || Judged {
            effect: Effect::Allow,
            because: self.by_default(0, "nothing is done"),
        };
        let mut judged = judge(Mode::Enforce).unwrap_or_else(nothing);
        let watched = judge(Mode::Observe);
        let mut mask_plan = None;
        if judged.effect != Effect::Deny {
            // Where the session may have moved its search_path, no name is vouched for.
            let search_path = if settings.search_path_trusted {
                self.target.search_path.as_slice()
            } else {
                &[]
            };
            let known = Known {
                plain: &self.target.plain_relations,
                search_path,
                names,
                runs_unseen: self.runs_unseen(),
            };
            match mask::plan(classified, &self.masked, &known, &self.secrets, &|asked| {
                self.permits(asked)
            }) {
                Ok(plan) => mask_plan = plan.map(Arc::new),
                Err(why) => {
                    judged = Judged {
                        effect: Effect::Deny,
                        because: self.unmaskable(&why),
                    };
                }
            }
        }
        let changes_session = mask_plan.as_ref().is_some_and(|plan| plan.runs_unseen())
            || self.masks_in_force() && names.is_some_and(|names| mask::changes_session(classified, names));
        let mut ruling = self.ruling(
            judged,
            watched,
            classified.effects(),
            mask_plan,
            match classified.moves() {
                PathMove::Stays => false,
                PathMove::To(schemas) => *schemas != self.target.search_path,
                PathMove::Anywhere => true,
            },
            classified.lasting(),
            self.recording_of(|rule| {
                classified
                    .statements()
                    .iter()
                    .any(|statement| rule.touches(statement, around))
            }),
        );
        ruling.changes_session = changes_session;
        if let CopyOut::As(format) = classified.copy_out() {
            ruling.copy_format = Some(Arc::new(format.clone()));
        }
        ruling.detection = self.detection(|rule| rule.is_about(classified, &self.target.plain_relations));
        Arc::new(ruling)
    }

    /// Decides a replication connection and each command of it: one operation, about all that is written to the database.
    #[must_use]
    pub fn decide_replication(&self, settings: &Settings) -> Arc<Ruling> {
        let statement = Statement {
            effects: EffectSet::EMPTY.with(SqlEffect::Replication),
            ..Statement::default()
        };
        let judge = |mode: Mode| {
            strictest(self.hops.iter().enumerate().map(|(hop, policies)| {
                self.judge_hop(&statement, hop, policies, mode, settings, Around::ALONE)
            }))
        };
        // Uncertainty denies: without a hop there is nobody to allow it to.
        let mut judged = judge(Mode::Enforce).unwrap_or_else(|| Judged {
            effect: Effect::Deny,
            because: self.by_default(0, "nobody is known to ask for it"),
        });
        let watched = judge(Mode::Observe);
        if judged.effect != Effect::Deny
            && let Some(masked) = self.masked.first()
        {
            judged = Judged {
                effect: Effect::Deny,
                because: self.unmaskable(&Refusal {
                    policy: Arc::clone(&masked.policy),
                    why: "replication carries rows as they were written, past any mask".into(),
                }),
            };
        }
        if judged.effect != Effect::Deny && !self.detect.is_empty() {
            judged = Judged {
                effect: Effect::Deny,
                because: self.by_default(
                    0,
                    "replication carries rows as they were written, past any detector",
                ),
            };
        }
        let recording = self.recording_of(|rule| rule.touches(&statement, Around::ALONE));
        Arc::new(self.ruling(
            judged,
            watched,
            statement.effects,
            None,
            false,
            Lasting::default(),
            recording,
        ))
    }

    /// Decides an operation of which can't be told what it does.
    #[must_use]
    pub fn decide_unknown(&self, settings: &Settings) -> Arc<Ruling> {
        let statement = Statement {
            effects: EffectSet::EMPTY.with(SqlEffect::Unknown),
            ..Statement::default()
        };
        let hops = 0..self.hops.len();
        let strict = Judged {
            effect: if self.masked.is_empty() {
                hops.map(|hop| self.unknown_at(hop, Mode::Enforce))
                    .min()
                    .unwrap_or(self.target.unknown)
            } else {
                Effect::Deny
            },
            because: self.by_default(
                0,
                "it can't be told what this does, and the target's answer to that is strict",
            ),
        };
        let nothing_around = Around {
            statements: usize::MAX,
            names: None,
        };
        // Only what forbids counts: no rule can allow what isn't known.
        let forbidden = self.hops.iter().enumerate().filter_map(|(hop, policies)| {
            let judged = self.judge_hop(&statement, hop, policies, Mode::Enforce, settings, nothing_around);
            (judged.because.rule.is_some() && judged.effect != Effect::Allow).then_some(judged)
        });
        let judged = strictest(std::iter::once(strict.clone()).chain(forbidden)).unwrap_or(strict);
        let mut ruling = self.ruling(
            judged,
            None,
            statement.effects,
            None,
            true,
            Lasting::ANYTHING,
            // It may be what any rule wants more of.
            self.recording_of(|_| true),
        );
        // It may read anything.
        ruling.detection = self.detection(|_| true);
        Arc::new(ruling)
    }

    /// What is recorded of an operation: what any policy asks for, and any rule that it touches.
    fn recording_of(&self, touched: impl Fn(&Rule) -> bool) -> Recording {
        let rules = self.hops.iter().flatten().flat_map(|(policy, _)| {
            let enforced = policy.mode == Mode::Enforce;
            policy.rules.iter().filter(move |_| enforced)
        });
        rules
            .filter_map(|rule| rule.recording.filter(|_| touched(rule)))
            .fold(self.recording, Recording::join)
    }

    #[expect(clippy::too_many_arguments, reason = "each is a part of what a ruling says")]
    fn ruling(
        &self,
        judged: Judged<Reason>,
        watched: Option<Judged<Reason>>,
        effects: EffectSet,
        mask_plan: Option<Arc<MaskPlan>>,
        moves_search_path: bool,
        lasting: Lasting,
        recording: Recording,
    ) -> Ruling {
        let Judged {
            effect,
            because: reason,
        } = judged;
        let observed = watched.filter(|watched| watched.effect != effect);
        Ruling {
            mask_plan,
            moves_search_path,
            lasting,
            ..Ruling::new(Decision {
                verdict: effect,
                reason,
                observed: observed.map(|watched| (watched.effect, watched.because)),
                effects,
                verb: None,
                recording,
            })
        }
    }

    /// Whether every hop has a rule that allows a masked column to be used so.
    fn permits(&self, asked: &Asked<'_>) -> bool {
        self.every_hop_has(|rule| rule.permits(asked))
    }

    /// Whether every hop has a rule that lets code run which may read masked columns unseen.
    fn runs_unseen(&self) -> bool {
        self.every_hop_has(|rule| rule.masked.contains(&mask::MaskedUse::Function))
    }

    /// Whether every hop that isn't only observed surely has such a rule.
    fn every_hop_has(&self, is_one: impl Fn(&Rule) -> bool) -> bool {
        self.hops.iter().enumerate().all(|(hop, policies)| {
            self.is_watched(hop)
                || policies
                    .iter()
                    .filter(|(policy, about)| policy.mode == Mode::Enforce && *about == About::Hop)
                    .flat_map(|(policy, _)| &policy.rules)
                    .any(&is_one)
        })
    }

    fn unmaskable(&self, refusal: &Refusal) -> Reason {
        let hop = self
            .hops
            .iter()
            .position(|policies| policies.iter().any(|(policy, _)| policy.name == refusal.policy));
        Reason {
            policy: Some(Arc::clone(&refusal.policy)),
            rule: None,
            hop: hop.unwrap_or_default(),
            message: Arc::from(format!("the statement may read a masked column: {}", refusal.why)),
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
        policies: &[(Arc<Policy>, About)],
        mode: Mode,
        settings: &Settings,
        around: Around<'_>,
    ) -> Judged<Reason> {
        let rules = || {
            policies
                .iter()
                .filter(|(policy, _)| policy.mode == Mode::Enforce || mode == Mode::Observe)
                // Who may be meant is forbidden; only who surely is meant is allowed.
                .flat_map(|(policy, about)| {
                    policy
                        .rules
                        .iter()
                        .filter(|rule| *about == About::Hop || rule.action != Effect::Allow)
                        .map(move |rule| (policy, rule))
                })
        };
        let because = |policy: &Policy, rule: &Rule| Reason {
            policy: Some(Arc::clone(&policy.name)),
            rule: Some(Arc::clone(&rule.name)),
            hop,
            message: rule
                .message
                .clone()
                .filter(|_| rule.action != Effect::Allow)
                .unwrap_or_else(|| {
                    let answer = if rule.action == Effect::Allow {
                        "allowed"
                    } else {
                        "denied"
                    };
                    Arc::from(format!("{answer} by policy {}", policy.name))
                }),
        };
        let forbidding = strictest(
            rules()
                .filter(|(_, rule)| rule.action != Effect::Allow && rule.touches(statement, around))
                .map(|(policy, rule)| Judged {
                    effect: rule.action,
                    because: because(policy, rule),
                }),
        );
        // An approval lets pass what its rule covers; what no rule covers is answered by the default all the same.
        let approval = match forbidding {
            Some(judged) if judged.effect == Effect::Deny => return judged,
            approval => approval,
        };
        let with_approval = |judged: Judged<Reason>| match &approval {
            Some(approval) => approval.clone().join(judged),
            None => judged,
        };
        let path: &[String] = if settings.search_path_trusted {
            &self.target.search_path
        } else {
            &[]
        };
        // An approval that is asked for some statements alone lets none of the others pass.
        let allowing: Vec<_> = rules()
            .filter(|(_, rule)| match rule.action {
                Effect::Allow => true,
                Effect::RequireApproval => rule.touches(statement, around),
                Effect::Deny => false,
            })
            .collect();
        let mut by = None;
        let told = statement.effects != EffectSet::EMPTY.with(SqlEffect::Unknown);
        let (default, unknown) = (self.default_at(hop, mode), self.unknown_at(hop, mode));
        if told && statement.effects.contains(SqlEffect::Unknown) && unknown < default {
            return with_approval(Judged {
                effect: unknown,
                because: self.by_default(hop, "it can't be told all that this does"),
            });
        }
        for part in parts(statement, settings.search_path_trusted) {
            match allowing.iter().find(|(_, rule)| rule.covers(part, path)) {
                Some((policy, rule)) => by = Some(because(policy, rule)),
                None => {
                    let effect = part.effect;
                    let what = match (part.relation, part.function) {
                        (Some(relation), _) if *relation == any_relation() => {
                            format!("no rule allows {effect} of any relation, which this may reach")
                        }
                        (Some(relation), _) => format!("no rule allows {effect} of {relation}"),
                        (None, Some(function)) => format!("no rule allows {effect} of {}", function.name),
                        (None, None) => format!("no rule allows {effect}"),
                    };
                    let message = if default == Effect::Allow {
                        "allowed by default"
                    } else {
                        what.as_str()
                    };
                    return with_approval(Judged {
                        effect: default,
                        because: self.by_default(hop, message),
                    });
                }
            }
        }
        with_approval(Judged {
            effect: Effect::Allow,
            because: by.unwrap_or_else(|| self.by_default(hop, "nothing is done")),
        })
    }
}
