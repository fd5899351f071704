//! Targets: addresses that can be diverted.

use std::net::IpAddr;

use bailiff_model::{Protocol, TargetName};

use super::super::schema::{Resource, TargetSpec};
use super::connection::compile_connection;
use super::{Report, check_name, kubernetes, relation_glob, services, tokens};
use crate::compiled::{Endpoint, Target};

pub(super) fn compile_target(resource: &Resource<TargetSpec>, report: &mut Report<'_>) -> Target {
    let spec = &resource.spec;
    let name = &resource.metadata.name;
    check_name(name, report);
    let mut endpoints = Vec::new();
    if let Some(written) = spec.search_path.as_ref().filter(|path| path.value.is_empty()) {
        report.add(
            written.referenced.line(),
            "`searchPath` is empty, so that no rule allows a name without a schema",
            "leave it out for [public], or list the schemas of the database's search_path",
        );
    }
    if spec.endpoints.is_empty() && spec.services.is_empty() {
        report.add(
            name.referenced.line(),
            "the target has no endpoints and no services, so that nothing is ever diverted",
            "list its addresses as host:port in endpoints, or its Services",
        );
    }
    for written in &spec.endpoints {
        match parse_endpoint(&written.value) {
            Ok(endpoint) => endpoints.push(endpoint),
            Err(reason) => {
                let mend = "write 10.0.0.5:5432, 10.0.0.0/24:5432, [fd00::5]:5432 or [fd00::/64]:*; names are not resolved";
                report.add(
                    written.referenced.line(),
                    format!("endpoint {:?}: {reason}", written.value),
                    mend,
                );
            }
        }
    }
    let plain_relations = spec
        .plain_relations
        .iter()
        .filter_map(|written| relation_glob(&written.value, written.referenced.line(), report))
        .collect();
    let connection = compile_connection(spec, &endpoints, report);
    if spec.protocol == Protocol::Kubernetes {
        kubernetes::check(resource, report);
    }
    Target {
        name: TargetName::new(name.value.as_str()),
        protocol: spec.protocol,
        endpoints,
        services: services::compile(&spec.services, report),
        failure_mode: spec.failure_mode,
        source_address: spec.source_address,
        default: spec.default,
        unknown: spec.unknown,
        when_full: spec.recording.when_full,
        catalog: connection.catalog,
        search_path: match &spec.search_path {
            Some(written) => written.value.clone(),
            None => vec!["public".to_owned()],
        },
        plain_relations,
        tls_client: connection.client,
        tls_upstream: connection.upstream,
        credential: connection.credential,
        identity: tokens::compile(resource, report),
    }
}

fn parse_endpoint(text: &str) -> Result<Endpoint, String> {
    let (host, port) = text.rsplit_once(':').ok_or("has no port")?;
    let port = match port {
        "*" => 0,
        port => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| format!("{port:?} is no port"))?,
    };
    let bracketed = host.starts_with('[');
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').ok_or("has [ without ]")?,
        None => host,
    };
    let (address, prefix) = host
        .split_once('/')
        .map_or((host, None), |(address, prefix)| (address, Some(prefix)));
    let address: IpAddr = address
        .parse()
        .map_err(|_| format!("{address:?} is no IP address"))?;
    if let IpAddr::V6(v6) = address
        && v6.to_ipv4_mapped().is_some()
    {
        return Err("is an IPv4 address in IPv6's clothes, and those are read as IPv4".to_owned());
    }
    if address.is_ipv6() != bracketed {
        return Err("an IPv6 address, and no other, stands in brackets".to_owned());
    }
    let whole = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => whole,
        Some(prefix) => prefix
            .parse()
            .ok()
            .filter(|bits| *bits <= whole)
            .ok_or_else(|| format!("/{prefix} is no prefix length"))?,
    };
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let host_bits = if prefix == 0 {
        u128::MAX
    } else {
        (!0_u128).checked_shr(u32::from(prefix)).unwrap_or(0)
    };
    let width = if address.is_ipv4() { !0_u128 << 96 } else { !0 };
    if bits(address) & host_bits & width != 0 {
        return Err(format!("has bits set behind its prefix of {prefix}"));
    }
    Ok(Endpoint {
        address,
        prefix,
        port,
    })
}
