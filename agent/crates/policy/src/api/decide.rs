//! From a request to a verdict: for one hop the strictest of the rules that match, or the target's default for what no rule
//! allows; for the chain the strictest hop.

use std::sync::{Arc, OnceLock};

use bailiff_model::{ApiRequest, ApiSubject, ApiVerb, Effect, Mode, Protocol, Reason, Recording};

use super::body::{ApiBody, may_have};
use super::fields::{Asked, FieldMasks, Unmaskable};
use super::rule::ApiRule;
use crate::algebra::{Judged, strictest};
use crate::compiled::{About, Policy};
use crate::decide::{ChainPolicy, Ruling};

impl ChainPolicy {
    /// Whether a rule could look into the body of such a request. Where none could, it is decided without it.
    #[must_use]
    pub fn asks_body(&self, request: &ApiRequest) -> bool {
        self.asks_bodies
            && may_have(request.verb)
            && self
                .hops
                .iter()
                .flatten()
                .flat_map(|(policy, _)| &policy.requests)
                .any(|rule| rule.asks_body(request))
    }

    /// Decides a request to the Kubernetes API of whose body nothing is known.
    #[must_use]
    pub fn decide_request(&self, request: &ApiRequest) -> Arc<Ruling> {
        self.decide_request_with(request, &ApiBody::unread(request))
    }

    /// Decides a request to the Kubernetes API. What is allowed often is decided without allocating.
    #[must_use]
    pub fn decide_request_with(&self, request: &ApiRequest, body: &ApiBody) -> Arc<Ruling> {
        let mut judged = self.judge(request, body, Mode::Enforce);
        let fields = match self.fields.asked(request) {
            Asked::Fields(fields) => Some(fields),
            Asked::Unmaskable(why) if judged.effect != Effect::Deny => {
                let because = Because {
                    hop: judged.because.hop,
                    why: Why::Unmaskable(why),
                };
                let effect = Effect::Deny;
                judged = Judged { effect, because };
                None
            }
            Asked::Nothing | Asked::Unmaskable(_) => None,
        };
        let watches = |(policy, _): &(Arc<Policy>, About)| policy.mode == Mode::Observe;
        let may_differ =
            self.hops.iter().flatten().any(watches) || (0..self.hops.len()).any(|hop| self.is_watched(hop));
        let observed = may_differ
            .then(|| self.judge(request, body, Mode::Observe))
            .filter(|watched| watched.effect != judged.effect);
        let recording = self.recording_of_request(request, body);
        if judged.effect == Effect::Allow
            && observed.is_none()
            && recording == self.recording
            && fields.is_none()
            && let Some(slot) = self.allowed.slot(self, judged.because, request.verb)
        {
            let make = || Arc::new(self.ruling_of(request, judged, None, recording, None));
            return Arc::clone(slot.get_or_init(make));
        }
        Arc::new(self.ruling_of(request, judged, observed, recording, fields))
    }

    fn judge(&self, request: &ApiRequest, body: &ApiBody, mode: Mode) -> Judged<Because> {
        let deny = |why| Judged {
            effect: Effect::Deny,
            because: Because { hop: 0, why },
        };
        // Uncertainty denies: of another target's answers nothing was written for requests.
        if self.target.protocol != Protocol::Kubernetes {
            return deny(Why::AnotherProtocol);
        }
        let hops = self
            .hops
            .iter()
            .enumerate()
            .map(|(hop, policies)| self.judge_request(request, body, hop, policies, mode));
        // Uncertainty denies: without a hop there is nobody to allow it to.
        strictest(hops).unwrap_or(deny(Why::Nobody))
    }

    fn judge_request(
        &self,
        request: &ApiRequest,
        body: &ApiBody,
        hop: usize,
        policies: &[(Arc<Policy>, About)],
        mode: Mode,
    ) -> Judged<Because> {
        let because = |why| Because { hop, why };
        let unknown = is_unknown(request);
        let mut approval: Option<Judged<Because>> = None;
        let mut covering = None;
        for (policy_at, (policy, about)) in policies.iter().enumerate() {
            if policy.mode != Mode::Enforce && mode != Mode::Observe {
                continue;
            }
            for (rule_at, rule) in policy.requests.iter().enumerate() {
                let why = Why::Rule(Place {
                    policy: policy_at,
                    rule: rule_at,
                });
                let touched = match rule.action {
                    Effect::Allow => false,
                    Effect::Deny => rule.touches(request, body),
                    Effect::RequireApproval => rule.asks(request, body),
                };
                match rule.action {
                    Effect::Deny if touched => {
                        return Judged {
                            effect: Effect::Deny,
                            because: because(why),
                        };
                    }
                    Effect::RequireApproval if touched && approval.is_none() => {
                        approval = Some(Judged {
                            effect: Effect::RequireApproval,
                            because: because(why),
                        });
                    }
                    _ => {}
                }
                // Who may be meant is forbidden; only who surely is meant is allowed. An approval lets pass what its rule covers.
                let lets_pass = *about == About::Hop
                    && match rule.action {
                        Effect::Allow => true,
                        Effect::RequireApproval => touched,
                        Effect::Deny => false,
                    };
                if lets_pass && covering.is_none() && !unknown && rule.covers(request, body) {
                    covering = Some(why);
                }
            }
        }
        let judged = match covering {
            Some(why) => Judged {
                effect: Effect::Allow,
                because: because(why),
            },
            None if unknown => Judged {
                effect: self.unknown_at(hop, mode),
                because: because(Why::Unknown),
            },
            None => Judged {
                effect: self.default_at(hop, mode),
                because: because(Why::Default),
            },
        };
        match approval {
            Some(approval) => approval.join(judged),
            None => judged,
        }
    }

    fn ruling_of(
        &self,
        request: &ApiRequest,
        judged: Judged<Because>,
        observed: Option<Judged<Because>>,
        recording: Recording,
        fields: Option<Arc<FieldMasks>>,
    ) -> Ruling {
        let reason = |judged: Judged<Because>| Judged {
            effect: judged.effect,
            because: self.reason_of(judged, request),
        };
        Ruling::of_request(
            reason(judged),
            observed.map(reason),
            request.verb,
            recording,
            fields,
        )
    }

    fn reason_of(&self, judged: Judged<Because>, request: &ApiRequest) -> Reason {
        let Because { hop, why } = judged.because;
        let by_target = |message: Arc<str>| Reason {
            policy: None,
            rule: None,
            hop,
            message,
        };
        match why {
            Why::Nobody => by_target(Arc::from("nobody is known to ask for it")),
            Why::AnotherProtocol => by_target(Arc::from("this target doesn't speak the Kubernetes API")),
            Why::Unmaskable(why) => by_target(Arc::from(why.message())),
            Why::Unknown if judged.effect == Effect::Allow => by_target(Arc::from("allowed by default")),
            Why::Unknown => by_target(Arc::from(
                "it can't be told what this does, and the target's answer to that is strict",
            )),
            Why::Default if judged.effect == Effect::Allow => by_target(Arc::from("allowed by default")),
            Why::Default => by_target(Arc::from(format!("no rule allows {request}"))),
            Why::Rule(place) => match self.rule_at(hop, place) {
                Some((policy, rule)) => Reason {
                    policy: Some(Arc::clone(&policy.name)),
                    rule: Some(Arc::clone(&rule.name)),
                    hop,
                    message: message(policy, rule),
                },
                None => by_target(Arc::from("a rule that is gone decided")),
            },
        }
    }

    fn rule_at(&self, hop: usize, place: Place) -> Option<(&Policy, &ApiRule)> {
        let (policy, _) = self.hops.get(hop)?.get(place.policy)?;
        Some((policy, policy.requests.get(place.rule)?))
    }

    /// What any policy asks for, and any rule that the request touches.
    fn recording_of_request(&self, request: &ApiRequest, body: &ApiBody) -> Recording {
        let unknown = is_unknown(request);
        self.hops
            .iter()
            .flatten()
            .filter(|(policy, _)| policy.mode == Mode::Enforce)
            .flat_map(|(policy, _)| &policy.requests)
            .filter_map(|rule| Some((rule, rule.recording?)))
            .filter(|(rule, _)| unknown || rule.touches(request, body))
            .fold(self.recording, |all, (_, more)| all.join(more))
    }
}

/// Whether it can't be told what a request does.
fn is_unknown(request: &ApiRequest) -> bool {
    request.subject == ApiSubject::Unknown || request.verb == ApiVerb::Unknown
}

fn message(policy: &Policy, rule: &ApiRule) -> Arc<str> {
    if rule.action == Effect::Allow {
        return Arc::from(format!("allowed by policy {}", policy.name));
    }
    match &rule.message {
        Some(message) => Arc::clone(message),
        None => Arc::from(format!("denied by policy {}", policy.name)),
    }
}

/// What made a verdict, without its texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Because {
    hop: usize,
    why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Rule(Place),
    Default,
    Unknown,
    Nobody,
    AnotherProtocol,
    Unmaskable(Unmaskable),
}

/// A rule of a hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    policy: usize,
    rule: usize,
}

/// Rulings that allow, as they are made the first time: one for each verb and rule of the first hop, which is the one that a
/// chain names when all of its hops allow.
#[derive(Debug, Clone, Default)]
pub(crate) struct Allowed(OnceLock<Box<[OnceLock<Arc<Ruling>>]>>);

impl Allowed {
    fn slot(&self, policy: &ChainPolicy, because: Because, verb: ApiVerb) -> Option<&OnceLock<Arc<Ruling>>> {
        let policies = || {
            policy
                .hops
                .first()
                .into_iter()
                .flatten()
                .map(|(policy, _)| policy)
        };
        let row = match because.why {
            _ if because.hop != 0 => return None,
            Why::Default => 0,
            Why::Rule(place) => {
                let before: usize = policies()
                    .take(place.policy)
                    .map(|policy| policy.requests.len())
                    .sum();
                1 + before + place.rule
            }
            Why::Unknown | Why::Nobody | Why::AnotherProtocol | Why::Unmaskable(_) => return None,
        };
        let slots = self.0.get_or_init(|| {
            let rules: usize = policies().map(|policy| policy.requests.len()).sum();
            let all = (1 + rules) * ApiVerb::ALL.len();
            std::iter::repeat_with(OnceLock::new).take(all).collect()
        });
        slots.get(row * ApiVerb::ALL.len() + verb as usize)
    }
}
