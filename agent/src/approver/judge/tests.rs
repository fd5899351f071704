use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequestCondition, CertificateSigningRequestSpec, CertificateSigningRequestStatus,
};
use rcgen::KeyPair;

use super::*;
use crate::certificates::request::pem;

const USER: &str = "system:serviceaccount:bailiff:bailiff-agent";
const SIGNER: &str = "kubernetes.io/kubelet-serving";

fn rules() -> Rules<'static> {
    Rules {
        requester: USER,
        signer: SIGNER,
        names: ["kubernetes.default.svc", "10.96.0.1", "fd00::1"]
            .map(str::to_owned)
            .into(),
        max_seconds: 86_400,
    }
}

/// What an agent really asks for.
fn asked() -> CertificateSigningRequest {
    let names = ["kubernetes.default.svc", "10.96.0.1", "fd00:0::1"].map(str::to_owned);
    let pem = pem("n1", &names, &KeyPair::generate().unwrap()).unwrap();
    CertificateSigningRequest {
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: SIGNER.to_owned(),
            username: Some(USER.to_owned()),
            extra: Some(BTreeMap::from([(NODE.to_owned(), vec!["n1".to_owned()])])),
            expiration_seconds: Some(86_400),
            usages: Some(USAGES.map(str::to_owned).to_vec()),
            ..CertificateSigningRequestSpec::default()
        },
        ..CertificateSigningRequest::default()
    }
}

fn reason(request: &CertificateSigningRequest) -> &'static str {
    match judge(request, &rules()) {
        Judgement::Approve { .. } => "approved",
        Judgement::Deny { reason, .. } | Judgement::Leave { reason, .. } => reason,
    }
}

#[test]
fn what_an_agent_asks_for_is_approved() {
    let node = "n1".to_owned();
    assert_eq!(judge(&asked(), &rules()), Judgement::Approve { node });
    let mut windows = asked();
    let text = String::from_utf8(windows.spec.request.0).unwrap();
    windows.spec.request.0 = text.replace('\n', "\r\n").into_bytes();
    assert_eq!(reason(&windows), "approved");
}

type Change = fn(&mut CertificateSigningRequest);

#[test]
fn one_thing_changed_is_enough() {
    let changes: [(Change, &str); 12] = [
        (
            |asked| asked.spec.username = Some("system:node:n1".to_owned()),
            "Requester",
        ),
        (|asked| asked.spec.username = None, "Requester"),
        (
            |asked| asked.spec.signer_name = "example.com/other".to_owned(),
            "Signer",
        ),
        (|asked| asked.spec.extra = None, "Node"),
        (
            |asked| {
                let two = vec!["n1".to_owned(), "n2".to_owned()];
                asked.spec.extra = Some(BTreeMap::from([(NODE.to_owned(), two)]));
            },
            "Node",
        ),
        (
            |asked| {
                asked.spec.extra = Some(BTreeMap::from([(NODE.to_owned(), vec!["n2".to_owned()])]));
            },
            "Subject",
        ),
        (|asked| asked.spec.usages = None, "Usages"),
        (|asked| asked.spec.expiration_seconds = Some(86_401), "Lifetime"),
        (|asked| asked.spec.request.0.insert(0, b' '), "Malformed"),
        (|asked| asked.spec.request.0.extend(b"more"), "Malformed"),
        (
            |asked| asked.spec.request.0 = vec![b'A'; MAX_REQUEST + 1],
            "Malformed",
        ),
        (
            |asked| {
                let decided = CertificateSigningRequestCondition::default();
                asked.status = Some(CertificateSigningRequestStatus {
                    conditions: Some(vec![decided]),
                    certificate: None,
                });
            },
            "Decided",
        ),
    ];
    for (change, expected) in changes {
        let mut changed = asked();
        change(&mut changed);
        assert_eq!(reason(&changed), expected);
    }
}

#[test]
fn a_request_that_is_changed_anywhere_is_never_approved() {
    let good = asked();
    let der = der(&good.spec.request.0).unwrap();
    // Its signature holds all of it together; whatever byte is another, and wherever it is cut.
    for at in 0..der.len() {
        for bit in [1, 0x20, 0x80] {
            let mut changed = der.clone();
            changed[at] ^= bit;
            assert!(!is_fine(&changed), "byte {at} ^ {bit:#x}");
        }
        assert!(!is_fine(&der[..at]), "cut at {at}");
    }
    assert!(is_fine(&der));
}

/// Whether these bytes, as the agent's request, are approved.
fn is_fine(der: &[u8]) -> bool {
    let mut request = asked();
    request.spec.request.0 = written_as_pem(der).into_bytes();
    reason(&request) == "approved"
}

fn written_as_pem(der: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in der.chunks(3) {
        let bits = three
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - three.len()));
        for place in 0..4 {
            text.push(if place <= three.len() {
                char::from(LETTERS[(bits >> (18 - 6 * place) & 63) as usize])
            } else {
                '='
            });
        }
    }
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
        lines.join("\n")
    )
}
