use std::collections::BTreeMap;

use bailiff_policy::ServicePort;
use serde_json::{Value, json};

use super::resolve::Resolved;
use super::*;

const BORN: i64 = 1_893_456_000;

fn wanted(port: Option<ServicePort>) -> ServiceRef {
    ServiceRef {
        namespace: "shop".to_owned(),
        name: "pg".to_owned(),
        port,
    }
}

fn known(service: Option<&Value>, slices: &[Value]) -> Known {
    Known {
        service: service.map(|service| serde_json::from_value(service.clone()).unwrap()),
        slices: slices
            .iter()
            .map(|slice| serde_json::from_value(slice.clone()).unwrap())
            .collect(),
        service_told: true,
        slices_told: true,
        away: BTreeMap::new(),
    }
}

fn service(spec: &Value) -> Value {
    json!({
        "metadata": {"name": "pg", "namespace": "shop", "creationTimestamp": "2030-01-01T00:00:00Z"},
        "spec": spec,
    })
}

fn slice(name: &str, family: &str, ports: &Value, endpoints: &Value) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "creationTimestamp": "2030-01-01T00:00:01Z"},
        "addressType": family, "ports": ports, "endpoints": endpoints,
    })
}

fn addresses(resolved: &Resolved) -> Vec<String> {
    let tell = |address: &ServiceAddress| format!("{:?} {}", address.source, address.at);
    resolved.addresses.iter().map(tell).collect()
}

fn two_ports() -> Value {
    json!([
        {"name": "metrics", "port": 9187, "targetPort": 9187},
        {"name": "postgres", "port": 5432, "targetPort": "pg", "protocol": "TCP"},
        {"name": "other", "port": 5432, "protocol": "UDP"},
    ])
}

#[test]
fn all_ways_to_a_port_are_found_and_those_to_others_arent() {
    let mut about = service(&json!({
        "type": "LoadBalancer", "clusterIP": "10.96.7.7", "clusterIPs": ["10.96.7.7", "fd00:96::7"],
        "externalIPs": ["203.0.113.5"], "ports": two_ports(),
    }));
    about["status"] = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.9"}]}});
    let ports = json!([{"name": "metrics", "port": 9187}, {"name": "postgres", "port": 15432, "protocol": "TCP"}, {"name": "postgres", "port": 1, "protocol": "UDP"}]);
    let slices = [
        slice(
            "a",
            "IPv4",
            &ports,
            &json!([
                {"addresses": ["10.244.0.5"], "conditions": {"ready": true}},
                {"addresses": ["10.244.0.6"], "conditions": {"ready": false}},
                {"addresses": ["10.244.0.7"], "conditions": {"ready": false, "serving": false, "terminating": true}},
            ]),
        ),
        slice("b", "IPv6", &ports, &json!([{"addresses": ["fd00:244::5"]}])),
    ];
    let expected = [
        "Assigned 10.96.7.7:5432",
        "Assigned 198.51.100.9:5432",
        "Assigned [fd00:96::7]:5432",
        "Written 203.0.113.5:5432",
        "Written 10.244.0.5:15432",
        "Written 10.244.0.6:15432",
        "Written 10.244.0.7:15432",
        "Written [fd00:244::5]:15432",
    ];
    for port in [
        ServicePort::Number(5432),
        ServicePort::Name("postgres".to_owned()),
    ] {
        let found = resolve(&wanted(Some(port)), &known(Some(&about), &slices));
        assert_eq!(addresses(&found), expected);
        assert!(found.problems.is_empty(), "{found:?}");
    }
    let found = resolve(
        &wanted(Some(ServicePort::Number(9187))),
        &known(Some(&about), &slices),
    );
    assert!(found.addresses.iter().all(|address| address.at.port() == 9187));
    assert_eq!(found.addresses.len(), 8);
}

#[test]
fn a_headless_service_has_the_addresses_of_its_pods_alone() {
    let about = service(&json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 5432}]}));
    let slices = [slice(
        "a",
        "IPv4",
        &json!([{"name": "", "port": 5432}]),
        &json!([{"addresses": ["10.244.0.5"]}]),
    )];
    let found = resolve(&wanted(None), &known(Some(&about), &slices));
    assert_eq!(addresses(&found), ["Written 10.244.0.5:5432"]);
    assert_eq!(found.addresses.first().unwrap().since, BORN + 1);
}

#[test]
fn what_cant_be_protected_is_told() {
    let told = |port, service: Option<&Value>, slices: &[Value]| -> (usize, String) {
        let found = resolve(&wanted(port), &known(service, slices));
        (found.addresses.len(), found.problems.join("\n"))
    };
    let expect = |found: (usize, String), count: usize, text: &str| {
        assert!(found.0 == count && found.1.contains(text), "{found:?}");
    };
    expect(told(None, None, &[]), 0, "there is no such Service");
    let named = service(&json!({"type": "ExternalName", "externalName": "db.example"}));
    expect(told(None, Some(&named), &[]), 0, "of type ExternalName");
    let two = service(&json!({"clusterIP": "10.96.7.7", "ports": two_ports()}));
    expect(
        told(None, Some(&two), &[]),
        0,
        "several ports, and the Target names none: it has 9187 (metrics), 5432 (postgres)",
    );
    expect(
        told(Some(ServicePort::Number(1)), Some(&two), &[]),
        0,
        "no such port: it has 9187 (metrics)",
    );
    // Of UDP alone.
    expect(
        told(Some(ServicePort::Name("other".to_owned())), Some(&two), &[]),
        0,
        "no such port",
    );
    let node = service(
        &json!({"type": "NodePort", "clusterIP": "10.96.7.7", "ports": [{"port": 5432, "nodePort": 30432}]}),
    );
    expect(
        told(None, Some(&node), &[]),
        1,
        "a node's address at 30432 gets past",
    );
    let mut balanced = service(&json!({"clusterIP": "10.96.7.7", "ports": [{"port": 5432}]}));
    balanced["status"] = json!({"loadBalancer": {"ingress": [{"hostname": "lb.example"}]}});
    expect(
        told(None, Some(&balanced), &[]),
        1,
        "told by a name, \"lb.example\"",
    );
    let one = service(&json!({"clusterIP": "10.96.7.7", "ports": [{"port": 5432}]}));
    let names = slice(
        "a",
        "FQDN",
        &json!([{"port": 5432}]),
        &json!([{"addresses": ["db.example"]}]),
    );
    expect(told(None, Some(&one), &[names]), 1, "of type FQDN");
    // No Service is everybody's own loopback.
    for own in ["127.0.0.1", "0.0.0.0", "169.254.1.1", "224.0.0.1", "x"] {
        let odd = slice(
            "a",
            "IPv4",
            &json!([{"port": 5432}]),
            &json!([{"addresses": [own]}]),
        );
        expect(told(None, Some(&one), &[odd]), 1, "isn't protected");
    }
}

fn state(known: Known) -> Shared {
    Shared {
        state: Mutex::new(State {
            wanted: Some(BTreeSet::from([wanted(None)])),
            known: BTreeMap::from([(("shop".to_owned(), "pg".to_owned()), known)]),
            ..State::default()
        }),
        ..Shared::default()
    }
}

fn told(shared: &Shared) -> Vec<String> {
    let all = Arc::clone(&shared.lock().addresses);
    let each = all.values().flatten();
    each.map(|address| format!("{:?} {}", address.source, address.at))
        .collect()
}

#[test]
fn an_address_that_has_gone_stays_for_a_moment_and_no_longer() {
    let about = service(&json!({"clusterIP": "None", "ports": [{"port": 5432}]}));
    let with = |pods: &[&str]| {
        let endpoints: Vec<_> = pods.iter().map(|pod| json!({"addresses": [pod]})).collect();
        known(
            Some(&about),
            &[slice("a", "IPv4", &json!([{"port": 5432}]), &json!(endpoints))],
        )
    };
    let shared = state(with(&["10.244.0.5", "10.244.0.6"]));
    let (mut lingering, start) = (Lingering::default(), Instant::now());
    let tell = |known: Known| {
        let of = ("shop".to_owned(), "pg".to_owned());
        shared.lock().known.insert(of, known);
    };
    assert!(publish(&shared, &mut lingering, start));
    assert_eq!(shared.version.load(Ordering::Acquire), 1);
    assert!(!publish(&shared, &mut lingering, start) && lingering.next().is_none());
    let at = |seconds| start + Duration::from_secs(seconds);
    tell(with(&["10.244.0.6", "10.244.0.7"]));
    assert!(publish(&shared, &mut lingering, at(1)));
    assert_eq!(
        told(&shared),
        [
            "Written 10.244.0.6:5432",
            "Written 10.244.0.7:5432",
            "Gone 10.244.0.5:5432"
        ]
    );
    assert_eq!(lingering.next(), Some(at(1) + LINGER));
    // Looked at again, it isn't kept for longer; and the next one has its own time.
    tell(with(&["10.244.0.6"]));
    assert!(publish(&shared, &mut lingering, at(5)));
    assert!(!publish(&shared, &mut lingering, at(6)));
    assert!(publish(&shared, &mut lingering, at(1) + LINGER));
    assert_eq!(told(&shared), ["Written 10.244.0.6:5432", "Gone 10.244.0.7:5432"]);
    // Back before its time.
    tell(with(&["10.244.0.6", "10.244.0.7"]));
    assert!(publish(&shared, &mut lingering, at(12)));
    assert_eq!(
        told(&shared),
        ["Written 10.244.0.6:5432", "Written 10.244.0.7:5432"]
    );
    assert!(lingering.next().is_none());
    // Without the Service there is nothing, a moment later.
    tell(known(None, &[]));
    assert!(publish(&shared, &mut lingering, at(20)));
    assert_eq!(shared.lock().problems.len(), 1);
    assert_eq!(told(&shared), ["Gone 10.244.0.6:5432", "Gone 10.244.0.7:5432"]);
    assert!(publish(&shared, &mut lingering, at(20) + LINGER));
    assert!(told(&shared).is_empty());
}

#[test]
fn what_was_known_last_holds_until_all_is_told_and_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("services.json");
    assert!(kept::read(&file).unwrap().is_empty());
    let about = service(&json!({"clusterIP": "10.96.7.7", "ports": [{"port": 5432}]}));
    let shared = state(known(Some(&about), &[]));
    let mut lingering = Lingering::default();
    assert!(publish(&shared, &mut lingering, Instant::now()));
    let addresses = Arc::clone(&shared.lock().addresses);
    kept::write(&file, &addresses).unwrap();
    let read = kept::read(&file).unwrap();
    assert_eq!(read, *addresses);

    let next = state(Known::default());
    next.lock().addresses = Arc::new(read);
    assert!(next.lock().is_known());
    assert!(!publish(&next, &mut Lingering::default(), Instant::now()));
    assert_eq!(told(&next), ["Assigned 10.96.7.7:5432"]);
    assert!(next.lock().problems.is_empty());
    // Why nothing more is known is said.
    if let Some(known) = next.lock().known.values_mut().next() {
        known.away.insert("Service".to_owned(), "403".to_owned());
    }
    assert!(!publish(&next, &mut Lingering::default(), Instant::now()));
    let said = Arc::clone(&next.lock().problems);
    assert!(
        said.values()
            .flatten()
            .all(|line| line.contains("its Service can't be followed now") && line.ends_with(": 403"))
            && said.len() == 1
    );
    // Half of it told is nothing told.
    if let Some(known) = next.lock().known.values_mut().next() {
        known.service_told = true;
    }
    assert!(!publish(&next, &mut Lingering::default(), Instant::now()));
    // What no Target names any more is let go.
    next.lock().wanted = Some(BTreeSet::new());
    assert!(publish(&next, &mut Lingering::default(), Instant::now()));
    assert!(told(&next).is_empty());

    std::fs::write(&file, "{}").unwrap();
    assert!(kept::read(&file).is_err());
    // One that nobody has asked yet lets nothing go.
    let fresh = Shared::default();
    fresh.lock().addresses = addresses;
    assert!(!publish(&fresh, &mut Lingering::default(), Instant::now()) && !fresh.lock().is_known());
    assert_eq!(told(&fresh).len(), 1);
}
