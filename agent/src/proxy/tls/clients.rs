//! Clients' certificates: asked for in the handshake, where the client proves that it has the key; whether somebody trusted signed
//! it is told later, to each request, since connections outlive certificates and a broken handshake says nothing to people.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};

use super::materials::provider;

/// The CAs that sign clients' certificates.
#[derive(Debug)]
pub(crate) struct ClientAuthority {
    verifier: Arc<dyn ClientCertVerifier>,
}

impl ClientAuthority {
    pub(super) fn new(roots: RootCertStore) -> Option<Self> {
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        Some(Self {
            verifier: builder.build().ok()?,
        })
    }

    /// Whether one of them signed a client's chain, for clients, and it is valid now. Otherwise what is wrong with it.
    pub(crate) fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), &'static str> {
        let (leaf, between) = chain.split_first().ok_or("there is none")?;
        match self.verifier.verify_client_cert(leaf, between, now) {
            Ok(_) => Ok(()),
            Err(Error::InvalidCertificate(error)) => Err(match error {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired",
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "it isn't valid yet"
                }
                CertificateError::UnknownIssuer => "no CA that this API server's clients come from signed it",
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                    "it isn't for clients"
                }
                _ => "it, or a CA's above it, isn't right",
            }),
            Err(_) => Err("it can't be verified"),
        }
    }
}

/// What is shown to a client, with the question for a certificate, which it may leave open.
pub(crate) fn asking(
    shown: &ServerConfig,
    authority: Option<&ClientAuthority>,
) -> Result<Arc<ServerConfig>, &'static str> {
    let provider = provider();
    let hints = authority.map(|authority| authority.verifier.root_hint_subjects().to_vec());
    let verifier = Arc::new(AnyKey {
        hints: hints.unwrap_or_default(),
        provider: Arc::clone(&provider),
    });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| "clients can't be asked for certificates")?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::clone(&shown.cert_resolver));
    config.alpn_protocols.clone_from(&shown.alpn_protocols);
    // A resumed session would bring a certificate along that was shown to another connection.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// Takes every certificate of which the client has the key.
#[derive(Debug)]
struct AnyKey {
    hints: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyKey {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // Every request asks whom it names, and no request goes on before that.
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
