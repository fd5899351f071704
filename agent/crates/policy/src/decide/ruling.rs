//! What was decided about an operation.

use std::sync::Arc;

use bailiff_model::{ApiVerb, Decision, Effect, EffectSet, Reason, Recording};

use crate::algebra::Judged;
use crate::api::FieldMasks;
use crate::classify::{CopyFormat, Lasting};
use crate::detect::Detection;
use crate::mask::MaskPlan;
use crate::permit::Permit;

/// Why something isn't allowed, for the client and the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// What the client may read.
    pub message: Arc<str>,
    /// Which policy, rule and hop.
    pub reason: Reason,
}

impl Denial {
    /// Why something isn't allowed; `None` where it is.
    pub(super) fn of(effect: Effect, reason: &Reason) -> Option<Self> {
        let message = match effect {
            Effect::Allow => return None,
            Effect::Deny => Arc::clone(&reason.message),
            Effect::RequireApproval => Arc::from(format!(
                "{} (it needs an approval, and none can be given yet)",
                reason.message
            )),
        };
        Some(Self {
            message,
            reason: reason.clone(),
        })
    }
}

/// A decision. Made only by a [`ChainPolicy`].
#[derive(Debug)]
pub struct Ruling {
    pub(super) decision: Arc<Decision>,
    pub(super) denial: Option<Denial>,
    pub(super) mask_plan: Option<Arc<MaskPlan>>,
    pub(super) detection: Option<Arc<Detection>>,
    pub(super) copy_format: Option<Arc<CopyFormat>>,
    pub(super) moves_search_path: bool,
    pub(super) changes_session: bool,
    pub(super) lasting: Lasting,
    pub(super) fields: Option<Arc<FieldMasks>>,
}

impl Ruling {
    /// A ruling that says no more than its decision.
    pub(super) fn new(decision: Decision) -> Self {
        Self {
            denial: Denial::of(decision.verdict, &decision.reason),
            decision: Arc::new(decision),
            mask_plan: None,
            detection: None,
            copy_format: None,
            moves_search_path: false,
            changes_session: false,
            lasting: Lasting::default(),
            fields: None,
        }
    }

    /// Of a request to the Kubernetes API.
    pub(crate) fn of_request(
        judged: Judged<Reason>,
        observed: Option<Judged<Reason>>,
        verb: ApiVerb,
        recording: Recording,
        fields: Option<Arc<FieldMasks>>,
    ) -> Self {
        let ruling = Self::new(Decision {
            verdict: judged.effect,
            reason: judged.because,
            observed: observed.map(|watched| (watched.effect, watched.because)),
            effects: EffectSet::EMPTY,
            verb: Some(verb),
            recording,
        });
        Self { fields, ..ruling }
    }

    /// Leave to pass one such operation on, where it's allowed.
    pub fn permit(&self) -> Option<Permit> {
        // RequireApproval: nobody can approve yet, and uncertainty denies.
        (self.decision.verdict == Effect::Allow).then(Permit::grant)
    }

    /// Why it isn't allowed, where it isn't.
    #[must_use]
    pub fn denial(&self) -> Option<&Denial> {
        self.denial.as_ref()
    }

    /// What was decided.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.decision.verdict
    }

    /// All of it that the record tells.
    #[must_use]
    pub fn decision(&self) -> &Arc<Decision> {
        &self.decision
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> &Reason {
        &self.decision.reason
    }

    /// What would have been decided with the policies in Observe mode in force too, where that differs.
    #[must_use]
    pub fn observed(&self) -> Option<&(Effect, Reason)> {
        self.decision.observed.as_ref()
    }

    /// What a request to the Kubernetes API does; `None` for statements.
    #[must_use]
    pub fn verb(&self) -> Option<ApiVerb> {
        self.decision.verb
    }

    /// What a statement does; nothing for requests to the Kubernetes API.
    #[must_use]
    pub fn effects(&self) -> EffectSet {
        self.decision.effects
    }

    /// How its result is masked, where values of it may have to be.
    #[must_use]
    pub fn mask_plan(&self) -> Option<&Arc<MaskPlan>> {
        self.mask_plan.as_ref().filter(|plan| plan.masks_rows())
    }

    /// Which fields of API objects are masked in what a request and its answer hold.
    #[must_use]
    pub fn fields(&self) -> Option<&Arc<FieldMasks>> {
        self.fields.as_ref()
    }

    /// Which detectors look at its result.
    #[must_use]
    pub fn detection(&self) -> Option<&Arc<Detection>> {
        self.detection.as_ref()
    }

    /// How its COPY TO STDOUT writes rows, where it has one of which that can be told.
    #[must_use]
    pub fn copy_format(&self) -> Option<&CopyFormat> {
        self.copy_format.as_deref()
    }

    /// Whether its rows may have to be changed.
    #[must_use]
    pub fn masks_rows(&self) -> bool {
        self.detection.is_some() || self.mask_plan().is_some()
    }

    /// Whether the texts of its errors and notices must not reach the client: they may quote what is masked. True for whatever
    /// touches a masked table, also without a [`Ruling::mask_plan`]: a failed check of an UPDATE quotes the whole row.
    #[must_use]
    pub fn hides_error_text(&self) -> bool {
        self.mask_plan
            .as_ref()
            .is_some_and(|plan| plan.hides_error_text())
    }

    /// What is recorded of it.
    #[must_use]
    pub fn recording(&self) -> Recording {
        self.decision.recording
    }

    /// Whether unqualified names may mean something else after it.
    #[must_use]
    pub fn moves_search_path(&self) -> bool {
        self.moves_search_path
    }

    /// Whether it may run code of which nothing is known, or which relations run by themselves and which changes the session. Told
    /// where masks are in force and the catalog is known.
    #[must_use]
    pub fn changes_session(&self) -> bool {
        self.changes_session
    }

    /// What of the operation outlives its answer.
    #[must_use]
    pub fn lasting(&self) -> Lasting {
        self.lasting
    }

    /// This denial as the answer to another operation, which draws from what this one is about. `None` where it's none.
    #[must_use]
    pub fn denies_as(&self, drawing: &Self) -> Option<Arc<Self>> {
        let denial = self.denial.clone()?;
        let decision = Decision {
            effects: drawing.decision.effects,
            verb: drawing.decision.verb,
            ..(*self.decision).clone()
        };
        Some(Arc::new(Self {
            denial: Some(denial),
            ..Self::new(decision)
        }))
    }
}
