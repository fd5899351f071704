//! What all nodes' reports make of one object.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::ObjectState;

/// Nodes that are named; the others are only counted.
const NAMED: usize = 5;

/// Different refusals that are told.
const TOLD: usize = 10;

/// What one node says of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The generation that it says it of.
    pub generation: i64,
    /// What became of that.
    pub state: ObjectState,
    /// Why it is refused, and what to do about it.
    pub why: Option<Arc<(String, String)>>,
}

/// A node, and what it says of the object; nothing where it doesn't know it.
#[derive(Debug, Clone)]
pub struct NodeFacts<'a> {
    /// Its name.
    pub node: &'a str,
    /// Whether its agent has written lately.
    pub is_heard: bool,
    /// What it says.
    pub taken: Option<&'a Taken>,
}

/// Nodes that refuse an object for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Some of the nodes, in order.
    pub nodes: Vec<String>,
    /// How many there are.
    pub count: u32,
    /// Why.
    pub reason: String,
    /// What to do about it.
    pub mend: String,
}

/// What all nodes make of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// Nodes on which this generation is in force.
    pub accepted: u32,
    /// Nodes on which it is refused.
    pub refused: u32,
    /// Nodes that take the cluster's objects.
    pub total: u32,
    /// `True`, `False` or `Unknown`: whether all have it in force.
    pub status: &'static str,
    /// Why, in one word.
    pub reason: &'static str,
    /// Why, for people.
    pub message: String,
    /// Why nodes refuse it, the most frequent reason first.
    pub refusals: Vec<Refusal>,
}

/// Judges an object's generation by what the nodes say, which come in the order of their names.
#[must_use]
pub fn judge<'a>(generation: i64, nodes: impl Iterator<Item = NodeFacts<'a>>) -> Judged {
    let (mut accepted, mut total) = (0_u32, 0_u32);
    let (mut held, mut behind, mut silent) = (Vec::new(), Vec::new(), Vec::new());
    let mut by_reason: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for facts in nodes {
        total = total.saturating_add(1);
        let current = facts.taken.filter(|taken| taken.generation == generation);
        match current.map(|taken| (taken.state, &taken.why)) {
            // What a node refused it refuses, heard or not; what is in force may no longer be.
            Some((ObjectState::Refused, why)) => {
                let (reason, mend) = why.as_deref().map_or(("", ""), |(reason, mend)| (reason, mend));
                by_reason.entry((reason, mend)).or_default().push(facts.node);
            }
            _ if !facts.is_heard => silent.push(facts.node),
            Some((ObjectState::InForce, _)) => accepted = accepted.saturating_add(1),
            Some((ObjectState::HeldBack, _)) => held.push(facts.node),
            None => behind.push(facts.node),
        }
    }
    let mut refusals: Vec<Refusal> = by_reason
        .into_iter()
        .map(|((reason, mend), nodes)| Refusal {
            count: count(&nodes),
            nodes: nodes.into_iter().take(NAMED).map(str::to_owned).collect(),
            reason: if reason.is_empty() {
                "the agent's log says why".to_owned()
            } else {
                reason.to_owned()
            },
            mend: mend.to_owned(),
        })
        .collect();
    // Which reasons are told may not change from one time to the next.
    refusals.sort_by(|one, other| {
        (other.count, &one.reason, &one.mend).cmp(&(one.count, &other.reason, &other.mend))
    });
    let refused = refusals
        .iter()
        .fold(0_u32, |sum, refusal| sum.saturating_add(refusal.count));
    let kinds = refusals.len();
    refusals.truncate(TOLD);
    let (status, reason, message) = if total == 0 {
        (
            "Unknown",
            "NoNodes",
            "no node's agent has reported yet".to_owned(),
        )
    } else if refused > 0 {
        ("False", "Refused", refused_told(refused, total, kinds, &refusals))
    } else if !held.is_empty() {
        let told = format!(
            "on {} another object is refused, and until that is mended this one isn't taken",
            some(&held)
        );
        ("False", "HeldBack", told)
    } else if accepted == total {
        ("True", "InForce", format!("in force on {}", nodes_told(total)))
    } else if behind.is_empty() {
        let told = format!("nothing was heard lately of {}", some(&silent));
        ("Unknown", "Silent", told)
    } else {
        let told = format!(
            "in force on {accepted} of {}; not taken yet by {}",
            nodes_told(total),
            some(&behind)
        );
        ("Unknown", "Waiting", told)
    };
    Judged {
        accepted,
        refused,
        total,
        status,
        reason,
        message,
        refusals,
    }
}

fn refused_told(refused: u32, total: u32, kinds: usize, refusals: &[Refusal]) -> String {
    let verb = if refused == 1 { "refuses" } else { "refuse" };
    let mut told = format!("{refused} of {} {verb} it", nodes_told(total));
    for refusal in refusals {
        let names: Vec<&str> = refusal.nodes.iter().map(String::as_str).collect();
        let more = refusal.count.saturating_sub(count(&names));
        let names = with_more(&names.join(", "), more);
        told.push_str(&format!("; {names}: {}", refusal.reason));
    }
    if kinds > refusals.len() {
        told.push_str(&format!("; and {} other reasons", kinds - refusals.len()));
    }
    told
}

fn count(nodes: &[&str]) -> u32 {
    u32::try_from(nodes.len()).unwrap_or(u32::MAX)
}

fn nodes_told(count: u32) -> String {
    format!("{count} node{}", if count == 1 { "" } else { "s" })
}

fn some(nodes: &[&str]) -> String {
    let named: Vec<&str> = nodes.iter().take(NAMED).copied().collect();
    with_more(&named.join(", "), count(nodes).saturating_sub(count(&named)))
}

fn with_more(names: &str, more: u32) -> String {
    if more == 0 {
        names.to_owned()
    } else {
        format!("{names} and {more} more")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(generation: i64, state: ObjectState) -> Taken {
        Taken {
            generation,
            state,
            why: None,
        }
    }

    fn refused(generation: i64, reason: &str) -> Taken {
        Taken {
            generation,
            state: ObjectState::Refused,
            why: Some(Arc::new((reason.to_owned(), "mend it".to_owned()))),
        }
    }

    fn of(generation: i64, nodes: &[(&str, bool, Option<Taken>)]) -> Judged {
        judge(
            generation,
            nodes.iter().map(|(node, is_heard, taken)| NodeFacts {
                node,
                is_heard: *is_heard,
                taken: taken.as_ref(),
            }),
        )
    }

    fn word(judged: &Judged) -> (&str, &str, u32, u32, u32) {
        (
            judged.status,
            judged.reason,
            judged.accepted,
            judged.refused,
            judged.total,
        )
    }

    #[test]
    fn it_is_accepted_once_all_nodes_have_this_generation_in_force() {
        use ObjectState::InForce;
        assert_eq!(word(&of(1, &[])), ("Unknown", "NoNodes", 0, 0, 0));
        let both = [
            ("a", true, Some(taken(2, InForce))),
            ("b", true, Some(taken(2, InForce))),
        ];
        assert_eq!(word(&of(2, &both)), ("True", "InForce", 2, 0, 2));
        // What is in force is an older one, or one that an object of another generation had.
        let judged = of(3, &both);
        assert_eq!(word(&judged), ("Unknown", "Waiting", 0, 0, 2));
        assert_eq!(judged.message, "in force on 0 of 2 nodes; not taken yet by a, b");
        let one = [("a", true, Some(taken(2, InForce))), ("b", true, None)];
        assert_eq!(
            of(2, &one).message,
            "in force on 1 of 2 nodes; not taken yet by b"
        );
    }

    #[test]
    fn what_one_node_refuses_is_refused_and_told_by_reason() {
        let mut nodes: Vec<(String, Taken)> = (0..8)
            .map(|number| (format!("n{number}"), refused(1, "no such file")))
            .collect();
        nodes.push(("x".to_owned(), refused(1, "no such key")));
        nodes.push(("y".to_owned(), taken(1, ObjectState::InForce)));
        let facts: Vec<_> = nodes
            .iter()
            .map(|(node, taken)| (node.as_str(), true, Some(taken.clone())))
            .collect();
        let judged = of(1, &facts);
        assert_eq!(word(&judged), ("False", "Refused", 1, 9, 10));
        assert_eq!(
            judged.message,
            "9 of 10 nodes refuse it; n0, n1, n2, n3, n4 and 3 more: no such file; x: no such key"
        );
        let [most, one] = judged.refusals.as_slice() else {
            panic!("{judged:?}")
        };
        assert_eq!((most.count, most.nodes.len()), (8, NAMED));
        assert_eq!((one.count, one.mend.as_str()), (1, "mend it"));
        // An older generation's refusal says nothing of this one.
        assert_eq!(word(&of(2, &facts)), ("Unknown", "Waiting", 0, 0, 10));
    }

    #[test]
    fn many_reasons_are_bounded() {
        let nodes: Vec<(String, Taken)> = (0..40)
            .map(|number| (format!("n{number:02}"), refused(1, &format!("why {number:02}"))))
            .collect();
        let facts: Vec<_> = nodes
            .iter()
            .map(|(node, taken)| (node.as_str(), true, Some(taken.clone())))
            .collect();
        let judged = of(1, &facts);
        assert_eq!((judged.refused, judged.refusals.len()), (40, TOLD));
        assert!(
            judged.message.ends_with("; and 30 other reasons"),
            "{}",
            judged.message
        );
    }

    #[test]
    fn what_waits_for_another_and_who_is_silent_is_told() {
        use ObjectState::{HeldBack, InForce};
        let held = [
            ("a", true, Some(taken(1, HeldBack))),
            ("b", true, Some(taken(1, InForce))),
        ];
        let judged = of(1, &held);
        assert_eq!(word(&judged), ("False", "HeldBack", 1, 0, 2));
        assert!(
            judged.message.starts_with("on a another object"),
            "{}",
            judged.message
        );
        // What an agent said that isn't heard any more isn't known to be so.
        let silent = [
            ("a", false, Some(taken(1, InForce))),
            ("b", true, Some(taken(1, InForce))),
        ];
        let judged = of(1, &silent);
        assert_eq!(word(&judged), ("Unknown", "Silent", 1, 0, 2));
        assert_eq!(judged.message, "nothing was heard lately of a");
    }
}
