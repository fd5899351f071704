//! Certificates minted from the operator's CA.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bailiff_model::Protocol;
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{certificate, materials};

/// For how long a minted certificate is valid. Short, since minting another costs a fraction of a millisecond.
const VALID: Duration = Duration::from_secs(24 * 3600);

/// How old it may be when it is shown to another client.
const RENEWED: Duration = Duration::from_secs(12 * 3600);

/// Clients' clocks may be behind ours by so much.
const BACKDATED: Duration = Duration::from_secs(3600);

/// Certificates kept. Past it, all are minted anew as they are asked for.
const KEPT: usize = 256;

/// Why nothing can be minted. The operator is at fault.
#[derive(Debug, thiserror::Error)]
pub(super) enum MintError {
    /// It isn't a CA's certificate.
    #[error("the certificate is no CA's: it may not sign others")]
    NoAuthority,
    /// The key belongs to another certificate.
    #[error("the key doesn't belong to the CA's certificate")]
    OtherKey,
    /// The key can't be read, or something can't be signed with it.
    #[error("{0}")]
    Key(#[from] rcgen::Error),
    /// What was minted can't be shown.
    #[error("{0}")]
    Unusable(#[from] rustls::Error),
}

/// A CA, and what it signed.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    chain: Vec<CertificateDer<'static>>,
    names: Vec<String>,
    protocol: Protocol,
    /// One key for all that is minted: only the agent has it, and it ends with the agent.
    key: KeyPair,
    minted: Mutex<HashMap<(IpAddr, Option<String>), Minted>>,
}

struct Minted {
    config: Arc<ServerConfig>,
    at: SystemTime,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl Authority {
    pub(super) fn new(
        chain: Vec<CertificateDer<'static>>,
        key_pem: &str,
        names: Vec<String>,
        protocol: Protocol,
    ) -> Result<Self, MintError> {
        let certificate = chain.first().ok_or(MintError::NoAuthority)?;
        let public = certificate::authority_key(certificate).ok_or(MintError::NoAuthority)?;
        let key = KeyPair::from_pem(key_pem)?;
        if key.subject_public_key_info() != public {
            return Err(MintError::OtherKey);
        }
        let issuer = Issuer::from_ca_cert_der(certificate, key)?;
        let this = Self {
            issuer,
            chain,
            names,
            protocol,
            key: KeyPair::generate()?,
            minted: Mutex::default(),
        };
        // Once, so that what can't work is told when it is configured.
        this.mint(IpAddr::from([127, 0, 0, 1]), None, SystemTime::now())?;
        Ok(this)
    }

    /// What is shown to a client that dialed this address and said this name.
    pub(crate) fn config(
        &self,
        address: IpAddr,
        said: Option<&str>,
    ) -> Result<Arc<ServerConfig>, &'static str> {
        let now = SystemTime::now();
        // Where the operator listed names, what the client says changes nothing, and one certificate an address is enough.
        let said = said.filter(|_| self.names.is_empty()).map(str::to_lowercase);
        let key = (address, said);
        let mut minted = self
            .minted
            .lock()
            .map_err(|_| "another thread failed while minting")?;
        if let Some(kept) = minted.get(&key)
            && now.duration_since(kept.at).is_ok_and(|age| age < RENEWED)
        {
            return Ok(Arc::clone(&kept.config));
        }
        if minted.len() >= KEPT {
            minted.clear();
        }
        let config = self.mint(address, key.1.as_deref(), now).map_err(|error| {
            tracing::error!(%error, "a certificate can't be minted");
            "a certificate can't be minted"
        })?;
        let kept = Minted {
            config: Arc::clone(&config),
            at: now,
        };
        minted.insert(key, kept);
        Ok(config)
    }

    fn mint(
        &self,
        address: IpAddr,
        said: Option<&str>,
        now: SystemTime,
    ) -> Result<Arc<ServerConfig>, MintError> {
        let names = match said {
            Some(said) => vec![said.to_owned(), address.to_string()],
            None => [self.names.as_slice(), &[address.to_string()]].concat(),
        };
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        let own = self.names.first().cloned();
        let name = said
            .map(str::to_owned)
            .or(own)
            .unwrap_or_else(|| address.to_string());
        // A common name has at most 64 characters; what counts is the alternative name.
        if name.len() <= 64 {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.not_before = (now - BACKDATED).into();
        params.not_after = (now + VALID).into();
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&self.key, &self.issuer)?;
        let mut chain = vec![leaf.der().clone()];
        chain.extend(self.chain.iter().cloned());
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        Ok(Arc::new(materials::server_config(chain, key, self.protocol)?))
    }
}
