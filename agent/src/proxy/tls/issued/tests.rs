use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, PublicKeyData as _,
};
use rustls::pki_types::PrivatePkcs8KeyDer;

use super::*;

struct Authority {
    file: tempfile::NamedTempFile,
    issuer: Issuer<'static, KeyPair>,
}

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), params.self_signed(&key).unwrap().pem()).unwrap();
    Authority {
        file,
        issuer: Issuer::new(params, key),
    }
}

impl Authority {
    fn request(&self, names: &[&str]) -> SigningRequest {
        SigningRequest {
            signer: "example.com/signer".to_owned(),
            names: names.iter().map(ToString::to_string).collect(),
            expiration_seconds: 600,
            ca: self.file.path().to_owned(),
        }
    }

    fn sign(&self, key: &KeyPair, names: &[&str], change: impl Fn(&mut CertificateParams)) -> String {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = (SystemTime::now() - Duration::from_secs(60)).into();
        params.not_after = (SystemTime::now() + Duration::from_secs(600)).into();
        change(&mut params);
        params.signed_by(key, &self.issuer).unwrap().pem()
    }
}

const NAMES: [&str; 3] = ["kubernetes.default.svc", "10.96.0.1", "fd00::1"];

fn take_up(issued: &Issued, pem: &str, key: &KeyPair) -> Result<i64, IssueError> {
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    issued.take_up(pem.as_bytes(), &key.subject_public_key_info(), der)
}

fn new(request: SigningRequest) -> Issued {
    Issued::new(TargetName::new("api"), request, None)
}

#[test]
fn what_was_asked_for_is_shown_until_it_ends() {
    let (authority, key) = (authority(), KeyPair::generate().unwrap());
    let issued = new(authority.request(&NAMES));
    assert!(issued.config().is_err() && issued.ends().is_none());
    let pem = authority.sign(&key, &NAMES, |_| {});
    let ends = take_up(&issued, &pem, &key).unwrap();
    assert!((now() + 590..=now() + 600).contains(&ends), "{ends}");
    assert!(issued.config().is_ok() && issued.ends() == Some(ends));
    // A clock that goes on: nothing is shown that clients would refuse.
    let kept = issued.shown.load_full().unwrap();
    issued.shown.store(Some(Arc::new(Shown {
        config: Arc::clone(&kept.config),
        ends: now(),
    })));
    assert_eq!(
        issued.config().unwrap_err(),
        "the certificate for this API server has ended"
    );
}

#[test]
fn what_was_not_asked_for_is_never_shown() {
    let (authority, other, key) = (authority(), self::authority(), KeyPair::generate().unwrap());
    let another_key = KeyPair::generate().unwrap();
    let day = Duration::from_secs(24 * 3600);
    let issued = new(authority.request(&NAMES));
    for (pem, expected) in [
        (String::new(), "no certificate"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(),
            "no certificate that can be read",
        ),
        (authority.sign(&another_key, &NAMES, |_| {}), "for another key"),
        (
            authority.sign(&key, &["kubernetes.default.svc", "10.96.0.1"], |_| {}),
            "a certificate for",
        ),
        (
            authority.sign(&key, &[&NAMES[..], &["evil.example"]].concat(), |_| {}),
            "evil.example",
        ),
        (authority.sign(&key, &[], |_| {}), "a certificate for []"),
        (
            authority.sign(&key, &NAMES, |params| {
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            }),
            "a CA's certificate",
        ),
        (
            authority.sign(&key, &NAMES, |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            }),
            "something else than what was asked for",
        ),
        (
            authority.sign(&key, &NAMES, |params| {
                params.not_after = (SystemTime::now() - Duration::from_secs(1)).into();
            }),
            "look at the clocks",
        ),
        (
            authority.sign(&key, &NAMES, |params| {
                params.not_before = (SystemTime::now() + day).into();
                params.not_after = (SystemTime::now() + 2 * day).into();
            }),
            "look at the clocks",
        ),
        (other.sign(&key, &NAMES, |_| {}), "pods would refuse it"),
    ] {
        let error = take_up(&issued, &pem, &key).unwrap_err().to_string();
        assert!(error.contains(expected), "expected {expected:?}, found {error}");
        assert!(issued.config().is_err());
    }
    std::fs::write(authority.file.path(), "nothing").unwrap();
    let error = take_up(&issued, &authority.sign(&key, &NAMES, |_| {}), &key).unwrap_err();
    assert_eq!(error, IssueError::NoAuthority(authority.file.path().to_owned()));
}

#[test]
fn another_definition_of_a_target_keeps_what_the_same_pods_trust() {
    let (authority, other, key) = (authority(), self::authority(), KeyPair::generate().unwrap());
    let issued = new(authority.request(&NAMES));
    take_up(&issued, &authority.sign(&key, &NAMES, |_| {}), &key).unwrap();
    let next = |request| Issued::new(TargetName::new("api"), request, Some(&issued));
    assert!(next(authority.request(&["kubernetes"])).config().is_ok());
    assert!(next(other.request(&NAMES)).config().is_err());
}

#[test]
fn only_news_is_told() {
    let authority = authority();
    let issued = new(authority.request(&NAMES));
    let denied = || Condition {
        state: "denied",
        told: "so".to_owned(),
    };
    assert!(issued.becomes(denied()) && !issued.becomes(denied()));
    assert_eq!(issued.condition(), denied());
}
