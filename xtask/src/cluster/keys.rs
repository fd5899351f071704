//! A cluster's certificates and keys, and the kubeconfigs that name them.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};

use super::place::Slot;

/// The cluster's CA, which signs everything: servers, clients, and what the certificate API is asked for.
pub(crate) struct Keys {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// Who a client is to the API server.
pub(crate) struct User {
    /// Of its files.
    pub(crate) file: String,
    pub(crate) name: String,
    pub(crate) group: Option<&'static str>,
}

impl Keys {
    /// Makes the CA and the key that signs service accounts' tokens.
    ///
    /// # Errors
    /// When a file can't be written.
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("{} can't be made", folder.display()))?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        let this = Self {
            folder: folder.to_path_buf(),
            issuer: Issuer::new(params, key),
        };
        this.write("ca.crt", &certificate.pem())?;
        this.write("ca.key", &this.issuer.key().serialize_pem())?;
        let accounts = KeyPair::generate()?;
        this.write("sa.key", &accounts.serialize_pem())?;
        this.write("sa.pub", &accounts.public_key_pem())?;
        Ok(this)
    }

    /// A file of it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A server's certificate and key, as `NAME.crt` and `NAME.key`.
    ///
    /// # Errors
    /// When a name can't be in a certificate, or a file can't be written.
    pub(crate) fn server(&self, file: &str, names: &[String]) -> Result<()> {
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, file);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(file, params)
    }

    /// A client's certificate and key.
    ///
    /// # Errors
    /// When a file can't be written.
    pub(crate) fn client(&self, user: &User) -> Result<()> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = DistinguishedName::new();
        if let Some(group) = user.group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params
            .distinguished_name
            .push(DnType::CommonName, user.name.as_str());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&user.file, params)
    }

    /// The client's certificate, and a kubeconfig by it beside the folder of keys.
    ///
    /// # Errors
    /// When a file can't be written.
    pub(crate) fn kubeconfig(&self, user: &User, slot: Slot) -> Result<PathBuf> {
        self.client(user)?;
        let [ca, certificate, key] = [
            "ca.crt",
            &format!("{}.crt", user.file),
            &format!("{}.key", user.file),
        ]
        .map(|name| self.file(name));
        let text = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": slot.name(), "cluster": {
                "server": format!("https://{}", slot.api_server()), "certificate-authority": ca,
            }}],
            "users": [{"name": user.name, "user": {"client-certificate": certificate, "client-key": key}}],
            "contexts": [{"name": slot.name(), "context": {"cluster": slot.name(), "user": user.name}}],
            "current-context": slot.name(),
        });
        let path = self.folder.with_file_name(format!("{}.kubeconfig", user.file));
        write(&path, &serde_json::to_string_pretty(&text)?)?;
        Ok(path)
    }

    fn sign(&self, file: &str, mut params: CertificateParams) -> Result<()> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        self.write(&format!("{file}.crt"), &certificate.pem())?;
        self.write(&format!("{file}.key"), &key.serialize_pem())
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        write(&self.folder.join(name), text)
    }
}

/// The names by which the API server is dialled.
pub(crate) fn api_server_names(slot: Slot) -> Vec<String> {
    let mut names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    .map(str::to_owned)
    .to_vec();
    names.extend(
        [*slot.api_server().ip(), *slot.service().ip()].map(|address| IpAddr::V4(address).to_string()),
    );
    names
}

/// Keys are for their owner.
fn write(path: &Path, text: &str) -> Result<()> {
    let mode = if path.extension().is_some_and(|end| end == "crt" || end == "pub") {
        0o644
    } else {
        0o600
    };
    let mut file = fs::File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(mode)
        .open(path)
        .with_context(|| format!("{} can't be written", path.display()))?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    Ok(())
}
