//! Fields of API objects that are masked: what policies name, and finding it on a walk through an object.
//!
//! A path is followed by the names of members. Lists are transparent: `spec.containers.env.value` is about every container's
//! every variable, so that no change of places gets round it. What lies below a masked field is masked, too.

mod path;

use std::sync::Arc;

use bailiff_model::{ApiRequest, ApiResource, ApiSubject, ApiVerb};

use super::rule::group_touched;
use crate::detect::Detection;
use crate::glob::Glob;
use crate::mask::MaskAction;

pub(crate) use path::{FieldPath, Step};

/// So many steps can be followed at once, of all masks for one target together.
pub(crate) const MAX_STEPS: usize = 256;

/// Members of an object's root and of its metadata that say what it is. They are never masked: clients and the agent itself go by
/// them, and whoever may select by labels can find out what they are.
const IDENTITY: [&str; 2] = ["apiVersion", "kind"];
const METADATA_IDENTITY: [&str; 13] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "uid",
];

/// Objects that a mask or detector is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Objects {
    /// `None` for any.
    pub(crate) groups: Option<Vec<Glob>>,
    pub(crate) resources: Vec<Glob>,
    pub(crate) namespaces: Option<Vec<Glob>>,
    pub(crate) names: Option<Vec<Glob>>,
}

impl Objects {
    fn of_resource(&self, group: &str, resource: &str) -> bool {
        let among = |globs: &[Glob], name: &str| globs.iter().any(|glob| glob.matches(name));
        among(&self.resources, resource)
            && self
                .groups
                .as_ref()
                .is_none_or(|globs| group_touched(globs, group, resource))
    }

    /// Whether an object may be one of them. What can't be told may be any.
    fn may_be(&self, namespace: Option<&str>, name: Option<&str>) -> bool {
        let may = |globs: &Option<Vec<Glob>>, found: Option<&str>| match (globs, found) {
            (None, _) | (_, None) => true,
            (Some(globs), Some(found)) => globs.iter().any(|glob| glob.matches(found)),
        };
        may(&self.namespaces, namespace) && may(&self.names, name)
    }
}

/// Fields that a policy masks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldMask {
    pub(crate) objects: Objects,
    pub(crate) path: FieldPath,
    pub(crate) action: MaskAction,
}

/// Values that a policy has looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldDetect {
    pub(crate) objects: Objects,
    pub(crate) detection: Detection,
}

/// What is masked in the objects of one resource.
#[derive(Debug)]
pub struct FieldMasks {
    /// Each mask's steps one after another, and a last one that stands for having arrived.
    steps: Vec<Position>,
    starts: Vec<(Arc<Objects>, usize)>,
    hides_cells: bool,
}

#[derive(Debug)]
enum Position {
    Step(Step),
    Masked(MaskAction),
    Looked(Arc<Detection>),
}

/// A place among an object's fields. It is told by the [`FieldMasks`] that it is used with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldPlace {
    open: [u64; MAX_STEPS / 64],
    level: Level,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Metadata,
    Below,
}

/// What is done to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldTreatment {
    /// It is passed on.
    Pass,
    /// It is masked as a whole.
    Mask(MaskAction),
    /// It is looked at.
    Detect(Arc<Detection>),
}

impl FieldMasks {
    /// What of the masks is about the objects that a request's answer or body may hold.
    fn of(masks: &[FieldMask], detects: &[FieldDetect], group: &str, resource: &str) -> Option<Self> {
        let mut all = Self {
            steps: Vec::new(),
            starts: Vec::new(),
            hides_cells: false,
        };
        let built_in = !group.contains('.') || group.ends_with(".k8s.io");
        for mask in masks
            .iter()
            .filter(|mask| mask.objects.of_resource(group, resource))
        {
            all.add(mask, mask.path.steps());
            // A secret is written by either, and what was applied last keeps what was written.
            if group.is_empty() && resource == "secrets" && mask.path.begins_at("data") {
                let mut steps = mask.path.steps().to_vec();
                if let Some(first) = steps.first_mut() {
                    *first = Step::Key(Glob::new("stringData"));
                }
                all.add(mask, &steps);
            }
            // Printers of built-in kinds show none of these; those of custom resources may show any field.
            all.hides_cells |= !built_in || !mask.path.is_never_printed();
        }
        for detect in detects
            .iter()
            .filter(|detect| detect.objects.of_resource(group, resource))
        {
            all.starts
                .push((Arc::new(detect.objects.clone()), all.steps.len()));
            all.steps.push(Position::Looked(Arc::new(detect.detection)));
            // Of built-in kinds events alone print texts that somebody wrote.
            all.hides_cells |= !built_in || resource == "events";
        }
        // Loading holds their number below the cap. Uncertainty denies: without room for a step nothing can be followed.
        (!all.starts.is_empty()).then_some(all)
    }

    fn add(&mut self, mask: &FieldMask, steps: &[Step]) {
        self.starts
            .push((Arc::new(mask.objects.clone()), self.steps.len()));
        self.steps.extend(steps.iter().cloned().map(Position::Step));
        self.steps.push(Position::Masked(mask.action));
    }

    /// Where the walk through an object begins.
    #[must_use]
    pub fn root(&self, namespace: Option<&str>, name: Option<&str>) -> FieldPlace {
        let mut place = FieldPlace {
            open: [0; MAX_STEPS / 64],
            level: Level::Root,
        };
        for (objects, start) in &self.starts {
            if objects.may_be(namespace, name) {
                self.enter(&mut place, *start);
            }
        }
        place
    }

    /// A member's place. Elements of lists are at their list's place.
    #[must_use]
    pub fn member(&self, at: FieldPlace, key: &str) -> FieldPlace {
        let nowhere = FieldPlace {
            open: [0; MAX_STEPS / 64],
            level: Level::Below,
        };
        let level = match at.level {
            Level::Root if IDENTITY.contains(&key) => return nowhere,
            Level::Metadata if METADATA_IDENTITY.contains(&key) => return nowhere,
            Level::Root if key == "metadata" => Level::Metadata,
            _ => Level::Below,
        };
        let mut next = FieldPlace { level, ..nowhere };
        for (index, position) in self.open(at) {
            match position {
                Position::Step(Step::Key(glob)) => {
                    if glob.matches(key) {
                        self.enter(&mut next, index + 1);
                    }
                }
                Position::Step(Step::AnyDepth) | Position::Masked(_) | Position::Looked(_) => {
                    self.enter(&mut next, index);
                }
            }
        }
        next
    }

    /// Whether nothing there or below is masked or looked at.
    #[must_use]
    pub fn passes(&self, at: FieldPlace) -> bool {
        at.open == [0; MAX_STEPS / 64]
    }

    /// Whether a member may be masked or looked at whose name isn't known: one that a newer server has than the format's table of
    /// fields. What is asked for by the name of a member that the table has (`known`) isn't about others.
    #[must_use]
    pub fn unnamed(&self, at: FieldPlace, known: impl Fn(&str) -> bool) -> bool {
        self.open(at).any(|(_, position)| match position {
            Position::Step(Step::Key(glob)) => glob.as_str().contains('*') || !known(glob.as_str()),
            Position::Step(Step::AnyDepth) | Position::Masked(_) | Position::Looked(_) => true,
        })
    }

    /// What is done to a value there.
    #[must_use]
    pub fn treatment(&self, at: FieldPlace) -> FieldTreatment {
        let (mut action, mut detection): (Option<MaskAction>, Option<Arc<Detection>>) = (None, None);
        for (_, position) in self.open(at) {
            match position {
                Position::Masked(more) => action = Some(action.map_or(*more, |all| all.join(*more))),
                Position::Looked(more) => {
                    detection = Some(match detection {
                        None => Arc::clone(more),
                        Some(all) => Arc::new(all.join(**more)),
                    });
                }
                Position::Step(_) => {}
            }
        }
        match (action, detection) {
            (Some(action), _) => FieldTreatment::Mask(action),
            (None, Some(detection)) => FieldTreatment::Detect(detection),
            (None, None) => FieldTreatment::Pass,
        }
    }

    /// Whether cells of tables may show what is masked.
    #[must_use]
    pub fn hides_cells(&self) -> bool {
        self.hides_cells
    }

    /// Whether a field selector asks what a masked field holds: who may ask often enough knows it. What can't be read may.
    fn is_asked_by(&self, selector: &str) -> bool {
        selector.split(',').any(|requirement| {
            let key = requirement.split(['=', '!']).next().unwrap_or_default();
            let key = key.trim().trim_start_matches('.');
            let place = key
                .split('.')
                .fold(self.root(None, None), |place, key| self.member(place, key));
            !self.passes(place)
        })
    }

    fn open(&self, at: FieldPlace) -> impl Iterator<Item = (usize, &Position)> {
        at.open.into_iter().enumerate().flat_map(move |(word, mut bits)| {
            std::iter::from_fn(move || {
                let bit = bits.trailing_zeros() as usize;
                bits &= bits.checked_sub(1)?;
                let index = word * 64 + bit;
                Some((index, self.steps.get(index)?))
            })
        })
    }

    /// Opens a step, and what follows it where it may stand for nothing.
    fn enter(&self, place: &mut FieldPlace, index: usize) {
        if let Some(word) = place.open.get_mut(index / 64) {
            *word |= 1 << (index % 64);
        }
        if matches!(self.steps.get(index), Some(Position::Step(Step::AnyDepth))) {
            self.enter(place, index + 1);
        }
    }
}

/// What masks of a chain say of a request.
#[derive(Debug)]
pub(crate) enum Asked {
    /// Nothing in it or its answer is masked.
    Nothing,
    /// These fields.
    Fields(Arc<FieldMasks>),
    /// It would show or tell what is masked in a way that can't be masked.
    Unmaskable(Unmaskable),
}

/// Why what an answer holds can't be masked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unmaskable {
    /// It can't be told what is asked for.
    Unknown,
    /// A node's own server shows the pods of that node.
    Kubelet,
    /// A field selector finds out what a masked field holds.
    Selector,
}

impl Unmaskable {
    pub(crate) const fn message(self) -> &'static str {
        match self {
            Self::Unknown => "it can't be told what this reads, and some fields are masked",
            Self::Kubelet => "a node's proxy shows pods as they are, and some of their fields are masked",
            Self::Selector => "the field selector asks what a masked field holds",
        }
    }
}

/// All masks of a chain at a target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AllMasks {
    pub(crate) masks: Vec<FieldMask>,
    pub(crate) detects: Vec<FieldDetect>,
}

impl AllMasks {
    /// How many steps they take together; [`MAX_STEPS`] is the most.
    pub(crate) fn steps(&self) -> usize {
        let masks = self.masks.iter().map(|mask| {
            let twice = mask.path.begins_at("data");
            (mask.path.steps().len() + 1) * if twice { 2 } else { 1 }
        });
        masks.sum::<usize>() + self.detects.len()
    }

    pub(crate) fn extend(&mut self, other: &Self) {
        self.masks.extend_from_slice(&other.masks);
        self.detects.extend_from_slice(&other.detects);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.masks.is_empty() && self.detects.is_empty()
    }

    /// What is masked of what a request asks for.
    pub(crate) fn asked(&self, request: &ApiRequest) -> Asked {
        if self.is_empty() {
            return Asked::Nothing;
        }
        match &request.subject {
            ApiSubject::Unknown => Asked::Unmaskable(Unmaskable::Unknown),
            _ if request.verb == ApiVerb::Unknown => Asked::Unmaskable(Unmaskable::Unknown),
            ApiSubject::Path(_) => Asked::Nothing,
            ApiSubject::Resource(resource) => self.asked_of(resource),
        }
    }

    fn asked_of(&self, resource: &ApiResource) -> Asked {
        let of = |group, resource| FieldMasks::of(&self.masks, &self.detects, group, resource);
        if resource.is_proxy() {
            return match resource.resource.as_str() {
                "nodes" if of("", "pods").is_some() => Asked::Unmaskable(Unmaskable::Kubelet),
                // What a pod or service serves is no object of the API.
                _ => Asked::Nothing,
            };
        }
        if matches!(
            resource.subresource.as_deref(),
            Some("exec" | "attach" | "portforward" | "log")
        ) {
            return Asked::Nothing;
        }
        let Some(masks) = of(&resource.group, &resource.resource) else {
            return Asked::Nothing;
        };
        match &resource.field_selector {
            Some(selector) if masks.is_asked_by(selector) => Asked::Unmaskable(Unmaskable::Selector),
            _ => Asked::Fields(Arc::new(masks)),
        }
    }
}

#[cfg(test)]
mod tests;
