//! TLS and credentials: what can't work, or wouldn't protect, is refused.

mod csr;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bailiff_model::Protocol;

use super::super::schema::connection::{ClientTlsSpec, ConnectAsSpec, CredentialSpec, UpstreamTlsSpec};
use super::super::schema::{PolicySpec, Resource, Spanned, TargetSpec};
use super::Report;
use crate::compiled::{CatalogAccess, Endpoint, Target};
use crate::connection::{
    ClientTls, ClientTlsMode, ConnectAs, Credential, Proof, ServerIdentity, UpstreamTls, UpstreamTlsMode,
};

/// Names as long as PostgreSQL keeps them.
const NAME_BYTES: usize = 63;

/// Names in one target's `tls.client.names`.
const NAMES: usize = 100;

fn compile_tls(
    target: &TargetSpec,
    endpoints: &[Endpoint],
    report: &mut Report<'_>,
) -> (ClientTls, UpstreamTls) {
    let Some(spec) = &target.tls else {
        return Default::default();
    };
    let upstream = spec
        .upstream
        .as_ref()
        .map(|upstream| upstream_tls(upstream, report))
        .unwrap_or_default();
    let about = About {
        protocol: target.protocol,
        endpoints,
        upstream: &upstream,
    };
    let client = spec
        .client
        .as_ref()
        .map(|client| client_tls(client, &about, report))
        .unwrap_or_default();
    (client, upstream)
}

/// What of a target counts for how its clients are served.
pub(super) struct About<'a> {
    pub(super) protocol: Protocol,
    pub(super) endpoints: &'a [Endpoint],
    pub(super) upstream: &'a UpstreamTls,
}

fn client_tls(written: &Spanned<ClientTlsSpec>, about: &About<'_>, report: &mut Report<'_>) -> ClientTls {
    let (spec, line) = (&written.value, written.referenced.line());
    let files = [
        &spec.certificate_file,
        &spec.key_file,
        &spec.ca_certificate_file,
        &spec.ca_key_file,
    ];
    if spec.mode == ClientTlsMode::Disabled {
        let given = files
            .into_iter()
            .flatten()
            .next()
            .map(|file| file.referenced.line());
        if let Some(line) = given.or_else(|| spec.csr.as_ref().map(|csr| csr.referenced.line())) {
            report.add(
                line,
                "certificates are given, but `mode` is Disabled, so that no client ever sees one",
                "write mode: Prefer or mode: Require, or remove them",
            );
        }
        return ClientTls::default();
    }
    let [certificate, key, ca_certificate, ca_key] = files.map(|file| path(file.as_ref(), report));
    let identity = match (certificate, key, ca_certificate, ca_key) {
        (None, None, None, None) if spec.csr.is_some() => csr::compile(spec, about, report),
        (Some(certificate), Some(key), None, None) if spec.csr.is_none() => {
            if let Some(names) = &spec.names {
                report.add(
                    names.referenced.line(),
                    "`names` says for whom certificates are minted, and `certificateFile` holds one that is made already",
                    "remove `names`, or give caCertificateFile and caKeyFile",
                );
            }
            Some(ServerIdentity::Files { certificate, key })
        }
        (None, None, Some(certificate), Some(key)) if spec.csr.is_none() => Some(ServerIdentity::Authority {
            certificate,
            key,
            names: names(spec, report),
        }),
        _ => {
            report.add(
                line,
                "clients can't be given TLS without exactly one certificate and key",
                "give certificateFile and keyFile, or caCertificateFile and caKeyFile, or, for the Kubernetes API, csr",
            );
            None
        }
    };
    ClientTls {
        mode: spec.mode,
        identity,
    }
}

fn names(spec: &ClientTlsSpec, report: &mut Report<'_>) -> Vec<String> {
    let Some(names) = &spec.names else {
        return Vec::new();
    };
    if names.value.is_empty() || names.value.len() > NAMES {
        report.add(
            names.referenced.line(),
            format!("`names` holds {} names", names.value.len()),
            format!("list from 1 to {NAMES}, or leave it out for the names that clients say"),
        );
    }
    for name in &names.value {
        if !is_host(name.value.strip_prefix("*.").unwrap_or(&name.value)) {
            report.add(
                name.referenced.line(),
                format!("{:?} is no name that a certificate can be for", name.value),
                "write a DNS name, *.name, or an IP address",
            );
        }
    }
    names.value.iter().map(|name| name.value.clone()).collect()
}

fn upstream_tls(written: &Spanned<UpstreamTlsSpec>, report: &mut Report<'_>) -> UpstreamTls {
    let (spec, line) = (&written.value, written.referenced.line());
    let ca = path(spec.ca_file.as_ref(), report);
    match (spec.mode, &spec.ca_file, &spec.server_name) {
        (UpstreamTlsMode::Disabled, None, None) if !spec.direct => {}
        (UpstreamTlsMode::Disabled, ..) => report.add(
            line,
            "`mode` is Disabled, so that nothing else that is said of TLS towards the target ever counts",
            "write mode: Verify, or leave `upstream` out",
        ),
        (_, None, _) => report.add(
            line,
            "TLS towards the target is always verified, and there is no CA to verify it by",
            "give caFile: the CA that signed the database's certificate",
        ),
        _ => {}
    }
    if spec.mode == UpstreamTlsMode::Prefer && spec.direct {
        report.add(
            line,
            "a handshake that begins without asking can't fall back to plain text",
            "write mode: Verify, or leave `direct` out",
        );
    }
    if let Some(name) = &spec.server_name
        && !is_host(&name.value)
    {
        report.add(
            name.referenced.line(),
            format!("{:?} is no name that a certificate can be for", name.value),
            "write the DNS name or IP address in the database's certificate",
        );
    }
    UpstreamTls {
        mode: spec.mode,
        ca,
        server_name: spec.server_name.as_ref().map(|name| name.value.clone()),
        direct: spec.direct,
    }
}

pub(super) fn compile_credential(
    written: Option<&Spanned<CredentialSpec>>,
    upstream: &UpstreamTls,
    report: &mut Report<'_>,
) -> Option<Credential> {
    let written = written?;
    let (spec, line) = (&written.value, written.referenced.line());
    let proof = proof(
        [&spec.password_file, &spec.certificate_file, &spec.key_file],
        line,
        report,
    );
    if proof.is_none() && spec.password_file.is_none() && spec.certificate_file.is_none() {
        report.add(
            line,
            "the credential proves nothing",
            "give passwordFile, or certificateFile and keyFile",
        );
    }
    check_names([&spec.user, &None], report);
    check_proof(proof.as_ref(), upstream, line, report);
    Some(Credential {
        user: spec.user.as_ref().map(|user| user.value.clone()),
        proof: proof?,
    })
}

pub(super) fn compile_connect_as(
    spec: &PolicySpec,
    targets: &[Target],
    report: &mut Report<'_>,
) -> ConnectAs {
    let Some(written) = &spec.connect_as else {
        return ConnectAs::default();
    };
    let (mapping, line) = (&written.value, written.referenced.line());
    let ConnectAsSpec {
        user,
        database,
        password_file,
        certificate_file,
        key_file,
    } = mapping;
    if user.is_none() && database.is_none() {
        report.add(
            line,
            "`connectAs` maps nothing",
            "give user, database or both, or remove it",
        );
    }
    check_names([user, database], report);
    let proof = proof([password_file, certificate_file, key_file], line, report);
    if proof.is_some() && user.is_none() {
        report.add(
            line,
            "`connectAs` gives a credential, but says not whose",
            "give user",
        );
    }
    for target in targets.iter().filter(|target| is_database_of(spec, target)) {
        check_proof(proof.as_ref(), &target.tls_upstream, line, report);
        let Some(user) = user else { continue };
        let fits = match &target.credential {
            _ if proof.is_some() => true,
            Some(credential) => credential.user.as_ref().is_none_or(|known| *known == user.value),
            None => false,
        };
        if !fits {
            report.add(
                user.referenced.line(),
                format!(
                    "nothing proves to target {:?} that the agent is {:?}: the client's password is another user's",
                    target.name.as_str(),
                    user.value
                ),
                "give passwordFile, or certificateFile and keyFile, beside the user, or give the target a credential for that user",
            );
        }
    }
    ConnectAs {
        user: user.as_ref().map(|user| Arc::from(user.value.as_str())),
        database: database
            .as_ref()
            .map(|database| Arc::from(database.value.as_str())),
        proof,
    }
}

/// Whether a policy about SQL is about a target.
fn is_database_of(spec: &PolicySpec, target: &Target) -> bool {
    target.protocol == Protocol::Postgres
        && spec
            .targets
            .iter()
            .any(|named| named.value == "*" || named.value == target.name.as_str())
}

/// What a mask needs of the way to the target.
pub(super) fn check_masks(resource: &Resource<PolicySpec>, targets: &[Target], report: &mut Report<'_>) {
    let spec = &resource.spec;
    let mask = spec.masks.first().map(|mask| mask.action.referenced.line());
    let Some(line) = mask.or_else(|| spec.detect.first().map(|detect| detect.find.referenced.line())) else {
        return;
    };
    for target in targets.iter().filter(|target| is_database_of(spec, target)) {
        if target.tls_upstream.mode == UpstreamTlsMode::Prefer {
            report.add(
                line,
                format!(
                    "target {:?} has tls.upstream.mode: Prefer, which may be plain text, so that a pod that reads its own wire would see what is masked",
                    target.name.as_str()
                ),
                "write mode: Verify, or Disabled so that the target is dialed from the node",
            );
        }
    }
}

fn proof(
    [password, certificate, key]: [&Option<Spanned<String>>; 3],
    line: u64,
    report: &mut Report<'_>,
) -> Option<Proof> {
    let files = [password, certificate, key].map(|file| path(file.as_ref(), report));
    match files {
        [Some(password), None, None] => Some(Proof::Password(password)),
        [None, Some(certificate), Some(key)] => Some(Proof::Certificate { certificate, key }),
        [None, None, None] => None,
        _ => {
            report.add(
                line,
                "a credential is either a password or a certificate with its key",
                "give passwordFile alone, or certificateFile and keyFile",
            );
            None
        }
    }
}

fn check_proof(proof: Option<&Proof>, upstream: &UpstreamTls, line: u64, report: &mut Report<'_>) {
    match (proof, upstream.mode) {
        (Some(Proof::Certificate { .. }), UpstreamTlsMode::Disabled) => report.add(
            line,
            "a certificate is shown in a TLS handshake, and there is none with this target",
            "give the target tls.upstream with mode: Verify, or use a password",
        ),
        (Some(_), UpstreamTlsMode::Prefer) => report.add(
            line,
            "tls.upstream.mode: Prefer may be plain text, so that a pod that reads its own wire would see the agent's credential at work",
            "write mode: Verify, or Disabled so that the target is dialed from the node",
        ),
        _ => {}
    }
}

fn check_names(names: [&Option<Spanned<String>>; 2], report: &mut Report<'_>) {
    for name in names.into_iter().flatten() {
        if name.value.is_empty() || name.value.len() > NAME_BYTES || name.value.contains('\0') {
            report.add(
                name.referenced.line(),
                format!("{:?} can be no user or database", name.value),
                format!("PostgreSQL's names have from 1 to {NAME_BYTES} bytes"),
            );
        }
    }
}

/// Absolute, since the agent's working directory is nobody's concern.
fn path(file: Option<&Spanned<String>>, report: &mut Report<'_>) -> Option<PathBuf> {
    let file = file?;
    if !Path::new(&file.value).is_absolute() {
        report.add(
            file.referenced.line(),
            format!("{:?} is no absolute path", file.value),
            "write the path from / on, as the agent sees it",
        );
    }
    Some(PathBuf::from(&file.value))
}

fn is_host(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok()
        || (name.len() <= 253
            && name.split('.').all(|label| {
                (1..=63).contains(&label.len())
                    && label
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
                    && !label.starts_with('-')
                    && !label.ends_with('-')
            }))
}

/// A target's part of it, checked.
pub(super) struct Connection {
    pub(super) client: ClientTls,
    pub(super) upstream: UpstreamTls,
    pub(super) credential: Option<Credential>,
    pub(super) catalog: Option<CatalogAccess>,
}

/// As whom catalogs are read: what is written for that, else the credential, where it says whose it is.
fn compile_catalog(
    written: Option<&Spanned<CredentialSpec>>,
    credential: Option<&Credential>,
    upstream: &UpstreamTls,
    report: &mut Report<'_>,
) -> Option<CatalogAccess> {
    let Some(written) = written else {
        let credential = credential?;
        return Some(CatalogAccess {
            user: credential.user.clone()?,
            proof: Some(credential.proof.clone()),
        });
    };
    let (spec, line) = (&written.value, written.referenced.line());
    let files = [&spec.password_file, &spec.certificate_file, &spec.key_file];
    let proof = proof(files, line, report);
    check_names([&spec.user, &None], report);
    check_proof(proof.as_ref(), upstream, line, report);
    let Some(user) = &spec.user else {
        report.add(
            line,
            "the catalog's `user` is missing, so that nobody could read it",
            "name a role that may log in; it needs no other right",
        );
        return None;
    };
    Some(CatalogAccess {
        user: user.value.clone(),
        proof,
    })
}

pub(super) fn compile_connection(
    spec: &TargetSpec,
    endpoints: &[Endpoint],
    report: &mut Report<'_>,
) -> Connection {
    let (client, upstream) = compile_tls(spec, endpoints, report);
    let credential = compile_credential(spec.credential.as_ref(), &upstream, report);
    let catalog = compile_catalog(spec.catalog.as_ref(), credential.as_ref(), &upstream, report);
    Connection {
        client,
        upstream,
        credential,
        catalog,
    }
}
