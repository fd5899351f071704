//! What the files say that targets and policies name: certificates, keys, CAs, passwords.

use std::collections::HashMap;
use std::fmt;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use bailiff_model::{Protocol, TargetName};
use bailiff_policy::{ClientCertificates, PolicySet, Proof, ServerIdentity, Target, UpstreamTlsMode};
use hyper::header::HeaderValue;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::clients::ClientAuthority;
use super::issued::Issued;
use super::mint::Authority;
use super::verify::Verifier;
use super::{certificate, spoken};
use crate::identity::{Issuer, Tokens};

/// A file larger than this is none of these.
const MAX_FILE: u64 = 1 << 20;

/// PostgreSQL's own cap of a password.
const MAX_PASSWORD: usize = 65_535 / 4;

/// A file that can't be used. The operator is at fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileError {
    /// Who names it: a target, or a policy's `connectAs`.
    pub whose: String,
    /// The file.
    pub file: PathBuf,
    /// What is wrong. Never what is in it.
    pub reason: String,
    /// What to do about it.
    pub mend: &'static str,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (
            file,
            Self {
                whose, reason, mend, ..
            },
        ) = (self.file.display(), self);
        write!(f, "{whose}: {file}: {reason}\n    mend: {mend}")
    }
}

impl std::error::Error for FileError {}

/// When a certificate ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// Whose it is.
    pub target: TargetName,
    /// For what: `client`, `client_ca`, `clients_ca`, `target_ca`, `credential`.
    pub role: &'static str,
    /// In seconds since 1970.
    pub at: i64,
}

/// What proves a user. Prints as a placeholder.
pub(crate) enum Secret {
    /// A password.
    Password(Vec<u8>),
    /// A certificate with its key.
    Certificate(Arc<CertifiedKey>),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password(…)",
            Self::Certificate(_) => "Certificate(…)",
        })
    }
}

/// What clients of a target are shown.
#[derive(Debug)]
pub(crate) enum Presented {
    Fixed(Arc<ServerConfig>),
    Minted(Box<Authority>),
    Issued(Arc<Issued>),
}

impl Presented {
    /// For a client that dialed this address and said this name.
    pub(crate) fn config(
        &self,
        address: IpAddr,
        said: Option<&str>,
    ) -> Result<Arc<ServerConfig>, &'static str> {
        match self {
            Self::Fixed(config) => Ok(Arc::clone(config)),
            Self::Minted(authority) => authority.config(address, said),
            Self::Issued(issued) => issued.config(),
        }
    }
}

/// How a target is verified.
#[derive(Debug)]
pub(crate) struct TowardsTarget {
    plain: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

impl TowardsTarget {
    /// For a handshake in which the agent shows this, if it is a certificate.
    pub(crate) fn config(&self, secret: Option<&Secret>) -> Arc<ClientConfig> {
        match secret {
            Some(Secret::Certificate(shown)) => {
                let resolver = Arc::new(SingleCertAndKey::from(Arc::clone(shown)));
                let mut config = ClientConfig::clone(&self.plain);
                config.client_auth_cert_resolver = resolver;
                Arc::new(config)
            }
            _ => Arc::clone(&self.plain),
        }
    }

    /// The name that its certificate must be for.
    pub(crate) fn name(&self, dialed: IpAddr) -> ServerName<'static> {
        self.name
            .clone()
            .unwrap_or_else(|| ServerName::IpAddress(dialed.into()))
    }
}

/// How clients' certificates are taken.
pub(crate) struct ClientsOf {
    pub(crate) authority: ClientAuthority,
    /// `Bearer TOKEN`: what the agent itself is, where their requests go on by impersonation.
    pub(crate) own: Option<HeaderValue>,
}

impl fmt::Debug for ClientsOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientsOf(…)")
    }
}

/// All of one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    presented: HashMap<TargetName, Arc<Presented>>,
    towards: HashMap<TargetName, Arc<TowardsTarget>>,
    secrets: HashMap<Proof, Arc<Secret>>,
    tokens: HashMap<TargetName, Arc<Tokens>>,
    clients: HashMap<TargetName, Arc<ClientsOf>>,
    expiries: Vec<Expiry>,
    strangers: Vec<TargetName>,
    files: Vec<(PathBuf, Stamp)>,
}

/// By what a file is known to have changed.
type Stamp = Option<(u64, Option<SystemTime>)>;

/// What is in force.
#[derive(Debug)]
pub struct Materials(ArcSwap<Snapshot>);

impl Materials {
    /// Begins with these.
    #[must_use]
    pub fn new(snapshot: Snapshot) -> Self {
        Self(ArcSwap::from_pointee(snapshot))
    }

    /// What is in force now.
    pub fn load(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// Puts others in force. Sessions that begin later use them.
    pub fn replace(&self, snapshot: Snapshot) {
        self.0.store(Arc::new(snapshot));
    }
}

impl Snapshot {
    /// Reads every file that targets and policies name. All problems are told together.
    ///
    /// Blocks on the disk.
    pub fn read(set: &PolicySet) -> Result<Self, Vec<FileError>> {
        Self::read_after(set, &Self::default())
    }

    /// The same; what the cluster signed for the targets of an earlier one stays in force.
    ///
    /// Blocks on the disk.
    pub fn read_after(set: &PolicySet, before: &Self) -> Result<Self, Vec<FileError>> {
        let mut reading = Reading {
            before: before.issued().map(Arc::clone).collect(),
            ..Reading::default()
        };
        for target in set.targets() {
            reading.target(target);
        }
        for proof in set.proofs() {
            reading.proof(proof, set);
        }
        if reading.errors.is_empty() {
            Ok(reading.snapshot)
        } else {
            Err(reading.errors)
        }
    }

    /// Whether a file changed since it was read.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.files.iter().any(|(file, seen)| stamp(file) != *seen)
    }

    /// When certificates end.
    #[must_use]
    pub fn expiries(&self) -> &[Expiry] {
        &self.expiries
    }

    /// How many of them have ended.
    #[must_use]
    pub fn expired(&self) -> usize {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        self.expiries.iter().filter(|expiry| expiry.at <= now).count()
    }

    /// Whether clients of a target are shown certificates of another CA than the database's, so that those that verify by the
    /// database's can't be served.
    #[must_use]
    pub fn is_stranger(&self, target: &TargetName) -> bool {
        self.strangers.contains(target)
    }

    pub(crate) fn presented(&self, target: &TargetName) -> Option<&Arc<Presented>> {
        self.presented.get(target)
    }

    /// What the cluster signs, target by target.
    pub(crate) fn issued(&self) -> impl Iterator<Item = &Arc<Issued>> {
        self.presented
            .values()
            .filter_map(|presented| match &**presented {
                Presented::Issued(issued) => Some(issued),
                Presented::Fixed(_) | Presented::Minted(_) => None,
            })
    }

    pub(crate) fn towards(&self, target: &TargetName) -> Option<&Arc<TowardsTarget>> {
        self.towards.get(target)
    }

    /// How the tokens of a target's clients are verified.
    pub(crate) fn tokens(&self, target: &TargetName) -> Option<&Arc<Tokens>> {
        self.tokens.get(target)
    }

    /// How the certificates of a target's clients are taken; `None` where they aren't.
    pub(crate) fn clients(&self, target: &TargetName) -> Option<&Arc<ClientsOf>> {
        self.clients.get(target)
    }

    pub(crate) fn secret(&self, proof: &Proof) -> Option<&Arc<Secret>> {
        self.secrets.get(proof)
    }
}

/// What clients are shown.
pub(super) fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    protocol: Protocol,
) -> Result<ServerConfig, rustls::Error> {
    let provider = provider();
    // Which says, too, whether the key is the certificate's.
    let shown = CertifiedKey::from_der(chain, key, &provider)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
    config.alpn_protocols = spoken(protocol);
    // Sessions are long, and clients of databases don't resume them.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(config)
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn stamp(file: &Path) -> Stamp {
    let about = std::fs::metadata(file).ok()?;
    Some((about.len(), about.modified().ok()))
}

#[derive(Default)]
struct Reading {
    before: Vec<Arc<Issued>>,
    snapshot: Snapshot,
    errors: Vec<FileError>,
}

impl Reading {
    fn target(&mut self, target: &Target) {
        let whose = format!("target {:?}", target.name.as_str());
        let shown = match &target.tls_client.identity {
            Some(
                ServerIdentity::Files { certificate, .. } | ServerIdentity::Authority { certificate, .. },
            ) => CertificateDer::from_pem_file(certificate).ok(),
            Some(ServerIdentity::Requested(_)) | None => None,
        };
        match &target.tls_client.identity {
            None => {}
            Some(ServerIdentity::Requested(request)) => {
                // The CA that it will be held against is there, or nothing ever comes of it.
                let _: Option<Vec<_>> = self.chain(&whose, &request.ca);
                let before = self.before.iter().find(|issued| issued.target == target.name);
                let issued = match before {
                    Some(same) if same.request == *request => Arc::clone(same),
                    before => Arc::new(Issued::new(
                        target.name.clone(),
                        request.clone(),
                        before.map(|before| &**before),
                    )),
                };
                self.present(target, Presented::Issued(issued));
            }
            Some(ServerIdentity::Files { certificate, key }) => {
                if let Some(presented) = self.fixed(&whose, certificate, key, target.protocol) {
                    self.expires(target, "client", presented.1);
                    self.present(target, Presented::Fixed(presented.0));
                }
            }
            Some(ServerIdentity::Authority {
                certificate,
                key,
                names,
            }) => {
                if let Some((authority, expiry)) =
                    self.authority(&whose, certificate, key, names, target.protocol)
                {
                    self.expires(target, "client_ca", expiry);
                    self.present(target, Presented::Minted(Box::new(authority)));
                }
            }
        }
        if let Some(shown) = &shown
            && let Some(ca) = &target.tls_upstream.ca
            && let Ok(given) = CertificateDer::pem_file_iter(ca)
        {
            let given: Vec<_> = given.flatten().collect();
            if !certificate::is_under(shown, &given) {
                self.snapshot.strangers.push(target.name.clone());
            }
        }
        self.tokens(&whose, target);
        if target.tls_upstream.mode != UpstreamTlsMode::Disabled
            && let Some(ca) = &target.tls_upstream.ca
            && let Some((towards, expiry)) = self.towards(&whose, ca, target)
        {
            self.expires(target, "target_ca", expiry);
            let name = target.name.clone();
            self.snapshot.towards.insert(name, Arc::new(towards));
        }
    }

    fn tokens(&mut self, whose: &str, target: &Target) {
        let Some(identity) = &target.identity else {
            return;
        };
        let mut issuers = Vec::new();
        for written in &identity.issuers {
            let Some(text) = self.text(whose, &written.key_set) else {
                continue;
            };
            match Issuer::new(written, &text) {
                Ok(issuer) => issuers.push(issuer),
                Err(error) => {
                    let mend = "give what the issuer says at its jwks_uri, as the API server does at /openid/v1/jwks";
                    let _: Option<()> = self.wrong(whose, &written.key_set, error, mend);
                }
            }
        }
        let tokens = Tokens::new(issuers, identity.review);
        self.snapshot.tokens.insert(target.name.clone(), Arc::new(tokens));
        if let Some(certificates) = &identity.certificates
            && let Some(clients) = self.clients(whose, certificates, target)
        {
            self.snapshot
                .clients
                .insert(target.name.clone(), Arc::new(clients));
        }
    }

    fn clients(&mut self, whose: &str, written: &ClientCertificates, target: &Target) -> Option<ClientsOf> {
        let given = self.chain(whose, &written.ca)?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(given.iter().cloned());
        let ends = given
            .iter()
            .filter_map(|certificate| certificate::expiry(certificate))
            .max();
        self.expires(target, "clients_ca", ends);
        let Some(authority) = ClientAuthority::new(roots) else {
            let mend = "give the CA certificates of the API server's --client-ca-file, as PEM";
            return self.wrong(whose, &written.ca, "holds no certificate that can be read", mend);
        };
        let own = match &written.token {
            None => None,
            Some(file) => {
                let text = self.text(whose, file)?;
                let token = text.trim_ascii();
                let spoken = [b"Bearer ", token].concat();
                match HeaderValue::from_bytes(&spoken) {
                    Ok(mut own) if !token.is_empty() => {
                        own.set_sensitive(true);
                        Some(own)
                    }
                    _ => {
                        return self.wrong(
                            whose,
                            file,
                            "holds no token",
                            "give the token of the agent's service account",
                        );
                    }
                }
            }
        };
        Some(ClientsOf { authority, own })
    }

    fn present(&mut self, target: &Target, presented: Presented) {
        let name = target.name.clone();
        self.snapshot.presented.insert(name, Arc::new(presented));
    }

    fn expires(&mut self, target: &Target, role: &'static str, at: Option<i64>) {
        if let Some(at) = at {
            let target = target.name.clone();
            self.snapshot.expiries.push(Expiry { target, role, at });
        }
    }

    fn fixed(
        &mut self,
        whose: &str,
        certificate: &Path,
        key: &Path,
        protocol: Protocol,
    ) -> Option<(Arc<ServerConfig>, Option<i64>)> {
        let (chain, key_der) = (self.chain(whose, certificate), self.key(whose, key));
        let (chain, key_der) = (chain?, key_der?);
        let expiry = chain.first().and_then(|leaf| certificate::expiry(leaf));
        match server_config(chain, key_der, protocol) {
            Ok(config) => Some((Arc::new(config), expiry)),
            Err(error) => self.wrong(
                whose,
                key,
                error,
                "give the key of the first certificate in certificateFile",
            ),
        }
    }

    fn authority(
        &mut self,
        whose: &str,
        certificate: &Path,
        key: &Path,
        names: &[String],
        protocol: Protocol,
    ) -> Option<(Authority, Option<i64>)> {
        let chain = self.chain(whose, certificate);
        let text = self.text(whose, key);
        let (chain, text) = (chain?, text?);
        let expiry = chain.first().and_then(|leaf| certificate::expiry(leaf));
        match Authority::new(chain, &String::from_utf8_lossy(&text), names.to_vec(), protocol) {
            Ok(authority) => Some((authority, expiry)),
            Err(error) => self.wrong(
                whose,
                key,
                error,
                "give a CA's certificate and its own key, as PEM in PKCS#8",
            ),
        }
    }

    fn towards(&mut self, whose: &str, ca: &Path, target: &Target) -> Option<(TowardsTarget, Option<i64>)> {
        let given = self.chain(whose, ca)?;
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(given.iter().cloned());
        let mend = "give the CA certificates that may have signed the database's, as PEM";
        if added == 0 {
            return self.wrong(whose, ca, "holds no certificate that can be read", mend);
        }
        // The last that ends is the one that counts, where several stand there during a change.
        let expiry = given
            .iter()
            .filter_map(|certificate| certificate::expiry(certificate))
            .max();
        let provider = provider();
        let by_authority =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
        let by_authority = match by_authority {
            Ok(verifier) => verifier,
            Err(error) => return self.wrong(whose, ca, error, mend),
        };
        let verifier: Arc<dyn rustls::client::danger::ServerCertVerifier> =
            Arc::new(Verifier::new(by_authority, given));
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut plain = match builder {
            Ok(builder) => builder
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_no_client_auth(),
            Err(error) => return self.wrong(whose, ca, error, mend),
        };
        plain.alpn_protocols = spoken(target.protocol);
        plain.resumption = rustls::client::Resumption::disabled();
        let name = target
            .tls_upstream
            .server_name
            .as_ref()
            .and_then(|name| ServerName::try_from(name.clone()).ok());
        let towards = TowardsTarget {
            plain: Arc::new(plain),
            name,
        };
        Some((towards, expiry))
    }

    fn proof(&mut self, proof: &Proof, set: &PolicySet) {
        if self.snapshot.secrets.contains_key(proof) {
            return;
        }
        let owner = set.targets().iter().find(|target| {
            target
                .credential
                .as_ref()
                .is_some_and(|mine| mine.proof == *proof)
        });
        let whose = match owner {
            Some(target) => format!("the credential of target {:?}", target.name.as_str()),
            None => "a policy's connectAs".to_owned(),
        };
        let secret = match proof {
            Proof::Password(file) => self.password(&whose, file).map(Secret::Password),
            Proof::Certificate { certificate, key } => {
                let (chain, key_der) = (self.chain(&whose, certificate), self.key(&whose, key));
                let (Some(chain), Some(key_der)) = (chain, key_der) else {
                    return;
                };
                if let (Some(owner), Some(leaf)) = (owner, chain.first()) {
                    self.expires(owner, "credential", certificate::expiry(leaf));
                }
                match CertifiedKey::from_der(chain, key_der, &provider()) {
                    Ok(shown) => Some(Secret::Certificate(Arc::new(shown))),
                    Err(error) => self.wrong(
                        &whose,
                        key,
                        error,
                        "give the key of the first certificate in certificateFile",
                    ),
                }
            }
        };
        if let Some(secret) = secret {
            self.snapshot.secrets.insert(proof.clone(), Arc::new(secret));
        }
    }

    fn password(&mut self, whose: &str, file: &Path) -> Option<Vec<u8>> {
        let text = self.text(whose, file)?;
        let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() || line.len() > MAX_PASSWORD || line.contains(&0) {
            let mend = "write the password into its first line";
            return self.wrong(whose, file, "the first line can be no password", mend);
        }
        Some(line.to_vec())
    }

    fn chain(&mut self, whose: &str, file: &Path) -> Option<Vec<CertificateDer<'static>>> {
        let text = self.text(whose, file)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        match chain {
            Ok(chain) if !chain.is_empty() => Some(chain),
            _ => self.wrong(whose, file, "holds no certificate", "give certificates as PEM"),
        }
    }

    fn key(&mut self, whose: &str, file: &Path) -> Option<PrivateKeyDer<'static>> {
        let text = self.text(whose, file)?;
        match PrivateKeyDer::from_pem_slice(&text) {
            Ok(key) => Some(key),
            // Never the error's own words, which may quote the file.
            Err(_) => self.wrong(
                whose,
                file,
                "holds no private key that can be read",
                "give the key as PEM, without a passphrase",
            ),
        }
    }

    fn text(&mut self, whose: &str, file: &Path) -> Option<Vec<u8>> {
        self.snapshot.files.push((file.to_owned(), stamp(file)));
        let read = std::fs::File::open(file).and_then(|opened| {
            let mut text = Vec::new();
            opened.take(MAX_FILE + 1).read_to_end(&mut text)?;
            Ok(text)
        });
        let mend = "give a file that the agent can read";
        match read {
            Ok(text) if text.len() as u64 > MAX_FILE => {
                self.wrong(whose, file, "is longer than a mebibyte", mend)
            }
            Ok(text) => Some(text),
            Err(error) => self.wrong(whose, file, format!("cannot be read: {error}"), mend),
        }
    }

    fn wrong<T>(
        &mut self,
        whose: &str,
        file: &Path,
        reason: impl fmt::Display,
        mend: &'static str,
    ) -> Option<T> {
        self.errors.push(FileError {
            whose: whose.to_owned(),
            file: file.to_owned(),
            reason: reason.to_string(),
            mend,
        });
        None
    }
}
