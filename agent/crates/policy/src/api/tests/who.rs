//! Who asks, and as whom.

use std::sync::Arc;

use bailiff_model::{ApiRequest, Effect, Identity, Impersonation, TokenState};
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;

use super::super::rule::{Identities, Impersonated, Impersonates};
use super::{Answers, chain, decide, globs, policies, request, token};
use crate::glob::Glob;

const WHO: [&str; 3] = ["a", "ab", "system:authenticated"];

pub(super) fn identities() -> impl Strategy<Value = Identities> {
    (globs(&["a", "a*", "*"]), globs(&["a", "ab", "system:*"]))
        .prop_map(|(users, groups)| Identities { users, groups })
}

pub(super) fn impersonates() -> impl Strategy<Value = Impersonates> {
    let these = (
        globs(&["a", "a*", "*"]),
        globs(&["a", "ab", "*"]),
        globs(&["a", "*"]),
        globs(&["a", "*"]),
    );
    let these = these.prop_map(|(users, groups, uids, extra)| {
        let extra = extra.map(|keys| keys.into_iter().map(|key| (key, vec![Glob::new("a*")])).collect());
        Impersonates::These(Box::new(Impersonated {
            users,
            groups,
            uids,
            extra,
        }))
    });
    prop_oneof![Just(Impersonates::Any), Just(Impersonates::None), these]
}

fn impersonation() -> impl Strategy<Value = Impersonation> {
    let text = || select(&WHO[..]).prop_map(str::to_owned);
    let extra = vec((text(), text()), 0..2);
    (text(), vec(text(), 0..3), weighted(0.2, text()), extra).prop_map(|(user, groups, uid, extra)| {
        Impersonation {
            user,
            groups,
            uid,
            extra,
        }
    })
}

/// The same request by somebody.
pub(super) fn by_somebody(request: impl Strategy<Value = ApiRequest>) -> impl Strategy<Value = ApiRequest> {
    let names = (select(&WHO[..]), vec(select(&WHO[..]), 0..3));
    (request, token(), names, weighted(0.3, impersonation())).prop_map(
        |(request, token, (user, groups), impersonates)| {
            let verified = !matches!(token, TokenState::Missing | TokenState::Unverified);
            ApiRequest {
                token,
                identity: verified.then(|| {
                    Arc::new(Identity {
                        user: user.into(),
                        groups: groups.into_iter().map(Arc::from).collect(),
                        bound_to: None,
                    })
                }),
                impersonates: impersonates.map(Box::new),
                ..request
            }
        },
    )
}

proptest! {
    #[test]
    fn acting_as_another_is_allowed_only_where_a_rule_names_it(
        policies in policies(), chain in chain(), request in request(), other in impersonation(),
    ) {
        let mut silent = policies;
        for entry in silent.iter_mut().flat_map(|policy| &mut policy.requests).flat_map(|rule| &mut rule.requests) {
            entry.impersonates = None;
        }
        let acting = ApiRequest { impersonates: Some(Box::new(other)), ..request.clone() };
        let itself = ApiRequest { impersonates: None, ..request };
        let closed = Answers(Effect::Deny, Effect::Deny);
        prop_assert_eq!(decide(&silent, closed, &chain, &acting).0, Effect::Deny);
        // What forbids, forbids both alike.
        let open = Answers(Effect::Allow, Effect::Allow);
        prop_assert!(decide(&silent, open, &chain, &acting).0 <= decide(&silent, open, &chain, &itself).0);
    }

    #[test]
    fn acting_as_more_is_never_allowed_more(
        policies in policies(), chain in chain(), request in request(), other in impersonation(), more in select(&WHO[..]),
    ) {
        let closed = Answers(Effect::Deny, Effect::Deny);
        let acting = |other: Impersonation| ApiRequest { impersonates: Some(Box::new(other)), ..request.clone() };
        let narrow = decide(&policies, closed, &chain, &acting(other.clone())).0;
        // Named outright, what the server adds by itself is added no more.
        let mut groups = other.groups.clone();
        groups.extend(other.added_groups());
        groups.push(more.to_owned());
        let wide = Impersonation { groups, ..other.clone() };
        prop_assert!(decide(&policies, closed, &chain, &acting(wide)).0 <= narrow);
        let mut extra = other.extra.clone();
        extra.push((more.to_owned(), more.to_owned()));
        let wide = Impersonation { extra, ..other };
        prop_assert!(decide(&policies, closed, &chain, &acting(wide)).0 <= narrow);
    }
}
