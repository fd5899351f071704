//! Resources, commands and verbs as rules write them.

use bailiff_model::ApiVerb;

use super::is_side_door;
use crate::glob::Glob;

/// A resource as rules write it: `pods`, `pods/exec`, `pods/*`, `*/scale`, `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResourceGlob {
    pub(crate) resource: Glob,
    pub(crate) subresource: Option<Glob>,
}

impl ResourceGlob {
    pub(crate) fn new(text: &str) -> Self {
        let (resource, subresource) = match text.split_once('/') {
            Some((resource, subresource)) => (resource, Some(Glob::new(subresource))),
            None => (text, None),
        };
        Self {
            resource: Glob::new(resource),
            subresource,
        }
    }

    /// `*` is every resource with its subresources, as in RBAC.
    pub(crate) fn is_any(&self) -> bool {
        self.subresource.is_none() && self.resource.is_any()
    }

    pub(crate) fn matches(&self, resource: &str, subresource: Option<&str>) -> bool {
        self.is_any()
            || self.resource.matches(resource)
                && match (&self.subresource, subresource) {
                    (None, None) => true,
                    (Some(glob), Some(name)) => glob.matches(name),
                    _ => false,
                }
    }

    /// The same, but for side doors, which no `*` names.
    pub(super) fn covers(&self, resource: &str, subresource: Option<&str>) -> bool {
        if subresource.is_some_and(is_side_door) {
            return self.is_outright() && self.matches(resource, subresource);
        }
        self.matches(resource, subresource)
    }

    /// Whether it names one resource alone.
    pub(crate) fn is_outright(&self) -> bool {
        let plain = |glob: &Glob| !glob.as_str().contains('*');
        plain(&self.resource) && self.subresource.as_ref().is_none_or(plain)
    }

    pub(super) fn contains(&self, inner: &Self) -> bool {
        self.is_any()
            || !inner.is_any()
                && self.resource.matches(inner.resource.as_str())
                && match (&self.subresource, &inner.subresource) {
                    (None, None) => true,
                    (Some(outer), Some(inner)) => outer.matches(inner.as_str()),
                    _ => false,
                }
    }
}

/// A command as rules write it: a pattern for each argument, between blanks; a last `*` is any further arguments, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommandGlob {
    arguments: Vec<Glob>,
    open: bool,
}

impl CommandGlob {
    pub(crate) fn new(text: &str) -> Self {
        let mut arguments: Vec<Glob> = text.split_whitespace().map(Glob::new).collect();
        let open = arguments.last().is_some_and(Glob::is_any);
        if open {
            arguments.pop();
        }
        Self { arguments, open }
    }

    pub(super) fn matches(&self, command: &[String]) -> bool {
        let enough = if self.open {
            command.len() >= self.arguments.len()
        } else {
            command.len() == self.arguments.len()
        };
        enough
            && self
                .arguments
                .iter()
                .zip(command)
                .all(|(glob, argument)| glob.matches(argument))
    }
}

/// Verbs of requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct VerbSet(u16);

impl VerbSet {
    pub(crate) const fn with(self, verb: ApiVerb) -> Self {
        Self(self.0 | 1 << verb as u8)
    }

    pub(crate) const fn contains(self, verb: ApiVerb) -> bool {
        self.0 & (1 << verb as u8) != 0
    }

    pub(crate) const fn has_all(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl FromIterator<ApiVerb> for VerbSet {
    fn from_iter<I: IntoIterator<Item = ApiVerb>>(verbs: I) -> Self {
        verbs.into_iter().fold(Self::default(), Self::with)
    }
}
