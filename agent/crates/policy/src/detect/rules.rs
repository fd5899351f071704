//! What is done with what detectors find.

use bailiff_model::{RelationRef, SqlEffect};

use super::{Detector, Detectors};
use crate::classify::{Classified, any_relation};
use crate::glob::Glob;
use crate::mask::MaskAction;

/// What is done with what one detector finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Treatment {
    /// What stands in its place. [`MaskAction::Null`] is for the whole value, since a part can't be null.
    pub action: MaskAction,
    /// Whether the whole value is masked because of it.
    pub whole: bool,
}

impl Treatment {
    /// The stricter of two, in both respects.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self {
            action: self.action.join(other.action),
            whole: self.whole || other.whole,
        }
    }
}

/// Which detectors look at a result, and what is done with what each finds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Detection {
    detectors: Detectors,
    treatments: [Option<Treatment>; Detector::ALL.len()],
}

impl Detection {
    /// The same with one more detector, or with a detector that does more.
    #[must_use]
    pub fn with(mut self, detector: Detector, treatment: Treatment) -> Self {
        if let Some(slot) = self.treatments.get_mut(detector as usize) {
            *slot = Some(slot.map_or(treatment, |before| before.join(treatment)));
            self.detectors = self.detectors.with(detector);
        }
        self
    }

    /// The stricter of two, for each detector.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Detector::ALL
            .into_iter()
            .fold(self, |all, detector| match other.treatment(detector) {
                Some(treatment) => all.with(detector, treatment),
                None => all,
            })
    }

    /// The strictest of what is done with what any of them finds.
    pub(crate) fn strictest(&self) -> MaskAction {
        let actions = self.treatments.iter().flatten().map(|treatment| treatment.action);
        actions.max().unwrap_or(MaskAction::Redact)
    }

    /// Those that look.
    #[must_use]
    pub fn detectors(&self) -> Detectors {
        self.detectors
    }

    /// What is done with what a detector finds; `None` where it doesn't look.
    #[must_use]
    pub fn treatment(&self, detector: Detector) -> Option<Treatment> {
        self.treatments.get(detector as usize).copied().flatten()
    }
}

/// What a policy has done with what is found, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DetectRule {
    pub(crate) detection: Detection,
    /// Whose values are looked at; `None` for all results.
    pub(crate) relations: Option<Vec<(Glob, Glob)>>,
}

impl DetectRule {
    /// Whether a text's results may hold values of the relations.
    pub(crate) fn is_about(&self, classified: &Classified, plain: &[(Glob, Glob)]) -> bool {
        let Some(relations) = &self.relations else {
            return true;
        };
        let among = |relations: &[(Glob, Glob)], relation: &RelationRef| {
            relations.iter().any(|(schema, name)| {
                let here = relation
                    .schema
                    .as_deref()
                    .is_none_or(|found| schema.matches(found));
                here && name.matches(&relation.name)
            })
        };
        // What runs something else doesn't say which relations it reads.
        classified.lasting().draws
            || classified.statements().iter().any(|statement| {
                let opaque = [SqlEffect::Execute, SqlEffect::Unknown];
                opaque.iter().any(|effect| statement.effects.contains(*effect))
                    || statement.reads.iter().chain(&statement.writes).any(|relation| {
                        // Uncertainty denies: what the operator doesn't vouch for may be a view.
                        let vouched = relation.schema.is_some() && among(plain, relation);
                        *relation == any_relation() || among(relations, relation) || !vouched
                    })
            })
    }
}
