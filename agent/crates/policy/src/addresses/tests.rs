use bailiff_model::OriginalDst;

use super::*;

const TARGETS: &str = "apiVersion: bailiff.dev/v1alpha1
kind: Target
metadata: { name: api }
spec: { protocol: postgres, endpoints: [\"10.96.0.1:443\", \"10.9.0.0/16:5432\"] }
---
apiVersion: bailiff.dev/v1alpha1
kind: Target
metadata: { name: mine }
spec: { protocol: postgres, services: [{ namespace: shop, name: pg, port: 5432 }] }
---
apiVersion: bailiff.dev/v1alpha1
kind: Target
metadata: { name: theirs }
spec: { protocol: postgres, endpoints: [\"10.7.0.0/16:5432\"], services: [{ namespace: tenant, name: pg }] }
";

fn set() -> PolicySet {
    PolicySet::from_sources_in_cluster(&[("t.yaml", TARGETS)]).unwrap()
}

fn address(source: AddressSource, since: i64, at: &str) -> ServiceAddress {
    ServiceAddress {
        source,
        since,
        at: at.parse().unwrap(),
    }
}

fn mine() -> ServiceRef {
    ServiceRef {
        namespace: "shop".to_owned(),
        name: "pg".to_owned(),
        port: Some(ServicePort::Number(5432)),
    }
}

fn theirs() -> ServiceRef {
    ServiceRef {
        namespace: "tenant".to_owned(),
        name: "pg".to_owned(),
        port: None,
    }
}

fn owner(set: &PolicySet, at: &str) -> Option<String> {
    let target = set.target_for(OriginalDst::new(at.parse().unwrap()))?;
    Some(target.name.as_str().to_owned())
}

use AddressSource::{Assigned, Gone, Written};

#[test]
fn a_services_addresses_are_its_targets() {
    let base = set();
    assert_eq!(owner(&base, "10.244.0.5:5432"), None);
    let addresses = BTreeMap::from([(
        mine(),
        vec![
            address(Assigned, 5, "10.96.7.7:5432"),
            address(Written, 6, "10.244.0.5:5432"),
            address(Written, 6, "[fd00::5]:5432"),
        ],
    )]);
    let (set, refused) = base.with_addresses(&addresses);
    assert!(refused.is_empty(), "{refused:?}");
    for at in ["10.96.7.7:5432", "10.244.0.5:5432", "[fd00::5]:5432"] {
        assert_eq!(owner(&set, at).as_deref(), Some("mine"), "{at}");
    }
    assert_eq!(owner(&set, "10.244.0.5:5433"), None);
    assert_eq!(set.generation(), base.generation());
    let all: Vec<_> = set.protected().map(|(_, endpoint)| endpoint).collect();
    assert_eq!(all.len(), 6, "{all:?}");
    assert!(all.contains(&Endpoint {
        address: "10.244.0.5".parse().unwrap(),
        prefix: 32,
        port: 5432
    }));
    // What has gone is nobody's again.
    assert_eq!(
        owner(&set.with_addresses(&BTreeMap::new()).0, "10.244.0.5:5432"),
        None
    );
}

#[test]
fn what_stands_in_endpoints_is_taken_by_no_service() {
    let addresses = BTreeMap::from([(
        theirs(),
        vec![
            address(Assigned, 0, "10.96.0.1:443"),
            address(Written, 0, "10.9.1.1:5432"),
            address(Written, 0, "10.7.0.1:5432"),
            address(Written, 0, "10.9.1.1:5433"),
        ],
    )]);
    let (set, refused) = set().with_addresses(&addresses);
    assert_eq!(owner(&set, "10.96.0.1:443").as_deref(), Some("api"));
    assert_eq!(owner(&set, "10.9.1.1:5432").as_deref(), Some("api"));
    // Its own, and what nobody has.
    assert_eq!(owner(&set, "10.7.0.1:5432").as_deref(), Some("theirs"));
    assert_eq!(owner(&set, "10.9.1.1:5433").as_deref(), Some("theirs"));
    let told: Vec<_> = refused.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told.iter().all(|line| line.contains("is Target api's")),
        "{told:?}"
    );
}

#[test]
fn of_two_services_that_name_an_address_the_clusters_word_and_then_the_older_counts() {
    // A tenant names what is another's: by its own slices, older or not.
    for (mine_has, theirs_has, whose) in [
        ((Assigned, 9), (Written, 1), "mine"),
        ((Written, 5), (Written, 6), "mine"),
        ((Written, 6), (Written, 5), "theirs"),
        ((Written, 5), (Written, 5), "mine"),
        ((Gone, 1), (Written, 5), "theirs"),
        ((Written, 9), (Gone, 1), "mine"),
    ] {
        let addresses = BTreeMap::from([
            (mine(), vec![address(mine_has.0, mine_has.1, "10.244.0.5:5432")]),
            (
                theirs(),
                vec![address(theirs_has.0, theirs_has.1, "10.244.0.5:5432")],
            ),
        ]);
        let (set, refused) = set().with_addresses(&addresses);
        assert_eq!(owner(&set, "10.244.0.5:5432").as_deref(), Some(whose));
        let other = if whose == "mine" { "theirs" } else { "mine" };
        assert_eq!(
            refused,
            [RefusedAddress {
                target: other.to_owned(),
                at: "10.244.0.5:5432".parse().unwrap(),
                why: Refused::Another(whose.to_owned()),
            }]
        );
    }
}

#[test]
fn an_address_that_is_named_twice_counts_once() {
    let addresses = BTreeMap::from([(
        mine(),
        vec![
            address(Written, 3, "10.244.0.5:5432"),
            address(Gone, 3, "10.244.0.5:5432"),
            address(Written, 2, "10.244.0.5:5432"),
        ],
    )]);
    let (set, refused) = set().with_addresses(&addresses);
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(set.resolved.len(), 1);
}

#[test]
fn more_than_may_be_are_told_and_the_clusters_own_come_first() {
    let mut all: Vec<_> = (0..u32::try_from(TARGET_ADDRESSES).unwrap() + 2)
        .map(|number| {
            let at = std::net::Ipv4Addr::from_bits((10 << 24) + (200 << 16) + number);
            address(Written, 1, &format!("{at}:5432"))
        })
        .collect();
    all.push(address(Assigned, 9, "10.96.7.7:5432"));
    let (set, refused) = set().with_addresses(&BTreeMap::from([(theirs(), all)]));
    assert_eq!(set.resolved.len(), TARGET_ADDRESSES);
    assert_eq!(owner(&set, "10.96.7.7:5432").as_deref(), Some("theirs"));
    let told: Vec<_> = refused.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 1);
    assert!(
        told.iter()
            .all(|line| line.starts_with("3 addresses are not protected, from 10.200.3.231:5432 on")),
        "{told:?}"
    );
}
