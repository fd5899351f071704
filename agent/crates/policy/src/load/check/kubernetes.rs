//! Targets that speak the Kubernetes API: what a database alone has can't fire there, and TLS is never left out.

use super::super::schema::{Resource, TargetSpec};
use super::Report;
use crate::connection::{ClientTlsMode, UpstreamTlsMode};

pub(super) fn check(resource: &Resource<TargetSpec>, report: &mut Report<'_>) {
    let spec = &resource.spec;
    let line = resource.metadata.name.referenced.line();
    let databases = [
        (
            "searchPath",
            spec.search_path.as_ref().map(|w| w.referenced.line()),
        ),
        (
            "plainRelations",
            spec.plain_relations.first().map(|w| w.referenced.line()),
        ),
        (
            "credential",
            spec.credential.as_ref().map(|w| w.referenced.line()),
        ),
        ("catalog", spec.catalog.as_ref().map(|w| w.referenced.line())),
    ];
    for (field, line) in databases {
        let Some(line) = line else { continue };
        let mend = match field {
            "credential" => "remove it: clients' own tokens go on to the API server",
            _ => "remove it, or write protocol: postgres",
        };
        report.add(
            line,
            format!("`{field}` is about databases, and this target speaks the Kubernetes API, so that it never counts"),
            mend,
        );
    }
    let tls = spec.tls.as_ref();
    match tls.and_then(|tls| tls.client.as_ref()) {
        Some(client) if client.value.mode == ClientTlsMode::Require => {}
        Some(client) => report.add(
            client.referenced.line(),
            "clients of the Kubernetes API begin with TLS, and without it their tokens would be read on the way",
            "write mode: Require",
        ),
        None => report.add(
            line,
            "clients of the Kubernetes API begin with TLS, and there is no certificate to show them",
            "give tls.client with mode: Require and csr: {}, or caCertificateFile and caKeyFile, or certificateFile and keyFile",
        ),
    }
    match tls.and_then(|tls| tls.upstream.as_ref()) {
        Some(upstream) if upstream.value.mode == UpstreamTlsMode::Verify => {
            if upstream.value.direct {
                report.add(
                    upstream.referenced.line(),
                    "`direct` is about PostgreSQL's way to begin TLS, and this target speaks the Kubernetes API, so that it never counts",
                    "remove it",
                );
            }
        }
        Some(upstream) => report.add(
            upstream.referenced.line(),
            "the API server is always spoken to by TLS and verified, since clients' tokens go there",
            "write mode: Verify, with caFile: the cluster's CA",
        ),
        None => report.add(
            line,
            "the API server is always spoken to by TLS and verified, and it isn't said by which CA",
            "give tls.upstream with mode: Verify and caFile: the cluster's CA",
        ),
    }
}
