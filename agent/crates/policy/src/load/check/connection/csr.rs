//! Certificates that the cluster is asked for.

use bailiff_model::Protocol;

use super::super::super::schema::connection::ClientTlsSpec;
use super::{About, Report, names, path};
use crate::compiled::Endpoint;
use crate::connection::{ServerIdentity, SigningRequest};

/// Whose CA is the one that pods trust, in clusters as they come.
const SIGNER: &str = "kubernetes.io/kubelet-serving";

/// As pods call the API server, in a cluster with the usual domain.
const NAMES: [&str; 4] = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// The least that the API takes.
/// Source: `k8s.io/api/certificates/v1`, `CertificateSigningRequestSpec`.
const LEAST: u32 = 600;

/// A month: what is renewed without anybody's doing needn't be valid for longer.
const MOST: u32 = 30 * 24 * 3600;

/// A day, as for certificates that the agent mints by itself.
const USUAL: u32 = 24 * 3600;

pub(super) fn compile(
    client: &ClientTlsSpec,
    about: &About<'_>,
    report: &mut Report<'_>,
) -> Option<ServerIdentity> {
    let written = client.csr.as_ref()?;
    let (spec, line) = (&written.value, written.referenced.line());
    if about.protocol != Protocol::Kubernetes {
        report.add(
            line,
            "`csr` asks the cluster for a certificate of the API server's names, and this target is a database",
            "give certificateFile and keyFile, or caCertificateFile and caKeyFile",
        );
    }
    if let Some(signer) = &spec.signer
        && !is_signer(&signer.value)
    {
        report.add(
            signer.referenced.line(),
            format!("{:?} is no signer's name", signer.value),
            format!("write a domain, a slash and a path, such as {SIGNER}"),
        );
    }
    if let Some(seconds) = &spec.expiration_seconds
        && !(LEAST..=MOST).contains(&seconds.value)
    {
        report.add(
            seconds.referenced.line(),
            format!("`expirationSeconds` is {}", seconds.value),
            format!("write from {LEAST}, which is the least that the API takes, to {MOST}"),
        );
    }
    let given = names(client, report);
    if given.iter().any(|name| name.starts_with("*.")) {
        report.add(
            line,
            "`names` holds one with `*`, and the API server has none such",
            "list the names that pods dial",
        );
    }
    let ca = path(spec.ca_file.as_ref(), report).or_else(|| about.upstream.ca.clone());
    Some(ServerIdentity::Requested(SigningRequest {
        signer: spec
            .signer
            .as_ref()
            .map_or_else(|| SIGNER.to_owned(), |signer| signer.value.clone()),
        names: if given.is_empty() {
            usual(about.endpoints)
        } else {
            given
        },
        expiration_seconds: spec
            .expiration_seconds
            .as_ref()
            .map_or(USUAL, |given| given.value),
        // Without one, it was said of `upstream` that there is none.
        ca: ca?,
    }))
}

/// What pods dial where nothing else is said: the names, and the addresses that are diverted.
fn usual(endpoints: &[Endpoint]) -> Vec<String> {
    let mut names: Vec<String> = NAMES.iter().map(ToString::to_string).collect();
    for endpoint in endpoints {
        let whole = if endpoint.address.is_ipv4() { 32 } else { 128 };
        let address = endpoint.address.to_string();
        if endpoint.prefix == whole && !names.contains(&address) {
            names.push(address);
        }
    }
    names
}

/// Source: `k8s.io/kubernetes/pkg/apis/certificates/validation`, `ValidateCertificateSigningRequestSignerName`.
fn is_signer(name: &str) -> bool {
    let of_path = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'/' | b':');
    name.split_once('/').is_some_and(|(domain, path)| {
        domain.contains('.')
            && super::is_host(domain)
            && !path.is_empty()
            && path.len() <= 318
            && path.bytes().all(of_path)
    })
}
