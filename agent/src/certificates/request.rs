//! What is asked for, and how far it has come. The approver reads the same.

use k8s_openapi::api::certificates::v1::CertificateSigningRequestStatus;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

/// The common name of what the agent of a node asks for. No node's name has a colon, so none is a kubelet's.
pub(crate) const COMMON_NAME: &str = "system:node:bailiff:";

/// The organisation that the signer wants.
/// Source: `k8s.io/kubernetes/pkg/apis/certificates`, `ValidateKubeletServingCSR`.
pub(crate) const ORGANISATION: &str = "system:nodes";

/// What it is for: no more than a server needs.
pub(crate) const USAGES: [&str; 2] = ["digital signature", "server auth"];

/// Letters of others' words that are told on.
const WORDS: usize = 500;

/// How far a request has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Open,
    Approved,
    Signed(Vec<u8>),
    Denied(String),
    Failed(String),
}

/// What a request's status says.
pub(super) fn progress(status: CertificateSigningRequestStatus) -> Progress {
    let conditions = status.conditions.unwrap_or_default();
    let find = |kind: &str| {
        let found = conditions.iter().find(|condition| condition.type_ == kind)?;
        let mut because = String::new();
        for words in [&found.reason, &found.message].into_iter().flatten() {
            because.push_str(": ");
            because.extend(words.chars().filter(|letter| !letter.is_control()).take(WORDS));
        }
        Some(because)
    };
    if let Some(because) = find("Denied") {
        Progress::Denied(because)
    } else if let Some(because) = find("Failed") {
        Progress::Failed(because)
    } else if let Some(certificate) = status.certificate.filter(|certificate| !certificate.0.is_empty()) {
        Progress::Signed(certificate.0)
    } else if find("Approved").is_some() {
        Progress::Approved
    } else {
        Progress::Open
    }
}

/// How the objects of a node and target are called; the API server adds what makes each its own.
pub(super) fn prefix(node: &str, target: &str) -> String {
    let short = |name: &str, most: usize| name.chars().take(most).collect::<String>();
    format!("bailiff-{}-{}-", short(node, 100), short(target, 60))
}

/// A request for a certificate: its subject, its names, and the proof that the agent has the key.
pub(crate) fn pem(node: &str, names: &[String], key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, ORGANISATION);
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{COMMON_NAME}{node}"));
    params.serialize_request(key)?.pem()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use k8s_openapi::api::certificates::v1::CertificateSigningRequestCondition;

    use super::*;

    fn status(conditions: &[(&str, &str)], certificate: Option<&[u8]>) -> CertificateSigningRequestStatus {
        CertificateSigningRequestStatus {
            certificate: certificate.map(|bytes| ByteString(bytes.to_vec())),
            conditions: Some(
                conditions
                    .iter()
                    .map(|(kind, message)| CertificateSigningRequestCondition {
                        type_: (*kind).to_owned(),
                        message: Some((*message).to_owned()),
                        ..CertificateSigningRequestCondition::default()
                    })
                    .collect(),
            ),
        }
    }

    #[test]
    fn how_far_a_request_has_come() {
        assert_eq!(
            progress(CertificateSigningRequestStatus::default()),
            Progress::Open
        );
        assert_eq!(progress(status(&[("Approved", "")], None)), Progress::Approved);
        assert_eq!(
            progress(status(&[("Approved", "")], Some(b"pem"))),
            Progress::Signed(b"pem".to_vec())
        );
        // What was signed and then denied isn't used.
        assert_eq!(
            progress(status(&[("Approved", ""), ("Denied", "a\nb")], Some(b"pem"))),
            Progress::Denied(": ab".to_owned())
        );
        let Progress::Failed(because) =
            progress(status(&[("Approved", ""), ("Failed", &"x".repeat(9000))], None))
        else {
            panic!("it has failed")
        };
        assert_eq!(because.len(), 2 + WORDS);
    }

    #[test]
    fn names_of_objects_are_short_enough() {
        let long = "n".repeat(253);
        assert_eq!(prefix("worker-1", "api"), "bailiff-worker-1-api-");
        assert!(prefix(&long, &long).len() < 200);
    }
}
