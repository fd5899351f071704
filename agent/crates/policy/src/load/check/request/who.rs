//! Who asks, and as whom it acts, as rules write it.

use super::super::super::schema::{IdentitiesSpec, ImpersonatesSpec, Spanned};
use super::Entries;
use crate::api::rule::{Identities, Impersonated, Impersonates};
use crate::glob::Glob;

impl Entries<'_, '_> {
    pub(super) fn identity(&mut self, written: Option<&Spanned<IdentitiesSpec>>) -> Option<Identities> {
        let written = written?;
        let these = Identities {
            users: self.globs("identity.users", written.value.users.as_ref()),
            groups: self.globs("identity.groups", written.value.groups.as_ref()),
        };
        if these == Identities::default() {
            self.report.add(
                written.referenced.line(),
                format!(
                    "rule {:?}: `identity` names nobody, so that it says nothing",
                    self.rule
                ),
                "give users or groups, or leave it out to mean anybody",
            );
        }
        Some(these)
    }

    pub(super) fn impersonates(
        &mut self,
        written: Option<&Spanned<ImpersonatesSpec>>,
    ) -> Option<Impersonates> {
        let written = written?;
        let line = written.referenced.line();
        let spec = match &written.value {
            ImpersonatesSpec::Any => return Some(Impersonates::Any),
            ImpersonatesSpec::None => return Some(Impersonates::None),
            ImpersonatesSpec::These(spec) => spec,
        };
        let extra = spec.extra.as_ref().map(|extra| {
            extra
                .iter()
                .map(|(key, values)| {
                    let values = self.globs("impersonates.extra", Some(values)).unwrap_or_default();
                    (Glob::new(key), values)
                })
                .collect::<Vec<_>>()
        });
        if extra.as_ref().is_some_and(Vec::is_empty) {
            self.never(
                line,
                "`impersonates.extra` is empty",
                "leave it out, or write the keys with their values: {example.com/scopes: [view]}",
            );
        }
        let these = Impersonated {
            users: self.globs("impersonates.users", spec.users.as_ref()),
            groups: self.globs("impersonates.groups", spec.groups.as_ref()),
            uids: self.globs("impersonates.uids", spec.uids.as_ref()),
            extra,
        };
        if these == Impersonated::default() {
            self.report.add(
                line,
                format!("rule {:?}: `impersonates` names nobody", self.rule),
                "write Any, None, or give users, groups, uids or extra",
            );
        } else if self.allows && these.users.is_none() {
            self.never(
                line,
                "who impersonates names a user, and a rule that allows covers only what it names",
                "give impersonates.users, as in {users: [\"*\"], groups: [developers]}",
            );
        }
        Some(Impersonates::These(Box::new(these)))
    }
}
