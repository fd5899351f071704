//! What a certificate says.

use sha2::{Digest as _, Sha256, Sha384, Sha512};
use x509_parser::oid_registry as oid;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// When a certificate ends, in seconds since 1970. `None` where it can't be read.
pub(crate) fn expiry(der: &[u8]) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// Whether one of these signed it, by their names, or is the same.
pub(super) fn is_under(der: &[u8], authorities: &[rustls::pki_types::CertificateDer<'_>]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return false;
    };
    authorities.iter().any(|authority| {
        **authority == *der
            || X509Certificate::from_der(authority)
                .is_ok_and(|(_, authority)| authority.subject().as_raw() == certificate.issuer().as_raw())
    })
}

/// Whether it is valid now.
pub(super) fn is_current(der: &[u8]) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, certificate)| certificate.validity().is_valid())
}

/// Whether it may sign others, and the public key that it does so with.
pub(super) fn authority_key(der: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let signs = certificate
        .key_usage()
        .ok()?
        .is_none_or(|usage| usage.value.key_cert_sign());
    (certificate.is_ca() && signs).then(|| certificate.public_key().raw.to_vec())
}

/// What SCRAM binds to: `tls-server-end-point` of RFC 5929, section 4.1. `None` where the hash isn't told by the certificate, as
/// with Ed25519.
pub(crate) fn end_point(der: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let by = &certificate.signature_algorithm.algorithm;
    // MD5 and SHA-1 count as SHA-256.
    let sha256 = [
        oid::OID_PKCS1_MD5WITHRSAENC,
        oid::OID_PKCS1_SHA1WITHRSA,
        oid::OID_PKCS1_SHA256WITHRSA,
        oid::OID_SIG_ECDSA_WITH_SHA256,
    ];
    if sha256.contains(by) {
        Some(Sha256::digest(der).to_vec())
    } else if [oid::OID_PKCS1_SHA384WITHRSA, oid::OID_SIG_ECDSA_WITH_SHA384].contains(by) {
        Some(Sha384::digest(der).to_vec())
    } else if [oid::OID_PKCS1_SHA512WITHRSA, oid::OID_SIG_ECDSA_WITH_SHA512].contains(by) {
        Some(Sha512::digest(der).to_vec())
    } else {
        None
    }
}
