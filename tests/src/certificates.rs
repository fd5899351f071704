//! Certificates for tests.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};

/// A CA with its files in a directory that everybody may read.
pub struct Authority {
    directory: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    made: AtomicU32,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Authority").field(&self.directory).finish()
    }
}

impl Authority {
    /// A new CA of this name.
    pub fn new(name: &str) -> Result<Self> {
        // Not under /tmp: a sandbox has its own.
        let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tmp");
        std::fs::create_dir_all(&place)?;
        let directory = tempfile::Builder::new()
            .prefix("bailiff-ca-")
            .tempdir_in(place.canonicalize()?)?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(directory.path(), mode)?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        std::fs::write(directory.path().join("ca.pem"), certificate.pem())?;
        std::fs::write(directory.path().join("ca.key"), key.serialize_pem())?;
        Ok(Self {
            directory,
            issuer: Issuer::new(params, key),
            made: AtomicU32::new(0),
        })
    }

    /// Its certificate, as PEM. Its key lies beside it as `ca.key`.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Its key, as PEM.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.directory.path().join("ca.key")
    }

    /// Where its files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A certificate for these names or for this user, and its key. Both are new files.
    pub fn leaf(&self, names: &[&str], user: Option<&str>) -> Result<(PathBuf, PathBuf)> {
        self.leaf_until(names, user, SystemTime::now() + Duration::from_secs(24 * 3600))
    }

    /// The same, with its end.
    pub fn leaf_until(
        &self,
        names: &[&str],
        user: Option<&str>,
        until: SystemTime,
    ) -> Result<(PathBuf, PathBuf)> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names.clone())?;
        params.distinguished_name = DistinguishedName::new();
        let name = user.map(str::to_owned).or_else(|| names.first().cloned());
        params
            .distinguished_name
            .push(DnType::CommonName, name.unwrap_or_default());
        params.not_before = (SystemTime::now() - Duration::from_secs(48 * 3600)).into();
        params.not_after = until.into();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let at = |kind: &str| self.directory.path().join(format!("{number}.{kind}"));
        std::fs::write(at("pem"), certificate.pem())?;
        std::fs::write(at("key"), key.serialize_pem())?;
        Ok((at("pem"), at("key")))
    }
}
