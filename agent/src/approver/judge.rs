//! What becomes of one request.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use x509_parser::asn1_rs::Oid;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry as oid;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Name};

use crate::certificates::request::{COMMON_NAME, ORGANISATION, USAGES};
use crate::world::cluster::{NODE, node_of};

/// What the signer allows beside: older clients of RSA ask for it.
const FURTHER_USAGE: &str = "key encipherment";

/// A request is no longer than this: an agent's is half a kilobyte.
const MAX_REQUEST: usize = 16 * 1024;

/// By what a request is judged.
#[derive(Debug, Clone)]
pub(super) struct Rules<'a> {
    /// The agents' user.
    pub(super) requester: &'a str,
    pub(super) signer: &'a str,
    /// Names and addresses of the API server.
    pub(super) names: BTreeSet<String>,
    pub(super) max_seconds: i32,
}

/// What becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It is nobody's here.
    Leave {
        /// A word for it.
        reason: &'static str,
        /// In words.
        why: String,
    },
    /// It is what an agent needs.
    Approve {
        /// Whose.
        node: String,
    },
    /// It comes from the agents' account, and is something else.
    Deny {
        /// A word for it.
        reason: &'static str,
        /// In words.
        why: String,
    },
}

/// Whether it is an open request of the agents' account to this signer.
pub(super) fn may_be_ours(request: &CertificateSigningRequest, rules: &Rules<'_>) -> bool {
    !matches!(whose(request, rules), Some(Judgement::Leave { .. }))
}

/// What becomes of a request.
pub(super) fn judge(request: &CertificateSigningRequest, rules: &Rules<'_>) -> Judgement {
    if let Some(left) = whose(request, rules) {
        return left;
    }
    match fits(request, rules) {
        Ok(node) => Judgement::Approve { node },
        // Uncertainty denies: what can't be read is denied, too.
        Err((reason, why)) => Judgement::Deny { reason, why },
    }
}

fn whose(request: &CertificateSigningRequest, rules: &Rules<'_>) -> Option<Judgement> {
    let left = |reason, why| Some(Judgement::Leave { reason, why });
    let status = request.status.as_ref();
    let decided = status.and_then(|status| status.conditions.as_ref());
    if decided.is_some_and(|conditions| !conditions.is_empty())
        || status.is_some_and(|status| status.certificate.is_some())
    {
        return left("Decided", "it is decided".to_owned());
    }
    let user = request.spec.username.as_deref().unwrap_or_default();
    if user != rules.requester {
        return left("Requester", format!("it isn't of {}", rules.requester));
    }
    if request.spec.signer_name != rules.signer {
        // An approver for one signer has no right to deny for another.
        let why = format!(
            "it is for the signer {}, and agents ask {}",
            request.spec.signer_name, rules.signer
        );
        return left("Signer", why);
    }
    None
}

type Reason = (&'static str, String);

/// The node whose agent it is of, if it is for no more than an agent needs.
fn fits(request: &CertificateSigningRequest, rules: &Rules<'_>) -> Result<String, Reason> {
    let spec = &request.spec;
    let node = node_of(spec.extra.as_ref()).ok_or_else(|| {
        let why = format!("the requester's token is bound to no node ({NODE})");
        ("Node", why)
    })?;
    usages(spec.usages.as_deref().unwrap_or_default())?;
    match spec.expiration_seconds {
        None => return Err(("Lifetime", "it doesn't say expirationSeconds".to_owned())),
        Some(seconds) if seconds > rules.max_seconds => {
            let why = format!("it is for {seconds} s, and {} are the most", rules.max_seconds);
            return Err(("Lifetime", why));
        }
        Some(_) => {}
    }
    let der = der(&spec.request.0).ok_or_else(|| malformed("it is no single PEM block"))?;
    let (rest, read) =
        X509CertificationRequest::from_der(&der).map_err(|_| malformed("it is no PKCS#10 request"))?;
    if !rest.is_empty() {
        return Err(malformed("something follows the PKCS#10 request"));
    }
    let info = &read.certification_request_info;
    key(&info.subject_pki)?;
    if encoded(info.raw, &read.signature_value.data) != der {
        return Err(malformed(
            "it isn't encoded as DER wants it, or isn't signed by ECDSA with SHA-256",
        ));
    }
    if read.verify_signature().is_err() {
        return Err((
            "Signature",
            "its signature isn't by the key that it is for".to_owned(),
        ));
    }
    subject(&info.subject, node)?;
    let [attribute] = info.attributes() else {
        return Err((
            "Extensions",
            "it has other attributes than one list of extensions".to_owned(),
        ));
    };
    let ParsedCriAttribute::ExtensionRequest(asked) = attribute.parsed_attribute() else {
        return Err((
            "Extensions",
            "it has another attribute than extensions".to_owned(),
        ));
    };
    let [extension] = asked.extensions.as_slice() else {
        let why = format!(
            "it asks for {} extensions, and the names are the only one",
            asked.extensions.len()
        );
        return Err(("Extensions", why));
    };
    let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
        return Err((
            "Extensions",
            "it asks for another extension than names".to_owned(),
        ));
    };
    if names.general_names.is_empty() {
        return Err(("Names", "it is for no name".to_owned()));
    }
    for name in &names.general_names {
        let written = written(name);
        if !written.as_ref().is_some_and(|name| rules.names.contains(name)) {
            let told = written.unwrap_or_else(|| "of another kind".to_owned());
            let why = format!("a name that isn't the API server's: {}", short(&told));
            return Err(("Names", why));
        }
    }
    Ok(node.to_owned())
}

fn malformed(why: &str) -> Reason {
    ("Malformed", why.to_owned())
}

/// What others wrote goes on in part.
fn short(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { '?' } else { letter })
        .take(100)
        .collect()
}

fn usages(asked: &[String]) -> Result<(), Reason> {
    if let Some(other) = asked
        .iter()
        .find(|usage| !USAGES.contains(&usage.as_str()) && *usage != FURTHER_USAGE)
    {
        return Err((
            "Usages",
            format!("a usage that no server needs: {}", short(other)),
        ));
    }
    if !asked.iter().any(|usage| usage == "server auth") {
        return Err(("Usages", "it isn't for a server".to_owned()));
    }
    Ok(())
}

/// The bytes of the one PEM block. The signer reads the first of several, and skips what stands before: neither is taken.
fn der(pem: &[u8]) -> Option<Vec<u8>> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE REQUEST-----\n";
    if pem.len() > MAX_REQUEST {
        return None;
    }
    let text = std::str::from_utf8(pem).ok()?.replace("\r\n", "\n");
    let body = text.strip_prefix(BEGIN)?;
    if body.contains("BEGIN") || body.contains(':') {
        return None;
    }
    let (rest, read) = x509_parser::pem::parse_x509_pem(text.as_bytes()).ok()?;
    (rest.iter().all(u8::is_ascii_whitespace) && read.label == "CERTIFICATE REQUEST").then_some(read.contents)
}

/// What surrounds the part that is signed has one form: what reads it in another might read something else.
/// Source: RFC 2986, section 4.2, `CertificationRequest`.
fn encoded(signed: &[u8], signature: &[u8]) -> Vec<u8> {
    const ECDSA_WITH_SHA256: [u8; 12] = [
        0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02,
    ];
    let tagged = |tag: u8, content: &[u8]| {
        let length = content.len().to_be_bytes();
        let length: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
        let mut out = vec![tag];
        match length.as_slice() {
            [] => out.push(0),
            [short @ 0..=0x7f] => out.push(*short),
            long => {
                out.push(0x80 | u8::try_from(long.len()).unwrap_or_default());
                out.extend(long);
            }
        }
        out.extend(content);
        out
    };
    // No bit of the last byte is unused.
    let signature = tagged(0x03, &[&[0], signature].concat());
    tagged(0x30, &[signed, &ECDSA_WITH_SHA256, &signature].concat())
}

/// P-256, as agents make.
fn key(key: &SubjectPublicKeyInfo<'_>) -> Result<(), Reason> {
    let curve = key
        .algorithm
        .parameters
        .as_ref()
        .and_then(|parameters| Oid::try_from(parameters.clone()).ok());
    let fits = key.algorithm.algorithm == oid::OID_KEY_TYPE_EC_PUBLIC_KEY
        && curve.is_some_and(|curve| curve == oid::OID_EC_P256)
        && matches!(key.parsed(), Ok(PublicKey::EC(_)));
    if fits {
        Ok(())
    } else {
        Err(("Key", "its key isn't an ECDSA key of the curve P-256".to_owned()))
    }
}

/// The organisation and the common name of the node's agent, and nothing else.
fn subject(subject: &X509Name<'_>, node: &str) -> Result<(), Reason> {
    let mut said = Vec::new();
    for attribute in subject.iter_attributes() {
        let value = attribute.as_str().unwrap_or_default();
        said.push((attribute.attr_type().clone(), value));
    }
    let name = format!("{COMMON_NAME}{node}");
    let expected = [
        (oid::OID_X509_ORGANIZATION_NAME, ORGANISATION),
        (oid::OID_X509_COMMON_NAME, name.as_str()),
    ];
    if said.len() == expected.len() && expected.iter().all(|part| said.contains(part)) {
        Ok(())
    } else {
        let why = format!(
            "its subject is {}, and of the agent on node {node} it is O={ORGANISATION}, CN={name}",
            short(&subject.to_string())
        );
        Err(("Subject", why))
    }
}

/// A host's name or an address. `None` for what is neither.
fn written(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(four) => Some(IpAddr::from(four).to_string()),
            Err(_) => Some(IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests;
