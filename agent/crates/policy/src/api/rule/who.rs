//! Who asks, and as whom it asks to act.

use bailiff_model::{ANONYMOUS, ApiRequest, Impersonation, TokenState, UNAUTHENTICATED};

use super::{any, contain};
use crate::glob::Glob;

/// Who a request was verified to be. What is given must all match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Identities {
    pub(crate) users: Option<Vec<Glob>>,
    /// One of these suffices.
    pub(crate) groups: Option<Vec<Glob>>,
}

impl Identities {
    /// Whether it may be one of these. What can't be verified may be anybody: uncertainty denies.
    pub(super) fn touch(&self, request: &ApiRequest) -> bool {
        request.token == TokenState::Unverified || self.covers(request)
    }

    /// Whether it surely is one of these.
    pub(super) fn covers(&self, request: &ApiRequest) -> bool {
        let user = |name: &str| self.users.as_ref().is_none_or(|globs| any(globs, name));
        match (request.token, &request.identity) {
            (TokenState::Unverified, _) => false,
            (TokenState::Missing, _) => {
                let group = |globs: &Vec<Glob>| any(globs, UNAUTHENTICATED);
                user(ANONYMOUS) && self.groups.as_ref().is_none_or(group)
            }
            (_, Some(identity)) => {
                let group = |globs: &Vec<Glob>| identity.groups.iter().any(|group| any(globs, group));
                user(&identity.user) && self.groups.as_ref().is_none_or(group)
            }
            (_, None) => false,
        }
    }

    pub(super) fn contain(&self, inner: &Self) -> bool {
        contain(self.users.as_deref(), inner.users.as_deref())
            && contain(self.groups.as_deref(), inner.groups.as_deref())
    }
}

/// As whom a request asks to act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Impersonates {
    /// As nobody else.
    None,
    /// As anybody else.
    Any,
    /// As these.
    These(Box<Impersonated>),
}

/// Those as whom requests act. What is given must all match; to allow, what isn't given is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Impersonated {
    pub(crate) users: Option<Vec<Glob>>,
    pub(crate) groups: Option<Vec<Glob>>,
    pub(crate) uids: Option<Vec<Glob>>,
    /// Keys, with the values of each.
    pub(crate) extra: Option<Vec<(Glob, Vec<Glob>)>>,
}

impl Impersonates {
    /// Whether a request acts as one of these, among others.
    pub(super) fn touches(&self, request: &ApiRequest) -> bool {
        match (self, &request.impersonates) {
            (Self::None, acts) => acts.is_none(),
            (Self::Any, acts) => acts.is_some(),
            (Self::These(these), Some(other)) => these.touch(other),
            (Self::These(_), None) => false,
        }
    }

    /// Whether these are all as whom a request acts. Only who is named outright is covered: a rule that says nothing of it covers none.
    pub(super) fn cover(these: Option<&Self>, request: &ApiRequest) -> bool {
        match (these, &request.impersonates) {
            (None | Some(Self::None), acts) => acts.is_none(),
            (Some(Self::Any), acts) => acts.is_some(),
            (Some(Self::These(these)), Some(other)) => these.cover(other),
            (Some(Self::These(_)), None) => false,
        }
    }

    /// Whether a rule that forbids with the first touches all that one with the other could allow.
    pub(super) fn contains(outer: Option<&Self>, inner: Option<&Self>) -> bool {
        match (outer, inner) {
            (None, _) | (Some(Self::None), None | Some(Self::None)) => true,
            (Some(Self::Any), Some(Self::Any | Self::These(_))) => true,
            (Some(outer), Some(inner)) => outer == inner,
            (Some(_), None) => false,
        }
    }
}

impl Impersonated {
    fn touch(&self, other: &Impersonation) -> bool {
        self.users.as_ref().is_none_or(|globs| any(globs, &other.user))
            && self
                .groups
                .as_ref()
                .is_none_or(|globs| other.has_group(|group| any(globs, group)))
            && self
                .uids
                .as_ref()
                .is_none_or(|globs| other.uid.as_ref().is_some_and(|uid| any(globs, uid)))
            && self.extra.as_ref().is_none_or(|extra| {
                other
                    .extra
                    .iter()
                    .any(|(key, value)| names_extra(extra, key, value))
            })
    }

    fn cover(&self, other: &Impersonation) -> bool {
        let covered =
            |globs: &Option<Vec<Glob>>, name: &str| globs.as_ref().is_some_and(|globs| any(globs, name));
        covered(&self.users, &other.user)
            && other.groups.iter().all(|group| covered(&self.groups, group))
            && other.uid.as_ref().is_none_or(|uid| covered(&self.uids, uid))
            && other.extra.iter().all(|(key, value)| {
                self.extra
                    .as_ref()
                    .is_some_and(|extra| names_extra(extra, key, value))
            })
    }
}

fn names_extra(extra: &[(Glob, Vec<Glob>)], key: &str, value: &str) -> bool {
    extra
        .iter()
        .any(|(keys, values)| keys.matches(key) && any(values, value))
}
