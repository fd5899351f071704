//! How verdicts join: the strictest wins, over rules and over hops.

use bailiff_model::Effect;

/// A verdict with what made it so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Judged<R> {
    pub(crate) effect: Effect,
    pub(crate) because: R,
}

impl<R> Judged<R> {
    /// The stricter of two; the first where they are equal.
    pub(crate) fn join(self, other: Self) -> Self {
        if other.effect < self.effect { other } else { self }
    }
}

/// The strictest of many. `None` for none.
pub(crate) fn strictest<R>(all: impl IntoIterator<Item = Judged<R>>) -> Option<Judged<R>> {
    all.into_iter().reduce(Judged::join)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn effect() -> impl Strategy<Value = Effect> {
        prop_oneof![
            Just(Effect::Deny),
            Just(Effect::RequireApproval),
            Just(Effect::Allow)
        ]
    }

    fn judged() -> impl Strategy<Value = Judged<u8>> {
        (effect(), any::<u8>()).prop_map(|(effect, because)| Judged { effect, because })
    }

    proptest! {
        #[test]
        fn joining_is_associative(a in judged(), b in judged(), c in judged()) {
            prop_assert_eq!(a.join(b).join(c), a.join(b.join(c)));
        }

        #[test]
        fn the_effect_doesnt_depend_on_the_order(a in judged(), b in judged()) {
            prop_assert_eq!(a.join(b).effect, b.join(a).effect);
        }

        #[test]
        fn joining_with_itself_changes_nothing(a in judged()) {
            prop_assert_eq!(a.join(a), a);
        }

        #[test]
        fn one_more_never_loosens(all in prop::collection::vec(judged(), 1..9), more in judged()) {
            let before = strictest(all.clone()).unwrap().effect;
            let mut longer = all;
            longer.push(more);
            prop_assert!(strictest(longer).unwrap().effect <= before);
        }
    }
}
